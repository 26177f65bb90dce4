//! What an adversary found.
#![allow(clippy::unwrap_used, dead_code, unused_imports, missing_docs)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::*;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{CacheHandle, CacheLayer, CacheScope, FillMode, Key, SetCookie, Tag};

fn book() -> CacheLayer {
    CacheLayer::builder().rfc9111().build()
}

fn req(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    with_headers(request(method, uri), headers)
}

// 56, 50: every 304 adds its Vary lines to what is stored.
#[tokio::test(start_paused = true)]
async fn vary_does_not_grow_with_each_304() {
    let origin = Origin::new(|request| {
        let lines = [
            ("etag", "\"a\""),
            ("vary", "accept-encoding"),
            ("cache-control", "no-cache"),
        ];
        if request.headers().contains_key("if-none-match") {
            return with_headers(status(StatusCode::NOT_MODIFIED), &lines);
        }
        with_headers(ok("x"), &lines)
    });
    let cache = book().layer(origin.clone());
    for _ in 0..20 {
        send(&cache, get("/")).await;
    }
    let last = send(&cache, get("/")).await;
    assert_eq!(last.lines("vary"), ["accept-encoding"]);
}

// 15, 2: the answer to a POST is stored under a sealed key, though the handler saw the whole request.
#[tokio::test]
async fn the_answer_to_a_post_that_was_not_sealed_is_for_nobody_else() {
    let origin = Origin::new(|request| {
        let who = request
            .headers()
            .get("cookie")
            .map_or("nobody", |v| v.to_str().unwrap());
        let body = who.to_owned();
        with_headers(
            ok(body),
            &[("cache-control", "max-age=60"), ("content-location", "/me")],
        )
    });
    let layer = CacheLayer::builder()
        .rfc9111()
        .key(Key::new().seal())
        .build();
    let cache = layer.layer(origin.clone());
    send(&cache, req("POST", "/me", &[("cookie", "alice")])).await;
    let bob = send(&cache, req("GET", "/me", &[("cookie", "bob")])).await;
    assert_eq!(bob.text(), "nobody", "{:?}", bob.cache());
}

// The same with a normal form.
#[tokio::test]
async fn the_answer_to_a_post_is_not_stored_under_a_normal_form_that_its_handler_did_not_see() {
    use tower_response_cache::key::Normalize;
    let origin = Origin::new(|request| {
        let language = request
            .headers()
            .get("accept-language")
            .map_or("none", |v| v.to_str().unwrap())
            .to_owned();
        with_headers(
            ok(language),
            &[
                ("cache-control", "max-age=60"),
                ("content-location", "/"),
                ("vary", "accept-language"),
            ],
        )
    });
    let key = Key::new().header_as(
        header::ACCEPT_LANGUAGE,
        Normalize::languages(["en", "de"]).unwrap(),
    );
    let cache = CacheLayer::builder()
        .rfc9111()
        .key(key)
        .build()
        .layer(origin);
    send(
        &cache,
        req("POST", "/", &[("accept-language", "fr, en;q=0.1")]),
    )
    .await;
    let other = send(&cache, req("GET", "/", &[("accept-language", "en")])).await;
    assert_eq!(other.text(), "en", "{:?}", other.cache());
}

// 36: a purge by request.
#[tokio::test]
async fn purge_request_covers_what_no_vary_search_lets_it_share() {
    let origin = Origin::counting(&[
        ("cache-control", "max-age=60"),
        ("no-vary-search", "params=(\"utm\")"),
    ]);
    let handle = CacheHandle::builder().build();
    let cache = CacheLayer::builder()
        .rfc9111()
        .handle(&handle)
        .build()
        .layer(origin);
    assert_eq!(send(&cache, get("/p?utm=1")).await.text(), "1");
    assert_eq!(send(&cache, get("/p?utm=2")).await.text(), "1");
    let (parts, _) = get("/p?utm=2").into_parts();
    let _ = handle.purge_request(&parts).await.unwrap();
    let after = send(&cache, get("/p?utm=2")).await;
    assert_eq!(after.text(), "2", "{:?}", after.cache());
}

// hold_off.
#[tokio::test(start_paused = true)]
async fn what_a_post_began_while_it_is_held_off_is_not_stored() {
    let gate = Gate::new();
    let of_handler = gate.clone();
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::later(move |request| {
        let (gate, count) = (of_handler.clone(), count.clone());
        async move {
            if let Some(scope) = request.extensions().get::<CacheScope>() {
                scope.tag("t");
            }
            if request.method() == "POST" {
                gate.pass().await;
            }
            let n = count.fetch_add(1, SeqCst) + 1;
            with_headers(
                ok(n.to_string()),
                &[("cache-control", "max-age=60"), ("content-location", "/")],
            )
        }
    });
    let handle = CacheHandle::builder().build();
    let cache = CacheLayer::builder()
        .rfc9111()
        .handle(&handle)
        .build()
        .layer(origin);
    let _ = handle
        .purge(Tag::new("t"))
        .hold_off(Duration::from_secs(5))
        .await
        .unwrap();
    let post = tokio::spawn({
        let cache = cache.clone();
        async move { send(&cache, request("POST", "/")).await }
    });
    settle().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    gate.open();
    let post = post.await.unwrap();
    assert_eq!(post.text(), "1");
    let next = send(&cache, get("/")).await;
    assert_eq!(next.text(), "2", "{:?} {:?}", post.cache(), next.cache());
}

// Nested: the outer layer's entry has the inner one's tags.
#[tokio::test]
async fn a_post_through_two_layers_is_purged_in_both() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |request| {
        if let Some(scope) = request.extensions().get::<CacheScope>() {
            scope.tag("t");
        }
        let n = count.fetch_add(1, SeqCst) + 1;
        with_headers(
            ok(n.to_string()),
            &[("cache-control", "max-age=60"), ("content-location", "/")],
        )
    });
    let (inner, outer) = (
        CacheHandle::builder().build(),
        CacheHandle::builder().build(),
    );
    for (inner, outer) in [(inner, outer.clone()), (outer.clone(), outer)] {
        let within = CacheLayer::builder()
            .rfc9111()
            .handle(&inner)
            .build()
            .layer(origin.clone());
        let cache = CacheLayer::builder()
            .rfc9111()
            .handle(&outer)
            .build()
            .layer(within);
        let post = send(&cache, request("POST", "/")).await;
        let _ = inner.purge(Tag::new("t")).await.unwrap();
        let _ = outer.purge(Tag::new("t")).await.unwrap();
        let next = send(&cache, get("/")).await;
        assert_ne!(
            next.text(),
            post.text(),
            "{:?} {:?}",
            post.cache(),
            next.cache()
        );
    }
}

// 6, private="field": also in trailers.
#[tokio::test]
async fn a_private_field_in_the_trailers_is_not_stored() {
    let origin = Origin::new(|_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-user", HeaderValue::from_static("alice"));
        let body = chunked(&[b"a"], Some(trailers));
        with_headers(
            Response::new(body),
            &[
                ("cache-control", "max-age=60, private=\"x-user\""),
                ("x-user", "alice"),
            ],
        )
    });
    let cache = book().layer(origin);
    send(&cache, get("/")).await;
    let hit = send(&cache, get("/")).await;
    assert!(hit.is_hit());
    assert_eq!(hit.header("x-user"), None);
    assert_eq!(hit.trailers.unwrap_or_default().get("x-user"), None);
}

// 4.7: only-if-cached never asks the inner service.
#[tokio::test(start_paused = true)]
async fn only_if_cached_asks_nobody_inline() {
    let origin = Origin::counting(&[]);
    let layer = CacheLayer::builder()
        .ttl(Duration::from_secs(1))
        .stale_while_revalidate(Duration::from_secs(60))
        .fill_mode(FillMode::Inline)
        .build();
    let cache = layer.layer(origin.clone());
    send(&cache, get("/")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = send(
        &cache,
        req("GET", "/", &[("cache-control", "only-if-cached")]),
    )
    .await;
    assert_eq!(
        (origin.calls(), answer.text()),
        (1, "1"),
        "{:?}",
        answer.cache()
    );
}

// No tag is ever dropped silently.
#[tokio::test]
async fn too_many_groups_are_not_forgotten() {
    let groups: Vec<_> = (0..257).map(|n| format!("\"g{n}\"")).collect();
    let groups = groups.join(", ");
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |request| {
        if request.method() == "POST" {
            return with(ok("done"), "cache-group-invalidation", "\"g1\"");
        }
        let n = count.fetch_add(1, SeqCst) + 1;
        with_headers(
            ok(n.to_string()),
            &[("cache-control", "max-age=60"), ("cache-groups", &groups)],
        )
    });
    let cache = book().layer(origin);
    assert_eq!(send(&cache, get("/")).await.text(), "1");
    send(&cache, request("POST", "/write")).await;
    let after = send(&cache, get("/")).await;
    assert_eq!(after.text(), "2", "{:?}", after.cache());
}

async fn groups_of(key: Key, fill: &str, write: &str) -> (String, String) {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |request| {
        if request.method() == "POST" {
            return with(ok("done"), "cache-group-invalidation", "\"g\"");
        }
        let n = count.fetch_add(1, SeqCst) + 1;
        with_headers(
            ok(n.to_string()),
            &[("cache-control", "max-age=60"), ("cache-groups", "\"g\"")],
        )
    });
    let cache = CacheLayer::builder()
        .rfc9111()
        .key(key)
        .build()
        .layer(origin);
    let to = |method: &str, uri: &str, host: &str| {
        Request::builder()
            .method(method)
            .uri(uri)
            .header("host", host)
            .body(empty())
            .unwrap()
    };
    let first = send(&cache, to("GET", "/", fill)).await;
    send(&cache, to("POST", "/write", write)).await;
    let next = send(&cache, to("GET", "/", write)).await;
    (first.text().to_owned(), next.text().to_owned())
}

#[tokio::test]
async fn groups_are_purged_where_the_authority_is_not_in_the_key() {
    let (first, next) = groups_of(Key::new().ignore_authority(), "a.example", "b.example").await;
    assert_ne!(first, next);
}

#[tokio::test]
async fn groups_are_purged_where_the_host_is_sealed() {
    let (first, next) = groups_of(
        Key::new().ignore_authority().seal(),
        "a.example",
        "a.example",
    )
    .await;
    assert_ne!(first, next);
}

// 10.3.
#[tokio::test]
async fn a_location_without_a_path_is_the_root() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |request| {
        if request.method() == "POST" {
            return with(
                status(StatusCode::CREATED),
                "location",
                "http://shop.example",
            );
        }
        let n = count.fetch_add(1, SeqCst) + 1;
        with_headers(ok(n.to_string()), &[("cache-control", "max-age=60")])
    });
    let cache = book().layer(origin);
    assert_eq!(send(&cache, get("/")).await.text(), "1");
    send(&cache, request("POST", "/write")).await;
    assert_eq!(send(&cache, get("/")).await.text(), "2");
}

// 5.1, 5.10: an entity tag that the origin never gave is not what it is asked by.
#[tokio::test(start_paused = true)]
async fn an_origin_is_not_asked_by_a_tag_that_it_never_gave() {
    let origin = Origin::new(|request| {
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        let lines = [("last-modified", modified), ("cache-control", "max-age=1")];
        let headers = request.headers();
        // RFC 9110 §13.1.3: If-None-Match counts alone.
        if !headers.contains_key("if-none-match") && headers.contains_key("if-modified-since") {
            return with_headers(status(StatusCode::NOT_MODIFIED), &lines);
        }
        with_headers(ok("x"), &lines)
    });
    let layer = CacheLayer::builder().rfc9111().etag_from_body(true).build();
    let cache = layer.layer(origin.clone());
    send(&cache, get("/")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let next = send(&cache, get("/")).await;
    assert_eq!(
        next.cache().forward_status(),
        Some(StatusCode::NOT_MODIFIED)
    );
}

// A clock that is ahead.
#[tokio::test(start_paused = true)]
async fn a_response_from_the_future_does_not_stand_in_the_way_for_ever() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |_| {
        let n = count.fetch_add(1, SeqCst) + 1;
        if n == 1 {
            return with_headers(
                ok("1"),
                &[
                    ("cache-control", "max-age=1"),
                    ("vary", "foo"),
                    ("date", "Sun, 06 Nov 2094 08:49:37 GMT"),
                ],
            );
        }
        with_headers(
            ok(n.to_string()),
            &[("cache-control", "max-age=60"), ("vary", "bar")],
        )
    });
    let cache = book().layer(origin.clone());
    send(&cache, get("/")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..5 {
        send(&cache, get("/")).await;
    }
    assert_eq!(origin.calls(), 2);
}

/// An origin whose version is told by its tag, and whose HEADs and 304s stand at a gate.
fn versions(version: &Arc<AtomicUsize>, gate: &Gate, gated: &'static str) -> Origin {
    let (version, gate) = (version.clone(), gate.clone());
    Origin::later(move |request| {
        let (version, gate) = (version.load(SeqCst), gate.clone());
        async move {
            let tag = format!("\"{version}\"");
            let lines = [
                ("etag", &*tag),
                ("cache-control", "max-age=5, stale-if-error=100"),
            ];
            let known = request
                .headers()
                .get("if-none-match")
                .is_some_and(|known| *known == *tag);
            let answer = match (request.method().as_str(), known) {
                _ if version == 404 => status(StatusCode::NOT_FOUND),
                ("HEAD", _) => Response::new(empty()),
                (_, true) => status(StatusCode::NOT_MODIFIED),
                _ => ok(version.to_string()),
            };
            let is_late = request.headers().contains_key("x-slow");
            if is_late {
                gate.pass().await;
            }
            if gated.is_empty() || version != 404 {
                with_headers(answer, &lines)
            } else {
                answer
            }
        }
    })
}

async fn overtaken(method: &'static str, next: usize) -> String {
    let (version, gate) = (Arc::new(AtomicUsize::new(1)), Gate::new());
    let origin = versions(&version, &gate, "x");
    let cache = book().layer(origin);
    assert_eq!(send(&cache, get("/")).await.text(), "1");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let slow = tokio::spawn({
        let cache = cache.clone();
        async move {
            send(
                &cache,
                req(
                    method,
                    "/",
                    &[("x-slow", "1"), ("cache-control", "no-cache")],
                ),
            )
            .await
        }
    });
    gate.arrival().await;
    version.store(next, SeqCst);
    let newer = send(&cache, req("GET", "/", &[("cache-control", "no-cache")])).await;
    assert_ne!(newer.text(), "1");
    gate.open();
    slow.await.unwrap();
    settle().await;
    send(&cache, get("/")).await.text().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_head_in_flight_does_not_bring_back_what_a_newer_answer_has_replaced() {
    assert_eq!(overtaken("HEAD", 2).await, "2");
}

#[tokio::test(start_paused = true)]
async fn a_304_in_flight_does_not_bring_back_what_a_newer_answer_has_replaced() {
    assert_eq!(overtaken("GET", 2).await, "2");
}

#[tokio::test(start_paused = true)]
async fn a_head_in_flight_does_not_bring_back_what_is_gone() {
    assert_eq!(overtaken("HEAD", 404).await, "not the usual");
}

#[tokio::test(start_paused = true)]
async fn a_304_in_flight_does_not_bring_back_what_is_gone() {
    assert_eq!(overtaken("GET", 404).await, "not the usual");
}

fn grpc_call(message: &[u8], headers: &[(&str, &str)]) -> Request<Body> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    let mut request = request("POST", "/s/one");
    *request.body_mut() = full(framed);
    with_headers(with(request, "content-type", "application/grpc"), headers)
}

// 35, 59.
#[tokio::test]
async fn a_call_that_passes_by_purges_nobody_elses() {
    let origin = Origin::new(|_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = chunked(&[&[0, 0, 0, 0, 1, b'a']], Some(trailers));
        with(Response::new(body), "content-type", "application/grpc")
    });
    let cache = CacheLayer::builder()
        .key(Key::grpc(1024))
        .build()
        .layer(origin);
    send(&cache, grpc_call(b"q", &[])).await;
    assert!(send(&cache, grpc_call(b"q", &[])).await.is_hit());
    send(&cache, grpc_call(b"q", &[("cookie", "a=b")])).await;
    let after = send(&cache, grpc_call(b"q", &[])).await;
    assert!(after.is_hit(), "{:?}", after.cache());
}

// 14.4.
#[tokio::test]
async fn a_lifetime_without_end_is_an_integer() {
    let cache = CacheLayer::builder()
        .ttl(Duration::MAX)
        .build()
        .layer(Origin::counting(&[]));
    send(&cache, get("/")).await;
    let hit = send(&cache, get("/")).await;
    let ttl = hit
        .header("cache-status")
        .unwrap()
        .rsplit_once("ttl=")
        .unwrap()
        .1
        .to_owned();
    assert!(ttl.len() <= 15, "{ttl}");
}

//! Found by those who were told to break it: each was a fault, or might have been one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    clippy::too_many_lines,
    clippy::comparison_to_empty,
    reason = "a history is read at one go"
)]

mod common;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::*;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use scale::scaled;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    CacheHandle, CacheLayer, CacheScope, FillMode, Key, Reason, SetCookie, Tag,
};

fn book() -> CacheLayer {
    CacheLayer::builder().rfc9111().build()
}

fn req(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    with_headers(request(method, uri), headers)
}

// Invariants 50, 56: every 304 adds its Vary lines to what is stored.
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

// Invariants 2, 15: the answer to a POST is stored under a sealed key, though the handler saw the whole request.
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

// Invariant 36: a purge by request.
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

// Invariant 6: what `private="field"` names, also in trailers.
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
            if gated == "" || version != 404 {
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

// Invariants 35, 59.
#[tokio::test]
async fn a_call_that_passes_by_purges_nobody_elses() {
    let origin = Origin::new(|_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = chunked(&[&[0, 0, 0, 0, 1, b'a']], Some(trailers));
        with(Response::new(body), "content-type", "application/grpc")
    });
    let cache = CacheLayer::builder()
        .key(Key::grpc(1024).all_methods())
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

// What was stored for the exact query, and is over, must not stand in the way of what is stored by the rule.
#[tokio::test(start_paused = true)]
async fn what_is_over_under_the_exact_query_does_not_hide_what_the_rule_finds() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |_| {
        let n = count.fetch_add(1, SeqCst) + 1;
        let answer = ok(n.to_string());
        if n == 1 {
            return with(answer, "cache-control", "max-age=1");
        }
        with_headers(
            answer,
            &[
                ("cache-control", "max-age=600"),
                ("no-vary-search", "params=(\"utm\")"),
            ],
        )
    });
    let cache = book().layer(origin.clone());
    send(&cache, get("/p?utm=1")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..10 {
        send(&cache, get("/p?utm=1")).await;
    }
    assert_eq!(origin.calls(), 2);
}

// 5.8.
#[tokio::test(start_paused = true)]
async fn a_whole_answer_to_a_validation_takes_the_place_of_what_was_validated() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |_| {
        let n = count.fetch_add(1, SeqCst) + 1;
        let answer = with_headers(ok(n.to_string()), &[("cache-control", "max-age=600")]);
        if n == 1 {
            with_headers(answer, &[("vary", "foo"), ("etag", "\"1\"")])
        } else {
            answer
        }
    });
    let cache = book().layer(origin.clone());
    assert_eq!(send(&cache, get("/")).await.text(), "1");
    assert_eq!(
        send(&cache, req("GET", "/", &[("cache-control", "no-cache")]))
            .await
            .text(),
        "2"
    );
    assert_eq!(send(&cache, get("/")).await.text(), "2");
}

// A page that says Vary only where it is encoded, as many servers have it.
#[tokio::test(start_paused = true)]
async fn who_takes_no_coding_is_cached_beside_who_does() {
    let origin = Origin::new(|request| {
        let answer = with(ok("x"), "cache-control", "max-age=600");
        if request.headers().contains_key("accept-encoding") {
            return with_headers(
                answer,
                &[("vary", "accept-encoding"), ("content-encoding", "gzip")],
            );
        }
        answer
    });
    for layer in [book(), CacheLayer::builder().build()] {
        let cache = layer.layer(origin.clone());
        let before = origin.calls();
        for _ in 0..5 {
            send(&cache, req("GET", "/", &[("accept-encoding", "gzip")])).await;
            send(&cache, get("/")).await;
        }
        assert_eq!(origin.calls() - before, 2);
    }
}

#[derive(Clone)]
struct World {
    version: Arc<AtomicUsize>,
    floor: Arc<AtomicUsize>,
    seed: Arc<AtomicUsize>,
}

impl World {
    fn origin(&self) -> Origin {
        let world = self.clone();
        Origin::later(move |request| {
            let world = world.clone();
            async move {
                if let Some(scope) = request.extensions().get::<CacheScope>() {
                    scope.tag("t");
                }
                let mut random =
                    Random::new(world.seed.fetch_add(7919, SeqCst) as u64 * 2654435761);
                let method = request.method().clone();
                let version = if method == "PUT" || method == "POST" {
                    for _ in 0..random.below(20) {
                        tokio::task::yield_now().await;
                    }
                    world.version.fetch_add(1, SeqCst) + 1
                } else {
                    world.version.load(SeqCst)
                };
                for _ in 0..random.below(60) {
                    tokio::task::yield_now().await;
                }
                if random.one_in(40) && method == "GET" {
                    return status(StatusCode::SERVICE_UNAVAILABLE);
                }
                let tag = format!("\"{version}\"");
                let control = *random.of(&[
                    "max-age=60",
                    "max-age=1, stale-while-revalidate=60, stale-if-error=60",
                    "no-cache",
                    "max-age=0, stale-while-revalidate=5",
                    "max-age=60, stale-if-error=60",
                ]);
                let vary = *random.of(&["", "foo", "bar"]);
                let search = *random.of(&["", "params=(\"utm\")", "key-order"]);
                let mut lines = vec![
                    ("etag", &*tag),
                    ("cache-control", control),
                    ("x-version", &tag[1..tag.len() - 1]),
                ];
                if vary != "" {
                    lines.push(("vary", vary));
                }
                if search != "" {
                    lines.push(("no-vary-search", search));
                }
                let known = request
                    .headers()
                    .get("if-none-match")
                    .is_some_and(|known| *known == *tag);
                let answer = match method.as_str() {
                    "HEAD" => Response::new(empty()),
                    "PUT" => return ok(version.to_string()),
                    "POST" => {
                        lines.push(("content-location", "/p"));
                        ok(format!("{version:010}"))
                    }
                    _ if known => status(StatusCode::NOT_MODIFIED),
                    _ if random.one_in(2) => {
                        chunked(&[format!("{version:010}").as_bytes()], None).pipe()
                    }
                    _ => ok(format!("{version:010}")),
                };
                with_headers(answer, &lines)
            }
        })
    }
}

trait Pipe {
    fn pipe(self) -> Response<Body>;
}
impl Pipe for Body {
    fn pipe(self) -> Response<Body> {
        Response::new(self)
    }
}

async fn history(layer: CacheLayer, handle: CacheHandle, with_head: bool) {
    let world = World {
        version: Arc::new(AtomicUsize::new(1)),
        floor: Arc::default(),
        seed: Arc::new(AtomicUsize::new(12345)),
    };
    let cache = layer.layer(world.origin());
    let mut tasks = Vec::new();
    let failures = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    for task in 0..12u64 {
        let (cache, world, handle, failures) = (
            cache.clone(),
            world.clone(),
            handle.clone(),
            failures.clone(),
        );
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(task * 77 + 3);
            for _ in 0..scaled(600) {
                if random.one_in(12) {
                    let raise = |v: usize| {
                        world.floor.fetch_max(v, SeqCst);
                    };
                    match random.below(7) {
                        0 => {
                            let v = world.version.fetch_add(1, SeqCst) + 1;
                            let _ = handle.purge(Tag::new("t")).await;
                            raise(v);
                        }
                        1 => {
                            let v = world.version.fetch_add(1, SeqCst) + 1;
                            let _ = handle.purge_all().await;
                            raise(v);
                        }
                        2 => {
                            let guard = handle.begin_purge(Tag::new("t"));
                            let v = world.version.fetch_add(1, SeqCst) + 1;
                            tokio::task::yield_now().await;
                            let _ = guard.commit().await;
                            raise(v);
                        }
                        3 | 4 => {
                            let answer = send(&cache, request("PUT", "/p")).await;
                            if answer.parts.status == 200 {
                                raise(answer.text().parse().unwrap());
                            }
                        }
                        5 => {
                            // It leaves in the middle.
                            let before = world.version.load(SeqCst);
                            let call = cache.clone().oneshot(request("PUT", "/p"));
                            tokio::pin!(call);
                            let n = random.below(12);
                            for _ in 0..n {
                                if futures_poll(call.as_mut()).await {
                                    break;
                                }
                                tokio::task::yield_now().await;
                            }
                            let _ = before;
                        }
                        _ => {
                            let answer = send(&cache, request("POST", "/p")).await;
                            if answer.parts.status == 200 {
                                raise(answer.text().parse().unwrap());
                            }
                        }
                    }
                    continue;
                }
                let floor = world.floor.load(SeqCst);
                let mut headers: Vec<(&str, String)> = Vec::new();
                match random.below(8) {
                    0 => headers.push(("cache-control", "no-cache".into())),
                    1 => headers.push(("cache-control", "max-stale".into())),
                    2 => headers.push(("cache-control", "max-age=0, stale-if-error=1000".into())),
                    3 => headers.push(("range", "bytes=0-9".into())),
                    4 => headers.push(("if-none-match", format!("\"{floor}\""))),
                    5 => headers.push(("cache-control", "only-if-cached".into())),
                    _ => {}
                }
                if random.one_in(3) {
                    headers.push(("foo", random.below(2).to_string()));
                }
                let uri = *random.of(&[
                    "/p",
                    "/p",
                    "/p?utm=1",
                    "/p?utm=2",
                    "/p?a=1&b=2",
                    "/p?b=2&a=1",
                ]);
                // Invalidation by PUT /p is for /p alone.
                let is_all = uri == "/p";
                let method = if with_head && random.one_in(10) {
                    "HEAD"
                } else {
                    "GET"
                };
                let lines: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
                let answer = send(&cache, req(method, uri, &lines)).await;
                let Some(version) = answer.header("x-version") else {
                    continue;
                };
                let version: usize = version.parse().unwrap();
                if answer.parts.status == 200 && method == "GET" {
                    assert_eq!(answer.text().parse::<usize>().unwrap(), version);
                }
                if is_all && version < floor {
                    let line = format!(
                        "{method} {uri} {headers:?}: {version} < {floor}: {:?} {:?}",
                        answer.cache(),
                        answer.parts.status
                    );
                    failures.lock().unwrap().push(line);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let failures = failures.lock().unwrap();
    assert!(
        failures.is_empty(),
        "{} {:#?}",
        failures.len(),
        &failures[..failures.len().min(8)]
    );
}

async fn futures_poll<F: Future + Unpin>(mut future: F) -> bool {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut future).poll(cx).is_ready())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_by_the_book() {
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder().rfc9111().handle(&handle).build();
    tokio::time::timeout(
        Duration::from_secs(200 * scaled(1) as u64),
        history(layer, handle, true),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_inline() {
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder()
        .rfc9111()
        .fill_mode(FillMode::Inline)
        .handle(&handle)
        .build();
    tokio::time::timeout(
        Duration::from_secs(200 * scaled(1) as u64),
        history(layer, handle, true),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_with_few_marks() {
    let handle = CacheHandle::builder().max_marks(8).build();
    let layer = CacheLayer::builder()
        .rfc9111()
        .stale_if_error(Duration::from_secs(50))
        .etag_from_body(true)
        .handle(&handle)
        .build();
    tokio::time::timeout(
        Duration::from_secs(200 * scaled(1) as u64),
        history(layer, handle, true),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_of_ones_own() {
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder()
        .ttl(Duration::from_millis(3))
        .stale_while_revalidate(Duration::from_secs(50))
        .stale_if_error(Duration::from_secs(50))
        .no_vary_search(true)
        .handle(&handle)
        .build();
    tokio::time::timeout(
        Duration::from_secs(200 * scaled(1) as u64),
        history(layer, handle, true),
    )
    .await
    .unwrap();
}

// What a HEAD has renewed is fetched anew by a GET.
#[tokio::test(start_paused = true)]
async fn what_a_head_has_renewed_can_be_refreshed() {
    let version = Arc::new(AtomicUsize::new(1));
    let of_origin = version.clone();
    let origin = Origin::new(move |request| {
        if let Some(scope) = request.extensions().get::<CacheScope>() {
            scope.tag("t");
        }
        let version = of_origin.load(SeqCst);
        let tag = format!("\"{version}\"");
        let answer = if request.method() == "HEAD" {
            Response::new(empty())
        } else {
            ok(version.to_string())
        };
        with_headers(
            answer,
            &[
                ("etag", &tag),
                ("cache-control", "max-age=5, stale-while-revalidate=60"),
            ],
        )
    });
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder()
        .rfc9111()
        .handle(&handle)
        .refreshable()
        .build();
    let service = layer.layer(tower::util::MapRequest::new(
        origin,
        |request: Request<http_body_util::Full<bytes::Bytes>>| request.map(boxed),
    ));
    let ask = |method: &str, control: &str| {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "a")
            .header("cache-control", control);
        let (request, service) = (
            request.body(http_body_util::Full::default()).unwrap(),
            service.clone(),
        );
        async move { read(service.oneshot(request).await.unwrap()).await }
    };
    ask("GET", "x").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    ask("HEAD", "no-cache").await;
    assert_eq!(ask("GET", "x").await.text(), "1");
    version.store(2, SeqCst);
    let purged = handle.purge(Tag::new("t")).refresh().await.unwrap();
    assert_eq!((purged.refreshed, purged.failed), (1, 0));
    let next = ask("GET", "x").await;
    assert_eq!((next.text(), next.is_hit()), ("2", true));
}

// The same as overtaken, where the 304 moves the response to another key.
async fn overtaken_elsewhere(next: usize) -> String {
    let (version, gate) = (Arc::new(AtomicUsize::new(1)), Gate::new());
    let origin = {
        let (version, gate) = (version.clone(), gate.clone());
        Origin::later(move |request| {
            let (version, gate) = (version.load(SeqCst), gate.clone());
            async move {
                let tag = format!("\"{version}\"");
                let lines = [("etag", &*tag), ("cache-control", "max-age=5")];
                let is_late = request.headers().contains_key("x-slow");
                if version == 404 {
                    return status(StatusCode::NOT_FOUND);
                }
                if is_late {
                    gate.pass().await;
                    let answer = with_headers(status(StatusCode::NOT_MODIFIED), &lines);
                    return with(answer, "no-vary-search", "params=(\"utm\")");
                }
                with_headers(ok(version.to_string()), &lines)
            }
        })
    };
    let cache = book().layer(origin);
    let of = |lines: &[(&str, &str)]| req("GET", "/p?utm=1", lines);
    assert_eq!(send(&cache, of(&[])).await.text(), "1");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let slow = tokio::spawn({
        let (cache, request) = (
            cache.clone(),
            of(&[("x-slow", "1"), ("cache-control", "no-cache")]),
        );
        async move { send(&cache, request).await }
    });
    gate.arrival().await;
    version.store(next, SeqCst);
    let newer = send(&cache, of(&[("cache-control", "no-cache")])).await;
    assert_ne!(newer.text(), "1");
    gate.open();
    slow.await.unwrap();
    settle().await;
    send(&cache, of(&[])).await.text().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_304_that_moves_it_to_another_key_does_not_bring_back_what_is_gone() {
    assert_eq!(overtaken_elsewhere(404).await, "not the usual");
}

#[tokio::test(start_paused = true)]
async fn a_304_that_moves_it_to_another_key_does_not_bring_back_what_was_replaced() {
    let text = overtaken_elsewhere(2).await;
    assert_eq!(text, "2");
}

// What a handler asks of others by POST does not keep its own answer from being stored.
#[tokio::test]
async fn a_page_that_is_made_of_what_was_asked_by_post_is_stored() {
    for (which, backend) in [("policy", CacheLayer::builder().build()), ("book", book())] {
        let backend = backend.layer(Origin::counting(&[]));
        let origin = Origin::later(move |_| {
            let backend = backend.clone();
            async move {
                let answer = send(&backend, request("POST", "/graphql")).await;
                with(ok(answer.text().to_owned()), "cache-control", "max-age=60")
            }
        });
        let cache = CacheLayer::builder().build().layer(origin);
        let first = send(&cache, get("/")).await;
        let next = send(&cache, get("/")).await;
        assert!(
            next.is_hit(),
            "{which}: {:?} {:?}",
            first.cache(),
            next.cache()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_knows_it_by_our_own_tag_is_told_so_when_it_is_validated() {
    let origin = Origin::new(|request| {
        let lines = [
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("cache-control", "max-age=1"),
        ];
        if request.headers().contains_key("if-modified-since") {
            return with_headers(status(StatusCode::NOT_MODIFIED), &lines);
        }
        with_headers(ok("x"), &lines)
    });
    let cache = CacheLayer::builder()
        .rfc9111()
        .etag_from_body(true)
        .build()
        .layer(origin);
    send(&cache, get("/")).await;
    let tag = send(&cache, get("/"))
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    assert_eq!(
        send(&cache, req("GET", "/", &[("if-none-match", &tag)]))
            .await
            .parts
            .status,
        304
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let next = send(&cache, req("GET", "/", &[("if-none-match", &tag)])).await;
    assert_eq!(next.parts.status, 304, "{:?}", next.cache());
}

#[tokio::test]
async fn held_followers_get_neither_cookies_nor_private_fields() {
    let gate = Gate::new();
    let of_origin = gate.clone();
    let origin = Origin::later(move |_| {
        let gate = of_origin.clone();
        async move {
            gate.pass().await;
            with_headers(
                ok("x"),
                &[
                    ("cache-control", "max-age=60, private=\"x-user\""),
                    ("x-user", "alice"),
                    ("set-cookie", "a=alice"),
                ],
            )
        }
    });
    let cache = CacheLayer::builder()
        .rfc9111()
        .set_cookie(SetCookie::Strip)
        .build()
        .layer(origin);
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, get("/")).await })
    };
    let leader = ask();
    gate.arrival().await;
    let follower = ask();
    settle().await;
    gate.open();
    let (leader, follower) = (leader.await.unwrap(), follower.await.unwrap());
    assert_eq!(
        leader.lines("set-cookie").len() + leader.lines("x-user").len(),
        2
    );
    assert_eq!(
        follower.lines("set-cookie").len() + follower.lines("x-user").len(),
        0,
        "{:?}",
        follower.cache()
    );
    assert!(follower.cache().is_collapsed());
}

#[tokio::test]
async fn held_references() {
    let origin = |host: &'static str, reference: &'static str| {
        let count = AtomicUsize::new(0);
        let _ = host;
        Origin::new(move |request| {
            if request.method() == "POST" {
                return with(status(StatusCode::CREATED), "location", reference);
            }
            let n = count.fetch_add(1, SeqCst) + 1;
            with_headers(ok(n.to_string()), &[("cache-control", "max-age=60")])
        })
    };
    for (get_host, post_host, target, reference, purged) in [
        ("a.example", "a.example", "/x", "/x", true),
        ("a.example", "a.example", "/x", "x", true),
        ("a.example", "a.example", "/x", "../x#y", true),
        ("a.example", "a.example", "/x?q", "?q", false),
        ("a.example", "a.example", "/dir?q", "?q", true),
        (
            "a.example",
            "A.example:80",
            "/x",
            "http://u@a.EXAMPLE/x",
            true,
        ),
        ("a.example", "a.example", "/x", "//a.example/x", true),
        ("a.example", "a.example", "/x", "//b.example/x", false),
        ("b.example", "a.example", "/x", "//b.example/x", false),
        (
            "b.example",
            "a.example",
            "/x",
            "http://a.example@b.example/x",
            false,
        ),
        ("b.example", "a.example", "/x", "http://b.example/x", false),
        (
            "a.example",
            "a.example",
            "/x",
            "http://a.example:8080/x",
            false,
        ),
        (
            "a.example:8080",
            "a.example",
            "/x",
            "http://a.example:8080/x",
            false,
        ),
        (
            "a.example:443",
            "a.example:443",
            "/x",
            "https://a.example/x",
            true,
        ),
        ("a.example", "a.example", "/x", "ftp://a.example/x", false),
        (
            "a.example",
            "a.example",
            "//x/y",
            "http://a.example//x/y",
            true,
        ),
        ("[::1]", "[::1]:80", "/x", "http://[::1]/x", true),
        ("a.example", "a.example", "/x", "\\\\a.example\\x", false),
    ] {
        for layer in [book(), CacheLayer::builder().build()] {
            let cache = layer.layer(origin(get_host, reference));
            let to = |method: &str, host: &str, uri: &str| {
                Request::builder()
                    .method(method)
                    .uri(uri)
                    .header("host", host)
                    .body(empty())
                    .unwrap()
            };
            send(&cache, to("GET", get_host, target)).await;
            send(&cache, to("POST", post_host, "/dir")).await;
            let next = send(&cache, to("GET", get_host, target)).await;
            assert_eq!(
                next.text() == "2",
                purged,
                "{get_host} {post_host} {target} {reference}"
            );
        }
    }
}

#[tokio::test]
async fn held_http2_and_http1_targets() {
    let forms = |method: &str| {
        let absolute = |uri: &str| {
            Request::builder()
                .method(method)
                .version(http::Version::HTTP_2)
                .uri(uri)
                .body(empty())
                .unwrap()
        };
        let origin = |host: &str| {
            Request::builder()
                .method(method)
                .uri("/x?y")
                .header("host", host)
                .body(empty())
                .unwrap()
        };
        [
            absolute("http://a.example/x?y"),
            absolute("http://A.example:80/x?y"),
            absolute("https://a.example:443/x?y"),
            origin("a.example"),
            origin("A.EXAMPLE"),
            origin("a.example:80"),
        ]
    };
    for read in 0..6 {
        for write in 0..6 {
            let cache = CacheLayer::builder().build().layer(Origin::counting(&[]));
            let pick = |method, n| forms(method).into_iter().nth(n).unwrap();
            let first = send(&cache, pick("GET", read)).await;
            send(&cache, pick("DELETE", write)).await;
            let next = send(&cache, pick("GET", read)).await;
            assert_ne!(first.text(), next.text(), "{read} {write}");
        }
    }
}

#[tokio::test]
async fn held_a_post_dropped_at_any_poll_purges_and_stores_nothing() {
    for polls in 0..12 {
        let version = Arc::new(AtomicUsize::new(1));
        let of_origin = version.clone();
        let origin = Origin::later(move |request| {
            let version = of_origin.clone();
            async move {
                if request.method() == "POST" {
                    tokio::task::yield_now().await;
                    version.fetch_add(1, SeqCst);
                    tokio::task::yield_now().await;
                }
                let n = version.load(SeqCst);
                with_headers(
                    chunked(&[n.to_string().as_bytes(), b""], None).pipe(),
                    &[("cache-control", "max-age=60"), ("content-location", "/")],
                )
            }
        });
        let cache = book().layer(origin);
        send(&cache, get("/")).await;
        {
            let call =
                async { read(cache.clone().oneshot(request("POST", "/")).await.unwrap()).await };
            tokio::pin!(call);
            for _ in 0..polls {
                if futures_poll(call.as_mut()).await {
                    break;
                }
            }
        }
        let next = send(&cache, get("/")).await;
        assert_eq!(next.text(), version.load(SeqCst).to_string(), "{polls}");
        assert!(send(&cache, get("/")).await.is_hit());
    }
}

#[tokio::test(start_paused = true)]
async fn held_odd_ages_and_dates() {
    for lines in [
        &[
            ("age", "4294967296"),
            (
                "cache-control",
                "max-age=99999999999999999999, stale-while-revalidate=99999999999999999999",
            ),
        ][..],
        &[
            ("date", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("expires", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ],
        &[
            ("date", "Sat, 01 Jan 0000 00:00:00 GMT"),
            ("expires", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("last-modified", "Sat, 01 Jan 0000 00:00:00 GMT"),
        ],
        &[
            ("last-modified", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("age", "18446744073709551616"),
        ],
        &[
            ("cache-control", "max-age=1, stale-if-error=2147483648"),
            ("etag", "\"a\""),
            ("age", "2147483648"),
        ],
    ] {
        let lines: Vec<(&'static str, &'static str)> = lines.to_vec();
        let lines: &'static [_] = lines.leak();
        let origin = Origin::counting(lines);
        let layer = CacheLayer::builder()
            .rfc9111()
            .heuristic_freshness(1.0, Duration::MAX)
            .unwrap()
            .stale_while_revalidate(Duration::MAX)
            .stale_if_error(Duration::MAX)
            .retry_after(Duration::MAX)
            .wait_timeout(Duration::MAX)
            .fill_timeout(Duration::MAX)
            .build();
        let cache = layer.layer(origin);
        for control in [
            "max-stale",
            "max-stale=18446744073709551616",
            "min-fresh=18446744073709551616",
            "max-age=18446744073709551616, stale-if-error=18446744073709551616",
            "x",
        ] {
            send(
                &cache,
                req(
                    "GET",
                    "/",
                    &[
                        ("cache-control", control),
                        ("range", "bytes=0-18446744073709551615"),
                    ],
                ),
            )
            .await;
            send(
                &cache,
                req(
                    "HEAD",
                    "/",
                    &[("cache-control", control), ("range", "bytes=-0")],
                ),
            )
            .await;
            tokio::time::sleep(Duration::from_secs(1 << 33)).await;
        }
    }
}

// Another variant under the exact query hides what the rule finds.
#[tokio::test(start_paused = true)]
async fn another_variant_under_the_exact_query_hides_nothing() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |_| {
        let n = count.fetch_add(1, SeqCst) + 1;
        let answer = with(ok(n.to_string()), "vary", "lang");
        let answer = with(answer, "cache-control", "max-age=6000");
        if n == 1 {
            answer
        } else {
            with(answer, "no-vary-search", "params=(\"utm\")")
        }
    });
    let cache = book().layer(origin.clone());
    send(&cache, with_headers(get("/p?utm=1"), &[("lang", "de")])).await;
    for _ in 0..10 {
        send(&cache, with_headers(get("/p?utm=1"), &[("lang", "en")])).await;
    }
    assert_eq!(origin.calls(), 2);
}

// What a refresh of one variant drops is served stale to others no more.
#[tokio::test(start_paused = true)]
async fn a_refresh_by_one_leaves_what_others_may_have_stale() {
    let fails = Arc::new(AtomicUsize::new(0));
    let f = fails.clone();
    let origin = Origin::new(move |request| {
        if f.load(SeqCst) == 1 {
            return status(StatusCode::BAD_GATEWAY);
        }
        match request.headers().get("lang") {
            None => ok("plain"),
            Some(lang) => with(ok(lang.to_str().unwrap().to_owned()), "vary", "lang"),
        }
    });
    let layer = CacheLayer::builder()
        .ttl(Duration::from_secs(10))
        .stale_if_error(Duration::from_secs(1000))
        .build();
    let cache = layer.layer(origin.clone());
    send(&cache, get("/")).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    send(&cache, with_headers(get("/"), &[("lang", "de")])).await;
    fails.store(1, SeqCst);
    let reply = send(&cache, get("/")).await;
    assert_eq!(reply.parts.status, 200);
}

// Invariants 2, 14: applications that get headers as variables cannot tell `_` from `-`.
#[tokio::test]
async fn a_name_with_underscores_is_what_it_would_be_without() {
    let origin = Origin::new(|request| {
        let host = request.headers().get("x_forwarded_host");
        let host = host.map_or("none", |host| host.to_str().unwrap());
        ok(host.to_owned())
    });
    let cache = CacheLayer::builder().build().layer(origin);
    let evil = send(&cache, req("GET", "/", &[("x_forwarded_host", "evil")])).await;
    assert_eq!(evil.text(), "evil");
    assert_eq!(send(&cache, get("/")).await.text(), "none");
    for (name, reason) in [
        ("x_http_method_override", Reason::Override),
        ("x-original_url", Reason::Override),
        ("x_api_key", Reason::ClientIdentity),
        ("remote_user", Reason::ClientIdentity),
        ("proxy_authorization", Reason::ProxyAuthorization),
    ] {
        let answer = send(&cache, req("GET", "/", &[(name, "x")])).await;
        assert_eq!(answer.reason(), Some(reason), "{name}");
    }
}

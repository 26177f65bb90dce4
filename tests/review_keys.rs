//! What a review of keys and seals found, and what it tried in vain.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::too_many_lines, reason = "tables of what may be asked")]

mod common;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::{convert::Infallible, time::Duration};

use scale::scaled;

use common::{Origin, Random, get, ok, send, with, with_headers};
use http::{
    HeaderName, HeaderValue, Request, Response,
    header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, COOKIE, FORWARDED},
};
use tower::{Layer, Service, ServiceBuilder};
use tower_response_cache::{
    CacheLayer, Decision, Explanation, Key, Reason, Stats, TagFamily, key::Normalize,
};

const MINUTE: Duration = Duration::from_secs(60);

fn cached(key: Key) -> CacheLayer {
    CacheLayer::builder().key(key).ttl(MINUTE).build()
}

/// `page`, as serde_qs 1.1 reads it with its defaults: `[page]` at the root is `page`, the last one wins.
fn page_of_qs(query: &str) -> String {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| ["page", "[page]"].contains(name));
    named
        .next_back()
        .map_or("none", |(_, value)| value)
        .to_owned()
}

#[tokio::test]
async fn a_parameter_whose_whole_name_stands_in_brackets_is_no_other_one() {
    let origin = Origin::new(|request| ok(page_of_qs(request.uri().query().unwrap_or_default())));
    let cache = cached(Key::new().query(["page"])).layer(origin);
    assert_eq!(send(&cache, get("/?[page]=9")).await.text(), "9");
    assert_eq!(send(&cache, get("/")).await.text(), "none");
}

#[tokio::test]
async fn the_order_of_a_parameter_and_its_name_in_brackets_is_in_the_key() {
    let origin = Origin::new(|request| ok(page_of_qs(request.uri().query().unwrap_or_default())));
    let cache = cached(Key::new().query_except(["utm_*"])).layer(origin);
    assert_eq!(send(&cache, get("/?[page]=9&page=1")).await.text(), "1");
    assert_eq!(send(&cache, get("/?page=1&[page]=9")).await.text(), "9");
}

#[derive(Clone)]
struct Seen(String);

/// What a layer outside the cache makes of a header: a user, a locale.
fn told_by_extension(
    header: &'static str,
    layer: CacheLayer,
) -> impl tower::Service<
    Request<common::Body>,
    Response = http::Response<impl http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>>,
    Error: std::fmt::Debug,
> + Clone {
    let origin = Origin::new(move |request| {
        let seen = request.extensions().get::<Seen>().unwrap();
        with(ok(seen.0.clone()), "vary", header)
    });
    ServiceBuilder::new()
        .map_request(move |mut request: Request<common::Body>| {
            let value = request.headers()[header].to_str().unwrap().to_owned();
            request.extensions_mut().insert(Seen(value));
            request
        })
        .layer(layer)
        .service(origin)
}

#[tokio::test]
async fn a_vary_is_honoured_though_the_header_is_sealed_since_an_extension_may_tell_it() {
    for header in ["cookie", "authorization"] {
        let cache = told_by_extension(header, cached(Key::new().seal().allow_extension::<Seen>()));
        for user in ["sid=alice", "sid=bob"] {
            let answer = send(&cache, with(get("/me"), header, user)).await;
            assert_eq!(answer.text(), user);
        }
    }
}

#[tokio::test]
async fn an_explanation_does_not_tell_the_credentials_of_whom_a_variant_is_for() {
    for (header, key) in [
        ("authorization", Key::new()),
        ("cookie", Key::new().ignore_cookies()),
        ("x-api-key", Key::new().ignore_authorization()),
    ] {
        let origin = Origin::new(move |_| {
            with_headers(ok("x"), &[("vary", header), ("cache-control", "public")])
        });
        let layer = cached(key);
        let cache = layer.layer(origin);
        send(&cache, with(get("/"), header, "alice-secret")).await;
        let (bob, _) = with(get("/"), header, "bob").into_parts();
        let told = layer.explain(&bob);
        assert_eq!(told.stored.len(), 1);
        assert!(
            !format!("{told} {told:?}").contains("alice-secret"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_star_is_no_language_that_the_client_has_named_itself() {
    for (offered, asked, best) in [
        (["de", "en"], "de;q=0, *", "en"),
        (["de", "en"], "*, de;q=0.1", "en"),
        (["de-AT", "en"], "de-AT;q=0, de, en;q=0.5", "en"),
    ] {
        let origin = Origin::new(|request| {
            ok(request.headers()[ACCEPT_LANGUAGE]
                .to_str()
                .unwrap()
                .to_owned())
        });
        let languages = Normalize::languages(offered).unwrap();
        let cache = cached(Key::new().header_as(ACCEPT_LANGUAGE, languages)).layer(origin);
        let answer = send(&cache, with(get("/"), "accept-language", asked)).await;
        assert_eq!(answer.text(), best, "{asked}");
    }
}

/// Encodes as RFC 9110 §12.5.3 allows: with the coding that is named, with gzip for whom says nothing or `*`.
fn encoding_origin() -> Origin {
    Origin::new(|request| {
        let accepts = request.headers().get(ACCEPT_ENCODING);
        let accepts = accepts.map_or("*", |value| value.to_str().unwrap());
        let gzip = ["gzip", "*"]
            .iter()
            .any(|name| accepts.split(',').any(|a| a.trim() == *name));
        let response = with(ok("x"), "vary", "accept-encoding");
        if gzip {
            with(response, "content-encoding", "gzip")
        } else {
            response
        }
    })
}

#[tokio::test]
async fn a_client_that_likes_identity_best_is_not_given_a_coding() {
    let codings = Normalize::codings(["br", "gzip"]).unwrap();
    let cache = cached(Key::new().header_as(ACCEPT_ENCODING, codings)).layer(encoding_origin());
    let asked = with(get("/"), "accept-encoding", "identity, gzip;q=0.1");
    assert_eq!(send(&cache, asked).await.header("content-encoding"), None);
}

#[tokio::test]
async fn a_star_is_no_coding_that_can_be_offered() {
    let Ok(codings) = Normalize::codings(["*"]) else {
        return;
    };
    let cache = cached(Key::new().header_as(ACCEPT_ENCODING, codings)).layer(encoding_origin());
    let asked = with(get("/"), "accept-encoding", "br, gzip;q=0, *;q=0.1");
    assert_eq!(send(&cache, asked).await.header("content-encoding"), None);
}

#[tokio::test]
async fn behind_a_seal_nobody_gets_a_coding_that_is_refused() {
    let cache = cached(Key::new().seal()).layer(encoding_origin());
    let first = send(&cache, with(get("/"), "accept-encoding", "gzip")).await;
    let asked = with(get("/"), "accept-encoding", "identity, *;q=0");
    let second = send(&cache, asked).await;
    assert_eq!(first.header("content-encoding"), None);
    assert_eq!(second.header("content-encoding"), None);
}

#[tokio::test]
async fn on_which_line_of_forwarded_a_host_stands_is_in_the_key() {
    // The first line, wherever the host stands in it; and the last one.
    let first = |request: &Request<common::Body>| request.headers().get(FORWARDED).cloned();
    let last = |request: &Request<common::Body>| {
        request
            .headers()
            .get_all(FORWARDED)
            .iter()
            .next_back()
            .cloned()
    };
    type Line = fn(&Request<common::Body>) -> Option<HeaderValue>;
    for (line, attack, victim) in [
        (
            first as Line,
            &["for=a, host=evil"][..],
            &["for=a", "host=evil"][..],
        ),
        (last as Line, &["host=evil"], &["host=evil", "for=a"]),
    ] {
        let origin = Origin::new(move |request| {
            let line = line(&request);
            let line = line.as_ref().map_or("", |line| line.to_str().unwrap());
            let mut pairs = line.split([',', ';']).map(str::trim);
            let host = pairs.find_map(|pair| pair.strip_prefix("host=").map(str::to_owned));
            ok(host.unwrap_or_else(|| "shop.example".to_owned()))
        });
        let cache = cached(Key::new()).layer(origin);
        let asked = |lines: &[&str]| {
            lines
                .iter()
                .fold(get("/"), |request, line| with(request, "forwarded", line))
        };
        assert_eq!(send(&cache, asked(attack)).await.text(), "evil");
        assert_eq!(send(&cache, asked(victim)).await.text(), "shop.example");
    }
}

#[tokio::test]
async fn a_sealed_or_normal_header_that_was_marked_sensitive_still_is() {
    let secret = HeaderName::from_static("x-secret");
    let key = Key::new()
        .cookie("sid")
        .header_as(secret, Normalize::case_and_space())
        .seal();
    let origin = Origin::new(|request| ok(format!("{:?}", request.headers())));
    let cache = cached(key).layer(origin);
    let mut asked = with_headers(get("/"), &[("cookie", "sid=hush"), ("x-secret", "hush")]);
    asked
        .headers_mut()
        .values_mut()
        .for_each(|value| value.set_sensitive(true));
    let seen = send(&cache, asked).await;
    assert!(!seen.text().contains("hush"), "{}", seen.text());
}

#[tokio::test]
async fn a_cookie_whose_name_has_a_plus_is_read_as_cookies_are() {
    // cookie::Cookie::split_parse_encoded("a+%62=evil") names it `a+b`: in a cookie a plus is no space.
    let origin = Origin::new(|request| {
        let line = request.headers()[COOKIE].to_str().unwrap().to_owned();
        ok(line.replace("%62", "b"))
    });
    let cache = cached(Key::new().cookie("a+b").ignore_cookies()).layer(origin);
    let evil = send(&cache, with(get("/"), "cookie", "a+%62=evil")).await;
    assert_eq!(evil.text(), "a+b=evil");
    assert_eq!(
        send(&cache, with(get("/"), "cookie", "c=1")).await.text(),
        "c=1"
    );
}

#[tokio::test]
async fn an_explanation_after_the_shutdown_says_that_requests_pass_by() {
    let layer = CacheLayer::new(MINUTE);
    let cache = layer.layer(Origin::new(|_| ok("x")));
    let _ = layer.handle().shutdown(Duration::ZERO).await;
    let told = layer.explain(&get("/").into_parts().0).decision;
    let reason = send(&cache, get("/")).await.reason();
    assert_eq!(reason, Some(Reason::ShuttingDown));
    assert_eq!(told, Decision::Bypass(Reason::ShuttingDown));
}

macro_rules! families {
    ($($name:ident: $argument:ty = $text:literal),*) => {
        $(const $name: TagFamily<$argument> = TagFamily::new($text);)*
    };
}
families!(BOOK: u32 = "adversary-book", AUTHOR: str = "adversary-book");

#[test]
#[cfg(debug_assertions)]
fn two_families_of_one_macro_call_are_noticed_too() {
    let _ = BOOK.tag(1);
    std::panic::catch_unwind(|| AUTHOR.tag("x")).unwrap_err();
}

#[tokio::test]
async fn what_is_held_of_a_body_that_comes_byte_by_byte_is_about_its_limit() {
    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody};
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    /// A read buffer, of which one byte is the frame: as hyper makes them of small chunks.
    struct Buffer(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Buffer {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len(), SeqCst);
        }
    }
    const LIMIT: usize = 4096;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let frames = {
        let (now, most) = (now.clone(), most.clone());
        (0..LIMIT).map(move |_| {
            let held = now.fetch_add(8192, SeqCst) + 8192;
            most.fetch_max(held, SeqCst);
            let buffer = Bytes::from_owner(Buffer(vec![b'x'; 8192], now.clone()));
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(buffer.slice(..1)))
        })
    };
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    let layer = CacheLayer::builder()
        .key(Key::new().body(LIMIT))
        .methods([http::Method::POST])
        .unwrap()
        .build();
    let inner = tower::service_fn(
        |request: Request<tower_response_cache::ReplayBody<_>>| async move {
            let _ = request;
            Ok::<_, std::convert::Infallible>(ok("x"))
        },
    );
    let cache = layer.layer(inner);
    let request = Request::post("/").body(body).unwrap();
    tower::ServiceExt::oneshot(cache, request).await.unwrap();
    assert!(
        most.load(SeqCst) < 64 * LIMIT,
        "{} bytes for a body of {LIMIT}",
        most.load(SeqCst)
    );
}

fn random_request(random: &mut Random, methods: &[&str]) -> (Request<common::Body>, &'static str) {
    let path = *random.of(&[
        "/vary", "/cookie", "/public", "/nostore", "/404", "/500", "/star", "/gzip", "/plain",
        "/long",
    ]);
    let query = *random.of(&[
        "",
        "",
        "?",
        "?page=1",
        "?page=2",
        "?x=1&page=1",
        "?page[]=1",
        "?a;b",
        "?%zz",
    ]);
    let method = *random.of(methods);
    let mut request = common::request(method, &format!("{path}{query}"));
    let headers = [
        ("accept-language", "de"),
        ("accept-language", "en;q=0.5"),
        ("accept-language", "\u{fc}"),
        ("accept-encoding", "gzip"),
        ("accept-encoding", "identity;q=0"),
        ("cookie", "sid=1"),
        ("cookie", "region=eu"),
        ("cookie", "a=\"x; region=us\""),
        ("authorization", "Bearer a"),
        ("authorization", "Bearer b"),
        ("x-api-key", "k"),
        ("forwarded", "for=a;host=b"),
        ("forwarded", "for=\"a,b\""),
        ("x-forwarded-host", "evil"),
        ("x-rewrite-url", "/"),
        ("upgrade", "websocket"),
        ("range", "bytes=0-1"),
        ("if-none-match", "\"a\""),
        ("x-tenant", "t"),
        ("x-long", "long"),
        ("host", "SHOP.example"),
        ("content-type", "application/json"),
        ("content-type", "application/grpc"),
    ];
    for _ in 0..*random.of(&[0, 0, 1, 1, 2, 4]) {
        let (name, value) = *random.of(&headers);
        let value = if value == "long" {
            "l".repeat(600)
        } else {
            value.to_owned()
        };
        request = with(request, name, &value);
    }
    let body = *random.of(&[
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "{\"a\":1,\"b\":2}",
        "{\"b\":2,\"a\":1}",
        "{\"a\":1,\"a\":2}",
        "\0\0\0\0\u{1}a",
        "a body that is longer than is allowed to be",
    ]);
    (request.map(|_| common::full(body)), body)
}

fn random_origin() -> Origin {
    Origin::new(|request| match request.uri().path() {
        "/vary" => with(ok("x"), "vary", "accept-language, x-tenant"),
        "/cookie" => with(ok("x"), "set-cookie", "a=1"),
        "/public" => with_headers(
            ok("x"),
            &[
                ("cache-control", "public"),
                ("vary", "cookie, authorization, host"),
            ],
        ),
        "/nostore" => with(ok("x"), "cache-control", "no-store"),
        "/404" => common::status(http::StatusCode::NOT_FOUND),
        "/500" => common::status(http::StatusCode::INTERNAL_SERVER_ERROR),
        "/star" => with(ok("x"), "vary", "*"),
        "/gzip" => with(ok("x"), "content-encoding", "gzip"),
        "/long" => ok("x".repeat(1 << 12)),
        _ => {
            let mut response = ok("x");
            response
                .extensions_mut()
                .insert(tower_response_cache::Tags::from(
                    tower_response_cache::Tag::new("t"),
                ));
            response
        }
    })
}

fn agree(told: &Explanation, asks_for_less: bool, done: tower_response_cache::CacheStatus) -> bool {
    match told.decision {
        Decision::Hit(ttl) => done.is_hit() && done.ttl() == Some(ttl),
        Decision::Fetch(forward) => {
            !done.is_hit() && !done.is_collapsed() && done.forward() == Some(forward)
        }
        Decision::SideBySide(reason) if asks_for_less => {
            !done.is_stored() && done.reason() == Some(reason)
        }
        Decision::SideBySide(_) => {
            !done.is_hit() && done.forward() != Some(tower_response_cache::Forward::Bypass)
        }
        Decision::Bypass(reason) => {
            !done.is_hit() && !done.is_stored() && done.reason() == Some(reason)
        }
        _ => false,
    }
}

/// Sends what was explained: what is done is what was said. Counts what that was.
async fn is_done<S, B>(
    cache: &S,
    asked: Request<common::Body>,
    told: &Explanation,
    seen: &mut [usize; 4],
) where
    S: Service<Request<common::Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    let headers = asked.headers();
    let less = headers.contains_key("range") || headers.contains_key("if-none-match");
    let text = format!("{asked:?}");
    let done = send(cache, asked).await.cache();
    assert!(agree(told, less, done), "{text}\n{told}\n{done:?}");
    seen[match told.decision {
        Decision::Hit(_) => 0,
        Decision::Fetch(_) => 1,
        Decision::SideBySide(_) => 2,
        _ => 3,
    }] += 1;
}

fn after_with(mut stats: Stats, targets: usize) -> Stats {
    stats.targets = targets;
    stats
}

#[tokio::test(start_paused = true)]
async fn what_an_explanation_says_is_what_the_cache_then_does_with_whatever_is_asked() {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let languages = || Normalize::languages(["en", "de"]).unwrap();
    let codings = || Normalize::codings(["gzip"]).unwrap();
    let keys = [
        Key::new(),
        Key::new()
            .query(["page"])
            .header(ACCEPT_LANGUAGE)
            .cookie("region")
            .ignore_cookies(),
        Key::new()
            .header_as(ACCEPT_LANGUAGE, languages())
            .header_as(ACCEPT_ENCODING, codings())
            .cookie("region")
            .seal_query(),
        Key::new()
            .query_except(["x"])
            .ignore_authority()
            .ignore_authorization()
            .seal()
            .let_through(ACCEPT_LANGUAGE),
        Key::new().part("tenant", |parts| {
            Some(parts.headers.get("x-tenant")?.as_bytes().to_vec())
        }),
    ];
    for key in keys {
        let layer = CacheLayer::builder()
            .key(key.clone())
            .max_key_bytes(400)
            .max_body_bytes(1 << 10)
            .ttl(MINUTE)
            .build();
        let cache = layer.layer(random_origin());
        let mut seen = [0_usize; 4];
        for _ in 0..scaled(600) {
            let (asked, _) = random_request(&mut random, &["GET", "GET", "GET", "HEAD", "POST"]);
            let (head, body) = asked.into_parts();
            let bytes = if http_body::Body::is_end_stream(&body) {
                &b""[..]
            } else {
                b"x"
            };
            let told = layer.explain(&head);
            let before = layer.handle().stats();
            let again = layer.explain(&head);
            // The store frees entries that have left it when it likes, and the rows of their targets go with them.
            let after = layer.handle().stats();
            assert!(after.targets <= before.targets);
            assert_eq!(before, after_with(after, before.targets));
            assert_eq!(told, again);
            let told = if bytes.is_empty() {
                told
            } else {
                layer.handle().explain_with_body(&head, bytes).remove(0)
            };
            let asked = Request::from_parts(head, body);
            is_done(&cache, asked, &told, &mut seen).await;
            match random.below(400) {
                0 => tokio::time::advance(Duration::from_secs(40)).await,
                1 => drop(
                    layer
                        .handle()
                        .purge(tower_response_cache::Tag::new("t"))
                        .await
                        .unwrap(),
                ),
                _ => {}
            }
        }
        println!("{seen:?}");
        assert!(seen[1] >= scaled(2), "{seen:?}");
    }
}

#[cfg(feature = "json")]
#[tokio::test(start_paused = true)]
async fn what_an_explanation_says_of_bodies_is_what_the_cache_then_does() {
    let mut random = Random::new(0x1234_5678_9abc_def1);
    let keys = [
        (Key::new().json_body(32), true),
        (Key::new().query(["page"]).seal().body(32), true),
        (
            Key::new()
                .body(32)
                .only_if(|_, body| body.starts_with(b"{")),
            true,
        ),
        (Key::grpc(32).all_methods().ignore_cookies(), false),
    ];
    for (key, any_method) in keys {
        let builder = CacheLayer::builder()
            .key(key)
            .max_key_bytes(400)
            .max_body_bytes(1 << 10)
            .ttl(MINUTE);
        let builder = if any_method {
            builder
                .methods([http::Method::GET, http::Method::HEAD, http::Method::POST])
                .unwrap()
        } else {
            builder
        };
        let layer = builder.build();
        let cache = layer.layer(random_origin());
        let mut seen = [0_usize; 4];
        for _ in 0..scaled(600) {
            let (asked, bytes) =
                random_request(&mut random, &["GET", "POST", "POST", "POST", "HEAD", "PUT"]);
            let asked = if any_method || random.below(8) == 0 {
                asked
            } else {
                with(asked, "content-type", "application/grpc")
            };
            let (head, body) = asked.into_parts();
            let told = layer.explain(&head, bytes.as_bytes());
            let asked = Request::from_parts(head, body);
            is_done(&cache, asked, &told, &mut seen).await;
            if random.below(400) == 0 {
                tokio::time::advance(Duration::from_secs(40)).await;
            }
        }
        println!("{seen:?}");
    }
}

#[tokio::test]
async fn brackets_that_are_encoded_are_not_those_that_are_not() {
    // serde_qs 1.x with its defaults: `filter%5Ba%5D` is a name of its own, `filter[a]` is the `a` of `filter`.
    let origin = || {
        Origin::new(|request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            ok(if query.contains("filter[a]=1") {
                "filtered"
            } else {
                "all"
            })
        })
    };
    for key in [
        Key::new().query_except(["utm_*"]),
        Key::new().query(["filter*"]),
    ] {
        let cache = cached(key).layer(origin());
        assert_eq!(send(&cache, get("/?filter%5Ba%5D=1")).await.text(), "all");
        assert_eq!(send(&cache, get("/?filter[a]=1")).await.text(), "filtered");
    }
}

#[tokio::test]
async fn what_is_printed_of_a_handle_for_debugging_is_not_what_is_stored() {
    let layer = cached(Key::new().header(http::header::AUTHORIZATION));
    let cache = layer.layer(Origin::new(|_| ok("the body of alice")));
    send(&cache, with(get("/"), "authorization", "hush")).await;
    let handle = layer.handle();
    let told = format!("{handle:?} {layer:?} {cache:?}");
    assert!(!told.contains("alice"), "{} bytes", told.len());
}

#[tokio::test]
async fn a_purge_by_request_says_so_if_a_layer_has_no_key_for_it() {
    // Nobody but axum's router can make captures: outside a handler, such a layer cannot be purged by request.
    let layer = CacheLayer::builder()
        .key(Key::new().part("tenant", |parts| parts.extensions.get::<u32>().copied()))
        .build();
    let cache = layer.layer(Origin::counting(&[]));
    let mut asked = get("/");
    asked.extensions_mut().insert(7_u32);
    assert_eq!(send(&cache, asked).await.text(), "1");
    let (forgot, _) = get("/").into_parts();
    let purged = layer.handle().purge_request(&forgot).await.unwrap();
    assert_eq!((purged.marks, purged.skipped), (0, 1));
}

#[tokio::test]
async fn a_purge_by_request_as_in_the_readme_works_behind_a_proxy() {
    let layer = CacheLayer::new(MINUTE);
    let cache = layer.layer(Origin::counting(&[]));
    let asked = || with(get("/books/1"), "x-forwarded-proto", "https");
    assert_eq!(send(&cache, asked()).await.text(), "1");
    let (request, _) = get("/books/1").into_parts();
    let purged = layer.handle().purge_request(&request).await.unwrap();
    assert_eq!(purged.marks, 1);
    assert_eq!(send(&cache, asked()).await.text(), "2");
}

#[tokio::test]
async fn a_sealed_answer_that_varies_by_host_is_found_again_whatever_its_case() {
    let layer = cached(Key::new().seal());
    let origin = Origin::new(|_| with(ok("x"), "vary", "host"));
    let cache = layer.layer(origin);
    let asked = || {
        let mut request = get("/");
        request
            .headers_mut()
            .insert("host", "Shop.example".parse().unwrap());
        request
    };
    send(&cache, asked()).await;
    assert!(send(&cache, asked()).await.is_hit());
}

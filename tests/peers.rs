//! Failures seen in the field, each a test.
//!
//! Held elsewhere: `Set-Cookie`, credentials, `Vary`, HEAD, POST, 206 and `private` in `safe.rs`; purges against fills
//! in flight in `purge.rs`; memory that is bounded in `limits.rs`; calls with trailers in `grpc.rs`; 304 and ranges to
//! clients in `shaped.rs`; the first request after expiry, and a clear that a stale answer undoes, in `stale.rs`; stale
//! answers against `proxy-revalidate`, `no-cache` and `s-maxage`, and dates as they came, in `rfc9111/`.
//!
//! Left until there is code for it: a second tier that brings back what was purged or that serialises on every hit, and
//! clocks that differ between nodes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, routing};
use common::{
    Body, Gate, Origin, chunked, empty, endless, full, get, head, next, ok, request, send, settle,
    status, streamed, until, with, with_headers, within,
};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::advance;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer};
use tower_response_cache::{Cache, CacheLayer, Key, Tag, Tags};

const MINUTE: Duration = Duration::from_secs(60);

fn default_cache(origin: &Origin) -> Cache<Origin> {
    CacheLayer::new(MINUTE).layer(origin.clone())
}

// A layer that does not fit a router, for want of `Sync` bodies or for its error type.
// Invariant 60.
#[tokio::test]
async fn a_router_takes_the_layer_as_it_is() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let count = move || async move { counted.fetch_add(1, Ordering::SeqCst).to_string() };
    let layer = CacheLayer::new(MINUTE);
    let router = Router::new()
        .route("/one", routing::get(count.clone()).post(count.clone()))
        .route("/two", routing::get(count))
        .layer(layer.clone());
    for (path, text) in [
        ("/one", "0"),
        ("/one", "0"),
        ("/two", "1"),
        ("/one", "0"),
        ("/two", "1"),
    ] {
        assert_eq!(send(&router, get(path)).await.text(), text);
    }
    assert_eq!(layer.handle().stats().entries, 2);
}

// Keys that collide where a router strips a prefix.
// Invariant 8.
#[tokio::test]
async fn routes_below_different_prefixes_do_not_answer_for_each_other() {
    let layer = CacheLayer::new(MINUTE);
    let below = |text: &'static str| {
        Router::new()
            .route("/x", routing::get(move || async move { text }))
            .layer(layer.clone())
    };
    let router: Router = Router::new().nest("/a", below("a")).nest("/b", below("b"));
    for path in ["/a/x", "/b/x", "/a/x", "/b/x"] {
        assert_eq!(send(&router, get(path)).await.text(), &path[1..2]);
    }
    assert_eq!(layer.handle().stats().hits, 2);
}

// The answer to a HEAD served to a GET.
// Invariant 11.
#[tokio::test]
async fn the_answer_to_a_head_is_never_the_answer_to_a_get() {
    let origin = Origin::new(|request| {
        ok(if request.method() == "HEAD" {
            ""
        } else {
            "whole"
        })
    });
    let cache = default_cache(&origin);
    for method in ["HEAD", "GET", "HEAD", "GET"] {
        let answer = send(&cache, request(method, "/")).await;
        assert_eq!(answer.text(), if method == "HEAD" { "" } else { "whole" });
    }
}

// Refusals served for seconds to those who may.
// Invariant 22.
#[tokio::test]
async fn a_refusal_is_not_kept() {
    for code in [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        let allowed = Arc::new(AtomicBool::new(false));
        let lets = allowed.clone();
        let origin = Origin::new(move |_| {
            if lets.load(Ordering::SeqCst) {
                ok("x")
            } else {
                status(code)
            }
        });
        let cache = default_cache(&origin);
        assert_eq!(send(&cache, get("/")).await.parts.status, code);
        allowed.store(true, Ordering::SeqCst);
        assert_eq!(send(&cache, get("/")).await.parts.status, StatusCode::OK);
    }
}

// Bodies of unknown length collected before the first byte goes out: event streams hang.
// Invariant 47.
#[tokio::test(start_paused = true)]
async fn no_body_is_held_back_until_its_end() {
    for headers in [
        &[][..],
        &[("content-type", "text/event-stream")],
        &[("cache-control", "no-store")],
        &[("set-cookie", "a=1")],
    ] {
        let (chunks, body) = streamed();
        let body = std::sync::Mutex::new(Some(body));
        let origin = Origin::new(move |_| {
            with_headers(
                Response::new(body.lock().unwrap().take().unwrap_or_else(empty)),
                headers,
            )
        });
        let mut response = head(&default_cache(&origin), get("/")).await;
        for text in ["one", "two", "three"] {
            chunks.send(text);
            assert_eq!(next(response.body_mut()).await.unwrap(), text);
        }
        drop(chunks);
        assert_eq!(next(response.body_mut()).await, None);
    }
}

// Endless bodies collected until memory ends.
// Invariants 47, 49.
#[tokio::test]
async fn an_endless_body_flows_and_is_let_go_with_its_reader() {
    for control in ["no-store", "public"] {
        let origin = Origin::new(move |_| with(Response::new(endless()), "cache-control", control));
        let layer = CacheLayer::builder().max_body_bytes(1000).build();
        let (cache, handle) = (layer.layer(origin), layer.handle());
        let mut response = head(&cache, get("/")).await;
        for _ in 0..10_000 {
            assert!(next(response.body_mut()).await.is_some());
        }
        drop(response);
        until(|| handle.stats().fills == 0 && handle.stats().in_flight == 0).await;
    }
}

// Trailers lost on the way through a buffer.
// Invariants 46, 50.
#[tokio::test]
async fn trailers_are_on_the_miss_and_on_the_hit() {
    let origin = Origin::new(|_| {
        let mut trailers = HeaderMap::new();
        trailers.append("x-sum", HeaderValue::from_static("1"));
        trailers.append("x-sum", HeaderValue::from_static("2"));
        Response::new(chunked(&[b"a", b"b"], Some(trailers)))
    });
    let cache = default_cache(&origin);
    for is_hit in [false, true] {
        let answer = send(&cache, get("/")).await;
        assert_eq!((answer.is_hit(), answer.text()), (is_hit, "ab"));
        let sums: Vec<_> = answer
            .trailers
            .as_ref()
            .unwrap()
            .get_all("x-sum")
            .iter()
            .collect();
        assert_eq!(sums, ["1", "2"]);
        assert!(!answer.parts.headers.contains_key("x-sum"));
    }
}

// Compressed bytes without `Content-Encoding`, or to clients that cannot read them.
// Invariant 24.
#[tokio::test]
async fn compression_works_inside_the_cache_and_outside() {
    let origin = Origin::new(|_| with(ok("abc".repeat(1000)), "content-type", "text/plain"));
    let inside = ServiceBuilder::new()
        .layer(CacheLayer::new(MINUTE))
        .layer(CompressionLayer::new())
        .service(origin.clone());
    let outside = ServiceBuilder::new()
        .layer(CompressionLayer::new())
        .layer(CacheLayer::new(MINUTE))
        .service(origin.clone());
    for _ in 0..2 {
        for coding in [Some("gzip"), None] {
            let request =
                || coding.map_or(get("/"), |coding| with(get("/"), "accept-encoding", coding));
            for answer in [
                send(&inside, request()).await,
                send(&outside, request()).await,
            ] {
                assert_eq!(answer.header("content-encoding"), coding);
                match coding {
                    Some(_) => assert!(answer.body.starts_with(&[0x1f, 0x8b])),
                    None => assert_eq!(answer.text(), "abc".repeat(1000)),
                }
            }
        }
    }
    assert_eq!(origin.calls(), 3);
}

// Tags beyond the tenth dropped in silence.
// Invariants 36, 57.
#[tokio::test]
async fn every_tag_counts() {
    let origin = Origin::new(|_| {
        let mut response = ok("x");
        response.extensions_mut().insert(
            (0..200)
                .map(|i| Tag::from(format!("t{i}")))
                .collect::<Tags>(),
        );
        response
    });
    let layer = CacheLayer::new(MINUTE);
    let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
    for tag in [0, 9, 10, 11, 99, 199] {
        send(&cache, get("/")).await;
        assert!(send(&cache, get("/")).await.is_hit());
        let _ = handle.purge(Tag::from(format!("t{tag}"))).await.unwrap();
        assert!(!send(&cache, get("/")).await.is_hit(), "t{tag}");
    }
}

// Each of a hundred waiting requests sent to a failing origin, or one after the other.
// Invariant 30.
#[tokio::test(start_paused = true)]
async fn a_hundred_requests_to_a_failing_origin_are_two_calls() {
    let origin = Origin::later(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        status(StatusCode::BAD_GATEWAY)
    });
    let cache = default_cache(&origin);
    let started = tokio::time::Instant::now();
    let answers = join_all((0..100).map(|_| send(&cache, get("/")))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.parts.status == StatusCode::BAD_GATEWAY)
    );
    assert_eq!(origin.calls(), 2);
    assert_eq!(started.elapsed(), Duration::from_millis(200));
}

// A deadlock, or a panic, over a service that serves one at a time.
// Invariants 33, 34.
#[tokio::test(start_paused = true)]
async fn it_stands_over_a_limit_of_one() {
    let origin = Origin::later(|request| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        ok(request.uri().path().to_owned())
    });
    let service = ServiceBuilder::new()
        .layer(CacheLayer::new(MINUTE))
        .concurrency_limit(1)
        .service(origin.clone());
    let paths: Vec<_> = (0..50).map(|i| format!("/{}", i % 10)).collect();
    let answers = join_all(paths.iter().map(|path| send(&service, get(path)))).await;
    for (answer, path) in answers.iter().zip(&paths) {
        assert_eq!(answer.text(), path);
    }
    assert_eq!(origin.calls(), 10);
}

/// Ready once, and never again.
#[derive(Clone)]
struct ReadyOnce(Arc<AtomicUsize>);

impl Service<Request<Body>> for ReadyOnce {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        std::future::ready(Ok(ok("x")))
    }
}

// The inner service asked, or waited for, though the answer is there.
// Invariants 33, 34.
#[tokio::test]
async fn a_hit_needs_nothing_of_the_inner_service() {
    let polled = Arc::new(AtomicUsize::new(0));
    let cache = CacheLayer::new(MINUTE).layer(ReadyOnce(polled.clone()));
    send(&cache, get("/")).await;
    for _ in 0..10 {
        assert!(send(&cache, get("/")).await.is_hit());
    }
    assert_eq!(polled.load(Ordering::SeqCst), 1);
}

// The waiting ones hang for ever when the one they wait for hangs up.
// Invariants 26, 31.
#[tokio::test]
async fn requests_do_not_hang_when_the_one_they_wait_for_hangs_up() {
    for mode in [
        tower_response_cache::FillMode::Detached,
        tower_response_cache::FillMode::Inline,
    ] {
        let gate = Gate::new();
        let inside = gate.clone();
        let origin = Origin::later(move |_| {
            let inside = inside.clone();
            async move {
                inside.pass().await;
                ok("x")
            }
        });
        let layer = CacheLayer::builder().fill_mode(mode).build();
        let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
        let ask = || {
            let cache = cache.clone();
            tokio::spawn(async move { send(&cache, get("/")).await })
        };
        let leader = ask();
        gate.arrival().await;
        let followers: Vec<_> = (0..10).map(|_| ask()).collect();
        until(|| handle.stats().waiters == 10).await;
        leader.abort();
        gate.open();
        for follower in followers {
            assert_eq!(within(follower).await.unwrap().text(), "x");
        }
        let stats = handle.stats();
        assert_eq!((stats.flights, stats.waiters, stats.in_flight), (0, 0, 0));
    }
}

// A panic that leaves the waiting ones hanging, or disables the cache for its key.
// Invariant 27.
#[tokio::test]
async fn a_panic_is_for_its_own_requester_and_the_key_lives_on() {
    let gate = Gate::new();
    let inside = gate.clone();
    let count = AtomicUsize::new(0);
    let origin = Origin::later(move |_| {
        let (inside, number) = (inside.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            inside.pass().await;
            assert!(number > 0, "the first call panics");
            ok("x")
        }
    });
    let layer = CacheLayer::new(MINUTE);
    let handle = layer.handle();
    let service = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(layer)
        .service(origin.clone());
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { head(&service, get("/")).await.status() })
    };
    let leader = ask();
    gate.arrival().await;
    let followers: Vec<_> = (0..10).map(|_| ask()).collect();
    until(|| handle.stats().waiters == 10).await;
    gate.open();
    assert_eq!(
        within(leader).await.unwrap(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    for follower in followers {
        assert_eq!(within(follower).await.unwrap(), StatusCode::OK);
    }
    assert_eq!(ask().await.unwrap(), StatusCode::OK);
    assert_eq!(origin.calls(), 2);
}

// A panic after 200 leaders that were cancelled.
// Invariant 26.
#[tokio::test]
async fn a_thousand_leaders_may_be_cancelled() {
    for mode in [
        tower_response_cache::FillMode::Detached,
        tower_response_cache::FillMode::Inline,
    ] {
        let slow = Arc::new(AtomicBool::new(true));
        let is_slow = slow.clone();
        let origin = Origin::later(move |_| {
            let hangs = is_slow.load(Ordering::SeqCst);
            async move {
                if hangs {
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                }
                with(
                    ok("x"),
                    "cache-control",
                    if hangs { "no-store" } else { "public" },
                )
            }
        });
        let layer = CacheLayer::builder().fill_mode(mode).build();
        let (cache, handle) = (layer.layer(origin), layer.handle());
        for _ in 0..1000 {
            let mut asked = Box::pin(cache.clone().oneshot(get("/")));
            poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_ready())).await;
            drop(asked);
            tokio::task::yield_now().await;
        }
        slow.store(false, Ordering::SeqCst);
        settle().await;
        send(&cache, get("/")).await;
        assert!(send(&cache, get("/")).await.is_hit());
        assert_eq!((handle.stats().flights, handle.stats().in_flight), (0, 0));
    }
}

// Chosen parameters dropped from the key when the query does not parse: anyone fills anyone's entry.
// Invariants 7, 10.
#[tokio::test]
async fn a_query_that_does_not_parse_is_keyed_whole() {
    let origin = Origin::new(|request| ok(request.uri().query().unwrap_or_default().to_owned()));
    let cache = CacheLayer::builder()
        .key(Key::new().query(["page"]))
        .build()
        .layer(origin.clone());
    for query in [
        "page=1&x=%zz",
        "page=2&x=%zz",
        "page=1&x=%",
        "page=1;page=2",
        "page[]=1",
        "page=1",
    ] {
        assert_eq!(send(&cache, get(&format!("/?{query}"))).await.text(), query);
    }
    assert!(
        send(&cache, get("/?page=1&utm=2")).await.is_hit(),
        "one that does is not"
    );
}

// Parts of a key with nothing between them.
// Invariant 7.
#[tokio::test]
async fn parts_of_a_key_do_not_run_into_each_other() {
    let origin = Origin::new(|request| ok(format!("{:?}", request.headers())));
    let part = |name: &'static str| {
        move |parts: &http::request::Parts| {
            Some(
                parts
                    .headers
                    .get(name)
                    .map_or(Vec::new(), |v| v.as_bytes().to_vec()),
            )
        }
    };
    let cache = CacheLayer::builder()
        .key(Key::new().part("a", part("a")).part("b", part("b")))
        .build()
        .layer(origin.clone());
    for (a, b) in [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")] {
        assert!(
            !send(&cache, with_headers(get("/"), &[("a", a), ("b", b)]))
                .await
                .is_hit()
        );
    }
    assert_eq!(origin.calls(), 4);
}

// Binary bodies that hash alike.
// Invariant 9.
#[tokio::test]
async fn bodies_that_are_no_text_are_told_apart() {
    let origin = Origin::later(|request| async move {
        let mut body = b"\0\0\0\0\0".to_vec();
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        body[4] = u8::try_from(asked.len()).unwrap();
        body.extend_from_slice(&asked);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        with(
            Response::new(chunked(&[&body], Some(trailers))),
            "content-type",
            "application/grpc",
        )
    });
    let cache = CacheLayer::builder()
        .key(Key::grpc(1024).all_methods())
        .build()
        .layer(origin.clone());
    let call = |message: &[u8]| {
        let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        framed.extend_from_slice(message);
        with(
            request("POST", "/s/m").map(|_| full(framed)),
            "content-type",
            "application/grpc",
        )
    };
    let messages: [&[u8]; 6] = [
        &[0xff, 0xfe],
        &[0xfe, 0xff],
        &[0xff, 0xff],
        &[0x80],
        &[0],
        &[],
    ];
    for round in 0..2 {
        for message in messages {
            let answer = send(&cache, call(message)).await;
            assert_eq!((&answer.body[10..], answer.is_hit()), (message, round > 0));
        }
    }
    assert_eq!(origin.calls(), messages.len());
}

// Requests as a server gets them, without scheme and authority, refused; `Date` rewritten.
// Invariants 8, 50.
#[tokio::test]
async fn a_request_as_servers_get_them_is_served_and_its_date_kept() {
    let date = "Thu, 01 Jan 2026 00:00:00 GMT";
    let origin = Origin::new(move |_| with(ok("x"), "date", date));
    let cache = default_cache(&origin);
    for is_hit in [false, true] {
        let answer = send(&cache, Request::get("/path").body(empty()).unwrap()).await;
        assert_eq!(
            (answer.is_hit(), answer.lines("date")),
            (is_hit, vec![date])
        );
    }
}

// A body over the limit turned into an error.
// Invariant 48.
#[tokio::test]
async fn a_body_over_the_limit_arrives_whole() {
    let origin =
        Origin::new(|_| Response::new(chunked(&[&[b'a'; 600], &[b'b'; 600], &[b'c'; 600]], None)));
    let cache = CacheLayer::builder()
        .max_body_bytes(1000)
        .build()
        .layer(origin.clone());
    for calls in 1..=3 {
        let answer = send(&cache, get("/")).await;
        assert_eq!(
            (answer.parts.status, answer.body.len()),
            (StatusCode::OK, 1800)
        );
        assert!(answer.body.ends_with(&[b'c'; 600]));
        assert_eq!(origin.calls(), calls);
    }
}

// What a broken body had sent before it broke, served as the whole.
// Invariant 45.
#[tokio::test]
async fn a_body_that_broke_is_not_kept() {
    let count = AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        let (chunks, body) = streamed();
        chunks.send("first");
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            chunks.fail("broken pipe");
        } else {
            chunks.send(", second");
        }
        Response::new(body)
    });
    let cache = default_cache(&origin);
    let broken = head(&cache, get("/")).await.into_body().collect().await;
    assert!(broken.is_err());
    assert_eq!(send(&cache, get("/")).await.text(), "first, second");
    let hit = send(&cache, get("/")).await;
    assert_eq!((hit.is_hit(), hit.text()), (true, "first, second"));
}

// The tags of a new response lost when an expired one that it replaces is removed.
// Invariants 36, 44.
#[tokio::test(start_paused = true)]
async fn what_replaces_an_expired_answer_keeps_its_own_tags() {
    let count = AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let mut response = ok(number.to_string());
        response
            .extensions_mut()
            .insert(Tags::from(Tag::from(format!("t{number}"))));
        response
    });
    let layer = CacheLayer::new(MINUTE);
    let (cache, handle) = (layer.layer(origin), layer.handle());
    send(&cache, get("/")).await;
    advance(MINUTE).await;
    send(&cache, get("/")).await;
    let _ = handle.purge(Tag::new("t0")).await.unwrap();
    settle().await;
    assert_eq!(
        send(&cache, get("/")).await.text(),
        "1",
        "the old tag is no more"
    );
    let _ = handle.purge(Tag::new("t1")).await.unwrap();
    assert_eq!(send(&cache, get("/")).await.text(), "2");
}

// An index of tags that keeps growing after its entries have left.
// Invariants 43, 57.
#[tokio::test]
async fn tags_leave_nothing_behind() {
    let origin = Origin::new(|request| {
        let mut response = ok("x");
        response
            .extensions_mut()
            .insert(Tags::from(Tag::from(request.uri().path().to_owned())));
        response
    });
    let handle = tower_response_cache::CacheHandle::builder()
        .max_bytes(100_000)
        .build();
    let cache = CacheLayer::builder().handle(&handle).build().layer(origin);
    for i in 0..5000 {
        let path = format!("/{i}");
        send(&cache, get(&path)).await;
        if i % 3 == 0 {
            let _ = handle.purge(Tag::from(path)).await.unwrap();
        }
    }
    assert!(handle.stats().bytes <= 100_000);
    within(async {
        while handle.stats().marks > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

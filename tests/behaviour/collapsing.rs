//! Requests for one key at one time: leaders, followers, and leaders that hang.

use std::{
    future::{Future, pending},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, CacheStatus, Key, Tag, Tags,
};

use crate::common::{
    Body, Origin, get, ok, read, request, send, settle, status, streamed, with, with_headers,
};

const SECOND: Duration = Duration::from_secs(1);
const PAGE: Tag = Tag::new("page");

/// An origin whose answers take as long as this says of the n-th call; `None` for ever.
fn taking(
    durations: impl Fn(usize) -> Option<Duration> + Send + Sync + 'static,
) -> (Origin, Arc<AtomicUsize>) {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (nth, seen) = (AtomicUsize::new(0), most.clone());
    let origin = Origin::later(move |_| {
        let nth = nth.fetch_add(1, Ordering::SeqCst) + 1;
        let running = Running(running.clone());
        seen.fetch_max(
            running.0.fetch_add(1, Ordering::SeqCst) + 1,
            Ordering::SeqCst,
        );
        let duration = durations(nth);
        async move {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => pending().await,
            }
            drop(running);
            ok(nth.to_string())
        }
    });
    (origin, most)
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn layered(builder: CacheLayerBuilder, origin: &Origin) -> (Cache<Origin>, CacheHandle) {
    let layer = builder.build();
    (layer.layer(origin.clone()), layer.handle())
}

/// A request, and what it got after which time.
fn ask(
    cache: &Cache<Origin>,
    request: Request<Body>,
) -> impl Future<Output = (StatusCode, String, CacheStatus, Duration)> + use<> {
    let call = cache.clone().oneshot(request);
    let began = Instant::now();
    async move {
        let (parts, body) = call.await.unwrap().into_parts();
        if parts.status == StatusCode::SERVICE_UNAVAILABLE {
            assert!(parts.headers.contains_key("retry-after"));
        }
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let status = *parts.extensions.get::<CacheStatus>().unwrap();
        (parts.status, text, status, began.elapsed())
    }
}

/// A thousand requests, the first a little before the others; those that are answered within this time.
async fn thousand(
    cache: &Cache<Origin>,
    at_most: Duration,
) -> Vec<(StatusCode, String, CacheStatus, Duration)> {
    let mut asked = JoinSet::new();
    asked.spawn(ask(cache, get("/")));
    settle().await;
    for _ in 1..1000 {
        asked.spawn(ask(cache, get("/")));
    }
    let until = Instant::now() + at_most;
    let mut answers = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.join_next()).await {
        answers.push(answer.unwrap());
    }
    answers
}

// Invariant 65.
#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_once_is_called_once_more_for_a_thousand_requests() {
    let (origin, _) = taking(|nth| (nth > 1).then_some(SECOND));
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    let answers = thousand(&cache, SECOND * 29).await;
    assert_eq!(answers.len(), 999);
    for (status, text, _, after) in &answers {
        assert_eq!((*status, text.as_str()), (StatusCode::OK, "2"));
        assert!((11_000..11_010).contains(&after.as_millis()), "{after:?}");
    }
    assert_eq!(origin.calls(), 2);
    assert!(ask(&cache, get("/")).await.2.is_hit());
}

// Invariants 28, 65.
#[tokio::test(start_paused = true)]
async fn a_handler_that_always_hangs_is_called_four_times_at_most_and_followers_get_503() {
    let (origin, most) = taking(|_| None);
    let (cache, handle) = layered(CacheLayer::builder(), &origin);
    let answers = thousand(&cache, Duration::from_millis(30_010)).await;
    // Only the first request is still there: it waits as it would without a cache.
    assert_eq!(answers.len(), 999);
    for (status, _, cache, after) in &answers {
        assert_eq!(*status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(cache.is_unavailable());
        assert!((30_000..30_010).contains(&after.as_millis()), "{after:?}");
    }
    assert!(origin.calls() <= 4, "{}", origin.calls());
    // With everybody gone, the calls end at `fill_timeout`.
    tokio::time::sleep(SECOND * 31).await;
    let stats = handle.stats();
    assert_eq!((stats.misses, stats.unavailable), (0, 999));
    assert_eq!((stats.flights, stats.waiters, stats.fills), (0, 0, 0));
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
}

// Invariant 65.
#[tokio::test(start_paused = true)]
async fn a_steady_stream_of_requests_to_a_hanging_handler_is_three_calls_at_a_time() {
    let (origin, most) = taking(|nth| (nth > 12).then_some(SECOND));
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    let mut asked = JoinSet::new();
    for _ in 0..600 {
        // Clients give up after a minute.
        asked.spawn(tokio::time::timeout(SECOND * 60, ask(&cache, get("/"))));
        tokio::time::sleep(SECOND / 2).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!((13..30).contains(&origin.calls()), "{}", origin.calls());
    let answer = ask(&cache, get("/")).await;
    assert!(answer.2.is_hit(), "it recovers: {answer:?}");
}

// Invariant 65.
#[tokio::test(start_paused = true)]
async fn a_healthy_handler_of_five_seconds_is_called_once() {
    let (origin, _) = taking(|_| Some(SECOND * 5));
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    let answers = thousand(&cache, SECOND * 6).await;
    assert_eq!((answers.len(), origin.calls()), (1000, 1));
}

// Invariant 65.
#[tokio::test(start_paused = true)]
async fn a_healthy_handler_of_twelve_seconds_is_called_twice_at_most_and_everybody_has_its_answer()
{
    let (origin, _) = taking(|_| Some(SECOND * 12));
    let (cache, handle) = layered(CacheLayer::builder(), &origin);
    let answers = thousand(&cache, Duration::from_millis(12_010)).await;
    assert_eq!(answers.len(), 1000);
    let stats = handle.stats();
    assert_eq!((stats.misses, stats.collapsed), (1, 999));
    let all_ok = answers
        .iter()
        .all(|answer| (answer.0, &*answer.1) == (StatusCode::OK, "1"));
    assert!(all_ok);
    assert_eq!(origin.calls(), 2);
    // The second call began later: its response replaces the first one's. Nobody waits for it, and it is not counted.
    tokio::time::sleep(SECOND * 11).await;
    assert_eq!(handle.stats().misses, 1);
    assert_eq!(ask(&cache, get("/")).await.1, "2");
    assert_eq!((handle.stats().flights, handle.stats().fills), (0, 0));
}

// Invariant 65.
#[tokio::test(start_paused = true)]
async fn a_response_never_replaces_one_whose_fill_began_later() {
    // The first call is the last to answer.
    let (origin, _) = taking(|nth| Some(if nth == 1 { SECOND * 25 } else { SECOND }));
    let (cache, handle) = layered(CacheLayer::builder(), &origin);
    let first = tokio::spawn(ask(&cache, get("/")));
    settle().await;
    let second = tokio::spawn(ask(&cache, get("/")));
    assert_eq!(second.await.unwrap().1, "2");
    assert_eq!(first.await.unwrap().1, "1");
    settle().await;
    assert_eq!(ask(&cache, get("/")).await.1, "2");
    assert_eq!((handle.stats().flights, handle.stats().fills), (0, 0));
}

// Invariants 28, 65.
#[tokio::test(start_paused = true)]
async fn followers_with_something_stale_get_it_at_the_leaders_timeout() {
    let (origin, _) = taking(|nth| (nth == 1).then_some(Duration::ZERO));
    let builder = CacheLayer::builder()
        .ttl(SECOND)
        .stale_if_error(SECOND * 3600);
    let (cache, _) = layered(builder, &origin);
    assert_eq!(ask(&cache, get("/")).await.1, "1");
    tokio::time::sleep(SECOND * 2).await;
    let answers = thousand(&cache, SECOND * 11).await;
    assert_eq!(answers.len(), 1000);
    for (status, text, cache, after) in &answers {
        assert_eq!((*status, text.as_str()), (StatusCode::OK, "1"));
        assert!(cache.is_stale());
        assert!((10_000..10_010).contains(&after.as_millis()), "{after:?}");
    }
    assert_eq!(origin.calls(), 2);
}

// Invariants 1, 65.
#[tokio::test(start_paused = true)]
async fn a_follower_that_came_after_a_purge_takes_no_answer_of_an_attempt_from_before_it() {
    let (origin, _) = taking(|nth| match nth {
        1 => None,
        2 => Some(SECOND * 3),
        _ => Some(SECOND),
    });
    let (cache, handle) = layered(
        CacheLayer::builder().tag_requests(|_| Tags::from(PAGE)),
        &origin,
    );
    let _first = tokio::spawn(ask(&cache, get("/")));
    settle().await;
    let before = tokio::spawn(ask(&cache, get("/")));
    tokio::time::sleep(SECOND * 11).await;
    assert_eq!(origin.calls(), 2);
    let _ = handle.purge(PAGE).await.unwrap();
    let after = tokio::spawn(ask(&cache, get("/")));
    assert_eq!(before.await.unwrap().1, "2");
    assert_eq!(
        after.await.unwrap().1,
        "3",
        "the second call began before the purge"
    );
    assert_eq!(ask(&cache, get("/")).await.1, "3");
}

// Invariants 1, 65.
#[tokio::test(start_paused = true)]
async fn a_hanging_call_from_before_a_purge_answers_nobody_who_came_after_it() {
    let (origin, _) = taking(|nth| Some(if nth == 1 { SECOND * 15 } else { SECOND * 8 }));
    let (cache, handle) = layered(
        CacheLayer::builder().tag_requests(|_| Tags::from(PAGE)),
        &origin,
    );
    let first = tokio::spawn(ask(&cache, get("/")));
    settle().await;
    let _ = handle.purge(PAGE).await.unwrap();
    let after: Vec<_> = (0..50)
        .map(|_| tokio::spawn(ask(&cache, get("/"))))
        .collect();
    for after in after {
        assert_ne!(after.await.unwrap().1, "1");
    }
    assert_eq!(first.await.unwrap().1, "1");
    assert_ne!(ask(&cache, get("/")).await.1, "1");
    assert!(origin.calls() <= 3, "{}", origin.calls());
}

// Invariants 30, 65.
#[tokio::test(start_paused = true)]
async fn a_failure_of_the_second_call_lets_one_more_follower_try() {
    let nth = AtomicUsize::new(0);
    let origin = Origin::later(move |_| {
        let nth = nth.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            match nth {
                1 => pending().await,
                2 => status(StatusCode::BAD_GATEWAY),
                _ => ok("good"),
            }
        }
    });
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    let answers = thousand(&cache, SECOND * 11).await;
    let with = |status| answers.iter().filter(|answer| answer.0 == status).count();
    assert_eq!(
        (with(StatusCode::OK), with(StatusCode::BAD_GATEWAY)),
        (998, 1)
    );
    assert_eq!(origin.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_wait_timeout_followers_wait_for_as_long_as_a_fill_may_take() {
    for (builder, seconds) in [
        (CacheLayer::builder(), 30),
        (CacheLayer::builder().fill_timeout(SECOND * 4), 4),
        (
            CacheLayer::builder()
                .fill_timeout(SECOND * 4)
                .wait_timeout(SECOND * 7),
            7,
        ),
        (CacheLayer::builder().wait_timeout(SECOND * 7), 7),
    ] {
        let (origin, _) = taking(|_| None);
        let (cache, _) = layered(builder, &origin);
        let _first = tokio::spawn(ask(&cache, get("/")));
        settle().await;
        let (status, _, _, after) = ask(&cache, get("/")).await;
        assert_eq!(
            (status, after.as_secs()),
            (StatusCode::SERVICE_UNAVAILABLE, seconds)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_the_leaders_timeout_alone_has_its_answer_as_without_a_cache() {
    let (origin, _) = taking(|_| Some(SECOND * 90));
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    let (status, text, _, after) = ask(&cache, get("/")).await;
    assert_eq!((status, &*text, after.as_secs()), (StatusCode::OK, "1", 90));
}

fn head(path: &str) -> Request<Body> {
    request("HEAD", path)
}

// Invariants 11, 25.
#[tokio::test(start_paused = true)]
async fn twenty_heads_at_once_are_fetched_by_one_get() {
    for (name, builder) in [
        ("the layer decides", CacheLayer::builder()),
        ("sealed", CacheLayer::builder().key(Key::new().seal())),
    ] {
        let origin = Origin::later(|request| async move {
            tokio::time::sleep(SECOND).await;
            with(ok(request.method().to_string()), "etag", "\"1\"")
        });
        let (cache, _) = layered(builder, &origin);
        let mut asked = JoinSet::new();
        for nth in 0..40 {
            let request = if nth % 2 == 0 { head("/") } else { get("/") };
            asked.spawn(cache.clone().oneshot(request));
        }
        let mut lengths = Vec::new();
        while let Some(answer) = asked.join_next().await {
            let answer = read(answer.unwrap().unwrap()).await;
            assert_eq!(answer.header("etag"), Some("\"1\""));
            if answer.body.is_empty() {
                assert_eq!(answer.header("content-length"), Some("3"));
            } else {
                assert_eq!(answer.text(), "GET");
            }
            lengths.push(answer.body.len());
        }
        lengths.sort_unstable();
        assert_eq!(lengths, [[0; 20], [3; 20]].concat(), "{name}");
        assert_eq!(origin.calls(), 1, "{name}");
        let stored = send(&cache, get("/")).await;
        assert_eq!((stored.is_hit(), stored.text()), (true, "GET"));
    }
}

// Invariant 11.
#[tokio::test(start_paused = true)]
async fn a_head_that_leads_fills_the_entry_of_a_get_to_its_end() {
    let origin = Origin::later(|_| async {
        let (body, streamed) = streamed();
        tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(SECOND).await;
                body.send("x");
            }
        });
        http::Response::new(streamed)
    });
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    let answer = send(&cache, head("/")).await;
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(send(&cache, get("/")).await.text(), "xxx");
    assert_eq!(origin.calls(), 1);
}

// Invariants 11, 29.
#[tokio::test(start_paused = true)]
async fn a_head_of_what_cannot_be_stored_gets_its_head_and_is_forwarded_from_then_on() {
    let origin = Origin::new(|request| {
        let method = request.method().to_string();
        with_headers(
            ok("x"),
            &[("cache-control", "private"), ("x-method", &method)],
        )
    });
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    for method in ["GET", "HEAD", "HEAD"] {
        let answer = send(&cache, head("/")).await;
        assert_eq!(answer.header("x-method"), Some(method));
        assert!(method == "HEAD" || answer.body.is_empty());
    }
}

// Invariants 11, 23.
#[tokio::test(start_paused = true)]
async fn a_head_that_misses_is_conditional_and_never_a_range() {
    let origin = Origin::new(|_| with(ok("whole"), "etag", "\"1\""));
    for (name, value, status, length) in [
        ("if-none-match", "\"1\"", 304, None),
        ("if-none-match", "\"2\"", 200, Some("5")),
        ("range", "bytes=0-1", 200, Some("5")),
    ] {
        let (cache, _) = layered(CacheLayer::builder(), &origin);
        let answer = send(&cache, with(head("/"), name, value)).await;
        assert_eq!(answer.parts.status, status);
        assert_eq!(answer.header("content-length"), length);
        assert!(answer.body.is_empty());
    }
}

// Invariants 11, 30.
#[tokio::test(start_paused = true)]
async fn a_head_that_fails_is_a_failure_as_of_a_get() {
    let origin = Origin::later(|_| async {
        tokio::time::sleep(SECOND).await;
        status(StatusCode::BAD_GATEWAY)
    });
    let (cache, _) = layered(CacheLayer::builder(), &origin);
    let heads = (0..20).map(|_| send(&cache, head("/")));
    for answer in futures_util::future::join_all(heads).await {
        assert_eq!(
            (answer.parts.status, answer.body.len()),
            (StatusCode::BAD_GATEWAY, 0)
        );
    }
    assert_eq!(origin.calls(), 2);
}

// Invariants 11, 22.
#[tokio::test(start_paused = true)]
async fn a_head_gets_what_is_stale_if_the_get_fails() {
    let nth = AtomicUsize::new(0);
    let origin = Origin::new(move |_| match nth.fetch_add(1, Ordering::SeqCst) {
        0 => ok("whole"),
        _ => status(StatusCode::BAD_GATEWAY),
    });
    let builder = CacheLayer::builder()
        .ttl(SECOND)
        .stale_if_error(SECOND * 60);
    let (cache, _) = layered(builder, &origin);
    send(&cache, get("/")).await;
    tokio::time::sleep(SECOND * 2).await;
    let answer = send(&cache, head("/")).await;
    assert_eq!(
        (answer.parts.status, answer.body.len()),
        (StatusCode::OK, 0)
    );
    assert!(answer.cache().is_stale());
    assert_eq!(answer.header("content-length"), Some("5"));
}

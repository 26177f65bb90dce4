//! Many requests for one key at once: how often the inner service is called, and that everybody is answered.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::Duration,
};

use concurrency::{
    Answer, BOUND, Body, Gate, Inner, Probe, Script, Step, answers, ask, burst, for_server, frames,
    full, get, get_with, ok, origin, panics, serve, settled, spawn_ask, until, waiters,
    with_status,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt};
use tower_response_cache::{Cache, CacheHandle, CacheLayer, CacheLayerBuilder, FillMode, Reason};

const HANDLER: Duration = Duration::from_millis(200);
const MANY: usize = 10_000;

fn cached<I: Inner>(builder: CacheLayerBuilder, inner: I) -> (Cache<I>, CacheHandle) {
    let layer = builder.build();
    (layer.layer(inner), layer.handle())
}

fn few_fills(fills: usize) -> CacheHandle {
    CacheHandle::builder()
        .max_concurrent_fills(NonZeroUsize::new(fills).unwrap())
        .build()
}

fn on_threads(threads: usize, test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

fn many(path: &str) -> impl Iterator<Item = Request<Body>> {
    (0..MANY).map(move |_| get(path))
}

async fn ten_thousand_are_one_call() {
    let probe = Probe::default();
    let inner = origin(&probe, |_, _| async {
        sleep(HANDLER).await;
        Ok(ok("the answer"))
    });
    let (cache, handle) = cached(CacheLayer::builder(), inner);
    let answers = answers(&cache, many("/")).await;
    assert_eq!(answers.len(), MANY);
    assert!(
        answers
            .iter()
            .all(|answer| answer.text() == "the answer" && answer.status() == StatusCode::OK)
    );
    assert_eq!(probe.calls(), 1);
    settled(&handle).await;
    let stats = handle.stats();
    assert_eq!(
        stats.hits + stats.misses + stats.collapsed + stats.bypasses,
        MANY as u64
    );
}

// Invariant 25.
#[test]
fn ten_thousand_requests_for_a_cold_key_are_one_call_on_two_threads() {
    on_threads(2, ten_thousand_are_one_call());
}

// Invariant 25.
#[test]
fn ten_thousand_requests_for_a_cold_key_are_one_call_on_sixteen_threads() {
    on_threads(16, ten_thousand_are_one_call());
}

async fn the_first_leaves_and_the_others_have_its_answer() {
    let (probe, gate) = (Probe::default(), Gate::closed());
    let passed = gate.clone();
    let inner = origin(&probe, move |_, _| {
        let gate = passed.clone();
        async move {
            gate.passed().await;
            Ok(ok("the answer"))
        }
    });
    let (cache, handle) = cached(CacheLayer::builder(), inner);
    let first = spawn_ask(&cache, get("/"));
    until("the first is in", || probe.calls() == 1).await;
    let others: Vec<_> = many("/")
        .skip(1)
        .map(|request| spawn_ask(&cache, request))
        .collect();
    waiters(&handle, MANY - 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.open();
    for other in others {
        assert_eq!(
            timeout(BOUND, other)
                .await
                .unwrap()
                .unwrap()
                .unwrap()
                .text(),
            "the answer"
        );
    }
    assert_eq!(probe.calls(), 1);
    settled(&handle).await;
}

// Invariants 25, 26, 31.
#[test]
fn the_first_of_ten_thousand_leaves_and_it_is_still_one_call() {
    on_threads(2, the_first_leaves_and_the_others_have_its_answer());
    on_threads(16, the_first_leaves_and_the_others_have_its_answer());
}

async fn a_failing_origin_is_called_twice() {
    let (probe, gate) = (Probe::default(), Gate::closed());
    let passed = gate.clone();
    let inner = origin(&probe, move |_, _| {
        let gate = passed.clone();
        async move {
            gate.passed().await;
            Ok(with_status(StatusCode::INTERNAL_SERVER_ERROR, "no"))
        }
    });
    let (cache, handle) = cached(CacheLayer::builder(), inner);
    let asked: Vec<_> = many("/")
        .map(|request| spawn_ask(&cache, request))
        .collect();
    waiters(&handle, MANY - 1).await;
    gate.open();
    for asked in asked {
        let answer = timeout(BOUND, asked).await.unwrap().unwrap().unwrap();
        assert_eq!(
            (answer.status(), answer.text()),
            (StatusCode::INTERNAL_SERVER_ERROR, "no")
        );
    }
    assert_eq!(probe.calls(), 2);
    settled(&handle).await;
    assert_eq!(handle.stats().stored, 0);
}

// Invariants 22, 30.
#[test]
fn ten_thousand_requests_to_a_failing_origin_are_two_calls() {
    on_threads(2, a_failing_origin_is_called_twice());
    on_threads(16, a_failing_origin_is_called_twice());
}

// Invariant 30.
#[tokio::test(start_paused = true)]
async fn where_every_call_is_an_error_each_gets_its_own_side_by_side() {
    let (probe, handle) = (Probe::default(), few_fills(1000));
    let inner = origin(&probe, |_, _| async {
        sleep(HANDLER).await;
        Err("no")
    });
    let (cache, _) = cached(CacheLayer::builder().handle(&handle), inner);
    let began = Instant::now();
    for asked in burst(&cache, many("/")).await {
        assert_eq!(asked.unwrap().unwrap_err(), "no");
    }
    // One, a second opinion, and then as many at once as may be.
    let rounds = 2 + (MANY - 2).div_ceil(1000);
    assert_eq!(
        began.elapsed().as_millis() / HANDLER.as_millis(),
        rounds as u128
    );
    assert_eq!((probe.calls(), probe.most()), (MANY, 1000));
    settled(&handle).await;
}

// Invariants 27, 30.
#[tokio::test(start_paused = true)]
async fn where_every_call_panics_each_has_the_panic_and_nobody_hangs() {
    for mode in [FillMode::Detached, FillMode::Inline] {
        let probe = Probe::default();
        let inner = origin(&probe, |_, _| async {
            sleep(HANDLER).await;
            panics()
        });
        let builder = CacheLayer::builder()
            .fill_mode(mode)
            .wait_timeout(Duration::from_secs(2));
        let (cache, handle) = cached(builder, inner);
        let began = Instant::now();
        for asked in burst(&cache, many("/").take(500)).await {
            let panic = asked.unwrap_err();
            assert_eq!(
                *panic.into_panic().downcast::<&str>().unwrap(),
                "the handler panicked"
            );
        }
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!((probe.calls(), probe.most()), (500, 498));
        settled(&handle).await;
    }
}

fn named(request: &Request<Body>) -> String {
    request.headers()["x-asker"].to_str().unwrap().to_owned()
}

fn users(path: &str, users: usize) -> impl Iterator<Item = Request<Body>> {
    (0..users).map(move |user| get_with(path, "x-asker", &user.to_string()))
}

fn each_its_own(answers: &[Answer]) {
    for (user, answer) in answers.iter().enumerate() {
        assert_eq!(answer.text(), user.to_string());
    }
}

// Invariants 1, 3, 4, 6, 29.
#[tokio::test(start_paused = true)]
async fn what_may_not_be_shared_releases_all_at_once_and_the_next_burst_goes_side_by_side() {
    for (name, value) in [
        ("set-cookie", "user=x"),
        ("cache-control", "private"),
        ("cache-control", "No-Store"),
        ("vary", "*"),
        ("content-type", "text/event-stream"),
    ] {
        let probe = Probe::default();
        let inner = origin(&probe, move |_, request| async move {
            sleep(HANDLER).await;
            let mut response = ok(named(&request));
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
            Ok(response)
        });
        let (cache, handle) = cached(CacheLayer::builder(), inner);
        let began = Instant::now();
        each_its_own(&answers(&cache, users("/", 300)).await);
        assert_eq!(
            began.elapsed().as_millis(),
            2 * HANDLER.as_millis(),
            "{value}"
        );
        assert_eq!((probe.calls(), probe.most()), (300, 299), "{value}");
        let began = Instant::now();
        each_its_own(&answers(&cache, users("/", 300)).await);
        assert_eq!(began.elapsed().as_millis(), HANDLER.as_millis(), "{value}");
        assert_eq!(probe.calls(), 600, "{value}");
        settled(&handle).await;
        assert_eq!(handle.stats().stored, 0);
    }
}

// Invariants 29, 47.
#[tokio::test(start_paused = true)]
async fn what_may_not_be_shared_releases_those_who_wait_when_its_head_is_known() {
    let probe = Probe::default();
    let inner = origin(&probe, |nth, _| async move {
        sleep(HANDLER).await;
        let body = if nth == 1 {
            Script::new([Step::Hang]).boxed_unsync()
        } else {
            full("2")
        };
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        Ok(response)
    });
    let (cache, _) = cached(CacheLayer::builder(), inner);
    let began = Instant::now();
    let (first, second) = tokio::join!(cache.clone().oneshot(get("/")), ask(&cache, get("/")));
    assert_eq!(second.unwrap().text(), "2");
    assert_eq!(began.elapsed().as_millis(), 2 * HANDLER.as_millis());
    drop(first);
}

// Invariant 29.
#[tokio::test(start_paused = true)]
async fn the_first_answer_that_can_be_stored_ends_the_going_side_by_side() {
    let probe = Probe::default();
    let inner = origin(&probe, |nth, _| async move {
        sleep(HANDLER).await;
        let mut response = ok(nth.to_string());
        if nth == 1 {
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        }
        Ok(response)
    });
    let (cache, handle) = cached(CacheLayer::builder().ttl(Duration::from_secs(5)), inner);
    ask(&cache, get("/")).await.unwrap();
    assert_eq!(handle.stats().refusals, 1);
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "2");
    assert_eq!(handle.stats().refusals, 0);
    sleep(Duration::from_secs(6)).await;
    answers(&cache, (0..50).map(|_| get("/"))).await;
    assert_eq!(probe.calls(), 3);
}

// Invariants 22, 30.
#[tokio::test(start_paused = true)]
async fn a_second_opinion_that_succeeds_is_shared_and_stored() {
    for first in ["500", "error", "panic"] {
        for mode in [FillMode::Detached, FillMode::Inline] {
            let probe = Probe::default();
            let inner = origin(&probe, move |nth, _| async move {
                sleep(HANDLER).await;
                match (nth, first) {
                    (1, "500") => Ok(with_status(StatusCode::INTERNAL_SERVER_ERROR, "no")),
                    (1, "error") => Err("no"),
                    (1, _) => panics(),
                    _ => Ok(ok("yes")),
                }
            });
            let (cache, handle) = cached(CacheLayer::builder().fill_mode(mode), inner);
            let mut asked = burst(&cache, (0..100).map(|_| get("/"))).await.into_iter();
            match (asked.next().unwrap(), first) {
                (Ok(Ok(answer)), "500") => {
                    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR)
                }
                (Ok(Err("no")), "error") => {}
                (Err(error), "panic") => assert!(error.is_panic()),
                (other, _) => panic!("{first}: {other:?}"),
            }
            assert!(
                asked.all(|asked| asked.unwrap().unwrap().text() == "yes"),
                "{first}"
            );
            assert_eq!(probe.calls(), 2, "{first}");
            assert!(ask(&cache, get("/")).await.unwrap().cache().is_hit());
            settled(&handle).await;
        }
    }
}

// Invariant 28.
#[tokio::test(start_paused = true)]
async fn behind_a_hung_handler_followers_get_503_at_the_wait_timeout() {
    let probe = Probe::default();
    let inner = origin(&probe, |nth, _| async move {
        if nth == 1 {
            std::future::pending::<()>().await;
        }
        sleep(HANDLER).await;
        Ok(ok("mine"))
    });
    let wait = Duration::from_secs(2);
    let (cache, handle) = cached(CacheLayer::builder().wait_timeout(wait), inner);
    let first = spawn_ask(&cache, get("/"));
    until("the first is in", || probe.calls() == 1).await;
    let began = Instant::now();
    for answer in answers(&cache, (0..50).map(|_| get("/"))).await {
        assert_eq!(
            (answer.status(), answer.reason()),
            (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::WaitTimeout))
        );
    }
    let waited = began.elapsed();
    assert!(
        wait <= waited && waited <= wait + Duration::from_millis(10),
        "{waited:?}"
    );
    assert_eq!(probe.calls(), 1);
    assert_eq!(handle.stats().stored, 0);
    first.abort();
    settled(&handle).await;
}

// Invariant 28.
#[tokio::test(start_paused = true)]
async fn a_fill_that_takes_too_long_frees_its_flight_and_still_answers_its_requester() {
    for mode in [FillMode::Detached, FillMode::Inline] {
        let probe = Probe::default();
        let inner = origin(&probe, |nth, _| async move {
            sleep(if nth == 1 {
                Duration::from_secs(60)
            } else {
                HANDLER
            })
            .await;
            Ok(ok(nth.to_string()))
        });
        let limit = Duration::from_secs(5);
        let builder = CacheLayer::builder()
            .fill_mode(mode)
            .fill_timeout(limit)
            .wait_timeout(limit * 2);
        let (cache, handle) = cached(builder, inner);
        let began = Instant::now();
        let first = spawn_ask(&cache, get("/"));
        let second = spawn_ask(&cache, get("/"));
        assert_eq!(second.await.unwrap().unwrap().text(), "2");
        assert_eq!(began.elapsed().as_millis(), (limit + HANDLER).as_millis());
        assert_eq!(handle.stats().flights, 0);
        assert!(ask(&cache, get("/")).await.unwrap().cache().is_hit());
        let late = first.await.unwrap().unwrap();
        assert_eq!(
            (late.text(), late.reason()),
            ("1", Some(Reason::FillTimeout))
        );
        assert_eq!(began.elapsed().as_secs(), 60);
        assert_eq!(
            ask(&cache, get("/")).await.unwrap().text(),
            "2",
            "the late answer is not stored"
        );
        settled(&handle).await;
    }
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn as_many_wait_as_may_and_one_more_goes_by_itself() {
    for (requests, calls) in [(4, 1), (5, 2), (6, 3)] {
        let probe = Probe::default();
        let inner = origin(&probe, |nth, _| async move {
            sleep(HANDLER).await;
            Ok(ok(nth.to_string()))
        });
        let (cache, handle) = cached(CacheLayer::builder().max_waiters(3), inner);
        let began = Instant::now();
        let answers = answers(&cache, (0..requests).map(|_| get("/"))).await;
        assert_eq!(began.elapsed().as_millis(), HANDLER.as_millis());
        assert_eq!(probe.calls(), calls);
        let turned_away = answers
            .iter()
            .filter(|answer| answer.reason() == Some(Reason::TooManyWaiters));
        assert_eq!(turned_away.count(), calls - 1);
        let shared = answers
            .iter()
            .find(|answer| answer.cache().is_collapsed())
            .unwrap();
        assert_eq!(
            ask(&cache, get("/")).await.unwrap().text(),
            shared.text(),
            "only the flight's answer is stored"
        );
        settled(&handle).await;
    }
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn as_many_fills_run_as_may_and_the_next_begins_when_one_ends() {
    for (keys, rounds) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let (probe, handle) = (Probe::default(), few_fills(2));
        let inner = origin(&probe, |_, request| async move {
            sleep(HANDLER).await;
            Ok(ok(request.uri().path().to_owned()))
        });
        let (cache, _) = cached(CacheLayer::builder().handle(&handle), inner);
        let began = Instant::now();
        let requests = (0..3 * keys).map(|i| get(&format!("/{}", i % keys)));
        for (i, answer) in answers(&cache, requests).await.iter().enumerate() {
            assert_eq!(answer.text(), format!("/{}", i % keys));
        }
        assert_eq!(began.elapsed().as_millis(), rounds * HANDLER.as_millis());
        assert_eq!((probe.calls(), probe.most()), (keys, keys.min(2)));
        settled(&handle).await;
    }
}

// Invariants 28, 57.
#[tokio::test(start_paused = true)]
async fn who_finds_no_place_among_the_fills_in_time_is_told_to_come_back() {
    let (probe, handle) = (Probe::default(), few_fills(2));
    let inner = origin(&probe, |_, request| async move {
        if request.uri().path().starts_with("/hung") {
            std::future::pending::<()>().await;
        }
        Ok(ok("mine"))
    });
    let wait = Duration::from_secs(2);
    let (cache, _) = cached(
        CacheLayer::builder().handle(&handle).wait_timeout(wait),
        inner,
    );
    let hung = ["/hung/1", "/hung/2"].map(|path| spawn_ask(&cache, get(path)));
    until("both are in", || probe.calls() == 2).await;
    let began = Instant::now();
    let answer = ask(&cache, get("/")).await.unwrap();
    assert_eq!(
        (answer.parts.status, answer.reason()),
        (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::TooManyFills))
    );
    assert_eq!(answer.parts.headers["retry-after"], "10");
    assert_eq!(began.elapsed().as_millis(), wait.as_millis());
    assert_eq!((probe.calls(), handle.stats().unavailable), (2, 1));
    drop(hung);
}

// Invariants 4, 25.
#[tokio::test(start_paused = true)]
async fn each_variant_of_a_cold_key_is_one_call() {
    for length_known in [true, false] {
        let probe = Probe::default();
        let inner = origin(&probe, move |_, request| async move {
            sleep(HANDLER).await;
            let text = named(&request);
            let body = if length_known {
                full(text)
            } else {
                Script::new(frames(&text, 1)).boxed_unsync()
            };
            let mut response = Response::new(body);
            response
                .headers_mut()
                .insert(header::VARY, HeaderValue::from_static("x-asker"));
            Ok(response)
        });
        let (cache, handle) = cached(CacheLayer::builder(), inner);
        let users = || (0..200).map(|i| get_with("/", "x-asker", &(i % 4).to_string()));
        let began = Instant::now();
        for (i, answer) in answers(&cache, users()).await.iter().enumerate() {
            assert_eq!(answer.text(), (i % 4).to_string());
        }
        assert_eq!(began.elapsed().as_millis(), 2 * HANDLER.as_millis());
        assert_eq!(probe.calls(), 4);
        settled(&handle).await;
        for (i, answer) in answers(&cache, users()).await.iter().enumerate() {
            assert!(answer.cache().is_hit() && answer.text() == (i % 4).to_string());
        }
    }
}

fn authorized(user: usize) -> Request<Body> {
    let mut request = get_with("/", "x-asker", &user.to_string());
    let credentials = HeaderValue::try_from(format!("Bearer {user}")).unwrap();
    request
        .headers_mut()
        .insert(header::AUTHORIZATION, credentials);
    request
}

// Invariants 2, 6.
#[tokio::test(start_paused = true)]
async fn requests_with_credentials_share_nothing_unless_the_response_allows_it() {
    for (cache_control, calls) in [
        ("max-age=60", 51),
        ("public", 2),
        ("s-maxage=60", 2),
        ("must-revalidate", 2),
    ] {
        let probe = Probe::default();
        let inner = origin(&probe, move |_, request| async move {
            sleep(HANDLER).await;
            let mut response = ok(named(&request));
            response.headers_mut().insert(
                header::CACHE_CONTROL,
                HeaderValue::from_static(cache_control),
            );
            Ok(response)
        });
        let (cache, handle) = cached(CacheLayer::builder(), inner);
        // Every other request is anonymous.
        let requests = (0..100).map(|i| {
            if i % 2 == 0 {
                get_with("/", "x-asker", "nobody")
            } else {
                authorized(i)
            }
        });
        let answers = answers(&cache, requests).await;
        assert_eq!(probe.calls(), calls, "{cache_control}");
        let texts: HashSet<_> = answers.iter().map(Answer::text).collect();
        assert_eq!(texts.len(), calls, "{cache_control}");
        assert!(
            answers
                .iter()
                .step_by(2)
                .all(|answer| answer.text() == "nobody"),
            "{cache_control}"
        );
        settled(&handle).await;
    }
}

// Invariant 35.
#[tokio::test(start_paused = true)]
async fn a_client_with_credentials_does_not_switch_coalescing_off_for_others() {
    let probe = Probe::default();
    let inner = origin(&probe, |_, request| async move {
        sleep(HANDLER).await;
        Ok(ok(named(&request)))
    });
    let (cache, handle) = cached(CacheLayer::builder().ttl(Duration::from_secs(5)), inner);
    for round in 0..5 {
        answers(&cache, (0..10).map(authorized)).await;
        assert_eq!(probe.calls(), 11 * round + 10);
        let anonymous = (0..50).map(|_| get_with("/", "x-asker", "nobody"));
        assert!(
            answers(&cache, anonymous)
                .await
                .iter()
                .all(|answer| answer.text() == "nobody")
        );
        assert_eq!(probe.calls(), 11 * (round + 1));
        sleep(Duration::from_secs(6)).await;
    }
    settled(&handle).await;
}

// Invariants 21, 35.
#[tokio::test(start_paused = true)]
async fn what_a_client_asks_of_caches_changes_nothing_of_the_waiting_whoever_leads() {
    let lines = [
        ("cache-control", "no-cache"),
        ("cache-control", "no-store"),
        ("pragma", "no-cache"),
        ("range", "bytes=0-0"),
        ("if-none-match", "\"a\""),
        ("x-anything", "1"),
    ];
    for leader in 0..lines.len() {
        let probe = Probe::default();
        let inner = origin(&probe, |_, request| async move {
            sleep(HANDLER).await;
            // An origin that heeds them answers one requester alone.
            let asks_for_a_part = |name| request.headers().contains_key(name);
            if asks_for_a_part(header::RANGE) || asks_for_a_part(header::IF_NONE_MATCH) {
                return Ok(with_status(StatusCode::PARTIAL_CONTENT, "part"));
            }
            Ok(ok("whole"))
        });
        let (cache, _) = cached(CacheLayer::builder(), inner);
        let line = |i: usize| lines[(leader + i) % lines.len()];
        let requests = (0..60).map(|i| get_with("/", line(i).0, line(i).1));
        let answers = answers(&cache, requests).await;
        for (i, answer) in answers.iter().enumerate() {
            // Each has its own shape of it.
            let text = if line(i).0 == "range" { "w" } else { "whole" };
            assert_eq!(answer.text(), text);
        }
        assert_eq!(probe.calls(), 1);
    }
}

/// A cache, without its type.
type Erased =
    Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Result<Answer, &'static str>> + Send + Sync>;

fn erased<I: Inner>(cache: Cache<I>) -> Erased {
    Arc::new(move |request| {
        let cache = cache.clone();
        async move { ask(&cache, request).await }.boxed()
    })
}

/// A cache whose handler calls through the same cache what `next` says, if anything, and answers with the chain.
fn calling_itself(builder: CacheLayerBuilder, probe: &Probe, next: Next) -> Erased {
    let itself: Arc<OnceLock<Erased>> = Arc::default();
    let inside = itself.clone();
    let inner = origin(probe, move |_, request| {
        let itself = inside.clone();
        async move {
            sleep(HANDLER).await;
            let path = request.uri().path().to_owned();
            let depth = request
                .headers()
                .get("x-depth")
                .map_or(0, |depth| depth.to_str().unwrap().parse().unwrap());
            let Some(next) = next(&path, depth) else {
                return Ok(ok(path));
            };
            let request = get_with(&next, "x-depth", &(depth + 1).to_string());
            let deeper = itself.get().unwrap()(request).await?;
            Ok(ok(format!("{path} {}", deeper.text())))
        }
    });
    let cache = erased(cached(builder, inner).0);
    assert!(itself.set(cache.clone()).is_ok());
    cache
}

type Next = fn(&str, usize) -> Option<String>;

fn same(path: &str, depth: usize) -> Option<String> {
    (depth < 3).then(|| path.to_owned())
}

fn deeper(path: &str, depth: usize) -> Option<String> {
    (depth < 3).then(|| format!("{path}/a"))
}

/// Each asks for the other's key.
fn crossed(path: &str, depth: usize) -> Option<String> {
    (depth < 1).then(|| {
        if path == "/1" {
            "/2".to_owned()
        } else {
            "/1".to_owned()
        }
    })
}

// Invariant 32.
#[tokio::test(start_paused = true)]
async fn a_handler_that_calls_itself_through_the_cache_never_waits_for_itself() {
    for mode in [FillMode::Detached, FillMode::Inline] {
        for fills in [1, 2, 1000] {
            for (next, paths) in [
                (same as Next, ["/1", "/1"]),
                (deeper, ["/1", "/1/a"]),
                (crossed, ["/1", "/2"]),
            ] {
                let (probe, handle) = (Probe::default(), few_fills(fills));
                let cache = calling_itself(
                    CacheLayer::builder().handle(&handle).fill_mode(mode),
                    &probe,
                    next,
                );
                let began = Instant::now();
                let answers = join_all(paths.map(|path| cache(get(path)))).await;
                for (answer, path) in answers.into_iter().zip(paths) {
                    assert!(answer.unwrap().text().starts_with(path));
                }
                // Four handlers deep, and twice where there is but one place: far from any timeout.
                assert!(
                    began.elapsed() <= HANDLER * 8,
                    "{mode:?} {fills} {:?}",
                    began.elapsed()
                );
                settled(&handle).await;
            }
        }
    }
}

fn after_a_gate(probe: &Probe, gate: &Gate) -> impl Inner {
    let gate = gate.clone();
    origin(probe, move |_, request| {
        let gate = gate.clone();
        async move {
            if request.uri().path() == "/slow" {
                gate.passed().await;
            }
            Ok(ok("the answer"))
        }
    })
}

// Invariant 31.
#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_fill_that_runs() {
    let (probe, gate) = (Probe::default(), Gate::closed());
    let (cache, handle) = cached(CacheLayer::builder(), after_a_gate(&probe, &gate));
    let slow = spawn_ask(&cache, get("/slow"));
    until("the handler runs", || probe.calls() == 1).await;
    slow.abort();
    let ended = tokio::spawn({
        let handle = handle.clone();
        async move { handle.shutdown(Duration::from_secs(60)).await }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!ended.is_finished());
    gate.open();
    let began = Instant::now();
    assert_eq!(ended.await.unwrap().still_running, 0);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(handle.stats().stored, 1, "what it waited for is stored");
}

// Invariant 31.
#[tokio::test(start_paused = true)]
async fn a_shutdown_says_at_its_deadline_what_still_runs_and_starts_no_more() {
    let (probe, gate) = (Probe::default(), Gate::closed());
    let (cache, handle) = cached(CacheLayer::builder(), after_a_gate(&probe, &gate));
    ask(&cache, get("/stored")).await.unwrap();
    let slow = spawn_ask(&cache, get("/slow"));
    until("the handler runs", || probe.calls() == 2).await;
    let began = Instant::now();
    let end = handle.shutdown(Duration::from_secs(3)).await;
    assert_eq!((end.still_running, began.elapsed().as_secs()), (1, 3));

    assert!(ask(&cache, get("/stored")).await.unwrap().cache().is_hit());
    for calls in [3, 4] {
        assert_eq!(
            ask(&cache, get("/new")).await.unwrap().reason(),
            Some(Reason::ShuttingDown)
        );
        assert_eq!(probe.calls(), calls);
    }
    gate.open();
    assert_eq!(slow.await.unwrap().unwrap().text(), "the answer");
    assert_eq!(handle.shutdown(Duration::ZERO).await.still_running, 0);
    settled(&handle).await;
}

/// 500 requests over real connections.
async fn over_sockets(http2: bool) {
    const REQUESTS: usize = 500;
    let probe = Probe::default();
    let origin = origin(&probe, |_, _| async {
        sleep(HANDLER * 2).await;
        Ok(ok("the answer"))
    });
    let cache = CacheLayer::builder().build().layer(for_server(origin));
    let address = serve(cache).await;
    let client: Client<_, Body> = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http();
    let asked = (0..REQUESTS).map(|_| {
        let request = Request::get(format!("http://{address}/"))
            .body(full(""))
            .unwrap();
        let answer = client.request(request);
        async move {
            answer
                .await
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
        }
    });
    let answers = timeout(BOUND, join_all(asked)).await.unwrap();
    assert!(answers.iter().all(|answer| answer == "the answer"));
    assert_eq!((answers.len(), probe.calls()), (REQUESTS, 1));
}

// Invariant 25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_requests_over_http_1_are_one_call() {
    over_sockets(false).await;
}

// Invariant 25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_requests_over_http_2_are_one_call() {
    over_sockets(true).await;
}

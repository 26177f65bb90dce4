//! A future is polled a number of times and then dropped, for every number until it completes: whatever it was, nobody
//! else hangs, nothing leaks, and the inner service is not called more often than it must be. Each test counts its
//! scenarios; together they are more than 10,000 in CI, and a sample of these elsewhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::{
    future::pending,
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use scale::scaled;

use concurrency::{
    Asked, Body, Gate, Inner, Probe, Script, Step, ask, full, get, ok, origin, panics, settled,
    spawn_ask, until, with_status,
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, FillMode, Key, ReplayBody, Tag, scope,
};

const WAIT: Duration = Duration::from_secs(5);
const FILL: Duration = Duration::from_secs(8);
const MODES: [FillMode; 2] = [FillMode::Detached, FillMode::Inline];

/// How the first call of the handler ends; any later one completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Completes,
    Fails500,
    FailsErr,
    Panics,
    Hangs,
    MayNotBeShared,
    BodyBreaks,
    BodyHangs,
}

const ENDINGS: [Ending; 8] = [
    Ending::Completes,
    Ending::Fails500,
    Ending::FailsErr,
    Ending::Panics,
    Ending::Hangs,
    Ending::MayNotBeShared,
    Ending::BodyBreaks,
    Ending::BodyHangs,
];

/// In what steps handler and driver go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Each polls once, and the other does.
    Turns,
    /// All others come as far as they can in a millisecond.
    Time,
}

const PACES: [Pace; 2] = [Pace::Turns, Pace::Time];

impl Pace {
    async fn step(self) {
        match self {
            Self::Turns => yield_now().await,
            Self::Time => sleep(Duration::from_millis(1)).await,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    mode: FillMode,
    ending: Ending,
    pace: Pace,
    length_known: bool,
    frames: usize,
    /// How many others ask for the same.
    others: usize,
    /// How often the victim is polled before it is dropped.
    polls: usize,
}

impl Case {
    fn all(frames: &[usize], others: &[usize]) -> Vec<Self> {
        let mut all = Vec::new();
        for mode in MODES {
            for ending in ENDINGS {
                for pace in PACES {
                    for length_known in [true, false] {
                        for &frames in frames {
                            for &others in others {
                                all.push(Self {
                                    mode,
                                    ending,
                                    pace,
                                    length_known,
                                    frames,
                                    others,
                                    polls: 0,
                                });
                            }
                        }
                    }
                }
            }
        }
        all
    }

    fn builder(&self) -> CacheLayerBuilder {
        CacheLayer::builder()
            .fill_mode(self.mode)
            .leader_timeout(WAIT / 2)
            .wait_timeout(WAIT)
            .fill_timeout(FILL)
    }

    fn inner(self, probe: &Probe) -> impl Inner + use<> {
        origin(probe, move |nth, _| async move {
            for _ in 0..3 {
                self.pace.step().await;
            }
            self.answer(if nth == 1 {
                self.ending
            } else {
                Ending::Completes
            })
            .await
        })
    }

    async fn answer(self, ending: Ending) -> Result<Response<Body>, &'static str> {
        let last = match ending {
            Ending::Fails500 => return Ok(with_status(StatusCode::INTERNAL_SERVER_ERROR, "no")),
            Ending::FailsErr => return Err("no"),
            Ending::Panics => panics(),
            Ending::Hangs => pending().await,
            Ending::BodyBreaks => Some(Step::Fail),
            Ending::BodyHangs => Some(Step::Hang),
            Ending::Completes | Ending::MayNotBeShared => None,
        };
        let pause = Step::Wait(Duration::from_millis(u64::from(self.pace == Pace::Time)));
        let frames =
            (0..self.frames).flat_map(|_| [pause.clone(), Step::Data(Bytes::from_static(b"ab"))]);
        let mut script = Script::new(frames.chain(last));
        if self.length_known {
            script = script.hint(self.frames as u64 * 2);
        }
        let mut response = Response::new(script.boxed_unsync());
        if ending == Ending::MayNotBeShared {
            response
                .headers_mut()
                .insert("cache-control", HeaderValue::from_static("private"));
        }
        Ok(response)
    }

    /// Whether all who ask have it from one call.
    fn one_call_is_enough(&self) -> bool {
        self.ending == Ending::Completes && self.mode == FillMode::Detached
    }
}

/// Polls the future this often, and lets the others go on in between. Whether it has completed.
async fn poll_then_drop<F: Future>(future: F, pace: Pace, polls: usize) -> bool {
    let mut future = pin!(AssertUnwindSafe(future).catch_unwind());
    for _ in 0..polls {
        if future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
        {
            return true;
        }
        pace.step().await;
    }
    false
}

/// What others got is not looked at, only that each got something in time: its own failure, or the whole body. Where
/// the handler hangs, one of them may have called it; where its body does, all may read it.
async fn all_are_answered(case: &Case, asked: Vec<Asked>) {
    let may_hang = match case.ending {
        Ending::Hangs => 1,
        Ending::BodyHangs => asked.len(),
        _ => 0,
    };
    let mut hang = 0;
    for mut asked in asked {
        if timeout(WAIT + FILL + Duration::from_secs(1), &mut asked)
            .await
            .is_err()
        {
            hang += 1;
            asked.abort();
        }
    }
    assert!(hang <= may_hang, "{hang} hang: {case:?}");
}

/// The victim is gone: who asks now is answered in time, and nothing is left behind.
async fn nothing_is_left<I: Inner>(case: &Case, cache: &Cache<I>, handle: &CacheHandle) {
    // If it is the first to call, it gets what the first call comes to; the next one does not.
    all_are_answered(case, vec![spawn_ask(cache, get("/"))]).await;
    let began = Instant::now();
    let answer = timeout(WAIT + FILL, ask(cache, get("/")))
        .await
        .expect("hangs")
        .unwrap();
    assert!(
        began.elapsed() <= WAIT + Duration::from_secs(1),
        "waited for {:?}: {case:?}",
        began.elapsed()
    );
    assert_eq!(answer.body.len(), case.frames * 2, "{case:?}");
    settled(handle).await;
}

/// Every case in CI, a sample of them elsewhere.
fn sampled(cases: Vec<Case>) -> impl Iterator<Item = Case> {
    cases.into_iter().step_by(stride())
}

/// It shares no factor with the number of endings, paces or frames, so that a sample has all of each.
fn stride() -> usize {
    if scaled(1) > 1 { 1 } else { 7 }
}

/// How many scenarios there are until the victim completes by itself, or until it makes no progress any more.
async fn for_every_poll<F: Future<Output = bool>>(
    case: Case,
    mut scenario: impl FnMut(Case) -> F,
) -> usize {
    const HOPELESS: usize = 16;
    for polls in 0..HOPELESS {
        if scenario(Case { polls, ..case }).await {
            return polls + 1;
        }
    }
    HOPELESS
}

/// The others begin when the victim has begun: it leads, if it was polled at all.
async fn drop_a_leader(case: Case) -> bool {
    let probe = Probe::default();
    let layer = case.builder().build();
    let (cache, handle) = (layer.layer(case.inner(&probe)), layer.handle());
    let mut victim = Box::pin(AssertUnwindSafe(cache.clone().oneshot(get("/"))).catch_unwind());
    let mut others = Vec::new();
    let mut completed = false;
    for poll in 0..=case.polls {
        if poll == 1 || case.polls == 0 {
            others.extend((0..case.others).map(|_| spawn_ask(&cache, get("/"))));
        }
        if poll == case.polls || completed {
            break;
        }
        completed = victim
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready();
        case.pace.step().await;
    }
    drop(victim);
    all_are_answered(&case, others).await;
    nothing_is_left(&case, &cache, &handle).await;
    if case.one_call_is_enough() {
        assert_eq!(probe.calls(), 1, "{case:?}");
    }
    completed
}

// Invariants 26, 27, 28, 31.
#[tokio::test(start_paused = true)]
async fn a_leader_may_be_dropped_at_any_poll() {
    let mut scenarios = 0;
    for case in sampled(Case::all(&[0, 1, 3], &[0, 1, 3])) {
        scenarios += for_every_poll(case, drop_a_leader).await;
    }
    assert!(scenarios >= 3_900 / stride(), "{scenarios}");
}

async fn drop_a_follower(case: Case) -> bool {
    let probe = Probe::default();
    let layer = case.builder().build();
    let (cache, handle) = (layer.layer(case.inner(&probe)), layer.handle());
    let leader = spawn_ask(&cache, get("/"));
    until("the leader is in", || {
        probe.calls() == 1 || case.pace == Pace::Turns
    })
    .await;
    let others: Vec<_> = (0..case.others)
        .map(|_| spawn_ask(&cache, get("/")))
        .collect();
    let victim = cache.clone().oneshot(get("/"));
    let completed = poll_then_drop(victim, case.pace, case.polls).await;
    all_are_answered(&case, others.into_iter().chain([leader]).collect()).await;
    nothing_is_left(&case, &cache, &handle).await;
    if case.one_call_is_enough() {
        assert_eq!(probe.calls(), 1, "{case:?}");
    }
    completed
}

// Invariants 26, 27, 28.
#[tokio::test(start_paused = true)]
async fn a_follower_may_be_dropped_at_any_poll() {
    let mut scenarios = 0;
    for case in sampled(Case::all(&[0, 1, 3], &[0, 2])) {
        scenarios += for_every_poll(case, drop_a_follower).await;
    }
    assert!(scenarios >= 3_000 / stride(), "{scenarios}");
}

/// The body of the one who led, or of one who waited, is read for a number of polls.
async fn drop_a_body(case: Case, led: bool) -> bool {
    let probe = Probe::default();
    let layer = case.builder().build();
    let (cache, handle) = (layer.layer(case.inner(&probe)), layer.handle());
    let other = (!led).then(|| spawn_ask(&cache, get("/")));
    yield_now().await;
    let victim = tokio::spawn(timeout(WAIT * 4, cache.clone().oneshot(get("/"))));
    yield_now().await;
    let others = (0..case.others)
        .map(|_| spawn_ask(&cache, get("/")))
        .chain(other)
        .collect();
    let Ok(Ok(Ok(response))) = victim.await else {
        all_are_answered(&case, others).await;
        settled(&handle).await;
        return true;
    };
    let mut body = response.into_body();
    let read_all = async { while let Some(Ok(_)) = body.frame().await {} };
    let completed = poll_then_drop(read_all, case.pace, case.polls).await;
    drop(body);
    all_are_answered(&case, others).await;
    nothing_is_left(&case, &cache, &handle).await;
    if case.one_call_is_enough() {
        assert_eq!(probe.calls(), 1, "{case:?}");
    }
    completed
}

// Invariants 26, 31, 45, 49.
#[tokio::test(start_paused = true)]
async fn a_body_may_be_dropped_at_any_frame() {
    let mut scenarios = 0;
    for case in sampled(Case::all(&[0, 1, 3, 8], &[0, 2])) {
        for led in [true, false] {
            scenarios += for_every_poll(case, |case| drop_a_body(case, led)).await;
        }
    }
    assert!(scenarios >= 3_800 / stride(), "{scenarios}");
}

/// One fill may run, and it runs for another key.
async fn drop_one_that_waits_for_a_place(case: Case) -> bool {
    let (probe, gate) = (Probe::default(), Gate::closed());
    let passed = gate.clone();
    let inner = origin(&probe, move |nth, request| {
        let gate = passed.clone();
        async move {
            if request.uri().path() == "/other" {
                gate.passed().await;
                return Ok(ok("other"));
            }
            case.answer(if nth == 2 {
                case.ending
            } else {
                Ending::Completes
            })
            .await
        }
    });
    let handle = CacheHandle::builder()
        .max_concurrent_fills(NonZeroUsize::MIN)
        .build();
    let cache = case.builder().handle(&handle).build().layer(inner);
    let hog = spawn_ask(&cache, get("/other"));
    until("the only place is taken", || probe.calls() == 1).await;
    let others: Vec<_> = (0..case.others)
        .map(|_| spawn_ask(&cache, get("/")))
        .collect();
    let victim = cache.clone().oneshot(get("/"));
    // The place becomes free in the middle of it.
    let (before, after) = (
        case.polls.min(case.frames),
        case.polls.saturating_sub(case.frames),
    );
    let mut victim = Box::pin(AssertUnwindSafe(victim).catch_unwind());
    let mut completed = false;
    for poll in 0..before + after {
        if poll == before {
            gate.open();
        }
        completed = completed
            || victim
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready();
        case.pace.step().await;
    }
    drop(victim);
    gate.open();
    all_are_answered(&case, others).await;
    assert_eq!(hog.await.unwrap().unwrap().text(), "other");
    settled(&handle).await;
    completed
}

// Invariants 26, 28, 57.
#[tokio::test(start_paused = true)]
async fn one_that_waits_for_a_place_among_the_fills_may_be_dropped_at_any_poll() {
    let mut scenarios = 0;
    for case in sampled(Case::all(&[1, 3], &[0, 2])) {
        scenarios += for_every_poll(case, drop_one_that_waits_for_a_place).await;
    }
    assert!(scenarios >= 1_700 / stride(), "{scenarios}");
}

/// A purge at any point of a fill, polled or not.
async fn drop_a_purge(case: Case) -> bool {
    let probe = Probe::default();
    let inner = origin(&probe, move |nth, _| async move {
        scope::tag("t");
        case.pace.step().await;
        case.answer(if nth == 1 {
            case.ending
        } else {
            Ending::Completes
        })
        .await
    });
    let layer = case.builder().build();
    let (cache, handle) = (layer.layer(inner), layer.handle());
    let asked: Vec<_> = (0..=case.others)
        .map(|_| spawn_ask(&cache, get("/")))
        .collect();
    for _ in 0..case.frames {
        case.pace.step().await;
    }
    let marks_before = handle.stats().purges;
    let purged = poll_then_drop(
        handle.purge(Tag::new("t")).into_future(),
        case.pace,
        case.polls,
    )
    .await;
    assert_eq!(purged, case.polls > 0);
    assert_eq!(handle.stats().purges - marks_before, u64::from(purged));
    all_are_answered(&case, asked).await;
    nothing_is_left(&case, &cache, &handle).await;
    purged
}

// Invariants 26, 38.
#[tokio::test(start_paused = true)]
async fn a_purge_may_be_dropped_before_it_is_polled_and_has_happened_after() {
    let mut scenarios = 0;
    for case in sampled(Case::all(&[0, 1, 2, 4, 6], &[0, 2])) {
        scenarios += for_every_poll(case, drop_a_purge).await;
    }
    assert!(scenarios >= 1_280 / stride(), "{scenarios}");
}

const MESSAGE: &[u8] = &[0, 0, 0, 0, 3, b'a', b'b', b'c'];

/// A unary call whose message comes in pieces.
fn call(case: &Case, pieces: usize) -> Request<Body> {
    let pause = Step::Wait(Duration::from_millis(u64::from(case.pace == Pace::Time)));
    let pieces = MESSAGE.chunks(MESSAGE.len().div_ceil(pieces));
    let steps = pieces.flat_map(|piece| [pause.clone(), Step::Data(Bytes::from_static(piece))]);
    let mut request = get("/service/Method").map(|_| Script::new(steps).boxed_unsync());
    *request.method_mut() = http::Method::POST;
    request
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}

fn reply() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let steps = [
        Step::Data(Bytes::from_static(MESSAGE)),
        Step::Trailers(trailers),
    ];
    let mut response = Response::new(Script::new(steps).boxed_unsync());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

async fn drop_a_call_while_its_message_comes_in(case: Case) -> bool {
    let probe = Probe::default();
    let inner = origin(&probe, move |nth, _| async move {
        case.pace.step().await;
        match if nth == 1 {
            case.ending
        } else {
            Ending::Completes
        } {
            Ending::Completes | Ending::MayNotBeShared => Ok(reply()),
            other => case.answer(other).await,
        }
    });
    let inner = service_fn(move |request: Request<ReplayBody<Body>>| {
        inner.clone().oneshot(request.map(|_| full("")))
    });
    let layer = case.builder().key(Key::grpc(1024).all_methods()).build();
    let (cache, handle) = (layer.layer(inner), layer.handle());
    let others: Vec<_> = (0..case.others)
        .map(|_| spawn_ask(&cache, call(&case, case.frames)))
        .collect();
    let completed = poll_then_drop(
        cache.clone().oneshot(call(&case, case.frames)),
        case.pace,
        case.polls,
    )
    .await;
    all_are_answered(&case, others).await;
    all_are_answered(&case, vec![spawn_ask(&cache, call(&case, case.frames))]).await;
    settled(&handle).await;
    if case.one_call_is_enough() {
        assert_eq!(probe.calls(), 1, "{case:?}");
    }
    completed
}

// Invariants 26, 45.
#[tokio::test(start_paused = true)]
async fn a_grpc_call_may_be_dropped_while_its_message_comes_in() {
    let mut scenarios = 0;
    for case in sampled(Case::all(&[1, 2, 8], &[0, 1, 2])).filter(|case| case.length_known) {
        scenarios += for_every_poll(case, drop_a_call_while_its_message_comes_in).await;
    }
    assert!(scenarios >= 1_750 / stride(), "{scenarios}");
}

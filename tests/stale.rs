//! What is served past its lifetime, to whom, and how the inner service is asked meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;

use std::{
    future::pending,
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use concurrency::{
    Answer, Body, Failure, Inner, Probe, Script, Step, answers, ask, full, get, get_with, ok,
    origin, panics, settled, spawn_ask, with_status,
};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, request::Parts};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, Decision, FillMode, Forward, Key, Reason,
    ReplayBody, Standing, Tag, Tags, scope,
};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(60);
/// Within the first grace, and within the second.
const SWR: Duration = Duration::from_secs(3600);
const SIE: Duration = Duration::from_secs(36_000);
const PAUSE: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(5);
const FILL: Duration = Duration::from_secs(6);
/// What a call takes.
const HANDLER: Duration = Duration::from_millis(100);
const MODES: [FillMode; 2] = [FillMode::Detached, FillMode::Inline];

/// What the inner service says when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// The number of the call.
    Number,
    /// The same, with a header more.
    With(&'static str, &'static str),
    Status(u16),
    StatusWith(u16, &'static str, &'static str),
    Fails,
    Panics,
    Hangs,
    /// It answers this, but as late as this many seconds.
    Late(u64, u16),
    BodyBreaks,
    BodyHangs,
    CutShort,
    TooLarge,
    DoNotStore,
}

/// The inner service, as the test has it say one thing and then another.
#[derive(Clone)]
struct Control {
    says: Arc<Mutex<Says>>,
    probe: Probe,
    called: Arc<Mutex<Vec<Instant>>>,
}

impl Control {
    fn new() -> Self {
        Self {
            says: Arc::new(Mutex::new(Says::Number)),
            probe: Probe::default(),
            called: Arc::default(),
        }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn calls(&self) -> usize {
        self.probe.calls()
    }

    fn inner(&self) -> impl Inner + use<> {
        let control = self.clone();
        origin(&self.probe, move |nth, request| {
            let says = *control.says.lock().unwrap();
            control.called.lock().unwrap().push(Instant::now());
            async move {
                sleep(HANDLER).await;
                let mut response = says.response(nth).await?;
                let path = Tag::from(request.uri().path().to_owned());
                response.extensions_mut().insert(Tags::from(path));
                Ok(response)
            }
        })
    }
}

impl Says {
    async fn response(self, nth: usize) -> Result<Response<Body>, Failure> {
        let mut response = ok(nth.to_string());
        let (name, value) = match self {
            Self::With(name, value) | Self::StatusWith(_, name, value) => (name, value),
            _ => ("x-number", "some"),
        };
        response.headers_mut().insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        match self {
            Self::Number | Self::With(..) => {}
            Self::Status(status) | Self::StatusWith(status, ..) => {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            Self::Fails => return Err("no"),
            Self::Panics => panics(),
            Self::Hangs => pending().await,
            Self::Late(seconds, status) => {
                sleep(SECOND * u32::try_from(seconds).unwrap()).await;
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            Self::BodyBreaks => *response.body_mut() = Script::new([Step::Fail]).boxed_unsync(),
            Self::BodyHangs => *response.body_mut() = Script::new([Step::Hang]).boxed_unsync(),
            Self::CutShort => {
                let length = HeaderValue::from_static("1000");
                response.headers_mut().insert("content-length", length);
            }
            Self::TooLarge => *response.body_mut() = full("x".repeat(2000)),
            Self::DoNotStore => scope::do_not_store("not now"),
        }
        Ok(response)
    }
}

fn builder() -> CacheLayerBuilder {
    CacheLayer::builder()
        .ttl(TTL)
        .retry_after(PAUSE)
        .wait_timeout(WAIT)
        .fill_timeout(FILL)
        .max_body_bytes(1000)
}

fn both() -> CacheLayerBuilder {
    builder().stale_while_revalidate(SWR).stale_if_error(SIE)
}

/// A cache over an inner service that says numbers until it is told otherwise.
fn cached(builder: CacheLayerBuilder) -> (Cache<impl Inner + use<>>, CacheHandle, Control) {
    let (layer, control) = (builder.build(), Control::new());
    (layer.layer(control.inner()), layer.handle(), control)
}

/// The same, with an answer "1" for `/` that was stored so long ago.
async fn aged(
    builder: CacheLayerBuilder,
    age: Duration,
) -> (Cache<impl Inner + use<>>, CacheHandle, Control) {
    let (cache, handle, control) = cached(builder);
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "1");
    settled(&handle).await;
    sleep(age).await;
    (cache, handle, control)
}

/// How old it must be to be stale, but not by much; and past the first grace, but not the second.
const STALE: Duration = Duration::from_secs(61);
const PAST_SWR: Duration = Duration::from_secs(60 + 3600 + 1);
const PAST_BOTH: Duration = Duration::from_secs(60 + 36_000 + 1);

fn assert_stale(answer: &Answer, text: &str, why: Reason) {
    assert_eq!((answer.text(), answer.status()), (text, StatusCode::OK));
    assert!(answer.cache().is_stale(), "{:?}", answer.cache());
    assert_eq!(answer.reason(), Some(why));
}

/// Every response is counted, and once.
fn assert_counted(handle: &CacheHandle, responses: u64) {
    let stats = handle.stats();
    let counted = [
        stats.hits,
        stats.stale,
        stats.misses,
        stats.collapsed,
        stats.bypasses,
        stats.unavailable,
    ];
    assert_eq!(counted.iter().sum::<u64>(), responses, "{stats:?}");
}

fn head(path: &str) -> Request<Body> {
    let mut request = get(path);
    *request.method_mut() = http::Method::HEAD;
    request
}

fn parts(path: &str) -> Parts {
    get(path).into_parts().0
}

/// Asks for `/`, and says how long that took.
async fn timed<I: Inner>(cache: &Cache<I>) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = ask(cache, get("/")).await.unwrap();
    (answer, began.elapsed())
}

/// Nobody waits for the inner service, however many ask.
async fn all_are_stale_at_once<I: Inner>(cache: &Cache<I>, many: usize, text: &str, why: Reason) {
    let began = Instant::now();
    for answer in answers(cache, (0..many).map(|_| get("/"))).await {
        assert_stale(&answer, text, why);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

// Invariants 16, 34, 60.
#[tokio::test(start_paused = true)]
async fn what_is_stale_is_served_at_once_to_all_until_one_refresh_behind_it_has_ended() {
    let (cache, handle, control) = aged(both(), STALE).await;
    let (first, took) = timed(&cache).await;
    assert_stale(&first, "1", Reason::StaleWhileRevalidate);
    assert_eq!(took, Duration::ZERO);
    let headers = &first.parts.headers;
    let status = headers["cache-status"].to_str().unwrap();
    assert!(
        status.ends_with("; hit; ttl=-1; detail=stale-while-revalidate"),
        "{status}"
    );
    assert_eq!(headers["age"], "61");
    assert_eq!(first.cache().ttl(), Some(Duration::ZERO));

    all_are_stale_at_once(&cache, 1000, "1", Reason::StaleWhileRevalidate).await;
    assert_eq!(control.calls(), 2, "one refresh for all");
    settled(&handle).await;
    let (new, took) = timed(&cache).await;
    assert_eq!((new.text(), took), ("2", Duration::ZERO));
    assert!(new.cache().is_hit() && !new.cache().is_stale());
    let stats = handle.stats();
    assert_eq!((stats.stale, stats.refreshes, stats.stored), (1001, 1, 2));
    assert_eq!((stats.hits, stats.misses), (1, 1));
    assert_counted(&handle, 1003);
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_what_is_stale_is_fetched_while_its_requester_waits() {
    let (cache, handle, control) = aged(builder(), STALE).await;
    let (answer, took) = timed(&cache).await;
    assert_eq!((answer.text(), took), ("2", HANDLER));
    // The background sweep may have removed it already.
    let forward = answer.cache().forward();
    assert!(matches!(forward, Some(Forward::Stale | Forward::UriMiss)));
    sleep(STALE).await;
    control.say(Says::Status(500));
    assert_eq!(timed(&cache).await.0.status(), 500);
    assert_counted(&handle, 3);
}

/// Answers that renew nothing, and say nothing of what is stored either.
const FAILURES: [Says; 17] = [
    Says::Status(500),
    Says::Status(503),
    Says::Fails,
    Says::Panics,
    Says::Hangs,
    Says::BodyBreaks,
    Says::BodyHangs,
    Says::CutShort,
    Says::TooLarge,
    Says::DoNotStore,
    Says::Status(429),
    Says::Status(302),
    Says::Status(401),
    Says::Status(403),
    Says::With("set-cookie", "a=b"),
    Says::With("grpc-status", "14"),
    Says::With("vary", "*"),
];

// Invariants 3, 16, 22, 45.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_renews_nothing_and_is_tried_again_after_the_pause() {
    for says in FAILURES {
        let (cache, handle, control) = aged(both(), STALE).await;
        let is_as_it_was = async |calls| {
            all_are_stale_at_once(&cache, 3, "1", Reason::StaleWhileRevalidate).await;
            settled(&handle).await;
            assert_eq!(control.calls(), calls, "{says:?}");
        };
        control.say(says);
        is_as_it_was(2).await;
        let failed = Instant::now();
        for tenths in [1, 20, 50, 98] {
            sleep_until(failed + SECOND * tenths / 10).await;
            is_as_it_was(2).await;
        }
        sleep_until(failed + PAUSE * 5 / 4).await;
        is_as_it_was(3).await;
        control.say(Says::Number);
        sleep(PAUSE * 2 * 5 / 4).await;
        is_as_it_was(4).await;
        let (new, _) = timed(&cache).await;
        assert_eq!(new.text(), "4", "{says:?}");
        assert!(!new.cache().is_stale());
        let stats = handle.stats();
        assert_eq!((stats.refreshes, stats.stored), (3, 2), "{says:?}");
        assert_eq!((stats.misses, stats.hits), (1, 1), "{says:?}");
    }
}

// Invariant 30.
#[tokio::test(start_paused = true)]
async fn each_failure_puts_the_next_attempt_off_for_longer_than_the_last() {
    for (builder, last) in [
        (both(), "1"),
        (builder().stale_if_error(SIE), "1"),
        (both().fill_mode(FillMode::Inline), "1"),
    ] {
        let (cache, _, control) = aged(builder, STALE).await;
        control.say(Says::Status(500));
        while control.calls() < 7 {
            assert_eq!(timed(&cache).await.0.text(), last);
            sleep(HANDLER).await;
        }
        let called = control.called.lock().unwrap().clone();
        for (calls, times) in called[1..].windows(2).zip([1, 2, 4, 8, 8]) {
            let paused = calls[1] - calls[0] - HANDLER;
            let (least, most) = (PAUSE * times, PAUSE * times * 5 / 4 + HANDLER * 2);
            assert!(paused >= least && paused <= most, "{paused:?} at {times}");
        }
    }
}

// Invariants 3, 22.
#[tokio::test(start_paused = true)]
async fn what_the_inner_service_says_is_no_more_is_served_to_nobody() {
    for (says, is_over) in [
        (Says::Status(404), true),
        (Says::Status(410), true),
        (Says::With("cache-control", "no-store"), true),
        (Says::With("cache-control", "private"), true),
        (Says::With("cache-control", "no-cache"), true),
        (Says::Status(403), false),
        (Says::StatusWith(403, "cache-control", "private"), false),
        (Says::StatusWith(302, "cache-control", "no-store"), false),
        (Says::StatusWith(500, "cache-control", "no-store"), false),
    ] {
        for age in [STALE, PAST_SWR] {
            let (cache, handle, control) = aged(both(), age).await;
            control.say(says);
            let first = ask(&cache, get("/")).await.unwrap();
            assert!(age == PAST_SWR || first.cache().is_stale());
            settled(&handle).await;
            control.say(Says::Status(500));
            let second = ask(&cache, get("/")).await.unwrap();
            assert_eq!(!second.cache().is_hit(), is_over, "{says:?}");
            assert_eq!(second.status() == 500, is_over, "{says:?}");
            assert_eq!(handle.stats().entries, u64::from(!is_over), "{says:?}");
            settled(&handle).await;
            assert_counted(&handle, 3);
        }
    }
}

// Invariants 3, 22.
#[tokio::test(start_paused = true)]
async fn those_who_wait_when_it_is_said_to_be_no_more_do_not_get_it_either() {
    let (cache, handle, control) = aged(both(), PAST_SWR).await;
    control.say(Says::Status(404));
    for answer in answers(&cache, (0..20).map(|_| get("/"))).await {
        assert_eq!(answer.status(), 404);
    }
    let (cache, _, control) = aged(both(), PAST_SWR).await;
    control.say(Says::Status(429));
    let asked = answers(&cache, (0..20).map(|_| get("/"))).await;
    let stale = asked.iter().filter(|answer| answer.cache().is_stale());
    assert_eq!(
        (stale.count(), control.calls()),
        (19, 2),
        "but of a refusal"
    );
    assert_counted(&handle, 21);
}

const FAILS_AT_ONCE: [Says; 5] = [
    Says::Status(500),
    Says::Status(503),
    Says::Fails,
    Says::Panics,
    Says::With("grpc-status", "14"),
];

// Invariants 27, 28, 60.
#[tokio::test(start_paused = true)]
async fn past_the_first_grace_the_inner_service_is_asked_and_what_is_stale_served_if_it_fails() {
    for mode in MODES {
        for says in FAILS_AT_ONCE.into_iter().chain([Says::Hangs]) {
            let builder = both().fill_mode(mode);
            let (cache, handle, control) = aged(builder, PAST_SWR).await;
            control.say(says);
            let (answer, took) = timed(&cache).await;
            assert_stale(&answer, "1", Reason::StaleIfError);
            let waited = if says == Says::Hangs { WAIT } else { HANDLER };
            assert_eq!(took, waited, "{says:?}");
            let failed = Instant::now();
            let headers = &answer.parts.headers;
            let status = headers["cache-status"].to_str().unwrap();
            let by = (PAST_SWR - TTL + waited).as_secs();
            let expected = format!("; hit; ttl=-{by}; detail=stale-if-error");
            assert!(status.ends_with(&expected), "{status}");
            assert_eq!(headers["age"], (TTL.as_secs() + by).to_string());

            sleep_until(failed + PAUSE - SECOND / 10).await;
            all_are_stale_at_once(&cache, 10, "1", Reason::StaleIfError).await;
            assert_eq!(control.calls(), 2, "{mode:?} {says:?}");
            control.say(Says::Number);
            sleep_until(failed + PAUSE * 5 / 4 + FILL - WAIT).await;
            let (answer, took) = timed(&cache).await;
            assert_eq!((answer.text(), took), ("3", HANDLER), "{mode:?} {says:?}");
            assert_eq!(answer.cache().forward(), Some(Forward::Stale));
            settled(&handle).await;
            assert!(timed(&cache).await.0.cache().ttl() > Some(TTL - SECOND));
            assert_counted(&handle, 14);
        }
    }
}

// Invariant 30.
#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_to_a_failing_origin_are_one_call_where_something_is_stale() {
    for says in FAILS_AT_ONCE {
        let (cache, handle, control) = aged(both(), PAST_SWR).await;
        control.say(says);
        let began = Instant::now();
        for answer in answers(&cache, (0..10_001).map(|_| get("/"))).await {
            assert_stale(&answer, "1", Reason::StaleIfError);
        }
        assert_eq!(began.elapsed(), HANDLER);
        assert_eq!(control.calls(), 2, "no second opinion: {says:?}");
        settled(&handle).await;
        assert_counted(&handle, 10_002);
    }
}

// Invariants 28, 30.
#[tokio::test(start_paused = true)]
async fn an_inner_service_that_hangs_is_waited_for_once_and_is_one_failure() {
    for many in [1, 2, 10_000] {
        let (cache, handle, control) = aged(both(), PAST_SWR).await;
        control.say(Says::Hangs);
        let began = Instant::now();
        for answer in answers(&cache, (0..many).map(|_| get("/"))).await {
            assert_stale(&answer, "1", Reason::StaleIfError);
        }
        assert_eq!(began.elapsed(), WAIT);
        all_are_stale_at_once(&cache, 10, "1", Reason::StaleIfError).await;
        assert_eq!(control.calls(), 2);
        control.say(Says::Number);
        // From the latest moment at which the one call can be said to have failed.
        sleep_until(began + FILL + PAUSE * 5 / 4).await;
        settled(&handle).await;
        assert_eq!(timed(&cache).await.0.text(), "3", "{many}");
        assert_counted(&handle, many + 12);
    }
}

// Invariants 36, 40.
#[tokio::test(start_paused = true)]
async fn after_a_purge_nothing_stale_is_served_whatever_the_inner_service_does() {
    for mode in MODES {
        for age in [STALE, PAST_SWR] {
            let (cache, handle, control) = aged(both().fill_mode(mode), age).await;
            control.say(Says::Status(500));
            let _ = handle.purge(Tag::new("/")).await.unwrap();
            let (answer, took) = timed(&cache).await;
            assert_eq!((answer.status().as_u16(), took), (500, HANDLER));

            for purged in [true, false] {
                let (cache, handle, control) = aged(both().fill_mode(mode), PAST_SWR).await;
                control.say(Says::Status(500));
                let waits = spawn_ask(&cache, get("/"));
                sleep(HANDLER / 2).await;
                if purged {
                    let _ = handle.purge(Tag::new("/")).await.unwrap();
                }
                let answer = waits.await.unwrap().unwrap();
                assert_eq!(answer.status() == 500, purged, "while it waits");
                settled(&handle).await;
                assert_counted(&handle, 2);
            }
        }
    }
}

// Invariants 38, 40.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_a_purge_overtakes_is_not_stored() {
    for purged in [true, false] {
        let (cache, handle, control) = aged(both(), STALE).await;
        assert_stale(
            &ask(&cache, get("/")).await.unwrap(),
            "1",
            Reason::StaleWhileRevalidate,
        );
        sleep(HANDLER / 2).await;
        assert_eq!(control.calls(), 2, "it runs");
        if purged {
            let _ = handle.purge(Tag::new("/")).await.unwrap();
        }
        settled(&handle).await;
        let (answer, _) = timed(&cache).await;
        assert_eq!(answer.cache().is_hit(), !purged);
        assert_eq!(answer.text(), if purged { "3" } else { "2" });
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_that_it_must_be_revalidated_is_never_served_stale() {
    for (says, may) in [
        (Says::With("cache-control", "must-revalidate"), false),
        (Says::With("cache-control", "proxy-revalidate"), false),
        (Says::With("cache-control", "public"), true),
    ] {
        for age in [STALE, PAST_SWR] {
            let (cache, _, control) = cached(both());
            control.say(says);
            ask(&cache, get("/")).await.unwrap();
            sleep(age).await;
            control.say(Says::Status(500));
            let (answer, took) = timed(&cache).await;
            assert_eq!(answer.cache().is_stale(), may, "{says:?}");
            assert_eq!(answer.status() == 500, !may, "{says:?}");
            assert_eq!(took.is_zero(), may && age == STALE);
        }
    }
}

// Invariants 16, 20.
#[tokio::test(start_paused = true)]
async fn past_both_graces_a_request_waits_and_a_failure_is_its_answer() {
    let just_before = PAST_BOTH - SECOND * 2;
    for (age, is_stale) in [(just_before, true), (PAST_BOTH, false)] {
        for says in FAILS_AT_ONCE {
            let (cache, handle, control) = aged(both(), age).await;
            control.say(says);
            let asked = spawn_ask(&cache, get("/")).await;
            let stale = matches!(asked, Ok(Ok(answer)) if answer.cache().is_stale());
            assert_eq!(stale, is_stale, "{says:?}");
            control.say(Says::Number);
            sleep(SECOND * 2).await;
            let (answer, took) = timed(&cache).await;
            assert_eq!((answer.text(), took), ("3", HANDLER), "whatever was before");
            settled(&handle).await;
        }
    }
}

// Invariants 11, 28.
#[tokio::test(start_paused = true)]
async fn a_head_is_served_stale_without_a_refresh_and_otherwise_fetched_as_a_get() {
    let (cache, handle, control) = aged(both(), STALE).await;
    let answer = ask(&cache, head("/")).await.unwrap();
    assert_stale(&answer, "", Reason::StaleWhileRevalidate);
    settled(&handle).await;
    assert_eq!((control.calls(), handle.stats().refreshes), (1, 0));

    sleep(SWR).await;
    let answer = ask(&cache, head("/")).await.unwrap();
    assert_eq!((answer.reason(), answer.text()), (None, ""));
    settled(&handle).await;
    is_a_fresh_hit(&cache, "2").await;
    sleep(PAST_SWR).await;
    for (says, waited) in [(Says::Status(500), HANDLER), (Says::Hangs, WAIT)] {
        control.say(says);
        let began = Instant::now();
        let answer = ask(&cache, head("/")).await.unwrap();
        assert_stale(&answer, "", Reason::StaleIfError);
        assert_eq!(answer.parts.headers["content-length"], "1");
        assert_eq!(began.elapsed(), waited);
        let put_off = ask(&cache, head("/")).await.unwrap();
        assert_stale(&put_off, "", Reason::StaleIfError);
        assert_eq!(began.elapsed(), waited, "not asked again");
        sleep(PAUSE * 5 / 4).await;
    }
    assert_eq!(control.calls(), 4);
    assert_eq!(handle.stats().stored, 2);
    assert_counted(&handle, 8);
    let _ = handle.purge(Tag::new("/")).await.unwrap();
    control.say(Says::Status(500));
    assert_eq!(ask(&cache, head("/")).await.unwrap().status(), 500);
}

// Invariants 21, 23.
#[tokio::test(start_paused = true)]
async fn who_asks_for_less_than_the_whole_gets_what_the_inner_service_says_if_it_can() {
    for (name, value, status) in [
        ("if-none-match", "\"x\"", StatusCode::OK),
        (
            "if-modified-since",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            StatusCode::OK,
        ),
        ("range", "bytes=0-0", StatusCode::PARTIAL_CONTENT),
        ("if-match", "\"y\"", StatusCode::OK),
    ] {
        let asked = || get_with("/", name, value);
        let (cache, handle, control) = aged(both(), PAST_SWR).await;
        let answer = ask(&cache, asked()).await.unwrap();
        assert_eq!((answer.text(), answer.status()), ("2", status));
        settled(&handle).await;
        sleep(PAST_SWR).await;
        control.say(Says::Status(429));
        assert_eq!(ask(&cache, asked()).await.unwrap().status(), 429, "{name}");
        let answer = ask(&cache, asked()).await.unwrap();
        assert_eq!((answer.text(), answer.status()), ("2", status));
        assert_eq!(answer.reason(), Some(Reason::StaleIfError));
        assert_eq!(control.calls(), 3);
    }
}

fn eager() -> CacheLayerBuilder {
    builder().ttl(TTL * 10).eager_refresh(0.9).unwrap()
}

const BEFORE_THE_LAST_TENTH: Duration = Duration::from_secs(539);
const IN_THE_LAST_TENTH: Duration = Duration::from_secs(540);

async fn is_a_fresh_hit<I: Inner>(cache: &Cache<I>, text: &str) {
    let (answer, took) = timed(cache).await;
    assert_eq!((answer.text(), took), (text, Duration::ZERO));
    assert!(answer.cache().is_hit() && !answer.cache().is_stale());
}

// Invariants 16, 18, 34.
#[tokio::test(start_paused = true)]
async fn what_will_soon_be_stale_is_fetched_behind_a_hit_and_nobody_waits() {
    let (cache, handle, control) = aged(eager(), BEFORE_THE_LAST_TENTH).await;
    is_a_fresh_hit(&cache, "1").await;
    settled(&handle).await;
    assert_eq!(control.calls(), 1, "too early");
    sleep(SECOND).await;
    for _ in 0..100 {
        is_a_fresh_hit(&cache, "1").await;
    }
    settled(&handle).await;
    is_a_fresh_hit(&cache, "2").await;
    assert_eq!((control.calls(), handle.stats().refreshes), (2, 1));
    assert_counted(&handle, 103);
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn an_early_refresh_that_fails_is_put_off_and_lengthens_no_life() {
    for says in FAILURES {
        let (cache, handle, control) = aged(eager(), IN_THE_LAST_TENTH).await;
        let is_as_it_was = async |calls| {
            is_a_fresh_hit(&cache, "1").await;
            settled(&handle).await;
            assert_eq!(control.calls(), calls, "{says:?}");
        };
        control.say(says);
        is_as_it_was(2).await;
        sleep(PAUSE - SECOND / 10).await;
        is_as_it_was(2).await;
        sleep(PAUSE / 4 + SECOND / 10).await;
        is_as_it_was(3).await;
        sleep(SECOND * 60 - PAUSE * 5 / 4 - FILL * 2).await;
        control.say(Says::Number);
        sleep(FILL * 2).await;
        let (answer, took) = timed(&cache).await;
        assert_eq!(took, HANDLER, "{says:?}");
        assert!(!answer.cache().is_hit());
    }
}

/// Answers with the number of the call, and what it was asked.
fn echo(probe: &Probe) -> impl Inner + use<> {
    origin(probe, |nth, request| async move {
        sleep(HANDLER).await;
        let asked = request.into_body().collect().await;
        let asked = asked.map_err(|_| "no body")?.to_bytes();
        Ok(ok(format!("{nth} {}", str::from_utf8(&asked).unwrap())))
    })
}

fn search(text: &str) -> Request<Body> {
    let request = Request::post("/search").header("host", "a.example");
    request.body(full(text.to_owned())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn where_the_key_reads_the_body_a_refresh_sends_it_again() {
    for (builder, age) in [(eager(), IN_THE_LAST_TENTH), (both(), STALE)] {
        let builder = builder.key(Key::new().body(1024));
        let layer = builder.methods([http::Method::POST]).unwrap().build();
        let probe = Probe::default();
        let inner = echo(&probe);
        let cache = layer.layer(tower::service_fn(
            move |request: Request<ReplayBody<Body>>| {
                let inner = inner.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map_err(|_| "no body")?.to_bytes();
                    inner.oneshot(Request::from_parts(parts, full(body))).await
                }
            },
        ));
        ask(&cache, search("shoes")).await.unwrap();
        ask(&cache, search("hats")).await.unwrap();
        sleep(age).await;
        let began = Instant::now();
        let answer = ask(&cache, search("shoes")).await.unwrap();
        assert_eq!(answer.text(), "1 shoes");
        assert!(answer.cache().is_hit() && began.elapsed().is_zero());
        settled(&layer.handle()).await;
        assert_eq!(probe.calls(), 3, "and not for the hats");
        let answer = ask(&cache, search("shoes")).await.unwrap();
        assert_eq!(answer.text(), "3 shoes");
        assert!(!answer.cache().is_stale());
    }
}

// Invariants 4, 44.
#[tokio::test(start_paused = true)]
async fn only_the_variant_that_was_asked_for_is_refreshed() {
    for age in [STALE, PAST_SWR] {
        let (cache, handle, control) = cached(both());
        control.say(Says::With("vary", "accept-language"));
        let of = |language| get_with("/", "accept-language", language);
        for language in ["de", "en"] {
            ask(&cache, of(language)).await.unwrap();
        }
        sleep(age).await;
        ask(&cache, of("de")).await.unwrap();
        settled(&handle).await;
        assert_eq!(ask(&cache, of("de")).await.unwrap().text(), "3");
        control.say(Says::Status(500));
        let answer = ask(&cache, of("en")).await.unwrap();
        assert!(answer.cache().is_stale());
        assert_eq!(
            (answer.text(), control.calls()),
            ("2", 3 + usize::from(age == PAST_SWR))
        );
        settled(&handle).await;
        assert_eq!(control.calls(), 4);
        let answer = ask(&cache, of("de")).await.unwrap();
        assert!(
            !answer.cache().is_stale(),
            "it is not put off with the other"
        );
    }
}

/// Two answers that are both for a request with `x: 1` and `y: 1`, the newer one with the tag `new`.
async fn two_for_one(builder: CacheLayerBuilder) -> (Cache<impl Inner + use<>>, CacheHandle) {
    let layer = builder.build();
    let cache = layer.layer(origin(&Probe::default(), |nth, _| async move {
        let (vary, tag) = match nth {
            1 => ("x", "old"),
            2 => ("y", "new"),
            3 => return Ok(with_status(StatusCode::NOT_FOUND, "gone")),
            _ => return Ok(with_status(StatusCode::INTERNAL_SERVER_ERROR, "no")),
        };
        let mut response = ok(nth.to_string());
        let headers = response.headers_mut();
        headers.insert("vary", HeaderValue::from_static(vary));
        response.extensions_mut().insert(Tags::from(Tag::new(tag)));
        Ok(response)
    }));
    for x in ["1", "2"] {
        ask(&cache, with_x_and_y(x)).await.unwrap();
        sleep(HANDLER).await;
    }
    (cache, layer.handle())
}

fn with_x_and_y(x: &str) -> Request<Body> {
    let mut request = get_with("/", "x", x);
    let y = HeaderValue::from_static("1");
    request.headers_mut().insert("y", y);
    request
}

// Invariants 4, 40, 44.
#[tokio::test(start_paused = true)]
async fn a_newer_response_that_was_purged_does_not_uncover_an_older_one() {
    for age in [SECOND, STALE, PAST_SWR] {
        for purged in [true, false] {
            let (cache, handle) = two_for_one(both()).await;
            sleep(age).await;
            if purged {
                let _ = handle.purge(Tag::new("new")).await.unwrap();
            }
            let answer = ask(&cache, with_x_and_y("1")).await.unwrap();
            assert_eq!(answer.cache().is_hit(), !purged && age != PAST_SWR);
            assert_ne!(answer.text(), "1");
        }
    }
}

// Invariants 30, 34.
#[tokio::test(start_paused = true)]
async fn where_nothing_runs_in_the_background_one_waits_and_the_others_do_not() {
    for says in FAILS_AT_ONCE.into_iter().chain([Says::Hangs, Says::Number]) {
        let builder = both().fill_mode(FillMode::Inline);
        let (cache, handle, control) = aged(builder, STALE).await;
        control.say(says);
        let began = Instant::now();
        let first = spawn_ask(&cache, get("/"));
        sleep(HANDLER / 2).await;
        all_are_stale_at_once(&cache, 100, "1", Reason::StaleWhileRevalidate).await;
        let first = first.await.unwrap().unwrap();
        assert_eq!(control.calls(), 2);
        if says == Says::Number {
            assert_eq!((first.text(), began.elapsed()), ("2", HANDLER));
            is_a_fresh_hit(&cache, "2").await;
            continue;
        }
        assert_stale(&first, "1", Reason::StaleIfError);
        let waited = if says == Says::Hangs { WAIT } else { HANDLER };
        assert_eq!(began.elapsed(), waited);
        all_are_stale_at_once(&cache, 100, "1", Reason::StaleWhileRevalidate).await;
        assert_eq!(control.calls(), 2, "put off");
        settled(&handle).await;
        assert_counted(&handle, 202);
    }
}

fn few(fills: usize, refreshes: usize) -> CacheHandle {
    CacheHandle::builder()
        .max_concurrent_fills(NonZeroUsize::new(fills).unwrap())
        .max_concurrent_refreshes(NonZeroUsize::new(refreshes).unwrap())
        .build()
}

// Invariants 34, 57.
#[tokio::test(start_paused = true)]
async fn no_more_refreshes_run_at_once_than_may_and_the_others_come_later() {
    for (budget, rounds) in [(1, 10), (5, 2), (10, 1)] {
        let (cache, handle, control) = cached(both().handle(&few(1, budget)));
        let paths: Vec<_> = (0..10).map(|n| format!("/{n}")).collect();
        for path in &paths {
            ask(&cache, get(path)).await.unwrap();
        }
        settled(&handle).await;
        sleep(STALE).await;
        for round in 1..=rounds {
            let began = Instant::now();
            let answers = answers(&cache, paths.iter().map(|path| get(path))).await;
            let stale = answers.iter().filter(|answer| answer.cache().is_stale());
            assert_eq!(stale.count(), 10 - (round - 1) * budget);
            assert!(began.elapsed().is_zero());
            settled(&handle).await;
            assert_eq!(control.calls(), 10 + round * budget);
        }
        assert_eq!(control.probe.most(), budget);
        assert_eq!(handle.stats().refreshes, 10);
    }
}

// Invariants 30, 57.
#[tokio::test(start_paused = true)]
async fn where_there_is_no_place_for_a_fill_what_is_stale_is_served_at_once() {
    let (cache, handle, control) = aged(both().handle(&few(1, 1)), PAST_SWR).await;
    control.say(Says::Late(4, 200));
    let other = spawn_ask(&cache, get("/other"));
    sleep(HANDLER).await;
    all_are_stale_at_once(&cache, 100, "1", Reason::StaleIfError).await;
    assert_eq!(control.calls(), 2);
    assert_eq!(
        handle.explain(&parts("/"))[0].decision,
        Decision::Stale(Reason::StaleIfError)
    );
    assert_eq!(other.await.unwrap().unwrap().text(), "2");
    settled(&handle).await;
    control.say(Says::Number);
    let (answer, took) = timed(&cache).await;
    assert_eq!((answer.text(), took), ("3", HANDLER), "nothing is put off");
    settled(&handle).await;
    assert_counted(&handle, 103);
}

// Invariants 28, 57, 60.
#[tokio::test(start_paused = true)]
async fn where_there_is_no_place_and_nothing_stale_a_request_waits_and_gets_503() {
    for (builder, hangs) in [(builder(), true), (both(), true), (builder(), false)] {
        let (cache, handle, control) = cached(builder.handle(&few(1, 1)));
        control.say(if hangs {
            Says::Hangs
        } else {
            Says::Late(4, 200)
        });
        let other = spawn_ask(&cache, get("/other"));
        sleep(HANDLER).await;
        control.say(Says::Number);
        let began = Instant::now();
        let answers = answers(&cache, (0..50).map(|_| get("/"))).await;
        other.abort();
        if !hangs {
            assert!(answers.iter().all(|answer| answer.text() == "2"));
            continue;
        }
        assert_eq!(began.elapsed(), WAIT);
        for answer in answers {
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            let headers = &answer.parts.headers;
            assert_eq!(headers["retry-after"], "10");
            assert!(!headers.contains_key("cache-status"));
            assert!(answer.cache().is_unavailable());
            assert_eq!(answer.reason(), Some(Reason::TooManyFills));
        }
        assert_eq!((control.calls(), handle.stats().unavailable), (1, 50));
        settled(&handle).await;
        assert_counted(&handle, 50);
    }
}

// Invariants 26, 31.
#[tokio::test(start_paused = true)]
async fn a_refresh_goes_on_when_the_request_that_began_it_is_dropped() {
    for polled in [false, true] {
        let (cache, handle, control) = aged(both(), STALE).await;
        let mut asked = Box::pin(tower::Service::call(&mut cache.clone(), get("/")));
        if polled {
            let response = asked.as_mut().now_or_never();
            assert!(response.unwrap().is_ok(), "a stale hit is ready at once");
        }
        drop(asked);
        settled(&handle).await;
        assert_eq!((control.calls(), handle.stats().refreshes), (2, 1));
        is_a_fresh_hit(&cache, "2").await;
    }
}

/// Polls a request this often, and drops it; then all others are answered, and nothing is left of it. Whether it was
/// answered.
async fn dropped_after(polls: usize, mode: FillMode, says: Says, others: usize) -> bool {
    let (cache, handle, control) = aged(both().fill_mode(mode), PAST_SWR).await;
    control.say(says);
    let mut victim = Box::pin(AssertUnwindSafe(cache.clone().oneshot(get("/"))).catch_unwind());
    let mut waiting = Vec::new();
    let mut is_answered = false;
    for poll in 0..=polls {
        if poll == polls || is_answered {
            break;
        }
        let mut context = Context::from_waker(Waker::noop());
        is_answered = victim.as_mut().poll(&mut context).is_ready();
        if poll == 0 {
            waiting.extend((0..others).map(|_| spawn_ask(&cache, get("/"))));
        }
        sleep(HANDLER / 3).await;
    }
    drop(victim);
    for waiting in waiting {
        let answer = waiting.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{mode:?} {says:?} {polls}");
    }
    settled(&handle).await;
    control.say(Says::Number);
    let (answer, took) = timed(&cache).await;
    assert!(took <= HANDLER, "{mode:?} {says:?} {polls}: {took:?}");
    assert_eq!(answer.status(), StatusCode::OK);
    settled(&handle).await;
    is_answered
}

// Invariants 26, 27, 31.
#[tokio::test(start_paused = true)]
async fn a_request_that_could_fall_back_leaves_nothing_behind_wherever_it_is_dropped() {
    let says = FAILS_AT_ONCE.into_iter().chain([
        Says::Number,
        Says::Hangs,
        Says::CutShort,
        Says::DoNotStore,
        Says::With("set-cookie", "a=b"),
    ]);
    for says in says {
        for mode in MODES {
            for others in [0, 3] {
                let mut answered = false;
                for polls in 0..8 {
                    answered |= dropped_after(polls, mode, says, others).await;
                }
                assert_eq!(answered, says != Says::Hangs, "{mode:?} {says:?}");
            }
        }
    }
}

// Invariants 16, 60.
#[tokio::test(start_paused = true)]
async fn what_is_explained_is_what_is_then_done() {
    let told = |handle: &CacheHandle| {
        let [told] = &*handle.explain(&parts("/")) else {
            panic!("one layer")
        };
        (told.decision, told.stored[0].standing)
    };
    let (cache, handle, control) = aged(both(), TTL - SECOND).await;
    let (decision, standing) = told(&handle);
    let Decision::Hit(left) = decision else {
        panic!("{decision}")
    };
    assert_eq!(standing, Standing::Fresh(left));
    assert_eq!(timed(&cache).await.0.cache().ttl(), Some(left));

    control.say(Says::Status(500));
    sleep(SECOND * 2).await;
    let (decision, standing) = told(&handle);
    assert_eq!(decision, Decision::Stale(Reason::StaleWhileRevalidate));
    assert!(matches!(standing, Standing::StaleWhileRevalidate(by) if by >= SECOND));
    all_are_stale_at_once(&cache, 1, "1", Reason::StaleWhileRevalidate).await;
    settled(&handle).await;
    assert_eq!(told(&handle).0, decision, "put off or not");
    assert_eq!(control.calls(), 2);

    sleep(SWR).await;
    let (decision, standing) = told(&handle);
    assert_eq!(decision, Decision::Fetch(Forward::Stale));
    assert!(matches!(standing, Standing::StaleIfError(by) if by > SWR));
    assert_eq!(timed(&cache).await.1, HANDLER);
    assert_eq!(control.calls(), 3, "it was asked");
    let (decision, after) = told(&handle);
    assert_eq!(decision, Decision::Stale(Reason::StaleIfError));
    assert!(matches!(after, Standing::StaleIfError(_)));
    all_are_stale_at_once(&cache, 1, "1", Reason::StaleIfError).await;

    sleep(SIE).await;
    let [explained] = &*handle.explain(&parts("/")) else {
        panic!("one layer")
    };
    assert_eq!(explained.decision, Decision::Fetch(Forward::UriMiss));
    assert!(
        explained.stored.is_empty(),
        "the background sweep has removed it"
    );
    let answer = timed(&cache).await.0;
    assert_eq!((answer.status().as_u16(), control.calls()), (500, 4));
}

#[tokio::test(start_paused = true)]
async fn explaining_begins_no_refresh_and_tells_who_would_wait_for_one() {
    let (cache, handle, control) = aged(both(), STALE).await;
    let told = || handle.explain(&parts("/"))[0].decision;
    assert_eq!(told(), Decision::Stale(Reason::StaleWhileRevalidate));
    settled(&handle).await;
    assert_eq!((control.calls(), handle.stats().stale), (1, 0));
    sleep(SWR).await;
    let asked = spawn_ask(&cache, get("/"));
    sleep(HANDLER / 2).await;
    assert_eq!(told(), Decision::Wait);
    let (answer, took) = timed(&cache).await;
    assert_eq!((answer.text(), took), ("2", HANDLER / 2));
    assert_eq!(asked.await.unwrap().unwrap().text(), "2");
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn who_was_served_stale_is_not_counted_again_when_the_answer_comes_after_all() {
    for mode in MODES {
        for (says, fill) in [
            (Says::Late(5, 200), FILL),
            (Says::Late(5, 404), FILL),
            (Says::Late(5, 500), FILL),
            (Says::Late(3, 500), SECOND),
            (Says::Late(5, 200), SECOND),
        ] {
            let builder = both().fill_timeout(fill).fill_mode(mode);
            let (cache, handle, control) = aged(builder, PAST_SWR).await;
            control.say(says);
            let answer = timed(&cache).await.0;
            assert_stale(&answer, "1", Reason::StaleIfError);
            settled(&handle).await;
            assert_counted(&handle, 2);
        }
    }
}

// Invariants 30, 60.
#[tokio::test(start_paused = true)]
async fn without_a_pause_there_is_a_second_opinion_and_each_is_counted_once() {
    for says in [Says::Status(500), Says::Fails, Says::Panics] {
        let builder = both().retry_after(Duration::ZERO);
        let (cache, handle, control) = aged(builder, PAST_SWR).await;
        control.say(says);
        for answer in answers(&cache, (0..100).map(|_| get("/"))).await {
            assert_stale(&answer, "1", Reason::StaleIfError);
        }
        assert!(control.calls() <= 3, "{says:?}");
        settled(&handle).await;
        assert_counted(&handle, 101);
    }
}

// Invariant 3.
#[tokio::test(start_paused = true)]
async fn what_has_become_private_is_no_more_whatever_else_its_response_says() {
    for (value, is_over) in [("private", true), ("no-store", true), ("public", false)] {
        let layer = both().build();
        let cache = layer.layer(origin(&Probe::default(), move |nth, _| async move {
            let mut response = ok(nth.to_string());
            if nth > 1 {
                let headers = response.headers_mut();
                headers.insert("set-cookie", HeaderValue::from_static("session=1"));
                headers.insert("cache-control", HeaderValue::from_static(value));
            }
            Ok(response)
        }));
        ask(&cache, get("/")).await.unwrap();
        sleep(STALE).await;
        assert!(timed(&cache).await.0.cache().is_stale());
        settled(&layer.handle()).await;
        assert_eq!(timed(&cache).await.0.cache().is_hit(), !is_over, "{value}");
    }
}

// Invariants 3, 22.
#[tokio::test(start_paused = true)]
async fn what_an_early_refresh_finds_to_be_no_more_is_not_served_on_though_it_was_fresh() {
    for mode in MODES {
        let builder = eager().stale_if_error(SIE).fill_mode(mode);
        let (cache, handle, control) = aged(builder, IN_THE_LAST_TENTH).await;
        control.say(Says::Status(404));
        let first = timed(&cache).await.0;
        assert_eq!(first.cache().is_hit(), mode == FillMode::Detached);
        settled(&handle).await;
        let second = timed(&cache).await.0;
        assert_eq!(second.status(), StatusCode::NOT_FOUND);
        assert_eq!(control.calls(), 3);
        assert_counted(&handle, 3);
    }
}

// Invariants 30, 57.
#[tokio::test(start_paused = true)]
async fn an_attempt_for_which_there_is_no_place_is_none_that_failed() {
    for mode in MODES {
        let builder = both().fill_mode(mode).handle(&few(1, 1));
        let (cache, handle, control) = aged(builder, STALE).await;
        ask(&cache, get("/other")).await.unwrap();
        sleep(STALE).await;
        control.say(Says::Hangs);
        // The one place of its kind is taken.
        let other = match mode {
            FillMode::Inline => spawn_ask(&cache, get("/third")),
            _ => spawn_ask(&cache, get("/other")),
        };
        sleep(HANDLER).await;
        for _ in 0..5 {
            assert!(timed(&cache).await.0.cache().is_stale());
        }
        assert_eq!(control.calls(), 3, "{mode:?}");
        other.abort();
        settled(&handle).await;
        control.say(Says::Number);
        timed(&cache).await;
        settled(&handle).await;
        is_a_fresh_hit(&cache, "4").await;
    }
}

// Invariants 36, 37, 40.
#[tokio::test(start_paused = true)]
async fn those_who_wait_get_nothing_that_was_purged_meanwhile() {
    for says in [Says::Status(500), Says::Late(7, 500)] {
        for purged in [true, false] {
            let (cache, handle, control) = aged(both(), PAST_SWR).await;
            control.say(says);
            let asked: Vec<_> = (0..20).map(|_| spawn_ask(&cache, get("/"))).collect();
            sleep(HANDLER / 2).await;
            if purged {
                let _ = handle.purge(Tag::new("/")).await.unwrap();
            }
            for asked in asked {
                let answer = asked.await.unwrap().unwrap();
                assert_eq!(answer.cache().is_stale(), !purged, "{says:?}");
                assert_eq!(answer.status().is_server_error(), purged);
            }
            settled(&handle).await;
            assert_counted(&handle, 21);
        }
    }
}

// Invariants 16, 20.
#[tokio::test(start_paused = true)]
async fn what_is_over_when_the_failure_comes_is_not_served() {
    for (left, is_stale) in [(4, true), (2, false)] {
        for mode in MODES {
            let age = PAST_BOTH - SECOND - SECOND * left;
            let (cache, handle, control) = aged(both().fill_mode(mode), age).await;
            control.say(Says::Late(3, 500));
            let answers = answers(&cache, (0..10).map(|_| get("/"))).await;
            for answer in answers {
                assert_eq!(answer.cache().is_stale(), is_stale);
                assert_eq!(answer.status().is_server_error(), !is_stale);
            }
            settled(&handle).await;
            assert_counted(&handle, 11);
        }
    }
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn where_nothing_runs_in_the_background_an_early_refresh_falls_back_on_what_is_fresh() {
    for says in FAILS_AT_ONCE {
        let builder = eager().fill_mode(FillMode::Inline);
        let (cache, handle, control) = aged(builder, IN_THE_LAST_TENTH).await;
        control.say(says);
        let first = spawn_ask(&cache, get("/"));
        sleep(HANDLER / 2).await;
        is_a_fresh_hit(&cache, "1").await;
        let first = first.await.unwrap().unwrap();
        assert!(first.cache().is_hit() && !first.cache().is_stale());
        is_a_fresh_hit(&cache, "1").await;
        assert_eq!(control.calls(), 2, "{says:?}");
        settled(&handle).await;
        assert_counted(&handle, 4);
    }
}

const MESSAGE: &[u8] = &[0, 0, 0, 0, 1, 7];

fn call_by_grpc() -> Request<Body> {
    let mut request = Request::post("/shop.Stock/Get")
        .body(full(MESSAGE))
        .unwrap();
    let headers = request.headers_mut();
    headers.insert("host", HeaderValue::from_static("a.example"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}

/// Answers the first call well, and then with this status, in its head or behind a message.
fn grpc(status: &'static str, in_the_head: bool) -> Response<Body> {
    let mut response = Response::new(full(""));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    let status = HeaderValue::from_static(status);
    if in_the_head {
        headers.insert("grpc-status", status);
        return response;
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", status);
    let steps = [Step::Data(MESSAGE.into()), Step::Trailers(trailers)];
    response.map(|_| Script::new(steps).boxed_unsync())
}

// Invariants 22, 45.
#[tokio::test(start_paused = true)]
async fn a_call_that_fails_in_its_head_is_answered_with_what_is_stale() {
    for (status, falls_back) in [("14", true), ("13", true), ("5", false), ("16", false)] {
        let layer = both().key(Key::grpc(1024).all_methods()).build();
        let probe = Probe::default();
        let inner = origin(&probe, move |nth, _| async move {
            Ok(if nth == 1 {
                grpc("0", false)
            } else {
                grpc(status, true)
            })
        });
        let cache = layer.layer(tower::service_fn(move |_: Request<ReplayBody<Body>>| {
            inner.clone().oneshot(get("/"))
        }));
        ask(&cache, call_by_grpc()).await.unwrap();
        sleep(PAST_SWR).await;
        let answer = ask(&cache, call_by_grpc()).await.unwrap();
        assert_eq!(answer.cache().is_stale(), falls_back, "{status}");
        assert_eq!(answer.trailers.is_some(), falls_back);
        assert_eq!(answer.body == MESSAGE, falls_back);
        let answer = ask(&cache, call_by_grpc()).await.unwrap();
        let (reason, calls) = if falls_back {
            (Reason::StaleIfError, 2)
        } else {
            (Reason::GrpcStatus, 3)
        };
        assert_eq!(answer.reason(), Some(reason), "{status}");
        assert_eq!(probe.calls(), calls, "an answer puts nobody off");
        settled(&layer.handle()).await;
        assert_counted(&layer.handle(), 3);
    }
}

// Invariants 16, 21, 50.
#[tokio::test(start_paused = true)]
async fn what_has_not_changed_is_fresh_again_by_a_304_that_nobody_gets_to_see() {
    for mode in MODES {
        for age in [STALE, PAST_SWR] {
            let layer = both().fill_mode(mode).build();
            let probe = Probe::default();
            let cache = layer.layer(origin(&probe, |nth, request| async move {
                sleep(HANDLER).await;
                let mut response = match request.headers().get("if-none-match") {
                    Some(tag) if tag == "\"v\"" => with_status(StatusCode::NOT_MODIFIED, ""),
                    _ => ok(nth.to_string()),
                };
                let tag = HeaderValue::from_static("\"v\"");
                response.headers_mut().insert("etag", tag);
                Ok(response)
            }));
            ask(&cache, get("/")).await.unwrap();
            settled(&layer.handle()).await;
            sleep(age).await;
            for answer in answers(&cache, (0..10).map(|_| get("/"))).await {
                assert_eq!((answer.text(), answer.status()), ("1", StatusCode::OK));
            }
            settled(&layer.handle()).await;
            is_a_fresh_hit(&cache, "1").await;
            assert_eq!(probe.calls(), 2, "{mode:?} {age:?}");
            let (answer, _) = timed(&cache).await;
            assert_eq!(answer.parts.headers["age"], "0");
            assert_eq!(layer.handle().stats().stored, 2);
            assert_counted(&layer.handle(), 13);
        }
    }
}

// Invariants 11, 30.
#[tokio::test(start_paused = true)]
async fn a_head_that_waited_in_vain_puts_the_next_attempt_off_as_a_get_does() {
    for says in [Says::Hangs, Says::Status(500)] {
        let (cache, handle, control) = aged(both(), PAST_SWR).await;
        control.say(says);
        let first = ask(&cache, head("/")).await.unwrap();
        assert!(first.cache().is_stale());
        sleep(PAUSE * 5 / 4).await;
        control.say(Says::Status(500));
        let (answer, took) = timed(&cache).await;
        assert_stale(&answer, "1", Reason::StaleIfError);
        assert_eq!((took, control.calls()), (HANDLER, 3), "it is asked");
        all_are_stale_at_once(&cache, 10, "1", Reason::StaleIfError).await;
        assert_eq!(control.calls(), 3, "and then put off: {says:?}");
        settled(&handle).await;
        assert_counted(&handle, 13);
    }
}

// Invariants 4, 22, 44.
#[tokio::test(start_paused = true)]
async fn what_is_no_more_does_not_uncover_an_older_response() {
    for age in [STALE, PAST_SWR] {
        let (cache, handle) = two_for_one(both()).await;
        sleep(age).await;
        ask(&cache, with_x_and_y("1")).await.unwrap();
        settled(&handle).await;
        let second = ask(&cache, with_x_and_y("1")).await.unwrap();
        assert!(!second.cache().is_hit(), "{}", second.text());
    }
}

// Invariants 4, 44.
#[tokio::test(start_paused = true)]
async fn what_is_swept_does_not_uncover_an_older_response() {
    let (cache, handle) = two_for_one(both()).await;
    let _ = handle.purge(Tag::new("new")).await.unwrap();
    sleep(PAUSE).await;
    settled(&handle).await;
    let answer = ask(&cache, with_x_and_y("1")).await.unwrap();
    assert!(!answer.cache().is_hit(), "{}", answer.text());
}

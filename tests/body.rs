//! Bodies of every kind: what comes through the cache is what the inner service made, and nothing cut short is stored.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;

use std::{error::Error, time::Duration};

use bytes::Bytes;
use concurrency::{
    BOUND, Body, Inner, Probe, Script, Step, Watched, ask, for_server, frames, full, get, ok,
    origin, serve, settled, spawn_ask, until, waiters,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    join,
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, CacheStatus, FillMode,
};

const MODES: [FillMode; 2] = [FillMode::Detached, FillMode::Inline];
const TEXT: &str = "the quick brown fox";

fn cached<I: Inner>(builder: CacheLayerBuilder, inner: I) -> (Cache<I>, CacheHandle) {
    let layer = builder.build();
    (layer.layer(inner), layer.handle())
}

fn builder(mode: FillMode) -> CacheLayerBuilder {
    CacheLayer::builder().fill_mode(mode)
}

/// How a response tells its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    InBoth,
    InHeader,
    InHint,
    Unknown,
}

const LENGTHS: [Length; 4] = [
    Length::InBoth,
    Length::InHeader,
    Length::InHint,
    Length::Unknown,
];

/// A response as the inner service makes it.
#[derive(Debug, Clone)]
struct Made {
    length: Length,
    announced: usize,
    steps: Vec<Step>,
    watched: Watched,
}

impl Made {
    fn new(length: Length, steps: Vec<Step>) -> Self {
        Self {
            length,
            announced: TEXT.len(),
            steps,
            watched: Watched::default(),
        }
    }

    fn announced(mut self, bytes: usize) -> Self {
        self.announced = bytes;
        self
    }

    fn response(&self) -> Response<Body> {
        let mut script = Script::new(self.steps.clone()).watched_by(&self.watched);
        if matches!(self.length, Length::InBoth | Length::InHint) {
            script = script.hint(self.announced as u64);
        }
        let mut response = Response::new(script.boxed_unsync());
        let headers = response.headers_mut();
        if matches!(self.length, Length::InBoth | Length::InHeader) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.announced));
        }
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        headers.insert(header::DATE, date);
        headers.append("x-many", HeaderValue::from_static("a"));
        headers.append("x-many", HeaderValue::from_static("b"));
        headers.append("x-raw", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        headers.append("x-many", HeaderValue::from_static(""));
        response
    }

    fn inner(&self, probe: &Probe) -> impl Inner + use<> {
        let made = self.clone();
        origin(probe, move |_, _| {
            let response = made.response();
            async move {
                // Who asks at the same time comes before the answer.
                yield_now().await;
                Ok(response)
            }
        })
    }
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.append("x-sum", HeaderValue::from_static("1"));
    trailers.append("x-sum", HeaderValue::from_bytes(b"\xfd").unwrap());
    trailers
}

/// What a requester has of a response when its body is over.
#[derive(Debug, PartialEq)]
struct Taken {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// The cause of what ended the body before its time.
    cause: Option<String>,
}

async fn take<B>(response: Response<B>) -> Taken
where
    B: http_body::Body<Data = Bytes, Error: Error + 'static>,
{
    let (parts, body) = response.into_parts();
    let mut body = Box::pin(body);
    let named = |(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone());
    let ours = |name: &HeaderName| name == "cache-status" || name == "age";
    let headers = parts
        .headers
        .iter()
        .filter(|(name, _)| !ours(name))
        .map(named)
        .collect();
    let mut taken = Taken {
        status: parts.status,
        headers,
        data: Vec::new(),
        trailers: None,
        cause: None,
    };
    while let Some(frame) = timeout(BOUND, body.frame()).await.expect("the body hangs") {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => taken.data.extend_from_slice(&data),
            Ok(Err(frame)) => taken.trailers = frame.into_trailers().ok(),
            Err(error) => {
                let mut cause: &dyn Error = &error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                taken.cause = Some(cause.to_string());
                break;
            }
        }
    }
    taken
}

async fn taken<I: Inner>(cache: &Cache<I>, request: Request<Body>) -> (Taken, CacheStatus) {
    let response = cache.clone().oneshot(request).await.unwrap();
    let status = *response.extensions().get::<CacheStatus>().unwrap();
    (take(response).await, status)
}

fn post() -> Request<Body> {
    let mut request = get("/");
    *request.method_mut() = Method::POST;
    request
}

// Invariants 45, 46, 50.
#[tokio::test(start_paused = true)]
async fn a_whole_body_is_the_same_in_a_miss_a_hit_for_a_follower_and_passed_by() {
    let mut cases = 0;
    for mode in MODES {
        for length in LENGTHS {
            for of in [1, 3, 7, TEXT.len()] {
                for with_trailers in [true, false] {
                    let mut steps = frames(TEXT, of);
                    steps.extend(with_trailers.then(|| Step::Trailers(trailers())));
                    let (made, probe) = (Made::new(length, steps), Probe::default());
                    let raw = take(made.response()).await;
                    let (cache, handle) = cached(builder(mode), made.inner(&probe));
                    let (miss, follower) = join!(taken(&cache, get("/")), taken(&cache, get("/")));
                    assert!(follower.1.is_collapsed());
                    let hit = taken(&cache, get("/")).await;
                    assert!(hit.1.is_hit());
                    assert_eq!(probe.calls(), 1);
                    let passed = taken(&cache, post()).await;
                    for (taken, _) in [miss, follower, hit, passed] {
                        assert_eq!(taken, raw, "{mode:?} {length:?} {of}");
                    }
                    settled(&handle).await;
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 64);
}

/// A body that is not whole is told as it is, and not stored.
async fn is_never_stored(mode: FillMode, made: &Made) {
    let probe = Probe::default();
    let raw = take(made.response()).await;
    let (cache, handle) = cached(builder(mode), made.inner(&probe));
    let (miss, follower) = join!(taken(&cache, get("/")), taken(&cache, get("/")));
    let passed = taken(&cache, post()).await;
    for (taken, _) in [miss, follower, passed] {
        assert_eq!(taken, raw, "{mode:?} {made:?}");
    }
    settled(&handle).await;
    assert_eq!(handle.stats().stored, 0, "{mode:?} {made:?}");
    let calls = probe.calls();
    let next = taken(&cache, get("/")).await;
    assert_eq!(
        (next.0, probe.calls()),
        (raw, calls + 1),
        "{mode:?} {made:?}"
    );
}

// Invariants 31, 45, 50.
#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_an_error_with_its_cause_and_is_never_stored() {
    for mode in MODES {
        for length in LENGTHS {
            let whole = frames(TEXT, 4);
            for broken_at in 0..=whole.len() {
                let mut steps = whole.clone();
                steps.insert(broken_at, Step::Fail);
                let made = Made::new(length, steps);
                assert_eq!(take(made.response()).await.cause.unwrap(), "broken");
                is_never_stored(mode, &made).await;
            }
        }
    }
}

// Invariants 45, 50.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_shorter_or_longer_than_its_content_length_is_never_stored() {
    for mode in MODES {
        for length in [Length::InBoth, Length::InHeader] {
            for of in [1, 4, TEXT.len()] {
                for announced in [0, 1, TEXT.len() - 1, TEXT.len() + 1, 1000] {
                    is_never_stored(
                        mode,
                        &Made::new(length, frames(TEXT, of)).announced(announced),
                    )
                    .await;
                }
            }
        }
    }
}

// Invariant 45.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_shorter_or_longer_than_it_said_itself_is_never_stored() {
    for mode in MODES {
        for announced in [0, TEXT.len() - 1, TEXT.len() + 1] {
            is_never_stored(
                mode,
                &Made::new(Length::InHint, frames(TEXT, 4)).announced(announced),
            )
            .await;
        }
    }
}

const CHUNK: Duration = Duration::from_millis(50);

fn ten_chunks() -> Vec<Step> {
    let chunk = |i: u8| [Step::Wait(CHUNK), Step::Data(vec![b'0' + i; 100].into())];
    (0..10).flat_map(chunk).collect()
}

/// What a body says before a frame, the frame, and when it came.
#[derive(Debug, PartialEq)]
struct Seen {
    lower: u64,
    upper: Option<u64>,
    is_end: bool,
    frame: Option<Bytes>,
    at: u128,
}

async fn traced<B>(began: Instant, response: Response<B>) -> Vec<Seen>
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut body = Box::pin(response.into_body());
    let mut trace = Vec::new();
    loop {
        let (hint, is_end) = (body.size_hint(), body.is_end_stream());
        let frame = body
            .frame()
            .await
            .map(|frame| frame.unwrap().into_data().unwrap());
        let at = began.elapsed().as_millis();
        let over = frame.is_none();
        trace.push(Seen {
            lower: hint.lower(),
            upper: hint.upper(),
            is_end,
            frame,
            at,
        });
        if over {
            return trace;
        }
    }
}

// Invariants 47, 50.
#[tokio::test(start_paused = true)]
async fn a_miss_hands_on_each_chunk_at_the_instant_it_is_made_and_says_of_itself_what_the_inner_body_says()
 {
    for mode in MODES {
        for length in LENGTHS {
            let (made, probe) = (
                Made::new(length, ten_chunks()).announced(1000),
                Probe::default(),
            );
            let raw = traced(Instant::now(), made.response()).await;
            assert_eq!(
                raw.iter().map(|seen| seen.at).collect::<Vec<_>>(),
                [50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 500]
            );
            let (cache, _) = cached(builder(mode), made.inner(&probe));
            let began = Instant::now();
            let response = cache.clone().oneshot(get("/")).await.unwrap();
            assert_eq!(traced(began, response).await, raw, "{mode:?} {length:?}");
            let began = Instant::now();
            let hit = cache.clone().oneshot(get("/")).await.unwrap();
            let hit = traced(began, hit).await;
            let known = matches!(length, Length::InBoth | Length::InHint);
            let hints: Vec<_> = hit
                .iter()
                .map(|seen| (seen.at, seen.lower, seen.upper, seen.is_end))
                .collect();
            assert_eq!(
                hints,
                [
                    (0, 1000, known.then_some(1000), false),
                    (0, 0, known.then_some(0), true)
                ]
            );
        }
    }
}

// Invariant 50.
#[tokio::test(start_paused = true)]
async fn a_body_is_at_its_end_when_nothing_follows_and_never_before_its_trailers() {
    for mode in MODES {
        for length in [Length::InBoth, Length::Unknown] {
            let mut steps = frames(TEXT, 4);
            steps.push(Step::Trailers(trailers()));
            let (made, probe) = (Made::new(length, steps), Probe::default());
            let (cache, _) = cached(builder(mode), made.inner(&probe));
            for _miss_then_hit in 0..2 {
                let mut body = cache.clone().oneshot(get("/")).await.unwrap().into_body();
                let mut left = TEXT.len() as u64;
                loop {
                    assert!(!body.is_end_stream());
                    let hint = body.size_hint();
                    assert!(hint.lower() <= left && hint.upper().is_none_or(|upper| upper == left));
                    assert_eq!(hint.exact().is_some(), length == Length::InBoth);
                    match body.frame().await.unwrap().unwrap().into_data() {
                        Ok(data) => left -= data.len() as u64,
                        Err(frame) => break assert_eq!(frame.into_trailers().unwrap(), trailers()),
                    }
                }
                assert_eq!(left, 0);
                assert!(body.is_end_stream() || body.frame().await.is_none());
            }
            assert_eq!(probe.calls(), 1);
        }
    }
}

// Invariants 46, 50.
#[tokio::test(start_paused = true)]
async fn an_empty_body_is_at_its_end_from_the_start() {
    let inner = origin(&Probe::default(), |_, _| async { Ok(ok("")) });
    let (cache, handle) = cached(builder(FillMode::Detached), inner);
    for stored in [1, 1] {
        let response = cache.clone().oneshot(get("/")).await.unwrap();
        assert!(response.body().is_end_stream() && response.body().size_hint().exact() == Some(0));
        settled(&handle).await;
        assert_eq!(handle.stats().stored, stored);
    }
}

// Invariants 46, 50.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_body_is_at_its_end_from_the_start_whichever_thread_is_faster() {
    let inner = origin(&Probe::default(), |_, _| async { Ok(ok("")) });
    let (cache, _) = cached(builder(FillMode::Detached), inner);
    for i in 0..2000 {
        let response = cache.clone().oneshot(get(&format!("/{i}"))).await.unwrap();
        assert!(response.body().is_end_stream(), "{i}");
    }
}

/// When data came, each instant once.
fn times(trace: &[Seen]) -> Vec<u128> {
    let mut times: Vec<_> = trace
        .iter()
        .filter(|seen| seen.frame.is_some())
        .map(|seen| seen.at)
        .collect();
    times.dedup();
    times
}

fn text(trace: &[Seen]) -> Vec<u8> {
    trace
        .iter()
        .filter_map(|seen| seen.frame.as_deref())
        .flatten()
        .copied()
        .collect()
}

// Invariants 25, 49.
#[tokio::test(start_paused = true)]
async fn followers_read_along_from_the_start_whether_or_not_the_length_is_known() {
    for length in LENGTHS {
        let (made, probe) = (
            Made::new(length, ten_chunks()).announced(1000),
            Probe::default(),
        );
        let (cache, _) = cached(builder(FillMode::Detached), made.inner(&probe));
        let began = Instant::now();
        let follow = |after: Duration| {
            let cache = cache.clone();
            async move {
                sleep(after).await;
                traced(began, cache.oneshot(get("/")).await.unwrap()).await
            }
        };
        let (leader, early, late) = join!(
            follow(Duration::ZERO),
            follow(Duration::from_millis(1)),
            follow(CHUNK * 5 + CHUNK / 2)
        );
        assert!(text(&leader) == text(&early) && text(&leader) == text(&late));
        assert_eq!(probe.calls(), 1, "{length:?}");
        assert_eq!(times(&early), times(&leader), "{length:?}");
        assert_eq!(times(&late), [275, 300, 350, 400, 450, 500], "{length:?}");
    }
}

// Invariants 26, 31, 49.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_client_is_slow_or_gone_delays_nobody() {
    for length in LENGTHS {
        for read_first in 0..=10 {
            for gone in [true, false] {
                let (made, probe) = (
                    Made::new(length, ten_chunks()).announced(1000),
                    Probe::default(),
                );
                let (cache, handle) = cached(builder(FillMode::Detached), made.inner(&probe));
                let began = Instant::now();
                let mut leader = cache.clone().oneshot(get("/")).await.unwrap().into_body();
                let follower = spawn_ask(&cache, get("/"));
                for _ in 0..read_first {
                    leader.frame().await.unwrap().unwrap();
                }
                let leader = (!gone).then_some(leader);
                assert_eq!(follower.await.unwrap().unwrap().body.len(), 1000);
                assert_eq!(began.elapsed().as_millis(), 500);
                let rest = match leader {
                    Some(leader) => leader.collect().await.unwrap().to_bytes().len(),
                    None => 1000 - read_first * 100,
                };
                assert_eq!(rest, 1000 - read_first * 100);
                settled(&handle).await;
                assert!(ask(&cache, get("/")).await.unwrap().cache().is_hit());
                assert_eq!(probe.calls(), 1);
            }
        }
    }
}

// Invariants 26, 31.
#[tokio::test(start_paused = true)]
async fn inline_a_client_that_is_gone_leaves_the_lead_to_one_who_waits() {
    for length in LENGTHS {
        for read_first in 0..10 {
            let (made, probe) = (
                Made::new(length, ten_chunks()).announced(1000),
                Probe::default(),
            );
            let (cache, handle) = cached(builder(FillMode::Inline), made.inner(&probe));
            let mut leader = cache.clone().oneshot(get("/")).await.unwrap().into_body();
            let followers = [spawn_ask(&cache, get("/")), spawn_ask(&cache, get("/"))];
            waiters(&handle, 2).await;
            for _ in 0..read_first {
                leader.frame().await.unwrap().unwrap();
            }
            drop(leader);
            for follower in followers {
                assert_eq!(follower.await.unwrap().unwrap().body.len(), 1000);
            }
            assert_eq!(probe.calls(), 2);
            settled(&handle).await;
        }
    }
}

// Invariants 45, 46.
#[tokio::test(start_paused = true)]
async fn inline_a_client_that_leaves_before_the_trailers_has_nothing_stored_without_them() {
    for length in LENGTHS {
        let mut steps = frames(TEXT, 4);
        steps.extend([Step::Wait(CHUNK), Step::Trailers(trailers())]);
        let (made, probe) = (Made::new(length, steps), Probe::default());
        let inner = made.inner(&probe).map_response(|mut response| {
            let announced = HeaderValue::from_static("x-sum");
            response.headers_mut().insert(header::TRAILER, announced);
            response
        });
        let (cache, handle) = cached(builder(FillMode::Inline), inner);
        let response = cache.clone().oneshot(get("/")).await.unwrap();
        let mut body = response.into_body();
        for _ in 0..TEXT.len().div_ceil(4) {
            assert!(body.frame().await.unwrap().unwrap().is_data());
        }
        drop(body);
        settled(&handle).await;
        let (next, _) = taken(&cache, get("/")).await;
        assert_eq!(next.trailers, Some(trailers()), "{length:?}");
    }
}

// Invariants 47, 48.
#[tokio::test(start_paused = true)]
async fn a_body_of_just_the_limit_is_stored_and_a_longer_one_arrives_whole() {
    for mode in MODES {
        for length in LENGTHS {
            for of in [1, 5, TEXT.len()] {
                for (limit, stored) in [(TEXT.len(), true), (TEXT.len() - 1, false), (0, false)] {
                    let mut steps = frames(TEXT, of);
                    steps.push(Step::Trailers(trailers()));
                    let (made, probe) = (Made::new(length, steps), Probe::default());
                    let raw = take(made.response()).await;
                    let (cache, handle) =
                        cached(builder(mode).max_body_bytes(limit), made.inner(&probe));
                    let (miss, follower) = join!(taken(&cache, get("/")), taken(&cache, get("/")));
                    assert_eq!(
                        (&miss.0, &follower.0),
                        (&raw, &raw),
                        "{mode:?} {length:?} {of} {limit}"
                    );
                    settled(&handle).await;
                    let next = taken(&cache, get("/")).await;
                    assert_eq!(
                        (next.1.is_hit(), handle.stats().stored > 0),
                        (stored, stored)
                    );
                    assert_eq!(next.0, raw);
                    settled(&handle).await;
                }
            }
        }
    }
}

fn endless(headers: &[(&'static str, &'static str)]) -> (Response<Body>, Watched) {
    let script = Script::new([Step::Endless(Bytes::from_static(&[0; 1024]))]);
    let watched = script.watched();
    let mut response = Response::new(script.boxed_unsync());
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(*name, HeaderValue::from_static(value));
    }
    (response, watched)
}

const STREAMS: [&[(&str, &str)]; 5] = [
    &[],
    &[("cache-control", "private")],
    &[("content-type", "text/event-stream")],
    &[("content-type", "application/grpc")],
    &[("set-cookie", "a=b")],
];

// Invariants 47, 48.
#[tokio::test(start_paused = true)]
async fn an_endless_body_flows_at_once_and_is_read_no_further_when_its_client_is_gone() {
    for mode in MODES {
        for headers in STREAMS {
            let (response, watched) = endless(headers);
            let response = std::sync::Arc::new(std::sync::Mutex::new(Some(response)));
            let inner = origin(&Probe::default(), move |_, _| {
                let response = response.lock().unwrap().take().unwrap();
                async move { Ok(response) }
            });
            let (cache, handle) = cached(builder(mode).max_body_bytes(10 * 1024), inner);
            let mut body = cache.clone().oneshot(get("/")).await.unwrap().into_body();
            let mut read = 0;
            while read < 100 * 1024 {
                read += timeout(CHUNK, body.frame())
                    .await
                    .unwrap()
                    .unwrap()
                    .unwrap()
                    .into_data()
                    .unwrap()
                    .len();
                assert!(
                    watched.frames() <= (read / 1024).max(11),
                    "what is over the limit is not buffered"
                );
            }
            drop(body);
            settled(&handle).await;
            assert!(
                watched.is_gone() && watched.frames() == 100,
                "{mode:?} {headers:?}"
            );
            assert_eq!(handle.stats().stored, 0);
        }
    }
}

// Invariants 29, 47.
#[tokio::test(start_paused = true)]
async fn a_stream_that_says_one_thing_and_then_nothing_has_said_it_at_once() {
    for mode in MODES {
        for headers in STREAMS {
            let watched = Watched::default();
            let script = watched.clone();
            let inner = origin(&Probe::default(), move |_, _| {
                let script = Script::new([Step::Data(Bytes::from_static(b"hello")), Step::Hang])
                    .watched_by(&script);
                let mut response = Response::new(script.boxed_unsync());
                for (name, value) in headers {
                    response
                        .headers_mut()
                        .insert(*name, HeaderValue::from_static(value));
                }
                async move { Ok(response) }
            });
            let fill = Duration::from_secs(3);
            let (cache, handle) = cached(builder(mode).fill_timeout(fill), inner);
            let mut body = cache.clone().oneshot(get("/")).await.unwrap().into_body();
            assert_eq!(
                body.frame().await.unwrap().unwrap().into_data().unwrap(),
                "hello"
            );
            assert!(
                timeout(Duration::from_secs(60), body.frame())
                    .await
                    .is_err(),
                "it is not broken off"
            );
            drop(body);
            settled(&handle).await;
            assert!(watched.is_gone());
        }
    }
}

// Invariant 47.
#[tokio::test(start_paused = true)]
async fn what_will_not_be_stored_is_polled_no_further_than_its_client_reads() {
    for mode in MODES {
        for (name, value) in [
            ("cache-control", "private"),
            ("content-length", "1000000000"),
            ("content-type", "text/event-stream"),
        ] {
            let watched = Watched::default();
            let script = watched.clone();
            let inner = origin(&Probe::default(), move |_, _| {
                let script = Script::new(frames(TEXT, 1)).watched_by(&script);
                let mut response = Response::new(script.boxed_unsync());
                response
                    .headers_mut()
                    .insert(name, HeaderValue::from_static(value));
                async move { Ok(response) }
            });
            let (cache, _) = cached(builder(mode), inner);
            let mut body = cache.clone().oneshot(get("/")).await.unwrap().into_body();
            for read in 0..TEXT.len() {
                sleep(Duration::from_secs(1)).await;
                assert_eq!(watched.frames(), read, "{mode:?} {value}");
                body.frame().await.unwrap().unwrap();
            }
        }
    }
}

/// What comes over a real connection, trailers too: from the inner service itself, in a miss, and in a hit.
async fn over_a_connection(mode: FillMode, http2: bool, made: Made) -> Vec<Taken> {
    let probe = Probe::default();
    let inner = for_server(made.inner(&probe));
    let layer = builder(mode).status_header(false).build();
    let bare = serve(inner.clone()).await;
    let cached = serve(layer.layer(inner)).await;
    let client: Client<_, Body> = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http();
    let mut all = Vec::new();
    for address in [bare, cached, cached] {
        let mut request = Request::get(format!("http://{address}/"))
            .body(full(""))
            .unwrap();
        request
            .headers_mut()
            .insert(header::TE, HeaderValue::from_static("trailers"));
        let mut taken = take(client.request(request).await.unwrap()).await;
        taken.headers.sort_by_key(|(name, _)| name.to_string());
        all.push(taken);
        until("it is stored", || {
            address == bare || layer.handle().stats().stored == 1
        })
        .await;
    }
    assert_eq!(probe.calls(), 2, "one without the cache, one with it");
    all
}

// Invariants 46, 50.
#[tokio::test]
async fn trailers_come_over_real_connections_in_a_miss_and_a_hit() {
    for mode in MODES {
        for http2 in [false, true] {
            let mut steps = frames(TEXT, 4);
            steps.push(Step::Trailers(trailers()));
            let taken = over_a_connection(mode, http2, Made::new(Length::Unknown, steps)).await;
            // HTTP/1 has them only where the response announces them.
            assert_eq!(taken[0].trailers.is_some(), http2);
            assert_eq!(
                (&taken[1], &taken[2]),
                (&taken[0], &taken[0]),
                "{mode:?} {http2}"
            );
        }
    }
}

// Invariants 46, 50.
#[tokio::test]
async fn announced_trailers_come_over_http_1_in_a_miss_and_a_hit() {
    for mode in MODES {
        let probe = Probe::default();
        let mut steps = frames(TEXT, 4);
        steps.push(Step::Trailers(trailers()));
        let made = Made::new(Length::Unknown, steps);
        let inner = origin(&probe, move |_, _| {
            let mut response = made.response();
            response
                .headers_mut()
                .insert(header::TRAILER, HeaderValue::from_static("x-sum"));
            async move { Ok(response) }
        });
        let layer = builder(mode).build();
        let address = serve(layer.layer(for_server(inner))).await;
        let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
        for _miss_then_hit in 0..2 {
            let mut request = Request::get(format!("http://{address}/"))
                .body(full(""))
                .unwrap();
            request
                .headers_mut()
                .insert(header::TE, HeaderValue::from_static("trailers"));
            let taken = take(client.request(request).await.unwrap()).await;
            assert_eq!(taken.data, TEXT.as_bytes());
            assert_eq!(taken.trailers.unwrap()["x-sum"], "1");
            until("it is stored", || layer.handle().stats().stored == 1).await;
        }
        assert_eq!(probe.calls(), 1);
    }
}

// Invariants 45, 50.
#[tokio::test]
async fn a_body_with_a_content_length_comes_over_real_connections_in_a_miss_and_a_hit() {
    for mode in MODES {
        for http2 in [false, true] {
            for length in LENGTHS {
                let taken =
                    over_a_connection(mode, http2, Made::new(length, frames(TEXT, 4))).await;
                assert_eq!(
                    (&taken[1], &taken[2]),
                    (&taken[0], &taken[0]),
                    "{mode:?} {http2} {length:?}"
                );
            }
        }
    }
}

// Invariant 45. A server stops reading at the last byte that it announced.
#[tokio::test]
async fn a_body_that_does_not_say_that_it_has_ended_is_stored_over_real_connections() {
    for mode in MODES {
        for http2 in [false, true] {
            let inner = origin(&Probe::default(), |_, _| async {
                let mut response = Response::new(Script::new(frames(TEXT, 4)).shy().boxed_unsync());
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(TEXT.len()));
                Ok(response)
            });
            let layer = builder(mode).build();
            let address = serve(layer.layer(for_server(inner))).await;
            let client: Client<_, Body> = Client::builder(TokioExecutor::new())
                .http2_only(http2)
                .build_http();
            let request = Request::get(format!("http://{address}/"))
                .body(full(""))
                .unwrap();
            let taken = take(client.request(request).await.unwrap()).await;
            assert_eq!(taken.data, TEXT.as_bytes());
            settled(&layer.handle()).await;
            assert_eq!(layer.handle().stats().stored, 1, "{mode:?} {http2}");
        }
    }
}

// Invariant 38.
#[tokio::test(start_paused = true)]
async fn a_purge_while_a_body_streams_lets_its_requester_finish_and_stores_nothing() {
    for length in LENGTHS {
        let (made, probe) = (
            Made::new(length, ten_chunks()).announced(1000),
            Probe::default(),
        );
        let (cache, handle) = cached(builder(FillMode::Detached), made.inner(&probe));
        let mut body = cache.clone().oneshot(get("/")).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        let _ = handle.purge_all().await.unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 900);
        settled(&handle).await;
        assert_eq!(handle.stats().stored, 0);
        ask(&cache, get("/")).await.unwrap();
        assert_eq!(probe.calls(), 2);
    }
}

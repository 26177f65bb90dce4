//! Many responses expire in one second, and are requested at once, over an inner service that can do a few things at a
//! time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use scale::scaled;

use concurrency::{Body, Inner, Probe, ok, origin, settled, with_status};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, CacheStatus, Reason, ResponseBody,
};

/// A hundred thousand in CI.
fn keys() -> usize {
    scaled(10_000)
}

/// So many calls at once that all keys take ten seconds, whatever their number.
fn at_once() -> usize {
    keys() / 1000
}

fn refreshes() -> usize {
    at_once() / 5
}

const CALL: Duration = Duration::from_millis(10);
const TTL: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(36_000);

/// An inner service that does no more at once than it can, and counts how often it is asked for each key.
#[derive(Clone)]
struct Backend {
    probe: Probe,
    calls: Arc<[AtomicU8]>,
    fails: Arc<AtomicBool>,
}

impl Backend {
    fn new() -> Self {
        Self {
            probe: Probe::default(),
            calls: (0..keys()).map(|_| AtomicU8::new(0)).collect(),
            fails: Arc::default(),
        }
    }

    fn inner(&self) -> impl Inner + use<> {
        let backend = self.clone();
        origin(&self.probe, move |_, request| {
            assert!(backend.probe.most() <= at_once(), "it breaks down");
            let key: usize = request.uri().path()[1..].parse().unwrap();
            backend.calls[key].fetch_add(1, Relaxed);
            let fails = backend.fails.load(Relaxed);
            async move {
                sleep(CALL).await;
                Ok(if fails {
                    with_status(StatusCode::INTERNAL_SERVER_ERROR, "no")
                } else {
                    ok("an answer")
                })
            }
        })
    }

    /// How often the keys were asked for since the last time: the least, and the most.
    fn calls(&self) -> (u8, u8) {
        let calls = self.calls.iter().map(|calls| calls.swap(0, Relaxed));
        calls.fold((u8::MAX, 0), |(least, most), calls| {
            (least.min(calls), most.max(calls))
        })
    }
}

/// What became of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    hits: usize,
    stale: usize,
    answers: usize,
    unavailable: usize,
    failures: usize,
    /// How long the slowest took.
    slowest: Duration,
}

impl Tally {
    fn add<B>(&mut self, response: &Response<B>, began: Instant) {
        let status = response.extensions().get::<CacheStatus>().unwrap();
        if status.is_unavailable() {
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(status.reason(), Some(Reason::TooManyFills));
            assert!(response.headers().contains_key("retry-after"));
            self.unavailable += 1;
        } else if response.status().is_server_error() {
            self.failures += 1;
        } else if status.is_stale() {
            self.stale += 1;
        } else if status.is_hit() {
            self.hits += 1;
        } else {
            self.answers += 1;
        }
        self.slowest = self.slowest.max(began.elapsed());
    }
}

fn request(key: usize) -> Request<Body> {
    let uri: Uri = format!("/{key}").parse().unwrap();
    let request = Request::get(uri).header("host", "a.example");
    request.body(concurrency::full("")).unwrap()
}

/// One request for each key, all at once.
async fn everything_at_once<I: Inner>(cache: &Cache<I>) -> Tally {
    let began = Instant::now();
    let mut cache = cache.clone();
    let mut asked: FuturesUnordered<_> = (0..keys())
        .map(|key| tokio::spawn(cache.call(request(key))))
        .collect();
    let mut tally = Tally::default();
    while let Some(response) = asked.next().await {
        let response: Response<ResponseBody<Body>> = response.unwrap().unwrap();
        tally.add(&response, began);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body == "an answer" || body == "no" || body.is_empty());
    }
    tally
}

fn builder() -> CacheLayerBuilder {
    let handle = CacheHandle::builder()
        .max_bytes(1 << 30)
        .max_concurrent_fills(NonZeroUsize::new(at_once()).unwrap())
        .max_concurrent_refreshes(NonZeroUsize::new(refreshes()).unwrap())
        .build();
    CacheLayer::builder().ttl(TTL).handle(&handle)
}

/// Everything has been stored at one time, and has just expired.
async fn all_expired(
    builder: CacheLayerBuilder,
) -> (Cache<impl Inner + use<>>, CacheHandle, Backend) {
    let (layer, backend) = (builder.build(), Backend::new());
    let at_once = origin(&Probe::default(), |_, _| async { Ok(ok("an answer")) });
    let mut cache = layer.layer(at_once);
    let began = Instant::now();
    for key in 0..keys() {
        let response = cache.call(request(key)).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    settled(&layer.handle()).await;
    assert_eq!(layer.handle().stats().entries, keys() as u64);
    assert!(began.elapsed() < Duration::from_secs(1));
    sleep(TTL).await;
    (layer.layer(backend.inner()), layer.handle(), backend)
}

// Invariants 34, 57.
#[tokio::test(start_paused = true)]
async fn where_stale_may_be_served_nobody_waits_and_all_is_fresh_again_after_a_while() {
    let builder = builder().stale_while_revalidate(GRACE);
    let (cache, handle, backend) = all_expired(builder).await;
    let tally = everything_at_once(&cache).await;
    assert_eq!((tally.stale, tally.slowest), (keys(), Duration::ZERO));

    // From then on they come a little faster than they can be fetched.
    let (mut stale, mut rounds) = (keys(), 0);
    while stale > 0 {
        (stale, rounds) = (0, rounds + 1);
        for key in 0..keys() {
            let response = cache.clone().call(request(key)).await.unwrap();
            let status = response.extensions().get::<CacheStatus>().unwrap();
            assert!(status.is_hit());
            stale += usize::from(status.is_stale());
            if stale % (refreshes() * 5 / 4) == 0 && status.is_stale() {
                sleep(CALL + CALL / 10).await;
            }
        }
        settled(&handle).await;
        assert!(rounds < 15, "{stale} are left");
    }
    assert_eq!(backend.calls(), (1, 1), "one call a key");
    assert_eq!(backend.probe.most(), refreshes());
    let stats = handle.stats();
    assert_eq!(
        (stats.refreshes, stats.misses),
        (keys() as u64, keys() as u64)
    );
}

// Invariants 25, 57, 60.
#[tokio::test(start_paused = true)]
async fn where_nothing_stale_may_be_served_each_is_answered_in_time_or_sent_away() {
    let all = CALL * u32::try_from(keys() / at_once()).unwrap();
    for wait in [all * 2, all / 5] {
        let (cache, handle, backend) = all_expired(builder().wait_timeout(wait)).await;
        let tally = everything_at_once(&cache).await;
        settled(&handle).await;
        assert_eq!(tally.answers + tally.unavailable, keys(), "{tally:?}");
        assert!(tally.slowest <= wait + CALL, "{tally:?}");
        assert_eq!(backend.probe.most(), at_once());
        assert_eq!(backend.probe.calls(), tally.answers);
        let (least, most) = backend.calls();
        let stats = handle.stats();
        assert_eq!(stats.unavailable, tally.unavailable as u64);
        assert_eq!(stats.misses, (keys() + tally.answers) as u64);
        if wait > all {
            assert_eq!((least, most, tally.unavailable), (1, 1, 0));
            assert!(tally.slowest <= all + CALL, "nor longer than need be");
        } else {
            assert_eq!((least, most), (0, 1));
            assert!(tally.answers >= keys() / 5 && tally.unavailable > keys() / 2);
        }
    }
}

// Invariants 30, 57.
#[tokio::test(start_paused = true)]
async fn where_the_inner_service_fails_all_are_served_stale_by_one_call_a_key_at_most() {
    let builder = builder().stale_if_error(GRACE);
    let (cache, handle, backend) = all_expired(builder).await;
    backend.fails.store(true, Relaxed);
    for rounds in 1..=3 {
        let tally = everything_at_once(&cache).await;
        assert_eq!(tally.stale, keys(), "{tally:?}");
        assert!(tally.slowest <= CALL, "{tally:?}");
        settled(&handle).await;
        assert_eq!(backend.probe.calls(), at_once() * rounds);
    }
    assert_eq!(backend.calls(), (0, 1));
    assert_eq!(backend.probe.most(), at_once());
    assert_eq!(handle.stats().stale, 3 * keys() as u64);
}

//! The layers around the cache, on both sides of it: limits, buffers, timeouts, and services that insist on being readied.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use concurrency::{
    Answer, BOUND, Body, Gate, Probe, full, get, ok, origin, read, settled, until, waiters,
};
use futures_util::{FutureExt, future::join_all};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer,
    load_shed::error::Overloaded, timeout::error::Elapsed,
};
use tower_response_cache::{CacheLayer, FillMode, Key, ReplayBody};

const HANDLER: Duration = Duration::from_millis(200);
const MODES: [FillMode; 2] = [FillMode::Detached, FillMode::Inline];

/// One request, whatever the error type of what stands around the cache.
async fn ask<S, B>(service: &S, path: impl AsRef<str>) -> Result<Answer, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>> + Clone,
    B: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>,
{
    let response = timeout(BOUND, service.clone().oneshot(get(path.as_ref())))
        .await
        .expect("hangs");
    Ok(timeout(BOUND, read(response.map_err(Into::into)?))
        .await
        .expect("the body hangs"))
}

fn slow(probe: &Probe) -> impl concurrency::Inner + use<> {
    origin(probe, |_, request| async move {
        sleep(HANDLER).await;
        Ok(ok(request.uri().path().to_owned()))
    })
}

// Invariants 33, 34.
#[tokio::test(start_paused = true)]
async fn hits_are_served_while_the_one_permit_inside_is_held_and_a_miss_waits_for_it_without_holding_others_up()
 {
    for mode in MODES {
        let probe = Probe::default();
        let permits = Arc::new(Semaphore::new(1));
        let layer = CacheLayer::builder().fill_mode(mode).build();
        let cache = ServiceBuilder::new()
            .layer(layer.clone())
            .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
                permits.clone(),
            ))
            .service(slow(&probe));
        ask(&cache, "/stored").await.unwrap();
        let held = permits.clone().acquire_owned().await.unwrap();

        let began = Instant::now();
        for _ in 0..100 {
            assert!(ask(&cache, "/stored").await.unwrap().cache().is_hit());
        }
        assert_eq!(began.elapsed(), Duration::ZERO);

        let misses = join_all((0..10).map(|_| ask(&cache, "/new")));
        let free = async {
            waiters(&layer.handle(), 9).await;
            assert!(ask(&cache, "/stored").await.unwrap().cache().is_hit());
            drop(held);
        };
        let (misses, ()) = tokio::join!(misses, free);
        assert!(
            misses
                .into_iter()
                .all(|miss| miss.unwrap().text() == "/new")
        );
        assert_eq!(probe.calls(), 2);
        settled(&layer.handle()).await;
        assert_eq!(permits.available_permits(), 1);
    }
}

// Invariants 32, 33.
#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_of_one_on_either_side_deadlocks_nothing() {
    for mode in MODES {
        let probe = Probe::default();
        let cached = || CacheLayer::builder().fill_mode(mode).build();
        let inside = ServiceBuilder::new()
            .layer(cached())
            .concurrency_limit(1)
            .service(slow(&probe));
        let outside = ServiceBuilder::new()
            .concurrency_limit(1)
            .layer(cached())
            .service(slow(&probe));
        let began = Instant::now();
        let asked = join_all((0..20).map(|i| ask(&inside, ["/a", "/b", "/c", "/d"][i % 4]))).await;
        assert!(
            asked
                .into_iter()
                .enumerate()
                .all(|(i, asked)| asked.unwrap().text() == ["/a", "/b", "/c", "/d"][i % 4])
        );
        assert_eq!((probe.calls(), probe.most()), (4, 1));
        let asked = join_all((0..20).map(|_| ask(&outside, "/"))).await;
        assert!(asked.into_iter().all(|asked| asked.unwrap().text() == "/"));
        assert_eq!((probe.calls(), probe.most()), (5, 1));
        assert_eq!(began.elapsed().as_millis(), 5 * HANDLER.as_millis());
    }
}

// Invariants 25, 33, 34.
#[tokio::test(start_paused = true)]
async fn a_buffer_of_one_on_either_side_deadlocks_nothing() {
    for mode in MODES {
        let probe = Probe::default();
        let cached = || CacheLayer::builder().fill_mode(mode).build();
        let inside = ServiceBuilder::new()
            .layer(cached())
            .buffer(1)
            .concurrency_limit(1)
            .service(slow(&probe));
        let asked = join_all((0..30).map(|i| ask(&inside, format!("/{}", i % 3)))).await;
        assert!(
            asked
                .into_iter()
                .enumerate()
                .all(|(i, asked)| asked.unwrap().text() == format!("/{}", i % 3))
        );
        assert_eq!((probe.calls(), probe.most()), (3, 1));
        let outside = ServiceBuilder::new()
            .buffer(1)
            .layer(cached())
            .service(slow(&probe));
        let asked = join_all((0..30).map(|i| ask(&outside, format!("/{}", i % 3)))).await;
        assert!(asked.into_iter().all(|asked| asked.is_ok()));
        assert_eq!(probe.calls(), 6);
    }
}

// Invariants 30, 34.
#[tokio::test(start_paused = true)]
async fn load_shed_inside_sheds_misses_and_never_hits_and_outside_sheds_nothing() {
    for mode in MODES {
        let probe = Probe::default();
        let layer = CacheLayer::builder().fill_mode(mode).build();
        let inside = ServiceBuilder::new()
            .layer(layer.clone())
            .load_shed()
            .layer(ConcurrencyLimitLayer::new(1))
            .service(slow(&probe));
        ask(&inside, "/stored").await.unwrap();
        let busy = tokio::spawn({
            let inside = inside.clone();
            async move { ask(&inside, "/busy").await }
        });
        until("the permit is taken", || probe.calls() == 2).await;
        let shed = ask(&inside, "/new").await.unwrap_err();
        assert!(shed.is::<Overloaded>());
        assert!(ask(&inside, "/stored").await.unwrap().cache().is_hit());
        assert!(busy.await.unwrap().is_ok());
        assert!(
            ask(&inside, "/new").await.is_ok(),
            "an error is not remembered"
        );
        settled(&layer.handle()).await;

        let outside = ServiceBuilder::new()
            .load_shed()
            .layer(CacheLayer::builder().fill_mode(mode).build())
            .concurrency_limit(1)
            .service(slow(&probe));
        let asked = join_all((0..10).map(|i| ask(&outside, format!("/{i}")))).await;
        assert!(
            asked.into_iter().all(|asked| asked.is_ok()),
            "the cache is always ready"
        );
    }
}

// Invariants 33, 34.
#[tokio::test(start_paused = true)]
async fn a_rate_limit_inside_counts_calls_and_not_hits_and_outside_counts_requests() {
    let second = Duration::from_secs(1);
    let probe = Probe::default();
    let cached = || CacheLayer::builder().build();
    let inside = ServiceBuilder::new()
        .layer(cached())
        .buffer(100)
        .rate_limit(1, second)
        .service(slow(&probe));
    let began = Instant::now();
    for i in 0..100 {
        ask(&inside, format!("/{}", i % 3)).await.unwrap();
    }
    assert_eq!(probe.calls(), 3);
    assert!(
        began.elapsed() < 3 * second + HANDLER,
        "{:?}",
        began.elapsed()
    );

    let outside = ServiceBuilder::new()
        .buffer(100)
        .rate_limit(1, second)
        .layer(cached())
        .service(slow(&probe));
    let began = Instant::now();
    for _ in 0..4 {
        ask(&outside, "/").await.unwrap();
    }
    assert!(began.elapsed() >= 3 * second);
    assert_eq!(probe.calls(), 4);
}

// Invariants 26, 31.
#[tokio::test(start_paused = true)]
async fn a_clients_timeout_outside_takes_nothing_from_the_fill() {
    let probe = Probe::default();
    let layer = CacheLayer::builder().build();
    let cache = ServiceBuilder::new()
        .timeout(HANDLER / 2)
        .layer(layer.clone())
        .service(slow(&probe));
    for _ in 0..2 {
        assert!(ask(&cache, "/").await.unwrap_err().is::<Elapsed>());
    }
    settled(&layer.handle()).await;
    assert!(ask(&cache, "/").await.unwrap().cache().is_hit());
    assert_eq!(probe.calls(), 1);
}

// Invariants 28, 30.
#[tokio::test(start_paused = true)]
async fn a_handlers_timeout_inside_is_its_requesters_error_and_the_next_one_leads() {
    for mode in MODES {
        let probe = Probe::default();
        let inner = origin(&probe, |nth, _| async move {
            sleep(if nth == 1 { HANDLER * 100 } else { HANDLER }).await;
            Ok(ok("late"))
        });
        let layer = CacheLayer::builder().fill_mode(mode).build();
        let cache = ServiceBuilder::new()
            .layer(layer.clone())
            .timeout(HANDLER * 2)
            .service(inner);
        let began = Instant::now();
        let mut asked = join_all((0..20).map(|_| ask(&cache, "/")))
            .await
            .into_iter();
        assert!(asked.next().unwrap().unwrap_err().is::<Elapsed>());
        assert!(asked.all(|asked| asked.unwrap().text() == "late"));
        assert_eq!(began.elapsed().as_millis(), 3 * HANDLER.as_millis());
        assert_eq!(probe.calls(), 2);
        settled(&layer.handle()).await;
    }
}

/// Whose clones are not ready, and which may not be called but when it is: once for each time.
#[derive(Debug)]
struct Insists {
    ready: bool,
    /// How often it is to be polled before it is ready.
    patience: usize,
    polls: usize,
    counts: Arc<Insisted>,
}

#[derive(Debug, Default)]
struct Insisted {
    clones: AtomicUsize,
    polls: AtomicUsize,
    calls: AtomicUsize,
}

impl Insisted {
    fn all(&self) -> (usize, usize, usize) {
        (
            self.clones.load(SeqCst),
            self.polls.load(SeqCst),
            self.calls.load(SeqCst),
        )
    }
}

impl Insists {
    fn new(patience: usize) -> Self {
        Self {
            ready: false,
            patience,
            polls: 0,
            counts: Arc::default(),
        }
    }
}

impl Clone for Insists {
    fn clone(&self) -> Self {
        self.counts.clones.fetch_add(1, SeqCst);
        Self {
            ready: false,
            patience: self.patience,
            polls: 0,
            counts: self.counts.clone(),
        }
    }
}

impl<B> Service<Request<B>> for Insists {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.counts.polls.fetch_add(1, SeqCst);
        self.polls += 1;
        if self.polls < self.patience {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without having been readied"
        );
        self.counts.calls.fetch_add(1, SeqCst);
        let mut response = ok("the answer");
        if request.uri().path() == "/private" {
            response
                .headers_mut()
                .insert("cache-control", "private".parse().unwrap());
        }
        ready(Ok(response))
    }
}

// Invariant 33.
#[tokio::test(start_paused = true)]
async fn only_what_was_readied_is_called_on_every_way_through_the_cache() {
    for mode in MODES {
        for patience in [0, 1, 5] {
            let inner = Insists::new(patience);
            let layer = CacheLayer::builder().fill_mode(mode).max_waiters(2).build();
            let cache = layer.layer(inner);
            // A miss, its followers, one too many, a hit.
            let asked = join_all((0..5).map(|_| ask(&cache, "/"))).await;
            assert!(
                asked
                    .into_iter()
                    .all(|asked| asked.unwrap().text() == "the answer")
            );
            assert!(ask(&cache, "/").await.unwrap().cache().is_hit());
            // For one requester alone, remembered.
            for _ in 0..2 {
                join_all((0..5).map(|_| ask(&cache, "/private"))).await;
            }
            // Passed by.
            for method in ["POST", "HEAD", "CONNECT"] {
                let mut request = get("/other");
                *request.method_mut() = method.parse().unwrap();
                cache.clone().oneshot(request).await.unwrap();
            }
            // The same service, called again without being cloned.
            let mut same = cache.clone();
            for i in 0..3 {
                ServiceExt::<Request<Body>>::ready(&mut same)
                    .await
                    .unwrap()
                    .call(get(&format!("/again/{i}")))
                    .await
                    .unwrap();
            }
            assert_eq!(layer.handle().shutdown(BOUND).await.still_running, 0);
            ask(&cache, "/after").await.unwrap();
        }
    }
}

// Invariant 33.
#[tokio::test(start_paused = true)]
async fn only_what_was_readied_is_called_where_the_key_reads_the_body() {
    for mode in MODES {
        let layer = CacheLayer::builder()
            .fill_mode(mode)
            .key(Key::grpc(16).all_methods())
            .build();
        let cache = layer.layer(Insists::new(2));
        for message in [
            &[0, 0, 0, 0, 1, b'a'][..],
            &[0, 0, 0, 0, 100],
            &[0; 100],
            &[],
        ] {
            let mut request = get("/").map(|_| full(message.to_vec()));
            *request.method_mut() = http::Method::POST;
            request
                .headers_mut()
                .insert("content-type", "application/grpc".parse().unwrap());
            let response: Response<_> = cache.clone().oneshot(request).await.unwrap();
            assert_eq!(
                response.into_body().collect().await.unwrap().to_bytes(),
                "the answer"
            );
        }
        fn takes_replayed(_: &impl Service<Request<ReplayBody<Body>>>) {}
        takes_replayed(&Insists::new(0));
    }
}

// Invariants 33, 34.
#[tokio::test(start_paused = true)]
async fn a_hit_is_ready_at_once_and_neither_clones_nor_readies_nor_calls_the_inner_service() {
    let inner = Insists::new(3);
    let counts = inner.counts.clone();
    let mut cache = CacheLayer::builder().build().layer(inner);
    let mut cx = Context::from_waker(Waker::noop());
    let ready = Service::<Request<Body>>::poll_ready(&mut cache, &mut cx);
    assert_ready!(ready).unwrap();
    assert_eq!(
        counts.all(),
        (0, 0, 0),
        "its readiness is not the inner service's"
    );

    let answer = cache.call(get("/")).await.unwrap();
    read(answer).await;
    assert_eq!(counts.all(), (1, 3, 1));
    for method in ["GET", "HEAD"] {
        let mut request = get("/");
        *request.method_mut() = method.parse().unwrap();
        let hit = cache
            .call(request)
            .now_or_never()
            .expect("a hit waits for nothing")
            .unwrap();
        read(hit).now_or_never().unwrap();
    }
    assert_eq!(counts.all(), (1, 3, 1));
}

// Invariant 34.
#[tokio::test(start_paused = true)]
async fn a_hit_needs_no_inner_service_that_is_ever_ready_again() {
    let (probe, gate) = (Probe::default(), Gate::closed());
    let cache = ServiceBuilder::new()
        .layer(CacheLayer::builder().build())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(origin(&probe, {
            let gate = gate.clone();
            move |nth, _| {
                let gate = gate.clone();
                async move {
                    if nth > 1 {
                        gate.passed().await;
                    }
                    Ok(ok("the answer"))
                }
            }
        }));
    ask(&cache, "/stored").await.unwrap();
    let mut hung = pin!(cache.clone().oneshot(get("/hung")));
    let mut waits = pin!(cache.clone().oneshot(get("/waits")));
    let mut cx = Context::from_waker(Waker::noop());
    assert_pending!(hung.as_mut().poll(&mut cx));
    assert_pending!(waits.as_mut().poll(&mut cx));
    for _ in 0..10 {
        assert!(ask(&cache, "/stored").await.unwrap().cache().is_hit());
    }
    gate.open();
    assert!(hung.await.is_ok() && waits.await.is_ok());
}

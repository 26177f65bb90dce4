//! The promise of a purge, under races: once it has returned, no later request sees what is older.
//!
//! Each product has a version. A writer raises it and purges the product's tag; when the purge has returned, it notes
//! the version as seen by everybody. A reader takes that note, and then asks: the answer carries the version that its
//! handler read when it started, and must not be older than the note.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};

use crate::{
    body::ResponseBody,
    handle::CacheHandle,
    layer::CacheLayer,
    mutant::Mutant,
    tags::{TagFamily, Tags},
    tests::scale::scaled,
};

const PRODUCT: TagFamily<usize> = TagFamily::new("product");
const PRODUCTS: usize = 8;
const READERS: u64 = 64;

#[derive(Default)]
struct Shop {
    versions: [AtomicU64; PRODUCTS],
    /// The versions whose purge has returned.
    announced: [AtomicU64; PRODUCTS],
    requests: AtomicU64,
    purges: AtomicU64,
    violations: AtomicU64,
    closed: AtomicBool,
}

impl Shop {
    async fn show(&self, product: usize, known: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        let version = self.versions[product].load(Ordering::SeqCst);
        for _ in 0..version % 7 {
            tokio::task::yield_now().await;
        }
        if version.is_multiple_of(3) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut response = Response::new(Full::from(version.to_string()));
        // Coarser than it should be: what has changed may be said not to have.
        let tag = HeaderValue::try_from(format!("\"{}\"", version / 4)).unwrap();
        if known == Some(&tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Full::default();
        } else if known.is_some() && version.is_multiple_of(5) {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response.headers_mut().insert(header::ETAG, tag);
        response
            .extensions_mut()
            .insert(Tags::from(PRODUCT.tag(product)));
        response
    }

    async fn write(&self, cache: &CacheHandle, purges: u64, seed: u64) {
        let mut random = seed;
        while self.purges.load(Ordering::Relaxed) < purges && !self.closed.load(Ordering::Relaxed) {
            let product = next(&mut random) % PRODUCTS;
            let version = self.versions[product].fetch_add(1, Ordering::SeqCst) + 1;
            match next(&mut random) % 50 {
                // Announces nothing: what is stale may be served.
                2..5 => {
                    drop(cache.purge(PRODUCT.tag(product)).soft().await);
                    continue;
                }
                5 => drop(cache.begin_purge(PRODUCT.tag(product))),
                6 => drop(cache.purge(Tags::all_of([PRODUCT.tag(product)])).await),
                0 => drop(cache.purge_all().await),
                1 => drop(
                    cache
                        .purge([PRODUCT.tag(product), PRODUCT.tag((product + 1) % PRODUCTS)])
                        .await,
                ),
                _ => drop(cache.purge(PRODUCT.tag(product)).await),
            }
            self.announced[product].fetch_max(version, Ordering::SeqCst);
            self.purges.fetch_add(1, Ordering::Relaxed);
            for _ in 0..next(&mut random) % 32 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn read<S>(&self, mut service: S, requests: u64, seed: u64)
    where
        S: Service<
                Request<Full<Bytes>>,
                Response = Response<ResponseBody<Full<Bytes>>>,
                Error = Infallible,
            >,
    {
        let mut random = seed;
        while self.requests.fetch_add(1, Ordering::Relaxed) < requests
            && !self.closed.load(Ordering::Relaxed)
        {
            let product = next(&mut random) % PRODUCTS;
            let announced = self.announced[product].load(Ordering::SeqCst);
            let request = Request::get(format!("/{product}"))
                .body(Full::default())
                .unwrap();
            let Ok(response) = service.call(request).await;
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let version: u64 = std::str::from_utf8(&body).unwrap().parse().unwrap();
            if version < announced {
                self.violations.fetch_add(1, Ordering::Relaxed);
            }
            if next(&mut random).is_multiple_of(16) {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A small random number (xorshift).
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 40).unwrap()
}

/// What is stored is fresh for long.
fn fresh() -> CacheLayer {
    CacheLayer::new(Duration::from_secs(3600))
}

/// What is stored is stale soon, and all that can be done with it is done: it is served, fetched anew in the background, asked for
/// with its validator, and served where that fails.
fn stale() -> CacheLayer {
    CacheLayer::builder()
        .ttl(Duration::from_millis(2))
        .eager_refresh(0.5)
        .unwrap()
        .stale_while_revalidate(Duration::from_millis(2))
        .stale_if_error(Duration::from_secs(3600))
        .retry_after(Duration::from_millis(1))
        .build()
}

fn many(quick: usize) -> u64 {
    scaled(quick) as u64
}

/// Runs until there were so many requests and purges, or, with a fault, until it shows.
async fn race(cache: CacheLayer, mutant: Option<Mutant>, requests: u64, purges: u64) -> Arc<Shop> {
    let shop = Arc::new(Shop::default());
    let handle = cache.handle();
    if let Some(mutant) = mutant {
        handle.shared().purges.mutants.switch_on(mutant);
    }
    let origin = shop.clone();
    let service = cache.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let (origin, product) = (origin.clone(), request.uri().path()[1..].parse().unwrap());
        let known = request.headers().get(header::IF_NONE_MATCH).cloned();
        async move { Ok::<_, Infallible>(origin.show(product, known.as_ref()).await) }
    }));
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 1..=2 {
        let (shop, handle) = (shop.clone(), handle.clone());
        tasks.spawn(async move {
            shop.write(&handle, purges, seed * 0x9e37_79b9).await;
        });
    }
    for seed in 1..=READERS {
        let (shop, service) = (shop.clone(), service.clone());
        tasks.spawn(async move {
            while shop.purges.load(Ordering::Relaxed) < purges
                || shop.requests.load(Ordering::Relaxed) < requests
            {
                shop.read(service.clone(), requests, seed * 0x51_7cc1).await;
                if shop.closed.load(Ordering::Relaxed) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let watch = shop.clone();
    let all = async move { while tasks.join_next().await.transpose().unwrap().is_some() {} };
    let shown = async move {
        while mutant.is_none() || watch.violations.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        watch.closed.store(true, Ordering::Relaxed);
    };
    let bounded = tokio::time::timeout(Duration::from_secs(60 * many(4).min(60)), async {
        tokio::pin!(all, shown);
        tokio::select! {
            () = &mut all => {}
            () = &mut shown => all.await,
        }
    });
    bounded.await.expect("the race takes too long");
    shop
}

// Invariants 36, 37, 38, 39: at least 1,000,000 requests against 5,000 purges in CI, a tenth of that here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_after_a_purge_never_sees_what_is_older() {
    let (least_requests, least_purges) = (many(100_000), many(500));
    let shop = race(fresh(), None, least_requests, least_purges).await;
    let (requests, purges) = (
        shop.requests.load(Ordering::Relaxed),
        shop.purges.load(Ordering::Relaxed),
    );
    println!("{requests} requests against {purges} purges");
    assert!(requests >= least_requests && purges >= least_purges);
    assert_eq!(shop.violations.load(Ordering::Relaxed), 0);
}

// Invariants 16, 36, 38, 40: the same, where answers are served stale, renewed and fallen back on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_after_a_purge_never_sees_what_is_older_however_stale_it_may_be_served() {
    let least = many(50_000);
    let shop = race(stale(), None, least, many(500)).await;
    let requests = shop.requests.load(Ordering::Relaxed);
    println!("{requests} requests");
    assert!(requests >= least);
    assert_eq!(shop.violations.load(Ordering::Relaxed), 0);
}

async fn shows(cache: CacheLayer, mutant: Mutant) {
    let shop = race(cache, Some(mutant), 1_000_000, u64::MAX).await;
    let requests = shop.requests.load(Ordering::Relaxed);
    println!("{mutant:?}: seen after {requests} requests");
    assert!(
        shop.violations.load(Ordering::Relaxed) > 0,
        "{mutant:?} was not seen"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stamp_taken_after_the_handler_would_show() {
    shows(fresh(), Mutant::StampAfterHandler).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_check_when_reading_would_show() {
    shows(fresh(), Mutant::NoCheckWhenReading).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_are_not_checked_would_show() {
    shows(fresh(), Mutant::FollowersNotChecked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_stamped_after_the_handler_would_show() {
    shows(stale(), Mutant::StampAfterHandler).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_answer_that_is_not_checked_would_show() {
    shows(stale(), Mutant::NoCheckWhenReading).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_renewed_though_it_was_purged_would_show() {
    shows(stale(), Mutant::RenewedThoughPurged).await;
}

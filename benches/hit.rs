//! What the layer costs: a hit, a miss and a bypass, beside the bare service and beside a floor.
//!
//! `cargo bench --bench hit`
//!
//! The floor is what a hit cannot do without: an exact key made on the stack, a get from moka, a clone of the header
//! map and of the body. All cases take turns in one run, a batch each, so that what disturbs the machine disturbs all
//! alike; a figure is the median over the rounds, and ratios are to be read rather than times. Requests are made before the
//! clock starts; responses are dropped while it runs. `axum-like` requests carry extensions, as axum's do.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use smallvec::SmallVec;
use tower::{Layer, Service, service_fn};
use tower_response_cache::{Cache, CacheLayer, CacheLayerBuilder};

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is handed on to the system's allocator as it comes.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Body = Full<Bytes>;

const BATCH: usize = 500;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    // `cargo test` runs it once, to see that it works.
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        60
    } else {
        1
    };
    for (name, bytes) in [("1 KiB", 1 << 10), ("64 KiB", 1 << 16), ("1 MiB", 1 << 20)] {
        println!("\nbody of {name}");
        println!(
            "{:<44}{:>10}{:>14}{:>12}{:>12}",
            "", "ns", "allocations", "x floor", "x bare"
        );
        let mut cases = cases(bytes, &runtime);
        for round in 0..rounds + 3 {
            // The first rounds warm up.
            cases.iter_mut().for_each(|case| case.run(round >= 3));
        }
        let (floor, bare) = (cases[1].median(), cases[0].median());
        for case in &mut cases {
            let median = case.median();
            let allocations = case.allocations as f64 / (rounds * case.batch) as f64;
            println!(
                "{:<44}{median:>10.0}{allocations:>14.1}{:>12.2}{:>12.2}",
                case.name,
                median / floor,
                median / bare
            );
        }
    }
}

/// Something to measure: makes a batch of requests, and answers them.
struct Case<'a> {
    name: &'static str,
    batch: usize,
    make: Box<dyn FnMut() -> Request<Body> + 'a>,
    answer: Box<dyn FnMut(Request<Body>) + 'a>,
    times: Vec<Duration>,
    allocations: u64,
}

impl<'a> Case<'a> {
    fn new(
        name: &'static str,
        make: impl FnMut() -> Request<Body> + 'a,
        answer: impl FnMut(Request<Body>) + 'a,
    ) -> Self {
        Self {
            name,
            batch: BATCH,
            make: Box::new(make),
            answer: Box::new(answer),
            times: Vec::new(),
            allocations: 0,
        }
    }

    fn run(&mut self, counts: bool) {
        let requests: Vec<_> = (0..self.batch).map(|_| (self.make)()).collect();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        for request in requests {
            (self.answer)(request);
        }
        let elapsed = start.elapsed();
        if counts {
            self.allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
            self.times.push(elapsed);
        }
    }

    /// Nanoseconds a request.
    fn median(&mut self) -> f64 {
        self.times.sort_unstable();
        self.times[self.times.len() / 2].as_nanos() as f64 / self.batch as f64
    }
}

fn cases(bytes: usize, runtime: &tokio::runtime::Runtime) -> Vec<Case<'_>> {
    let body = Bytes::from(vec![b'x'; bytes]);
    let origin = origin(body.clone());
    let quiet = || CacheLayer::builder().status_header(false);
    let mute = || quiet().status_extension(false);
    let mut number = 0u64;
    let mut cases = vec![
        Case::new("bare service", get, ready(origin.clone())),
        Case::new("floor", get, floor(body)),
        Case::new("hit, no status", get, ready(warm(mute(), origin.clone()))),
        Case::new(
            "hit, status header off",
            get,
            ready(warm(quiet(), origin.clone())),
        ),
        Case::new(
            "hit, status header off, axum-like",
            axum_like,
            ready(warm(quiet(), origin.clone())),
        ),
        Case::new(
            "hit, as it comes, axum-like",
            axum_like,
            ready(warm(CacheLayer::builder(), origin.clone())),
        ),
        Case::new(
            "bypass, no status",
            post,
            ready(warm(mute(), origin.clone())),
        ),
        Case::new(
            "bypass, status header off",
            post,
            ready(warm(quiet(), origin.clone())),
        ),
        Case::new(
            "bypass, as it comes",
            post,
            ready(warm(CacheLayer::builder(), origin.clone())),
        ),
    ];
    let mut missed = warm(CacheLayer::builder(), origin);
    let mut miss = Case::new(
        "miss, as it comes, to the body's end",
        move || {
            number += 1;
            let mut request = get();
            *request.uri_mut() = format!("/products/{number}").parse().expect("a path");
            request
        },
        move |request| {
            let response = missed.call(request);
            runtime.block_on(async {
                let Ok(response) = response.await;
                black_box(response.into_body().collect().await.expect("a body"));
            });
        },
    );
    miss.batch = 50;
    cases.push(miss);
    cases
}

/// Answers at once, with the headers of an ordinary page.
fn origin(
    body: Bytes,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<Body>, Infallible>>,
> + Clone
+ Send {
    service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Full::new(body.clone()));
        *response.headers_mut() = page_headers();
        std::future::ready(Ok(response))
    })
}

fn page_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("max-age=60"),
    );
    headers.insert(
        header::ETAG,
        HeaderValue::from_static("\"33a64df551425fcc\""),
    );
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers
}

fn get() -> Request<Body> {
    let mut request = Request::new(Body::default());
    *request.uri_mut() = http::Uri::from_static("/products?page=1&sort=price");
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("shop.example"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("curl/8.14.1"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    request
}

fn axum_like() -> Request<Body> {
    let mut request = get();
    let uri = request.uri().clone();
    request.extensions_mut().insert(Arc::new(uri));
    request
}

fn post() -> Request<Body> {
    let mut request = get();
    *request.method_mut() = Method::POST;
    request
}

/// A cached service that has answered once, and so hits.
fn warm<S>(layer: CacheLayerBuilder, origin: S) -> Cache<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let mut service = layer.ttl(Duration::from_secs(3600)).build().layer(origin);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            let Ok(response) = service.call(get()).await;
            response.into_body().collect().await.expect("a body");
        });
    service
}

/// Calls a service whose future is ready at once.
fn ready<S>(mut service: S) -> impl FnMut(Request<Body>)
where
    S: Service<Request<Body>>,
{
    move |request| {
        let mut future = std::pin::pin!(service.call(request));
        let mut cx = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(response)) => drop(black_box(response)),
            _ => panic!("it was to be ready at once"),
        }
    }
}

fn floor(body: Bytes) -> impl FnMut(Request<Body>) {
    let cache = moka::sync::Cache::<Box<[u8]>, Arc<(HeaderMap, Bytes)>>::new(1000);
    cache.insert(
        key(&get()).as_slice().into(),
        Arc::new((page_headers(), body)),
    );
    move |request| {
        let stored = cache.get(key(&request).as_slice()).expect("it is stored");
        let mut response = Response::new(Full::new(stored.1.clone()));
        *response.headers_mut() = stored.0.clone();
        drop(black_box(response));
    }
}

fn key(request: &Request<Body>) -> SmallVec<[u8; 256]> {
    let mut key = SmallVec::new();
    let host = request
        .headers()
        .get(header::HOST)
        .map_or(&b""[..], HeaderValue::as_bytes);
    for part in [
        request.method().as_str().as_bytes(),
        host,
        request.uri().path().as_bytes(),
        request.uri().query().unwrap_or_default().as_bytes(),
    ] {
        key.extend_from_slice(&(part.len() as u32).to_le_bytes());
        key.extend_from_slice(part);
    }
    key
}

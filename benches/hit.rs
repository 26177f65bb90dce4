//! What the layer costs: a hit, a miss and a bypass, beside the bare service and beside a floor.
//!
//! `cargo bench --bench hit`
//!
//! The floor is what a hit cannot do without: an exact key made on the stack, a get from moka, a clone of the header
//! map and of the body. A figure is the median over the rounds, and ratios are to be read rather than times.
//! `axum-like` requests carry extensions, as axum's do.

mod common;

use std::{
    convert::Infallible,
    hint::black_box,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use smallvec::SmallVec;
use tower::{Layer, Service, service_fn};
use tower_response_cache::{Cache, CacheHandle, CacheLayer, CacheLayerBuilder, Tag, Tags};

use common::{Body, Case, ready, run, runtime};

fn main() {
    let runtime = runtime();
    let _entered = runtime.enter();
    for (name, bytes) in [("1 KiB", 1 << 10), ("64 KiB", 1 << 16), ("1 MiB", 1 << 20)] {
        println!("\nbody of {name}");
        println!(
            "{:<44}{:>10}{:>14}{:>12}{:>12}",
            "", "ns", "allocations", "x floor", "x bare"
        );
        let mut cases = cases(bytes, &runtime);
        run(&mut cases);
        let (floor, bare) = (cases[1].median(), cases[0].median());
        for case in &mut cases {
            let (median, allocations) = (case.median(), case.allocations());
            println!(
                "{:<44}{median:>10.0}{allocations:>14.1}{:>12.2}{:>12.2}",
                case.name,
                median / floor,
                median / bare
            );
        }
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
    ];
    cases.extend(in_other_shapes(&origin));
    cases.extend(passed_by(&origin));
    cases.push(after_a_purge(
        "purge of another tag, and a hit with 1 tag",
        1,
        &origin,
    ));
    cases.push(after_a_purge(
        "purge of another tag, and a hit with 1,024",
        1024,
        &origin,
    ));
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

/// Hits of which their requesters get less, and those of a layer by the book.
fn in_other_shapes<'a>(origin: &(impl Origin + 'a)) -> Vec<Case<'a>> {
    let mute = || mute(CacheLayer::builder());
    vec![
        Case::new(
            "hit answered 304, no status",
            || with(header::IF_NONE_MATCH, "\"33a64df551425fcc\""),
            ready(warm(mute(), origin.clone())),
        ),
        Case::new(
            "hit answered 206, no status",
            || with(header::RANGE, "bytes=0-99"),
            ready(warm(mute(), origin.clone())),
        ),
        Case::new(
            "hit by the book, no status",
            get,
            ready(warm(mute().rfc9111(), origin.clone())),
        ),
        Case::new(
            "hit by the book, max-age asked, no status",
            || with(header::CACHE_CONTROL, "max-age=30"),
            ready(warm(mute().rfc9111(), origin.clone())),
        ),
    ]
}

fn passed_by<'a>(origin: &(impl Origin + 'a)) -> Vec<Case<'a>> {
    let quiet = || CacheLayer::builder().status_header(false);
    let mute = || mute(CacheLayer::builder());
    vec![
        Case::new(
            "bypass, no status",
            options,
            ready(warm(mute(), origin.clone())),
        ),
        Case::new(
            "bypass, status header off",
            options,
            ready(warm(quiet(), origin.clone())),
        ),
        Case::new(
            "bypass, as it comes",
            options,
            ready(warm(CacheLayer::builder(), origin.clone())),
        ),
        Case::new(
            "POST, which purges its target, no status",
            post,
            ready(warm(mute(), origin.clone())),
        ),
    ]
}

/// A hit that has to be compared with a purge that came since the last one.
fn after_a_purge<'a>(name: &'static str, tags: usize, origin: &(impl Origin + 'a)) -> Case<'a> {
    let layer = mute(CacheLayer::builder()).tag_requests(move |_| {
        let tags = (0..tags).map(|tag| Tag::from(format!("item:{tag}")));
        tags.collect::<Tags>()
    });
    let handle = CacheHandle::builder().build();
    let mut hit = ready(warm(layer.handle(&handle), origin.clone()));
    Case::new(name, get, move |request| {
        let mut purge = handle.purge(Tag::new("other")).into_future();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(purge.as_mut().poll(&mut cx).is_ready());
        hit(request);
    })
}

fn mute(builder: CacheLayerBuilder) -> CacheLayerBuilder {
    builder.status_header(false).status_extension(false)
}

/// Answers at once, with the headers of an ordinary page.
fn origin(body: Bytes) -> impl Origin {
    service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Full::new(body.clone()));
        *response.headers_mut() = page_headers();
        std::future::ready(Ok(response))
    })
}

/// A service that answers at once.
trait Origin:
    Service<
        Request<Body>,
        Response = Response<Body>,
        Error = Infallible,
        Future = std::future::Ready<Result<Response<Body>, Infallible>>,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Origin for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future = std::future::Ready<Result<Response<Body>, Infallible>>,
        > + Clone
        + Send
        + 'static
{
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

fn with(name: HeaderName, value: &'static str) -> Request<Body> {
    let mut request = get();
    let value = HeaderValue::from_static(value);
    request.headers_mut().insert(name, value);
    request
}

fn options() -> Request<Body> {
    let mut request = get();
    *request.method_mut() = Method::OPTIONS;
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
    runtime().block_on(async {
        let Ok(response) = service.call(get()).await;
        response.into_body().collect().await.expect("a body");
    });
    service
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

//! Above and below tower-http's layers.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::ACCEPT_ENCODING};
use http_body_util::Full;
use tower::{ServiceBuilder, service_fn};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};

use crate::support::{Answer, ask, cache, get, hits_at_the_second};

type Body = Full<Bytes>;

/// Long enough to be compressed.
const TEXT: &str =
    "hello hello hello hello hello hello hello hello hello hello hello hello hello hello";

async fn hello(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    let response = Response::builder().header("content-type", "text/plain");
    Ok(response.body(Full::from(TEXT)).unwrap())
}

async fn slow_hello(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    hello(request).await
}

#[tokio::test]
async fn it_stands_above_and_below_traces() {
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(cache())
        .layer(TraceLayer::new_for_http())
        .service_fn(hello);
    hits_at_the_second(&service, || get("/")).await;
}

fn accepting_gzip() -> Request<Body> {
    let mut request = get("/");
    request
        .headers_mut()
        .insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    request
}

fn is_gzip(answer: &Answer) -> bool {
    let magic = answer.body.starts_with(&[0x1f, 0x8b]);
    assert_eq!(
        magic,
        answer.header("content-encoding") == Some("gzip"),
        "{answer:?}"
    );
    assert!(magic || answer.body == TEXT);
    magic
}

#[tokio::test]
async fn what_is_compressed_above_it_is_stored_plain() {
    let service = ServiceBuilder::new()
        .layer(CompressionLayer::new())
        .layer(cache())
        .service_fn(hello);
    assert!(is_gzip(&hits_at_the_second(&service, accepting_gzip).await));
    let plain = ask(&service, get("/")).await;
    assert!(plain.is_hit() && !is_gzip(&plain));
}

#[tokio::test]
async fn what_is_compressed_below_it_is_for_those_who_accept_it() {
    let service = ServiceBuilder::new()
        .layer(cache())
        .layer(CompressionLayer::new())
        .service_fn(hello);
    for _ in 0..2 {
        assert!(is_gzip(&ask(&service, accepting_gzip()).await));
        assert!(!is_gzip(&ask(&service, get("/")).await));
    }
    assert!(ask(&service, accepting_gzip()).await.is_hit());
    assert!(ask(&service, get("/")).await.is_hit());
}

#[tokio::test]
async fn those_who_wait_for_each_other_get_what_they_accept() {
    let service = ServiceBuilder::new()
        .layer(cache())
        .layer(CompressionLayer::new())
        .service_fn(slow_hello);
    let (gzip, plain, other_gzip, other_plain) = tokio::join!(
        ask(&service, accepting_gzip()),
        ask(&service, get("/")),
        ask(&service, accepting_gzip()),
        ask(&service, get("/")),
    );
    assert!(is_gzip(&gzip) && is_gzip(&other_gzip));
    assert!(!is_gzip(&plain) && !is_gzip(&other_plain));
}

/// The first call goes wrong as told; the ones after it say hello.
fn wrong_at_first<F>(wrong: impl Fn() -> F + Clone + Send + 'static) -> impl Inner
where
    F: Future<Output = ()> + Send,
{
    let calls = Arc::new(AtomicU64::new(0));
    service_fn(move |request| {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        let wrong = wrong.clone();
        async move {
            if first {
                wrong().await;
            }
            hello(request).await
        }
    })
}

trait Inner:
    tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}
impl<S> Inner for S where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

fn soon() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(1))
}

#[tokio::test(start_paused = true)]
async fn what_is_timed_out_below_it_is_not_stored() {
    let service = ServiceBuilder::new()
        .layer(cache())
        .layer(soon())
        .service(wrong_at_first(|| {
            tokio::time::sleep(Duration::from_secs(5))
        }));
    assert_eq!(ask(&service, get("/")).await.status, 408);
    assert_eq!(ask(&service, get("/")).await.body, TEXT);
    assert!(ask(&service, get("/")).await.is_hit());
}

#[tokio::test(start_paused = true)]
async fn what_is_timed_out_above_it_is_stored_for_the_next() {
    let service = ServiceBuilder::new()
        .layer(soon())
        .layer(cache())
        .service(wrong_at_first(|| {
            tokio::time::sleep(Duration::from_secs(5))
        }));
    assert_eq!(ask(&service, get("/")).await.status, 408);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let next = ask(&service, get("/")).await;
    assert!(next.is_hit() && next.body == TEXT);
}

#[tokio::test]
async fn a_panic_is_caught_below_it_or_above_it_and_not_stored() {
    let panics = || wrong_at_first(|| async { panic!("as the test wants it") });
    let below = ServiceBuilder::new()
        .layer(cache())
        .layer(CatchPanicLayer::new())
        .service(panics());
    assert_eq!(ask(&below, get("/")).await.status, 500);
    hits_at_the_second(&below, || get("/")).await;

    let above = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(cache())
        .service(panics());
    assert_eq!(ask(&above, get("/")).await.status, 500);
    hits_at_the_second(&above, || get("/")).await;
}

/// Numbers, from one.
#[derive(Clone, Default)]
struct Numbers(Arc<AtomicU64>);

impl MakeRequestId for Numbers {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Some(RequestId::new(HeaderValue::from(number)))
    }
}

#[tokio::test]
async fn a_request_id_given_above_it_is_everybodys_own() {
    let service = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(Numbers::default()))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(cache())
        .layer(PropagateRequestIdLayer::x_request_id())
        .service_fn(hello);
    let first = hits_at_the_second(&service, || get("/")).await;
    assert_eq!(first.header("x-request-id"), Some("1"));
    let third = ask(&service, get("/")).await;
    assert!(third.is_hit());
    assert_eq!(third.header("x-request-id"), Some("3"));
}

#[tokio::test]
async fn a_request_id_given_below_it_reaches_no_other_requester() {
    let service = ServiceBuilder::new()
        .layer(cache())
        .layer(SetRequestIdLayer::x_request_id(Numbers::default()))
        .layer(PropagateRequestIdLayer::x_request_id())
        .service_fn(slow_hello);
    let (led, followed) = tokio::join!(ask(&service, get("/")), ask(&service, get("/")));
    let hit = ask(&service, get("/")).await;
    assert!(
        followed
            .header("cache-status")
            .unwrap()
            .contains("collapsed")
            && hit.is_hit()
    );
    let ids = [led, followed, hit].map(|answer| answer.header("x-request-id").map(str::to_owned));
    assert_eq!(ids, [Some("1".to_owned()), None, None]);
}

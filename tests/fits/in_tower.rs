//! On bare services, boxed ones, and hyper's client.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get as route};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{
    BoxError, Layer, ServiceBuilder, ServiceExt, service_fn,
    util::{BoxCloneService, BoxCloneSyncService},
};
use tower_response_cache::{
    BodyCache, BodyCacheLayer, Cache, CacheLayer, ResponseBody, ResponseFuture,
};

use crate::support::{Serving, cache, client, get, hits_at_the_second};

async fn hello(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

#[tokio::test]
async fn it_stands_on_a_function() {
    let service = cache().layer(service_fn(hello));
    let answer = hits_at_the_second(&service, || get("/")).await;
    assert_eq!(answer.body, "hello");
}

#[tokio::test]
async fn it_stands_on_a_boxed_service_and_in_one() {
    let service = cache().layer(BoxCloneSyncService::new(service_fn(hello)));
    hits_at_the_second(&service, || get("/")).await;
    hits_at_the_second(
        &BoxCloneSyncService::new(cache().layer(service_fn(hello))),
        || get("/"),
    )
    .await;

    let service = cache().layer(BoxCloneService::new(service_fn(hello)));
    hits_at_the_second(&service, || get("/")).await;
    hits_at_the_second(&cache().layer(service_fn(hello)).boxed_clone(), || get("/")).await;
}

#[tokio::test]
async fn it_stands_on_a_service_of_any_error() {
    async fn failing(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        match request.uri().path() {
            "/" => hello(request).await.map_err(BoxError::from),
            _ => Err("there is nothing here".into()),
        }
    }
    let service = ServiceBuilder::new()
        .layer(cache())
        .timeout(Duration::from_secs(5))
        .concurrency_limit(1)
        .service_fn(failing);
    hits_at_the_second(&service, || get("/")).await;
    let error: BoxError = service.oneshot(get("/nothing")).await.unwrap_err();
    assert_eq!(error.to_string(), "there is nothing here");
}

#[tokio::test]
async fn it_stands_in_another_cache() {
    let service = ServiceBuilder::new()
        .layer(cache())
        .layer(cache())
        .service_fn(hello);
    hits_at_the_second(&service, || get("/")).await;
}

#[tokio::test]
async fn it_stands_on_a_client() {
    let calls = Arc::new(AtomicU64::new(0));
    let called = calls.clone();
    let answer = async move || called.fetch_add(1, Ordering::Relaxed).to_string();
    let server = Serving::router(Router::new().route("/", route(answer))).await;

    let client = ServiceBuilder::new().layer(cache()).service(client());
    hits_at_the_second(&client, || get(server.uri("/"))).await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

const fn is_clone_send_and_sync<T: Clone + Send + Sync>() {}
const fn is_send<T: Send>() {}

#[expect(dead_code, reason = "that it compiles is what is asked")]
const fn a_cached_service_is_clone_send_and_sync_where_its_service_is<S: Clone + Send + Sync>() {
    is_clone_send_and_sync::<Cache<S>>();
    is_clone_send_and_sync::<BodyCache<S>>();
}

#[expect(dead_code, reason = "that it compiles is what is asked")]
const fn a_future_is_send_where_its_service_is<S, B>()
where
    B: Send,
    S: Send + tower::Service<Request<B>, Response = Response<axum::body::Body>>,
    S::Future: Send,
    S::Error: Send,
{
    is_send::<ResponseFuture<S, B, axum::body::Body>>();
}

/// Axum's body is not `Sync`.
const _: () = {
    is_clone_send_and_sync::<CacheLayer>();
    is_clone_send_and_sync::<BodyCacheLayer>();
    is_send::<ResponseBody<axum::body::Body>>();
    is_send::<ResponseFuture<Router, axum::body::Body, axum::body::Body>>();
};

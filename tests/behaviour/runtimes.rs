//! Runtimes without a timer, and panics of the application's own code.

use std::time::Duration;

use futures_util::FutureExt;
use http::Method;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, ServiceExt};
use tower_response_cache::{CacheLayer, Key, Reason};

use crate::common::{Body, Origin, full, get, ok, request, with};

/// As the helpers do it, which wait for no longer than a timer says.
async fn reason<S, B>(service: &S, request: http::Request<Body>) -> Option<Reason>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    use http_body_util::BodyExt;
    use tower_response_cache::CacheStatus;

    let response = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    assert!(!body.collect().await.unwrap().to_bytes().is_empty());
    let status: &CacheStatus = parts.extensions.get().unwrap();
    assert!(!status.is_hit() || status.reason().is_none());
    status.reason()
}

fn without_timer(threads: usize) -> Runtime {
    match threads {
        0 => Builder::new_current_thread().build().unwrap(),
        threads => Builder::new_multi_thread()
            .worker_threads(threads)
            .build()
            .unwrap(),
    }
}

#[test]
fn without_a_timer_requests_that_miss_bypass_the_cache() {
    let origin = Origin::new(|_| ok("page"));
    let layer = CacheLayer::builder()
        .ttl(Duration::from_secs(60))
        .stale_while_revalidate(Duration::from_secs(60))
        .eager_refresh(0.001)
        .unwrap()
        .build();
    let cache = layer.layer(origin.clone());
    let by_body = CacheLayer::builder().key(Key::new().body(64));
    let by_body = by_body.methods([Method::POST]).unwrap().build();
    let by_body = by_body.layer(origin.clone());
    for threads in [0, 2, 0] {
        let runtime = without_timer(threads);
        let (cache, by_body, layer) = (cache.clone(), by_body.clone(), layer.clone());
        let asked = runtime.spawn(async move {
            for _ in 0..2 {
                assert_eq!(reason(&cache, get("/")).await, Some(Reason::NoTimer));
                assert_eq!(
                    reason(&cache, request("POST", "/")).await,
                    Some(Reason::Method)
                );
                let search = request("POST", "/").map(|_| full("red shoes"));
                assert_eq!(reason(&by_body, search).await, Some(Reason::NoTimer));
                let told = layer.explain(&get("/").into_parts().0);
                assert!(told.to_string().contains("no-timer"), "{told}");
            }
            let _ = layer.handle().purge_all().await.unwrap();
            let handle = layer.handle();
            assert!(handle.shutdown(Duration::ZERO).now_or_never().is_some());
        });
        runtime.block_on(asked).unwrap();
    }
}

#[test]
fn a_runtime_with_a_timer_is_told_from_one_without_on_the_same_thread() {
    let origin = Origin::new(|_| ok("page"));
    let layer = CacheLayer::new(Duration::from_secs(60));
    let cache = layer.layer(origin.clone());
    let without = without_timer(0);
    assert_eq!(
        without.block_on(reason(&cache, get("/"))),
        Some(Reason::NoTimer)
    );
    let with = Builder::new_current_thread().enable_time().build().unwrap();
    assert_eq!(with.block_on(reason(&cache, get("/"))), None);
    // A hit needs no timer.
    assert_eq!(without.block_on(reason(&cache, get("/"))), None);
    assert_eq!(
        without.block_on(reason(&cache, get("/other"))),
        Some(Reason::NoTimer)
    );
    assert_eq!(with.block_on(reason(&cache, get("/other"))), None);
    assert_eq!(origin.calls(), 4);
}

#[cfg(feature = "tracing")]
#[test]
fn a_missing_timer_is_one_warning() {
    let written = crate::events::Written::default();
    let _guard = written.start();
    let cache = CacheLayer::new(Duration::from_secs(60)).layer(Origin::new(|_| ok("page")));
    let runtime = without_timer(0);
    for _ in 0..3 {
        let passed = runtime.block_on(reason(&cache, get("/")));
        assert_eq!(passed, Some(Reason::NoTimer));
    }
    assert_eq!(written.with("WARN tower_response_cache::clock").len(), 1);
}

// What is recorded of a request to be sent again has none of its conditions.
#[tokio::test]
async fn a_key_closure_that_panics_on_a_recorded_request_costs_nothing_but_the_refresh() {
    let key = Key::new().part("since", |parts| {
        let since = parts.headers.get("if-modified-since");
        let since = since.expect("every client says what it has");
        Some(since.to_str().unwrap().to_owned())
    });
    let layer = CacheLayer::builder()
        .key(key)
        .ttl(Duration::from_secs(60))
        .refreshable()
        .build();
    let origin = Origin::new(|_| ok("page"));
    let cache = layer.layer(origin.map_request(|request: http::Request<axum::body::Body>| request));
    let ask = || {
        let request = http::Request::get("/")
            .header("host", "a")
            .header("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
        let request = request.body(axum::body::Body::empty()).unwrap();
        let cache = cache.clone();
        async move { cache.oneshot(request).await.unwrap() }
    };
    for is_hit in [false, true] {
        let response = ask().await;
        let status = response
            .extensions()
            .get::<tower_response_cache::CacheStatus>();
        assert_eq!(status.unwrap().is_hit(), is_hit);
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), "page");
    }
}

// The panic is the requester's own, and is not taken for the end of the runtime.
#[tokio::test]
async fn a_key_closure_that_panics_panics_with_its_own_message() {
    let key = Key::new().part("device", |parts| {
        let device = parts
            .headers
            .get("x-device")
            .expect("every client says its device");
        Some(device.to_str().unwrap().to_owned())
    });
    let layer = CacheLayer::builder()
        .key(key)
        .ttl(Duration::from_secs(60))
        .build();
    let cache = layer.layer(Origin::new(|_| ok("page")));
    let panicked = {
        let cache = cache.clone();
        tokio::spawn(async move { reason(&cache, get("/")).await })
    };
    let panic = panicked.await.unwrap_err().into_panic();
    let said = panic.downcast_ref::<String>().map_or("", String::as_str);
    let said = panic.downcast_ref::<&str>().copied().unwrap_or(said);
    assert!(said.contains("every client says its device"), "{said}");
    let answered = reason(&cache, with(get("/"), "x-device", "phone")).await;
    assert_eq!(answered, None);
}

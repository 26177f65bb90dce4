//! What the cache may take, and when it gives it back.

use std::{pin::pin, task::Waker, time::Duration};

use http::Request;
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{CacheHandle, CacheLayer, CacheLayerBuilder, FillMode};

use crate::common::{Body, Origin, get, ok, send, settle, with};

const SECOND: Duration = Duration::from_secs(1);

/// How many entries are in memory after so many seconds each, though nobody asks for them.
async fn entries_after<const N: usize>(
    layer: CacheLayerBuilder,
    etag: bool,
    seconds: [u64; N],
) -> [u64; N] {
    let handle = CacheHandle::builder().build();
    let layer = layer.handle(&handle).build();
    let service = layer.layer(Origin::new(move |_| {
        let page = ok("page");
        if etag {
            with(page, "etag", "\"1\"")
        } else {
            page
        }
    }));
    for page in 0..600 {
        send(&service, get(&format!("/{page}"))).await;
    }
    let stored = tokio::time::Instant::now();
    let mut entries = [0; N];
    for (entries, seconds) in entries.iter_mut().zip(seconds) {
        tokio::time::sleep_until(stored + SECOND * u32::try_from(seconds).unwrap()).await;
        *entries = handle.stats().entries;
    }
    entries
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn responses_leave_within_a_minute_of_the_end_of_their_stale_windows_unasked() {
    let layer = || CacheLayer::builder().ttl(SECOND * 100);
    assert_eq!(entries_after(layer(), false, [99, 161]).await, [600, 0]);
    let stale = || layer().stale_while_revalidate(SECOND * 100);
    assert_eq!(entries_after(stale(), false, [199, 261]).await, [600, 0]);
    let in_need = layer().stale_if_error(SECOND * 200);
    assert_eq!(entries_after(in_need, false, [299, 361]).await, [600, 0]);
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn a_response_with_a_validator_is_kept_for_revalidation_as_long_as_it_was_fresh() {
    let layer = |ttl: u32| CacheLayer::builder().ttl(SECOND * ttl);
    assert_eq!(entries_after(layer(100), true, [199, 261]).await, [600, 0]);
    // At least a minute, at most an hour.
    assert_eq!(entries_after(layer(5), true, [64, 126]).await, [600, 0]);
    assert_eq!(
        entries_after(layer(7200), true, [10_799, 10_861]).await,
        [600, 0]
    );
    let chosen = layer(100).keep_for_revalidation(SECOND * 1000);
    assert_eq!(entries_after(chosen, true, [1099, 1161]).await, [600, 0]);
    let not_kept = layer(100).keep_for_revalidation(Duration::ZERO);
    assert_eq!(entries_after(not_kept, true, [99, 161]).await, [600, 0]);
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn a_response_of_a_refreshable_layer_is_kept_as_long_as_it_was_fresh() {
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder()
        .handle(&handle)
        .ttl(SECOND * 100)
        .refreshable()
        .build();
    let service = layer.layer(
        Origin::counting(&[])
            .map_request(|request: Request<http_body_util::Full<bytes::Bytes>>| request),
    );
    let request = Request::get("/p").header("host", "shop.example");
    let request = request.body(http_body_util::Full::default()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    tokio::time::sleep(SECOND * 199).await;
    assert_eq!(handle.stats().entries, 1);
    tokio::time::sleep(SECOND * 62).await;
    assert_eq!(handle.stats().entries, 0);
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn a_304_brings_back_what_was_kept_for_revalidation() {
    let origin = Origin::new(|request| {
        let mut page = with(ok("page"), "etag", "\"1\"");
        if request.headers().contains_key("if-none-match") {
            *page.status_mut() = http::StatusCode::NOT_MODIFIED;
        }
        page
    });
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder().handle(&handle).ttl(SECOND * 100);
    let service = layer.build().layer(origin);
    send(&service, get("/p")).await;
    tokio::time::sleep(SECOND * 150).await;
    assert_eq!(send(&service, get("/p")).await.text(), "page");
    tokio::time::sleep(SECOND * 99).await;
    assert!(send(&service, get("/p")).await.is_hit());
    tokio::time::sleep(SECOND * 162).await;
    assert_eq!(handle.stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn no_task_outlives_the_handle_and_its_layers() {
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder().handle(&handle).ttl(SECOND * 100);
    let service = layer.build().layer(Origin::counting(&[]));
    send(&service, get("/p")).await;
    settle().await;
    assert_eq!(alive(), 1, "it looks for what expires");
    drop(service);
    settle().await;
    assert_eq!(alive(), 1, "the handle is there");
    drop(handle);
    settle().await;
    assert_eq!(alive(), 0);
}

#[test]
fn outside_a_runtime_nothing_panics_and_the_next_response_stored_inside_one_begins_it() {
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder()
        .handle(&handle)
        .fill_mode(FillMode::Inline)
        .ttl(Duration::from_millis(1));
    let mut service = layer.build().layer(Origin::counting(&[]));
    let mut ask = |path: &str| {
        let mut context = std::task::Context::from_waker(Waker::noop());
        let ready = Service::<Request<Body>>::poll_ready(&mut service, &mut context);
        assert!(ready.is_ready());
        let mut answer = pin!(service.call(get(path)));
        let std::task::Poll::Ready(Ok(response)) = answer.as_mut().poll(&mut context) else {
            panic!("the origin answers at once");
        };
        let mut body = pin!(http_body_util::BodyExt::collect(response.into_body()));
        assert!(body.as_mut().poll(&mut context).is_ready());
    };
    ask("/1");
    assert_eq!(handle.stats().entries, 1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        ask("/2");
        tokio::time::sleep(SECOND * 61).await;
    });
    assert_eq!(handle.stats().entries, 0);
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn the_name_of_a_dropped_layer_is_known_for_as_long_as_something_is_stored_under_it() {
    let handle = CacheHandle::builder().build();
    let named = |name: &str| {
        let layer = CacheLayer::builder().handle(&handle).name(name);
        layer.ttl(SECOND * 100).build().layer(Origin::counting(&[]))
    };
    let request = get("/p").into_parts().0;
    let layers = async || handle.purge_request(&request).await.unwrap().marks;
    for tenant in 0..1000 {
        drop(named(&format!("tenant {tenant}")));
    }
    assert_eq!(layers().await, 0);
    let service = named("pages");
    send(&service, get("/q")).await;
    drop(service);
    assert_eq!(
        layers().await,
        1,
        "another of that name will answer with it"
    );
    let service = named("pages");
    assert!(send(&service, get("/q")).await.is_hit());
    drop(service);
    tokio::time::sleep(SECOND * 161).await;
    // Memory that was removed is released a little later.
    for page in 0..1000 {
        send(&named("others"), get(&format!("/{page}"))).await;
    }
    assert_eq!(layers().await, 1, "of the others alone");
}

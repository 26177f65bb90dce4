//! What held in a review of stale answers, refreshes and purges.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use concurrency::{
    Gate, Inner, Probe, Script, Step, answers, ask, frames, get, get_with, ok, origin, panics,
    settled, spawn_ask, waiters, with_status,
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    CacheHandle, CacheLayer, CacheLayerBuilder, Decision, FillMode, Key, Purge, RefreshableCache,
    Tag, Tags, scope,
};

const SECOND: Duration = Duration::from_secs(1);
const PAGES: usize = 4;
const ALL: Tag = Tag::new("all");

/// The version of the data, and the newest of which a hard purge has returned.
#[derive(Clone, Default)]
struct Data {
    version: Arc<AtomicUsize>,
    purged: Arc<AtomicUsize>,
}

impl Data {
    /// Pages of the version at which they begin to be made, which say so in their entity tags; now and then one fails.
    fn inner(&self) -> impl Inner + use<> {
        let data = self.clone();
        origin(&Probe::default(), move |nth, request| {
            let version = data.version.load(SeqCst);
            async move {
                sleep(Duration::from_millis(nth as u64 % 3)).await;
                let etag = format!("\"{version}\"");
                let known = request.headers().get("if-none-match");
                let mut response = match known {
                    _ if nth % 13 == 0 => with_status(StatusCode::BAD_GATEWAY, ""),
                    Some(known) if *known == *etag => with_status(StatusCode::NOT_MODIFIED, ""),
                    _ if nth % 2 == 0 => ok(version.to_string()),
                    _ => {
                        let body = [
                            Step::Wait(SECOND / 1000),
                            Step::Data(version.to_string().into()),
                        ];
                        http::Response::new(Script::new(body).boxed_unsync())
                    }
                };
                response.headers_mut().insert("etag", etag.parse().unwrap());
                let page = Tag::from(request.uri().path().to_owned());
                response.extensions_mut().insert(Tags::from([ALL, page]));
                Ok(response)
            }
        })
    }

    /// Changes the data, and purges each page of before in this manner.
    async fn change(&self, handle: &CacheHandle, manner: usize) {
        let guard = (manner == 0).then(|| handle.begin_purge(ALL));
        let version = self.version.fetch_add(1, SeqCst) + 1;
        let pages = || (0..PAGES).map(|page| Tag::from(format!("/{page}")));
        let _ = match (manner, guard) {
            (0, Some(guard)) => guard.commit().await.unwrap(),
            (1, _) => handle.purge_all().await.unwrap(),
            (2, _) => handle.purge(pages().collect::<Tags>()).await.unwrap(),
            (3, _) => handle.purge(ALL).hold_off(SECOND / 500).await.unwrap(),
            _ => {
                for page in pages() {
                    let _ = handle.purge(Tags::all_of([ALL, page])).await.unwrap();
                }
                handle.purge(Tag::new("other")).await.unwrap()
            }
        };
        self.purged.fetch_max(version, SeqCst);
    }
}

fn path(nth: usize) -> String {
    format!("/{}", nth % PAGES)
}

fn stale_layer(handle: &CacheHandle) -> CacheLayerBuilder {
    CacheLayer::builder()
        .handle(handle)
        .ttl(SECOND / 100)
        .eager_refresh(0.5)
        .unwrap()
        .stale_while_revalidate(SECOND / 50)
        .stale_if_error(SECOND * 3600)
        .retry_after(SECOND / 1000)
}

/// Asks again and again.
async fn reads<I: Inner>(cache: RefreshableCache<I>, data: Data) {
    for nth in 0..150 {
        let floor = data.purged.load(SeqCst);
        let answer = ask(&cache, get(&path(nth))).await.unwrap();
        if answer.status() == StatusCode::OK {
            let version: usize = answer.text().parse().unwrap();
            assert!(
                version >= floor,
                "{version} < {floor}: {:?}",
                answer.cache()
            );
        }
        tokio::task::yield_now().await;
    }
}

/// Soft purges, refreshes and warming, again and again, until it is stopped.
async fn renews<I: Inner>(cache: RefreshableCache<I>, handle: CacheHandle) {
    for manner in (0..5).cycle() {
        let purge: Purge = match manner {
            0 => handle.purge(ALL).soft(),
            1 => handle.purge_all().soft(),
            2 => handle.purge(ALL).refresh(),
            3 => handle.purge_all().refresh(),
            _ => {
                let pages: Vec<_> = (0..PAGES).map(|page| get(&path(page))).collect();
                let _ = handle.warm(cache.clone(), pages).finish().await;
                continue;
            }
        };
        let _ = purge.await.unwrap();
        sleep(SECOND / 1000).await;
    }
}

// Invariants 36, 38, 40, 41.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_a_page_is_renewed_none_is_older_than_a_hard_purge_that_has_returned() {
    for (max_marks, mode) in [
        (2, FillMode::Detached),
        (100, FillMode::Inline),
        (100, FillMode::Detached),
    ] {
        let handle = CacheHandle::builder().max_marks(max_marks).build();
        let data = Data::default();
        let layer = stale_layer(&handle).fill_mode(mode).refreshable().build();
        let cache = layer.layer(data.inner());
        let readers: Vec<_> = (0..8)
            .map(|_| tokio::spawn(reads(cache.clone(), data.clone())))
            .collect();
        let renewing = tokio::spawn(renews(cache.clone(), handle.clone()));
        let (changes, changing) = (data.clone(), handle.clone());
        let changing = tokio::spawn(async move {
            for manner in (0..5).cycle() {
                changes.change(&changing, manner).await;
                sleep(SECOND / 300).await;
            }
        });
        for reader in readers {
            tokio::time::timeout(SECOND * 100, reader)
                .await
                .unwrap()
                .unwrap();
        }
        renewing.abort();
        changing.abort();
        settled(&handle).await;
    }
}

// Invariant 19.
#[tokio::test(start_paused = true)]
async fn no_duration_however_long_or_short_panics() {
    for (long, mode) in [Duration::MAX, Duration::ZERO, SECOND]
        .into_iter()
        .flat_map(|long| [(long, FillMode::Detached), (long, FillMode::Inline)])
    {
        for which in 0..7 {
            let at = |nth| if nth == which { long } else { SECOND };
            let layer = CacheLayer::builder()
                .ttl(at(0))
                .stale_while_revalidate(at(1))
                .stale_if_error(at(2))
                .retry_after(at(3))
                .wait_timeout(at(4))
                .fill_timeout(at(5))
                .eager_refresh(0.999)
                .unwrap()
                .jitter(0.5)
                .unwrap()
                .fill_mode(mode)
                .refreshable()
                .build();
            all_ways(layer.handle(), &layer.layer(failing_now_and_then()), at(6)).await;
        }
    }
}

fn failing_now_and_then() -> impl Inner {
    origin(&Probe::default(), |nth, _| async move {
        let failed = nth % 2 == 0;
        let mut response = if failed {
            with_status(StatusCode::BAD_GATEWAY, "")
        } else {
            ok("page")
        };
        response.extensions_mut().insert(Tags::from(ALL));
        Ok(response)
    })
}

async fn all_ways<I: Inner>(handle: CacheHandle, cache: &RefreshableCache<I>, lag: Duration) {
    for nth in 0..12 {
        let mut request = get("/");
        if nth % 5 == 4 {
            *request.method_mut() = http::Method::HEAD;
        }
        ask(cache, request).await.unwrap();
        let _ = handle.explain(&Request::new(()).into_parts().0);
        if nth % 3 == 2 {
            let _ = handle.purge(ALL).soft().hold_off(lag).await.unwrap();
        }
        sleep(SECOND / 2).await;
    }
    settled(&handle).await;
    assert_eq!(handle.shutdown(Duration::MAX).await.still_running, 0);
}

// Invariant 27.
#[tokio::test(start_paused = true)]
async fn a_panic_of_the_users_closure_in_the_background_is_a_failed_attempt() {
    let is_bad = Arc::new(AtomicUsize::new(0));
    let now = is_bad.clone();
    let tags = move |_: &http::request::Parts| {
        if now.load(SeqCst) == 1 {
            panics()
        } else {
            Tags::new()
        }
    };
    let layer = CacheLayer::builder()
        .ttl(SECOND)
        .stale_while_revalidate(SECOND * 3600)
        .tag_requests(tags)
        .build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), |nth, _| async move {
        Ok(ok(nth.to_string()))
    }));
    ask(&cache, get("/")).await.unwrap();
    sleep(SECOND * 2).await;
    is_bad.store(1, SeqCst);
    for _ in 0..3 {
        assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "1");
        settled(&handle).await;
    }
    assert_eq!(handle.stats().refreshes, 1);
    is_bad.store(0, SeqCst);
    sleep(SECOND * 20).await;
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "1");
    settled(&handle).await;
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "2");
}

#[tokio::test(start_paused = true)]
async fn an_application_whose_state_holds_the_handle_is_freed_with_its_layer() {
    let layer = CacheLayer::builder().refreshable().build();
    let handle = layer.handle();
    let (alive, state) = (Arc::new(()), handle.clone());
    let held = alive.clone();
    let cache = layer.layer(origin(&Probe::default(), move |_, _| {
        let _state = (&held, &state);
        async { Ok(ok("page")) }
    }));
    ask(&cache, get("/")).await.unwrap();
    settled(&handle).await;
    assert_eq!(handle.stats().entries, 1);
    drop((cache, layer, handle));
    sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&alive), 1);
}

// Invariant 38.
#[tokio::test(start_paused = true)]
async fn what_began_after_a_soft_purge_takes_the_place_of_what_began_before() {
    let layer = CacheLayer::builder().ttl(SECOND * 3600).build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), move |nth, _| async move {
        sleep(SECOND * if nth == 1 { 3 } else { 0 }).await;
        let body = Script::new([Step::Wait(SECOND * 5), Step::Data("new".into())]);
        let mut response = if nth == 1 {
            ok("old")
        } else {
            http::Response::new(body.boxed_unsync())
        };
        response.extensions_mut().insert(Tags::from(ALL));
        Ok(response)
    }));
    let old = spawn_ask(&cache, get("/"));
    sleep(SECOND).await;
    let _ = handle.purge(ALL).soft().await.unwrap();
    let progress = handle.warm(cache.clone(), [get("/")]).finish().await;
    assert_eq!(old.await.unwrap().unwrap().text(), "old");
    assert_eq!((progress.done, progress.failed), (1, 0));
    let answer = ask(&cache, get("/")).await.unwrap();
    assert!(answer.cache().is_hit() && !answer.cache().is_stale());
    assert_eq!(answer.text(), "new");
}

const HANDLER: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn a_refresh_asks_with_the_headers_that_a_closure_put_into_the_key() {
    let key = Key::new().part("api", |parts| {
        Some(parts.headers.get("x-api-version")?.as_bytes().to_vec())
    });
    let layer = CacheLayer::builder()
        .key(key)
        .stale_while_revalidate(SECOND * 3600)
        .refreshable()
        .build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), |_, request| async move {
        let version = request.headers().get("x-api-version");
        let mut response =
            ok(version.map_or("none".to_owned(), |v| v.to_str().unwrap().to_owned()));
        response.extensions_mut().insert(Tags::from(Tag::new("t")));
        Ok(response)
    }));
    let of_two = || get_with("/", "x-api-version", "2");
    assert_eq!(ask(&cache, of_two()).await.unwrap().text(), "2");
    let _ = handle.purge(Tag::new("t")).refresh().await.unwrap();
    assert_eq!(ask(&cache, of_two()).await.unwrap().text(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_304_that_names_fewer_fields_in_vary_gives_no_variant_to_others() {
    let layer = CacheLayer::builder().ttl(SECOND).build();
    let cache = layer.layer(origin(&Probe::default(), |_, request| async move {
        if request.headers().contains_key("if-none-match") {
            // The handler says the least that it may, and a layer around it (CORS) adds its own.
            let mut response = with_status(StatusCode::NOT_MODIFIED, "");
            response
                .headers_mut()
                .insert("vary", "origin".parse().unwrap());
            return Ok(response);
        }
        let tenant = request.headers()["x-tenant"].to_str().unwrap().to_owned();
        let mut response = ok(tenant);
        response
            .headers_mut()
            .insert("etag", "\"v1\"".parse().unwrap());
        response
            .headers_mut()
            .insert("vary", "x-tenant, origin".parse().unwrap());
        Ok(response)
    }));
    let of = |tenant| get_with("/", "x-tenant", tenant);
    assert_eq!(ask(&cache, of("a")).await.unwrap().text(), "a");
    sleep(SECOND * 2).await;
    assert_eq!(ask(&cache, of("a")).await.unwrap().text(), "a");
    assert_eq!(ask(&cache, of("b")).await.unwrap().text(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_hard_purge_during_a_304_sends_no_herd_to_the_inner_service() {
    let probe = Probe::default();
    let layer = CacheLayer::builder().ttl(SECOND).build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&probe, |nth, request| async move {
        sleep(HANDLER).await;
        let asked = request.headers().contains_key("if-none-match");
        let mut response = if asked {
            with_status(StatusCode::NOT_MODIFIED, "")
        } else {
            ok(nth.to_string())
        };
        response
            .headers_mut()
            .insert("etag", "\"v1\"".parse().unwrap());
        response.extensions_mut().insert(Tags::from(Tag::new("t")));
        Ok(response)
    }));
    ask(&cache, get("/")).await.unwrap();
    sleep(SECOND * 2).await;
    let renewing = spawn_ask(&cache, get("/"));
    sleep(HANDLER / 2).await;
    let _ = handle.purge(Tag::new("t")).await.unwrap();
    renewing.await.unwrap().unwrap();
    settled(&handle).await;
    let before = probe.calls();
    let _ = answers(&cache, (0..100).map(|_| get("/"))).await;
    assert_eq!(probe.calls() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn any_pause_between_attempts_can_be_told_to_who_is_turned_away() {
    let gate = Gate::closed();
    let one = std::num::NonZeroUsize::MIN;
    let handle = CacheHandle::builder().max_concurrent_fills(one).build();
    let layer = CacheLayer::builder()
        .handle(&handle)
        .wait_timeout(SECOND)
        .retry_after(Duration::MAX)
        .build();
    let waits = gate.clone();
    let cache = layer.layer(origin(&Probe::default(), move |_, _| {
        let waits = waits.clone();
        async move {
            waits.passed().await;
            Ok(ok("page"))
        }
    }));
    let first = spawn_ask(&cache, get("/a"));
    sleep(HANDLER).await;
    let answer = spawn_ask(&cache, get("/b")).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    gate.open();
    first.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_304_does_not_give_a_response_more_than_all_of_its_lifetime() {
    let probe = Probe::default();
    let layer = CacheLayer::builder().ttl(SECOND * 3600).build();
    let cache = layer.layer(origin(&probe, |nth, request| async move {
        let asked = request.headers().contains_key("if-none-match");
        let mut response = if asked {
            with_status(StatusCode::NOT_MODIFIED, "")
        } else {
            // Deep in what makes the page: a price that is good for so long.
            scope::ttl_at_most(SECOND * 5);
            ok(nth.to_string())
        };
        response
            .headers_mut()
            .insert("etag", "\"v1\"".parse().unwrap());
        Ok(response)
    }));
    let answer = ask(&cache, get("/")).await.unwrap();
    assert_eq!(answer.text(), "1");
    sleep(SECOND * 6).await;
    ask(&cache, get("/")).await.unwrap();
    assert_eq!(probe.calls(), 2);
    let ttl = ask(&cache, get("/")).await.unwrap().cache().ttl().unwrap();
    assert!(ttl <= SECOND * 5, "{ttl:?}");
}

#[tokio::test(start_paused = true)]
async fn a_soft_purge_counts_from_when_it_was_whatever_else_is_in_flight() {
    let gate = Gate::closed();
    let layer = CacheLayer::builder()
        .ttl(SECOND * 3600)
        .stale_while_revalidate(SECOND * 60)
        .build();
    let handle = layer.handle();
    let waits = gate.clone();
    let cache = layer.layer(origin(&Probe::default(), move |nth, request| {
        let waits = waits.clone();
        async move {
            if request.uri().path() == "/slow" {
                waits.passed().await;
            }
            let mut response = ok(nth.to_string());
            response.extensions_mut().insert(Tags::from(Tag::new("t")));
            Ok(response)
        }
    }));
    let slow = spawn_ask(&cache, get("/slow"));
    sleep(HANDLER).await;
    let _ = handle.purge(Tag::new("t")).soft().await.unwrap();
    sleep(SECOND * 50).await;
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "2");
    sleep(SECOND * 20).await;
    let _ = handle.purge(Tag::new("t")).soft().await.unwrap();
    let answer = ask(&cache, get("/")).await.unwrap();
    gate.open();
    slow.await.unwrap().unwrap();
    assert_eq!(answer.text(), "2", "{:?}", answer.cache());
    assert!(answer.cache().is_stale());
}

/// Counts itself.
#[derive(Clone)]
struct State {
    handle: CacheHandle,
    _alive: Arc<()>,
}

#[tokio::test(start_paused = true)]
async fn an_application_whose_extensions_hold_the_handle_is_freed_with_its_layer() {
    let layer = CacheLayer::builder().refreshable().build();
    let handle = layer.handle();
    let alive = Arc::new(());
    let state = State {
        handle: handle.clone(),
        _alive: alive.clone(),
    };
    let cache = layer.layer(origin(&Probe::default(), |_, _| async { Ok(ok("page")) }));
    let mut request = get("/");
    request.extensions_mut().insert(state.clone());
    ask(&cache, request).await.unwrap();
    settled(&handle).await;
    assert_eq!(state.handle.stats().entries, 1);
    drop((state, cache, layer, handle));
    sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_purges_and_refreshes_does_not_wait_for_its_own_answer() {
    let layer = CacheLayer::builder()
        .ttl(SECOND)
        .stale_if_error(SECOND * 3600)
        .wait_timeout(SECOND * 100)
        .refreshable()
        .build();
    let handle = layer.handle();
    let purges = handle.clone();
    let cache = layer.layer(origin(&Probe::default(), move |nth, _| {
        let purges = purges.clone();
        async move {
            if nth == 2 {
                let _ = purges.purge(Tag::new("t")).refresh().await.unwrap();
            }
            let mut response = ok(nth.to_string());
            response.extensions_mut().insert(Tags::from(Tag::new("t")));
            Ok(response)
        }
    }));
    ask(&cache, get("/")).await.unwrap();
    settled(&handle).await;
    sleep(SECOND * 2).await;
    let began = Instant::now();
    let _ = ask(&cache, get("/")).await.unwrap();
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_takes_the_lead_falls_back_whatever_was_purged_before_it_came() {
    let (other, first) = (Gate::closed(), Gate::closed());
    let layer = CacheLayer::builder()
        .ttl(SECOND)
        .stale_if_error(SECOND * 3600)
        .retry_after(Duration::ZERO)
        .build();
    let handle = layer.handle();
    let (other_waits, first_waits) = (other.clone(), first.clone());
    let cache = layer.layer(origin(&Probe::default(), move |nth, request| {
        let (other, first) = (other_waits.clone(), first_waits.clone());
        async move {
            match (request.uri().path(), nth) {
                ("/x", _) => other.passed().await,
                (_, 1) => {}
                _ => {
                    first.passed().await;
                    return Ok(with_status(StatusCode::INTERNAL_SERVER_ERROR, ""));
                }
            }
            Ok(ok(nth.to_string()))
        }
    }));
    ask(&cache, get("/")).await.unwrap();
    settled(&handle).await;
    sleep(SECOND * 2).await;
    let in_flight = spawn_ask(&cache, get("/x"));
    sleep(HANDLER).await;
    let _ = handle.purge(Tag::new("other")).await.unwrap();
    sleep(HANDLER).await;
    let leads = spawn_ask(&cache, get("/"));
    sleep(HANDLER).await;
    let follows = spawn_ask(&cache, get("/"));
    waiters(&handle, 1).await;
    other.open();
    in_flight.await.unwrap().unwrap();
    sleep(SECOND).await;
    assert_eq!(handle.stats().marks, 0);
    first.open();
    assert_eq!(leads.await.unwrap().unwrap().text(), "1");
    let follows = follows.await.unwrap().unwrap();
    assert_eq!((follows.status(), follows.text()), (StatusCode::OK, "1"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_ttl_by_is_not_said_to_be_a_runtime_that_shut_down() {
    let layer = CacheLayer::builder()
        .ttl_by(|_| std::panic::resume_unwind(Box::new("ttl_by panicked")))
        .build();
    let cache = layer.layer(origin(&Probe::default(), |_, _| async { Ok(ok("page")) }));
    let panic = spawn_ask(&cache, get("/")).await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"ttl_by panicked"));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_turned_away_sends_no_herd_to_the_inner_service() {
    let probe = Probe::default();
    let layer = CacheLayer::builder()
        .key(Key::new().ignore_authorization())
        .refreshable()
        .build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&probe, |nth, request| async move {
        sleep(HANDLER).await;
        if !request.headers().contains_key("authorization") {
            return Ok(with_status(StatusCode::UNAUTHORIZED, ""));
        }
        let mut response = ok(nth.to_string());
        response.extensions_mut().insert(Tags::from(Tag::new("t")));
        Ok(response)
    }));
    let authorized = || get_with("/", "authorization", "Bearer a");
    ask(&cache, authorized()).await.unwrap();
    settled(&handle).await;
    let purged = handle.purge(Tag::new("t")).refresh().await.unwrap();
    assert_eq!((purged.refreshed, purged.failed), (0, 1));
    let before = probe.calls();
    let _ = answers(&cache, (0..100).map(|_| authorized())).await;
    assert_eq!(probe.calls() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_pins_nothing_stale_for_others() {
    let layer = CacheLayer::builder()
        .ttl(SECOND)
        .stale_if_error(SECOND * 100_000)
        .retry_after(SECOND * 10)
        .wait_timeout(SECOND * 5)
        .fill_mode(FillMode::Inline)
        .build();
    let cache = layer.layer(origin(&Probe::default(), |nth, _| async move {
        Ok(http::Response::new(
            Script::new(frames(&nth.to_string(), 1)).boxed_unsync(),
        ))
    }));
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "1");
    sleep(SECOND * 2).await;
    let unread = cache.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "1");
    sleep(SECOND * 3600).await;
    let answer = ask(&cache, get("/")).await.unwrap();
    assert_eq!(answer.text(), "3", "{:?}", answer.cache());
    drop(unread);
}

#[test]
fn a_refresh_outside_a_runtime_does_not_panic() {
    let layer = CacheLayer::builder().refreshable().build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), |_, _| async {
        let mut response = ok("page");
        response.extensions_mut().insert(Tags::from(Tag::new("t")));
        Ok(response)
    }));
    futures_executor_block_on(async {
        let response = cache.clone().oneshot(get("/")).await.unwrap();
        response.into_body().collect().await.unwrap();
        let _ = handle.purge(Tag::new("t")).refresh().await.unwrap();
    });
}

fn futures_executor_block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..1000 {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("hangs")
}

#[tokio::test(start_paused = true)]
async fn explain_knows_of_the_flight_of_an_older_variant() {
    let gate = Gate::closed();
    let layer = CacheLayer::builder().ttl(SECOND).build();
    let waits = gate.clone();
    let cache = layer.layer(origin(&Probe::default(), move |nth, _| {
        let waits = waits.clone();
        async move {
            if nth > 2 {
                waits.passed().await;
            }
            let mut response = ok(nth.to_string());
            let vary = if nth == 1 { "x-one" } else { "x-one, x-two" };
            response.headers_mut().insert("vary", vary.parse().unwrap());
            Ok(response)
        }
    }));
    let of = |one| get_with("/", "x-one", one);
    ask(&cache, of("a")).await.unwrap();
    ask(&cache, of("b")).await.unwrap();
    sleep(SECOND * 2).await;
    let asked = spawn_ask(&cache, of("a"));
    sleep(HANDLER).await;
    let explained = layer.explain(&of("a").into_parts().0);
    let waits = spawn_ask(&cache, of("a"));
    waiters(&layer.handle(), 1).await;
    gate.open();
    asked.await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
    assert_eq!(explained.decision, Decision::Wait);
}

#[tokio::test(start_paused = true)]
async fn what_is_refreshed_with_somebodys_credentials_is_given_to_nobody_else() {
    let personal = Arc::new(AtomicUsize::new(0));
    let says = personal.clone();
    let layer = CacheLayer::builder().refreshable().build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), move |_, request| {
        let personal = says.load(SeqCst) == 1;
        async move {
            let who = request.headers().get("authorization");
            let who = who.map_or("nobody", |who| who.to_str().unwrap());
            let mut response = ok(format!("for {who}"));
            if !personal {
                response
                    .headers_mut()
                    .insert("cache-control", "public".parse().unwrap());
                response
                    .headers_mut()
                    .insert("vary", "authorization".parse().unwrap());
            }
            response.extensions_mut().insert(Tags::from(Tag::new("t")));
            Ok(response)
        }
    }));
    let alice = || get_with("/", "authorization", "alice");
    assert_eq!(ask(&cache, alice()).await.unwrap().text(), "for alice");
    settled(&handle).await;
    personal.store(1, SeqCst);
    let _ = handle.purge(Tag::new("t")).refresh().await.unwrap();
    assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "for nobody");
}

fn inside<S>(
    service: S,
) -> impl tower::Service<
    http::Request<concurrency::Body>,
    Response = http::Response<concurrency::Body>,
    Error = concurrency::Failure,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static
where
    S: tower::Service<
            http::Request<concurrency::Body>,
            Response = http::Response<tower_response_cache::ResponseBody<concurrency::Body>>,
            Error = concurrency::Failure,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    service.map_response(|response| {
        response.map(|body| body.map_err(|_| concurrency::Broken).boxed_unsync())
    })
}

#[tokio::test(start_paused = true)]
async fn what_an_inner_layer_answers_from_memory_bears_its_tags_further_out() {
    for by_scope in [false, true] {
        let handle = CacheHandle::builder().build();
        let layer = |ttl| CacheLayer::builder().handle(&handle).ttl(ttl).build();
        let inner =
            layer(SECOND * 3600).layer(origin(&Probe::default(), move |nth, _| async move {
                let mut response = ok(nth.to_string());
                if by_scope {
                    scope::tag(Tag::new("t"));
                } else {
                    response.extensions_mut().insert(Tags::from(Tag::new("t")));
                }
                Ok(response)
            }));
        let outer = layer(SECOND * 60).layer(inside(inner));
        ask(&outer, get("/")).await.unwrap();
        settled(&handle).await;
        sleep(SECOND * 61).await;
        assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "1");
        settled(&handle).await;
        let _ = handle.purge(Tag::new("t")).await.unwrap();
        assert_eq!(
            ask(&outer, get("/")).await.unwrap().text(),
            "2",
            "by scope: {by_scope}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_inner_layer_makes_bears_the_tags_of_its_scope_further_out() {
    let handle = CacheHandle::builder().build();
    let layer = || CacheLayer::builder().handle(&handle).build();
    let inner = layer().layer(origin(&Probe::default(), move |nth, _| async move {
        scope::tag(Tag::new("t"));
        Ok(ok(nth.to_string()))
    }));
    let outer = layer().layer(inside(inner));
    ask(&outer, get("/")).await.unwrap();
    settled(&handle).await;
    let _ = handle.purge(Tag::new("t")).await.unwrap();
    assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "2");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_stored_further_in_is_not_stored_further_out() {
    let handle = CacheHandle::builder().build();
    let layer = || CacheLayer::builder().handle(&handle).build();
    let inner = layer().layer(origin(&Probe::default(), move |nth, _| async move {
        scope::do_not_store("not yet");
        Ok(ok(nth.to_string()))
    }));
    let outer = layer().layer(inside(inner));
    ask(&outer, get("/")).await.unwrap();
    settled(&handle).await;
    assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "2");
}

fn post(trailer: &'static str) -> http::Request<concurrency::Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-user", trailer.parse().unwrap());
    let body = Script::new([Step::Data("{}".into()), Step::Trailers(trailers)]);
    http::Request::post("/")
        .header("host", "a.example")
        .header("content-type", "application/json")
        .body(body.boxed_unsync())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_refresh_asks_with_the_trailers_of_the_request_that_are_in_its_key() {
    let layer = CacheLayer::builder()
        .key(Key::new().body(1024))
        .methods([http::Method::POST])
        .unwrap()
        .stale_while_revalidate(SECOND * 3600)
        .refreshable()
        .build();
    let handle = layer.handle();
    let inner = tower::service_fn(
        |request: http::Request<tower_response_cache::ReplayBody<concurrency::Body>>| async move {
            let is_json = request.headers().contains_key("content-type");
            let body = request.into_body().collect().await.map_err(|_| "broken")?;
            let user = body.trailers().and_then(|trailers| trailers.get("x-user"));
            let user = user.map_or("nobody", |user| user.to_str().unwrap());
            let mut response = ok(format!("{user} {is_json}"));
            response.extensions_mut().insert(Tags::from(Tag::new("t")));
            Ok::<_, concurrency::Failure>(response)
        },
    );
    let cache = layer.layer(inner);
    assert_eq!(ask(&cache, post("a")).await.unwrap().text(), "a true");
    settled(&handle).await;
    assert_eq!(ask(&cache, post("b")).await.unwrap().text(), "b true");
    settled(&handle).await;
    let _ = handle.purge(Tag::new("t")).refresh().await.unwrap();
    assert_eq!(ask(&cache, post("a")).await.unwrap().text(), "a true");
    assert_eq!(ask(&cache, post("b")).await.unwrap().text(), "b true");
}

#[tokio::test(start_paused = true)]
async fn what_is_refreshed_bears_the_tags_of_the_request_that_it_was_made_for() {
    let layer = CacheLayer::builder()
        .tag_requests(|parts| match parts.headers.get("x-campaign") {
            Some(campaign) => Tags::new().with(campaign.to_str().unwrap().to_owned()),
            None => Tags::new(),
        })
        .refreshable()
        .build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), |nth, _| async move {
        let mut response = ok(nth.to_string());
        response.extensions_mut().insert(Tags::from(Tag::new("t")));
        Ok(response)
    }));
    let of = || get_with("/", "x-campaign", "spring");
    ask(&cache, of()).await.unwrap();
    settled(&handle).await;
    let _ = handle.purge(Tag::new("t")).refresh().await.unwrap();
    assert_eq!(ask(&cache, of()).await.unwrap().text(), "2");
    let _ = handle.purge(Tag::new("spring")).await.unwrap();
    assert_eq!(ask(&cache, of()).await.unwrap().text(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_waits_for_no_client_that_reads_along() {
    let layer = CacheLayer::builder()
        .fill_timeout(SECOND * 6)
        .refreshable()
        .build();
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), |nth, _| async move {
        let end = if nth == 1 {
            Step::Data("67890".into())
        } else {
            Step::Hang
        };
        let body = Script::new([Step::Data("12345".into()), end]).hint(10);
        let mut response = http::Response::new(body.boxed_unsync());
        response.extensions_mut().insert(Tags::from(Tag::new("t")));
        Ok(response)
    }));
    ask(&cache, get("/")).await.unwrap();
    settled(&handle).await;
    let began = Instant::now();
    let refresh = tokio::spawn(handle.purge(Tag::new("t")).refresh().into_future());
    sleep(SECOND).await;
    let _reads_along = spawn_ask(&cache, get("/"));
    let purged = tokio::time::timeout(SECOND * 60, refresh).await;
    let purged = purged.expect("it waits for the client").unwrap().unwrap();
    assert_eq!(purged.failed, 1);
    assert!(began.elapsed() <= SECOND * 13, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_is_no_failure_that_lets_others_be_served_stale() {
    for how in ["do-not-store", "set-cookie", "held-off"] {
        let probe = Probe::default();
        let layer = CacheLayer::builder()
            .ttl(SECOND * 60)
            .stale_if_error(SECOND * 3600)
            .build();
        let handle = layer.handle();
        let cache = layer.layer(origin(&probe, move |nth, _| async move {
            let mut response = ok(nth.to_string());
            response.extensions_mut().insert(Tags::from(Tag::new("t")));
            match how {
                "do-not-store" if nth > 1 => scope::do_not_store("not yet"),
                "set-cookie" if nth > 1 => {
                    response
                        .headers_mut()
                        .insert("set-cookie", "a=b".parse().unwrap());
                }
                _ => {}
            }
            Ok(response)
        }));
        ask(&cache, get("/")).await.unwrap();
        settled(&handle).await;
        let purge = handle.purge(Tag::new("t")).soft();
        let purge = if how == "held-off" {
            purge.hold_off(SECOND)
        } else {
            purge
        };
        let _ = purge.await.unwrap();
        assert_eq!(ask(&cache, get("/")).await.unwrap().text(), "2", "{how}");
        settled(&handle).await;
        sleep(SECOND * 2).await;
        let answer = ask(&cache, get("/")).await.unwrap();
        assert_eq!(answer.text(), "3", "{how}: {:?}", answer.cache());
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_an_answer_whose_ttl_by_panics_are_not_queued_behind_each_other() {
    let probe = Probe::default();
    let layer = CacheLayer::builder()
        .ttl_by(|_| std::panic::resume_unwind(Box::new("ttl_by panicked")))
        .build();
    let cache = layer.layer(origin(&probe, |_, _| async {
        sleep(SECOND).await;
        Ok(ok("page"))
    }));
    let began = Instant::now();
    let _ = concurrency::burst(&cache, (0..20).map(|_| get("/"))).await;
    assert!(
        began.elapsed() < SECOND * 4,
        "{:?}, {} calls",
        began.elapsed(),
        probe.calls()
    );
}

#[tokio::test(start_paused = true)]
async fn explain_says_that_inline_the_first_request_asks_the_inner_service() {
    let layer = CacheLayer::builder()
        .ttl(SECOND * 10)
        .eager_refresh(0.5)
        .unwrap()
        .stale_while_revalidate(SECOND * 3600)
        .fill_mode(FillMode::Inline)
        .build();
    let cache = layer.layer(origin(&Probe::default(), |nth, _| async move {
        Ok(ok(nth.to_string()))
    }));
    ask(&cache, get("/")).await.unwrap();
    sleep(SECOND * 11).await;
    let explained = layer.explain(&get("/").into_parts().0).decision;
    let answer = ask(&cache, get("/")).await.unwrap();
    assert_eq!(answer.text(), "2");
    assert!(
        matches!(explained, Decision::Fetch(_)),
        "{explained:?}, and then {:?}",
        answer.cache()
    );
}

#[tokio::test(start_paused = true)]
async fn inline_a_client_that_hangs_up_is_no_failure_of_the_inner_service() {
    let layer = CacheLayer::builder()
        .ttl(SECOND)
        .stale_if_error(SECOND * 100_000)
        .fill_mode(FillMode::Inline)
        .build();
    let cache = layer.layer(origin(&Probe::default(), |nth, _| async move {
        sleep(HANDLER).await;
        Ok(ok(nth.to_string()))
    }));
    ask(&cache, get("/")).await.unwrap();
    sleep(SECOND * 2).await;
    for _ in 0..4 {
        let leaves = tokio::time::timeout(HANDLER / 2, ask(&cache, get("/"))).await;
        if leaves.is_ok() {
            break;
        }
    }
    let answer = ask(&cache, get("/")).await.unwrap();
    assert_ne!(answer.text(), "1", "{:?}", answer.cache());
}

#[tokio::test(start_paused = true)]
async fn what_an_inner_layer_was_waited_for_bears_its_tags_further_out() {
    let handle = CacheHandle::builder().build();
    let layer = || CacheLayer::builder().handle(&handle).build();
    let probe = Probe::default();
    let inner = layer().layer(origin(&probe, move |nth, _| async move {
        sleep(SECOND).await;
        scope::tag(Tag::new("t"));
        Ok(ok(nth.to_string()))
    }));
    let outer = layer().layer(inside(inner.clone()));
    let direct = spawn_ask(&inner, get("/"));
    sleep(HANDLER).await;
    // Inside a fill nobody waits.
    assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "2");
    direct.await.unwrap().unwrap();
    assert_eq!(probe.calls(), 2);
    settled(&handle).await;
    let _ = handle.purge(Tag::new("t")).await.unwrap();
    assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "3");
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn an_inner_layer_in_another_task_is_heard_of_further_out_too() {
    let handle = CacheHandle::builder().build();
    let layer = |ttl| CacheLayer::builder().handle(&handle).ttl(ttl).build();
    let inner = inside(layer(SECOND * 3600).layer(origin(
        &Probe::default(),
        move |nth, _| async move {
            scope::tag(Tag::new("t"));
            Ok(ok(nth.to_string()))
        },
    )));
    // As `tower::buffer::Buffer` has it.
    let spawned = tower::service_fn(move |request| {
        let asked = tokio::spawn(inner.clone().oneshot(request));
        async move { asked.await.unwrap() }
    });
    let outer = layer(SECOND * 60).layer(spawned);
    ask(&outer, get("/")).await.unwrap();
    settled(&handle).await;
    let _ = handle.purge(Tag::new("t")).await.unwrap();
    assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "2");
}

// Invariant 40.
#[tokio::test(start_paused = true)]
async fn a_page_made_of_what_a_cache_further_in_serves_stale_is_not_stored_as_fresh() {
    let handle = CacheHandle::builder().build();
    let layer = || {
        CacheLayer::builder()
            .handle(&handle)
            .stale_while_revalidate(SECOND * 3600)
            .build()
    };
    let inner = inside(
        layer().layer(origin(&Probe::default(), move |nth, _| async move {
            sleep(SECOND).await;
            scope::tag(Tag::new("t"));
            Ok(ok(nth.to_string()))
        })),
    );
    let part = inner.clone();
    let composed = origin(&Probe::default(), move |_, _| {
        let part = part.clone();
        async move {
            let part = ask(&part, get("/part")).await?;
            Ok(ok(format!("<{}>", part.text())))
        }
    });
    let outer = layer().layer(composed);
    ask(&inner, get("/part")).await.unwrap();
    settled(&handle).await;
    let _ = handle.purge(Tag::new("t")).soft().await.unwrap();
    assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "<1>");
    sleep(SECOND * 2).await;
    settled(&handle).await;
    assert_eq!(ask(&outer, get("/")).await.unwrap().text(), "<2>");
}

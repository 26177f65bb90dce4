//! Purges that fetch anew what they purge, and a cache that is warmed before anybody asks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/concurrency.rs"]
mod concurrency;

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use concurrency::{
    Answer, Body, Failure, Inner, Probe, answers, ask, get, get_with, ok, origin, panics, settled,
    with_status,
};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{
    CacheHandle, CacheLayer, CacheLayerBuilder, CacheStatus, FillMode, Key, Purge, Refreshable,
    RefreshableCache, RefreshableLayer, Tag, Tags, Warmed, key, scope,
};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(60);
const SWR: Duration = Duration::from_secs(3600);
const FILL: Duration = Duration::from_secs(6);
/// What a call takes.
const HANDLER: Duration = Duration::from_millis(100);
const ALL: Tag = Tag::new("all");

/// What the inner service says of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Status(u16),
    Fails,
    Panics,
    Hangs,
    DoNotStore,
    With(&'static str, &'static str),
}

/// Answers that are not stored.
const FAILURES: [Says; 8] = [
    Says::Status(500),
    Says::Status(404),
    Says::Fails,
    Says::Panics,
    Says::Hangs,
    Says::DoNotStore,
    Says::With("set-cookie", "a=b"),
    Says::With("cache-control", "private"),
];

/// Pages that tell the version of the data, as it is when they begin to be made, and the language that they are asked for in.
/// Each bears the tag `all`, its path, and those that its query names.
#[derive(Clone, Default)]
struct Site {
    version: Arc<AtomicUsize>,
    says: Arc<Mutex<HashMap<String, Says>>>,
    headers: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
    probe: Probe,
    asked: Arc<Mutex<Vec<Parts>>>,
}

impl Site {
    fn change(&self) {
        self.version.fetch_add(1, SeqCst);
    }

    fn say(&self, path: &str, says: Says) {
        self.says.lock().unwrap().insert(path.to_owned(), says);
    }

    /// On all pages from now on.
    fn put(&self, name: &'static str, value: &'static str) {
        self.headers.lock().unwrap().push((name, value));
    }

    fn calls(&self) -> usize {
        self.probe.calls()
    }

    /// The requests that the inner service saw since so many.
    fn asked_since(&self, calls: usize) -> Vec<Parts> {
        self.asked.lock().unwrap()[calls..].to_vec()
    }

    fn inner(&self) -> impl Inner + use<> {
        let site = self.clone();
        origin(&self.probe, move |_, request| {
            let site = site.clone();
            let version = site.version.load(SeqCst);
            let parts = request.into_parts().0;
            site.asked.lock().unwrap().push(parts.clone());
            async move {
                sleep(HANDLER).await;
                site.answer(version, &parts).await
            }
        })
    }

    async fn answer(&self, version: usize, request: &Parts) -> Result<Response<Body>, Failure> {
        let language = request.headers.get("accept-language");
        let language = language.map_or("", |language| language.to_str().unwrap());
        let mut response = ok(format!("{version}{language}"));
        let query = request.uri.query().unwrap_or_default().split(',');
        let tags = query
            .chain([request.uri.path()])
            .filter(|tag| !tag.is_empty());
        let tags = tags.map(|tag| Tag::from(tag.to_owned())).chain([ALL]);
        response.extensions_mut().insert(tags.collect::<Tags>());
        for (name, value) in &*self.headers.lock().unwrap() {
            put(&mut response, name, value);
        }
        let says = self.says.lock().unwrap().get(request.uri.path()).copied();
        match says {
            None => {}
            Some(Says::Status(status)) => {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            Some(Says::Fails) => return Err("no"),
            Some(Says::Panics) => panics(),
            Some(Says::Hangs) => pending().await,
            Some(Says::DoNotStore) => scope::do_not_store("not now"),
            Some(Says::With(name, value)) => put(&mut response, name, value),
        }
        Ok(response)
    }
}

fn put(response: &mut Response<Body>, name: &'static str, value: &'static str) {
    let (name, value) = (
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    );
    response.headers_mut().append(name, value);
}

type Builder = CacheLayerBuilder<key::Head, Refreshable>;
type Pages<I> = (RefreshableCache<I>, CacheHandle, Site);

fn builder() -> Builder {
    let builder = CacheLayer::builder().ttl(TTL).stale_while_revalidate(SWR);
    builder.fill_timeout(FILL).wait_timeout(FILL).refreshable()
}

fn cached(builder: Builder) -> Pages<impl Inner + use<>> {
    let (layer, site) = (builder.build(), Site::default());
    (layer.layer(site.inner()), layer.handle(), site)
}

/// The same, with these pages stored, and the data changed since.
async fn outdated(builder: Builder, pages: &[String]) -> Pages<impl Inner + use<>> {
    let (cache, handle, site) = cached(builder);
    for page in pages {
        assert_eq!(ask(&cache, get(page)).await.unwrap().text(), "0");
    }
    settled(&handle).await;
    site.change();
    (cache, handle, site)
}

fn pages(number: usize) -> Vec<String> {
    (0..number).map(|page| format!("/{page}")).collect()
}

/// How many were refreshed, how many could not be, and how many were not recorded.
async fn counts(purge: Purge) -> (usize, usize, usize) {
    let purged = purge.refresh().await.unwrap();
    (purged.refreshed, purged.failed, purged.not_recorded)
}

fn is_fresh(answer: &Answer) -> bool {
    answer.cache().is_hit() && !answer.cache().is_stale()
}

/// What is served of this page now; and whether it is a hit, and fresh.
async fn now<S, B>(cache: &S, page: &str) -> (String, bool)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Failure> + Clone,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let answer = ask(cache, get(page)).await.unwrap();
    (answer.text().to_owned(), is_fresh(&answer))
}

fn fresh(text: &str) -> (String, bool) {
    (text.to_owned(), true)
}

fn stale(text: &str) -> (String, bool) {
    (text.to_owned(), false)
}

fn paths(asked: &[Parts]) -> Vec<&str> {
    asked.iter().map(|parts| parts.uri.path()).collect()
}

// ---- purges that refresh

// Found by the example `warm`, run six times at once: a page that a reader had refreshed already was fetched a second time.
#[tokio::test(start_paused = true)]
async fn a_page_that_a_request_refreshed_after_the_purge_is_not_fetched_twice() {
    let pages = pages(600);
    let (cache, handle, site) = outdated(builder(), &pages).await;
    let mut purge = handle.purge(ALL).refresh().into_future();
    // It has marked, and looked at a slice of what is stored.
    assert!((&mut purge).now_or_never().is_none());
    for page in &pages {
        assert_eq!(now(&cache, page).await, ("0".to_owned(), false));
    }
    sleep(SECOND).await;
    let purged = purge.await.unwrap();
    assert_eq!((purged.failed, purged.not_recorded), (0, 0));
    assert_eq!(site.calls(), 2 * pages.len());
    for page in &pages {
        assert_eq!(now(&cache, page).await, ("1".to_owned(), true));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_used_most_is_asked_for_first_and_a_few_at_a_time() {
    for (refreshes, at_once) in [(64, 8), (8, 8), (3, 3), (1, 1)] {
        let handle = CacheHandle::builder()
            .max_concurrent_refreshes(NonZeroUsize::new(refreshes).unwrap())
            .build();
        let pages = pages(20);
        let (cache, handle, site) = outdated(builder().handle(&handle), &pages).await;
        // 7 is prime to 20: no two pages are used as often, and not in the order in which they were stored.
        for (nth, page) in pages.iter().enumerate() {
            for _ in 0..nth * 7 % 20 {
                ask(&cache, get(page)).await.unwrap();
            }
        }
        let began = Instant::now();
        assert_eq!(counts(handle.purge(ALL)).await, (20, 0, 0));
        assert_eq!(site.probe.most(), at_once);
        let rounds = u32::try_from(20usize.div_ceil(at_once)).unwrap();
        assert_eq!(began.elapsed(), HANDLER * rounds);
        let mut by_use: Vec<_> = (0..20).collect();
        by_use.sort_by_key(|nth| std::cmp::Reverse(nth * 7 % 20));
        let by_use: Vec<_> = by_use.iter().map(|&nth| &*pages[nth]).collect();
        assert_eq!(paths(&site.asked_since(20)), by_use);
        for page in &pages {
            assert_eq!(now(&cache, page).await, fresh("1"));
        }
        assert_eq!((site.calls(), handle.stats().refreshes), (40, 20));
    }
}

// Invariants 16, 25, 34.
#[tokio::test(start_paused = true)]
async fn nobody_waits_while_pages_are_refreshed_and_each_is_one_call() {
    let pages = pages(40);
    let (cache, handle, site) = outdated(builder(), &pages).await;
    let refresh = tokio::spawn(handle.purge(ALL).refresh().into_future());
    let mut asked = Vec::new();
    for nth in 0..1000 {
        let (cache, page) = (cache.clone(), pages[nth * 7 % 40].clone());
        asked.push(tokio::spawn(async move {
            sleep(HANDLER * 5 * u32::try_from(nth).unwrap() / 1000).await;
            let began = Instant::now();
            let answer = ask(&cache, get(&page)).await.unwrap();
            assert_eq!(began.elapsed(), Duration::ZERO, "it waits");
            let now = (answer.text().to_owned(), is_fresh(&answer));
            assert!(now == stale("0") || now == fresh("1"), "{now:?}");
            now
        }));
    }
    let mut stale_ones = 0;
    for asked in asked {
        stale_ones += usize::from(asked.await.unwrap() == stale("0"));
    }
    assert!((1..1000).contains(&stale_ones), "{stale_ones}");
    let purged = refresh.await.unwrap().unwrap();
    assert_eq!((purged.refreshed, purged.failed), (40, 0));
    settled(&handle).await;
    assert_eq!(site.calls(), 80, "one call a page");
    assert_eq!(now(&cache, "/7").await, fresh("1"));
}

// Invariants 16, 25.
#[tokio::test(start_paused = true)]
async fn where_nothing_stale_may_be_served_requests_wait_for_the_calls_of_the_refresh() {
    let builder = CacheLayer::builder()
        .ttl(TTL)
        .fill_timeout(FILL)
        .refreshable();
    let pages = pages(8);
    let (cache, handle, site) = outdated(builder, &pages).await;
    let refresh = tokio::spawn(handle.purge(ALL).refresh().into_future());
    sleep(HANDLER / 2).await;
    for answer in answers(&cache, (0..1000).map(|nth| get(&pages[nth % 8]))).await {
        assert_eq!(answer.text(), "1");
    }
    let purged = refresh.await.unwrap().unwrap();
    assert_eq!((purged.refreshed, purged.failed), (8, 0));
    assert_eq!(site.calls(), 16);
}

// Invariants 3, 16, 22, 30.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_fetched_stays_stale_and_is_counted() {
    for says in FAILURES {
        let pages = pages(3);
        let (cache, handle, site) = outdated(builder(), &pages).await;
        site.say("/1", says);
        let began = Instant::now();
        assert_eq!(counts(handle.purge(ALL)).await, (2, 1, 0), "{says:?}");
        let took = if says == Says::Hangs { FILL } else { HANDLER };
        assert!(began.elapsed() <= took + HANDLER, "{says:?}");
        settled(&handle).await;
        let calls = site.calls();
        assert_eq!(calls, 6);
        for page in ["/0", "/2"] {
            assert_eq!(now(&cache, page).await, fresh("1"), "{says:?}");
        }
        // Said to be no more: then it is not served either.
        let is_no_more = [Says::Status(404), Says::With("cache-control", "private")];
        if is_no_more.contains(&says) {
            assert_eq!(site.calls(), calls);
            ask(&cache, get("/1")).await.unwrap();
            assert_eq!(site.calls(), calls + 1, "{says:?}");
            continue;
        }
        let began = Instant::now();
        assert_eq!(now(&cache, "/1").await, stale("0"), "{says:?}");
        assert_eq!(began.elapsed(), Duration::ZERO);
        site.says.lock().unwrap().clear();
        assert_eq!(counts(handle.purge(Tag::new("/1"))).await, (1, 0, 0));
        assert_eq!(now(&cache, "/1").await, fresh("1"), "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_recorded_is_counted_and_softly_purged_all_the_same() {
    let handle = CacheHandle::builder().build();
    let pages = pages(3);
    let (cache, _, site) = outdated(builder().handle(&handle), &pages).await;
    let bare = CacheLayer::builder().handle(&handle).ttl(TTL);
    let bare = bare.stale_while_revalidate(SWR).build().layer(site.inner());
    for page in ["/a", "/b"] {
        ask(&bare, get(page)).await.unwrap();
    }
    settled(&handle).await;
    site.change();
    assert_eq!(counts(handle.purge(ALL)).await, (3, 0, 2));
    assert_eq!(now(&bare, "/a").await, stale("1"));
    assert_eq!(now(&cache, "/0").await, fresh("2"));
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_a_layer_that_is_gone_is_counted_as_not_recorded() {
    let handle = CacheHandle::builder().build();
    let (cache, _, _) = outdated(builder().handle(&handle), &pages(3)).await;
    drop(cache);
    assert_eq!(counts(handle.purge(ALL)).await, (0, 0, 3));
}

// Invariants 6, 44.
#[tokio::test(start_paused = true)]
async fn only_what_bears_the_tags_is_asked_for_again() {
    let pages = ["/a?x", "/b?x,y", "/c?y", "/d"].map(str::to_owned);
    let all_of = |tags: [&'static str; 2]| Tags::all_of(tags.map(Tag::new));
    for case in 0..6 {
        let (cache, handle, site) = outdated(builder(), &pages).await;
        let request = get("/b?x,y").into_parts().0;
        let (purge, expected) = match case {
            0 => (handle.purge(Tag::new("x")), vec!["/a", "/b"]),
            1 => (handle.purge(all_of(["x", "y"])), vec!["/b"]),
            2 => (
                handle.purge([Tag::new("x"), Tag::new("y")]),
                vec!["/a", "/b", "/c"],
            ),
            3 => (handle.purge_all(), vec!["/a", "/b", "/c", "/d"]),
            4 => (handle.purge_request(&request), vec!["/b"]),
            _ => (handle.purge(Tag::new("z")), vec![]),
        };
        assert_eq!(counts(purge).await, (expected.len(), 0, 0));
        let asked = site.asked_since(4);
        let mut asked = paths(&asked);
        asked.sort_unstable();
        assert_eq!(asked, expected);
        for page in &pages {
            let path = page.split('?').next().unwrap();
            let version = if expected.contains(&path) { "1" } else { "0" };
            assert_eq!(now(&cache, page).await, fresh(version), "{page}");
        }
        assert_eq!(site.calls(), 4 + expected.len());
    }
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_held_off_asks_when_the_time_is_over_and_stores_what_it_gets() {
    for lag in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(1500),
        SECOND * 2,
    ] {
        let (cache, handle, site) = outdated(builder(), &pages(3)).await;
        let began = Instant::now();
        assert_eq!(counts(handle.purge(ALL).hold_off(lag)).await, (3, 0, 0));
        assert!(began.elapsed() >= lag + HANDLER, "{lag:?}");
        assert_eq!(site.calls(), 6);
        assert_eq!(now(&cache, "/0").await, fresh("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_was_begun_before_the_change_may_refresh_after_it() {
    let (cache, handle, site) = outdated(builder(), &pages(3)).await;
    let purge = handle.begin_purge(ALL);
    sleep(SECOND).await;
    site.change();
    assert_eq!(counts(purge.commit()).await, (3, 0, 0));
    assert_eq!(now(&cache, "/0").await, fresh("2"));
}

// Invariants 36, 38, 40.
#[tokio::test(start_paused = true)]
async fn a_hard_purge_during_a_refresh_leaves_nothing_of_before() {
    for validator in [None, Some("\"a\"")] {
        for tenths in 0..30 {
            let pages = pages(20);
            let (cache, handle, site) = cached(builder());
            validator.iter().for_each(|tag| site.put("etag", tag));
            for page in &pages {
                ask(&cache, get(page)).await.unwrap();
            }
            site.change();
            let refresh = tokio::spawn(handle.purge(ALL).refresh().into_future());
            sleep(HANDLER * tenths / 10).await;
            site.change();
            let _ = handle.purge(ALL).await.unwrap();
            let early = answers(&cache, pages.iter().map(|page| get(page))).await;
            let _ = refresh.await.unwrap().unwrap();
            for answer in early {
                assert_eq!(answer.text(), "2");
            }
            for page in &pages {
                assert_eq!(now(&cache, page).await.0, "2", "{tenths}");
            }
        }
    }
}

// Invariants 38, 40.
#[tokio::test(start_paused = true)]
async fn a_304_brings_nothing_back_that_was_purged_hard_during_the_refresh() {
    for tenths in 1..25 {
        let layer = builder().build();
        let (handle, probe) = (layer.handle(), Probe::default());
        let cache = layer.layer(origin(&probe, |nth, request| async move {
            sleep(HANDLER).await;
            let mut response = match request.headers().get("if-none-match") {
                Some(_) => with_status(StatusCode::NOT_MODIFIED, ""),
                None => ok(nth.to_string()),
            };
            put(&mut response, "etag", "\"a\"");
            response.extensions_mut().insert(Tags::from(ALL));
            Ok(response)
        }));
        let pages = pages(20);
        for page in &pages {
            ask(&cache, get(page)).await.unwrap();
        }
        let refresh = tokio::spawn(handle.purge(ALL).refresh().into_future());
        sleep(HANDLER * tenths / 10).await;
        let _ = handle.purge(ALL).await.unwrap();
        let _ = refresh.await.unwrap().unwrap();
        for page in &pages {
            let call: usize = now(&cache, page).await.0.parse().unwrap();
            assert!(call > 20, "{page} is of call {call}, after {tenths} tenths");
        }
    }
}

// Invariants 26, 31, 36, 40.
#[tokio::test(start_paused = true)]
async fn a_refresh_may_be_dropped_at_any_poll() {
    for polls in 0.. {
        let pages = pages(20);
        let (cache, handle, site) = outdated(builder(), &pages).await;
        let mut refresh = handle.purge(ALL).refresh().into_future();
        let mut is_done = false;
        for _ in 0..polls {
            is_done = (&mut refresh).now_or_never().is_some();
            sleep(HANDLER / 4).await;
        }
        drop(refresh);
        let begun = site.calls() - 20;
        settled(&handle).await;
        sleep(SECOND).await;
        assert_eq!(site.calls() - 20, begun, "no more calls begin");
        let mut new = 0;
        for page in &pages {
            let now = now(&cache, page).await;
            assert!(
                polls == 0 || now == fresh("1") || now == stale("0"),
                "{now:?}"
            );
            assert!(polls > 0 || now == fresh("0"));
            new += usize::from(now == fresh("1"));
        }
        assert_eq!(new, begun, "what has begun goes on");
        settled(&handle).await;
        assert_eq!(site.calls(), if polls == 0 { 20 } else { 40 });
        if is_done {
            assert!(polls > 8);
            return;
        }
    }
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn calls_of_refreshes_that_were_dropped_keep_their_places() {
    let places = NonZeroUsize::new(2).unwrap();
    let handle = CacheHandle::builder()
        .max_concurrent_refreshes(places)
        .build();
    let pages = pages(20);
    let (cache, handle, site) = outdated(builder().handle(&handle), &pages).await;
    for page in &pages {
        let mut refresh = handle
            .purge(Tag::from(page.clone()))
            .refresh()
            .into_future();
        for _ in 0..3 {
            assert!((&mut refresh).now_or_never().is_none());
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        drop(refresh);
    }
    settled(&handle).await;
    assert_eq!(site.probe.most(), 2);
    assert_eq!(counts(handle.purge(ALL)).await, (20, 0, 0));
    assert_eq!(
        (site.probe.most(), now(&cache, "/7").await),
        (2, fresh("1"))
    );
}

// Invariant 32.
#[tokio::test(start_paused = true)]
async fn a_handler_that_refreshes_its_own_page_does_not_wait_for_itself() {
    let layer = builder().build();
    let handle = layer.handle();
    let inside = handle.clone();
    let cache = layer.layer(origin(&Probe::default(), move |nth, request| {
        let handle = inside.clone();
        async move {
            if nth == 3 {
                assert_eq!(counts(handle.purge(ALL)).await, (1, 1, 0));
            }
            let mut response = ok(nth.to_string());
            let path = Tag::from(request.uri().path().to_owned());
            response
                .extensions_mut()
                .insert(Tags::from_iter([path, ALL]));
            Ok(response)
        }
    }));
    for page in ["/0", "/1"] {
        ask(&cache, get(page)).await.unwrap();
    }
    let began = Instant::now();
    assert_eq!(counts(handle.purge(Tag::new("/1"))).await.0, 1);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    settled(&handle).await;
}

// Invariant 4.
#[tokio::test(start_paused = true)]
async fn each_variant_is_asked_for_with_the_header_that_it_varies_by() {
    let (cache, handle, site) = cached(builder());
    site.put("vary", "accept-language");
    let languages = ["de", "en", "fr"];
    let asked = |language| get_with("/", "accept-language", language);
    for language in languages {
        let answer = ask(&cache, asked(language)).await.unwrap();
        assert_eq!(answer.text(), format!("0{language}"));
    }
    site.change();
    assert_eq!(counts(handle.purge(ALL)).await, (3, 0, 0));
    for language in languages {
        let answer = ask(&cache, asked(language)).await.unwrap();
        assert_eq!(answer.text(), format!("1{language}"));
        assert!(is_fresh(&answer));
    }
    assert_eq!(site.calls(), 6);
}

/// The names of the headers that the inner service was asked with again.
fn names(parts: &Parts) -> Vec<&str> {
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

const OF_ONE_REQUEST: [(&str, &str); 7] = [
    ("authorization", "Bearer secret"),
    ("cookie", "session=secret"),
    ("user-agent", "curl"),
    ("x-request-id", "7"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
    ("x-forwarded-for", "203.0.113.7"),
    ("referer", "https://elsewhere.example/"),
];

// Invariants 2, 9.
#[tokio::test(start_paused = true)]
async fn a_request_is_recorded_with_what_is_in_its_key_and_nothing_of_its_requester() {
    let shop = HeaderName::from_static("x-shop");
    let key = || {
        Key::new()
            .header(shop.clone())
            .ignore_cookies()
            .ignore_authorization()
    };
    for key in [key(), key().seal().allow_extension::<u8>()] {
        let (cache, handle, site) = cached(builder().key(key));
        let mut request = get_with("/a?q=1&p=%20", "x-shop", "berlin");
        for (name, value) in OF_ONE_REQUEST {
            let name = HeaderName::from_static(name);
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        request.extensions_mut().insert(7_u8);
        assert!(ask(&cache, request).await.unwrap().cache().is_stored());
        site.change();
        assert_eq!(counts(handle.purge(ALL)).await, (1, 0, 0));
        let again = site.asked_since(1).remove(0);
        assert_eq!(names(&again), ["accept-encoding", "host", "x-shop"]);
        assert_eq!(again.headers["x-shop"], "berlin");
        assert_eq!(again.headers["accept-encoding"], "identity");
        assert_eq!(
            (again.method.as_str(), &*again.uri.to_string()),
            ("GET", "/a?q=1&p=%20")
        );
        assert_eq!(again.extensions.get::<u8>(), Some(&7));
        let again = get_with("/a?q=1&p=%20", "x-shop", "berlin");
        assert_eq!(ask(&cache, again).await.unwrap().text(), "1");
        assert_eq!(site.calls(), 2);
    }
}

// Invariant 2.
#[tokio::test(start_paused = true)]
async fn credentials_in_the_key_are_recorded_and_each_requester_keeps_its_own_answer() {
    let key = Key::new()
        .header(http::header::AUTHORIZATION)
        .cookie("session");
    let (cache, handle, site) = cached(builder().key(key));
    let asked = |who: &str| {
        let mut request = get_with("/", "authorization", &format!("Bearer {who}"));
        let cookie = format!("session={who}").parse().unwrap();
        request.headers_mut().insert("cookie", cookie);
        request
    };
    for who in ["alice", "bob"] {
        assert!(ask(&cache, asked(who)).await.unwrap().cache().is_stored());
    }
    site.change();
    assert_eq!(counts(handle.purge(ALL)).await, (2, 0, 0));
    for again in site.asked_since(2) {
        let who = again.headers["authorization"]
            .to_str()
            .unwrap()
            .strip_prefix("Bearer ")
            .unwrap();
        assert_eq!(again.headers["cookie"], format!("session={who}"));
    }
    for who in ["alice", "bob"] {
        assert!(is_fresh(&ask(&cache, asked(who)).await.unwrap()));
    }
    assert_eq!(site.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_has_an_entity_tag_is_asked_for_by_it_and_renewed_by_a_304() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (layer, conditional) = (builder().build(), calls.clone());
    let handle = layer.handle();
    let cache = layer.layer(origin(&Probe::default(), move |nth, request| {
        let asked = request.headers().get("if-none-match").cloned();
        conditional.fetch_add(usize::from(asked.is_some()), SeqCst);
        async move {
            let mut response = match asked {
                Some(tag) if tag == "\"a\"" => with_status(StatusCode::NOT_MODIFIED, ""),
                _ => ok(nth.to_string()),
            };
            put(&mut response, "etag", "\"a\"");
            response.extensions_mut().insert(Tags::from(ALL));
            Ok(response)
        }
    }));
    ask(&cache, get("/")).await.unwrap();
    for times in 1..=3 {
        sleep(TTL / 2).await;
        assert_eq!(counts(handle.purge(ALL)).await, (1, 0, 0));
        assert_eq!(calls.load(SeqCst), times);
        let answer = ask(&cache, get("/")).await.unwrap();
        assert_eq!((answer.text(), is_fresh(&answer)), ("1", true));
        assert_eq!(answer.cache().ttl(), Some(TTL));
    }
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn what_is_recorded_counts_as_part_of_what_it_takes() {
    let weight = async |request: Request<Body>, refreshable: bool| {
        let handle = CacheHandle::builder().build();
        let bare = CacheLayer::builder()
            .handle(&handle)
            .key(Key::new().header(SHADE));
        let site = Site::default();
        if refreshable {
            ask(&bare.refreshable().build().layer(site.inner()), request)
                .await
                .unwrap();
        } else {
            ask(&bare.build().layer(site.inner()), request)
                .await
                .unwrap();
        }
        settled(&handle).await;
        handle.stats().bytes
    };
    const SHADE: HeaderName = HeaderName::from_static("x-shade");
    let with = |bytes: usize| get_with("/", "x-shade", &"x".repeat(bytes));
    let more = weight(with(10), true).await - weight(with(10), false).await;
    assert!((200..1000).contains(&more), "{more}");
    let longer = weight(with(510), true).await - weight(with(510), false).await;
    assert_eq!(longer, more + 500);
    let mut extended = with(10);
    extended.extensions_mut().insert(7_u8);
    let extended = weight(extended, true).await;
    assert_eq!(extended, weight(with(10), true).await + 192);
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn what_is_recorded_does_not_grow_when_it_is_refreshed_or_warmed() {
    let (cache, handle, _) = cached(builder());
    for page in pages(5) {
        ask(&cache, get(&page)).await.unwrap();
    }
    settled(&handle).await;
    let before = handle.stats().bytes;
    for _ in 0..3 {
        assert_eq!(counts(handle.purge(ALL)).await, (5, 0, 0));
        assert_eq!(handle.stats().bytes, before, "refreshed");
    }
    let warmed = handle.warm(cache, requests(&pages(5))).finish().await;
    assert_eq!((warmed.failed, handle.stats().bytes), (0, before));
}

// Invariants 31, 57.
#[tokio::test(start_paused = true)]
async fn recorded_requests_are_gone_with_what_is_stored() {
    let (cache, handle, site) = cached(builder());
    let token = Arc::new(());
    for page in pages(10) {
        let mut request = get(&page);
        request.extensions_mut().insert(token.clone());
        ask(&cache, request).await.unwrap();
    }
    assert_eq!(counts(handle.purge(ALL)).await, (10, 0, 0));
    site.asked.lock().unwrap().clear();
    concurrency::until("the old ones are gone", || {
        handle.stats().entries == 10 && Arc::strong_count(&token) == 11
    })
    .await;
    let _ = handle.purge(ALL).await.unwrap();
    concurrency::until("all is swept", || handle.stats().entries == 0).await;
    settled(&handle).await;
    concurrency::until("nothing holds them", || Arc::strong_count(&token) == 1).await;
}

// ---- the same in the frameworks

/// Sends a request through a router, and says what it answered, and whether that is a fresh hit.
async fn web(app: &axum::Router, request: Request<axum::body::Body>) -> (String, bool) {
    let response = app.clone().oneshot(request).await.unwrap();
    let status = *response.extensions().get::<CacheStatus>().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.into()).unwrap();
    (text, status.is_hit() && !status.is_stale())
}

fn web_get(path: &str) -> Request<axum::body::Body> {
    get(path).map(|_| axum::body::Body::empty())
}

#[cfg(feature = "axum")]
mod in_axum {
    use axum::{
        Extension, Json, Router,
        body::Body,
        extract::{MatchedPath, OriginalUri, Path, Query, State},
        routing,
    };
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tower::ServiceBuilder;

    use super::*;

    type Version = Arc<AtomicUsize>;

    async fn show(
        State(version): State<Version>,
        Path((kind, id)): Path<(String, u64)>,
        Query(query): Query<HashMap<String, String>>,
        Extension(tenant): Extension<&'static str>,
        matched: MatchedPath,
        OriginalUri(original): OriginalUri,
    ) -> (Tags, String) {
        let version = version.load(SeqCst);
        let (matched, q) = (matched.as_str(), &query["q"]);
        let told = format!("{version} {kind} {id} {q} {tenant} {matched} {original}");
        (Tags::from(ALL), told)
    }

    fn routes() -> Router<Version> {
        Router::new().route("/{kind}/{id}", routing::get(show))
    }

    /// The layer on each route, on the router, on what is nested, and around it all.
    fn apps(layer: impl Fn() -> RefreshableLayer, version: &Version) -> [Router; 4] {
        let extended = |app: Router| app.layer(Extension("berlin"));
        let on_the_route = Router::new()
            .route("/shop/{kind}/{id}", routing::get(show).layer(layer()))
            .with_state(version.clone());
        let on_the_router = Router::new()
            .route("/shop/{kind}/{id}", routing::get(show))
            .layer(layer())
            .with_state(version.clone());
        let nested = Router::new()
            .nest("/shop", routes().layer(layer()))
            .with_state(version.clone());
        let inside = Router::new()
            .nest("/shop", routes())
            .with_state(version.clone());
        let around =
            Router::new().fallback_service(ServiceBuilder::new().layer(layer()).service(inside));
        [on_the_route, on_the_router, nested, around].map(extended)
    }

    // Invariants 9, 36.
    #[tokio::test(start_paused = true)]
    async fn handlers_are_asked_again_with_all_that_the_router_and_its_layers_know() {
        let handle = CacheHandle::builder().build();
        let version = Version::default();
        let layer = || builder().handle(&handle).build();
        for app in apps(layer, &version) {
            version.store(0, SeqCst);
            let pages = [
                "/shop/product/7?q=a",
                "/shop/product/8?q=a",
                "/shop/blue%20one/7?q=b",
            ];
            let mut first = Vec::new();
            for page in pages {
                let (text, _) = web(&app, web_get(page)).await;
                assert!(text.starts_with("0 "), "{text}");
                assert!(
                    text.ends_with(&format!("berlin /shop/{{kind}}/{{id}} {page}")),
                    "{text}"
                );
                first.push(text);
            }
            version.store(1, SeqCst);
            assert_eq!(counts(handle.purge(ALL)).await, (3, 0, 0));
            for (page, first) in pages.into_iter().zip(first) {
                let expected = first.replacen('0', "1", 1);
                assert_eq!(web(&app, web_get(page)).await, (expected, true));
            }
            let _ = handle.purge_all().await.unwrap();
        }
    }

    /// Handlers that have no state are given the layer when they are called.
    #[tokio::test(start_paused = true)]
    async fn a_router_without_a_state_is_refreshed_like_others() {
        let (version, layer) = (Version::default(), builder().build());
        let (handle, told) = (layer.handle(), version.clone());
        let show = move || {
            let version = told.load(SeqCst).to_string();
            async { (Tags::from(ALL), version) }
        };
        let app = Router::new()
            .route("/{page}", routing::get(show))
            .layer(layer);
        let requests = (0..10).map(|page| web_get(&format!("/{page}")));
        assert_eq!(handle.warm(app.clone(), requests).finish().await.failed, 0);
        for again in 1..=3 {
            version.fetch_add(1, SeqCst);
            assert_eq!(counts(handle.purge(ALL)).await, (10, 0, 0));
            let expected = (again.to_string(), true);
            assert_eq!(web(&app, web_get("/7")).await, expected);
        }
        drop(app);
        assert_eq!(counts(handle.purge(ALL)).await, (0, 0, 10));
    }

    #[tokio::test]
    async fn what_came_over_a_connection_that_is_closed_is_asked_for_again() {
        let layer = builder().build();
        let handle = layer.handle();
        let show = async || (Tags::from(ALL), "page");
        let app: Router = Router::new()
            .route("/{page}", routing::get(show))
            .layer(layer);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        for page in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head =
                format!("GET /{page} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("; stored"), "{answer}");
        }
        sleep(HANDLER).await;
        assert_eq!(counts(handle.purge(ALL)).await, (3, 0, 0));
    }

    async fn search(State(version): State<Version>, Json(asked): Json<Value>) -> (Tags, String) {
        let version = version.load(SeqCst);
        (Tags::from(ALL), format!("{version} {}", asked["q"]))
    }

    // Invariant 9.
    #[cfg(feature = "json")]
    #[tokio::test(start_paused = true)]
    async fn a_search_is_asked_again_with_its_body() {
        let version = Version::default();
        let layer = CacheLayer::builder()
            .key(Key::new().json_body(1024))
            .methods([Method::POST])
            .unwrap();
        let layer = layer.stale_while_revalidate(SWR).refreshable().build();
        let handle = layer.handle();
        let app = Router::new()
            .route("/search", routing::post(search).layer(layer))
            .with_state(version.clone());
        let asked = |body: Value| {
            let request = Request::post("/search").header("content-type", "application/json");
            let request = request
                .header("host", "a.example")
                .header("content-length", body.to_string().len());
            request.body(Body::from(body.to_string())).unwrap()
        };
        let searches = [json!({ "q": "a" }), json!({ "q": "b", "size": 10 })];
        for search in &searches {
            let (text, _) = web(&app, asked(search.clone())).await;
            assert_eq!(text, format!("0 {}", search["q"]));
        }
        version.store(1, SeqCst);
        assert_eq!(counts(handle.purge(ALL)).await, (2, 0, 0));
        for search in &searches {
            let text = format!("1 {}", search["q"]);
            assert_eq!(web(&app, asked(search.clone())).await, (text, true));
        }
    }
}

mod in_tonic {
    use http::uri::PathAndQuery;
    use tonic::{
        Status,
        client::Grpc,
        codec::CompressionEncoding::Gzip,
        server::{self, NamedService},
        transport::{Channel, Endpoint, Server},
    };
    use tonic_prost::ProstCodec;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Query {
        #[prost(uint64, tag = "1")]
        id: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Product {
        #[prost(string, tag = "1")]
        name: String,
    }

    /// Answers with the version of the data, and what it was asked for.
    #[derive(Clone)]
    struct Catalogue(Arc<AtomicUsize>);

    impl tower::Service<tonic::Request<Query>> for Catalogue {
        type Response = tonic::Response<Product>;
        type Error = Status;
        type Future = std::future::Ready<Result<tonic::Response<Product>, Status>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, query: tonic::Request<Query>) -> Self::Future {
            let (version, id) = (self.0.load(SeqCst), query.into_inner().id);
            scope::tag(ALL);
            let name = format!("{version} {id}");
            std::future::ready(Ok(tonic::Response::new(Product { name })))
        }
    }

    #[derive(Clone)]
    struct Routes(Catalogue);

    impl NamedService for Routes {
        const NAME: &'static str = "shop.Catalogue";
    }

    impl tower::Service<Request<tonic::body::Body>> for Routes {
        type Response = Response<tonic::body::Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
            let catalogue = self.0.clone();
            Box::pin(async move {
                let mut grpc = server::Grpc::new(ProstCodec::<Product, Query>::default())
                    .accept_compressed(Gzip)
                    .send_compressed(Gzip);
                Ok(grpc.unary(catalogue, request).await)
            })
        }
    }

    async fn find(client: &mut Grpc<Channel>, id: u64) -> (String, String) {
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/shop.Catalogue/Find");
        let codec = ProstCodec::<Query, Product>::default();
        let mut request = tonic::Request::new(Query { id });
        request.set_timeout(SECOND * 30);
        let found = client.unary(request, path, codec).await.unwrap();
        let status = found
            .metadata()
            .get("cache-status")
            .unwrap()
            .to_str()
            .unwrap();
        (status.to_owned(), found.into_inner().name)
    }

    // Invariants 9, 46.
    #[tokio::test]
    async fn calls_are_made_again_with_their_messages() {
        for gzip in [false, true] {
            let layer = CacheLayer::builder().key(Key::grpc(1024).all_methods());
            let layer = layer.stale_while_revalidate(SWR).refreshable().build();
            let (handle, version) = (layer.handle(), Arc::new(AtomicUsize::new(0)));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = Server::builder()
                .layer(layer)
                .add_service(Routes(Catalogue(version.clone())));
            tokio::spawn(server.serve_with_incoming(incoming));
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            let connect = async || {
                let client = Grpc::new(endpoint.connect().await.unwrap());
                if gzip {
                    client.send_compressed(Gzip).accept_compressed(Gzip)
                } else {
                    client
                }
            };
            let mut client = connect().await;
            for id in 1..=3 {
                assert_eq!(find(&mut client, id).await.1, format!("0 {id}"));
            }
            // Another connection: what is stored can be asked for again when that it came over is gone.
            drop(client);
            sleep(HANDLER).await;
            let mut client = connect().await;
            version.store(1, SeqCst);
            assert_eq!(counts(handle.purge(ALL)).await, (3, 0, 0), "{gzip}");
            for id in 1..=3 {
                let (status, name) = find(&mut client, id).await;
                assert_eq!(name, format!("1 {id}"));
                assert!(status.contains("; hit; ttl="), "{status}");
            }
        }
    }
}

// ---- warming

/// Requests for these pages.
fn requests(pages: &[String]) -> Vec<Request<Body>> {
    pages.iter().map(|page| get(page)).collect()
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn what_is_warmed_is_made_anew_however_fresh_what_is_stored_may_be() {
    let pages = pages(20);
    let (cache, handle, site) = outdated(builder(), &pages[..10]).await;
    let warming = handle.warm(cache.clone(), requests(&pages));
    assert_eq!(site.calls(), 10, "nothing happens until it is polled");
    let warmed = warming.finish().await;
    assert_eq!((warmed.total, warmed.done, warmed.failed), (20, 20, 0));
    assert_eq!(site.calls(), 30);
    for page in &pages {
        assert_eq!(now(&cache, page).await, fresh("1"));
    }
    assert_eq!(site.calls(), 30);
    // And can be asked for again, as what came otherwise can.
    site.change();
    assert_eq!(counts(handle.purge(ALL)).await, (20, 0, 0));
    assert_eq!(now(&cache, "/7").await, fresh("2"));
}

#[tokio::test(start_paused = true)]
async fn it_tells_how_far_it_is_one_by_one() {
    for as_stream in [false, true] {
        let (cache, handle, site) = cached(builder());
        site.say("/3", Says::Status(500));
        let mut warming = handle.warm(cache, requests(&pages(10)));
        let mut told = Vec::new();
        if as_stream {
            assert_eq!(futures_util::Stream::size_hint(&warming), (10, Some(10)));
            while let Some(progress) = StreamExt::next(&mut warming).await {
                let left = 10 - progress.done;
                told.push(progress);
                assert_eq!(
                    futures_util::Stream::size_hint(&warming),
                    (left, Some(left))
                );
            }
        } else {
            while let Some(progress) = warming.next().await {
                told.push(progress);
            }
        }
        assert_eq!(warming.next().await, None, "and then again");
        assert_eq!(told.len(), 10);
        for (nth, progress) in told.iter().enumerate() {
            assert_eq!((progress.total, progress.done), (10, nth + 1));
        }
        assert!(told.is_sorted_by_key(|progress| progress.failed));
        assert_eq!(told[9].failed, 1);
        settled(&handle).await;
    }
    let (cache, handle, _) = cached(builder());
    let nothing = handle.warm(cache, requests(&[])).finish().await;
    assert_eq!(nothing, Warmed::default());
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn as_many_are_made_at_once_as_it_is_told() {
    for (at_once, most) in [(None, 8), (Some(1), 1), (Some(3), 3), (Some(50), 20)] {
        let (cache, handle, site) = cached(builder());
        let mut warming = handle.warm(cache, requests(&pages(20)));
        if let Some(at_once) = at_once {
            warming = warming.at_once(NonZeroUsize::new(at_once).unwrap());
        }
        let began = Instant::now();
        assert_eq!(warming.finish().await.failed, 0);
        assert_eq!(site.probe.most(), most);
        let rounds = u32::try_from(20usize.div_ceil(most)).unwrap();
        assert_eq!(began.elapsed(), HANDLER * rounds);
    }
}

// Invariants 1, 3, 22.
#[tokio::test(start_paused = true)]
async fn what_is_not_to_be_stored_neither_enters_the_cache_nor_replaces_what_is_there() {
    for says in FAILURES {
        let pages = pages(4);
        // For longer than the patience with one that hangs.
        let (cache, handle, site) = outdated(builder().ttl(TTL * 10), &pages[..2]).await;
        for page in ["/1", "/2"] {
            site.say(page, says);
        }
        let warmed = handle.warm(cache.clone(), requests(&pages)).finish().await;
        assert_eq!((warmed.done, warmed.failed), (4, 2), "{says:?}");
        assert_eq!(now(&cache, "/0").await, fresh("1"));
        assert_eq!(now(&cache, "/1").await, fresh("0"), "{says:?}");
        assert_eq!(now(&cache, "/3").await, fresh("1"));
        settled(&handle).await;
        assert_eq!(handle.stats().entries, 3, "{says:?}");
        site.says.lock().unwrap().clear();
        assert_eq!(now(&cache, "/2").await, (String::from("1"), false));
    }
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn what_was_purged_while_it_was_made_is_not_stored() {
    let pages = pages(8);
    let (cache, handle, site) = outdated(builder(), &pages).await;
    let warming = tokio::spawn(handle.warm(cache.clone(), requests(&pages)).finish());
    sleep(HANDLER / 2).await;
    site.change();
    let _ = handle
        .purge([Tag::new("/1"), Tag::new("/2")])
        .await
        .unwrap();
    assert_eq!(warming.await.unwrap().failed, 2);
    assert_eq!(now(&cache, "/0").await, fresh("1"));
    assert_eq!(now(&cache, "/1").await, stale("2"));
}

#[tokio::test(start_paused = true)]
async fn no_client_can_ask_for_it() {
    let (cache, handle, site) = cached(builder());
    ask(&cache, get("/")).await.unwrap();
    for (name, value) in [
        ("cache-control", "no-cache"),
        ("cache-control", "no-store, max-age=0"),
        ("pragma", "no-cache"),
        ("anew", "1"),
        ("x-anew", "1"),
        ("x-warm", "1"),
        ("purpose", "prefetch"),
        ("expect", "100-continue"),
    ] {
        let answer = ask(&cache, get_with("/", name, value)).await.unwrap();
        assert!(is_fresh(&answer), "{name}: {value}");
    }
    assert_eq!(site.calls(), 1);
    settled(&handle).await;
}

// Invariants 25, 34.
#[tokio::test(start_paused = true)]
async fn requests_meanwhile_get_what_is_stored_and_others_wait_for_the_call_that_is_made() {
    for mode in [FillMode::Detached, FillMode::Inline] {
        let all = pages(8);
        let (cache, handle, site) = outdated(builder().fill_mode(mode), &all[..4]).await;
        sleep(TTL - HANDLER * 5).await;
        // The first two are stale by now, the next two fresh, and the rest is not there.
        let _ = handle
            .purge([Tag::new("/0"), Tag::new("/1")])
            .soft()
            .await
            .unwrap();
        let warming = tokio::spawn(handle.warm(cache.clone(), requests(&all)).finish());
        sleep(HANDLER / 2).await;
        let began = Instant::now();
        for page in &all[..4] {
            let is_stale = ["/0", "/1"].contains(&&**page);
            if mode == FillMode::Detached || !is_stale {
                assert_eq!(now(&cache, page).await, ("0".to_owned(), !is_stale));
            }
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        let cold = (0..100).map(|nth| get(&all[4 + nth % 4]));
        for answer in answers(&cache, cold).await {
            assert_eq!(answer.text(), "1");
        }
        assert_eq!(warming.await.unwrap().failed, 0);
        settled(&handle).await;
        assert_eq!(site.calls(), 12, "one call a page: {mode:?}");
        for page in &all {
            assert_eq!(now(&cache, page).await, fresh("1"));
        }
    }
}

// Invariants 4, 25.
#[tokio::test(start_paused = true)]
async fn who_misses_a_variant_that_is_warmed_waits_for_it() {
    let (cache, handle, site) = cached(builder());
    site.put("vary", "accept-language");
    let asked = |language| get_with("/", "accept-language", language);
    ask(&cache, asked("de")).await.unwrap();
    let warming = tokio::spawn(handle.warm(cache.clone(), [asked("en")]).finish());
    sleep(HANDLER / 2).await;
    assert_eq!(ask(&cache, asked("en")).await.unwrap().text(), "0en");
    assert_eq!(warming.await.unwrap().failed, 0);
    assert_eq!(site.calls(), 2);
}

// Invariant 31.
#[tokio::test(start_paused = true)]
async fn it_may_be_dropped_at_any_poll_and_what_has_begun_goes_on() {
    for polls in 0.. {
        let pages = pages(20);
        let (cache, handle, site) = outdated(builder(), &pages).await;
        let mut warming = handle.warm(cache.clone(), requests(&pages));
        let mut is_done = false;
        for _ in 0..polls {
            while let Some(told) = warming.next().now_or_never() {
                is_done = told.is_none();
                if is_done {
                    break;
                }
            }
            sleep(HANDLER / 4).await;
        }
        drop(warming);
        let begun = site.calls() - 20;
        settled(&handle).await;
        sleep(SECOND).await;
        assert_eq!(site.calls() - 20, begun, "no more begin");
        let mut new = 0;
        for page in &pages {
            new += usize::from(now(&cache, page).await == fresh("1"));
        }
        assert_eq!(new, begun);
        if is_done {
            assert!(polls > 8);
            return;
        }
    }
}

/// Lets a body of a cache be one that a cache can stand around.
fn outside<S, B>(service: S) -> impl Inner
where
    S: Service<Request<Body>, Response = Response<B>, Error = Failure, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    let boxed = |body: B| body.map_err(|_| concurrency::Broken).boxed_unsync();
    service.map_response(move |response: Response<B>| response.map(boxed))
}

// Invariant 6.
#[tokio::test(start_paused = true)]
async fn of_two_caches_only_that_of_the_handle_is_warmed() {
    let (inner, inner_handle, site) = cached(builder());
    let outer = builder().build();
    let outer_handle = outer.handle();
    let outer = outer.layer(outside(inner.clone()));
    assert_eq!(now(&outer, "/").await.0, "0");
    settled(&inner_handle).await;
    site.change();
    // The outer one asks, and the inner one has it.
    let warmed = outer_handle.warm(outer.clone(), [get("/")]).finish().await;
    assert_eq!((warmed.done, warmed.failed, site.calls()), (1, 0, 1));
    assert_eq!(now(&outer, "/").await, fresh("0"));
    // The outer one has it, and nothing reaches the inner one.
    let warmed = inner_handle.warm(outer.clone(), [get("/")]).finish().await;
    assert_eq!((warmed.done, warmed.failed, site.calls()), (1, 1, 1));
    let warmed = inner_handle.warm(inner.clone(), [get("/")]).finish().await;
    assert_eq!((warmed.done, warmed.failed, site.calls()), (1, 0, 2));
    assert_eq!(now(&inner, "/").await, fresh("1"));
    assert_eq!(now(&outer, "/").await, fresh("0"));
}

// Invariants 16, 38.
#[tokio::test(start_paused = true)]
async fn of_two_layers_of_one_handle_none_makes_fresh_what_the_other_serves_stale() {
    for refreshes in [false, true] {
        let handle = CacheHandle::builder().build();
        let (inner, _, site) = cached(builder().handle(&handle));
        let outer = builder()
            .handle(&handle)
            .build()
            .layer(outside(inner.clone()));
        assert_eq!(now(&outer, "/").await.0, "0");
        settled(&handle).await;
        site.change();
        if refreshes {
            assert_eq!(counts(handle.purge(ALL)).await, (2, 0, 0));
            assert!((2..=3).contains(&site.calls()), "{}", site.calls());
            assert_eq!(now(&inner, "/").await, fresh("1"));
            assert_eq!(now(&outer, "/").await, fresh("1"));
            continue;
        }
        let _ = handle.purge(ALL).soft().await.unwrap();
        for _ in 0..3 {
            assert_ne!(now(&outer, "/").await, fresh("0"));
            settled(&handle).await;
            sleep(SECOND * 15).await;
        }
        assert_eq!(now(&outer, "/").await, fresh("1"));
    }
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn both_of_two_layers_of_one_handle_are_warmed() {
    let handle = CacheHandle::builder().build();
    let (inner, _, site) = cached(builder().handle(&handle));
    let outer = builder()
        .handle(&handle)
        .build()
        .layer(outside(inner.clone()));
    for version in ["0", "1"] {
        let warmed = handle
            .warm(outer.clone(), requests(&pages(3)))
            .finish()
            .await;
        assert_eq!((warmed.done, warmed.failed), (3, 0));
        assert_eq!(now(&inner, "/1").await, fresh(version));
        assert_eq!(now(&outer, "/1").await, fresh(version));
        site.change();
    }
    assert_eq!(site.calls(), 6);
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn a_router_is_warmed_through_whatever_stands_around_it() {
    let version = Arc::new(AtomicUsize::new(0));
    let (layer, told) = (builder().build(), version.clone());
    let handle = layer.handle();
    let show = move || {
        let version = told.load(SeqCst);
        async move { (Tags::from(ALL), format!("{version} {}", "x".repeat(2000))) }
    };
    let app = axum::Router::new()
        .route("/pages/{page}", axum::routing::get(show))
        .layer(layer)
        .layer(tower_http::compression::CompressionLayer::new())
        .layer(tower_http::timeout::TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            SECOND,
        ))
        .layer(tower_http::catch_panic::CatchPanicLayer::new())
        .with_state(());
    for expected in ["0 x", "1 x"] {
        let pages = (0..30).map(|page| with_encoding(web_get(&format!("/pages/{page}"))));
        let warmed = handle.warm(app.clone(), pages).finish().await;
        assert_eq!((warmed.done, warmed.failed), (30, 0));
        for page in 0..30 {
            let (text, is_fresh) = web(&app, web_get(&format!("/pages/{page}"))).await;
            assert!(is_fresh && text.starts_with(expected), "{text}");
        }
        version.fetch_add(1, SeqCst);
    }
    assert_eq!(handle.stats().stored, 60);
}

fn with_encoding<B>(mut request: Request<B>) -> Request<B> {
    let gzip = HeaderValue::from_static("gzip");
    request.headers_mut().insert("accept-encoding", gzip);
    request
}

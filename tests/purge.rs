//! Once a purge has returned, nobody who comes gets what was made before it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use scale::scaled;

use common::{
    Answer, Body, Chunks, Gate, Origin, Random, chunked, eventually, full, get, head, next, ok,
    read, request, send, settle, streamed, until, with, with_headers, within,
};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header, request::Parts};
use tokio::{task::JoinHandle, time::advance};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, CacheScope, Key, Reason, Tag, TagHeader,
    Tags, scope,
};

const HOUR: Duration = Duration::from_secs(3600);

fn tag(name: &str) -> Tag {
    Tag::from(name.to_owned())
}

fn parts(request: Request<Body>) -> Parts {
    request.into_parts().0
}

/// What the tags of a path are: `/a,b` has `a` and `b`.
fn tags_of(path: &str) -> Tags {
    path[1..]
        .split(',')
        .filter(|name| !name.is_empty())
        .map(tag)
        .collect()
}

/// A database with one number in it, its pages, and a cache before them.
struct Shop {
    cache: Cache<Origin>,
    handle: CacheHandle,
    origin: Origin,
    data: Arc<AtomicUsize>,
}

impl Shop {
    /// Its handler reads the number, goes through the gate if there is one, and answers.
    fn new(builder: CacheLayerBuilder, gate: Option<Gate>) -> Self {
        let data = Arc::new(AtomicUsize::new(0));
        let read = data.clone();
        let origin = Origin::later(move |request| {
            let (gate, number) = (gate.clone(), read.load(Ordering::SeqCst));
            async move {
                if let Some(gate) = gate.filter(|_| request.method() == "GET") {
                    gate.pass().await;
                }
                let mut response = ok(number.to_string());
                response
                    .extensions_mut()
                    .insert(tags_of(request.uri().path()));
                response
            }
        });
        Self::of(builder, origin, data)
    }

    fn of(builder: CacheLayerBuilder, origin: Origin, data: Arc<AtomicUsize>) -> Self {
        let layer = builder.ttl(HOUR).build();
        Self {
            cache: layer.layer(origin.clone()),
            handle: layer.handle(),
            origin,
            data,
        }
    }

    fn plain() -> Self {
        Self::new(CacheLayer::builder(), None)
    }

    fn gated() -> (Self, Gate) {
        let gate = Gate::new();
        (Self::new(CacheLayer::builder(), Some(gate.clone())), gate)
    }

    /// The number changes, and what showed it is purged.
    async fn change(&self, purge: Purge) {
        self.data.fetch_add(1, Ordering::SeqCst);
        purge.on(&self.handle).await;
    }

    async fn number(&self, path: &str) -> usize {
        send(&self.cache, get(path)).await.text().parse().unwrap()
    }

    async fn is_hit(&self, path: &str) -> bool {
        let only_if_cached = with(get(path), "cache-control", "only-if-cached");
        send(&self.cache, only_if_cached).await.is_hit()
    }

    fn ask(&self, path: &'static str) -> JoinHandle<Answer> {
        let cache = self.cache.clone();
        tokio::spawn(async move { send(&cache, get(path)).await })
    }

    async fn nothing_is_left(&self) {
        eventually(|| {
            let stats = self.handle.stats();
            (
                stats.flights,
                stats.waiters,
                stats.in_flight,
                stats.fills,
                stats.marks,
            ) == (0, 0, 0, 0, 0)
        })
        .await;
    }
}

/// The ways to purge `/a,b`.
#[derive(Debug, Clone, Copy)]
enum Purge {
    Tag,
    OneOfTwo,
    All,
    Request,
}

const EVERY_WAY: [Purge; 4] = [Purge::Tag, Purge::OneOfTwo, Purge::All, Purge::Request];

impl Purge {
    async fn on(self, handle: &CacheHandle) {
        let purged = match self {
            Self::Tag => handle.purge(Tag::new("a")).await,
            Self::OneOfTwo => handle.purge([Tag::new("nobody's"), Tag::new("b")]).await,
            Self::All => handle.purge_all().await,
            Self::Request => handle.purge_request(&parts(get("/a,b"))).await,
        };
        assert!(purged.unwrap().marks > 0);
    }
}

// ---- verbs

// Invariants 36, 43.
#[tokio::test]
async fn a_purge_by_tag_takes_what_bears_it_and_nothing_else() {
    let shop = Shop::plain();
    for path in ["/a", "/b", "/a,b", "/"] {
        shop.number(path).await;
    }
    assert_eq!(shop.handle.purge(Tag::new("a")).await.unwrap().marks, 1);
    for (path, is_hit) in [("/a", false), ("/b", true), ("/a,b", false), ("/", true)] {
        assert_eq!(shop.is_hit(path).await, is_hit, "{path}");
    }
    let _ = shop.handle.purge(Tag::new("A")).await.unwrap();
    assert!(shop.is_hit("/b").await);
}

// Invariant 43.
#[tokio::test]
async fn a_purge_of_several_tags_is_one() {
    let shop = Shop::plain();
    for path in ["/a", "/b", "/c", "/d"] {
        shop.number(path).await;
    }
    assert_eq!(
        shop.handle
            .purge([tag("a"), tag("b"), tag("c")])
            .await
            .unwrap()
            .marks,
        3
    );
    assert_eq!(shop.handle.stats().purges, 1);
    for (path, is_hit) in [("/a", false), ("/b", false), ("/c", false), ("/d", true)] {
        assert_eq!(shop.is_hit(path).await, is_hit, "{path}");
    }
    assert_eq!(shop.handle.purge(Tags::new()).await.unwrap().marks, 0);
    assert!(shop.is_hit("/d").await);
}

// Invariant 36.
#[tokio::test]
async fn a_purge_of_all_takes_also_what_bears_no_tag_on_every_layer() {
    let handle = CacheHandle::builder().build();
    let origin = Origin::counting(&[]);
    let layer = || {
        CacheLayer::builder()
            .handle(&handle)
            .build()
            .layer(origin.clone())
    };
    let layers = [layer(), layer()];
    for cache in &layers {
        send(cache, get("/")).await;
        assert!(send(cache, get("/")).await.is_hit());
    }
    let _ = handle.purge_all().await.unwrap();
    for cache in &layers {
        assert!(!send(cache, get("/")).await.is_hit());
        assert!(
            send(cache, get("/")).await.is_hit(),
            "what comes later is stored"
        );
    }
}

// Invariants 36, 44.
#[tokio::test]
async fn a_purge_by_request_takes_every_variant_on_every_layer() {
    let handle = CacheHandle::builder().build();
    let origin = Origin::new(|_| with(ok("x"), "vary", "accept-language"));
    let tenants = Key::new()
        .query(["page"])
        .header(HeaderName::from_static("x-tenant"));
    let pages = CacheLayer::builder()
        .handle(&handle)
        .build()
        .layer(origin.clone());
    let search = CacheLayer::builder()
        .handle(&handle)
        .key(tenants)
        .build()
        .layer(origin.clone());
    let asked = |path: &str, tenant: &str, language: &str| {
        with_headers(
            get(path),
            &[("x-tenant", tenant), ("accept-language", language)],
        )
    };
    let all = async |path: &str, tenant: &str| {
        let mut hits = Vec::new();
        for cache in [&pages, &search] {
            for language in ["de", "en"] {
                hits.push(send(cache, asked(path, tenant, language)).await.is_hit());
            }
        }
        hits
    };
    for path in ["/p?page=1", "/p?page=2"] {
        all(path, "t1").await;
        assert_eq!(all(path, "t1").await, [true; 4]);
    }
    assert_eq!(all("/p?page=1", "t2").await, [true, true, false, false]);
    let _ = handle
        .purge_request(&parts(asked("/p?page=1", "t1", "whatever")))
        .await
        .unwrap();
    assert_eq!(all("/p?page=1", "t1").await, [false; 4]);
    assert_eq!(all("/p?page=2", "t1").await, [true; 4]);
    assert_eq!(all("/p?page=1", "t2").await, [true; 4]);
    let head = parts(with(request("HEAD", "/p?page=2"), "x-tenant", "t1"));
    let _ = handle.purge_request(&head).await.unwrap();
    assert_eq!(
        all("/p?page=2", "t1").await,
        [false; 4],
        "a HEAD's request is the GET's"
    );
}

// Invariants 36, 44.
#[tokio::test]
async fn a_purge_by_request_takes_every_body_of_a_call() {
    let origin = Origin::new(|_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = chunked(&[b"\0\0\0\0\x01x"], Some(trailers));
        with(Response::new(body), "content-type", "application/grpc")
    });
    let layer = CacheLayer::builder()
        .key(Key::grpc(100).all_methods())
        .build();
    let (cache, handle) = (layer.layer(origin), layer.handle());
    let call = |path: &str, message: u8| {
        let body = full(vec![0, 0, 0, 0, 1, message]);
        with(
            request("POST", path).map(|_| body),
            "content-type",
            "application/grpc",
        )
    };
    for path in ["/s/one", "/s/two"] {
        for message in 0..3 {
            send(&cache, call(path, message)).await;
            assert!(send(&cache, call(path, message)).await.is_hit());
        }
    }
    let _ = handle
        .purge_request(&parts(call("/s/one", 9)))
        .await
        .unwrap();
    for message in 0..3 {
        assert!(!send(&cache, call("/s/one", message)).await.is_hit());
        assert!(send(&cache, call("/s/two", message)).await.is_hit());
    }
}

// ---- where tags come from

async fn is_purged_by(builder: CacheLayerBuilder, origin: Origin, tags: &[&str]) {
    let shop = Shop::of(builder, origin, Arc::default());
    for name in tags {
        shop.number("/").await;
        assert!(shop.is_hit("/").await);
        let _ = shop
            .handle
            .purge(tag(&format!("not {name}")))
            .await
            .unwrap();
        assert!(shop.is_hit("/").await);
        let _ = shop.handle.purge(tag(name)).await.unwrap();
        assert!(!shop.is_hit("/").await, "{name}");
    }
}

// Invariant 36.
#[tokio::test]
async fn tags_come_from_the_responses_extensions() {
    let origin = Origin::new(|_| {
        let mut response = ok("1");
        response
            .extensions_mut()
            .insert(Tags::from([tag("a"), tag("b c"), tag("\u{fc}")]));
        response
    });
    is_purged_by(CacheLayer::builder(), origin, &["a", "b c", "\u{fc}"]).await;
}

// Invariant 36.
#[tokio::test]
async fn tags_come_from_deep_inside_the_handler() {
    async fn load() {
        tokio::task::yield_now().await;
        scope::tag("a");
        scope::tags([tag("b"), tag("c")]);
    }
    let origin = Origin::later(|_| async {
        load().await;
        ok("1")
    });
    is_purged_by(CacheLayer::builder(), origin, &["a", "b", "c"]).await;
}

// Invariant 36.
#[tokio::test]
async fn tags_come_from_another_task_that_has_the_scope() {
    let origin = Origin::later(|request| async move {
        let scope = request
            .extensions()
            .get::<CacheScope>()
            .cloned()
            .unwrap_or_default();
        tokio::spawn(async move {
            scope.tag("a");
            scope.tags([tag("b")]);
        })
        .await
        .unwrap();
        ok("1")
    });
    is_purged_by(CacheLayer::builder(), origin, &["a", "b"]).await;
}

// Invariant 36.
#[tokio::test]
async fn tags_come_from_headers_in_several_lines() {
    let headers = [
        ("surrogate-key", "a b  c"),
        ("surrogate-key", "product:7\td,e"),
        ("cache-tag", "x, y y ,,z"),
        ("cache-tag", "last"),
    ];
    let builder = CacheLayer::builder()
        .tag_header(TagHeader::SURROGATE_KEY)
        .tag_header(TagHeader::CACHE_TAG);
    let origin = Origin::new(move |_| with_headers(ok("1"), &headers));
    let tags = ["a", "b", "c", "product:7\td,e", "x", "y y", "z", "last"];
    is_purged_by(builder, origin, &tags).await;
}

// Invariant 36.
#[tokio::test]
async fn tags_come_from_the_request() {
    let builder = CacheLayer::builder()
        .tag_requests(|parts| Tags::new().with(format!("host:{:?}", parts.headers[header::HOST])));
    is_purged_by(builder, Origin::counting(&[]), &["host:\"shop.example\""]).await;
}

// Invariant 36.
#[tokio::test]
async fn all_sources_add_up() {
    let builder = CacheLayer::builder()
        .tag_header(TagHeader::CACHE_TAG)
        .tag_requests(|_| Tags::new().with("request"));
    let origin = Origin::new(|_| {
        scope::tag("scope");
        let mut response = with(ok("1"), "cache-tag", "header");
        response
            .extensions_mut()
            .insert(Tags::new().with("extension"));
        response
    });
    is_purged_by(
        builder,
        origin,
        &["request", "scope", "header", "extension"],
    )
    .await;
}

// Invariant 6.
#[tokio::test]
async fn tags_in_headers_are_stripped_from_every_answer_when_asked() {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |request| {
        let inside = inside.clone();
        async move {
            if request.uri().path() == "/gated" {
                inside.pass().await;
            }
            let status = if request.uri().path() == "/error" {
                500
            } else {
                200
            };
            let mut response = with_headers(
                ok("1"),
                &[
                    ("surrogate-key", "a"),
                    ("surrogate-key", "b"),
                    ("cache-tag", "c"),
                ],
            );
            *response.status_mut() = status.try_into().unwrap();
            response
        }
    });
    let builder = CacheLayer::builder()
        .tag_header(TagHeader::SURROGATE_KEY.strip())
        .tag_header(TagHeader::CACHE_TAG);
    let shop = Shop::of(builder, origin, Arc::default());
    let leader = shop.ask("/gated");
    gate.arrival().await;
    let follower = shop.ask("/gated");
    until(|| shop.handle.stats().waiters == 1).await;
    gate.open();
    let mut answers = vec![leader.await.unwrap(), follower.await.unwrap()];
    assert!(answers[1].cache().is_collapsed());
    for asked in [
        get("/"),
        get("/"),
        get("/error"),
        request("POST", "/"),
        request("HEAD", "/other"),
        with(get("/"), "cookie", "a=1"),
        with(get("/other"), "authorization", "x"),
    ] {
        answers.push(send(&shop.cache, asked).await);
    }
    assert!(answers[3].is_hit());
    for answer in answers {
        assert_eq!(answer.header("surrogate-key"), None, "{:?}", answer.cache());
        assert_eq!(
            answer.header("cache-tag"),
            Some("c"),
            "{:?}",
            answer.cache()
        );
    }
}

// ---- races

// Fill in flight at a purge. Its requester came before; what it gets is stored for nobody.
// Invariants 36, 38.
#[tokio::test]
async fn a_fill_in_flight_at_a_purge_is_stored_for_nobody() {
    for purge in EVERY_WAY {
        let (shop, gate) = Shop::gated();
        let before = shop.ask("/a,b");
        gate.arrival().await;
        shop.change(purge).await;
        gate.open();
        assert_eq!(before.await.unwrap().text(), "0");
        assert_eq!(shop.number("/a,b").await, 1, "{purge:?}");
        assert!(shop.is_hit("/a,b").await);
        assert_eq!(shop.origin.calls(), 2);
        shop.nothing_is_left().await;
    }
}

// A follower joins after a purge: it has its own way, and sees what is new.
// Invariants 36, 37.
#[tokio::test]
async fn one_who_comes_after_a_purge_gets_nothing_from_a_fill_before_it() {
    for purge in EVERY_WAY {
        let (shop, gate) = Shop::gated();
        let leader = shop.ask("/a,b");
        gate.arrival().await;
        let early = shop.ask("/a,b");
        until(|| shop.handle.stats().waiters == 1).await;
        shop.change(purge).await;
        let late: Vec<_> = (0..5).map(|_| shop.ask("/a,b")).collect();
        settle().await;
        gate.open();
        assert_eq!(leader.await.unwrap().text(), "0");
        assert!(["0", "1"].contains(&early.await.unwrap().text()));
        for late in late {
            assert_eq!(late.await.unwrap().text(), "1", "{purge:?}");
        }
        assert!(shop.origin.calls() <= 3);
        shop.nothing_is_left().await;
    }
}

/// A handler that answers with a head at once and a body by and by.
fn streaming(announced: bool) -> (Shop, Arc<Mutex<Vec<Chunks>>>) {
    let (data, bodies) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let (read, opened) = (data.clone(), bodies.clone());
    let origin = Origin::new(move |request| {
        let (chunks, body) = streamed();
        chunks.send(read.load(Ordering::SeqCst).to_string());
        opened.lock().unwrap().push(chunks);
        let mut response = Response::new(body);
        if announced {
            response = with(response, "content-length", "2");
        }
        response
            .extensions_mut()
            .insert(tags_of(request.uri().path()));
        response
    });
    (Shop::of(CacheLayer::builder(), origin, data), bodies)
}

// A purge while a body streams: its requester may finish, nothing is stored, and nobody reads along who came later.
// Invariants 36, 37, 38.
#[tokio::test]
async fn a_body_that_streams_at_a_purge_goes_to_its_requester_alone() {
    for purge in EVERY_WAY {
        for announced in [false, true] {
            let (shop, bodies) = streaming(announced);
            let mut before = head(&shop.cache, get("/a,b")).await;
            assert_eq!(next(before.body_mut()).await.unwrap(), "0");
            shop.change(purge).await;
            let late = shop.ask("/a,b");
            settle().await;
            let end = |at: usize| {
                let chunks = bodies.lock().unwrap().remove(at);
                chunks.send(".");
            };
            end(0);
            assert_eq!(next(before.body_mut()).await.unwrap(), ".");
            assert!(read(before).await.body.is_empty());
            until(|| bodies.lock().unwrap().len() == 1).await;
            end(0);
            assert_eq!(late.await.unwrap().text(), "1.", "{purge:?} {announced}");
            assert_eq!(shop.origin.calls(), 2);
            let last = shop.ask("/a,b");
            settle().await;
            bodies
                .lock()
                .unwrap()
                .drain(..)
                .for_each(|chunks| chunks.end_with("."));
            assert_eq!(last.await.unwrap().text(), "1.");
            shop.nothing_is_left().await;
        }
    }
}

// Those who come after a purge wait for one of them, also while an old body still streams.
// Invariants 25, 30, 37.
#[tokio::test]
async fn a_body_that_streams_at_a_purge_does_not_send_everybody_to_the_inner_service() {
    for announced in [false, true] {
        let (shop, bodies) = streaming(announced);
        let mut before = head(&shop.cache, get("/a,b")).await;
        assert_eq!(next(before.body_mut()).await.unwrap(), "0");
        shop.change(Purge::Tag).await;
        let late: Vec<_> = (0..20).map(|_| shop.ask("/a,b")).collect();
        let mut answers = Box::pin(join_all(late));
        let answers = within(poll_fn(|cx| {
            bodies
                .lock()
                .unwrap()
                .drain(..)
                .for_each(|chunks| chunks.end_with("."));
            let polled = answers.as_mut().poll(cx);
            cx.waker().wake_by_ref();
            polled
        }));
        // The old body ends last.
        let old = bodies.lock().unwrap().pop().unwrap();
        settle().await;
        let calls = shop.origin.calls();
        old.send(".");
        drop(old);
        for answer in answers.await {
            assert_eq!(answer.unwrap().text(), "1.");
        }
        assert!(
            calls <= 3,
            "{calls} calls while one body streamed, announced: {announced}"
        );
    }
}

// A tag that nobody knows before the response: the purge comes when the head is not known yet, and again when it is.
// Invariants 36, 38.
#[tokio::test]
async fn a_tag_known_only_from_the_response_is_purged_before_it_is_known() {
    let gate = Gate::new();
    let inside = gate.clone();
    let data = Arc::new(AtomicUsize::new(0));
    let read = data.clone();
    let origin = Origin::later(move |_| {
        let (inside, number) = (inside.clone(), read.load(Ordering::SeqCst));
        async move {
            inside.pass().await;
            scope::tag(format!("v{number}"));
            ok(number.to_string())
        }
    });
    let shop = Shop::of(CacheLayer::builder(), origin, data);
    let before = shop.ask("/");
    gate.arrival().await;
    shop.data.store(1, Ordering::SeqCst);
    let _ = shop.handle.purge(tag("v0")).await.unwrap();
    let after = shop.ask("/");
    gate.open();
    assert_eq!(before.await.unwrap().text(), "0");
    assert_eq!(after.await.unwrap().text(), "1");
    assert_eq!(shop.number("/").await, 1);
}

// Two purges with tags in common.
// Invariants 36, 43.
#[tokio::test]
async fn of_two_purges_with_tags_in_common_each_counts() {
    let (shop, gate) = Shop::gated();
    let first = [("/a", 0), ("/b", 0), ("/c", 0)].map(|(path, _)| shop.ask(path));
    for _ in 0..3 {
        gate.arrival().await;
    }
    shop.data.store(1, Ordering::SeqCst);
    let _ = shop.handle.purge([tag("a"), tag("b")]).await.unwrap();
    let between = ["/a,1", "/b,1", "/c,1"].map(|path| shop.ask(path));
    for _ in 0..3 {
        gate.arrival().await;
    }
    shop.data.store(2, Ordering::SeqCst);
    let _ = shop.handle.purge([tag("b"), tag("c")]).await.unwrap();
    gate.open();
    for asked in first.into_iter().chain(between) {
        asked.await.unwrap();
    }
    for (path, is_hit) in [
        ("/a", false),
        ("/b", false),
        ("/c", false),
        ("/a,1", true),
        ("/b,1", false),
        ("/c,1", false),
    ] {
        assert_eq!(shop.is_hit(path).await, is_hit, "{path}");
    }
    for (path, number) in [
        ("/a", 2),
        ("/b", 2),
        ("/c", 2),
        ("/a,1", 1),
        ("/b,1", 2),
        ("/c,1", 2),
    ] {
        assert_eq!(shop.number(path).await, number, "{path}");
    }
    shop.nothing_is_left().await;
}

/// More entries than a sweep looks at in one go.
const SEVERAL_SLICES: usize = 3000;

// A purge while marks are being collected.
// Invariants 36, 38, 39.
#[tokio::test(start_paused = true)]
async fn a_purge_while_marks_are_collected_counts() {
    for purge in EVERY_WAY {
        let shop = Shop::plain();
        for i in 0..SEVERAL_SLICES {
            send(&shop.cache, get(&format!("/old?{i}"))).await;
        }
        assert_eq!(shop.number("/a,b").await, 0);
        let _ = shop.handle.purge(tag("old")).await.unwrap();
        // The sweep looks at its first slice, and rests.
        settle().await;
        let left = shop.handle.stats().entries;
        assert!(
            left > 0 && left < SEVERAL_SLICES as u64,
            "it is under way: {left}"
        );
        let mut before = head(&shop.cache, get("/a,b?new")).await;
        shop.change(purge).await;
        assert!(!shop.is_hit("/a,b").await, "{purge:?}");
        for i in (0..SEVERAL_SLICES).step_by(100) {
            assert!(!shop.is_hit(&format!("/old?{i}")).await);
        }
        assert_eq!(next(before.body_mut()).await.unwrap(), "0");
        drop(before);
        assert_eq!(shop.number("/a,b").await, 1);
        shop.nothing_is_left().await;
        assert_eq!(shop.number("/a,b").await, 1);
        eventually(|| shop.handle.stats().entries <= 2).await;
    }
}

// A mark outlives every fill that is older than it, whatever is swept meanwhile.
// Invariants 36, 38, 41.
#[tokio::test(start_paused = true)]
async fn a_mark_stays_while_an_older_fill_is_in_flight() {
    for purge in [Purge::Tag, Purge::OneOfTwo, Purge::Request] {
        let (shop, gate) = Shop::gated();
        let before = shop.ask("/a,b");
        gate.arrival().await;
        shop.change(purge).await;
        for _ in 0..20 {
            let _ = shop.handle.purge(tag("other")).await.unwrap();
            advance(Duration::from_millis(100)).await;
            settle().await;
        }
        assert!(shop.handle.stats().marks >= 1);
        gate.open();
        assert_eq!(before.await.unwrap().text(), "0");
        assert_eq!(shop.number("/a,b").await, 1, "{purge:?}");
        shop.nothing_is_left().await;
    }
}

// A purge of everything against one of a tag, with a fill between them.
// Invariants 36, 44.
#[tokio::test]
async fn a_purge_of_all_and_one_of_a_tag_do_not_undo_each_other() {
    for all_first in [true, false] {
        let (shop, gate) = Shop::gated();
        let before = shop.ask("/a");
        gate.arrival().await;
        if all_first {
            shop.change(Purge::All).await;
        } else {
            shop.change(Purge::Tag).await;
        }
        let between = shop.ask("/a,2");
        gate.arrival().await;
        if all_first {
            shop.change(Purge::Tag).await;
        } else {
            shop.change(Purge::All).await;
        }
        gate.open();
        assert_eq!(before.await.unwrap().text(), "0");
        assert_eq!(between.await.unwrap().text(), "1");
        assert_eq!((shop.number("/a").await, shop.number("/a,2").await), (2, 2));
        shop.nothing_is_left().await;
    }
}

// What could not be stored once does not hide a purge.
// Invariants 36, 44.
#[tokio::test]
async fn requests_that_go_side_by_side_are_purged_like_others() {
    let gate = Gate::new();
    let (inside, data) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let read = data.clone();
    let origin = Origin::later(move |_| {
        let (inside, number) = (inside.clone(), read.load(Ordering::SeqCst));
        async move {
            inside.pass().await;
            scope::tag("a");
            with(
                ok(number.to_string()),
                "cache-control",
                if number == 0 { "no-store" } else { "public" },
            )
        }
    });
    let shop = Shop::of(CacheLayer::builder(), origin, data);
    gate.let_one_pass();
    assert_eq!(
        send(&shop.cache, get("/")).await.reason(),
        Some(Reason::NoStore)
    );
    gate.arrival().await;
    shop.data.store(1, Ordering::SeqCst);
    let before = shop.ask("/");
    gate.arrival().await;
    shop.change(Purge::Tag).await;
    gate.open();
    assert_eq!(before.await.unwrap().text(), "1");
    assert_eq!(shop.number("/").await, 2);
    assert!(shop.is_hit("/").await);
}

// ---- memory

// Invariants 36, 39, 43.
#[tokio::test]
async fn many_entries_are_purged_at_once_and_leave_by_themselves() {
    let entries = scaled(10_000);
    let handle = CacheHandle::builder().max_bytes(1 << 30).build();
    let shop = Shop::new(CacheLayer::builder().handle(&handle), None);
    let began = Instant::now();
    for i in 0..entries {
        send(&shop.cache, get(&format!("/everything?{i}"))).await;
    }
    let filled = began.elapsed();
    assert_eq!(handle.stats().entries, entries as u64);
    let _ = handle.purge(tag("everything")).await.unwrap();
    let purged = Instant::now();
    for i in (0..entries).step_by(97) {
        assert!(!shop.is_hit(&format!("/everything?{i}")).await);
    }
    // About two seconds in a release build; by this machine's speed in others.
    let patience = Duration::from_secs(20).max(filled * 10);
    let is_empty = || {
        let stats = handle.stats();
        stats.entries == 0 && stats.bytes < 10_000 && stats.marks == 0
    };
    while !is_empty() {
        assert!(
            purged.elapsed() < patience,
            "{:?} after {patience:?}",
            handle.stats()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "filled in {filled:?}; memory given back {:?} after the purge",
        purged.elapsed()
    );
}

// Invariants 36, 41, 57.
#[tokio::test]
async fn marks_are_bounded_and_what_is_forgotten_counts_as_purged() {
    let handle = CacheHandle::builder().max_marks(8).build();
    let gate = Gate::new();
    let shop = Shop::new(CacheLayer::builder().handle(&handle), Some(gate.clone()));
    for _ in 0..2 {
        gate.let_one_pass();
    }
    shop.number("/t0").await;
    shop.number("/kept").await;
    gate.arrival().await;
    gate.arrival().await;
    let hanging = ["/t500", "/unpurged"].map(|path| shop.ask(path));
    gate.arrival().await;
    gate.arrival().await;
    shop.data.store(1, Ordering::SeqCst);
    for i in 0..1000 {
        let _ = handle.purge(tag(&format!("t{i}"))).await.unwrap();
        assert!(handle.stats().marks <= 8);
        tokio::task::yield_now().await;
    }
    assert!(!shop.is_hit("/t0").await);
    assert!(!shop.is_hit("/kept").await, "too much is purged");
    gate.open();
    for asked in hanging {
        assert_eq!(asked.await.unwrap().text(), "0");
    }
    for path in ["/t500", "/t0", "/unpurged", "/kept"] {
        assert_eq!(shop.number(path).await, 1, "{path}");
        assert!(shop.is_hit(path).await, "what comes later is stored");
    }
    shop.nothing_is_left().await;
}

/// What readers and writers of the soak agree on: what a tag's data is, and what was purged of it for certain.
#[derive(Debug, Default)]
struct Truth {
    newest: AtomicU64,
    purged: AtomicU64,
}

const TAGS: usize = 8;

// Invariants 31, 36, 37, 38, 57.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_of_requests_and_purges_nothing_is_left_and_nothing_was_stale() {
    let truth: Arc<[Truth; TAGS]> = Arc::default();
    let shown = truth.clone();
    let origin = Origin::later(move |request| {
        let at: usize = request.uri().path()[1..].parse().unwrap();
        let seen = shown[at].newest.load(Ordering::SeqCst);
        async move {
            for _ in 0..seen % 5 {
                tokio::task::yield_now().await;
            }
            scope::tag(format!("t{at}"));
            let control = if seen.is_multiple_of(11) {
                "no-store"
            } else {
                "public"
            };
            with(ok(seen.to_string()), "cache-control", control)
        }
    });
    let handle = CacheHandle::builder().max_marks(6).build();
    let shop = Arc::new(Shop::of(
        CacheLayer::builder().handle(&handle),
        origin,
        Arc::default(),
    ));
    let turns = scaled(1000);
    let tasks: Vec<_> = (0..12)
        .map(|seed| tokio::spawn(storm(shop.clone(), truth.clone(), seed, turns)))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    shop.nothing_is_left().await;
    let stats = handle.stats();
    println!("{stats:?}");
    assert!(stats.hits > 100 && stats.purges > 100 && stats.misses > 100);
}

async fn storm(shop: Arc<Shop>, truth: Arc<[Truth; TAGS]>, seed: u64, turns: usize) {
    let mut random = Random::new(seed * 7919 + 3);
    for _ in 0..turns {
        let at = random.below(TAGS);
        let path = format!("/{at}?{}", random.below(4));
        match random.below(25) {
            0 => {
                let new = truth[at].newest.fetch_add(1, Ordering::SeqCst) + 1;
                match random.below(10) {
                    0 => drop(shop.handle.purge_all().await.unwrap()),
                    _ => drop(
                        shop.handle
                            .purge([tag(&format!("t{at}")), tag(&path)])
                            .await
                            .unwrap(),
                    ),
                }
                truth[at].purged.fetch_max(new, Ordering::SeqCst);
            }
            1..5 => {
                // Hangs up.
                let asked = shop.cache.clone().oneshot(get(&path));
                let _ = tokio::time::timeout(Duration::from_micros(random.below(50) as u64), asked)
                    .await;
            }
            _ => {
                let purged = truth[at].purged.load(Ordering::SeqCst);
                let answer = send(&shop.cache, get(&path)).await;
                let shown: u64 = answer.text().parse().unwrap();
                assert!(
                    shown >= purged,
                    "{shown} is older than {purged}: {:?}",
                    answer.cache()
                );
            }
        }
        tokio::task::yield_now().await;
    }
}

//! Responses composed of other responses of the same cache.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, Service};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, CacheScope, Decision, ResponseBody, Tag,
    TagHeader, Tags, scope,
};

use crate::common::{
    Body, Gate, Origin, boxed, full, get, head, ok, read, request, send, settle, status, streamed,
    until, with, within,
};

const T: Tag = Tag::new("t");

/// Ways in which a part comes to bypass the cache, and one in which it does not.
const WAYS: [&str; 10] = [
    "fetched",
    "in flight elsewhere",
    "by POST",
    "by HEAD",
    "with a cookie",
    "with an override header",
    "with a body",
    "with a long key",
    "without a place among the fills",
    "in a cache that shuts down",
];

/// Where the tags of a part are said.
const SOURCES: [&str; 5] = [
    "extension",
    "header",
    "request",
    "scope",
    "scope in the request",
];

fn tagged(by: &str, request: &Request<Body>, response: Response<Body>) -> Response<Body> {
    let mut response = with(response, "cache-control", "public");
    match by {
        "extension" => drop(response.extensions_mut().insert(Tags::from(T))),
        "header" => return with(response, "cache-tags", "t"),
        "scope" => scope::tag(T),
        "scope in the request" => request.extensions().get::<CacheScope>().unwrap().tag(T),
        _ => {}
    }
    response
}

fn part_request(way: &str) -> Request<Body> {
    match way {
        "by POST" => request("POST", "/part"),
        "by HEAD" => request("HEAD", "/part"),
        "with a cookie" => with(get("/part"), "cookie", "session=1"),
        "with an override header" => with(get("/part"), "x-http-method-override", "PUT"),
        "with a body" => get("/part").map(|_| full("body")),
        "with a long key" => get(&format!("/part?q={}", "x".repeat(9000))),
        _ => get("/part"),
    }
}

type Cached = Cache<Origin>;

/// A cache of parts, a cache of pages made of them, and their handles.
struct Site {
    part: Cached,
    page: Cached,
    pages: Origin,
    handle: CacheHandle,
    parts_handle: CacheHandle,
    gate: Gate,
}

impl Site {
    /// The page is made of the part's number and text.
    fn new(
        way: &'static str,
        by: &'static str,
        answer: impl Fn(&Request<Body>, usize) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let places = if way == "without a place among the fills" {
            1
        } else {
            100
        };
        let handle = CacheHandle::builder()
            .max_concurrent_fills(NonZeroUsize::new(places).unwrap())
            .build();
        let parts_handle = if way == "in a cache that shuts down" {
            CacheHandle::builder().build()
        } else {
            handle.clone()
        };
        let gate = Gate::new();
        let (count, passed, answer) = (
            Arc::new(AtomicUsize::new(0)),
            gate.clone(),
            Arc::new(answer),
        );
        let parts = Origin::later(move |request| {
            let nth = count.fetch_add(1, SeqCst) + 1;
            let (gate, answer) = (passed.clone(), answer.clone());
            async move {
                if request.headers().contains_key("x-elsewhere") {
                    gate.pass().await;
                }
                let response = with(answer(&request, nth), "x-nth", &nth.to_string());
                tagged(by, &request, response)
            }
        });
        let mut layer = CacheLayer::builder().handle(&parts_handle);
        if by == "header" {
            layer = layer.tag_header(TagHeader::new(
                http::HeaderName::from_static("cache-tags"),
                b',',
            ));
        }
        if by == "request" {
            layer = layer.tag_requests(|_| T.into());
        }
        let part = layer.build().layer(parts);
        let asked = part.clone();
        let pages = Origin::later(move |_| {
            let asked = asked.clone();
            async move { ok(text_of(&asked, part_request(way)).await) }
        });
        let page = pages_layer(&handle).build().layer(pages.clone());
        Self {
            part,
            page,
            pages,
            handle,
            parts_handle,
            gate,
        }
    }

    /// Makes the page's first request meet the part in this state.
    async fn prepare(&self, way: &str) {
        match way {
            "in flight elsewhere" => {
                let (part, gate) = (self.part.clone(), self.gate.clone());
                let elsewhere = with(get("/part"), "x-elsewhere", "1");
                tokio::spawn(async move { send(&part, elsewhere).await });
                gate.arrival().await;
            }
            "in a cache that shuts down" => {
                self.parts_handle.shutdown(Duration::ZERO).await;
            }
            _ => {}
        }
    }

    async fn purge(&self) {
        let _ = self.handle.purge(T).await.unwrap();
        let _ = self.parts_handle.purge(T).await.unwrap();
    }
}

fn pages_layer(handle: &CacheHandle) -> CacheLayerBuilder {
    CacheLayer::builder()
        .handle(handle)
        .ttl(Duration::from_secs(3600))
}

/// A part's number and text.
async fn text_of(part: &Cached, request: Request<Body>) -> String {
    let answer = send(part, request).await;
    format!(
        "{} {}",
        answer.header("x-nth").unwrap_or("-"),
        answer.text()
    )
}

// Invariant 61.
#[tokio::test]
async fn a_page_has_the_tags_of_its_part_however_that_was_answered() {
    for way in WAYS {
        for by in SOURCES {
            let site = Site::new(way, by, |_, _| ok("part"));
            site.prepare(way).await;
            let first = send(&site.page, get("/")).await;
            let hit = send(&site.page, get("/")).await;
            assert!(
                hit.is_hit(),
                "{way}, {by}: {:?} {:?}",
                first.cache(),
                hit.cache()
            );
            assert_eq!(hit.text(), first.text());
            site.purge().await;
            let next = send(&site.page, get("/")).await;
            assert!(!next.is_hit(), "{way}, {by}");
            assert_ne!(next.text(), first.text(), "{way}, {by}");
            site.gate.open();
        }
    }
}

// Invariant 61.
#[tokio::test]
async fn a_page_of_a_part_without_tags_is_stored_however_that_was_answered() {
    for way in WAYS {
        let site = Site::new(way, "nowhere", |_, _| ok("part"));
        site.prepare(way).await;
        send(&site.page, get("/")).await;
        assert!(send(&site.page, get("/")).await.is_hit(), "{way}");
        site.gate.open();
    }
}

// Invariants 1, 3, 61.
#[tokio::test]
async fn a_part_for_one_requester_makes_a_page_for_one_requester_however_it_was_answered() {
    for way in WAYS {
        for (name, value) in [
            ("set-cookie", "session=1"),
            ("cache-control", "private"),
            ("cache-control", "no-store"),
            ("cache-control", "no-cache"),
            ("cache-control", "max-age=\"unreadable"),
            ("vary", "*"),
        ] {
            let site = Site::new(way, "nowhere", move |_, _| with(ok("part"), name, value));
            site.prepare(way).await;
            let pages = [(); 4].map(|()| {
                let page = site.page.clone();
                tokio::spawn(async move { send(&page, get("/")).await.text().to_owned() })
            });
            let mut texts = Vec::new();
            for page in pages {
                texts.push(within(page).await.unwrap());
            }
            texts.push(send(&site.page, get("/")).await.text().to_owned());
            texts.sort();
            texts.dedup();
            assert_eq!(texts.len(), 5, "{way}, {name}: {value}");
            // As if the page had said so itself.
            assert!(site.handle.stats().refusals > 0, "{way}, {name}: {value}");
            site.gate.open();
        }
    }
}

// A part that is asked with credentials, and does not say that others may have it, is not for others.
#[tokio::test]
async fn a_part_that_is_asked_with_credentials_is_shared_only_if_it_says_so() {
    for (name, value) in [
        ("cookie", "session=1"),
        ("authorization", "Bearer 1"),
        ("x-api-key", "1"),
    ] {
        for is_public in [false, true] {
            let part = CacheLayer::builder().build().layer(Origin::new(move |_| {
                if is_public {
                    with(ok("part"), "cache-control", "public")
                } else {
                    ok("part")
                }
            }));
            let pages = Origin::later(move |_| {
                let part = part.clone();
                async move { ok(text_of(&part, with(get("/part"), name, value)).await) }
            });
            let page = CacheLayer::builder().build().layer(pages);
            send(&page, get("/")).await;
            assert_eq!(send(&page, get("/")).await.is_hit(), is_public, "{name}");
        }
    }
}

// Invariants 37, 61.
#[tokio::test]
async fn a_request_after_a_purge_does_not_join_a_page_whose_part_is_not_stored() {
    for way in WAYS {
        let gate = Gate::new();
        let site = Site::new(way, "scope", |_, _| {
            scope::do_not_store("not now");
            ok("part")
        });
        site.prepare(way).await;
        let (part, passed) = (site.part.clone(), gate.clone());
        let pages = Origin::later(move |_| {
            let (part, gate) = (part.clone(), passed.clone());
            async move {
                let text = text_of(&part, part_request(way)).await;
                gate.pass().await;
                ok(text)
            }
        });
        let page = pages_layer(&site.handle).build().layer(pages);
        let ask = || {
            let page = page.clone();
            tokio::spawn(async move { send(&page, get("/")).await.text().to_owned() })
        };
        let leader = ask();
        gate.arrival().await;
        let before = ask();
        settle().await;
        site.purge().await;
        let after = ask();
        settle().await;
        gate.open();
        let old = within(leader).await.unwrap();
        // The POST is a purge too, after which the follower came: then it makes a call of its own.
        let is_shared = within(before).await.unwrap() == old;
        assert!(
            is_shared || way == "by POST",
            "{way}: it came before the purge"
        );
        assert_ne!(
            within(after).await.unwrap(),
            old,
            "{way}: it came after the purge"
        );
        site.gate.open();
    }
}

/// A body that tags its response when it is read.
fn tags_itself() -> Body {
    let frames = tokio_stream::iter(["a", "b"]);
    let frames = tokio_stream::StreamExt::map(frames, |data| {
        scope::tag(T);
        Ok::<_, crate::common::Broken>(http_body::Frame::data(data.into()))
    });
    boxed(http_body_util::StreamBody::new(frames))
}

// Invariant 61.
#[tokio::test]
async fn a_page_of_a_part_that_tags_itself_late_is_its_requesters_alone_and_is_not_remembered() {
    for way in WAYS.into_iter().filter(|way| *way != "by HEAD") {
        let site = Site::new(way, "nowhere", |_, _| Response::new(tags_itself()));
        site.prepare(way).await;
        let first = send(&site.page, get("/")).await;
        site.purge().await;
        let next = send(&site.page, get("/")).await;
        assert!(!next.is_hit(), "{way}");
        assert_ne!(next.text(), first.text(), "{way}");
        // The part is remembered, where it was fetched; the page is not.
        assert_eq!(site.pages.calls(), 2);
        let (parts, ()) = Request::get("/")
            .header("host", "shop.example")
            .body(())
            .unwrap()
            .into_parts();
        let layers = site.handle.explain(&parts);
        let page = layers.last().unwrap();
        assert!(matches!(page.decision, Decision::Fetch(_)), "{way}: {page}");
        site.gate.open();
    }
}

/// Ways in which nobody comes to know what a part depends on.
const UNKNOWN: [&str; 6] = [
    "answers 500",
    "fails",
    "panics",
    "is dropped before its head",
    "is dropped before its end",
    "is read by another task that has not ended",
];

/// A page that does so with its part the first time, and is whole the next time.
fn unknown_at_first<S>(part: S, how: &'static str, gate: Gate) -> Origin
where
    S: Service<
            Request<Body>,
            Response = Response<ResponseBody<Body>>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let count = Arc::new(AtomicUsize::new(0));
    Origin::later(move |_| {
        let nth = count.fetch_add(1, SeqCst) + 1;
        let (mut part, gate) = (part.clone(), gate.clone());
        async move {
            if nth > 1 {
                send(&part, get("/part")).await;
                return ok(nth.to_string());
            }
            match how {
                "is dropped before its head" => {
                    let call = part.call(with(get("/part"), "x-how", "waits"));
                    let _ = tokio::time::timeout(Duration::from_millis(5), call).await;
                }
                "is dropped before its end" => {
                    let mut body = head(&part, with(get("/part"), "x-how", "streams"))
                        .await
                        .into_body();
                    body.frame().await.unwrap().unwrap();
                }
                "is read by another task that has not ended" => {
                    let body = head(&part, with(get("/part"), "x-how", "streams"))
                        .await
                        .into_body();
                    tokio::spawn(async move {
                        let _body = body;
                        std::future::pending::<()>().await;
                    });
                }
                "panics" => {
                    let call = tokio::spawn(scope::current().wrap(async move {
                        send(&part, with(get("/part"), "x-how", "panics")).await;
                    }));
                    assert!(call.await.is_err());
                }
                _ => drop(send(&part, with(get("/part"), "x-how", how)).await),
            }
            gate.pass().await;
            ok(nth.to_string())
        }
    })
}

fn part_that_may_be_unknown() -> Origin {
    let open = Arc::new(std::sync::Mutex::new(Vec::new()));
    Origin::later(move |request| {
        let how = request.headers().get("x-how").cloned();
        let open = open.clone();
        async move {
            match how.as_ref().map(|how| how.to_str().unwrap()) {
                Some("answers 500" | "fails") => status(StatusCode::INTERNAL_SERVER_ERROR),
                Some("panics") => std::panic::resume_unwind(Box::new("the handler panicked")),
                Some("waits") => std::future::pending().await,
                Some("streams") => {
                    let (chunks, body) = streamed();
                    chunks.send("a");
                    open.lock().unwrap().push(chunks);
                    Response::new(body)
                }
                _ => ok("part"),
            }
        }
    })
}

// Invariants 30, 61.
#[tokio::test(start_paused = true)]
async fn followers_of_a_page_with_an_unknown_part_elect_one_new_leader() {
    for how in UNKNOWN {
        for bypasses in [false, true] {
            let gate = Gate::new();
            let handle = CacheHandle::builder().build();
            let layer = CacheLayer::builder().handle(&handle);
            // A key that cannot be made: the part bypasses.
            let key = tower_response_cache::Key::new();
            let key = if bypasses {
                key.part("none", |_| None::<u64>)
            } else {
                key
            };
            let part = layer.key(key).build().layer(part_that_may_be_unknown());
            let pages = unknown_at_first(part, how, gate.clone());
            let page = pages_layer(&handle).build().layer(pages.clone());
            let ask = || {
                let page = page.clone();
                tokio::spawn(async move { send(&page, get("/")).await.text().to_owned() })
            };
            let leader = ask();
            gate.arrival().await;
            let followers: Vec<_> = (0..50).map(|_| ask()).collect();
            until(|| handle.stats().waiters == 50).await;
            gate.open();
            assert_eq!(within(leader).await.unwrap(), "1", "{how}");
            for follower in followers {
                assert_eq!(
                    within(follower).await.unwrap(),
                    "2",
                    "{how}, bypasses: {bypasses}"
                );
            }
            assert_eq!(pages.calls(), 2, "{how}, bypasses: {bypasses}");
            assert!(
                send(&page, get("/")).await.is_hit(),
                "{how}, bypasses: {bypasses}"
            );
        }
    }
}

// Invariants 25, 61.
#[tokio::test]
async fn two_hundred_requests_for_a_page_whose_part_is_in_flight_are_at_most_two_renders() {
    let site = Site::new("in flight elsewhere", "scope", |_, _| ok("part"));
    site.prepare("in flight elsewhere").await;
    let pages: Vec<_> = (0..200)
        .map(|_| {
            let page = site.page.clone();
            tokio::spawn(async move { send(&page, get("/")).await })
        })
        .collect();
    for page in pages {
        assert_eq!(within(page).await.unwrap().text(), "2 part");
    }
    assert!(site.pages.calls() <= 2, "{} renders", site.pages.calls());
    assert!(send(&site.page, get("/")).await.is_hit());
    site.gate.open();
}

// Invariant 61.
#[tokio::test(start_paused = true)]
async fn a_page_lives_no_longer_than_its_part() {
    for way in [
        "fetched",
        "a hit",
        "in flight elsewhere",
        "with an override header",
    ] {
        let site = Site::new(way, "nowhere", |_, _| {
            with(ok("part"), "cache-control", "s-maxage=10")
        });
        site.prepare(way).await;
        let mut left = 10;
        if way == "a hit" {
            send(&site.part, get("/part")).await;
            tokio::time::sleep(Duration::from_secs(6)).await;
            left = 4;
        }
        send(&site.page, get("/")).await;
        tokio::time::sleep(Duration::from_secs(left - 1)).await;
        assert!(send(&site.page, get("/")).await.is_hit(), "{way}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!send(&site.page, get("/")).await.is_hit(), "{way}");
        site.gate.open();
    }
}

// Invariant 61: also where the page itself may be served stale.
#[tokio::test(start_paused = true)]
async fn a_page_of_a_part_that_must_be_revalidated_is_not_served_stale() {
    for way in ["fetched", "by POST"] {
        for (directives, is_stale) in [
            ("s-maxage=10", true),
            ("s-maxage=10, must-revalidate", false),
        ] {
            let site = Site::new(way, "nowhere", move |_, _| {
                with(ok("part"), "cache-control", directives)
            });
            let page = pages_layer(&site.handle).stale_while_revalidate(Duration::from_secs(60));
            let page = page.build().layer(site.pages.clone());
            send(&page, get("/")).await;
            tokio::time::sleep(Duration::from_secs(11)).await;
            assert_eq!(
                send(&page, get("/")).await.cache().is_stale(),
                is_stale,
                "{way}: {directives}"
            );
        }
    }
}

// Invariants 36, 61.
#[tokio::test]
async fn a_purge_of_a_parts_request_or_target_purges_the_page() {
    for way in [
        "fetched",
        "in flight elsewhere",
        "with a cookie",
        "with an override header",
    ] {
        for unsafe_method in [false, true] {
            let site = Site::new(way, "nowhere", |_, _| ok("part"));
            site.prepare(way).await;
            let first = send(&site.page, get("/")).await;
            assert!(send(&site.page, get("/")).await.is_hit(), "{way}");
            if unsafe_method {
                send(&site.part, request("PUT", "/part")).await;
            } else {
                let (parts, _) = get("/part").into_parts();
                let _ = site.handle.purge_request(&parts).await.unwrap();
            }
            let next = send(&site.page, get("/")).await;
            assert_ne!(
                next.text(),
                first.text(),
                "{way}, by an unsafe method: {unsafe_method}"
            );
            site.gate.open();
        }
    }
}

/// When an unsafe request to the target of a part is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    WhileThePartIsMade,
    WhileThePageIsMade,
    WhenThePageIsStored,
}

/// Parts that show a version, which a PUT raises.
fn parts_with_a_version(
    handle: &CacheHandle,
    answered: Answered,
    gate: Gate,
    elsewhere: Gate,
) -> Cached {
    let version = AtomicUsize::new(0);
    let parts = Origin::later(move |request| {
        let is_change = request.method() == "PUT";
        let version = version.fetch_add(usize::from(is_change), SeqCst);
        let (gate, elsewhere) = (gate.clone(), elsewhere.clone());
        async move {
            if request.headers().contains_key("x-elsewhere") {
                elsewhere.pass().await;
            } else if answered == Answered::WhileThePartIsMade && !is_change {
                gate.pass().await;
            }
            let response = with(ok("part"), "cache-control", "public");
            with(response, "x-nth", &version.to_string())
        }
    });
    pages_layer(handle).build().layer(parts)
}

// Invariants 36, 61, 64: the part's target is among those that unsafe requests mark, from before its handler runs until the last page
// that is made of it is gone.
#[tokio::test]
async fn an_unsafe_request_to_a_part_reaches_every_page_that_is_made_of_it() {
    let ways = WAYS
        .into_iter()
        .filter(|way| !["by POST", "in a cache that shuts down"].contains(way));
    for way in ways {
        for answered in [
            Answered::WhileThePartIsMade,
            Answered::WhileThePageIsMade,
            Answered::WhenThePageIsStored,
        ] {
            let case = format!("{way}, {answered:?}");
            let places = 100 - 99 * usize::from(way == "without a place among the fills");
            let places = NonZeroUsize::new(places).unwrap();
            let handle = CacheHandle::builder().max_concurrent_fills(places).build();
            let (gate, elsewhere) = (Gate::new(), Gate::new());
            let part = parts_with_a_version(&handle, answered, gate.clone(), elsewhere.clone());
            if way == "in flight elsewhere" {
                let (part, slow) = (part.clone(), with(get("/part"), "x-elsewhere", "1"));
                tokio::spawn(async move { send(&part, slow).await });
                elsewhere.arrival().await;
            }
            let (asked, passed) = (part.clone(), gate.clone());
            let inner = pages_layer(&handle).build().layer(Origin::later(move |_| {
                let (asked, gate) = (asked.clone(), passed.clone());
                async move {
                    let text = text_of(&asked, part_request(way)).await;
                    if answered == Answered::WhileThePageIsMade {
                        gate.pass().await;
                    }
                    ok(text)
                }
            }));
            let outer = pages_layer(&handle).build().layer(Origin::later(move |_| {
                let inner = inner.clone();
                async move { ok(send(&inner, get("/inner")).await.text().to_owned()) }
            }));
            let ask = || {
                let outer = outer.clone();
                tokio::spawn(async move { send(&outer, get("/outer")).await.text().to_owned() })
            };
            let first = ask();
            if answered == Answered::WhenThePageIsStored {
                until(|| first.is_finished()).await;
                assert!(send(&outer, get("/outer")).await.is_hit(), "{case}");
            } else {
                gate.arrival().await;
            }
            let change = part_request(way);
            let change = request("PUT", &change.uri().to_string());
            assert_eq!(send(&part, change).await.text(), "part", "{case}");
            // It comes while the first one is in flight, and may not have what that gets.
            let second = ask();
            settle().await;
            gate.open();
            assert!(first.await.unwrap().starts_with("0 "), "{case}");
            assert!(second.await.unwrap().starts_with("1 "), "{case}");
            let third = ask().await.unwrap();
            assert!(third.starts_with("1 "), "{case}");
            elsewhere.open();
        }
    }
}

// Invariant 61: through a page that is itself a part.
#[tokio::test]
async fn a_page_has_the_tags_of_the_parts_of_its_parts() {
    for way in WAYS {
        let site = Site::new(way, "extension", |_, _| ok("part"));
        site.prepare(way).await;
        let middle = site.page.clone();
        let pages = Origin::later(move |_| {
            let middle = middle.clone();
            async move { ok(send(&middle, get("/")).await.text().to_owned()) }
        });
        let outer = pages_layer(&site.handle).build().layer(pages);
        let first = send(&outer, get("/outer")).await;
        assert!(send(&outer, get("/outer")).await.is_hit(), "{way}");
        site.purge().await;
        assert_ne!(
            send(&outer, get("/outer")).await.text(),
            first.text(),
            "{way}"
        );
        site.gate.open();
    }
}

// A part whose body streams on when the page's head is out: nobody else gets the page before it is known.
#[tokio::test]
async fn a_page_that_streams_its_part_is_shared_when_the_part_is_known() {
    for is_late in [false, true] {
        let gate = Gate::new();
        let passed = gate.clone();
        let part = CacheLayer::builder().build().layer(Origin::new(move |_| {
            let gate = passed.clone();
            let frames = futures_util::stream::unfold(0, move |step| {
                let gate = gate.clone();
                async move {
                    if step == 2 {
                        return None;
                    }
                    gate.pass().await;
                    if is_late {
                        scope::tag(T);
                    }
                    let frame = http_body::Frame::data(bytes::Bytes::from_static(b"a"));
                    Some((Ok::<_, crate::common::Broken>(frame), step + 1))
                }
            });
            Response::new(boxed(http_body_util::StreamBody::new(frames)))
        }));
        let pages = Origin::later(move |_| {
            let part = part.clone();
            async move {
                let body = head(&part, get("/part")).await.into_body();
                with(Response::new(boxed(body)), "content-length", "2")
            }
        });
        let handle = CacheHandle::builder().build();
        let page = pages_layer(&handle).build().layer(pages.clone());
        let leader = head(&page, get("/")).await;
        let waiting = page.clone();
        let follower = tokio::spawn(async move { send(&waiting, get("/")).await });
        until(|| handle.stats().waiters == 1).await;
        gate.open();
        assert_eq!(read(leader).await.text(), "aa");
        assert_eq!(within(follower).await.unwrap().text(), "aa");
        assert_eq!(pages.calls(), if is_late { 2 } else { 1 });
        assert_eq!(send(&page, get("/")).await.is_hit(), !is_late);
    }
}

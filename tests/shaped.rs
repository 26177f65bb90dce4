//! What of a response its requester gets: the whole, a part, or that it has it already; whichever way the response came.
//!
//! The numbers in rows and names are those of the project's list of what HTTP asks of a cache.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "fits/support.rs"]
#[allow(dead_code, reason = "only what asks over a socket is used")]
mod support;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get as routed};

use bytes::Bytes;
use common::{
    Answer, Body, Chunks, Gate, Origin, chunked, full, get, head, ok, read, request, send, settle,
    status, streamed, with, with_headers, within,
};
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Collected};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop},
    prop_assert, prop_assert_eq, prop_oneof,
    test_runner::{Config, TestCaseResult, TestRunner},
};
use support::Serving;
use tokio::{sync::mpsc, time::advance};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    BodyCache, Cache, CacheLayer, CacheLayerBuilder, CacheStatus, FillMode, Key, Reason, TagHeader,
    scope,
};

const TTL: Duration = Duration::from_secs(60);
const TEXT: &str = "0123456789";
const TAG: &str = "\"v,1\"";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const MADE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

/// All that is said of the page, in this order.
const PAGE: &[(&str, &str)] = &[
    ("content-type", "text/plain; charset=utf-8"),
    ("access-control-allow-origin", "*"),
    ("etag", TAG),
    ("content-language", "de"),
    ("last-modified", MODIFIED),
    ("link", "</a>"),
    ("link", "</b>"),
    ("content-location", "/page"),
    ("digest", "md5=x"),
    ("content-md5", "x"),
    ("date", MADE),
    ("content-digest", "x=:x:"),
    ("repr-digest", "y=:y:"),
    ("accept-ranges", "bytes"),
    ("vary", "accept-language"),
    ("cache-control", "max-age=60"),
    ("expires", "Sun, 06 Nov 1994 08:50:37 GMT"),
    ("x-own", "1"),
    ("x-own", "2"),
];

/// How a response comes to its requester.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Hit,
    Stale,
    Collapsed,
    Led,
    LedInline,
    Renewed,
    RenewedInline,
    QueryHit,
    QueryLed,
}

use Way::{Collapsed, Hit, Led, LedInline, QueryHit, QueryLed, Renewed, RenewedInline, Stale};

const WAYS: [Way; 9] = [
    Hit,
    Stale,
    Collapsed,
    Led,
    LedInline,
    Renewed,
    RenewedInline,
    QueryHit,
    QueryLed,
];

/// Those on which all of it is in the store already.
const FROM_THE_STORE: [Way; 3] = [Hit, Stale, QueryHit];

fn builder(mode: FillMode) -> CacheLayerBuilder {
    CacheLayer::builder().ttl(TTL).fill_mode(mode)
}

fn detached(origin: &Origin) -> Cache<Origin> {
    builder(FillMode::Detached).build().layer(origin.clone())
}

fn inline(origin: &Origin) -> Cache<Origin> {
    builder(FillMode::Inline).build().layer(origin.clone())
}

fn by_query(origin: &Origin) -> BodyCache<Origin> {
    let builder = CacheLayer::builder().ttl(TTL).key(Key::new().body(64));
    let layer = builder.methods([Method::QUERY]).unwrap().build();
    layer.layer(origin.clone())
}

/// Answers with what makes a response, or, asked whether that has changed, that it has not.
fn origin(page: Page) -> Origin {
    Origin::new(move |request| {
        let has = |name: &str| request.headers().contains_key(name);
        assert!(
            !has("range") && !has("if-range"),
            "it is asked for the whole"
        );
        if has("if-none-match") || has("if-modified-since") {
            return Response::builder()
                .status(304)
                .header("date", MADE)
                .body(common::empty())
                .unwrap();
        }
        page()
    })
}

type Page = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

fn page(lines: &'static [(&'static str, &'static str)]) -> Page {
    Arc::new(move || with_headers(ok(TEXT), lines))
}

/// The answer to a request, however it comes about.
async fn answered(way: Way, page: Page, ask: Request<Body>) -> Answer {
    let plain = || {
        let (mut parts, _) = request(ask.method().as_str(), ask.uri().path()).into_parts();
        if parts.method == Method::HEAD {
            parts.method = Method::GET;
        }
        Request::from_parts(parts, full("what is asked"))
    };
    let origin = origin(page.clone());
    match way {
        Hit => {
            let cache = detached(&origin);
            send(&cache, plain().map(|_| common::empty())).await;
            send(&cache, ask).await
        }
        Led => send(&detached(&origin), ask).await,
        LedInline => send(&inline(&origin), ask).await,
        Stale => {
            let builder = builder(FillMode::Detached).stale_while_revalidate(TTL);
            let cache = builder.build().layer(origin);
            send(&cache, plain().map(|_| common::empty())).await;
            advance(TTL).await;
            send(&cache, ask).await
        }
        Renewed | RenewedInline => {
            let cache = if way == Renewed {
                detached(&origin)
            } else {
                inline(&origin)
            };
            send(&cache, plain().map(|_| common::empty())).await;
            advance(TTL).await;
            send(&cache, ask).await
        }
        Collapsed => collapsed(page, plain().map(|_| common::empty()), ask).await,
        QueryHit => {
            let cache = by_query(&origin);
            send(&cache, plain()).await;
            send(&cache, ask.map(|_| full("what is asked"))).await
        }
        QueryLed => send(&by_query(&origin), ask.map(|_| full("what is asked"))).await,
    }
}

/// The answer to one who comes while the first one waits for its own.
async fn collapsed(page: Page, first: Request<Body>, ask: Request<Body>) -> Answer {
    let gate = Gate::new();
    let at = gate.clone();
    let origin = Origin::later(move |_| {
        let (at, page) = (at.clone(), page());
        async move {
            at.pass().await;
            page
        }
    });
    let cache = detached(&origin);
    let asked = |request| {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, request).await })
    };
    let leader = asked(first);
    gate.arrival().await;
    let follower = asked(ask);
    settle().await;
    gate.open();
    leader.await.unwrap();
    follower.await.unwrap()
}

/// A request with these lines, of the method that goes this way.
fn asking(way: Way, lines: &[(&str, &str)]) -> Request<Body> {
    let method = if matches!(way, QueryHit | QueryLed) {
        "QUERY"
    } else {
        "GET"
    };
    with_headers(request(method, "/"), lines)
}

fn lines_of(answer: &Answer) -> Vec<(String, String)> {
    let own = ["age", "cache-status"];
    let lines = answer
        .parts
        .headers
        .iter()
        .filter(|(name, _)| !own.contains(&name.as_str()));
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (
            name.to_string(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    };
    lines.map(text).collect()
}

/// The page's lines but these, then those.
fn but(less: &[&str], more: &[(&str, &str)]) -> Vec<(String, String)> {
    let kept = PAGE.iter().filter(|(name, _)| !less.contains(name));
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    kept.chain(more).map(owned).collect()
}

/// Whether it says that it came this way.
fn came(answer: &Answer, way: Way) -> bool {
    let cache = answer.cache();
    match way {
        Hit | QueryHit => cache.is_hit() && !cache.is_stale(),
        Stale => cache.is_hit() && cache.is_stale(),
        Collapsed => cache.is_collapsed(),
        _ => !cache.is_hit() && !cache.is_collapsed() && cache.is_stored(),
    }
}

/// A row of a table: what is asked, a line after the other, and what is expected.
struct Row {
    text: &'static str,
    lines: Vec<(String, String)>,
    expected: Vec<&'static str>,
}

impl Row {
    fn asking(&self, way: Way) -> Request<Body> {
        let lines = self.lines.iter();
        let lines: Vec<_> = lines.map(|(name, value)| (&**name, &**value)).collect();
        asking(way, &lines)
    }
}

fn rows(table: &'static str) -> impl Iterator<Item = Row> {
    table.lines().filter(|line| !line.is_empty()).map(|text| {
        let mut cells = text.split('|').map(str::trim);
        // The first is the rule's number.
        let lines = cells.nth(1).unwrap().split(" / ");
        let lines = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            let value = value.replace("TAG", TAG).replace("MODIFIED", MODIFIED);
            let value = value.replace("MADE", MADE);
            (name.to_owned(), value.trim().to_owned())
        });
        Row {
            text,
            lines: lines.collect(),
            expected: cells.collect(),
        }
    })
}

// ---- conditions

const CONDITIONS: &str = r#"
7.2 | if-none-match: TAG | 304
7.2 | if-none-match: W/TAG | 304
7.2 | if-none-match: "x", TAG | 304
7.2 | if-none-match: "x" / if-none-match: "y", W/TAG | 304
7.2 | if-none-match: * | 304
7.2 | if-none-match: "v" | 200
7.2 | if-none-match: "V,1" | 200
7.2 | if-none-match: v,1 | 200
7.2 | if-none-match: "x", * | 200
7.3 | if-modified-since: MODIFIED | 304
7.3 | if-modified-since: Sunday, 06-Nov-94 08:49:37 GMT | 304
7.3 | if-modified-since: Sun Nov  6 08:49:37 1994 | 304
7.3 | if-modified-since: Fri, 01 Jan 2100 00:00:00 GMT | 304
7.3 | if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT | 200
7.3 | if-modified-since: yesterday | 200
7.3 | if-modified-since: | 200
7.3 | if-modified-since: MODIFIED / if-modified-since: MODIFIED | 200
7.1 | if-none-match: "x" / if-modified-since: MODIFIED | 200
7.1 | if-none-match: / if-modified-since: MODIFIED | 200
7.1 | if-none-match: TAG / if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT | 304
7.1 | if-none-match: TAG / range: bytes=0-0 | 304
7.1 | if-none-match: TAG / range: bytes=99- | 304
7.1 | if-none-match: "x" / range: bytes=0-0 | 206
7.1 | if-match: "x" | 200
7.1 | if-unmodified-since: Sun, 06 Nov 1994 08:49:36 GMT | 200
7.1 | if-match: "x" / if-none-match: TAG | 304
"#;

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rules_7_1_to_7_6_who_has_it_already_is_told_so_whichever_way_it_comes() {
    for row in rows(CONDITIONS) {
        for way in WAYS {
            let answer = answered(way, page(PAGE), row.asking(way)).await;
            let note = format!("{way:?}: {}", row.text);
            assert_eq!(answer.parts.status.as_str(), row.expected[0], "{note}");
            assert!(came(&answer, way), "{note}: {:?}", answer.cache());
            let body = match answer.parts.status.as_u16() {
                200 => TEXT,
                206 => "0",
                _ => "",
            };
            assert_eq!((answer.text(), &answer.trailers), (body, &None), "{note}");
        }
    }
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_7_3_what_does_not_say_when_it_was_modified_was_there_when_it_was_made() {
    let ims = "if-modified-since";
    for (lines, since, expected) in [
        (&[("date", MADE)][..], MADE, 304),
        (&[("date", MADE)], MODIFIED, 200),
        (&[("date", MADE), ("last-modified", "unknown")], MADE, 200),
        (
            &[("date", MADE), ("last-modified", MODIFIED)],
            MODIFIED,
            304,
        ),
        (&[("date", "unknown")], MADE, 200),
    ] {
        for way in [Hit, Stale, Collapsed, Led, LedInline, QueryHit, QueryLed] {
            let answer = answered(way, page(lines), asking(way, &[(ims, since)])).await;
            assert_eq!(answer.parts.status, expected, "{way:?} {lines:?} {since}");
        }
    }
    // What has no date at all has that of its receipt.
    let long_ago = asking(Hit, &[(ims, MADE)]);
    assert_eq!(answered(Hit, page(&[]), long_ago).await.parts.status, 200);
    let to_come = asking(Hit, &[(ims, "Fri, 01 Jan 2100 00:00:00 GMT")]);
    assert_eq!(answered(Hit, page(&[]), to_come).await.parts.status, 304);
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_7_2_a_tag_that_is_none_or_not_the_only_one_is_named_by_a_star_alone() {
    for (lines, asked, expected) in [
        (&[][..], "\"\"", 200),
        (&[], "*", 304),
        (&[("etag", "v")], "v", 200),
        (&[("etag", "\"a\""), ("etag", "\"b\"")], "\"a\"", 200),
        (&[("etag", "W/\"a\"")], "\"a\"", 304),
        (&[("etag", "\"\"")], "\"\"", 304),
    ] {
        for way in [Hit, Led, LedInline] {
            let ask = asking(way, &[("if-none-match", asked)]);
            let answer = answered(way, page(lines), ask).await;
            assert_eq!(answer.parts.status, expected, "{way:?} {lines:?} {asked}");
        }
    }
    // Bytes that are no text are compared as they are.
    let strange = |last| http::HeaderValue::from_bytes(&[b'"', 0xff, last, b'"']).unwrap();
    for (asked, expected) in [(0xfe, 304), (0xfd, 200)] {
        let page: Page = Arc::new(move || {
            let mut response = ok(TEXT);
            response.headers_mut().insert(header::ETAG, strange(0xfe));
            response
        });
        let mut ask = get("/");
        ask.headers_mut()
            .insert(header::IF_NONE_MATCH, strange(asked));
        assert_eq!(answered(Hit, page, ask).await.parts.status, expected);
    }
}

// Invariants 23, 50.
#[tokio::test(start_paused = true)]
async fn rules_7_4_and_11_4_a_304_has_all_lines_but_those_of_the_body_in_their_order() {
    let less = [
        "content-type",
        "content-language",
        "last-modified",
        "digest",
        "content-md5",
        "content-digest",
        "repr-digest",
        "accept-ranges",
    ];
    for way in WAYS {
        let answer = answered(way, page(PAGE), asking(way, &[("if-none-match", TAG)])).await;
        assert_eq!(lines_of(&answer), but(&less, &[]), "{way:?}");
        assert_eq!(answer.header("age").is_some(), answer.is_hit(), "{way:?}");
        assert_eq!(answer.lines("cache-status").len(), 1, "{way:?}");
    }
    // Without a tag, the date is what the requester goes by.
    let dated: &[_] = &[
        ("x-a", "1"),
        ("last-modified", MODIFIED),
        ("date", MADE),
        ("x-b", "2"),
    ];
    let answer = answered(
        Hit,
        page(dated),
        asking(Hit, &[("if-modified-since", MADE)]),
    )
    .await;
    let kept: Vec<_> = dated
        .iter()
        .map(|(n, v)| (n.to_string(), v.to_string()))
        .collect();
    assert_eq!(
        (answer.parts.status.as_u16(), lines_of(&answer)),
        (304, kept)
    );
}

// Invariants 11, 50.
#[tokio::test]
async fn rule_11_3_a_head_of_what_has_no_length_is_told_none_by_a_real_server() {
    let page = || async { axum::body::Body::new(chunked(&[b"01234", b"56789"], None)) };
    let router = Router::new().route("/", routed(page));
    let server = Serving::router(router.layer(CacheLayer::new(TTL))).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    for (method, body) in [("GET", TEXT), ("GET", TEXT), ("HEAD", "")] {
        let mut ask = request(method, "/");
        *ask.uri_mut() = server.uri("/").parse().unwrap();
        let response = within(client.request(ask)).await.unwrap();
        let answer = support::Answer::of(response).await;
        assert_eq!(
            (answer.header("content-length"), &*answer.body),
            (None, body.as_bytes())
        );
    }
}

// Invariants 11, 23.
#[tokio::test(start_paused = true)]
async fn rules_7_1_and_8_2_a_head_is_answered_with_a_304_and_never_with_a_part() {
    for (lines, expected, length) in [
        (&[][..], 200, Some("10")),
        (&[("if-none-match", TAG)], 304, None),
        (&[("if-modified-since", MODIFIED)], 304, None),
        (&[("if-none-match", "\"x\"")], 200, Some("10")),
        (&[("range", "bytes=0-0")], 200, Some("10")),
        (&[("range", "bytes=99-")], 200, Some("10")),
    ] {
        for way in [Hit, Stale] {
            let ask = with_headers(request("HEAD", "/"), lines);
            let answer = answered(way, page(PAGE), ask).await;
            let got = (
                answer.parts.status.as_u16(),
                answer.header("content-length"),
            );
            assert_eq!(got, (expected, length), "{way:?} {lines:?}");
            assert!(answer.body.is_empty() && answer.is_hit());
        }
    }
}

// Invariants 21, 23.
#[tokio::test]
async fn rules_7_1_and_8_2_only_a_200_to_get_head_and_query_is_shaped() {
    let lines = [
        ("if-none-match", "*"),
        ("if-modified-since", MADE),
        ("range", "bytes=0-0"),
    ];
    let builder = builder(FillMode::Detached);
    let builder = builder.status(StatusCode::NOT_FOUND, TTL).unwrap();
    let origin = Origin::new(|_| with_headers(status(StatusCode::NOT_FOUND), PAGE));
    let cache = builder.build().layer(origin);
    for _miss_then_hit in 0..2 {
        let answer = send(&cache, with_headers(get("/"), &lines)).await;
        assert_eq!(
            (answer.parts.status.as_u16(), answer.text()),
            (404, "not the usual")
        );
    }
    let by_body = CacheLayer::builder().ttl(TTL).key(Key::new().body(64));
    let by_body = by_body.methods([Method::POST]).unwrap().build();
    let by_body = by_body.layer(Origin::new(|_| with_headers(ok(TEXT), PAGE)));
    for hit in [false, true] {
        let answer = send(&by_body, with_headers(request("POST", "/"), &lines)).await;
        assert_eq!((answer.parts.status.as_u16(), answer.text()), (200, TEXT));
        assert_eq!(answer.is_hit(), hit);
    }
}

// Invariant 3.
#[tokio::test]
async fn a_condition_is_heeded_of_what_is_not_shared() {
    let lines = [("if-none-match", TAG), ("range", "bytes=0-0")];
    for mode in [FillMode::Detached, FillMode::Inline] {
        let private =
            Origin::new(|_| with(with_headers(ok(TEXT), PAGE), "cache-control", "private"));
        let cache = builder(mode).build().layer(private);
        for _at_first_and_remembered in 0..2 {
            let answer = send(&cache, with_headers(get("/"), &lines)).await;
            assert_eq!(
                (answer.parts.status.as_u16(), answer.text()),
                (304, ""),
                "{mode:?}"
            );
            assert_eq!(answer.reason(), Some(Reason::Private));
        }
    }
}

// ---- parts

const RANGES: &str = r#"
8.1 | range: bytes=0-0 | 206 | 0 | bytes 0-0/10
8.1 | range: bytes=2-4 | 206 | 234 | bytes 2-4/10
8.1 | range: bytes=7- | 206 | 789 | bytes 7-9/10
8.1 | range: bytes=7-99 | 206 | 789 | bytes 7-9/10
8.1 | range: bytes=-2 | 206 | 89 | bytes 8-9/10
8.1 | range: bytes=-99 | 206 | 0123456789 | bytes 0-9/10
8.1 | range: bytes=0- | 206 | 0123456789 | bytes 0-9/10
8.1 | range: bytes=9- | 206 | 9 | bytes 9-9/10
8.1 | range: bytes=10- | 416 | | bytes */10
8.1 | range: bytes=-0 | 416 | | bytes */10
8.2 | range: BYTES=2-4 | 206 | 234 | bytes 2-4/10
8.2 | range: bytes=4-2 | 200
8.2 | range: bytes=2-x | 200
8.2 | range: bytes | 200
8.2 | range: bytes=2-4 / range: bytes=2-4 | 200
8.4 | range: bytes=2-4, 10- | 206 | 234 | bytes 2-4/10
8.4 | range: bytes=10-, 11- | 416 | | bytes */10
8.3 | range: bytes=2-4 / if-range: TAG | 206 | 234 | bytes 2-4/10
8.3 | range: bytes=2-4 / if-range: W/TAG | 200
8.3 | range: bytes=2-4 / if-range: "x" | 200
8.3 | range: bytes=10- / if-range: "x" | 200
8.3 | range: bytes=2-4 / if-range: | 200
8.3 | range: bytes=2-4 / if-range: * | 200
8.3 | range: bytes=2-4 / if-range: TAG, "x" | 200
8.3 | range: bytes=2-4 / if-range: TAG / if-range: TAG | 200
8.3 | range: bytes=2-4 / if-range: MODIFIED | 206 | 234 | bytes 2-4/10
8.3 | range: bytes=2-4 / if-range: MADE | 200
8.3 | range: bytes=2-4 / if-range: Sunday, 06-Nov-94 08:49:37 GMT | 200
8.3 | if-range: TAG | 200
"#;

// Invariants 21, 24.
#[tokio::test(start_paused = true)]
async fn rules_8_1_to_8_4_a_part_is_cut_out_of_the_whole_whichever_way_it_comes() {
    for row in rows(RANGES) {
        for way in WAYS {
            let answer = answered(way, page(PAGE), row.asking(way)).await;
            let note = format!("{way:?}: {}", row.text);
            assert_eq!(answer.parts.status.as_str(), row.expected[0], "{note}");
            let body = row.expected.get(1).copied().unwrap_or(TEXT);
            assert_eq!(answer.text(), body, "{note}");
            let content_range = row.expected.get(2).copied();
            assert_eq!(answer.header("content-range"), content_range, "{note}");
            if answer.parts.status == StatusCode::PARTIAL_CONTENT {
                let length = body.len().to_string();
                assert_eq!(answer.header("content-length"), Some(&*length), "{note}");
            }
            assert!(came(&answer, way), "{note}: {:?}", answer.cache());
        }
    }
}

// Invariant 24.
#[tokio::test(start_paused = true)]
async fn rule_8_3_a_date_is_strong_only_if_the_response_was_made_a_second_later() {
    let lines = [("range", "bytes=2-4"), ("if-range", MODIFIED)];
    for (said, expected) in [
        (&[("last-modified", MODIFIED), ("date", MADE)][..], 206),
        (&[("last-modified", MODIFIED), ("date", MODIFIED)], 200),
        (&[("last-modified", MADE), ("date", MODIFIED)], 200),
        (&[("last-modified", MODIFIED), ("date", "unknown")], 200),
        (&[("date", MADE)], 200),
        // What has no date was made now.
        (&[("last-modified", MODIFIED)], 206),
        (
            &[
                ("etag", "W/\"a\""),
                ("last-modified", MODIFIED),
                ("date", MADE),
            ],
            206,
        ),
    ] {
        for way in [Hit, Led, LedInline] {
            let answer = answered(way, page(said), asking(way, &lines)).await;
            assert_eq!(answer.parts.status, expected, "{way:?} {said:?}");
        }
    }
    let weak: &[_] = &[("etag", "W/\"a\"")];
    let lines = [("range", "bytes=2-4"), ("if-range", "W/\"a\"")];
    let answer = answered(Hit, page(weak), asking(Hit, &lines)).await;
    assert_eq!(answer.parts.status, 200);
}

// Invariants 24, 50.
#[tokio::test(start_paused = true)]
async fn rules_8_1_and_11_4_a_part_has_the_lines_of_the_whole_but_those_of_what_is_sent() {
    let of_what_is_sent = ["digest", "content-md5", "content-digest"];
    for way in WAYS {
        let answer = answered(way, page(PAGE), asking(way, &[("range", "bytes=2-4")])).await;
        let more = [("content-length", "3"), ("content-range", "bytes 2-4/10")];
        assert_eq!(lines_of(&answer), but(&of_what_is_sent, &more), "{way:?}");
        // A 416 is of nothing that is stored, and for nobody else.
        let answer = answered(way, page(PAGE), asking(way, &[("range", "bytes=10-")])).await;
        let kept = [
            "access-control-allow-origin",
            "link",
            "date",
            "vary",
            "x-own",
        ];
        let less: Vec<_> = PAGE.iter().map(|(name, _)| *name).collect();
        let less: Vec<_> = less
            .into_iter()
            .filter(|name| !kept.contains(name))
            .collect();
        let more = [("content-range", "bytes */10")];
        assert_eq!(lines_of(&answer), but(&less, &more), "{way:?}");
    }
    // Where a line is there already, it keeps its place.
    let told: &[_] = &[("content-length", "10"), ("x-a", "1"), ("date", MADE)];
    let answer = answered(Hit, page(told), asking(Hit, &[("range", "bytes=2-4")])).await;
    let names: Vec<_> = lines_of(&answer)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["content-length", "x-a", "date", "content-range"]);
    assert_eq!(answer.header("content-length"), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn rule_8_1_of_nothing_there_is_no_part() {
    for (range, expected) in [("bytes=0-", 416), ("bytes=-0", 416), ("bytes=-1", 200)] {
        for way in WAYS {
            let page: Page = Arc::new(|| with_headers(ok(""), PAGE));
            let answer = answered(way, page, asking(way, &[("range", range)])).await;
            assert_eq!(answer.parts.status, expected, "{way:?} {range}");
            let told = (expected == 416).then_some("bytes */0");
            assert_eq!((answer.text(), answer.header("content-range")), ("", told));
        }
    }
}

/// The parts of a multipart body: the lines of each, and its bytes.
fn parts(answer: &Answer) -> Vec<(Vec<String>, Bytes)> {
    let content_type = answer.header("content-type").unwrap();
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    assert!(boundary.len() <= 70);
    let length = answer.header("content-length").unwrap();
    assert_eq!(length.parse(), Ok(answer.body.len()));
    let close = format!("\r\n--{boundary}--\r\n");
    let body = answer.body.strip_suffix(close.as_bytes()).unwrap();
    let open = format!("--{boundary}\r\n");
    let mut rest = body.strip_prefix(open.as_bytes()).unwrap();
    let between = format!("\r\n--{boundary}\r\n");
    let find = |all: &[u8], what: &[u8]| all.windows(what.len()).position(|at| at == what);
    let mut parts = Vec::new();
    loop {
        let head = find(rest, b"\r\n\r\n").unwrap();
        let lines = String::from_utf8_lossy(&rest[..head]).into_owned();
        let lines = lines.split("\r\n").map(str::to_owned).collect();
        rest = &rest[head + 4..];
        let end = find(rest, between.as_bytes());
        let part = &rest[..end.unwrap_or(rest.len())];
        parts.push((lines, Bytes::copy_from_slice(part)));
        match end {
            Some(end) => rest = &rest[end + between.len()..],
            None => return parts,
        }
    }
}

// Invariants 21, 24.
#[tokio::test(start_paused = true)]
async fn rule_8_4_several_parts_of_what_is_stored_are_a_multipart_body() {
    for way in FROM_THE_STORE {
        let ask = asking(way, &[("range", "bytes=-2, 0-0,4-5 ,99-")]);
        let answer = answered(way, page(PAGE), ask).await;
        assert_eq!(answer.parts.status, 206);
        assert!(came(&answer, way));
        assert_eq!(
            answer.header("content-range"),
            None,
            "it stands with each part"
        );
        let part = |range: &str, bytes: &'static str| {
            let lines = ["content-type: text/plain; charset=utf-8".to_owned()];
            let range = format!("content-range: bytes {range}/10");
            ([&lines[..], &[range]].concat(), Bytes::from(bytes))
        };
        let expected = [part("8-9", "89"), part("0-0", "0"), part("4-5", "45")];
        assert_eq!(parts(&answer), expected, "{way:?}");
        let names: Vec<_> = lines_of(&answer)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let less = ["digest", "content-md5", "content-digest"];
        let kept = but(&less, &[("content-length", "")]);
        assert_eq!(
            names,
            kept.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
    let untyped = answered(Hit, page(&[]), asking(Hit, &[("range", "bytes=0-0,2-2")])).await;
    let lines: Vec<_> = parts(&untyped)
        .into_iter()
        .map(|(lines, _)| lines.join("|"))
        .collect();
    assert_eq!(
        lines,
        ["content-range: bytes 0-0/10", "content-range: bytes 2-2/10"]
    );
}

#[tokio::test(start_paused = true)]
async fn rule_8_4_too_many_parts_or_too_long_ones_are_the_whole() {
    for (range, expected) in [
        ("bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8,9-9", 206),
        ("bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8,9-9,9-", 200),
        ("bytes=0-0,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-", 200),
        ("bytes=0-2,2-4", 206),
        ("bytes=0-2,2-4,4-5", 200),
        ("bytes=0-4,5-9", 206),
        ("bytes=0-4,4-9", 200),
    ] {
        let answer = answered(Hit, page(PAGE), asking(Hit, &[("range", range)])).await;
        assert_eq!(answer.parts.status, expected, "{range}");
        assert_eq!(answer.body == TEXT, expected == 200, "{range}");
    }
}

#[tokio::test(start_paused = true)]
async fn rule_8_4_several_parts_of_what_is_still_coming_in_are_the_whole() {
    for way in WAYS.into_iter().filter(|way| !FROM_THE_STORE.contains(way)) {
        let ask = asking(way, &[("range", "bytes=0-0,2-2")]);
        let answer = answered(way, page(PAGE), ask).await;
        assert_eq!(
            (answer.parts.status.as_u16(), answer.text()),
            (200, TEXT),
            "{way:?}"
        );
    }
}

// Invariant 46.
#[tokio::test(start_paused = true)]
async fn rule_8_2_a_part_of_what_has_trailers_has_none_and_says_of_none() {
    let chunks = || -> Page {
        Arc::new(|| {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "1".parse().unwrap());
            with(
                Response::new(chunked(&[b"01234", b"56789"], Some(trailers))),
                "trailer",
                "x-sum",
            )
        })
    };
    for (range, status, body) in [
        ("bytes=3-6", 206, "3456"),
        ("bytes=7-", 206, "789"),
        ("bytes=10-", 416, ""),
    ] {
        let answer = answered(Hit, chunks(), asking(Hit, &[("range", range)])).await;
        assert_eq!(
            (answer.parts.status.as_u16(), answer.text()),
            (status, body),
            "{range}"
        );
        assert_eq!((answer.header("trailer"), &answer.trailers), (None, &None));
    }
    // Of what comes in chunks nobody knows the length before it is stored.
    for way in [Led, LedInline, QueryLed] {
        let answer = answered(way, chunks(), asking(way, &[("range", "bytes=3-6")])).await;
        assert_eq!(
            (answer.parts.status.as_u16(), answer.text()),
            (200, TEXT),
            "{way:?}"
        );
        assert!(answer.trailers.is_some() && answer.header("trailer").is_some());
    }
}

// ---- bodies that are still coming in

/// Each call answers with a body that the test sends, of a length that is told in advance.
fn streaming(
    lines: &'static [(&'static str, &'static str)],
) -> (Origin, mpsc::UnboundedReceiver<Chunks>) {
    let (begun, bodies) = mpsc::unbounded_channel();
    let origin = Origin::new(move |_| {
        let (chunks, body) = streamed();
        // Nobody may want it any more.
        let _ = begun.send(chunks);
        with_headers(Response::new(body), lines)
    });
    (origin, bodies)
}

const TEN_BYTES: &[(&str, &str)] = &[("content-length", "10"), ("etag", TAG)];

async fn next_body(bodies: &mut mpsc::UnboundedReceiver<Chunks>) -> Chunks {
    within(bodies.recv()).await.unwrap()
}

/// Whether a plain request is answered with the whole from the store.
async fn is_stored(cache: &Cache<Origin>) -> bool {
    let answer = send(cache, get("/")).await;
    answer.is_hit() && answer.text() == TEXT && answer.parts.status == StatusCode::OK
}

// Invariants 21, 31.
#[tokio::test(start_paused = true)]
async fn a_leader_is_told_at_once_that_it_has_it_and_the_body_is_stored_behind_its_back() {
    let (origin, mut bodies) = streaming(TEN_BYTES);
    let cache = detached(&origin);
    let response = head(&cache, with(get("/"), "if-none-match", TAG)).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert!(response.body().is_end_stream());
    drop(response);
    let chunks = next_body(&mut bodies).await;
    for piece in ["01", "234", "56789"] {
        settle().await;
        assert!(chunks.send(piece), "it is read on");
    }
    drop(chunks);
    settle().await;
    assert!(is_stored(&cache).await);
    assert_eq!(origin.calls(), 1);
}

// Invariants 21, 31, 49.
#[tokio::test(start_paused = true)]
async fn a_part_of_a_body_flows_and_ends_before_the_body_does() {
    let (origin, mut bodies) = streaming(TEN_BYTES);
    let cache = detached(&origin);
    let leader = head(&cache, with(get("/"), "range", "bytes=3-6")).await;
    let follower = head(&cache, with(get("/"), "range", "bytes=6-7")).await;
    assert_eq!(
        (leader.status(), follower.status()),
        (StatusCode::PARTIAL_CONTENT, StatusCode::PARTIAL_CONTENT)
    );
    let chunks = next_body(&mut bodies).await;
    let (mut leader, mut follower) = (leader.into_body(), follower.into_body());
    assert_eq!(leader.size_hint().exact(), Some(4));
    chunks.send("01");
    settle().await;
    assert!(leader.frame().now_or_never().is_none());
    chunks.send("234");
    assert_eq!(common::next(&mut leader).await.unwrap(), "34");
    assert_eq!(leader.size_hint().exact(), Some(2));
    assert!(!leader.is_end_stream());
    chunks.send("567");
    assert_eq!(common::next(&mut leader).await.unwrap(), "56");
    assert!(leader.is_end_stream(), "there is no more of it");
    assert_eq!(common::next(&mut leader).await, None);
    assert_eq!(common::next(&mut follower).await.unwrap(), "67");
    assert_eq!(common::next(&mut follower).await, None);
    drop((leader, follower));
    settle().await;
    assert!(chunks.send("89"), "the body is read to its end");
    drop(chunks);
    settle().await;
    assert!(is_stored(&cache).await);
    assert_eq!(origin.calls(), 1);
}

/// What comes of a part of a body that comes in these pieces (`!` that it fails, `^` trailers): its bytes, or that it breaks; and whether
/// the whole is stored.
async fn part_of(
    mode: FillMode,
    range: &str,
    pieces: &'static str,
) -> (Result<Bytes, String>, bool) {
    let (origin, mut bodies) = streaming(TEN_BYTES);
    let cache = builder(mode).max_body_bytes(15).build();
    let cache = cache.layer(origin.clone());
    let ask = with(get("/"), "range", &format!("bytes={range}"));
    let asked = tokio::spawn(cache.clone().oneshot(ask));
    let chunks = next_body(&mut bodies).await;
    for piece in pieces.split_whitespace() {
        match piece {
            "!" => chunks.fail("no"),
            "^" => chunks.trailers(http::HeaderMap::new()),
            data => chunks.send(data),
        };
    }
    drop(chunks);
    let response = within(asked).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    let body = within(response.into_body().collect()).await;
    let body = body.map(Collected::to_bytes);
    settle().await;
    let next = cache.clone().oneshot(get("/")).now_or_never();
    let status = next.map(|next| *next.unwrap().extensions().get::<CacheStatus>().unwrap());
    let is_stored = status.is_some_and(|status| status.is_hit());
    (body.map_err(|error| error.to_string()), is_stored)
}

// Invariants 45, 48.
#[tokio::test(start_paused = true)]
async fn a_part_that_does_not_come_is_an_error_and_never_just_the_end() {
    let cut = Err("the response body was dropped before its end");
    let broken = Err("the response body failed");
    for mode in [FillMode::Detached, FillMode::Inline] {
        for (pieces, range, expected) in [
            (TEXT, "3-6", Ok("3456")),
            ("0 1 2 3 4 5 6 7 8 9", "3-6", Ok("3456")),
            ("0123", "0-3", Ok("0123")),
            ("0123", "3-6", cut),
            ("0123", "4-6", cut),
            ("0123", "9-9", cut),
            ("", "0-0", cut),
            ("0123 ^", "0-3", Ok("0123")),
            ("0123 ^", "3-6", cut),
            ("0123 !", "0-3", Ok("0123")),
            ("0123 !", "3-6", broken),
            ("!", "3-6", broken),
            // It is longer than it said.
            ("0123456789ab", "3-6", Ok("3456")),
            ("01234 56789ab", "3-6", Ok("3456")),
            // And too long to be recorded to its end.
            ("0123 456789abcdef ghi", "3-6", Ok("3456")),
            ("0123456789abcdef !", "9-9", Ok("9")),
        ] {
            let (body, is_stored) = part_of(mode, range, pieces).await;
            let expected = expected.map(Bytes::from).map_err(str::to_owned);
            assert_eq!(body, expected, "{mode:?} {pieces} {range}");
            let is_whole = pieces.replace(' ', "") == TEXT;
            assert_eq!(is_stored, is_whole, "{mode:?} {pieces} {range}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_behind_many_frames_is_found_without_holding_up_the_others() {
    let frames = || (0..300_u32).map(|i| Bytes::from(vec![u8::try_from(i % 251).unwrap(); 4096]));
    let whole: Vec<u8> = frames().flatten().collect();
    let length = whole.len();
    let origin = Origin::new(move |_| {
        let (chunks, body) = streamed();
        frames().for_each(|frame| assert!(chunks.send(frame)));
        with(Response::new(body), "content-length", &length.to_string())
    });
    for mode in [FillMode::Detached, FillMode::Inline] {
        let builder = builder(mode).max_body_bytes(length);
        let cache = builder.build().layer(origin.clone());
        let range = format!("bytes={}-", length - 5000);
        let answer = send(&cache, with(get("/"), "range", &range)).await;
        assert_eq!(answer.parts.status, StatusCode::PARTIAL_CONTENT);
        assert!(answer.body == whole[length - 5000..], "{mode:?}");
        assert!(send(&cache, get("/")).await.body == whole, "{mode:?}");
    }
    assert_eq!(origin.calls(), 2);
}

// Invariant 25.
#[tokio::test(start_paused = true)]
async fn a_thousand_who_ask_for_different_shapes_of_what_is_not_stored_are_one_call() {
    let gate = Gate::new();
    let at = gate.clone();
    let origin = Origin::later(move |_| {
        let at = at.clone();
        async move {
            at.pass().await;
            with_headers(ok(TEXT), PAGE)
        }
    });
    let cache = detached(&origin);
    let shapes = [
        ("if-none-match", TAG, 304),
        ("range", "bytes=1-2", 206),
        ("range", "bytes=99-", 416),
        ("x", "y", 200),
    ];
    let asked: Vec<_> = (0..1000)
        .map(|i| {
            let ((name, value, expected), cache) = (shapes[i % shapes.len()], cache.clone());
            let answer = async move { send(&cache, with(get("/"), name, value)).await };
            (expected, tokio::spawn(answer))
        })
        .collect();
    gate.arrival().await;
    settle().await;
    gate.open();
    for (expected, answer) in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.parts.status.as_u16(), expected);
    }
    assert_eq!(origin.calls(), 1);
    assert!(is_stored(&cache).await);
}

// ---- inline: the requester's own reading records it

// Invariants 21, 31.
#[tokio::test(start_paused = true)]
async fn inline_what_is_answered_with_less_is_stored_whole_before_that() {
    for (lines, expected) in [
        ([("if-none-match", TAG)], (304, "")),
        ([("range", "bytes=3-6")], (206, "3456")),
        ([("range", "bytes=99-")], (416, "")),
    ] {
        let (origin, mut bodies) = streaming(TEN_BYTES);
        let cache = inline(&origin);
        let ask = with_headers(get("/"), &lines);
        let asked = tokio::spawn(cache.clone().oneshot(ask));
        let chunks = next_body(&mut bodies).await;
        chunks.send("0123");
        settle().await;
        assert!(!asked.is_finished(), "{lines:?}");
        chunks.end_with("456789");
        let response = within(asked).await.unwrap().unwrap();
        // Before a byte of the answer is read.
        assert!(is_stored(&cache).await, "{lines:?}");
        let answer = read(response).await;
        assert_eq!((answer.parts.status.as_u16(), answer.text()), expected);
        assert!(answer.cache().is_stored());
        assert_eq!(origin.calls(), 1);
    }
}

// Invariants 47, 48.
#[tokio::test(start_paused = true)]
async fn inline_what_is_too_long_to_be_stored_is_read_no_further_for_that() {
    let (origin, mut bodies) = streaming(&[("etag", TAG)]);
    let cache = builder(FillMode::Inline)
        .max_body_bytes(10)
        .build()
        .layer(origin.clone());
    let asked = tokio::spawn(cache.clone().oneshot(with(get("/"), "if-none-match", TAG)));
    let chunks = next_body(&mut bodies).await;
    chunks.send(TEXT);
    settle().await;
    assert!(!asked.is_finished());
    chunks.send("a");
    let response = within(asked).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    drop(response);
    settle().await;
    assert!(!chunks.send("b"), "nobody reads it");
    // Whose length nobody knows is not waited for to be cut.
    let asked = tokio::spawn(
        cache
            .clone()
            .oneshot(with(get("/other"), "range", "bytes=3-6")),
    );
    let chunks = next_body(&mut bodies).await;
    let response = within(asked).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    chunks.send(TEXT);
    chunks.end_with("abc");
    assert_eq!(read(response).await.text(), "0123456789abc");
}

// Invariant 28.
#[tokio::test(start_paused = true)]
async fn inline_a_body_that_takes_longer_than_a_fill_may_is_cut_as_it_comes() {
    for (lines, expected) in [
        ([("if-none-match", TAG)], (304, "")),
        ([("range", "bytes=3-6")], (206, "3456")),
    ] {
        let (origin, mut bodies) = streaming(TEN_BYTES);
        let builder = builder(FillMode::Inline).fill_timeout(Duration::from_secs(5));
        let cache = builder.build().layer(origin.clone());
        let asked = tokio::spawn(cache.clone().oneshot(with_headers(get("/"), &lines)));
        let chunks = next_body(&mut bodies).await;
        chunks.send("0123");
        settle().await;
        advance(Duration::from_millis(4_999)).await;
        settle().await;
        assert!(!asked.is_finished());
        advance(Duration::from_millis(1)).await;
        let response = within(asked).await.unwrap().unwrap();
        assert_eq!(response.status().as_u16(), expected.0);
        let body = tokio::spawn(read(response));
        chunks.send("45");
        settle().await;
        chunks.end_with("6789");
        assert_eq!(within(body).await.unwrap().text(), expected.1);
        // It was not stored, and the next ones need not wait for as long.
        let next = tokio::spawn(cache.clone().oneshot(get("/")));
        next_body(&mut bodies).await.end_with(TEXT);
        let next = read(within(next).await.unwrap().unwrap()).await;
        assert_eq!((next.is_hit(), next.text()), (false, TEXT));
    }
}

// Invariants 26, 31.
#[tokio::test(start_paused = true)]
async fn inline_one_that_leaves_while_the_body_is_read_leaves_the_lead_to_the_next() {
    for lines in [[("if-none-match", TAG)], [("range", "bytes=3-6")]] {
        // Before the body, within it, and before its end.
        for pieces in 0..4 {
            let (origin, mut bodies) = streaming(TEN_BYTES);
            let cache = inline(&origin);
            let leader = tokio::spawn(cache.clone().oneshot(with_headers(get("/"), &lines)));
            let chunks = next_body(&mut bodies).await;
            let follower = tokio::spawn(cache.clone().oneshot(with_headers(get("/"), &lines)));
            settle().await;
            for piece in ["012", "345", "678"].iter().take(pieces) {
                chunks.send(*piece);
                settle().await;
            }
            leader.abort();
            assert!(leader.await.unwrap_err().is_cancelled());
            assert!(!chunks.send("9"), "the inner body is gone");
            next_body(&mut bodies).await.end_with(TEXT);
            let response = within(follower).await.unwrap().unwrap();
            assert!(response.status().as_u16() < 400, "{lines:?} {pieces}");
            assert!(is_stored(&cache).await, "{lines:?} {pieces}");
            assert_eq!(origin.calls(), 2);
        }
    }
}

// Invariant 45.
#[tokio::test(start_paused = true)]
async fn inline_who_has_it_is_told_so_though_its_body_breaks_and_nothing_is_stored() {
    for feed in [
        (|chunks| {
            chunks.send("0123");
            chunks.fail("no");
        }) as fn(Chunks),
        |chunks| chunks.end_with("0123"),
    ] {
        let (origin, mut bodies) = streaming(TEN_BYTES);
        let cache = inline(&origin);
        let asked = tokio::spawn(cache.clone().oneshot(with(get("/"), "if-none-match", TAG)));
        feed(next_body(&mut bodies).await);
        let response = within(asked).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        drop(response);
        let next = tokio::spawn(cache.clone().oneshot(get("/")));
        next_body(&mut bodies).await.end_with(TEXT);
        assert!(!read(within(next).await.unwrap().unwrap()).await.is_hit());
    }
}

// Invariant 60.
#[tokio::test]
async fn what_is_shared_and_not_stored_is_shaped_too_and_says_so() {
    for mode in [FillMode::Detached, FillMode::Inline] {
        let origin = Origin::new(|_| {
            scope::do_not_store("not now");
            with_headers(ok(TEXT), PAGE)
        });
        let cache = builder(mode).build().layer(origin);
        for (name, value, expected) in [("if-none-match", TAG, 304), ("range", "bytes=0-0", 206)] {
            let answer = send(&cache, with(get("/"), name, value)).await;
            assert_eq!(answer.parts.status.as_u16(), expected, "{mode:?}");
            let cache = answer.cache();
            assert_eq!(
                (cache.is_stored(), cache.reason()),
                (false, Some(Reason::DoNotStore))
            );
        }
    }
}

// ---- lines

// Invariant 50.
#[tokio::test(start_paused = true)]
async fn rule_11_4_all_lines_keep_their_order_on_the_way() {
    const LINES: &[(&str, &str)] = &[
        ("x-a", "1"),
        ("age", "0"),
        ("link", "a"),
        ("cache-tag", "one,two"),
        ("x-b", "2"),
        ("link", "b"),
        ("x-c", "3"),
        ("date", MADE),
        ("x-d", "4"),
    ];
    let expected: Vec<_> = ["x-a", "link", "link", "x-b", "x-c", "date", "x-d"].into();
    let gate = Gate::new();
    let at = gate.clone();
    let origin = Origin::later(move |_| {
        let at = at.clone();
        async move {
            at.pass().await;
            with_headers(ok(TEXT), LINES)
        }
    });
    let builder = builder(FillMode::Detached).tag_header(TagHeader::CACHE_TAG.strip());
    let cache = builder.build().layer(origin);
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, get("/")).await })
    };
    let (leader, follower) = (ask(), ask());
    gate.arrival().await;
    settle().await;
    gate.open();
    let (leader, follower) = (leader.await.unwrap(), follower.await.unwrap());
    assert!(follower.cache().is_collapsed());
    let hit = send(&cache, get("/")).await;
    assert!(hit.is_hit());
    for answer in [&leader, &follower, &hit] {
        let names: Vec<_> = lines_of(answer).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, expected);
        assert_eq!(answer.lines("link"), ["a", "b"]);
    }
    assert_eq!(lines_of(&follower), lines_of(&hit));
    // The cache's own lines come last.
    let own = |answer: &Answer| {
        let names = answer
            .parts
            .headers
            .iter()
            .map(|(name, _)| name.to_string());
        names.skip(expected.len()).collect::<Vec<_>>()
    };
    assert_eq!(own(&follower), ["cache-status"]);
    assert_eq!(own(&hit), ["age", "cache-status"]);
}

// Invariant 50.
#[tokio::test(start_paused = true)]
async fn rule_11_4_what_a_304_says_anew_takes_the_place_of_what_was_said() {
    const STORED: &[(&str, &str)] = &[
        ("x-a", "1"),
        ("etag", TAG),
        ("link", "a"),
        ("x-b", "2"),
        ("link", "b"),
        ("date", MODIFIED),
        ("x-c", "3"),
    ];
    let origin = Origin::new(|request| {
        if request.headers().contains_key("if-none-match") {
            let lines = [
                ("x-b", "two"),
                ("date", MADE),
                ("link", "c"),
                ("x-new", "5"),
                ("link", "d"),
                ("etag", TAG),
            ];
            return with_headers(
                Response::builder()
                    .status(304)
                    .body(common::empty())
                    .unwrap(),
                &lines,
            );
        }
        with_headers(ok(TEXT), STORED)
    });
    let cache = detached(&origin);
    send(&cache, get("/")).await;
    advance(TTL).await;
    let renewed = send(&cache, get("/")).await;
    let hit = send(&cache, get("/")).await;
    assert!(!renewed.is_hit() && hit.is_hit());
    let expected = [
        ("x-a", "1"),
        ("etag", TAG),
        ("link", "c"),
        ("link", "d"),
        ("x-b", "two"),
        ("date", MADE),
        ("x-c", "3"),
        ("x-new", "5"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(lines_of(&renewed), expected);
    assert_eq!(lines_of(&hit), expected);
}

// Invariant 50.
#[tokio::test]
async fn rule_1_15_what_has_no_date_gets_that_of_its_receipt_and_keeps_it() {
    for mode in [FillMode::Detached, FillMode::Inline] {
        let cache = builder(mode).build().layer(Origin::new(|_| ok(TEXT)));
        let before = std::time::SystemTime::now() - Duration::from_secs(1);
        let miss = send(&cache, get("/")).await;
        let after = std::time::SystemTime::now();
        std::thread::sleep(Duration::from_millis(1100));
        let hit = send(&cache, get("/")).await;
        assert!(hit.is_hit());
        assert_eq!(miss.lines("date").len(), 1);
        assert_eq!(miss.lines("date"), hit.lines("date"));
        let date = httpdate::parse_http_date(miss.header("date").unwrap()).unwrap();
        assert!(before <= date && date <= after);
    }
    // One that is there stays as it is, whatever it is.
    let cache = detached(&Origin::new(|_| with(ok(TEXT), "date", "yesterday")));
    for _miss_then_hit in 0..2 {
        assert_eq!(send(&cache, get("/")).await.lines("date"), ["yesterday"]);
    }
}

// ---- over real connections

const OVER_A_CONNECTION: &str = r#"
7.2 | if-none-match: TAG | 304 |
7.2 | if-none-match: "x" | 200 | 0123456789 | 10
8.1 | range: bytes=3-6 | 206 | 3456 | 4
8.1 | range: bytes=-1 | 206 | 9 | 1
8.1 | range: bytes=10- | 416 | | 0
8.3 | range: bytes=3-6 / if-range: TAG | 206 | 3456 | 4
8.3 | range: bytes=3-6 / if-range: "x" | 200 | 0123456789 | 10
"#;

// Invariants 24, 50.
#[tokio::test]
async fn clients_of_a_real_server_get_parts_and_304s_of_what_is_stored_and_of_what_is_not() {
    let tagged = [("etag", TAG), ("content-type", "text/plain")];
    for http2 in [false, true] {
        let handler = move || async move { (tagged, TEXT) };
        let router = Router::new().route("/{name}", routed(handler));
        let server = Serving::router(router.layer(CacheLayer::new(TTL))).await;
        let mut client = Client::builder(TokioExecutor::new());
        let client = client.http2_only(http2).build_http::<Body>();
        let ask = async |method: &str, uri: &str, row: Option<&Row>| {
            let mut ask = row.map_or_else(|| get("/"), |row| row.asking(Hit));
            *ask.method_mut() = method.parse().unwrap();
            *ask.uri_mut() = uri.parse().unwrap();
            // The client names the host of the URI.
            ask.headers_mut().remove("host");
            let response = within(client.request(ask)).await.unwrap();
            support::Answer::of(response).await
        };
        for (i, row) in rows(OVER_A_CONNECTION).enumerate() {
            let uri = server.uri(&format!("/{i}"));
            for hit in [false, true] {
                let answer = ask("GET", &uri, Some(&row)).await;
                let note = format!("{http2} {hit} {}", row.text);
                assert_eq!(answer.status.to_string(), row.expected[0], "{note}");
                assert_eq!(answer.body, row.expected[1], "{note}");
                let length = row.expected.get(2).copied();
                assert_eq!(answer.header("content-length"), length, "{note}");
                assert_eq!(answer.is_hit(), hit, "{note}");
                let etag = (answer.status != 416).then_some(TAG);
                assert_eq!(answer.header("etag"), etag, "{note}");
                let head = ask("HEAD", &uri, Some(&row)).await;
                let (status, length) = match answer.status {
                    304 => (304, None),
                    _ => (200, Some("10")),
                };
                assert_eq!(head.status, status, "{note}");
                assert_eq!(head.header("content-length"), length, "{note}");
            }
            let plain = ask("GET", &uri, None).await;
            assert_eq!((plain.status, &*plain.body), (200, TEXT.as_bytes()));
        }
    }
}

// ---- whatever is asked

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: 2000,
        failure_persistence: None,
        ..Config::default()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// One of the ranges of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spec {
    FromTo(usize, usize),
    From(usize),
    Last(usize),
}

impl Spec {
    fn text(self) -> String {
        match self {
            Self::FromTo(first, last) => format!("{first}-{last}"),
            Self::From(first) => format!("{first}-"),
            Self::Last(bytes) => format!("-{bytes}"),
        }
    }

    /// The places of a whole of this length that it names.
    fn places(self, length: usize) -> Vec<usize> {
        let is_named = |at: &usize| match self {
            Self::FromTo(first, last) => (first..=last).contains(at),
            Self::From(first) => *at >= first,
            Self::Last(bytes) => *at + bytes >= length,
        };
        (0..length).filter(is_named).collect()
    }
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let spec = prop_oneof![
        6 => (0..40_usize, 0..12_usize).prop_map(|(first, more)| Spec::FromTo(first, first + more)),
        1 => (0..40_usize).prop_map(Spec::From),
        1 => (0..40_usize).prop_map(Spec::Last),
        1 => (1..40_usize).prop_map(|first| Spec::FromTo(first, first - 1)),
    ];
    prop_oneof![vec(spec.clone(), 1..3), vec(spec, 1..13)]
}

/// What is to be answered, by the rules as they are told: the slices, none if nothing is there, or the whole.
#[derive(Debug, PartialEq)]
enum Expected {
    Whole,
    Slices(Vec<Vec<usize>>),
    Nothing,
}

fn expected(specs: &[Spec], length: usize) -> Expected {
    let backwards = |spec: &Spec| matches!(spec, Spec::FromTo(first, last) if last < first);
    let untold = |spec: &Spec| length == 0 && matches!(spec, Spec::Last(1..));
    if specs.len() > 10 || specs.iter().any(|spec| backwards(spec) || untold(spec)) {
        return Expected::Whole;
    }
    let slices: Vec<_> = specs.iter().map(|spec| spec.places(length)).collect();
    let slices: Vec<_> = slices
        .into_iter()
        .filter(|places| !places.is_empty())
        .collect();
    let shares = |i: usize| {
        let mut others = slices.iter().enumerate().filter(|(j, _)| *j != i);
        others.any(|(_, other)| other.iter().any(|place| slices[i].contains(place)))
    };
    let together: usize = slices.iter().map(Vec::len).sum();
    let overlapping = (0..slices.len()).filter(|i| shares(*i)).count();
    if slices.is_empty() {
        Expected::Nothing
    } else if overlapping > 2 || together > length {
        Expected::Whole
    } else {
        Expected::Slices(slices)
    }
}

fn check_ranges(answer: &Answer, body: &[u8], expected: Expected) -> TestCaseResult {
    let status = answer.parts.status.as_u16();
    match expected {
        Expected::Whole => {
            prop_assert_eq!(status, 200);
            prop_assert_eq!(&*answer.body, body);
        }
        Expected::Nothing => {
            prop_assert_eq!((status, answer.body.len()), (416, 0));
            let told = format!("bytes */{}", body.len());
            prop_assert_eq!(answer.header("content-range"), Some(&*told));
        }
        Expected::Slices(slices) => {
            prop_assert_eq!(status, 206);
            let told = |places: &[usize]| {
                let (first, last) = (places[0], places[places.len() - 1]);
                format!("bytes {first}-{last}/{}", body.len())
            };
            let bytes = |places: &[usize]| places.iter().map(|at| body[*at]).collect::<Vec<_>>();
            if let [places] = &*slices {
                prop_assert_eq!(&*answer.body, bytes(places));
                prop_assert_eq!(answer.header("content-range"), Some(&*told(places)));
                let length = places.len().to_string();
                prop_assert_eq!(answer.header("content-length"), Some(&*length));
                return Ok(());
            }
            let found = parts(answer);
            prop_assert_eq!(found.len(), slices.len());
            for ((lines, part), places) in found.iter().zip(&slices) {
                prop_assert_eq!(&**part, bytes(places));
                let told = format!("content-range: {}", told(places));
                prop_assert_eq!(lines, &[told]);
            }
        }
    }
    Ok(())
}

// Invariants 24, 50.
#[test]
fn rules_8_1_to_8_4_whatever_is_asked_for_the_parts_are_exactly_the_slices() {
    let runtime = runtime();
    // What could be taken for the start of a part, too.
    let piece = prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n-"[..])];
    let case = (vec(piece, 0..40), specs(), any::<bool>());
    let result = runner().run(&case, |(body, specs, is_hit)| {
        let page = Bytes::from(body.clone());
        let cache = detached(&Origin::new(move |_| ok(page.clone())));
        let line: Vec<_> = specs.iter().map(|spec| spec.text()).collect();
        let line = format!("bytes={}", line.join(if is_hit { " ,," } else { "," }));
        let answer = runtime.block_on(async {
            if is_hit {
                send(&cache, get("/")).await;
            }
            send(&cache, with(get("/"), "range", &line)).await
        });
        let expected = match expected(&specs, body.len()) {
            // Of what is still coming in, only one.
            Expected::Slices(slices) if slices.len() > 1 && !is_hit => Expected::Whole,
            expected => expected,
        };
        check_ranges(&answer, &body, expected)
    });
    assert_eq!(result, Ok(()));
}

/// A tag, and whether it is weak.
type Tag = (bool, &'static str);

fn tag_text((is_weak, opaque): Tag) -> String {
    format!("{}\"{opaque}\"", if is_weak { "W/" } else { "" })
}

fn date_text(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777 + seconds);
    httpdate::fmt_http_date(time)
}

// Invariant 23.
#[test]
fn rules_7_2_and_7_3_whatever_is_asked_a_304_is_told_exactly_if_it_is_known() {
    let runtime = runtime();
    let opaque = || prop::sample::select(&["", "a", "b", "a,b", "W/", "*", "a\\"][..]);
    let tag = move || (any::<bool>(), opaque());
    let stored = (
        prop::option::of(tag()),
        prop::option::of(0..3_u64),
        0..3_u64,
    );
    let named = prop::option::of(vec(vec(tag(), 0..3), 1..3));
    let asked = (named, prop::option::of(0..3_u64), any::<bool>());
    let result = runner().run(
        &(stored, asked),
        |((etag, modified, made), (named, since, is_hit))| {
            let mut lines = vec![("date", date_text(made))];
            lines.extend(etag.map(|tag| ("etag", tag_text(tag))));
            lines.extend(modified.map(|seconds| ("last-modified", date_text(seconds))));
            let cache = detached(&Origin::new(move |_| {
                lines
                    .iter()
                    .fold(ok(TEXT), |page, (name, value)| with(page, name, value))
            }));
            let mut ask = get("/");
            for tags in named.iter().flatten() {
                let tags: Vec<_> = tags.iter().copied().map(tag_text).collect();
                ask = with(ask, "if-none-match", &tags.join(", "));
            }
            if let Some(seconds) = since {
                ask = with(ask, "if-modified-since", &date_text(seconds));
            }
            // The model: a tag of the same text, or else not modified since.
            let is_known = match (named, since) {
                (Some(lines), _) => {
                    let mut tags = lines.iter().flatten();
                    tags.any(|(_, opaque)| etag.is_some_and(|(_, stored)| stored == *opaque))
                }
                (None, Some(since)) => modified.unwrap_or(made) <= since,
                (None, None) => false,
            };
            let answer = runtime.block_on(async {
                if is_hit {
                    send(&cache, get("/")).await;
                }
                send(&cache, ask).await
            });
            prop_assert_eq!(
                answer.parts.status.as_u16(),
                if is_known { 304 } else { 200 }
            );
            prop_assert_eq!(answer.text(), if is_known { "" } else { TEXT });
            prop_assert!(answer.is_hit() == is_hit);
            Ok(())
        },
    );
    assert_eq!(result, Ok(()));
}

// RFC 9110 §13.1.3: who is asked by a tag does not look at the date, and of a tag that was made here it knows nothing.
#[tokio::test(start_paused = true)]
async fn rule_5_10_a_tag_made_of_the_body_is_for_clients_and_the_inner_service_is_asked_by_its_own()
{
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = Origin::new(|request| {
        assert!(!request.headers().contains_key(header::IF_NONE_MATCH));
        if request.headers().contains_key(header::IF_MODIFIED_SINCE) {
            return with(status(StatusCode::NOT_MODIFIED), "last-modified", MODIFIED);
        }
        with(ok("whole"), "last-modified", MODIFIED)
    });
    let cache = CacheLayer::builder()
        .ttl(Duration::from_secs(60))
        .etag_from_body(true)
        .build()
        .layer(origin.clone());
    send(&cache, get("/")).await;
    let tag = send(&cache, get("/"))
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    for calls in [2, 3] {
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(send(&cache, get("/")).await.text(), "whole");
        assert_eq!(origin.calls(), calls);
        let asked = with(get("/"), "if-none-match", &tag);
        let answer = send(&cache, asked).await;
        assert_eq!(answer.parts.status, StatusCode::NOT_MODIFIED);
        assert_eq!(answer.header("etag"), Some(&*tag));
    }
}

/// The part of the whole that is told by `bytes 3-6/10`.
fn told<'a>(content_range: &str, whole: &'a [u8]) -> &'a [u8] {
    let (range, length) = content_range
        .strip_prefix("bytes ")
        .unwrap()
        .split_once('/')
        .unwrap();
    assert_eq!(length.parse(), Ok(whole.len()));
    let (first, last) = range.split_once('-').unwrap();
    &whole[first.parse().unwrap()..=last.parse().unwrap()]
}

// Invariants 19, 24.
#[test]
fn whatever_bytes_are_asked_with_what_is_told_of_a_part_is_true() {
    let runtime = runtime();
    let cache = detached(&Origin::new(|_| with_headers(ok(TEXT), PAGE)));
    runtime.block_on(send(&cache, get("/")));
    let names = [
        "range",
        "range",
        "range",
        "if-none-match",
        "if-range",
        "if-modified-since",
    ];
    let pieces = [
        "bytes=", "bytes", "=", "-", ",", " ", "\"", "W/", "*", "v,1", "\"v,1\"", MODIFIED,
    ];
    let piece = prop_oneof![
        3 => prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        3 => prop::sample::select(&b"0123456789"[..]).prop_map(|digit| vec![digit]),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    let line = (
        prop::sample::select(names.to_vec()),
        vec(piece, 0..8).prop_map(|pieces| pieces.concat()),
    );
    let result = runner().run(&vec((line, any::<bool>()), 1..4), |lines| {
        let mut ask = get("/");
        for ((name, mut value), is_range) in lines {
            if name == "range" && is_range {
                value.splice(..0, *b"bytes=");
            }
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                ask.headers_mut().append(name, value);
            }
        }
        let answer = runtime.block_on(send(&cache, ask));
        match answer.parts.status.as_u16() {
            200 => prop_assert_eq!(answer.text(), TEXT),
            206 => match answer.header("content-range") {
                Some(range) => prop_assert_eq!(&*answer.body, told(range, TEXT.as_bytes())),
                None => {
                    for (lines, part) in parts(&answer) {
                        let range = lines[1].strip_prefix("content-range: ").unwrap();
                        prop_assert_eq!(&*part, told(range, TEXT.as_bytes()));
                    }
                }
            },
            304 | 416 => prop_assert!(answer.body.is_empty()),
            other => prop_assert!(false, "{}", other),
        }
        Ok(())
    });
    assert_eq!(result, Ok(()));
}

//! Conditions of requests: `If-None-Match` and `If-Modified-Since`, also on responses that are never stored.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::Response, routing::any};
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_response_cache::{CacheLayer, CacheLayerBuilder};

use crate::common::{self, Origin, get, ok, send, with, with_headers};

const TAG: &str = "\"v\"";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn modes() -> [CacheLayerBuilder; 2] {
    let builder = || CacheLayer::builder().max_body_bytes(100);
    [builder(), builder().rfc9111()]
}

/// A handler that knows no conditions, whose responses have these lines.
fn handler(
    lines: &'static [(&'static str, &'static str)],
    length: usize,
) -> (Router, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let page = move || {
        counted.fetch_add(1, SeqCst);
        async move {
            let mut response = Response::new(Body::from("x".repeat(length)));
            for (name, value) in lines {
                let name = HeaderName::from_static(name);
                response
                    .headers_mut()
                    .append(name, HeaderValue::from_static(value));
            }
            response
        }
    };
    (Router::new().fallback(any(page)), calls)
}

async fn ask(app: &Router, method: Method, (name, value): (HeaderName, &str)) -> (u16, Response) {
    let request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "a");
    let request = request.header(name, value).body(Body::empty()).unwrap();
    let response = common::within(app.clone().oneshot(request)).await.unwrap();
    (response.status().as_u16(), response)
}

// Invariants 23, 63.
#[tokio::test]
async fn a_response_that_is_not_stored_is_answered_304_from_its_validators() {
    const PRIVATE: &[(&str, &str)] = &[
        ("etag", TAG),
        ("last-modified", MODIFIED),
        ("cache-control", "private"),
    ];
    const NO_STORE: &[(&str, &str)] = &[
        ("etag", TAG),
        ("last-modified", MODIFIED),
        ("cache-control", "no-store"),
    ];
    const COOKIE: &[(&str, &str)] = &[
        ("etag", TAG),
        ("last-modified", MODIFIED),
        ("set-cookie", "a=b"),
    ];
    const LARGE: &[(&str, &str)] = &[
        ("etag", TAG),
        ("last-modified", MODIFIED),
        ("cache-control", "s-maxage=60"),
    ];
    for (lines, length) in [(PRIVATE, 10), (NO_STORE, 10), (COOKIE, 10), (LARGE, 101)] {
        for (at, builder) in modes().into_iter().enumerate() {
            let (app, calls) = handler(lines, length);
            let app = app.layer(builder.build());
            let mut asked = 0;
            // The first time it is fetched as a whole, later as the client asks for it.
            for _ in 0..2 {
                for (condition, expected) in [
                    ((header::IF_NONE_MATCH, TAG), 304),
                    ((header::IF_NONE_MATCH, "W/\"v\""), 304),
                    ((header::IF_NONE_MATCH, "\"w\""), 200),
                    ((header::IF_MODIFIED_SINCE, MODIFIED), 304),
                    (
                        (header::IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT"),
                        200,
                    ),
                ] {
                    let note = format!("{lines:?} {condition:?} {at}");
                    let (status, response) = ask(&app, Method::GET, condition).await;
                    assert_eq!(status, expected, "{note}");
                    let has_cookie = response.headers().contains_key("set-cookie");
                    assert_eq!(has_cookie, lines == COOKIE, "{note}");
                    assert_eq!(response.headers()["etag"], TAG, "{note}");
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(
                        body.len(),
                        if expected == 304 { 0 } else { length },
                        "{note}"
                    );
                    asked += 1;
                    assert_eq!(calls.load(SeqCst), asked, "{note}");
                }
            }
        }
    }
}

// Invariants 23, 63. Another response may have been made within the second of the `Date`.
#[tokio::test(start_paused = true)]
async fn the_date_of_a_response_that_is_not_stored_is_no_validator() {
    let (app, _) = handler(&[("cache-control", "private"), ("date", MODIFIED)], 10);
    let app = app.layer(CacheLayer::new(Duration::from_secs(60)));
    for _ in 0..2 {
        let (status, _) = ask(&app, Method::GET, (header::IF_MODIFIED_SINCE, MODIFIED)).await;
        assert_eq!(status, 200);
    }
}

// Invariants 23, 63.
#[tokio::test]
async fn a_head_with_a_condition_is_answered_as_a_get() {
    for lines in [
        &[("etag", TAG), ("cache-control", "private")][..],
        &[("etag", TAG), ("cache-control", "s-maxage=60")],
    ] {
        for builder in modes() {
            let seen = Arc::new(AtomicUsize::new(0));
            let origin = {
                let seen = seen.clone();
                Origin::new(move |request| {
                    let asks = request.headers().contains_key("if-none-match");
                    seen.fetch_add(1, SeqCst);
                    let mut response = with_headers(ok("whole"), lines);
                    if asks {
                        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                    }
                    response
                })
            };
            let cache = builder.build().layer(origin);
            for _ in 0..2 {
                let request = common::request("HEAD", "/");
                let answer = send(&cache, with(request, "if-none-match", TAG)).await;
                assert_eq!(answer.parts.status, 304);
            }
        }
    }
}

// Invariants 21, 23.
#[tokio::test]
async fn an_etag_made_of_the_body_is_weak_unless_a_strong_one_is_chosen() {
    type Choose = fn(CacheLayerBuilder) -> CacheLayerBuilder;
    for (choose, is_weak) in [
        ((|b| b.etag_from_body(true)) as Choose, true),
        (|b| b.strong_etag_from_body(true), false),
        (|b| b.strong_etag_from_body(true).etag_from_body(true), true),
    ] {
        let origin = Origin::new(|_| ok("0123456789"));
        let cache = choose(CacheLayer::builder()).build().layer(origin);
        send(&cache, get("/")).await;
        let tag = send(&cache, get("/"))
            .await
            .header("etag")
            .unwrap()
            .to_owned();
        assert_eq!(tag.starts_with("W/\""), is_weak, "{tag}");
        let unchanged = send(&cache, with(get("/"), "if-none-match", &tag)).await;
        assert_eq!(unchanged.parts.status, 304);
        let part = [("range", "bytes=0-1"), ("if-range", &*tag)];
        let part = send(&cache, with_headers(get("/"), &part)).await;
        assert_eq!(part.parts.status.as_u16(), if is_weak { 200 } else { 206 });
    }
    let origin = Origin::new(|_| ok("0"));
    let layer = CacheLayer::builder()
        .etag_from_body(true)
        .etag_from_body(false)
        .build();
    let cache = layer.layer(origin);
    send(&cache, get("/")).await;
    assert_eq!(send(&cache, get("/")).await.header("etag"), None);
}

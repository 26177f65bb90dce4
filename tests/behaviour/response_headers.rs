//! Response headers that describe one request reach neither hits nor followers.

use std::time::Duration;

use http::{Response, StatusCode};
use tower::Layer;
use tower_response_cache::{Cache, CacheLayer, CacheLayerBuilder, Reason};

use crate::common::{
    Answer, Gate, Origin, chunked, empty, get, ok, send, settle, with, with_headers,
};

/// One of each kind, and each of those that were reported.
const ONE_REQUESTS: [(&str, &str); 29] = [
    ("x-ratelimit-limit", "100"),
    ("x-ratelimit-remaining", "7"),
    ("x-rate-limit-reset", "60"),
    ("ratelimit", "\"default\";r=50;t=30"),
    ("ratelimit-policy", "\"default\";q=100"),
    ("ratelimit-remaining", "7"),
    ("retry-after", "30"),
    ("x-runtime", "0.01"),
    ("x-response-time", "7ms"),
    ("x-process-time", "7"),
    ("sentry-trace", "1-2"),
    ("baggage", "user=7"),
    ("x-b3-traceid", "1"),
    ("x-b3-spanid", "1"),
    ("uber-trace-id", "1:2:0:1"),
    ("x-datadog-trace-id", "1"),
    ("x-datadog-parent-id", "1"),
    ("x-ms-request-id", "1"),
    ("x-request-id", "1"),
    ("cf-ray", "1-FRA"),
    ("x-envoy-upstream-service-time", "7"),
    ("x-accel-redirect", "/protected/7"),
    ("x-acme-trace-id", "1"),
    ("x-acme-request-id", "1"),
    ("x-acme-correlation-id", "1"),
    ("x-acme-runtime", "7"),
    ("x-acme-response-time", "7"),
    ("server-timing", "db;dur=7"),
    ("traceparent", "00-1-2-01"),
];

/// These look like them.
const OF_ALL: [(&str, &str); 4] = [
    ("x-runtime-version", "3"),
    ("x-limit", "100"),
    ("server", "origin"),
    ("x-frame-options", "deny"),
];

fn builders() -> [CacheLayerBuilder; 2] {
    [CacheLayer::builder(), CacheLayer::builder().rfc9111()]
}

fn check(answer: &Answer, has_ones: bool) {
    for (name, value) in ONE_REQUESTS {
        let expected = has_ones.then_some(value);
        assert_eq!(answer.header(name), expected, "{name}");
    }
    for (name, value) in OF_ALL {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
}

fn says(response: Response<crate::common::Body>) -> Response<crate::common::Body> {
    let response = with(response, "cache-control", "max-age=60");
    with_headers(with_headers(response, &ONE_REQUESTS), &OF_ALL)
}

// Invariant 6.
#[tokio::test(start_paused = true)]
async fn a_hit_has_no_figures_of_the_request_that_filled_it() {
    for builder in builders() {
        let cache = builder.build().layer(Origin::new(|_| says(ok("page"))));
        check(&send(&cache, get("/p")).await, true);
        let hit = send(&cache, get("/p")).await;
        assert!(hit.is_hit(), "{hit:?}");
        check(&hit, false);
    }
}

// Invariant 6.
#[tokio::test(start_paused = true)]
async fn followers_have_no_figures_of_their_leader() {
    for builder in builders() {
        let gate = Gate::new();
        let at = gate.clone();
        let origin = Origin::later(move |_| {
            let gate = at.clone();
            async move {
                gate.pass().await;
                says(ok("page"))
            }
        });
        let cache = builder.build().layer(origin.clone());
        let asked = |cache: &Cache<Origin>| {
            let cache = cache.clone();
            tokio::spawn(async move { send(&cache, get("/p")).await })
        };
        let leader = asked(&cache);
        gate.arrival().await;
        let followers = [asked(&cache), asked(&cache)];
        settle().await;
        gate.open();
        check(&leader.await.unwrap(), true);
        for follower in followers {
            check(&follower.await.unwrap(), false);
        }
        assert_eq!(origin.calls(), 1);
    }
}

// Invariant 6.
#[tokio::test(start_paused = true)]
async fn trailers_of_one_request_stay_with_it() {
    let origin = Origin::new(|_| {
        let mut trailers = http::HeaderMap::new();
        for name in ["x-runtime", "x-acme-trace-id", "x-checksum"] {
            trailers.insert(name, http::HeaderValue::from_static("7"));
        }
        Response::new(chunked(&[b"page"], Some(trailers)))
    });
    let cache = CacheLayer::new(Duration::from_secs(60)).layer(origin);
    let first = send(&cache, get("/p")).await.trailers.unwrap();
    assert_eq!(first.len(), 3);
    let hit = send(&cache, get("/p")).await.trailers.unwrap();
    assert_eq!(
        (hit.len(), &hit["x-checksum"]),
        (1, &http::HeaderValue::from_static("7"))
    );
}

#[tokio::test(start_paused = true)]
async fn clear_site_data_is_stored_in_rfc_9111_mode_only() {
    for (builder, is_stored) in builders().into_iter().zip([false, true]) {
        let origin = Origin::new(|_| with(says(ok("page")), "clear-site-data", "\"cache\""));
        let cache = builder.build().layer(origin);
        let first = send(&cache, get("/p")).await;
        assert_eq!(first.header("clear-site-data"), Some("\"cache\""));
        let hit = send(&cache, get("/p")).await;
        assert!(hit.is_hit());
        assert_eq!(hit.header("clear-site-data").is_some(), is_stored);
    }
}

// RFC 9110 §10.2.3: there it is part of the response.
#[tokio::test(start_paused = true)]
async fn retry_after_stays_with_a_503() {
    let origin = Origin::new(|_| {
        let lines = [("cache-control", "max-age=60"), ("retry-after", "30")];
        let mut response = with_headers(ok("later"), &lines);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    let cache = CacheLayer::rfc9111().layer(origin);
    send(&cache, get("/p")).await;
    let hit = send(&cache, get("/p")).await;
    assert!(
        hit.is_hit() && hit.header("retry-after") == Some("30"),
        "{hit:?}"
    );
}

// Invariant 63: the content of such a response is what the field names.
#[tokio::test(start_paused = true)]
async fn an_empty_response_that_names_a_file_for_the_proxy_is_its_requesters_alone() {
    for name in ["x-accel-redirect", "x-sendfile"] {
        let origin = Origin::new(move |_| with(Response::new(empty()), name, "/protected/7"));
        let cache = CacheLayer::new(Duration::from_secs(60)).layer(origin);
        for _ in 0..2 {
            let answer = send(&cache, get("/p")).await;
            assert_eq!(answer.header(name), Some("/protected/7"));
            assert_eq!(answer.reason(), Some(Reason::InternalRedirect));
        }
    }
}

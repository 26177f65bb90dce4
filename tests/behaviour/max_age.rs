//! `max-age=0` and `Expires` in the past, where the layer decides.

use std::time::Duration;

use http::{StatusCode, header};
use tokio::time::advance;
use tower::Layer;
use tower_response_cache::{CacheLayer, CacheLayerBuilder, Forward, Reason};

use crate::common::{Gate, Origin, empty, get, ok, send, settle, status, with, with_headers};

type Lines = &'static [(&'static str, &'static str)];

const PAST: &str = "Thu, 01 Jan 1970 00:00:00 GMT";
const FUTURE: &str = "Fri, 31 Dec 9999 23:59:59 GMT";

/// These are stale at once, in the words of each field that can say so.
const STALE_AT_ONCE: [Lines; 9] = [
    &[("cache-control", "max-age=0")],
    &[("cache-control", "public, max-age=\"0\"")],
    &[("cache-control", "max-age=x")],
    &[("cache-control", "max-age")],
    &[("cache-control", "max-age=60, max-age=0")],
    &[("cache-control", "max-age=0"), ("expires", FUTURE)],
    &[("expires", PAST)],
    &[("expires", "0")],
    &[("expires", FUTURE), ("expires", FUTURE)],
];

const STORED: [Lines; 5] = [
    &[("cache-control", "max-age=0, s-maxage=10")],
    &[("cache-control", "s-maxage=10"), ("expires", PAST)],
    &[("cache-control", "max-age=1"), ("expires", PAST)],
    &[("cache-control", "max-age=1")],
    &[("expires", FUTURE)],
];

fn builder() -> CacheLayerBuilder {
    CacheLayer::builder().ttl(Duration::from_secs(60))
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn a_response_that_is_stale_at_once_is_not_stored_and_not_remembered_as_uncacheable() {
    for lines in STALE_AT_ONCE {
        let layer = builder().build();
        let cache = layer.layer(Origin::counting(lines));
        for call in ["1", "2", "3"] {
            let answer = send(&cache, get("/p")).await;
            assert_eq!(answer.text(), call, "{lines:?}");
            assert_eq!(
                answer.cache().forward(),
                Some(Forward::UriMiss),
                "{lines:?}"
            );
            assert_eq!(answer.reason(), Some(Reason::NoLifetime), "{lines:?}");
            assert!(!answer.cache().is_stored(), "{lines:?}");
        }
        assert_eq!(layer.handle().stats().entries, 0, "{lines:?}");
    }
}

// Invariants 12, 16.
#[tokio::test(start_paused = true)]
async fn followers_share_a_response_that_is_stale_at_once() {
    for lines in STALE_AT_ONCE {
        let gate = Gate::new();
        let at = gate.clone();
        let origin = Origin::later(move |_| {
            let gate = at.clone();
            async move {
                gate.pass().await;
                with_headers(ok("page"), lines)
            }
        });
        let cache = builder().build().layer(origin.clone());
        for flight in [1, 2] {
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let cache = cache.clone();
                    tokio::spawn(async move { send(&cache, get("/p")).await })
                })
                .collect();
            gate.arrival().await;
            settle().await;
            gate.let_one_pass();
            for client in clients {
                assert_eq!(client.await.unwrap().text(), "page");
            }
            assert_eq!(origin.calls(), flight, "{lines:?}");
        }
    }
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn what_states_another_lifetime_is_stored() {
    for lines in STORED {
        let cache = builder().build().layer(Origin::counting(lines));
        send(&cache, get("/p")).await;
        assert!(send(&cache, get("/p")).await.is_hit(), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_may_ignore_max_age() {
    for lines in STALE_AT_ONCE {
        let cache = builder()
            .ignore_max_age()
            .build()
            .layer(Origin::counting(lines));
        send(&cache, get("/p")).await;
        let hit = send(&cache, get("/p")).await;
        assert_eq!(
            hit.cache().ttl(),
            Some(Duration::from_secs(60)),
            "{lines:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn max_age_0_comes_before_the_layers_own_choice_of_a_lifetime() {
    let long = |_: &http::response::Parts| Some(Duration::from_secs(600));
    let cache = builder()
        .ttl_by(long)
        .build()
        .layer(Origin::counting(STALE_AT_ONCE[0]));
    send(&cache, get("/p")).await;
    assert_eq!(send(&cache, get("/p")).await.text(), "2");
}

#[tokio::test(start_paused = true)]
async fn a_failure_with_max_age_0_is_a_failure() {
    let origin = Origin::new(|_| {
        with(
            status(StatusCode::BAD_GATEWAY),
            "cache-control",
            "max-age=0",
        )
    });
    let cache = builder().build().layer(origin);
    let answer = send(&cache, get("/p")).await;
    assert_eq!(answer.reason(), Some(Reason::Status));
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn a_refresh_with_max_age_0_removes_what_is_stored() {
    for answers_304 in [false, true] {
        let origin = Origin::new(move |request| {
            let asked = request.headers().contains_key(header::IF_NONE_MATCH);
            let is_refresh = request.headers().contains_key("x-refresh");
            let response = match (asked, answers_304) {
                (true, true) => status(StatusCode::NOT_MODIFIED).map(|_| empty()),
                _ => with(ok("page"), "etag", "\"1\""),
            };
            if asked || is_refresh {
                with(response, "cache-control", "max-age=0")
            } else {
                response
            }
        });
        let layer = builder()
            .stale_while_revalidate(Duration::from_secs(600))
            .build();
        let cache = layer.layer(origin);
        send(&cache, get("/p")).await;
        advance(Duration::from_secs(61)).await;
        assert!(send(&cache, get("/p")).await.cache().is_stale());
        settle().await;
        let answer = send(&cache, with(get("/p"), "x-refresh", "1")).await;
        assert!(!answer.is_hit(), "{answer:?}");
        assert_eq!(answer.text(), "page");
    }
}

// A part without a lifetime gives none to the page.
#[tokio::test(start_paused = true)]
async fn a_page_with_a_part_that_is_stale_at_once_is_not_stored() {
    let part = CacheLayer::builder().build();
    let parts = part.layer(Origin::counting(&[("cache-control", "max-age=0")]));
    let pages = CacheLayer::builder().handle(&part.handle()).build();
    let origin = Origin::later(move |_| {
        let parts = parts.clone();
        async move {
            ok(format!(
                "page of {}",
                send(&parts, get("/part")).await.text()
            ))
        }
    });
    let cache = pages.layer(origin);
    for page in ["page of 1", "page of 2"] {
        assert_eq!(send(&cache, get("/page")).await.text(), page);
    }
}

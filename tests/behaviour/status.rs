//! `Cache-Status`, reasons, statistics and events.

use std::time::Duration;

use http::StatusCode;
use tower::Layer;
use tower_response_cache::{CacheHandle, CacheLayer, Forward, Reason, Tag, Tags};

use crate::common::{Answer, Origin, get, ok, request, send, settle, with, with_headers};

const MINUTE: Duration = Duration::from_secs(60);

/// Responses that vary by language, each tagged with its own.
fn by_language() -> Origin {
    Origin::new(|request| {
        let language = request.headers().get("accept-language");
        let language = language.map_or("none", |line| line.to_str().unwrap());
        let mut response = with(ok("page"), "vary", "accept-language");
        let tags = Tags::from(Tag::from(language.to_owned()));
        response.extensions_mut().insert(tags);
        response
    })
}

// Invariant 60.
#[tokio::test]
async fn a_hard_purge_leaves_a_uri_miss_before_a_sweep_and_after_it() {
    for is_swept in [false, true] {
        let layer = CacheLayer::new(MINUTE);
        let cache = layer.layer(by_language());
        let ask =
            async |language: &str| send(&cache, with(get("/"), "accept-language", language)).await;
        ask("de").await;
        let _ = layer.handle().purge(Tag::new("de")).await.unwrap();
        if is_swept {
            settle().await;
            assert_eq!(layer.handle().stats().entries, 0);
        }
        // Another variant of what was purged is no variant of anything that is stored.
        let explained = layer.explain(&with(get("/"), "accept-language", "fr").into_parts().0);
        assert!(explained.to_string().contains("(uri-miss)"), "{explained}");
        let answer = ask("de").await;
        assert_eq!(
            answer.cache().forward(),
            Some(Forward::UriMiss),
            "{is_swept}"
        );
        // One that was not purged still is a variant.
        ask("en").await;
        let _ = layer.handle().purge(Tag::new("de")).await.unwrap();
        if is_swept {
            settle().await;
            assert_eq!(layer.handle().stats().entries, 1);
        }
        let answer = ask("de").await;
        assert_eq!(
            answer.cache().forward(),
            Some(Forward::VaryMiss),
            "{is_swept}"
        );
        let _ = layer.handle().purge_all().await.unwrap();
        if is_swept {
            settle().await;
        }
        let answer = ask("en").await;
        assert_eq!(
            answer.cache().forward(),
            Some(Forward::UriMiss),
            "{is_swept}"
        );
    }
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn a_soft_purge_and_the_end_of_a_lifetime_leave_something_stale() {
    let layer = CacheLayer::builder()
        .ttl(MINUTE)
        .stale_if_error(MINUTE)
        .build();
    let cache = layer.layer(by_language());
    send(&cache, get("/")).await;
    let _ = layer.handle().purge(Tag::new("none")).soft().await.unwrap();
    assert_eq!(
        send(&cache, get("/")).await.cache().forward(),
        Some(Forward::Stale)
    );
    tokio::time::advance(MINUTE).await;
    assert_eq!(
        send(&cache, get("/")).await.cache().forward(),
        Some(Forward::Stale)
    );
}

/// What is said of the first response for a key, and whether it is stored then.
async fn said_and_done(layer: CacheLayer, origin: Origin) -> (Answer, u64) {
    let cache = layer.layer(origin);
    let answer = send(&cache, get("/")).await;
    (answer, layer.handle().stats().stored)
}

// Invariant 60.
#[tokio::test]
async fn a_response_that_cannot_be_stored_is_not_said_to_be() {
    let small = || {
        let handle = CacheHandle::builder().max_bytes(1 << 12).build();
        CacheLayer::builder().handle(&handle).build()
    };
    let two_lengths = || Origin::new(|_| with(ok("0123456789"), "content-length", "9"));
    let as_it_is = || CacheLayer::builder().build();
    for (layer, origin, reason) in [
        (as_it_is(), Origin::new(|_| ok("page")), None),
        (small(), Origin::new(|_| ok("page")), None),
        (
            small(),
            Origin::new(|_| ok(vec![b'x'; 1 << 12])),
            Some(Reason::TooLarge),
        ),
        (as_it_is(), two_lengths(), Some(Reason::ContentLength)),
    ] {
        let (answer, stored) = said_and_done(layer, origin).await;
        let is_said = answer.header("cache-status").unwrap().contains("; stored");
        assert_eq!(answer.cache().is_stored(), reason.is_none());
        assert_eq!(
            (is_said, stored),
            (reason.is_none(), u64::from(reason.is_none()))
        );
        assert_eq!(answer.reason(), reason);
    }
}

// Invariant 60. A 304 that comes after its response was withdrawn renews nothing.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_comes_too_late_is_not_said_to_be_stored() {
    let layer = CacheLayer::builder().ttl(MINUTE).build();
    let handle = layer.handle();
    let origin = Origin::later(move |request| {
        let handle = handle.clone();
        async move {
            let lines = [("etag", "\"v\"")];
            if !request.headers().contains_key("if-none-match") {
                return with_headers(ok("page"), &lines);
            }
            let _ = handle.purge_all().await.unwrap();
            let mut response = with_headers(ok(""), &lines);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
    });
    let cache = layer.layer(origin);
    send(&cache, get("/")).await;
    tokio::time::advance(MINUTE).await;
    let answer = send(&cache, request("GET", "/")).await;
    assert_eq!((answer.text(), answer.cache().is_stored()), ("page", false));
    assert!(!answer.header("cache-status").unwrap().contains("stored"));
    assert_eq!(layer.handle().stats().stored, 1);
}

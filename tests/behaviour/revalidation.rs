//! Validations of stored responses, in RFC 9111 mode.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use tokio::{task::JoinHandle, time::advance};
use tower::Layer;
use tower_response_cache::{Cache, CacheLayer};

use crate::common::{
    Answer, Body, Gate, Origin, empty, get, ok, request, send, settle, status, with, with_headers,
};

type Lines = &'static [(&'static str, &'static str)];

fn not_modified(lines: Lines) -> Response<Body> {
    let response = status(StatusCode::NOT_MODIFIED).map(|_| empty());
    with_headers(response, lines)
}

fn is_conditional(request: &Request<Body>) -> bool {
    let headers = request.headers();
    headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MODIFIED_SINCE)
}

fn spawned(cache: &Cache<Origin>, request: Request<Body>) -> JoinHandle<Answer> {
    let cache = cache.clone();
    tokio::spawn(async move { send(&cache, request).await })
}

/// A cache with a stored response that two requests have validated at the same time; the 304s with these fields came one after the
/// other.
async fn after_overlapping_validations(first: Lines, second: Lines) -> Cache<Origin> {
    let gates = [Gate::new(), Gate::new()];
    let at = gates.clone();
    let origin = Origin::later(move |request| {
        let gates = at.clone();
        async move {
            if !is_conditional(&request) {
                let control = "max-age=5, stale-while-revalidate=60";
                let lines = [("etag", "\"1\""), ("cache-control", control)];
                return with_headers(ok("page"), &lines);
            }
            let is_first = request.headers().contains_key("x-first");
            gates[usize::from(!is_first)].pass().await;
            not_modified(if is_first { first } else { second })
        }
    });
    let cache = CacheLayer::rfc9111().layer(origin);
    send(&cache, get("/p")).await;
    let reload = with(get("/p"), "cache-control", "no-cache");
    let one = spawned(&cache, with(reload, "x-first", "1"));
    let two = spawned(&cache, with(get("/p"), "cache-control", "no-cache"));
    for gate in &gates {
        gate.arrival().await;
    }
    for (gate, answer) in gates.iter().zip([one, two]) {
        gate.let_one_pass();
        assert_eq!(answer.await.unwrap().text(), "page");
    }
    settle().await;
    gates.iter().for_each(Gate::open);
    cache
}

// Invariant 69: the second 304 is applied to what the first has left.
#[tokio::test(start_paused = true)]
async fn overlapping_304s_compose() {
    const LIFETIME: Lines = &[("cache-control", "s-maxage=10"), ("etag", "\"1\"")];
    const OTHER: Lines = &[("x-later", "2")];
    for (first, second) in [(LIFETIME, OTHER), (OTHER, LIFETIME)] {
        let cache = after_overlapping_validations(first, second).await;
        let hit = send(&cache, get("/p")).await;
        assert!(hit.is_hit(), "{hit:?}");
        assert_eq!(hit.header("cache-control"), Some("s-maxage=10"));
        assert_eq!(hit.header("x-later"), Some("2"));
        // `s-maxage` has replaced what allowed it to be served stale.
        advance(Duration::from_secs(28)).await;
        let validated = send(&cache, get("/p")).await;
        assert!(!validated.is_hit(), "{validated:?}");
    }
}

// Invariant 69.
#[tokio::test(start_paused = true)]
async fn a_304_to_a_validation_that_began_earlier_is_not_lost() {
    let cache = after_overlapping_validations(
        &[("cache-control", "max-age=60"), ("x-later", "1")],
        &[("cache-control", "no-cache"), ("x-later", "2")],
    )
    .await;
    let validated = send(&cache, get("/p")).await;
    assert!(!validated.is_hit(), "{validated:?}");
}

// Invariant 69: a whole response replaces what was asked about, however often that was renewed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_whole_response_replaces_what_a_304_renewed_meanwhile() {
    let gate = Gate::new();
    let at = gate.clone();
    let origin = Origin::later(move |request| {
        let gate = at.clone();
        async move {
            let changed = request.headers().contains_key("x-changed");
            if changed {
                gate.pass().await;
            }
            let lines = [("cache-control", "max-age=60"), ("etag", "\"1\"")];
            match (changed, is_conditional(&request)) {
                (true, _) => with_headers(
                    ok("new"),
                    &[("cache-control", "max-age=60"), ("vary", "x-v")],
                ),
                (false, true) => not_modified(&[("cache-control", "max-age=600")]),
                (false, false) => with_headers(ok("old"), &lines),
            }
        }
    });
    let cache = CacheLayer::rfc9111().layer(origin);
    send(&cache, get("/p")).await;
    let reload = || with(get("/p"), "cache-control", "no-cache");
    let changed = spawned(&cache, with(reload(), "x-changed", "1"));
    gate.arrival().await;
    assert_eq!(send(&cache, reload()).await.text(), "old");
    gate.open();
    assert_eq!(changed.await.unwrap().text(), "new");
    let hit = send(&cache, with(get("/p"), "x-v", "2")).await;
    assert!(
        !hit.is_hit(),
        "the old one is gone for other variants too: {hit:?}"
    );
}

// RFC 9111 §3.2: `Content-Type` is updated; what describes the stored bytes is not.
#[tokio::test(start_paused = true)]
async fn a_304_updates_the_content_type_and_not_the_coding_or_the_entity_tag() {
    let origin = Origin::new(|request| {
        if is_conditional(&request) {
            return not_modified(&[
                ("cache-control", "max-age=60"),
                ("content-type", "text/html; charset=utf-8"),
                ("content-encoding", "br"),
                ("content-range", "bytes 0-1/2"),
                ("content-length", "77"),
                ("etag", "W/\"1\""),
            ]);
        }
        let lines = [
            ("cache-control", "max-age=5"),
            ("content-type", "text/html"),
            ("etag", "\"1\""),
        ];
        with_headers(ok("page"), &lines)
    });
    let cache = CacheLayer::rfc9111().layer(origin);
    send(&cache, get("/p")).await;
    advance(Duration::from_secs(6)).await;
    send(&cache, get("/p")).await;
    let hit = send(&cache, get("/p")).await;
    assert!(hit.is_hit(), "{hit:?}");
    assert_eq!(hit.text(), "page");
    assert_eq!(hit.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(hit.header("content-encoding"), None);
    assert_eq!(hit.header("content-range"), None);
    assert_eq!(hit.header("etag"), Some("\"1\""));
    assert_ne!(hit.header("content-length"), Some("77"));
}

/// A cache in front of an origin that answers with this status, and with these fields.
fn answering(state: &Arc<AtomicU16>, lines: Lines) -> Cache<Origin> {
    let now = state.clone();
    let calls = AtomicU16::new(0);
    let origin = Origin::new(move |_| {
        let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
        let mut response = with_headers(ok(number.to_string()), lines);
        *response.status_mut() = StatusCode::from_u16(now.load(Ordering::SeqCst)).unwrap();
        response
    });
    CacheLayer::rfc9111().layer(origin)
}

#[tokio::test(start_paused = true)]
async fn a_stored_failure_is_replaced_by_a_newer_one() {
    let state = Arc::new(AtomicU16::new(503));
    let cache = answering(&state, &[("cache-control", "max-age=5")]);
    for (call, status) in [("1", 503), ("2", 500), ("3", 503)] {
        state.store(status, Ordering::SeqCst);
        for _ in 0..2 {
            let answer = send(&cache, get("/p")).await;
            assert_eq!(
                (answer.parts.status.as_u16(), answer.text()),
                (status, call)
            );
        }
        advance(Duration::from_secs(6)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_failure_is_replaced_on_request_while_it_is_fresh() {
    let state = Arc::new(AtomicU16::new(503));
    let cache = answering(&state, &[("cache-control", "max-age=50")]);
    send(&cache, get("/p")).await;
    let reload = with(get("/p"), "cache-control", "no-cache");
    assert_eq!(send(&cache, reload).await.text(), "2");
    let hit = send(&cache, get("/p")).await;
    assert!(hit.is_hit() && hit.text() == "2", "{hit:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stored_failure_is_never_served_stale_instead_of_what_the_origin_says_now() {
    let state = Arc::new(AtomicU16::new(503));
    let cache = answering(&state, &[("cache-control", "max-age=1, stale-if-error=60")]);
    send(&cache, get("/p")).await;
    for call in ["2", "3"] {
        advance(Duration::from_secs(2)).await;
        let answer = send(&cache, get("/p")).await;
        assert!(!answer.is_hit() && answer.text() == call, "{answer:?}");
    }
    // Nor if the request would take it.
    advance(Duration::from_secs(2)).await;
    let asked = with(get("/p"), "cache-control", "stale-if-error=60");
    assert_eq!(send(&cache, asked).await.text(), "4");
    // The outage is over.
    state.store(200, Ordering::SeqCst);
    advance(Duration::from_secs(2)).await;
    let answer = send(&cache, get("/p")).await;
    assert_eq!((answer.parts.status.as_u16(), answer.text()), (200, "5"));
    // What is good is served instead of a failure, as ever.
    state.store(503, Ordering::SeqCst);
    advance(Duration::from_secs(2)).await;
    let answer = send(&cache, get("/p")).await;
    assert!(
        answer.cache().is_stale() && answer.text() == "5",
        "{answer:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_layers_own_windows_are_not_for_stored_failures() {
    let state = Arc::new(AtomicU16::new(503));
    let now = state.clone();
    let origin = Origin::new(move |_| {
        let mut response = with(ok("page"), "cache-control", "max-age=1");
        *response.status_mut() = StatusCode::from_u16(now.load(Ordering::SeqCst)).unwrap();
        response
    });
    let layer = CacheLayer::builder()
        .rfc9111()
        .stale_while_revalidate(Duration::from_secs(60))
        .stale_if_error(Duration::from_secs(60))
        .build();
    let cache = layer.layer(origin);
    send(&cache, get("/p")).await;
    state.store(200, Ordering::SeqCst);
    advance(Duration::from_secs(2)).await;
    assert_eq!(send(&cache, get("/p")).await.parts.status, 200);
}

/// Whether a stored response with these fields is still served after a HEAD has brought those.
async fn survives_head(stored: Lines, told: Lines) -> bool {
    let origin = Origin::new(move |request: Request<Body>| {
        let is_head = request.method() == http::Method::HEAD;
        let response = if is_head {
            Response::new(empty())
        } else {
            ok("12345")
        };
        let response = with(response, "cache-control", "max-age=60");
        with_headers(response, if is_head { told } else { stored })
    });
    let cache = CacheLayer::rfc9111().layer(origin);
    send(&cache, get("/p")).await;
    let head = with(request("HEAD", "/p"), "cache-control", "no-cache");
    send(&cache, head).await;
    send(&cache, get("/p")).await.is_hit()
}

// RFC 9111 §4.3.5.
#[tokio::test(start_paused = true)]
async fn a_head_of_another_length_ends_a_stored_response_without_validators() {
    assert!(!survives_head(&[], &[("content-length", "6")]).await);
    assert!(!survives_head(&[], &[("content-length", "0")]).await);
    assert!(survives_head(&[], &[("content-length", "5")]).await);
    assert!(survives_head(&[], &[]).await);
    // So does one that has a validator now.
    assert!(!survives_head(&[], &[("etag", "\"2\""), ("content-length", "5")]).await);
    const TAG: &[(&str, &str)] = &[("etag", "\"1\"")];
    assert!(!survives_head(TAG, &[("etag", "\"1\""), ("content-length", "6")]).await);
    assert!(survives_head(TAG, &[("etag", "\"1\""), ("content-length", "5")]).await);
}

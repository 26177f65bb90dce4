//! What is never stored nor shared, and what a hit is made of.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    Answer, Body, Gate, Origin, Random, chunked, empty, full, get, ok, request, send, settle,
    status, streamed, until, with, with_headers, within,
};
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use tokio::time::advance;
use tower::{Layer, ServiceBuilder};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, Forward, Key, Reason, Tag, Tags, scope,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn default_cache(origin: &Origin) -> Cache<Origin> {
    CacheLayer::new(MINUTE).layer(origin.clone())
}

fn keyed(key: Key, origin: &Origin) -> Cache<Origin> {
    CacheLayer::builder()
        .key(key)
        .ttl(MINUTE)
        .build()
        .layer(origin.clone())
}

/// The answer says why it was not stored, in both places.
fn says(answer: &Answer, reason: Reason) {
    assert_eq!(answer.reason(), Some(reason), "{answer:?}");
    assert!(!answer.is_hit() && !answer.cache().is_stored());
    let told = answer.header("cache-status").unwrap();
    assert!(
        told.ends_with(&format!("; detail={}", reason.as_str()))
            || told.contains(&format!("; detail=\"{}: ", reason.as_str())),
        "{told}"
    );
    assert!(
        !told.contains("hit") && !told.contains("; stored"),
        "{told}"
    );
}

/// Each of two such requests reaches the inner service, and each answer says why.
async fn never_stored(
    cache: &Cache<Origin>,
    origin: &Origin,
    request: impl Fn() -> Request<Body>,
    reason: Reason,
) {
    for _ in 0..2 {
        let before = origin.calls();
        says(&send(cache, request()).await, reason);
        assert_eq!(origin.calls(), before + 1);
    }
}

/// No answer with these headers is stored.
async fn headers_refused(headers: &[(&'static str, &'static str)], reason: Reason) {
    let told = headers.to_vec();
    let origin = Origin::new(move |_| with_headers(ok("x"), &told));
    never_stored(&default_cache(&origin), &origin, || get("/"), reason).await;
}

async fn stored(cache: &Cache<Origin>, request: impl Fn() -> Request<Body>) {
    let first = send(cache, request()).await;
    assert!(
        first.cache().is_stored() && first.reason().is_none(),
        "{first:?}"
    );
    assert!(first.header("cache-status").unwrap().ends_with("; stored"));
    let second = send(cache, request()).await;
    assert!(second.is_hit(), "{second:?}");
    assert_eq!(first.body, second.body);
}

// ---- responses that are for one requester alone

// Invariant 1.
#[tokio::test]
async fn an_answer_with_set_cookie_is_never_stored() {
    headers_refused(&[("set-cookie", "sid=1")], Reason::SetCookie).await;
    headers_refused(&[("set-cookie", "")], Reason::SetCookie).await;
    let public = [
        ("Cache-Control", "public, s-maxage=60"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ];
    headers_refused(&public, Reason::SetCookie).await;
}

// Invariant 3.
#[tokio::test]
async fn what_forbids_sharing_is_heeded_in_any_case_place_and_shape() {
    for (lines, reason) in [
        (&["no-store"][..], Reason::NoStore),
        (&["NO-STORE"], Reason::NoStore),
        (&["No-Store, no-store"], Reason::NoStore),
        (&["public", "max-age=60,no-store"], Reason::NoStore),
        (&["s-maxage=60", "", "public, no-store=1"], Reason::NoStore),
        (&["private"], Reason::Private),
        (&["pRiVaTe"], Reason::Private),
        (&["private, private"], Reason::Private),
        (&["private=\"set-cookie\", s-maxage=60"], Reason::Private),
        (&["no-cache"], Reason::NoCache),
        (&["No-Cache=\"a, b\""], Reason::NoCache),
        (&["public", "NO-CACHE"], Reason::NoCache),
        (&["public", "x=\"private"], Reason::CacheControl),
        (&["max-age=60 no-store"], Reason::CacheControl),
        (&["=no-store"], Reason::CacheControl),
        (&["max-age=60; no-store"], Reason::CacheControl),
        (&["no-st\u{f6}re"], Reason::CacheControl),
    ] {
        let headers: Vec<_> = lines.iter().map(|line| ("cache-control", *line)).collect();
        headers_refused(&headers, reason).await;
    }
}

// Invariant 4.
#[tokio::test]
async fn an_answer_that_varies_by_everything_or_by_what_cannot_be_read_is_never_stored() {
    headers_refused(&[("vary", "*")], Reason::VaryStar).await;
    headers_refused(&[("vary", "accept, *")], Reason::VaryStar).await;
    headers_refused(&[("vary", ""), ("vary", " , *")], Reason::VaryStar).await;
    headers_refused(&[("vary", "a b")], Reason::Vary).await;
    headers_refused(&[("vary", "accept-l\u{e4}nguage")], Reason::Vary).await;
}

// Invariants 21, 22.
#[tokio::test]
async fn only_status_200_is_stored() {
    for code in [
        201, 204, 206, 299, 301, 302, 304, 308, 400, 401, 403, 404, 410, 416, 429, 451, 500, 502,
        503, 504, 599,
    ] {
        let code = StatusCode::from_u16(code).unwrap();
        let origin = Origin::new(move |_| status(code));
        let public =
            Origin::new(move |_| with(status(code), "cache-control", "public, s-maxage=60"));
        never_stored(
            &default_cache(&origin),
            &origin,
            || get("/"),
            Reason::Status,
        )
        .await;
        never_stored(
            &default_cache(&public),
            &public,
            || get("/"),
            Reason::Status,
        )
        .await;
    }
}

// Invariants 21, 22.
#[tokio::test(start_paused = true)]
async fn another_status_is_stored_by_choice_for_a_lifetime_of_its_own() {
    let origin = Origin::new(|_| status(StatusCode::NOT_FOUND));
    let layer = CacheLayer::builder()
        .ttl(MINUTE)
        .status(StatusCode::NOT_FOUND, 5 * SECOND)
        .unwrap()
        .build();
    let cache = layer.layer(origin.clone());
    stored(&cache, || get("/")).await;
    advance(5 * SECOND - Duration::from_millis(1)).await;
    let hit = send(&cache, get("/")).await;
    assert_eq!(
        (hit.is_hit(), hit.parts.status),
        (true, StatusCode::NOT_FOUND)
    );
    advance(Duration::from_millis(1)).await;
    assert_eq!(
        send(&cache, get("/")).await.cache().forward(),
        Some(Forward::Stale)
    );
    assert_eq!(origin.calls(), 2);
}

// Invariants 21, 22.
#[test]
fn a_status_that_is_no_answer_for_the_whole_cannot_be_chosen() {
    for code in [100, 103, 206, 304, 416, 500, 503, 599] {
        let code = StatusCode::from_u16(code).unwrap();
        assert!(
            CacheLayer::builder().status(code, MINUTE).is_err(),
            "{code}"
        );
    }
    for code in [200, 204, 301, 404, 410] {
        let code = StatusCode::from_u16(code).unwrap();
        assert!(CacheLayer::builder().status(code, MINUTE).is_ok(), "{code}");
    }
}

// Invariant 47.
#[tokio::test]
async fn an_event_stream_is_never_stored() {
    headers_refused(
        &[("content-type", "text/event-stream")],
        Reason::EventStream,
    )
    .await;
    headers_refused(
        &[("content-type", " Text/Event-Stream; charset=utf-8")],
        Reason::EventStream,
    )
    .await;
}

// Invariants 45, 47, 48.
#[tokio::test]
async fn an_answer_that_says_it_is_too_large_is_passed_on_whole() {
    let big = "x".repeat(101);
    let told = big.clone();
    let announced = Origin::new(move |_| {
        with(
            Response::new(chunked(&[told.as_bytes()], None)),
            "content-length",
            "101",
        )
    });
    let exact = Origin::new(move |_| ok(big.clone()));
    for origin in [announced, exact] {
        let cache = CacheLayer::builder()
            .max_body_bytes(100)
            .build()
            .layer(origin.clone());
        never_stored(&cache, &origin, || get("/"), Reason::TooLarge).await;
        assert_eq!(send(&cache, get("/")).await.body.len(), 101);
    }
}

// Invariant 45.
#[tokio::test]
async fn an_answer_whose_length_nobody_can_tell_is_never_stored() {
    for lengths in [
        &["1", "1"][..],
        &["1, 1"],
        &["+1"],
        &["-1"],
        &["0x1"],
        &["99999999999999999999"],
        &["1 "],
    ] {
        let origin = Origin::new(move |_| {
            let headers: Vec<_> = lengths
                .iter()
                .map(|length| ("content-length", *length))
                .collect();
            with_headers(Response::new(chunked(&[b"x"], None)), &headers)
        });
        never_stored(
            &default_cache(&origin),
            &origin,
            || get("/"),
            Reason::ContentLength,
        )
        .await;
    }
}

// Invariant 45.
#[tokio::test]
async fn an_answer_that_is_shorter_or_longer_than_announced_is_not_kept() {
    for length in ["2", "4"] {
        let origin = Origin::new(move |_| {
            with(
                Response::new(chunked(&[b"abc"], None)),
                "content-length",
                length,
            )
        });
        let cache = default_cache(&origin);
        for calls in 1..=2 {
            assert_eq!(send(&cache, get("/")).await.text(), "abc");
            settle().await;
            assert_eq!(origin.calls(), calls);
        }
    }
}

// ---- requests that say who asks

// Invariant 2. RFC 9111 §3.5.
#[tokio::test]
async fn an_answer_to_credentials_is_stored_only_if_it_says_so() {
    let authorized = || with(get("/"), "authorization", "Basic alice");
    let origin = Origin::counting(&[("cache-control", "max-age=60")]);
    never_stored(
        &default_cache(&origin),
        &origin,
        authorized,
        Reason::Authorization,
    )
    .await;
    for leave in [
        "public",
        "s-maxage=60",
        "must-revalidate",
        "max-age=60, MUST-REVALIDATE",
    ] {
        let origin = Origin::new(move |_| with(ok("for all"), "cache-control", leave));
        let cache = default_cache(&origin);
        stored(&cache, authorized).await;
        assert!(send(&cache, get("/")).await.is_hit());
        assert!(
            send(&cache, with(get("/"), "authorization", "Basic bob"))
                .await
                .is_hit()
        );
    }
}

// Invariant 2.
#[tokio::test]
async fn an_answer_stored_for_nobody_in_particular_is_not_for_one_with_credentials() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    stored(&cache, || get("/")).await;
    never_stored(
        &cache,
        &origin,
        || with(get("/"), "authorization", "Basic alice"),
        Reason::Authorization,
    )
    .await;
    assert_eq!(
        send(&cache, get("/")).await.text(),
        "1",
        "and theirs has not replaced it"
    );
}

// Invariant 2.
#[tokio::test]
async fn nobody_waits_for_the_answer_to_anothers_credentials() {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |request| {
        let inside = inside.clone();
        async move {
            inside.pass().await;
            ok(format!("{:?}", request.headers().get("authorization")))
        }
    });
    let cache = default_cache(&origin);
    let ask = |who: Option<&'static str>| {
        let cache = cache.clone();
        let request = who.map_or(get("/"), |who| with(get("/"), "authorization", who));
        tokio::spawn(async move { send(&cache, request).await })
    };
    let nobody = ask(None);
    gate.arrival().await;
    let alice = ask(Some("alice"));
    gate.arrival().await;
    let bob = ask(Some("bob"));
    settle().await;
    gate.open();
    assert_eq!(nobody.await.unwrap().text(), "None");
    assert_eq!(alice.await.unwrap().text(), "Some(\"alice\")");
    assert_eq!(bob.await.unwrap().text(), "Some(\"bob\")");
}

// Invariant 2.
#[tokio::test]
async fn keyed_credentials_have_an_answer_each() {
    let origin = Origin::new(|request| ok(format!("{:?}", request.headers().get("authorization"))));
    let cache = keyed(Key::new().header(header::AUTHORIZATION), &origin);
    for who in ["alice", "bob"] {
        stored(&cache, || with(get("/"), "authorization", who)).await;
    }
    assert_eq!(
        send(&cache, with(get("/"), "authorization", "alice"))
            .await
            .text(),
        "Some(\"alice\")"
    );
    assert_eq!(send(&cache, get("/")).await.text(), "None");
    assert_eq!(origin.calls(), 3);
}

// Invariant 2.
#[tokio::test]
async fn credentials_that_do_not_matter_are_ignored() {
    let origin = Origin::counting(&[]);
    let cache = keyed(Key::new().ignore_authorization(), &origin);
    stored(&cache, || with(get("/"), "authorization", "alice")).await;
    let bob = with_headers(
        get("/"),
        &[("authorization", "bob"), ("proxy-authorization", "carol")],
    );
    assert!(send(&cache, bob).await.is_hit());
}

// Invariants 2, 5.
#[tokio::test]
async fn a_request_with_cookies_passes_by() {
    let origin = Origin::counting(&[("cache-control", "public, s-maxage=60")]);
    let cache = default_cache(&origin);
    stored(&cache, || get("/")).await;
    for cookies in [
        &["sid=1"][..],
        &["novalue"],
        &["=x"],
        &["a=1; b=2"],
        &["", "a=1"],
    ] {
        let lines: Vec<_> = cookies.iter().map(|line| ("cookie", *line)).collect();
        never_stored(
            &cache,
            &origin,
            || with_headers(get("/"), &lines),
            Reason::Cookie,
        )
        .await;
    }
    assert!(
        send(&cache, with(get("/"), "cookie", " ; ")).await.is_hit(),
        "there is none in it"
    );
}

// Invariant 2.
#[tokio::test]
async fn keyed_cookies_have_an_answer_each_and_others_beside_them_pass_by() {
    let origin = Origin::new(|request| ok(format!("{:?}", request.headers().get("cookie"))));
    let cache = keyed(Key::new().cookie("lang"), &origin);
    stored(&cache, || with(get("/"), "cookie", "lang=de")).await;
    stored(&cache, || with(get("/"), "cookie", "lang=en")).await;
    stored(&cache, || get("/")).await;
    let more = || with(get("/"), "cookie", "lang=de; sid=1");
    never_stored(&cache, &origin, more, Reason::Cookie).await;
    let whole = keyed(Key::new().header(header::COOKIE), &origin);
    stored(&whole, more).await;
    assert!(
        !send(&whole, with(get("/"), "cookie", "lang=de; sid=2"))
            .await
            .is_hit()
    );
}

// Invariant 2.
#[tokio::test]
async fn cookies_that_do_not_matter_are_ignored() {
    let origin = Origin::counting(&[]);
    let cache = keyed(Key::new().ignore_cookies(), &origin);
    stored(&cache, || with(get("/"), "cookie", "sid=1")).await;
    assert!(
        send(&cache, with(get("/"), "cookie", "sid=2"))
            .await
            .is_hit()
    );
}

// Invariants 2, 5.
#[tokio::test]
async fn a_request_with_proxy_credentials_passes_by() {
    let origin = Origin::counting(&[("cache-control", "public")]);
    let cache = default_cache(&origin);
    stored(&cache, || get("/")).await;
    let asked = || with(get("/"), "proxy-authorization", "Basic x");
    never_stored(&cache, &origin, asked, Reason::ProxyAuthorization).await;
    stored(
        &keyed(Key::new().header(header::PROXY_AUTHORIZATION), &origin),
        asked,
    )
    .await;
}

// ---- requests that are not for the cache

// Invariants 12, 13, 59.
#[tokio::test]
async fn other_methods_pass_by() {
    let origin = Origin::counting(&[("cache-control", "public, s-maxage=60")]);
    let cache = default_cache(&origin);
    for method in [
        "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE", "BAN", "QUERY", "get",
        "PROPFIND",
    ] {
        never_stored(&cache, &origin, || request(method, "/"), Reason::Method).await;
        let answer = send(&cache, request(method, "/")).await;
        assert_eq!(
            answer.header("cache-status"),
            Some("tower-response-cache; fwd=method; detail=method")
        );
    }
}

// Invariant 59: what purges is that the inner service has let it, and said so.
#[tokio::test]
async fn no_method_purges_unless_the_inner_service_says_that_it_did_something() {
    let origin = Origin::new(|request| match request.method().as_str() {
        "GET" | "OPTIONS" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH" => ok("made"),
        _ => status(StatusCode::FORBIDDEN),
    });
    let cache = default_cache(&origin);
    send(&cache, get("/")).await;
    for method in [
        "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH", "POST", "PUT", "DELETE",
        "PATCH", "PURGE", "BAN", "get",
    ] {
        send(&cache, request(method, "/")).await;
        assert!(send(&cache, get("/")).await.is_hit(), "{method}");
    }
}

// Invariant 13.
#[tokio::test]
async fn a_get_with_a_body_passes_by() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    stored(&cache, || get("/")).await;
    never_stored(
        &cache,
        &origin,
        || get("/").map(|_| full("filter")),
        Reason::RequestBody,
    )
    .await;
    never_stored(
        &cache,
        &origin,
        || get("/").map(|_| chunked(&[], None)),
        Reason::RequestBody,
    )
    .await;
    assert!(
        send(&cache, with(get("/"), "content-length", "0"))
            .await
            .is_hit()
    );
}

// Invariant 5.
#[tokio::test]
async fn an_upgrade_passes_by() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    stored(&cache, || get("/")).await;
    let upgrade = || {
        with_headers(
            get("/"),
            &[("connection", "upgrade"), ("upgrade", "websocket")],
        )
    };
    never_stored(&cache, &origin, upgrade, Reason::Upgrade).await;
    never_stored(
        &cache,
        &origin,
        || request("CONNECT", "shop.example:443"),
        Reason::Upgrade,
    )
    .await;
}

// Invariant 11.
#[tokio::test]
async fn in_rfc_9111_mode_a_head_is_forwarded_and_never_fills_the_entry_of_a_get() {
    let origin = Origin::new(|request| match *request.method() {
        Method::HEAD => with(Response::new(empty()), "cache-control", "max-age=60"),
        _ => with(ok("whole"), "cache-control", "max-age=60"),
    });
    let cache = CacheLayer::builder()
        .rfc9111()
        .build()
        .layer(origin.clone());
    let head = || request("HEAD", "/");
    never_stored(&cache, &origin, head, Reason::Head).await;
    let answer = send(&cache, head()).await;
    assert_eq!(
        answer.header("cache-status"),
        Some("tower-response-cache; fwd=method; detail=head")
    );
    let first = send(&cache, get("/")).await;
    assert!(!first.is_hit());
    assert_eq!(first.text(), "whole");
}

// Invariant 11.
#[tokio::test]
async fn a_head_is_answered_from_a_stored_get_with_its_length_and_no_body() {
    let announced = Origin::new(|_| with(ok("whole"), "content-length", "5"));
    let known = Origin::new(|_| ok("whole"));
    for origin in [announced, known] {
        let cache = default_cache(&origin);
        stored(&cache, || get("/")).await;
        let head = send(&cache, request("HEAD", "/")).await;
        assert!(head.is_hit());
        assert_eq!(
            (head.header("content-length"), head.body.len()),
            (Some("5"), 0)
        );
        assert_eq!(origin.calls(), 1);
        assert_eq!(send(&cache, get("/")).await.text(), "whole");
    }
    let unknown = Origin::new(|_| Response::new(chunked(&[b"who", b"le"], None)));
    let cache = default_cache(&unknown);
    stored(&cache, || get("/")).await;
    let head = send(&cache, request("HEAD", "/")).await;
    assert_eq!(
        (
            head.is_hit(),
            head.header("content-length"),
            head.body.len()
        ),
        (true, None, 0)
    );
}

// Invariants 5, 29.
#[tokio::test]
async fn a_request_without_a_key_shares_nothing() {
    let gate = Gate::new();
    let origin = Origin::gated(&gate, "x");
    let tenant =
        |parts: &http::request::Parts| parts.headers.get("x-tenant").map(|t| t.as_bytes().to_vec());
    let cache = keyed(Key::new().part("tenant", tenant), &origin);
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, get("/")).await })
    };
    let (one, two) = (ask(), ask());
    gate.arrival().await;
    gate.arrival().await;
    gate.open();
    says(&one.await.unwrap(), Reason::KeyPart);
    says(&two.await.unwrap(), Reason::KeyPart);
    stored(&cache, || with(get("/"), "x-tenant", "a")).await;
    stored(&cache, || with(get("/"), "x-tenant", "")).await;
}

// Invariants 5, 57.
#[tokio::test]
async fn a_request_with_too_long_a_key_passes_by() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    let long = format!("/?{}", "q".repeat(9000));
    never_stored(&cache, &origin, || get(&long), Reason::KeyTooLong).await;
}

// What a proxy in front tells of the target is read by handlers, and unseen by a key that leaves it out.
// Invariant 14.
#[tokio::test]
async fn a_host_or_scheme_that_a_proxy_forwards_is_in_the_key() {
    for (name, one, two) in [
        ("x-forwarded-host", "shop.example", "evil.example"),
        ("x-forwarded-proto", "https", "http"),
        ("x-forwarded-port", "443", "80"),
        ("x-forwarded-prefix", "/a", "/b"),
        (
            "forwarded",
            "host=shop.example;proto=https",
            "host=evil.example;proto=https",
        ),
    ] {
        let origin = Origin::new(move |request| ok(format!("{:?}", request.headers().get(name))));
        let cache = default_cache(&origin);
        for value in [Some(one), Some(two), None] {
            let asked = value.map_or(get("/"), |value| with(get("/"), name, value));
            let expected = format!("{:?}", asked.headers().get(name));
            assert_eq!(send(&cache, asked).await.text(), expected, "{name}");
        }
    }
}

// Invariant 14.
#[tokio::test]
async fn a_request_that_asks_for_another_method_or_target_in_a_header_shares_nothing() {
    for (name, value) in [
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
    ] {
        let origin = Origin::new(move |request| ok(format!("{:?}", request.headers().get(name))));
        let cache = default_cache(&origin);
        for _ in 0..2 {
            let answer = send(&cache, with(get("/"), name, value)).await;
            assert!(!answer.is_hit() && !answer.cache().is_stored(), "{name}");
        }
        assert_eq!(send(&cache, get("/")).await.text(), "None", "{name}");
        assert!(
            !send(&cache, with(get("/"), name, value)).await.is_hit(),
            "{name}"
        );
    }
}

// ---- what the handler says

// Invariant 16.
#[tokio::test]
async fn an_answer_without_a_lifetime_is_never_stored() {
    headers_refused(&[("cache-control", "s-maxage=0")], Reason::NoLifetime).await;
    headers_refused(
        &[("cache-control", "s-maxage=60, s-maxage=x")],
        Reason::NoLifetime,
    )
    .await;
    let origin = Origin::counting(&[]);
    let cache = CacheLayer::new(Duration::ZERO).layer(origin.clone());
    never_stored(&cache, &origin, || get("/"), Reason::NoLifetime).await;
    let origin = Origin::new(|_| {
        scope::ttl_at_most(Duration::ZERO);
        ok("x")
    });
    never_stored(
        &default_cache(&origin),
        &origin,
        || get("/"),
        Reason::NoLifetime,
    )
    .await;
}

// Invariants 25, 29.
#[tokio::test]
async fn what_is_not_to_be_stored_is_still_shared_with_those_who_wait() {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |_| {
        let inside = inside.clone();
        async move {
            inside.pass().await;
            scope::do_not_store("the index is still building");
            ok("x")
        }
    });
    let layer = CacheLayer::new(MINUTE);
    let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, get("/")).await })
    };
    let first = ask();
    gate.arrival().await;
    let second = ask();
    until(|| handle.stats().waiters == 1).await;
    gate.open();
    says(&first.await.unwrap(), Reason::DoNotStore);
    assert!(second.await.unwrap().cache().is_collapsed());
    assert_eq!(origin.calls(), 1);
    never_stored(&cache, &origin, || get("/"), Reason::DoNotStore).await;
}

// Invariant 57.
#[tokio::test]
async fn an_answer_with_too_many_tags_or_too_long_a_tag_is_never_stored() {
    let tags = |n: usize| (0..n).map(|i| Tag::from(i.to_string())).collect::<Tags>();
    let tagged = move |tags: Tags| {
        Origin::new(move |_| {
            let mut response = ok("x");
            response.extensions_mut().insert(tags.clone());
            response
        })
    };
    let many = tagged(tags(1025));
    never_stored(
        &default_cache(&many),
        &many,
        || get("/"),
        Reason::TooManyTags,
    )
    .await;
    let long = tagged(Tags::new().with("x".repeat(1025)));
    never_stored(
        &default_cache(&long),
        &long,
        || get("/"),
        Reason::TagTooLong,
    )
    .await;
}

// Invariants 36, 44.
#[tokio::test]
async fn an_answer_tagged_after_its_head_was_out_is_not_kept() {
    let origin = Origin::new(|request| {
        let scope = request
            .extensions()
            .get::<tower_response_cache::CacheScope>()
            .unwrap()
            .clone();
        let (chunks, body) = streamed();
        tokio::spawn(async move {
            settle().await;
            scope.tag("late");
            chunks.send("x");
        });
        Response::new(body)
    });
    let cache = default_cache(&origin);
    for calls in 1..=2 {
        assert_eq!(send(&cache, get("/")).await.text(), "x");
        assert_eq!(origin.calls(), calls);
    }
}

// ---- hits

// Invariants 16, 34, 60.
#[tokio::test(start_paused = true)]
async fn a_hit_tells_its_age_and_is_gone_exactly_at_its_end() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    let first = send(&cache, get("/")).await;
    assert_eq!(first.header("age"), None);
    assert_eq!(
        first.header("cache-status"),
        Some("tower-response-cache; fwd=uri-miss; stored")
    );
    advance(10 * SECOND).await;
    let hit = send(&cache, get("/")).await;
    assert_eq!(hit.header("age"), Some("10"));
    assert_eq!(
        hit.header("cache-status"),
        Some("tower-response-cache; hit; ttl=50")
    );
    assert_eq!(hit.cache().ttl(), Some(50 * SECOND));
    advance(50 * SECOND - Duration::from_millis(1)).await;
    let last = send(&cache, get("/")).await;
    assert_eq!(last.header("age"), Some("59"));
    assert_eq!(last.cache().ttl(), Some(Duration::from_millis(1)));
    advance(Duration::from_millis(1)).await;
    let after = send(&cache, get("/")).await;
    // The background sweep may have removed it already.
    let forward = after.cache().forward();
    assert!(matches!(forward, Some(Forward::Stale | Forward::UriMiss)));
    assert!(after.cache().is_stored());
    assert_eq!(after.text(), "2");
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn a_hit_does_not_renew_what_it_serves() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    for _ in 0..61 {
        send(&cache, get("/")).await;
        advance(SECOND).await;
    }
    assert_eq!(origin.calls(), 2);
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn the_age_an_answer_came_with_is_counted_on() {
    let origin = Origin::counting(&[("age", "7")]);
    let cache = default_cache(&origin);
    send(&cache, get("/")).await;
    advance(3 * SECOND).await;
    assert_eq!(send(&cache, get("/")).await.lines("age"), ["10"]);
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn the_responses_shared_lifetime_wins_and_the_browsers_does_not() {
    for (control, lifetime) in [
        ("s-maxage=10", 10),
        ("s-maxage=600", 600),
        ("s-maxage=\"10\"", 10),
        ("s-maxage=600, s-maxage=10", 10),
        ("max-age=10", 60),
        ("max-age=600, s-maxage=10", 10),
    ] {
        let origin = Origin::new(move |_| with(ok("x"), "cache-control", control));
        let cache = default_cache(&origin);
        send(&cache, get("/")).await;
        let hit = send(&cache, get("/")).await;
        assert_eq!(hit.cache().ttl(), Some(SECOND * lifetime), "{control}");
        advance(SECOND * lifetime).await;
        assert!(!send(&cache, get("/")).await.is_hit(), "{control}");
    }
    let origin = Origin::counting(&[
        ("expires", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ("pragma", "no-cache"),
    ]);
    stored(&default_cache(&origin), || get("/")).await;
}

// Invariants 16, 18.
#[tokio::test(start_paused = true)]
async fn the_scope_shortens_a_lifetime_and_never_lengthens_it() {
    for (bounds, lifetime) in [(&[5][..], 5), (&[600], 60), (&[30, 5, 20], 5)] {
        let origin = Origin::new(move |_| {
            bounds
                .iter()
                .for_each(|seconds| scope::ttl_at_most(SECOND * *seconds));
            ok("x")
        });
        let cache = default_cache(&origin);
        send(&cache, get("/")).await;
        assert_eq!(
            send(&cache, get("/")).await.cache().ttl(),
            Some(SECOND * lifetime)
        );
    }
    let origin = Origin::new(|_| {
        scope::ttl_at_most(5 * SECOND);
        with(ok("x"), "cache-control", "s-maxage=600")
    });
    let cache = default_cache(&origin);
    send(&cache, get("/")).await;
    assert_eq!(send(&cache, get("/")).await.cache().ttl(), Some(5 * SECOND));
}

// Invariant 19.
#[tokio::test(start_paused = true)]
async fn a_lifetime_of_any_length_is_served_for_as_long() {
    let origin = Origin::counting(&[]);
    let cache = CacheLayer::new(Duration::MAX).layer(origin.clone());
    stored(&cache, || get("/")).await;
    advance(10 * 365 * 86_400 * SECOND).await;
    assert_eq!(
        send(&cache, get("/")).await.header("age"),
        Some("315360000")
    );
}

// Invariant 35.
#[tokio::test]
async fn a_client_cannot_ask_for_the_inner_service() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    stored(&cache, || get("/")).await;
    let headers = [
        ("cache-control", "no-cache, no-store, max-age=0"),
        ("pragma", "no-cache"),
    ];
    assert!(
        send(&cache, with_headers(get("/"), &headers))
            .await
            .is_hit()
    );
}

// ---- a fill asks for the whole

const ONE_REQUESTERS: [(&str, &str); 7] = [
    ("if-none-match", "\"a\""),
    ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("if-match", "\"b\""),
    ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("if-range", "\"a\""),
    ("range", "bytes=0-1"),
    ("grpc-timeout", "1m"),
];

// Invariants 21, 25.
#[tokio::test]
async fn a_fill_asks_for_the_whole_whatever_its_leader_asked_for() {
    let origin = Origin::new(|request| {
        let (headers, partial) = (request.headers(), "range");
        if headers.contains_key(partial) {
            return status(StatusCode::PARTIAL_CONTENT);
        }
        let conditional = ONE_REQUESTERS
            .iter()
            .any(|(name, _)| headers.contains_key(*name));
        if conditional {
            status(StatusCode::NOT_MODIFIED)
        } else {
            with(ok("the whole"), "etag", "\"a\"")
        }
    });
    let cache = default_cache(&origin);
    let first = send(&cache, with_headers(get("/"), &ONE_REQUESTERS)).await;
    // Its own answer is the one that it asked for.
    assert_eq!(
        (first.parts.status, first.text()),
        (StatusCode::NOT_MODIFIED, "")
    );
    assert!(first.cache().is_stored());
    let second = send(&cache, get("/")).await;
    assert!(second.is_hit());
    assert_eq!(second.text(), "the whole");
}

// Invariant 5.
#[tokio::test]
async fn what_passes_by_is_handed_on_as_it_is() {
    let origin = Origin::new(|request| ok(format!("{}", request.headers().len())));
    let cache = default_cache(&origin);
    for method in ["POST", "OPTIONS"] {
        let answer = send(&cache, with_headers(request(method, "/"), &ONE_REQUESTERS)).await;
        assert_eq!(answer.text(), "8");
    }
}

// Invariants 21, 23.
#[tokio::test]
async fn an_error_that_one_requesters_condition_made_is_not_stored() {
    let origin = Origin::new(|request| {
        let unmet = request.headers().contains_key("if-match");
        if unmet {
            status(StatusCode::PRECONDITION_FAILED)
        } else {
            with(ok("x"), "cache-control", "private")
        }
    });
    let failed = StatusCode::PRECONDITION_FAILED;
    let Ok(builder) = CacheLayer::builder().status(failed, MINUTE) else {
        return;
    };
    let cache = builder.build().layer(origin.clone());
    // Remembered as not storable, so that the next requests go side by side.
    says(&send(&cache, get("/")).await, Reason::Private);
    send(&cache, with(get("/"), "if-match", "\"old\"")).await;
    assert_eq!(send(&cache, get("/")).await.parts.status, StatusCode::OK);
}

// ---- variants

fn in_language(language: &str) -> Request<Body> {
    with(get("/"), "accept-language", language)
}

fn varying() -> Origin {
    Origin::new(|request| {
        let language = request
            .headers()
            .get("accept-language")
            .map_or("none", |l| l.to_str().unwrap())
            .to_owned();
        with(ok(language), "vary", "Accept-Language")
    })
}

// Invariant 4.
#[tokio::test]
async fn variants_stand_side_by_side() {
    let origin = varying();
    let cache = default_cache(&origin);
    stored(&cache, || in_language("de")).await;
    let other = send(&cache, in_language("en")).await;
    assert_eq!(
        other.header("cache-status"),
        Some("tower-response-cache; fwd=vary-miss; stored")
    );
    stored(&cache, || get("/")).await;
    for language in ["de", "en"] {
        let hit = send(&cache, in_language(language)).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, language));
    }
    assert_eq!(origin.calls(), 3);
    assert!(
        !send(&cache, in_language("")).await.is_hit(),
        "absent is not empty"
    );
}

// Invariants 4, 57.
#[tokio::test]
async fn beyond_twelve_variants_the_oldest_leaves() {
    let origin = varying();
    let cache = default_cache(&origin);
    for n in 0..13 {
        send(&cache, in_language(&n.to_string())).await;
    }
    for n in 1..13 {
        let hit = send(&cache, in_language(&n.to_string())).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, &*n.to_string()));
    }
    assert!(!send(&cache, in_language("0")).await.is_hit());
}

// Invariants 4, 25.
#[tokio::test]
async fn one_who_waited_for_another_variant_gets_its_own() {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |request| {
        let inside = inside.clone();
        async move {
            inside.pass().await;
            let language = request.headers()["accept-language"]
                .to_str()
                .unwrap()
                .to_owned();
            with(ok(language), "vary", "accept-language")
        }
    });
    let layer = CacheLayer::new(MINUTE);
    let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
    let languages = ["de", "de", "en", "en", "fr"];
    let asked: Vec<_> = languages
        .into_iter()
        .map(|language| {
            let cache = cache.clone();
            tokio::spawn(async move { send(&cache, in_language(language)).await })
        })
        .collect();
    gate.arrival().await;
    until(|| handle.stats().waiters == 4).await;
    gate.open();
    for (answer, language) in join_all(asked).await.into_iter().zip(languages) {
        assert_eq!(answer.unwrap().text(), language);
    }
    assert_eq!(origin.calls(), 3);
}

// ---- what concerns one requester alone

// Invariants 6, 50.
#[tokio::test]
async fn headers_of_one_requester_reach_no_other() {
    let own = [
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("proxy-authenticate", "Basic"),
        ("x-request-id", "1"),
        ("request-id", "1"),
        ("x-correlation-id", "1"),
        ("traceparent", "00-1-1-01"),
        ("tracestate", "a=1"),
        ("server-timing", "db;dur=1"),
    ];
    let shared = [
        ("link", "a"),
        ("link", "b"),
        ("x-\u{66}oo", "f\u{fc}"),
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ];
    let origin = Origin::new(move |_| with_headers(with_headers(ok("x"), &own), &shared));
    let cache = default_cache(&origin);
    let first = send(&cache, get("/")).await;
    assert_eq!(
        first.header("x-request-id"),
        Some("1"),
        "its own requester has it"
    );
    let hit = send(&cache, get("/")).await;
    assert!(hit.is_hit());
    for (name, _) in own {
        assert!(!hit.parts.headers.contains_key(name), "{name}");
    }
    assert_eq!(hit.lines("link"), ["a", "b"]);
    assert_eq!(hit.parts.headers["x-foo"].as_bytes(), "f\u{fc}".as_bytes());
    assert_eq!(hit.header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
}

// Invariant 6.
#[tokio::test]
async fn headers_and_extensions_of_the_leader_do_not_reach_those_who_wait() {
    #[derive(Debug, Clone, PartialEq)]
    struct User(&'static str);
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |_| {
        let inside = inside.clone();
        async move {
            inside.pass().await;
            let mut response = with(ok("x"), "x-request-id", "the leader's");
            response.extensions_mut().insert(User("from the handler"));
            response
        }
    });
    let layer = CacheLayer::new(MINUTE);
    let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
    let ask = |user: &'static str| {
        let cache = cache.clone();
        let mut request = get("/");
        request.extensions_mut().insert(User(user));
        tokio::spawn(async move { send(&cache, request).await })
    };
    let leader = ask("alice");
    gate.arrival().await;
    let follower = ask("bob");
    until(|| handle.stats().waiters == 1).await;
    gate.open();
    let leader = leader.await.unwrap();
    assert_eq!(
        leader.parts.extensions.get::<User>(),
        Some(&User("from the handler"))
    );
    let (follower, hit) = (follower.await.unwrap(), ask("carol").await.unwrap());
    assert!(follower.cache().is_collapsed() && hit.is_hit());
    for other in [follower, hit] {
        assert_eq!(other.parts.extensions.get::<User>(), None);
        assert!(!other.parts.headers.contains_key("x-request-id"));
    }
}

// ---- several layers

// Invariant 8.
#[tokio::test]
async fn layers_of_one_handle_do_not_answer_each_others_requests() {
    let handle = CacheHandle::builder().build();
    let origin = Origin::counting(&[]);
    let layer = || {
        CacheLayer::builder()
            .handle(&handle)
            .build()
            .layer(origin.clone())
    };
    let (one, two) = (layer(), layer());
    stored(&one, || get("/")).await;
    stored(&two, || get("/")).await;
    assert_eq!(
        (
            send(&one, get("/")).await.text(),
            send(&two, get("/")).await.text()
        ),
        ("1", "2")
    );
    assert_eq!(handle.stats().entries, 2);
}

// Invariant 8.
#[tokio::test]
async fn layers_of_one_handle_and_one_name_answer_each_others_requests() {
    let handle = CacheHandle::builder().namespace("shop").build();
    let origin = Origin::counting(&[]);
    let named = |name: &str| {
        CacheLayer::builder()
            .handle(&handle)
            .name(name)
            .build()
            .layer(origin.clone())
    };
    stored(&named("pages"), || get("/")).await;
    assert!(send(&named("pages"), get("/")).await.is_hit());
    assert!(!send(&named("page"), get("/")).await.is_hit());
    let elsewhere = CacheHandle::builder().namespace("shop").build();
    let elsewhere = CacheLayer::builder()
        .handle(&elsewhere)
        .name("pages")
        .build()
        .layer(origin.clone());
    assert!(
        !send(&elsewhere, get("/")).await.is_hit(),
        "another handle is another cache"
    );
}

// Invariant 60.
#[tokio::test]
async fn of_two_caches_the_inner_one_speaks_first() {
    let origin = Origin::counting(&[]);
    let outer = CacheLayer::builder()
        .status_name("outer")
        .unwrap()
        .ttl(MINUTE)
        .build();
    let inner = CacheLayer::builder()
        .status_name("inner")
        .unwrap()
        .ttl(MINUTE)
        .build();
    let both = ServiceBuilder::new()
        .layer(outer.clone())
        .layer(inner.clone())
        .service(origin.clone());
    let send = async |request| {
        let response = within(tower::ServiceExt::oneshot(both.clone(), request))
            .await
            .unwrap();
        common::read(response).await
    };
    let first = send(get("/")).await;
    assert_eq!(
        first.lines("cache-status"),
        ["inner; fwd=uri-miss; stored", "outer; fwd=uri-miss; stored"]
    );
    let hit = send(get("/")).await;
    assert_eq!(
        hit.lines("cache-status"),
        ["inner; fwd=uri-miss; stored", "outer; hit; ttl=59"]
    );
    let _ = outer.handle().purge_all().await.unwrap();
    let again = send(get("/")).await;
    assert_eq!(again.lines("cache-status").len(), 2);
    assert!(again.lines("cache-status")[0].starts_with("inner; hit; ttl="));
    assert_eq!(origin.calls(), 1);
}

// Invariant 60.
#[tokio::test]
async fn the_cache_says_as_much_as_it_is_told_to() {
    let origin = Origin::counting(&[]);
    let silent = CacheLayer::builder()
        .status_header(false)
        .build()
        .layer(origin.clone());
    for _ in 0..2 {
        let answer = send(&silent, get("/")).await;
        assert_eq!(answer.header("cache-status"), None);
        assert!(
            answer
                .parts
                .extensions
                .get::<tower_response_cache::CacheStatus>()
                .is_some()
        );
    }
    let bare = CacheLayer::builder()
        .status_extension(false)
        .build()
        .layer(origin.clone());
    for (request, told) in [
        (get("/"), "stored"),
        (get("/"), "ttl=59"),
        (request("POST", "/"), "detail=method"),
    ] {
        let answer = send(&bare, request).await;
        assert!(answer.header("cache-status").unwrap().ends_with(told));
        assert!(
            answer
                .parts
                .extensions
                .get::<tower_response_cache::CacheStatus>()
                .is_none()
        );
    }
    let named = CacheLayer::builder()
        .status_name("my cache")
        .unwrap()
        .build()
        .layer(origin);
    assert!(
        send(&named, get("/"))
            .await
            .header("cache-status")
            .unwrap()
            .starts_with("\"my cache\"; fwd=")
    );
}

// Invariant 60.
#[tokio::test]
async fn every_answer_is_counted_once() {
    let origin = Origin::counting(&[]);
    let layer = CacheLayer::new(MINUTE);
    let (cache, handle) = (layer.layer(origin), layer.handle());
    for request in [
        get("/"),
        get("/"),
        get("/b"),
        request("OPTIONS", "/"),
        request("HEAD", "/c"),
        request("HEAD", "/"),
    ] {
        send(&cache, request).await;
    }
    let stats = handle.stats();
    assert_eq!(
        (stats.hits, stats.misses, stats.collapsed, stats.bypasses),
        (2, 3, 0, 1)
    );
    assert_eq!((stats.stored, stats.entries), (3, 3));
}

// ---- three identities

/// The handler answers with all it saw; what it saw of others must never come back.
fn telling() -> Origin {
    let count = AtomicUsize::new(0);
    let random = Arc::new(Mutex::new(Random::new(7)));
    Origin::later(move |request: Request<Body>| {
        let seen = seen(&request);
        let number = count.fetch_add(1, Ordering::SeqCst);
        let random = random.clone();
        async move {
            let (control, vary, cookie, waits) = {
                let mut random = random.lock().unwrap();
                let control = *random.of::<&str>(&[
                    "",
                    "",
                    "public",
                    "private",
                    "no-store",
                    "no-cache",
                    "s-maxage=9",
                    "must-revalidate",
                    "max-age=9",
                    "PRIVATE, public",
                    "\"",
                    "public,public",
                ]);
                let vary = *random.of::<&str>(&[
                    "",
                    "",
                    "x-a",
                    "x-a, x-b",
                    "*",
                    "authorization",
                    "cookie",
                    " ",
                ]);
                (control, vary, random.one_in(8), random.below(4))
            };
            for _ in 0..waits {
                tokio::task::yield_now().await;
            }
            let mut response = ok(seen);
            for (name, value) in [("cache-control", control), ("vary", vary)] {
                if !value.is_empty() {
                    response = with(response, name, value);
                }
            }
            if cookie {
                response = with(response, "set-cookie", &format!("seen={number}"));
            }
            response
        }
    })
}

fn value(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .map_or("-".into(), |value| value.to_str().unwrap().to_owned())
}

fn seen(request: &Request<Body>) -> String {
    let headers = request.headers();
    let part = |name| value(headers, name);
    format!(
        "{} {} | {} | {} | {} | {} | {}",
        part("host"),
        request.uri(),
        request.method(),
        part("authorization"),
        part("cookie"),
        part("x-a"),
        part("x-b"),
    )
}

fn random_request(random: &mut Random) -> Request<Body> {
    let method = *random.of::<&str>(&["GET", "GET", "GET", "GET", "GET", "HEAD", "POST"]);
    let uri = format!(
        "/{}?{}={}",
        random.below(6),
        random.of::<&str>(&["p", "q"]),
        random.below(2)
    );
    let mut asked = request(method, &uri);
    if random.one_in(4) {
        asked
            .headers_mut()
            .insert("host", "other.example".parse().unwrap());
    }
    let identities = [
        ("authorization", "alice"),
        ("authorization", "bob"),
        ("cookie", "sid=carol"),
    ];
    if random.one_in(2) {
        let (name, value) = *random.of(&identities);
        asked = with(asked, name, value);
    }
    for name in ["x-a", "x-b"] {
        if random.one_in(2) {
            asked = with(asked, name, random.of::<&str>(&["1", "2"]));
        }
    }
    asked
}

/// Whether this answer may have been given to this request.
fn crossed(asked: &str, got: &Answer) -> Option<&'static str> {
    let (asked, told): (Vec<_>, Vec<_>) = (
        asked.split(" | ").collect(),
        got.text().split(" | ").collect(),
    );
    if asked[1] == "HEAD" && (got.is_hit() || got.body.is_empty()) {
        return (!got.body.is_empty()).then_some("a HEAD has no body");
    }
    let control = value(&got.parts.headers, "cache-control");
    let says_so = control.contains("public")
        || control.contains("s-maxage")
        || control.contains("must-revalidate");
    let vary = value(&got.parts.headers, "vary");
    if asked[0] != told[0] || asked[1] != told[1] {
        return Some("another target");
    }
    if asked[2] != told[2] && (!says_so || vary == "authorization") {
        return Some("another's credentials");
    }
    if asked[3] != told[3] {
        return Some("another's cookie");
    }
    let varies = |name| vary.split(", ").any(|known| known == name);
    if (varies("x-a") && asked[4] != told[4]) || (varies("x-b") && asked[5] != told[5]) {
        return Some("another variant");
    }
    let shared = got.is_hit() || got.cache().is_collapsed();
    if shared && (got.parts.headers.contains_key("set-cookie") || vary == "*") {
        return Some("an answer for one alone");
    }
    let forbidden = ["private", "PRIVATE", "no-store", "no-cache", "\""];
    (shared && forbidden.iter().any(|word| control.contains(word)))
        .then_some("an answer that forbade it")
}

#[tokio::test]
async fn an_answer_that_crossed_would_be_noticed() {
    let asked = seen(&with(get("/1?p=0"), "x-a", "1"));
    let crosses = async |headers: &[(&str, &str)], told: Request<Body>| {
        let told = with_headers(ok(seen(&told)), headers);
        let cache = default_cache(&Origin::counting(&[]));
        send(&cache, get("/")).await;
        let mut answer = send(&cache, get("/")).await;
        let (parts, body) = told.into_parts();
        answer.parts.headers = parts.headers;
        answer.body = http_body_util::BodyExt::collect(body)
            .await
            .unwrap()
            .to_bytes();
        crossed(&asked, &answer).is_some()
    };
    let own = || with(get("/1?p=0"), "x-a", "1");
    let alice = || with(own(), "authorization", "alice");
    assert!(!crosses(&[], own()).await);
    assert!(!crosses(&[("cache-control", "public")], alice()).await);
    assert!(!crosses(&[], with(own(), "x-b", "1")).await);
    assert!(crosses(&[], alice()).await);
    assert!(crosses(&[], with(own(), "cookie", "sid=carol")).await);
    assert!(crosses(&[], with(get("/1?p=1"), "x-a", "1")).await);
    assert!(crosses(&[], request("HEAD", "/1?p=0")).await);
    assert!(crosses(&[("vary", "x-a")], with(get("/1?p=0"), "x-a", "2")).await);
    assert!(crosses(&[("set-cookie", "a=1")], own()).await);
    assert!(crosses(&[("cache-control", "PRIVATE, public")], own()).await);
    assert!(crosses(&[("vary", "*")], own()).await);
}

// Invariants 1, 2, 3, 4, 8, 11, 12.
#[tokio::test(start_paused = true)]
async fn nobody_gets_what_was_made_for_another() {
    let layer = CacheLayer::new(10 * SECOND);
    let (cache, handle) = (layer.layer(telling()), layer.handle());
    let mut random = Random::new(42);
    let (mut shared, mut total) = (0, 0);
    for round in 0..1250 {
        let asked: Vec<_> = (0..16).map(|_| random_request(&mut random)).collect();
        let digests: Vec<_> = asked.iter().map(seen).collect();
        let answers = join_all(asked.into_iter().map(|request| send(&cache, request))).await;
        for (digest, answer) in digests.iter().zip(&answers) {
            total += 1;
            shared += usize::from(answer.is_hit() || answer.cache().is_collapsed());
            assert_eq!(
                crossed(digest, answer),
                None,
                "asked {digest}, got {answer:?}"
            );
        }
        if round % 7 == 0 {
            advance(3 * SECOND).await;
        }
        if round % 150 == 0 {
            // Also forgets that answers could not be stored.
            advance(121 * SECOND).await;
        }
    }
    assert_eq!(total, 20_000);
    assert!(
        shared > 1000,
        "it tests nothing if nothing is shared: {shared}"
    );
    let stats = handle.stats();
    assert_eq!((stats.flights, stats.waiters, stats.in_flight), (0, 0, 0));
}

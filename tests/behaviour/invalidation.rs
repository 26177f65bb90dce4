//! Unsafe requests and what they purge (RFC 9111 §4.4).

use std::time::Duration;

use tower::Layer;
use tower_response_cache::{CacheHandle, CacheLayer, FillMode};

use crate::common::{Gate, Origin, get, ok, request, send, settle, status, with};

/// How many unsafe requests are sent where many are.
fn unsafe_requests() -> usize {
    let chosen = std::env::var("UNSAFE_REQUESTS").ok();
    chosen.map_or(20_000, |number| number.parse().unwrap())
}

// Invariant 64.
#[tokio::test(start_paused = true)]
async fn posts_to_new_targets_purge_nothing_however_many_come_during_one_slow_fill() {
    let max_marks = unsafe_requests() / 2;
    let handle = CacheHandle::builder().max_marks(max_marks).build();
    let gate = Gate::new();
    let (slow, origin) = (gate.clone(), std::sync::atomic::AtomicUsize::new(0));
    let origin = Origin::later(move |request| {
        let number = origin.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let is_slow = request.method() == "GET" && request.uri().path() == "/slow";
        let slow = is_slow.then(|| slow.clone());
        async move {
            if let Some(slow) = slow {
                slow.pass().await;
            }
            ok(number.to_string())
        }
    });
    let layer = CacheLayer::builder()
        .handle(&handle)
        .ttl(Duration::from_secs(3600))
        .build();
    let service = layer.layer(origin);
    for page in 0..1000 {
        assert!(!send(&service, get(&format!("/{page}"))).await.is_hit());
    }
    let client = service.clone();
    let in_flight = tokio::spawn(async move { send(&client, get("/slow")).await });
    gate.arrival().await;
    for post in 0..unsafe_requests() {
        send(&service, request("POST", &format!("/new/{post}"))).await;
    }
    tokio::time::advance(Duration::from_secs(20)).await;
    let stats = handle.stats();
    assert_eq!((stats.marks, stats.invalidations), (0, 0));
    assert_eq!(
        stats.targets, 1001,
        "one each for what is stored, and what is in flight"
    );
    for page in 0..1000 {
        assert!(send(&service, get(&format!("/{page}"))).await.is_hit());
    }

    // Those that concern something purge it, and only that.
    send(&service, request("POST", "/7")).await;
    assert!(!send(&service, get("/7")).await.is_hit());
    assert!(send(&service, get("/8")).await.is_hit());
    send(&service, request("POST", "/slow")).await;
    gate.open();
    let old = in_flight.await.unwrap();
    let new = send(&service, get("/slow")).await;
    assert!(!new.is_hit(), "it was changed while it was fetched");
    assert_ne!(old.text(), new.text());
    assert!(send(&service, get("/slow")).await.is_hit());
    assert_eq!(handle.stats().invalidations, 2);
}

// Invariants 36, 64.
#[tokio::test(start_paused = true)]
async fn a_follower_that_comes_after_an_unsafe_request_gets_no_answer_from_before_it() {
    for fill_mode in [FillMode::Detached, FillMode::Inline] {
        let gate = Gate::new();
        let slow = gate.clone();
        let version = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let origin = Origin::later(move |request| {
            let (slow, version) = (slow.clone(), version.clone());
            async move {
                if request.method() == "PUT" {
                    version.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    return ok("changed");
                }
                let seen = version.load(std::sync::atomic::Ordering::SeqCst);
                slow.pass().await;
                ok(seen.to_string())
            }
        });
        let layer = CacheLayer::builder()
            .fill_mode(fill_mode)
            .ttl(Duration::from_secs(60));
        let service = layer.build().layer(origin);
        let ask = || {
            let client = service.clone();
            tokio::spawn(async move { send(&client, get("/p")).await })
        };
        let before = ask();
        gate.arrival().await;
        send(&service, request("PUT", "/p")).await;
        let after = ask();
        settle().await;
        gate.open();
        assert_eq!(
            before.await.unwrap().text(),
            "0",
            "it came before the change"
        );
        assert_eq!(after.await.unwrap().text(), "1");
        assert_eq!(send(&service, get("/p")).await.text(), "1");
    }
}

// Invariant 64.
#[tokio::test(start_paused = true)]
async fn targets_are_forgotten_with_what_was_stored_for_them() {
    let handle = CacheHandle::builder().max_bytes(1 << 18).build();
    let layer = CacheLayer::builder()
        .handle(&handle)
        .ttl(Duration::from_secs(60));
    let service = layer.build().layer(Origin::counting(&[]));
    for page in 0..4000 {
        send(&service, get(&format!("/{page}"))).await;
    }
    let stats = handle.stats();
    let known = u64::try_from(stats.targets).unwrap();
    // Memory that was evicted is released a little later.
    assert!(known <= stats.entries + 500, "{known} targets, {stats:?}");
    let _ = handle.purge_all().await.unwrap();
    settle().await;
    let stats = handle.stats();
    assert!(stats.targets <= 500, "{stats:?}");
}

#[tokio::test]
async fn an_unsafe_request_that_fails_or_is_not_heeded_purges_nothing() {
    let answer = |request: http::Request<_>| match request.method().as_str() {
        "POST" => status(http::StatusCode::CONFLICT),
        _ => ok("page"),
    };
    let handle = CacheHandle::builder().build();
    let build = || CacheLayer::builder().ttl(Duration::from_secs(60));
    let service = build().handle(&handle).build().layer(Origin::new(answer));
    send(&service, get("/p")).await;
    send(&service, request("POST", "/p")).await;
    assert!(send(&service, get("/p")).await.is_hit());
    assert_eq!(handle.stats().invalidations, 0);
    send(&service, request("DELETE", "/p")).await;
    assert!(!send(&service, get("/p")).await.is_hit());
    assert_eq!(handle.stats().invalidations, 1);

    let layer = build().invalidation(false).build();
    let service = layer.layer(Origin::new(answer));
    send(&service, get("/p")).await;
    send(&service, request("DELETE", "/p")).await;
    assert!(send(&service, get("/p")).await.is_hit());
}

// Invariant 64.
#[tokio::test(start_paused = true)]
async fn invalidated_groups_leave_no_mark_and_reach_what_is_stored_and_what_is_in_flight() {
    let handle = CacheHandle::builder().max_marks(10).build();
    let gate = Gate::new();
    let slow = gate.clone();
    let origin = Origin::later(move |request| {
        let slow = slow.clone();
        async move {
            let path = request.uri().path();
            if request.method() == "POST" {
                let group = format!("\"{}\"", path.trim_start_matches('/'));
                return with(ok("done"), "cache-group-invalidation", &group);
            }
            if path == "/slow" {
                slow.pass().await;
            }
            let page = with(ok("page"), "cache-control", "max-age=600");
            with(page, "cache-groups", "\"shared\"")
        }
    });
    let layer = CacheLayer::builder().rfc9111().handle(&handle).build();
    let service = layer.layer(origin);
    let client = service.clone();
    let in_flight = tokio::spawn(async move { send(&client, get("/slow")).await });
    gate.arrival().await;
    send(&service, get("/p")).await;
    for group in 0..1000 {
        send(&service, request("POST", &format!("/g{group}"))).await;
    }
    assert_eq!(handle.stats().marks, 0);
    assert!(send(&service, get("/p")).await.is_hit());
    send(&service, request("POST", "/shared")).await;
    assert!(!send(&service, get("/p")).await.is_hit());
    gate.open();
    in_flight.await.unwrap();
    assert!(
        !send(&service, get("/slow")).await.is_hit(),
        "it began before"
    );
    assert!(send(&service, get("/slow")).await.is_hit());
}

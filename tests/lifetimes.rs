//! For how long a response is fresh.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Response, StatusCode};
use tokio::time::advance;
use tower::Layer;
use tower_response_cache::{CacheLayer, TagFamily, Tags};

use common::{Body, Origin, get, ok, send, status, with};

const MINUTE: Duration = Duration::from_secs(60);

// Invariant 18.
#[tokio::test(start_paused = true)]
async fn chance_only_ever_shortens_a_lifetime() {
    let layer = CacheLayer::builder()
        .ttl(MINUTE)
        .jitter(0.5)
        .unwrap()
        .build();
    let cache = layer.layer(Origin::counting(&[]));
    let mut lifetimes = Vec::new();
    for n in 0..200 {
        let uri = format!("/{n}");
        send(&cache, get(&uri)).await;
        let told = layer.explain(&get(&uri).into_parts().0);
        lifetimes.push(told.stored[0].lifetime);
    }
    let (least, most) = (
        lifetimes.iter().min().unwrap(),
        lifetimes.iter().max().unwrap(),
    );
    assert!(
        *most <= MINUTE && *least >= MINUTE / 2,
        "{least:?} to {most:?}"
    );
    assert!(*most > MINUTE * 9 / 10 && *least < MINUTE * 6 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_closure_says_how_long_and_the_response_itself_goes_before() {
    let origin = Origin::new(|request| match request.uri().path() {
        "/own" => with_lifetime("/own"),
        path => with(ok("x"), "x-kind", path),
    });
    let layer = CacheLayer::builder()
        .ttl(MINUTE)
        .ttl_by(|response| {
            let long = response.headers.get("x-kind")? == "/long";
            long.then_some(Duration::from_secs(3600))
        })
        .build();
    let cache = layer.layer(origin);
    for (path, lifetime) in [("/long", 3600), ("/other", 60), ("/own", 7)] {
        send(&cache, get(path)).await;
        let told = layer.explain(&get(path).into_parts().0);
        assert_eq!(
            told.stored[0].lifetime,
            Duration::from_secs(lifetime),
            "{path}"
        );
    }
}

fn with_lifetime(kind: &str) -> Response<Body> {
    common::with_headers(
        ok("x"),
        &[("x-kind", kind), ("cache-control", "s-maxage=7")],
    )
}

// Invariants 16, 19.
#[tokio::test(start_paused = true)]
async fn what_lives_for_ever_lives_until_it_is_purged() {
    for jitter in [0.0, 1.0] {
        let layer = CacheLayer::builder()
            .ttl(Duration::MAX)
            .jitter(jitter)
            .unwrap()
            .build();
        let cache = layer.layer(Origin::counting(&[]));
        send(&cache, get("/")).await;
        advance(Duration::from_secs(86_400 * 365)).await;
        assert!(send(&cache, get("/")).await.is_hit(), "{jitter}");
        let _ = layer.handle().purge_all().await.unwrap();
        assert!(!send(&cache, get("/")).await.is_hit());
    }
}

#[test]
fn a_share_is_between_zero_and_one() {
    for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(CacheLayer::builder().jitter(share).is_err(), "{share}");
    }
}

// Invariants 22, 36.
#[tokio::test(start_paused = true)]
async fn that_there_is_no_such_thing_is_kept_until_the_thing_is_made() {
    const PRODUCT: TagFamily<u64> = TagFamily::new("product");
    let exists = Arc::new(AtomicBool::new(false));
    let made = exists.clone();
    let origin = Origin::new(move |_| {
        let mut response = if made.load(SeqCst) {
            ok("product 7")
        } else {
            status(StatusCode::NOT_FOUND)
        };
        // Of what would be there.
        response.extensions_mut().insert(Tags::from(PRODUCT.tag(7)));
        response
    });
    let layer = CacheLayer::builder()
        .status(StatusCode::NOT_FOUND, MINUTE)
        .unwrap()
        .build();
    let cache = layer.layer(origin.clone());
    for is_hit in [false, true] {
        let answer = send(&cache, get("/products/7")).await;
        assert_eq!(
            (answer.parts.status, answer.is_hit()),
            (StatusCode::NOT_FOUND, is_hit)
        );
    }
    exists.store(true, SeqCst);
    assert!(send(&cache, get("/products/7")).await.is_hit());
    let _ = layer.handle().purge(PRODUCT.tag(7)).await.unwrap();
    assert_eq!(send(&cache, get("/products/7")).await.text(), "product 7");
    assert_eq!(origin.calls(), 2);
}

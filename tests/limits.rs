//! Each limit, at the limit and one past it.
//!
//! Those on what waits (`max_waiters`, `max_concurrent_fills`, the timeouts) are in `stampede.rs`; that marks are
//! bounded while fills hang is in `purge.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Body, Gate, Origin, chunked, eventually, get, ok, send, status, until, with, within};
use futures_util::future::join_all;
use http::{HeaderName, Request, Response, StatusCode};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, Key, Reason, Tag, TagHeader, Tags,
};

const HOUR: Duration = Duration::from_secs(3600);

async fn is_stored(
    cache: &Cache<Origin>,
    request: impl Fn() -> Request<Body>,
) -> Result<(), Option<Reason>> {
    let first = send(cache, request()).await;
    let second = send(cache, request()).await;
    assert_eq!(first.body, second.body);
    if second.is_hit() {
        Ok(())
    } else {
        Err(first.reason())
    }
}

fn over(builder: CacheLayerBuilder, origin: &Origin) -> Cache<Origin> {
    builder.ttl(HOUR).build().layer(origin.clone())
}

// Invariants 56, 57.
#[tokio::test]
async fn memory_never_holds_more_than_it_may() {
    const BYTES: u64 = 200_000;
    let handle = CacheHandle::builder().max_bytes(BYTES).build();
    let origin = Origin::new(|request| {
        let size: usize = request.uri().query().unwrap().parse().unwrap();
        let mut response = with(ok(vec![b'x'; size]), "x-long", &"h".repeat(size / 2));
        response.extensions_mut().insert(
            (0..size % 50)
                .map(|i| Tag::from(i.to_string()))
                .collect::<Tags>(),
        );
        response
    });
    let cache = over(CacheLayer::builder().handle(&handle), &origin);
    let mut most = 0;
    for i in 0..3000 {
        send(&cache, get(&format!("/{i}?{}", i * 37 % 4000))).await;
        let stats = handle.stats();
        assert!(stats.bytes <= BYTES, "{stats:?}");
        most = most.max(stats.bytes);
    }
    assert!(most > BYTES / 2, "it is made use of: {most}");
}

// Invariant 56.
#[tokio::test]
async fn what_an_entry_takes_counts_its_key_headers_body_trailers_and_tags() {
    let bytes_of = async |key: &str, header: usize, body: usize, tags: usize| {
        let header = "h".repeat(header);
        let origin = Origin::new(move |_| {
            let mut response = with(ok(vec![b'x'; body]), "x-long", &header);
            response.extensions_mut().insert(
                (0..tags)
                    .map(|i| Tag::from(i.to_string()))
                    .collect::<Tags>(),
            );
            response
        });
        let layer = CacheLayer::new(HOUR);
        send(&layer.layer(origin), get(key)).await;
        layer.handle().stats().bytes
    };
    let least = bytes_of("/", 1, 0, 0).await;
    assert!(least > 0);
    for (more, bytes) in [
        (
            bytes_of(&format!("/{}", "k".repeat(1000)), 1, 0, 0).await,
            1000,
        ),
        (bytes_of("/", 1001, 0, 0).await, 1000),
        (bytes_of("/", 1, 1000, 0).await, 1000),
        // Each tag by its hash, and by its name of one or two digits.
        (bytes_of("/", 1, 0, 100).await, 800 + 400 + 190),
    ] {
        assert!(
            (bytes..bytes + 200).contains(&(more - least)),
            "{more} - {least}"
        );
    }
}

// Invariants 48, 56.
#[tokio::test]
async fn an_answer_larger_than_all_of_memory_is_served_and_not_stored() {
    let origin =
        Origin::new(|request| ok(vec![b'x'; request.uri().query().unwrap().parse().unwrap()]));
    let handle = CacheHandle::builder().max_bytes(10_000).build();
    let cache = over(CacheLayer::builder().handle(&handle), &origin);
    for _ in 0..3 {
        assert_eq!(send(&cache, get("/?10000")).await.body.len(), 10_000);
    }
    assert_eq!((origin.calls(), handle.stats().entries), (3, 0));
    is_stored(&cache, || get("/?1000")).await.unwrap();
}

// Invariant 56.
#[tokio::test]
async fn variants_count_each() {
    let origin = Origin::new(|_| with(ok(vec![b'x'; 1000]), "vary", "accept-language"));
    let layer = CacheLayer::new(HOUR);
    let (cache, handle) = (layer.layer(origin), layer.handle());
    let mut before = 0;
    for n in 0..20 {
        send(&cache, with(get("/"), "accept-language", &n.to_string())).await;
        let bytes = handle.stats().bytes;
        assert_eq!(bytes > before + 1000, n < 12, "{n}: {bytes} after {before}");
        assert!(bytes < 12 * 4000);
        before = bytes;
    }
    assert_eq!(handle.stats().entries, 1);
}

// Invariants 47, 48.
#[tokio::test]
async fn a_body_of_just_the_limit_is_stored_and_one_byte_more_is_not() {
    for announced in [true, false] {
        let origin = Origin::new(move |request| {
            let size: usize = request.uri().query().unwrap().parse().unwrap();
            let body = vec![b'x'; size];
            if announced {
                ok(body)
            } else {
                Response::new(chunked(&[&body[..size / 2], &body[size / 2..]], None))
            }
        });
        let cache = over(CacheLayer::builder().max_body_bytes(1000), &origin);
        assert_eq!(is_stored(&cache, || get("/?1000")).await, Ok(()));
        assert_eq!(is_stored(&cache, || get("/?0")).await, Ok(()));
        // Of an unknown length, nobody can tell in the head.
        let reason = announced.then_some(Reason::TooLarge);
        assert_eq!(is_stored(&cache, || get("/?1001")).await, Err(reason));
        assert_eq!(send(&cache, get("/?1001")).await.body.len(), 1001);
    }
}

// Invariants 48, 49.
#[tokio::test]
async fn those_who_wait_for_a_body_that_turns_out_too_large_get_all_of_it() {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |_| {
        let inside = inside.clone();
        async move {
            inside.pass().await;
            Response::new(chunked(&[&[b'a'; 600], &[b'b'; 600]], None))
        }
    });
    let layer = CacheLayer::builder().max_body_bytes(1000).build();
    let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
    let asked: Vec<_> = (0..5)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { send(&cache, get("/")).await })
        })
        .collect();
    gate.arrival().await;
    until(|| handle.stats().waiters == 4).await;
    gate.open();
    for answer in join_all(asked).await {
        assert_eq!(answer.unwrap().body.len(), 1200);
    }
    assert_eq!((origin.calls(), handle.stats().entries), (1, 0));
}

/// The longest query after `/?` that is still stored.
async fn longest_key(builder: impl Fn() -> CacheLayerBuilder) -> usize {
    let origin = Origin::counting(&[]);
    let cache = over(builder(), &origin);
    let mut longest = None;
    for length in 0..1100 {
        let answer = send(&cache, get(&format!("/?{}", "q".repeat(length)))).await;
        match answer.reason() {
            None => longest = Some(length),
            Some(reason) => {
                assert_eq!(reason, Reason::KeyTooLong);
                break;
            }
        }
    }
    longest.unwrap()
}

// Invariant 57.
#[tokio::test]
async fn one_byte_more_of_limit_is_one_byte_more_of_key() {
    let at_1000 = longest_key(|| CacheLayer::builder().max_key_bytes(1000)).await;
    assert!((800..1000).contains(&at_1000));
    assert_eq!(
        longest_key(|| CacheLayer::builder().max_key_bytes(1001)).await,
        at_1000 + 1
    );
}

// Invariants 57, 58.
#[tokio::test]
async fn a_request_with_a_huge_part_in_its_key_passes_by() {
    let origin = Origin::counting(&[]);
    let long = "x".repeat(64_000);
    let tenant = || Key::new().header(HeaderName::from_static("x-tenant"));
    let builders = [
        CacheLayer::builder(),
        CacheLayer::builder().key(tenant()),
        CacheLayer::builder().key(tenant().query(["q"]).cookie("c")),
    ];
    for builder in builders {
        let cache = over(builder, &origin);
        let path = get(&format!("/{long}"));
        assert_eq!(send(&cache, path).await.reason(), Some(Reason::KeyTooLong));
    }
    let cache = over(CacheLayer::builder().key(tenant().cookie("c")), &origin);
    for asked in [
        get(&format!("/?q={}", &long[..60_000])),
        with(get("/"), "x-tenant", &long),
        with(get("/"), "cookie", &format!("c={long}")),
    ] {
        assert_eq!(send(&cache, asked).await.reason(), Some(Reason::KeyTooLong));
    }
    let only_page = over(
        CacheLayer::builder().key(Key::new().query(["page"])),
        &origin,
    );
    is_stored(&only_page, || {
        get(&format!("/?page=1&x={}", &long[..60_000]))
    })
    .await
    .unwrap();
}

fn tagged(header: String) -> Origin {
    Origin::new(move |_| with(ok("x"), "surrogate-key", &header))
}

// Invariant 57.
#[tokio::test]
async fn as_many_tags_as_may_be_are_stored_and_one_more_is_not() {
    let builder = || {
        CacheLayer::builder()
            .tag_header(TagHeader::SURROGATE_KEY)
            .max_tags(10)
    };
    let tags = |n: usize| {
        (0..n)
            .map(|i| format!("t{i}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let ten = over(builder(), &tagged(tags(10)));
    assert_eq!(is_stored(&ten, || get("/")).await, Ok(()));
    let eleven = over(builder(), &tagged(tags(11)));
    assert_eq!(
        is_stored(&eleven, || get("/")).await,
        Err(Some(Reason::TooManyTags))
    );
    let repeated = over(builder(), &tagged(vec!["same"; 1000].join(" ")));
    assert_eq!(
        is_stored(&repeated, || get("/")).await,
        Ok(()),
        "a tag counts once"
    );
    let none = over(builder().max_tags(0), &tagged(String::new()));
    assert_eq!(is_stored(&none, || get("/")).await, Ok(()));
}

// Invariant 57.
#[tokio::test]
async fn a_tag_as_long_as_may_be_is_stored_and_one_byte_longer_is_not() {
    let builder = || {
        CacheLayer::builder()
            .tag_header(TagHeader::SURROGATE_KEY)
            .max_tag_bytes(10)
    };
    let ten = over(builder(), &tagged("short 1234567890".into()));
    assert_eq!(is_stored(&ten, || get("/")).await, Ok(()));
    let eleven = over(builder(), &tagged("short 12345678901".into()));
    assert_eq!(
        is_stored(&eleven, || get("/")).await,
        Err(Some(Reason::TagTooLong))
    );
}

// Invariant 57.
#[tokio::test]
async fn as_many_marks_as_may_be_are_kept_and_one_more_purges_too_much() {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |request| {
        let inside = inside.clone();
        async move {
            if request.uri().path() == "/hangs" {
                inside.pass().await;
            }
            ok("x")
        }
    });
    let handle = CacheHandle::builder().max_marks(8).build();
    let cache = over(CacheLayer::builder().handle(&handle), &origin);
    is_stored(&cache, || get("/")).await.unwrap();
    let hanging = {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, get("/hangs")).await })
    };
    gate.arrival().await;
    for i in 0..8 {
        let _ = handle.purge(Tag::from(i.to_string())).await.unwrap();
    }
    assert_eq!(handle.stats().marks, 8);
    assert!(send(&cache, get("/")).await.is_hit());
    let _ = handle.purge(Tag::new("8")).await.unwrap();
    assert!(handle.stats().marks <= 8);
    assert!(!send(&cache, get("/")).await.is_hit());
    gate.open();
    within(hanging).await.unwrap();
    eventually(|| handle.stats().marks == 0).await;
}

// ---- remembering that an answer could not be stored

/// Whether two requests for this go to the inner service side by side.
async fn side_by_side(
    handle: &CacheHandle,
    cache: &Cache<Origin>,
    gate: &Gate,
    path: &str,
) -> bool {
    let ask = || {
        let (cache, request) = (cache.clone(), get(path));
        tokio::spawn(async move { send(&cache, request).await })
    };
    let one = ask();
    gate.arrival().await;
    let two = ask();
    let mut both = false;
    until(|| {
        both = gate.try_arrival();
        both || handle.stats().waiters == 1
    })
    .await;
    gate.let_one_pass();
    gate.let_one_pass();
    within(one).await.unwrap();
    within(two).await.unwrap();
    if !both {
        // The second one's own call, if the first one's answer was not for it.
        gate.try_arrival();
    }
    both
}

/// Answers as it is told to, behind a gate for the paths that are being looked at.
fn told(answer: Arc<AtomicUsize>) -> (Origin, Gate) {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |_| {
        let (inside, answer) = (inside.clone(), answer.load(Ordering::SeqCst));
        async move {
            inside.pass().await;
            match answer {
                STORABLE => ok("x"),
                PRIVATE => with(ok("x"), "cache-control", "private"),
                _ => status(StatusCode::SERVICE_UNAVAILABLE),
            }
        }
    });
    (origin, gate)
}

const STORABLE: usize = 0;
const PRIVATE: usize = 1;
const BROKEN: usize = 2;

// Invariant 29.
#[tokio::test(start_paused = true)]
async fn that_an_answer_could_not_be_stored_is_remembered_for_two_minutes() {
    let (origin, gate) = told(Arc::new(AtomicUsize::new(PRIVATE)));
    let layer = CacheLayer::new(HOUR);
    let (cache, handle) = (layer.layer(origin), layer.handle());
    assert!(
        !side_by_side(&handle, &cache, &gate, "/").await,
        "the first time they wait"
    );
    assert_eq!(handle.stats().refusals, 1);
    advance(Duration::from_secs(1)).await;
    assert!(side_by_side(&handle, &cache, &gate, "/").await);
    advance(Duration::from_millis(119_999)).await;
    assert!(side_by_side(&handle, &cache, &gate, "/").await);
    // Each refusal renews it.
    advance(Duration::from_millis(119_999)).await;
    assert!(side_by_side(&handle, &cache, &gate, "/").await);
    advance(Duration::from_secs(120)).await;
    assert!(!side_by_side(&handle, &cache, &gate, "/").await);
}

// Invariant 29.
#[tokio::test(start_paused = true)]
async fn it_ends_with_the_first_answer_that_can_be_stored() {
    let answer = Arc::new(AtomicUsize::new(PRIVATE));
    let (origin, gate) = told(answer.clone());
    let layer = CacheLayer::new(Duration::from_secs(1));
    let (cache, handle) = (layer.layer(origin), layer.handle());
    side_by_side(&handle, &cache, &gate, "/").await;
    answer.store(STORABLE, Ordering::SeqCst);
    gate.let_one_pass();
    assert!(send(&cache, get("/")).await.cache().is_stored());
    gate.try_arrival();
    assert_eq!(handle.stats().refusals, 0);
    assert!(send(&cache, get("/")).await.is_hit());
    advance(Duration::from_secs(1)).await;
    answer.store(PRIVATE, Ordering::SeqCst);
    assert!(!side_by_side(&handle, &cache, &gate, "/").await);
}

// Invariants 22, 30.
#[tokio::test(start_paused = true)]
async fn an_error_is_not_remembered() {
    let (origin, gate) = told(Arc::new(AtomicUsize::new(BROKEN)));
    let layer = CacheLayer::new(HOUR);
    let (cache, handle) = (layer.layer(origin), layer.handle());
    for _ in 0..3 {
        assert!(!side_by_side(&handle, &cache, &gate, "/").await);
        assert_eq!(handle.stats().refusals, 0);
    }
    let failing = service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>("broken") });
    let layer = CacheLayer::new(HOUR);
    for _ in 0..3 {
        let answered = within(layer.layer(failing).oneshot(get("/"))).await;
        assert_eq!(answered.err(), Some("broken"));
        assert_eq!(layer.handle().stats().refusals, 0);
    }
}

// Invariants 57, 58.
#[tokio::test]
async fn what_is_remembered_of_it_is_bounded() {
    let origin = Origin::counting(&[("cache-control", "no-store")]);
    let handle = CacheHandle::builder().max_refusals(100).build();
    let cache = over(CacheLayer::builder().handle(&handle), &origin);
    for i in 0..5000 {
        send(&cache, get(&format!("/{i}"))).await;
        if i % 50 == 0 {
            assert!(handle.stats().refusals <= 100, "{:?}", handle.stats());
        }
    }
    let stats = handle.stats();
    assert!(stats.refusals > 0 && stats.refusals <= 100, "{stats:?}");
    assert_eq!((stats.entries, stats.bytes), (0, 0));
}

//! Tags, lifetimes and refusals that deep code says of the response that is being built.

use std::{
    convert::Infallible,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Request, Response};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{CacheHandle, CacheLayer, CacheScope, Tag, scope};

use crate::common::{Body, Gate, Origin, get, head, ok, send, streamed, with, within};

const T: Tag = Tag::new("t");

/// Ways in which code outside the handler's task speaks to its response.
const WAYS: [&str; 6] = [
    "scope::spawn",
    "scope::spawn_blocking",
    "scope::spawn in scope::spawn_blocking",
    "a JoinSet",
    "a thread",
    "the current scope itself",
];

async fn tag_by(way: &str) {
    match way {
        "scope::spawn" => scope::spawn(async { scope::tag(T) }).await.unwrap(),
        "scope::spawn_blocking" => scope::spawn_blocking(|| scope::tag(T)).await.unwrap(),
        "scope::spawn in scope::spawn_blocking" => {
            let inner = scope::spawn_blocking(|| scope::spawn(async { scope::tag(T) }));
            inner.await.unwrap().await.unwrap();
        }
        "a JoinSet" => {
            let mut tasks = JoinSet::new();
            tasks.spawn(scope::current().wrap(async { scope::tag(T) }));
            tasks.join_all().await;
        }
        "a thread" => {
            let current = scope::current();
            let thread = std::thread::spawn(move || current.enter(|| scope::tag(T)));
            thread.join().unwrap();
        }
        _ => {
            let current = scope::current();
            tokio::spawn(async move { current.tag(T) }).await.unwrap();
        }
    }
}

// Invariants 36, 68.
#[tokio::test]
async fn a_tag_from_another_task_or_thread_reaches_the_response() {
    for way in WAYS {
        let origin = Origin::later(move |_| async move {
            tag_by(way).await;
            ok("x")
        });
        let cache = CacheLayer::builder().build();
        let handle = cache.handle();
        let cache = cache.layer(origin.clone());
        send(&cache, get("/")).await;
        assert!(send(&cache, get("/")).await.is_hit(), "{way}");
        let _ = handle.purge(T).await.unwrap();
        assert!(!send(&cache, get("/")).await.is_hit(), "{way}");
    }
}

// Invariants 61, 68.
#[tokio::test]
async fn a_part_that_is_asked_in_another_task_gives_the_page_its_tags() {
    let handle = CacheHandle::builder().build();
    let layer = || CacheLayer::builder().handle(&handle).build();
    let part = layer().layer(Origin::new(|_| {
        scope::tag(T);
        ok("part")
    }));
    let page = layer().layer(Origin::later(move |_| {
        let part = part.clone();
        async move {
            let part = scope::spawn(async move { send(&part, get("/part")).await });
            ok(part.await.unwrap().text().to_owned())
        }
    }));
    send(&page, get("/")).await;
    assert!(send(&page, get("/")).await.is_hit());
    let _ = handle.purge(T).await.unwrap();
    assert!(!send(&page, get("/")).await.is_hit());
}

/// The tests of one process share its counter: one that counts runs in a process of its own.
fn in_a_process_of_its_own(test: &str) {
    let program = std::env::current_exe().unwrap();
    let run = Command::new(program)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{output}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(output.contains("1 passed"), "{output}");
}

#[test]
fn calls_outside_any_request_are_counted_and_others_are_not() {
    in_a_process_of_its_own("scopes::process_that_counts");
}

/// Hits, misses, and all that bypass the cache.
async fn requests_of_all_kinds(handle: &CacheHandle) {
    let origin = Origin::later(|request| async move {
        tag_by(request.headers()["x-way"].to_str().unwrap()).await;
        scope::tag(T);
        let (chunks, body) = streamed();
        scope::spawn(async move { chunks.end_with("x") });
        Response::new(body)
    });
    let cache = CacheLayer::builder().handle(handle).build().layer(origin);
    for way in WAYS {
        for method in ["GET", "POST", "HEAD", "PUT"] {
            for (name, value) in [
                ("x-none", "1"),
                ("cookie", "a=1"),
                ("authorization", "1"),
                ("range", "bytes=0-1"),
            ] {
                let request = crate::common::request(method, "/");
                let request = with(with(request, name, value), "x-way", way);
                send(&cache, request).await;
            }
        }
    }
    handle.shutdown(Duration::from_secs(1)).await;
    send(&cache, with(get("/other"), "x-way", "scope::spawn")).await;
}

/// Code in the body of a request that bypasses the cache.
async fn body_of_a_bypass() {
    let origin = Origin::new(|_| {
        let frames = tokio_stream::iter([(); 3]);
        let frames = tokio_stream::StreamExt::map(frames, |()| {
            scope::tag(T);
            Ok::<_, crate::common::Broken>(http_body::Frame::data("x".into()))
        });
        Response::new(crate::common::boxed(http_body_util::StreamBody::new(
            frames,
        )))
    });
    let cache = CacheLayer::builder().build().layer(origin);
    assert_eq!(
        send(&cache, crate::common::request("POST", "/"))
            .await
            .text(),
        "xxx"
    );
}

// Invariant 68.
#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn process_that_counts() {
    let noticed = scope::calls_outside;
    let handle = CacheHandle::builder().build();
    scope::tag(T);
    scope::tags([T]);
    scope::ttl_at_most(Duration::ZERO);
    scope::do_not_store("lost");
    assert_eq!((noticed(), handle.stats().scope_calls_outside), (4, 4));
    scope::current().tag(T);
    scope::spawn(async { scope::tag(T) }).await.unwrap();
    scope::spawn_blocking(|| scope::tag(T)).await.unwrap();
    assert_eq!(
        noticed(),
        7,
        "a scope that is carried along from nowhere is nowhere"
    );

    // Background jobs.
    scope::outside(|| scope::tag(T));
    scope::outside(async { scope::tag(T) }).await;
    tokio::spawn(scope::outside(async {
        scope::spawn(async { scope::tag(T) }).await
    }))
    .await
    .unwrap()
    .unwrap();
    CacheScope::default().tag(T);
    assert_eq!(noticed(), 7);

    requests_of_all_kinds(&handle).await;
    assert_eq!(noticed(), 7);
    body_of_a_bypass().await;
    assert_eq!(noticed(), 7);
    lost_in_a_spawned_task(&handle).await;
    assert_eq!(
        noticed(),
        8,
        "a task that does not carry the scope along is noticed"
    );
}

async fn lost_in_a_spawned_task(handle: &CacheHandle) {
    let origin = Origin::later(|_| async {
        tokio::spawn(async { scope::tag(T) }).await.unwrap();
        ok("x")
    });
    let cache = CacheLayer::builder().build().layer(origin);
    send(&cache, get("/")).await;
    let _ = handle.stats();
}

#[test]
fn in_strict_mode_a_call_outside_any_request_panics() {
    in_a_process_of_its_own("scopes::process_that_is_strict");
}

// Invariant 68.
#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn process_that_is_strict() {
    scope::strict(true);
    let cache = CacheLayer::builder().build().layer(Origin::new(|_| {
        scope::tag(T);
        ok("x")
    }));
    send(&cache, get("/")).await;
    send(&cache, crate::common::request("POST", "/")).await;
    scope::outside(|| scope::tag(T));
    let lost = std::panic::catch_unwind(|| scope::tag(T)).unwrap_err();
    let message = lost.downcast_ref::<String>().unwrap();
    assert!(
        message.contains("scopes.rs") && message.contains("scope::spawn_blocking"),
        "{message}"
    );
    assert!(tokio::spawn(async { scope::tag(T) }).await.is_err());
    scope::strict(false);
    scope::tag(T);
}

// A bypassed request has a scope that takes no memory, and none in its extensions.
#[tokio::test]
async fn a_bypassed_request_has_an_empty_scope() {
    let service = service_fn(|request: Request<Body>| async move {
        assert!(request.extensions().get::<CacheScope>().is_none());
        assert!(request.extensions().is_empty());
        assert!(!format!("{:?}", scope::current()).contains("Fill"));
        Ok::<_, Infallible>(ok("x"))
    });
    let cache = CacheLayer::builder().build().layer(service);
    let response = within(cache.oneshot(crate::common::request("POST", "/")))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

// Invariant 30: what is said too late is remembered, as before.
#[tokio::test]
async fn a_scope_that_is_carried_along_may_speak_too_late() {
    let origin = Origin::new(|_| {
        let (chunks, body) = streamed();
        chunks.send("a");
        scope::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            scope::tag(T);
            chunks.end_with("b");
        });
        Response::new(body)
    });
    let cache = CacheLayer::builder().build().layer(origin.clone());
    for nth in 1..=2 {
        let response = head(&cache, get("/")).await;
        assert_eq!(crate::common::read(response).await.text(), "ab");
        assert_eq!(origin.calls(), nth);
    }
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn a_body_that_tags_its_response_is_not_read_along_since_a_purge_would_not_reach_it() {
    let (gate, version) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (at, now) = (gate.clone(), version.clone());
    let origin = Origin::new(move |_| {
        let (gate, version) = (at.clone(), now.load(SeqCst));
        let frames = futures_util::stream::unfold(0, move |frame| {
            let gate = gate.clone();
            async move {
                match frame {
                    0 => scope::tag(T),
                    1 => gate.pass().await,
                    _ => return None,
                }
                let data = http_body::Frame::data(format!("{version}").into());
                Some((Ok::<_, crate::common::Broken>(data), frame + 1))
            }
        });
        let body = http_body_util::StreamBody::new(frames);
        Response::new(crate::common::boxed(body))
    });
    let layer = CacheLayer::builder().build();
    let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, get("/")).await })
    };
    let first = ask();
    gate.arrival().await;
    version.store(1, SeqCst);
    handle.purge(T).await.unwrap();
    let second = ask();
    crate::common::settle().await;
    assert!(!second.is_finished());
    gate.open();
    assert_eq!(first.await.unwrap().text(), "00");
    assert_eq!(second.await.unwrap().text(), "11");
}

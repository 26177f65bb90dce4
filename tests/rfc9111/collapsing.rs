//! Section 12: many requests at once (RFC 9111 §4).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tokio::task::JoinHandle;
use tower::Layer;
use tower_response_cache::Cache;

use crate::{
    common::{
        Answer, Body, Chunks, Gate, Origin, get, next, ok, send, settle, streamed, with,
        with_headers,
    },
    harness::Mode,
};

const MODES: [Mode; 2] = [Mode::Book, Mode::Policy];

type Headers = &'static [(&'static str, &'static str)];

/// Each call waits at the gate, and is answered with what `x-who` says and the number of the call.
fn gated(gate: &Gate, headers: Headers) -> Origin {
    let (gate, calls) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    Origin::later(move |request| {
        let (gate, call) = (gate.clone(), calls.fetch_add(1, Ordering::SeqCst) + 1);
        async move {
            gate.pass().await;
            let who = request
                .headers()
                .get("x-who")
                .map_or("", |who| who.to_str().unwrap());
            with_headers(ok(format!("{who} {call}")), headers)
        }
    })
}

fn asked(cache: &Cache<Origin>, request: Request<Body>) -> JoinHandle<Answer> {
    let cache = cache.clone();
    tokio::spawn(async move { send(&cache, request).await })
}

fn who(number: usize) -> Request<Body> {
    with(get("/"), "x-who", &format!("user-{number}"))
}

/// One request leads, and so many wait for its answer.
async fn crowd(
    cache: &Cache<Origin>,
    gate: &Gate,
    leader: Request<Body>,
    waiting: usize,
) -> (JoinHandle<Answer>, Vec<JoinHandle<Answer>>) {
    let leader = asked(cache, leader);
    gate.arrival().await;
    let waiting = (1..=waiting)
        .map(|number| asked(cache, who(number)))
        .collect();
    settle().await;
    (leader, waiting)
}

// Invariant 25.
#[tokio::test(start_paused = true)]
async fn rule_12_1_one_call_for_all() {
    for mode in MODES {
        let gate = Gate::new();
        let origin = gated(&gate, &[("cache-control", "max-age=60")]);
        let cache = mode.builder().build().layer(origin.clone());
        let (leader, waiting) = crowd(&cache, &gate, who(0), 20).await;
        gate.open();
        assert_eq!(leader.await.unwrap().text(), "user-0 1");
        for answer in waiting {
            let answer = answer.await.unwrap();
            assert_eq!(answer.text(), "user-0 1", "12.1 {mode:?}");
            let status = answer.header("cache-status").unwrap();
            assert!(
                status.contains("; collapsed"),
                "12.1 14.2 {mode:?}: {status}"
            );
        }
        assert_eq!(origin.calls(), 1, "12.1 {mode:?}");
    }
}

// Invariants 4, 29.
#[tokio::test(start_paused = true)]
async fn rule_12_1_and_12_6_each_gets_the_variant_that_is_its_own() {
    for mode in MODES {
        let gate = Gate::new();
        let origin = gated(&gate, &[("cache-control", "max-age=60"), ("vary", "x-who")]);
        let cache = mode.builder().build().layer(origin.clone());
        let (leader, waiting) = crowd(&cache, &gate, who(1), 5).await;
        gate.open();
        assert_eq!(leader.await.unwrap().text(), "user-1 1");
        for (number, answer) in waiting.into_iter().enumerate() {
            let answer = answer.await.unwrap();
            let own = format!("user-{} ", number + 1);
            assert!(answer.text().starts_with(&own), "12.6 {mode:?}: {answer:?}");
        }
        assert_eq!(origin.calls(), 5, "12.6 {mode:?}: one call a variant");
    }
}

// Invariant 29.
#[tokio::test(start_paused = true)]
async fn rule_12_2_what_is_for_nobody_else_is_asked_for_side_by_side() {
    for mode in MODES {
        let gate = Gate::new();
        let origin = gated(&gate, &[("cache-control", "private")]);
        let cache = mode.builder().build().layer(origin.clone());
        let (leader, waiting) = crowd(&cache, &gate, who(0), 49).await;
        gate.let_one_pass();
        assert_eq!(leader.await.unwrap().text(), "user-0 1");
        for _ in 0..49 {
            gate.arrival().await;
        }
        // And so is the next crowd, which waits for nobody.
        let next: Vec<_> = (0..50).map(|number| asked(&cache, who(number))).collect();
        for _ in 0..50 {
            gate.arrival().await;
        }
        gate.open();
        for answer in waiting.into_iter().chain(next) {
            assert!(
                !answer.await.unwrap().cache().is_collapsed(),
                "12.2 {mode:?}"
            );
        }
        assert_eq!(origin.calls(), 100, "12.2 {mode:?}");
    }
}

/// Nobody who waits gets what was made for the one who leads.
async fn each_for_itself(mode: Mode, rule: &str, headers: Headers, leader: Request<Body>) {
    let gate = Gate::new();
    let origin = gated(&gate, headers);
    let cache = mode.builder().build().layer(origin.clone());
    let (leader, waiting) = crowd(&cache, &gate, leader, 5).await;
    gate.open();
    assert!(leader.await.unwrap().text().starts_with("leader "));
    for (number, answer) in waiting.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        let own = format!("user-{} ", number + 1);
        assert!(
            answer.text().starts_with(&own),
            "{rule} {headers:?} {mode:?}: {answer:?}"
        );
    }
    assert_eq!(origin.calls(), 6, "{rule} {headers:?} {mode:?}");
}

// Invariants 1, 3, 29.
#[tokio::test(start_paused = true)]
async fn rule_12_3_nobody_gets_what_is_for_another() {
    for mode in MODES {
        for headers in [
            &[("cache-control", "private")][..],
            &[("cache-control", "no-store")],
            &[("cache-control", "max-age=60, private")],
            &[
                ("cache-control", "public, max-age=60"),
                ("set-cookie", "sid=1"),
            ],
            &[("cache-control", "max-age=60"), ("vary", "*")],
            &[("cache-control", "s-maxage=0")],
            &[("cache-control", "no-cache"), ("etag", "\"1\"")],
        ] {
            each_for_itself(mode, "12.3", headers, with(get("/"), "x-who", "leader")).await;
        }
    }
}

// Invariant 29: what must be validated before each use is shared with nobody who waits.
#[tokio::test(start_paused = true)]
async fn rule_12_3_nobody_gets_what_must_be_validated_first() {
    for headers in [
        &[("cache-control", "max-age=0"), ("etag", "\"1\"")][..],
        &[("cache-control", "max-age=60, no-cache"), ("etag", "\"1\"")],
        &[("etag", "\"1\"")],
    ] {
        each_for_itself(
            Mode::Book,
            "12.3",
            headers,
            with(get("/"), "x-who", "leader"),
        )
        .await;
    }
}

// Invariant 3: a request that is not to leave anything behind leaves nothing to those who wait.
#[tokio::test(start_paused = true)]
async fn rule_12_3_nobody_gets_what_the_leader_would_not_have_stored() {
    let gate = Gate::new();
    let origin = gated(&gate, &[("cache-control", "max-age=60")]);
    let cache = Mode::Book.builder().build().layer(origin.clone());
    let leader = with_headers(
        get("/"),
        &[("x-who", "leader"), ("cache-control", "no-store")],
    );
    let (leader, waiting) = crowd(&cache, &gate, leader, 5).await;
    gate.open();
    assert!(leader.await.unwrap().text().starts_with("leader "));
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert!(answer.text().starts_with("user-"), "12.3: {answer:?}");
    }
    let later = send(&cache, who(9)).await;
    assert!(later.text().starts_with("user-"), "12.3: {later:?}");
}

// Invariants 21, 23: each of those who wait is answered in the form that it asked for.
#[tokio::test(start_paused = true)]
async fn rule_12_1_one_call_and_an_answer_of_each_form() {
    for mode in MODES {
        let gate = Gate::new();
        let origin = gated(&gate, &[("cache-control", "max-age=60"), ("etag", "\"1\"")]);
        let cache = mode.builder().build().layer(origin.clone());
        let leader = asked(&cache, who(0));
        gate.arrival().await;
        let forms = [
            (("if-none-match", "\"1\""), 304, ""),
            (("if-none-match", "\"2\""), 200, "user-0 1"),
            (("x-who", "another"), 200, "user-0 1"),
        ];
        let waiting: Vec<_> = forms
            .into_iter()
            .map(|((name, value), status, text)| {
                (asked(&cache, with(get("/"), name, value)), status, text)
            })
            .collect();
        settle().await;
        gate.open();
        assert_eq!(leader.await.unwrap().text(), "user-0 1");
        for (answer, status, text) in waiting {
            let answer = answer.await.unwrap();
            assert_eq!(answer.parts.status, status, "12.1 {mode:?}");
            assert_eq!(answer.text(), text, "12.1 {mode:?}");
        }
        assert_eq!(origin.calls(), 1, "12.1 {mode:?}");
    }
}

// Invariant 23: who leads with a condition decides nothing for the others.
#[tokio::test(start_paused = true)]
async fn rule_12_1_a_leader_with_a_condition() {
    for mode in MODES {
        let gate = Gate::new();
        let origin = gated(&gate, &[("cache-control", "max-age=60"), ("etag", "\"1\"")]);
        let cache = mode.builder().build().layer(origin.clone());
        let leader = with_headers(get("/"), &[("x-who", "leader"), ("if-none-match", "\"1\"")]);
        let (leader, waiting) = crowd(&cache, &gate, leader, 5).await;
        gate.open();
        assert_eq!(leader.await.unwrap().parts.status, 304, "12.1 {mode:?}");
        for answer in waiting {
            assert_eq!(answer.await.unwrap().text(), "leader 1", "12.1 {mode:?}");
        }
        assert_eq!(origin.calls(), 1, "12.1 {mode:?}");
    }
}

// Invariant 2.
#[tokio::test(start_paused = true)]
async fn rule_12_3_nobody_gets_what_was_made_with_credentials() {
    for mode in MODES {
        let headers = [("x-who", "leader"), ("authorization", "Basic YTph")];
        let leader = with_headers(get("/"), &headers);
        each_of_its_own(mode, leader).await;
    }
    let leader = with_headers(get("/"), &[("x-who", "leader"), ("cookie", "sid=1")]);
    each_of_its_own(Mode::Book, leader).await;
}

/// The leader's answer is for its credentials; those who wait may share another one.
async fn each_of_its_own(mode: Mode, leader: Request<Body>) {
    let gate = Gate::new();
    let origin = gated(&gate, &[("cache-control", "max-age=60")]);
    let cache = mode.builder().build().layer(origin.clone());
    let (leader, waiting) = crowd(&cache, &gate, leader, 5).await;
    gate.open();
    assert!(leader.await.unwrap().text().starts_with("leader "));
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert!(
            answer.text().starts_with("user-"),
            "12.3 {mode:?}: {answer:?}"
        );
    }
    let later = send(&cache, who(9)).await;
    assert!(
        later.text().starts_with("user-"),
        "12.3 {mode:?}: {later:?}"
    );
}

// Invariants 26, 31.
#[tokio::test(start_paused = true)]
async fn rule_12_4_who_leads_may_leave() {
    for mode in MODES {
        let gate = Gate::new();
        let origin = gated(&gate, &[("cache-control", "max-age=60")]);
        let cache = mode.builder().build().layer(origin.clone());
        let (leader, waiting) = crowd(&cache, &gate, who(0), 5).await;
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        settle().await;
        gate.open();
        for answer in waiting {
            assert_eq!(answer.await.unwrap().text(), "user-0 1", "12.4 {mode:?}");
        }
        assert_eq!(origin.calls(), 1, "12.4 {mode:?}");
    }
}

// Invariant 28.
#[tokio::test(start_paused = true)]
async fn rule_12_5_nobody_waits_for_ever() {
    for mode in MODES {
        let first = Gate::new();
        let (gate, calls) = (first.clone(), Arc::new(AtomicUsize::new(0)));
        let origin = Origin::later(move |_| {
            let (gate, call) = (gate.clone(), calls.fetch_add(1, Ordering::SeqCst) + 1);
            async move {
                if call == 1 {
                    gate.pass().await;
                }
                with(ok(call.to_string()), "cache-control", "max-age=60")
            }
        });
        let layer = mode
            .builder()
            .leader_timeout(Duration::from_secs(2))
            .build();
        let cache = layer.layer(origin.clone());
        let leader = asked(&cache, get("/"));
        first.arrival().await;
        let began = tokio::time::Instant::now();
        let waited = send(&cache, get("/")).await;
        assert_eq!(waited.text(), "2", "12.5 {mode:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "12.5 {mode:?}");
        first.open();
        assert_eq!(leader.await.unwrap().text(), "1");
    }
}

/// A response of a length that is told, whose body the test sends.
fn announced() -> (Chunks, Response<Body>) {
    let (chunks, body) = streamed();
    let mut headers = HeaderMap::new();
    headers.insert("content-length", 6.into());
    headers.insert("cache-control", "max-age=60".parse().unwrap());
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    (chunks, response)
}

// Invariant 49.
#[tokio::test(start_paused = true)]
async fn rule_12_7_who_waits_reads_along() {
    for mode in MODES {
        let (chunks, response) = announced();
        let response = std::sync::Mutex::new(Some(response));
        let origin = Origin::new(move |_| response.lock().unwrap().take().unwrap());
        let cache = mode.builder().build().layer(origin.clone());
        let leader = crate::common::head(&cache, get("/")).await;
        let waiting = crate::common::head(&cache, get("/")).await;
        chunks.send("one");
        let (mut leader, mut waiting) = (leader.into_body(), waiting.into_body());
        assert_eq!(next(&mut leader).await.unwrap(), "one");
        assert_eq!(next(&mut waiting).await.unwrap(), "one", "12.7 {mode:?}");
        chunks.end_with("two");
        assert_eq!(next(&mut leader).await.unwrap(), "two");
        assert_eq!(next(&mut waiting).await.unwrap(), "two", "12.7 {mode:?}");
        assert_eq!(origin.calls(), 1, "12.7 {mode:?}");
    }
}

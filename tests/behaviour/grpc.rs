//! Unary gRPC calls, streams and failures.

use std::{
    future::{Future, pending},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::time::Instant;
use tower::Layer;
use tower_response_cache::{BodyCache, CacheHandle, CacheLayer, Key, Reason};

use crate::common::{
    Answer, Body, Chunks, Origin, chunked, empty, full, head, next, request, send, settle, status,
    streamed, with, with_headers,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: usize = 1024;

/// A message with its prefix.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

fn post(path: &str, body: Body) -> Request<Body> {
    let call = request("POST", path).map(|_| body);
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    with_headers(call, &headers)
}

fn call(path: &str) -> Request<Body> {
    post(path, full(framed(b"question")))
}

fn trailers(code: u32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers
}

fn answered(body: Body) -> Response<Body> {
    with(Response::new(body), "content-type", "application/grpc")
}

fn unary(message: &[u8]) -> Response<Body> {
    answered(chunked(&[&framed(message)], Some(trailers(0))))
}

/// Where a call says how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    InTheHead,
    InTrailers,
    BehindAMessage,
}

const SAID: [Said; 3] = [Said::InTheHead, Said::InTrailers, Said::BehindAMessage];

impl Said {
    fn response(self, code: u32) -> Response<Body> {
        match self {
            Self::InTheHead => with(answered(empty()), "grpc-status", &code.to_string()),
            Self::InTrailers => answered(chunked(&[], Some(trailers(code)))),
            Self::BehindAMessage => answered(chunked(&[&framed(b"half")], Some(trailers(code)))),
        }
    }
}

fn code(answer: &Answer) -> u32 {
    let trailers = answer.trailers.as_ref();
    let code = trailers.and_then(|trailers| trailers.get("grpc-status"));
    let code = code.or_else(|| answer.parts.headers.get("grpc-status"));
    code.unwrap().to_str().unwrap().parse().unwrap()
}

fn handle(fills: usize) -> CacheHandle {
    let fills = NonZeroUsize::new(fills).unwrap();
    CacheHandle::builder().max_concurrent_fills(fills).build()
}

fn cached(origin: &Origin, fills: usize) -> (BodyCache<Origin>, CacheHandle) {
    let handle = handle(fills);
    let layer = CacheLayer::builder()
        .key(Key::grpc(LIMIT).all_methods())
        .handle(&handle)
        .build();
    (layer.layer(origin.clone()), handle)
}

/// Answers a second later, each call as this says of its number.
fn later(answer: impl Fn(usize) -> Response<Body> + Send + Sync + 'static) -> Origin {
    let (count, answer) = (AtomicUsize::new(0), Arc::new(answer));
    Origin::later(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = answer.clone();
        async move {
            tokio::time::sleep(SECOND).await;
            answer(number)
        }
    })
}

async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let began = Instant::now();
    let output = future.await;
    (output, began.elapsed())
}

// ---- failures

// Invariant 30.
#[tokio::test(start_paused = true)]
async fn thirty_two_callers_of_a_failing_method_are_two_calls() {
    for said in SAID {
        for failure in [2, 4, 8, 13, 14, 15] {
            let origin = later(move |_| said.response(failure));
            let (cache, handle) = cached(&origin, 1024);
            let callers = (0..32).map(|_| send(&cache, call("/s/m")));
            for answer in join_all(callers).await {
                assert_eq!(code(&answer), failure);
            }
            assert_eq!(origin.calls(), 2, "{said:?} {failure}");
            settle().await;
            let stats = handle.stats();
            assert_eq!((stats.stored, stats.flights, stats.fills), (0, 0, 0));
            // A failure is neither stored nor remembered.
            let callers = (0..32).map(|_| send(&cache, call("/s/m")));
            join_all(callers).await;
            assert_eq!(origin.calls(), 4, "{said:?} {failure}");
        }
    }
}

// Invariant 30.
#[tokio::test(start_paused = true)]
async fn the_page_of_a_proxy_whose_service_is_down_is_a_failure_too() {
    let origin = later(|_| status(StatusCode::BAD_GATEWAY));
    let (cache, handle) = cached(&origin, 1024);
    let callers = (0..32).map(|_| send(&cache, call("/s/m")));
    for answer in join_all(callers).await {
        assert_eq!(answer.parts.status, StatusCode::BAD_GATEWAY);
    }
    assert_eq!((origin.calls(), handle.stats().stored), (2, 0));
}

// Invariant 30.
#[tokio::test(start_paused = true)]
async fn after_one_failure_the_second_call_answers_all_others() {
    for said in SAID {
        let origin = later(move |number| match number {
            1 => said.response(14),
            _ => unary(b"good"),
        });
        let (cache, _) = cached(&origin, 1024);
        let callers = (0..32).map(|_| send(&cache, call("/s/m")));
        let answers = join_all(callers).await;
        let failed = answers.iter().filter(|answer| code(answer) == 14).count();
        assert_eq!((failed, origin.calls()), (1, 2), "{said:?}");
        assert!(send(&cache, call("/s/m")).await.is_hit());
    }
}

// Invariant 22.
#[tokio::test(start_paused = true)]
async fn followers_get_what_is_stale_when_a_call_fails() {
    for said in SAID {
        let origin = later(move |number| match number {
            1 => unary(b"good"),
            _ => said.response(13),
        });
        let layer = CacheLayer::builder()
            .key(Key::grpc(LIMIT).all_methods())
            .ttl(SECOND)
            .stale_if_error(SECOND * 600)
            .build();
        let cache = layer.layer(origin.clone());
        send(&cache, call("/s/m")).await;
        tokio::time::sleep(SECOND * 2).await;
        let callers = (0..32).map(|_| send(&cache, call("/s/m")));
        let answers = join_all(callers).await;
        let failed = answers.iter().filter(|answer| code(answer) != 0).count();
        // Of a failure in the trailers, the head is with its requester already.
        assert_eq!(failed, usize::from(said != Said::InTheHead), "{said:?}");
        assert_eq!(origin.calls(), 2);
    }
}

// Invariants 22, 29.
#[tokio::test(start_paused = true)]
async fn a_status_that_speaks_of_the_request_is_not_shared_and_remembered_as_uncacheable() {
    for said in SAID {
        for refusal in [1, 3, 5, 6, 7, 9, 10, 11, 12, 16] {
            let origin = later(move |_| said.response(refusal));
            let (cache, handle) = cached(&origin, 1024);
            for (calls, took) in [(1, 1), (33, 1)] {
                let callers = (0..calls).map(|_| send(&cache, call("/s/m")));
                let (answers, after) = timed(join_all(callers)).await;
                assert!(answers.iter().all(|answer| code(answer) == refusal));
                assert_eq!(after.as_secs(), took, "side by side");
            }
            assert_eq!((origin.calls(), handle.stats().stored), (34, 0), "{said:?}");
        }
    }
}

// Invariant 22.
#[tokio::test(start_paused = true)]
async fn not_found_is_stored_by_choice_for_as_long_as_was_chosen() {
    for said in SAID {
        let origin = later(move |_| said.response(5));
        let layer = CacheLayer::builder()
            .key(Key::grpc(LIMIT).all_methods())
            .cacheable_grpc_status(5, SECOND * 10)
            .unwrap()
            .build();
        let cache = layer.layer(origin.clone());
        let callers = (0..32).map(|_| send(&cache, call("/s/m")));
        let answers = join_all(callers).await;
        assert!(answers.iter().all(|answer| code(answer) == 5));
        assert_eq!(origin.calls(), 1, "{said:?}");
        let hit = send(&cache, call("/s/m")).await;
        assert_eq!((hit.is_hit(), code(&hit)), (true, 5), "{said:?}");
        tokio::time::sleep(SECOND * 11).await;
        assert!(!send(&cache, call("/s/m")).await.is_hit());
    }
    for never in [0, 2, 4, 8, 13, 14, 15, 17] {
        let builder = CacheLayer::builder().cacheable_grpc_status(never, SECOND);
        assert!(builder.is_err(), "{never}");
    }
}

// Invariant 22.
#[tokio::test(start_paused = true)]
async fn in_rfc_9111_mode_a_failure_in_the_head_of_a_200_is_not_stored() {
    let origin = later(|_| with(Said::InTheHead.response(14), "cache-control", "max-age=60"));
    let layer = CacheLayer::builder()
        .rfc9111()
        .key(Key::grpc(LIMIT).all_methods())
        .build();
    let cache = layer.layer(origin.clone());
    for _ in 0..2 {
        assert!(!send(&cache, call("/s/m")).await.is_hit());
    }
    assert_eq!(origin.calls(), 2);
}

// ---- streams

/// Opens streams by the path: each call's sender is kept, so that it stays open; `/unary` answers at once.
fn streams(first_message: bool) -> (Origin, Arc<std::sync::Mutex<Vec<Chunks>>>) {
    let open = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = open.clone();
    let origin = Origin::new(move |request| {
        if request.uri().path() == "/unary" {
            return unary(b"answer");
        }
        let (chunks, body) = streamed();
        if first_message {
            chunks.send(framed(b"serving"));
        }
        kept.lock().unwrap().push(chunks);
        answered(body)
    });
    (origin, open)
}

// Invariants 29, 63.
#[tokio::test(start_paused = true)]
async fn the_second_client_of_a_server_stream_is_not_held_up() {
    for (first_message, at_most) in [(true, 60), (false, 1010)] {
        let (origin, open) = streams(first_message);
        let (cache, handle) = cached(&origin, 1024);
        let (first, after) = timed(head(&cache, call("/health/watch"))).await;
        assert_eq!(after, Duration::ZERO, "its head is there at once");
        let (second, after) = timed(head(&cache, call("/health/watch"))).await;
        assert!(after.as_millis() <= at_most, "{after:?}");
        let (third, after) = timed(head(&cache, call("/health/watch"))).await;
        assert_eq!(after, Duration::ZERO, "it is remembered");
        assert_eq!((origin.calls(), handle.stats().fills), (3, 0));
        // The streams flow, each its own.
        let mut bodies = [first, second, third].map(Response::into_body);
        let before: Vec<_> = open.lock().unwrap().clone();
        for (nth, body) in bodies.iter_mut().enumerate() {
            if first_message {
                assert_eq!(next(body).await.unwrap(), framed(b"serving"));
            }
            let message = framed(nth.to_string().as_bytes());
            assert!(before[nth].send(message.clone()));
            assert_eq!(next(body).await.unwrap(), message);
        }
        assert_eq!(handle.stats().stored, 0);
    }
}

// Invariants 29, 57.
#[tokio::test(start_paused = true)]
async fn open_streams_hold_no_place_among_the_fills() {
    for first_message in [true, false] {
        let (origin, _open) = streams(first_message);
        let (cache, handle) = cached(&origin, 4);
        let mut open = Vec::new();
        for nth in 0..4 {
            open.push(head(&cache, call(&format!("/watch/{nth}"))).await);
        }
        let (answer, after) = timed(send(&cache, call("/unary"))).await;
        assert_eq!(code(&answer), 0);
        assert!(after <= Duration::from_millis(1010), "{after:?}");
        assert_eq!(handle.stats().fills, 0);
    }
}

// Invariants 31, 63.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_stream() {
    for first_message in [true, false] {
        for leaves_after in [0, 2000] {
            let (origin, open) = streams(first_message);
            let (cache, handle) = cached(&origin, 1024);
            let response = head(&cache, call("/watch")).await;
            tokio::time::sleep(Duration::from_millis(leaves_after)).await;
            drop(response);
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let chunks = open.lock().unwrap().pop().unwrap();
            assert!(!chunks.send(framed(b"more")), "nobody reads any more");
            let stats = handle.stats();
            assert_eq!((stats.fills, stats.flights, stats.in_flight), (0, 0, 0));
        }
    }
}

// Invariants 12, 46.
#[tokio::test(start_paused = true)]
async fn a_unary_response_within_the_time_is_stored_and_one_past_it_is_not() {
    // How long the first byte and, after the message, the trailers take.
    for (first, end, is_stored) in [
        (0, 0, true),
        (990, 40, true),
        (1010, 0, false),
        (0, 60, false),
    ] {
        let origin = Origin::later(move |_| async move {
            let (chunks, body) = streamed();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(first)).await;
                chunks.send(framed(b"answer"));
                tokio::time::sleep(Duration::from_millis(end)).await;
                chunks.trailers(trailers(0));
            });
            answered(body)
        });
        let (cache, _) = cached(&origin, 1024);
        for is_hit in [false, is_stored] {
            let answer = send(&cache, call("/s/m")).await;
            assert_eq!((code(&answer), &*answer.body), (0, &*framed(b"answer")));
            assert_eq!(answer.is_hit(), is_hit, "{first} {end}");
        }
    }
}

// Invariant 63.
#[tokio::test(start_paused = true)]
async fn a_long_message_is_waited_for_while_it_comes() {
    let origin = Origin::later(|_| async {
        let (chunks, body) = streamed();
        tokio::spawn(async move {
            for part in framed(&[7; 20]).chunks(5) {
                chunks.send(part.to_vec());
                tokio::time::sleep(SECOND * 2).await;
            }
            chunks.trailers(trailers(0));
        });
        answered(body)
    });
    let (cache, _) = cached(&origin, 1024);
    assert_eq!(code(&send(&cache, call("/s/m")).await), 0);
    // Its last part was followed by a pause.
    assert_eq!(send(&cache, call("/s/m")).await.body, framed(&[7; 20]));
}

// Invariant 63.
#[tokio::test(start_paused = true)]
async fn a_conversation_in_which_the_client_is_silent_gets_its_head_at_once() {
    let origin = Origin::later(|request| async move {
        let (chunks, body) = streamed();
        chunks.send(framed(b"hello"));
        tokio::spawn(async move {
            let _request = request;
            pending::<()>().await;
            drop(chunks);
        });
        answered(body)
    });
    let (cache, _) = cached(&origin, 1024);
    let (silent, body) = streamed();
    let (response, after) = timed(head(&cache, post("/chat", body))).await;
    assert!(after.as_millis() <= 60, "{after:?}");
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await.unwrap(), framed(b"hello"));
    assert!(silent.send(framed(b"hello yourself")));
}

// Invariants 9, 12.
#[tokio::test(start_paused = true)]
async fn a_request_whose_message_follows_its_head_within_the_time_is_keyed() {
    for (pause, is_hit) in [(40, true), (60, false)] {
        let origin = Origin::new(|_| unary(b"answer"));
        let (cache, _) = cached(&origin, 1024);
        for nth in 0..2 {
            let (chunks, body) = streamed();
            let sender = async {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                chunks.end_with(framed(b"question"));
            };
            let (answer, ()) = tokio::join!(send(&cache, post("/s/m", body)), sender);
            assert_eq!(answer.is_hit(), is_hit && nth == 1, "{pause}");
            let reason = (!is_hit).then_some(Reason::RequestBodyNotKeyed);
            assert_eq!(answer.reason(), reason);
        }
    }
}

/// Unary until this is set, then a stream.
fn turns_into_a_stream() -> (Origin, Arc<AtomicBool>, Arc<std::sync::Mutex<Vec<Chunks>>>) {
    let streams = Arc::new(AtomicBool::new(false));
    let open = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (is_stream, kept) = (streams.clone(), open.clone());
    let origin = Origin::new(move |_| {
        if !is_stream.load(Ordering::SeqCst) {
            return unary(b"answer");
        }
        let (chunks, body) = streamed();
        chunks.send(framed(b"first"));
        kept.lock().unwrap().push(chunks);
        answered(body)
    });
    (origin, streams, open)
}

// Invariants 57, 63.
#[tokio::test(start_paused = true)]
async fn a_background_refresh_that_finds_a_stream_ends_its_call() {
    let (origin, streams, open) = turns_into_a_stream();
    let layer = CacheLayer::builder()
        .key(Key::grpc(LIMIT).all_methods())
        .ttl(SECOND)
        .stale_while_revalidate(SECOND * 600)
        .build();
    let (cache, handle) = (layer.layer(origin.clone()), layer.handle());
    send(&cache, call("/s/m")).await;
    streams.store(true, Ordering::SeqCst);
    tokio::time::sleep(SECOND * 2).await;
    assert!(send(&cache, call("/s/m")).await.cache().is_stale());
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!((origin.calls(), handle.stats().flights), (2, 0));
    let chunks = open.lock().unwrap().pop().unwrap();
    assert!(!chunks.send(framed(b"more")));
    assert_eq!(handle.stats().in_flight, 0);
}

// Invariants 57, 63.
#[tokio::test(start_paused = true)]
async fn warming_does_not_wait_for_the_end_of_a_stream() {
    let (origin, streams, open) = turns_into_a_stream();
    streams.store(true, Ordering::SeqCst);
    let (cache, handle) = cached(&origin, 4);
    let calls: Vec<_> = (0..20).map(|nth| call(&format!("/watch/{nth}"))).collect();
    let (progress, after) = timed(handle.warm(cache, calls).finish()).await;
    assert_eq!((progress.done, progress.failed), (20, 20));
    assert!(after < SECOND, "{after:?}");
    let open = std::mem::take(&mut *open.lock().unwrap());
    assert!(open.iter().all(|chunks| !chunks.send(framed(b"more"))));
    assert_eq!(handle.stats().in_flight, 0);
}

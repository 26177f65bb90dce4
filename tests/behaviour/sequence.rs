//! Requests one after the other: each joins nothing that its predecessor has read to its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::Layer;
use tower_response_cache::{CacheHandle, CacheLayer, CacheLayerBuilder, scope};

use crate::common::{Body, Origin, boxed, chunked, full, get, head, next, ok, request, with};

/// How a response is made that is shared with those who wait, and is not stored.
const KINDS: [&str; 8] = [
    "of one frame",
    "empty",
    "of unknown length",
    "of a length that its body does not know",
    "with trailers",
    "that says something too late",
    "that breaks",
    "that is too long",
];

fn not_stored(kind: &str, nth: usize) -> Response<Body> {
    let text = format!("{nth:08}");
    if !matches!(
        kind,
        "that says something too late" | "that breaks" | "that is too long"
    ) {
        scope::do_not_store("it is another each time");
    }
    let response = match kind {
        "of unknown length" => Response::new(chunked(
            &[&text.as_bytes()[..4], &text.as_bytes()[4..]],
            None,
        )),
        "of a length that its body does not know" => {
            let body = chunked(&[&text.as_bytes()[..4], &text.as_bytes()[4..]], None);
            with(Response::new(body), "content-length", "8")
        }
        "with trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-end", HeaderValue::from_static("1"));
            Response::new(chunked(&[text.as_bytes()], Some(trailers)))
        }
        "empty" => with(Response::new(full("")), "x-nth", &text),
        "that says something too late" => {
            let frames = tokio_stream::iter(["a", "b"].map(|data| {
                scope::tag("late");
                Ok::<_, crate::common::Broken>(http_body::Frame::data(data.into()))
            }));
            // The tag is said when the second frame is made, in the body.
            let body =
                http_body_util::StreamBody::new(tokio_stream::StreamExt::map(frames, |frame| {
                    scope::tag("late");
                    frame
                }));
            Response::new(boxed(body))
        }
        "that breaks" => {
            let (chunks, body) = crate::common::streamed();
            chunks.send("0000");
            chunks.fail("it breaks");
            Response::new(body)
        }
        "that is too long" => Response::new(chunked(&[&[b'x'; 3000], &[b'y'; 3000]], None)),
        _ => ok(text.clone()),
    };
    with(response, "x-nth", &text)
}

fn layer(handle: &CacheHandle) -> CacheLayerBuilder {
    CacheLayer::builder().handle(handle).max_body_bytes(4096)
}

/// Reads as a client does: up to the length that was announced, or else to the end.
async fn read_as_a_client<B>(response: Response<B>)
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let announced = response.headers().get(header::CONTENT_LENGTH).cloned();
    let mut left = announced.map(|length| length.to_str().unwrap().parse::<usize>().unwrap());
    let mut body = response.into_body();
    while left != Some(0) {
        match body.frame().await {
            Some(Ok(frame)) => {
                let read = frame.data_ref().map_or(0, bytes::Bytes::len);
                left = left.map(|left| left - read);
            }
            Some(Err(_)) | None => return,
        }
    }
}

async fn each_gets_its_own(kind: &'static str, requests: usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::later(move |_| {
        let nth = count.fetch_add(1, SeqCst) + 1;
        async move {
            // The call takes a moment, so that its requester waits, and is woken.
            tokio::time::sleep(Duration::from_micros(50)).await;
            not_stored(kind, nth)
        }
    });
    let handle = CacheHandle::builder().build();
    let cache = layer(&handle).build().layer(origin.clone());
    for nth in 1..=requests {
        let response = head(&cache, get("/")).await;
        let got = response.headers()["x-nth"]
            .to_str()
            .unwrap()
            .parse::<usize>();
        assert_eq!(got, Ok(nth), "a response {kind}");
        read_as_a_client(response).await;
    }
    assert_eq!(origin.calls(), requests, "a response {kind}");
}

// Invariant 37.
#[test]
fn sequential_requests_on_a_thread_of_their_own_never_get_the_previous_answer() {
    for kind in KINDS {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // `block_on` runs the client on this thread, and the fills on others.
        runtime.block_on(each_gets_its_own(kind, 200));
    }
}

// Invariant 37.
#[test]
fn sequential_requests_on_one_thread_never_get_the_previous_answer() {
    for kind in KINDS {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(each_gets_its_own(kind, 50));
    }
}

// The next request may come while the body of the last one still withholds its end.
#[tokio::test(start_paused = true)]
async fn nobody_joins_a_response_of_known_length_whose_bytes_have_all_come() {
    let count = AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        let nth = count.fetch_add(1, SeqCst) + 1;
        scope::do_not_store("it is another each time");
        let frames = tokio_stream::iter([Ok::<_, crate::common::Broken>(http_body::Frame::data(
            bytes::Bytes::from(nth.to_string()),
        ))]);
        let frames = tokio_stream::StreamExt::chain(frames, tokio_stream::pending());
        let body = boxed(http_body_util::StreamBody::new(frames));
        with(Response::new(body), "content-length", "1")
    });
    let cache = CacheLayer::builder().build().layer(origin);
    let mut first = head(&cache, get("/")).await.into_body();
    assert_eq!(next(&mut first).await.unwrap(), "1");
    let mut second = head(&cache, get("/")).await.into_body();
    assert_eq!(next(&mut second).await.unwrap(), "2");
}

// A HEAD and a renewal by 304 publish too.
#[test]
fn sequential_renewals_and_heads_never_get_the_previous_answer() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(move |request| {
        let nth = count.fetch_add(1, SeqCst) + 1;
        if nth > 1 {
            scope::do_not_store("it is another each time");
        }
        let nth = nth.to_string();
        if request.headers().contains_key(header::IF_NONE_MATCH) {
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return with(with(response, "etag", "\"a\""), "x-nth", &nth);
        }
        let response = with(ok("a"), "etag", "\"a\"");
        with(with(response, "x-nth", &nth), "cache-control", "s-maxage=1")
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cache = CacheLayer::builder().build().layer(origin.clone());
        crate::common::send(&cache, get("/")).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        for nth in 2..100 {
            let method = if nth % 3 == 0 { "HEAD" } else { "GET" };
            let response = head(&cache, request(method, "/")).await;
            assert_eq!(response.headers()["x-nth"], nth.to_string(), "{method}");
            read_as_a_client(response).await;
        }
    });
}

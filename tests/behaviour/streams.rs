//! Responses whose bodies stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep, timeout};
use tower::Layer;
use tower_response_cache::{Cache, CacheHandle, CacheLayer, CacheLayerBuilder, Reason};

use crate::common::{
    Body, Broken, Origin, boxed, eventually, get, head, next, read, send, streamed, with,
    with_headers, within,
};

const MIB: usize = 1 << 20;

/// A body whose frames come one after the other, each after a pause. It says nothing of its length.
pub(crate) fn paced(frames: impl IntoIterator<Item = Bytes>, pause: Duration) -> Body {
    let frames: Vec<_> = frames.into_iter().collect();
    let frames = stream::unfold(frames.into_iter(), move |mut frames| async move {
        let frame = frames.next()?;
        sleep(pause).await;
        Some((Ok::<_, Broken>(Frame::data(frame)), frames))
    });
    boxed(StreamBody::new(Box::pin(frames)))
}

/// A body that has another frame after each pause, for ever.
fn endless(frame: usize, pause: Duration) -> Body {
    let frames = stream::unfold((), move |()| async move {
        sleep(pause).await;
        Some((Ok::<_, Broken>(Frame::data(vec![0; frame].into())), ()))
    });
    boxed(StreamBody::new(Box::pin(frames)))
}

fn frames(number: u8, length: usize) -> Vec<Bytes> {
    (0..number).map(|i| vec![i; length].into()).collect()
}

fn cached(builder: CacheLayerBuilder, origin: &Origin) -> (Cache<Origin>, CacheHandle) {
    let layer = builder.build();
    (layer.layer(origin.clone()), layer.handle())
}

async fn is_settled(handle: &CacheHandle) {
    eventually(|| {
        let stats = handle.stats();
        (
            stats.flights,
            stats.fills,
            stats.in_flight,
            stats.recording_bytes,
        ) == (0, 0, 0, 0)
    })
    .await;
}

/// When each frame of a body came, and the length of all.
async fn timed(cache: &Cache<Origin>, began: Instant) -> (Vec<Duration>, usize, bool) {
    let response = head(cache, get("/")).await;
    let status = *response
        .extensions()
        .get::<tower_response_cache::CacheStatus>()
        .unwrap();
    let mut body = response.into_body();
    let (mut times, mut length) = (Vec::new(), 0);
    while let Some(data) = next(&mut body).await {
        times.push(began.elapsed());
        length += data.len();
    }
    (times, length, status.is_collapsed())
}

// Invariants 25, 49, 63.
#[tokio::test(start_paused = true)]
async fn a_thousand_requests_share_one_call_and_read_along_with_a_body_of_unknown_length() {
    let pause = Duration::from_millis(100);
    let origin = Origin::later(move |_| async move {
        sleep(Duration::from_millis(10)).await;
        Response::new(paced(frames(30, 10), pause))
    });
    let (cache, handle) = cached(CacheLayer::builder(), &origin);
    let began = Instant::now();
    let answers = join_all((0..1000).map(|_| timed(&cache, began))).await;
    let leader = answers.iter().find(|(_, _, is_collapsed)| !is_collapsed);
    let (leaders_times, ..) = leader.unwrap();
    assert_eq!(leaders_times[1].as_millis(), 210);
    for (times, length, _) in &answers {
        assert!(times[0] < leaders_times[1], "{:?}", times[0]);
        assert_eq!(*length, 300);
    }
    assert_eq!(leaders_times.last().unwrap().as_millis(), 3010);
    assert_eq!((origin.calls(), handle.stats().collapsed), (1, 999));
    assert!(send(&cache, get("/")).await.is_hit());
    is_settled(&handle).await;
}

// Invariant 49.
#[tokio::test(start_paused = true)]
async fn a_late_request_gets_at_once_what_has_come_of_a_body_of_unknown_length() {
    let origin = Origin::new(|_| Response::new(paced(frames(10, 10), Duration::from_secs(1))));
    let (cache, _) = cached(CacheLayer::builder(), &origin);
    let leader = head(&cache, get("/")).await;
    sleep(Duration::from_millis(5500)).await;
    let mut late = head(&cache, get("/")).await.into_body();
    let began = Instant::now();
    let mut length = 0;
    while length < 50 {
        length += next(&mut late).await.unwrap().len();
    }
    assert_eq!((length, began.elapsed()), (50, Duration::ZERO));
    assert_eq!(within(late.collect()).await.unwrap().to_bytes().len(), 50);
    assert_eq!(read(leader).await.body.len(), 100);
    assert_eq!(origin.calls(), 1);
}

/// Which of two clients stops reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stops {
    Requester,
    Follower,
}

// Invariants 47, 48, 49, 66.
#[tokio::test(start_paused = true)]
async fn an_endless_body_is_shared_through_a_window_in_which_a_stopped_client_delays_nobody_for_long()
 {
    for stops in [Stops::Requester, Stops::Follower] {
        let origin = Origin::new(|_| {
            let body = endless(10_000, Duration::from_millis(10));
            with(
                Response::new(body),
                "content-type",
                "application/octet-stream",
            )
        });
        let (cache, handle) = cached(CacheLayer::builder(), &origin);
        let mut one = head(&cache, get("/")).await.into_body();
        sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        let mut two = head(&cache, get("/")).await.into_body();
        next(&mut two).await.unwrap();
        assert!(began.elapsed().is_zero(), "the second client reads at once");
        next(&mut one).await.unwrap();
        let (mut stopped, mut reads) = match stops {
            Stops::Requester => (one, two),
            Stops::Follower => (two, one),
        };
        let (mut most, mut length) = (0, 0);
        while began.elapsed() < Duration::from_secs(60) {
            let frame = timeout(Duration::from_millis(5001), reads.frame()).await;
            let frame = frame.expect("nobody waits for longer than stall_timeout");
            length += frame.unwrap().unwrap().into_data().unwrap().len();
            most = most.max(handle.stats().recording_bytes);
        }
        assert!(length > 50_000_000, "{length}");
        assert!((900_000..=MIB as u64 + 20_000).contains(&most), "{most}");
        let error = within(stopped.frame()).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("too slowly"), "{error}");
        assert_eq!(origin.calls(), 1);
        assert_eq!(handle.stats().recording_bytes, 0, "all that came was read");
        drop((stopped, reads));
        is_settled(&handle).await;
        // Nobody joins any more: the next one has a call of its own, and reads at once.
        let mut third = head(&cache, get("/")).await.into_body();
        let mut fourth = head(&cache, get("/")).await.into_body();
        next(&mut third).await.unwrap();
        next(&mut fourth).await.unwrap();
        assert_eq!(origin.calls(), 3);
    }
}

// Invariants 47, 48.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_a_long_body_alone_may_stop_for_as_long_as_it_likes() {
    let origin = Origin::new(|_| Response::new(paced(frames(200, 10_000), Duration::ZERO)));
    let (cache, handle) = cached(CacheLayer::builder(), &origin);
    let response = head(&cache, get("/")).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(read(response).await.body.len(), 2_000_000);
    is_settled(&handle).await;
}

// Invariants 48, 49.
#[tokio::test(start_paused = true)]
async fn a_body_at_the_limit_is_stored_and_one_byte_more_reaches_every_reader() {
    for pause in [Duration::ZERO, Duration::from_millis(100)] {
        for frames in [1, 2, 7, 100] {
            for (length, is_stored) in [(1000, true), (1001, false)] {
                for ends_with_trailers in [false, true] {
                    let case = format!("{pause:?} {frames} {length} {ends_with_trailers}");
                    let whole: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
                    let chunks = whole.chunks(length.div_ceil(frames));
                    let chunks: Vec<_> = chunks.map(Bytes::copy_from_slice).collect();
                    let origin = Origin::later(move |_| {
                        let mut trailers = HeaderMap::new();
                        trailers.insert("x-sum", HeaderValue::from_static("1"));
                        let trailers = ends_with_trailers.then_some(trailers);
                        let body = paced(chunks.clone(), pause);
                        let body = body.with_trailers(async { trailers.map(Ok) });
                        async move {
                            tokio::task::yield_now().await;
                            Response::new(boxed(body))
                        }
                    });
                    let builder = CacheLayer::builder().max_body_bytes(1000);
                    let (cache, handle) = cached(builder, &origin);
                    let answers = join_all((0..20).map(|_| send(&cache, get("/")))).await;
                    for answer in answers {
                        assert_eq!(answer.body, whole, "{case}");
                        assert_eq!(answer.trailers.is_some(), ends_with_trailers, "{case}");
                    }
                    assert_eq!(origin.calls(), 1, "{case}");
                    is_settled(&handle).await;
                    assert_eq!(handle.stats().stored, u64::from(is_stored), "{case}");
                    assert_eq!(send(&cache, get("/")).await.is_hit(), is_stored, "{case}");
                }
            }
        }
    }
}

// Invariant 26.
#[tokio::test(start_paused = true)]
async fn the_source_of_a_window_is_dropped_with_its_last_reader_and_not_before() {
    let (chunks, body) = streamed();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let origin = Origin::new(move |_| Response::new(body.lock().unwrap().take().unwrap()));
    let (cache, handle) = cached(CacheLayer::builder().max_body_bytes(10), &origin);
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(head(&cache, get("/")).await.into_body());
        sleep(Duration::from_millis(1)).await;
    }
    chunks.send("0123456789");
    chunks.send("abc");
    for reader in &mut readers {
        assert_eq!(next(reader).await.unwrap(), "0123456789");
        assert_eq!(next(reader).await.unwrap(), "abc");
    }
    let stats = handle.stats();
    assert_eq!(
        (stats.flights, stats.in_flight),
        (0, 0),
        "nobody joins, no mark is kept"
    );
    while let Some(reader) = readers.pop() {
        assert!(chunks.send("more"));
        assert_eq!(handle.stats().fills, 1);
        drop(reader);
        for reader in &mut readers {
            assert_eq!(next(reader).await.unwrap(), "more");
        }
    }
    is_settled(&handle).await;
    assert!(!chunks.send("it is gone"));
}

// Invariants 45, 48.
#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_beyond_the_limit_breaks_for_every_reader() {
    let origin = Origin::later(|_| async {
        let (chunks, body) = streamed();
        sleep(Duration::from_millis(1)).await;
        chunks.send("0123456789");
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            chunks.send("abc");
            sleep(Duration::from_secs(1)).await;
            chunks.fail("it broke");
        });
        Response::new(body)
    });
    let (cache, handle) = cached(CacheLayer::builder().max_body_bytes(10), &origin);
    let read_until_it_breaks = |_| async {
        let mut body = head(&cache, get("/")).await.into_body();
        assert_eq!(next(&mut body).await.unwrap(), "0123456789");
        assert_eq!(next(&mut body).await.unwrap(), "abc");
        within(body.frame()).await.unwrap().unwrap_err().to_string()
    };
    let errors = join_all((0..5).map(read_until_it_breaks)).await;
    assert_eq!(errors, ["the response body failed"; 5]);
    assert_eq!((origin.calls(), handle.stats().stored), (1, 0));
    is_settled(&handle).await;
}

// Invariants 28, 49.
#[tokio::test(start_paused = true)]
async fn a_body_that_takes_longer_than_fill_timeout_goes_on_for_those_who_read_and_nobody_joins() {
    let frame_after = Duration::from_secs(1);
    let origin = Origin::new(move |_| Response::new(paced(frames(20, 10), frame_after)));
    let builder = CacheLayer::builder().fill_timeout(Duration::from_secs(5));
    let (cache, handle) = cached(builder, &origin);
    let reads = [(), ()].map(|()| {
        tokio::spawn({
            let cache = cache.clone();
            async move { send(&cache, get("/")).await }
        })
    });
    sleep(Duration::from_millis(5500)).await;
    assert!(
        handle.stats().recording_bytes < 100,
        "what was read is not kept"
    );
    let own = head(&cache, get("/")).await;
    assert_eq!(origin.calls(), 2);
    for answer in reads {
        assert_eq!(answer.await.unwrap().body.len(), 200);
    }
    assert_eq!(handle.stats().stored, 0);
    drop(own);
    is_settled(&handle).await;
}

const STREAMS: [&[(&str, &str)]; 10] = [
    &[("content-type", "application/x-ndjson")],
    &[("content-type", "application/jsonl; charset=utf-8")],
    &[("content-type", "Application/Stream+JSON")],
    &[("content-type", "application/json-seq")],
    &[("content-type", "multipart/mixed; boundary=x")],
    &[("content-type", "multipart/x-mixed-replace;boundary=x")],
    &[("content-type", "audio/mpeg")],
    &[
        ("content-type", "video/mp4"),
        ("cache-control", "max-age=60"),
    ],
    &[("content-type", "text/html"), ("x-accel-buffering", "no")],
    &[("x-accel-buffering", "No")],
];

// Invariants 29, 47, 63.
#[tokio::test(start_paused = true)]
async fn streams_are_not_shared_stored_or_waited_for() {
    let mut kinds: Vec<_> = STREAMS.iter().map(|kind| (*kind, Reason::Stream)).collect();
    kinds.push((
        &[("content-type", "text/event-stream")],
        Reason::EventStream,
    ));
    for (headers, reason) in kinds {
        let origin = Origin::later(move |_| async move {
            sleep(Duration::from_millis(10)).await;
            with_headers(Response::new(endless(10, Duration::from_secs(1))), headers)
        });
        let (cache, handle) = cached(CacheLayer::builder(), &origin);
        for round in 1..=2 {
            let began = Instant::now();
            let responses = join_all((0..5).map(|_| head(&cache, get("/")))).await;
            let last_head = Duration::from_millis(if round == 1 { 20 } else { 10 });
            assert_eq!(began.elapsed(), last_head, "{headers:?}");
            for response in responses {
                let status = response
                    .extensions()
                    .get::<tower_response_cache::CacheStatus>();
                let status = status.unwrap();
                assert!(!status.is_collapsed() && !status.is_stored(), "{headers:?}");
                assert_eq!(status.reason(), Some(reason), "{headers:?}");
                let mut body = response.into_body();
                assert_eq!(next(&mut body).await.unwrap().len(), 10);
            }
            assert_eq!(origin.calls(), 5 * round, "{headers:?}");
        }
        is_settled(&handle).await;
    }
}

// Invariant 63.
#[tokio::test(start_paused = true)]
async fn audio_and_video_that_are_for_everybody_or_have_a_length_are_stored() {
    for headers in [
        &[("content-type", "audio/mpeg"), ("cache-control", "public")][..],
        &[
            ("content-type", "video/mp4"),
            ("cache-control", "s-maxage=60"),
        ],
        &[("content-type", "video/mp4"), ("content-length", "20")],
        &[("content-type", "application/octet-stream")],
        &[("content-type", "text/html"), ("x-accel-buffering", "yes")],
    ] {
        let origin = Origin::new(move |_| {
            let body = paced(frames(2, 10), Duration::from_secs(1));
            with_headers(Response::new(body), headers)
        });
        let (cache, _) = cached(CacheLayer::builder(), &origin);
        let answers = join_all((0..5).map(|_| send(&cache, get("/")))).await;
        assert!(answers.iter().all(|answer| answer.body.len() == 20));
        assert!(send(&cache, get("/")).await.is_hit(), "{headers:?}");
        assert_eq!(origin.calls(), 1, "{headers:?}");
    }
}

// Invariant 50.
#[tokio::test(start_paused = true)]
async fn a_body_that_flows_on_says_of_its_length_and_its_end_what_it_would_without_a_cache() {
    let origin = Origin::new(|_| Response::new(paced(frames(5, 10), Duration::from_secs(1))));
    for readers in [1, 3] {
        let (cache, _) = cached(CacheLayer::builder().max_body_bytes(25), &origin);
        let bodies = (0..readers).map(|_| head(&cache, get("/")));
        let bodies = join_all(bodies).await.into_iter().map(Response::into_body);
        let mut bodies: Vec<_> = bodies.collect();
        for _ in 0..5 {
            for body in &mut bodies {
                assert!(!body.is_end_stream() && body.size_hint().upper().is_none());
                assert_eq!(next(body).await.unwrap().len(), 10);
                assert_eq!(body.size_hint().lower(), 0);
            }
        }
        for body in &mut bodies {
            assert_eq!(next(body).await, None);
        }
    }
}

// Invariants 49, 50.
#[tokio::test(start_paused = true)]
async fn a_range_of_a_body_that_outgrows_the_limit_is_cut_for_those_who_read_along() {
    let calls = AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        assert_eq!(calls.fetch_add(1, Ordering::SeqCst), 0);
        // It is longer than it says, which nobody can know.
        let body = paced(frames(5, 10), Duration::from_secs(1));
        with(Response::new(body), "content-length", "20")
    });
    let (cache, _) = cached(CacheLayer::builder().max_body_bytes(25), &origin);
    let leader = head(&cache, get("/")).await;
    let mut part = head(&cache, with(get("/"), "range", "bytes=5-14"))
        .await
        .into_body();
    assert_eq!(next(&mut part).await.unwrap(), vec![0; 5]);
    assert_eq!(next(&mut part).await.unwrap(), vec![1; 5]);
    assert_eq!(next(&mut part).await, None);
    assert_eq!(read(leader).await.body.len(), 50);
}

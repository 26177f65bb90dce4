//! How much memory the bodies under way hold.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{sleep, timeout};
use tower::Layer;
use tower_response_cache::{Cache, CacheHandle, CacheLayer, CacheStatus, Reason};

use crate::{
    common::{Body, Broken, Origin, boxed, eventually, get, head, next, ok, read, send},
    streams::paced,
};

const MIB: usize = 1 << 20;

/// A body of these frames that then hangs.
fn stalled(frames: usize, frame: usize) -> Body {
    let frames = stream::unfold(0, move |sent| async move {
        if sent == frames {
            return std::future::pending().await;
        }
        // Others come in between.
        sleep(Duration::from_millis(1)).await;
        let data = vec![b'x'; frame].into();
        Some((Ok::<_, Broken>(Frame::data(data)), sent + 1))
    });
    boxed(StreamBody::new(Box::pin(frames)))
}

fn cached(
    origin: &Origin,
    max_recording_bytes: usize,
    max_body_bytes: usize,
) -> (Cache<Origin>, CacheHandle) {
    let handle = CacheHandle::builder().max_recording_bytes(max_recording_bytes as u64);
    let handle = handle.build();
    let layer = CacheLayer::builder()
        .handle(&handle)
        .max_body_bytes(max_body_bytes);
    (layer.build().layer(origin.clone()), handle)
}

// Invariants 47, 66.
#[tokio::test(start_paused = true)]
async fn stalled_responses_hold_no_more_than_the_budget_and_every_client_reads_what_there_is() {
    const FRAME: usize = 256 << 10;
    for (clients, frames) in [(1, 28), (2, 28)] {
        let origin = Origin::new(move |_| Response::new(stalled(frames, FRAME)));
        let (cache, handle) = cached(&origin, 16 * MIB, 8 * MIB);
        let most = Arc::new(AtomicUsize::new(0));
        let asks = (0..60 * clients).map(|i| {
            let (cache, handle, most) = (&cache, &handle, most.clone());
            async move {
                let response = head(cache, get(&format!("/{}", i / clients))).await;
                let mut body = response.into_body();
                for _ in 0..frames {
                    assert_eq!(next(&mut body).await.unwrap().len(), FRAME);
                    let held = usize::try_from(handle.stats().recording_bytes).unwrap();
                    most.fetch_max(held, Ordering::SeqCst);
                }
                let more = timeout(Duration::from_secs(60), body.frame()).await;
                assert!(more.is_err(), "it is not broken off");
            }
        });
        join_all(asks).await;
        // Each body that is shared may have one frame under way.
        let under_way = if clients == 1 { 0 } else { 60 * FRAME };
        let most = most.load(Ordering::SeqCst);
        assert!((15 * MIB..=16 * MIB + under_way).contains(&most), "{most}");
        assert_eq!(origin.calls(), 60);
        assert!((55..=60).contains(&handle.stats().unrecorded));
        eventually(|| handle.stats().recording_bytes == 0).await;
    }
}

// Invariants 49, 66.
#[tokio::test(start_paused = true)]
async fn clients_that_do_not_read_hold_no_more_than_the_budget() {
    let origin = Origin::new(|_| Response::new(stalled(16, 64 << 10)));
    let (cache, handle) = cached(&origin, 4 * MIB, 2 * MIB);
    let paths: Vec<_> = (0..20).map(|i| format!("/{i}")).collect();
    let unread = join_all(paths.iter().map(|path| head(&cache, get(path)))).await;
    sleep(Duration::from_secs(60)).await;
    let held = handle.stats().recording_bytes;
    assert!(
        (4 * MIB as u64 - 65_536..=4 * MIB as u64).contains(&held),
        "{held}"
    );
    drop(unread);
    eventually(|| handle.stats().recording_bytes == 0).await;
}

// Invariants 25, 29, 66.
#[tokio::test(start_paused = true)]
async fn with_an_exhausted_budget_new_flights_still_share_one_call_and_store_nothing() {
    let origin = Origin::later(|request| async move {
        sleep(Duration::from_millis(10)).await;
        let body = match request.uri().path() {
            "/stalled" => stalled(10, 100_000),
            _ => paced(
                (0..3).map(|i| vec![i; 1000].into()),
                Duration::from_millis(10),
            ),
        };
        Response::new(body)
    });
    let (cache, handle) = cached(&origin, 1_000_000, MIB);
    let holds_it_all = head(&cache, get("/stalled")).await;
    eventually(|| handle.stats().recording_bytes == 1_000_000).await;
    for round in 1..=2 {
        let answers = join_all((0..50).map(|_| send(&cache, get("/")))).await;
        assert_eq!(origin.calls(), 1 + round, "one call for all");
        for answer in &answers {
            assert_eq!(answer.body.len(), 3000);
            assert!(!answer.cache().is_stored());
        }
        let leaders = answers
            .iter()
            .filter(|answer| !answer.cache().is_collapsed());
        let leaders: Vec<_> = leaders.map(|answer| answer.reason()).collect();
        assert_eq!(leaders, [Some(Reason::RecordingBudget)]);
        let stats = handle.stats();
        assert_eq!(
            (stats.stored, stats.refusals, stats.unrecorded),
            (0, 0, round as u64)
        );
    }
    drop(holds_it_all);
    // Its fill reads on, for those to come, and is over at `fill_timeout`.
    sleep(Duration::from_secs(30)).await;
    eventually(|| handle.stats().recording_bytes == 0).await;
    send(&cache, get("/")).await;
    assert!(send(&cache, get("/")).await.is_hit());
}

// Invariants 47, 66.
#[tokio::test(start_paused = true)]
async fn a_body_at_the_budget_is_stored_and_one_byte_over_it_is_not() {
    for (length, is_stored) in [(1000, true), (1001, false)] {
        for is_announced in [true, false] {
            let origin = Origin::new(move |_| {
                if is_announced {
                    ok(vec![b'x'; length])
                } else {
                    Response::new(paced([vec![b'x'; length].into()], Duration::from_millis(1)))
                }
            });
            let (cache, handle) = cached(&origin, 1000, MIB);
            let first = head(&cache, get("/")).await;
            let status = *first.extensions().get::<CacheStatus>().unwrap();
            // Of an unknown length, nobody can tell in the head.
            let is_told = is_announced && !is_stored;
            assert_eq!(status.reason(), is_told.then_some(Reason::RecordingBudget));
            assert_eq!(read(first).await.body.len(), length);
            eventually(|| handle.stats().fills == 0).await;
            assert_eq!(send(&cache, get("/")).await.is_hit(), is_stored);
            assert_eq!(handle.stats().unrecorded > 0, !is_stored);
        }
    }
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn the_default_budget_fits_the_longest_body_of_any_layer() {
    let handle = CacheHandle::builder().max_bytes(4000).build();
    let origin = Origin::new(|_| Response::new(stalled(20, 1000)));
    let layer = |bytes| {
        let layer = CacheLayer::builder().handle(&handle).max_body_bytes(bytes);
        layer.build().layer(origin.clone())
    };
    let (_small, large) = (layer(500), layer(10_000));
    let unread = join_all(["/1", "/2"].map(|path| head(&large, get(path)))).await;
    sleep(Duration::from_secs(1)).await;
    let held = handle.stats().recording_bytes;
    assert!((9000..=10_000).contains(&held), "{held}");
    drop(unread);
}

/// Counts the buffers that are alive.
struct Buffer(Vec<u8>, Arc<AtomicUsize>);

impl Buffer {
    fn new(bytes: usize, alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self(vec![b'x'; bytes], alive.clone())
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

// Invariant 66.
#[tokio::test(start_paused = true)]
async fn frames_that_are_small_parts_of_large_buffers_do_not_keep_them() {
    for frame in [10, 5000] {
        let alive = Arc::new(AtomicUsize::new(0));
        let counted = alive.clone();
        let origin = Origin::new(move |_| {
            let counted = counted.clone();
            let frames = stream::unfold(0, move |sent| {
                let counted = counted.clone();
                async move {
                    if sent == 20 {
                        sleep(Duration::from_secs(10)).await;
                        return None;
                    }
                    let buffer = Bytes::from_owner(Buffer::new(MIB, &counted));
                    let data = buffer.slice(7..7 + frame);
                    Some((Ok::<_, Broken>(Frame::data(data)), sent + 1))
                }
            });
            Response::new(boxed(StreamBody::new(Box::pin(frames))))
        });
        let (cache, handle) = cached(&origin, MIB, MIB);
        let readers = join_all((0..20).map(|_| head(&cache, get("/")))).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(alive.load(Ordering::SeqCst), 0, "{frame}");
        let held = usize::try_from(handle.stats().recording_bytes).unwrap();
        assert!((20 * frame..20 * frame + 4096).contains(&held), "{held}");
        for reader in readers {
            assert_eq!(read(reader).await.body.len(), 20 * frame);
        }
        assert!(send(&cache, get("/")).await.is_hit());
        assert_eq!(handle.stats().recording_bytes, 0);
    }
}

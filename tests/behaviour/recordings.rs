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
    common::{Body, Broken, Origin, Random, boxed, eventually, get, head, next, ok, read, send},
    scale::scaled,
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

/// One body, the limits of its cache, and those who read it.
#[derive(Debug, Clone)]
struct Scene {
    frames: Vec<Bytes>,
    pause: Duration,
    max_body_bytes: usize,
    budget: usize,
    readers: Vec<Client>,
}

#[derive(Debug, Clone)]
struct Client {
    comes_after: Duration,
    pause: Duration,
    /// After this many frames.
    leaves_after: Option<usize>,
}

impl Scene {
    fn new(random: &mut Random) -> Self {
        let number = random.below(30);
        let mut at: u8 = 0;
        let mut frame = |length| {
            let data = (0..length).map(|_| {
                at = at.wrapping_add(1);
                at
            });
            data.collect()
        };
        let frames = (0..number).map(|_| frame(*random.of(&[0, 1, 10, 100, 4095, 4096, 5000])));
        let frames = frames.collect();
        let millis = |random: &mut Random, choices| Duration::from_millis(*random.of(choices));
        let client = |random: &mut Random| Client {
            comes_after: millis(random, &[0, 0, 1, 5, 50]),
            pause: millis(random, &[0, 0, 1, 20]),
            leaves_after: random.one_in(3).then(|| random.below(10)),
        };
        Self {
            frames,
            pause: millis(random, &[0, 1, 10]),
            max_body_bytes: *random.of(&[0, 10, 1000, 10_000, MIB]),
            budget: *random.of(&[0, 1000, 10_000, 50_000, MIB]),
            readers: (0..=random.below(6)).map(|_| client(random)).collect(),
        }
    }

    fn whole(&self) -> Vec<u8> {
        self.frames.concat()
    }

    /// Every client that stays gets the whole body, and nothing is left behind.
    async fn plays(self) {
        let scene = Arc::new(self);
        let origin = {
            let scene = scene.clone();
            Origin::later(move |_| {
                let scene = scene.clone();
                async move {
                    tokio::task::yield_now().await;
                    Response::new(paced(scene.frames.clone(), scene.pause))
                }
            })
        };
        let (cache, handle) = cached(&origin, scene.budget, scene.max_body_bytes);
        let clients = scene.readers.iter().cloned().map(|client| {
            let (cache, handle, scene) = (cache.clone(), handle.clone(), scene.clone());
            tokio::spawn(async move {
                sleep(client.comes_after).await;
                let mut body = head(&cache, get("/")).await.into_body();
                let (mut read, mut frames) = (Vec::new(), 0);
                while client.leaves_after.is_none_or(|most| frames < most) {
                    sleep(client.pause).await;
                    let Some(data) = next(&mut body).await else {
                        assert_eq!(read, scene.whole());
                        return;
                    };
                    read.extend_from_slice(&data);
                    frames += 1;
                    let held = usize::try_from(handle.stats().recording_bytes).unwrap();
                    // A frame for each body, and each client may have one of its own.
                    assert!(held <= scene.budget + 5000 * 8, "{held}");
                }
                assert!(scene.whole().starts_with(&read));
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        eventually(|| {
            let stats = handle.stats();
            let left = (stats.flights, stats.fills, stats.in_flight);
            (left, stats.recording_bytes) == ((0, 0, 0), 0)
        })
        .await;
        let stored = handle.stats().stored > 0;
        let answer = send(&cache, get("/")).await;
        assert_eq!(
            (answer.is_hit(), answer.body),
            (stored, scene.whole().into())
        );
    }
}

// Invariants 45, 48, 49, 50, 66.
#[tokio::test(start_paused = true)]
async fn whatever_the_limits_and_the_pace_of_clients_each_gets_the_whole_body() {
    for seed in 0..scaled(100) {
        let scene = Scene::new(&mut Random::new(seed as u64 * 2 + 0x9e37_79b9));
        let told = format!(
            "{seed}: {:?} {:?}",
            scene.readers,
            (scene.max_body_bytes, scene.budget)
        );
        let played = tokio::spawn(scene.plays()).await;
        assert!(played.is_ok(), "{told}");
    }
}

// Invariants 45, 48, 49, 50, 66.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_on_several_threads_join_and_leave_a_body_at_any_moment() {
    for seed in 0..scaled(100) {
        let mut scene = Scene::new(&mut Random::new(seed as u64 * 2 + 0x7f4a_7c15));
        scene.pause = Duration::ZERO;
        for client in &mut scene.readers {
            client.comes_after = client.comes_after.min(Duration::from_millis(1));
            client.pause = Duration::ZERO;
        }
        let scenes = (0..4).map(|_| tokio::spawn(scene.clone().plays()));
        for played in scenes.collect::<Vec<_>>() {
            assert!(played.await.is_ok(), "{seed}");
        }
    }
}

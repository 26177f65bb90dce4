//! An origin that goes down and comes back while clients go on asking.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use crate::tools::{Answer, Asked, Origin, Proxy, Step, ok, until};

const CLIENTS: usize = 8;

const PATHS: usize = 50;

/// How long a response is fresh, in milliseconds. Clients allow a second more, for a slow machine.
const TTL: u128 = 1000;

/// How often the origin goes down, and for how long the whole goes on: 15 s and two minutes where `CACHE_TEST_SCALE` is 10 or more.
fn times() -> (Duration, Duration) {
    let scale = std::env::var("CACHE_TEST_SCALE").ok();
    match scale.and_then(|scale| scale.parse().ok()) {
        Some(10_u32..) => (Duration::from_secs(15), Duration::from_secs(120)),
        _ => (Duration::from_millis(1500), Duration::from_secs(6)),
    }
}

/// Its path and the time at which it was made, a few hundred times.
fn page(asked: &Asked, began: Instant) -> Vec<Step> {
    let path = asked.line.split(' ').nth(1).unwrap();
    let line = format!("{path} {}\n", began.elapsed().as_millis());
    ok("", &line.repeat(400))
}

/// What the clients have seen.
#[derive(Default)]
struct Tally {
    whole: AtomicUsize,
    failed: AtomicUsize,
}

impl Tally {
    /// Panics if an answer is torn, another's, or older than it may be.
    fn add(&self, answer: &Answer, path: &str, asked_at: u128) {
        if [502, 503, 504].contains(&answer.status) {
            self.failed.fetch_add(1, SeqCst);
            return;
        }
        assert_eq!((answer.status, answer.is_whole), (200, true), "{answer:?}");
        let first = answer.text().lines().next().unwrap();
        assert!(answer.text().lines().all(|line| line == first));
        assert_eq!(answer.text().lines().count(), 400);
        let (of, made) = first.split_once(' ').unwrap();
        assert_eq!(of, path);
        let made: u128 = made.parse().unwrap();
        assert!(
            made + TTL + 1000 >= asked_at,
            "made at {made}, asked for at {asked_at}"
        );
        self.whole.fetch_add(1, SeqCst);
    }
}

/// Resident memory in KiB, threads and descriptors of a process.
fn taken_by(process: u32) -> [usize; 3] {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let figure = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    [figure("VmRSS:"), figure("Threads:"), descriptors]
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_torn_stale_or_endless_while_the_origin_goes_down_again_and_again() {
    let began = Instant::now();
    let mut origin = Origin::new(move |asked| page(asked, began)).await;
    let address = origin.address;
    let mut proxy = Proxy::before(&origin, &["--mode", "policy", "--ttl", "1"]).await;
    for path in 0..PATHS {
        proxy.get(&format!("/{path}")).await;
    }
    let process = proxy.process().id().unwrap();
    let before = taken_by(process);
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::<Tally>::default());
    let proxy = Arc::new(proxy);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (proxy, stop, tally) = (proxy.clone(), stop.clone(), tally.clone());
        clients.spawn(async move {
            for number in client.. {
                if stop.load(SeqCst) {
                    break;
                }
                let path = format!("/{}", number * 7 % PATHS);
                let asked_at = began.elapsed().as_millis();
                tally.add(&proxy.get(&path).await, &path, asked_at);
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    let (period, whole) = times();
    while began.elapsed() < whole {
        sleep(period * 3 / 4).await;
        origin.goes_down().await;
        sleep(period / 4).await;
        origin = Origin::at(address, move |asked| page(asked, began)).await;
    }
    stop.store(true, SeqCst);
    clients.join_all().await;
    let (ok, failed) = (tally.whole.load(SeqCst), tally.failed.load(SeqCst));
    println!(
        "{ok} whole, {failed} failed; KiB, threads, descriptors: {before:?}, {:?}",
        taken_by(process)
    );
    assert!(ok > 500 && failed > 0, "{ok} {failed}");
    // Connections to the origin of before close within a moment.
    until(|| taken_by(process)[2] <= before[2] + CLIENTS).await;
    let after = taken_by(process);
    assert!(after[0] < before[0] + (32 << 10), "{before:?} {after:?}");
    assert!(after[1] <= before[1] + 2, "{before:?} {after:?}");
}

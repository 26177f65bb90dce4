//! Which early refresh is worth having: a simulation of many keys that expire together, in one process.
//!
//! `cargo bench --bench early_refresh`
//!
//! All keys were stored at one moment, as after a warm-up or a purge. Half a lifetime later requests begin to come, as a
//! Poisson process, and they come for three lifetimes. Misses of a key wait for one call, which may have begun as a
//! refresh. The origin works on [`ORIGIN`] calls at once and lets the others queue; a handler's times are lognormal, and
//! the cache sees them with the time in the queue. There is no clock: time goes from event to event, and chance is
//! seeded, so that the table is the same each time, and so that each strategy is asked the same.
//!
//! "100 ms of 300 s" are the handler's mean time and the lifetime. "Peak calls" counts those that queue. "Calls" is how
//! many a key needs in a given time, beside "nothing". Jitter, thresholds and staleness are shares of the lifetime.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

/// How many calls the origin works on at once.
const ORIGIN: usize = 100;
/// How many refreshes there are in the background at once; a request that finds so many leaves it to a later one.
const BUDGET: usize = 64;
/// How widely a handler's times are spread.
const SIGMA: f64 = 0.5;
const SECOND: Duration = Duration::from_secs(1);

/// What is asked, and of what.
struct Setting {
    name: String,
    keys: usize,
    /// The exponent of Zipf's law; with 0 all keys are asked for alike.
    skew: f64,
    requests_per_second: f64,
    /// What the handler takes on average.
    handler: Duration,
    lifetime: Duration,
}

/// What the cache does about it.
#[derive(Clone, Copy)]
struct Strategy {
    name: &'static str,
    /// By which share of it a lifetime is shortened at most.
    jitter: f64,
    early: Early,
    /// For which share of the lifetime an expired answer is still given, while it is refreshed.
    stale: f64,
}

/// Which request refreshes what has not expired yet.
#[derive(Clone, Copy)]
enum Early {
    Never,
    /// The first one after a share of the lifetime, which each entry draws from between these two.
    Threshold(f64, f64),
    /// Each one after a share of the lifetime, with a chance that grows from none to certainty.
    Ramp(f64),
    /// Each one, with a chance that grows towards expiry, the sooner the longer the last fill took, times this beta:
    /// Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015.
    XFetch(f64),
}

fn main() {
    let measured = std::env::args().any(|arg| arg == "--bench");
    println!(
        "| setting | strategy | waited, % | mean wait, ms | p99.9 wait, ms | peak calls | peak starts in 1 s | calls | stale |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|"
    );
    for setting in settings(measured) {
        let mut usual = None;
        for strategy in strategies() {
            let tally = Simulation::new(&setting, strategy).run();
            let calls = tally.calls as f64 / tally.covered.as_secs_f64();
            let calls = calls / *usual.get_or_insert(calls);
            let row = tally.row(calls);
            println!("| {} | {} | {row} |", setting.name, strategy.name);
        }
    }
}

/// Exponents of Zipf's law.
const UNIFORM: f64 = 0.0;
const ZIPF: f64 = 1.0;

/// Those of the table, or a small one where they are only tried (`cargo test`).
fn settings(measured: bool) -> Vec<Setting> {
    if !measured {
        return vec![Setting::new(200, ZIPF, 100, 1_000, 30)];
    }
    vec![
        Setting::new(10_000, ZIPF, 5_000, 100, 300),
        Setting::new(10_000, UNIFORM, 5_000, 100, 300),
        Setting::new(1_000, ZIPF, 5_000, 100, 300),
        Setting::new(1_000, UNIFORM, 5_000, 100, 300),
        Setting::new(10_000, ZIPF, 5_000, 2_000, 300),
        Setting::new(10_000, UNIFORM, 5_000, 2_000, 300),
        Setting::new(1_000, ZIPF, 5_000, 2_000, 300),
        Setting::new(1_000, UNIFORM, 5_000, 2_000, 300),
        // Few requests, and a lifetime that is short beside the handler's time.
        Setting::new(1_000, UNIFORM, 50, 100, 300),
        Setting::new(100, ZIPF, 5_000, 2_000, 10),
    ]
}

impl Setting {
    /// The handler's time is in milliseconds, the lifetime in seconds.
    fn new(keys: usize, skew: f64, requests: u32, handler: u64, lifetime: u64) -> Self {
        let law = if skew > 0.0 { "Zipf" } else { "uniform" };
        Self {
            name: format!("{keys} keys, {law}, {requests}/s, {handler} ms of {lifetime} s"),
            keys,
            skew,
            requests_per_second: f64::from(requests),
            handler: Duration::from_millis(handler),
            lifetime: Duration::from_secs(lifetime),
        }
    }

    /// The chance of each key or one before it.
    fn popularity(&self) -> Vec<f64> {
        let weight = |rank: usize| (rank as f64).powf(-self.skew);
        let total: f64 = (1..=self.keys).map(weight).sum();
        let sums = (1..=self.keys).scan(0.0, |sum, rank| {
            *sum += weight(rank) / total;
            Some(*sum)
        });
        sums.collect()
    }
}

fn strategies() -> Vec<Strategy> {
    use Early::{Never, Ramp, Threshold, XFetch};
    let strategy = |name, jitter, early, stale| Strategy {
        name,
        jitter,
        early,
        stale,
    };
    vec![
        strategy("nothing", 0.0, Never, 0.0),
        strategy("jitter 0.1", 0.1, Never, 0.0),
        strategy("eager 0.9", 0.0, Threshold(0.9, 0.9), 0.0),
        strategy("eager 0.9, jitter 0.1", 0.1, Threshold(0.9, 0.9), 0.0),
        strategy("eager 0.5", 0.0, Threshold(0.5, 0.5), 0.0),
        strategy("eager, drawn 0.9 to 1", 0.0, Threshold(0.9, 1.0), 0.0),
        strategy("eager, drawn 0.85 to 0.95", 0.0, Threshold(0.85, 0.95), 0.0),
        strategy("ramp from 0.9", 0.0, Ramp(0.9), 0.0),
        strategy("XFetch, beta 1", 0.0, XFetch(1.0), 0.0),
        strategy("XFetch, beta 4", 0.0, XFetch(4.0), 0.0),
        strategy("XFetch, beta 1, jitter 0.1", 0.1, XFetch(1.0), 0.0),
        strategy("stale for 0.1", 0.0, Never, 0.1),
        strategy("eager 0.9, stale for 0.1", 0.0, Threshold(0.9, 0.9), 0.1),
    ]
}

/// Something that happens; where two happen at once, their order is of no account.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Request,
    Answer { key: usize },
}

struct Entry {
    stored: Duration,
    refresh_from: Duration,
    expires: Duration,
    /// How long its fill took, queue and all.
    took: Duration,
    flight: Option<Flight>,
}

struct Flight {
    began: Duration,
    background: bool,
    /// When each request came that waits for it.
    waiting: Vec<Duration>,
}

struct Simulation<'a> {
    setting: &'a Setting,
    strategy: Strategy,
    popularity: Vec<f64>,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    entries: Vec<Entry>,
    /// How many calls the origin works on, and the keys of those that queue.
    running: usize,
    queue: VecDeque<usize>,
    /// How many flights are refreshes in the background.
    background: usize,
    requests: Chance,
    handler: Chance,
    draws: Chance,
    tally: Tally,
}

impl<'a> Simulation<'a> {
    fn new(setting: &'a Setting, strategy: Strategy) -> Self {
        let mut simulation = Self {
            setting,
            strategy,
            popularity: setting.popularity(),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            entries: Vec::new(),
            running: 0,
            queue: VecDeque::new(),
            background: 0,
            requests: Chance(1),
            handler: Chance(2),
            draws: Chance(3),
            tally: Tally::default(),
        };
        for _ in 0..setting.keys {
            let took = simulation.handler_time();
            let entry = simulation.stored(took);
            simulation.entries.push(entry);
        }
        simulation
    }

    fn run(mut self) -> Tally {
        let begin = self.setting.lifetime / 2;
        let end = begin + self.setting.lifetime * 3;
        self.events.push(Reverse((begin, Event::Request)));
        while let Some(Reverse((at, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Request if at >= end => {}
                Event::Request => {
                    self.request();
                    let gap = self.requests.exponential() / self.setting.requests_per_second;
                    let next = at + Duration::from_secs_f64(gap);
                    self.events.push(Reverse((next, Event::Request)));
                }
                Event::Answer { key } => self.answer(key),
            }
        }
        assert!(
            self.running == 0 && self.background == 0,
            "all was answered"
        );
        self.tally
    }

    fn request(&mut self) {
        let chance = self.requests.share();
        let key = self.popularity.partition_point(|sum| *sum <= chance);
        let key = key.min(self.setting.keys - 1);
        self.tally.requests += 1;

        let entry = &self.entries[key];
        let fresh = self.now < entry.expires;
        let stale_until = entry.expires + self.setting.lifetime.mul_f64(self.strategy.stale);
        let flies = entry.flight.is_some();
        if self.now < stale_until {
            self.tally.stale += u64::from(!fresh);
            if !flies && self.background < BUDGET && (!fresh || self.is_early_enough(key)) {
                self.call(key, true);
            }
            return;
        }
        if !flies {
            self.call(key, false);
        }
        let flight = self.entries[key].flight.as_mut().expect("it was called");
        flight.waiting.push(self.now);
    }

    fn is_early_enough(&mut self, key: usize) -> bool {
        let entry = &self.entries[key];
        let left = entry.expires - self.now;
        match self.strategy.early {
            Early::Never => false,
            Early::Threshold(..) => self.now >= entry.refresh_from,
            Early::Ramp(_) => {
                let ramp = entry.expires - entry.refresh_from;
                self.draws.share() >= left.div_duration_f64(ramp)
            }
            Early::XFetch(beta) => entry.took.mul_f64(beta * self.draws.exponential()) >= left,
        }
    }

    fn call(&mut self, key: usize, background: bool) {
        self.background += usize::from(background);
        self.entries[key].flight = Some(Flight {
            began: self.now,
            background,
            waiting: Vec::new(),
        });
        self.queue.push_back(key);
        self.tally.called(self.now, self.running + self.queue.len());
        self.work();
    }

    /// The origin takes the next call from the queue, if it can.
    fn work(&mut self) {
        if self.running < ORIGIN
            && let Some(key) = self.queue.pop_front()
        {
            self.running += 1;
            let done = self.now + self.handler_time();
            self.events.push(Reverse((done, Event::Answer { key })));
        }
    }

    fn answer(&mut self, key: usize) {
        self.running -= 1;
        self.work();
        let flight = self.entries[key].flight.take().expect("it was called");
        self.background -= usize::from(flight.background);
        self.tally.covered += self.now - self.entries[key].stored;
        let waits = flight.waiting.iter().map(|came| self.now - *came);
        self.tally.waits.extend(waits);
        self.entries[key] = self.stored(self.now - flight.began);
    }

    fn stored(&mut self, took: Duration) -> Entry {
        let less = self.strategy.jitter * self.draws.share();
        let lifetime = self.setting.lifetime.mul_f64(1.0 - less);
        let refresh_from = match self.strategy.early {
            Early::Threshold(least, most) => least + (most - least) * self.draws.share(),
            Early::Ramp(from) => from,
            Early::Never | Early::XFetch(_) => 1.0,
        };
        Entry {
            stored: self.now,
            refresh_from: self.now + lifetime.mul_f64(refresh_from),
            expires: self.now + lifetime,
            took,
            flight: None,
        }
    }

    fn handler_time(&mut self) -> Duration {
        let factor = (SIGMA * self.handler.normal() - SIGMA * SIGMA / 2.0).exp();
        self.setting.handler.mul_f64(factor)
    }
}

/// What became of the requests, and what the origin had to bear.
#[derive(Default)]
struct Tally {
    requests: u64,
    stale: u64,
    /// Of those requests that had to wait.
    waits: Vec<Duration>,
    calls: u64,
    /// The time from each entry's storing to that of the next for its key, in sum.
    covered: Duration,
    peak_calls: usize,
    peak_starts: usize,
    /// The calls of the last second.
    recent: VecDeque<Duration>,
}

impl Tally {
    fn called(&mut self, now: Duration, at_once: usize) {
        self.calls += 1;
        self.peak_calls = self.peak_calls.max(at_once);
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|at| *at + SECOND <= now) {
            self.recent.pop_front();
        }
        self.peak_starts = self.peak_starts.max(self.recent.len());
    }

    fn row(mut self, calls: f64) -> String {
        let requests = self.requests as f64;
        let mean = self.waits.iter().sum::<Duration>().as_secs_f64() * 1e3 / requests;
        self.waits.sort_unstable_by_key(|wait| Reverse(*wait));
        let worse = (requests / 1e3) as usize;
        let p999 = self.waits.get(worse).map_or(0.0, Duration::as_secs_f64) * 1e3;
        format!(
            "{:.3} | {mean:.2} | {p999:.0} | {} | {} | {calls:.3} | {}",
            self.waits.len() as f64 * 1e2 / requests,
            self.peak_calls,
            self.peak_starts,
            self.stale
        )
    }
}

/// Random numbers that are the same each time (SplitMix64).
struct Chance(u64);

impl Chance {
    /// From 0 to less than 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// With a mean of 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.share()).ln()
    }

    /// With a mean of 0 and a deviation of 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        let angle = std::f64::consts::TAU * self.share();
        (2.0 * self.exponential()).sqrt() * angle.cos()
    }
}

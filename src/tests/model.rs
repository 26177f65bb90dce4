//! The purge clock under a model checker: every interleaving, and every value that weak memory lets a thread see.
//!
//! `RUSTFLAGS="--cfg model" cargo test --lib --release model`
//!
//! A row in a database has a version, read and written without any ordering of its own. One thread changes it and purges its tag. One fills: it is born,
//! reads the row, and stores what it read. One asks. Once the purge has returned, nobody who asks may be served the
//! old version.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    mutant::Mutant,
    tags::{Force, PurgeClock, Stamp, Targets},
};

const TAG: u64 = 7;
const TARGET: u64 = 8;
const GROUP: u64 = 9;
const OLD: u64 = 0;
const NEW: u64 = 1;

struct World {
    clock: std::sync::Arc<PurgeClock>,
    row: AtomicU64,
    stored: Mutex<Option<Arc<(Stamp, u64)>>>,
    /// Where a violation is noted, if it is not to panic: what is stored cannot be dropped while the model unwinds.
    violated: Option<Violated>,
}

type Violated = std::sync::Arc<std::sync::atomic::AtomicBool>;

impl World {
    fn new(mutant: Option<Mutant>) -> Arc<Self> {
        Self::noting(mutant, None)
    }

    fn noting(mutant: Option<Mutant>, violated: Option<Violated>) -> Arc<Self> {
        let clock = PurgeClock::new(8);
        mutant.into_iter().for_each(|m| clock.mutants.switch_on(m));
        Arc::new(Self {
            clock: std::sync::Arc::new(clock),
            row: AtomicU64::new(OLD),
            stored: Mutex::new(None),
            violated,
        })
    }

    fn fill(&self) {
        let birth = self.clock.bear();
        let version = self.row.load(Ordering::Relaxed);
        if self.clock.may_store(&birth, &[TAG]) {
            let entry = (Stamp::new(birth.at(), [TAG].into()), version);
            *self.stored.lock().unwrap() = Some(Arc::new(entry));
        }
    }

    fn change(&self) {
        self.row.store(NEW, Ordering::Relaxed);
        self.clock.purge(&Targets::any([TAG]), Force::Hard);
    }

    fn ask(&self) -> Option<u64> {
        let arrival = self.clock.arrive();
        let entry = self.stored.lock().unwrap().clone()?;
        self.clock.is_valid(&entry.0, arrival).then_some(entry.1)
    }

    /// Purges softly: who asks afterwards may be served the old version, but is told that it is stale.
    fn change_softly(&self) {
        self.row.store(NEW, Ordering::Relaxed);
        let softly = Force::Soft(tokio::time::Instant::now());
        self.clock.purge(&Targets::any([TAG]), softly);
    }

    fn ask_for_what_is_fresh(&self) -> Option<u64> {
        let arrival = self.clock.arrive();
        let entry = self.stored.lock().unwrap().clone()?;
        let is_fresh = self.clock.is_valid(&entry.0, arrival) && entry.0.stale_since().is_none();
        is_fresh.then_some(entry.1)
    }

    fn must_not_be_fresh_and_old(&self) {
        let answer = self.ask_for_what_is_fresh();
        assert_ne!(
            answer,
            Some(OLD),
            "a softly purged response was served as fresh"
        );
    }

    fn sweep(&self) {
        let sweep = self.clock.begin_sweep();
        let mut stored = self.stored.lock().unwrap();
        if let Some(entry) = &*stored
            && !self.clock.keeps(&entry.0)
        {
            *stored = None;
        }
        drop(stored);
        self.clock.end_sweep(&sweep);
    }

    fn must_not_be_old(&self) {
        let is_old = self.ask() == Some(OLD);
        match &self.violated {
            Some(violated) => drop(violated.fetch_or(is_old, Ordering::SeqCst)),
            None => assert!(!is_old, "a purged response was served"),
        }
    }
}

/// A row in a database that an unsafe request changes, and the one target whose response shows it.
impl World {
    fn fill_for_target(&self) {
        let mut birth = self.clock.bear_for(&[TARGET]);
        let version = self.row.load(Ordering::Relaxed);
        if self.clock.mutants.has(Mutant::PresentTooLate) {
            birth.enter_late(&[TARGET]);
        }
        if self.clock.may_store(&birth, &[TARGET]) {
            let entry = (Stamp::of(&birth, [TARGET].into()), version);
            *self.stored.lock().unwrap() = Some(Arc::new(entry));
        }
    }

    fn change_by_unsafe_request(&self) {
        self.row.store(NEW, Ordering::Relaxed);
        self.clock.invalidate(&[TARGET], &[]);
    }

    fn fill_for_group(&self) {
        let mut birth = self.clock.bear();
        let version = self.row.load(Ordering::Relaxed);
        birth.settle(&[], &[GROUP]);
        if self.clock.may_store(&birth, &[GROUP]) {
            let entry = (Stamp::of(&birth, [GROUP].into()), version);
            *self.stored.lock().unwrap() = Some(Arc::new(entry));
        }
    }

    fn change_by_group(&self) {
        self.row.store(NEW, Ordering::Relaxed);
        self.clock.invalidate(&[], &[GROUP]);
    }

    fn evict(&self) {
        let evicted = self.stored.lock().unwrap().take();
        drop(evicted);
    }
}

fn fill_against_unsafe_request(mutant: Option<Mutant>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(mutant);
        let filling = world.clone();
        let fill = thread::spawn(move || filling.fill_for_target());
        world.change_by_unsafe_request();
        world.must_not_be_old();
        fill.join().unwrap();
        world.must_not_be_old();
    }
}

/// What is stored already is changed, while another response takes its place, or it is evicted.
fn stored_against_unsafe_request(
    mutant: Option<Mutant>,
    violated: Option<Violated>,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::noting(mutant, violated.clone());
        world.fill_for_target();
        let filling = world.clone();
        let fill = thread::spawn(move || {
            filling.evict();
            filling.fill_for_target();
        });
        world.change_by_unsafe_request();
        world.must_not_be_old();
        fill.join().unwrap();
        world.must_not_be_old();
        world.evict();
        assert_eq!(world.clock.targets(), 0, "nothing holds a target any more");
    }
}

fn fill_against_invalidated_group() -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(None);
        let filling = world.clone();
        let fill = thread::spawn(move || filling.fill_for_group());
        world.change_by_group();
        world.must_not_be_old();
        fill.join().unwrap();
        world.must_not_be_old();
    }
}

fn readers_against_unsafe_request() -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(None);
        world.fill_for_target();
        let (reading, evicting) = (world.clone(), world.clone());
        let changed = Arc::new(AtomicU64::new(0));
        let seen = changed.clone();
        let reader = thread::spawn(move || {
            let returned = seen.load(Ordering::Acquire) == 1;
            let answer = reading.ask();
            assert!(!returned || answer != Some(OLD), "served after its change");
        });
        let evictor = thread::spawn(move || evicting.evict());
        world.change_by_unsafe_request();
        changed.store(1, Ordering::Release);
        world.must_not_be_old();
        reader.join().unwrap();
        evictor.join().unwrap();
    }
}

fn explore(preemptions: Option<usize>, run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(run);
}

/// Whether some interleaving breaks the promise.
fn breaks(preemptions: Option<usize>, run: impl Fn() + Send + Sync + 'static) -> bool {
    catch_unwind(AssertUnwindSafe(|| explore(preemptions, run))).is_err()
}

fn fill_against_purge(mutant: Option<Mutant>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(mutant);
        let filling = world.clone();
        let fill = thread::spawn(move || filling.fill());
        world.change();
        world.must_not_be_old();
        fill.join().unwrap();
        world.must_not_be_old();
    }
}

fn fill_against_purge_and_sweep(mutant: Option<Mutant>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(mutant);
        let filling = world.clone();
        let fill = thread::spawn(move || filling.fill());
        world.change();
        world.sweep();
        fill.join().unwrap();
        world.must_not_be_old();
        world.sweep();
        world.must_not_be_old();
    }
}

fn readers_against_purge_and_sweep(mutant: Option<Mutant>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(mutant);
        world.fill();
        let (reading, sweeping) = (world.clone(), world.clone());
        let purged = Arc::new(AtomicU64::new(0));
        let seen = purged.clone();
        // One who asks while it is purged: old or new, unless the purge had returned.
        let reader = thread::spawn(move || {
            let returned = seen.load(Ordering::Acquire) == 1;
            let answer = reading.ask();
            assert!(
                !returned || answer != Some(OLD),
                "a purged response was served"
            );
        });
        let sweeper = thread::spawn(move || sweeping.sweep());
        world.change();
        purged.store(1, Ordering::Release);
        world.must_not_be_old();
        reader.join().unwrap();
        sweeper.join().unwrap();
        world.must_not_be_old();
    }
}

fn fill_against_soft_purge_and_sweep(mutant: Option<Mutant>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(mutant);
        let filling = world.clone();
        let fill = thread::spawn(move || filling.fill());
        world.change_softly();
        world.sweep();
        world.must_not_be_fresh_and_old();
        fill.join().unwrap();
        world.must_not_be_fresh_and_old();
        world.sweep();
        world.must_not_be_fresh_and_old();
    }
}

fn readers_against_soft_purge_and_sweep(
    mutant: Option<Mutant>,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(mutant);
        world.fill();
        let (reading, sweeping) = (world.clone(), world.clone());
        let purged = Arc::new(AtomicU64::new(0));
        let seen = purged.clone();
        let reader = thread::spawn(move || {
            let returned = seen.load(Ordering::Acquire) == 1;
            let answer = reading.ask_for_what_is_fresh();
            assert!(
                !returned || answer != Some(OLD),
                "stale, and served as fresh"
            );
        });
        let sweeper = thread::spawn(move || sweeping.sweep());
        world.change_softly();
        purged.store(1, Ordering::Release);
        world.must_not_be_fresh_and_old();
        reader.join().unwrap();
        sweeper.join().unwrap();
        world.must_not_be_fresh_and_old();
    }
}

/// One who has found what is stored, and uses it after a wait: not if the purge has returned by then.
fn a_long_wait_against_purge_and_sweep(
    mutant: Option<Mutant>,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = World::new(mutant);
        world.fill();
        let waiting = world.clone();
        let purged = Arc::new(AtomicU64::new(0));
        let seen = purged.clone();
        let waiter = thread::spawn(move || {
            let clock = &waiting.clock;
            let arrival = clock.arrive();
            let Some(entry) = waiting.stored.lock().unwrap().clone() else {
                return;
            };
            let _birth = clock.bear();
            if !clock.is_still_valid(&entry.0, arrival) {
                return;
            }
            let returned = seen.load(Ordering::Acquire) == 1;
            let is_served = clock.is_valid_since(&entry.0);
            assert!(!returned || !is_served, "purged, and served after a wait");
        });
        world.change();
        world.sweep();
        purged.store(1, Ordering::Release);
        waiter.join().unwrap();
    }
}

// Invariants 36, 40, 41: exhaustive for two threads.
#[test]
fn what_is_used_after_a_wait_was_not_purged_meanwhile() {
    explore(None, a_long_wait_against_purge_and_sweep(None));
}

#[test]
fn a_mark_dropped_during_a_long_wait_would_show() {
    let mutant = Some(Mutant::MarkDroppedTooEarly);
    assert!(breaks(None, a_long_wait_against_purge_and_sweep(mutant)));
}

// Invariants 38, 40: exhaustive for two threads.
#[test]
fn what_is_purged_softly_is_never_served_as_fresh() {
    explore(None, fill_against_soft_purge_and_sweep(None));
}

// Invariant 40: three threads, up to four preemptions.
#[test]
fn who_asks_while_it_is_softly_purged_and_swept_is_never_served_it_as_fresh() {
    explore(Some(4), readers_against_soft_purge_and_sweep(None));
}

#[test]
fn a_soft_mark_that_a_sweep_forgets_would_show() {
    let mutant = Some(Mutant::SoftMarkForgotten);
    assert!(breaks(None, fill_against_soft_purge_and_sweep(mutant)));
}

// Invariants 36, 38: exhaustive for two threads.
#[test]
fn a_fill_that_races_a_purge_is_never_served_after_it() {
    explore(None, fill_against_purge(None));
}

// Invariants 36, 38, 39, 41: exhaustive for two threads.
#[test]
fn a_mark_outlives_every_fill_that_it_concerns() {
    explore(None, fill_against_purge_and_sweep(None));
}

// Invariants 36, 39, 41: three threads, up to four preemptions.
#[test]
fn who_asks_while_it_is_purged_and_swept_is_never_served_what_is_purged() {
    explore(Some(4), readers_against_purge_and_sweep(None));
}

#[test]
fn a_birth_read_without_order_would_show() {
    assert!(breaks(None, fill_against_purge(Some(Mutant::RelaxedBirth))));
}

#[test]
fn no_check_when_reading_would_show() {
    assert!(breaks(
        None,
        fill_against_purge(Some(Mutant::NoCheckWhenReading))
    ));
}

#[test]
fn a_mark_dropped_too_early_would_show() {
    assert!(breaks(
        None,
        fill_against_purge_and_sweep(Some(Mutant::MarkDroppedTooEarly))
    ));
}

#[test]
fn a_sweep_that_a_reader_does_not_notice_would_show() {
    assert!(breaks(
        Some(4),
        readers_against_purge_and_sweep(Some(Mutant::SweepNotNoticed))
    ));
}

// Invariants 36, 64: exhaustive for two threads.
#[test]
fn a_fill_that_races_an_unsafe_request_to_its_target_is_never_served_after_it() {
    explore(None, fill_against_unsafe_request(None));
}

// Invariants 36, 64: exhaustive for two threads.
#[test]
fn an_unsafe_request_finds_what_is_stored_also_while_it_is_replaced_or_evicted() {
    explore(None, stored_against_unsafe_request(None, None));
}

// Invariant 64: exhaustive for two threads.
#[test]
fn a_fill_that_learns_its_group_after_the_group_was_invalidated_is_never_served() {
    explore(None, fill_against_invalidated_group());
}

// Invariants 36, 64: three threads, up to four preemptions.
#[test]
fn a_reader_never_gets_what_an_unsafe_request_changed_before_it_came() {
    explore(Some(4), readers_against_unsafe_request());
}

#[test]
fn a_target_entered_after_the_handler_has_read_would_show() {
    let mutant = Some(Mutant::PresentTooLate);
    assert!(breaks(None, fill_against_unsafe_request(mutant)));
}

#[test]
fn a_target_that_its_stored_response_does_not_hold_would_show() {
    let mutant = Some(Mutant::PresenceEndsWithFill);
    let violated = Violated::default();
    let seen = Some(violated.clone());
    explore(None, stored_against_unsafe_request(mutant, seen));
    assert!(violated.load(Ordering::SeqCst));
}

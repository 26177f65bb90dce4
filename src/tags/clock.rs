//! The purge clock: when what was purged, and whether a response is older than that.
//!
//! The epoch counts purges. A purge writes its number as a mark on each of its tags, and only then lets the epoch show
//! it. A fill takes the epoch before the inner service is called, and the response keeps it as the time of its birth.
//! A response is valid while no mark on its tags is above its birth. Nothing has to be deleted for that to hold, and
//! there is no index from tags to responses.
//!
//! Marks are given up when nothing older than them can be left: see [`PurgeClock::end_sweep`].

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock, PoisonError},
};

use tokio::time::Instant;

use super::{
    marks::{Force, Marks, TagHash, Targets, Verdict},
    present::{Presence, PresentTargets},
};
use crate::{
    events::{self, Limit},
    mutant::{Mutant, Mutants},
    sync::{AtomicU64, Mutex, MutexGuard, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

#[derive(Debug)]
pub(crate) struct PurgeClock {
    /// How many purges there were. Raised under the lock of `marks`, after them.
    epoch: AtomicU64,
    /// How often marks were dropped. Raised under the lock of `marks`, before they go.
    drops: AtomicU64,
    marks: RwLock<Marks>,
    max_marks: usize,
    limits: events::Limits,
    births: Mutex<Births>,
    /// What unsafe requests can invalidate, and when they did.
    present: Arc<PresentTargets>,
    hasher: RandomState,
    pub(crate) mutants: Mutants,
}

/// Above zero, so that a stamp can be older than everything.
const FIRST_EPOCH: u64 = 1;

/// Births of the fills in flight, by epoch and time: how many of each. Both rise together.
type Births = BTreeMap<(u64, Instant), usize>;

/// What a request notes when it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    epoch: u64,
    drops: u64,
}

/// When a response was born, and of what it tells.
#[derive(Debug)]
pub(crate) struct Stamp {
    born: u64,
    /// Sorted.
    tags: Box<[TagHash]>,
    /// Its targets, which unsafe requests invalidate. `None` if it has none.
    presence: Option<Arc<Presence>>,
    /// No hard mark up to this epoch is above `born`, and a soft one was noted: a hit while nothing was purged is one
    /// comparison.
    valid_at: AtomicU64,
    /// When it was purged softly. Noted before `valid_at` is raised.
    stale_since: OnceLock<Instant>,
}

impl Stamp {
    /// The stamp of a response that is stored: it holds the birth's targets from now on.
    pub(crate) fn of(birth: &Birth, tags: Box<[TagHash]>) -> Self {
        let is_held = !birth.clock.mutants.has(Mutant::PresenceEndsWithFill);
        Self {
            presence: birth.presence.clone().filter(|_| is_held),
            ..Self::new(birth.at, tags)
        }
    }

    pub(crate) fn new(born: u64, mut tags: Box<[TagHash]>) -> Self {
        tags.sort_unstable();
        let valid_at = AtomicU64::new(born);
        Self {
            born,
            tags,
            presence: None,
            valid_at,
            stale_since: OnceLock::new(),
        }
    }

    /// Since when it has been stale because of a soft purge. Asked after [`PurgeClock::is_valid`].
    pub(crate) fn stale_since(&self) -> Option<Instant> {
        self.stale_since.get().copied()
    }

    pub(crate) fn tags(&self) -> &[TagHash] {
        &self.tags
    }

    /// How many rows of the table of targets it holds.
    pub(crate) fn rows(&self) -> usize {
        self.presence.as_ref().map_or(0, |presence| presence.rows())
    }
}

impl PurgeClock {
    pub(crate) fn new(max_marks: usize) -> Self {
        Self {
            epoch: AtomicU64::new(FIRST_EPOCH),
            drops: AtomicU64::new(0),
            marks: RwLock::new(Marks::swept_at(FIRST_EPOCH)),
            max_marks,
            limits: events::Limits::default(),
            births: Mutex::new(Births::new()),
            present: Arc::default(),
            hasher: RandomState::new(),
            mutants: Mutants::default(),
        }
    }

    pub(crate) fn hash_tag(&self, tag: &[u8]) -> TagHash {
        self.hasher.hash_one((0u8, tag))
    }

    /// A request's key is a tag of its own, so that a purge by request is a purge like any other.
    pub(crate) fn hash_key(&self, key: &[u8]) -> TagHash {
        self.hasher.hash_one((1u8, key))
    }

    /// What a request is for, whatever its key: what an unsafe request purges.
    pub(crate) fn hash_target(&self, target: &[u8]) -> TagHash {
        self.hasher.hash_one((2u8, target))
    }

    /// As [`hash_target`](Self::hash_target), of all that is stored for more than one query of a path.
    pub(crate) fn hash_path(&self, path: &[u8]) -> TagHash {
        self.hasher.hash_one((3u8, path))
    }

    /// Every response of a path, whatever its query: what [`Purge::all_queries`](crate::Purge::all_queries) marks.
    pub(crate) fn hash_all_queries(&self, path: &[u8]) -> TagHash {
        self.hasher.hash_one((4u8, path))
    }

    /// Marks these tags. When it returns, every request that arrives finds all that was born before invalid.
    ///
    /// Several tags are one epoch. Beyond `max_marks` the floor is raised: too much is purged, never too little.
    pub(crate) fn purge(&self, targets: &Targets, force: Force) -> u64 {
        self.mark(targets, force, |_| {})
    }

    /// As [`purge`](Self::purge), and what bears these tags and begins until then is not stored.
    pub(crate) fn purge_and_hold_off(&self, targets: &Targets, force: Force, until: Instant) {
        self.mark(targets, force, |marks| {
            marks.hold_off(targets, until, self.max_marks);
        });
    }

    /// From now on nothing is stored that bears one of these tags.
    pub(crate) fn hold(&self, targets: &Targets) {
        self.write_marks().hold(targets);
    }

    /// Marks these tags, and ends a [`hold`](Self::hold) of them, both at once: what is born before is never valid.
    pub(crate) fn purge_and_release(&self, targets: &Targets, force: Force) {
        self.mark(targets, force, |marks| marks.release(targets));
    }

    fn mark(&self, targets: &Targets, force: Force, also: impl FnOnce(&mut Marks)) -> u64 {
        let mut marks = self.write_marks();
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        marks.insert(targets, force, epoch);
        let is_full = marks.len() > self.max_marks;
        if is_full {
            marks.raise_floor_to_half();
        }
        also(&mut marks);
        // The marks stand before the epoch shows them: who reads this epoch, and finds no mark up to it, never will.
        self.epoch.store(epoch, Ordering::Release);
        drop(marks);
        if is_full {
            self.limits.reached(Limit::Marks);
        }
        epoch
    }

    /// An unsafe request has changed these targets, and these cache groups. What is stored for them, or in flight, is invalid for every
    /// request that arrives from now on. Returns the epoch of that, or `None` if nothing is: a fill that begins later calls its handler
    /// after the change.
    pub(crate) fn invalidate(&self, targets: &[TagHash], groups: &[TagHash]) -> Option<u64> {
        // First: a fill that has ended by then has entered its groups, and is found below.
        let is_in_flight = !groups.is_empty() && !self.births().is_empty();
        let mut rows = self.present.find(targets);
        rows.extend(self.present.find(groups));
        if rows.is_empty() && !is_in_flight {
            return None;
        }
        let marks = self.write_marks();
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        for invalidated in rows {
            invalidated.fetch_max(epoch, Ordering::AcqRel);
        }
        if is_in_flight {
            self.present.invalidate_groups(groups, epoch);
        }
        // As for a purge: the marks stand before the epoch shows them.
        self.epoch.store(epoch, Ordering::Release);
        drop(marks);
        Some(epoch)
    }

    /// Makes these targets ones that an unsafe request marks, until the returned value is dropped.
    pub(crate) fn enter(&self, targets: &[TagHash]) -> Presence {
        self.present.enter(targets)
    }

    /// How many targets something is stored for or in flight.
    pub(crate) fn targets(&self) -> usize {
        self.present.len()
    }

    /// How many purges there were.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The time of a request's arrival: taken before it looks at the store or joins a flight.
    pub(crate) fn arrive(&self) -> Arrival {
        // `Acquire`: the marks of every purge up to this epoch are seen by what follows.
        let epoch = self.epoch.load(Ordering::Acquire);
        let drops = self.drops.load(Ordering::Acquire);
        Arrival { epoch, drops }
    }

    /// Returns whether a sweep has dropped marks since a request arrived: for it, no response that a purge concerned is valid.
    pub(crate) fn is_overtaken(&self, arrival: Arrival) -> bool {
        self.drops.load(Ordering::Acquire) != arrival.drops
    }

    /// Whether a stored response may be served to a request that arrived then.
    pub(crate) fn is_valid(&self, stamp: &Stamp, arrival: Arrival) -> bool {
        // `Acquire`: with the epoch, that it has been stale since then is seen.
        if stamp.valid_at.load(Ordering::Acquire) >= arrival.epoch
            || self.mutants.has(Mutant::NoCheckWhenReading)
        {
            return true;
        }
        let marks = self.read_marks();
        // A sweep may have dropped a mark of this response after the response was taken from the store: then that
        // no mark is found says nothing. It is rare; the request looks again, as one that arrives later.
        let overtaken = self.is_overtaken(arrival);
        if (overtaken && !self.mutants.has(Mutant::SweepNotNoticed)) || !note(&marks, stamp) {
            return false;
        }
        stamp.valid_at.fetch_max(arrival.epoch, Ordering::Release);
        true
    }

    /// Whether a stored response is valid now that a request found when it arrived.
    pub(crate) fn is_still_valid(&self, stamp: &Stamp, arrival: Arrival) -> bool {
        if self.mutants.has(Mutant::NoCheckWhenReading) {
            return true;
        }
        // Under the lock: what is dropped after this look has been seen.
        let marks = self.read_marks();
        !self.is_overtaken(arrival) && note(&marks, stamp)
    }

    /// Whether a stored response is valid now that was so when a [`Birth`] was taken which is still alive: no mark that has come
    /// since was dropped.
    pub(crate) fn is_valid_since(&self, stamp: &Stamp) -> bool {
        self.mutants.has(Mutant::NoCheckWhenReading) || note(&self.read_marks(), stamp)
    }

    /// Whether a response that a request waited for may be given to it. Its [`Birth`] must be alive, so that no mark
    /// that concerns it was dropped.
    pub(crate) fn may_share(&self, birth: &Birth, tags: &[TagHash], arrival: Arrival) -> bool {
        let may_share = self.may_share_since(birth.at, tags, arrival);
        may_share && (arrival.epoch <= birth.at || !birth.is_invalidated())
    }

    /// As [`may_share`](Self::may_share), of a response that is not there yet, as far as its birth and some of its tags tell.
    pub(crate) fn may_share_since(&self, born: u64, tags: &[TagHash], arrival: Arrival) -> bool {
        // A mark says when its tag was purged last, not that it was not purged earlier: any mark above `born` may hide
        // one in `(born, arrival]`.
        arrival.epoch <= born
            || self.mutants.has(Mutant::FollowersNotChecked)
            || self.read_marks().verdict(born, tags) == Verdict::Current
    }

    /// Whether a response may be stored: no hard purge came after its birth, and none of its tags is held. What was purged
    /// softly is stored, as stale as it is.
    pub(crate) fn may_store(&self, birth: &Birth, tags: &[TagHash]) -> bool {
        let marks = self.read_marks();
        marks.verdict(birth.at, tags) != Verdict::Purged
            && !birth.is_invalidated()
            && !marks.holds(birth.began, tags)
    }

    /// Whether anything is held off.
    pub(crate) fn holds_off(&self) -> bool {
        self.read_marks().holds_off()
    }

    /// Whether one of these tags is held, so that a response born then is not stored.
    pub(crate) fn holds(&self, birth: &Birth, tags: &[TagHash]) -> bool {
        self.read_marks().holds(birth.began, tags)
    }

    /// What a sweep asks of each stored response: whether it is to be kept. That it was purged softly is noted with it, so that the
    /// mark may go.
    pub(crate) fn keeps(&self, stamp: &Stamp) -> bool {
        let marks = self.read_marks();
        if self.mutants.has(Mutant::SoftMarkForgotten) {
            return marks.verdict(stamp.born, &stamp.tags) != Verdict::Purged;
        }
        note(&marks, stamp)
    }

    /// A fill for these targets is about to call the inner service: its birth, which holds back the marks above it while it is alive.
    pub(crate) fn bear_for(self: &Arc<Self>, targets: &[TagHash]) -> Birth {
        // Before the call: an unsafe request that does not find the target here was answered before it, so that the handler sees what
        // that request has changed.
        let enters = !targets.is_empty() && !self.mutants.has(Mutant::PresentTooLate);
        let presence = enters.then(|| Arc::new(self.present.enter(targets)));
        let mut birth = self.bear();
        birth.presence = presence;
        birth
    }

    /// A birth that holds back the marks above it while it is alive.
    pub(crate) fn bear(self: &Arc<Self>) -> Birth {
        let mut births = self.births();
        // `Acquire`: what the application wrote before a purge of this epoch is seen by the handler.
        let order = if self.mutants.has(Mutant::RelaxedBirth) {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        let at = self.epoch.load(order);
        let began = Instant::now();
        *births.entry((at, began)).or_default() += 1;
        drop(births);
        Birth {
            clock: self.clone(),
            at,
            began,
            presence: None,
        }
    }

    /// Whether a sweep of the store would give back memory, or make marks superfluous.
    pub(crate) fn wants_sweep(&self) -> bool {
        let upto = self.superfluous_after_sweep();
        let marks = self.read_marks();
        self.epoch.load(Ordering::Acquire) > marks.swept
            || marks.oldest().is_some_and(|oldest| oldest <= upto)
    }

    /// A sweep of the store begins: every response in it that it does not [`keep`](Self::keeps) is to be removed.
    pub(crate) fn begin_sweep(&self) -> Sweep {
        let epoch = self.epoch.load(Ordering::Acquire);
        let upto = self.superfluous_after_sweep().min(epoch);
        Sweep { epoch, upto }
    }

    /// The sweep has seen all that was stored when it began: drops the marks that it made superfluous.
    pub(crate) fn end_sweep(&self, sweep: &Sweep) {
        let all_began_after = self.all_began_after();
        let mut marks = self.write_marks();
        marks.swept = sweep.epoch;
        if marks.any_upto(sweep.upto) {
            self.drops.fetch_add(1, Ordering::Release);
        }
        marks.retain_above(sweep.upto);
        marks.end_hold_offs(all_began_after);
    }

    /// No fill in flight began before this, nor will one.
    fn all_began_after(&self) -> Instant {
        let births = self.births();
        let oldest = births.first_key_value().map(|((_, began), _)| *began);
        oldest.unwrap_or_else(Instant::now)
    }

    /// The newest mark that a sweep begun now will leave without a purpose. A mark speaks of responses born before it:
    /// those that are stored now are seen by the sweep, and a fill that could still store one is older than the mark.
    fn superfluous_after_sweep(&self) -> u64 {
        let births = self.births();
        let epoch = self.epoch.load(Ordering::Acquire);
        match births.first_key_value() {
            Some((&(oldest, _), _)) if !self.mutants.has(Mutant::MarkDroppedTooEarly) => {
                oldest.min(epoch)
            }
            _ => epoch,
        }
    }

    pub(crate) fn marks(&self) -> usize {
        self.read_marks().len()
    }

    /// How many fills are in flight, or are still being read of.
    pub(crate) fn in_flight(&self) -> usize {
        self.births().values().sum()
    }

    fn read_marks(&self) -> RwLockReadGuard<'_, Marks> {
        self.marks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_marks(&self) -> RwLockWriteGuard<'_, Marks> {
        self.marks.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn births(&self) -> MutexGuard<'_, Births> {
        self.births.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a stored response is still valid. That it is stale is noted with it.
fn note(marks: &Marks, stamp: &Stamp) -> bool {
    if let Some(presence) = &stamp.presence
        && presence.is_invalidated(stamp.born)
    {
        return false;
    }
    let seen = stamp.valid_at.load(Ordering::Acquire);
    match marks.verdict_since(seen, stamp.born, &stamp.tags) {
        Verdict::Current => true,
        Verdict::Stale(since) => {
            stamp.stale_since.get_or_init(|| since);
            true
        }
        Verdict::Purged => false,
    }
}

/// A sweep of the store that has begun.
#[derive(Debug)]
pub(crate) struct Sweep {
    epoch: u64,
    upto: u64,
}

/// The birth of a response: while it is alive, no mark is dropped that could concern the response.
#[derive(Debug)]
pub(crate) struct Birth {
    clock: Arc<PurgeClock>,
    at: u64,
    began: Instant,
    presence: Option<Arc<Presence>>,
}

impl Birth {
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The response's head is known, and with it for which of the targets it is, and in which cache groups.
    pub(crate) fn settle(&mut self, targets: &[TagHash], groups: &[TagHash]) {
        // The rows of before are released after that: what is marked in those that stay is not lost.
        let presence = self.clock.present.enter_all(targets, groups);
        self.presence = Some(Arc::new(presence));
    }

    /// What a fill must not do: it enters its targets when its handler may have read already.
    #[cfg(all(test, model))]
    pub(crate) fn enter_late(&mut self, targets: &[TagHash]) {
        self.presence = Some(Arc::new(self.clock.present.enter(targets)));
    }

    fn is_invalidated(&self) -> bool {
        let presence = self.presence.as_ref();
        presence.is_some_and(|presence| presence.is_invalidated(self.at))
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        let mut births = self.clock.births();
        let key = (self.at, self.began);
        if let Some(count) = births.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                births.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Arc<PurgeClock> {
        Arc::new(PurgeClock::new(8))
    }

    fn purge(clock: &PurgeClock, tags: impl IntoIterator<Item = TagHash>) {
        clock.purge(&Targets::any(tags), Force::Hard);
    }

    fn is_current(born: u64, tags: &[TagHash], clock: &PurgeClock) -> bool {
        clock.keeps(&Stamp::new(born, tags.into()))
    }

    fn sweep(clock: &PurgeClock) {
        let sweep = clock.begin_sweep();
        clock.end_sweep(&sweep);
    }

    // Invariant 36.
    #[test]
    fn a_purge_invalidates_what_was_born_before_it_and_bears_its_tag() {
        let clock = clock();
        let born = clock.bear().at();
        let (tagged, other) = (Stamp::new(born, [7].into()), Stamp::new(born, [8].into()));
        let before = clock.arrive();
        purge(&clock, [7]);
        let after = clock.arrive();
        assert!(!clock.is_valid(&tagged, after));
        assert!(clock.is_valid(&other, after));
        assert!(
            clock.is_valid(&tagged, before),
            "it was valid when this request arrived"
        );
        let later = Stamp::new(clock.bear().at(), [7].into());
        assert!(clock.is_valid(&later, clock.arrive()));
    }

    #[test]
    fn a_purge_of_everything_needs_no_tag() {
        let clock = clock();
        let stamp = Stamp::new(clock.bear().at(), [].into());
        clock.purge(&Targets::everything(), Force::Hard);
        assert!(!clock.is_valid(&stamp, clock.arrive()));
        assert!(clock.is_valid(&Stamp::new(clock.bear().at(), [].into()), clock.arrive()));
    }

    // Invariants 38, 41.
    #[test]
    fn marks_go_with_the_sweep_and_wait_for_older_fills() {
        let clock = clock();
        let fill = clock.bear();
        purge(&clock, [7]);
        assert!(clock.wants_sweep());
        sweep(&clock);
        assert_eq!(
            clock.marks(),
            1,
            "the fill may still store what bears this tag"
        );
        assert!(!is_current(fill.at(), &[7], &clock));
        assert!(!clock.wants_sweep());
        drop(fill);
        assert!(clock.wants_sweep());
        sweep(&clock);
        assert_eq!(clock.marks(), 0);
        assert!(!clock.wants_sweep());
    }

    // Invariants 36, 39.
    #[test]
    fn a_reader_that_a_sweep_overtook_finds_nothing_valid() {
        let clock = clock();
        let taken_from_the_store = Stamp::new(clock.bear().at(), [7].into());
        purge(&clock, [7]);
        let arrival = clock.arrive();
        sweep(&clock);
        assert_eq!(clock.marks(), 0);
        assert!(!clock.is_valid(&taken_from_the_store, arrival));

        clock.mutants.switch_on(Mutant::SweepNotNoticed);
        assert!(
            clock.is_valid(&taken_from_the_store, arrival),
            "this is what the check is for"
        );
    }

    // Invariant 64.
    #[test]
    fn an_unsafe_request_leaves_no_mark_for_a_target_that_nothing_is_stored_for_or_in_flight() {
        let clock = clock();
        let fill = clock.bear();
        let stamp = Stamp::new(fill.at(), [7].into());
        for target in 100..10_000 {
            assert_eq!(clock.invalidate(&[target], &[]), None);
        }
        assert_eq!((clock.marks(), clock.targets()), (0, 0));
        assert!(clock.is_valid(&stamp, clock.arrive()));
    }

    // Invariants 36, 64.
    #[test]
    fn an_unsafe_request_invalidates_what_is_in_flight_and_what_is_stored_for_its_target() {
        let clock = clock();
        let fill = clock.bear_for(&[7]);
        let other = clock.bear_for(&[8]);
        assert!(clock.invalidate(&[7], &[]).is_some());
        let late = clock.arrive();
        assert!(!clock.may_store(&fill, &[]) && clock.may_store(&other, &[]));
        assert!(clock.may_share(&fill, &[], fill_arrival(&fill)));
        assert!(!clock.may_share(&fill, &[], late) && clock.may_share(&other, &[], late));

        drop(fill);
        let fill = clock.bear_for(&[7]);
        let (stored, kept) = (Stamp::of(&fill, [].into()), Stamp::of(&other, [].into()));
        drop((fill, other));
        assert_eq!(clock.targets(), 2, "what is stored holds its target");
        assert!(clock.is_valid(&stored, clock.arrive()));
        clock.invalidate(&[7], &[]);
        assert!(!clock.is_valid(&stored, clock.arrive()) && !clock.keeps(&stored));
        assert!(clock.is_valid(&kept, clock.arrive()));
        sweep(&clock);
        assert!(
            !clock.is_valid(&stored, clock.arrive()),
            "no sweep forgets it"
        );
        drop((stored, kept));
        assert_eq!((clock.targets(), clock.invalidate(&[7], &[])), (0, None));
    }

    fn fill_arrival(fill: &Birth) -> Arrival {
        Arrival {
            epoch: fill.at(),
            drops: 0,
        }
    }

    // Invariant 64.
    #[test]
    fn a_group_that_is_invalidated_before_a_fill_knows_that_it_is_in_it_counts_all_the_same() {
        let clock = clock();
        assert_eq!(clock.invalidate(&[], &[7]), None, "nothing is in flight");
        let (mut fill, mut other) = (clock.bear(), clock.bear());
        clock.invalidate(&[], &[7]);
        let mut later = clock.bear();
        fill.settle(&[], &[7]);
        other.settle(&[], &[8]);
        later.settle(&[], &[7]);
        assert!(!clock.may_store(&fill, &[]));
        assert!(clock.may_store(&other, &[]) && clock.may_store(&later, &[]));
        clock.invalidate(&[], &[8]);
        assert!(!clock.may_store(&other, &[]) && clock.may_store(&later, &[]));
    }

    // Invariants 36, 64.
    #[test]
    fn a_fill_is_invalidated_by_the_path_only_if_its_response_is_for_many_queries() {
        let clock = clock();
        let (target, path) = (7, 8);
        let bear = || clock.bear_for(&[target, path]);
        let (mut one, mut many, mut both) = (bear(), bear(), bear());
        clock.invalidate(&[path], &[]);
        one.settle(&[target], &[]);
        many.settle(&[target, path], &[]);
        assert!(clock.may_store(&one, &[]) && !clock.may_store(&many, &[]));
        clock.invalidate(&[target], &[]);
        both.settle(&[target], &[9]);
        assert!(!clock.may_store(&one, &[]) && !clock.may_store(&both, &[]));
        drop((one, many));
        assert_eq!(clock.targets(), 2, "the target, and a group");
    }

    // Invariant 43.
    #[test]
    fn a_response_with_many_tags_is_compared_with_few_marks_and_with_more_than_are_kept_in_order() {
        let clock = Arc::new(PurgeClock::new(100_000));
        let tags: Vec<u64> = (0..1024).rev().collect();
        let valid = |stamp: &Stamp| clock.is_valid(stamp, clock.arrive());
        for unrelated in [1, 255, 256, 257, 1000] {
            let stamp = Stamp::new(clock.bear().at(), tags.clone().into());
            for tag in 0..unrelated {
                purge(&clock, [10_000 + tag]);
            }
            assert!(valid(&stamp), "after {unrelated} purges of other tags");
            purge(&clock, [3]);
            for tag in 0..unrelated {
                purge(&clock, [10_000 + tag]);
            }
            assert!(!valid(&stamp), "before {unrelated} purges of other tags");
            let stamp = Stamp::new(clock.bear().at(), tags.clone().into());
            clock.purge(&Targets::all([3, 5000]), Force::Hard);
            assert!(valid(&stamp));
            clock.purge(&Targets::all([3, 5]), Force::Hard);
            assert!(!valid(&stamp));
        }
    }

    #[test]
    fn a_mark_dropped_under_an_older_fill_would_be_missed() {
        let clock = clock();
        clock.mutants.switch_on(Mutant::MarkDroppedTooEarly);
        let fill = clock.bear();
        purge(&clock, [7]);
        sweep(&clock);
        assert!(
            is_current(fill.at(), &[7], &clock),
            "this is what the births are for"
        );
    }

    // Invariants 41, 57.
    #[test]
    fn marks_at_the_limit_stay_and_one_past_it_raises_the_floor() {
        let clock = clock();
        let old = Stamp::new(clock.bear().at(), [100].into());
        for tag in 0..8 {
            purge(&clock, [tag]);
        }
        assert_eq!(clock.marks(), 8);
        assert!(clock.is_valid(&old, clock.arrive()));
        purge(&clock, [8]);
        assert!(clock.marks() <= 5);
        assert!(!clock.is_valid(&old, clock.arrive()), "too much is purged");
        for tag in 0..9 {
            assert!(!is_current(1, &[tag], &clock), "and never too little");
        }
        let new = Stamp::new(clock.bear().at(), [100].into());
        assert!(clock.is_valid(&new, clock.arrive()));
    }

    #[test]
    fn one_purge_of_more_tags_than_there_may_be_marks_purges_everything_before_it() {
        let clock = clock();
        let (tagged, other) = (Stamp::new(1, [3].into()), Stamp::new(1, [100].into()));
        purge(&clock, 0..9);
        assert_eq!(clock.marks(), 0);
        assert!(!clock.is_valid(&tagged, clock.arrive()));
        assert!(!clock.is_valid(&other, clock.arrive()));
    }

    // Invariant 37.
    #[test]
    fn one_who_waited_is_given_nothing_purged_before_it_came() {
        let clock = clock();
        let fill = clock.bear();
        let early = clock.arrive();
        purge(&clock, [7]);
        let late = clock.arrive();
        assert!(clock.may_share(&fill, &[7], early));
        assert!(!clock.may_share(&fill, &[7], late));
        assert!(clock.may_share(&fill, &[8], late));
    }

    fn soft(at: Instant) -> Force {
        Force::Soft(at)
    }

    // Invariant 40.
    #[test]
    fn what_is_purged_softly_is_valid_and_stale_since_then_also_when_its_mark_is_gone() {
        for swept in [false, true] {
            let clock = clock();
            let (stamp, other) = (Stamp::new(1, [7].into()), Stamp::new(1, [8].into()));
            let at = Instant::now();
            clock.purge(&Targets::any([7]), soft(at));
            if swept {
                assert!(clock.keeps(&stamp));
                sweep(&clock);
                assert_eq!(clock.marks(), 0);
            }
            let arrival = clock.arrive();
            assert!(clock.is_valid(&stamp, arrival) && clock.is_valid(&other, arrival));
            assert_eq!((stamp.stale_since(), other.stale_since()), (Some(at), None));
            let later = Stamp::new(clock.bear().at(), [7].into());
            assert!(clock.is_valid(&later, clock.arrive()));
            assert_eq!(later.stale_since(), None);
            purge(&clock, [7]);
            assert!(!clock.is_valid(&stamp, clock.arrive()));
        }
    }

    // Invariant 40.
    #[test]
    fn a_hard_purge_counts_whatever_soft_ones_come_before_and_after() {
        let clock = clock();
        let stamp = Stamp::new(1, [7].into());
        clock.purge(&Targets::any([7]), soft(Instant::now()));
        purge(&clock, [7]);
        clock.purge(&Targets::any([7]), soft(Instant::now()));
        clock.purge(&Targets::everything(), soft(Instant::now()));
        assert!(!clock.is_valid(&stamp, clock.arrive()));
    }

    #[test]
    fn it_is_stale_since_the_first_soft_purge() {
        let clock = clock();
        let (first, second) = (
            Instant::now(),
            Instant::now() + std::time::Duration::from_secs(9),
        );
        let stamp = Stamp::new(1, [7, 8].into());
        clock.purge(&Targets::any([8]), soft(second));
        clock.purge(&Targets::any([7]), soft(first));
        clock.purge(&Targets::everything(), soft(second));
        assert!(clock.is_valid(&stamp, clock.arrive()));
        assert_eq!(stamp.stale_since(), Some(first));
    }

    // Invariants 36, 43.
    #[test]
    fn what_bears_all_tags_of_a_purge_is_purged_and_what_bears_some_is_not() {
        let clock = clock();
        let epoch = clock.arrive().epoch;
        clock.purge(&Targets::all([3, 1, 2, 3]), Force::Hard);
        assert_eq!((clock.marks(), clock.arrive().epoch), (1, epoch + 1));
        let valid = |tags: &[u64]| clock.is_valid(&Stamp::new(1, tags.into()), clock.arrive());
        assert!(!valid(&[1, 2, 3]) && !valid(&[9, 3, 2, 1, 8]));
        assert!(valid(&[1, 2]) && valid(&[2, 3]) && valid(&[1]) && valid(&[]));
        clock.purge(&Targets::all([2]), Force::Hard);
        assert!(!valid(&[1, 2]), "of one tag it is a purge of that");
        assert!(Targets::all([]).is_empty());
    }

    // Invariants 41, 57.
    #[test]
    fn purges_of_several_tags_together_are_bounded_and_beyond_that_too_much_is_purged() {
        let clock = Arc::new(PurgeClock::new(1000));
        for other in 0..64 {
            clock.purge(&Targets::all([0, 100 + other]), Force::Hard);
        }
        let valid = |tags: &[u64]| clock.is_valid(&Stamp::new(1, tags.into()), clock.arrive());
        assert!(valid(&[0]) && !valid(&[0, 163]) && clock.marks() == 64);
        clock.purge(&Targets::all([0, 99]), Force::Hard);
        assert!(!valid(&[0]) && clock.marks() == 65);
        sweep(&clock);
        assert_eq!(clock.marks(), 0);
        // More tags than are looked at together.
        clock.purge(&Targets::all(0..17), Force::Hard);
        let first_sixteen: Vec<u64> = (0..16).collect();
        assert!(!valid(&first_sixteen));
    }

    // Invariant 38.
    #[test]
    fn while_a_tag_is_held_nothing_that_bears_it_is_stored_and_nothing_born_meanwhile_after() {
        let clock = clock();
        let held = Targets::any([7]);
        let before = clock.bear();
        clock.hold(&held);
        clock.hold(&held);
        let between = clock.bear();
        clock.purge_and_release(&held, Force::Hard);
        assert!(!clock.may_store(&before, &[7]) && !clock.may_store(&between, &[7]));
        assert!(
            !clock.may_store(&clock.bear(), &[7]),
            "it is held once more"
        );
        assert!(clock.may_store(&between, &[8]));
        clock.purge_and_release(&held, Force::Hard);
        assert!(!clock.may_store(&between, &[7]));
        assert!(clock.may_store(&clock.bear(), &[7]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_off_is_stored_if_it_began_late_enough_however_late_it_ends() {
        let clock = clock();
        let until = Instant::now() + std::time::Duration::from_secs(2);
        clock.purge_and_hold_off(&Targets::any([7]), Force::Hard, until);
        let early = clock.bear();
        assert!(!clock.may_store(&early, &[7]) && clock.may_store(&early, &[8]));
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        let late = clock.bear();
        purge(&clock, [9]);
        sweep(&clock);
        assert!(!clock.may_store(&early, &[7]), "a sweep must not forget it");
        assert!(clock.may_store(&late, &[7]));
        drop((early, late));
        purge(&clock, [9]);
        sweep(&clock);
        assert!(clock.may_store(&clock.bear(), &[7]));
    }

    // Invariant 57.
    #[tokio::test(start_paused = true)]
    async fn as_many_tags_as_there_may_be_marks_are_held_off_and_with_one_more_everything() {
        let clock = clock();
        let until = Instant::now() + std::time::Duration::from_secs(2);
        let hold_off = |tag| clock.purge_and_hold_off(&Targets::any([tag]), Force::Hard, until);
        (0..8).for_each(hold_off);
        assert!(clock.may_store(&clock.bear(), &[100]));
        hold_off(8);
        assert!(!clock.may_store(&clock.bear(), &[100]));
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        assert!(clock.may_store(&clock.bear(), &[100]));
    }
}

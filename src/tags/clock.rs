//! The purge clock: when what was purged, and whether a response is older than that.
//!
//! The epoch counts purges. A purge writes its number as a mark on each of its tags, and only then lets the epoch show
//! it. A fill takes the epoch before the inner service is called, and the response keeps it as the time of its birth.
//! A response is valid while no mark on its tags is above its birth. Nothing has to be deleted for that to hold, and
//! there is no index from tags to responses.
//!
//! Marks are given up when nothing older than them can be left: see [`PurgeClock::end_sweep`].

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, PoisonError},
};

use crate::{
    mutant::{Mutant, Mutants},
    sync::{AtomicU64, Mutex, MutexGuard, Ordering, RwLock, RwLockReadGuard},
};

/// A tag, or the key of a request, as a keyed 64-bit hash: a collision purges too much, never too little.
pub(crate) type TagHash = u64;

#[derive(Debug)]
pub(crate) struct PurgeClock {
    /// How many purges there were. Raised under the lock of `marks`, after them.
    epoch: AtomicU64,
    /// How often marks were dropped. Raised under the lock of `marks`, before they go.
    drops: AtomicU64,
    marks: RwLock<Marks>,
    max_marks: usize,
    births: Mutex<Births>,
    hasher: RandomState,
    pub(crate) mutants: Mutants,
}

/// Above zero, so that a stamp can be older than everything.
const FIRST_EPOCH: u64 = 1;

/// Births of the fills in flight: how many of each.
type Births = BTreeMap<u64, usize>;

#[derive(Default)]
struct Marks {
    at: HashMap<TagHash, u64>,
    /// No mark is below this.
    oldest: u64,
    /// Everything born below counts as purged.
    floor: u64,
    /// The epoch at which the last sweep began.
    swept: u64,
}

/// How many there are, not which.
impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks")
            .field("marks", &self.at.len())
            .field("floor", &self.floor)
            .finish_non_exhaustive()
    }
}

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
    tags: Box<[TagHash]>,
    /// No mark up to this epoch is above `born`: a hit while nothing was purged is one comparison.
    valid_at: AtomicU64,
}

impl Stamp {
    pub(crate) fn new(born: u64, tags: Box<[TagHash]>) -> Self {
        let valid_at = AtomicU64::new(born);
        Self {
            born,
            tags,
            valid_at,
        }
    }

    pub(crate) fn born(&self) -> u64 {
        self.born
    }

    pub(crate) fn tags(&self) -> &[TagHash] {
        &self.tags
    }
}

impl PurgeClock {
    pub(crate) fn new(max_marks: usize) -> Self {
        Self {
            epoch: AtomicU64::new(FIRST_EPOCH),
            drops: AtomicU64::new(0),
            marks: RwLock::new(Marks {
                swept: FIRST_EPOCH,
                ..Marks::default()
            }),
            max_marks,
            births: Mutex::new(Births::new()),
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

    /// Marks these tags. When it returns, every request that arrives finds all that was born before invalid.
    ///
    /// Several tags are one epoch. Beyond `max_marks` the floor is raised: too much is purged, never too little.
    pub(crate) fn purge(&self, tags: impl IntoIterator<Item = TagHash>) -> u64 {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        for tag in tags {
            marks.insert(tag, epoch);
        }
        if marks.at.len() > self.max_marks {
            marks.raise_floor_to_half();
        }
        // The marks stand before the epoch shows them: who reads this epoch, and finds no mark up to it, never will.
        self.epoch.store(epoch, Ordering::Release);
        epoch
    }

    /// Marks everything.
    pub(crate) fn purge_all(&self) -> u64 {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        marks.raise_floor(epoch);
        self.epoch.store(epoch, Ordering::Release);
        epoch
    }

    /// The time of a request's arrival: taken before it looks at the store or joins a flight.
    pub(crate) fn arrive(&self) -> Arrival {
        // `Acquire`: the marks of every purge up to this epoch are seen by what follows.
        let epoch = self.epoch.load(Ordering::Acquire);
        let drops = self.drops.load(Ordering::Acquire);
        Arrival { epoch, drops }
    }

    /// Whether a stored response may be served to a request that arrived then.
    pub(crate) fn is_valid(&self, stamp: &Stamp, arrival: Arrival) -> bool {
        if stamp.valid_at.load(Ordering::Relaxed) >= arrival.epoch
            || self.mutants.has(Mutant::NoCheckWhenReading)
        {
            return true;
        }
        let marks = self.read_marks();
        // A sweep may have dropped a mark of this response after the response was taken from the store: then that
        // no mark is found says nothing. It is rare, and counts as a miss.
        let overtaken = self.drops.load(Ordering::Relaxed) != arrival.drops;
        if (overtaken && !self.mutants.has(Mutant::SweepNotNoticed))
            || marks.purged(stamp.born, &stamp.tags)
        {
            return false;
        }
        stamp.valid_at.fetch_max(arrival.epoch, Ordering::Relaxed);
        true
    }

    /// Whether no purge at all has come after a stored response that a request found when it arrived: what is asked before
    /// it is used after a wait.
    pub(crate) fn is_still_valid(&self, stamp: &Stamp, arrival: Arrival) -> bool {
        let marks = self.read_marks();
        let overtaken = self.drops.load(Ordering::Relaxed) != arrival.drops;
        !overtaken && !marks.purged(stamp.born, &stamp.tags)
    }

    /// Whether a response that a request waited for may be given to it. Its [`Birth`] must be alive, so that no mark
    /// that concerns it was dropped.
    pub(crate) fn may_share(&self, born: u64, tags: &[TagHash], arrival: Arrival) -> bool {
        // A mark says when its tag was purged last, not that it was not purged earlier: any mark above `born` may hide
        // one in `(born, arrival]`.
        arrival.epoch <= born
            || self.mutants.has(Mutant::FollowersNotChecked)
            || !self.read_marks().purged(born, tags)
    }

    /// Whether no purge came after this birth, for any of these tags: what a store or a sweep asks.
    pub(crate) fn is_current(&self, born: u64, tags: &[TagHash]) -> bool {
        !self.read_marks().purged(born, tags)
    }

    /// A fill is about to call the inner service: its birth, which holds back the marks above it while it is alive.
    pub(crate) fn bear(self: &Arc<Self>) -> Birth {
        let mut births = self.births();
        // `Acquire`: what the application wrote before a purge of this epoch is seen by the handler.
        let order = if self.mutants.has(Mutant::RelaxedBirth) {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        let at = self.epoch.load(order);
        *births.entry(at).or_default() += 1;
        drop(births);
        Birth {
            clock: self.clone(),
            at,
        }
    }

    /// Whether a sweep of the store would give back memory, or make marks superfluous.
    pub(crate) fn wants_sweep(&self) -> bool {
        let upto = self.superfluous_after_sweep();
        let marks = self.read_marks();
        self.epoch.load(Ordering::Acquire) > marks.swept
            || (!marks.at.is_empty() && marks.oldest <= upto)
    }

    /// A sweep of the store begins: every response in it that is not [`is_current`](Self::is_current) is to be removed.
    pub(crate) fn begin_sweep(&self) -> Sweep {
        let epoch = self.epoch.load(Ordering::Acquire);
        let upto = self.superfluous_after_sweep().min(epoch);
        Sweep { epoch, upto }
    }

    /// The sweep has seen all that was stored when it began: drops the marks that it made superfluous.
    pub(crate) fn end_sweep(&self, sweep: &Sweep) {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        marks.swept = sweep.epoch;
        if marks.at.values().any(|&mark| mark <= sweep.upto) {
            self.drops.fetch_add(1, Ordering::Release);
        }
        marks.retain_above(sweep.upto);
    }

    /// The newest mark that a sweep begun now will leave without a purpose. A mark speaks of responses born before it:
    /// those that are stored now are seen by the sweep, and a fill that could still store one is older than the mark.
    fn superfluous_after_sweep(&self) -> u64 {
        let births = self.births();
        let epoch = self.epoch.load(Ordering::Acquire);
        match births.first_key_value() {
            Some((&oldest, _)) if !self.mutants.has(Mutant::MarkDroppedTooEarly) => {
                oldest.min(epoch)
            }
            _ => epoch,
        }
    }

    pub(crate) fn marks(&self) -> usize {
        self.read_marks().at.len()
    }

    /// How many fills are in flight, or are still being read of.
    pub(crate) fn in_flight(&self) -> usize {
        self.births().values().sum()
    }

    fn read_marks(&self) -> RwLockReadGuard<'_, Marks> {
        self.marks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn births(&self) -> MutexGuard<'_, Births> {
        self.births.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Marks {
    fn insert(&mut self, tag: TagHash, epoch: u64) {
        if self.at.is_empty() {
            self.oldest = epoch;
        }
        self.at.insert(tag, epoch);
    }

    fn purged(&self, born: u64, tags: &[TagHash]) -> bool {
        born < self.floor
            || (!self.at.is_empty()
                && tags
                    .iter()
                    .any(|tag| self.at.get(tag).is_some_and(|&mark| mark > born)))
    }

    fn raise_floor(&mut self, floor: u64) {
        self.floor = floor;
        self.retain_above(floor);
    }

    /// A purge of many tags is one epoch, so that more than half may go; never fewer.
    fn raise_floor_to_half(&mut self) {
        let mut epochs: Vec<u64> = self.at.values().copied().collect();
        let half = epochs.len() / 2;
        let (_, &mut median, _) = epochs.select_nth_unstable(half);
        self.raise_floor(median);
    }

    fn retain_above(&mut self, epoch: u64) {
        self.at.retain(|_, &mut mark| mark > epoch);
        self.at.shrink_to_fit();
        self.oldest = self.at.values().copied().min().unwrap_or(epoch);
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
}

impl Birth {
    pub(crate) fn at(&self) -> u64 {
        self.at
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        let mut births = self.clock.births();
        if let Some(count) = births.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                births.remove(&self.at);
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
        clock.purge([7]);
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
        clock.purge_all();
        assert!(!clock.is_valid(&stamp, clock.arrive()));
        assert!(clock.is_valid(&Stamp::new(clock.bear().at(), [].into()), clock.arrive()));
    }

    // Invariants 38, 41.
    #[test]
    fn marks_go_with_the_sweep_and_wait_for_older_fills() {
        let clock = clock();
        let fill = clock.bear();
        clock.purge([7]);
        assert!(clock.wants_sweep());
        sweep(&clock);
        assert_eq!(
            clock.marks(),
            1,
            "the fill may still store what bears this tag"
        );
        assert!(!clock.is_current(fill.at(), &[7]));
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
        clock.purge([7]);
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

    #[test]
    fn a_mark_dropped_under_an_older_fill_would_be_missed() {
        let clock = clock();
        clock.mutants.switch_on(Mutant::MarkDroppedTooEarly);
        let fill = clock.bear();
        clock.purge([7]);
        sweep(&clock);
        assert!(
            clock.is_current(fill.at(), &[7]),
            "this is what the births are for"
        );
    }

    // Invariants 41, 57.
    #[test]
    fn marks_at_the_limit_stay_and_one_past_it_raises_the_floor() {
        let clock = clock();
        let old = Stamp::new(clock.bear().at(), [100].into());
        for tag in 0..8 {
            clock.purge([tag]);
        }
        assert_eq!(clock.marks(), 8);
        assert!(clock.is_valid(&old, clock.arrive()));
        clock.purge([8]);
        assert!(clock.marks() <= 5);
        assert!(!clock.is_valid(&old, clock.arrive()), "too much is purged");
        for tag in 0..9 {
            assert!(!clock.is_current(1, &[tag]), "and never too little");
        }
        let new = Stamp::new(clock.bear().at(), [100].into());
        assert!(clock.is_valid(&new, clock.arrive()));
    }

    #[test]
    fn one_purge_of_more_tags_than_there_may_be_marks_purges_everything_before_it() {
        let clock = clock();
        let (tagged, other) = (Stamp::new(1, [3].into()), Stamp::new(1, [100].into()));
        clock.purge(0..9);
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
        clock.purge([7]);
        let late = clock.arrive();
        assert!(clock.may_share(fill.at(), &[7], early));
        assert!(!clock.may_share(fill.at(), &[7], late));
        assert!(clock.may_share(fill.at(), &[8], late));
    }
}

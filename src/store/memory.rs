//! Memory: moka, bounded in bytes. It is storage only: whether what it holds may be served is decided by who reads it.

use std::{cmp::Reverse, fmt, sync::Arc};

use http::HeaderMap;
use moka::{ops::compute::Op, policy::EvictionPolicy, sync::Cache};

use tokio::time::Instant;

use crate::{
    entry::{Entry, Life},
    key::Fragment,
    vary::Vary,
};

pub(crate) struct Memory {
    cache: Cache<Box<[u8]>, Slot>,
    max_bytes: u64,
}

/// How much it holds, and nothing of what: that is the users'.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("entries", &self.cache.entry_count())
            .field("bytes", &self.cache.weighted_size())
            .field("max_bytes", &self.max_bytes)
            .finish()
    }
}

/// What is stored under one key: a response, or the variants of one, the most recent first (RFC 9111 §4.1).
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    One(Arc<Entry>),
    Variants(Arc<[Arc<Entry>]>),
}

/// What a response is stored in place of, whatever variant that was.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Replaces<'a> {
    Nothing,
    /// It is the answer to whether this has changed.
    Older(&'a Entry),
    /// It is the newer state of this, and nothing if this is not stored any more: it has been replaced or withdrawn meanwhile.
    Itself(&'a Entry),
}

impl Replaces<'_> {
    fn is(self, other: &Entry) -> bool {
        match self {
            Self::Nothing => false,
            // A 304 may have renewed it since it was asked about.
            Self::Older(entry) => entry.lineage.is(&other.lineage),
            Self::Itself(entry) => std::ptr::eq(entry, other),
        }
    }

    /// Whether what was asked about goes when its answer comes. What is stale, and for more requests than that, stays: others may need it.
    fn drops(self, other: &Entry, entry: &Entry) -> bool {
        let is_fresh = || matches!(other.life(Instant::now()), Life::Fresh(_));
        let is_for_fewer = || !entry.head.vary.covers(&other.head.vary);
        let stays = matches!(self, Self::Older(_)) && is_for_fewer() && !is_fresh();
        self.is(other) && !stays
    }

    fn is_there(self, slot: Option<&Slot>) -> bool {
        let Self::Itself(entry) = self else {
            return true;
        };
        let entries = slot.map_or(&[][..], Slot::entries);
        !entry.attempts.are_over() && entries.iter().any(|other| self.is(other))
    }
}

impl Slot {
    pub(crate) fn entries(&self) -> &[Arc<Entry>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Variants(entries) => entries,
        }
    }

    /// Those that a request may be answered by, in the order in which they are to be looked at. What does not say by which fields it was
    /// chosen comes after a fresh one that does (RFC 9111 §4.1).
    pub(crate) fn entries_for(
        &self,
        fragment: &Fragment,
        headers: &HeaderMap,
        now: Instant,
    ) -> impl Iterator<Item = &Arc<Entry>> {
        let entries = self.entries();
        let is_chosen = |entry: &&Arc<Entry>| {
            let head = &entry.head;
            let is_fresh = || matches!(entry.life(now), Life::Fresh(_));
            let is_for = || head.vary.is_for(fragment, headers);
            entries.len() > 1 && head.names_fields && is_for() && is_fresh()
        };
        let has_chosen = entries.iter().any(|entry| is_chosen(&entry));
        let comes_first = move |entry: &&Arc<Entry>| !has_chosen || entry.head.names_fields;
        let first = entries.iter().filter(move |entry| comes_first(entry));
        first.chain(entries.iter().filter(move |entry| !comes_first(entry)))
    }

    fn of(mut entries: Vec<Arc<Entry>>) -> Option<Self> {
        match entries.len() {
            0 => None,
            1 => entries.pop().map(Self::One),
            _ => Some(Self::Variants(entries.into())),
        }
    }

    /// Whether a response whose fill began later than this one's is stored for the same variant: this one's head or body took long.
    fn has_newer(&self, entry: &Entry) -> bool {
        let variant = |other: &&Arc<Entry>| other.head.vary.same_variant(&entry.head.vary);
        let mut same = self.entries().iter().filter(variant);
        same.any(|other| other.head.began > entry.head.began)
    }

    /// With this entry in place of what was stored for the same variant. Beyond so many, the oldest leaves: of the variants
    /// of the page, and of its fragments, so that requests for fragments cost no page.
    fn with(&self, entry: Arc<Entry>, replaces: Replaces<'_>, max_variants: usize) -> Option<Self> {
        let others = self
            .entries()
            .iter()
            .filter(|other| !other.head.vary.same_variant(&entry.head.vary))
            .filter(|other| !replaces.drops(other, &entry))
            .cloned();
        let mut entries: Vec<_> = std::iter::once(entry.clone()).chain(others).collect();
        // Those that came first leave first; what is left is looked at by when it was made.
        entries.sort_by_key(|entry| Reverse(entry.head.received));
        let mut places = [max_variants; 2];
        entries.retain(|entry| {
            let places = &mut places[usize::from(entry.head.vary.fragment().is_page())];
            let is_kept = *places > 0;
            *places = places.saturating_sub(1);
            is_kept
        });
        entries.sort_by_key(|entry| Reverse(entry.head.date));
        Self::of(entries)
    }
}

impl Memory {
    pub(crate) fn new(max_bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, slot: &Slot| {
                slot.entries()
                    .iter()
                    .fold(0, |sum: u32, entry| sum.saturating_add(entry.weight()))
            })
            .eviction_policy(EvictionPolicy::tiny_lfu())
            .build();
        Self { cache, max_bytes }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Slot> {
        self.cache.get(key)
    }

    /// Whether an entry of this weight can be kept at all.
    pub(crate) fn fits(&self, entry: &Entry) -> bool {
        self.has_room_for(u64::from(entry.weight()))
    }

    /// Whether an entry of this weight may be stored at all.
    pub(crate) fn has_room_for(&self, weight: u64) -> bool {
        weight <= self.max_bytes
    }

    /// Stores an entry beside the other variants under its key, in place of an older one of the same variant, and of what it
    /// replaces.
    pub(crate) fn put(
        &self,
        key: &[u8],
        entry: Entry,
        replaces: Replaces<'_>,
        max_variants: usize,
    ) {
        let entry = Arc::new(entry);
        self.cache.entry(key.into()).and_compute_with(|stored| {
            let slot = stored.as_ref().map(moka::Entry::value);
            let is_late = slot.is_some_and(|slot| slot.has_newer(&entry));
            if is_late || !replaces.is_there(slot) {
                return Op::Nop;
            }
            let slot = stored.and_then(|stored| {
                stored
                    .into_value()
                    .with(entry.clone(), replaces, max_variants)
            });
            Op::Put(slot.unwrap_or(Slot::One(entry)))
        });
    }

    /// All that is stored now. What is stored or removed meanwhile may be seen or not.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Arc<Box<[u8]>>, Slot)> + Send {
        self.cache.iter()
    }

    /// Removes those entries under a key that are not to be kept, of what is stored there now; and older ones that they covered,
    /// so that what is gone does not uncover what was there before.
    pub(crate) fn retain(&self, key: &[u8], keep: impl Fn(&Entry) -> bool) {
        self.cache
            .entry(key.into())
            .and_compute_with(|stored| match stored {
                Some(stored) if !stored.value().entries().iter().all(|entry| keep(entry)) => {
                    let entries = stored.value().entries();
                    let mut kept = Vec::new();
                    let mut gone: Vec<&Vary> = Vec::new();
                    for entry in entries {
                        let vary = &entry.head.vary;
                        if keep(entry) && gone.iter().all(|other| vary.same_fields(other)) {
                            kept.push(entry.clone());
                        } else {
                            gone.push(vary);
                        }
                    }
                    Slot::of(kept).map_or(Op::Remove, Op::Put)
                }
                _ => Op::Nop,
            });
    }

    /// Removes this entry, as the last 304 has left it. `false` if it is not there.
    pub(crate) fn take(&self, key: &[u8], entry: &Entry) -> bool {
        let mut was_there = false;
        self.cache
            .entry(key.into())
            .and_compute_with(|stored| match stored {
                Some(stored) => {
                    let entries = stored.value().entries().iter();
                    let kept: Vec<_> = entries
                        .filter(|other| !entry.lineage.is(&other.lineage))
                        .cloned()
                        .collect();
                    was_there = kept.len() < stored.value().entries().len();
                    if was_there {
                        Slot::of(kept).map_or(Op::Remove, Op::Put)
                    } else {
                        Op::Nop
                    }
                }
                None => Op::Nop,
            });
        was_there
    }

    /// Lets go of what was removed or evicted.
    pub(crate) fn settle(&self) {
        self.cache.run_pending_tasks();
    }

    pub(crate) fn entries(&self) -> u64 {
        self.cache.entry_count()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.cache.weighted_size()
    }
}

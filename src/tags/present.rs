//! The targets that something is stored for or in flight, and when an unsafe request last invalidated each.
//!
//! An unsafe request marks a target only if it is in this table, so that requests to ever new targets leave nothing behind. A fill
//! [enters](PresentTargets::enter) its target before it calls the inner service, and the stored response keeps the row until its memory is
//! released. The table is therefore never larger than what is stored and in flight.

use std::{collections::HashMap, fmt, sync::Arc, sync::PoisonError};

use super::marks::{Hashed, TagHash};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

#[derive(Default)]
pub(super) struct PresentTargets {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    rows: HashMap<TagHash, Row, Hashed>,
    /// When a cache group was last invalidated, by its hash modulo [`GROUP_BUCKETS`]. Allocated by the first one.
    groups: Vec<u64>,
}

/// How many fills and stored responses hold a target, and the epoch of its newest invalidation.
struct Row {
    holders: usize,
    invalidated: Arc<AtomicU64>,
}

/// A fill learns its cache groups (RFC 9875) from the response. Invalidations that came before that are found here. Two groups that
/// share a bucket cost a fill that could have been stored, and nothing that is stored.
const GROUP_BUCKETS: usize = 4096;

/// How many targets there are, not which.
impl fmt::Debug for PresentTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentTargets").finish_non_exhaustive()
    }
}

impl PresentTargets {
    /// Enters these targets until the returned value is dropped.
    pub(super) fn enter(self: &Arc<Self>, targets: &[TagHash]) -> Presence {
        self.enter_all(targets, &[])
    }

    /// As [`enter`](Self::enter), with cache groups that the caller's response is in.
    pub(super) fn enter_all(self: &Arc<Self>, targets: &[TagHash], groups: &[TagHash]) -> Presence {
        let mut rows = Vec::with_capacity(targets.len() + groups.len());
        let mut table = self.table();
        rows.extend(targets.iter().map(|target| (*target, table.hold(*target))));
        for group in groups {
            let invalidated = table.hold(*group);
            if let Some(missed) = table.groups.get(bucket(*group)) {
                invalidated.fetch_max(*missed, Ordering::AcqRel);
            }
            rows.push((*group, invalidated));
        }
        drop(table);
        Presence {
            targets: self.clone(),
            rows: rows.into(),
        }
    }

    /// The rows of those targets that are present.
    pub(super) fn find(&self, targets: &[TagHash]) -> Vec<Arc<AtomicU64>> {
        let table = self.table();
        let found = targets.iter().filter_map(|target| table.rows.get(target));
        found.map(|row| row.invalidated.clone()).collect()
    }

    /// Groups are invalidated at this epoch, for fills that have not entered theirs yet.
    pub(super) fn invalidate_groups(&self, groups: &[TagHash], epoch: u64) {
        let mut table = self.table();
        table.groups.resize(GROUP_BUCKETS, 0);
        for group in groups {
            let newest = &mut table.groups[bucket(*group)];
            *newest = epoch.max(*newest);
            // A fill that has entered since the rows were looked up began before this epoch.
            if let Some(row) = table.rows.get(group) {
                row.invalidated.fetch_max(epoch, Ordering::AcqRel);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table().rows.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bucket(group: TagHash) -> usize {
    usize::try_from(group % GROUP_BUCKETS as u64).unwrap_or_default()
}

impl Table {
    fn hold(&mut self, target: TagHash) -> Arc<AtomicU64> {
        let row = self.rows.entry(target).or_insert_with(|| Row {
            holders: 0,
            invalidated: Arc::new(AtomicU64::new(0)),
        });
        row.holders += 1;
        row.invalidated.clone()
    }

    fn release(&mut self, target: TagHash) {
        if let Some(row) = self.rows.get_mut(&target) {
            row.holders -= 1;
            if row.holders == 0 {
                self.rows.remove(&target);
            }
        }
        if self.rows.capacity() > 64 && self.rows.len() < self.rows.capacity() / 8 {
            self.rows.shrink_to_fit();
        }
    }
}

/// The targets and groups of one response, from before the call of its handler until nobody can be given it any more.
pub(crate) struct Presence {
    targets: Arc<PresentTargets>,
    rows: Box<[(TagHash, Arc<AtomicU64>)]>,
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence")
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}

impl Presence {
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Whether an unsafe request has invalidated a response of this birth.
    pub(super) fn is_invalidated(&self, born: u64) -> bool {
        let mut rows = self.rows.iter();
        rows.any(|(_, invalidated)| invalidated.load(Ordering::Acquire) > born)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let mut table = self.targets.table();
        for (target, _) in &self.rows {
            table.release(*target);
        }
    }
}

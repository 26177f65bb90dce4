//! What a purge that refreshes has to fetch anew.

use std::sync::{Arc, atomic::Ordering};

use tokio::task::JoinSet;

use crate::{entry::Entry, shared::Shared, store::Slot, tags::Targets};

/// The responses that a purge concerns, the most used first.
#[derive(Debug)]
pub(crate) struct Work {
    stored: Vec<(Key, Arc<Entry>)>,
    pub(crate) not_recorded: usize,
}

type Key = Arc<Box<[u8]>>;

/// How many are asked for at a time: what is asked for now and then must not wait behind a whole site.
const AT_ONCE: usize = 8;

/// A purge that looks for what it concerns. Until it has, a sweep leaves that in place.
#[derive(Debug)]
pub(crate) struct Collecting<'a>(&'a Shared);

/// How many keys are looked at before others get the core.
const SLICE: usize = 256;

impl<'a> Collecting<'a> {
    pub(crate) fn begin(shared: &'a Shared) -> Self {
        shared.collecting.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }

    /// All that is stored, bears these tags, and was not purged hard.
    pub(crate) async fn all(self, targets: &Targets) -> Work {
        let mut work = Work {
            stored: Vec::new(),
            not_recorded: 0,
        };
        let mut stored = self.0.memory.iter();
        loop {
            let slice: Vec<_> = stored.by_ref().take(SLICE).collect();
            let is_last = slice.len() < SLICE;
            self.concerned(targets, slice, &mut work);
            if is_last {
                break;
            }
            tokio::task::yield_now().await;
        }
        work.stored
            .sort_by_key(|(_, entry)| std::cmp::Reverse(used(entry)));
        work
    }

    fn concerned(&self, targets: &Targets, slice: Vec<(Key, Slot)>, into: &mut Work) {
        let purges = &self.0.purges;
        let arrival = purges.arrive();
        for (key, slot) in slice {
            for entry in slot.entries() {
                if !targets.mean(entry.stamp.tags()) || !purges.is_valid(&entry.stamp, arrival) {
                    continue;
                }
                if entry.recorded.is_some() {
                    into.stored.push((key.clone(), entry.clone()));
                } else {
                    into.not_recorded += 1;
                }
            }
        }
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.0.collecting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Work {
    /// Asks for each again. Returns how many were fetched anew, and how many could not be.
    ///
    /// # Cancel safety
    ///
    /// Dropped, no more calls begin; those that have begun go on.
    pub(crate) async fn run(self, shared: &Arc<Shared>) -> (usize, usize) {
        let (mut refreshed, mut failed) = (0, 0);
        let mut asked = JoinSet::new();
        let mut count = |ended: Result<bool, _>| match ended {
            Ok(true) => refreshed += 1,
            Ok(false) | Err(_) => failed += 1,
        };
        for (key, entry) in self.stored {
            while asked.len() >= AT_ONCE
                && let Some(ended) = asked.join_next().await
            {
                count(ended);
            }
            let again = entry
                .recorded
                .as_ref()
                .and_then(|recorded| recorded.again().upgrade());
            let shared = shared.clone();
            asked.spawn(async move {
                let Some(again) = again else {
                    return false;
                };
                let Some(_place) = shared.refresh_permit().await else {
                    return false;
                };
                again.ask(&key, entry).await
            });
        }
        while let Some(ended) = asked.join_next().await {
            count(ended);
        }
        (refreshed, failed)
    }
}

fn used(entry: &Entry) -> u32 {
    entry
        .recorded
        .as_ref()
        .map_or(0, |recorded| recorded.used())
}

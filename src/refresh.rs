//! What a purge that refreshes has to fetch anew.

use std::{
    cmp::Reverse,
    sync::{Arc, atomic::Ordering},
};

use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    entry::{Again, Entry},
    shared::{InFlight, Shared},
    store::Slot,
    tags::{Targets, scope},
};

/// A purge that looks for what it concerns, and then fetches that anew.
#[derive(Debug)]
pub(crate) struct Refresh {
    shared: Arc<Shared>,
    /// While it lasts, no mark is dropped: what is purged hard meanwhile is known to be.
    _in_flight: InFlight,
    _collecting: Collecting,
    /// Code inside a fill waits for nobody else's call.
    may_wait: bool,
}

/// What came of a refresh.
#[derive(Debug, Default)]
pub(crate) struct Refreshed {
    pub(crate) refreshed: usize,
    pub(crate) failed: usize,
    pub(crate) not_recorded: usize,
}

/// A stored response, with its key and the service that it came from.
struct Stored {
    key: Arc<Box<[u8]>>,
    entry: Arc<Entry>,
    again: Arc<dyn Again>,
    used: u32,
}

/// How many are asked for at a time: what is asked for now and then must not wait behind a whole site.
const AT_ONCE: usize = 8;

/// How many keys are looked at before others get the core.
const SLICE: usize = 256;

impl Refresh {
    /// To be called before the purge, since a sweep follows that.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            _in_flight: shared.bear(),
            _collecting: Collecting::begin(shared),
            may_wait: !scope::inside_a_fill(),
        }
    }

    /// Fetches anew all that is stored and bears these tags, a few at a time, the most used first.
    ///
    /// # Cancel safety
    ///
    /// Dropped, no more calls begin; those that have begun go on.
    pub(crate) async fn run(self, targets: &Targets) -> Refreshed {
        let mut done = Refreshed::default();
        let mut stored = self.concerned(targets, &mut done).await;
        stored.sort_unstable_by_key(|stored| Reverse(stored.used));
        if Handle::try_current().is_err() {
            done.failed = stored.len();
            return done;
        }
        let mut asked = JoinSet::new();
        let mut count = |ended: Result<Option<bool>, _>| match ended {
            Ok(Some(true)) => done.refreshed += 1,
            Ok(Some(false)) | Err(_) => done.failed += 1,
            Ok(None) => {}
        };
        for stored in stored {
            while asked.len() >= AT_ONCE
                && let Some(ended) = asked.join_next().await
            {
                count(ended);
            }
            asked.spawn(stored.ask(self.shared.clone(), self.may_wait));
        }
        while let Some(ended) = asked.join_next().await {
            count(ended);
        }
        done
    }

    /// What is stored, bears these tags, and was not purged hard.
    async fn concerned(&self, targets: &Targets, done: &mut Refreshed) -> Vec<Stored> {
        let mut found = Vec::new();
        let mut all = self.shared.memory.iter();
        loop {
            let slice: Vec<_> = all.by_ref().take(SLICE).map(|(key, _)| key).collect();
            let is_last = slice.len() < SLICE;
            for key in slice {
                self.look_at(&key, targets, &mut found, done);
            }
            if is_last {
                return found;
            }
            tokio::task::yield_now().await;
        }
    }

    fn look_at(
        &self,
        key: &Arc<Box<[u8]>>,
        targets: &Targets,
        found: &mut Vec<Stored>,
        done: &mut Refreshed,
    ) {
        let purges = &self.shared.purges;
        // As a request would: the iterator may bring what a sweep has removed.
        let arrival = purges.arrive();
        let slot = self.shared.memory.get(key);
        let entries = slot.as_ref().map_or(&[][..], Slot::entries);
        let is_concerned = |entry: &&Arc<Entry>| {
            // A response that was fetched since the purge bears no mark: the last check notes the marks that it finds.
            targets.mean(entry.stamp.tags())
                && purges.is_still_valid(&entry.stamp, arrival)
                && entry.stamp.stale_since().is_some()
        };
        for entry in entries.iter().filter(is_concerned) {
            let recorded = entry.recorded.as_ref();
            match recorded.and_then(|recorded| Some((recorded.again()?, recorded.used()))) {
                Some((again, used)) => found.push(Stored {
                    key: key.clone(),
                    entry: entry.clone(),
                    again,
                    used,
                }),
                None => done.not_recorded += 1,
            }
        }
    }
}

impl Stored {
    /// Whether it was fetched anew. `None` if there is nothing left to be: it was purged hard meanwhile.
    async fn ask(self, shared: Arc<Shared>, may_wait: bool) -> Option<bool> {
        let place = shared.refresh_permit().await;
        if !shared.purges.is_valid_since(&self.entry.stamp) {
            return None;
        }
        let Some(place) = place else {
            return Some(false);
        };
        let asked = self.again.ask(&self.key, self.entry, place, may_wait);
        Some(asked.await)
    }
}

/// Until it is dropped, a sweep leaves in place what may have to be fetched anew.
#[derive(Debug)]
struct Collecting(Arc<Shared>);

impl Collecting {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.collecting.fetch_add(1, Ordering::AcqRel);
        Self(shared.clone())
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        self.0.collecting.fetch_sub(1, Ordering::AcqRel);
    }
}

//! What a purge that refreshes has to fetch anew.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::{entry::Entry, shared::Shared, tags::Targets};

/// The responses that a purge concerns, the most used first.
#[derive(Debug)]
pub(crate) struct Work {
    stored: Vec<(Key, Arc<Entry>)>,
    pub(crate) not_recorded: usize,
}

type Key = Arc<Box<[u8]>>;

/// How many are asked for at a time: what is asked for now and then must not wait behind a whole site.
const AT_ONCE: usize = 8;

impl Work {
    /// All that is stored now and bears these tags.
    pub(crate) fn of(shared: &Shared, targets: &Targets) -> Self {
        let mut work = Self {
            stored: Vec::new(),
            not_recorded: 0,
        };
        let arrival = shared.purges.arrive();
        for (key, slot) in shared.memory.iter() {
            for entry in slot.entries() {
                if !targets.mean(entry.stamp.tags())
                    || !shared.purges.is_valid(&entry.stamp, arrival)
                {
                    continue;
                }
                if entry.recorded.is_some() {
                    work.stored.push((key.clone(), entry.clone()));
                } else {
                    work.not_recorded += 1;
                }
            }
        }
        work.stored
            .sort_by_key(|(_, entry)| std::cmp::Reverse(used(entry)));
        work
    }

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

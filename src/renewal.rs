//! An attempt to fetch a stored response anew.

use std::{sync::Arc, time::Duration};

use crate::entry::Entry;

/// One attempt. Dropped before it is settled it has failed, and puts the next one off: whatever becomes of it, nobody has
/// to remember to say so.
#[derive(Debug)]
pub(crate) struct Renewal {
    entry: Arc<Entry>,
    pause: Duration,
    is_settled: bool,
}

impl Renewal {
    /// The attempt of a request that asks for itself.
    pub(crate) fn of(entry: Arc<Entry>, pause: Duration) -> Self {
        Self {
            entry,
            pause,
            is_settled: false,
        }
    }

    /// An attempt for those to come. `None` if another is under way, or it is too early for one.
    pub(crate) fn claim(entry: &Arc<Entry>, pause: Duration, at_most: Duration) -> Option<Self> {
        let claimed = entry.attempts.claim(at_most);
        claimed.then(|| Self::of(entry.clone(), pause))
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// There was no attempt: somebody else makes one, or there is no place for it now.
    pub(crate) fn give_back(mut self) {
        self.is_settled = true;
        self.entry.attempts.give_back();
    }

    /// Another response is stored in its place.
    pub(crate) fn succeed(mut self) {
        self.is_settled = true;
    }

    /// The inner service says that it is no more: from now on it is served to nobody.
    pub(crate) fn end(mut self) -> Arc<Entry> {
        self.is_settled = true;
        self.entry.attempts.end();
        self.entry.clone()
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if !self.is_settled {
            self.entry.attempts.put_off(self.pause);
        }
    }
}

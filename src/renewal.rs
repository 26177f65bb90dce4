//! An attempt to fetch a stored response anew.

use std::{sync::Arc, time::Duration};

use crate::{entry::Entry, events};

/// One attempt. Dropped before it has [begun](Self::begin), there was none; dropped later, before it is settled, it has failed
/// and puts the next one off: whatever becomes of it, nobody has to remember to say so. Only one that
/// [ends with its requester](Self::is_one_requesters) has to be said to have failed.
#[derive(Debug)]
pub(crate) struct Renewal {
    entry: Arc<Entry>,
    pause: Duration,
    stage: Stage,
    is_one_requesters: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Claimed,
    Begun,
    Settled,
}

impl Renewal {
    /// The attempt of a request that asks for itself.
    pub(crate) fn of(entry: Arc<Entry>, pause: Duration) -> Self {
        let renewal = Self {
            entry,
            pause,
            stage: Stage::Claimed,
            is_one_requesters: false,
        };
        renewal.begin()
    }

    /// An attempt for those to come. `None` if another is under way, or it is too early for one.
    pub(crate) fn claim(entry: &Arc<Entry>, pause: Duration, at_most: Duration) -> Option<Self> {
        let claimed = entry.attempts.claim(at_most);
        claimed.then(|| Self {
            entry: entry.clone(),
            pause,
            stage: Stage::Claimed,
            is_one_requesters: false,
        })
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The inner service is about to be asked.
    pub(crate) fn begin(mut self) -> Self {
        self.stage = Stage::Begun;
        self.entry.attempts.begin();
        self
    }

    /// It ends with its requester: that one may leave, and that is no failure.
    pub(crate) fn is_one_requesters(&mut self) {
        self.is_one_requesters = true;
    }

    /// The inner service has failed, or is late.
    pub(crate) fn fail(mut self) {
        self.stage = Stage::Settled;
        self.has_failed();
    }

    fn has_failed(&self) {
        self.entry.attempts.fail(self.pause);
        events::refresh_failed();
    }

    /// Another response is stored in its place.
    pub(crate) fn succeed(mut self) {
        self.stage = Stage::Settled;
        self.entry.attempts.succeed();
    }

    /// The inner service has answered, with what is not stored.
    pub(crate) fn rest(mut self) {
        self.stage = Stage::Settled;
        self.entry.attempts.rest(self.pause);
    }

    /// The inner service says that it is no more: from now on it is served to nobody.
    pub(crate) fn end(mut self) -> Arc<Entry> {
        self.stage = Stage::Settled;
        self.entry.attempts.end();
        self.entry.clone()
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        match self.stage {
            Stage::Claimed => self.entry.attempts.give_back(),
            Stage::Begun if self.is_one_requesters => self.entry.attempts.leave(),
            Stage::Begun => self.has_failed(),
            Stage::Settled => {}
        }
    }
}

//! A stored response that a request uses after a wait.

use std::sync::Arc;

use crate::{
    entry::Entry,
    shared::{InFlight, Shared},
    tags::Arrival,
};

/// While it is held, no mark that concerns the response is dropped: so whether it was purged can be told at the end of any wait.
#[derive(Debug)]
pub(crate) struct Pinned {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
    _in_flight: InFlight,
}

impl Pinned {
    /// `None` if the response was purged since the request found it when it arrived.
    pub(crate) fn new(shared: &Arc<Shared>, entry: &Arc<Entry>, arrival: Arrival) -> Option<Self> {
        // First: a mark that comes between the look and this would not be held.
        let in_flight = shared.bear();
        let is_valid = shared.purges.is_still_valid(&entry.stamp, arrival);
        is_valid.then(|| Self {
            entry: entry.clone(),
            shared: shared.clone(),
            _in_flight: in_flight,
        })
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.shared.purges.is_valid_since(&self.entry.stamp)
    }
}

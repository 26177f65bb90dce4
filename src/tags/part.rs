//! What a response takes over from those that it is made of.
//!
//! A handler may ask the same cache for parts of its answer. Each part tells the fill that encloses it twice: with its
//! head, on what it depends and who may have it ([`Part`]); and at the end of its body, whether that was all
//! ([`PendingPart`]).

use std::sync::Arc;

use tokio::time::Instant;

use super::{CacheScope, Presence, PurgeClock, TagNames, marks::TagHash};
use crate::status::Reason;

/// What a page takes over from a response that it is made of. It is in that response's extensions on its way to the page.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) tags: TagNames,
    /// Hashes that a purge of it marks, on the clock that knows them.
    pub(crate) marks: Option<PartMarks>,
    /// When it stops being fresh. `None` if nothing says so.
    pub(crate) fresh_until: Option<Instant>,
    /// It may not be served stale.
    pub(crate) must_revalidate: bool,
    /// It may be shared, and is not to be stored.
    pub(crate) do_not_store: bool,
    /// Why it is for its requester alone.
    pub(crate) private: Option<Reason>,
    /// Its own scope, which its code may speak to until its body has ended. `None` if all of it is known.
    pub(crate) scope: Option<CacheScope>,
}

/// What a purge of a part marks, or an unsafe request that changes it: such requests are noticed for as long as this is held.
#[derive(Debug, Clone)]
pub(crate) struct PartMarks {
    clock: Arc<PurgeClock>,
    hashes: Box<[TagHash]>,
    _presence: Arc<Presence>,
}

impl PartMarks {
    /// To be made while the part's own [`Presence`] is held.
    pub(crate) fn new(clock: &Arc<PurgeClock>, hashes: impl Into<Box<[TagHash]>>) -> Self {
        let hashes = hashes.into();
        Self {
            clock: clock.clone(),
            _presence: Arc::new(clock.enter(&hashes)),
            hashes,
        }
    }
}

/// The parts of one response.
#[derive(Debug, Default)]
pub(crate) struct Parts(Vec<Part>);

impl Parts {
    pub(crate) fn push(&mut self, part: Part) {
        self.0.push(part);
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flat_map(|part| part.tags.iter())
    }

    /// What a purge of one of the parts marks on this clock, each once.
    pub(crate) fn marks(&self, clock: &Arc<PurgeClock>) -> Vec<TagHash> {
        let known = self.0.iter().filter_map(|part| part.marks.as_ref());
        let known = known.filter(|part| Arc::ptr_eq(&part.clock, clock));
        let mut marks: Vec<_> = known.flat_map(|part| part.hashes.iter().copied()).collect();
        marks.sort_unstable();
        marks.dedup();
        marks
    }

    pub(crate) fn fresh_until(&self) -> Option<Instant> {
        self.0.iter().filter_map(|part| part.fresh_until).min()
    }

    pub(crate) fn must_revalidate(&self) -> bool {
        self.0.iter().any(|part| part.must_revalidate)
    }

    pub(crate) fn do_not_store(&self) -> bool {
        self.0.iter().any(|part| part.do_not_store)
    }

    pub(crate) fn private(&self) -> Option<Reason> {
        self.0.iter().find_map(|part| part.private)
    }
}

/// A part on its way, from its request to the end of its body. Dropped before that, the page does not know on what it depends,
/// unless the part's own fill has come to its end and says so.
#[derive(Debug)]
pub(crate) struct PendingPart {
    page: CacheScope,
    own: Option<CacheScope>,
    settled: bool,
}

impl PendingPart {
    pub(crate) fn of(page: &CacheScope) -> Self {
        page.begin_part();
        Self {
            page: page.clone(),
            own: None,
            settled: false,
        }
    }

    /// The part's head has come. `None` if no more is to be known of it.
    pub(crate) fn begin_body(mut self, mut part: Part) -> Option<Self> {
        self.own = part.scope.take();
        self.page.take_over(part);
        if self.own.is_some() {
            return Some(self);
        }
        self.settle(true);
        None
    }

    /// The scope in which the part's own code runs.
    pub(crate) fn scope(&self) -> Option<&CacheScope> {
        self.own.as_ref()
    }

    /// The part's body has come to its end.
    pub(crate) fn end(mut self) {
        let is_known = self.own.as_ref().is_some_and(CacheScope::is_known);
        self.settle(is_known);
    }

    fn settle(&mut self, is_known: bool) {
        self.settled = true;
        let refused = self.own.as_ref().is_some_and(CacheScope::is_refused);
        self.page.end_part(is_known, refused);
    }
}

impl Drop for PendingPart {
    fn drop(&mut self) {
        if !self.settled {
            let own = self.own.as_ref();
            self.settle(own.is_some_and(|own| own.has_ended() && own.is_known()));
        }
    }
}

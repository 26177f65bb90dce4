//! How far the readers of a recording have come.

use std::{task::Waker, time::Duration};

use smallvec::SmallVec;
use tokio::time::Instant;

/// The readers of one recording, each in a place of its own.
#[derive(Debug, Default)]
pub(super) struct Readers {
    places: SmallVec<[Option<Place>; 1]>,
    /// Places of readers that have left.
    free: Vec<usize>,
    active: usize,
    /// How many of the active are not the requester's own.
    others: usize,
    /// The chunk at which the slowest are, once they are watched, and how many are.
    front: Option<Front>,
}

#[derive(Debug, Clone, Copy)]
struct Front {
    chunk: usize,
    readers: usize,
}

#[derive(Debug)]
struct Place {
    /// The chunk that it reads next.
    chunk: usize,
    /// Since when it has that to read.
    since: Option<Instant>,
    waker: Option<Waker>,
    is_requesters: bool,
    /// The others have gone on without it.
    is_left_behind: bool,
}

impl Readers {
    /// A place for a reader that begins at the start.
    pub(super) fn join(&mut self, is_requesters: bool, is_left_behind: bool) -> usize {
        let place = Place {
            chunk: 0,
            since: None,
            waker: None,
            is_requesters,
            is_left_behind,
        };
        if !is_left_behind {
            self.active += 1;
            self.others += usize::from(!is_requesters);
        }
        if let Some(free) = self.free.pop()
            && let Some(empty) = self.places.get_mut(free)
        {
            *empty = Some(place);
            return free;
        }
        self.places.push(Some(place));
        self.places.len() - 1
    }

    /// Frees a place. Returns whether the slowest of the others may be further on than it was, and the waker, which is to be dropped
    /// outside the lock.
    pub(super) fn leave(&mut self, at: usize) -> (bool, Option<Waker>) {
        let Some(place) = self.places.get_mut(at).and_then(Option::take) else {
            return (false, None);
        };
        self.free.push(at);
        if place.is_left_behind {
            return (false, place.waker);
        }
        self.active -= 1;
        self.others -= usize::from(!place.is_requesters);
        let has_moved = self.active == 0 || self.leaves_front(place.chunk);
        (has_moved, place.waker)
    }

    /// A reader goes on to this chunk. Returns whether the slowest may be further on than it was.
    pub(super) fn move_on(&mut self, at: usize, chunk: usize) -> bool {
        let is_watched = self.front.is_some();
        let Some(place) = self.places.get_mut(at).and_then(Option::as_mut) else {
            return false;
        };
        let from = std::mem::replace(&mut place.chunk, chunk);
        if is_watched {
            place.since = Some(Instant::now());
        }
        self.leaves_front(from)
    }

    fn leaves_front(&mut self, from: usize) -> bool {
        let Some(front) = self.front.as_mut().filter(|front| front.chunk == from) else {
            return false;
        };
        front.readers = front.readers.saturating_sub(1);
        front.readers == 0
    }

    pub(super) fn wait(&mut self, at: usize, waker: &Waker) {
        if let Some(place) = self.places.get_mut(at).and_then(Option::as_mut) {
            match &mut place.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    pub(super) fn take_wakers(&mut self) -> SmallVec<[Waker; 2]> {
        let places = self.places.iter_mut().flatten();
        places.filter_map(|place| place.waker.take()).collect()
    }

    pub(super) fn is_left_behind(&self, at: usize) -> bool {
        let place = self.places.get(at).and_then(Option::as_ref);
        place.is_none_or(|place| place.is_left_behind)
    }

    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Whether others than the requester read.
    pub(super) fn has_others(&self) -> bool {
        self.others > 0
    }

    fn all_active(&self) -> impl Iterator<Item = &Place> {
        let places = self.places.iter().flatten();
        places.filter(|place| !place.is_left_behind)
    }

    /// The chunk that the slowest has to read next.
    pub(super) fn slowest(&self) -> Option<usize> {
        self.all_active().map(|place| place.chunk).min()
    }

    /// From now on counts the readers at this chunk, the first that is kept.
    pub(super) fn watch(&mut self, chunk: usize) {
        if self.front.is_none() {
            let now = Instant::now();
            let places = self.places.iter_mut().flatten();
            places.for_each(|place| place.since = Some(now));
        }
        let readers = self.all_active().filter(|place| place.chunk == chunk);
        let readers = readers.count();
        self.front = Some(Front { chunk, readers });
    }

    /// This chunk is added: who has read all before it has something to read from now on.
    pub(super) fn see_chunk(&mut self, chunk: usize) {
        let now = Instant::now();
        let places = self.places.iter_mut().flatten();
        let waiting = places.filter(|place| place.chunk == chunk);
        waiting.for_each(|place| place.since = Some(now));
    }

    /// Since when the first of those at this chunk has had it to read.
    pub(super) fn stalled_since(&self, chunk: usize) -> Option<Instant> {
        let at_front = self.all_active().filter(|place| place.chunk == chunk);
        at_front.filter_map(|place| place.since).min()
    }

    /// Leaves behind those at this chunk that have had it to read for so long.
    pub(super) fn leave_behind(&mut self, chunk: usize, now: Instant, stall_timeout: Duration) {
        let places = self.places.iter_mut().flatten();
        let stalled = places.filter(|place| {
            let is_over = |since: Instant| now.duration_since(since) >= stall_timeout;
            !place.is_left_behind && place.chunk == chunk && place.since.is_none_or(is_over)
        });
        for place in stalled {
            place.is_left_behind = true;
            self.active -= 1;
            self.others -= usize::from(!place.is_requesters);
        }
    }
}

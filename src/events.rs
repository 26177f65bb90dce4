//! Events for the feature `tracing`: decisions at `debug`, and at `warn` what an operator must know. Without the feature
//! they do nothing.
//!
//! No event has a key, a tag or a path in it; the span in which it is sent says which request it belongs to.

use std::time::Duration;
#[cfg(feature = "tracing")]
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use http::StatusCode;

use crate::status::Reason;

/// The target of all events.
#[cfg(feature = "tracing")]
const TARGET: &str = "tower_response_cache";

/// A response was stored.
pub(crate) fn stored(status: StatusCode, body_bytes: usize, lifetime: Duration) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: TARGET, status = status.as_u16(), body_bytes, ?lifetime, "response stored");
    #[cfg(not(feature = "tracing"))]
    let _ = (status, body_bytes, lifetime);
}

/// A response was not stored, and the cause that the application gave, if it did.
pub(crate) fn not_stored(reason: Reason, cause: Option<&'static str>) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: TARGET, reason = reason.as_str(), cause, "response not stored");
    #[cfg(not(feature = "tracing"))]
    let _ = (reason, cause);
}

/// Stored responses were purged or invalidated.
pub(crate) fn purged(verb: &'static str, marks: usize) {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: TARGET, verb, marks, "stored responses purged");
    #[cfg(not(feature = "tracing"))]
    let _ = (verb, marks);
}

/// A stored response could not be refreshed or revalidated.
pub(crate) fn refresh_failed() {
    #[cfg(feature = "tracing")]
    tracing::debug!(target: TARGET, "refresh of a stored response failed");
}

/// A limit of a handle or a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Fills,
    Refreshes,
    Waiters,
    Marks,
    Recordings,
}

impl Limit {
    #[cfg(feature = "tracing")]
    const fn name(self) -> &'static str {
        match self {
            Self::Fills => "max_concurrent_fills",
            Self::Refreshes => "max_concurrent_refreshes",
            Self::Waiters => "max_waiters",
            Self::Marks => "max_marks",
            Self::Recordings => "max_recording_bytes",
        }
    }
}

/// The limits that were reached, each reported at most once a minute.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    #[cfg(feature = "tracing")]
    throttles: [Throttle; 5],
}

impl Limits {
    /// A request or a purge has met this limit.
    #[cfg_attr(
        not(feature = "tracing"),
        expect(clippy::unused_self, reason = "there are no events")
    )]
    pub(crate) fn reached(&self, limit: Limit) {
        #[cfg(feature = "tracing")]
        if let Some(times) = self.throttles[limit as usize].passes() {
            tracing::warn!(target: TARGET, limit = limit.name(), times, "a limit was reached");
        }
        #[cfg(not(feature = "tracing"))]
        let _ = limit;
    }
}

/// Lets one of many like events through: at most one a minute.
#[cfg(feature = "tracing")]
#[derive(Debug)]
pub(crate) struct Throttle {
    /// The second of this process from which the next one passes.
    next: AtomicU64,
    /// How many have come since the last one passed.
    held: AtomicU64,
}

#[cfg(feature = "tracing")]
impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "tracing")]
impl Throttle {
    const PAUSE_SECONDS: u64 = 60;

    pub(crate) const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            held: AtomicU64::new(0),
        }
    }

    /// How many events this one stands for, if it passes.
    pub(crate) fn passes(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        self.passes_at(START.get_or_init(Instant::now).elapsed().as_secs())
    }

    fn passes_at(&self, now: u64) -> Option<u64> {
        self.held.fetch_add(1, Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let later = now + Self::PAUSE_SECONDS;
        let passes = now >= next
            && self
                .next
                .compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        passes.then(|| self.held.swap(0, Ordering::Relaxed))
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_events_passes_each_minute_and_says_how_many_there_were() {
        let throttle = Throttle::new();
        assert_eq!(throttle.passes_at(0), Some(1));
        assert_eq!((1..60).find_map(|now| throttle.passes_at(now)), None);
        assert_eq!(throttle.passes_at(60), Some(60));
        assert_eq!(throttle.passes_at(119), None);
        assert_eq!(throttle.passes_at(120), Some(2));
    }
}

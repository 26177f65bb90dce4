//! How often each reason was given.

use std::{
    array, fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::status::Reason;

/// How many responses were not answered from the cache or not stored, for each [`Reason`]: bypasses, refusals, failures, and the cache's own
/// 503 and 504. A response that is found not to be storable while its body comes in counts as well; stale responses that are served do not.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{CacheHandle, Reason};
///
/// let stats = CacheHandle::builder().build().stats();
/// assert_eq!(stats.reasons.get(Reason::TooManyTags), 0);
/// for (reason, count) in stats.reasons.iter() {
///     println!("{}: {count}", reason.as_str());
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReasonCounts([u64; COUNT]);

/// The counters behind it.
pub(crate) struct ReasonCounters([AtomicU64; COUNT]);

const COUNT: usize = Reason::ALL.len();

impl ReasonCounts {
    /// How often this reason was given.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, Reason};
    /// let stats = CacheHandle::builder().build().stats();
    /// assert_eq!(stats.reasons.get(Reason::SetCookie), 0);
    /// ```
    #[must_use]
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// The reasons that were given at least once, with how often each was.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheHandle;
    /// assert_eq!(CacheHandle::builder().build().stats().reasons.iter().count(), 0);
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = Reason::ALL.iter().copied().zip(self.0);
        counts.filter(|(_, count)| *count > 0)
    }
}

impl Default for ReasonCounts {
    fn default() -> Self {
        Self([0; COUNT])
    }
}

/// Those that were given.
impl fmt::Debug for ReasonCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.iter().map(|(reason, count)| (reason.as_str(), count));
        f.debug_map().entries(given).finish()
    }
}

impl ReasonCounters {
    pub(crate) fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> ReasonCounts {
        ReasonCounts(array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }
}

impl Default for ReasonCounters {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl fmt::Debug for ReasonCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

//! Time, as all of the cache reads it: tokio's, so that a test can pause it.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

/// A point in time so far away that nobody waits for it stands for those that cannot be told.
pub(crate) fn deadline_in(duration: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    let now = Instant::now();
    now.checked_add(duration).unwrap_or(now + FAR)
}

/// A duration, less up to this many thousandths of it: as many as chance decides.
pub(crate) fn shortened(duration: Duration, thousandths: u32) -> Duration {
    if thousandths == 0 {
        return duration;
    }
    let chance = RandomState::new().hash_one(duration) % 1000;
    let less = u64::from(thousandths) * chance;
    let less = duration / 1_000_000 * u32::try_from(less).unwrap_or(0);
    duration.saturating_sub(less)
}

/// The future's output, or `None` if the deadline comes first. Outside a runtime there is nothing that would tell the
/// time, and no deadline.
pub(crate) async fn before<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    if Handle::try_current().is_err() {
        return Some(future.await);
    }
    timeout_at(deadline, future).await.ok()
}

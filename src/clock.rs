//! Time, as all of the cache reads it: tokio's, so that a test can pause it.

use std::time::Duration;

use tokio::time::Instant;

/// A point in time so far away that nobody waits for it stands for those that cannot be told.
pub(crate) fn deadline_in(duration: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    let now = Instant::now();
    now.checked_add(duration).unwrap_or(now + FAR)
}

//! What is known of the attempts to fetch a stored response anew.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock::{deadline_in, shortened};

/// Of one stored response. Looked at only when that is stale, or soon will be.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Until then, an attempt in the background has it for itself.
    claimed_until: Option<Instant>,
    /// Until then, nobody tries again.
    put_off_until: Option<Instant>,
    failures: u32,
    under_way: u32,
    /// The attempt under way has been counted as a failure: somebody has waited for it in vain. Until then nobody else does.
    overdue_until: Option<Instant>,
    /// The inner service has said that the response is no more.
    is_over: bool,
}

impl Attempts {
    /// Takes the next attempt for itself, for this long at the most. `false` if another is under way, or it is too early.
    pub(crate) fn claim(&self, at_most: Duration) -> bool {
        let mut known = self.lock();
        let may = known.is_free(Instant::now());
        if may {
            known.claimed_until = Some(deadline_in(at_most));
        }
        may
    }

    /// Whether the next attempt could be [claimed](Self::claim).
    pub(crate) fn are_free(&self) -> bool {
        self.lock().is_free(Instant::now())
    }

    /// The inner service is about to be asked.
    pub(crate) fn begin(&self) {
        self.lock().under_way += 1;
    }

    /// One that had begun has brought something.
    pub(crate) fn succeed(&self) {
        self.lock().end();
    }

    /// One that had begun was broken off, and not by the inner service.
    pub(crate) fn leave(&self) {
        let mut known = self.lock();
        known.end();
        known.claimed_until = None;
    }

    /// There was no attempt.
    pub(crate) fn give_back(&self) {
        self.lock().claimed_until = None;
    }

    /// No more attempts for this long at least, and for longer after each that fails: eight times as long at the most.
    /// Chance adds up to a quarter, so that what failed together is not tried again together.
    pub(crate) fn fail(&self, pause: Duration) {
        let mut known = self.lock();
        known.claimed_until = None;
        if !known.end() {
            known.failures = known.failures.saturating_add(1);
            known.put_off(pause);
        }
    }

    /// Somebody has waited in vain for the attempt that is under way, and that takes so long at the most. However many do, that is
    /// one failure.
    pub(crate) fn are_overdue(&self, pause: Duration, at_most: Duration) {
        let mut known = self.lock();
        if known.is_put_off(Instant::now()) {
            return;
        }
        known.failures = known.failures.saturating_add(1);
        known.overdue_until = (known.under_way > 0).then(|| deadline_in(at_most));
        known.put_off(pause);
    }

    /// The inner service has answered, and its answer is not stored: there is no attempt in the background for as long as after
    /// a failure. Those who ask for themselves may.
    pub(crate) fn rest(&self, pause: Duration) {
        let mut known = self.lock();
        known.end();
        known.failures = known.failures.saturating_add(1);
        known.claimed_until = Some(known.end_of(pause));
    }

    /// Whether the last attempt failed, and it is too early for another; or one is under way that takes too long.
    pub(crate) fn are_put_off(&self, now: Instant) -> bool {
        self.lock().is_put_off(now)
    }

    /// The inner service has said that the response is no more.
    pub(crate) fn end(&self) {
        let mut known = self.lock();
        known.is_over = true;
        known.end();
    }

    pub(crate) fn are_over(&self) -> bool {
        self.lock().is_over
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// An attempt has ended. Whether it has been counted as a failure already.
    fn end(&mut self) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        self.overdue_until.take().is_some()
    }

    fn is_free(&self, now: Instant) -> bool {
        let is_claimed = self.claimed_until.is_some_and(|until| now < until);
        !is_claimed && !self.is_put_off(now) && !self.is_over
    }

    /// Nobody waits a second time for an attempt that somebody has waited for in vain.
    fn is_put_off(&self, now: Instant) -> bool {
        let is_ahead = |until: Option<Instant>| until.is_some_and(|until| now < until);
        is_ahead(self.overdue_until) || is_ahead(self.put_off_until)
    }

    fn put_off(&mut self, pause: Duration) {
        self.put_off_until = Some(self.end_of(pause));
    }

    fn end_of(&self, pause: Duration) -> Instant {
        let earlier = self.failures.saturating_sub(1);
        let pause = pause.saturating_mul(1 << earlier.min(3));
        // What chance takes off is no more than what was put on.
        let pause = pause.saturating_add(pause / 4);
        deadline_in(shortened(pause, 200))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    // Invariant 16.
    #[tokio::test(start_paused = true)]
    async fn each_failure_puts_the_next_attempt_off_and_never_for_less_than_the_pause() {
        let attempts = Attempts::default();
        for times in [1, 2, 4, 8, 8] {
            let (began, expected) = (Instant::now(), PAUSE * times);
            attempts.fail(PAUSE);
            assert!(attempts.are_put_off(began + expected - Duration::from_millis(1)));
            assert!(!attempts.are_put_off(began + expected * 5 / 4));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_any_length_is_a_pause() {
        let attempts = Attempts::default();
        attempts.fail(Duration::MAX);
        assert!(attempts.are_put_off(Instant::now()));
        let attempts = Attempts::default();
        attempts.fail(Duration::ZERO);
        assert!(!attempts.are_put_off(Instant::now()));
    }
}

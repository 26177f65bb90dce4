//! How many bytes the bodies under way may hold together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The budget of one handle, for the recordings of all its layers.
#[derive(Debug)]
pub(crate) struct Budget {
    max: AtomicU64,
    /// The application has chosen it, so that no layer raises it.
    is_fixed: bool,
    held: AtomicU64,
    /// How many bodies were not recorded to their end because it was exhausted.
    exceeded: AtomicU64,
}

impl Budget {
    /// `chosen` bytes, else a quarter of what responses may take in memory.
    pub(crate) fn new(chosen: Option<u64>, max_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            max: AtomicU64::new(chosen.unwrap_or(max_bytes / 4)),
            is_fixed: chosen.is_some(),
            held: AtomicU64::new(0),
            exceeded: AtomicU64::new(0),
        })
    }

    /// Raises the default so that the longest body of a layer fits.
    pub(crate) fn fit(&self, max_body_bytes: usize) {
        if !self.is_fixed {
            self.max.fetch_max(max_body_bytes as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether this much more is too much. With nothing more: whether it is exhausted.
    pub(crate) fn is_exceeded_by(&self, more: u64) -> bool {
        let (held, max) = (self.held(), self.max.load(Ordering::Relaxed));
        held.saturating_add(more.max(1)) > max
    }

    /// Counts a body that is not recorded to its end.
    pub(crate) fn count_exceeded(&self) {
        self.exceeded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn exceeded(&self) -> u64 {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// Takes these bytes if they fit.
    fn try_take(&self, bytes: u64) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let taken = |held: u64| held.checked_add(bytes).filter(|&held| held <= max);
        let update = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        update.is_ok()
    }
}

/// What one recording holds of the budget. Dropped, it gives it back.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    held: u64,
}

impl Charge {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: budget.clone(),
            held: 0,
        }
    }

    /// Takes these bytes, unless the budget has no room for them.
    pub(super) fn try_add(&mut self, bytes: usize) -> bool {
        let taken = self.budget.try_take(bytes as u64);
        if taken {
            self.held += bytes as u64;
        }
        taken
    }

    /// Takes these bytes, whether or not the budget has room for them.
    pub(super) fn add(&mut self, bytes: usize) {
        self.held += bytes as u64;
        self.budget.held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn subtract(&mut self, bytes: usize) {
        let bytes = self.held.min(bytes as u64);
        self.held -= bytes;
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.budget.is_exceeded_by(0)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Invariant 66.
    #[test]
    fn the_budget_is_taken_to_the_last_byte_and_given_back() {
        let budget = Budget::new(Some(10), 1000);
        let (mut one, mut two) = (Charge::new(&budget), Charge::new(&budget));
        assert!(one.try_add(6) && two.try_add(4));
        assert!(!two.try_add(1) && one.is_exhausted());
        two.add(5);
        assert_eq!(budget.held(), 15);
        two.subtract(5);
        assert_eq!(budget.held(), 10);
        drop(one);
        assert_eq!(budget.held(), 4);
        assert!(!two.is_exhausted() && !budget.is_exceeded_by(6));
        assert!(budget.is_exceeded_by(7));
    }

    #[test]
    fn the_default_is_a_quarter_of_memory_and_fits_the_longest_body() {
        let by_default = Budget::new(None, 4000);
        assert!(!by_default.is_exceeded_by(1000) && by_default.is_exceeded_by(1001));
        by_default.fit(999);
        assert!(by_default.is_exceeded_by(1001));
        by_default.fit(5000);
        assert!(!by_default.is_exceeded_by(5000) && by_default.is_exceeded_by(5001));
        let chosen = Budget::new(Some(100), 4000);
        chosen.fit(5000);
        assert!(chosen.is_exceeded_by(101));
    }
}

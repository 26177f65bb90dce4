//! Deliberate faults, switched on in this crate's own tests only: each shows that a test would see the fault.

/// A fault that a test is known to catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The fill takes its stamp when the handler has answered.
    StampAfterHandler,
    /// The birth is read without seeing what came before the purge that it shows.
    RelaxedBirth,
    /// A stored response is not held against the marks.
    NoCheckWhenReading,
    /// A response that was waited for is not held against the marks.
    FollowersNotChecked,
    /// A mark is dropped while an older fill is in flight.
    MarkDroppedTooEarly,
    /// A reader that a sweep overtook trusts that it found no mark.
    SweepNotNoticed,
    /// What the inner service says has not changed is stored anew, though it was purged meanwhile.
    RenewedThoughPurged,
    /// A page does not hear of the parts that it is made of.
    PartsForgotten,
    /// A page is stored although it is not known what its parts depend on.
    UnknownPartsStored,
    /// A sweep drops the mark of a soft purge, and does not note with the response that it is stale.
    SoftMarkForgotten,
    /// A fill enters its target only when its handler has answered.
    PresentTooLate,
    /// A target is not held by what is stored for it.
    PresenceEndsWithFill,
}

/// Which fault is switched on, if any: none, outside this crate's tests.
#[derive(Debug, Default)]
pub(crate) struct Mutants {
    #[cfg(test)]
    on: std::sync::OnceLock<Mutant>,
}

impl Mutants {
    #[cfg(test)]
    pub(crate) fn switch_on(&self, mutant: Mutant) {
        let _ = self.on.set(mutant);
    }

    #[cfg(test)]
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.on.get() == Some(&mutant)
    }

    #[cfg(not(test))]
    pub(crate) const fn has(&self, _: Mutant) -> bool {
        false
    }
}

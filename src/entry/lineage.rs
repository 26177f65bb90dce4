//! One stored response through its revalidations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Identifies a stored response through its revalidations: each 304 makes a new entry of the same lineage, with the same body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lineage(Arc<Mutex<()>>);

impl Lineage {
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Held from looking up the newest entry until its successor is stored, so that overlapping 304s compose instead of both
    /// starting from the same entry. Only revalidations take it, never a hit, and nothing is awaited while it is held.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

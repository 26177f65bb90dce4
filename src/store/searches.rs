//! What of a query matters, by path, as the newest response of each has said.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use moka::sync::Cache;

use crate::{field::NoVarySearch, key::KeyBytes};

/// Bounded, and kept apart from what is stored: what is forgotten of it makes misses, and nothing else.
pub(crate) struct Searches {
    known: Cache<Path, Arc<NoVarySearch>>,
    /// Whether there ever was one: where nobody says so, looking for it costs next to nothing.
    any: AtomicBool,
    /// Whether a layer heeds them.
    heeded: AtomicBool,
}

/// The host and path that a rule is for.
type Path = Box<[u8]>;

/// What all of it may take, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What one takes besides its path and itself.
const RULE_BYTES: usize = 128;

impl Searches {
    pub(crate) fn new() -> Self {
        let known = Cache::builder().max_capacity(MAX_BYTES).weigher(
            |path: &Path, rule: &Arc<NoVarySearch>| {
                u32::try_from(path.len() + rule.weight() + RULE_BYTES).unwrap_or(u32::MAX)
            },
        );
        Self {
            known: known.build(),
            any: AtomicBool::new(false),
            heeded: AtomicBool::new(false),
        }
    }

    /// A layer heeds what responses say of it.
    pub(crate) fn heed(&self) {
        self.heeded.store(true, Ordering::Release);
    }

    /// Whether what is stored may be for more queries than the one that it answered.
    pub(crate) fn are_heeded(&self) -> bool {
        self.heeded.load(Ordering::Acquire)
    }

    /// The rule of this path, which is made only if any is known.
    pub(crate) fn get(&self, path: impl FnOnce() -> KeyBytes) -> Option<Arc<NoVarySearch>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.known.get(&*path())
    }

    /// The newest response of a path has said so, or nothing of it.
    pub(crate) fn learn(&self, path: &[u8], rule: Option<&Arc<NoVarySearch>>) {
        match rule {
            Some(rule) => {
                self.known.insert(path.into(), rule.clone());
                self.any.store(true, Ordering::Release);
            }
            None if self.any.load(Ordering::Acquire) => self.known.invalidate(path),
            None => {}
        }
    }
}

impl fmt::Debug for Searches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Searches")
            .field("known", &self.known.entry_count())
            .finish()
    }
}

//! Which paths a layer has seen, as far as a few kilobytes can tell.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// A set of paths, by one hash each, in 8 KiB. It may hold paths that were never added: with 10,000 paths, one in seven.
pub(crate) struct PathFilter(Box<[AtomicU64; Self::WORDS]>);

impl PathFilter {
    const WORDS: usize = 1024;

    fn place(hash: u64) -> (usize, u64) {
        let bit = hash % (Self::WORDS as u64 * 64);
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    pub(crate) fn add(&self, hash: u64) {
        let (word, bit) = Self::place(hash);
        // Most paths are there already, and a line that is only read is shared by all cores.
        if self.0[word].load(Ordering::Relaxed) & bit == 0 {
            self.0[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(crate) fn may_have(&self, hash: u64) -> bool {
        let (word, bit) = Self::place(hash);
        self.0[word].load(Ordering::Relaxed) & bit != 0
    }
}

impl Default for PathFilter {
    fn default() -> Self {
        Self(Box::new([const { AtomicU64::new(0) }; Self::WORDS]))
    }
}

impl fmt::Debug for PathFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathFilter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_all_that_was_added_and_little_else() {
        let filter = PathFilter::default();
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        assert!((0..1000).all(|number| !filter.may_have(hash(number))));
        (0..1000).for_each(|number| filter.add(hash(number)));
        assert!((0..1000).all(|number| filter.may_have(hash(number))));
        let others = (1000..11_000).filter(|number| filter.may_have(hash(*number)));
        assert!(others.count() < 500);
    }
}

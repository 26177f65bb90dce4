//! A request that is to be answered by the inner service, whatever is stored: those that warm the cache.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use http::Extensions;

use crate::shared::Shared;

/// In the extensions of such a request. No client can put it there.
#[derive(Debug, Clone)]
pub(crate) struct Anew {
    /// The layers of this cache heed it.
    cache: Weak<Shared>,
    stored: Arc<AtomicBool>,
}

impl Anew {
    pub(crate) fn new(cache: &Arc<Shared>) -> Self {
        Self {
            cache: Arc::downgrade(cache),
            stored: Arc::default(),
        }
    }

    /// What a request says of it to this cache. A layer further in heeds it too, and tells nobody.
    pub(crate) fn heed(extensions: &mut Extensions, cache: &Arc<Shared>) -> Option<Self> {
        let anew = extensions.get_mut::<Self>()?;
        let is_meant = std::ptr::eq(anew.cache.as_ptr(), Arc::as_ptr(cache));
        is_meant.then(|| std::mem::replace(anew, Self::new(cache)))
    }

    /// The answer is stored.
    pub(crate) fn stored(&self) {
        self.stored.store(true, Ordering::Release);
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }
}

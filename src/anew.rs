//! A request that is to be answered by the inner service, whatever is stored: those that warm the cache.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use http::Extensions;
use tokio::sync::Notify;

use crate::shared::Shared;

/// In the extensions of such a request. No client can put it there.
#[derive(Debug, Clone)]
pub(crate) struct Anew {
    /// The layers of this cache heed it.
    cache: Weak<Shared>,
    outcome: Arc<Outcome>,
}

/// What became of it, for who sent it.
#[derive(Debug, Default)]
struct Outcome {
    is_heeded: AtomicBool,
    is_stored: AtomicBool,
    /// Told when it is known that the answer will not be stored.
    refused: Notify,
}

impl Anew {
    pub(crate) fn new(cache: &Arc<Shared>) -> Self {
        Self {
            cache: Arc::downgrade(cache),
            outcome: Arc::default(),
        }
    }

    /// What a request says of it to this cache. A layer further in heeds it too, and tells nobody.
    pub(crate) fn heed(extensions: &mut Extensions, cache: &Arc<Shared>) -> Option<Self> {
        let anew = extensions.get_mut::<Self>()?;
        let is_meant = std::ptr::eq(anew.cache.as_ptr(), Arc::as_ptr(cache));
        is_meant.then(|| {
            anew.outcome.is_heeded.store(true, Ordering::Release);
            std::mem::replace(anew, Self::new(cache))
        })
    }

    /// The answer is stored.
    pub(crate) fn stored(&self) {
        self.outcome.is_stored.store(true, Ordering::Release);
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.outcome.is_stored.load(Ordering::Acquire)
    }

    /// The answer will not be stored: nobody need read the rest of it.
    pub(crate) fn refused(&self) {
        self.outcome.refused.notify_one();
    }

    /// Waits until it is known that the answer will not be stored.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn until_refused(&self) {
        self.outcome.refused.notified().await;
    }

    /// A layer of this cache has seen the request.
    pub(crate) fn is_heeded(&self) -> bool {
        self.outcome.is_heeded.load(Ordering::Acquire)
    }
}

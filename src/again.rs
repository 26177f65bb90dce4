//! A service, kept so that it can be asked again.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use crate::{
    anew::Anew,
    config::Config,
    entry::{Again, AgainCell, Cells, Entry},
    error::BoxError,
    key::{Identity, KeyBytes},
    lookup::{Lookup, Missing},
    respond::{Missed, Origin},
    shared::Keyed,
};

/// Shared by all clones of a service. What is stored keeps it, so that it can be asked again when they are gone: some routers make a
/// service for each connection, or each request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept(Arc<OnceLock<Arc<AgainCell>>>);

impl Kept {
    /// What is kept; made of this, the first time.
    pub(crate) fn get(
        &self,
        layer: &Cells,
        again: impl FnOnce() -> Arc<dyn Again>,
    ) -> Arc<AgainCell> {
        let kept = self.0.get_or_init(|| {
            let cell = Arc::new(AgainCell::new(again()));
            layer.add(&cell);
            cell
        });
        kept.clone()
    }
}

/// An inner service, to be asked with bodies that are made so.
pub(crate) struct Inner<S, ReqB> {
    config: Arc<Config>,
    keys: Arc<dyn Keyed>,
    /// Locked to be cloned, no longer: it need not be `Sync`.
    inner: Mutex<S>,
    make_body: fn(Bytes) -> ReqB,
}

impl<S: Clone, ReqB> Inner<S, ReqB> {
    pub(crate) fn new(
        config: &Arc<Config>,
        keys: &Arc<dyn Keyed>,
        inner: &S,
        make_body: fn(Bytes) -> ReqB,
    ) -> Self {
        Self {
            config: config.clone(),
            keys: keys.clone(),
            inner: Mutex::new(inner.clone()),
            make_body,
        }
    }
}

impl<S, ReqB> fmt::Debug for Inner<S, ReqB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl<S, ReqB, ResB> Again for Inner<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    fn ask(
        self: Arc<Self>,
        key: &[u8],
        entry: Arc<Entry>,
        place: OwnedSemaphorePermit,
        may_wait: bool,
    ) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let recorded = entry.recorded.as_ref();
        let Some((mut parts, asked)) = recorded.and_then(|recorded| recorded.request()) else {
            return Box::pin(std::future::ready(false));
        };
        // Layers of this cache further in are asked anew too.
        parts.extensions.insert(Anew::new(&self.config.shared));
        let mut lookup = Lookup::new(&self.config);
        lookup.key = KeyBytes::from_slice(key);
        lookup.reach = asked.reach;
        let identity = self
            .config
            .selection
            .identity(&parts.method, &parts.headers);
        lookup.identity = identity.unwrap_or(Identity::Authorized);
        lookup.fragment = entry.head.vary.fragment().clone();
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = Missed {
            config: self.config.clone(),
            inner: inner.clone(),
            request: (parts, (self.make_body)(asked.body.clone())),
            lookup,
            missing: Missing::renewed(&entry),
            outer: None,
            pinned: None,
            renewal: None,
            origin: Some(Origin {
                again: asked.again,
                keys: self.keys.clone(),
                body: asked.body,
                tags: asked.tags,
            }),
            anew: None,
        };
        drop(inner);
        Box::pin(missed.renew(entry.clone(), place, may_wait))
    }
}

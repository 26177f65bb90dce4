//! What the application holds: purge, shut down, and see what is there.

use std::{
    num::NonZeroUsize,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{Request, Response, request};
use http_body::Body;
use tower_service::Service;

use crate::{
    clock::deadline_in,
    explanation::Explanation,
    purge::{Purge, PurgeGuard},
    reasons::ReasonCounts,
    shared::{Limits, Shared},
    tags::{Tagged, Targets, scope},
    warm::Warming,
};

/// The application's hold on a cache: purges, figures, a graceful end.
///
/// Several layers may share one: then they have one capacity and one tag space. They do not answer each other's
/// requests, unless they bear the same [`name`](crate::CacheLayerBuilder::name).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{CacheHandle, CacheLayer, Tag};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), tower_response_cache::PurgeError> {
/// let handle = CacheHandle::builder().max_bytes(256 << 20).build();
/// let pages = CacheLayer::builder().handle(&handle).ttl(Duration::from_secs(3600)).build();
/// let search = CacheLayer::builder().handle(&handle).ttl(Duration::from_secs(60)).build();
///
/// handle.purge(Tag::new("products")).await?; // whatever it is that shows products, on either layer
/// # let _ = (pages, search);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CacheHandle {
    shared: Arc<Shared>,
}

impl CacheHandle {
    /// Builds a handle that several layers share. A layer without one has one of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = tower_response_cache::CacheHandle::builder().build();
    /// # let _ = handle;
    /// ```
    pub fn builder() -> CacheHandleBuilder {
        CacheHandleBuilder {
            limits: Limits::default(),
            namespace: String::new(),
            version: String::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Purges every response that bears any of these tags.
    ///
    /// Once this has returned, no request that arrives afterwards gets a response whose handler started before the
    /// purge and which was recorded with any of them: not from memory, and not from a fill that is in flight. It takes
    /// as long as there are tags, however many responses bear them; their memory is given back in the background.
    /// A request that arrived before may still get the old response.
    ///
    /// Purge after the change is visible to the handlers: after the transaction's commit.
    ///
    /// See [`Purge`] for what else it can be than hard, and for what happens if it is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag, TagFamily};
    /// const PRODUCT: TagFamily<u64> = TagFamily::new("product");
    ///
    /// async fn changed(cache: &CacheHandle, id: u64) -> Result<(), PurgeError> {
    ///     cache.purge([PRODUCT.tag(id), Tag::new("products")]).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn purge(&self, what: impl Into<Tagged>) -> Purge {
        let targets = self.shared.targets(&what.into());
        Purge::new(&self.shared, targets, 0)
    }

    /// Begins a purge, before a change: until it is [committed](PurgeGuard::commit), nothing that bears one of these tags is
    /// stored, so that a handler that reads in the middle of the change leaves nothing behind. What is stored already is
    /// served until then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
    /// # async fn transaction() -> Result<(), PurgeError> { Ok(()) }
    /// async fn import(cache: &CacheHandle) -> Result<(), PurgeError> {
    ///     let purge = cache.begin_purge(Tag::new("products"));
    ///     transaction().await?; // if it fails, the guard purges all the same
    ///     purge.commit().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn begin_purge(&self, what: impl Into<Tagged>) -> PurgeGuard {
        PurgeGuard::new(&self.shared, self.shared.targets(&what.into()))
    }

    /// Purges everything that any layer of this handle has stored, tagged or not.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError};
    /// async fn imported(cache: &CacheHandle) -> Result<(), PurgeError> {
    ///     cache.purge_all().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn purge_all(&self) -> Purge {
        Purge::new(&self.shared, Targets::everything(), 0)
    }

    /// Purges what is stored for this request, in every variant, on every layer of this handle; where the key reads
    /// the body, for every body; and whatever proxies in front said of the target. The request must have what else the keys
    /// are made of: its method, its URI, and the headers, cookies, extensions and what closures look for, as they were chosen. Where
    /// that is not there, nothing of the layer is purged: [`Purged::skipped`](crate::Purged::skipped) tells.
    ///
    /// The target may be given in any form, whatever the protocol that its clients speak: with a `Host` header or as an absolute
    /// URI of either scheme. Authority, path and query are compared after RFC 3986 §6.2.2: without case, default port, or escapes
    /// that need not be (`/%7euser` is `/~user`). Behind axum's `nest`, the path is the one that the client sent.
    ///
    /// # Errors
    ///
    /// Awaited, it is an error, and nothing is purged, if the request names no host, or two that differ, and the key of a layer
    /// has the host in it ([`PurgeError::is_about_the_host`](crate::PurgeError::is_about_the_host)).
    ///
    /// # Examples
    ///
    /// ```
    /// # use http::Request;
    /// # use tower_response_cache::{CacheHandle, PurgeError};
    /// async fn forget(cache: &CacheHandle) -> Result<(), PurgeError> {
    ///     let (parts, ()) = Request::get("/products/7").header("host", "shop.example").body(()).unwrap().into_parts();
    ///     cache.purge_request(&parts).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn purge_request(&self, request: &request::Parts) -> Purge {
        let layers = self.shared.keyed();
        if let Err(error) = self.shared.may_be_found(request) {
            return Purge::failed(&self.shared, error.into());
        }
        let purges = &self.shared.purges;
        let forms = layers
            .iter()
            .filter_map(|layer| layer.purge_form_of(request));
        let mut marks: Vec<_> = forms.map(|form| purges.hash_key(&form)).collect();
        let skipped = layers.len() - marks.len();
        if self.shared.searches.are_heeded() {
            // What is stored for one query may answer another, which it does not know.
            let paths = layers.iter().map(|layer| layer.path_of(request));
            marks.extend(paths.map(|path| purges.hash_path(&path)));
        }
        let paths = layers.iter().map(|layer| layer.path_of(request));
        let paths = paths.map(|path| purges.hash_all_queries(&path));
        Purge::new(&self.shared, Targets::any(marks), skipped).of_paths(paths.collect())
    }

    /// Sends these requests through a service that this cache is in, a few at a time, and lets the inner service answer them
    /// whatever is stored: for use right after an update of the data, so that nobody waits for the first answers. What is stored
    /// is served until its successor is there, and stays if the answer fails or is not to be stored.
    ///
    /// The service is the cached one, or whatever it stands in: a router, a stack of layers. A request must look as those will that it
    /// is sent for: the same host, in its URI or as `Host`, and the same headers in its key. One that names no host is not sent, and
    /// counts as failed, unless no layer of this handle has the host in its key. Where responses decide
    /// ([`rfc9111`](crate::CacheLayerBuilder::rfc9111)), the scheme of the URI is in the key, too: see
    /// [`scheme`](crate::CacheLayerBuilder::scheme).
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{Request, Response};
    /// use tower::Service;
    /// use tower_response_cache::{Cache, CacheHandle};
    ///
    /// # type Body = http_body_util::Full<bytes::Bytes>;
    /// async fn imported<S>(cache: &CacheHandle, service: Cache<S>)
    /// where
    ///     S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible> + Clone + Send + 'static,
    ///     S::Future: Send,
    /// {
    ///     let page = |page: u32| Request::get(format!("https://shop.example/pages/{page}")).body(Body::default());
    ///     let requests: Vec<_> = (0..2000).flat_map(page).collect();
    ///     let warmed = cache.warm(service, requests).finish().await;
    ///     println!("{} pages, {} of them not stored", warmed.done, warmed.failed);
    ///     for failure in warmed.failures {
    ///         println!("{failure}"); // https://shop.example/pages/7: the response was not stored: set-cookie
    ///     }
    /// }
    /// ```
    pub fn warm<S, ReqB, ResB, I>(&self, service: S, requests: I) -> Warming
    where
        S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        ReqB: Send + 'static,
        ResB: Body + Send + 'static,
        ResB::Data: Send,
        ResB::Error: Send,
        I: IntoIterator<Item = Request<ReqB>>,
        I::IntoIter: ExactSizeIterator + Send + 'static,
    {
        Warming::new(&self.shared, service, requests)
    }

    /// What each layer of this handle would do with a request of this head and no body, and why: one explanation a
    /// layer, in the order in which they were built. Layers without a service are left out.
    ///
    /// A layer does not know the routes that it is mounted on, but remembers the paths of the requests that it has passed on to its inner
    /// service. As soon as one layer has had a request for this path, layers that never had one are left out. Before that, all are listed. The
    /// memory is a filter of 8 KiB: with more than some thousand paths, a layer too many may be listed.
    ///
    /// The request must have what the keys are made of, as for [`purge_request`](Self::purge_request). Nobody is asked.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_response_cache::CacheHandle;
    ///
    /// fn why(cache: &CacheHandle, request: &Parts) -> String {
    ///     cache.explain(request).iter().map(|layer| format!("{layer}\n")).collect()
    /// }
    /// ```
    #[must_use]
    pub fn explain(&self, request: &request::Parts) -> Vec<Explanation> {
        self.explain_with_body(request, b"")
    }

    /// As [`explain`](Self::explain), for a request with this body.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_response_cache::CacheHandle;
    ///
    /// fn why(cache: &CacheHandle, search: &Parts) {
    ///     for layer in cache.explain_with_body(search, br#"{"size":10}"#) {
    ///         println!("{layer}");
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn explain_with_body(&self, request: &request::Parts, body: &[u8]) -> Vec<Explanation> {
        let layers = self.shared.in_use();
        let explained = layers.iter().map(|layer| {
            let explanation = layer.explain(request, body);
            let serves = layer.has_noted_path(request) || explanation.knows_something();
            (serves, explanation)
        });
        let explained: Vec<_> = explained.collect();
        let nobody_serves = explained.iter().all(|(serves, _)| !serves);
        let serving = explained
            .into_iter()
            .filter(|(serves, _)| *serves || nobody_serves);
        serving.map(|(_, explanation)| explanation).collect()
    }

    /// Starts no more fills, and waits until those that run have ended, or for as long as `patience`. Hits are still
    /// served, and requests that miss go to the inner service, each for itself.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it stops waiting; no more fills are started all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_response_cache::CacheHandle;
    /// async fn end(cache: CacheHandle) {
    ///     let end = cache.shutdown(Duration::from_secs(5)).await;
    ///     if end.still_running > 0 {
    ///         eprintln!("{} fills were cut off", end.still_running);
    ///     }
    /// }
    /// ```
    pub async fn shutdown(&self, patience: Duration) -> Shutdown {
        let still_running = self.shared.shut_down(deadline_in(patience)).await;
        Shutdown { still_running }
    }

    /// What the cache has done, and what it holds now.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheHandle;
    /// let stats = CacheHandle::builder().build().stats();
    /// assert_eq!((stats.hits, stats.entries), (0, 0));
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        shared.memory.settle();
        let counters = &shared.counters;
        Stats {
            hits: counters.hits.load(Ordering::Relaxed),
            stale: counters.stale.load(Ordering::Relaxed),
            misses: counters.misses.load(Ordering::Relaxed),
            collapsed: counters.collapsed.load(Ordering::Relaxed),
            bypasses: counters.bypasses.load(Ordering::Relaxed),
            unavailable: counters.unavailable.load(Ordering::Relaxed),
            refreshes: counters.refreshes.load(Ordering::Relaxed),
            stored: counters.stored.load(Ordering::Relaxed),
            purges: counters.purges.load(Ordering::Relaxed),
            invalidations: counters.invalidations.load(Ordering::Relaxed),
            entries: shared.memory.entries(),
            bytes: shared.memory.bytes(),
            marks: shared.purges.marks(),
            targets: shared.purges.targets(),
            flights: shared.flights.len(),
            waiters: shared.flights.waiters(),
            fills: shared.running(),
            in_flight: shared.purges.in_flight(),
            refusals: shared.refusals.len(),
            recording_bytes: shared.budget.held(),
            unrecorded: shared.budget.exceeded(),
            scope_calls_outside: scope::calls_outside(),
            reasons: counters.reasons.get(),
        }
    }
}

/// How a shutdown ended.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use tower_response_cache::CacheHandle;
/// # #[tokio::main]
/// # async fn main() {
/// let end = CacheHandle::builder().build().shutdown(Duration::from_secs(1)).await;
/// assert_eq!(end.still_running, 0);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// How many fills had not ended.
    pub still_running: usize,
}

/// What a cache has done, and what it holds.
///
/// Every response is counted once, among the hits, stale, misses, collapsed, bypasses or unavailable.
///
/// # Examples
///
/// ```
/// # use tower_response_cache::CacheHandle;
/// let stats = CacheHandle::builder().build().stats();
/// println!("{} hits, {} misses, {} bytes", stats.hits, stats.misses, stats.bytes);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Responses that came from the store, fresh.
    pub hits: u64,
    /// Responses that came from the store, past their lifetime.
    pub stale: u64,
    /// Responses that the inner service made, and that were looked at to be stored.
    pub misses: u64,
    /// Responses that were made for another request at the same time.
    pub collapsed: u64,
    /// Responses that passed by.
    pub bypasses: u64,
    /// Responses 503 of the cache's own: there was no place at the inner service.
    pub unavailable: u64,
    /// How many fills began for those to come: of what was stale, or would soon have been.
    pub refreshes: u64,
    /// How many responses were stored.
    pub stored: u64,
    /// How many purges there were.
    pub purges: u64,
    /// How many unsafe requests purged their target: those for whose target something was stored or in flight.
    pub invalidations: u64,
    /// How many keys are in memory now; the variants of a response are one.
    pub entries: u64,
    /// What they take, in bytes, with their keys, headers and tags.
    pub bytes: u64,
    /// How many purged tags are kept in mind, until nothing can be left that is older.
    pub marks: usize,
    /// How many targets something is stored for or in flight: those that an unsafe request purges. Where responses say what of the query
    /// matters or which cache groups they are in, their paths and groups count too.
    pub targets: usize,
    /// How many keys are being fetched now.
    pub flights: usize,
    /// How many requests wait for one of these.
    pub waiters: usize,
    /// How many fills run in a task of their own now.
    pub fills: usize,
    /// How many responses are on their way from the inner service, or still being handed to those who waited.
    pub in_flight: usize,
    /// How many keys are known whose last answer could not be stored.
    pub refusals: u64,
    /// How many bytes the bodies under way hold now: those that are being recorded, and those that somebody still reads.
    /// See [`max_recording_bytes`](CacheHandleBuilder::max_recording_bytes).
    pub recording_bytes: u64,
    /// How many bodies were not recorded to their end, and so not stored, because the bodies under way held as much as they may
    /// ([`Reason::RecordingBudget`](crate::Reason::RecordingBudget)).
    pub unrecorded: u64,
    /// How many calls of [`scope`](crate::scope)'s functions were made outside any request that passed a cache layer, in this process:
    /// their tags are lost. See [`scope::calls_outside`](crate::scope::calls_outside).
    pub scope_calls_outside: u64,
    /// Why responses were not answered from the cache or not stored, and how many for each reason.
    pub reasons: ReasonCounts,
}

/// Builds a [`CacheHandle`].
///
/// # Examples
///
/// ```
/// use tower_response_cache::CacheHandle;
///
/// let handle = CacheHandle::builder().max_bytes(64 << 20).namespace("shop").build();
/// # let _ = handle;
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheHandleBuilder {
    limits: Limits,
    namespace: String,
    version: String,
}

impl CacheHandleBuilder {
    /// How many bytes of memory responses may take, with their keys, headers and tags. Defaults to 128 MiB.
    ///
    /// A response that is larger than this is served and not stored.
    ///
    /// # Examples
    ///
    /// ```
    /// let small = tower_response_cache::CacheHandle::builder().max_bytes(1 << 20);
    /// # let _ = small;
    /// ```
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_bytes = bytes;
        self
    }

    /// How many bytes the bodies under way may hold together, beside what is stored: those that are being recorded, and those that
    /// slow clients still read. Defaults to a quarter of [`max_bytes`](Self::max_bytes), and at least to the longest
    /// [`max_body_bytes`](crate::CacheLayerBuilder::max_body_bytes) of the handle's layers.
    ///
    /// Buffers count as long as they are: a frame whose buffer is more than twice as long, or shared with others, is copied. When the
    /// budget is exhausted, nothing more of a response is recorded, and it is not stored
    /// ([`Reason::RecordingBudget`](crate::Reason::RecordingBudget)). One that others read along flows on through a window that holds no
    /// more than one frame beyond the budget; see [`stall_timeout`](crate::CacheLayerBuilder::stall_timeout). One that nobody else reads
    /// goes to its requester as it would without a cache. The next requests for the same elect one leader as ever.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = tower_response_cache::CacheHandle::builder().max_recording_bytes(16 << 20).build();
    /// # let _ = handle;
    /// ```
    pub fn max_recording_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_recording_bytes = Some(bytes);
        self
    }

    /// How many purged tags are kept in mind. Beyond it, everything older than the younger half of them counts as
    /// purged: too many misses, never a purged response. Defaults to 100,000, of 16 bytes and a little more each.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = tower_response_cache::CacheHandle::builder().max_marks(1_000_000).build();
    /// # let _ = handle;
    /// ```
    pub fn max_marks(mut self, marks: usize) -> Self {
        self.limits.max_marks = marks;
        self
    }

    /// How many fills may run at once. Beyond it, a request that misses gets what is stored and stale, if its layer lets it
    /// ([`stale_if_error`](crate::CacheLayerBuilder::stale_if_error)); else it waits for a place for at most its layer's
    /// `wait_timeout`, and then gets 503 with `Retry-After`. Defaults to 1,024.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// let handle = tower_response_cache::CacheHandle::builder().max_concurrent_fills(NonZeroUsize::MIN).build();
    /// # let _ = handle;
    /// ```
    pub fn max_concurrent_fills(mut self, fills: NonZeroUsize) -> Self {
        self.limits.max_concurrent_fills = fills.get();
        self
    }

    /// How many responses may be fetched anew at once in the background, besides the fills. Beyond it, what is stored is
    /// served as it is, and the next request for it tries again. Defaults to 64.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// let handle = tower_response_cache::CacheHandle::builder().max_concurrent_refreshes(NonZeroUsize::MIN).build();
    /// # let _ = handle;
    /// ```
    pub fn max_concurrent_refreshes(mut self, refreshes: NonZeroUsize) -> Self {
        self.limits.max_concurrent_refreshes = refreshes.get();
        self
    }

    /// How many keys are remembered whose last answer could not be stored. Beyond it some are forgotten, and the next
    /// requests for these wait for each other once more. Defaults to 10,000.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = tower_response_cache::CacheHandle::builder().max_refusals(100_000).build();
    /// # let _ = handle;
    /// ```
    pub fn max_refusals(mut self, keys: usize) -> Self {
        self.limits.max_refusals = keys;
        self
    }

    /// Sets this application's keys apart from those of others. Changing it starts an empty cache. Defaults to none.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = tower_response_cache::CacheHandle::builder().namespace("shop").build();
    /// # let _ = handle;
    /// ```
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The version of what is stored, for instance of the templates that the pages are made of. Changing it starts an
    /// empty cache. Defaults to none.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = tower_response_cache::CacheHandle::builder().namespace("shop").version("2026-11").build();
    /// # let _ = handle;
    /// ```
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Builds the handle.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = tower_response_cache::CacheHandle::builder().build();
    /// # let _ = handle;
    /// ```
    #[must_use]
    pub fn build(self) -> CacheHandle {
        let namespace = [&*self.namespace, &*self.version];
        CacheHandle::of(Arc::new(Shared::new(&self.limits, namespace)))
    }
}

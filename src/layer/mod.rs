//! The layer, and how it is built.

mod builder;
mod standards;

use std::{sync::Arc, time::Duration};

use http::request;
use tower_layer::Layer;

use crate::{
    config::Layered,
    explanation::Explanation,
    handle::CacheHandle,
    key::{self, Head},
    service::{BodyCache, Cache, RefreshableCache},
    shared::Explain,
};
pub use builder::{CacheLayerBuilder, Once, Refreshable};

/// Caches the responses of the service that it wraps.
///
/// What is stored as it comes: answers to GET of status 200 that are for everybody. Not stored are those with
/// `Set-Cookie`, with `Cache-Control: no-store`, `private` or `no-cache`, with `Vary: *`, event streams, and those that
/// are too large or were cut short. A request that carries `Authorization` or cookies passes by, unless these are in
/// the [`Key`](crate::Key). The response says what the cache did, and why, in its [`CacheStatus`](crate::CacheStatus).
///
/// The inner service is asked for the whole, and each requester gets of it what it asked for: a 304 (`If-None-Match`,
/// `If-Modified-Since`), a 206 or a 416 (`Range`, `If-Range`; several ranges of what is stored), after RFC 9110 §13 and §14.
///
/// # Backpressure
///
/// The service that this layer makes is always ready, and asks the one inside to be so only when it needs it: see
/// [`Cache`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{CacheLayer, Key};
///
/// let cache = CacheLayer::builder()
///     .key(Key::new().query_except(["utm_*", "fbclid"]))
///     .ttl(Duration::from_secs(300))
///     .build();
/// let handle = cache.handle();
/// # let _ = handle;
/// ```
#[derive(Debug, Clone)]
pub struct CacheLayer {
    layered: Arc<Layered<Head>>,
}

impl CacheLayer {
    /// Responses live for this long; everything else is as it comes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::new(Duration::from_secs(60));
    /// # let _ = cache;
    /// ```
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self::builder().ttl(ttl).build()
    }

    /// A shared cache after RFC 9111, which can stand in front of any origin. See
    /// [`CacheLayerBuilder::rfc9111`].
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::rfc9111();
    /// # let _ = cache;
    /// ```
    #[must_use]
    pub fn rfc9111() -> Self {
        Self::builder().rfc9111().build()
    }

    /// Builds a layer.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().build();
    /// # let _ = cache;
    /// ```
    pub fn builder() -> CacheLayerBuilder {
        CacheLayerBuilder::new()
    }

    /// The handle with which the application purges.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().build();
    /// assert_eq!(cache.handle().stats().entries, 0);
    /// ```
    #[must_use]
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::of(self.layered.config.shared.clone())
    }

    /// What this layer would do with a request of this head and no body, and why. See [`CacheHandle::explain`].
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Request;
    /// use tower_response_cache::{CacheLayer, Decision, Forward};
    ///
    /// let cache = CacheLayer::builder().build();
    /// let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
    /// assert_eq!(cache.explain(&parts).decision, Decision::Fetch(Forward::UriMiss));
    /// ```
    #[must_use]
    pub fn explain(&self, request: &request::Parts) -> Explanation {
        self.layered.explain(request, b"")
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Cache::new(inner, self.layered.clone())
    }
}

/// As [`CacheLayer`], whose responses can be asked for again when they are purged: see
/// [`refreshable`](CacheLayerBuilder::refreshable).
///
/// # Examples
///
/// ```
/// use tower_response_cache::{CacheLayer, RefreshableLayer};
/// let cache: RefreshableLayer = CacheLayer::builder().refreshable().build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone)]
pub struct RefreshableLayer {
    layered: Arc<Layered<Head>>,
}

impl RefreshableLayer {
    /// The handle with which the application purges.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().refreshable().build();
    /// assert_eq!(cache.handle().stats().entries, 0);
    /// ```
    #[must_use]
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::of(self.layered.config.shared.clone())
    }

    /// What this layer would do with a request of this head and no body, and why. See [`CacheHandle::explain`].
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Request;
    /// use tower_response_cache::{CacheLayer, Decision, Forward};
    ///
    /// let cache = CacheLayer::builder().refreshable().build();
    /// let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
    /// assert_eq!(cache.explain(&parts).decision, Decision::Fetch(Forward::UriMiss));
    /// ```
    #[must_use]
    pub fn explain(&self, request: &request::Parts) -> Explanation {
        self.layered.explain(request, b"")
    }
}

impl<S> Layer<S> for RefreshableLayer {
    type Service = RefreshableCache<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RefreshableCache::new(inner, self.layered.clone())
    }
}

/// As [`CacheLayer`], for a key that reads the request's body.
///
/// The inner service gets the body as a [`ReplayBody`](crate::ReplayBody), which is why this is a type of its own.
/// Services that take any body stand inside as they are: axum's routes, a tonic server. One that takes a body of its own type
/// only (tonic's `Channel`) needs `map_request(|request| request.map(Body::new))` in between.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{BodyCacheLayer, CacheLayer, Key};
///
/// let cache: BodyCacheLayer =
///     CacheLayer::builder().key(Key::grpc(64 * 1024).all_methods()).ttl(Duration::from_secs(60)).build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone)]
pub struct BodyCacheLayer {
    layered: Arc<Layered<key::Body>>,
}

impl BodyCacheLayer {
    /// The handle with which the application purges.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheLayer, Key};
    /// let cache = CacheLayer::builder().key(Key::grpc(1024).all_methods()).build();
    /// assert_eq!(cache.handle().stats().entries, 0);
    /// ```
    #[must_use]
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::of(self.layered.config.shared.clone())
    }

    /// What this layer would do with a request of this head and body, and why. See [`CacheHandle::explain`].
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{Method, Request};
    /// use tower_response_cache::{CacheLayer, Decision, Key, Reason};
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let cache = CacheLayer::builder().key(Key::new().body(4)).methods([Method::POST])?.build();
    /// let (parts, ()) = Request::post("/_search").body(()).unwrap().into_parts();
    /// let explanation = cache.explain(&parts, b"too long");
    /// assert_eq!(explanation.decision, Decision::Bypass(Reason::RequestBodyNotKeyed));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn explain(&self, request: &request::Parts, body: &[u8]) -> Explanation {
        self.layered.explain(request, body)
    }
}

impl<S> Layer<S> for BodyCacheLayer {
    type Service = BodyCache<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BodyCache::new(inner, self.layered.clone())
    }
}

//! How a layer is built.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use http::{Method, StatusCode, request, response, uri::Scheme};

use super::{BodyCacheLayer, CacheLayer, RefreshableLayer};
use crate::{
    config::{Config, FillMode, KeyMaker, Layered, Report, Waiting},
    entry::{Cells, LayerInUse},
    error::BuildError,
    filter::PathFilter,
    grpc,
    handle::CacheHandle,
    key::{self, Head, Key, KeyPrefix, ReadsBody},
    policy::{Policy, TagHeader, is_partial},
    shared::{Enrolled, Explain},
    status::StatusName,
    tags::Tags,
};

/// Builds a [`CacheLayer`], or a [`BodyCacheLayer`] if the key reads the body.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{CacheLayer, TagHeader};
///
/// let cache = CacheLayer::builder()
///     .ttl(Duration::from_secs(300))
///     .max_body_bytes(4 << 20)
///     .tag_header(TagHeader::SURROGATE_KEY.strip())
///     .build();
/// # let _ = cache;
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheLayerBuilder<B = Head, R = Once> {
    handle: Option<CacheHandle>,
    name: Option<String>,
    key: Key<B>,
    pub(super) policy: Policy,
    pub(super) scheme: Option<Scheme>,
    waiting: Waiting,
    fill_mode: FillMode,
    report: Report,
    refreshable: bool,
    asks: PhantomData<R>,
}

/// What is stored is not asked for again when it is purged: as it comes.
#[derive(Debug, Clone, Copy)]
pub struct Once(());

/// What is stored can be asked for again when it is purged: [`CacheLayerBuilder::refreshable`].
#[derive(Debug, Clone, Copy)]
pub struct Refreshable(());

impl CacheLayerBuilder {
    pub(super) fn new() -> Self {
        Self {
            handle: None,
            name: None,
            key: Key::new(),
            policy: Policy::default(),
            scheme: None,
            waiting: Waiting::default(),
            fill_mode: FillMode::default(),
            report: Report::default(),
            refreshable: false,
            asks: PhantomData,
        }
    }
}

impl<B> CacheLayerBuilder<B> {
    /// Records the request of each response that is stored, so that [`Purge::refresh`](crate::Purge::refresh) can ask for it
    /// again: method, URI, headers that are in the key or that `Vary` names, extensions, and the body that is in the key. Not
    /// credentials, unless they are in the key; no trace or request ids. Defaults to nothing being recorded.
    ///
    /// It costs memory: the recorded request counts as part of the response, with 192 bytes for each extension, which is a
    /// guess: an extension may keep alive whatever it likes.
    ///
    /// What a handler makes only of credentials that are not in the key it will not make again; what varies by such is not recorded. The
    /// application's state may hold the handle, and should not hold the layer itself: that, the store and the state would keep
    /// each other alive.
    ///
    /// The layer is a [`RefreshableLayer`](crate::RefreshableLayer), which asks of the request's body that it can be empty
    /// (`Default`: axum's and tonic's are, hyper's `Incoming` is not). With a key that reads the body there is no difference.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{CacheLayer, PurgeError, Tag};
    ///
    /// # async fn example() -> Result<(), PurgeError> {
    /// let cache = CacheLayer::builder().stale_while_revalidate(Duration::from_secs(60)).refreshable().build();
    /// cache.handle().purge(Tag::new("products")).refresh().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn refreshable(self) -> CacheLayerBuilder<B, Refreshable> {
        CacheLayerBuilder {
            handle: self.handle,
            name: self.name,
            key: self.key,
            policy: self.policy,
            scheme: self.scheme,
            waiting: self.waiting,
            fill_mode: self.fill_mode,
            report: self.report,
            refreshable: true,
            asks: PhantomData,
        }
    }
}

impl CacheLayerBuilder<Head, Refreshable> {
    /// Builds the layer.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().refreshable().build();
    /// # let _ = cache;
    /// ```
    #[must_use]
    pub fn build(self) -> RefreshableLayer {
        RefreshableLayer {
            layered: build(self),
        }
    }
}

impl CacheLayerBuilder<Head> {
    /// Builds the layer.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().build();
    /// # let _ = cache;
    /// ```
    #[must_use]
    pub fn build(self) -> CacheLayer {
        CacheLayer {
            layered: build(self),
        }
    }
}

impl<R> CacheLayerBuilder<key::Body, R> {
    /// Builds the layer.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, Key};
    /// let cache = CacheLayer::builder().key(Key::grpc(1024).all_methods()).build();
    /// # let _ = cache;
    /// ```
    #[must_use]
    pub fn build(mut self) -> BodyCacheLayer {
        if self.key.is_grpc() {
            // RFC 9110 §9.2.1: what every call is sent by says nothing of its changing something.
            self.policy.methods = vec![Method::POST];
        }
        BodyCacheLayer {
            layered: build(self),
        }
    }
}

impl<B, R> CacheLayerBuilder<B, R> {
    /// The methods that the cache answers: those that ask and change nothing, by whatever name. Defaults to GET and
    /// HEAD. A key of gRPC calls answers POST, and needs no choice.
    ///
    /// # Errors
    ///
    /// If one of them is not for asking: PUT, DELETE, PATCH, OPTIONS, TRACE, CONNECT; or if the key is of gRPC calls.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Method;
    /// use tower_response_cache::{CacheLayer, Key};
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let search = CacheLayer::builder()
    ///     .key(Key::new().body(64 * 1024))
    ///     .methods([Method::GET, Method::POST, Method::QUERY])?
    ///     .build();
    /// assert!(CacheLayer::builder().key(Key::new().body(1024)).methods([Method::PUT]).is_err());
    /// # let _ = search;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With a key of the head alone it does not compile, since a POST is answered by what is in its body:
    ///
    /// ```compile_fail,E0277
    /// # use http::Method;
    /// # use tower_response_cache::{CacheLayer, Key};
    /// CacheLayer::builder().key(Key::new()).methods([Method::POST]);
    /// ```
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Result<Self, BuildError>
    where
        B: ReadsBody,
    {
        if self.key.is_grpc() {
            return Err(BuildError::new(
                "a gRPC call is always a POST",
                "leave `methods` out, or choose a key of another kind of body",
            ));
        }
        let methods: Vec<_> = methods.into_iter().collect();
        let changing = [
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::OPTIONS,
            Method::TRACE,
            Method::CONNECT,
        ];
        if methods.iter().any(|method| changing.contains(method)) {
            return Err(BuildError::new(
                "a method that does not ask for a representation is never answered by a cache",
                "choose among GET, HEAD, POST, QUERY and methods of your own that change nothing",
            ));
        }
        self.policy.methods = methods;
        Ok(self)
    }

    /// What the key is made of. Defaults to method, scheme, authority, path and the whole query.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, Key};
    /// let cache = CacheLayer::builder().key(Key::new().query(["page"])).build();
    /// # let _ = cache;
    /// ```
    pub fn key<B2>(self, key: Key<B2>) -> CacheLayerBuilder<B2, R> {
        CacheLayerBuilder {
            handle: self.handle,
            name: self.name,
            key,
            policy: self.policy,
            scheme: self.scheme,
            waiting: self.waiting,
            fill_mode: self.fill_mode,
            report: self.report,
            refreshable: self.refreshable,
            asks: PhantomData,
        }
    }

    /// Shares memory, tags and limits with the other layers of this handle. Defaults to a handle of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheHandle, CacheLayer};
    /// let handle = CacheHandle::builder().build();
    /// let cache = CacheLayer::builder().handle(&handle).build();
    /// # let _ = cache;
    /// ```
    pub fn handle(mut self, handle: &CacheHandle) -> Self {
        self.handle = Some(handle.clone());
        self
    }

    /// Layers of one handle that bear the same name answer each other's requests. Defaults to none: to a layer of its
    /// own.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().name("pages").build();
    /// # let _ = cache;
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// For how long a response is fresh, unless it says `s-maxage`, or its handler
    /// [`ttl_at_most`](crate::scope::ttl_at_most). Defaults to 60 seconds; zero stores nothing, and `Duration::MAX` stores it
    /// until it is purged.
    ///
    /// A response's `max-age` is for browsers and does not change this lifetime, but `max-age=0`, and without `max-age` an `Expires` in
    /// the past, keep it out of the store: see [`ignore_max_age`](Self::ignore_max_age). A hit has an `Age`, so a `max-age` that is shorter than
    /// the lifetime here reaches browsers already stale once the stored response is older than that.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().ttl(Duration::from_secs(300)).build();
    /// # let _ = cache;
    /// ```
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.policy.ttl = ttl;
        self
    }

    /// Stores responses that say `max-age=0`, or have an `Expires` in the past, for the layer's lifetime. By default such a response is shared
    /// with the followers of its flight and not stored, and the key is not remembered as uncacheable; the stored response that it refreshes
    /// is removed. `s-maxage` comes before `max-age`, and that before `Expires`. An `Expires` that cannot be read is in the past, a
    /// `max-age` that cannot be read is 0. Without effect in RFC 9111 mode, where responses decide.
    ///
    /// # Examples
    ///
    /// ```
    /// // The handler sets `max-age=0` so that browsers always ask; the cache may answer them.
    /// let cache = tower_response_cache::CacheLayer::builder().ignore_max_age().build();
    /// # let _ = cache;
    /// ```
    pub fn ignore_max_age(mut self) -> Self {
        self.policy.ignore_max_age = true;
        self
    }

    /// What this closure says of a response's head is its lifetime; `None` leaves it at what else was chosen. A response's own
    /// `s-maxage` goes before, and so does [`max-age=0`](Self::ignore_max_age). Defaults to none.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::header::CONTENT_TYPE;
    /// use tower_response_cache::CacheLayer;
    ///
    /// let cache = CacheLayer::builder()
    ///     .ttl_by(|response| {
    ///         let is_image = response.headers.get(CONTENT_TYPE)?.as_bytes().starts_with(b"image/");
    ///         is_image.then_some(Duration::from_secs(86_400))
    ///     })
    ///     .build();
    /// # let _ = cache;
    /// ```
    pub fn ttl_by<F>(mut self, ttl: F) -> Self
    where
        F: Fn(&response::Parts) -> Option<Duration> + Send + Sync + 'static,
    {
        self.policy.ttl_by = Some(Arc::new(ttl));
        self
    }

    /// Takes up to this share off each lifetime, by chance, so that what was stored together does not expire together.
    /// Lifetimes only ever get shorter. Defaults to zero.
    ///
    /// # Errors
    ///
    /// If the share is not between 0 and 1.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let cache = tower_response_cache::CacheLayer::builder().jitter(0.1)?.build();
    /// # let _ = cache;
    /// # Ok(())
    /// # }
    /// ```
    pub fn jitter(mut self, share: f64) -> Result<Self, BuildError> {
        self.policy.jitter = thousandths(share)?;
        Ok(self)
    }

    /// For how long after its lifetime a response is still served at once, while it is fetched anew in the background (RFC
    /// 5861 §3). Defaults to zero.
    ///
    /// One request begins that, and nobody waits; if it fails, it is not tried again before
    /// [`retry_after`](Self::retry_after), nor is the old response fresh. Not where the response says `must-revalidate` or
    /// `proxy-revalidate`, and never after a hard purge. With [`FillMode::Inline`], and outside a tokio runtime, the request
    /// that fetches it anew waits for it. A HEAD is served, and fetches nothing anew.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::CacheLayer;
    ///
    /// let cache = CacheLayer::builder()
    ///     .ttl(Duration::from_secs(60))
    ///     .stale_while_revalidate(Duration::from_secs(30))
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .build();
    /// # let _ = cache;
    /// ```
    pub fn stale_while_revalidate(mut self, grace: Duration) -> Self {
        self.policy.grace.while_revalidate = grace;
        self
    }

    /// For how long after its lifetime a response is served if the inner service fails: with a 5xx, an `Err`, a panic, a gRPC
    /// status that speaks of the service, or nothing within [`leader_timeout`](Self::leader_timeout) (RFC 5861 §4). Also if as
    /// many calls run as may. Defaults to zero.
    ///
    /// It counts from the same moment as [`stale_while_revalidate`](Self::stale_while_revalidate), so it is of use if it
    /// is longer. The limits are the same: not after a hard purge, not where the response forbids it. Of a gRPC call, a failure
    /// that stands only in the trailers comes too late for its requester.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().stale_if_error(Duration::from_secs(3600)).build();
    /// # let _ = cache;
    /// ```
    pub fn stale_if_error(mut self, grace: Duration) -> Self {
        self.policy.grace.if_error = grace;
        self
    }

    /// For how long a response stays in memory after the end of its stale windows
    /// ([`stale_while_revalidate`](Self::stale_while_revalidate), [`stale_if_error`](Self::stale_if_error)), if it can be revalidated, because
    /// it has an `ETag` or `Last-Modified`, or if the layer is [`refreshable`](Self::refreshable). A 304 then brings it back. It is not served
    /// before that, except to requests that ask for a stale response (`max-stale`, `stale-if-error`) where the layer
    /// [heeds](Self::request_directives) them; there, responses without a validator are kept as long. Other responses leave at the end of their stale windows. Responses leave within a minute of that moment; outside a tokio
    /// runtime, when the next response is stored inside one. Defaults to as long as the response was fresh, at least a minute and at most an
    /// hour.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().keep_for_revalidation(Duration::from_secs(86_400)).build();
    /// # let _ = cache;
    /// ```
    pub fn keep_for_revalidation(mut self, time: Duration) -> Self {
        self.policy.keep_for_revalidation = Some(time);
        self
    }

    /// After a response could not be fetched anew, for how long at least nobody tries again; longer, up to ten times as
    /// long, when it fails again and again. It is also the `Retry-After` of the cache's own 503. Defaults to 10 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().retry_after(Duration::from_secs(2)).build();
    /// # let _ = cache;
    /// ```
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.waiting.retry_after = pause;
        self
    }

    /// After this share of its lifetime, the next request for a response begins to fetch it anew in the background, so that
    /// what is in use does not expire. Defaults to none: then nothing is fetched before it has expired.
    ///
    /// # Errors
    ///
    /// If the share is not above 0 and below 1.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let cache = tower_response_cache::CacheLayer::builder().eager_refresh(0.9)?.build();
    /// # let _ = cache;
    /// # Ok(())
    /// # }
    /// ```
    pub fn eager_refresh(mut self, share: f64) -> Result<Self, BuildError> {
        let thousandths = thousandths(share)?;
        if !(1..1000).contains(&thousandths) {
            return Err(BuildError::new(
                "nothing is to be fetched anew as soon as it is stored, or when it has expired",
                "give a share above 0 and below 1, such as 0.9",
            ));
        }
        self.policy.eager = Some(thousandths);
        Ok(self)
    }

    /// Stores responses of this status too, for this long: that is how "not found" is cached. Defaults to 200 only. A handler tags
    /// such an answer with the thing that would be there, so that the purge of whoever makes that thing reaches it.
    ///
    /// # Errors
    ///
    /// If no such response can be stored for a request for the whole: a server error, 1xx, 206, 304, 412 or 416.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::StatusCode;
    /// use tower_response_cache::CacheLayer;
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let cache = CacheLayer::builder().status(StatusCode::NOT_FOUND, Duration::from_secs(10))?.build();
    /// assert!(CacheLayer::builder().status(StatusCode::BAD_GATEWAY, Duration::from_secs(10)).is_err());
    /// # let _ = cache;
    /// # Ok(())
    /// # }
    /// ```
    pub fn status(mut self, status: StatusCode, ttl: Duration) -> Result<Self, BuildError> {
        if status.is_server_error() || status.is_informational() || is_partial(status) {
            return Err(BuildError::new(
                "responses of this status are never stored",
                "choose one that answers a request for the whole: 2xx but 206, 3xx but 304, 4xx but 412 and 416",
            ));
        }
        self.policy.statuses.retain(|(known, _)| *known != status);
        self.policy.statuses.push((status, ttl));
        Ok(self)
    }

    /// Stores gRPC calls that ended with this status too, for this long at most: `5` is `NOT_FOUND`. Defaults to `OK` only. As with
    /// [`status`](Self::status), a handler tags such a response with what would be there.
    ///
    /// The status counts wherever it is: in the head of a response without a message, or in the trailers behind an empty body.
    ///
    /// # Errors
    ///
    /// If the status is `OK` (0), one that speaks of the service and counts as a failure (2, 4, 8, 13, 14, 15), or none of gRPC (above 16).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{CacheLayer, Key};
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let cache = CacheLayer::builder()
    ///     .key(Key::grpc(64 * 1024).all_methods())
    ///     .cacheable_grpc_status(5, Duration::from_secs(10))?
    ///     .build();
    /// assert!(CacheLayer::builder().cacheable_grpc_status(14, Duration::from_secs(10)).is_err());
    /// # let _ = cache;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cacheable_grpc_status(mut self, code: u32, ttl: Duration) -> Result<Self, BuildError> {
        if code == 0 || code > 16 || grpc::is_failure(code) {
            return Err(BuildError::new(
                "gRPC calls with this status are never stored, or always",
                "choose one that speaks of the request, such as 5 (NOT_FOUND)",
            ));
        }
        self.policy.codes.retain(|(known, _)| *known != code);
        self.policy.codes.push((code, ttl));
        Ok(self)
    }

    /// A longer body is delivered whole, and not stored. Defaults to 1 MiB; a body of just this length is stored.
    ///
    /// A `Range` of a response that turns out not to be storable is cut out of the body as it comes in, if at most this many bytes
    /// precede it. Otherwise the inner service is called once more, with the client's own fields.
    ///
    /// Where several requests read a body whose length is not known, and it turns out to be longer, those who read go on with it through a
    /// shared window of this size; see [`stall_timeout`](Self::stall_timeout). Later requests do not join them.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().max_body_bytes(4 << 20).build();
    /// # let _ = cache;
    /// ```
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.policy.max_body_bytes = bytes;
        self
    }

    /// A request with a longer key passes by. Defaults to 8 KiB, which also bounds the path and the query in it.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().max_key_bytes(1024).build();
    /// # let _ = cache;
    /// ```
    pub fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.policy.max_key_bytes = bytes;
        self
    }

    /// A response with more tags is not stored. Defaults to 1,024; a response with just as many is stored.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().max_tags(5000).build();
    /// # let _ = cache;
    /// ```
    pub fn max_tags(mut self, tags: usize) -> Self {
        self.policy.max_tags = tags;
        self
    }

    /// A response with a longer tag is not stored. Defaults to 1 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().max_tag_bytes(64).build();
    /// # let _ = cache;
    /// ```
    pub fn max_tag_bytes(mut self, bytes: usize) -> Self {
        self.policy.max_tag_bytes = bytes;
        self
    }

    /// Reads tags from this response header too. Defaults to none.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, TagHeader};
    /// let cache = CacheLayer::builder().tag_header(TagHeader::SURROGATE_KEY).build();
    /// # let _ = cache;
    /// ```
    pub fn tag_header(mut self, header: TagHeader) -> Self {
        self.policy
            .tag_headers
            .retain(|known| known.name() != header.name());
        self.policy.tag_headers.push(header);
        self
    }

    /// Stores only responses for which this closure returns `true`: it gets the response's head and its complete body, for failures that
    /// come with status 200 (GraphQL `errors`, timed-out shards of a search, JSON-RPC `error`). Defaults to storing all that may be
    /// stored otherwise.
    ///
    /// It decides on storing alone: the requester and the followers of the same flight get the response in any case. `false` leaves what is
    /// stored as it is, and is not remembered: the next request that misses leads a new fill. A refresh or revalidation that brings
    /// `false` counts as one without success: the stored response is served stale for as long as it may be, and the next background
    /// attempt waits for [`retry_after`](Self::retry_after). If the closure panics, the response is not stored, and the key is
    /// remembered as uncacheable with the reason [`StoreIfPanicked`](crate::Reason::StoreIfPanicked).
    ///
    /// It runs once per fill, in the fill's task, after the last byte has come in and before that is passed on; a 304 runs it with the
    /// updated head and the stored body. The head is as the inner service sent it; the body is in the response's
    /// `Content-Encoding`. Of a gRPC response it is the message without its prefix of five bytes, compressed if `grpc-encoding` says so.
    ///
    /// A layer with this closure does not say `stored` in `Cache-Status`, which is sent before the body is complete. A response that a
    /// handler composes of one that is refused is not stored either.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::CacheLayer;
    ///
    /// let cache = CacheLayer::builder()
    ///     .store_if(|head, body| !head.headers.contains_key("x-partial") && !body.is_empty())
    ///     .build();
    /// # let _ = cache;
    /// ```
    pub fn store_if<F>(mut self, is_stored: F) -> Self
    where
        F: Fn(&response::Parts, &[u8]) -> bool + Send + Sync + 'static,
    {
        self.policy.store_if = Some(Arc::new(is_stored));
        self
    }

    /// Tags that follow from the request, whatever the handler says. Defaults to none. It runs once a fill.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, Tags};
    ///
    /// let cache = CacheLayer::builder()
    ///     .tag_requests(|parts| Tags::new().with(parts.uri.path().to_owned()))
    ///     .build();
    /// # let _ = cache;
    /// ```
    pub fn tag_requests<F>(mut self, tags: F) -> Self
    where
        F: Fn(&request::Parts) -> Tags + Send + Sync + 'static,
    {
        self.policy.request_tags = Some(Arc::new(tags));
        self
    }

    /// How long a request waits for the response that another request fetches, or for a place among the concurrent fills. Then it
    /// gets a stale response, if there is one that it may have, else 503 with `Retry-After`. Defaults to
    /// [`fill_timeout`](Self::fill_timeout).
    ///
    /// It does not bound the request that fetches the response: that one waits for the inner service as it would without
    /// a cache. A follower that calls the inner service because the leader hangs (see
    /// [`leader_timeout`](Self::leader_timeout)) is bounded by it; its call goes on, and fills the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().wait_timeout(Duration::from_secs(2)).build();
    /// # let _ = cache;
    /// ```
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.waiting.wait_timeout = Some(timeout);
        self
    }

    /// How long a request waits for the head of a response that another request fetches, before the cache counts that fetch
    /// as hanging. Defaults to 10 seconds.
    ///
    /// From then on, requests that may have a stale response get it, and one of the other followers calls the inner
    /// service too; the next one after twice this time, then after four times, and so on. At most three calls of one key run
    /// at once. The first response that may be shared answers all followers; each other call runs on for its own requester.
    /// A request that waits in vain is answered at [`wait_timeout`](Self::wait_timeout). The time counts from the call of the
    /// inner service, and zero counts as one millisecond.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().leader_timeout(Duration::from_secs(2)).build();
    /// # let _ = cache;
    /// ```
    pub fn leader_timeout(mut self, timeout: Duration) -> Self {
        self.waiting.leader_timeout = timeout;
        self
    }

    /// For how long a fill may take, to the end of its body. Later it is for its own requester alone, for as long as
    /// that waits, and nothing is stored. Defaults to 30 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().fill_timeout(Duration::from_secs(5)).build();
    /// # let _ = cache;
    /// ```
    pub fn fill_timeout(mut self, timeout: Duration) -> Self {
        self.waiting.fill_timeout = timeout;
        self
    }

    /// For how long a client that has stopped reading may hold up others that read the same body, once that is longer than
    /// [`max_body_bytes`](Self::max_body_bytes), takes longer than [`fill_timeout`](Self::fill_timeout), or finds the handle's
    /// [`max_recording_bytes`](crate::CacheHandleBuilder::max_recording_bytes) exhausted. Then its body ends with a
    /// [`BodyError`](crate::BodyError), and the others go on. A client that reads alone may take as long as it likes, as without a cache.
    /// Defaults to 5 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = tower_response_cache::CacheLayer::builder().stall_timeout(Duration::from_secs(2)).build();
    /// # let _ = cache;
    /// ```
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.waiting.stall_timeout = timeout;
        self
    }

    /// How many requests may wait for one answer. Any more get what is stored and stale, if they may, or call the inner
    /// service, if there is a place, and store nothing; else they get 503. Defaults to 10,000.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().max_waiters(100).build();
    /// # let _ = cache;
    /// ```
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.waiting.max_waiters = waiters;
        self
    }

    /// Where the call to the inner service runs. Defaults to [`FillMode::Detached`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, FillMode};
    /// let cache = CacheLayer::builder().fill_mode(FillMode::Inline).build();
    /// # let _ = cache;
    /// ```
    pub fn fill_mode(mut self, mode: FillMode) -> Self {
        self.fill_mode = mode;
        self
    }

    /// Whether responses tell what the cache did in a `Cache-Status` header (RFC 9211). Defaults to `true`.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().status_header(false).build();
    /// # let _ = cache;
    /// ```
    pub fn status_header(mut self, told: bool) -> Self {
        self.report.header = told;
        self
    }

    /// Whether responses carry their [`CacheStatus`](crate::CacheStatus) in their extensions, for the layers outside.
    /// Defaults to `true`.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().status_extension(false).build();
    /// # let _ = cache;
    /// ```
    pub fn status_extension(mut self, told: bool) -> Self {
        self.report.extension = told;
        self
    }

    /// The cache's name in `Cache-Status`. Defaults to `tower-response-cache`.
    ///
    /// # Errors
    ///
    /// If the name is empty, longer than 256 characters, or not printable ASCII: the header could not carry it.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let cache = tower_response_cache::CacheLayer::builder().status_name("shop")?.build();
    /// # let _ = cache;
    /// # Ok(())
    /// # }
    /// ```
    pub fn status_name(mut self, name: &str) -> Result<Self, BuildError> {
        self.report = self.report.renamed(StatusName::parse(name)?);
        Ok(self)
    }
}

/// A share of a whole, as the policy has it.
pub(super) fn thousandths(share: f64) -> Result<u32, BuildError> {
    if !(0.0..=1.0).contains(&share) {
        return Err(BuildError::new(
            "a share of a lifetime is between 0 and 1",
            "give 0.1 for a tenth of it",
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    Ok((share * 1000.0).round() as u32)
}

/// The layer as its builder leaves it, known to its handle.
fn build<B, R>(builder: CacheLayerBuilder<B, R>) -> Arc<Layered<B>>
where
    B: Send + Sync + fmt::Debug + 'static,
    Layered<B>: Explain,
{
    let handle = builder
        .handle
        .unwrap_or_else(|| CacheHandle::builder().build());
    let shared = handle.shared().clone();
    if builder.policy.no_vary_search {
        shared.searches.heed();
    }
    shared.budget.fit(builder.policy.max_body_bytes);
    let [namespace, version] = &shared.namespace;
    let prefix = KeyPrefix::new(namespace, version, builder.name.as_deref(), shared.number());
    let (mut selection, body) = builder.key.into_parts();
    selection.set_scheme(builder.scheme, builder.policy.is_by_the_book());
    let selection = Arc::new(selection.with_fragments(builder.policy.fragments));
    let keys = Arc::new(KeyMaker {
        prefix,
        selection: selection.clone(),
        body,
        max_bytes: builder.policy.max_key_bytes,
        credentials: builder.policy.credentials,
    });
    let config = Arc::new(Config {
        shared: shared.clone(),
        policy: builder.policy,
        selection,
        waiting: builder.waiting,
        fill_mode: builder.fill_mode,
        report: builder.report,
        refreshable: builder.refreshable,
        paths: PathFilter::default(),
        in_use: LayerInUse::default(),
    });
    let stored = Arc::downgrade(&config.in_use);
    let name = builder.name.map(String::into_boxed_str);
    let layered = Arc::new(Layered {
        name: name.clone(),
        config,
        keys: keys.clone(),
        cells: Cells::default(),
    });
    let layer: Arc<dyn Explain> = layered.clone();
    shared.enrol(Enrolled {
        name,
        keyed: keys,
        layer: Arc::downgrade(&layer),
        stored,
    });
    layered
}

impl<B: fmt::Debug, R> fmt::Debug for CacheLayerBuilder<B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayerBuilder")
            .field("name", &self.name)
            .field("key", &self.key)
            .field("policy", &self.policy)
            .field("waiting", &self.waiting)
            .field("fill_mode", &self.fill_mode)
            .field("refreshable", &self.refreshable)
            .finish_non_exhaustive()
    }
}

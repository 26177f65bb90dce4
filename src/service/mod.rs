//! One request: passed by, a hit, or the long way.

mod refreshable;
mod replay;
mod with_body;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response, request};
use http_body::Body;
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    again::{self, Kept},
    anew::Anew,
    body::ResponseBody,
    bypass::{self, BypassedPart},
    clock::lacks_timer,
    config::{Config, Layered},
    entry::Again,
    error::BoxError,
    future::ResponseFuture,
    invalidation::Invalidation,
    key::Head,
    lookup::{Found, Hit, Lookup, Missing},
    policy::{self, may_be_shaped},
    post::Post,
    repeat::{Repeat, empty_body},
    reply,
    respond::{Missed, Origin},
    shaped::{self, Wish},
    shared::{Keyed, count},
    status::{CacheStatus, Reason},
    tags::{CacheScope, PendingPart, Tags, scope},
};
pub use refreshable::RefreshableCache;
pub use replay::ReplayBody;
pub use with_body::BodyCache;

/// A service whose responses are cached: what [`CacheLayer`](crate::CacheLayer) makes of one.
///
/// # Backpressure
///
/// It is always ready. The inner service is cloned, awaited to be ready, and called only when a response has to come
/// from it: a hit is served while the inner service is saturated, and a request that waits for another's answer holds
/// no permit of a concurrency limit inside.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{Layer, Service, service_fn};
/// use tower_response_cache::{CacheLayer, CacheStatus};
///
/// # type Body = Full<bytes::Bytes>;
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let origin = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::from("hello"))) });
/// let mut service = CacheLayer::builder().build().layer(origin);
///
/// let first = service.call(Request::new(Body::default())).await?;
/// assert_eq!(first.into_body().collect().await?.to_bytes(), "hello");
///
/// let second = service.call(Request::new(Body::default())).await?;
/// assert!(second.extensions().get::<CacheStatus>().unwrap().is_hit());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Cache<S> {
    inner: S,
    layered: Arc<Layered<Head>>,
}

impl<S> Cache<S> {
    pub(crate) fn new(inner: S, layered: Arc<Layered<Head>>) -> Self {
        Self { inner, layered }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Cache<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Body + Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, ResB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        answer(
            &self.layered,
            &self.inner,
            request,
            |_| None,
            |_| empty_body(),
        )
    }
}

/// What a request can be asked again with, if its layer is to know. A hit needs none.
fn origin<K, S, ReqB>(
    layered: &Layered<K>,
    kept: &Kept,
    inner: &S,
    body: Bytes,
    make_body: fn(Bytes) -> ReqB,
) -> Origin
where
    K: Send + Sync + fmt::Debug + 'static,
    again::Inner<S, ReqB>: Again + 'static,
    S: Clone,
{
    let keys: Arc<dyn Keyed> = layered.keys.clone();
    let again = kept.get(&layered.cells, || {
        Arc::new(again::Inner::new(&layered.config, &keys, inner, make_body))
    });
    Origin {
        again,
        keys,
        body,
        tags: Tags::new(),
    }
}

/// Answers a request whose key is made of its head.
#[inline]
fn answer<S, ReqB, ResB>(
    layered: &Layered<Head>,
    inner: &S,
    request: Request<ReqB>,
    origin: impl FnOnce(&ReqB) -> Option<Origin>,
    same_body: fn(&ReqB) -> Option<ReqB>,
) -> ResponseFuture<S, ReqB, ResB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Body + Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    let config = &layered.config;
    let (mut parts, body) = request.into_parts();
    let mut lookup = Lookup::new(config);
    let admitted = lookup.admit_head(layered, &mut parts, !body.is_end_stream());
    if let Err(reason) = admitted {
        let (inner, request) = (inner.clone(), (parts, body));
        let is_nested = || scope::enclosing(&request.0.extensions).is_some();
        if Post::<S, ReqB>::is_one(config, &request.0) && !is_nested() {
            let post = Post::new(layered, inner, request);
            return ResponseFuture::long_way(Box::pin(post.respond()));
        }
        return pass(layered, inner, request, reason);
    }
    look(config, inner, (parts, body), lookup, origin, same_body)
}

/// A request that bypasses the cache. If it is part of a fill, that hears of the response.
pub(crate) fn pass<K, S, ReqB, ResB>(
    layered: &Layered<K>,
    inner: S,
    mut request: (request::Parts, ReqB),
    reason: Reason,
) -> ResponseFuture<S, ReqB, ResB>
where
    K: Send + Sync + fmt::Debug,
    S: Service<Request<ReqB>, Response = Response<ResB>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    let config = layered.config.clone();
    config.note_path(&request.0);
    let Some(page) = scope::enclosing(&request.0.extensions) else {
        return ResponseFuture::pass(inner, request, config, reason);
    };
    let purges = &config.shared.purges;
    let key = layered.keys.purge_form_of(&request.0);
    let key = key.iter().map(|key| purges.hash_key(key));
    // An unsafe request purges its own target, and not what is made of its response.
    let is_safe = config.policy.is_safe(&request.0.method);
    let target = is_safe.then(|| {
        let target = config.target_hash(&request.0);
        [target, config.all_queries_hash(&request.0)]
    });
    let marks = key.chain(target.into_iter().flatten()).collect();
    let invalidation = Invalidation::of(&config, &request.0);
    let part = BypassedPart::begin(&config, &mut request.0, marks);
    ResponseFuture::long_way(Box::pin(async move {
        let pending = PendingPart::of(&page);
        let (parts, body) = request;
        let call = inner.oneshot(Request::from_parts(parts, body));
        let response = bypass::call(Some(part), call).await?;
        if let Some(invalidation) = invalidation {
            invalidation.answered(response.status(), response.headers());
        }
        count(&config.shared.counters.bypasses);
        let response = reply::passed(&config, response, CacheStatus::bypass(reason));
        Ok(bypass::enter_body(pending, response))
    }))
}

/// A stored response, which the page takes over from that it is part of.
#[inline]
fn hit_at_once<B>(
    config: &Config,
    hit: &Hit,
    method: &Method,
    extensions: Extensions,
    page: Option<&CacheScope>,
) -> Response<ResponseBody<B>> {
    if let Some(page) = page {
        page.take_over(reply::part(config, hit));
    }
    reply::hit(config, hit, method, extensions)
}

/// The key is made: a hit, or the long way. A second body like the request's is made where the inner service may be called twice.
#[inline]
fn look<S, ReqB, ResB>(
    config: &Arc<Config>,
    inner: &S,
    request: (request::Parts, ReqB),
    mut lookup: Lookup,
    origin: impl FnOnce(&ReqB) -> Option<Origin>,
    same_body: fn(&ReqB) -> Option<ReqB>,
) -> ResponseFuture<S, ReqB, ResB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    let (mut parts, body) = request;
    let anew = Anew::heed(&mut parts.extensions, &config.shared);
    let outer = scope::enclosing(&parts.extensions);
    let asks_for_less = may_be_shaped(&parts.method, &parts.headers);
    let in_another_unit = asks_for_less && policy::asks_in_another_unit(&parts);
    let (missing, renewal) = match lookup.look(config, &parts.headers) {
        _ if anew.is_some() => {
            let stored = config.shared.memory.get(&lookup.key);
            (Missing::anew(stored), None)
        }
        // The inner service may know the unit; the cache would answer with the whole.
        Found::Hit(_) if in_another_unit => (Missing::default(), None),
        Found::Nothing(_) if policy::only_if_cached(&parts.headers) => {
            return ResponseFuture::hit(reply::not_cached(config));
        }
        Found::Nothing(missing) => (missing, None),
        Found::Hit(hit) => {
            // Asked in this order: most hits are fresh, and the rest costs more than it seems.
            let may_wait = || config.may_detach() || !policy::only_if_cached(&parts.headers);
            let is_shared = || !config.selection.has_session(&parts);
            let may_fetch = || !lookup.acceptance.no_store() && !lacks_timer();
            let claims = hit.wants_renewal && may_fetch() && may_wait() && is_shared();
            let claimed = || hit.claim(config, &parts.method);
            let Some(renewal) = claims.then(claimed).flatten() else {
                let (method, extensions) = (&parts.method, parts.extensions);
                let response = hit_at_once(config, &hit, method, extensions, outer.as_ref());
                if !asks_for_less {
                    return ResponseFuture::hit(response);
                }
                return ResponseFuture::hit(shaped::at_once(response, method, &parts.headers));
            };
            (Missing::renewed(&hit.entry), Some((hit, renewal)))
        }
    };
    let origin = origin(&body);
    let mut missed = Missed {
        config: config.clone(),
        inner: inner.clone(),
        request: (parts, body),
        lookup,
        missing,
        outer,
        pinned: None,
        renewal: None,
        origin,
        anew,
    };
    match renewal {
        Some((hit, renewal)) if config.may_detach() => {
            let parts = &missed.request.0;
            let (method, outer) = (&parts.method, missed.outer.as_ref());
            let response = hit_at_once(config, &hit, method, Extensions::new(), outer);
            let response = shaped::at_once(response, method, &parts.headers);
            missed.refresh(renewal);
            return ResponseFuture::hit(response);
        }
        // Where nothing can be done in the background, this request waits, and the others do not.
        Some((_, renewal)) => missed.renewal = Some(renewal),
        None => {}
    }
    let second = || same_body(&missed.request.1);
    let second = asks_for_less.then(second).flatten();
    long_way(missed, second)
}

/// The way of a request that is not answered from the store. This body is for a second call of the inner service, if that has to be.
fn long_way<S, ReqB, ResB>(
    missed: Missed<S, ReqB>,
    second: Option<ReqB>,
) -> ResponseFuture<S, ReqB, ResB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    let parts = &missed.request.0;
    missed.config.note_path(parts);
    let Some(wish) = Wish::of(parts) else {
        return ResponseFuture::long_way(Box::pin(missed.respond()));
    };
    let config = missed.config.clone();
    // A page would not hear of the second call's response.
    let second = second.filter(|_| missed.outer.is_none());
    let repeat = second.map(|body| Repeat::new(&missed.inner, parts, body));
    ResponseFuture::long_way(Box::pin(async move {
        let response = missed.respond().await?;
        wish.answer(response, repeat, &config).await
    }))
}

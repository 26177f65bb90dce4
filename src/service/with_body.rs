//! A request whose key reads its body.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{look, origin, pass, replay::ReplayBody};
use crate::{
    again::{self, Kept},
    body::ResponseBody,
    clock::{before, deadline_in, lacks_timer},
    config::Layered,
    entry::Again,
    error::BoxError,
    future::ResponseFuture,
    grpc::{END_FOLLOWS, Messages},
    key,
    lookup::Lookup,
    respond::Origin,
    status::Reason,
};

/// A service whose responses are cached by a key that reads the request's body: what
/// [`BodyCacheLayer`](crate::BodyCacheLayer) makes of one.
///
/// The inner service gets the body as a [`ReplayBody`]. Otherwise it is as [`Cache`](crate::Cache).
///
/// # Backpressure
///
/// It is always ready, as [`Cache`](crate::Cache) is.
///
/// # Examples
///
/// ```
/// use tower::{Layer, service_fn};
/// use tower_response_cache::{BodyCache, CacheLayer, Key};
///
/// fn cached<S>(service: S) -> BodyCache<S> {
///     CacheLayer::builder().key(Key::grpc(64 * 1024).all_methods()).build().layer(service)
/// }
/// # let _ = cached(());
/// ```
#[derive(Debug, Clone)]
pub struct BodyCache<S> {
    inner: S,
    layered: Arc<Layered<key::Body>>,
    kept: Kept,
}

impl<S> BodyCache<S> {
    pub(crate) fn new(inner: S, layered: Arc<Layered<key::Body>>) -> Self {
        Self {
            inner,
            layered,
            kept: Kept::default(),
        }
    }
}

/// What was read of a body can be sent again, if the layer is to be able to; not its trailers, which are in the key too.
fn repeatable<S, ReqB: Body>(
    layered: &Layered<key::Body>,
    kept: &Kept,
    inner: &S,
    body: &ReplayBody<ReqB>,
) -> Option<Origin>
where
    again::Inner<S, ReplayBody<ReqB>>: Again + 'static,
    S: Clone,
{
    let has_trailers = body.trailers().is_some_and(|trailers| !trailers.is_empty());
    if !layered.config.refreshable || has_trailers {
        return None;
    }
    let data = Bytes::copy_from_slice(body.data());
    Some(origin(layered, kept, inner, data, |data| {
        ReplayBody::whole(&data)
    }))
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for BodyCache<S>
where
    S: Service<Request<ReplayBody<ReqB>>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Body + Send + 'static,
    ReqB::Error: Send,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReplayBody<ReqB>, ResB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let config = &self.layered.config;
        let (mut parts, body) = request.into_parts();
        let body = ReplayBody::unread(body);
        let mut lookup = Lookup::new(config);
        let mut admitted = lookup.admit(&self.layered, &mut parts);
        let is_empty = body.is_end_stream();
        if !is_empty && lacks_timer() {
            // Nothing would end the wait for the body.
            admitted = admitted.and(Err(Reason::NoTimer));
        }
        if is_empty && admitted.is_ok() {
            admitted = lookup.put_body(&self.layered, &parts, b"", None);
        }
        if let Err(reason) = admitted {
            let inner = self.inner.clone();
            return pass(&self.layered, inner, (parts, body), reason);
        }
        if is_empty {
            let (layered, kept, inner) = (&self.layered, &self.kept, &self.inner);
            let origin = |body: &_| repeatable(layered, kept, inner, body);
            return look(
                config,
                inner,
                (parts, body),
                lookup,
                origin,
                ReplayBody::again,
            );
        }
        let asked = Asked {
            layered: self.layered.clone(),
            inner: self.inner.clone(),
            kept: self.kept.clone(),
            request: (parts, body),
            lookup,
        };
        ResponseFuture::long_way(Box::pin(asked.read()))
    }
}

/// A request whose head is in its key.
struct Asked<S, ReqB: Body> {
    layered: Arc<Layered<key::Body>>,
    inner: S,
    kept: Kept,
    request: (request::Parts, ReplayBody<ReqB>),
    lookup: Lookup,
}

impl<S, ReqB, ResB> Asked<S, ReqB>
where
    S: Service<Request<ReplayBody<ReqB>>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Body + Send + 'static,
    ReqB::Error: Send,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    /// Reads the body into the key, and looks.
    ///
    /// # Cancel safety
    ///
    /// Dropped while the body is read, it has touched nothing; later, it is as on the long way of any request.
    async fn read(mut self) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let deadline = deadline_in(self.layered.config.waiting.wait_timeout());
        let keys = &self.layered.keys;
        let (parts, body) = &mut self.request;
        let is_read = read(body, &keys.body, deadline).await;
        // It looks from now on.
        self.lookup.arrival = self.layered.config.shared.purges.arrive();
        let keyed = if is_read {
            let (data, trailers) = (body.data(), body.trailers());
            self.lookup.put_body(&self.layered, parts, data, trailers)
        } else {
            Err(Reason::RequestBodyNotKeyed)
        };
        match keyed {
            Ok(()) => {
                let (layered, kept, inner) = (&self.layered, &self.kept, &self.inner);
                let origin = |body: &_| repeatable(layered, kept, inner, body);
                look(
                    &layered.config,
                    inner,
                    self.request,
                    self.lookup,
                    origin,
                    ReplayBody::again,
                )
                .await
            }
            Err(reason) => self.pass(reason).await,
        }
    }

    async fn pass(self, reason: Reason) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        pass(&self.layered, self.inner, self.request, reason).await
    }
}

/// Reads the whole body, or the one message of a call. `false` if it is anything else, or longer than the limit, or
/// late: what was read of it will be replayed.
async fn read<B: Body>(body: &mut ReplayBody<B>, rule: &key::Body, deadline: Instant) -> bool {
    let limit = rule.limit();
    if body.size_hint().lower() > limit as u64 {
        return false;
    }
    let mut messages = rule.is_grpc().then(Messages::default);
    let most_frames = limit.saturating_add(64);
    // A client may keep silent until it hears from the server.
    let first_byte_until = deadline.min(deadline_in(END_FOLLOWS));
    while !body.is_read() {
        // Frames without bytes count too, and leave the thread to others.
        tokio::task::coop::consume_budget().await;
        if body.frames_read() > most_frames {
            return false;
        }
        let until = match &messages {
            Some(messages) if messages.one_is_whole() => deadline.min(deadline_in(END_FOLLOWS)),
            Some(messages) if messages.none_has_begun() => first_byte_until,
            _ => deadline,
        };
        let Some(read) = before(until, poll_fn(|cx| body.poll_read(cx))).await else {
            return false;
        };
        let Some(new) = read else {
            break;
        };
        let data = body.data();
        let new = &data[data.len() - new..];
        let follows_on = messages.as_mut().is_none_or(|messages| messages.push(new));
        if data.len() > limit || !follows_on {
            return false;
        }
    }
    body.is_read()
}

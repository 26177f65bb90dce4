//! A request whose key reads its body.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::time::Instant;
use tower::ServiceExt;
use tower_service::Service;

use super::replay::ReplayBody;
use crate::{
    body::ResponseBody,
    clock::{before, deadline_in},
    config::Layered,
    error::BoxError,
    future::ResponseFuture,
    grpc::{Messages, PREFIX_BYTES},
    key,
    lookup::{Found, Lookup},
    policy, reply,
    respond::Missed,
    shared::count,
    status::{CacheStatus, Reason},
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
///     CacheLayer::builder().key(Key::grpc(64 * 1024)).build().layer(service)
/// }
/// # let _ = cached(());
/// ```
#[derive(Debug, Clone)]
pub struct BodyCache<S> {
    inner: S,
    layered: Arc<Layered<key::Body>>,
}

impl<S> BodyCache<S> {
    pub(crate) fn new(inner: S, layered: Arc<Layered<key::Body>>) -> Self {
        Self { inner, layered }
    }
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
        let (parts, body) = request.into_parts();
        let body = ReplayBody::unread(body);
        let mut lookup = Lookup::new(&self.layered.config);
        let admitted =
            policy::admit_grpc(&parts).and_then(|()| lookup.make_key(&self.layered.keys, &parts));
        let inner = self.inner.clone();
        let request = Request::from_parts(parts, body);
        match admitted {
            Ok(()) => {
                let way = respond(self.layered.clone(), inner, request, lookup);
                ResponseFuture::long_way(Box::pin(way))
            }
            Err(reason) => {
                ResponseFuture::pass(inner, request, self.layered.config.clone(), reason)
            }
        }
    }
}

/// # Cancel safety
///
/// Dropped while the body is read, it has touched nothing; later, it is as [`Missed::respond`].
async fn respond<S, ReqB, ResB>(
    layered: Arc<Layered<key::Body>>,
    inner: S,
    request: Request<ReplayBody<ReqB>>,
    mut lookup: Lookup,
) -> Result<Response<ResponseBody<ResB>>, S::Error>
where
    S: Service<Request<ReplayBody<ReqB>>, Response = Response<ResB>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Body + Send + 'static,
    ReqB::Error: Send,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    let config = layered.config.clone();
    let deadline = deadline_in(config.waiting.wait_timeout);
    let (parts, mut body) = request.into_parts();
    let Some(message) = read_message(&mut body, layered.keys.key.body_limit(), deadline).await
    else {
        let response = inner.oneshot(Request::from_parts(parts, body)).await?;
        count(&config.shared.counters.bypasses);
        let status = CacheStatus::bypass(Reason::RequestBodyNotKeyed);
        return Ok(reply::passed(&config, response, status));
    };
    key::put_body(&mut lookup.key, message.flag, &message.bytes);
    match lookup.look(&config, &parts.headers) {
        Found::Fresh(hit) => Ok(reply::hit(&config, &hit, parts)),
        Found::Nothing(forward, stored) => {
            let missed = Missed {
                config,
                inner,
                request: (parts, body),
                lookup,
                forward,
                stored,
            };
            missed.respond().await
        }
    }
}

/// A gRPC message without its prefix, and the prefix's flag.
struct Message {
    flag: u8,
    bytes: Vec<u8>,
}

/// After a whole message, the end of a unary call's body follows at once; a stream's does not, and must not be waited for.
const END_FOLLOWS: Duration = Duration::from_millis(50);

/// The one message of a unary call. `None` if the body is anything else, or longer than the limit, or late: what was
/// read of it will be replayed.
async fn read_message<B: Body>(
    body: &mut ReplayBody<B>,
    limit: usize,
    deadline: Instant,
) -> Option<Message> {
    let mut bytes = Vec::new();
    let mut messages = Messages::default();
    let most_frames = limit.saturating_add(PREFIX_BYTES + 64);
    while !body.is_read() {
        // Frames without bytes count too, and leave the thread to others.
        tokio::task::coop::consume_budget().await;
        if body.frames_read() > most_frames {
            return None;
        }
        let until = if messages.one_is_whole() {
            deadline.min(deadline_in(END_FOLLOWS))
        } else {
            deadline
        };
        let data = poll_fn(|cx| {
            body.poll_read(cx)
                .map(|frame| frame.map(Frame::data_ref).map(Option::<&_>::cloned))
        });
        let Some(data) = before(until, data).await? else {
            break;
        };
        let data = data.unwrap_or_default();
        bytes.extend_from_slice(&data);
        if bytes.len() > limit.saturating_add(PREFIX_BYTES) || !messages.push(&data) {
            return None;
        }
    }
    let whole = body.is_read() && messages.one_is_whole();
    whole.then(|| Message {
        flag: bytes[0],
        bytes: bytes.split_off(PREFIX_BYTES),
    })
}

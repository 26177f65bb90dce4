//! The origin, as a Tower service: what the cache stands before.

use std::{
    error::Error,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, Scheme},
};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{
    pin,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, timeout, timeout_at},
};
use tower::Service;

use crate::{
    answers::boxed,
    args::Limits,
    fields::{
        MAX_LINES, Pseudonym, ends_with_connection, is_coding_understood, remove_hop_by_hop,
        unify_length,
    },
    forwarded::tell_origin,
    resend::{Progress, RequestCopy},
    server::{Body, BoxError},
};

/// Who asks, in the extensions of a request.
#[derive(Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// Sends requests to the origin, over connections that it keeps.
#[derive(Clone)]
pub(crate) struct Upstream {
    origin: Arc<Origin>,
    /// Each request may be sent twice, whatever its method.
    only_asks: bool,
}

struct Origin {
    client: Client<HttpConnector, Body>,
    /// Makes a connection for each request, and keeps none.
    fresh: Client<HttpConnector, Body>,
    authority: Authority,
    pseudonym: Pseudonym,
    places: Arc<Semaphore>,
    /// For how long the origin may do nothing.
    patience: Duration,
}

impl Upstream {
    pub(crate) fn new(origin: Authority, pseudonym: Pseudonym, limits: Limits) -> Self {
        let origin = Origin {
            client: client(&limits, limits.origin_connections),
            fresh: client(&limits, 0),
            authority: origin,
            pseudonym,
            places: Arc::new(Semaphore::new(limits.origin_connections)),
            patience: limits.origin_timeout,
        };
        Self {
            origin: Arc::new(origin),
            only_asks: false,
        }
    }

    /// The same for searches: a POST asks too.
    pub(crate) fn for_searches(&self) -> Self {
        Self {
            only_asks: true,
            ..self.clone()
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.origin.patience
    }
}

/// A client that keeps so many connections.
fn client(limits: &Limits, kept: usize) -> Client<HttpConnector, Body> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limits.origin_timeout));
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(kept)
        .http1_max_headers(MAX_LINES)
        // RFC 9112 §5.1, §5.2: what is in the way of proxies in the answers of old servers, they take out.
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .build(connector)
}

impl Origin {
    /// Sends a request to the origin, and awaits the head of its response.
    async fn ask(
        &self,
        mut request: Request<Body>,
        only_asks: bool,
    ) -> Result<Response<Answer>, UpstreamError> {
        let place = timeout(self.patience, self.places.clone().acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or(UpstreamError::Busy)?;
        self.address(&mut request);
        let answer = if only_asks || is_safe(request.method()) {
            self.send_up_to_twice(request).await
        } else {
            self.send(&self.client, request).await
        };
        let (mut parts, body) = answer?.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError::Switched);
        }
        if !has_an_end(&mut parts.headers) {
            return Err(UpstreamError::Endless);
        }
        if parts.status == StatusCode::NO_CONTENT {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        remove_hop_by_hop(&mut parts.headers);
        date(&mut parts.headers);
        self.pseudonym.sign(&mut parts.headers, parts.version);
        parts.version = Version::HTTP_11;
        let body = Answer {
            body,
            patience: self.patience,
            silent: None,
            place: Some(place),
        };
        Ok(Response::from_parts(parts, body))
    }

    /// Makes it a request to the origin, from us. This happens behind the cache, so that none of it is in a key.
    fn address(&self, request: &mut Request<Body>) {
        let mut uri = Uri::default().into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = request.uri().path_and_query().cloned();
        if let Ok(uri) = Uri::from_parts(uri) {
            *request.uri_mut() = uri;
        }
        let version = std::mem::replace(request.version_mut(), Version::HTTP_11);
        let body = request.body();
        let has_length = request.headers().contains_key(header::CONTENT_LENGTH);
        if !body.is_end_stream() && !has_length {
            // Without the one or the other, the client sends no body with a GET.
            let (name, value) = match body.size_hint().exact() {
                Some(length) => (header::CONTENT_LENGTH, HeaderValue::from(length)),
                None => (
                    header::TRANSFER_ENCODING,
                    HeaderValue::from_static("chunked"),
                ),
            };
            request.headers_mut().insert(name, value);
        }
        let client = request.extensions().get::<ClientAddress>().copied();
        let headers = request.headers_mut();
        // The connection's client puts in the origin's.
        let host = headers.remove(header::HOST);
        tell_origin(
            headers,
            host,
            client.map(|ClientAddress(client)| client.ip()),
        );
        if headers.contains_key(header::TE) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        self.pseudonym.sign(headers, version);
    }

    /// Sends a request once more if the origin closes its connection. The other connections that are kept may be closing too, so this one
    /// is new.
    async fn send_up_to_twice(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let (request, copy) = RequestCopy::of(request);
        let answer = self.send(&self.client, request).await;
        match answer {
            Err(error) if error.is_closed_connection() => match copy.into_request() {
                Some(again) => self.send(&self.fresh, again).await,
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// A request of which nothing was written is sent on another connection by the client itself.
    async fn send(
        &self,
        client: &Client<HttpConnector, Body>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let progress = Progress::default();
        let request = request.map(|body| progress.watch(body));
        let answer = client.request(request);
        pin!(answer);
        loop {
            let until = progress.last() + self.patience;
            match timeout_at(until, &mut answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) if progress.broke() => return Err(UpstreamError::Request),
                Ok(Err(error)) => return Err(UpstreamError::Failed(error)),
                // The client was still sending.
                Err(_) if progress.last() + self.patience > Instant::now() => {}
                Err(_) => return Err(UpstreamError::Silent),
            }
        }
    }
}

/// RFC 9110 §6.6.1: an answer that does not say when it was made was made now. It may be stored, and sent later.
fn date(headers: &mut HeaderMap) {
    if !headers.contains_key(header::DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(header::DATE, now);
    }
}

/// Returns whether asking twice does no more than asking once (RFC 9110 §9.2.1).
fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

impl<B> Service<Request<B>> for Upstream
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = UpstreamError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, UpstreamError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(boxed);
        let Self { origin, only_asks } = self.clone();
        Box::pin(async move { origin.ask(request, only_asks).await })
    }
}

/// The body of an answer. It breaks if the origin stops in its middle, and keeps its place until it ends.
pub(crate) struct Answer {
    body: Incoming,
    patience: Duration,
    /// Runs while the origin is waited for.
    silent: Option<Pin<Box<Sleep>>>,
    place: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.silent = None;
            if frame.is_none() || this.body.is_end_stream() {
                this.place = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(BrokenAnswer::Connection)));
        }
        let patience = this.patience;
        let silent = this.silent.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(silent.as_mut().poll(cx));
        Poll::Ready(Some(Err(BrokenAnswer::Silent)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why an answer has no end.
#[derive(Debug)]
pub(crate) enum BrokenAnswer {
    Connection(hyper::Error),
    Silent,
}

impl fmt::Display for BrokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection(_) => "the origin's answer broke off",
            Self::Silent => "the origin has stopped in the middle of its answer",
        })
    }
}

impl Error for BrokenAnswer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connection(error) => Some(error),
            Self::Silent => None,
        }
    }
}

/// RFC 9112 §6: whether those on the way agree on the end of a message. An answer to HEAD has none, and is told as if it had.
fn has_an_end(headers: &mut HeaderMap) -> bool {
    (is_coding_understood(headers) || ends_with_connection(headers)) && unify_length(headers)
}

/// Why there is no answer. The cache sees this, and may have one that is stale; what is made of it otherwise is the
/// business of those outside.
#[derive(Debug)]
pub(crate) enum UpstreamError {
    /// As many requests are with the origin as may be.
    Busy,
    /// The origin does nothing.
    Silent,
    /// It cannot be reached, or what it says is no answer.
    Failed(legacy::Error),
    /// It speaks another protocol from now on, which nobody has asked for.
    Switched,
    /// Nobody can say where its answer ends.
    Endless,
    /// The client's own body broke off.
    Request,
}

impl UpstreamError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed(error) if is_timeout(error) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed(_) | Self::Switched | Self::Endless => StatusCode::BAD_GATEWAY,
            Self::Request => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether the origin has hung up without a word. It may close a connection that it keeps at any time, also when a request is
    /// on its way.
    fn is_closed_connection(&self) -> bool {
        let Self::Failed(error) = self else {
            return false;
        };
        causes(error).any(|cause| {
            let hyper = cause.downcast_ref::<hyper::Error>();
            let io = cause.downcast_ref::<io::Error>();
            hyper.is_some_and(|error| error.is_incomplete_message() || error.is_canceled())
                || io.is_some_and(|error| {
                    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
                    kinds.contains(&error.kind())
                })
        })
    }
}

fn is_timeout(error: &legacy::Error) -> bool {
    causes(error).any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    })
}

/// An error and all that caused it, outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "too many requests are with the origin",
            Self::Silent => "the origin does not answer",
            Self::Failed(error) if error.is_connect() => "the origin cannot be reached",
            Self::Failed(_) => "the origin's answer cannot be understood, or broke off",
            Self::Switched => "the origin has changed to a protocol that nobody asked for",
            Self::Endless => "the origin's answer does not say in one way where it ends",
            Self::Request => "the request's body broke off",
        })
    }
}

impl Error for UpstreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

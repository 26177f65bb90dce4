//! What the tests share: an inner service that counts, a client that reads whole answers, gates instead of sleeps.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part of it"
)]

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tower::{Service, ServiceExt};
use tower_response_cache::{CacheStatus, Reason};

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, Broken>;

/// Why a body of the tests broke. A type of its own, since the compiler cannot prove of a generic future that it may be
/// spawned if the body's error is a boxed one.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) BoxError);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Broken {}

pub(crate) fn empty() -> Body {
    Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

pub(crate) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

pub(crate) fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(|error| Broken(error.into())).boxed_unsync()
}

/// The sending end of a body of unknown length; dropped, the body ends.
#[derive(Debug, Clone)]
pub(crate) struct Chunks(mpsc::UnboundedSender<Result<Frame<Bytes>, Broken>>);

impl Chunks {
    /// `false` if nobody reads the body any more.
    pub(crate) fn send(&self, data: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(data.into()))).is_ok()
    }

    pub(crate) fn end_with(self, data: impl Into<Bytes>) {
        self.send(data);
    }

    pub(crate) fn trailers(&self, trailers: HeaderMap) -> bool {
        self.0.send(Ok(Frame::trailers(trailers))).is_ok()
    }

    pub(crate) fn fail(&self, error: &'static str) -> bool {
        self.0.send(Err(Broken(error.into()))).is_ok()
    }
}

pub(crate) fn streamed() -> (Chunks, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Chunks(sender),
        StreamBody::new(UnboundedReceiverStream::new(receiver)).boxed_unsync(),
    )
}

/// A body that has all these frames at once, and whose length nobody is told.
pub(crate) fn chunked(chunks: &[&[u8]], trailers: Option<HeaderMap>) -> Body {
    let (sender, body) = streamed();
    for chunk in chunks {
        sender.send(chunk.to_vec());
    }
    if let Some(trailers) = trailers {
        sender.trailers(trailers);
    }
    body
}

/// A body that never ends.
pub(crate) fn endless() -> Body {
    let frames = tokio_stream::iter(std::iter::repeat(Bytes::from_static(b"tick")));
    let frames = frames.map(|data| Ok::<_, Broken>(Frame::data(data)));
    StreamBody::new(frames).boxed_unsync()
}

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// An inner service that counts its calls, and panics when it is called without having been readied.
pub(crate) struct Origin {
    answer: Arc<dyn Fn(Request<Body>) -> Answering + Send + Sync>,
    calls: Arc<AtomicUsize>,
    ready: bool,
}

impl Origin {
    pub(crate) fn new<F>(answer: F) -> Self
    where
        F: Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static,
    {
        Self::later(move |request| std::future::ready(answer(request)))
    }

    pub(crate) fn later<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Body>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self {
            answer: Arc::new(move |request| Box::pin(answer(request))),
            calls: Arc::default(),
            ready: false,
        }
    }

    /// Answers with this when the gate lets it.
    pub(crate) fn gated(gate: &Gate, answer: &'static str) -> Self {
        let gate = gate.clone();
        Self::later(move |_| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                ok(answer)
            }
        })
    }

    /// Answers `1`, `2`, `3`…, with these headers.
    pub(crate) fn counting(headers: &'static [(&'static str, &'static str)]) -> Self {
        let count = AtomicUsize::new(0);
        Self::new(move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            with_headers(ok(number.to_string()), headers)
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Clone for Origin {
    /// A clone is not ready, whatever the original was.
    fn clone(&self) -> Self {
        Self {
            answer: self.answer.clone(),
            calls: self.calls.clone(),
            ready: false,
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Origin
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without having been readied"
        );
        self.calls.fetch_add(1, Ordering::SeqCst);
        let answer = (self.answer)(request.map(boxed));
        Box::pin(async { Ok(answer.await) })
    }
}

pub(crate) fn ok(body: impl Into<Bytes>) -> Response<Body> {
    Response::new(full(body))
}

pub(crate) fn status(status: StatusCode) -> Response<Body> {
    let mut response = ok("not the usual");
    *response.status_mut() = status;
    response
}

pub(crate) trait HasHeaders {
    fn map(&mut self) -> &mut HeaderMap;
}

impl<B> HasHeaders for Request<B> {
    fn map(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }
}

impl<B> HasHeaders for Response<B> {
    fn map(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }
}

pub(crate) fn with_headers<M: HasHeaders>(mut message: M, headers: &[(&str, &str)]) -> M {
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        message
            .map()
            .append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    message
}

pub(crate) fn with<M: HasHeaders>(message: M, name: &str, value: &str) -> M {
    with_headers(message, &[(name, value)])
}

pub(crate) fn get(uri: &str) -> Request<Body> {
    request("GET", uri)
}

pub(crate) fn request(method: &str, uri: &str) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, "shop.example");
    request.body(empty()).unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) parts: http::response::Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn cache(&self) -> CacheStatus {
        *self
            .parts
            .extensions
            .get()
            .expect("every response is classified")
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache().is_hit()
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.cache().reason()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.parts
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<&str> {
        let lines = self.parts.headers.get_all(name).iter();
        lines.map(|value| value.to_str().unwrap()).collect()
    }
}

/// Awaits this, but not for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(25), future)
        .await
        .expect("it hangs")
}

/// Sends a request through the service, and reads the answer to its end.
pub(crate) async fn send<S, B>(service: &S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: fmt::Debug,
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Debug,
{
    read(head(service, request).await).await
}

/// Sends a request, and returns the answer with its body unread.
pub(crate) async fn head<S, B>(service: &S, request: Request<Body>) -> Response<B>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: fmt::Debug,
{
    within(service.clone().oneshot(request)).await.unwrap()
}

pub(crate) async fn read<B>(response: Response<B>) -> Answer
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let collected = within(body.collect()).await.unwrap();
    let trailers = collected.trailers().cloned();
    Answer {
        parts,
        body: collected.to_bytes(),
        trailers,
    }
}

/// The next data of a body; `None` at its end.
pub(crate) async fn next<B>(body: &mut B) -> Option<Bytes>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: fmt::Debug,
{
    let frame = within(body.frame()).await?.unwrap();
    frame.into_data().ok()
}

/// Lets the other tasks run until this holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never comes true");
}

/// Waits, in real time or paused, until this holds.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Lets the other tasks run until they all wait for something.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A place at which code under test stops until the test lets it go on.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            arrived: Arc::new(Semaphore::new(0)),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    pub(crate) async fn pass(&self) {
        self.arrived.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until somebody more stands at the gate.
    pub(crate) async fn arrival(&self) {
        within(self.arrived.acquire()).await.unwrap().forget();
    }

    /// Whether somebody more stands at the gate.
    pub(crate) fn try_arrival(&self) -> bool {
        self.arrived
            .try_acquire()
            .map(|arrived| arrived.forget())
            .is_ok()
    }

    pub(crate) fn let_one_pass(&self) {
        self.open.add_permits(1);
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1 << 20);
    }
}

/// Random numbers, the same in every run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

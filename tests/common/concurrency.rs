//! An inner service that counts its calls, bodies that play a script, and what becomes of many requests at once.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    error::Error,
    fmt,
    future::{Future, pending},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinHandle},
    time::{Sleep, sleep, timeout},
};
use tower::{Service, ServiceExt, service_fn};
use tower_response_cache::{CacheHandle, CacheStatus, Reason};

/// How a body fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl Error for Broken {}

/// Neither `Sync` nor of any length in particular: as axum's.
pub(crate) type Body = UnsyncBoxBody<Bytes, Broken>;
/// How the inner service fails.
pub(crate) type Failure = &'static str;

/// Longer than anything here takes, were it not for a fault.
pub(crate) const BOUND: Duration = Duration::from_secs(100);

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    let never = |never: Infallible| match never {};
    Full::new(text.into()).map_err(never).boxed_unsync()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", "a.example")
        .body(full(""))
        .unwrap()
}

pub(crate) fn get_with(path: &str, name: &'static str, value: &str) -> Request<Body> {
    let mut request = get(path);
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

pub(crate) fn ok(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(full(text))
}

pub(crate) fn with_status(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = ok(text);
    *response.status_mut() = status;
    response
}

/// A service to be wrapped.
pub(crate) trait Inner:
    Service<Request<Body>, Response = Response<Body>, Error = Failure, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Inner for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Failure, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What the inner service was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probe(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Probe {
    pub(crate) fn calls(&self) -> usize {
        self.0.calls.load(SeqCst)
    }

    /// How many calls ran at once, at the most.
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(SeqCst)
    }

    fn enter(&self) -> (usize, Inside) {
        let nth = self.0.calls.fetch_add(1, SeqCst) + 1;
        let now = self.0.now.fetch_add(1, SeqCst) + 1;
        self.0.most.fetch_max(now, SeqCst);
        (nth, Inside(self.clone()))
    }
}

struct Inside(Probe);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.0.now.fetch_sub(1, SeqCst);
    }
}

/// An inner service. Its handler is told which call this is, from one on.
pub(crate) fn origin<F, Fut>(probe: &Probe, handler: F) -> impl Inner + use<F, Fut>
where
    F: Fn(usize, Request<Body>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>, Failure>> + Send + 'static,
{
    let probe = probe.clone();
    service_fn(move |request| {
        let (nth, inside) = probe.enter();
        let handled = handler(nth, request);
        async move {
            let _inside = inside;
            handled.await
        }
    })
}

/// Panics as a handler does, without a word on standard error.
pub(crate) fn panics() -> ! {
    std::panic::resume_unwind(Box::new("the handler panicked"))
}

/// Closed until it is opened, for all and for ever.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        let mut gate = self.0.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
    }
}

/// What a requester got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) parts: response::Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.parts.status
    }

    pub(crate) fn cache(&self) -> CacheStatus {
        *self.parts.extensions.get().expect("no CacheStatus")
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.cache().reason()
    }
}

/// A response with its whole body.
pub(crate) async fn read<B>(response: Response<B>) -> Answer
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    Answer {
        parts,
        body,
        trailers,
    }
}

/// One request, and its whole answer.
pub(crate) async fn ask<S, B>(service: &S, request: Request<Body>) -> Result<Answer, Failure>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Failure> + Clone,
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Debug,
{
    let response = timeout(BOUND, service.clone().oneshot(request))
        .await
        .expect("hangs")?;
    Ok(timeout(BOUND, read(response))
        .await
        .expect("the body hangs"))
}

pub(crate) type Asked = JoinHandle<Result<Answer, Failure>>;

/// The same in a task of its own.
pub(crate) fn spawn_ask<S, B>(service: &S, request: Request<Body>) -> Asked
where
    S: Service<Request<Body>, Response = Response<B>, Error = Failure, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Debug,
{
    let service = service.clone();
    tokio::spawn(async move { ask(&service, request).await })
}

/// Many requests at once, each in a task of its own.
pub(crate) async fn burst<S, B>(
    service: &S,
    requests: impl IntoIterator<Item = Request<Body>>,
) -> Vec<Result<Result<Answer, Failure>, JoinError>>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Failure, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Debug,
{
    let asked: Vec<_> = requests
        .into_iter()
        .map(|request| spawn_ask(service, request))
        .collect();
    futures_util::future::join_all(asked).await
}

/// As `burst`, where nobody fails.
pub(crate) async fn answers<S, B>(
    service: &S,
    requests: impl IntoIterator<Item = Request<Body>>,
) -> Vec<Answer>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Failure, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Debug,
{
    burst(service, requests)
        .await
        .into_iter()
        .map(|asked| asked.unwrap().unwrap())
        .collect()
}

/// Serves this over real connections, HTTP/1 and HTTP/2, for as long as the runtime runs.
pub(crate) async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Failure, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http2().max_concurrent_streams(1000);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// An inner service as a server calls it.
pub(crate) fn for_server<I: Inner>(
    inner: I,
) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Failure, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |request: Request<Incoming>| inner.clone().oneshot(request.map(|_| full(""))))
}

/// Waits for what no channel tells.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(BOUND, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) async fn waiters(handle: &CacheHandle, waiters: usize) {
    until("they all wait", || handle.stats().waiters == waiters).await;
}

/// Nothing is left of what was in flight.
pub(crate) async fn settled(handle: &CacheHandle) {
    let left = || {
        let stats = handle.stats();
        (stats.flights, stats.waiters, stats.fills, stats.in_flight)
    };
    let settling = async {
        while left() != (0, 0, 0, 0) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(BOUND, settling).await.is_err() {
        panic!(
            "(flights, waiters, fills, in flight) are left: {:?}",
            left()
        );
    }
}

/// One step of a body.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Wait(Duration),
    Fail,
    /// The same data over and over.
    Endless(Bytes),
    Hang,
}

/// A body that plays a script.
#[derive(Debug)]
pub(crate) struct Script {
    steps: VecDeque<Step>,
    hint: Option<u64>,
    shy: bool,
    waiting: Option<Pin<Box<Sleep>>>,
    watched: Watched,
}

/// What became of a body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    /// How many frames were taken.
    frames: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
}

impl Watched {
    pub(crate) fn frames(&self) -> usize {
        self.frames.load(SeqCst)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }
}

impl Script {
    /// Of unknown length.
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            hint: None,
            shy: false,
            waiting: None,
            watched: Watched::default(),
        }
    }

    /// It says that this much is to come.
    pub(crate) fn hint(mut self, bytes: u64) -> Self {
        self.hint = Some(bytes);
        self
    }

    /// It does not say that it has ended until it is asked for more.
    pub(crate) fn shy(mut self) -> Self {
        self.shy = true;
        self
    }

    pub(crate) fn watched(&self) -> Watched {
        self.watched.clone()
    }

    pub(crate) fn watched_by(mut self, watched: &Watched) -> Self {
        self.watched = watched.clone();
        self
    }
}

/// Each byte, or as many as this, in a frame.
pub(crate) fn frames(text: &str, of: usize) -> Vec<Step> {
    text.as_bytes()
        .chunks(of)
        .map(|frame| Step::Data(Bytes::copy_from_slice(frame)))
        .collect()
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            let Some(step) = self.steps.pop_front() else {
                return Poll::Ready(None);
            };
            let data = match step {
                Step::Wait(duration) => {
                    self.waiting = Some(Box::pin(sleep(duration)));
                    continue;
                }
                Step::Hang => {
                    self.steps.push_front(Step::Hang);
                    return Box::pin(pending()).as_mut().poll(cx);
                }
                Step::Fail => return Poll::Ready(Some(Err(Broken))),
                Step::Trailers(trailers) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Step::Endless(data) => {
                    self.steps.push_front(Step::Endless(data.clone()));
                    data
                }
                Step::Data(data) => data,
            };
            self.watched.frames.fetch_add(1, SeqCst);
            self.hint = self.hint.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && !self.shy
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.watched.gone.store(true, SeqCst);
    }
}

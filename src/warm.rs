//! Fills the cache before anybody asks.

use std::{
    error::Error,
    fmt,
    num::NonZeroUsize,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use http::{Request, Response, Uri};
use http_body::Body;
use tokio::task::{JoinError, JoinSet};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    anew::Anew,
    caught::caught,
    clock::{before, deadline_in, unless},
    error::HostError,
    shared::Shared,
    status::{CacheStatus, Reason},
};

/// Requests on their way through the cache, a few at a time: a stream of how far they are, made by
/// [`CacheHandle::warm`](crate::CacheHandle::warm).
///
/// Nothing happens until it is polled; [`finish`](Self::finish) does so to the end. It needs a tokio runtime.
///
/// # Cancel safety
///
/// Dropped, no more requests begin, and those that have begun are dropped as a client's would be: their fills go on.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use tower::Service;
/// use tower_response_cache::{Cache, CacheHandle, ResponseBody};
///
/// # type Body = http_body_util::Full<bytes::Bytes>;
/// # async fn example<S>(cache: CacheHandle, service: Cache<S>)
/// # where
/// #     S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible> + Clone + Send + 'static,
/// #     S::Future: Send,
/// # {
/// let page = |page| Request::get(format!("https://shop.example/pages/{page}")).body(Body::default()).unwrap();
/// let pages = (0..2000).map(page);
/// let mut warming = cache.warm(service, pages);
/// while let Some(progress) = warming.next().await {
///     println!("{} of {}, {} failed", progress.done, progress.total, progress.failed);
///     if let Some(failure) = progress.failure {
///         println!("{failure}");
///     }
/// }
/// # }
/// ```
#[must_use = "it does nothing until it is polled"]
pub struct Warming {
    begin: Begin,
    asked: JoinSet<Asked>,
    at_once: usize,
    progress: WarmProgress,
    failures: Vec<WarmFailure>,
}

/// The target of a request that was sent, and why its answer is not stored.
type Asked = (Uri, Result<(), WarmError>);

/// Begins the next request. `false` if there is none.
type Begin = Box<dyn FnMut(&mut JoinSet<Asked>) -> bool + Send>;

/// How far the warming is.
///
/// # Examples
///
/// ```
/// use tower_response_cache::WarmProgress;
/// assert_eq!(WarmProgress::default().done, 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmProgress {
    /// How many requests there are.
    pub total: usize,
    /// How many have ended.
    pub done: usize,
    /// How many of these were not stored: they failed, took too long, or their answers are none that are stored. What was stored
    /// for them before is there still.
    pub failed: usize,
    /// Of the request that has just ended: why its answer is not stored. `None` if it is.
    pub failure: Option<WarmFailure>,
}

/// What the warming came to: [`Warming::finish`].
///
/// # Examples
///
/// ```
/// use tower_response_cache::Warmed;
/// assert!(Warmed::default().failures.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warmed {
    /// How many requests there were.
    pub total: usize,
    /// How many have ended: all of them.
    pub done: usize,
    /// How many of these were not stored.
    pub failed: usize,
    /// Why these were not stored, in the order in which they ended. No more than the first 100: [`Warming::next`] tells all of them.
    pub failures: Vec<WarmFailure>,
}

/// A request whose answer is not stored, and why.
///
/// # Examples
///
/// ```
/// # use tower_response_cache::{Warmed, WarmError};
/// fn hosts_are_missing(warmed: &Warmed) -> bool {
///     warmed.failures.iter().any(|failure| failure.error == WarmError::NoHost)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmFailure {
    /// The target of the request, as it was given.
    pub uri: Uri,
    /// Why its answer is not stored.
    pub error: WarmError,
}

impl fmt::Display for WarmFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.uri, self.error)
    }
}

impl Error for WarmFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// Why a request left nothing in the store.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Reason, WarmError};
///
/// let error = WarmError::NotStored(Some(Reason::SetCookie));
/// assert_eq!(error.to_string(), "the response was not stored: set-cookie");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarmError {
    /// It names no host, and a layer of the handle keys by host: no client would ever hit what it stores. It was not sent.
    NoHost,
    /// It names two hosts that differ, and was not sent.
    SeveralHosts,
    /// The service answered, and the answer was not stored: for this reason, if the response still says it.
    NotStored(Option<Reason>),
    /// The service answered, and no layer of this handle has looked at the request: the service is another one, or the request
    /// is one that bypasses the cache.
    NotCached,
    /// The service returned an error, or panicked.
    Service,
    /// The response's body ended in an error.
    Body,
    /// It took longer than a minute, to the end of the body.
    TimedOut,
}

impl fmt::Display for WarmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => HostError::None.fmt(f),
            Self::SeveralHosts => HostError::Several.fmt(f),
            Self::NotStored(Some(reason)) => write!(f, "the response was not stored: {reason}"),
            Self::NotStored(None) => f.write_str(
                "the response was not stored: it is larger than max_body_bytes, or was purged meanwhile",
            ),
            Self::NotCached => f.write_str(
                "no layer of this handle has looked at the request: send it through the cached service, \
                 in a form that has a key",
            ),
            Self::Service => f.write_str("the service failed"),
            Self::Body => f.write_str("the body of the response failed"),
            Self::TimedOut => f.write_str("it took longer than a minute"),
        }
    }
}

impl Error for WarmError {}

impl From<HostError> for WarmError {
    fn from(host: HostError) -> Self {
        match host {
            HostError::None => Self::NoHost,
            HostError::Several => Self::SeveralHosts,
        }
    }
}

/// How long a request may take, to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(60);

const AT_ONCE: usize = 8;

/// How many failures [`Warmed`] tells.
const FAILURES: usize = 100;

impl Warming {
    pub(crate) fn new<S, ReqB, ResB, I>(shared: &Arc<Shared>, service: S, requests: I) -> Self
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
        let mut requests = requests.into_iter();
        let progress = WarmProgress {
            total: requests.len(),
            ..WarmProgress::default()
        };
        let cache = shared.clone();
        Self {
            begin: Box::new(move |asked| {
                let Some(request) = requests.next() else {
                    return false;
                };
                asked.spawn(ask(cache.clone(), service.clone(), request));
                true
            }),
            asked: JoinSet::new(),
            at_once: AT_ONCE,
            progress,
            failures: Vec::new(),
        }
    }

    /// How many requests are on their way at once. Defaults to 8.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # use tower_response_cache::Warming;
    /// fn gently(warming: Warming) -> Warming {
    ///     warming.at_once(NonZeroUsize::MIN)
    /// }
    /// ```
    pub fn at_once(mut self, requests: NonZeroUsize) -> Self {
        self.at_once = requests.get();
        self
    }

    /// How far it is when the next request has ended. `None` when all have.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::Warming;
    /// async fn watch(mut warming: Warming) {
    ///     while let Some(progress) = warming.next().await {
    ///         println!("{} of {}", progress.done, progress.total);
    ///     }
    /// }
    /// ```
    pub async fn next(&mut self) -> Option<WarmProgress> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Goes on to the end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::Warming;
    /// async fn all(warming: Warming) {
    ///     assert_eq!(warming.finish().await.failed, 0);
    /// }
    /// ```
    pub async fn finish(mut self) -> Warmed {
        while self.next().await.is_some() {}
        let WarmProgress {
            total,
            done,
            failed,
            failure: _,
        } = self.progress;
        Warmed {
            total,
            done,
            failed,
            failures: self.failures,
        }
    }

    fn ended(&mut self, ended: Result<Asked, JoinError>) -> WarmProgress {
        // Only the service panics, and `ask` tells its target even then.
        let (uri, outcome) = ended.unwrap_or_else(|_| (Uri::default(), Err(WarmError::Service)));
        let progress = &mut self.progress;
        progress.done += 1;
        progress.failure = outcome.err().map(|error| WarmFailure { uri, error });
        if let Some(failure) = &progress.failure {
            progress.failed += 1;
            if self.failures.len() < FAILURES {
                self.failures.push(failure.clone());
            }
        }
        self.progress.clone()
    }
}

impl Stream for Warming {
    type Item = WarmProgress;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WarmProgress>> {
        let this = self.get_mut();
        while this.asked.len() < this.at_once && (this.begin)(&mut this.asked) {}
        let ended = ready!(this.asked.poll_join_next(cx));
        Poll::Ready(ended.map(|ended| this.ended(ended)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.progress.total.saturating_sub(self.progress.done);
        (left, Some(left))
    }
}

impl fmt::Debug for Warming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warming")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// Sends a request, and reads the answer to its end, or until it is known that it will not be stored: a stream may have no end.
async fn ask<S, ReqB, ResB>(cache: Arc<Shared>, service: S, request: Request<ReqB>) -> Asked
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body,
{
    let uri = request.uri().clone();
    let asked = caught(send(&cache, service, request)).await;
    (uri, asked.unwrap_or(Err(WarmError::Service)))
}

async fn send<S, ReqB, ResB>(
    cache: &Arc<Shared>,
    service: S,
    request: Request<ReqB>,
) -> Result<(), WarmError>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body,
{
    let (mut parts, body) = request.into_parts();
    cache.may_be_found(&parts)?;
    let anew = Anew::new(cache);
    parts.extensions.insert(anew.clone());
    let request = Request::from_parts(parts, body);
    let answered = before(deadline_in(PATIENCE), async {
        let response = service.oneshot(request).await;
        let (head, body) = response.map_err(|_| WarmError::Service)?.into_parts();
        let reading = unless(anew.until_refused(), async {
            let mut body = pin!(body);
            while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                frame.map_err(|_| WarmError::Body)?;
            }
            Ok::<_, WarmError>(())
        });
        reading.await.transpose()?;
        let status = head.extensions.get::<CacheStatus>();
        Ok::<_, WarmError>(status.and_then(CacheStatus::reason))
    });
    match answered.await.ok_or(WarmError::TimedOut)?? {
        _ if anew.is_stored() => Ok(()),
        None if !anew.is_heeded() => Err(WarmError::NotCached),
        reason => Err(WarmError::NotStored(reason)),
    }
}

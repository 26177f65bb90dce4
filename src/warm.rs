//! Fills the cache before anybody asks.

use std::{
    fmt,
    num::NonZeroUsize,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use http::{Request, Response};
use http_body::Body;
use tokio::task::{JoinError, JoinSet};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    anew::Anew,
    clock::{before, deadline_in, unless},
    shared::Shared,
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
/// let pages = (0..2000).map(|page| Request::get(format!("/pages/{page}")).body(Body::default()).unwrap());
/// let mut warming = cache.warm(service, pages);
/// while let Some(progress) = warming.next().await {
///     println!("{} of {}, {} failed", progress.done, progress.total, progress.failed);
/// }
/// # }
/// ```
#[must_use = "it does nothing until it is polled"]
pub struct Warming {
    begin: Begin,
    asked: JoinSet<bool>,
    at_once: usize,
    progress: WarmProgress,
}

/// Begins the next request. `false` if there is none.
type Begin = Box<dyn FnMut(&mut JoinSet<bool>) -> bool + Send>;

/// How far the warming is.
///
/// # Examples
///
/// ```
/// use tower_response_cache::WarmProgress;
/// assert_eq!(WarmProgress::default().done, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmProgress {
    /// How many requests there are.
    pub total: usize,
    /// How many have ended.
    pub done: usize,
    /// How many of these were not stored: they failed, took too long, or their answers are none that are stored. What was stored
    /// for them before is there still.
    pub failed: usize,
}

/// How long a request may take, to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(60);

const AT_ONCE: usize = 8;

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
    pub async fn finish(mut self) -> WarmProgress {
        while self.next().await.is_some() {}
        self.progress
    }

    fn ended(&mut self, ended: Result<bool, JoinError>) -> WarmProgress {
        self.progress.done += 1;
        if !ended.unwrap_or(false) {
            self.progress.failed += 1;
        }
        self.progress
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

/// Sends a request, and reads the answer to its end, or until it is known that it will not be stored: a stream may have no end. Whether it
/// is stored now.
async fn ask<S, ReqB, ResB>(cache: Arc<Shared>, service: S, mut request: Request<ReqB>) -> bool
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body,
{
    let anew = Anew::new(&cache);
    request.extensions_mut().insert(anew.clone());
    let answered = unless(anew.until_refused(), async {
        let body = service.oneshot(request).await.ok()?.into_body();
        let mut body = pin!(body);
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            frame.ok()?;
        }
        Some(())
    });
    let answered = before(deadline_in(PATIENCE), answered);
    answered.await.flatten().flatten().is_some() && anew.is_stored()
}

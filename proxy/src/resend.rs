//! Bodies of requests on their way to the origin: when they last moved, and how they are sent a second time.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;

use crate::{
    answers::boxed,
    server::{Body, BoxError},
};

/// A longer body is not sent a second time.
const MAX_BYTES: usize = 256 << 10;

/// When a request's body last moved: while a client sends, the origin need not answer.
#[derive(Clone)]
pub(crate) struct Progress(Arc<(Mutex<Instant>, AtomicBool)>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new((
            Mutex::new(Instant::now()),
            AtomicBool::new(false),
        )))
    }
}

impl Progress {
    pub(crate) fn watch(&self, body: Body) -> Body {
        let (frames, errors) = (self.clone(), self.clone());
        let body = body.map_frame(move |frame| {
            *frames.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            frame
        });
        let body = body.map_err(move |error| {
            errors.0.1.store(true, Ordering::Relaxed);
            error
        });
        body.boxed_unsync()
    }

    pub(crate) fn last(&self) -> Instant {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn broke(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }
}

/// A copy of a request, of whose body as much is known as was sent.
pub(crate) struct RequestCopy {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    sent: Sent,
}

impl RequestCopy {
    /// Copies a request, and its body while that is sent.
    pub(crate) fn of(request: Request<Body>) -> (Request<Body>, Self) {
        let sent = Sent::default();
        sent.lock().is_whole = http_body::Body::is_end_stream(request.body());
        let copy = Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            sent: sent.clone(),
        };
        (request.map(|body| boxed(Copied { body, sent })), copy)
    }

    /// The same request once more, if its whole body is known.
    pub(crate) fn into_request(self) -> Option<Request<Body>> {
        let sent = std::mem::take(&mut *self.sent.lock());
        if !sent.is_whole || sent.is_too_much {
            return None;
        }
        let mut request = Request::new(boxed(Full::new(sent.data.concat().into())));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        Some(request)
    }
}

#[derive(Clone, Default)]
struct Sent(Arc<Mutex<SentData>>);

#[derive(Default)]
struct SentData {
    data: Vec<Bytes>,
    bytes: usize,
    is_whole: bool,
    /// Nothing is kept of it.
    is_too_much: bool,
}

impl Sent {
    fn lock(&self) -> MutexGuard<'_, SentData> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SentData {
    fn add(&mut self, frame: &Frame<Bytes>) {
        // Trailers are not copied.
        let data = frame.data_ref();
        self.bytes += data.map_or(0, Bytes::len);
        self.is_too_much |= data.is_none() || self.bytes > MAX_BYTES;
        match data {
            Some(data) if !self.is_too_much => self.data.push(data.clone()),
            _ => self.data.clear(),
        }
    }
}

/// A body that is copied while it is sent.
struct Copied {
    body: Body,
    sent: Sent,
}

impl http_body::Body for Copied {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut sent = self.sent.lock();
        if let Some(Ok(frame)) = &frame {
            sent.add(frame);
        }
        sent.is_whole = frame.is_none() || self.body.is_end_stream();
        drop(sent);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

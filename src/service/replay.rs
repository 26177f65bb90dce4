//! A request body of which something was read before the inner service got it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::body::to_bytes;

/// A request body that replays what the cache read of it for the key, and goes on with the rest.
///
/// The inner service of a layer whose key reads the body gets it in place of the request's own: the same data,
/// trailers and errors, in the same order; what was read comes as one frame.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower_response_cache::ReplayBody;
///
/// # type Body = Full<bytes::Bytes>;
/// async fn handler(request: Request<ReplayBody<Body>>) -> Result<Response<Body>, std::convert::Infallible> {
///     let message = request.into_body().collect().await?.to_bytes();
///     Ok(Response::new(Body::new(message)))
/// }
/// ```
pub struct ReplayBody<B: Body> {
    /// The data that were read, in memory of their own: a frame may be a slice of a much larger buffer of its connection.
    data: BytesMut,
    /// What was read behind them: the trailers, or why there is no more.
    last: Option<Result<HeaderMap, B::Error>>,
    /// `None` once it has ended.
    rest: Option<Pin<Box<B>>>,
    /// How many bytes are still to come at the most, by what the body said before it was read.
    upper: Option<u64>,
    frames_read: usize,
}

impl<B: Body> ReplayBody<B> {
    pub(super) fn unread(body: B) -> Self {
        let upper = body.size_hint().upper();
        Self {
            data: BytesMut::new(),
            last: None,
            rest: Some(Box::pin(body)),
            upper,
            frames_read: 0,
        }
    }

    /// A body of these data, all of which were read.
    pub(super) fn whole(data: &[u8]) -> Self {
        Self {
            data: data.into(),
            last: None,
            rest: None,
            upper: Some(data.len() as u64),
            frames_read: 1,
        }
    }

    /// A body like this one, of which all was read. `None` if it has more to come, or has failed.
    pub(super) fn again(&self) -> Option<Self> {
        if !self.is_read() {
            return None;
        }
        let mut again = Self::whole(&self.data);
        again.last = self.trailers().cloned().map(Ok);
        Some(again)
    }

    /// Reads the next frame and keeps it to be replayed: says of how many bytes of data. `None` at the end, or after an
    /// error.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let Some(frame) = ready!(rest.as_mut().poll_frame(cx)) else {
            self.rest = None;
            return Poll::Ready(None);
        };
        if rest.is_end_stream() || frame.is_err() {
            self.rest = None;
        }
        self.frames_read += 1;
        let before = self.data.len();
        match frame.map(|frame| frame.into_data().map_err(Frame::into_trailers)) {
            Ok(Ok(data)) => self.data.put(data),
            Ok(Err(trailers)) => self.last = trailers.ok().map(Ok),
            Err(error) => {
                self.last = Some(Err(error));
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(self.data.len() - before))
    }

    /// All data that were read.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// The trailers, if they were read.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.last.as_ref()?.as_ref().ok()
    }

    pub(super) fn frames_read(&self) -> usize {
        self.frames_read
    }

    /// Whether all of it was read, without an error.
    pub(super) fn is_read(&self) -> bool {
        !matches!(self.last, Some(Err(_))) && self.has_ended()
    }

    fn has_ended(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }
}

impl<B: Body> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if !this.data.is_empty() {
            let data = this.data.split().freeze();
            this.upper = this
                .upper
                .map(|upper| upper.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(last.map(Frame::trailers)));
        }
        match &mut this.rest {
            Some(rest) => rest
                .as_mut()
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(to_bytes))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.last.is_none() && self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.data.len() as u64;
        let (lower, upper) = match &self.rest {
            Some(rest) => {
                let rest = rest.size_hint();
                let upper = rest.upper().map(|upper| read.saturating_add(upper));
                (read.saturating_add(rest.lower()), upper)
            }
            None if self.is_end_stream() => (0, Some(0)),
            // Nothing is behind the last byte.
            None if self.last.is_none() => (read, Some(read)),
            // Though all of it was read, no more is told than the body told itself: who knows the length exactly may not
            // look for the error or the trailers behind the last byte.
            None => (read, self.upper.map(|upper| upper.max(read))),
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = upper {
            hint.set_upper(upper);
        }
        hint.set_lower(lower);
        hint
    }
}

impl<B: Body> Unpin for ReplayBody<B> {}

impl<B: Body> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("frames_read", &self.frames_read)
            .finish_non_exhaustive()
    }
}

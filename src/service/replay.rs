//! A request body of which something was read before the inner service got it.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use smallvec::SmallVec;

use crate::body::to_bytes;

/// A request body that replays what the cache read of it for the key, and goes on with the rest.
///
/// The inner service of a layer whose key reads the body gets it in place of the request's own: the same data,
/// trailers and errors, in the same order.
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
    /// What was read, in frames as they came.
    read: VecDeque<Result<Frame<Bytes>, B::Error>>,
    /// `None` once it has ended.
    rest: Option<Pin<Box<B>>>,
    /// How many bytes are still to come at the most, by what the body said before it was read.
    upper: Option<u64>,
}

impl<B: Body> ReplayBody<B> {
    pub(super) fn unread(body: B) -> Self {
        let upper = body.size_hint().upper();
        Self {
            read: VecDeque::new(),
            rest: Some(Box::pin(body)),
            upper,
        }
    }

    /// Reads the next frame and keeps it to be replayed. `None` at the end, or after an error.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<&Frame<Bytes>>> {
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
        self.read.push_back(frame.map(to_bytes));
        Poll::Ready(self.read.back().and_then(|frame| frame.as_ref().ok()))
    }

    /// All data that were read.
    pub(super) fn data(&self) -> Bytes {
        let frames = self.read.iter().flatten();
        let data: SmallVec<[&Bytes; 4]> = frames.filter_map(Frame::data_ref).collect();
        match &*data {
            [only] => (*only).clone(),
            several => {
                let slices: Vec<&[u8]> = several.iter().map(|data| &***data).collect();
                slices.concat().into()
            }
        }
    }

    /// The trailers, if they were read.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.read.back()?.as_ref().ok()?.trailers_ref()
    }

    pub(super) fn frames_read(&self) -> usize {
        self.read.len()
    }

    /// Whether all of it was read, without an error.
    pub(super) fn is_read(&self) -> bool {
        let whole = !matches!(self.read.back(), Some(Err(_)));
        whole && self.has_ended()
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
        if let Some(frame) = this.read.pop_front() {
            let data = frame.as_ref().ok().and_then(Frame::data_ref);
            let handed_on = data.map_or(0, |data| data.len() as u64);
            this.upper = this.upper.map(|upper| upper.saturating_sub(handed_on));
            return Poll::Ready(Some(frame));
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
        self.read.is_empty() && self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self
            .read
            .iter()
            .filter_map(|frame| frame.as_ref().ok().and_then(Frame::data_ref));
        let read: u64 = frames.map(|data| data.len() as u64).sum();
        let (lower, upper) = match &self.rest {
            Some(rest) => {
                let rest = rest.size_hint();
                let upper = rest.upper().map(|upper| read.saturating_add(upper));
                (read.saturating_add(rest.lower()), upper)
            }
            None if self.read.is_empty() => (0, Some(0)),
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
            .field("frames_read", &self.read.len())
            .finish_non_exhaustive()
    }
}

//! The body of a response that came through the cache.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::sync::oneshot;

use crate::{
    entry::{Entry, shared_trailers},
    error::{BodyError, BoxError},
    recorder::{Record, Recorder},
    recording::{Reader, Step},
    tags::{CacheScope, scope},
};

/// The body of a response that came through the cache: stored, still coming in, or the inner service's own.
///
/// Data are [`Bytes`], trailers are kept, and the size hint is as exact as the inner body's. If the inner body fails,
/// the error is a [`BodyError`] with that as its source, for the requester as for those who read along.
///
/// # Examples
///
/// ```
/// use http_body_util::BodyExt;
/// use tower_response_cache::ResponseBody;
///
/// async fn whole<B>(body: ResponseBody<B>) -> Option<bytes::Bytes>
/// where
///     B: http_body::Body,
///     B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
/// {
///     Some(body.collect().await.ok()?.to_bytes())
/// }
/// ```
#[pin_project]
pub struct ResponseBody<B> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProjection)]
enum Kind<B> {
    /// Nothing: the answer to HEAD.
    Empty,
    Stored {
        data: Bytes,
        trailers: Option<HeaderMap>,
        length_known: bool,
    },
    /// The inner service's, untouched.
    Passed {
        #[pin]
        body: B,
    },
    /// The inner service's, recorded as it is read.
    Recorded {
        #[pin]
        body: B,
        recorder: Option<Box<Recorder>>,
        scope: CacheScope,
    },
    /// What another fill records.
    Followed { reader: Reader },
    /// What the requester's own fill records; if that stops, the rest is the inner service's.
    Led {
        reader: Reader,
        rest: oneshot::Receiver<Pin<Box<B>>>,
    },
    /// The rest of a body that was not recorded to its end.
    Rest { body: Pin<Box<B>> },
}

impl<B> ResponseBody<B> {
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Empty }
    }

    pub(crate) fn stored(entry: &Entry) -> Self {
        let kind = Kind::Stored {
            data: entry.body.clone(),
            trailers: entry.trailers.as_deref().cloned(),
            length_known: entry.length_known,
        };
        Self { kind }
    }

    pub(crate) fn passed(body: B) -> Self {
        Self {
            kind: Kind::Passed { body },
        }
    }

    pub(crate) fn recorded(body: B, recorder: Box<Recorder>, scope: CacheScope) -> Self {
        let kind = Kind::Recorded {
            body,
            recorder: Some(recorder),
            scope,
        };
        Self { kind }
    }

    pub(crate) fn followed(reader: Reader) -> Self {
        Self {
            kind: Kind::Followed { reader },
        }
    }

    pub(crate) fn led(reader: Reader, rest: oneshot::Receiver<Pin<Box<B>>>) -> Self {
        Self {
            kind: Kind::Led { reader, rest },
        }
    }
}

/// Takes the bytes out of a frame, whatever buffer they are in.
pub(crate) fn to_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut kind = self.project().kind;
        loop {
            match kind.as_mut().project() {
                KindProjection::Empty => return Poll::Ready(None),
                KindProjection::Stored { data, trailers, .. } => {
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
                    }
                    return Poll::Ready(
                        trailers
                            .take()
                            .map(|trailers| Ok(Frame::trailers(trailers))),
                    );
                }
                KindProjection::Passed { body } => return poll_inner(body, cx),
                KindProjection::Recorded {
                    body,
                    recorder,
                    scope,
                } => {
                    // Code in the body belongs to the fill, as the handler did.
                    let mut body = body;
                    let frame = ready!(
                        scope::CURRENT.sync_scope(scope.clone(), || poll_inner(body.as_mut(), cx))
                    );
                    record(recorder, &frame, body.is_end_stream());
                    return Poll::Ready(frame);
                }
                KindProjection::Rest { body } => return poll_inner(body.as_mut(), cx),
                KindProjection::Followed { reader } => {
                    return reader.poll_step(cx).map(frame_of).map(without_the_leaders);
                }
                KindProjection::Led { reader, rest } => match ready!(reader.poll_step(cx)) {
                    Step::HandedOver => match ready!(Pin::new(rest).poll(cx)) {
                        Ok(body) => kind.set(Kind::Rest { body }),
                        Err(_) => return Poll::Ready(Some(Err(BodyError::cut_short()))),
                    },
                    step => return Poll::Ready(frame_of(step)),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Stored { data, trailers, .. } => data.is_empty() && trailers.is_none(),
            Kind::Passed { body } => body.is_end_stream(),
            Kind::Rest { body } => body.is_end_stream(),
            // Not before the recorder has seen the end: who is told that there is no more will not ask.
            Kind::Recorded { body, recorder, .. } => recorder.is_none() && body.is_end_stream(),
            Kind::Followed { reader } | Kind::Led { reader, .. } => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Stored {
                data, length_known, ..
            } => {
                let mut hint = SizeHint::with_exact(data.len() as u64);
                if !length_known {
                    // A body that was sent in chunks is again, so that HTTP/1 has a place for its trailers.
                    hint = SizeHint::new();
                    hint.set_lower(data.len() as u64);
                }
                hint
            }
            Kind::Passed { body } | Kind::Recorded { body, .. } => body.size_hint(),
            Kind::Rest { body } => body.size_hint(),
            Kind::Followed { reader } | Kind::Led { reader, .. } => reader.size_hint(),
        }
    }
}

type Polled = Option<Result<Frame<Bytes>, BodyError>>;

fn poll_inner<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Polled>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let frame = ready!(body.poll_frame(cx));
    Poll::Ready(frame.map(|frame| frame.map(to_bytes).map_err(BodyError::inner)))
}

fn frame_of(step: Step) -> Polled {
    match step {
        Step::Frame(frame) => Some(Ok(frame)),
        Step::Broken(error) => Some(Err(error)),
        // Those who follow are told of a body that is whole, or of none.
        Step::HandedOver => Some(Err(BodyError::cut_short())),
        Step::End => None,
    }
}

/// What those who follow are told: of the trailers, what is not the leader's alone.
fn without_the_leaders(frame: Polled) -> Polled {
    let shared = |frame: Frame<Bytes>| match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(shared_trailers(&trailers)),
        Err(frame) => frame,
    };
    frame.map(|frame| frame.map(shared))
}

/// Tells the recorder what its requester is about to be told. Some readers stop at the last byte of a body whose
/// length they know, so the end is noted with it.
fn record(recorder: &mut Option<Box<Recorder>>, frame: &Polled, is_end: bool) {
    let Some(mut recording) = recorder.take() else {
        return;
    };
    match frame {
        Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if recording.data(data, is_end) == Record::Stop => {
                recording.hand_over();
            }
            (Some(_), _) if is_end => recording.finish(None),
            (_, Some(trailers)) => recording.finish(Some(trailers.clone())),
            _ => *recorder = Some(recording),
        },
        Some(Err(error)) => recording.broken(error.clone()),
        None => recording.finish(None),
    }
}

impl<B> Default for ResponseBody<B> {
    /// An empty body.
    fn default() -> Self {
        Self::empty()
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Stored { .. } => "stored",
            Kind::Passed { .. } => "passed",
            Kind::Recorded { .. } => "recorded",
            Kind::Followed { .. } => "followed",
            Kind::Led { .. } => "led",
            Kind::Rest { .. } => "rest",
        };
        f.debug_tuple("ResponseBody").field(&kind).finish()
    }
}

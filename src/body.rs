//! The body of a response that came through the cache.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::sync::oneshot;

use crate::{
    entry::{Entry, shared_trailers},
    error::{BodyError, BoxError},
    recorder::{Record, Recorder},
    recording::{Reader, Step},
    status::CacheStatus,
    tags::{
        CacheScope, PendingPart,
        scope::{self, in_bypass},
    },
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
    /// The page that it is part of, if that is still to hear of its end.
    part: Option<Box<PendingPart>>,
}

/// The inner service's own response, which the conditions and ranges of its requester are still to be applied to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unshaped {
    /// What is said of the response.
    pub(crate) status: CacheStatus,
    /// Whether the inner service may be called once more, with the requester's own fields.
    pub(crate) may_repeat: bool,
}

#[pin_project(project = KindProjection)]
enum Kind<B> {
    Empty,
    /// Nothing, and that is not said: what there would be is of a length of its own (an answer to HEAD, a 304).
    Withheld,
    Stored {
        data: Bytes,
        trailers: Option<HeaderMap>,
        length_known: bool,
    },
    /// Some of what is stored, with what stands between.
    Parts {
        frames: VecDeque<Bytes>,
    },
    /// Some of what is still coming in.
    Window {
        whole: Pin<Box<ResponseBody<B>>>,
        /// How many bytes come before it, and how many it is.
        skip: u64,
        left: u64,
    },
    /// The inner service's, untouched.
    Passed {
        #[pin]
        body: B,
        unshaped: Option<Unshaped>,
    },
    /// The inner service's, recorded as it is read.
    Recorded {
        #[pin]
        body: B,
        recorder: Option<Box<Recorder>>,
        scope: CacheScope,
    },
    /// What another fill records.
    Followed {
        reader: Reader,
    },
    /// What the requester's own fill records; if that stops, the rest is the inner service's.
    Led {
        reader: Reader,
        rest: oneshot::Receiver<Rest<B>>,
    },
    /// The rest of a body that was not recorded to its end.
    Rest(Rest<B>),
}

/// What was not recorded of a body.
pub(crate) struct Rest<B> {
    /// Taken from the body, and not recorded.
    pub(crate) data: Option<Bytes>,
    pub(crate) body: Pin<Box<B>>,
}

impl<B> ResponseBody<B> {
    fn of(kind: Kind<B>) -> Self {
        Self { kind, part: None }
    }

    pub(crate) fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// Nothing, where that says nothing of what there would be.
    pub(crate) fn withheld() -> Self {
        Self::of(Kind::Withheld)
    }

    pub(crate) fn stored(entry: &Entry) -> Self {
        Self::of(Kind::Stored {
            data: entry.body.clone(),
            trailers: entry.trailers.as_deref().cloned(),
            length_known: entry.length_known,
        })
    }

    pub(crate) fn parts(frames: impl IntoIterator<Item = Bytes>) -> Self {
        let frames = frames.into_iter().filter(|data| !data.is_empty()).collect();
        Self::of(Kind::Parts { frames })
    }

    pub(crate) fn passed(body: B) -> Self {
        Self::of(Kind::Passed {
            body,
            unshaped: None,
        })
    }

    /// Marks the inner service's own body as one that is still to be shaped for its requester.
    pub(crate) fn unshaped_as(mut self, how: Unshaped) -> Self {
        if let Kind::Passed { unshaped, .. } = &mut self.kind {
            *unshaped = Some(how);
        }
        self
    }

    pub(crate) fn recorded(body: B, recorder: Box<Recorder>, scope: CacheScope) -> Self {
        Self::of(Kind::Recorded {
            body,
            recorder: Some(recorder),
            scope,
        })
    }

    pub(crate) fn followed(reader: Reader) -> Self {
        Self::of(Kind::Followed { reader })
    }

    pub(crate) fn led(reader: Reader, rest: oneshot::Receiver<Rest<B>>) -> Self {
        Self::of(Kind::Led { reader, rest })
    }

    /// Whether it is the inner service's own, which is left as it is.
    pub(crate) fn is_passed(&self) -> bool {
        matches!(self.kind, Kind::Passed { unshaped: None, .. })
    }

    /// How it is to be shaped, if it is the inner service's own and was asked for as the whole.
    pub(crate) fn unshaped(&self) -> Option<Unshaped> {
        match self.kind {
            Kind::Passed { unshaped, .. } => unshaped,
            _ => None,
        }
    }

    /// All of its data, if they are there and nothing was read yet.
    pub(crate) fn data(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Stored { data, .. } => Some(data),
            _ => None,
        }
    }

    /// These bytes of it, and no trailers.
    pub(crate) fn cut(self, range: &Range<u64>) -> Self {
        Self::of(match self.kind {
            Kind::Stored { data, .. } => Kind::Stored {
                data: data.slice(index(range.start)..index(range.end)),
                trailers: None,
                length_known: true,
            },
            kind => Kind::Window {
                whole: Box::pin(Self { kind, ..self }),
                skip: range.start,
                left: range.end - range.start,
            },
        })
    }

    /// What its requester would record as it reads it, if that is so.
    #[expect(clippy::result_large_err, reason = "it is a body either way")]
    pub(crate) fn into_recorded(self) -> Result<(B, Box<Recorder>, CacheScope), Self> {
        match self.kind {
            Kind::Recorded {
                body,
                recorder: Some(recorder),
                scope,
            } => Ok((body, recorder, scope)),
            kind => Err(Self { kind, ..self }),
        }
    }
}

impl<B: Body> Rest<B> {
    fn size_hint(&self) -> SizeHint {
        let taken = self.data.as_ref().map_or(0, |data| data.len() as u64);
        let left = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower().saturating_add(taken));
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(taken));
        }
        hint
    }
}

impl<B: Body> ResponseBody<B> {
    /// Lets the page that it is part of hear of its end.
    pub(crate) fn part(mut self, pending: PendingPart) -> Self {
        if self.kind.is_end_stream() {
            pending.end();
        } else {
            self.part = Some(Box::new(pending));
        }
        self
    }

    /// The length of the whole, if it is told, or if all of it is there. Of a body of which nothing was read yet.
    pub(crate) fn whole_length(&self) -> Option<u64> {
        match &self.kind {
            Kind::Stored { data, .. } => Some(data.len() as u64),
            Kind::Followed { reader } => reader.whole_length(),
            // Whether all of it is there yet depends on who is faster.
            Kind::Led { reader, .. } => reader.told_length(),
            Kind::Recorded { body, .. } | Kind::Passed { body, .. } => body.size_hint().exact(),
            _ => None,
        }
    }
}

/// A place in data that are in memory.
pub(crate) fn index(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
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
        let mut this = self.project();
        let own = this.part.as_ref().and_then(|part| part.scope());
        let frame = ready!(poll_kind(this.kind.as_mut(), own, cx));
        if this.part.is_some() {
            let is_broken = matches!(frame, Some(Err(_)));
            let is_over = frame.is_none() || this.kind.is_end_stream();
            match this.part.take() {
                // Dropped: nobody knows what it depends on.
                Some(_) if is_broken => {}
                Some(part) if is_over => part.end(),
                part => *this.part = part,
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            // RFC 9110 §8.6: a server may make a `Content-Length` of it, which would be another than that of the whole.
            Kind::Withheld => SizeHint::new(),
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
            Kind::Parts { frames } => {
                let left: usize = frames.iter().map(Bytes::len).sum();
                SizeHint::with_exact(left as u64)
            }
            Kind::Window { left, .. } => SizeHint::with_exact(*left),
            Kind::Passed { body, .. } | Kind::Recorded { body, .. } => body.size_hint(),
            Kind::Rest(rest) => rest.size_hint(),
            Kind::Followed { reader } | Kind::Led { reader, .. } => reader.size_hint(),
        }
    }
}

impl<B: Body> Kind<B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Withheld => true,
            Self::Stored { data, trailers, .. } => data.is_empty() && trailers.is_none(),
            Self::Parts { frames } => frames.is_empty(),
            Self::Window { left, .. } => *left == 0,
            Self::Passed { body, .. } => body.is_end_stream(),
            Self::Rest(rest) => rest.data.is_none() && rest.body.is_end_stream(),
            // Not before the recorder has seen the end: who is told that there is no more will not ask.
            Self::Recorded { body, recorder, .. } => recorder.is_none() && body.is_end_stream(),
            Self::Followed { reader } | Self::Led { reader, .. } => reader.is_end_stream(),
        }
    }
}

type Polled = Option<Result<Frame<Bytes>, BodyError>>;

/// The next frame. The inner service's own code runs in the scope of the part that the body is, if it is one.
fn poll_kind<B>(
    mut kind: Pin<&mut Kind<B>>,
    own: Option<&CacheScope>,
    cx: &mut Context<'_>,
) -> Poll<Polled>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    loop {
        match kind.as_mut().project() {
            KindProjection::Empty | KindProjection::Withheld => return Poll::Ready(None),
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
            KindProjection::Parts { frames } => {
                let next = frames.pop_front();
                return Poll::Ready(next.map(|data| Ok(Frame::data(data))));
            }
            KindProjection::Window { whole, skip, left } => {
                let frame = ready!(poll_window(whole.as_mut(), skip, left, cx));
                if *left == 0 {
                    // Nobody reads the rest.
                    kind.set(Kind::Empty);
                }
                return Poll::Ready(frame);
            }
            KindProjection::Passed { body, .. } => {
                return in_bypass(own, || poll_inner(body, cx));
            }
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
            KindProjection::Rest(rest) => {
                if let Some(data) = rest.data.take() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                return in_bypass(own, || poll_inner(rest.body.as_mut(), cx));
            }
            KindProjection::Followed { reader } => {
                let frame = ready!(reader.poll_step(cx).map(frame_of));
                return Poll::Ready(without_the_leaders(frame, reader.kept_back()));
            }
            KindProjection::Led { reader, rest } => match ready!(reader.poll_step(cx)) {
                Step::HandedOver => match ready!(Pin::new(rest).poll(cx)) {
                    Ok(rest) => kind.set(Kind::Rest(rest)),
                    Err(_) => return Poll::Ready(Some(Err(BodyError::cut_short()))),
                },
                step => return Poll::Ready(frame_of(step)),
            },
        }
    }
}

fn poll_inner<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Polled>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let frame = ready!(body.poll_frame(cx));
    Poll::Ready(frame.map(|frame| frame.map(to_bytes).map_err(BodyError::inner)))
}

/// The next of the bytes that are wanted. Who was told how many there are is told if they do not come.
fn poll_window<B>(
    mut whole: Pin<&mut ResponseBody<B>>,
    skip: &mut u64,
    left: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Polled>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    const FRAMES_AT_ONCE: usize = 128;
    for _ in 0..FRAMES_AT_ONCE {
        let frame = match ready!(whole.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame.into_data(),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(Some(Err(BodyError::cut_short()))),
        };
        // Behind the trailers comes nothing more.
        let Ok(mut data) = frame else {
            return Poll::Ready(Some(Err(BodyError::cut_short())));
        };
        let skipped = data.split_to(data.len().min(index(*skip)));
        *skip -= skipped.len() as u64;
        data.truncate(index(*left));
        *left -= data.len() as u64;
        if !data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }
    // A body that always has a frame leaves the thread to others now and then.
    cx.waker().wake_by_ref();
    Poll::Pending
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
fn without_the_leaders(frame: Polled, kept_back: &[HeaderName]) -> Polled {
    let shared = |frame: Frame<Bytes>| match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(shared_trailers(&trailers, kept_back)),
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
            (Some(data), _) if matches!(recording.data(data.clone(), is_end), Record::Stop(_)) => {
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
            Kind::Withheld => "withheld",
            Kind::Stored { .. } => "stored",
            Kind::Parts { .. } => "parts",
            Kind::Window { .. } => "window",
            Kind::Passed { .. } => "passed",
            Kind::Recorded { .. } => "recorded",
            Kind::Followed { .. } => "followed",
            Kind::Led { .. } => "led",
            Kind::Rest(_) => "rest",
        };
        f.debug_tuple("ResponseBody").field(&kind).finish()
    }
}

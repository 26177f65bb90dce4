//! One who reads a recording.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Frame, SizeHint};

use super::{End, Recording};
use crate::error::BodyError;

/// Reads a recording from its start.
#[derive(Debug)]
pub(crate) struct Reader {
    recording: Arc<Recording>,
    /// Its place among the readers.
    at: usize,
    /// The number of the chunk that it reads next, and how much of that it has already.
    chunk: usize,
    offset: usize,
    delivered: u64,
    ended: bool,
}

/// What a reader finds next.
#[derive(Debug)]
pub(crate) enum Step {
    Frame(Frame<Bytes>),
    Broken(BodyError),
    HandedOver,
    End,
}

impl Reader {
    pub(super) fn new(recording: &Arc<Recording>, is_requesters: bool) -> Self {
        let mut state = recording.lock();
        let comes_too_late = !state.may_be_joined;
        let at = state.readers.join(is_requesters, comes_too_late);
        Self {
            recording: recording.clone(),
            at,
            chunk: 0,
            offset: 0,
            delivered: 0,
            ended: false,
        }
    }

    /// The trailers that only the body's own requester gets.
    pub(crate) fn kept_back(&self) -> &[HeaderName] {
        &self.recording.kept_back
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.ended {
            return Poll::Ready(Step::End);
        }
        let mut state = self.recording.lock();
        if state.readers.is_left_behind(self.at) {
            self.ended = true;
            return Poll::Ready(Step::Broken(BodyError::stalled()));
        }
        // What was read of the tail may be all of the chunk that it has become.
        while let Some(chunk) = state.chunk(self.chunk) {
            let data = chunk.slice(self.offset..);
            (self.chunk, self.offset) = (self.chunk + 1, 0);
            if state.readers.move_on(self.at, self.chunk) {
                state.trim();
                self.recording.moved.notify_waiters();
            }
            if !data.is_empty() {
                self.delivered += data.len() as u64;
                return Poll::Ready(Step::Frame(Frame::data(data)));
            }
        }
        if self.offset < state.tail.len() {
            let data = Bytes::copy_from_slice(&state.tail[self.offset..]);
            self.offset = state.tail.len();
            self.delivered += data.len() as u64;
            return Poll::Ready(Step::Frame(Frame::data(data)));
        }
        let step = match &state.end {
            None => {
                state.readers.wait(self.at, cx.waker());
                return Poll::Pending;
            }
            Some(End::Whole(Some(trailers))) => Step::Frame(Frame::trailers(trailers.clone())),
            Some(End::Whole(None)) => Step::End,
            Some(End::Broken(error)) => Step::Broken(error.clone()),
            // Said as often as it is asked: the rest may take a moment to arrive.
            Some(End::HandedOver) => return Poll::Ready(Step::HandedOver),
        };
        self.ended = true;
        Poll::Ready(step)
    }

    /// The length that the whole told in advance, if it did.
    pub(crate) fn told_length(&self) -> Option<u64> {
        self.recording.exact_length()
    }

    /// The length of the whole, if it was told in advance, or if all of it is there.
    pub(crate) fn whole_length(&self) -> Option<u64> {
        let state = self.recording.lock();
        match state.end {
            Some(End::Whole(_)) => Some(state.bytes as u64),
            _ => self.recording.exact_length(),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let state = self.recording.lock();
        let all_read = self.delivered == state.bytes as u64;
        self.ended || (all_read && matches!(state.end, Some(End::Whole(None))))
    }

    /// What is still to come, as the body itself would say.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let recorded = self.recording.lock().bytes as u64;
        let told = &self.recording.hint;
        let mut hint = SizeHint::new();
        if let Some(upper) = told.upper() {
            hint.set_upper(upper.saturating_sub(self.delivered));
        }
        let lower = told.lower().max(recorded).saturating_sub(self.delivered);
        hint.set_lower(hint.upper().map_or(lower, |upper| lower.min(upper)));
        hint
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.recording.lock();
        if state.readers.leave(self.at) {
            state.trim();
        }
        drop(state);
        self.recording.moved.notify_waiters();
    }
}

//! One who reads a recording.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Frame, SizeHint};

use super::{End, Recording, State};
use crate::error::BodyError;

/// Reads a recording from its start.
#[derive(Debug)]
pub(crate) struct Reader {
    recording: Arc<Recording>,
    position: Position,
}

/// How far a reader has come.
#[derive(Debug)]
struct Position {
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
        let position = Position {
            at: state.readers.join(is_requesters, comes_too_late),
            chunk: 0,
            offset: 0,
            delivered: 0,
            ended: false,
        };
        Self {
            recording: recording.clone(),
            position,
        }
    }

    /// The trailers that only the body's own requester gets.
    pub(crate) fn kept_back(&self) -> &[HeaderName] {
        &self.recording.kept_back
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.position.ended {
            return Poll::Ready(Step::End);
        }
        let mut state = self.recording.lock();
        let mut has_moved = false;
        let data = self.position.next_data(&mut state, &mut has_moved);
        let step = match data {
            Some(data) => Poll::Ready(Step::Frame(Frame::data(data))),
            None => self.position.next_step(&mut state, cx),
        };
        if has_moved {
            state.trim();
            drop(state);
            self.recording.moved.notify_waiters();
        }
        step
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
        let all_read = self.position.delivered == state.bytes as u64;
        self.position.ended || (all_read && matches!(state.end, Some(End::Whole(None))))
    }

    /// What is still to come, as the body itself would say.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let recorded = self.recording.lock().bytes as u64;
        let told = &self.recording.hint;
        let mut hint = SizeHint::new();
        if let Some(upper) = told.upper() {
            hint.set_upper(upper.saturating_sub(self.position.delivered));
        }
        let lower = told
            .lower()
            .max(recorded)
            .saturating_sub(self.position.delivered);
        hint.set_lower(hint.upper().map_or(lower, |upper| lower.min(upper)));
        hint
    }
}

impl Position {
    /// The data that are there and were not read yet. Notes whether the slowest reader may be further on than it was.
    fn next_data(&mut self, state: &mut State, has_moved: &mut bool) -> Option<Bytes> {
        if state.readers.is_left_behind(self.at) {
            return None;
        }
        // What was read of the tail may be all of the chunk that it has become.
        while let Some(chunk) = state.chunk(self.chunk) {
            let data = chunk.slice(self.offset..);
            (self.chunk, self.offset) = (self.chunk + 1, 0);
            *has_moved |= state.readers.move_on(self.at, self.chunk);
            if !data.is_empty() {
                self.delivered += data.len() as u64;
                return Some(data);
            }
        }
        let data = state.tail.get(self.offset..)?;
        let data = (!data.is_empty()).then(|| Bytes::copy_from_slice(data))?;
        self.offset += data.len();
        self.delivered += data.len() as u64;
        Some(data)
    }

    /// What comes when there are no data.
    fn next_step(&mut self, state: &mut State, cx: &Context<'_>) -> Poll<Step> {
        let step = match &state.end {
            _ if state.readers.is_left_behind(self.at) => Step::Broken(BodyError::stalled()),
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
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.recording.lock();
        let (has_moved, _waker) = state.readers.leave(self.position.at);
        if has_moved {
            state.trim();
        }
        drop(state);
        self.recording.moved.notify_waiters();
    }
}

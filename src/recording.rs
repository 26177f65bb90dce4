//! A body while it is being recorded, and those who read along.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;

use crate::error::BodyError;

/// Frames shorter than this are put together, so that a body of tiny frames takes no more memory than its bytes.
const SHORT_BYTES: usize = 4096;

/// What has been read of a body so far. One writes; any number read, each at its own pace and from the start.
#[derive(Debug)]
pub(crate) struct Recording {
    state: Mutex<State>,
    /// Told when the last reader has gone.
    unread: Notify,
    /// What the body said of its length before its first frame.
    hint: SizeHint,
    /// The trailers that only its own requester gets.
    kept_back: Arc<[HeaderName]>,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Bytes>,
    /// Short frames, until they make a chunk.
    tail: BytesMut,
    held_back: Bytes,
    /// All of them together.
    bytes: usize,
    end: Option<End>,
    readers: usize,
    next_reader: u64,
    waiting: HashMap<u64, Waker>,
}

#[derive(Debug, Clone)]
enum End {
    Whole(Option<HeaderMap>),
    Broken(BodyError),
    /// It was too long to record: one reader goes on with the body itself.
    HandedOver,
}

impl Recording {
    pub(crate) fn new(hint: SizeHint, kept_back: &Arc<[HeaderName]>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            unread: Notify::new(),
            hint,
            kept_back: kept_back.clone(),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The length that the body told in advance, if it did.
    pub(crate) fn exact_length(&self) -> Option<u64> {
        self.hint.exact()
    }

    /// Adds data, for all to read.
    pub(crate) fn push(&self, data: Bytes) {
        let mut state = self.lock();
        state.bytes += data.len();
        state.push(data);
        wake(state);
    }

    /// Adds the last data, which are told together with the end.
    pub(crate) fn hold_back(&self, data: Bytes) {
        let mut state = self.lock();
        state.bytes += data.len();
        state.held_back = data;
    }

    pub(crate) fn finish(&self, trailers: Option<HeaderMap>) {
        self.end(End::Whole(trailers));
    }

    pub(crate) fn break_off(&self, error: BodyError) {
        self.end(End::Broken(error));
    }

    pub(crate) fn hand_over(&self) {
        self.end(End::HandedOver);
    }

    /// The whole body in one piece that takes no more memory than its bytes.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let state = self.lock();
        let mut whole = Vec::with_capacity(state.bytes);
        for chunk in &state.chunks {
            whole.extend_from_slice(chunk);
        }
        whole.extend_from_slice(&state.tail);
        whole.extend_from_slice(&state.held_back);
        whole.into()
    }

    /// Waits until nobody reads.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn unread(&self) {
        loop {
            let notified = self.unread.notified();
            if self.lock().readers == 0 {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        let mut state = self.lock();
        state.readers += 1;
        state.next_reader += 1;
        Reader {
            id: state.next_reader,
            recording: self.clone(),
            chunk: 0,
            offset: 0,
            delivered: 0,
            ended: false,
        }
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        let last = std::mem::take(&mut state.held_back);
        state.push(last);
        if state.end.is_none() {
            state.end = Some(end);
        }
        wake(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, data: Bytes) {
        if data.len() < SHORT_BYTES {
            if self.tail.len() + data.len() > SHORT_BYTES {
                self.seal_tail();
            }
            self.tail.extend_from_slice(&data);
        } else {
            self.seal_tail();
            self.chunks.push(data);
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.chunks.push(tail);
        }
    }
}

/// Wakes those who wait, outside the lock: a waker may poll or drop a reader where it stands.
fn wake(mut state: MutexGuard<'_, State>) {
    let waiting = std::mem::take(&mut state.waiting);
    drop(state);
    waiting.into_values().for_each(Waker::wake);
}

/// One who reads a recording from its start.
#[derive(Debug)]
pub(crate) struct Reader {
    recording: Arc<Recording>,
    id: u64,
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
    /// The trailers that only the body's own requester gets.
    pub(crate) fn kept_back(&self) -> &[HeaderName] {
        &self.recording.kept_back
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.ended {
            return Poll::Ready(Step::End);
        }
        let mut state = self.recording.lock();
        // What was read of the tail may be all of the chunk that it has become.
        while let Some(chunk) = state.chunks.get(self.chunk) {
            let data = chunk.slice(self.offset..);
            (self.chunk, self.offset) = (self.chunk + 1, 0);
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
                state.waiting.insert(self.id, cx.waker().clone());
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
        state.waiting.remove(&self.id);
        state.readers -= 1;
        if state.readers == 0 {
            self.recording.unread.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &mut Reader) -> Vec<u8> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Step::Frame(frame)) = reader.poll_step(&mut cx) {
            all.extend_from_slice(&frame.into_data().unwrap());
        }
        all
    }

    #[test]
    fn frames_of_any_length_are_read_whole_from_any_place() {
        let recording = Recording::new(SizeHint::default(), &Arc::default());
        let mut readers = Vec::new();
        let (mut expected, mut read_so_far) = (Vec::new(), Vec::new());
        for (i, length) in [1, 4095, 1, 4096, 3, 5000, 0, 4095, 4095, 2, 9000, 1]
            .into_iter()
            .enumerate()
        {
            readers.push(recording.reader());
            read_so_far.push(Vec::new());
            let data = vec![u8::try_from(i).unwrap(); length];
            expected.extend_from_slice(&data);
            recording.push(data.into());
            for (reader, so_far) in readers.iter_mut().zip(&mut read_so_far).step_by(2) {
                so_far.extend(read(reader));
            }
        }
        recording.finish(None);
        for (reader, so_far) in readers.iter_mut().zip(&mut read_so_far) {
            so_far.extend(read(reader));
            assert_eq!(*so_far, expected);
            assert!(reader.is_end_stream());
        }
        assert_eq!(recording.to_bytes(), expected);
    }

    #[test]
    fn a_body_of_tiny_frames_takes_its_bytes_and_little_more() {
        let recording = Recording::new(SizeHint::default(), &Arc::default());
        for _ in 0..100_000 {
            recording.push(Bytes::from_static(b"x"));
        }
        assert!(recording.lock().chunks.len() <= 100_000 / SHORT_BYTES + 1);
    }

    #[test]
    fn the_hint_counts_down_and_never_contradicts_itself() {
        let recording = Recording::new(SizeHint::with_exact(4), &Arc::default());
        let mut reader = recording.reader();
        assert_eq!(reader.size_hint().exact(), Some(4));
        recording.push(Bytes::from_static(b"abcdef"));
        read(&mut reader);
        assert_eq!(reader.size_hint().exact(), Some(0));
        let unknown = Recording::new(SizeHint::default(), &Arc::default());
        unknown.push(Bytes::from_static(b"abc"));
        assert_eq!(
            (
                unknown.reader().size_hint().lower(),
                unknown.reader().size_hint().upper()
            ),
            (3, None)
        );
    }
}

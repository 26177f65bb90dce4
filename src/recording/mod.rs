//! A body while it is being recorded, and those who read along.
//!
//! As long as somebody may still join, all of it is kept. When nobody may join any more, only what the slowest reader still has
//! to read is: then the recording is a window on the body.

mod budget;
mod chunk;
mod reader;
mod readers;
mod window;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::SizeHint;
use smallvec::SmallVec;
use tokio::{sync::Notify, time::Instant};

use crate::{clock::before, error::BodyError};
pub(crate) use budget::Budget;
use budget::Charge;
use chunk::Chunk;
pub(crate) use reader::{Reader, Step};
use readers::Readers;
pub(crate) use window::Window;

/// Frames shorter than this are put together, so that a body of tiny frames takes no more memory than its bytes.
const SHORT_BYTES: usize = 4096;

/// A window holds no more frames than this, or than one for each 4 KiB, however short they are.
const MIN_WINDOW_FRAMES: usize = 1024;

/// What has been read of a body so far. One writes; any number read, each at its own pace.
#[derive(Debug)]
pub(crate) struct Recording {
    state: Mutex<State>,
    /// Notified when the slowest reader has moved on, and when a reader has left.
    moved: Notify,
    /// What the body said of its length before its first frame.
    hint: SizeHint,
    /// The trailers that only its own requester gets.
    kept_back: Arc<[HeaderName]>,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Chunk>,
    /// How many chunks were there before these, and are not kept any more.
    gone: usize,
    /// Short frames, until they make a chunk.
    tail: Vec<u8>,
    held_back: Chunk,
    /// The bytes of all that was recorded, kept or not.
    bytes: usize,
    /// The bytes of the chunks.
    kept: usize,
    charge: Charge,
    end: Option<End>,
    readers: Readers,
    /// Since when nothing is recorded but what readers wait for.
    window_since: Option<Instant>,
    /// Readers may still join: nothing is left out.
    may_be_joined: bool,
}

#[derive(Debug, Clone)]
enum End {
    Whole(Option<HeaderMap>),
    Broken(BodyError),
    /// One reader goes on with the body itself.
    HandedOver,
}

/// Those who may still read a recording from its start are given readers by this. Until it is dropped, all of it is kept.
#[derive(Debug)]
pub(crate) struct Invitation(Arc<Recording>);

impl Invitation {
    pub(crate) fn to(recording: &Arc<Recording>) -> Self {
        Self(recording.clone())
    }

    /// A reader from the start. If the others have gone on without it, its body is broken.
    pub(crate) fn reader(&self) -> Reader {
        Reader::new(&self.0, false)
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.may_be_joined = false;
        state.trim();
        drop(state);
        self.0.moved.notify_waiters();
    }
}

impl Recording {
    pub(crate) fn new(
        hint: SizeHint,
        kept_back: &Arc<[HeaderName]>,
        budget: &Arc<Budget>,
    ) -> Arc<Self> {
        let state = State {
            chunks: VecDeque::new(),
            gone: 0,
            tail: Vec::new(),
            held_back: Chunk::default(),
            bytes: 0,
            kept: 0,
            charge: Charge::new(budget),
            end: None,
            readers: Readers::default(),
            window_since: None,
            may_be_joined: true,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            moved: Notify::new(),
            hint,
            kept_back: kept_back.clone(),
        })
    }

    /// The reader of the request for which the body is made: it can go on with the body itself.
    pub(crate) fn requesters_reader(self: &Arc<Self>) -> Reader {
        Reader::new(self, true)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The length that the body told in advance, if it did.
    pub(crate) fn exact_length(&self) -> Option<u64> {
        self.hint.exact()
    }

    /// Adds data, for all to read.
    ///
    /// # Errors
    ///
    /// The data, if the budget has no room for them.
    pub(crate) fn push(&self, data: Bytes) -> Result<(), Bytes> {
        let mut state = self.lock();
        let added = state.push(data);
        wake(state);
        added
    }

    /// As [`push`](Self::push), of the last data, which are told together with the end.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub(crate) fn hold_back(&self, data: Bytes) -> Result<(), Bytes> {
        let mut state = self.lock();
        let chunk = Chunk::compact(data);
        if !state.charge.try_add(chunk.held) {
            return Err(chunk.data);
        }
        state.bytes += chunk.data.len();
        state.held_back = chunk;
        Ok(())
    }

    /// As [`hold_back`](Self::hold_back), of data that are stored already.
    pub(crate) fn hold_back_stored(&self, data: &Bytes) {
        let mut state = self.lock();
        state.bytes += data.len();
        state.held_back = Chunk::counted_elsewhere(data.clone());
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

    /// The whole body in one piece that takes hardly more memory than its bytes.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let state = self.lock();
        let chunks = state.chunks.iter().chain([&state.held_back]);
        let mut filled = chunks.clone().filter(|chunk| !chunk.data.is_empty());
        if let (Some(only), None, true) = (filled.next(), filled.next(), state.tail.is_empty())
            && only.is_tight()
        {
            return only.data.clone();
        }
        let mut whole = Vec::with_capacity(state.bytes);
        for chunk in &state.chunks {
            whole.extend_from_slice(&chunk.data);
        }
        whole.extend_from_slice(&state.tail);
        whole.extend_from_slice(&state.held_back.data);
        whole.into()
    }

    /// From now on only what readers wait for is kept. `false` if there is nobody but its requester, who can go on with the body itself.
    fn become_window(&self) -> bool {
        let mut state = self.lock();
        state.seal_tail();
        state.window_since = Some(Instant::now());
        state.trim();
        let is_shared = state.may_be_joined || state.readers.has_others();
        // Those who have read all of the tail leave it behind now.
        wake(state);
        is_shared
    }

    /// Adds data to a window, whether or not the budget has room for them. The last are told together with the end.
    fn pass_on(&self, data: Bytes, is_last: bool) {
        let mut state = self.lock();
        state.pass_on(data, is_last);
        if !is_last {
            wake(state);
        }
    }

    /// Waits until a window of this many bytes has room for more. Readers that have made it wait for so long are left behind, if others
    /// read too. `false` if nobody reads any more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    async fn room(&self, max_bytes: usize, stall_timeout: Duration) -> bool {
        loop {
            // Made first: what happens from here on is not missed.
            let moved = self.moved.notified();
            let deadline = match self.lock().room(max_bytes, stall_timeout) {
                Room::Free => return true,
                Room::Unread => return false,
                Room::Full(deadline) => deadline,
            };
            match deadline {
                None => moved.await,
                Some(deadline) if before(deadline, moved).await.is_some() => {}
                Some(_) => self.leave_behind(stall_timeout),
            }
        }
    }

    /// Waits until nobody reads, and nobody may join.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    async fn unread(&self) {
        loop {
            let moved = self.moved.notified();
            if self.lock().is_unread() {
                return;
            }
            moved.await;
        }
    }

    fn leave_behind(&self, stall_timeout: Duration) {
        let mut state = self.lock();
        state.leave_behind(stall_timeout);
        wake(state);
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        state.seal_tail();
        let last = std::mem::take(&mut state.held_back);
        if !last.data.is_empty() {
            state.add(last);
        }
        if state.end.is_none() {
            state.end = Some(end);
        }
        wake(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a window takes more.
#[derive(Debug)]
enum Room {
    Free,
    /// Nobody reads any more.
    Unread,
    /// Until then the body waits for the slowest reader.
    Full(Option<Instant>),
}

impl State {
    fn push(&mut self, data: Bytes) -> Result<(), Bytes> {
        let length = data.len();
        if length == 0 {
            return Ok(());
        }
        // The first frame is kept as it comes: it may be all.
        if length < SHORT_BYTES && self.bytes > 0 {
            if !self.push_short(&data) {
                return Err(data);
            }
        } else {
            let chunk = Chunk::compact(data);
            if !self.charge.try_add(chunk.held) {
                return Err(chunk.data);
            }
            self.seal_tail();
            self.add(chunk);
        }
        self.bytes += length;
        Ok(())
    }

    /// `false` if the budget has no room.
    fn push_short(&mut self, data: &Bytes) -> bool {
        if self.tail.len() + data.len() > SHORT_BYTES {
            self.seal_tail();
        }
        let needed = self.tail.len() + data.len();
        let wanted = needed.next_power_of_two().min(SHORT_BYTES);
        let more = wanted.saturating_sub(self.tail.capacity());
        if more > 0 {
            if !self.charge.try_add(more) {
                return false;
            }
            let before = self.tail.capacity();
            self.tail.reserve_exact(wanted - self.tail.len());
            self.charge
                .add((self.tail.capacity() - before).saturating_sub(more));
        }
        self.tail.extend_from_slice(data);
        true
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let tail = std::mem::take(&mut self.tail);
        let counted = tail.capacity();
        let chunk = Chunk::of(tail);
        self.charge.subtract(counted - chunk.held);
        self.add(chunk);
    }

    /// Adds a chunk that is counted already.
    fn add(&mut self, chunk: Chunk) {
        self.kept += chunk.data.len();
        self.chunks.push_back(chunk);
    }

    fn pass_on(&mut self, data: Bytes, is_last: bool) {
        if data.is_empty() {
            return;
        }
        self.bytes += data.len();
        let chunk = Chunk::compact(data);
        self.charge.add(chunk.held);
        if is_last {
            self.held_back = chunk;
            return;
        }
        self.readers.see_chunk(self.gone + self.chunks.len());
        self.add(chunk);
    }

    /// The chunk of this number, if it is kept.
    fn chunk(&self, number: usize) -> Option<&Bytes> {
        let at = number.checked_sub(self.gone)?;
        self.chunks.get(at).map(|chunk| &chunk.data)
    }

    fn is_unread(&self) -> bool {
        !self.may_be_joined && self.readers.active() == 0
    }

    /// Drops what everybody has read, if nobody may join any more.
    fn trim(&mut self) {
        if self.may_be_joined {
            return;
        }
        let next = self.gone + self.chunks.len();
        let slowest = self.readers.slowest().map_or(next, |chunk| chunk.min(next));
        while self.gone < slowest {
            let Some(chunk) = self.chunks.pop_front() else {
                break;
            };
            self.charge.subtract(chunk.held);
            self.kept -= chunk.data.len();
            self.gone += 1;
        }
        self.readers.watch(self.gone);
    }

    fn room(&self, max_bytes: usize, stall_timeout: Duration) -> Room {
        if self.is_unread() {
            return Room::Unread;
        }
        let max_frames = MIN_WINDOW_FRAMES.max(max_bytes / SHORT_BYTES);
        let is_full =
            self.kept >= max_bytes || self.chunks.len() >= max_frames || self.charge.is_exhausted();
        if self.chunks.is_empty() || !is_full {
            return Room::Free;
        }
        let since = if self.may_be_joined {
            self.window_since
        } else {
            // The last reader delays nobody.
            let others = self.readers.active() > 1;
            others
                .then(|| self.readers.stalled_since(self.gone))
                .flatten()
        };
        Room::Full(since.and_then(|since| since.checked_add(stall_timeout)))
    }

    /// Goes on without those who have made the others wait for too long.
    fn leave_behind(&mut self, stall_timeout: Duration) {
        let now = Instant::now();
        if self.may_be_joined {
            let since = self.window_since.unwrap_or(now);
            self.may_be_joined = since + stall_timeout > now;
        } else if self.readers.active() > 1 {
            self.readers.leave_behind(self.gone, now, stall_timeout);
        }
        self.trim();
    }
}

/// Wakes those who wait, outside the lock: a waker may poll or drop a reader where it stands.
fn wake(mut state: MutexGuard<'_, State>) {
    let waiting: SmallVec<[Waker; 2]> = state.readers.take_wakers();
    drop(state);
    waiting.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests;

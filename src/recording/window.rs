//! A body that is not recorded any more, on its way to all who read it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;

use super::Recording;
use crate::error::BodyError;

/// Holds only what the slowest reader still has to read. Dropped before its end, it breaks off the bodies of those who read.
#[derive(Debug)]
pub(crate) struct Window {
    recording: Arc<Recording>,
    max_bytes: usize,
    stall_timeout: Duration,
    has_ended: bool,
}

impl Window {
    /// `None` if nobody reads but the requester, who can go on with the body itself.
    pub(crate) fn on(
        recording: Arc<Recording>,
        max_bytes: usize,
        stall_timeout: Duration,
    ) -> Option<Self> {
        if !recording.become_window() {
            recording.hand_over();
            return None;
        }
        Some(Self {
            recording,
            max_bytes,
            stall_timeout,
            has_ended: false,
        })
    }

    /// Waits until there is room for more data. A reader that stops for `stall_timeout` while others wait for it is left behind.
    /// `false` if nobody reads any more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn room(&self) -> bool {
        self.recording
            .room(self.max_bytes, self.stall_timeout)
            .await
    }

    /// Waits until nobody reads any more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn unread(&self) {
        self.recording.unread().await;
    }

    /// The next data. The last are told with the end.
    pub(crate) fn data(&self, data: Bytes, is_last: bool) {
        self.recording.pass_on(data, is_last);
    }

    pub(crate) fn finish(mut self, trailers: Option<HeaderMap>) {
        self.has_ended = true;
        self.recording.finish(trailers);
    }

    pub(crate) fn broken(mut self, error: BodyError) {
        self.has_ended = true;
        self.recording.break_off(error);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if !self.has_ended {
            self.recording.break_off(BodyError::cut_short());
        }
    }
}

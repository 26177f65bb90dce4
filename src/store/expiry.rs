//! When stored responses are of no use any more, so that they leave the memory without being asked for.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::AbortHandle, time::Instant};

/// When the next stored response is of no use any more, and the task that looks after that. The task is aborted when the handle and its
/// layers are gone.
#[derive(Debug)]
pub(crate) struct Expiry {
    began: Instant,
    /// In milliseconds since then. No stored response is of no use before this.
    next: AtomicU64,
    /// A sweep is to remove what has expired.
    is_due: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

impl Expiry {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            next: AtomicU64::new(u64::MAX),
            is_due: AtomicBool::new(false),
            task: Mutex::new(None),
        }
    }

    /// What is stored now is of use for this long.
    pub(crate) fn note(&self, now: Instant, useful_for: Duration) {
        let end = now
            .saturating_duration_since(self.began)
            .saturating_add(useful_for);
        let end = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
        self.next.fetch_min(end, Ordering::AcqRel);
    }

    /// Whether a sweep is to remove what has expired.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Acquire)
    }

    /// A sweep begins, which [notes](Self::note) the end of each response that it keeps.
    pub(crate) fn begin_sweep(&self) {
        // Cleared first: what is noted from now on counts for the next one.
        self.next.store(u64::MAX, Ordering::Release);
        self.is_due.store(false, Ordering::Release);
    }

    /// Makes a sweep due if something has expired.
    pub(crate) fn look(&self) {
        let now = Instant::now().saturating_duration_since(self.began);
        if u128::from(self.next.load(Ordering::Acquire)) <= now.as_millis() {
            self.is_due.store(true, Ordering::Release);
        }
    }

    /// Keeps a task that looks for what has expired, made by this if there is none.
    pub(crate) fn watch(&self, spawn: impl FnOnce() -> AbortHandle) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = Some(spawn());
        }
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

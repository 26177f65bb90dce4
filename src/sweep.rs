//! Gives back the memory of what was purged. Nothing depends on it but memory: what is purged is never served.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clock::rest,
    entry::{Entry, Life},
    shared::Shared,
};

/// How many entries are looked at before others get the core.
const SLICE: usize = 256;

/// Between slices the sweep rests for this many times as long as the slice took: half a core at the most.
const REST: u32 = 1;

impl Shared {
    /// Starts a sweep if one is wanted and none runs. Outside a runtime none is started: the next purge or fill
    /// inside one does.
    pub(crate) fn sweep_soon(self: &Arc<Self>) {
        if !self.purges.wants_sweep() || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(sweep(Sweeping(self.clone())))),
            Err(_) => self.sweeping.store(false, Ordering::Release),
        }
    }

    fn keeps(&self, entry: &Entry, now: Instant) -> bool {
        let is_of_use = || {
            let to_be_refreshed = entry.recorded.is_some() && self.is_collecting();
            entry.life(now) != Life::Over || entry.may_be_renewed() || to_be_refreshed
        };
        self.purges.keeps(&entry.stamp) && is_of_use()
    }

    /// Whether a purge is looking for what it has to fetch anew.
    fn is_collecting(&self) -> bool {
        self.collecting.load(Ordering::Acquire) > 0
    }
}

/// The one sweep that runs: on every way out, also when its runtime shuts down, another may begin.
struct Sweeping(Arc<Shared>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.sweeping.store(false, Ordering::Release);
    }
}

async fn sweep(sweeping: Sweeping) {
    while sweeping.0.purges.wants_sweep() {
        sweep_once(&sweeping.0).await;
        // A small store is swept in one slice, and purges may come faster.
        tokio::task::yield_now().await;
    }
    let shared = sweeping.0.clone();
    drop(sweeping);
    // A purge that came between the last look and now found this sweep still running.
    shared.sweep_soon();
}

/// # Cancel safety
///
/// Dropped, it leaves the rest in memory, and every mark in place: the next sweep begins anew.
async fn sweep_once(shared: &Shared) {
    let sweep = shared.purges.begin_sweep();
    let mut stored = shared.memory.iter();
    loop {
        let started = std::time::Instant::now();
        let now = Instant::now();
        let mut looked_at = 0;
        for (key, slot) in stored.by_ref().take(SLICE) {
            looked_at += 1;
            if !slot.entries().iter().all(|entry| shared.keeps(entry, now)) {
                shared.memory.retain(&key, |entry| shared.keeps(entry, now));
            }
        }
        shared.memory.settle();
        if looked_at < SLICE {
            break;
        }
        rest((started.elapsed() * REST).max(Duration::from_millis(1))).await;
    }
    shared.purges.end_sweep(&sweep);
}

//! Gives back the memory of what was purged or has expired. Nothing depends on it but memory: what is purged is never served.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    clock::{has_timer, rest},
    entry::Entry,
    shared::Shared,
};

/// How many entries are looked at before others get the core.
const SLICE: usize = 256;

/// Between slices the sweep rests for this many times as long as the slice took: half a core at the most.
const REST: u32 = 1;

/// How often it is looked for what has expired. With the sweep that follows, it is gone within a minute.
const PERIOD: Duration = Duration::from_secs(30);

impl Shared {
    /// Starts a sweep if one is wanted and none runs. Outside a runtime none is started: the next purge or fill
    /// inside one does.
    pub(crate) fn sweep_soon(self: &Arc<Self>) {
        if !self.wants_sweep() || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(sweep(Sweeping(self.clone())))),
            Err(_) => self.sweeping.store(false, Ordering::Release),
        }
    }

    /// Looks now and then for what has expired, from the first response on that is stored. Outside a runtime nothing looks: the next
    /// response that is stored inside one begins it.
    pub(crate) fn expire_in_time(self: &Arc<Self>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && has_timer()
        {
            let watch = || runtime.spawn(look_for_expired(Arc::downgrade(self)));
            self.expiry.watch(|| watch().abort_handle());
        }
    }

    fn wants_sweep(&self) -> bool {
        self.purges.wants_sweep() || self.expiry.is_due()
    }

    fn keeps(&self, entry: &Entry, now: Instant) -> bool {
        let is_to_be_refreshed = || entry.recorded.is_some() && self.is_collecting();
        let is_of_use = || entry.useful_for(now).is_some() || is_to_be_refreshed();
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

/// # Cancel safety
///
/// Dropped, what has expired stays in memory until the next response is stored.
async fn look_for_expired(shared: Weak<Shared>) {
    loop {
        // The task is aborted with the last handle: it holds none meanwhile.
        sleep(PERIOD).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.forget_layers();
        shared.expiry.look();
        shared.sweep_soon();
    }
}

async fn sweep(sweeping: Sweeping) {
    while sweeping.0.wants_sweep() {
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
async fn sweep_once(shared: &Arc<Shared>) {
    let sweep = shared.purges.begin_sweep();
    shared.expiry.begin_sweep();
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
            for entry in slot.entries() {
                // One that is kept for a refresh alone is looked at again.
                let useful_for = entry.useful_for(now);
                if useful_for.is_some() || shared.is_collecting() {
                    shared.expiry.note(now, useful_for.unwrap_or_default());
                }
            }
        }
        shared.memory.settle();
        if looked_at < SLICE {
            break;
        }
        // The slot holds no entry back meanwhile, and nobody is left whose memory this would be.
        if Arc::strong_count(shared) == 1 {
            return;
        }
        rest((started.elapsed() * REST).max(Duration::from_millis(1))).await;
    }
    shared.purges.end_sweep(&sweep);
}

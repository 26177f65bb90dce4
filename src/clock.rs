//! Time, as all of the cache reads it: tokio's, so that a test can pause it.

use std::{
    cell::Cell,
    collections::VecDeque,
    future::poll_fn,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::{Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::{
    runtime::{Handle, Id},
    task::yield_now,
    time::{Instant, sleep, timeout_at},
};

use crate::caught::catch;

/// A point in time so far away that nobody waits for it stands for those that cannot be told.
pub(crate) fn deadline_in(duration: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    let now = Instant::now();
    now.checked_add(duration).unwrap_or(now + FAR)
}

/// A duration, less up to this many thousandths of it: as many as chance decides.
pub(crate) fn shortened(duration: Duration, thousandths: u32) -> Duration {
    if thousandths == 0 {
        return duration;
    }
    let chance = RandomState::new().hash_one(duration) % 1000;
    let less = u64::from(thousandths) * chance;
    let less = duration / 1_000_000 * u32::try_from(less).unwrap_or(0);
    duration.saturating_sub(less)
}

/// The future's output, or `None` if the deadline comes first. Outside a runtime, and in one without a timer, there is nothing that would
/// tell the time, and no deadline.
pub(crate) async fn before<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    if !has_timer() {
        return Some(future.await);
    }
    timeout_at(deadline, future).await.ok()
}

/// Sleeps, where there is a timer. Elsewhere it lets other tasks run once.
pub(crate) async fn rest(duration: Duration) {
    if has_timer() {
        sleep(duration).await;
    } else {
        yield_now().await;
    }
}

/// Returns whether this runs in a runtime that has a timer.
pub(crate) fn has_timer() -> bool {
    timer() == Timer::There
}

/// Returns whether this runs in a runtime that was built without a timer (`enable_time`): a wait there would have no bound.
pub(crate) fn lacks_timer() -> bool {
    timer() == Timer::Missing
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    There,
    Missing,
    /// This does not run in a runtime.
    NoRuntime,
}

thread_local! {
    /// What was found last on this thread, and for which runtime.
    static FOUND: Cell<Option<(Id, Timer)>> = const { Cell::new(None) };
}

/// The runtimes of this process that have no timer. There are few; the oldest is forgotten, and found again.
static WITHOUT: Mutex<VecDeque<Id>> = Mutex::new(VecDeque::new());

const MOST_WITHOUT: usize = 64;

fn timer() -> Timer {
    let Ok(runtime) = Handle::try_current() else {
        return Timer::NoRuntime;
    };
    let id = runtime.id();
    let known = FOUND.get().filter(|(known, _)| *known == id);
    if let Some((_, timer)) = known {
        return timer;
    }
    let timer = probe(id);
    FOUND.set(Some((id, timer)));
    timer
}

/// Finds out whether a runtime has a timer, by making one: tokio has no other way to ask. Where there is none this panics, which is
/// caught, once a runtime.
fn probe(id: Id) -> Timer {
    let mut without = WITHOUT.lock().unwrap_or_else(PoisonError::into_inner);
    if without.contains(&id) {
        return Timer::Missing;
    }
    if catch(|| drop(sleep(Duration::ZERO))).is_ok() {
        return Timer::There;
    }
    if without.len() == MOST_WITHOUT {
        without.pop_front();
    }
    without.push_back(id);
    drop(without);
    #[cfg(feature = "tracing")]
    tracing::warn!(
        "the tokio runtime has no timer, so that requests that miss bypass the cache (`no-timer`): build it with `enable_time` or `enable_all`"
    );
    Timer::Missing
}

/// The future's output, or `None` if this happens first.
pub(crate) async fn unless<F: Future>(
    happens: impl Future<Output = ()>,
    future: F,
) -> Option<F::Output> {
    let (mut future, mut happens) = (pin!(future), pin!(happens));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => happens.as_mut().poll(cx).map(|()| None),
    })
    .await
}

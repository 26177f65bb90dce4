//! Calls of `scope::*` outside any request that passed a cache layer.

use std::{
    panic::Location,
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::task::futures::TaskLocalFuture;

use super::{CURRENT, CacheScope};
#[cfg(feature = "tracing")]
use crate::events::Throttle;

static CALLS: AtomicU64 = AtomicU64::new(0);
static STRICT: AtomicBool = AtomicBool::new(false);

/// How many calls of `scope::*` this process has made outside any request that passed a cache layer, and outside
/// [`outside`]. Their tags are lost: a later purge of them does not reach the response they were meant for.
///
/// # Examples
///
/// ```
/// use tower_response_cache::scope;
///
/// let before = scope::calls_outside();
/// scope::tag("products");
/// assert_eq!(scope::calls_outside(), before + 1);
/// ```
#[must_use]
pub fn calls_outside() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Whether a call of `scope::*` outside any request that passed a cache layer panics, in the whole process. Defaults to
/// `false`. It is meant for tests of an application, which then find tags that would be lost.
///
/// # Examples
///
/// ```should_panic
/// use tower_response_cache::scope;
///
/// scope::strict(true);
/// scope::outside(|| scope::tag("products")); // a background job: nothing is lost
/// scope::tag("products"); // panics: no request runs here
/// ```
pub fn strict(panics: bool) {
    STRICT.store(panics, Ordering::Relaxed);
}

/// Runs a job, a closure or a future, that is not part of any request: calls of `scope::*` in it do nothing, and are not
/// noticed as lost.
///
/// # Examples
///
/// ```
/// use tower_response_cache::scope;
///
/// # fn load_product(id: u64) { scope::tag(format!("product:{id}")); }
/// let before = scope::calls_outside();
/// scope::outside(|| load_product(7)); // code that handlers call, too
/// assert_eq!(scope::calls_outside(), before);
///
/// async fn every_night() {
///     let job = scope::outside(async { load_product(7) });
///     let _ = tokio::spawn(job).await;
/// }
/// # let _ = every_night();
/// ```
pub fn outside<J: Job<Kind>, Kind>(job: J) -> J::Run {
    job.run_outside()
}

/// A closure or a future that [`outside`] runs. It is implemented for both, and for nothing else.
pub trait Job<Kind>: sealed::Sealed<Kind> {
    /// What the closure returns, or the future in its scope.
    type Run;

    #[doc(hidden)]
    fn run_outside(self) -> Self::Run;
}

mod sealed {
    #[derive(Debug)]
    pub struct Closure;
    #[derive(Debug)]
    pub struct Async;

    pub trait Sealed<Kind> {}
    impl<F: FnOnce() -> R, R> Sealed<(Closure, R)> for F {}
    impl<F: Future> Sealed<Async> for F {}
}

impl<F: FnOnce() -> R, R> Job<(sealed::Closure, R)> for F {
    type Run = R;

    fn run_outside(self) -> R {
        CacheScope::default().enter(self)
    }
}

impl<F: Future> Job<sealed::Async> for F {
    type Run = Outside<F>;

    fn run_outside(self) -> Outside<F> {
        Outside {
            job: CURRENT.scope(CacheScope::default(), self),
        }
    }
}

/// The future of a job that [`outside`] runs.
///
/// # Examples
///
/// ```
/// use tower_response_cache::scope::{Outside, outside};
///
/// fn job() -> Outside<std::future::Ready<u32>> {
///     outside(std::future::ready(7))
/// }
/// # let _ = job();
/// ```
#[pin_project]
#[derive(Debug)]
pub struct Outside<F> {
    #[pin]
    job: TaskLocalFuture<CacheScope, F>,
}

impl<F: Future> Future for Outside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().job.poll(cx)
    }
}

/// A call is lost: it is counted, reported, and in strict mode a panic.
#[track_caller]
pub(super) fn notice() {
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    let place = Location::caller();
    assert!(
        !STRICT.load(Ordering::Relaxed),
        "a scope function was called at {place}, outside any request that passed a cache layer, so its effect is lost: \
         in a task or thread that a handler starts, use scope::spawn, scope::spawn_blocking or scope::current; \
         in a background job, scope::outside"
    );
    report(calls, place);
}

#[cfg(not(feature = "tracing"))]
fn report(_: u64, _: &Location<'_>) {}

/// At most once a minute.
#[cfg(feature = "tracing")]
fn report(calls: u64, place: &Location<'_>) {
    static THROTTLE: Throttle = Throttle::new();
    if THROTTLE.passes().is_some() {
        tracing::warn!(
            target: "tower_response_cache::scope",
            calls,
            %place,
            "scope functions were called outside any request that passed a cache layer, so their effect is lost: \
             use scope::spawn, scope::spawn_blocking or scope::current in tasks and threads that a handler starts, \
             and scope::outside in background jobs"
        );
    }
}

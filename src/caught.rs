//! Panics of the inner service, caught: they are its requester's, and nobody else's.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// What a panic was made of.
pub(crate) type Panic = Box<dyn Any + Send>;

/// What this returns, or what it panicked with.
pub(crate) fn catch<T>(act: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(act))
}

/// The future's output, or what it panicked with. After a panic it is not polled again.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch(|| future.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

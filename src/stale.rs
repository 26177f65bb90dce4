//! What a request falls back on, if the inner service fails it.

use std::{panic::resume_unwind, pin::pin, sync::Arc, time::Duration};

use http::{Extensions, Method, Response};
use tokio::time::Instant;

use crate::{
    body::ResponseBody,
    caught::caught,
    clock::before,
    config::Config,
    entry::Life,
    lookup::{Hit, Served},
    pinned::Pinned,
    reply,
    status::Reason,
};

/// A stored response that is past its lifetime, or soon will be, and the request that it is for.
#[derive(Debug)]
pub(crate) struct Fallback {
    config: Arc<Config>,
    pinned: Arc<Pinned>,
    method: Method,
    /// The request is part of a fill, which has to hear of what it is answered with.
    is_nested: bool,
    /// For how long past its lifetime the request itself takes it.
    if_error: Option<Duration>,
}

impl Fallback {
    /// `None` if it may not be served now.
    pub(crate) fn new(
        config: &Arc<Config>,
        pinned: &Arc<Pinned>,
        method: &Method,
        is_nested: bool,
        if_error: Option<Duration>,
    ) -> Option<Self> {
        let fallback = Self {
            config: config.clone(),
            pinned: pinned.clone(),
            method: method.clone(),
            is_nested,
            if_error,
        };
        fallback.served(Instant::now()).map(|_| fallback)
    }

    /// As what it may be served, were it not purged.
    fn served(&self, now: Instant) -> Option<Served> {
        let entry = self.pinned.entry();
        match entry.life(now) {
            Life::Fresh(ttl) => Some(Served::Fresh(ttl)),
            Life::StaleWhileRevalidate(by) | Life::StaleIfError(by) => {
                Some(Served::Stale(by, Reason::StaleIfError))
            }
            Life::Over => {
                let by = entry.stale_on_request(now)?;
                let is_taken = self.if_error.is_some_and(|most| by <= most);
                // RFC 5861 §4: instead of a failure, and not instead of a newer one.
                let policy = &self.config.policy;
                let is_failure = policy.is_failure(entry.head.status, &entry.head.headers);
                (is_taken && !is_failure).then_some(Served::Stale(by, Reason::StaleIfError))
            }
        }
    }

    /// As it may be served now: not if a purge or the end of its time has come while the request waited.
    fn hit(&self) -> Option<Hit> {
        if !self.pinned.is_valid() {
            return None;
        }
        let now = Instant::now();
        Some(Hit {
            entry: self.pinned.entry().clone(),
            served: self.served(now)?,
            now,
            wants_renewal: false,
        })
    }

    pub(crate) fn serve<B>(&self) -> Option<Response<ResponseBody<B>>> {
        let hit = self.hit()?;
        let mut response = reply::hit(&self.config, &hit, &self.method, Extensions::new());
        if self.is_nested {
            let part = reply::part(&self.config, &hit);
            response.extensions_mut().insert(part);
        }
        Some(response)
    }

    /// As [`serve`](Self::serve), for a request whose call failed, or that has waited in vain: those to come need not.
    pub(crate) fn serve_late<B>(&self) -> Option<Response<ResponseBody<B>>> {
        let served = self.serve();
        if served.is_some() {
            let waiting = &self.config.waiting;
            let attempts = &self.pinned.entry().attempts;
            attempts.are_overdue(waiting.retry_after, waiting.fill_timeout);
        }
        served
    }

    /// Whether somebody else has found meanwhile that it cannot be fetched anew.
    pub(crate) fn is_put_off(&self) -> bool {
        self.pinned.entry().attempts.are_put_off(Instant::now())
    }
}

/// What a call came to.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made"
)]
pub(crate) enum Outcome<A, B> {
    Answered(A),
    /// It failed, or took too long, and this is stored.
    Stale(Response<ResponseBody<B>>),
}

/// Awaits a call of the inner service, and falls back if it fails (a 5xx, an `Err`, a panic) or takes longer than until the
/// deadline. If it may not fall back any more, the failure is the answer.
///
/// # Cancel safety
///
/// That of the call.
///
/// # Panics
///
/// As the call does, if there is nothing to fall back on.
pub(crate) async fn or_stale<R, E, B>(
    fallback: Option<Fallback>,
    deadline: Instant,
    call: impl Future<Output = Result<Response<R>, E>>,
) -> Outcome<Result<Response<R>, E>, B> {
    let Some(fallback) = fallback else {
        return Outcome::Answered(call.await);
    };
    let policy = &fallback.config.policy;
    let mut call = pin!(caught(call));
    let called = match before(deadline, call.as_mut()).await {
        Some(called) => called,
        None => match fallback.serve_late() {
            Some(stale) => return Outcome::Stale(stale),
            None => call.await,
        },
    };
    let failed = match &called {
        Ok(Ok(response)) => policy.is_failure(response.status(), response.headers()),
        Ok(Err(_)) | Err(_) => true,
    };
    // A fill has put the next attempt off by now; a call that is none does so here.
    if failed && let Some(stale) = fallback.serve_late() {
        return Outcome::Stale(stale);
    }
    match called {
        Ok(answered) => Outcome::Answered(answered),
        Err(panic) => resume_unwind(panic),
    }
}

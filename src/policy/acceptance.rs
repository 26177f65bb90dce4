//! What a request accepts of what is stored (RFC 9111 §5.2.1).

use std::time::Duration;

use http::{HeaderMap, header, request};

use super::{Policy, RequestDirectives};
use crate::field::RequestControl;

/// What a request says of what it may be answered with. Most say nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acceptance(Option<Box<RequestControl>>);

impl Policy {
    /// What this request says of it, and is heeded.
    pub(crate) fn acceptance(&self, parts: &request::Parts) -> Acceptance {
        let may = match &self.request_directives {
            RequestDirectives::Ignore => return Acceptance::default(),
            RequestDirectives::Honour => None,
            RequestDirectives::HonourIf(may) => Some(may),
        };
        let control = RequestControl::of(&parts.headers);
        let is_heeded = control != RequestControl::default() && may.is_none_or(|may| may(parts));
        Acceptance(is_heeded.then(|| Box::new(control)))
    }
}

impl Acceptance {
    /// Whether it takes what is this old, and fresh for this long, without its being validated.
    pub(crate) fn takes_fresh(
        &self,
        age: impl FnOnce() -> Duration,
        left: Duration,
        immutable: bool,
    ) -> bool {
        let Some(control) = &self.0 else {
            return true;
        };
        // RFC 8246 §2: what will not change is not asked for again because a page is loaded again.
        let young = immutable || control.max_age.is_none_or(|most| age() <= seconds(most));
        let lasts = control.min_fresh.is_none_or(|least| left >= seconds(least));
        !control.no_cache && young && lasts
    }

    /// Whether it asks for what is this old, and stale by this much.
    pub(crate) fn asks_for_stale(&self, age: Duration, by: Duration) -> bool {
        self.0.as_ref().is_some_and(|control| {
            let permits = control.max_stale.is_some_and(|most| by <= seconds(most));
            let young = control.max_age.is_none_or(|most| age <= seconds(most));
            permits && young && !control.no_cache && control.min_fresh.is_none()
        })
    }

    /// Whether it is not content with whatever others get: then it waits for no call that has begun before it came.
    pub(crate) fn wants_news(&self) -> bool {
        self.0.as_ref().is_some_and(|control| {
            control.no_cache || control.max_age.is_some() || control.min_fresh.is_some()
        })
    }

    /// Whether nothing of it, nor of the answer to it, may be stored (RFC 9111 §5.2.1.5).
    pub(crate) fn no_store(&self) -> bool {
        self.0.as_ref().is_some_and(|control| control.no_store)
    }

    /// For how long past its lifetime it takes what is stored, if the inner service fails (RFC 5861 §4).
    pub(crate) fn stale_if_error(&self) -> Option<Duration> {
        self.0.as_ref()?.stale_if_error.map(seconds)
    }
}

/// Whether a request wants what is stored, or nothing (RFC 9111 §5.2.1.7). Heeded from everybody: it costs nobody anything.
pub(crate) fn only_if_cached(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CACHE_CONTROL) && RequestControl::of(headers).only_if_cached
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

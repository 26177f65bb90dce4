//! What the cache would do with a request, and why, told to people and to tests.

use std::{fmt, time::Duration};

use http::{HeaderName, StatusCode};

use crate::{
    key::KeyPart,
    status::{Forward, Reason},
};

/// What a layer would do with a request that came now, and why.
///
/// It is made by [`CacheHandle::explain`](crate::CacheHandle::explain) and
/// [`CacheLayer::explain`](crate::CacheLayer::explain), asks nobody, and changes nothing but this: what is looked at counts as
/// used, as a hit does, where memory has to decide what to keep. It speaks of a request that comes from outside, not from a handler
/// inside a fill. Its `Display` has several lines, for people.
///
/// # Examples
///
/// ```
/// use http::Request;
/// use tower_response_cache::{CacheLayer, Decision, Reason};
///
/// let cache = CacheLayer::builder().name("pages").build();
/// let (parts, ()) = Request::get("/").header("cookie", "sid=1").body(()).unwrap().into_parts();
/// let explanation = cache.explain(&parts);
/// assert_eq!(explanation.decision, Decision::Bypass(Reason::Cookie));
/// assert!(explanation.to_string().starts_with("layer pages: passes by (cookie)"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The layer's name, if it has one.
    pub layer: Option<String>,
    /// What would be done.
    pub decision: Decision,
    /// The key, as far as it could be made: where a part that has to be there is absent, it is the last one.
    pub key: Vec<KeyPart>,
    /// The types of the request's extensions that a sealed layer does not account for: they are why the request
    /// bypasses the cache with [`Reason::UnknownExtension`].
    pub unknown_extensions: Vec<String>,
    /// What is stored under the key, the newest first, be it for this request or not.
    pub stored: Vec<Stored>,
    /// Whether the inner service is being asked for this key now: how many requests wait for its answer.
    pub in_flight: Option<usize>,
    /// Why the last answer for this key could not be stored, if that is remembered.
    pub refused: Option<Reason>,
    /// The cause that its handler gave to [`do_not_store`](crate::scope::do_not_store), if that is the reason.
    pub refused_cause: Option<&'static str>,
}

impl Explanation {
    /// Whether the layer knows anything of the key.
    pub(crate) fn knows_something(&self) -> bool {
        !self.stored.is_empty() || self.in_flight.is_some() || self.refused.is_some()
    }
}

/// What a layer would do with a request.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Decision, Forward};
///
/// let decision = Decision::Fetch(Forward::UriMiss);
/// assert_eq!(decision.to_string(), "asks the inner service (uri-miss)");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It is answered from memory; what it gets will be fresh for this long.
    Hit(Duration),
    /// It is answered from memory, with what is past its lifetime, for this reason.
    Stale(Reason),
    /// It waits for the answer that another request is getting.
    Wait,
    /// It asks the inner service, and others may wait for the answer.
    Fetch(Forward),
    /// It asks the inner service, as others do at the same time: the last answer could not be stored.
    SideBySide(Reason),
    /// It passes by.
    Bypass(Reason),
    /// It is answered 503: there is no place for it at the inner service; or 504: it wants what is stored or nothing.
    Unavailable(Reason),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit(ttl) => write!(f, "a hit, fresh for {ttl:.0?}"),
            Self::Stale(reason) => write!(f, "a stale hit ({reason})"),
            Self::Wait => f.write_str("waits for an answer that is on its way"),
            Self::Fetch(forward) => write!(f, "asks the inner service ({})", forward.as_str()),
            Self::SideBySide(reason) => write!(
                f,
                "asks the inner service, without waiting for others (the last answer: {reason})"
            ),
            Self::Bypass(reason) => write!(f, "passes by ({reason})"),
            Self::Unavailable(Reason::OnlyIfCached) => f.write_str("answers 504 (only-if-cached)"),
            Self::Unavailable(reason) => write!(f, "answers 503 ({reason})"),
        }
    }
}

/// A stored response, as [`Explanation`] tells it.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Standing, Stored};
///
/// fn purged(stored: &[Stored]) -> impl Iterator<Item = &Stored> {
///     stored.iter().filter(|stored| stored.standing == Standing::Purged)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// Its status.
    pub status: StatusCode,
    /// How many bytes its body has.
    pub body_bytes: usize,
    /// How old it is: for how long it has been stored, and what it said itself of its age.
    pub age: Duration,
    /// For how long it was fresh when it was stored.
    pub lifetime: Duration,
    /// The tags by which it is purged, in the order in which they were found.
    pub tags: Vec<String>,
    /// The headers that it varies by, with the values of the request that it was made for.
    pub varies_by: Vec<(HeaderName, Option<String>)>,
    /// Whether it would be served, or why not.
    pub standing: Standing,
}

/// Whether a stored response may be served to a request.
///
/// # Examples
///
/// ```
/// use tower_response_cache::Standing;
/// assert_eq!(Standing::Purged.to_string(), "purged");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It is for this request, and fresh for this long.
    Fresh(Duration),
    /// `Vary` names a header that this request has otherwise.
    OtherVariant,
    /// The request carries credentials, and the response does not say that it may be shared with such.
    NotForCredentials,
    /// It is for this request, past its lifetime by this much, and served while it is fetched anew.
    StaleWhileRevalidate(Duration),
    /// It is for this request, past its lifetime by this much, and served if it cannot be fetched anew.
    StaleIfError(Duration),
    /// It was purged; its memory will be given back.
    Purged,
    /// Its lifetime is over, and the time for which it is served stale.
    Expired,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh(ttl) => write!(f, "fresh for {ttl:.0?}"),
            Self::OtherVariant => f.write_str("for another variant"),
            Self::NotForCredentials => f.write_str("not for requests with credentials"),
            Self::StaleWhileRevalidate(by) => {
                write!(f, "stale by {by:.0?}, served while it is fetched anew")
            }
            Self::StaleIfError(by) => {
                write!(f, "stale by {by:.0?}, served if it cannot be fetched anew")
            }
            Self::Purged => f.write_str("purged"),
            Self::Expired => f.write_str("expired"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.layer {
            Some(name) => write!(f, "layer {name}: {}", self.decision)?,
            None => write!(f, "layer: {}", self.decision)?,
        }
        for part in &self.key {
            write!(f, "\n  key: {part}")?;
        }
        for unknown in &self.unknown_extensions {
            write!(f, "\n  extension not accounted for: {unknown}")?;
        }
        for stored in &self.stored {
            write!(f, "\n  stored: {stored}")?;
        }
        if let Some(waiting) = self.in_flight {
            write!(f, "\n  in flight: {waiting} waiting")?;
        }
        if let Some(reason) = self.refused {
            write!(f, "\n  last answer not stored: {reason}")?;
            if let Some(cause) = self.refused_cause {
                write!(f, " ({cause})")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} bytes, age {:.0?} of {:.0?}",
            self.status.as_u16(),
            self.body_bytes,
            self.age,
            self.lifetime
        )?;
        for (name, value) in &self.varies_by {
            write!(f, ", {name}: {}", value.as_deref().unwrap_or("(absent)"))?;
        }
        if !self.tags.is_empty() {
            write!(f, ", tags {}", self.tags.join(" "))?;
        }
        write!(f, ": {}", self.standing)
    }
}

//! The words of RFC 9211: how the cache handled a request, and why.

use std::{fmt, time::Duration};

use http::{HeaderValue, StatusCode};

use crate::error::BuildError;

/// How the cache handled a request: a hit, or forwarded to the inner service, and why.
///
/// It lies in the response's extensions, and, in the form of RFC 9211, in its `Cache-Status` header; each can be
/// switched off ([`status_extension`](crate::CacheLayerBuilder::status_extension),
/// [`status_header`](crate::CacheLayerBuilder::status_header)). What is said of a response that is still streaming is
/// what was decided when its head was known.
///
/// # Examples
///
/// ```
/// use http::Response;
/// use tower_response_cache::CacheStatus;
///
/// fn was_hit<B>(response: &Response<B>) -> bool {
///     response.extensions().get::<CacheStatus>().is_some_and(CacheStatus::is_hit)
/// }
/// # assert!(!was_hit(&Response::new(())));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    pub(crate) outcome: Outcome,
    pub(crate) stored: bool,
    pub(crate) collapsed: bool,
    pub(crate) reason: Option<Reason>,
    /// What the inner service answered, where that is not what is sent.
    pub(crate) forward_status: Option<StatusCode>,
    /// Why the handler asked that the response not be stored.
    pub(crate) cause: Option<&'static str>,
}

/// In the extensions of a stale response, whatever else it is to tell: a cache further out does not take it for a new one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServedStale;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Hit {
        ttl: Duration,
    },
    /// From the store, and stale by this much.
    Stale {
        by: Duration,
    },
    Forwarded(Forward),
    /// The inner service could not be asked, and nothing is stored.
    Unavailable,
}

impl CacheStatus {
    pub(crate) const fn hit(ttl: Duration) -> Self {
        Self {
            outcome: Outcome::Hit { ttl },
            stored: false,
            collapsed: false,
            reason: None,
            forward_status: None,
            cause: None,
        }
    }

    /// A stored response that is stale by this much, and why it is served all the same.
    pub(crate) const fn stale(by: Duration, why: Reason) -> Self {
        Self {
            outcome: Outcome::Stale { by },
            stored: false,
            collapsed: false,
            reason: Some(why),
            forward_status: None,
            cause: None,
        }
    }

    /// A request for which there was no place at the inner service.
    pub(crate) const fn unavailable(reason: Reason) -> Self {
        Self {
            outcome: Outcome::Unavailable,
            stored: false,
            collapsed: false,
            reason: Some(reason),
            forward_status: None,
            cause: None,
        }
    }

    pub(crate) const fn forwarded(forward: Forward, reason: Option<Reason>) -> Self {
        Self {
            outcome: Outcome::Forwarded(forward),
            stored: false,
            collapsed: false,
            reason,
            forward_status: None,
            cause: None,
        }
    }

    /// A request that the cache lets pass by, for this reason.
    pub(crate) const fn bypass(reason: Reason) -> Self {
        let forward = match reason {
            Reason::Method | Reason::Head => Forward::Method,
            _ => Forward::Bypass,
        };
        Self::forwarded(forward, Some(reason))
    }

    /// Whether the response came from the store, fresh or [stale](Self::is_stale).
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheStatus;
    /// fn count(status: &CacheStatus, hits: &mut u64) {
    ///     *hits += u64::from(status.is_hit());
    /// }
    /// ```
    #[must_use]
    pub fn is_hit(&self) -> bool {
        matches!(self.outcome, Outcome::Hit { .. } | Outcome::Stale { .. })
    }

    /// Whether the response came from the store, past its lifetime: while it is fetched anew, or because it could not be. The
    /// [`reason`](Self::reason) says which.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheStatus, Reason};
    /// fn origin_fails(status: &CacheStatus) -> bool {
    ///     status.is_stale() && status.reason() == Some(Reason::StaleIfError)
    /// }
    /// ```
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self.outcome, Outcome::Stale { .. })
    }

    /// Whether the cache itself answered: 503, because as many requests were with the inner service as may be, or 504, because the
    /// client wanted what is stored or nothing. Such a response has no `Cache-Status` header of this cache (RFC 9211 §2).
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheStatus;
    /// fn count(status: &CacheStatus, overloads: &mut u64) {
    ///     *overloads += u64::from(status.is_unavailable());
    /// }
    /// ```
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self.outcome, Outcome::Unavailable)
    }

    /// For how long a hit will still be fresh: zero if it is stale. `None` if this is not a hit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheStatus;
    /// fn soon_stale(status: &CacheStatus) -> bool {
    ///     status.ttl().is_some_and(|ttl| ttl.as_secs() < 5)
    /// }
    /// ```
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::Hit { ttl } => Some(ttl),
            Outcome::Stale { .. } => Some(Duration::ZERO),
            Outcome::Forwarded(_) | Outcome::Unavailable => None,
        }
    }

    /// Why the request went to the inner service. `None` if its answer is not from there.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheStatus, Forward};
    /// fn is_miss(status: &CacheStatus) -> bool {
    ///     matches!(status.forward(), Some(Forward::UriMiss | Forward::VaryMiss | Forward::Stale))
    /// }
    /// ```
    #[must_use]
    pub fn forward(&self) -> Option<Forward> {
        match self.outcome {
            Outcome::Forwarded(forward) => Some(forward),
            Outcome::Hit { .. } | Outcome::Stale { .. } | Outcome::Unavailable => None,
        }
    }

    /// Whether this response is being stored: later requests are answered with it once its body is whole.
    ///
    /// It is said with the head, so that it is a forecast. The response is not stored after all if its body fails, ends early, takes longer than
    /// `fill_timeout`, turns out to be longer than `max_body_bytes` where nobody told its length, or is followed by a gRPC status other
    /// than 0; if `store_if` refuses its body; if the handler speaks to its scope after the head; if it is purged while its body comes in; or if memory is full
    /// and the store finds other responses more useful.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheStatus;
    /// fn warmed(status: &CacheStatus) -> bool {
    ///     status.is_hit() || status.is_stored()
    /// }
    /// ```
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// Whether this request waited for, and was answered by, another one's call of the inner service.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheStatus;
    /// fn called_the_handler(status: &CacheStatus) -> bool {
    ///     !status.is_hit() && !status.is_collapsed()
    /// }
    /// ```
    #[must_use]
    pub fn is_collapsed(&self) -> bool {
        self.collapsed
    }

    /// Why the request passed by, why the response is not stored, or why it is served though it is stale.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheStatus, Reason};
    /// fn handler_sets_cookies(status: &CacheStatus) -> bool {
    ///     status.reason() == Some(Reason::SetCookie)
    /// }
    /// ```
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The cause that the handler gave to [`do_not_store`](crate::scope::do_not_store), where the
    /// [`reason`](Self::reason) is [`Reason::DoNotStore`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheStatus;
    /// fn index_is_building(status: &CacheStatus) -> bool {
    ///     status.cause() == Some("search index is still building")
    /// }
    /// ```
    #[must_use]
    pub fn cause(&self) -> Option<&'static str> {
        self.cause
    }

    /// The reason for which the request passed by, if that is what it did.
    pub(crate) fn bypassed(self) -> Option<Reason> {
        self.reason.filter(|reason| self == Self::bypass(*reason))
    }

    /// What the inner service answered, where that is not what is sent: 304, where a stored response was
    /// validated. `None` otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// # use http::StatusCode;
    /// # use tower_response_cache::CacheStatus;
    /// fn was_validated(status: &CacheStatus) -> bool {
    ///     status.forward_status() == Some(StatusCode::NOT_MODIFIED)
    /// }
    /// ```
    #[must_use]
    pub fn forward_status(&self) -> Option<StatusCode> {
        self.forward_status
    }

    /// The member of a `Cache-Status` header (RFC 9211 §2), under the cache's name.
    pub(crate) fn to_header(self, name: &StatusName) -> HeaderValue {
        let mut member = String::with_capacity(name.0.len() + 48);
        member.push_str(&name.0);
        match self.outcome {
            Outcome::Hit { ttl } => {
                member.push_str("; hit; ttl=");
                member.push_str(itoa::Buffer::new().format(integer(ttl)));
            }
            Outcome::Stale { by } => {
                // RFC 9211 §2.4: negative, when it is stale.
                member.push_str(if by.as_secs() > 0 {
                    "; hit; ttl=-"
                } else {
                    "; hit; ttl="
                });
                member.push_str(itoa::Buffer::new().format(integer(by)));
            }
            Outcome::Unavailable => {}
            Outcome::Forwarded(forward) => {
                member.push_str("; fwd=");
                member.push_str(forward.as_str());
            }
        }
        if let Some(status) = self.forward_status {
            member.push_str("; fwd-status=");
            member.push_str(status.as_str());
        }
        if self.stored {
            member.push_str("; stored");
        }
        if self.collapsed {
            member.push_str("; collapsed");
        }
        if let Some(reason) = self.reason {
            member.push_str("; detail=");
            match self.cause {
                Some(cause) => push_detail(&mut member, reason, cause),
                None => member.push_str(reason.as_str()),
            }
        }
        HeaderValue::try_from(member).unwrap_or_else(|_| HeaderValue::from_static("cache"))
    }
}

/// RFC 9651 §3.3.1: no more than 15 digits.
fn integer(duration: Duration) -> u64 {
    duration.as_secs().min(999_999_999_999_999)
}

/// A reason with the application's words for it, as a string (RFC 9651 §3.3.3). Characters that a string cannot hold are
/// question marks, and a semicolon is a comma, so that it is not taken for the next parameter.
fn push_detail(member: &mut String, reason: Reason, cause: &str) {
    const MAX_CHARS: usize = 128;
    member.push('"');
    member.push_str(reason.as_str());
    member.push_str(": ");
    for char in cause.chars().take(MAX_CHARS) {
        match char {
            '"' | '\\' => member.extend(['\\', char]),
            ';' => member.push(','),
            ' '..='~' => member.push(char),
            _ => member.push('?'),
        }
    }
    member.push('"');
}

/// Takes `stored` out of a member that was [made](CacheStatus::to_header) with it.
pub(crate) fn take_stored(member: &mut HeaderValue) {
    let without = member
        .to_str()
        .ok()
        .and_then(|text| text.rsplit_once("; stored"))
        .and_then(|(before, after)| HeaderValue::try_from(format!("{before}{after}")).ok());
    if let Some(without) = without {
        *member = without;
    }
}

/// Adds `fwd-status` to a member that was [made](CacheStatus::to_header) without, if the request was forwarded.
pub(crate) fn put_forward_status(member: &mut HeaderValue, status: StatusCode) {
    let Ok(text) = member.to_str() else {
        return;
    };
    let Some((before, after)) = text.rsplit_once("; fwd=") else {
        return;
    };
    if after.contains("; fwd-status=") {
        return;
    }
    let (forward, rest) = after.split_at(after.find(';').unwrap_or(after.len()));
    let status = status.as_str();
    let with = format!("{before}; fwd={forward}; fwd-status={status}{rest}");
    if let Ok(with) = HeaderValue::try_from(with) {
        *member = with;
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Hit { .. } => f.write_str("hit")?,
            Outcome::Stale { .. } => f.write_str("stale hit")?,
            Outcome::Unavailable => f.write_str("unavailable")?,
            Outcome::Forwarded(forward) => write!(f, "fwd={}", forward.as_str())?,
        }
        match self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// Why a request was forwarded to the inner service (the `fwd` parameter of RFC 9211 §2.2).
///
/// # Examples
///
/// ```
/// assert_eq!(tower_response_cache::Forward::UriMiss.as_str(), "uri-miss");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Forward {
    /// The cache was not asked: the [`Reason`] says why.
    Bypass,
    /// The request's method is not one that the cache answers.
    Method,
    /// Nothing is stored under the request's key, or all of it was purged.
    UriMiss,
    /// Something is stored under the request's key, but not for what `Vary` names.
    VaryMiss,
    /// What is stored is past its lifetime, or was purged softly. After a hard purge it is [`UriMiss`](Self::UriMiss).
    Stale,
    /// What is stored is not for requests that carry credentials; or the request is one that warms the cache.
    Request,
}

impl Forward {
    /// The token of RFC 9211.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(tower_response_cache::Forward::Bypass.as_str(), "bypass");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $token:literal,)*) => {
        /// Why a request passed by the cache, why its response is not stored, or why it is served stale.
        ///
        /// It is the `detail` of the `Cache-Status` header, as a token.
        ///
        /// # Examples
        ///
        /// ```
        /// use tower_response_cache::Reason;
        ///
        /// assert_eq!(Reason::SetCookie.as_str(), "set-cookie");
        /// assert_eq!(Reason::SetCookie.to_string(), "set-cookie");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// The reason as a token of lower-case words and hyphens.
            ///
            /// # Examples
            ///
            /// ```
            /// assert_eq!(tower_response_cache::Reason::NoStore.as_str(), "no-store");
            /// ```
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $token,)*
                }
            }

            /// In the order of their discriminants.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

reasons! {
    /// The method is not one that the cache answers.
    Method = "method",
    /// A HEAD for which no GET is stored, and that is forwarded as it is: in RFC 9111 mode, inside a fill, or for a key whose responses
    /// cannot be stored. Otherwise it is fetched as a GET.
    Head = "head",
    /// The connection is to change its protocol (`Upgrade`, CONNECT).
    Upgrade = "upgrade",
    /// The request has a body, and the key does not read it.
    RequestBody = "request-body",
    /// The request's body is longer than the key reads, did not come in time, or is none that the key is made of.
    RequestBodyNotKeyed = "request-body-not-keyed",
    /// The request carries `Authorization`, which is not in the key, and the response does not say that it may be shared. By the
    /// book, also a cookie or whatever else says who asks.
    Authorization = "authorization",
    /// The request carries a cookie that is not in the key.
    Cookie = "cookie",
    /// The request carries `Proxy-Authorization`, which is not in the key.
    ProxyAuthorization = "proxy-authorization",
    /// The request says who asks in a header that is not in the key: an API key, what a proxy knows of the user.
    ClientIdentity = "client-identity",
    /// The request has an extension for which the key says that it bypasses the cache
    /// ([`Key::bypass_if_extension`](crate::Key::bypass_if_extension)).
    Extension = "extension",
    /// The key is sealed, and the request has extensions that the layer does not account for
    /// ([`Key::seal`](crate::Key::seal)).
    UnknownExtension = "unknown-extension",
    /// A layer outside the cache has put a session or a cookie jar into the request's extensions: a cookie that it adds
    /// to the response, because of what the handler does with it, is not seen by the cache
    /// ([`guide::users`](crate::guide::users)).
    Session = "session",
    /// The request is for a fragment of a page, and says so at greater length than the cache tells fragments apart
    /// ([`fragments`](crate::CacheLayerBuilder::fragments)).
    Fragment = "fragment",
    /// A header asks for another method or target than the request line (`X-HTTP-Method-Override`, `X-Original-URL`).
    Override = "override",
    /// The request names two hosts that differ, in its URI and in `Host` or in several of these, or a user before the host.
    Authority = "authority",
    /// The request's `Forwarded` cannot be read.
    Forwarded = "forwarded",
    /// The request is on a condition that only the origin can evaluate (`If-Match`, `If-Unmodified-Since`).
    Precondition = "precondition",
    /// The request asks for a part of what is not stored.
    Range = "range",
    /// The request asks for a part in a unit other than bytes (RFC 9110 §14.1), which only the inner service may know.
    RangeUnit = "range-unit",
    /// The request says `Cache-Control: no-store`.
    RequestNoStore = "request-no-store",
    /// The request wants what is stored or nothing (`Cache-Control: only-if-cached`), and nothing is.
    OnlyIfCached = "only-if-cached",
    /// A stale response is served because the request asks for such (`Cache-Control: max-stale`).
    MaxStale = "max-stale",
    /// A part of the key that has to be there is absent.
    KeyPart = "key-part",
    /// The key is longer than the limit.
    KeyTooLong = "key-too-long",
    /// The request was made by code that runs inside a fill, which may not wait for another.
    Reentrant = "reentrant",
    /// The cache is shutting down, and starts no more fills.
    ShuttingDown = "shutting-down",
    /// The tokio runtime has no timer (`enable_time`), so that nothing could end a wait in time.
    NoTimer = "no-timer",
    /// The answer that this request waited for did not come in time.
    WaitTimeout = "wait-timeout",
    /// As many requests wait for the same answer as may.
    TooManyWaiters = "too-many-waiters",
    /// As many fills run as may, and none ended in time.
    TooManyFills = "too-many-fills",
    /// The answer that this request waited for was purged meanwhile, or was for another variant.
    NotShared = "not-shared",
    /// The inner service took longer than a fill may.
    FillTimeout = "fill-timeout",
    /// The response's status is not one that is stored.
    Status = "status",
    /// The response is a redirect to what its request is for, in another scheme or in what the key leaves out.
    RedirectToSelf = "redirect-to-self",
    /// The response sets a cookie.
    SetCookie = "set-cookie",
    /// The response carries credentials in a header: a session or an access token, what tells of an authentication.
    ResponseCredentials = "response-credentials",
    /// The response carries a token against cross-site request forgery.
    CsrfToken = "csrf-token",
    /// The response's `Content-Security-Policy` has a nonce, which is for one page view.
    CspNonce = "csp-nonce",
    /// The response says `Cache-Control: no-store`.
    NoStore = "no-store",
    /// The response says `Cache-Control: private`.
    Private = "private",
    /// The response says `Cache-Control: no-cache`.
    NoCache = "no-cache",
    /// The response's `Cache-Control` cannot be read.
    CacheControl = "cache-control",
    /// The response says `Vary: *`.
    VaryStar = "vary-star",
    /// The response's `Vary` cannot be read, or names too many fields.
    Vary = "vary",
    /// The response is a stream of events.
    EventStream = "event-stream",
    /// The response is a stream, by its media type (such as `application/x-ndjson` or `multipart/x-mixed-replace`, or audio and video
    /// without a length) or because it says `X-Accel-Buffering: no`.
    Stream = "stream",
    /// The response's `Content-Length` cannot be read.
    ContentLength = "content-length",
    /// The response is larger than what is stored.
    TooLarge = "too-large",
    /// The bodies under way hold as much memory as they may, so that this one is not recorded.
    RecordingBudget = "recording-budget",
    /// The response has no body, and tells a proxy outside what to send in its place (`X-Accel-Redirect`, `X-Sendfile`).
    InternalRedirect = "internal-redirect",
    /// The response's lifetime is zero. Where the layer decides, it says `max-age=0` or has an `Expires` in the past, and no `s-maxage`.
    NoLifetime = "no-lifetime",
    /// The call failed, by its gRPC status.
    GrpcStatus = "grpc-status",
    /// The gRPC method is none of those that may be cached: see [`Key::grpc`](crate::Key::grpc).
    GrpcMethod = "grpc-method",
    /// The gRPC call names no authority, so that two servers might share its key.
    NoAuthority = "no-authority",
    /// The call is answered by more than one message.
    GrpcStream = "grpc-stream",
    /// The response bears more tags than may be recorded.
    TooManyTags = "too-many-tags",
    /// The response bears a tag that is longer than may be recorded.
    TagTooLong = "tag-too-long",
    /// The handler asked that the response not be stored.
    DoNotStore = "do-not-store",
    /// The handler spoke to its scope after the response's head was sent.
    LateScope = "late-scope",
    /// The response is made of another response of the same cache, and nobody knows what that depends on: it failed, its handler
    /// spoke to its scope after the head was sent, or it was not read to its end.
    UnknownPart = "unknown-part",
    /// A purge of one of the response's tags is under way, or holds off what is stored.
    HeldOff = "held-off",
    /// A purge of one of the response's tags came between its handler's start and its head.
    Purged = "purged",
    /// [`store_if`](crate::CacheLayerBuilder::store_if) returned `false` for the complete response.
    StoreIf = "store-if",
    /// [`store_if`](crate::CacheLayerBuilder::store_if) panicked: the response was not stored, and is remembered as uncacheable.
    StoreIfPanicked = "store-if-panicked",
    /// The response is one that a cache further in served stale.
    StaleInside = "stale-inside",
    /// A stale response is served while it is fetched anew.
    StaleWhileRevalidate = "stale-while-revalidate",
    /// A stale response is served because it could not be fetched anew, or not in time.
    StaleIfError = "stale-if-error",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of this cache in `Cache-Status`: a token, or a string in quotes (RFC 9211 §2, RFC 8941 §3.3).
#[derive(Debug, Clone)]
pub(crate) struct StatusName(Box<str>);

impl Default for StatusName {
    fn default() -> Self {
        Self("tower-response-cache".into())
    }
}

impl StatusName {
    pub(crate) fn parse(name: &str) -> Result<Self, BuildError> {
        const MAX_BYTES: usize = 256;
        if name.is_empty()
            || name.len() > MAX_BYTES
            || !name.bytes().all(|b| (0x20..0x7f).contains(&b))
        {
            return Err(BuildError::new(
                "the cache's name cannot stand in a Cache-Status header",
                "give 1 to 256 characters of printable ASCII",
            ));
        }
        let token = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
        if token {
            return Ok(Self(name.into()));
        }
        let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
        Ok(Self(format!("\"{escaped}\"").into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_as_rfc_9211_has_it() {
        let name = StatusName::default();
        let hit = CacheStatus::hit(Duration::from_millis(59_900));
        assert_eq!(hit.to_header(&name), "tower-response-cache; hit; ttl=59");

        let mut miss = CacheStatus::forwarded(Forward::UriMiss, None);
        miss.stored = true;
        miss.collapsed = true;
        assert_eq!(
            miss.to_header(&name),
            "tower-response-cache; fwd=uri-miss; stored; collapsed"
        );

        let bypass = CacheStatus::bypass(Reason::Method);
        assert_eq!(
            bypass.to_header(&name),
            "tower-response-cache; fwd=method; detail=method"
        );
    }

    #[test]
    fn stored_can_be_taken_back() {
        let name = StatusName::parse("a; stored").unwrap();
        let mut miss = CacheStatus::forwarded(Forward::Stale, Some(Reason::Purged));
        let without = miss.to_header(&name);
        miss.stored = true;
        let mut member = miss.to_header(&name);
        assert_ne!(member, without);
        take_stored(&mut member);
        assert_eq!(member, without);
    }

    #[test]
    fn the_cause_of_a_handler_is_a_string_in_the_detail() {
        let mut status = CacheStatus::forwarded(Forward::UriMiss, Some(Reason::DoNotStore));
        let mut written = |cause| {
            status.cause = Some(cause);
            let member = status.to_header(&StatusName::default());
            let (_, detail) = member.to_str().unwrap().split_once("detail=").unwrap();
            detail.to_owned()
        };
        assert_eq!(
            written("index is building"),
            "\"do-not-store: index is building\""
        );
        assert_eq!(
            written("a \"b\\c\"; fwd=stale \u{e9}\n"),
            r#""do-not-store: a \"b\\c\", fwd=stale ??""#
        );
        assert_eq!(written(&"x".repeat(128).leak()[..]).len(), 144);
        assert_eq!(written(&"x".repeat(129).leak()[..]).len(), 144);
    }

    #[test]
    fn every_reason_is_a_token_of_its_own() {
        assert!(
            Reason::ALL
                .iter()
                .enumerate()
                .all(|(at, reason)| at == *reason as usize)
        );
        let mut tokens: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert!(
            tokens
                .iter()
                .all(|t| t.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        );
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), Reason::ALL.len());
    }

    #[test]
    fn a_name_that_is_no_token_is_quoted_and_one_that_is_no_text_is_refused() {
        let written = |name: &str| {
            let header =
                CacheStatus::bypass(Reason::Head).to_header(&StatusName::parse(name).unwrap());
            header
                .to_str()
                .unwrap()
                .split(';')
                .next()
                .unwrap()
                .to_owned()
        };
        assert_eq!(written("edge"), "edge");
        assert_eq!(written("my \"cache\""), "\"my \\\"cache\\\"\"");
        assert_eq!(written("1st"), "\"1st\"");
        assert!(StatusName::parse("").is_err());
        assert!(StatusName::parse("a\nb").is_err());
        assert!(StatusName::parse(&"x".repeat(256)).is_ok());
        assert!(StatusName::parse(&"x".repeat(257)).is_err());
    }
}

//! What the cache may do with a request and with a response. Pure: parts in, a decision out.

mod acceptance;
mod directives;
mod groups;
mod judge;
mod part;
mod response_credentials;
mod shape;
mod stream;
mod tag_header;
mod terms;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request, response};

use crate::{
    entry::{Entry, Grace},
    field::{has_another_unit, retain, selects_all},
    grpc::is_grpc,
    status::Reason,
    tags::Tags,
};
pub(crate) use acceptance::{Acceptance, only_if_cached};
pub use directives::{Credentials, RequestDirectives, ResponseDirectives, SetCookie};
pub(crate) use groups::{groups, invalidated_groups, is_group};
pub(crate) use judge::{Candidate, Plan, Verdict, content_length};
pub(crate) use shape::{Of, Shape, Whole, is_for_a_part, may_be_shaped, shape};
pub use tag_header::TagHeader;

/// The layer's own rules.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) ttl: Duration,
    /// What the application makes of a response's head.
    pub(crate) ttl_by: Option<TtlBy>,
    /// How much of a lifetime may be taken off it by chance, in thousandths.
    pub(crate) jitter: u32,
    /// For how long a response may be served when it is stale.
    pub(crate) grace: Grace,
    /// For how long a response that can be revalidated is kept after that.
    pub(crate) keep_for_revalidation: Option<Duration>,
    /// After how much of its lifetime a response is fetched anew, in thousandths.
    pub(crate) eager: Option<u32>,
    /// The other statuses that are stored, each with its lifetime.
    pub(crate) statuses: Vec<(StatusCode, Duration)>,
    /// The statuses of gRPC calls that are stored besides OK, each with its longest lifetime.
    pub(crate) codes: Vec<(u32, Duration)>,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_key_bytes: usize,
    pub(crate) max_tags: usize,
    pub(crate) max_tag_bytes: usize,
    pub(crate) tag_headers: Vec<TagHeader>,
    pub(crate) request_tags: Option<RequestTags>,
    pub(crate) store_if: Option<StoreIf>,
    /// The methods that are answered where the key reads the body.
    pub(crate) methods: Vec<Method>,
    pub(crate) request_directives: RequestDirectives,
    pub(crate) response_directives: ResponseDirectives,
    pub(crate) credentials: Credentials,
    pub(crate) set_cookie: SetCookie,
    /// The headers with credentials that do not keep a response from being shared.
    pub(crate) share_despite: Vec<HeaderName>,
    pub(crate) heuristics: Heuristics,
    /// The fields that speak to this cache in particular, in the order in which they count.
    pub(crate) targets: Vec<HeaderName>,
    pub(crate) stale_despite_s_maxage: bool,
    /// Whether the layer's lifetime counts though a response says `max-age=0`, or has an `Expires` in the past.
    pub(crate) ignore_max_age: bool,
    pub(crate) cache_groups: bool,
    pub(crate) no_vary_search: bool,
    /// Whether a request for a part makes the cache fetch the whole.
    pub(crate) whole_for_ranges: bool,
    /// Whether answers to unsafe methods purge what they have changed.
    pub(crate) invalidation: bool,
    pub(crate) etag_from_body: Option<BodyTag>,
    pub(crate) max_variants: usize,
    /// Whether requests for fragments of a page are told apart, whatever `Vary` says.
    pub(crate) fragments: bool,
}

/// How long what says nothing of its lifetime is fresh, by how long it has not been modified.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Heuristics {
    pub(crate) thousandths: u32,
    pub(crate) at_most: Duration,
}

/// The kind of entity tag that a stored response is given, made of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyTag {
    Weak,
    Strong,
}

pub(crate) type TtlBy = Arc<dyn Fn(&response::Parts) -> Option<Duration> + Send + Sync>;

/// Whether a complete response may be stored, as the application decides.
pub(crate) type StoreIf = Arc<dyn Fn(&response::Parts, &[u8]) -> bool + Send + Sync>;

pub(crate) type RequestTags = Arc<dyn Fn(&request::Parts) -> Tags + Send + Sync>;

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            ttl_by: None,
            jitter: 0,
            grace: Grace::default(),
            keep_for_revalidation: None,
            eager: None,
            statuses: Vec::new(),
            codes: Vec::new(),
            max_body_bytes: 1 << 20,
            max_key_bytes: 8 << 10,
            max_tags: 1024,
            max_tag_bytes: 1 << 10,
            tag_headers: Vec::new(),
            request_tags: None,
            store_if: None,
            methods: vec![Method::GET, Method::HEAD],
            request_directives: RequestDirectives::default(),
            response_directives: ResponseDirectives::default(),
            credentials: Credentials::default(),
            set_cookie: SetCookie::default(),
            share_despite: Vec::new(),
            heuristics: Heuristics::default(),
            targets: Vec::new(),
            stale_despite_s_maxage: false,
            ignore_max_age: false,
            cache_groups: false,
            no_vary_search: false,
            whole_for_ranges: true,
            invalidation: true,
            etag_from_body: None,
            max_variants: 12,
            fragments: true,
        }
    }
}

impl Policy {
    /// The lifetime of a response of this status. `None` if such are not stored.
    pub(crate) fn ttl_of(&self, status: StatusCode) -> Option<Duration> {
        let chosen = self.statuses.iter().find(|(known, _)| *known == status);
        match chosen {
            Some((_, ttl)) => Some(*ttl),
            None if status == StatusCode::OK => Some(self.ttl),
            None => None,
        }
    }

    /// How long a gRPC call that ended with this status is stored at most. `None` if such are not stored, or for OK.
    pub(crate) fn ttl_of_code(&self, code: u32) -> Option<Duration> {
        let chosen = self.codes.iter().find(|(known, _)| *known == code);
        chosen.map(|(_, ttl)| *ttl)
    }

    /// For how long a response is kept after its stale windows, if that is chosen; and whether requests may ask for a stale one.
    pub(crate) fn keeping(&self) -> (Option<Duration>, bool) {
        let are_heeded = !matches!(self.request_directives, RequestDirectives::Ignore);
        (self.keep_for_revalidation, are_heeded)
    }

    /// Whether so much of a fresh response's lifetime is over that it is to be fetched anew.
    pub(crate) fn wants_renewal(&self, entry: &Entry, left: Duration) -> bool {
        self.eager.is_some_and(|thousandths| {
            let rest = entry.head.ttl / 1000 * 1000_u32.saturating_sub(thousandths);
            left <= rest
        })
    }

    /// Whether a request of this method is known to change nothing (RFC 9110 §9.2.1, RFC 3253, RFC 4918, RFC 5323, RFC 10008), or is
    /// one that the layer answers itself. What is unknown may change anything.
    pub(crate) fn is_safe(&self, method: &Method) -> bool {
        const KNOWN: [&str; 9] = [
            "GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "QUERY", "PROPFIND", "REPORT", "SEARCH",
        ];
        KNOWN.contains(&method.as_str()) || self.methods.contains(method)
    }

    /// Whether responses decide themselves.
    pub(crate) fn is_by_the_book(&self) -> bool {
        self.response_directives == ResponseDirectives::Honour
    }

    /// Whether a request may be answered by the cache, as far as its preconditions go: a cache does not evaluate these, and by the book
    /// it does not leave them out either.
    ///
    /// # Errors
    ///
    /// The reason for which it passes by.
    pub(crate) fn admit_preconditions(&self, headers: &HeaderMap) -> Result<(), Reason> {
        if self.is_by_the_book() && has_precondition(headers) {
            return Err(Reason::Precondition);
        }
        Ok(())
    }

    /// Removes the headers that were for the cache alone.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        let stripped = self.tag_headers.iter().filter(|header| header.stripped());
        retain(headers, |name| {
            !stripped.clone().any(|header| header.name() == name)
        });
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("ttl", &self.ttl)
            .field("jitter", &self.jitter)
            .field("grace", &self.grace)
            .field("eager", &self.eager)
            .field("statuses", &self.statuses)
            .field("codes", &self.codes)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("max_key_bytes", &self.max_key_bytes)
            .field("max_tags", &self.max_tags)
            .field("max_tag_bytes", &self.max_tag_bytes)
            .field("tag_headers", &self.tag_headers)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// Whether a response of this status answers for a part, or on a condition: never for the whole.
pub(crate) fn is_partial(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

/// Whether a request whose key is made of its head is one that the cache answers.
pub(crate) fn admit(parts: &request::Parts, has_body: bool) -> Result<(), Reason> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(if parts.method == Method::CONNECT {
            Reason::Upgrade
        } else {
            Reason::Method
        });
    }
    if upgrades(&parts.headers) {
        return Err(Reason::Upgrade);
    }
    if has_body {
        return Err(Reason::RequestBody);
    }
    Ok(())
}

/// Whether a request whose key is made of its body too is one that the cache answers.
pub(crate) fn admit_body(
    parts: &request::Parts,
    methods: &[Method],
    is_grpc_key: bool,
) -> Result<(), Reason> {
    if parts.method == Method::CONNECT || upgrades(&parts.headers) {
        return Err(Reason::Upgrade);
    }
    let admitted = if is_grpc_key {
        parts.method == Method::POST
    } else {
        methods.contains(&parts.method)
    };
    if !admitted {
        return Err(Reason::Method);
    }
    // A call by gRPC may be a conversation, whose end nobody must wait for.
    if is_grpc_key == is_grpc(&parts.headers) {
        Ok(())
    } else {
        Err(Reason::RequestBodyNotKeyed)
    }
}

/// RFC 9110 §7.8: the connection is to speak another protocol.
fn upgrades(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// What concerns the one requester alone: which part it wants, and on which condition (RFC 9110 §13, §14).
const ONE_REQUESTERS: [HeaderName; 6] = [
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
];

/// Whether the answer may be another than the whole.
pub(crate) fn asks_for_less(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| ONE_REQUESTERS.contains(name))
}

/// Returns whether a part of the response is asked for (RFC 9110 §14.2: of a GET, and so of a QUERY), and not all of its bytes.
pub(crate) fn asks_for_a_part(parts: &request::Parts) -> bool {
    let mut lines = parts.headers.get_all(header::RANGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => false,
        (Some(line), None) => !selects_all(line.as_bytes()),
        (Some(_), Some(_)) => true,
    }
}

/// Returns whether a part is asked for in a unit that the cache does not know (RFC 9110 §14.1), and the inner service may be asked,
/// which may know it.
pub(crate) fn asks_in_another_unit(parts: &request::Parts) -> bool {
    let lines = parts.headers.get_all(header::RANGE).iter();
    let is_ranged = parts.method == Method::GET || parts.method == Method::QUERY;
    let is_another = lines.map(HeaderValue::as_bytes).any(has_another_unit);
    is_ranged && is_another && !only_if_cached(&parts.headers)
}

/// Whether the answer depends on what only the origin knows to be so now (RFC 9110 §13.1.1, §13.1.4).
fn has_precondition(headers: &HeaderMap) -> bool {
    // One walk over the names is cheaper than two searches.
    let mut names = headers.keys();
    names.any(|name| [header::IF_MATCH, header::IF_UNMODIFIED_SINCE].contains(name))
}

/// Takes out what concerns the one requester alone, so that the inner service answers with the whole: the reply is
/// made for each requester afterwards.
pub(crate) fn ask_for_the_whole(headers: &mut HeaderMap) {
    for name in ONE_REQUESTERS {
        headers.remove(name);
    }
    headers.remove("grpc-timeout");
}

/// Makes a request one that asks whether what is stored has changed (RFC 9111 §4.3.1). `false` if it has nothing to be asked
/// by, or may not be.
pub(crate) fn ask_conditionally(parts: &mut request::Parts, stored: &Entry) -> bool {
    let headers = &stored.head.headers;
    let asks = parts.method == Method::GET || parts.method == Method::QUERY;
    if !asks || !stored.head.status.is_success() {
        return false;
    }
    let tag = stored.head.tag();
    // A date tells seconds apart: not what has changed in the one in which it was made. Where a purge says that it has changed, that
    // is not good enough.
    let date = headers.get(header::LAST_MODIFIED);
    let date = date.filter(|_| stored.stamp.stale_since().is_none());
    for (name, validator) in [
        (header::IF_NONE_MATCH, tag),
        (header::IF_MODIFIED_SINCE, date),
    ] {
        if let Some(validator) = validator {
            parts.headers.insert(name, validator.clone());
        }
    }
    tag.is_some() || date.is_some()
}

#[cfg(test)]
mod tests;

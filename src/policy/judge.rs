//! May this response be stored, or at least be shared with those who wait for it now? One decision for both.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, Uri, header, response};
use http_body::SizeHint;
use tokio::time::Instant;

use super::{Policy, ResponseDirectives, groups, stream::stream};
use crate::{
    entry::{Entry, Head},
    field::{NoVarySearch, ResponseControl, hands_over, retain},
    grpc::{self, is_grpc},
    key::{Fragment, Identity, Selection},
    status::{Reason, ServedStale},
    tags::{Tag, TagNames, Tags, scope::Gathered},
    vary::Vary,
};

/// A response whose head is known, with what is known of its request.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) identity: Identity,
    /// Which fragment of a page the request is for.
    pub(crate) fragment: &'a Fragment,
    pub(crate) selection: &'a Selection,
    pub(crate) request_headers: &'a HeaderMap,
    /// As they were before a seal.
    pub(crate) headers_as_asked: &'a HeaderMap,
    pub(crate) request_tags: Tags,
    /// What is renewed by it: its tags, and the bound on its lifetime, hold on.
    pub(crate) renewed: Option<&'a Entry>,
    pub(crate) response: &'a response::Parts,
    pub(crate) gathered: Gathered,
    pub(crate) body: &'a SizeHint,
    pub(crate) received: Instant,
    /// When it was received, by the clock on the wall.
    pub(crate) at: SystemTime,
    /// How long it took to come.
    pub(crate) delay: Duration,
    /// It would take the place of a stored response that is no failure.
    pub(crate) replaces_good: bool,
    /// It answers a POST.
    pub(crate) is_post: bool,
    /// It is a part of a page, and answers a method that is not cached: only what it says itself bounds its lifetime.
    pub(crate) is_of_uncached_method: bool,
    /// The host that the request is for.
    pub(crate) origin: Option<String>,
    /// The target of the request, as the client sent it.
    pub(crate) uri: &'a Uri,
}

impl Candidate<'_> {
    /// No lifetime may be longer, its handler has said, or that of what it renews.
    pub(super) fn at_most(&self) -> Duration {
        let renewed = self
            .renewed
            .map_or(Duration::MAX, |entry| entry.head.at_most);
        self.gathered.at_most().min(renewed)
    }

    /// For how long from now on all of its parts are fresh.
    pub(super) fn parts_are_fresh_for(&self) -> Duration {
        let until = self.gathered.parts.fresh_until();
        until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(self.received)
        })
    }
}

/// What may be done with a response.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Store it, and share it with those who wait.
    Store(Plan),
    /// Share it with those who wait, and do not store it.
    Share(Plan, Reason),
    /// It is for its own requester alone.
    Keep(Reason),
    /// It is a failure of the inner service: for its own requester, and for others only as a second opinion.
    Failed(Option<Plan>),
}

/// How a response is recorded.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) head: Head,
    pub(crate) tags: Vec<Box<[u8]>>,
    /// What `Content-Length` says.
    pub(crate) content_length: Option<u64>,
    /// It is an answer to a gRPC call: whole with one message and a status in its trailers.
    pub(crate) grpc: bool,
    /// It is stored, and nobody else gets it before it was validated.
    pub(crate) alone: bool,
    /// Why the handler asked that it not be stored.
    pub(crate) cause: Option<&'static str>,
}

impl Policy {
    pub(crate) fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let (status, replaces_good) = (candidate.response.status, candidate.replaces_good);
        let may_fail = self.is_failure(status, &candidate.response.headers);
        let by_the_book = self.is_by_the_book();
        // RFC 9111 knows nothing of failures within a 200.
        let is_http = self.is_failure_status(status);
        let may_be_stored =
            |plan: &Plan| by_the_book && is_http && !replaces_good && !plan.head.ttl.is_zero();
        let is_stale_at_once = self.is_stale_at_once(candidate);
        let stale_at_once = is_stale_at_once.then_some(Reason::NoLifetime);
        let share_only = share_only(candidate).or(stale_at_once);
        match self.plan(candidate) {
            // RFC 9111 §3: in RFC 9111 mode a failure that states its lifetime is stored, in place of an older failure too, and never
            // in place of a good response.
            Ok(plan) if may_fail && !may_be_stored(&plan) => {
                // Who waits for a second opinion shares it.
                Verdict::Failed(Some(Plan {
                    alone: false,
                    ..plan
                }))
            }
            Err(_) if may_fail => Verdict::Failed(None),
            Ok(plan) => match share_only {
                Some(reason) => Verdict::Share(plan, reason),
                None => Verdict::Store(plan),
            },
            Err(reason) => Verdict::Keep(reason),
        }
    }

    /// Whether the response has a gRPC message and a status in its trailers. Without a message, the status is in its head.
    fn has_messages(&self, candidate: &Candidate<'_>) -> Result<bool, Reason> {
        let response = candidate.response;
        let headers = &response.headers;
        let grpc = is_grpc(headers);
        let is_head_only = grpc && headers.contains_key(grpc::STATUS);
        let is_shared = || {
            let code = grpc::code(headers);
            code.is_some_and(|code| grpc::is_failure(code) || self.ttl_of_code(code).is_some())
        };
        // An answer to a call that is no gRPC is the page of a proxy. If that says that the service is down, it counts as any 5xx.
        let answers_call = is_grpc(candidate.request_headers);
        let is_page = !self.is_by_the_book() && self.is_failure_status(response.status);
        if (answers_call != grpc && !is_page) || (is_head_only && !is_shared()) {
            return Err(Reason::GrpcStatus);
        }
        Ok(grpc && !is_head_only)
    }

    fn plan(&self, candidate: &Candidate<'_>) -> Result<Plan, Reason> {
        let response = candidate.response;
        let headers = &response.headers;
        let terms = self.terms(candidate)?;
        // As if it had said so itself.
        candidate.gathered.parts.private().map_or(Ok(()), Err)?;
        let encoded = headers.contains_key(header::CONTENT_ENCODING);
        let (asked, any_order) = (candidate.headers_as_asked, self.is_by_the_book());
        let vary = Vary::of(headers, asked, any_order, |name| {
            candidate.selection.settles(name, encoded)
        })?;
        let vary = vary.of_fragment(candidate.fragment);
        let grpc = self.has_messages(candidate)?;
        let content_length = content_length(headers)?;
        if let Some(reason) = stream(headers, content_length, candidate.body) {
            return Err(reason);
        }
        let length = content_length
            .or(candidate.body.exact())
            .unwrap_or_else(|| candidate.body.lower());
        if length > self.max_body_bytes as u64 {
            return Err(Reason::TooLarge);
        }
        // What the field names is the response, and others do not get the field.
        let is_empty = content_length.or(candidate.body.exact()) == Some(0);
        if is_empty && hands_over(headers) {
            return Err(Reason::InternalRedirect);
        }
        let tags = self.tags(candidate)?;
        let mut head = Head::new(response, vary, terms.ttl, candidate.received);
        let began = candidate.received.checked_sub(candidate.delay);
        head.began = began.unwrap_or(candidate.received);
        head.for_authorized = terms.for_authorized;
        head.initial_age = terms.age;
        head.overdue = terms.overdue;
        head.grace = terms.grace;
        head.may_be_stale = terms.may_be_stale;
        head.immutable = terms.immutable;
        head.at_most = candidate.at_most();
        if let Some(renewed) = candidate.renewed {
            head.keep_own_tag(&renewed.head);
        }
        head.date = terms.date;
        head.names_fields = headers.contains_key(header::VARY);
        if self.no_vary_search {
            head.search = NoVarySearch::of(headers).map(Arc::new);
        }
        if let Some(ttl) = grpc::code(headers).and_then(|code| self.ttl_of_code(code)) {
            head.ttl = head.ttl.min(ttl);
        }
        self.strip(&mut head.headers);
        if !terms.without.is_empty() {
            retain(&mut head.headers, |name| !terms.without.contains(name));
            head.kept_back = terms.without.into();
        }
        Ok(Plan {
            head,
            tags,
            content_length,
            grpc,
            alone: terms.alone,
            cause: candidate.gathered.do_not_store(),
        })
    }

    /// Whether an answer that is not stored says that what is stored is to be served no more: that it is gone, or that its like is
    /// not to be shared. Others say nothing of it: that it is elsewhere for a while, that this requester may not have it, or
    /// asks too often.
    pub(crate) fn is_no_more(&self, response: &response::Parts) -> bool {
        let status = response.status;
        let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        let withdrawn = || {
            // What cannot be read may say so.
            ResponseControl::of(&response.headers).map_or(true, |control| {
                control.no_store || control.private.is_some() || control.no_cache.is_some()
            })
        };
        match self.response_directives {
            ResponseDirectives::PolicyFirst => {
                gone || (self.ttl_of(status).is_some() && withdrawn())
            }
            // RFC 9111 §4.3.3: a whole answer is there in place of what is stored.
            ResponseDirectives::Honour => gone || status.is_success() || status.is_redirection(),
        }
    }

    /// Whether a response is a failure of the inner service, rather than an answer that is not for everybody.
    pub(crate) fn is_failure(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.is_failure_status(status)
            || (status == StatusCode::OK && grpc::code(headers).is_some_and(grpc::is_failure))
    }

    pub(super) fn is_failure_status(&self, status: StatusCode) -> bool {
        match self.response_directives {
            ResponseDirectives::PolicyFirst => status.is_server_error(),
            // RFC 5861 §4. The others are answers as any.
            ResponseDirectives::Honour => matches!(status.as_u16(), 500 | 502 | 503 | 504),
        }
    }

    /// All tags of a response, wherever they come from, each once.
    pub(super) fn tags(&self, candidate: &Candidate<'_>) -> Result<Vec<Box<[u8]>>, Reason> {
        let response = candidate.response;
        let groups = if self.cache_groups {
            groups(candidate.origin.as_deref(), &response.headers)
        } else {
            Vec::new()
        };
        let extensions = response.extensions.get::<Tags>();
        let typed = candidate
            .request_tags
            .iter()
            .chain(&candidate.gathered.tags)
            .chain(extensions.into_iter().flatten());
        let headers = self
            .tag_headers
            .iter()
            .flat_map(|header| header.tags(&response.headers));
        let typed = typed.map(Tag::as_str).map(str::as_bytes);
        let groups = groups.iter().map(|group| &**group);
        let renewed = candidate.renewed.map(|entry| &entry.tag_names);
        let renewed = renewed.into_iter().flat_map(TagNames::iter);
        let mut tags: Vec<Box<[u8]>> = Vec::new();
        let mut known: HashSet<&[u8]> = HashSet::new();
        let parts = candidate.gathered.parts.tags();
        for tag in typed
            .chain(headers)
            .chain(groups)
            .chain(renewed)
            .chain(parts)
        {
            if tag.len() > self.max_tag_bytes {
                return Err(Reason::TagTooLong);
            }
            // A tag that was seen before costs nothing, so that the bound holds on what is looked at too.
            if known.len() == self.max_tags && !known.contains(tag) {
                return Err(Reason::TooManyTags);
            }
            if known.insert(tag) {
                tags.push(tag.into());
            }
        }
        Ok(tags)
    }
}

/// Why a response that may be shared is not to be stored.
fn share_only(candidate: &Candidate<'_>) -> Option<Reason> {
    let asked_for = candidate.gathered.do_not_store();
    let stale = candidate.response.extensions.get::<ServedStale>();
    asked_for
        .map(|_| Reason::DoNotStore)
        .or(stale.map(|_| Reason::StaleInside))
}

/// Whether a response is a redirect to what its request is for, as far as that is in the key: to another scheme, to a host or a
/// parameter that the key leaves out. Who follows it would be answered with it again, and never come to an end.
pub(super) fn leads_to_itself(candidate: &Candidate<'_>) -> bool {
    let response = candidate.response;
    if !response.status.is_redirection() {
        return false;
    }
    let headers = candidate.headers_as_asked;
    let mut locations = response.headers.get_all(header::LOCATION).iter();
    locations.any(|location| {
        candidate
            .selection
            .leads_to_target(location.as_bytes(), candidate.uri, headers)
    })
}

/// RFC 9110 §8.6: one number. Several, or anything else, is a message whose end nobody knows.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Reason> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) if line.as_bytes().iter().all(u8::is_ascii_digit) => {
            let number = line.to_str().ok().and_then(|digits| digits.parse().ok());
            number.map(Some).ok_or(Reason::ContentLength)
        }
        _ => Err(Reason::ContentLength),
    }
}

//! A request that bypasses the cache while it is part of a fill: a page that is made of the response takes over from it what it
//! would from a fetched one.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, Method, Response, StatusCode, Uri, request, response};
use http_body::{Body, SizeHint};
use tokio::time::Instant;

use crate::{
    body::ResponseBody,
    caught::catch,
    config::Config,
    key::{self, Fragment, Identity},
    policy::Candidate,
    tags::{CacheScope, Part, PartMarks, PendingPart, Presence, TagHash, Tags},
};

/// What is known of such a request when it goes to the inner service.
#[derive(Debug)]
pub(crate) struct BypassedPart {
    config: Arc<Config>,
    sent_at: Instant,
    headers: HeaderMap,
    tags: Tags,
    origin: Option<String>,
    identity: Identity,
    is_of_uncached_method: bool,
    /// A layer between the page and its part may answer for one visitor alone, in a cookie that is not seen here.
    has_session: bool,
    /// What purges mark of its request and its target.
    own_marks: Vec<TagHash>,
    /// From before its call, so that unsafe requests to its target are noticed.
    _presence: Presence,
    /// Its target, as the client sent it.
    uri: Uri,
    scope: CacheScope,
}

impl BypassedPart {
    /// Gives the request a scope of its own, in place of its page's.
    pub(crate) fn begin(
        config: &Arc<Config>,
        parts: &mut request::Parts,
        own_marks: Vec<TagHash>,
    ) -> Self {
        let policy = &config.policy;
        // A request that came through the page's fill was judged there, with its credentials.
        let came_through = parts.extensions.get::<CacheScope>().is_some();
        let identity = || config.selection.identity(&parts.method, &parts.headers);
        let identity = if came_through {
            Identity::None
        } else {
            identity().unwrap_or(Identity::Authorized)
        };
        let make_tags = policy.request_tags.as_ref();
        let scope = CacheScope::recording();
        let part = Self {
            config: config.clone(),
            sent_at: Instant::now(),
            headers: parts.headers.clone(),
            tags: make_tags.map_or_else(Tags::new, |make| make(parts)),
            origin: config.origin(parts),
            identity,
            is_of_uncached_method: parts.method != Method::GET && parts.method != Method::HEAD,
            has_session: config.selection.has_session(parts),
            _presence: config.shared.purges.enter(&own_marks),
            own_marks,
            uri: key::as_sent(parts).clone(),
            scope: scope.clone(),
        };
        parts.extensions.insert(scope);
        part
    }

    /// `None` if it is a failure, or if it is not known for whom it is.
    fn evaluate(&self, response: &mut response::Parts, body: &SizeHint) -> Option<Part> {
        if self.has_session {
            return None;
        }
        let (policy, purges) = (&self.config.policy, &self.config.shared.purges);
        let gathered = self.scope.close();
        let inherited = gathered.parts.marks(purges);
        // Another answer of success, or that its requester has it already, says as much of who may have it as a 200.
        let status = response.status;
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            response.status = StatusCode::OK;
        }
        let candidate = Candidate {
            identity: self.identity,
            // It is not stored, so there is nothing that it has to be told apart from.
            fragment: &Fragment::default(),
            selection: &self.config.selection,
            request_headers: &self.headers,
            headers_as_asked: &self.headers,
            request_tags: self.tags.clone(),
            renewed: None,
            response,
            gathered,
            body,
            received: Instant::now(),
            at: SystemTime::now(),
            delay: self.sent_at.elapsed(),
            replaces_good: false,
            is_post: false,
            is_of_uncached_method: self.is_of_uncached_method,
            origin: self.origin.clone(),
            uri: &self.uri,
        };
        // The application has a say in it, and may panic.
        let part = catch(|| policy.part(&candidate, &policy.judge(&candidate)));
        response.status = status;
        let part = part.ok().flatten()?;
        let names = part.tags.iter().map(|tag| purges.hash_tag(tag));
        let marks = names.chain(self.own_marks.iter().copied()).chain(inherited);
        Some(Part {
            marks: Some(PartMarks::new(purges, marks.collect::<Vec<_>>())),
            scope: Some(self.scope.clone()),
            ..part
        })
    }
}

/// Awaits the call of a request that bypasses the cache, in a scope of its own.
///
/// # Cancel safety
///
/// That of the call.
pub(crate) async fn call<B: Body, E>(
    part: Option<BypassedPart>,
    call: impl Future<Output = Result<Response<B>, E>>,
) -> Result<Response<B>, E> {
    let scope = part.as_ref().map(|part| part.scope.clone());
    let response = scope.unwrap_or_default().scope(call).await?;
    let Some(part) = part else {
        return Ok(response);
    };
    let (mut head, body) = response.into_parts();
    if let Some(part) = part.evaluate(&mut head, &body.size_hint()) {
        head.extensions.insert(part);
    }
    Ok(Response::from_parts(head, body))
}

/// The head of a part has come: its page takes over from it, and hears of the end of its body. Where the response says nothing of
/// itself, the page does not know what it depends on.
pub(crate) fn enter_body<B: Body>(
    pending: PendingPart,
    mut response: Response<ResponseBody<B>>,
) -> Response<ResponseBody<B>> {
    let part = response.extensions_mut().remove::<Part>();
    match part.and_then(|part| pending.begin_body(part)) {
        Some(pending) => response.map(|body| body.part(pending)),
        None => response,
    }
}

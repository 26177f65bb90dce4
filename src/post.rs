//! A POST whose answer is what its target is from now on (RFC 9110 §9.3.3): the next GET may have it.

use std::{future::poll_fn, panic::resume_unwind, sync::Arc};

use http::{Method, Request, Response, StatusCode, header, request};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    conclude::{Concluded, Sent},
    config::{Config, Layered},
    error::BoxError,
    invalidation::{Invalidation, resolved},
    key::{Head, KeyBytes, as_sent},
    lookup::Lookup,
    recorder::{Audience, Errand, Held},
    reply,
    shared::count,
    status::{CacheStatus, Forward, Reason},
    tags::{CacheScope, Tags, scope},
};

/// A POST on its way to the inner service, and the GET that its answer may be for.
#[derive(Debug)]
pub(crate) struct Post<S, ReqB> {
    config: Arc<Config>,
    inner: S,
    request: (request::Parts, ReqB),
    get: Option<Get>,
}

impl<S, ReqB> Post<S, ReqB> {
    /// Whether some GET may have the answer, by this layer's rules.
    pub(crate) fn is_one(config: &Config, parts: &request::Parts) -> bool {
        let policy = &config.policy;
        parts.method == Method::POST && policy.is_by_the_book() && policy.invalidation
    }

    pub(crate) fn new(layered: &Layered<Head>, inner: S, request: (request::Parts, ReqB)) -> Self {
        Self {
            config: layered.config.clone(),
            get: Get::of(layered, &request.0),
            inner,
            request,
        }
    }

    /// # Cancel safety
    ///
    /// Dropped, the call is dropped too, nothing is stored, and what it may have changed is purged.
    pub(crate) async fn respond<ResB>(self) -> Result<Response<ResponseBody<ResB>>, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<ResB>>,
        ResB: Body,
        ResB::Error: Into<BoxError>,
    {
        let Self {
            config,
            mut inner,
            request: (parts, body),
            get,
        } = self;
        let invalidation = Invalidation::of(&config, &parts);
        // Other unsafe requests to the same target are noticed from now on, and its own.
        let _present = invalidation.as_ref().map(|own| own.enter());
        poll_fn(|cx| inner.poll_ready(cx)).await?;
        let purges = &config.shared.purges;
        let (sent_at, before) = (Instant::now(), purges.epoch());
        // It may read what lags behind a purge.
        let lags = purges.holds_off();
        let scope = CacheScope::recording();
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(scope.clone());
        let call = inner.call(request);
        let response = scope::CURRENT.scope(scope.clone(), call).await?;
        let (status, headers) = (response.status(), response.headers());
        let purged = invalidation.and_then(|own| own.answered(status, headers));
        // What it has purged itself is older than it. Had anything else been purged since it was sent, nobody could tell.
        let targets = get.as_ref().map(|get| get.targets(&config));
        let in_flight = config.shared.bear_for(&targets.unwrap_or_default());
        let is_newest = !lags && purged == Some(before + 1) && purged == Some(in_flight.born());
        let get = get.filter(|get| is_newest && get.is_answered_by(&response));
        let Some(get) = get else {
            count(&config.shared.counters.bypasses);
            let status = CacheStatus::bypass(Reason::Method);
            return Ok(reply::passed(&config, response, status));
        };
        let (sent, errand) = get.into_errand(&config, sent_at);
        match errand.judge(sent, scope.clone(), in_flight, response) {
            Concluded::Passed(response) => Ok(response),
            Concluded::Recorded {
                head,
                recorder,
                body,
            } => Ok(head.map(|()| ResponseBody::recorded(body, recorder, scope))),
            Concluded::Failed(error) => Err(error),
            Concluded::Panicked(panic) => resume_unwind(panic),
        }
    }
}

/// The GET that the answer to a POST may be for.
#[derive(Debug)]
struct Get {
    parts: request::Parts,
    lookup: Lookup,
}

impl Get {
    /// `None` if the cache would not answer it.
    fn of(layered: &Layered<Head>, post: &request::Parts) -> Option<Self> {
        // The handler sees all of a POST; a fill would see no more than the key has of it.
        let selection = &layered.config.selection;
        if !selection.shows_all(post) || selection.has_session(post) {
            return None;
        }
        let mut parts = post.clone();
        parts.method = Method::GET;
        // They are the POST's body's.
        for name in [
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::TRANSFER_ENCODING,
        ] {
            parts.headers.remove(name);
        }
        let mut lookup = Lookup::new(&layered.config);
        let admitted = lookup.admit_head(layered, &mut parts, false);
        let is_one = admitted.is_ok() && !lookup.acceptance.no_store();
        is_one.then_some(Self { parts, lookup })
    }

    /// Whether the answer says that it is what is at its target.
    fn is_answered_by<B>(&self, response: &Response<B>) -> bool {
        let mut sent = self.parts.clone();
        sent.uri = as_sent(&self.parts).clone();
        let named = resolved(&sent, response.headers(), &header::CONTENT_LOCATION);
        response.status() == StatusCode::OK
            && named.is_some_and(|named| named.path_and_query() == sent.uri.path_and_query())
    }

    fn targets(&self, config: &Config) -> Vec<u64> {
        let path = config.path_hash(&config.selection.target_path(&self.parts));
        vec![config.target_hash(&self.parts), path]
    }

    fn into_errand(self, config: &Arc<Config>, sent_at: Instant) -> (Sent, Errand) {
        let Self { parts, lookup } = self;
        let make_tags = config.policy.request_tags.as_ref();
        let sent = Sent {
            at: sent_at,
            origin: config.origin(&parts),
            uri: as_sent(&parts).clone(),
            as_asked: None,
            tags: make_tags.map_or_else(Tags::new, |make| make(&parts)),
            headers: parts.headers.clone(),
        };
        // Nobody waits for it.
        let flight = KeyBytes::from_slice(b"POST");
        let errand = Errand {
            keys: lookup.keys(config, &parts, flight),
            identity: lookup.identity,
            forward: Forward::Method,
            audience: Audience::Requester,
            asked_for: None,
            is_head: false,
            told_of: None,
            asked: None,
            anew: None,
            known_tags: Tags::new(),
            is_nested: false,
            part: None,
            inherited: Vec::new(),
            inherited_presence: None,
            is_not_modified: false,
            is_post: true,
            held: Held {
                renewal: None,
                leader: None,
                permit: None,
            },
            config: config.clone(),
        };
        (sent, errand)
    }
}

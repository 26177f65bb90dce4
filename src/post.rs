//! A POST whose answer is what its target is from now on (RFC 9110 §9.3.3): the next GET may have it.

use std::{future::poll_fn, sync::Arc};

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
    key::{self, Head, KeyBytes, as_sent},
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
    get: request::Parts,
    lookup: Lookup,
}

impl<S, ReqB> Post<S, ReqB> {
    /// `None` if no GET will ever have the answer: then the parts are given back.
    pub(crate) fn of(
        layered: &Layered<Head>,
        inner: &S,
        request: (request::Parts, ReqB),
    ) -> Result<Self, (request::Parts, ReqB)>
    where
        S: Clone,
    {
        let config = &layered.config;
        let is_one = request.0.method == Method::POST && config.policy.is_by_the_book();
        if !is_one || !config.policy.invalidation {
            return Err(request);
        }
        let mut get = request.0.clone();
        get.method = Method::GET;
        // They are the POST's body's.
        for name in [
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::TRANSFER_ENCODING,
        ] {
            get.headers.remove(name);
        }
        let mut lookup = Lookup::new(config);
        if lookup.admit_head(layered, &mut get, false).is_err() || lookup.acceptance.no_store() {
            return Err(request);
        }
        Ok(Self {
            config: config.clone(),
            inner: inner.clone(),
            request,
            get,
            lookup,
        })
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
            lookup,
        } = self;
        let invalidation = Invalidation::of(&config, &parts);
        poll_fn(|cx| inner.poll_ready(cx)).await?;
        let (sent_at, before) = (Instant::now(), config.shared.bear());
        let scope = CacheScope::recording();
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(scope.clone());
        let response = scope::CURRENT
            .scope(scope.clone(), inner.call(request))
            .await?;
        let (status, headers) = (response.status(), response.headers());
        let is_its_own = names_itself(&get, &response);
        let purged = invalidation.and_then(|own| own.answered(status, headers));
        // What it has purged itself is older than it. Had anything else been purged since it was sent, nobody could tell.
        let in_flight = config.shared.bear();
        let is_newest = purged == Some(before.born() + 1) && purged == Some(in_flight.born());
        if !is_its_own || !is_newest {
            count(&config.shared.counters.bypasses);
            let status = CacheStatus::bypass(Reason::Method);
            return Ok(reply::passed(&config, response, status));
        }
        let sent = Sent {
            at: sent_at,
            origin: key::authority(&get),
            headers: get.headers.clone(),
            as_asked: None,
            tags: request_tags(&config, &get),
        };
        // Nobody waits for it.
        let flight = KeyBytes::from_slice(b"POST");
        let errand = Errand {
            keys: lookup.keys(&config, &get, flight),
            identity: lookup.identity,
            forward: Forward::Method,
            audience: Audience::Requester,
            asked_for: None,
            told_of: None,
            asked: None,
            anew: None,
            known_tags: Tags::new(),
            is_nested: scope::enclosing(&get.extensions).is_some(),
            is_not_modified: false,
            is_post: true,
            held: Held {
                renewal: None,
                leader: None,
                permit: None,
            },
            config,
        };
        match errand.judge(sent, scope.clone(), in_flight, response) {
            Concluded::Passed(response) => Ok(response),
            Concluded::Recorded {
                head,
                recorder,
                body,
            } => Ok(head.map(|()| ResponseBody::recorded(body, recorder, scope))),
            Concluded::Failed(error) => Err(error),
            Concluded::Panicked(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn request_tags(config: &Config, parts: &request::Parts) -> Tags {
    let make = config.policy.request_tags.as_ref();
    make.map_or_else(Tags::new, |make| make(parts))
}

/// Whether the answer says that it is what is at its target.
fn names_itself<B>(request: &request::Parts, response: &Response<B>) -> bool {
    let mut sent = request.clone();
    sent.uri = as_sent(request).clone();
    let named = resolved(&sent, response.headers(), &header::CONTENT_LOCATION);
    response.status() == StatusCode::OK
        && named.is_some_and(|named| named.path_and_query() == sent.uri.path_and_query())
}

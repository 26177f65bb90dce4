//! The long way of a request that is not in the store: it leads, waits, or goes alone.

use std::{future::poll_fn, ops::ControlFlow, pin::pin, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, request};
use http_body::Body;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    anew::Anew,
    body::{ResponseBody, Unshaped},
    bypass::{self, BypassedPart},
    clock::{before, deadline_in},
    config::{Config, FillMode},
    entry::{AgainCell, Asked},
    error::BoxError,
    events::Limit,
    fill::Fill,
    flight::{Boarding, Follower, Landing, Leader},
    key::KeyBytes,
    lookup::{Found, Hit, Lookup, Missing},
    pinned::Pinned,
    policy,
    recorder::{Audience, Errand, Held},
    renewal::Renewal,
    reply,
    shared::{Answer, Keyed, Shared, Told, count},
    stale::{Fallback, Outcome, or_stale},
    status::{CacheStatus, Forward, Reason},
    tags::{CacheScope, PendingPart, Tags},
};

/// A request that was looked for and not found, or found stale.
#[derive(Debug)]
pub(crate) struct Missed<S, ReqB> {
    pub(crate) config: Arc<Config>,
    pub(crate) inner: S,
    pub(crate) request: (request::Parts, ReqB),
    pub(crate) lookup: Lookup,
    pub(crate) missing: Missing,
    /// The scope of the fill that the request is part of, if it is.
    pub(crate) outer: Option<CacheScope>,
    /// What is stored and stale, held for as long as it is looked at: whether it was purged meanwhile can be told at the end.
    pub(crate) pinned: Option<Arc<Pinned>>,
    /// The attempt to renew what is stored that this request has claimed.
    pub(crate) renewal: Option<Renewal>,
    /// How it can be asked again, if its layer is to know.
    pub(crate) origin: Option<Origin>,
    /// It is to be answered by the inner service, whatever is stored.
    pub(crate) anew: Option<Anew>,
}

/// Where a request can be asked again, and the body with which.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) again: Arc<AgainCell>,
    /// What makes its key.
    pub(crate) keys: Arc<dyn Keyed>,
    pub(crate) body: Bytes,
    /// What the application said of the whole of it, when it was.
    pub(crate) tags: Tags,
}

/// A request waits again once, if what it waited for turned out not to be for it; then it goes alone.
pub(crate) const ROUNDS: usize = 2;

impl<S, ReqB, ResB> Missed<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    /// # Cancel safety
    ///
    /// Dropped while it waits, it leaves the flight; while it leads, see [`Fill`]; before its fill has begun, one of
    /// those who wait takes the lead.
    pub(crate) async fn respond(self) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let pending = self.outer.as_ref().map(PendingPart::of);
        let response = self.answer().await?;
        Ok(match pending {
            Some(pending) => bypass::enter_body(pending, response),
            None => response,
        })
    }

    /// # Cancel safety
    ///
    /// That of [`respond`](Self::respond).
    async fn answer(mut self) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        self.pin();
        let deadline = deadline_in(self.config.waiting.wait_timeout());
        let parts = &self.request.0;
        let is_known = self.pinned.is_some();
        if let Some(reason) = self.lookup.goes_alone(&self.config, parts, is_known) {
            return self.pass(reason, deadline).await;
        }
        if self.is_head() && self.config.policy.is_by_the_book() {
            let flight = self.flight();
            return self.alone(flight, None, deadline).await;
        }
        // Who wants what is newer does not wait for what may be older.
        if self.anew.is_some() || self.lookup.acceptance.wants_news() {
            return self.ask_anew(deadline).await;
        }
        let fallback = self.fallback();
        let flight = self.flight();
        let refused = self.config.shared.refusals.get(&flight);
        match refused.filter(|_| fallback.is_none()) {
            Some(reason) => self.side_by_side(flight, reason, deadline).await,
            None => self.board(flight, fallback, deadline).await,
        }
    }

    /// Takes a place on the flight of its key: it leads, or waits.
    async fn board(
        self,
        mut flight: KeyBytes,
        mut fallback: Option<Fallback>,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        // Code inside a fill may lead, and never waits: so no two can wait for each other.
        let inside_a_fill = self.outer.is_some();
        let max_waiters = if inside_a_fill {
            0
        } else {
            self.config.waiting.max_waiters
        };
        for _ in 0..ROUNDS {
            let boarding = self
                .config
                .shared
                .flights
                .board(&flight, max_waiters, || self.look_again());
            let mut follower = match boarding {
                Boarding::Found(hit) => return Ok(self.hit(&hit)),
                Boarding::Lead(leader) => {
                    return self.lead(flight, leader, false, deadline).await;
                }
                Boarding::Full if inside_a_fill => {
                    return self.pass(Reason::Reentrant, deadline).await;
                }
                Boarding::Full => {
                    self.config.shared.limits.reached(Limit::Waiters);
                    return self.squeeze(Reason::TooManyWaiters, deadline).await;
                }
                Boarding::Follow(follower) => follower,
            };
            if self.is_too_late_for(&follower) {
                follower.leave_behind();
                continue;
            }
            let landing = match wait(&mut follower, &mut fallback, deadline).await {
                ControlFlow::Continue(landing) => landing,
                ControlFlow::Break(stale) => return Ok(stale),
            };
            if let Landing::Answer(Answer::Told(told)) = &landing {
                if !self
                    .lookup
                    .is_answered_by(told, &self.config, &self.request.0.headers)
                {
                    let headers = &self.request.0.headers;
                    flight = self.lookup.flight_key(headers, Some(&told.head.vary));
                    continue;
                }
                if let Some(response) = self.told(told, fallback.as_ref()) {
                    return Ok(response);
                }
                // It may go on for long: those who come after the purge begin anew.
                follower.leave_behind();
                continue;
            }
            if matches!(landing, Landing::TimedOut) && self.config.fill_mode == FillMode::Inline {
                // Its leader's client may read for ever: the next one begins anew.
                follower.leave_behind();
            }
            return self
                .landed(landing, follower, flight, fallback, deadline)
                .await;
        }
        self.squeeze(Reason::NotShared, deadline).await
    }

    /// Whether the call that it would wait for began before a purge after which it came itself: as far as that can be told before
    /// there is an answer, whose tags nobody knows yet.
    fn is_too_late_for(&self, follower: &Follower<Answer>) -> bool {
        let purges = &self.config.shared.purges;
        let request = [self.lookup.request_hash(&self.config)];
        follower
            .born()
            .is_some_and(|born| !purges.may_share_since(born, &request, self.lookup.arrival))
    }

    /// What it waited for, or, if that is a failure, what it has to fall back on. `None` if it was purged before it came.
    fn told(
        &self,
        told: &Told,
        fallback: Option<&Fallback>,
    ) -> Option<Response<ResponseBody<ResB>>> {
        let stale = told.failed.then(|| fallback?.serve()).flatten();
        let shared = || {
            let may_share = self.lookup.may_share(told, &self.config);
            let response =
                may_share.then(|| reply::collapsed(&self.config, told, self.missing.forward));
            response.map(|response| self.sized(response))
        };
        stale.or_else(shared)
    }

    /// It waited, and there is no answer for it.
    async fn landed(
        self,
        landing: Landing<Answer>,
        follower: Follower<Answer>,
        flight: KeyBytes,
        fallback: Option<Fallback>,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let stale = match (&landing, &fallback) {
            (Landing::TimedOut, Some(fallback)) => fallback.serve_late(),
            (Landing::Lead(_), Some(fallback)) if !fallback.is_put_off() => None,
            (_, Some(fallback)) => fallback.serve(),
            (_, None) => None,
        };
        let landing = match landing {
            Landing::Lead(leader) if stale.is_none() => {
                return self.attempt(flight, leader, follower, deadline).await;
            }
            landing => landing,
        };
        // It waits no more, and must not be counted on.
        drop(follower);
        match (landing, stale) {
            (Landing::Lead(leader), stale) => {
                leader.give_up();
                Ok(stale.unwrap_or_else(|| self.unavailable(Reason::WaitTimeout)))
            }
            (_, Some(stale)) => Ok(stale),
            (Landing::Answer(_), None) => {
                self.side_by_side(flight, Reason::NotShared, deadline).await
            }
            // The calls before this one failed: not everybody at once.
            (Landing::Over, None) => self.alone_in_its_turn(flight, deadline).await,
            (Landing::Late | Landing::TimedOut, None) => Ok(self.unavailable(Reason::WaitTimeout)),
        }
    }

    /// Asks the inner service, whatever is stored. Those who miss meanwhile wait for it, if none is asked for them already.
    async fn ask_anew(self, deadline: Instant) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let flight = self.flight();
        let flights = &self.config.shared.flights;
        match flights.board(&flight, 0, || None::<Hit>) {
            Boarding::Lead(leader) => self.lead(flight, leader, false, deadline).await,
            _ => self.alone_in_its_turn(flight, deadline).await,
        }
    }

    /// The key by which this request waits, or is waited for.
    pub(crate) fn flight(&self) -> KeyBytes {
        self.lookup
            .flight_for(&self.request.0.headers, &self.missing)
    }

    /// What is stored for this request, if it may be served in need.
    fn fallback(&self) -> Option<Fallback> {
        let pinned = self.pinned.as_ref()?;
        let method = &self.request.0.method;
        let acceptance = &self.lookup.acceptance;
        let if_error = acceptance.stale_if_error();
        // What it would not take, it does not take in need either, unless it says so.
        if acceptance.wants_news() && if_error.is_none() {
            return None;
        }
        Fallback::new(&self.config, pinned, method, self.outer.is_some(), if_error)
    }

    /// Holds what is stale, as soon as it is found.
    pub(crate) fn pin(&mut self) {
        self.pinned = self.pin_stale();
        if self.pinned.is_none()
            && self.missing.stale.is_some()
            && self.lookup.arrives_again(&self.config)
            && let Found::Nothing(missing) = self.lookup.look(&self.config, &self.request.0.headers)
        {
            self.missing = missing;
            self.pinned = self.pin_stale();
        }
    }

    fn pin_stale(&self) -> Option<Arc<Pinned>> {
        let stale = self.missing.stale.as_ref()?;
        Pinned::new(&self.config.shared, stale, self.lookup.arrival).map(Arc::new)
    }

    /// What was stored between the miss and the start of a flight.
    pub(crate) fn look_again(&self) -> Option<Hit> {
        let mut lookup = self.lookup.clone();
        lookup.arrival = self.config.shared.purges.arrive();
        let Found::Hit(hit) = lookup.look(&self.config, &self.request.0.headers) else {
            return None;
        };
        // What is to be fetched anew is no news.
        let known = self.missing.stale.as_ref();
        let is_news = known.is_none_or(|known| !Arc::ptr_eq(known, &hit.entry));
        (is_news || hit.is_put_off()).then_some(hit)
    }

    fn is_head(&self) -> bool {
        self.request.0.method == Method::HEAD
    }

    /// A shared response as its requester gets it: to a HEAD, without the body.
    fn sized(&self, response: Response<ResponseBody<ResB>>) -> Response<ResponseBody<ResB>> {
        if self.is_head() {
            reply::withheld(response)
        } else {
            response
        }
    }

    fn hit(self, hit: &Hit) -> Response<ResponseBody<ResB>> {
        let parts = self.request.0;
        let mut response = reply::hit(&self.config, hit, &parts.method, parts.extensions);
        if self.outer.is_some() {
            let part = reply::part(&self.config, hit);
            response.extensions_mut().insert(part);
        }
        response
    }

    /// Brings the answer for all who wait. The inner service is asked for the whole: what concerns this requester
    /// alone is not handed on. An attempt's requester may be answered otherwise before. Where the layer decides, a HEAD is fetched as a GET, whose response is stored and shared.
    async fn lead(
        mut self,
        flight: KeyBytes,
        leader: Leader<Answer>,
        is_attempt: bool,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let shared = self.config.shared.clone();
        let fallback = self.fallback();
        let inside_a_fill = self.outer.is_some();
        // Inside a fill, whose own place may be the last one, nobody waits for a place; nor who has something to serve.
        let permit = if inside_a_fill || fallback.is_some() {
            shared.try_permit()
        } else {
            shared.permit(deadline).await
        };
        let Some(permit) = permit else {
            leader.give_up();
            return match fallback.and_then(|fallback| fallback.serve()) {
                Some(stale) => Ok(stale),
                None if inside_a_fill => self.pass(Reason::TooManyFills, deadline).await,
                None => Ok(self.unavailable(Reason::TooManyFills)),
            };
        };
        let Some(running) = shared.start_running() else {
            leader.give_up();
            return self.pass(Reason::ShuttingDown, deadline).await;
        };
        let held = Held {
            renewal: self.take_renewal(),
            leader: Some(leader),
            permit: Some(permit),
        };
        let audience = Audience::of(fallback.is_some() || is_attempt);
        let late = self.config.waiting.falls_back_at(deadline);
        let detached = self.config.may_detach();
        let is_head = self.is_head();
        if is_head {
            self.request.0.method = Method::GET;
        }
        let fill = self.into_fill(flight, held, audience);
        // Boxed: the way of a request is long enough as it is, and its parts are all in one future.
        let answered = if detached {
            let fill = Box::pin(fill.detached(running));
            answered(fallback, late, &shared, audience, fill).await?
        } else {
            drop(running);
            let fill = Box::pin(fill.inline());
            answered(fallback, late, &shared, audience, fill).await?
        };
        Ok(if is_head {
            reply::withheld(answered)
        } else {
            answered
        })
    }

    /// Brings the answer because the leader failed or hangs. Another leader's answer that comes first is taken, and at the
    /// deadline the request is answered: it has waited before. Its call goes on, if it runs in a task of its own.
    async fn attempt(
        self,
        flight: KeyBytes,
        leader: Leader<Answer>,
        follower: Follower<Answer>,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let config = self.config.clone();
        let onlooker = Onlooker {
            config: config.clone(),
            lookup: self.lookup.clone(),
            headers: self.request.0.headers.clone(),
            forward: self.missing.forward,
            follower,
            number: leader.number(),
            is_head: self.is_head(),
        };
        let mut others = pin!(onlooker.response(deadline));
        let mut own = Box::pin(self.lead(flight, leader, true, deadline));
        let mut may_come = true;
        let answered = before(
            deadline,
            poll_fn(|cx| {
                if let Poll::Ready(answered) = own.as_mut().poll(cx) {
                    return Poll::Ready(answered);
                }
                if may_come && let Poll::Ready(response) = others.as_mut().poll(cx) {
                    may_come = false;
                    return response.map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
                Poll::Pending
            }),
        );
        match answered.await {
            Some(answered) => answered,
            None => Ok(reply::unavailable(&config, Reason::WaitTimeout)),
        }
    }

    /// Makes its own call at once, as others do for the same key: its last answer could not be stored. A request for less than the whole
    /// is sent as its client wrote it. If the inner service answers with the whole all the same, the cache makes less of it.
    async fn side_by_side(
        self,
        flight: KeyBytes,
        reason: Reason,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let is_known = self.missing.stale.is_some();
        if !is_known && policy::asks_for_less(&self.request.0.headers) {
            let response = self.pass(reason, deadline).await?;
            let unshaped = Unshaped {
                status: CacheStatus::bypass(reason),
                may_repeat: false,
            };
            return Ok(response.map(|body| body.unshaped_as(unshaped)));
        }
        self.alone(flight, None, deadline).await
    }

    /// Makes its own call, for which nobody waits, and stores the answer if it can be stored.
    async fn alone(
        mut self,
        flight: KeyBytes,
        permit: Option<OwnedSemaphorePermit>,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let shared = self.config.shared.clone();
        let fallback = self.fallback();
        let is_head = self.request.0.method == Method::HEAD;
        let held = Held {
            renewal: (!is_head).then(|| self.take_renewal()).flatten(),
            leader: None,
            permit,
        };
        let late = self.config.waiting.falls_back_at(deadline);
        let audience = Audience::of(fallback.is_some());
        let fill = self.into_fill(flight, held, audience);
        let fill = Box::pin(fill.inline());
        answered(fallback, late, &shared, audience, fill).await
    }

    /// As [`alone`](Self::alone), in a place among the fills, if there is one in time.
    async fn alone_in_its_turn(
        self,
        flight: KeyBytes,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        match self.config.shared.permit(deadline).await {
            Some(permit) => self.alone(flight, Some(permit), deadline).await,
            None => Ok(self.unavailable(Reason::TooManyFills)),
        }
    }

    fn take_renewal(&mut self) -> Option<Renewal> {
        let pause = self.config.waiting.retry_after;
        let stale = self.missing.stale.as_ref();
        let own = || stale.map(|stale| Renewal::of(stale.clone(), pause));
        self.renewal.take().map(Renewal::begin).or_else(own)
    }

    pub(crate) fn into_fill(
        mut self,
        flight: KeyBytes,
        held: Held,
        audience: Audience,
    ) -> Fill<S, ReqB> {
        let is_sealed = self.config.selection.is_sealed();
        let as_asked = is_sealed.then(|| self.request.0.headers.clone());
        self.ask_for_the_whole();
        let parts = &mut self.request.0;
        let is_head = parts.method == Method::HEAD;
        let told_of = self.pinned.clone().filter(|_| is_head);
        let pinned = self.pinned.filter(|_| held.renewal.is_some());
        let asked_for = pinned.filter(|pinned| policy::ask_conditionally(parts, pinned.entry()));
        let mut known_tags = Tags::new();
        let asked = self.origin.map(|origin| {
            known_tags = origin.tags;
            let mut extensions = parts.extensions.clone();
            extensions.remove::<Anew>();
            extensions.remove::<CacheScope>();
            let asked = Asked {
                // What a HEAD has renewed is a GET's.
                method: if is_head {
                    Method::GET
                } else {
                    parts.method.clone()
                },
                uri: parts.uri.clone(),
                version: parts.version,
                extensions,
                body: origin.body,
                reach: self.lookup.reach,
                tags: Tags::new(),
                again: origin.again,
            };
            (asked, origin.keys)
        });
        let keys = self.lookup.keys(&self.config, parts, flight);
        let errand = Errand {
            config: self.config,
            keys,
            identity: self.lookup.identity,
            forward: self.missing.forward,
            audience,
            asked_for,
            is_head,
            told_of,
            asked,
            anew: self.anew,
            is_nested: self.outer.is_some(),
            part: None,
            inherited: Vec::new(),
            inherited_presence: None,
            is_not_modified: false,
            is_post: false,
            known_tags,
            held,
        };
        Fill {
            inner: self.inner,
            request: self.request,
            as_asked,
            errand,
        }
    }

    /// Makes the request one whose answer others may have: nothing is left in it of its requester but what is in the
    /// key, as far as that is sealed.
    fn ask_for_the_whole(&mut self) {
        let parts = &mut self.request.0;
        self.config.selection.show(parts);
        policy::ask_for_the_whole(&mut parts.headers);
    }

    /// Makes its own call if there is a place, and stores nothing: others may be as many as they like, and all of them have
    /// waited as long.
    async fn squeeze(
        self,
        reason: Reason,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        if let Some(stale) = self.fallback().and_then(|fallback| fallback.serve()) {
            return Ok(stale);
        }
        match self.config.shared.try_permit() {
            Some(_permit) => self.pass(reason, deadline).await,
            None => Ok(self.unavailable(reason)),
        }
    }

    fn unavailable(&self, reason: Reason) -> Response<ResponseBody<ResB>> {
        if reason == Reason::TooManyFills {
            self.config.shared.limits.reached(Limit::Fills);
        }
        reply::unavailable(&self.config, reason)
    }

    /// Makes its own call, and stores nothing. The inner service sees no more of the request than it does of others.
    async fn pass(
        self,
        reason: Reason,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let fallback = self.fallback();
        let forward = self.missing.forward;
        let config = self.config;
        let (mut parts, body) = self.request;
        let marks = [
            self.lookup.request_hash(&config),
            config.target_hash(&parts),
            config.all_queries_hash(&parts),
        ];
        config.selection.show(&mut parts);
        let part = self.outer.is_some();
        let part = part.then(|| BypassedPart::begin(&config, &mut parts, marks.into()));
        let call = self.inner.oneshot(Request::from_parts(parts, body));
        let call = bypass::call(part, call);
        let late = config.waiting.falls_back_at(deadline);
        match or_stale(fallback, late, call).await {
            Outcome::Stale(stale) => Ok(stale),
            Outcome::Answered(response) => {
                let response = response?;
                count(&config.shared.counters.bypasses);
                let status = match reason {
                    Reason::RequestNoStore | Reason::Range => {
                        CacheStatus::forwarded(forward, Some(reason))
                    }
                    _ => CacheStatus::bypass(reason),
                };
                Ok(reply::passed(&config, response, status))
            }
        }
    }
}

/// Waits on a flight. If the flight is late, a stale response breaks it off.
///
/// # Cancel safety
///
/// That of [`Follower::wait`].
async fn wait<B>(
    follower: &mut Follower<Answer>,
    fallback: &mut Option<Fallback>,
    deadline: Instant,
) -> ControlFlow<Response<ResponseBody<B>>, Landing<Answer>> {
    loop {
        let landing = follower.wait(deadline, fallback.is_some()).await;
        if !matches!(landing, Landing::Late) {
            return ControlFlow::Continue(landing);
        }
        let stale = fallback.take().and_then(|fallback| fallback.serve_late());
        if let Some(stale) = stale {
            return ControlFlow::Break(stale);
        }
    }
}

/// A follower that has become a leader, and takes another leader's answer if that comes first.
struct Onlooker {
    config: Arc<Config>,
    lookup: Lookup,
    headers: HeaderMap,
    forward: Forward,
    follower: Follower<Answer>,
    number: u32,
    is_head: bool,
}

impl Onlooker {
    /// Another leader's answer, if it is for this request, and no failure.
    async fn response<B>(mut self, deadline: Instant) -> Option<Response<ResponseBody<B>>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let another = self.follower.wait_for_another(self.number, deadline);
        let Answer::Told(told) = another.await? else {
            return None;
        };
        let is_for_it = !told.failed
            && self
                .lookup
                .is_answered_by(&told, &self.config, &self.headers)
            && self.lookup.may_share(&told, &self.config);
        let response = is_for_it.then(|| reply::collapsed(&self.config, &told, self.forward))?;
        Some(if self.is_head {
            reply::withheld(response)
        } else {
            response
        })
    }
}

/// Awaits a fill, and falls back on what is stored.
async fn answered<ResB, E>(
    fallback: Option<Fallback>,
    deadline: Instant,
    shared: &Shared,
    audience: Audience,
    fill: impl Future<Output = Result<Response<ResponseBody<ResB>>, E>>,
) -> Result<Response<ResponseBody<ResB>>, E> {
    match or_stale(fallback, deadline, fill).await {
        Outcome::Stale(stale) => Ok(stale),
        Outcome::Answered(answered) => {
            // The fill has left it to whoever decides which of the two it will be.
            if answered.is_ok() && audience == Audience::FallsBack {
                count(&shared.counters.misses);
            }
            answered
        }
    }
}

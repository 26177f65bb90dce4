//! The long way of a request that is not in the store: it leads, waits, or goes alone.

use std::sync::Arc;

use http::{Request, Response, request};
use http_body::Body;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    clock::deadline_in,
    config::{Config, FillMode},
    error::BoxError,
    fill::Fill,
    flight::{Boarding, Landing, Leader},
    key::KeyBytes,
    lookup::{Found, Hit, Lookup},
    policy,
    recorder::{Errand, Held, Keys},
    reply,
    shared::{Answer, count},
    status::{CacheStatus, Forward, Reason},
    store::Slot,
    tags::scope,
};

/// A request that was looked for and not found.
#[derive(Debug)]
pub(crate) struct Missed<S, ReqB> {
    pub(crate) config: Arc<Config>,
    pub(crate) inner: S,
    pub(crate) request: (request::Parts, ReqB),
    pub(crate) lookup: Lookup,
    pub(crate) forward: Forward,
    /// What is stored under the key, though not for this request.
    pub(crate) stored: Option<Slot>,
}

/// A request waits again once, if what it waited for turned out not to be for it; then it goes alone.
const ROUNDS: usize = 2;

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
        let headers = &self.request.0.headers;
        let mut flight = self.lookup.flight_of(headers, self.stored.as_ref());
        if let Some(reason) = self.config.shared.refusals.get(&flight) {
            return self.side_by_side(flight, reason).await;
        }
        // Code inside a fill may lead, and never waits: so no two can wait for each other.
        let inside_a_fill = scope::inside_a_fill();
        let max_waiters = if inside_a_fill {
            0
        } else {
            self.config.waiting.max_waiters
        };
        let deadline = deadline_in(self.config.waiting.wait_timeout);
        for _ in 0..ROUNDS {
            let boarding = self
                .config
                .shared
                .flights
                .board(&flight, max_waiters, || self.look_again());
            let mut follower = match boarding {
                Boarding::Found(hit) => return Ok(self.hit(&hit)),
                Boarding::Lead(leader) => return self.lead(flight, leader, deadline).await,
                Boarding::Full if inside_a_fill => return self.pass(Reason::Reentrant).await,
                Boarding::Full => return self.pass(Reason::TooManyWaiters).await,
                Boarding::Follow(follower) => follower,
            };
            let landing = follower.wait(deadline).await;
            if let Landing::Answer(Answer::Told(told)) = &landing {
                if !self.lookup.is_answered_by(told, &self.request.0.headers) {
                    let headers = &self.request.0.headers;
                    flight = self.lookup.flight_key(headers, Some(&told.head.vary));
                } else if self.lookup.may_share(told, &self.config) {
                    return Ok(reply::collapsed(&self.config, told, self.forward));
                } else {
                    // It may go on for long: those who come after the purge begin anew.
                    follower.leave_behind();
                }
                continue;
            }
            if matches!(landing, Landing::TimedOut) && self.config.fill_mode == FillMode::Inline {
                // Its leader's client may read for ever: the next one begins anew.
                follower.leave_behind();
            }
            // It waits no more, and must not be counted on.
            drop(follower);
            return match landing {
                Landing::Lead(leader) => self.lead(flight, leader, deadline).await,
                Landing::Answer(_) => self.side_by_side(flight, Reason::NotShared).await,
                Landing::Over => {
                    // The calls before this one failed: not everybody at once.
                    let permit = self.config.shared.permit(deadline).await;
                    self.alone(flight, permit).await
                }
                Landing::TimedOut => self.pass(Reason::WaitTimeout).await,
            };
        }
        self.pass(Reason::NotShared).await
    }

    /// What was stored between the miss and the start of a flight.
    fn look_again(&self) -> Option<Hit> {
        let lookup = Lookup {
            key: self.lookup.key.clone(),
            arrival: self.config.shared.purges.arrive(),
            ..self.lookup
        };
        match lookup.look(&self.config, &self.request.0.headers) {
            Found::Fresh(hit) => Some(hit),
            Found::Nothing(..) => None,
        }
    }

    fn hit(self, hit: &Hit) -> Response<ResponseBody<ResB>> {
        reply::hit(&self.config, hit, self.request.0)
    }

    /// Brings the answer for all who wait. The inner service is asked for the whole: what concerns this requester
    /// alone is not handed on.
    async fn lead(
        self,
        flight: KeyBytes,
        leader: Leader<Answer>,
        deadline: Instant,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let shared = self.config.shared.clone();
        let inside_a_fill = scope::inside_a_fill();
        // Inside a fill, whose own place may be the last one, nobody waits for a place.
        let permit = if inside_a_fill {
            shared.try_permit()
        } else {
            shared.permit(deadline).await
        };
        let Some(permit) = permit else {
            leader.give_up();
            return self.pass(Reason::TooManyFills).await;
        };
        let detached = self.config.fill_mode == FillMode::Detached
            && tokio::runtime::Handle::try_current().is_ok();
        let Some(running) = shared.start_running() else {
            leader.give_up();
            return self.pass(Reason::ShuttingDown).await;
        };
        let held = Held {
            leader: Some(leader),
            permit: Some(permit),
        };
        let fill = self.into_fill(flight, held);
        if detached {
            fill.detached(running).await
        } else {
            drop(running);
            fill.inline().await
        }
    }

    /// Makes its own call at once, as others do for the same key: its last answer could not be stored. Who asks for
    /// less than the whole gets the inner service's own answer.
    async fn side_by_side(
        self,
        flight: KeyBytes,
        reason: Reason,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        if policy::asks_for_less(&self.request.0.headers) {
            return self.pass(reason).await;
        }
        self.alone(flight, None).await
    }

    /// Makes its own call, for which nobody waits, and stores the answer if it can be stored.
    async fn alone(
        self,
        flight: KeyBytes,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let held = Held {
            leader: None,
            permit,
        };
        self.into_fill(flight, held).inline().await
    }

    fn into_fill(mut self, flight: KeyBytes, held: Held) -> Fill<S, ReqB> {
        let is_sealed = self.config.selection.is_sealed();
        let as_asked = is_sealed.then(|| self.request.0.headers.clone());
        self.ask_for_the_whole();
        let request = self.lookup.request_hash(&self.config);
        let keys = Keys {
            key: self.lookup.key,
            request,
            flight,
        };
        let errand = Errand {
            config: self.config,
            keys,
            identity: self.lookup.identity,
            forward: self.forward,
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

    /// Makes its own call, and stores nothing. The inner service sees no more of the request than it does of others.
    async fn pass(self, reason: Reason) -> Result<Response<ResponseBody<ResB>>, S::Error> {
        let (mut parts, body) = self.request;
        self.config.selection.show(&mut parts);
        let response = self.inner.oneshot(Request::from_parts(parts, body)).await?;
        count(&self.config.shared.counters.bypasses);
        Ok(reply::passed(
            &self.config,
            response,
            CacheStatus::bypass(reason),
        ))
    }
}

//! What is stored is fetched anew for those to come, behind what its requester gets, or for nobody in particular.

use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use crate::{
    anew::Anew,
    clock::{before, deadline_in},
    entry::Entry,
    error::BoxError,
    flight::Boarding,
    lookup::Hit,
    recorder::{Audience, Held},
    renewal::Renewal,
    respond::{Missed, ROUNDS},
    shared::count,
};

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
    /// Fetches what is stored anew in the background, unless somebody does already, or as many are at it as may be.
    ///
    /// In a runtime only: see [`Config::may_detach`].
    pub(crate) fn refresh(mut self, renewal: Renewal) {
        self.pin();
        let shared = self.config.shared.clone();
        let headers = &self.request.0.headers;
        let vary = &renewal.entry().head.vary;
        let flight = self.lookup.flight_key(headers, Some(vary));
        let places = (shared.start_running(), shared.try_refresh_permit());
        let (Some(running), Some(permit)) = places else {
            return;
        };
        let boarding = shared.flights.board(&flight, 0, || self.look_again());
        if let Boarding::Lead(leader) = boarding {
            let held = Held {
                renewal: Some(renewal.begin()),
                leader: Some(leader),
                permit: Some(permit),
            };
            count(&shared.counters.refreshes);
            let fill = self.into_fill(flight, held, Audience::Nobody);
            drop(fill.in_background(running));
        }
    }

    /// As [`refresh`](Self::refresh), for one who waits until it is done, and who has a place. Says whether something newer is
    /// stored then. Code inside a fill may wait for nobody else's call.
    ///
    /// # Cancel safety
    ///
    /// Dropped, a call that has begun goes on.
    pub(crate) async fn renew(
        mut self,
        entry: Arc<Entry>,
        place: OwnedSemaphorePermit,
        may_wait: bool,
    ) -> bool {
        let shared = self.config.shared.clone();
        let max_waiters = if may_wait {
            self.config.waiting.max_waiters
        } else {
            0
        };
        let mut deadline = deadline_in(self.config.waiting.fill_timeout);
        self.pin();
        let flight = self.flight();
        for _ in 0..ROUNDS {
            let board = || self.look_again().filter(Hit::is_fresh);
            match shared.flights.board(&flight, max_waiters, board) {
                Boarding::Found(_) => return true,
                Boarding::Full => return false,
                // It may have begun before the purge: then it is no use.
                Boarding::Follow(mut follower) => {
                    follower.wait_for_its_end(deadline).await;
                    deadline = deadline_in(self.config.waiting.fill_timeout);
                }
                Boarding::Lead(leader) => {
                    let Some(running) = shared.start_running() else {
                        return false;
                    };
                    count(&shared.counters.refreshes);
                    let held = Held {
                        renewal: Some(Renewal::of(entry, self.config.waiting.retry_after)),
                        leader: Some(leader),
                        permit: Some(place),
                    };
                    let stored = Anew::new(&shared);
                    let mut fill = self.into_fill(flight, held, Audience::Nobody);
                    fill.errand.anew = Some(stored.clone());
                    // It panics if the inner service does: what is stored is kept.
                    let fill = fill.in_background(running);
                    // Who reads along may do so for long.
                    let _ = before(deadline, fill).await;
                    return stored.is_stored();
                }
            }
        }
        false
    }
}

//! The one call to the inner service: made, judged, recorded, published.

use std::{
    future::{pending, poll_fn},
    panic::resume_unwind,
    pin::{Pin, pin},
    sync::atomic::Ordering,
    task::Poll,
};

use http::{HeaderMap, Request, Response, request};
use http_body::{Body, Frame};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tower_service::Service;

use crate::{
    body::{ResponseBody, to_bytes},
    caught::{Panic, caught},
    clock::{before, deadline_in},
    conclude::{Called, Concluded, Sent},
    error::{BodyError, BoxError},
    flight::Leader,
    mutant::Mutant,
    recorder::{Errand, Held, Record, Recorder},
    shared::Running,
    tags::{CacheScope, Tags, scope},
};

/// A call of the inner service whose answer may be stored.
#[derive(Debug)]
pub(crate) struct Fill<S, ReqB> {
    pub(crate) inner: S,
    pub(crate) request: (request::Parts, ReqB),
    /// The request's headers before a seal took some of them away.
    pub(crate) as_asked: Option<HeaderMap>,
    pub(crate) errand: Errand,
}

type Answered<B, E> = Result<Response<ResponseBody<B>>, E>;

impl<S, ReqB, ResB> Fill<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    /// Runs in a task of its own, and returns the response as soon as its head is known.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the fill goes on to its end, and stores what it can.
    ///
    /// # Panics
    ///
    /// If the inner service panics, with the same payload; and if the runtime shuts down before it has answered.
    pub(crate) async fn detached(self, running: Running) -> Answered<ResB, S::Error> {
        let (reply, replied) = oneshot::channel();
        let scope = CacheScope::recording();
        // The user's own code on the request runs in the request's task, as it would without a cache.
        let sent = send(self.request, self.as_asked, &scope, &self.errand);
        let fill = run(self.inner, sent, self.errand, scope.clone(), reply);
        let task = scope::CURRENT.scope(scope, async move {
            fill.await;
            drop(running);
        });
        #[cfg(feature = "tracing")]
        let task = tracing::Instrument::in_current_span(task);
        tokio::spawn(task);
        match replied.await {
            Ok(Ok(answered)) => answered,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => panic!("the runtime shut down before the inner service answered"),
        }
    }

    /// Runs in a task of its own, with nobody to answer: a stored response is fetched anew.
    pub(crate) fn in_background(self, running: Running) -> JoinHandle<()> {
        let (reply, _) = oneshot::channel();
        let scope = CacheScope::recording();
        let fill = scope::CURRENT.scope(scope.clone(), async move {
            let sent = send(self.request, self.as_asked, &scope, &self.errand);
            run(self.inner, sent, self.errand, scope, reply).await;
            drop(running);
        });
        #[cfg(feature = "tracing")]
        let fill = tracing::Instrument::in_current_span(fill);
        tokio::spawn(fill)
    }

    /// Runs in the task of its requester, which records the body as it reads it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the call is dropped too, and one of those who wait takes the lead.
    ///
    /// # Panics
    ///
    /// If the inner service panics, with the same payload.
    pub(crate) async fn inline(self) -> Answered<ResB, S::Error> {
        let mut errand = self.errand;
        if let Some(renewal) = &mut errand.held.renewal {
            renewal.is_one_requesters();
        }
        let scope = CacheScope::recording();
        let (asked, request) = send(self.request, self.as_asked, &scope, &errand);
        let call = call(self.inner, request, &errand);
        let call = scope::CURRENT.scope(scope.clone(), call);
        let deadline = deadline_in(errand.config.waiting.fill_timeout);
        let Some(called) = errand.held.answer(call, deadline, pending()).await else {
            unreachable!("a requester that has left does not poll")
        };
        match errand.conclude(called, asked, scope.clone()) {
            Concluded::Passed(response) => Ok(response),
            Concluded::Recorded {
                head,
                mut recorder,
                body,
            } => {
                recorder.give_up_place();
                Ok(head.map(|()| ResponseBody::recorded(body, recorder, scope)))
            }
            Concluded::Failed(error) => Err(error),
            Concluded::Panicked(panic) => resume_unwind(panic),
        }
    }
}

/// What a fill in a task of its own tells its requester.
type Reply<B, E> = oneshot::Sender<Result<Answered<B, E>, Panic>>;

/// # Cancel safety
///
/// Dropped (its runtime shuts down), it leaves the lead to one of those who wait, and breaks off those who read along.
async fn run<S, ReqB, ResB>(
    inner: S,
    (asked, request): (Sent, Request<ReqB>),
    mut errand: Errand,
    scope: CacheScope,
    mut reply: Reply<ResB, S::Error>,
) where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body,
    ResB::Error: Into<BoxError>,
{
    let deadline = deadline_in(errand.config.waiting.fill_timeout);
    let call = call(inner, request, &errand);
    let Some(called) = errand.held.answer(call, deadline, reply.closed()).await else {
        return;
    };
    match errand.conclude(called, asked, scope) {
        Concluded::Passed(response) => drop(reply.send(Ok(Ok(response)))),
        Concluded::Recorded {
            head,
            mut recorder,
            body,
        } => {
            recorder.let_read_along();
            let (rest, rest_of_body) = oneshot::channel();
            let reader = recorder.recording().reader();
            let response = head.map(|()| ResponseBody::led(reader, rest_of_body));
            if body.is_end_stream() {
                // Its requester is told at once, as it would be without a cache.
                recorder.finish(None);
                drop(reply.send(Ok(Ok(response))));
            } else {
                drop(reply.send(Ok(Ok(response))));
                record(recorder, body, rest, deadline).await;
            }
        }
        Concluded::Failed(error) => drop(reply.send(Ok(Err(error)))),
        Concluded::Panicked(panic) => drop(reply.send(Err(panic))),
    }
}

/// The request as the inner service gets it, with the scope in its extensions.
fn send<ReqB>(
    request: (request::Parts, ReqB),
    as_asked: Option<HeaderMap>,
    scope: &CacheScope,
    errand: &Errand,
) -> (Sent, Request<ReqB>) {
    let (mut parts, body) = request;
    let mut tags = errand.known_tags.clone();
    if let Some(make) = &errand.config.policy.request_tags {
        let made = make(&parts).into_iter();
        let more: Tags = made
            .filter(|tag| !tags.iter().any(|known| known == tag))
            .collect();
        tags.extend(more);
    }
    let headers = parts.headers.clone();
    let heeds_groups = errand.config.policy.cache_groups;
    let origin = heeds_groups.then(|| errand.config.origin(&parts)).flatten();
    parts.extensions.insert(scope.clone());
    let asked = Sent {
        at: Instant::now(),
        headers,
        as_asked,
        tags,
        origin,
    };
    (asked, Request::from_parts(parts, body))
}

impl Held {
    /// Awaits the call, and says whether it was in time. From the deadline on, nobody else waits for it. `None` if its
    /// requester left after that.
    async fn answer<F: Future>(
        &mut self,
        call: F,
        deadline: Instant,
        requester_left: impl Future<Output = ()>,
    ) -> Option<(Result<F::Output, Panic>, bool)> {
        let mut call = pin!(caught(call));
        if let Some(called) = before(deadline, call.as_mut()).await {
            return Some((called, true));
        }
        self.permit = None;
        self.put_off();
        self.leader.take().into_iter().for_each(Leader::give_up);
        Some((unless(requester_left, call).await?, false))
    }
}

/// Readies and calls the inner service. The birth is taken before the call: whatever was purged until then, the handler sees.
fn call<S, ReqB, ResB>(
    mut inner: S,
    request: Request<ReqB>,
    errand: &Errand,
) -> impl Future<Output = Called<ResB, S::Error>> + use<S, ReqB, ResB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
{
    let config = errand.config.clone();
    let told = errand.held.leader.as_ref().and_then(Leader::born);
    async move {
        poll_fn(|cx| inner.poll_ready(cx)).await?;
        let mut in_flight = config.shared.bear();
        if let Some(told) = told {
            told.store(in_flight.born(), Ordering::Release);
        }
        let response = inner.call(request).await?;
        if config.shared.purges.mutants.has(Mutant::StampAfterHandler) {
            in_flight = config.shared.bear();
        }
        Ok((in_flight, response))
    }
}

/// Reads the body to its end, at the inner service's pace. What cannot be recorded goes on to the requester as it is.
async fn record<B>(
    mut recorder: Box<Recorder>,
    body: B,
    rest: oneshot::Sender<Pin<Box<B>>>,
    deadline: Instant,
) where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut body = Box::pin(body);
    let recording = recorder.recording().clone();
    let mut in_time = true;
    loop {
        // A body that always has a frame, however small, leaves the thread to others now and then.
        tokio::task::coop::consume_budget().await;
        let next = caught(poll_fn(|cx| body.as_mut().poll_frame(cx)));
        let polled = if in_time {
            before(deadline, next).await
        } else {
            match unless(recording.unread(), next).await {
                Some(polled) => Some(polled),
                None => return,
            }
        };
        let Some(polled) = polled else {
            in_time = false;
            recorder.overdue();
            if !recorder.is_read_along() {
                drop(rest.send(body));
                return recorder.hand_over();
            }
            continue;
        };
        let frame = match polled {
            Ok(Some(Ok(frame))) => to_bytes(frame),
            Ok(Some(Err(error))) => return recorder.broken(BodyError::inner(error)),
            Ok(None) => return recorder.finish(None),
            Err(_) => return recorder.broken(BodyError::panicked()),
        };
        match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => {
                let is_last = body.is_end_stream();
                match recorder.data(&data, is_last) {
                    Record::On if is_last => return recorder.finish(None),
                    Record::On => {}
                    Record::Stop => {
                        drop(rest.send(body));
                        return recorder.hand_over();
                    }
                }
            }
            Err(Ok(trailers)) => return recorder.finish(Some(trailers)),
            Err(Err(_)) => {}
        }
    }
}

/// Reads a body that its requester would record, to its end or until the deadline: what is answered with less than all of it is stored
/// all the same. The body that is returned has all that was read, and goes on with the rest.
///
/// # Cancel safety
///
/// Dropped, it leaves as its requester would: nothing is stored, and one of those who wait takes the lead.
pub(crate) async fn read_ahead<B>(
    body: B,
    recorder: Box<Recorder>,
    scope: CacheScope,
    deadline: Instant,
) -> ResponseBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let reader = recorder.recording().reader();
    let (rest, rest_of_body) = oneshot::channel();
    // Code in the body belongs to the fill, as the handler did.
    let record = record(recorder, body, rest, deadline);
    scope::CURRENT.scope(scope, record).await;
    ResponseBody::led(reader, rest_of_body)
}

/// The future's output, or `None` if this happens first.
async fn unless<F: Future>(happens: impl Future<Output = ()>, future: F) -> Option<F::Output> {
    let (mut future, mut happens) = (pin!(future), pin!(happens));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => happens.as_mut().poll(cx).map(|()| None),
    })
    .await
}

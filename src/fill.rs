//! The one call to the inner service: made, judged, recorded, published.

use std::{
    future::{pending, poll_fn},
    panic::resume_unwind,
    pin::{Pin, pin},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request};
use http_body::{Body, Frame};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tower_service::Service;

use crate::{
    body::{ResponseBody, Rest, to_bytes},
    caught::{Panic, catch, caught},
    clock::{before, deadline_in, unless},
    conclude::{Called, Concluded, Sent},
    error::{BodyError, BoxError},
    flight::Leader,
    key,
    mutant::Mutant,
    recorder::{Errand, Held, Record, Recorder},
    recording::Window,
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
    // What of the application's own code runs here and panics is its requester's panic, as a handler's is.
    let concluded = catch(|| errand.conclude(called, asked, scope));
    match concluded.unwrap_or_else(Concluded::Panicked) {
        Concluded::Passed(response) => drop(reply.send(Ok(Ok(response)))),
        Concluded::Recorded {
            head,
            mut recorder,
            body,
        } => {
            recorder.allow_read_along();
            let (rest, rest_of_body) = oneshot::channel();
            let reader = recorder.recording().requesters_reader();
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
    let uri = key::as_sent(&parts).clone();
    parts.extensions.insert(scope.clone());
    let asked = Sent {
        at: Instant::now(),
        headers,
        as_asked,
        tags,
        origin,
        uri,
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
        // One follower takes the lead, if nobody else leads.
        self.leader.iter_mut().for_each(Leader::withdraw);
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
    let leader = errand.held.leader.as_ref();
    leader
        .iter()
        .for_each(|leader| leader.set_out(config.waiting.leader_timeout));
    let tell = leader.map(Leader::teller);
    let targets = errand.targets();
    async move {
        poll_fn(|cx| inner.poll_ready(cx)).await?;
        let mut in_flight = config.shared.bear_for(&targets);
        if let Some(tell) = tell {
            tell(in_flight.born());
        }
        let response = inner.call(request).await?;
        if config.shared.purges.mutants.has(Mutant::StampAfterHandler) {
            in_flight = config.shared.bear_for(&targets);
        }
        Ok((in_flight, response))
    }
}

/// Reads the body to its end, at the inner service's pace. What is not recorded goes on to those who read it.
///
/// # Cancel safety
///
/// Dropped (its runtime shuts down), it breaks off the bodies of all who read.
async fn record<B>(
    mut recorder: Box<Recorder>,
    body: B,
    rest: oneshot::Sender<Rest<B>>,
    deadline: Instant,
) where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut body = Box::pin(body);
    if recorder.is_out_of_budget() {
        return stop(recorder, None, body, rest).await;
    }
    let (mut patience, mut until) = (None, deadline);
    loop {
        if recorder.patience() != patience {
            patience = recorder.patience();
            until = patience.map_or(deadline, |patience| deadline.min(deadline_in(patience)));
        }
        // A body that always has a frame, however small, leaves the thread to others now and then.
        tokio::task::coop::consume_budget().await;
        let next = telling(next_of(&mut body), || recorder.let_read_along());
        let Some(next) = before(until, next).await else {
            if until < deadline {
                recorder.is_a_stream();
                return stop(recorder, None, body, rest).await;
            }
            recorder.overdue();
            return stop(recorder, None, body, rest).await;
        };
        match next {
            Next::Data(data) => {
                let is_last = body.is_end_stream();
                match recorder.data(data, is_last) {
                    Record::On if is_last => return recorder.finish(None),
                    Record::On => {}
                    Record::Stop(data) => return stop(recorder, Some(data), body, rest).await,
                }
            }
            Next::End(trailers) => return recorder.finish(trailers),
            Next::Broken(error) => return recorder.broken(error),
            Next::Unknown => {}
        }
    }
}

/// Ends the recording, and hands the body on: to its requester as it is, or to all who read it through a window. `data` were taken from it
/// and not recorded.
async fn stop<B>(
    recorder: Box<Recorder>,
    data: Option<Bytes>,
    body: Pin<Box<B>>,
    rest: oneshot::Sender<Rest<B>>,
) where
    B: Body,
    B::Error: Into<BoxError>,
{
    match recorder.stop() {
        Some(window) => pass_on(window, data, body).await,
        None => drop(rest.send(Rest { data, body })),
    }
}

/// Passes the rest of a body on to all who read it, at the pace of the slowest. When nobody reads any more, the body is dropped.
///
/// # Cancel safety
///
/// Dropped (its runtime shuts down), it breaks off the bodies of all who read.
async fn pass_on<B>(window: Window, data: Option<Bytes>, mut body: Pin<Box<B>>)
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut taken = data.map(Next::Data);
    loop {
        tokio::task::coop::consume_budget().await;
        let next = match taken.take() {
            Some(taken) => taken,
            None if !window.room().await => return,
            None => match unless(window.unread(), next_of(&mut body)).await {
                Some(next) => next,
                None => return,
            },
        };
        match next {
            Next::Data(data) => {
                let is_last = body.is_end_stream();
                window.data(data, is_last);
                if is_last {
                    return window.finish(None);
                }
            }
            Next::End(trailers) => return window.finish(trailers),
            Next::Broken(error) => return window.broken(error),
            Next::Unknown => {}
        }
    }
}

/// What comes next in a body.
enum Next {
    Data(Bytes),
    End(Option<HeaderMap>),
    Broken(BodyError),
    /// A frame of a kind that is not known.
    Unknown,
}

async fn next_of<B>(body: &mut Pin<Box<B>>) -> Next
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let frame = match caught(poll_fn(|cx| body.as_mut().poll_frame(cx))).await {
        Ok(Some(Ok(frame))) => to_bytes(frame),
        Ok(Some(Err(error))) => return Next::Broken(BodyError::inner(error)),
        Ok(None) => return Next::End(None),
        Err(_) => return Next::Broken(BodyError::panicked()),
    };
    match frame.into_data().map_err(Frame::into_trailers) {
        Ok(data) => Next::Data(data),
        Err(Ok(trailers)) => Next::End(Some(trailers)),
        Err(Err(_)) => Next::Unknown,
    }
}

/// The future's output. Whenever it is not ready, that is told.
async fn telling<F: Future>(future: F, mut waits: impl FnMut()) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            waits();
        }
        polled
    })
    .await
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
    let reader = recorder.recording().requesters_reader();
    let (rest, rest_of_body) = oneshot::channel();
    // Code in the body belongs to the fill, as the handler did.
    let record = record(recorder, body, rest, deadline);
    scope::CURRENT.scope(scope, record).await;
    ResponseBody::led(reader, rest_of_body)
}

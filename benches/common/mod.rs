//! What the benches share: cases that take turns in one run, a batch each, so that what disturbs the machine disturbs all
//! alike. Requests are made before the clock starts; responses are dropped while it runs.

mod counting;

use std::{
    hint::black_box,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::Service;

use counting::allocations;

pub(crate) type Body = Full<Bytes>;

const BATCH: usize = 500;

/// Something to measure: makes a batch of requests, and answers them.
pub(crate) struct Case<'a> {
    pub(crate) name: &'static str,
    pub(crate) batch: usize,
    make: Box<dyn FnMut() -> Request<Body> + 'a>,
    answer: Box<dyn FnMut(Request<Body>) + 'a>,
    times: Vec<Duration>,
    allocations: u64,
}

impl<'a> Case<'a> {
    pub(crate) fn new(
        name: &'static str,
        make: impl FnMut() -> Request<Body> + 'a,
        answer: impl FnMut(Request<Body>) + 'a,
    ) -> Self {
        Self {
            name,
            batch: BATCH,
            make: Box::new(make),
            answer: Box::new(answer),
            times: Vec::new(),
            allocations: 0,
        }
    }

    fn run(&mut self, counts: bool) {
        let requests: Vec<_> = (0..self.batch).map(|_| (self.make)()).collect();
        let before = allocations();
        let start = Instant::now();
        for request in requests {
            (self.answer)(request);
        }
        let elapsed = start.elapsed();
        if counts {
            self.allocations += allocations() - before;
            self.times.push(elapsed);
        }
    }

    /// Nanoseconds a request.
    pub(crate) fn median(&mut self) -> f64 {
        self.times.sort_unstable();
        self.times[self.times.len() / 2].as_nanos() as f64 / self.batch as f64
    }

    /// How often a request asks for memory.
    pub(crate) fn allocations(&self) -> f64 {
        self.allocations as f64 / (self.times.len() * self.batch) as f64
    }
}

/// A runtime on the thread of the bench.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Lets the cases take turns: 60 rounds, or one where they are only tried (`cargo test`).
pub(crate) fn run(cases: &mut [Case<'_>]) {
    const WARM_UP: usize = 3;
    let measured = std::env::args().any(|arg| arg == "--bench");
    let rounds = if measured { 60 } else { 1 };
    for round in 0..WARM_UP + rounds {
        cases.iter_mut().for_each(|case| case.run(round >= WARM_UP));
    }
}

/// Calls a service whose future is ready at once.
pub(crate) fn ready<S, B>(mut service: S) -> impl FnMut(Request<B>)
where
    S: Service<Request<B>>,
{
    move |request| {
        let mut future = std::pin::pin!(service.call(request));
        let mut cx = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(response)) => drop(black_box(response)),
            _ => panic!("it was to be ready at once"),
        }
    }
}

//! What is made on the stack. One test, so that nobody else's allocations are counted.

#[path = "../benches/common/counting.rs"]
mod counting;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Waker},
};

use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Empty;
use tower::{Layer, Service};
use tower_response_cache::CacheLayer;

type Body = Empty<bytes::Bytes>;

#[derive(Clone)]
struct Origin;

impl Service<Request<Body>> for Origin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(Response::new(Body::new())))
    }
}

/// A GET whose method, host, path and query are this long together.
fn get(bytes: usize) -> Request<Body> {
    let host = "shop.example";
    let query = "?page=1&sort=price";
    let path = "/a".repeat(200);
    let path = &path[..bytes - "GET".len() - host.len() - (query.len() - 1)];
    let mut request = Request::new(Body::new());
    *request.uri_mut() = format!("{path}{query}").parse().expect("a target");
    let host = HeaderValue::from_static(host);
    request.headers_mut().insert(header::HOST, host);
    request
}

/// How often memory is asked for on the way of this request.
fn allocations(service: &mut impl Service<Request<Body>>, request: Request<Body>) -> u64 {
    let before = counting::allocations();
    let mut answered = std::pin::pin!(service.call(request));
    let answer = answered
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(answer.is_ready());
    counting::allocations() - before
}

#[test]
fn the_key_of_a_request_of_235_bytes_takes_no_memory() {
    let by_method = |bytes| {
        let mut request = get(bytes);
        *request.method_mut() = Method::OPTIONS;
        request
    };
    for (bytes, is_on_the_stack) in [(60, true), (235, true), (400, false)] {
        // The path may just be in a key, which is longer than it may be: what was asked for until then was for the key.
        let layer = CacheLayer::builder().max_key_bytes(get(bytes).uri().path().len());
        let layer = layer.status_header(false).status_extension(false).build();
        let mut service = layer.layer(Origin);
        let without = allocations(&mut service, by_method(bytes));
        let with = allocations(&mut service, get(bytes));
        assert_eq!(
            with == without,
            is_on_the_stack,
            "{bytes} bytes: {with}, {without}"
        );
    }
}

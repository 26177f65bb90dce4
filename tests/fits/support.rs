//! What the tests ask with.

use std::{fmt::Debug, future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::HeaderName};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tower::{Service, ServiceExt};
use tower_response_cache::CacheLayer;

pub(crate) fn cache() -> CacheLayer {
    CacheLayer::new(Duration::from_secs(60))
}

pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    let limit = Duration::from_secs(10);
    timeout(limit, future).await.expect("this takes too long")
}

/// What came back, in full.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of<B>(response: Response<B>) -> Self
    where
        B: Body<Error: Debug>,
    {
        let (head, body) = response.into_parts();
        let body = in_time(body.collect()).await.unwrap().to_bytes();
        let status = head.status.as_u16();
        let headers = head.headers;
        Self {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let name: HeaderName = name.parse().unwrap();
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// By what the cache nearest to the client says, which is the last in the list (RFC 9211 §2).
    pub(crate) fn is_hit(&self) -> bool {
        let statuses = self.headers.get_all("cache-status");
        let last = statuses.iter().next_back().unwrap();
        last.to_str().unwrap().contains("; hit")
    }
}

pub(crate) async fn ask<S, ReqB, ResB>(service: &S, request: Request<ReqB>) -> Answer
where
    S: Service<Request<ReqB>, Response = Response<ResB>, Error: Debug> + Clone,
    ResB: Body<Error: Debug>,
{
    let response = in_time(service.clone().oneshot(request)).await;
    Answer::of(response.unwrap()).await
}

/// Asks twice. The second answer is a hit, and the same as the first, which is returned.
pub(crate) async fn hits_at_the_second<S, ReqB, ResB>(
    service: &S,
    request: impl Fn() -> Request<ReqB>,
) -> Answer
where
    S: Service<Request<ReqB>, Response = Response<ResB>, Error: Debug> + Clone,
    ResB: Body<Error: Debug>,
{
    let first = ask(service, request()).await;
    let second = ask(service, request()).await;
    assert_eq!((first.status, first.is_hit()), (200, false), "{first:?}");
    assert_eq!((second.status, second.is_hit()), (200, true), "{second:?}");
    assert_eq!(first.body, second.body);
    first
}

pub(crate) fn get<B: Default>(uri: impl AsRef<str>) -> Request<B> {
    Request::get(uri.as_ref()).body(B::default()).unwrap()
}

/// A client over a socket, without a cache.
pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A server on a loopback socket, stopped when this is dropped.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Serving {
    pub(crate) async fn start<F>(serve: impl FnOnce(TcpListener) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener));
        Self { address, task }
    }

    pub(crate) async fn router(router: axum::Router) -> Self {
        Self::start(|listener| async { axum::serve(listener, router).await.unwrap() }).await
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! On tonic's servers and channels. The service is written as the generated code would look.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::uri::PathAndQuery;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    client::{self, GrpcService},
    metadata::MetadataMap,
    server::{self, NamedService},
    service::InterceptorLayer,
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_http::trace::TraceLayer;
use tower_response_cache::{BodyCacheLayer, CacheHandle, CacheLayer, Key, ReplayBody, Tag, scope};

use crate::support::{Serving, cache, in_time};

#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, Default)]
struct Greeter {
    calls: Arc<AtomicU64>,
}

impl Greeter {
    async fn greet(self, request: Request<Question>) -> Result<Response<Reply>, Status> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        scope::tag("greetings");
        match request.into_inner().text.as_str() {
            "nobody" => Err(Status::not_found("there is nobody")),
            name => Ok(Response::new(Reply {
                text: format!("hello {name}, call {call}"),
            })),
        }
    }
}

impl NamedService for Greeter {
    const NAME: &'static str = "fits.Greeter";
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let greeter = self.clone();
        let mut grpc = server::Grpc::new(ProstCodec::<Reply, Question>::default());
        let greet = service_fn(move |request| greeter.clone().greet(request));
        Box::pin(async move { Ok(grpc.unary(greet, request).await) })
    }
}

fn by_message() -> BodyCacheLayer {
    CacheLayer::builder()
        .key(Key::grpc(64 * 1024).all_methods())
        .ttl(Duration::from_secs(60))
        .build()
}

async fn channel(server: &Serving) -> Channel {
    let endpoint = Endpoint::from_shared(server.uri("")).unwrap();
    in_time(endpoint.connect()).await.unwrap()
}

async fn uncached() -> Serving {
    Serving::start(|listener| async {
        let server = Server::builder().add_service(Greeter::default());
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    })
    .await
}

/// Greets over this channel: the reply's text, and whether it was a hit.
async fn greet<T>(channel: &T, name: &str) -> Result<(String, bool), Status>
where
    T: GrpcService<Body> + Clone,
    T::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    // A call on a channel has no authority of its own, and bypasses the cache without one.
    let origin = http::Uri::from_static("http://shop.example");
    let mut grpc = client::Grpc::with_origin(channel.clone(), origin);
    in_time(grpc.ready())
        .await
        .map_err(|_| Status::unavailable("not ready"))?;
    let path = PathAndQuery::from_static("/fits.Greeter/Greet");
    let question = Request::new(Question {
        text: name.to_owned(),
    });
    let codec = ProstCodec::<Question, Reply>::default();
    let reply = in_time(grpc.unary(question, path, codec)).await?;
    let hit = is_hit(reply.metadata());
    Ok((reply.into_inner().text, hit))
}

fn is_hit(metadata: &MetadataMap) -> bool {
    metadata
        .get("cache-status")
        .unwrap()
        .to_str()
        .unwrap()
        .contains("; hit")
}

/// Each message has an answer of its own, a failure none, and a purge is seen.
async fn it_answers_greetings<T>(channel: &T, handle: &CacheHandle)
where
    T: GrpcService<Body> + Clone,
    T::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    let greeting = |text: &str, hit| (text.to_owned(), hit);
    assert_eq!(
        greet(channel, "Ann").await.unwrap(),
        greeting("hello Ann, call 1", false)
    );
    assert_eq!(
        greet(channel, "Ann").await.unwrap(),
        greeting("hello Ann, call 1", true)
    );
    assert_eq!(
        greet(channel, "Bob").await.unwrap(),
        greeting("hello Bob, call 2", false)
    );
    assert_eq!(
        greet(channel, "Bob").await.unwrap(),
        greeting("hello Bob, call 2", true)
    );
    for _ in 3..5 {
        assert_eq!(
            greet(channel, "nobody").await.unwrap_err().code(),
            Code::NotFound
        );
    }
    let _ = handle.purge_all().await.unwrap();
    assert_eq!(
        greet(channel, "Ann").await.unwrap(),
        greeting("hello Ann, call 5", false)
    );
    assert_eq!(
        greet(channel, "Ann").await.unwrap(),
        greeting("hello Ann, call 5", true)
    );
}

#[tokio::test]
async fn it_stands_on_a_server() {
    let cache = by_message();
    let handle = cache.handle();
    let server = Serving::start(|listener| async {
        let server = Server::builder()
            .layer(cache)
            .add_service(Greeter::default());
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    })
    .await;
    let channel = channel(&server).await;
    it_answers_greetings(&channel, &handle).await;

    assert!(greet(&channel, "Ann").await.unwrap().1);
    let _ = handle.purge(Tag::new("greetings")).await.unwrap();
    assert!(!greet(&channel, "Ann").await.unwrap().1);
}

#[tokio::test]
async fn it_stands_between_the_layers_of_a_server() {
    let cache = by_message();
    let handle = cache.handle();
    let layers = ServiceBuilder::new()
        .layer(TraceLayer::new_for_grpc())
        .layer(cache)
        .layer(InterceptorLayer::new(Ok))
        .into_inner();
    let server = Serving::start(|listener| async {
        let server = Server::builder()
            .layer(layers)
            .add_service(Greeter::default());
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    })
    .await;
    it_answers_greetings(&channel(&server).await, &handle).await;
}

#[tokio::test]
async fn it_stands_on_a_channel() {
    let server = uncached().await;
    let cache = by_message();
    // A channel takes tonic's own body and no other, so that the replayed one has to become one again.
    let own_body = |request: http::Request<ReplayBody<Body>>| request.map(Body::new);
    let channel = ServiceBuilder::new()
        .layer(cache.clone())
        .map_request(own_body)
        .service(channel(&server).await);
    it_answers_greetings(&channel, &cache.handle()).await;
}

#[tokio::test]
async fn without_a_key_of_the_message_calls_pass_by() {
    let server = uncached().await;
    let channel = cache().layer(channel(&server).await);
    assert_eq!(greet(&channel, "Ann").await.unwrap().0, "hello Ann, call 1");
    assert_eq!(greet(&channel, "Ann").await.unwrap().0, "hello Ann, call 2");
}

/// What an interceptor outside the cache makes of metadata.
#[derive(Debug, Clone)]
struct User;

fn authenticate(mut request: Request<()>) -> Result<Request<()>, Status> {
    if request.metadata().contains_key("x-user-name") {
        request.extensions_mut().insert(User);
    }
    Ok(request)
}

/// As [`greet`], with a name in the metadata: what the cache says.
async fn greet_as(channel: &Channel, user: Option<&str>) -> String {
    let mut grpc = client::Grpc::new(channel.clone());
    in_time(grpc.ready()).await.unwrap();
    let path = PathAndQuery::from_static("/fits.Greeter/Greet");
    let mut question = Request::new(Question {
        text: "Ann".to_owned(),
    });
    if let Some(user) = user {
        let user = user.parse().unwrap();
        question.metadata_mut().insert("x-user-name", user);
    }
    let codec = ProstCodec::<Question, Reply>::default();
    let reply = in_time(grpc.unary(question, path, codec)).await.unwrap();
    let status = reply.metadata().get("cache-status").unwrap();
    status.to_str().unwrap().to_owned()
}

// Invariant 15.
#[tokio::test]
async fn a_sealed_call_is_a_hit_without_a_user_and_bypasses_with_one() {
    let cache = CacheLayer::builder().key(Key::grpc(64 * 1024).all_methods().seal());
    let layers = ServiceBuilder::new()
        .layer(InterceptorLayer::new(authenticate))
        .layer(cache.build())
        .into_inner();
    let server = Serving::start(|listener| async {
        let server = Server::builder()
            .layer(layers)
            .add_service(Greeter::default());
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    })
    .await;
    let channel = channel(&server).await;
    assert!(greet_as(&channel, None).await.ends_with("; stored"));
    assert!(greet_as(&channel, None).await.contains("; hit"));
    for _ in 0..2 {
        let status = greet_as(&channel, Some("ann")).await;
        assert!(status.ends_with("detail=unknown-extension"), "{status}");
    }
    assert!(greet_as(&channel, None).await.contains("; hit"));
}

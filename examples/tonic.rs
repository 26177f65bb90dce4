//! Unary gRPC calls, cached by method and message. The service is written by hand, as the generated code would look,
//! so that it builds without `protoc`:
//!
//! ```proto
//! package shop;
//! service Catalogue { rpc Find (Query) returns (Product); }
//! message Query { uint64 id = 1; }
//! message Product { string name = 1; uint64 price = 2; }
//! ```
//!
//! `cargo run --example tonic`, and in another terminal the same binary as a client, which makes a call twice:
//!
//! ```text
//! $ cargo run --example tonic -- --client 127.0.0.1:3000
//! Product { name: "Product 7", price: 700 } after 204 ms: tower-response-cache; fwd=uri-miss; stored
//! Product { name: "Product 7", price: 700 } after 1 ms: tower-response-cache; hit; ttl=59
//! ```

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::uri::PathAndQuery;
use tokio::{net::TcpListener, signal, time::sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, body::Body, client, metadata::MetadataValue, server,
    server::NamedService, transport::Endpoint, transport::Server,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};
use tower_response_cache::{CacheLayer, Key, TagFamily, scope};

const FIND: &str = "/shop.Catalogue/Find";
const PRODUCT: TagFamily<u64> = TagFamily::new("product");

#[derive(Clone, PartialEq, prost::Message)]
struct Query {
    #[prost(uint64, tag = "1")]
    id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Product {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    price: u64,
}

/// A slow query. What it finds is purged by `handle.purge(PRODUCT.tag(id))`; "not found" is not stored.
async fn find(query: Request<Query>) -> Result<Response<Product>, Status> {
    let id = query.into_inner().id;
    scope::tag(PRODUCT.tag(id));
    sleep(Duration::from_millis(200)).await;
    let price = (1..=30).contains(&id).then(|| id * 100);
    let price = price.ok_or_else(|| Status::not_found(format!("there is no product {id}")))?;
    Ok(Response::new(Product {
        name: format!("Product {id}"),
        price,
    }))
}

#[derive(Clone)]
struct Catalogue;

impl NamedService for Catalogue {
    const NAME: &'static str = "shop.Catalogue";
}

impl Service<http::Request<Body>> for Catalogue {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != FIND {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            let mut grpc = server::Grpc::new(ProstCodec::<Product, Query>::default());
            Ok(grpc.unary(service_fn(find), request).await)
        })
    }
}

/// Only methods that were chosen are cached.
async fn serve(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let cache = CacheLayer::builder()
        .key(Key::grpc(64 * 1024).methods([FIND]))
        .ttl(Duration::from_secs(60))
        .build();
    let handle = cache.handle();
    let stop = async { signal::ctrl_c().await.unwrap_or_default() };
    let server = Server::builder().layer(cache).add_service(Catalogue);
    server
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
        .await?;
    handle.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

async fn call_twice(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let mut client = client::Grpc::new(channel);
    for _ in 0..2 {
        let began = Instant::now();
        client.ready().await?;
        let codec = ProstCodec::<Query, Product>::default();
        let answer = client
            .unary(
                Request::new(Query { id: 7 }),
                PathAndQuery::from_static(FIND),
                codec,
            )
            .await?;
        let elapsed = began.elapsed().as_millis();
        let status = answer.metadata().get("cache-status").cloned();
        let status = status.unwrap_or_else(|| MetadataValue::from_static("no cache-status"));
        println!(
            "{:?} after {elapsed} ms: {}",
            answer.get_ref(),
            status.to_str()?
        );
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => serve("127.0.0.1:3000").await,
        [option, address] if option == "--listen" => serve(address).await,
        [option, address] if option == "--client" => call_twice(address).await,
        _ => {
            eprintln!(
                "cannot read {arguments:?}\nusage: tonic [--listen HOST:PORT | --client HOST:PORT]"
            );
            std::process::exit(2)
        }
    }
}

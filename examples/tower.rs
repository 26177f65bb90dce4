//! The cache around a function, without a framework; hyper serves it over HTTP/1 and HTTP/2.
//!
//! `cargo run --example tower`, and in another terminal:
//!
//! ```text
//! $ curl -i localhost:3000/hello                            # after 200 ms
//! cache-status: tower-response-cache; fwd=uri-miss; stored
//! /hello, made by call 1
//! $ curl -i localhost:3000/hello                            # at once
//! cache-status: tower-response-cache; hit; ttl=59
//! /hello, made by call 1
//! $ curl --http2-prior-knowledge localhost:3000/other
//! /other, made by call 2
//! ```

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, pin, select, signal, time};
use tower::{ServiceBuilder, service_fn};
use tower_response_cache::CacheLayer;

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(listen_address()).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let cache = CacheLayer::new(Duration::from_secs(60));
    let handle = cache.handle();
    let calls = Arc::new(AtomicU64::new(0));
    let answer = service_fn(move |request| answer(request, calls.clone()));
    let service = TowerToHyperService::new(ServiceBuilder::new().layer(cache).service(answer));

    let server = auto::Builder::new(TokioExecutor::new());
    let connections = GracefulShutdown::new();
    let stop = signal::ctrl_c();
    pin!(stop);
    loop {
        let stream = select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Such as too many open files: it passes, though not at once.
                    eprintln!("cannot accept: {error}");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = &mut stop => break,
        };
        let connection = server
            .serve_connection(TokioIo::new(stream), service.clone())
            .into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection failed: {error}");
            }
        });
    }
    drop(listener);
    let in_time = time::timeout(PATIENCE, connections.shutdown()).await;
    handle.shutdown(PATIENCE).await;
    Ok(in_time?)
}

async fn answer(
    request: Request<Incoming>,
    calls: Arc<AtomicU64>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
    time::sleep(Duration::from_millis(200)).await;
    let text = format!("{}, made by call {call}\n", request.uri().path());
    Ok(Response::new(Full::from(text)))
}

fn listen_address() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => "127.0.0.1:3000".to_owned(),
        [option, address] if option == "--listen" => address.clone(),
        _ => {
            eprintln!("cannot read {arguments:?}\nusage: tower [--listen HOST:PORT]");
            std::process::exit(2)
        }
    }
}

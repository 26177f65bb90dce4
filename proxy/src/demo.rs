//! A small origin, slow enough to be worth a cache.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header, uri::Authority};
use hyper::body::Incoming;
use tokio::{net::TcpListener, sync::watch, time::sleep};

use crate::{
    answers::text,
    server::{Body, BoxError, Manners, serve},
};

/// Starts one, and tells where.
pub(crate) async fn start(
    manners: Manners,
    stop: watch::Receiver<bool>,
) -> Result<Authority, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string().parse()?;
    let calls = Arc::new(AtomicU64::new(0));
    let answer = move |request, _| answer(request, calls.clone());
    tokio::spawn(serve(listener, manners, stop, answer));
    Ok(address)
}

/// What is at `/products/7` bears the keys `products` and `products/7`.
async fn answer(request: Request<Incoming>, calls: Arc<AtomicU64>) -> Response<Body> {
    let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
    sleep(Duration::from_millis(200)).await;
    let (method, path) = (request.method(), request.uri().path());
    let words = format!("{method} {path}, made by call {call}\n");
    let mut response = text(StatusCode::OK, words);
    let mut keys = String::new();
    for (end, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]) {
        keys = format!("{keys} {}", &path[1..end]);
    }
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("s-maxage=60"),
    );
    if let Ok(keys) = HeaderValue::try_from(keys) {
        headers.insert("surrogate-key", keys);
    }
    response
}

//! A soft purge, or one of something else, takes nobody's fallback.
#![allow(clippy::unwrap_used, reason = "an inner service of a test")]

mod common;

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio::{sync::oneshot, time::advance};
use tower::{Layer, Service};
use tower_response_cache::{CacheLayer, Tag, Tags};

use common::{Body, empty, get, ok, read, settle, status, with};

type Ready = Arc<Mutex<Option<oneshot::Receiver<()>>>>;

type Answers = Arc<dyn Fn(&Request<Body>) -> Response<Body> + Send + Sync>;

/// Is ready when it is told, then answers this.
#[derive(Clone)]
struct Slow {
    ready: Ready,
    answer: Answers,
}

impl Service<Request<Body>> for Slow {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match &mut *self.ready.lock().unwrap() {
            Some(told) => std::pin::Pin::new(told).poll(cx).map(|_| Ok(())),
            None => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        *self.ready.lock().unwrap() = None;
        std::future::ready(Ok((self.answer)(&request)))
    }
}

/// What a request gets that waits for the inner service to be ready while this is purged.
async fn served(
    tag: Option<(&'static str, bool)>,
    then: fn(&Request<Body>) -> Response<Body>,
) -> (String, String) {
    let layer = CacheLayer::builder()
        .ttl(Duration::from_secs(60))
        .stale_if_error(Duration::from_secs(600))
        .build();
    let ready = Ready::default();
    let first = Arc::new(Mutex::new(true));
    let answer = move |request: &Request<Body>| {
        if !std::mem::take(&mut *first.lock().unwrap()) {
            return then(request);
        }
        let mut response = with(ok("old"), "etag", "\"old\"");
        response.extensions_mut().insert(Tags::new().with("page"));
        response
    };
    let mut cache = layer.layer(Slow {
        ready: ready.clone(),
        answer: Arc::new(answer),
    });
    read(cache.call(get("/")).await.unwrap()).await;
    advance(Duration::from_secs(100)).await;
    let (tell, told) = oneshot::channel();
    *ready.lock().unwrap() = Some(told);
    let answer = tokio::spawn(cache.call(get("/")));
    settle().await;
    if let Some((tag, soft)) = tag {
        let purge = layer.handle().purge(Tag::new(tag));
        let _ = if soft { purge.soft() } else { purge }.await.unwrap();
        settle().await;
    }
    tell.send(()).unwrap();
    let answer = read(answer.await.unwrap().unwrap()).await;
    let stored = layer.explain(&get("/").into_parts().0);
    (
        format!("{} {}", answer.parts.status, answer.text()),
        stored.decision.to_string(),
    )
}

const PURGES: [Option<(&str, bool)>; 4] = [
    None,
    Some(("other", false)),
    Some(("other", true)),
    Some(("page", true)),
];

#[tokio::test(start_paused = true)]
async fn a_failure_is_hidden_whatever_else_is_purged_while_the_inner_service_is_not_ready() {
    let mut got = Vec::new();
    for purged in PURGES {
        got.push((
            purged,
            served(purged, |_| status(StatusCode::INTERNAL_SERVER_ERROR))
                .await
                .0,
        ));
    }
    assert!(got.iter().all(|(_, got)| got == "200 OK old"), "{got:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_304_renews_whatever_else_is_purged_while_the_inner_service_is_not_ready() {
    let mut got = Vec::new();
    for purged in PURGES {
        let not_modified = |request: &Request<Body>| {
            assert!(request.headers().contains_key("if-none-match"));
            status(StatusCode::NOT_MODIFIED).map(|_| empty())
        };
        got.push((purged, served(purged, not_modified).await.1));
    }
    assert!(
        got.iter().all(|(_, then)| then.starts_with("a hit, fresh")),
        "{got:#?}"
    );
}

//! On axum's routers, routes and handlers.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Body,
    extract::Path,
    handler::Handler,
    http::Request,
    middleware::{Next, from_fn},
    response::Response,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tower::ServiceExt;
use tower_response_cache::{CacheHandle, CacheScope, Tag, TagFamily, Tags, scope};

use crate::support::{Serving, ask, cache, client, get as request, hits_at_the_second, in_time};

async fn hello() -> &'static str {
    "hello"
}

#[tokio::test]
async fn it_stands_on_a_router() {
    let router = Router::new().route("/", get(hello)).layer(cache());
    let answer = hits_at_the_second(&router, || request::<Body>("/")).await;
    assert_eq!(answer.body, "hello");
}

#[tokio::test]
async fn it_stands_on_the_routes_of_a_router() {
    let router = Router::new().route("/", get(hello)).route_layer(cache());
    hits_at_the_second(&router, || request::<Body>("/")).await;
    let unknown = ask(&router, request::<Body>("/unknown")).await;
    assert_eq!(
        (unknown.status, unknown.header("cache-status")),
        (404, None)
    );
}

#[tokio::test]
async fn it_stands_on_a_method_router() {
    let router = Router::new().route("/", get(hello).post(hello).layer(cache()));
    hits_at_the_second(&router, || request::<Body>("/")).await;
    let posted = Request::post("/").body(Body::empty()).unwrap();
    assert!(!ask(&router, posted).await.is_hit());
}

#[tokio::test]
async fn it_stands_on_a_handler() {
    let router = Router::new().route("/", get(hello.layer(cache())));
    hits_at_the_second(&router, || request::<Body>("/")).await;
}

#[tokio::test]
async fn it_stands_on_a_router_with_state() {
    let shown = |state: axum::extract::State<&'static str>| async move { state.0 };
    let router = Router::new()
        .route("/", get(shown))
        .layer(cache())
        .with_state("state");
    hits_at_the_second(&router, || request::<Body>("/")).await;
}

#[tokio::test]
async fn it_stands_above_and_below_a_function_as_middleware() {
    async fn pass(request: Request<Body>, next: Next) -> Response {
        next.run(request).await
    }
    let router = Router::new()
        .route("/", get(hello))
        .layer(from_fn(pass))
        .layer(cache())
        .layer(from_fn(pass));
    hits_at_the_second(&router, || request::<Body>("/")).await;
}

#[tokio::test]
async fn it_stands_on_a_router_that_serves_a_socket() {
    let server = Serving::router(Router::new().route("/", get(hello)).layer(cache())).await;
    let answer = hits_at_the_second(&client(), || request(server.uri("/"))).await;
    assert_eq!(answer.body, "hello");
}

#[tokio::test]
async fn one_cache_on_two_nested_routers_never_mixes_them_up() {
    let cache = cache();
    let part = |name: &'static str| {
        Router::new()
            .route("/x", get(async move || name))
            .layer(cache.clone())
    };
    let router = Router::new().nest("/a", part("a")).nest("/b", part("b"));
    for name in ["a", "b"] {
        let answer = hits_at_the_second(&router, || request::<Body>(format!("/{name}/x"))).await;
        assert_eq!(answer.body, name);
    }
}

#[tokio::test]
async fn one_cache_on_routers_nested_in_nested_ones_never_mixes_them_up() {
    let cache = cache();
    let part = |name: &'static str| {
        Router::new()
            .route("/x", get(async move || name))
            .layer(cache.clone())
    };
    let router = Router::new()
        .nest("/a", part("a").nest("/deep", part("a/deep")))
        .nest("/b", part("b").nest("/deep", part("b/deep")))
        .nest("/deep", part("deep"));
    for name in ["a", "b", "deep", "a/deep", "b/deep"] {
        let answer = hits_at_the_second(&router, || request::<Body>(format!("/{name}/x"))).await;
        assert_eq!(answer.body, name);
    }
}

#[tokio::test]
async fn what_a_nested_path_captures_is_in_the_key() {
    let shown = async |Path(tenant): Path<String>| tenant;
    let inner = Router::new().route("/x", get(shown)).layer(cache());
    let router = Router::new().nest("/{tenant}", inner);
    for tenant in ["one", "two"] {
        let answer = hits_at_the_second(&router, || request::<Body>(format!("/{tenant}/x"))).await;
        assert_eq!(answer.body, tenant);
    }
}

#[tokio::test]
async fn one_cache_on_two_nested_services_never_mixes_them_up() {
    let cache = cache();
    let part = |name: &'static str| {
        Router::new()
            .fallback(async move || name)
            .layer(cache.clone())
    };
    let router = Router::new()
        .nest_service("/a", part("a"))
        .nest_service("/b", part("b"));
    for name in ["a", "b"] {
        let answer = hits_at_the_second(&router, || request::<Body>(format!("/{name}/x"))).await;
        assert_eq!(answer.body, name);
    }
}

const PRODUCT: TagFamily<u64> = TagFamily::new("product");

/// Asks until it is a hit, purges, and asks again: the handler is called a second time, and not a third.
async fn is_purged_by(router: Router, handle: CacheHandle, tag: Tag) {
    let body = hits_at_the_second(&router, || request::<Body>("/"))
        .await
        .body;
    let _ = handle.purge(Tag::new("another")).await.unwrap();
    assert!(ask(&router, request::<Body>("/")).await.is_hit());
    let _ = handle.purge(tag).await.unwrap();
    let after = hits_at_the_second(&router, || request::<Body>("/"))
        .await
        .body;
    assert_ne!(body, after);
}

/// The number of a call of a handler.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicU64>);

impl Calls {
    fn next(&self) -> String {
        self.0.fetch_add(1, Ordering::Relaxed).to_string()
    }
}

#[tokio::test]
async fn a_tag_of_the_extracted_scope_purges() {
    let (cache, calls) = (cache(), Calls::default());
    let handler = async move |scope: CacheScope| {
        scope.tag(PRODUCT.tag(7));
        calls.next()
    };
    let router = Router::new().route("/", get(handler)).layer(cache.clone());
    is_purged_by(router, cache.handle(), PRODUCT.tag(7)).await;
}

#[tokio::test]
async fn a_tag_of_the_extracted_scope_purges_when_it_comes_from_another_task() {
    let (cache, calls) = (cache(), Calls::default());
    let handler = async move |scope: CacheScope| {
        let elsewhere = async move { scope.tag(PRODUCT.tag(7)) };
        tokio::spawn(elsewhere).await.unwrap();
        calls.next()
    };
    let router = Router::new().route("/", get(handler)).layer(cache.clone());
    is_purged_by(router, cache.handle(), PRODUCT.tag(7)).await;
}

#[tokio::test]
async fn a_tag_beside_the_body_purges() {
    let (cache, calls) = (cache(), Calls::default());
    let handler = async move || (Tags::from(PRODUCT.tag(7)), Json(calls.next()));
    let router = Router::new().route("/", get(handler)).layer(cache.clone());
    is_purged_by(router, cache.handle(), PRODUCT.tag(7)).await;
}

#[tokio::test]
async fn several_tags_beside_the_body_add_up() {
    for tag in ["one", "two", "three"] {
        let (cache, calls) = (cache(), Calls::default());
        let tags = |tag| Tags::from(Tag::new(tag));
        let handler = async move || (tags("one"), tags("two").with("three"), calls.next());
        let router = Router::new().route("/", get(handler)).layer(cache.clone());
        is_purged_by(router, cache.handle(), Tag::new(tag)).await;
    }
}

#[tokio::test]
async fn a_tag_from_deep_inside_the_handler_purges() {
    async fn load(id: u64) {
        tokio::task::yield_now().await;
        scope::tag(PRODUCT.tag(id));
    }
    let (cache, calls) = (cache(), Calls::default());
    let handler = async move || {
        load(7).await;
        calls.next()
    };
    let router = Router::new().route("/", get(handler)).layer(cache.clone());
    is_purged_by(router, cache.handle(), PRODUCT.tag(7)).await;
}

#[tokio::test]
async fn the_scope_can_be_extracted_where_there_is_no_cache() {
    let handler = async |scope: CacheScope| scope.tag("nowhere");
    let router = Router::new().route("/", get(handler));
    assert_eq!(ask(&router, request::<Body>("/")).await.status, 200);
}

type Events = mpsc::Receiver<&'static str>;

fn events(events: Events) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let next = |mut events: Events| async { events.recv().await.map(|event| (event, events)) };
    Sse::new(stream::unfold(events, next).map(|text| Ok(Event::default().data(text))))
}

#[tokio::test]
async fn events_flow_at_once_and_are_not_stored() {
    let (send_events, take_events) = mpsc::channel(2);
    let take_events = Arc::new(tokio::sync::Mutex::new(take_events));
    let handler = async move || events(take_events.lock_owned().await.recv().await.unwrap());
    let server = Serving::router(Router::new().route("/", get(handler)).layer(cache())).await;

    for _ in 0..2 {
        let (send, receive) = mpsc::channel(1);
        send_events.send(receive).await.unwrap();
        let response = in_time(client().oneshot(request(server.uri("/"))))
            .await
            .unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap();
        assert!(!status.contains("stored"), "{status}");
        let mut body = response.into_body();
        for event in ["first", "second"] {
            send.send(event).await.unwrap();
            let frame = in_time(body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), format!("data: {event}\n\n"));
        }
        drop(send);
        assert!(in_time(body.frame()).await.is_none());
    }
}

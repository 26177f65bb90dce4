//! Sealed keys, and extensions of the request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Extension, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, MatchedPath, RawPathParams, Request,
        rejection::RawPathParamsRejection,
    },
    middleware::{Next, from_fn},
    response::Response,
    routing::{get, get_service},
};
use http::{Extensions, HeaderName};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::request_id::{MakeRequestUuid, SetRequestIdLayer};
use tower_response_cache::{CacheLayer, Decision, Key, Reason};

use crate::{
    common::{self, Origin, ok, send, with},
    served::Served,
};

/// What an authentication layer outside the cache makes of a cookie.
#[derive(Debug, Clone)]
struct User(String);

#[derive(Debug, Clone)]
struct Pool;

fn sealed() -> CacheLayer {
    CacheLayer::builder().key(Key::new().seal()).build()
}

/// The usual layout: a cookie becomes an extension of the request.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let cookie = request.headers().get("cookie");
    let user = cookie.and_then(|line| line.to_str().ok()?.strip_prefix("sid="));
    if let Some(user) = user.map(|user| User(user.to_owned())) {
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

/// Greets whom it knows, and uses what axum puts into the extensions.
async fn greet(
    user: Option<Extension<User>>,
    path: Option<MatchedPath>,
    captures: Result<RawPathParams, RawPathParamsRejection>,
    ConnectInfo(_): ConnectInfo<SocketAddr>,
) -> String {
    let user = user.map_or("nobody", |Extension(user)| user.0.leak());
    let captures = captures.map_or(0, |captures| captures.iter().count());
    format!(
        "{user} at {:?} with {captures}",
        path.as_ref().map(MatchedPath::as_str)
    )
}

/// Where a sealed cache may stand among routers and layers of axum and tower-http, each with a path.
#[expect(clippy::too_many_lines, reason = "a list of layouts")]
fn layouts() -> Vec<(&'static str, Router, &'static str)> {
    let cached = |path: &str| Router::new().route(path, get(greet)).layer(sealed());
    let request_id =
        SetRequestIdLayer::new(HeaderName::from_static("x-request-id"), MakeRequestUuid);
    vec![
        ("a route", cached("/p"), "/p"),
        ("path parameters", cached("/p/{id}/{*rest}"), "/p/7/a/b"),
        (
            "route_layer",
            Router::new().route("/p", get(greet)).route_layer(sealed()),
            "/p",
        ),
        (
            "a method router",
            Router::new().route("/p", get(greet).layer(sealed())),
            "/p",
        ),
        (
            "nest",
            Router::new().nest("/api/{version}", cached("/p/{id}")),
            "/api/1/p/7",
        ),
        (
            "nest, twice",
            Router::new().nest("/a", Router::new().nest("/b", cached("/p"))),
            "/a/b/p",
        ),
        (
            "nest, cached outside",
            Router::new()
                .nest("/api", Router::new().route("/p", get(greet)))
                .layer(sealed()),
            "/api/p",
        ),
        (
            "nest_service",
            Router::new().nest_service("/svc", cached("/p/{id}")),
            "/svc/p/7",
        ),
        (
            "nest_service, cached outside",
            Router::new()
                .nest_service("/svc/{version}", Router::new().route("/p", get(greet)))
                .layer(sealed()),
            "/svc/1/p",
        ),
        (
            "fallback",
            Router::new().fallback(greet).layer(sealed()),
            "/anything",
        ),
        (
            "the fallback of a nested router",
            Router::new().nest("/api", Router::new().fallback(greet).layer(sealed())),
            "/api/anything",
        ),
        (
            "fallback_service",
            Router::new().fallback_service(Router::new().route("/p", get(greet)).layer(sealed())),
            "/p",
        ),
        (
            "route_service",
            Router::new().route_service("/p", get_service(get(greet)).layer(sealed())),
            "/p",
        ),
        (
            "merge",
            Router::new()
                .route("/q", get(greet))
                .merge(cached("/p/{id}")),
            "/p/7",
        ),
        (
            "DefaultBodyLimit::max",
            cached("/p").layer(DefaultBodyLimit::max(1024)),
            "/p",
        ),
        (
            "DefaultBodyLimit::disable",
            cached("/p").layer(DefaultBodyLimit::disable()),
            "/p",
        ),
        ("SetRequestId", cached("/p").layer(request_id.clone()), "/p"),
        (
            "all of them",
            Router::new()
                .nest(
                    "/api",
                    Router::new().nest_service("/svc", cached("/p/{id}")),
                )
                .layer(DefaultBodyLimit::max(1024))
                .layer(request_id),
            "/api/svc/p/7",
        ),
    ]
}

// Invariant 15.
#[tokio::test]
async fn a_sealed_request_is_a_hit_without_a_user_and_bypasses_with_one_in_every_axum_layout() {
    for (layout, router, path) in layouts() {
        let served = Served::start(router.layer(from_fn(authenticate))).await;
        let first = served.visitor().get(path).await;
        assert_eq!(first.status, 200, "{layout}: {first:?}");
        assert!(first.text.starts_with("nobody"), "{layout}: {first:?}");
        assert!(
            first.cache_status().ends_with("stored"),
            "{layout}: {first:?}"
        );
        let second = served.visitor().get(path).await;
        assert!(second.is_hit(), "{layout}: {second:?}");
        assert_eq!(first.text, second.text, "{layout}");
        for user in ["ann", "bob"] {
            let mut visitor = served.visitor().with_cookie("sid", user);
            let own = visitor.get(path).await;
            assert!(own.text.starts_with(user), "{layout}: {own:?}");
            assert!(own.bypassed_for("unknown-extension"), "{layout}: {own:?}");
        }
        let third = served.visitor().get(path).await;
        assert!(third.is_hit(), "{layout}: {third:?}");
        assert_eq!(first.text, third.text, "{layout}");
    }
}

/// A cache with this key, a layer outside it that inserts extensions, and an origin that says which user it sees.
async fn users_seen(key: Key, extensions: &Extensions) -> (Vec<String>, Option<Reason>) {
    let origin = Origin::new(|request| {
        let user = request.extensions().get::<User>();
        ok(user.map_or("nobody".to_owned(), |user| user.0.clone()))
    });
    let service = CacheLayer::builder().key(key).build().layer(origin);
    let mut seen = Vec::new();
    let mut reason = None;
    for _ in 0..2 {
        let mut request = common::get("/");
        *request.extensions_mut() = extensions.clone();
        let answer = send(&service, request).await;
        let hit = if answer.is_hit() { " (hit)" } else { "" };
        seen.push(format!("{}{hit}", answer.text()));
        reason = answer.reason();
    }
    (seen, reason)
}

fn ann_with_a_pool() -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(User("ann".to_owned()));
    extensions.insert(Pool);
    extensions
}

#[tokio::test]
async fn extensions_are_allowed_hidden_or_keyed_one_by_one() {
    let extensions = ann_with_a_pool();
    let key = || Key::new().seal();
    let bypassed = (vec!["ann".to_owned(); 2], Some(Reason::UnknownExtension));
    assert_eq!(users_seen(key(), &extensions).await, bypassed);
    assert_eq!(
        users_seen(key().allow_extension::<Pool>(), &extensions).await,
        bypassed
    );
    assert_eq!(
        users_seen(key().hide_extension::<User>(), &extensions).await,
        bypassed
    );
    // Said twice of one type, it does not count for another.
    let twice = key().allow_extension::<Pool>().hide_extension::<Pool>();
    assert_eq!(
        users_seen(twice.allow_extension::<Pool>(), &extensions).await,
        bypassed
    );
    let by_name = key().extension_with::<User>("user", |user| user.0.clone());
    assert_eq!(users_seen(by_name.clone(), &extensions).await, bypassed);

    let hidden = key().allow_extension::<Pool>().hide_extension::<User>();
    let (seen, _) = users_seen(hidden, &extensions).await;
    assert_eq!(seen, ["nobody", "nobody (hit)"]);
    let (seen, _) = users_seen(by_name.allow_extension::<Pool>(), &extensions).await;
    assert_eq!(seen, ["ann", "ann (hit)"]);
    let unsealed = Key::new().hide_extension::<User>();
    assert_eq!(
        users_seen(unsealed, &extensions).await.0,
        ["nobody", "nobody (hit)"]
    );
}

#[tokio::test]
async fn an_extension_that_a_closure_reads_is_not_accounted_for() {
    let key = Key::new().seal().allow_extension::<Pool>();
    let key = key.part("user", |parts| {
        Some(parts.extensions.get::<User>()?.0.clone())
    });
    let (_, reason) = users_seen(key, &ann_with_a_pool()).await;
    assert_eq!(reason, Some(Reason::UnknownExtension));
}

#[tokio::test]
async fn a_value_of_an_extension_of_another_crate_is_in_the_key() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let origin = Origin::new(move |_| ok(count.fetch_add(1, Ordering::SeqCst).to_string()));
    let key = Key::new().extension_with::<SocketAddr>("port", |address| address.port());
    let service = CacheLayer::builder().key(key).build().layer(origin);
    let from = |port: Option<u16>| {
        let mut request = common::get("/");
        if let Some(port) = port {
            request
                .extensions_mut()
                .insert(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        request
    };
    assert_eq!(send(&service, from(Some(1))).await.text(), "0");
    assert_eq!(send(&service, from(Some(2))).await.text(), "1");
    assert!(send(&service, from(Some(1))).await.is_hit());
    let without = send(&service, from(None)).await;
    assert_eq!(without.reason(), Some(Reason::KeyPart));
}

#[tokio::test]
async fn a_request_with_an_unwanted_extension_bypasses() {
    let key = || Key::new().bypass_if_extension::<User>();
    for key in [key(), key().allow_extension::<User>(), key().seal()] {
        let (seen, reason) = users_seen(key, &ann_with_a_pool()).await;
        assert_eq!(
            (seen, reason),
            (vec!["ann".to_owned(); 2], Some(Reason::Extension))
        );
    }
    let (seen, _) = users_seen(key(), &Extensions::new()).await;
    assert_eq!(seen, ["nobody", "nobody (hit)"]);
}

#[test]
fn the_explanation_names_the_extensions_that_are_unknown() {
    let layer = CacheLayer::builder()
        .key(Key::new().seal().allow_extension::<Pool>())
        .build();
    let (mut parts, _) = common::get("/").into_parts();
    parts.extensions = ann_with_a_pool();
    let explanation = layer.explain(&parts);
    assert_eq!(
        explanation.decision,
        Decision::Bypass(Reason::UnknownExtension)
    );
    assert_eq!(
        explanation.unknown_extensions,
        [std::any::type_name::<User>()]
    );
    let text = explanation.to_string();
    assert!(
        text.contains("extension not accounted for: behaviour::sealing::User"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unsealed_layer_asks_for_no_account_of_extensions() {
    let mut extensions = ann_with_a_pool();
    extensions.remove::<User>();
    let (seen, _) = users_seen(Key::new(), &extensions).await;
    assert_eq!(seen, ["nobody", "nobody (hit)"]);
}

#[tokio::test]
async fn a_sealed_layer_inside_another_cache_layer_accounts_for_what_that_adds() {
    let inner = sealed().layer(Origin::counting(&[]));
    let outer = CacheLayer::builder()
        .name("outer")
        .build()
        .layer(service_fn(move |request| {
            // Asked twice within one fill of the outer layer.
            let inner = inner.clone();
            async move { inner.oneshot(request).await }
        }));
    let answer = send(&outer, with(common::get("/"), "x-none", "1")).await;
    let lines = answer.lines("cache-status");
    assert!(lines[0].ends_with("; stored"), "{lines:?}");
}

/// What is written is what a person needs to mend it.
#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_warning_says_how_many_extensions_are_unknown_and_what_to_write() {
    let written = crate::events::Written::default();
    let _guard = written.start();
    // Two requests, and one warning: a key says it once a minute.
    let (_, reason) = users_seen(Key::new().seal(), &ann_with_a_pool()).await;
    assert_eq!(reason, Some(Reason::UnknownExtension));
    let warnings = written.with("unknown=2");
    let [written] = &*warnings else {
        panic!("{warnings:?}")
    };
    assert!(written.contains("behaviour::sealing::User"), "{written}");
    assert!(written.contains("behaviour::sealing::Pool"), "{written}");
    for remedy in ["extension_with", "allow_extension", "hide_extension"] {
        assert!(written.contains(remedy), "{written}");
    }
}

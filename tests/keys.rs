//! What a key is made of decides who shares an answer, and, sealed, what the inner service sees.

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

#[cfg(feature = "axum")]
use axum::{
    Router,
    extract::{OriginalUri, Path, RawQuery},
    routing,
};
use http::{
    HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, USER_AGENT},
};
use tower::Layer;
use tower_response_cache::{
    Cache, CacheLayer, Key, Reason,
    key::{KeyValue, KeyWriter, Normalize},
};

#[cfg(feature = "axum")]
use common::{Answer, empty};
use common::{Body, Origin, get, head, ok, read, request, send, with, with_headers};

fn cached(key: Key, origin: &Origin) -> Cache<Origin> {
    let layer = CacheLayer::builder().key(key);
    layer.build().layer(origin.clone())
}

/// Whether the second of two requests is answered with what the first one got.
async fn share(key: Key, first: Request<Body>, second: Request<Body>) -> bool {
    let origin = Origin::counting(&[]);
    let cache = cached(key, &origin);
    send(&cache, first).await;
    send(&cache, second).await.is_hit()
}

#[derive(Clone)]
struct Tenant(&'static str, &'static str);

impl KeyValue for Tenant {
    fn write(&self, key: &mut KeyWriter<'_>) {
        self.0.write(key);
        self.1.write(key);
    }
}

fn from(tenant: Tenant) -> Request<Body> {
    let mut request = get("/");
    request.extensions_mut().insert(tenant);
    request
}

// Invariants 5, 7.
#[tokio::test]
async fn an_extension_that_has_to_be_there_is_in_the_key_and_without_it_there_is_none() {
    let key = || Key::new().extension::<Tenant>();
    assert!(share(key(), from(Tenant("a", "b")), from(Tenant("a", "b"))).await);
    assert!(!share(key(), from(Tenant("a", "b")), from(Tenant("a", "c"))).await);
    assert!(!share(key(), from(Tenant("ab", "c")), from(Tenant("a", "bc"))).await);
    assert!(!share(key(), from(Tenant("", "a")), from(Tenant("a", ""))).await);

    let origin = Origin::counting(&[]);
    let cache = cached(key(), &origin);
    for calls in 1..3 {
        let answer = send(&cache, get("/")).await;
        assert_eq!(answer.reason(), Some(Reason::KeyPart));
        assert_eq!(origin.calls(), calls);
    }
}

// Invariant 7.
#[tokio::test]
async fn that_an_extension_is_absent_may_be_a_value_too() {
    let key = || Key::new().optional_extension::<Tenant>();
    assert!(share(key(), get("/"), get("/")).await);
    assert!(!share(key(), get("/"), from(Tenant("", ""))).await);
    assert!(share(key(), from(Tenant("", "")), from(Tenant("", ""))).await);
}

#[derive(Clone)]
struct Admin;

impl KeyValue for Admin {
    fn write(&self, _: &mut KeyWriter<'_>) {}
}

// Invariant 7.
#[tokio::test]
async fn an_extension_that_says_nothing_is_not_absent() {
    let key = || Key::new().optional_extension::<Admin>();
    let mut admin = get("/");
    admin.extensions_mut().insert(Admin);
    assert!(!share(key(), admin, get("/")).await);
}

/// Requests of two tenants, whose types have one name, as those of two versions of a crate have.
fn of_namesakes(first: u8, second: u8) -> (Key, Request<Body>) {
    let (mut key, mut request) = (Key::new(), get("/"));
    macro_rules! namesake {
        ($value:expr) => {{
            #[derive(Clone)]
            struct Namesake(u8);
            impl KeyValue for Namesake {
                fn write(&self, key: &mut KeyWriter<'_>) {
                    self.0.write(key);
                }
            }
            request.extensions_mut().insert(Namesake($value));
            key = key.extension::<Namesake>();
        }};
    }
    namesake!(first);
    namesake!(second);
    (key, request)
}

// Invariant 7.
#[tokio::test]
async fn two_types_of_one_name_are_two_parts() {
    for (other, is_shared) in [
        ((1, 2), true),
        ((0, 2), false),
        ((1, 0), false),
        ((2, 1), false),
    ] {
        let (key, first) = of_namesakes(1, 2);
        let (_, second) = of_namesakes(other.0, other.1);
        assert_eq!(share(key, first, second).await, is_shared, "{other:?}");
    }
}

// Invariant 15.
#[tokio::test]
async fn a_target_without_a_path_is_sealed_too() {
    for key in [Key::new(), Key::new().ignore_authority()] {
        let cache = cached(key.query(["page"]).seal_query(), &listing());
        let mut asked = request("GET", "EXAMPLE.com:80");
        asked.headers_mut().remove("host");
        let answer = send(&cache, asked).await;
        let line = answer.text().lines().next().unwrap().to_owned();
        assert!(["GET example.com", "GET /"].contains(&&*line), "{line}");
    }
}

#[tokio::test]
async fn values_of_all_kinds_are_told_apart() {
    type Make = fn(&http::request::Parts) -> Option<(Option<u8>, bool, i64)>;
    struct All(Option<u8>, bool, i64);
    impl KeyValue for All {
        fn write(&self, key: &mut KeyWriter<'_>) {
            self.0.write(key);
            self.1.write(key);
            self.2.write(key);
        }
    }
    let all = [
        (None, false, 0),
        (None, true, 0),
        (Some(0), false, 0),
        (Some(1), false, 0),
        (None, false, -1),
    ];
    let make: Make = |parts| parts.extensions.get().copied();
    let key = Key::new().part("all", move |parts| {
        make(parts).map(|(a, b, c)| All(a, b, c))
    });
    let asked = |values: (Option<u8>, bool, i64)| {
        let mut request = get("/");
        request.extensions_mut().insert(values);
        request
    };
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate() {
            let shared = share(key.clone(), asked(*a), asked(*b)).await;
            assert_eq!(shared, i == j, "{a:?} and {b:?}");
        }
    }
}

/// Says in which coding and language it answers, and that both matter.
fn negotiating() -> Origin {
    Origin::new(|request| {
        let said = |name| {
            let value = request.headers().get(name);
            value.map_or("-", |value: &HeaderValue| value.to_str().expect("text"))
        };
        let answer = format!("{} {}", said(ACCEPT_ENCODING), said(ACCEPT_LANGUAGE));
        with_headers(
            ok(answer),
            &[
                ("vary", "accept-encoding, accept-language"),
                ("content-encoding", said(ACCEPT_ENCODING)),
            ],
        )
    })
}

// Invariants 4, 24.
#[tokio::test]
async fn headers_in_their_normal_form_share_an_answer_and_the_inner_service_sees_that_form() {
    let origin = negotiating();
    let key = Key::new()
        .header_as(ACCEPT_ENCODING, Normalize::codings(["br", "gzip"]).unwrap())
        .header_as(ACCEPT_LANGUAGE, Normalize::languages(["en", "de"]).unwrap());
    let cache = cached(key, &origin);
    let mut calls = 0;
    for (coding, language, answer, is_hit) in [
        (
            "gzip, deflate, br",
            "de-AT,de;q=0.9,en;q=0.8",
            "br de",
            false,
        ),
        ("br", "de", "br de", true),
        ("br;q=0.9, gzip;q=0.1", "de-CH", "br de", true),
        ("gzip", "de", "gzip de", false),
        ("gzip, br;q=0", "DE", "gzip de", true),
        ("gzip", "fr", "gzip en", false),
        ("deflate", "", "identity en", false),
        ("", "*", "identity en", true),
        ("br;q=high", "en", "br;q=high en", false),
    ] {
        let asked = [("accept-encoding", coding), ("accept-language", language)];
        let found = send(&cache, with_headers(get("/"), &asked)).await;
        assert_eq!(
            (found.text(), found.is_hit()),
            (answer, is_hit),
            "{asked:?}"
        );
        calls += usize::from(!is_hit);
    }
    assert_eq!(origin.calls(), calls);
}

// Invariant 4.
#[tokio::test]
async fn what_is_in_the_key_and_what_vary_names_are_both_honoured() {
    let cache = cached(Key::new().header(ACCEPT_ENCODING), &negotiating());
    let asked = |coding, language| {
        with_headers(
            get("/"),
            &[("accept-encoding", coding), ("accept-language", language)],
        )
    };
    for (coding, language, is_hit) in [
        ("br", "de", false),
        ("br", "en", false),
        ("br", "de", true),
        ("gzip", "de", false),
        ("br", "en", true),
    ] {
        let found = send(&cache, asked(coding, language)).await;
        assert_eq!(found.text(), format!("{coding} {language}"));
        assert_eq!(found.is_hit(), is_hit, "{coding} {language}");
    }
}

#[tokio::test]
async fn all_parameters_of_a_prefix_may_be_chosen() {
    let key = || Key::new().query(["q", "filter_*"]);
    assert!(
        share(
            key(),
            get("/?q=1&filter_a=1&x=1"),
            get("/?filter_a=1&q=1&x=2")
        )
        .await
    );
    assert!(!share(key(), get("/?filter_a=1"), get("/?filter_a=2")).await);
    assert!(!share(key(), get("/?filter_a=1"), get("/?filter_b=1")).await);
    assert!(share(key(), get("/?filter=1"), get("/?filter=2")).await);
}

// Invariant 2.
#[tokio::test]
async fn who_asks_may_be_said_in_other_headers_than_those_of_the_standards() {
    for name in [
        "x-api-key",
        "x-auth-token",
        "cf-access-jwt-assertion",
        "remote-user",
    ] {
        let asked = || with(get("/"), name, "alice");
        let origin = Origin::counting(&[]);
        let cache = cached(Key::new(), &origin);
        for _ in 0..2 {
            let answer = send(&cache, asked()).await;
            assert_eq!(answer.reason(), Some(Reason::ClientIdentity), "{name}");
        }
        assert!(!send(&cache, get("/")).await.is_hit());
        let header = HeaderName::from_static(name);
        assert!(share(Key::new().header(header.clone()), asked(), asked()).await);
        let bob = with(get("/"), name, "bob");
        assert!(!share(Key::new().header(header), asked(), bob).await);
        assert!(share(Key::new().ignore_authorization(), asked(), get("/")).await);
        assert!(share(Key::new().seal(), asked(), get("/")).await);
    }
}

/// Lists all that it sees of a request.
fn listing() -> Origin {
    Origin::new(|request| {
        let mut seen = vec![format!("{} {}", request.method(), request.uri())];
        let headers = request.headers().iter();
        seen.extend(
            headers.map(|(name, value)| format!("{name}: {}", value.as_bytes().escape_ascii())),
        );
        if let Some(Tenant(tenant, _)) = request.extensions().get() {
            seen.push(format!("tenant {tenant}"));
        }
        ok(seen.join("\n"))
    })
}

fn laden() -> Request<Body> {
    let mut request = with_headers(
        get("/?page=1&utm_source=x"),
        &[
            ("authorization", "Bearer alice"),
            ("proxy-authorization", "Basic x"),
            ("x-api-key", "k"),
            ("cookie", "sid=1; region=eu"),
            ("cookie", "theme=dark"),
            ("accept-language", "de"),
            ("user-agent", "curl"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.2.3.4;host=shop.example, for=5.6.7.8"),
            ("if-none-match", "\"a\""),
            ("range", "bytes=0-"),
            ("traceparent", "00-1-2-01"),
            ("x-anything", "1"),
        ],
    );
    request.extensions_mut().insert(Tenant("north", ""));
    request
}

// Invariant 15.
#[tokio::test]
async fn a_sealed_service_sees_what_is_in_the_key_and_nothing_else() {
    let seen = async |key: Key, asked: Request<Body>| {
        let answer = send(&cached(key, &listing()), asked).await;
        assert!(answer.cache().is_stored(), "{:?}", answer.cache());
        answer.text().to_owned()
    };
    let always = "host: shop.example\nx-forwarded-proto: https\nforwarded: host=shop.example\ntraceparent: 00-1-2-01\naccept-encoding: identity";
    let tenant = "tenant north";
    assert_eq!(
        seen(Key::new().seal().allow_extension::<Tenant>(), laden()).await,
        format!("GET /?page=1&utm_source=x\n{always}\n{tenant}")
    );
    let key = Key::new().query(["page"]).cookie("theme").cookie("region");
    let key = key.allow_extension::<Tenant>();
    assert_eq!(
        seen(key.header(ACCEPT_LANGUAGE).seal_query(), laden()).await,
        format!(
            "GET /?page=1\n{}\n{tenant}",
            always.replace(
                "\nx-forwarded",
                "\ncookie: theme=dark; region=eu\naccept-language: de\nx-forwarded"
            )
        )
    );
    let key = Key::new()
        .seal()
        .let_through(USER_AGENT)
        .allow_extension::<Tenant>();
    assert_eq!(
        seen(key, laden()).await,
        format!(
            "GET /?page=1&utm_source=x\n{}\n{tenant}",
            always.replace("\nx-forwarded", "\nuser-agent: curl\nx-forwarded")
        )
    );
    let key = Key::new()
        .ignore_authority()
        .query_except(["utm_*"])
        .seal_query();
    let mut asked = with(
        request("GET", "https://shop.example/a?b=1&utm_x=2"),
        "x",
        "1",
    );
    asked
        .headers_mut()
        .insert(AUTHORIZATION, HeaderValue::from_static("x"));
    assert_eq!(
        seen(key, asked).await,
        "GET /a?b=1\naccept-encoding: identity"
    );
}

// Invariants 2, 15.
#[tokio::test]
async fn what_a_sealed_service_answers_is_for_all_who_have_the_same_key() {
    let key = || {
        Key::new()
            .query(["page"])
            .seal_query()
            .allow_extension::<Tenant>()
    };
    let other = with(get("/?page=1"), "forwarded", "host=shop.example");
    assert!(!share(key(), laden(), other).await, "the scheme is another");
    let other = with_headers(
        get("/?x=y&page=1"),
        &[
            ("authorization", "Bearer bob"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "host=shop.example, for=9.9.9.9"),
        ],
    );
    assert!(share(key(), laden(), other).await);
    let through = || {
        Key::new()
            .seal()
            .let_through(AUTHORIZATION)
            .let_through(COOKIE)
    };
    let alice = || with(get("/"), "authorization", "alice");
    assert!(
        !share(through(), alice(), alice()).await,
        "what is let through may matter"
    );
    let cookie = || with(get("/"), "cookie", "sid=1");
    assert!(!share(through(), cookie(), cookie()).await);
}

// Invariant 15.
#[tokio::test]
async fn whoever_asks_a_sealed_service_in_whatever_way_is_told_the_same() {
    let key = || Key::new().seal().allow_extension::<Tenant>();
    let mut asked = laden();
    *asked.method_mut() = Method::HEAD;
    let saw = Arc::new(Mutex::new(Vec::new()));
    let inside = saw.clone();
    let origin = Origin::new(move |request| {
        inside
            .lock()
            .unwrap()
            .push(request.headers().contains_key(USER_AGENT));
        with(ok("x"), "set-cookie", "a=1")
    });
    let cache = cached(key(), &origin);
    // The HEAD is fetched as a GET.
    assert_eq!(send(&cache, asked).await.reason(), Some(Reason::SetCookie));
    // The first is refused, the second goes side by side with others.
    for _ in 0..2 {
        assert_eq!(
            send(&cache, laden()).await.reason(),
            Some(Reason::SetCookie)
        );
    }
    assert_eq!(*saw.lock().unwrap(), [false; 3]);

    // A request without a key passes by as it is.
    let answer = send(
        &cached(key(), &listing()),
        with(laden(), "x-original-url", "/"),
    )
    .await;
    assert_eq!(answer.reason(), Some(Reason::Override));
    assert!(answer.text().contains("user-agent: curl"));
}

#[tokio::test]
async fn a_sealed_service_is_called_in_the_same_way_by_a_request_beyond_the_waiters() {
    let saw = Arc::new(Mutex::new(0));
    let inside = saw.clone();
    let origin = Origin::later(move |request| {
        *inside.lock().unwrap() += usize::from(request.headers().contains_key(USER_AGENT));
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ok("x")
        }
    });
    let layer = CacheLayer::builder().key(Key::new().seal().allow_extension::<Tenant>());
    let cache = layer.max_waiters(0).build().layer(origin.clone());
    let both = tokio::join!(send(&cache, laden()), send(&cache, laden()));
    assert_eq!(both.1.reason(), Some(Reason::TooManyWaiters));
    assert_eq!((origin.calls(), *saw.lock().unwrap()), (2, 0));
}

#[cfg(feature = "axum")]
async fn asked(router: &Router, uri: &str) -> Answer {
    let request = Request::builder().uri(uri).body(empty()).expect("a target");
    let request = request.map(axum::body::Body::new);
    let response = tower::ServiceExt::oneshot(router.clone(), request)
        .await
        .unwrap();
    read(response).await
}

#[cfg(feature = "axum")]
fn layer(key: Key) -> CacheLayer {
    CacheLayer::builder().key(key).build()
}

// Invariant 7.
#[cfg(feature = "axum")]
#[tokio::test]
async fn what_a_router_captures_is_in_the_key_beside_the_path() {
    let shown = async |Path((tenant, id)): Path<(String, String)>| format!("{tenant} {id}");
    let inner = Router::new()
        .route("/{id}", routing::get(shown))
        .layer(layer(Key::new().capture("tenant").capture("id")));
    let router = Router::new().nest("/{tenant}", inner);
    for (uri, answer, is_hit) in [
        ("/a/1", "a 1", false),
        ("/a/1", "a 1", true),
        ("/b/1", "b 1", false),
        ("/a/%31", "a 1", false),
        ("/a/1", "a 1", true),
    ] {
        let found = asked(&router, uri).await;
        assert_eq!((found.text(), found.is_hit()), (answer, is_hit), "{uri}");
    }
    for (key, path) in [("other", "/a/1"), ("id", "/plain")] {
        let layer = layer(Key::new().capture(key));
        let router = Router::new()
            .route("/a/{id}", routing::get(async || "x"))
            .route("/plain", routing::get(async || "x"))
            .layer(layer);
        for _ in 0..2 {
            assert_eq!(asked(&router, path).await.reason(), Some(Reason::KeyPart));
        }
    }
}

// Invariant 15.
#[cfg(feature = "axum")]
#[tokio::test]
async fn a_sealed_query_is_sealed_wherever_axum_tells_it() {
    let shown = async |RawQuery(query): RawQuery, original: OriginalUri| {
        format!("{query:?} {:?}", original.query())
    };
    let inner = Router::new()
        .route("/x", routing::get(shown))
        .layer(layer(Key::new().query(["q"]).seal_query()));
    let router = Router::new().nest("/a", inner);
    let first = asked(&router, "/a/x?secret=1&q=a").await;
    assert_eq!(first.text(), r#"Some("q=a") Some("q=a")"#);
    let second = asked(&router, "/a/x?q=a&secret=2").await;
    assert!(second.is_hit());
    assert_eq!(asked(&router, "/a/x?secret=1").await.text(), "None None");
}

// Invariants 7, 15.
#[tokio::test]
async fn a_sealed_query_means_what_it_meant() {
    let origin = listing();
    for (query, sealed) in [
        ("b=2&x=1&a=%20", "a=%20&b=2"),
        ("%61=1&a=2", "a=1&a=2"),
        ("a%26=3&a%2Bc=2&a+c=1", "a+c=1&a%26=3&a%2Bc=2"),
        ("a&b=", "a&b="),
        ("a=1&&b", "a=1&b"),
        ("a=1=2", "a=1=2"),
        ("a;x=1", "a;x=1"),
        ("x=%zz&secret", "x=%zz&secret"),
    ] {
        let key = Key::new().query(["a*", "b"]).seal_query();
        let answer = send(&cached(key, &origin), get(&format!("/?{query}"))).await;
        let line = answer.text().lines().next().unwrap().to_owned();
        assert_eq!(line, format!("GET /?{sealed}"), "{query}");
    }
}

#[tokio::test]
async fn a_sealed_service_is_asked_for_the_whole_of_what_a_part_is_wanted_of() {
    let origin = Origin::new(|request| {
        assert!(!request.headers().contains_key("range"));
        ok("whole")
    });
    let cache = cached(Key::new().seal(), &origin);
    for _ in 0..2 {
        let answer = head(&cache, with(get("/"), "range", "bytes=0-1")).await;
        assert_eq!(read(answer).await.text(), "wh");
    }
}

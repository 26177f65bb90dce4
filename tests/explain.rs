//! What the cache says it would do is what it does.

mod common;

use std::{collections::BTreeMap, time::Duration};

use http::{
    HeaderName, Method, Request, StatusCode,
    header::{ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE},
    request::Parts,
};
use tower::Layer;
use tower_response_cache::{
    CacheHandle, CacheLayer, Decision, Explanation, Forward, Key, Reason, Standing, TagFamily, Tags,
};

use common::{Body, Gate, Origin, eventually, full, get, ok, request, send, with, with_headers};

const PRODUCT: TagFamily<u64> = TagFamily::new("product");
const MINUTE: Duration = Duration::from_secs(60);

fn parts(request: Request<Body>) -> Parts {
    request.into_parts().0
}

fn tagged() -> Origin {
    Origin::new(|request| {
        let mut response = with(ok("hello"), "vary", "accept-language");
        let mut tags = Tags::from(PRODUCT.tag(7));
        tags.extend([request.uri().path().to_owned().into()]);
        response.extensions_mut().insert(tags);
        response
    })
}

/// The values of a key's parts, by kind and name.
fn values(explanation: &Explanation) -> BTreeMap<String, Vec<String>> {
    let parts = explanation.key.iter();
    parts
        .map(|part| {
            let name = format!("{} {}", part.kind, part.name);
            (name.trim_end().to_owned(), part.values.clone())
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn it_tells_the_way_of_a_response_through_the_cache() {
    let layer = CacheLayer::builder().name("pages").ttl(MINUTE).build();
    let cache = layer.layer(tagged());
    let asked = || with(get("/p"), "accept-language", "de");
    let told = |request: Request<Body>| layer.explain(&parts(request));

    let cold = told(asked());
    assert_eq!(cold.decision, Decision::Fetch(Forward::UriMiss));
    assert_eq!(cold.layer.as_deref(), Some("pages"));
    assert!(cold.stored.is_empty() && cold.in_flight.is_none());

    send(&cache, asked()).await;
    tokio::time::advance(Duration::from_secs(20)).await;
    let warm = told(asked());
    let left = Duration::from_secs(40);
    assert_eq!(warm.decision, Decision::Hit(left));
    let [stored] = &*warm.stored else {
        panic!("{warm}")
    };
    assert_eq!((stored.status, stored.body_bytes), (StatusCode::OK, 5));
    assert_eq!(
        (stored.age, stored.lifetime),
        (Duration::from_secs(20), MINUTE)
    );
    assert_eq!(stored.tags, ["product:7", "/p"]);
    assert_eq!(stored.varies_by, [(ACCEPT_LANGUAGE, Some("de".to_owned()))]);
    assert_eq!(stored.standing, Standing::Fresh(left));
    assert!(send(&cache, asked()).await.is_hit(), "and so it is");

    let other = told(with(get("/p"), "accept-language", "en"));
    assert_eq!(other.decision, Decision::Fetch(Forward::VaryMiss));
    assert_eq!(other.stored[0].standing, Standing::OtherVariant);

    tokio::time::advance(left).await;
    let old = told(asked());
    assert_eq!(old.decision, Decision::Fetch(Forward::Stale));
    assert_eq!(old.stored[0].standing, Standing::Expired);
    assert_eq!(layer.handle().stats().hits, 1, "it asks nobody");
}

#[tokio::test]
async fn it_tells_what_was_purged() {
    let layer = CacheLayer::new(MINUTE);
    let cache = layer.layer(tagged());
    send(&cache, get("/p")).await;
    let handle = layer.handle();
    let _ = handle.purge(PRODUCT.tag(7)).await.unwrap();
    let [told] = &*handle.explain(&parts(get("/p"))) else {
        panic!("one layer")
    };
    assert_eq!(told.decision, Decision::Fetch(Forward::UriMiss));
    assert!(
        told.stored
            .iter()
            .all(|stored| stored.standing == Standing::Purged)
    );
}

#[tokio::test]
async fn it_tells_that_an_answer_is_on_its_way_and_who_waits() {
    let gate = Gate::new();
    let origin = Origin::gated(&gate, "x");
    let layer = CacheLayer::new(MINUTE);
    let cache = layer.layer(origin);
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { send(&cache, get("/")).await })
    };
    let first = ask();
    gate.arrival().await;
    let second = ask();
    let told = || layer.explain(&parts(get("/")));
    eventually(|| told().in_flight == Some(1)).await;
    assert_eq!(told().decision, Decision::Wait);
    assert!(told().to_string().ends_with("in flight: 1 waiting"));
    gate.open();
    first.await.unwrap();
    assert!(second.await.unwrap().cache().is_collapsed());
    assert_eq!(told().in_flight, None);
}

#[tokio::test]
async fn it_tells_why_answers_are_not_stored() {
    let layer = CacheLayer::new(MINUTE);
    let cache = layer.layer(Origin::counting(&[("set-cookie", "a=1")]));
    send(&cache, get("/")).await;
    let told = layer.explain(&parts(get("/")));
    assert_eq!(told.decision, Decision::SideBySide(Reason::SetCookie));
    assert_eq!(told.refused, Some(Reason::SetCookie));
}

// Invariant 60.
#[tokio::test]
async fn it_tells_why_a_request_passes_by_as_the_cache_then_says() {
    let layer = CacheLayer::builder()
        .key(Key::new().part("tenant", |parts| {
            let tenant = parts.headers.get("x-tenant")?;
            Some(tenant.as_bytes().to_vec())
        }))
        .max_key_bytes(500)
        .build();
    let cache = layer.layer(Origin::counting(&[]));
    let tenant = |request| with(request, "x-tenant", "a");
    for (asked, reason) in [
        (get("/"), Reason::KeyPart),
        (tenant(request("PUT", "/")), Reason::Method),
        (tenant(with(get("/"), "cookie", "a=1")), Reason::Cookie),
        (
            tenant(with(get("/"), "proxy-authorization", "a")),
            Reason::ProxyAuthorization,
        ),
        (
            tenant(with(get("/"), "x-api-key", "a")),
            Reason::ClientIdentity,
        ),
        (
            tenant(with(get("/"), "upgrade", "websocket")),
            Reason::Upgrade,
        ),
        (
            tenant(with(get("/"), "x-rewrite-url", "/a")),
            Reason::Override,
        ),
        (
            tenant(with(get("/"), "forwarded", "host")),
            Reason::Forwarded,
        ),
        (
            tenant(get(&format!("/?{}", "a".repeat(500)))),
            Reason::KeyTooLong,
        ),
    ] {
        let (head, body) = asked.into_parts();
        let told = layer.explain(&head);
        assert_eq!(told.decision, Decision::Bypass(reason));
        let asked = Request::from_parts(head, body);
        assert_eq!(send(&cache, asked).await.reason(), Some(reason));
    }
    let told = layer.explain(&parts(get("/")));
    let last = told.key.last().unwrap();
    assert_eq!((last.kind, &*last.name), ("part", "tenant"), "{told}");
}

// Invariants 7, 60.
#[tokio::test]
async fn it_tells_the_key_and_no_secrets() {
    let key = Key::new()
        .query(["page"])
        .header(ACCEPT_LANGUAGE)
        .header(AUTHORIZATION)
        .header(HeaderName::from_static("x-secret"))
        .header(HeaderName::from_static("x-plain"))
        .cookie("region")
        .ignore_cookies()
        .optional_extension::<u8>()
        .part("length", |parts| {
            Some(format!("{}", parts.uri.path().len()))
        });
    let layer = CacheLayer::builder().name("pages").key(key).build();
    let mut asked = with_headers(
        get("/p?page=2&page=3&x=1"),
        &[
            ("accept-language", "de"),
            ("accept-language", "en"),
            ("authorization", "Bearer alice"),
            ("x-secret", "hush"),
            ("x-plain", "a\u{fc}\t"),
            ("cookie", "sid=1; region=eu"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "https"),
        ],
    );
    asked
        .headers_mut()
        .get_mut("x-secret")
        .unwrap()
        .set_sensitive(true);
    let _served = layer.layer(tagged());
    let told = layer.explain(&parts(asked));
    let values = values(&told);
    let is = |name: &str, expected: &[&str]| assert_eq!(values[name], expected, "{name}");
    is("layer", &["pages"]);
    is("path", &["/p"]);
    let parameters = told.key.iter().filter(|part| part.kind == "parameter");
    assert!(
        parameters
            .map(ToString::to_string)
            .eq(["parameter page: 2", "parameter page: 3"])
    );
    is("header accept-language", &["de", "en"]);
    is("header authorization", &["***"]);
    is("header x-secret", &["***"]);
    is("header x-plain", &["a\\xc3\\xbc\\t"]);
    is("cookie region", &["region=eu"]);
    is("forwarded x-forwarded-host", &["shop.example"]);
    is("forwarded x-forwarded-proto", &["https"]);
    is("extension u8", &[]);
    is("part length", &["2"]);
    let text = format!("{told} {told:?}");
    assert!(!text.contains("hush") && !text.contains("alice"), "{text}");
    assert!(
        text.contains("\n  key: header accept-language: de | en\n"),
        "{text}"
    );
    assert!(text.contains("\n  key: extension u8 (absent)\n"), "{text}");
}

#[tokio::test]
async fn a_cookie_on_a_line_marked_sensitive_is_not_told() {
    let layer = CacheLayer::builder().key(Key::new().cookie("sid")).build();
    let mut asked = with(get("/"), "cookie", "sid=hush");
    asked
        .headers_mut()
        .get_mut(COOKIE)
        .unwrap()
        .set_sensitive(true);
    let told = layer.explain(&parts(asked));
    assert_eq!(values(&told)["cookie sid"], ["***"]);
}

#[tokio::test]
async fn a_handle_tells_of_all_its_layers_that_are_in_use() {
    let handle = CacheHandle::builder()
        .namespace("shop")
        .version("7")
        .build();
    let built = |name: &str| CacheLayer::builder().handle(&handle).name(name);
    let pages = built("pages").build();
    let search = built("search")
        .key(Key::new().body(64))
        .methods([Method::POST])
        .unwrap()
        .build();
    drop(built("gone").build());
    let cache = search.layer(tagged());
    let asked = |body: &'static str| {
        with(
            request("POST", "/_search"),
            "content-type",
            "application/json",
        )
        .map(|_| full(body))
    };
    let head = parts(asked(""));
    let told = handle.explain_with_body(&head, br#"{"a":1,"b":2}"#);
    let decisions: Vec<_> = told.iter().map(|layer| layer.decision).collect();
    let cold = Decision::Fetch(Forward::UriMiss);
    assert_eq!(decisions, [Decision::Bypass(Reason::Method), cold]);

    send(&cache, asked(r#"{"a":1,"b":2}"#)).await;
    // The other layer has had no request for this path.
    let told = handle.explain_with_body(&head, br#"{"a":1,"b":2}"#);
    assert_eq!(told.len(), 1);
    assert!(matches!(told[0].decision, Decision::Hit(_)), "{}", told[0]);
    let values = values(&told[0]);
    assert_eq!(values["namespace"], ["shop"]);
    assert_eq!(values["version"], ["7"]);
    assert_eq!(values["body"].len(), 2, "its length and its digest");
    assert_eq!(
        handle.explain(&head)[0].decision,
        Decision::Fetch(Forward::UriMiss)
    );
    assert_eq!(
        search.explain(&head, &[b'x'; 65]).decision,
        Decision::Bypass(Reason::RequestBodyNotKeyed)
    );
    drop(pages);
}

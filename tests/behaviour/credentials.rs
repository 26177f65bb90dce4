//! Credentials in requests and in responses, and what proxies say of the target.

use http::{HeaderMap, HeaderName, StatusCode, header};
use tower::Layer;
use tower_response_cache::{CacheLayer, CacheLayerBuilder, Key, Reason, SetCookie};

use crate::common::{Origin, get, ok, request, send, with, with_headers};

fn name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// The names in back quotes of a table in the documentation, in lower case.
fn documented(mark: &str) -> Vec<String> {
    let docs = include_str!("../../docs/headers.md");
    let table = docs.split(mark).nth(1).unwrap();
    let table = table.split("<!--").next().unwrap();
    let quoted = table.split('`').skip(1).step_by(2);
    let names: Vec<_> = quoted.map(str::to_ascii_lowercase).collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

/// Each way to build a layer, with responses that it would store.
fn both_kinds() -> [CacheLayerBuilder; 2] {
    [CacheLayer::builder(), CacheLayer::builder().rfc9111()]
}

#[tokio::test]
async fn a_request_with_any_documented_credential_bypasses_the_cache() {
    let origin = Origin::counting(&[]);
    let cache = CacheLayer::builder().build().layer(origin.clone());
    let names = documented("<!-- request credentials -->");
    for name in &names {
        let name = name.replace('*', "x");
        for name in [name.clone(), name.replace('-', "_")] {
            let standard = ["proxy_authorization", "client_cert", "client_cert_chain"];
            if name == "authorization" || name == "cookie" || standard.contains(&&*name) {
                continue;
            }
            for _ in 0..2 {
                let answer = send(&cache, with(get("/"), &name, "somebody")).await;
                let reason = answer.reason();
                let expected = match &*name {
                    "proxy-authorization" => Reason::ProxyAuthorization,
                    _ => Reason::ClientIdentity,
                };
                assert_eq!(reason, Some(expected), "{name}");
            }
        }
    }
    send(&cache, get("/")).await;
    assert!(send(&cache, get("/")).await.is_hit());
}

#[tokio::test]
async fn credentials_of_api_gateways_and_proxies_never_get_another_ones_page() {
    let echo = Origin::new(|request| {
        let headers: HeaderMap = request.headers().clone();
        let told = headers
            .iter()
            .map(|(name, value)| format!("{name}={value:?};"));
        ok(told.collect::<String>())
    });
    let cache = CacheLayer::builder().build().layer(echo);
    for name in [
        "x-consumer-id",
        "x-consumer-custom-id",
        "x-credential-identifier",
        "ocp-apim-subscription-key",
        "x-functions-key",
        "private-token",
        "x-shopify-storefront-access-token",
        "x-vault-token",
        "x-hasura-admin-secret",
        "x-hasura-user-id",
        "x-forwarded-user",
        "x-forwarded-tls-client-cert",
        "x-pomerium-claim-email",
        "dpop",
        "x-some-new-api-key",
        "x-own-assertion",
    ] {
        for user in ["one", "two"] {
            let answer = send(&cache, with(get("/"), name, user)).await;
            assert!(
                answer.text().contains(&format!("{name}=\"{user}\"")),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn forgery_tokens_do_not_split_reads_and_count_where_something_may_change() {
    let origin = Origin::counting(&[]);
    let cache = CacheLayer::builder().build().layer(origin.clone());
    send(&cache, get("/")).await;
    for name in ["x-csrf-token", "x-xsrf-token", "x-csrftoken"] {
        for method in ["GET", "HEAD"] {
            let answer = send(&cache, with(request(method, "/"), name, "t")).await;
            assert!(answer.is_hit(), "{name} {method}");
        }
    }
    let key = Key::new().body(1024);
    let builder = CacheLayer::builder().key(key);
    let search = builder.methods([http::Method::POST]).unwrap().build();
    let search = search.layer(origin);
    for _ in 0..2 {
        let post = with(request("POST", "/s"), "x-csrf-token", "t");
        let answer = send(&search, post).await;
        assert_eq!(answer.reason(), Some(Reason::ClientIdentity));
    }
}

#[tokio::test]
async fn the_application_can_name_identity_headers_and_take_names_out() {
    let origin = Origin::counting(&[]);
    let key = Key::new()
        .identity_headers([name("x-employee")])
        .not_identity_headers([name("x-origin-secret")]);
    let cache = CacheLayer::builder().key(key).build().layer(origin.clone());
    send(&cache, get("/")).await;
    let of_the_cdn = with(get("/"), "x-origin-secret", "s");
    assert!(send(&cache, of_the_cdn).await.is_hit());
    for _ in 0..2 {
        let answer = send(&cache, with(get("/"), "x-employee", "7")).await;
        assert_eq!(answer.reason(), Some(Reason::ClientIdentity));
    }
    let without = CacheLayer::builder().build().layer(origin);
    send(&without, get("/")).await;
    assert!(
        send(&without, with(get("/"), "x-employee", "7"))
            .await
            .is_hit()
    );
    let answer = send(&without, with(get("/"), "x-origin-secret", "s")).await;
    assert_eq!(answer.reason(), Some(Reason::ClientIdentity));
}

#[tokio::test]
async fn a_keyed_identity_header_is_answered_by_the_cache_and_hidden_in_explanations() {
    let origin = Origin::counting(&[]);
    let key = Key::new()
        .identity_headers([name("x-employee")])
        .header(name("x-employee"));
    let layer = CacheLayer::builder().key(key).build();
    let cache = layer.layer(origin);
    let asked = |who| with(get("/"), "x-employee", who);
    send(&cache, asked("secret-7")).await;
    assert!(send(&cache, asked("secret-7")).await.is_hit());
    assert!(!send(&cache, asked("secret-8")).await.is_hit());
    let told = layer.explain(&asked("secret-7").into_parts().0).to_string();
    assert!(
        told.contains("x-employee") && !told.contains("secret-7"),
        "{told}"
    );
}

// Invariant 67.
#[tokio::test]
async fn a_response_with_credentials_or_a_value_for_one_use_is_for_its_requester_alone() {
    let origin = Origin::new(|request| {
        let name: HeaderName = request.uri().path()[1..].parse().unwrap();
        let mut response = with(ok("page"), "cache-control", "public, s-maxage=60");
        let value = match name {
            header::CONTENT_SECURITY_POLICY => "script-src 'nonce-r4nd0m'",
            _ => "r4nd0m",
        };
        response.headers_mut().insert(name, value.parse().unwrap());
        response
    });
    for builder in both_kinds() {
        let layer = builder.build();
        let cache = layer.layer(origin.clone());
        for name in documented("<!-- response credentials -->") {
            let expected = match &*name {
                "content-security-policy" => Reason::CspNonce,
                name if name.contains("csrf") || name.contains("xsrf") => Reason::CsrfToken,
                _ => Reason::ResponseCredentials,
            };
            for _ in 0..2 {
                let answer = send(&cache, get(&format!("/{name}"))).await;
                assert_eq!(answer.reason(), Some(expected), "{name}");
                assert!(answer.header(&name).is_some());
            }
        }
        assert_eq!(layer.handle().stats().entries, 0);
    }
}

// Invariant 67.
#[tokio::test]
async fn followers_do_not_get_a_response_with_credentials() {
    let gate = crate::common::Gate::new();
    let numbers = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let origin = {
        let gate = gate.clone();
        Origin::later(move |_| {
            let (gate, numbers) = (gate.clone(), numbers.clone());
            async move {
                gate.pass().await;
                let number = numbers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                with(ok("page"), "x-csrf-token", &number.to_string())
            }
        })
    };
    let layer = CacheLayer::builder().build();
    let cache = layer.layer(origin.clone());
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { send(&cache, get("/")).await })
        })
        .collect();
    gate.open();
    let mut tokens = Vec::new();
    for answer in asked {
        let answer = answer.await.unwrap();
        tokens.push(answer.header("x-csrf-token").unwrap().to_owned());
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!((tokens.len(), origin.calls()), (8, 8));
}

#[tokio::test]
async fn a_revalidation_that_brings_credentials_ends_the_sharing() {
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut response = with_headers(
            ok("page"),
            &[("cache-control", "max-age=0, public"), ("etag", "\"1\"")],
        );
        if call > 0 {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            let token = call.to_string().parse().unwrap();
            response.headers_mut().insert("x-csrf-token", token);
        }
        response
    });
    let cache = CacheLayer::builder().rfc9111().build().layer(origin);
    send(&cache, get("/")).await;
    for call in ["1", "2"] {
        let answer = send(&cache, get("/")).await;
        assert_eq!(answer.header("x-csrf-token"), Some(call));
    }
}

#[tokio::test]
async fn share_despite_names_the_headers_that_everybody_may_have() {
    let origin = Origin::counting(&[
        ("cache-control", "max-age=60"),
        ("x-session-id", "game-7"),
        ("content-security-policy", "script-src 'nonce-x'"),
    ]);
    for builder in both_kinds() {
        let one = builder.clone().share_despite([name("x-session-id")]);
        let cache = one.build().layer(origin.clone());
        send(&cache, get("/")).await;
        let answer = send(&cache, get("/")).await;
        assert_eq!(answer.reason(), Some(Reason::CspNonce));
        let both = [name("x-session-id"), header::CONTENT_SECURITY_POLICY];
        let cache = builder.share_despite(both).build().layer(origin.clone());
        send(&cache, get("/")).await;
        let answer = send(&cache, get("/")).await;
        assert!(answer.is_hit());
        assert_eq!(answer.header("x-session-id"), Some("game-7"));
    }
}

#[tokio::test]
async fn a_credential_that_the_response_keeps_back_from_caches_does_not_keep_the_rest() {
    let origin = Origin::counting(&[
        ("cache-control", "max-age=60, private=\"x-csrf-token\""),
        ("x-csrf-token", "t"),
    ]);
    let cache = CacheLayer::builder().rfc9111().build().layer(origin);
    assert_eq!(
        send(&cache, get("/")).await.header("x-csrf-token"),
        Some("t")
    );
    let hit = send(&cache, get("/")).await;
    assert!(hit.is_hit());
    assert_eq!(hit.header("x-csrf-token"), None);
}

#[tokio::test]
async fn a_report_only_policy_with_a_nonce_and_a_policy_without_are_stored() {
    for headers in [
        &[(
            "content-security-policy-report-only",
            "script-src 'nonce-x'",
        )],
        &[("content-security-policy", "default-src 'self'")],
    ] {
        let cache = CacheLayer::builder()
            .build()
            .layer(Origin::counting(headers));
        send(&cache, get("/")).await;
        assert!(send(&cache, get("/")).await.is_hit(), "{headers:?}");
    }
}

#[tokio::test]
async fn a_stripped_cookie_does_not_hide_a_token() {
    let origin = Origin::counting(&[("set-cookie", "a=1"), ("x-auth-token", "t")]);
    let builder = CacheLayer::builder().set_cookie(SetCookie::Strip);
    let cache = builder.build().layer(origin);
    let answer = send(&cache, get("/")).await;
    assert_eq!(answer.reason(), Some(Reason::ResponseCredentials));
}

/// What of `X-Forwarded-*` tells where the service is.
const TARGET: [&str; 9] = [
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-forwarded-server-port",
];

#[tokio::test]
async fn what_proxies_tell_of_the_target_is_in_the_key_and_of_themselves_is_not() {
    let origin = Origin::counting(&[]);
    let cache = CacheLayer::builder().build().layer(origin.clone());
    for name in TARGET {
        for value in ["one", "two"] {
            let asked = || with(get("/"), name, value);
            assert!(!send(&cache, asked()).await.is_hit(), "{name}: {value}");
            assert!(send(&cache, asked()).await.is_hit(), "{name}: {value}");
        }
    }
    for forwarded in ["host=one", "host=two", "proto=https"] {
        let asked = || with(get("/"), "forwarded", forwarded);
        assert!(!send(&cache, asked()).await.is_hit(), "{forwarded}");
        assert!(send(&cache, asked()).await.is_hit(), "{forwarded}");
    }
    send(&cache, get("/")).await;
    for name in [
        "x-forwarded-for",
        "x-forwarded-server",
        "x-forwarded-client-ip",
        "x-forwarded-request-id",
        "x-forwarded-tls-version",
        "x-forwarded-tls-cipher",
        "x-forwarded-by",
        "x-forwarded-method",
        "x-forwarded-for-original",
        "x-forwarded-",
    ] {
        for value in ["pod-1", "pod-2"] {
            let answer = send(&cache, with(get("/"), name, value)).await;
            assert!(answer.is_hit(), "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn ignore_forwarded_leaves_out_all_that_proxies_tell_of_the_target() {
    let seen = Origin::new(|request| {
        let names = request.headers().keys().map(HeaderName::as_str);
        ok(names.collect::<Vec<_>>().join(" "))
    });
    let key = Key::new().ignore_forwarded();
    let cache = CacheLayer::builder().key(key.clone()).build();
    let cache = cache.layer(seen.clone());
    send(&cache, get("/")).await;
    for name in TARGET.into_iter().chain(["x-original-host", "x-scheme"]) {
        assert!(
            send(&cache, with(get("/"), name, "x")).await.is_hit(),
            "{name}"
        );
    }
    // What cannot be read does not matter either.
    for forwarded in ["host=a", "host=\"a"] {
        let answer = send(&cache, with(get("/"), "forwarded", forwarded)).await;
        assert!(answer.is_hit(), "{forwarded}");
    }
    let method = with(get("/"), "x-http-method-override", "DELETE");
    assert_eq!(send(&cache, method).await.reason(), Some(Reason::Override));
    let user = with(get("/"), "x-forwarded-user", "u");
    assert_eq!(
        send(&cache, user).await.reason(),
        Some(Reason::ClientIdentity)
    );
    let sealed = CacheLayer::builder().key(key.seal()).build().layer(seen);
    let told = with_headers(
        get("/"),
        &[
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "host=evil"),
        ],
    );
    let answer = send(&sealed, told).await;
    assert!(!answer.text().contains("forwarded"), "{}", answer.text());
}

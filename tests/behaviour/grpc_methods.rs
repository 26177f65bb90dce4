//! Which gRPC calls have a key, and which of them share one.

use http::{HeaderMap, HeaderValue, Request, Response};
use tower::Layer;
use tower_response_cache::{BodyCache, CacheLayer, Forward, Key, Reason, key};

use crate::common::{Body, Origin, chunked, full, request, send, with, with_headers};

const LIMIT: usize = 1024;

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat()
}

fn call(path: &str, message: &[u8]) -> Request<Body> {
    let call = request("POST", path).map(|_| full(framed(0, message)));
    with_headers(
        call,
        &[("content-type", "application/grpc"), ("te", "trailers")],
    )
}

fn origin() -> Origin {
    Origin::new(|_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = chunked(&[&framed(0, b"answer")], Some(trailers));
        with(Response::new(body), "content-type", "application/grpc")
    })
}

fn cache(key: Key<key::Body>, origin: &Origin) -> BodyCache<Origin> {
    CacheLayer::builder().key(key).build().layer(origin.clone())
}

#[tokio::test(start_paused = true)]
async fn without_a_choice_no_method_is_cached() {
    let origin = origin();
    let cache = cache(Key::grpc(LIMIT), &origin);
    for calls in 1..=3 {
        let answer = send(&cache, call("/shop.Shop/Update", b"q")).await;
        assert_eq!(answer.cache().forward(), Some(Forward::Bypass));
        assert_eq!(answer.reason(), Some(Reason::GrpcMethod));
        assert_eq!(origin.calls(), calls);
    }
    assert_eq!(Reason::GrpcMethod.as_str(), "grpc-method");
}

#[tokio::test(start_paused = true)]
async fn the_methods_that_were_chosen_are_cached_and_no_others() {
    let chosen = ["/shop.Shop/Find", "/shop.Shop/List"];
    let cache = cache(Key::grpc(LIMIT).methods(chosen), &origin());
    for path in chosen {
        send(&cache, call(path, b"q")).await;
        assert!(send(&cache, call(path, b"q")).await.is_hit(), "{path}");
    }
    for path in [
        "/shop.Shop/Update",
        "/shop.Shop/find",
        "/shop.Shop/Find/",
        "/shop.Shop/FindAll",
        "/other.Shop/Find",
    ] {
        for _ in 0..2 {
            let answer = send(&cache, call(path, b"q")).await;
            assert_eq!(answer.reason(), Some(Reason::GrpcMethod), "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_methods_are_cached_where_that_is_said() {
    let cache = cache(Key::grpc(LIMIT).all_methods(), &origin());
    for path in ["/shop.Shop/Find", "/other.Other/Any"] {
        send(&cache, call(path, b"q")).await;
        assert!(send(&cache, call(path, b"q")).await.is_hit(), "{path}");
    }
}

// Two servers never share a key.
#[tokio::test(start_paused = true)]
async fn a_call_without_an_authority_bypasses_unless_that_is_not_in_the_key() {
    let nameless = || {
        let mut call = call("/shop.Shop/Find", b"q");
        call.headers_mut().remove("host");
        call
    };
    let keyed = cache(Key::grpc(LIMIT).all_methods(), &origin());
    for _ in 0..2 {
        let answer = send(&keyed, nameless()).await;
        assert_eq!(answer.reason(), Some(Reason::NoAuthority));
    }
    let ignored = cache(Key::grpc(LIMIT).all_methods().ignore_authority(), &origin());
    send(&ignored, nameless()).await;
    assert!(send(&ignored, nameless()).await.is_hit());
}

#[tokio::test(start_paused = true)]
async fn spellings_of_the_type_and_of_the_accepted_encodings_share_an_entry() {
    let cache = cache(Key::grpc(LIMIT).all_methods(), &origin());
    let spelled = |kind: &str, codings: &[&str]| {
        let call = request("POST", "/shop.Shop/Find").map(|_| full(framed(0, b"q")));
        let mut call = with(call, "content-type", kind);
        for codings in codings {
            call = with(call, "grpc-accept-encoding", codings);
        }
        call
    };
    let first = spelled("application/grpc", &["gzip, zstd"]);
    assert!(!send(&cache, first).await.is_hit());
    for (kind, codings) in [
        ("application/grpc+proto", &["gzip, zstd"][..]),
        ("Application/GRPC", &["zstd,gzip"]),
        ("application/grpc", &["identity,gzip,zstd,gzip"]),
        ("application/grpc", &["gzip", "zstd"]),
    ] {
        assert!(
            send(&cache, spelled(kind, codings)).await.is_hit(),
            "{kind} {codings:?}"
        );
    }
    for (kind, codings) in [
        ("application/grpc+json", &["gzip, zstd"][..]),
        ("application/grpc", &["gzip"]),
        ("application/grpc", &[]),
    ] {
        assert!(
            !send(&cache, spelled(kind, codings)).await.is_hit(),
            "{kind} {codings:?}"
        );
    }
    let identity = spelled("application/grpc", &["identity"]);
    assert!(
        send(&cache, identity).await.is_hit(),
        "it is always accepted"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_makes_messages_canonical() {
    let key = Key::grpc(LIMIT)
        .all_methods()
        .canonical_message(|_, message| {
            let mut sorted = message.to_vec();
            sorted.sort_unstable();
            (!message.is_empty()).then_some(sorted)
        });
    let cache = cache(key, &origin());
    let path = "/shop.Shop/Find";
    send(&cache, call(path, b"ab")).await;
    assert!(send(&cache, call(path, b"ba")).await.is_hit());
    assert!(!send(&cache, call(path, b"bb")).await.is_hit());
    let refused = send(&cache, call(path, b"")).await;
    assert_eq!(refused.reason(), Some(Reason::RequestBodyNotKeyed));
    // What is compressed cannot be read.
    let compressed = |message: &[u8]| call(path, b"").map(|_| full(framed(1, message)));
    send(&cache, compressed(b"ab")).await;
    assert!(!send(&cache, compressed(b"ba")).await.is_hit());
}

#[tokio::test(start_paused = true)]
async fn a_purge_by_request_covers_all_messages_of_a_method() {
    let layer = CacheLayer::builder()
        .key(Key::grpc(LIMIT).all_methods())
        .build();
    let cache = layer.layer(origin());
    for (path, message) in [
        ("/shop.Shop/Find", b"a"),
        ("/shop.Shop/Find", b"b"),
        ("/shop.Shop/List", b"a"),
    ] {
        send(&cache, call(path, message)).await;
    }
    let purged = layer
        .handle()
        .purge_request(&call("/shop.Shop/Find", b"").into_parts().0)
        .await;
    assert!(purged.is_ok());
    assert!(!send(&cache, call("/shop.Shop/Find", b"a")).await.is_hit());
    assert!(!send(&cache, call("/shop.Shop/Find", b"b")).await.is_hit());
    assert!(send(&cache, call("/shop.Shop/List", b"a")).await.is_hit());
}

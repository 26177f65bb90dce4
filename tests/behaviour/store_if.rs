//! `store_if`: the application decides by the complete response whether it is stored.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response};
use http_body_util::BodyExt;
use tokio::time::advance;
use tower::Layer;
use tower_response_cache::{CacheLayer, Forward, Key, Reason, Tag, TagHeader};

use crate::common::{
    Body, Gate, Origin, chunked, empty, full, get, ok, request, send, settle, status, streamed,
    with, with_headers,
};

const FAILED: &[u8] = b"errors";

fn is_good(_: &response::Parts, body: &[u8]) -> bool {
    !body.starts_with(FAILED)
}

/// Answers `errors N` while it is switched on, else `data N`.
fn origin(fails: &Arc<AtomicBool>) -> Origin {
    let fails = fails.clone();
    let calls = AtomicUsize::new(0);
    Origin::new(move |_| {
        let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
        let kind = ["data", "errors"][usize::from(fails.load(Ordering::SeqCst))];
        ok(format!("{kind} {number}"))
    })
}

// Invariant 70.
#[tokio::test(start_paused = true)]
async fn a_response_that_is_refused_is_not_stored_and_not_remembered_as_uncacheable() {
    let fails = Arc::new(AtomicBool::new(true));
    let origin = origin(&fails);
    let layer = CacheLayer::builder().store_if(is_good).build();
    let cache = layer.layer(origin.clone());
    for call in ["errors 1", "errors 2"] {
        let answer = send(&cache, get("/p")).await;
        assert_eq!(answer.text(), call);
        assert_eq!(answer.cache().forward(), Some(Forward::UriMiss));
        assert_eq!((answer.reason(), answer.cache().is_stored()), (None, false));
    }
    assert_eq!(layer.handle().stats().entries, 0);
    fails.store(false, Ordering::SeqCst);
    assert_eq!(send(&cache, get("/p")).await.text(), "data 3");
    let hit = send(&cache, get("/p")).await;
    assert!(hit.is_hit() && hit.text() == "data 3", "{hit:?}");
}

// Invariants 12, 70: it decides on storing alone.
#[tokio::test(start_paused = true)]
async fn followers_share_a_response_that_is_refused() {
    for length_is_known in [true, false] {
        let gate = Gate::new();
        let at = gate.clone();
        let origin = Origin::later(move |_| {
            let gate = at.clone();
            async move {
                gate.pass().await;
                let whole = ok(FAILED);
                whole.map(|body| {
                    if length_is_known {
                        body
                    } else {
                        chunked(&[FAILED], None)
                    }
                })
            }
        });
        let layer = CacheLayer::builder().store_if(is_good).build();
        let cache = layer.layer(origin.clone());
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let cache = cache.clone();
                tokio::spawn(async move { send(&cache, get("/p")).await })
            })
            .collect();
        gate.arrival().await;
        settle().await;
        gate.open();
        for client in clients {
            assert_eq!(client.await.unwrap().text(), "errors");
        }
        assert_eq!(origin.calls(), 1);
        send(&cache, get("/p")).await;
        assert_eq!(origin.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn it_sees_the_head_as_it_came_and_the_complete_body_once() {
    type Seen = Vec<(response::Parts, Vec<u8>)>;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let notes = seen.clone();
    let origin = Origin::new(|_| {
        let lines = [("surrogate-key", "a b"), ("x-request-id", "7")];
        let mut response = with_headers(Response::new(chunked(&[b"one", b"two"], None)), &lines);
        response.extensions_mut().insert(7_u8);
        response
    });
    let layer = CacheLayer::builder()
        .tag_header(TagHeader::SURROGATE_KEY.strip())
        .store_if(move |head, body| {
            notes.lock().unwrap().push((head.clone(), body.to_vec()));
            true
        })
        .build();
    let cache = layer.layer(origin);
    for _ in 0..2 {
        let answer = send(&cache, get("/p")).await;
        assert_eq!(
            (answer.text(), answer.header("surrogate-key")),
            ("onetwo", None)
        );
    }
    let seen = seen.lock().unwrap();
    let [(head, body)] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!((head.status, &body[..]), (StatusCode::OK, &b"onetwo"[..]));
    assert_eq!(head.headers["surrogate-key"], "a b");
    assert_eq!(head.headers["x-request-id"], "7");
    assert_eq!(head.extensions.get(), Some(&7_u8));
}

#[tokio::test(start_paused = true)]
async fn it_is_not_asked_about_what_is_not_stored_anyway() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let layer = CacheLayer::builder()
        .max_body_bytes(8)
        .store_if(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            true
        })
        .build();
    let cut = Origin::new(|_| {
        let (chunks, body) = streamed();
        chunks.send("abc");
        let _ = chunks.fail("broken");
        Response::new(body)
    });
    let cache = layer.layer(cut);
    let response = crate::common::head(&cache, get("/cut")).await;
    assert!(response.into_body().collect().await.is_err());
    let private = Origin::new(|_| with(ok("1"), "cache-control", "private"));
    send(&layer.layer(private), get("/private")).await;
    let failed = Origin::new(|_| status(StatusCode::BAD_GATEWAY));
    send(&layer.layer(failed), get("/failed")).await;
    let long = Origin::new(|_| Response::new(chunked(&[b"12345", b"67890"], None)));
    send(&layer.layer(long), get("/long")).await;
    settle().await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

// Invariants 16, 70: a refresh that brings a failure inside a 200 takes nothing away.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_refused_leaves_the_stored_response_in_place() {
    let fails = Arc::new(AtomicBool::new(false));
    let origin = origin(&fails);
    let layer = CacheLayer::builder()
        .ttl(Duration::from_secs(10))
        .stale_while_revalidate(Duration::from_secs(600))
        .retry_after(Duration::from_secs(30))
        .store_if(is_good)
        .build();
    let cache = layer.layer(origin.clone());
    send(&cache, get("/p")).await;
    fails.store(true, Ordering::SeqCst);
    advance(Duration::from_secs(11)).await;
    for _ in 0..3 {
        let stale = send(&cache, get("/p")).await;
        assert!(
            stale.cache().is_stale() && stale.text() == "data 1",
            "{stale:?}"
        );
        settle().await;
    }
    assert_eq!(origin.calls(), 2, "the next attempt is put off");
    fails.store(false, Ordering::SeqCst);
    advance(Duration::from_secs(60)).await;
    assert_eq!(send(&cache, get("/p")).await.text(), "data 1");
    settle().await;
    let hit = send(&cache, get("/p")).await;
    assert!(!hit.cache().is_stale() && hit.text() == "data 3", "{hit:?}");
}

// Invariant 70.
#[tokio::test(start_paused = true)]
async fn a_reload_that_is_refused_leaves_the_stored_response_in_place() {
    let fails = Arc::new(AtomicBool::new(false));
    let control = |response| with(response, "cache-control", "max-age=60");
    let inner = origin(&fails);
    let origin = tower::ServiceBuilder::new()
        .map_response(control)
        .service(inner);
    let layer = CacheLayer::builder().rfc9111().store_if(is_good).build();
    let cache = layer.layer(origin);
    send(&cache, get("/p")).await;
    fails.store(true, Ordering::SeqCst);
    let reload = with(get("/p"), "cache-control", "no-cache");
    assert_eq!(send(&cache, reload).await.text(), "errors 2");
    let hit = send(&cache, get("/p")).await;
    assert!(hit.is_hit() && hit.text() == "data 1", "{hit:?}");
}

#[tokio::test(start_paused = true)]
async fn a_304_is_decided_by_the_updated_head_and_the_stored_body() {
    let origin = Origin::new(|request| {
        if request.headers().contains_key(header::IF_NONE_MATCH) {
            let unchanged = status(StatusCode::NOT_MODIFIED).map(|_| empty());
            return with(unchanged, "x-partial", "1");
        }
        with(ok("data"), "etag", "\"1\"")
    });
    let layer = CacheLayer::builder()
        .ttl(Duration::from_secs(10))
        .store_if(|head, body| body == b"data" && !head.headers.contains_key("x-partial"))
        .build();
    let cache = layer.layer(origin.clone());
    send(&cache, get("/p")).await;
    for calls in [2, 3] {
        advance(Duration::from_secs(11)).await;
        let validated = send(&cache, get("/p")).await;
        assert_eq!((validated.text(), validated.is_hit()), ("data", false));
        assert_eq!(origin.calls(), calls);
    }
}

// Invariant 70: a panic is a refusal with a reason of its own.
#[tokio::test(start_paused = true)]
async fn a_panic_is_a_refusal_that_is_remembered_with_its_reason() {
    let origin = Origin::counting(&[]);
    let layer = CacheLayer::builder()
        .store_if(|_, _| panic!("of the application"))
        .build();
    let cache = layer.layer(origin.clone());
    assert_eq!(send(&cache, get("/p")).await.text(), "1");
    let explained = layer.explain(&get("/p").into_parts().0);
    let reason = Reason::StoreIfPanicked;
    assert!(
        explained.to_string().contains(reason.as_str()),
        "{explained}"
    );
    assert_eq!(send(&cache, get("/p")).await.text(), "2");
    assert_eq!(layer.handle().stats().entries, 0);
}

/// A gRPC message with its prefix.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat()
}

#[tokio::test(start_paused = true)]
async fn of_a_grpc_response_it_sees_the_message() {
    let origin = Origin::new(|request: http::Request<Body>| {
        let message = if request.uri().path() == "/shop.Shop/Find" {
            "data"
        } else {
            "errors"
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = chunked(&[&framed(message.as_bytes())], Some(trailers));
        with(Response::new(body), "content-type", "application/grpc")
    });
    let layer = CacheLayer::builder()
        .key(Key::grpc(1024).all_methods())
        .store_if(is_good)
        .build();
    let cache = layer.layer(origin);
    let call = |path: &str| {
        let call = request("POST", path).map(|_| full(framed(b"q")));
        with_headers(
            call,
            &[("content-type", "application/grpc"), ("te", "trailers")],
        )
    };
    for (path, is_stored) in [("/shop.Shop/Find", true), ("/shop.Shop/Fail", false)] {
        send(&cache, call(path)).await;
        assert_eq!(send(&cache, call(path)).await.is_hit(), is_stored, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_refreshes_brings_nothing_that_is_refused() {
    let fails = Arc::new(AtomicBool::new(false));
    let layer = CacheLayer::builder()
        .tag_requests(|_| [Tag::new("page")].into_iter().collect())
        .store_if(is_good)
        .refreshable()
        .build();
    let cache = layer.layer(origin(&fails));
    send(&cache, get("/p")).await;
    fails.store(true, Ordering::SeqCst);
    let purged = layer.handle().purge(Tag::new("page")).refresh().await;
    assert!(purged.is_ok());
    assert_eq!(send(&cache, get("/p")).await.text(), "errors 3");
}

/// The recipes of the README and of the guide.
#[cfg(feature = "json")]
mod recipes {
    use http::Method;
    use serde_json::Value;
    use tower_response_cache::BodyCacheLayer;

    use super::*;

    fn graphql(_: &response::Parts, body: &[u8]) -> bool {
        serde_json::from_slice::<Value>(body).is_ok_and(|answer| answer.get("errors").is_none())
    }

    fn search(_: &response::Parts, body: &[u8]) -> bool {
        serde_json::from_slice::<Value>(body)
            .is_ok_and(|found| found["timed_out"] == false && found["_shards"]["failed"] == 0)
    }

    fn json_rpc(_: &response::Parts, body: &[u8]) -> bool {
        serde_json::from_slice::<Value>(body).is_ok_and(|answer| answer.get("error").is_none())
    }

    fn layer(
        store_if: fn(&response::Parts, &[u8]) -> bool,
        key: Key<tower_response_cache::key::Body>,
    ) -> BodyCacheLayer {
        let layer = CacheLayer::builder()
            .key(key)
            .methods([Method::GET, Method::POST])
            .unwrap();
        layer.store_if(store_if).build()
    }

    fn post(kind: &str, body: &'static str) -> http::Request<Body> {
        with(
            request("POST", "/api").map(|_| full(body)),
            "content-type",
            kind,
        )
    }

    // Invariant 70.
    #[tokio::test(start_paused = true)]
    async fn a_failure_inside_a_200_is_not_stored() {
        type Recipe = fn(&response::Parts, &[u8]) -> bool;
        let rows: [(Recipe, &str, bool); 8] = [
            (graphql, r#"{"data":{"likes":1}}"#, true),
            (
                graphql,
                r#"{"data":null,"errors":[{"message":"no"}]}"#,
                false,
            ),
            (graphql, "{", false),
            (
                search,
                r#"{"timed_out":false,"_shards":{"total":1,"failed":0},"hits":{}}"#,
                true,
            ),
            (
                search,
                r#"{"timed_out":true,"_shards":{"total":1,"failed":0},"hits":{}}"#,
                false,
            ),
            (
                search,
                r#"{"timed_out":false,"_shards":{"total":2,"failed":1},"hits":{}}"#,
                false,
            ),
            (json_rpc, r#"{"jsonrpc":"2.0","id":1,"result":7}"#, true),
            (
                json_rpc,
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000}}"#,
                false,
            ),
        ];
        for (recipe, answer, is_stored) in rows {
            let cache =
                layer(recipe, Key::new().json_body(1024)).layer(Origin::new(move |_| ok(answer)));
            send(&cache, post("application/json", "{}")).await;
            let again = send(&cache, post("application/json", "{}")).await;
            assert_eq!(again.is_hit(), is_stored, "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_differ_in_a_member_that_is_left_out_are_one_entry() {
        let key = Key::new().json_body_except(1024, ["requestId"]);
        let cache = layer(|_, _| true, key).layer(Origin::counting(&[]));
        let json = "application/json";
        let first = send(&cache, post(json, r#"{"q":"tea","requestId":1}"#)).await;
        assert_eq!(first.text(), "1");
        for body in [r#"{"requestId":"b","q":"tea"}"#, r#"{"q":"tea"}"#] {
            assert!(send(&cache, post(json, body)).await.is_hit(), "{body}");
        }
        for body in [
            r#"{"q":"coffee","requestId":1}"#,
            r#"{"q":{"requestId":1}}"#,
        ] {
            assert!(!send(&cache, post(json, body)).await.is_hit(), "{body}");
        }
    }

    // Invariant 10.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_not_json_bypasses_a_json_key() {
        let origin = Origin::counting(&[]);
        let cache = layer(|_, _| true, Key::new().json_body(1024)).layer(origin.clone());
        for (kind, body) in [
            ("application/x-www-form-urlencoded", "a=1"),
            ("multipart/form-data; boundary=b", "--b\r\n\r\n1\r\n--b--"),
            ("text/plain", "{}"),
            ("application/octet-stream", "{}"),
        ] {
            for _ in 0..2 {
                let answer = send(&cache, post(kind, body)).await;
                assert_eq!(answer.cache().forward(), Some(Forward::Bypass), "{kind}");
                assert_eq!(answer.reason(), Some(Reason::RequestBodyNotKeyed), "{kind}");
            }
        }
        let untyped = request("POST", "/api").map(|_| full("{}"));
        assert_eq!(
            send(&cache, untyped).await.reason(),
            Some(Reason::RequestBodyNotKeyed)
        );
        // No body is none that could be anything else.
        assert_eq!(
            send(&cache, get("/api")).await.cache().forward(),
            Some(Forward::UriMiss)
        );
        assert!(send(&cache, get("/api")).await.is_hit());
        assert_eq!(origin.calls(), 10);
    }
}

// Invariants 61, 70.
#[tokio::test(start_paused = true)]
async fn a_page_of_a_part_that_is_refused_is_shared_and_not_stored_either() {
    let fails = Arc::new(AtomicBool::new(true));
    let handle = tower_response_cache::CacheHandle::builder().build();
    let builder = || CacheLayer::builder().handle(&handle);
    let part = builder().store_if(is_good).build().layer(origin(&fails));
    let pages = Origin::later(move |_| {
        let part = part.clone();
        async move {
            ok(format!(
                "page of {}",
                send(&part, get("/part")).await.text()
            ))
        }
    });
    let page = builder().build().layer(pages.clone());
    for text in ["page of errors 1", "page of errors 2"] {
        let answer = send(&page, get("/")).await;
        assert_eq!((answer.text(), answer.is_hit()), (text, false));
        settle().await;
    }
    assert_eq!(handle.stats().entries, 0);
    fails.store(false, Ordering::SeqCst);
    assert_eq!(send(&page, get("/")).await.text(), "page of data 3");
    settle().await;
    assert!(send(&page, get("/")).await.is_hit());
    assert_eq!(pages.calls(), 3);
}

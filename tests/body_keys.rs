//! Keys that read the request's body: searches, questions and queries over a real server, everything else in process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "fits/support.rs"]
#[allow(dead_code, reason = "only what asks over a socket is used")]
mod support;

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{Router, extract::State, routing::any};
use bytes::Bytes;
use common::{
    Body, Broken, Gate, Origin, boxed, chunked, endless, eventually, full, ok, request, send,
    settle, status, streamed, until, with, with_headers, within,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use support::{Serving, ask, client, in_time};
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    BodyCache, BodyCacheLayer, CacheHandle, CacheLayer, CacheLayerBuilder, FillMode, Key, Reason,
    ReplayBody, key,
};

const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: usize = 1024;
const MAX_KEY_BYTES: usize = 512;
const NOT_KEYED: &str = "detail=request-body-not-keyed";

fn builder(key: Key<key::Body>, methods: &[Method]) -> CacheLayerBuilder<key::Body> {
    let builder = CacheLayer::builder().key(key).ttl(MINUTE);
    builder.methods(methods.iter().cloned()).unwrap()
}

/// Of the bodies of POST.
fn cached(origin: &Origin) -> (BodyCache<Origin>, CacheHandle) {
    of(
        builder(Key::new().body(LIMIT), &[Method::POST]).build(),
        origin,
    )
}

fn of(layer: BodyCacheLayer, origin: &Origin) -> (BodyCache<Origin>, CacheHandle) {
    let handle = layer.handle();
    (layer.layer(origin.clone()), handle)
}

fn asking(method: &str, uri: &str, body: Body) -> Request<Body> {
    request(method, uri).map(|_| body)
}

fn post(body: impl Into<Bytes>) -> Request<Body> {
    asking("POST", "/search", full(body))
}

/// Answers with method, body, and how many calls there were; to a body that breaks, that it did.
fn echo() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::later(move |request| {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let method = request.method().clone();
            let Ok(body) = request.into_body().collect().await else {
                return status(StatusCode::BAD_REQUEST);
            };
            let body = body.to_bytes();
            ok(format!(
                "{method} {} {call}",
                String::from_utf8_lossy(&body)
            ))
        }
    })
}

// ---- over a real server: searches

/// As much of a search engine as it takes.
#[cfg(feature = "json")]
mod elasticsearch {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        Router,
        extract::{Path, State},
        routing::{post, put},
    };
    use bytes::Bytes;
    use http::{Method, Request, StatusCode};
    use http_body_util::Full;
    use serde_json::{Value, json};
    use tower_response_cache::{CacheHandle, Key, TagFamily, scope};

    use crate::{
        builder,
        support::{Answer, Serving, ask, client},
    };

    const INDEX: TagFamily<str> = TagFamily::new("index");
    const JSON: &str = "application/json";
    const NDJSON: &str = "application/x-ndjson";

    #[derive(Debug, Clone)]
    struct Engine {
        documents: Arc<Mutex<Vec<(String, Value)>>>,
        calls: Arc<AtomicUsize>,
        cache: CacheHandle,
    }

    impl Engine {
        fn hits(&self, index: &str, search: &Value) -> Value {
            let word = search["query"]["match"]["title"].as_str().unwrap_or("");
            let number = |name: &str, otherwise| search[name].as_u64().unwrap_or(otherwise);
            let documents = self.documents.lock().unwrap();
            let found = documents.iter().filter(|(of, document)| {
                of == index && document["title"].as_str().unwrap().contains(word)
            });
            let found: Vec<_> = found
                .map(|(_, document)| document.clone())
                .skip(usize::try_from(number("from", 0)).unwrap())
                .take(usize::try_from(number("size", 10)).unwrap())
                .collect();
            json!({ "hits": found })
        }

        fn put(&self, index: &str, id: &str, title: &str) {
            let mut documents = self.documents.lock().unwrap();
            documents.push((index.to_owned(), json!({ "id": id, "title": title })));
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    /// What is no JSON comes back as it came.
    async fn search(
        State(engine): State<Engine>,
        Path(index): Path<String>,
        body: Bytes,
    ) -> (StatusCode, Bytes) {
        engine.calls.fetch_add(1, Ordering::SeqCst);
        scope::tag(INDEX.tag(&*index));
        match serde_json::from_slice(&body) {
            Ok(search) => (
                StatusCode::OK,
                engine.hits(&index, &search).to_string().into(),
            ),
            Err(_) => (StatusCode::BAD_REQUEST, body),
        }
    }

    /// Each second line is a search.
    async fn several(
        State(engine): State<Engine>,
        Path(index): Path<String>,
        body: String,
    ) -> String {
        engine.calls.fetch_add(1, Ordering::SeqCst);
        scope::tag(INDEX.tag(&*index));
        let searches = body.lines().skip(1).step_by(2);
        let found = searches.map(|line| engine.hits(&index, &serde_json::from_str(line).unwrap()));
        Value::Array(found.collect()).to_string()
    }

    async fn store(
        State(engine): State<Engine>,
        Path((index, id)): Path<(String, String)>,
        body: Bytes,
    ) -> StatusCode {
        let document: Value = serde_json::from_slice(&body).unwrap();
        engine.put(&index, &id, document["title"].as_str().unwrap());
        let _ = engine.cache.purge(INDEX.tag(&*index)).await.unwrap();
        StatusCode::CREATED
    }

    async fn started() -> (Serving, Engine) {
        let key = Key::new().json_body(64 * 1024);
        let layer = builder(key, &[Method::GET, Method::POST]).build();
        let engine = Engine {
            documents: Arc::default(),
            calls: Arc::default(),
            cache: layer.handle(),
        };
        for (id, title) in [("1", "green tea"), ("2", "black tea"), ("3", "coffee")] {
            engine.put("shop", id, title);
        }
        engine.put("blog", "1", "on tea");
        let router = Router::new()
            .route("/{index}/_search", post(search).get(search))
            .route("/{index}/_msearch", post(several))
            .route("/{index}/_doc/{id}", put(store))
            .layer(layer)
            .with_state(engine.clone());
        (Serving::router(router).await, engine)
    }

    async fn said(server: &Serving, method: &str, path: &str, kind: &str, text: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(server.uri(path))
            .header("content-type", kind)
            .body(Full::new(Bytes::copy_from_slice(text.as_bytes())))
            .unwrap();
        ask(&client(), request).await
    }

    fn right(engine: &Engine, index: &str, search: &str) -> String {
        engine
            .hits(index, &serde_json::from_str(search).unwrap())
            .to_string()
    }

    // Invariants 9, 12, 13.
    #[tokio::test]
    async fn a_search_is_one_entry_however_its_json_is_spelled() {
        let (server, engine) = started().await;
        let searches = [
            (
                r#"{"query":{"match":{"title":"tea"}},"size":2,"from":0}"#,
                false,
            ),
            (
                "{ \"from\" : 0,\r\n\t\"size\":2, \"query\": {\"match\": {\"title\":\"tea\"} } }\n",
                true,
            ),
            (
                r#"{"from":0,"query":{"match":{"title":"tea"}},"size":2}"#,
                true,
            ),
            (
                r#"{"query":{"match":{"title":"tea"}},"size":1,"from":0}"#,
                false,
            ),
            (
                r#"{"query":{"match":{"title":"tea"}},"size":2,"from":1}"#,
                false,
            ),
            (r#"{"query":{"match":{"title":"tea"}},"size":2}"#, false),
            (
                r#"{"query":{"match":{"title":"coffee"}},"size":2,"from":0}"#,
                false,
            ),
            (
                r#"{"size":1,"from":0,"query":{"match":{"title":"tea"}}}"#,
                true,
            ),
        ];
        for method in ["GET", "POST"] {
            for (text, is_hit) in searches {
                let answer = said(&server, method, "/shop/_search", JSON, text).await;
                assert_eq!(answer.body, right(&engine, "shop", text), "{text}");
                assert_eq!(answer.is_hit(), is_hit, "{method} {text}");
            }
        }
        assert_eq!(engine.calls(), 10);
    }

    // Invariant 10.
    #[tokio::test]
    async fn what_readers_may_take_differently_is_never_one_search() {
        let (server, engine) = started().await;
        let texts = [
            r#"{"size":1}"#,
            r#"{"size":1.0}"#,
            r#"{"size":1e0}"#,
            r#"{"size":"1"}"#,
            r#"{"size":-0}"#,
            r#"{"size":1,"size":2}"#,
            r#"{"size":2,"size":1}"#,
            r#"{"size":1,"\u0073ize":2}"#,
            r#"{"size":1,"size":1}"#,
            r#"{ "size":1,"size":1}"#,
            r#"{"a":[1,2],"size":1}"#,
            r#"{"a":[2,1],"size":1}"#,
        ];
        for is_hit in [false, true] {
            for text in texts {
                let answer = said(&server, "POST", "/shop/_search", JSON, text).await;
                assert_eq!(answer.is_hit(), is_hit, "{text}");
                assert_eq!(answer.body, right(&engine, "shop", text), "{text}");
            }
        }
        assert_eq!(engine.calls(), texts.len());
    }

    // Invariants 36, 43.
    #[tokio::test]
    async fn a_document_that_is_put_makes_the_searches_of_its_index_fresh() {
        let (server, engine) = started().await;
        let searches = [
            r#"{"query":{"match":{"title":"tea"}}}"#,
            r#"{"size":1}"#,
            "{}",
        ];
        for round in 0..3 {
            for is_hit in [false, true] {
                for text in searches {
                    let answer = said(&server, "POST", "/shop/_search", JSON, text).await;
                    assert_eq!(answer.is_hit(), is_hit, "{text}");
                    assert_eq!(answer.body, right(&engine, "shop", text));
                    let other = said(&server, "POST", "/blog/_search", JSON, text).await;
                    assert_eq!(other.is_hit(), is_hit || round > 0, "of another index");
                }
            }
            let path = format!("/shop/_doc/{}", 4 + round);
            let put = said(&server, "PUT", &path, JSON, r#"{"title":"white tea"}"#).await;
            assert_eq!((put.status, put.is_hit()), (201, false));
        }
    }

    // Invariants 9, 10.
    #[tokio::test]
    async fn several_searches_in_one_body_are_keyed_byte_for_byte() {
        let (server, engine) = started().await;
        let texts = [
            "{}\n{\"size\":1}\n{}\n{\"size\":2}\n",
            "{}\n{\"size\":2}\n{}\n{\"size\":1}\n",
            "{}\n{ \"size\":1}\n{}\n{\"size\":2}\n",
            "{}\n{\"size\":1}\n",
        ];
        let mut first = Vec::new();
        for text in texts {
            let answer = said(&server, "POST", "/shop/_msearch", NDJSON, text).await;
            assert_eq!((answer.status, answer.is_hit()), (200, false));
            first.push(answer.body);
        }
        for (text, first) in texts.into_iter().zip(&first) {
            let answer = said(&server, "POST", "/shop/_msearch", NDJSON, text).await;
            assert_eq!((&answer.body, answer.is_hit()), (first, true));
        }
        assert_ne!(first[0], first[1]);
        assert_eq!(engine.calls(), texts.len());
    }

    // Invariants 10, 22.
    #[tokio::test]
    async fn a_broken_search_reaches_the_handler_as_it_is_and_is_not_stored() {
        let (server, engine) = started().await;
        let texts = [
            "{",
            "{'size':1}",
            "{\"size\":1,}",
            "{} {}",
            "",
            "\u{feff}{}",
        ];
        for text in texts {
            for _ in 0..2 {
                let answer = said(&server, "POST", "/shop/_search", JSON, text).await;
                assert_eq!((answer.status, answer.is_hit()), (400, false), "{text}");
                assert_eq!(answer.body, text);
            }
        }
        assert_eq!(engine.calls(), 2 * texts.len());
        assert_eq!(engine.cache.stats().entries, 0);
    }
}

// ---- over a real server: questions and changes by one method and path

#[cfg(feature = "json")]
mod graphql {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        Router,
        extract::{RawQuery, State},
        routing::get,
    };
    use bytes::Bytes;
    use http::{Method, Request, StatusCode, request::Parts};
    use http_body_util::Full;
    use serde_json::{Value, json};
    use tower_response_cache::Key;

    use crate::{
        NOT_KEYED, builder,
        support::{Answer, Serving, ask, client},
    };

    /// Nobody's document here names a field so.
    fn changes(document: &str) -> bool {
        document.contains("mutation") || document.contains("subscription")
    }

    /// A GET may not change anything, by GraphQL over HTTP; a body that is not one question is let pass by.
    fn only_asks(parts: &Parts, body: &[u8]) -> bool {
        if parts.method == Method::GET {
            return body.is_empty();
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        request["query"]
            .as_str()
            .is_some_and(|document| !changes(document))
    }

    #[derive(Debug, Clone, Default)]
    struct Likes {
        likes: Arc<AtomicUsize>,
        calls: Arc<AtomicUsize>,
    }

    impl Likes {
        fn execute(&self, request: &Value) -> Value {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let added = usize::from(changes(request["query"].as_str().unwrap_or_default()));
            let likes = self.likes.fetch_add(added, Ordering::SeqCst) + added;
            let [variables, name] = ["variables", "operationName"].map(|name| &request[name]);
            json!({ "likes": likes, "variables": variables, "operationName": name })
        }
    }

    async fn posted(State(likes): State<Likes>, body: Bytes) -> String {
        match serde_json::from_slice(&body).unwrap() {
            Value::Array(batch) => batch
                .iter()
                .map(|one| likes.execute(one).to_string())
                .collect(),
            one => likes.execute(&one).to_string(),
        }
    }

    async fn got(State(likes): State<Likes>, RawQuery(query): RawQuery) -> (StatusCode, String) {
        let document = query.unwrap_or_default();
        if changes(&document) {
            return (StatusCode::METHOD_NOT_ALLOWED, String::new());
        }
        (
            StatusCode::OK,
            likes.execute(&json!({ "query": document })).to_string(),
        )
    }

    async fn started() -> (Serving, Likes) {
        let key = Key::new().json_body(64 * 1024).only_if(only_asks);
        let layer = builder(key, &[Method::GET, Method::POST]).build();
        let likes = Likes::default();
        let router = Router::new()
            .route("/graphql", get(got).post(posted))
            .layer(layer)
            .with_state(likes.clone());
        (Serving::router(router).await, likes)
    }

    async fn said(server: &Serving, text: &str) -> Answer {
        let request = Request::post(server.uri("/graphql"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::copy_from_slice(text.as_bytes())))
            .unwrap();
        ask(&client(), request).await
    }

    // Invariants 9, 12.
    #[tokio::test]
    async fn a_question_is_one_entry_by_document_variables_and_name() {
        let (server, likes) = started().await;
        let questions = [
            (r#"{"query":"{ likes }"}"#, false),
            (r#"{ "query" : "{ likes }" }"#, true),
            (r#"{"query":"{  likes }"}"#, false),
            (
                r#"{"query":"query A($a:Int,$b:Int){likes}","variables":{"a":1,"b":2}}"#,
                false,
            ),
            (
                r#"{"variables":{"b":2,"a":1},"query":"query A($a:Int,$b:Int){likes}"}"#,
                true,
            ),
            (
                r#"{"query":"query A($a:Int,$b:Int){likes}","variables":{"a":2,"b":1}}"#,
                false,
            ),
            (
                r#"{"query":"query A{likes} query B{likes}","operationName":"A"}"#,
                false,
            ),
            (
                r#"{"query":"query A{likes} query B{likes}","operationName":"B"}"#,
                false,
            ),
            (
                r#"{"operationName":"A","query":"query A{likes} query B{likes}"}"#,
                true,
            ),
        ];
        for (text, is_hit) in questions {
            let answer = said(&server, text).await;
            assert_eq!((answer.status, answer.is_hit()), (200, is_hit), "{text}");
            let [asked, told]: [Value; 2] =
                [text.as_bytes(), &answer.body].map(|json| serde_json::from_slice(json).unwrap());
            for name in ["variables", "operationName"] {
                assert_eq!(asked[name], told[name], "{text}");
            }
        }
        assert_eq!(likes.calls.load(Ordering::SeqCst), 6);
    }

    // Invariants 5, 12.
    #[tokio::test]
    async fn what_changes_something_is_executed_each_time_however_it_is_spelled() {
        let (server, likes) = started().await;
        let changes = [
            r#"{"query":"mutation { like }"}"#,
            r#"{"query":"\u006dutation { like }"}"#,
            r#"{"query":"mut\u0061tion { like }","variables":{}}"#,
            r#"{"\u0071uery":"mutation { like }"}"#,
            r#"{"query":"query A { likes } mutation B { like }","operationName":"B"}"#,
            r#"{"query":"\ufeff# a comment\n mutation{like}"}"#,
            r#"{"query":"subscription { likes }"}"#,
            r#"{"query":"\u0073ubscription { likes }"}"#,
            r#"{"query":"{ likes }","query":"mutation { like }"}"#,
            r#"[{"query":"mutation { like }"}]"#,
        ];
        for (nth, text) in changes.into_iter().enumerate() {
            for again in 1..=3 {
                let answer = said(&server, text).await;
                let detail = answer.header("cache-status").unwrap();
                assert!(detail.ends_with(NOT_KEYED), "{text}: {detail}");
                let likes = likes.likes.load(Ordering::SeqCst);
                assert_eq!(likes, 3 * nth + again, "{text}");
            }
        }
    }

    // Invariant 12.
    #[tokio::test]
    async fn a_question_by_get_is_cached_by_its_query_and_a_change_by_get_is_refused_each_time() {
        let (server, likes) = started().await;
        let got = async |query: &str| {
            let uri = server.uri(&format!("/graphql?query={query}"));
            ask(&client(), Request::get(uri).body(Full::default()).unwrap()).await
        };
        for is_hit in [false, true] {
            for query in ["%7Blikes%7D", "%7B%20likes%7D"] {
                let answer = got(query).await;
                assert_eq!((answer.status, answer.is_hit()), (200, is_hit));
            }
            let refused = got("mutation%7Blike%7D").await;
            assert_eq!((refused.status, refused.is_hit()), (405, false));
        }
        let posted = said(&server, r#"{"query":"{likes}"}"#).await;
        assert!(!posted.is_hit(), "what was asked by GET answers no POST");
        assert_eq!(likes.calls.load(Ordering::SeqCst), 3);
    }
}

// ---- over a real server: QUERY

/// Answers with all that it was asked, and how many calls there were.
async fn all_of_it(
    State(calls): State<Arc<AtomicUsize>>,
    request: Request<axum::body::Body>,
) -> String {
    let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let said = |name| parts.headers.get(name).cloned();
    let [kind, coding] = [header::CONTENT_TYPE, header::CONTENT_ENCODING].map(said);
    let body = String::from_utf8_lossy(&body);
    format!(
        "{} {kind:?} {coding:?} {} {body} {call}",
        parts.method, parts.uri
    )
}

async fn answers_queries() -> (Serving, Arc<AtomicUsize>, CacheHandle) {
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::QUERY];
    let layer = builder(Key::new().body(LIMIT), &methods).build();
    let (handle, calls) = (layer.handle(), Arc::<AtomicUsize>::default());
    let router = Router::new().fallback(any(all_of_it)).layer(layer);
    (
        Serving::router(router.with_state(calls.clone())).await,
        calls,
        handle,
    )
}

/// Method, path, type, coding, body.
type Queried = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

fn queried(server: &Serving, (method, path, kind, coding, body): Queried) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(server.uri(path))
        .body(Full::new(body.into()))
        .unwrap();
    let headers = [("content-type", kind), ("content-encoding", coding)];
    let said: Vec<_> = headers
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    with_headers(request, &said)
}

// Invariants 7, 9, 12, 13.
#[tokio::test]
async fn a_query_is_what_its_method_target_type_coding_and_body_are() {
    let (server, calls, _) = answers_queries().await;
    let asked: &[Queried] = &[
        ("QUERY", "/q", "text/plain", "", "a"),
        ("QUERY", "/q", "text/plain", "", "b"),
        ("QUERY", "/q", "text/plain", "", ""),
        ("QUERY", "/q", "application/sql", "", "a"),
        ("QUERY", "/q", "", "", "a"),
        ("QUERY", "/q", "text/plain", "gzip", "a"),
        ("QUERY", "/q", "text/plain", "identity", "a"),
        ("QUERY", "/q?a", "text/plain", "", "a"),
        ("QUERY", "/r", "text/plain", "", "a"),
        ("GET", "/q", "text/plain", "", "a"),
        ("GET", "/q", "text/plain", "", ""),
        ("POST", "/q", "text/plain", "", "a"),
        ("POST", "/q", "text/plain", "", ""),
    ];
    let mut first = Vec::new();
    for &asked in asked {
        let answer = ask(&client(), queried(&server, asked)).await;
        assert_eq!((answer.status, answer.is_hit()), (200, false), "{asked:?}");
        first.push(answer.body);
    }
    for (&asked, first) in asked.iter().zip(&first) {
        let answer = ask(&client(), queried(&server, asked)).await;
        assert_eq!((&answer.body, answer.is_hit()), (first, true), "{asked:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), asked.len());
}

// Invariants 12, 48.
#[tokio::test]
async fn a_real_body_over_the_limit_arrives_whole_each_time() {
    let (server, calls, handle) = answers_queries().await;
    for size in [LIMIT + 1, 100_000, 1_500_000] {
        for method in ["QUERY", "POST", "GET"] {
            for is_known in [true, false] {
                let text = vec![b'x'; size];
                let chunks: Vec<_> = text.chunks(10_000).collect();
                let body = if is_known {
                    full(text.clone())
                } else {
                    chunked(&chunks, None)
                };
                let mut asked = Request::builder().method(method).uri(server.uri("/q"));
                if !is_known {
                    // To a GET the client would give no body otherwise.
                    asked = asked.header("transfer-encoding", "chunked");
                }
                let answer = ask(&streaming_client(), asked.body(body).unwrap()).await;
                let told = answer.body.iter().filter(|&&b| b == b'x').count();
                assert_eq!(told, size);
                let status = answer.header("cache-status").unwrap();
                assert!(status.ends_with(NOT_KEYED), "{status}");
            }
        }
    }
    assert_eq!(
        (calls.load(Ordering::SeqCst), handle.stats().entries),
        (18, 0)
    );
}

fn streaming_client<B>() -> Client<HttpConnector, B>
where
    B: http_body::Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

// Invariants 47, 48.
#[tokio::test]
async fn a_real_body_over_the_limit_is_answered_while_it_comes_in() {
    let layer = builder(Key::new().body(LIMIT), &[Method::QUERY]).build();
    let echo = async |request: Request<axum::body::Body>| Response::new(request.into_body());
    let server = Serving::router(Router::new().fallback(any(echo)).layer(layer)).await;
    let (chunks, body) = streamed();
    chunks.send(vec![b'x'; LIMIT + 1]);
    let asked = Request::builder().method("QUERY").uri(server.uri("/q"));
    let response = in_time(streaming_client().request(asked.body(body).unwrap()));
    let mut body = response.await.unwrap().into_body();
    let mut seen = 0;
    for more in 1..=5 {
        for _ in 0..LIMIT {
            if seen >= LIMIT + more {
                break;
            }
            let frame = in_time(body.frame()).await.unwrap().unwrap();
            seen += frame.into_data().unwrap().len();
        }
        assert_eq!(seen, LIMIT + more, "all that was sent is there");
        chunks.send("y");
    }
    drop(chunks);
    assert_eq!(in_time(body.collect()).await.unwrap().to_bytes(), "y");
}

// ---- where a layer can stand

#[tokio::test]
async fn it_stands_around_a_function_that_hyper_serves() {
    let layer = builder(Key::new().body(LIMIT), &[Method::POST]).build();
    let echo = service_fn(|request: Request<ReplayBody<Incoming>>| async {
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
    });
    let service = TowerToHyperService::new(layer.layer(echo));
    let server = Serving::start(|listener| async move {
        for _ in 0..8 {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service.clone());
            tokio::spawn(connection);
        }
    })
    .await;
    for is_hit in [false, true] {
        for body in ["a", "b", ""] {
            let asked = Request::post(server.uri("/")).body(Full::<Bytes>::from(body));
            let answer = ask(&client(), asked.unwrap()).await;
            assert_eq!(
                (&answer.body[..], answer.is_hit()),
                (body.as_bytes(), is_hit)
            );
        }
    }
}

// ---- the inner service gets the body as it came

/// One frame of a body, or that it breaks.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Data(Vec<u8>),
    Trailers(HeaderMap),
    Breaks,
}

/// A body that plays its pieces. One of unknown length does not say that it has ended until it is asked for more.
#[derive(Debug)]
struct Script {
    pieces: VecDeque<Piece>,
    length_known: bool,
    /// Every piece, and the end, wait for a second poll.
    slow: bool,
    waited: bool,
    ended: bool,
    polls: Arc<AtomicUsize>,
}

impl Script {
    fn new(pieces: &[Piece], length_known: bool) -> Self {
        Self {
            pieces: pieces.iter().cloned().collect(),
            length_known,
            slow: false,
            waited: false,
            ended: false,
            polls: Arc::default(),
        }
    }
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        if self.slow && !std::mem::replace(&mut self.waited, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        Poll::Ready(match self.pieces.pop_front() {
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data.into()))),
            Some(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Piece::Breaks) => Some(Err(Broken("reset".into()))),
            None => {
                self.ended = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && (self.length_known || self.ended)
    }

    fn size_hint(&self) -> SizeHint {
        let lengths = self.pieces.iter().map(|piece| match piece {
            Piece::Data(data) => data.len() as u64,
            _ => 0,
        });
        if self.length_known {
            SizeHint::with_exact(lengths.sum())
        } else {
            SizeHint::default()
        }
    }
}

/// A body as the inner service was given it, and what it was told of its length.
type Given = (Vec<Piece>, SizeHint);

/// What the inner service was given, request by request.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<Given>>>);

impl Seen {
    fn origin(&self) -> Origin {
        let seen = self.clone();
        Origin::later(move |request| {
            let seen = seen.clone();
            async move {
                let body = request.into_body();
                let hint = http_body::Body::size_hint(&body);
                let pieces = pieces_of(body).await;
                seen.0.lock().unwrap().push((pieces, hint));
                ok("seen")
            }
        })
    }

    /// The one request that was seen since it was last looked at.
    fn only(&self) -> Given {
        let mut seen = self.0.lock().unwrap();
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }
}

async fn pieces_of(mut body: Body) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for _ in 0..10_000 {
        match body.frame().await {
            None => return pieces,
            Some(Err(_)) => pieces.push(Piece::Breaks),
            Some(Ok(frame)) => pieces.push(match frame.into_data() {
                Ok(data) => Piece::Data(data.to_vec()),
                Err(frame) => Piece::Trailers(frame.into_trailers().unwrap()),
            }),
        }
    }
    panic!("it has no end");
}

fn data(chunks: &[&[u8]]) -> Vec<Piece> {
    chunks
        .iter()
        .map(|chunk| Piece::Data(chunk.to_vec()))
        .collect()
}

fn trailers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for (name, value) in lines {
        trailers.append(*name, HeaderValue::from_static(value));
    }
    trailers
}

/// Bodies of all shapes, each whole, with trailers, and broken.
fn bodies() -> Vec<Vec<Piece>> {
    let bytes: Vec<u8> = (0..=255).collect();
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let shapes = [
        data(&[]),
        data(&[b"one frame"]),
        data(&[b"a", b"few", b"frames"]),
        data(&[b"x"]),
        data(&single),
        data(&[b"", b"an empty frame before", b"", b"and between"]),
        data(&[&[0xff, 0xfe, 0]]),
    ];
    let endings = [
        vec![],
        vec![Piece::Trailers(trailers(&[
            ("x-sum", "1"),
            ("x-sum", "2"),
            ("x-b", ""),
        ]))],
        vec![Piece::Breaks],
    ];
    let all = endings.iter().flat_map(|ending| {
        shapes
            .iter()
            .map(move |shape| [shape.clone(), ending.clone()].concat())
    });
    all.collect()
}

fn bytes_of(pieces: &[Piece]) -> usize {
    let lengths = pieces.iter().map(|piece| match piece {
        Piece::Data(data) => data.len(),
        _ => 0,
    });
    lengths.sum()
}

/// Without borders between data, and without data that are empty.
fn joined(pieces: &[Piece]) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (_, Piece::Data(more)) if more.is_empty() => {}
            (Some(Piece::Data(data)), Piece::Data(more)) => data.extend(more),
            _ => joined.push(piece.clone()),
        }
    }
    joined
}

/// How requests come to the inner service, and the limit there.
fn ways() -> Vec<(&'static str, BodyCacheLayer, usize)> {
    let body = |limit| builder(Key::new().body(limit), &[Method::POST]);
    let other_method = builder(Key::new().body(LIMIT), &[Method::GET]);
    let never = Key::new().body(LIMIT).only_if(|_, _| false);
    let never = builder(never, &[Method::POST]);
    vec![
        ("a miss", body(LIMIT).build(), LIMIT),
        (
            "inline",
            body(LIMIT).fill_mode(FillMode::Inline).build(),
            LIMIT,
        ),
        ("over the limit", body(5).build(), 5),
        ("nothing is within the limit", body(0).build(), 0),
        ("only_if says no", never.build(), LIMIT),
        ("another method", other_method.build(), LIMIT),
    ]
}

// Invariants 5, 46, 47.
#[tokio::test]
async fn the_inner_service_gets_the_body_byte_for_byte_as_it_came() {
    let mut cases = 0;
    for (way, layer, limit) in ways() {
        let seen = Seen::default();
        let (cache, handle) = of(layer, &seen.origin());
        for (nth, pieces) in bodies().into_iter().enumerate() {
            for length_known in [true, false] {
                for slow in [false, true] {
                    let script = Script {
                        slow,
                        ..Script::new(&pieces, length_known)
                    };
                    let uri = format!("/{nth}/{length_known}/{slow}");
                    let answer = send(&cache, asking("POST", &uri, boxed(script))).await;
                    let case = format!("{way}, {length_known}, {slow}: {pieces:?}");
                    let (given, hint) = seen.only();
                    assert_eq!(joined(&given), joined(&pieces), "{case}");
                    assert!(hint.lower() <= bytes_of(&pieces) as u64, "{case}");
                    let is_whole = pieces.last() != Some(&Piece::Breaks);
                    let is_data = !matches!(pieces.last(), Some(Piece::Trailers(_)));
                    if length_known && is_whole && is_data {
                        assert_eq!(hint.exact(), Some(bytes_of(&pieces) as u64), "{case}");
                    }
                    let keyed = is_whole && bytes_of(&pieces) <= limit;
                    let expected = match way {
                        "another method" => Some(Reason::Method),
                        "only_if says no" => Some(Reason::RequestBodyNotKeyed),
                        _ => (!keyed).then_some(Reason::RequestBodyNotKeyed),
                    };
                    assert_eq!(answer.reason(), expected, "{case}");
                    assert_eq!(answer.cache().is_stored(), expected.is_none(), "{case}");
                    cases += 1;
                }
            }
        }
        assert_eq!(handle.stats().flights, 0);
    }
    assert_eq!(cases, 6 * 21 * 4);
}

// Invariants 45, 46.
#[tokio::test]
async fn what_is_still_to_come_is_not_said_to_be_nothing() {
    let seen = Seen::default();
    let (cache, _) = cached(&seen.origin());
    let endings = [Piece::Breaks, Piece::Trailers(trailers(&[("x-sum", "1")]))];
    for ending in endings {
        let pieces = [data(&[b"abc"]), vec![ending]].concat();
        let body = boxed(Script::new(&pieces, false));
        send(&cache, asking("POST", "/search", body)).await;
        let (given, hint) = seen.only();
        assert_eq!(given, pieces);
        assert_eq!(hint.exact(), None, "nobody said how long it is: {pieces:?}");
    }
}

/// What came to a server behind the cache, over a connection of its own: the data, and what ended them.
async fn forwarded(layer: BodyCacheLayer, pieces: &[Piece]) -> (Vec<u8>, Option<HeaderMap>, bool) {
    let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let upstream = async move |request: Request<axum::body::Body>| {
        // In a task of its own: a server drops the handler with its connection.
        let reads = async move { told.send(pieces_of(boxed(request.into_body())).await) };
        tokio::spawn(reads).await.unwrap().unwrap();
    };
    let upstream = Serving::router(Router::new().fallback(any(upstream))).await;
    let uri = upstream.uri("/");
    let proxy = service_fn(move |request: Request<ReplayBody<Body>>| {
        let mut onward = Request::post(uri.clone())
            .body(request.into_body())
            .unwrap();
        onward
            .headers_mut()
            .insert("trailer", HeaderValue::from_static("x-sum"));
        streaming_client().request(onward)
    });
    let cache = layer.layer(proxy);
    // Slowly, so that each piece is on its way before the next one comes.
    let script = Script {
        slow: true,
        ..Script::new(pieces, false)
    };
    let asked = asking("POST", "/", boxed(script));
    let failed = within(cache.oneshot(asked)).await.is_err();
    let patience = Duration::from_secs(if failed { 1 } else { 20 });
    let Ok(seen) = timeout(patience, seen.recv()).await else {
        // A body that broke before anything was on its way.
        assert!(failed);
        return (Vec::new(), None, false);
    };
    let seen = seen.unwrap();
    let whole = !seen.contains(&Piece::Breaks);
    let mut data = Vec::new();
    let mut trailers = None;
    for piece in seen {
        match piece {
            Piece::Data(more) => data.extend(more),
            Piece::Trailers(them) => trailers = Some(them),
            Piece::Breaks => {}
        }
    }
    (data, trailers, whole)
}

// Invariants 45, 46.
#[tokio::test]
async fn a_server_further_on_gets_the_trailers_and_learns_of_a_break() {
    let sum = trailers(&[("x-sum", "1")]);
    let whole = data(&[b"abc", b"def"]);
    let with_trailers = [whole.clone(), vec![Piece::Trailers(sum.clone())]].concat();
    let broken = [whole.clone(), vec![Piece::Breaks]].concat();
    for (way, layer, _) in ways() {
        let all = b"abcdef".to_vec();
        let came = forwarded(layer.clone(), &whole).await;
        assert_eq!(came, (all.clone(), None, true), "{way}");
        let came = forwarded(layer.clone(), &with_trailers).await;
        assert_eq!(came, (all, Some(sum.clone()), true), "{way}");
        let (_, _, is_whole) = forwarded(layer, &broken).await;
        assert!(!is_whole, "{way}: half a body is taken for all of it");
    }
}

// Invariants 7, 9.
#[tokio::test]
async fn requests_that_differ_in_a_trailer_only_are_two() {
    let origin = echo();
    let (cache, _) = cached(&origin);
    let all = [
        &[][..],
        &[("x-a", "1")],
        &[("x-a", "2")],
        &[("x-b", "1")],
        &[("x-a", "")],
        &[("x-a", "1"), ("x-a", "2")],
        &[("x-a", "2"), ("x-a", "1")],
        &[("x-a", "1, 2")],
        &[("x-a", "1"), ("x-b", "1")],
        &[("x-a", "1x-b1")],
    ];
    for is_hit in [false, true] {
        for lines in all {
            let them = (!lines.is_empty()).then(|| trailers(lines));
            let asked = asking("POST", "/search", chunked(&[b"same"], them));
            assert_eq!(send(&cache, asked).await.is_hit(), is_hit, "{lines:?}");
        }
    }
    let moved = asking("POST", "/search", chunked(&[b"samex-a1"], None));
    assert!(!send(&cache, moved).await.is_hit());
    assert_eq!(origin.calls(), all.len() + 1);
}

// ---- limits

// Invariants 9, 48.
#[tokio::test]
async fn a_body_of_just_the_limit_is_keyed_and_a_longer_one_passes_by_whole() {
    let origin = echo();
    for limit in [0, 1, 7, LIMIT] {
        let layer = builder(Key::new().body(limit), &[Method::POST]).build();
        let (cache, handle) = of(layer, &origin);
        for step in [1, 3, LIMIT + 1] {
            for length_known in [true, false] {
                let asked = |size: usize| {
                    let text = vec![b'x'; size];
                    let chunks: Vec<_> = text.chunks(step).collect();
                    let script = Script::new(&data(&chunks), length_known);
                    asking("POST", "/search", boxed(script))
                };
                send(&cache, asked(limit)).await;
                assert!(
                    send(&cache, asked(limit)).await.is_hit(),
                    "in whatever frames"
                );
                let longer = send(&cache, asked(limit + 1)).await;
                assert_eq!(longer.reason(), Some(Reason::RequestBodyNotKeyed));
                let told = longer.text().matches('x').count();
                assert_eq!(told, limit + 1);
            }
        }
        assert_eq!(handle.stats().entries, 1);
    }
}

// Invariants 47, 48.
#[tokio::test]
async fn a_body_that_says_it_is_longer_than_the_limit_is_not_read_by_the_cache() {
    let calls = Arc::<Mutex<Vec<usize>>>::default();
    for (size, polls_before) in [(LIMIT, 1), (LIMIT + 1, 0), (10 * LIMIT, 0)] {
        let script = Script::new(&data(&[&vec![b'x'; size]]), true);
        let (polls, told) = (script.polls.clone(), calls.clone());
        let origin = Origin::later(move |request| {
            told.lock().unwrap().push(polls.load(Ordering::SeqCst));
            async { ok(request.into_body().collect().await.unwrap().to_bytes()) }
        });
        let (cache, _) = cached(&origin);
        let answer = send(&cache, asking("POST", "/search", boxed(script))).await;
        assert_eq!(answer.body.len(), size);
        assert_eq!(calls.lock().unwrap().pop(), Some(polls_before), "{size}");
    }
}

// Invariants 5, 12.
#[tokio::test]
async fn what_has_no_key_by_its_head_is_handed_on_unread() {
    let grpc = ("content-type", "application/grpc+proto");
    let cases = [
        ("PUT", "/search", ("x-none", ""), Reason::Method),
        ("GET", "/search", ("x-none", ""), Reason::Method),
        ("POST", "/search", ("upgrade", "websocket"), Reason::Upgrade),
        ("POST", "/search", grpc, Reason::RequestBodyNotKeyed),
        ("POST", "/search", ("cookie", "a=1"), Reason::Cookie),
        (
            "POST",
            "/search",
            ("x-http-method-override", "PUT"),
            Reason::Override,
        ),
        (
            "POST",
            "/a-path-that-is-too-long",
            ("x-none", ""),
            Reason::KeyTooLong,
        ),
    ];
    let layer = builder(Key::new().body(LIMIT), &[Method::POST]);
    let layer = layer.max_key_bytes(MAX_KEY_BYTES).build();
    for (method, uri, (name, value), reason) in cases {
        let script = Script::new(&data(&[b"abc"]), false);
        let polls = script.polls.clone();
        let origin = Origin::later(move |request| {
            assert_eq!(polls.load(Ordering::SeqCst), 0);
            async { ok(request.into_body().collect().await.unwrap().to_bytes()) }
        });
        let (cache, handle) = of(layer.clone(), &origin);
        let uri = uri.replace("long", &"long".repeat(MAX_KEY_BYTES / 4));
        let asked = with(asking(method, &uri, boxed(script)), name, value);
        let answer = send(&cache, asked).await;
        assert_eq!(
            (answer.reason(), answer.text()),
            (Some(reason), "abc"),
            "{method} {name}"
        );
        assert_eq!(handle.stats().entries, 0);
    }
}

/// Reads this many bytes, and not many more, in as many frames at the most.
fn reads(most: usize) -> Origin {
    Origin::later(move |request| async move {
        let mut body = request.into_body();
        let (mut bytes, mut frames) = (0, 0);
        while bytes < most && frames < most {
            frames += 1;
            bytes += body
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
                .len();
        }
        ok(bytes.to_string())
    })
}

// Invariants 47, 48.
#[tokio::test(start_paused = true)]
async fn a_body_without_an_end_flows_at_once() {
    let began = Instant::now();
    let (cache, handle) = cached(&reads(12 * LIMIT));
    let answer = send(&cache, asking("POST", "/search", endless())).await;
    assert_eq!(answer.text(), (12 * LIMIT).to_string());
    assert_eq!(answer.reason(), Some(Reason::RequestBodyNotKeyed));

    // Nor is one waited for that never has a byte.
    let nothing = tokio_stream::iter(std::iter::repeat_with(|| {
        Ok::<_, Broken>(Frame::data(Bytes::new()))
    }));
    let nothing = boxed(http_body_util::StreamBody::new(nothing));
    let answer = send(&cache, asking("POST", "/search", nothing)).await;
    assert_eq!(
        (answer.text(), answer.reason()),
        ("0", Some(Reason::RequestBodyNotKeyed))
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(handle.stats().entries, 0);
}

// Invariants 28, 47.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_late_passes_by_whole() {
    let began = Instant::now();
    let called = Arc::<Mutex<Vec<Duration>>>::default();
    let noted = called.clone();
    let origin = Origin::later(move |request| {
        noted.lock().unwrap().push(began.elapsed());
        async { ok(request.into_body().collect().await.unwrap().to_bytes()) }
    });
    let layer = builder(Key::new().body(LIMIT), &[Method::POST]);
    let (cache, handle) = of(layer.wait_timeout(Duration::from_secs(3)).build(), &origin);
    let (chunks, body) = streamed();
    tokio::spawn(async move {
        for nth in 0..10u8 {
            chunks.send(vec![b'0' + nth]);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let answer = send(&cache, asking("POST", "/search", body)).await;
    assert_eq!(
        (answer.text(), answer.reason()),
        ("0123456789", Some(Reason::RequestBodyNotKeyed))
    );
    assert_eq!(*called.lock().unwrap(), [Duration::from_secs(3)]);
    let stats = handle.stats();
    assert_eq!((stats.entries, stats.flights), (0, 0));
}

// ---- many at once, and those who give up

/// Polls a request this often, and drops it. Whether it was answered.
fn polled(asked: impl Future, polls: usize) -> bool {
    let mut asked = pin!(asked);
    let mut cx = Context::from_waker(Waker::noop());
    (0..polls).any(|_| asked.as_mut().poll(&mut cx).is_ready())
}

// Invariants 26, 47.
#[tokio::test(start_paused = true)]
async fn a_request_may_be_dropped_at_any_poll_while_its_body_is_read() {
    let endings = [vec![], vec![Piece::Breaks], data(&[&[b'x'; LIMIT]])];
    let mut scenarios = 0;
    for mode in [FillMode::Detached, FillMode::Inline] {
        for ending in &endings {
            let pieces = [data(&[b"a", b"b", b"c", b"d"]), ending.clone()].concat();
            for others in [0, 2] {
                for polls in 0..16 {
                    let origin = echo();
                    let layer = builder(Key::new().body(LIMIT), &[Method::POST]);
                    let (cache, handle) = of(layer.fill_mode(mode).build(), &origin);
                    let others: Vec<_> = (0..others)
                        .map(|_| tokio::spawn(within(cache.clone().oneshot(post("abcd")))))
                        .collect();
                    let script = Script {
                        slow: true,
                        ..Script::new(&pieces, false)
                    };
                    let victim = asking("POST", "/search", boxed(script));
                    polled(cache.clone().oneshot(victim), polls);
                    eventually(|| handle.stats().in_flight == 0).await;
                    for other in others {
                        let answer = common::read(other.await.unwrap().unwrap()).await;
                        assert!(answer.text().starts_with("POST abcd"), "{}", answer.text());
                    }
                    let answer = send(&cache, post("abcd")).await;
                    assert!(answer.text().starts_with("POST abcd "), "{}", answer.text());
                    assert!(send(&cache, post("abcd")).await.is_hit());
                    eventually(|| handle.stats().in_flight == 0).await;
                    let stats = handle.stats();
                    assert_eq!((stats.flights, stats.waiters, stats.fills), (0, 0, 0));
                    scenarios += 1;
                }
            }
        }
    }
    assert_eq!(scenarios, 2 * 3 * 2 * 16);
}

/// Answers with the body, once the gate is open.
fn gated(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::later(move |request| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            ok(request.into_body().collect().await.unwrap().to_bytes())
        }
    })
}

// Invariants 9, 25.
#[tokio::test]
async fn a_thousand_at_once_are_one_call_a_body() {
    for bodies in [&["one"][..], &["one", "two"]] {
        let gate = Gate::new();
        let origin = gated(&gate);
        let (cache, handle) = cached(&origin);
        let asked: Vec<_> = (0..1000)
            .map(|nth| {
                let (cache, body) = (cache.clone(), bodies[nth % bodies.len()]);
                let frames: Vec<_> = body.as_bytes().chunks(1 + nth % 3).collect();
                let asked = asking("POST", "/search", chunked(&frames, None));
                tokio::spawn(async move { (send(&cache, asked).await, body) })
            })
            .collect();
        until(|| handle.stats().waiters == 1000 - bodies.len()).await;
        gate.open();
        for answer in asked {
            let (answer, body) = answer.await.unwrap();
            assert_eq!(answer.text(), body);
        }
        assert_eq!(origin.calls(), bodies.len());
        assert_eq!(handle.stats().flights, 0);
    }
}

// Invariants 25, 30.
#[tokio::test]
async fn who_tries_again_after_a_failure_sends_its_own_body_whole() {
    let (gate, count) = (Gate::new(), AtomicUsize::new(0));
    let passed = gate.clone();
    let origin = Origin::later(move |request| {
        let (gate, nth) = (passed.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            gate.pass().await;
            if nth == 0 {
                return status(StatusCode::INTERNAL_SERVER_ERROR);
            }
            ok(request.into_body().collect().await.unwrap().to_bytes())
        }
    });
    let (cache, handle) = cached(&origin);
    let ask = || {
        let (cache, asked) = (cache.clone(), chunked(&[b"a", b"", b"bc"], None));
        tokio::spawn(async move { send(&cache, asking("POST", "/search", asked)).await })
    };
    let leader = ask();
    gate.arrival().await;
    let others: Vec<_> = (0..10).map(|_| ask()).collect();
    until(|| handle.stats().waiters == 10).await;
    gate.open();
    assert_eq!(leader.await.unwrap().parts.status, 500);
    for other in others {
        assert_eq!(other.await.unwrap().text(), "abc");
    }
    assert_eq!(origin.calls(), 2);
}

// ---- methods, who asks, purges

// Invariants 11, 13.
#[tokio::test]
async fn a_head_is_answered_from_the_get_of_its_body_or_fetched_as_one() {
    let methods = [Method::GET, Method::HEAD, Method::POST];
    for methods in [&methods[..], &[Method::GET, Method::HEAD]] {
        let origin = echo();
        let (cache, handle) = of(builder(Key::new().body(LIMIT), methods).build(), &origin);
        let asked = |method: &str, body: &'static str| asking(method, "/page", full(body));
        let first = send(&cache, asked("HEAD", "")).await;
        assert!(first.cache().is_stored() && first.body.is_empty());
        eventually(|| handle.stats().stored == 1).await;
        let got = send(&cache, asked("GET", "")).await;
        assert!(got.is_hit() && got.text().starts_with("GET  "));
        let length = got.body.len().to_string();
        assert_eq!(first.header("content-length"), Some(&*length));
        let answer = send(&cache, asked("HEAD", "")).await;
        assert_eq!((answer.is_hit(), answer.body.len()), (true, 0));
        assert_eq!(answer.header("content-length"), Some(&*length));
        let other = send(&cache, asked("HEAD", "a body")).await;
        assert!(!other.is_hit() && other.body.is_empty());
        let again = send(&cache, asked("GET", "")).await;
        assert_eq!((again.is_hit(), &again.body), (true, &got.body));
        assert!(!send(&cache, asked("POST", "")).await.is_hit());
    }
}

// Invariant 12.
#[tokio::test]
async fn only_the_methods_that_were_chosen_are_answered() {
    let all = [
        "GET", "HEAD", "POST", "QUERY", "PUT", "PATCH", "DELETE", "OPTIONS", "post", "FIND",
    ];
    let find = Method::from_bytes(b"FIND").unwrap();
    for chosen in [
        &[][..],
        &[Method::GET],
        &[Method::POST],
        &[Method::QUERY, find],
    ] {
        let origin = echo();
        let builder = builder(Key::new().body(LIMIT), chosen).invalidation(false);
        let (cache, _) = of(builder.build(), &origin);
        for is_hit in [false, true] {
            for method in all {
                let answer = send(&cache, asking(method, "/search", full("a"))).await;
                let is_chosen = chosen.iter().any(|chosen| chosen.as_str() == method);
                assert_eq!(
                    answer.is_hit(),
                    is_hit && is_chosen,
                    "{method} of {chosen:?}"
                );
                let reason = (!is_chosen).then_some(Reason::Method);
                assert_eq!(answer.reason(), reason, "{method} of {chosen:?}");
                assert!(answer.text().starts_with(&format!("{method} a ")));
            }
        }
    }
}

// Invariants 12, 13.
#[tokio::test]
async fn unless_said_otherwise_gets_are_answered_by_their_bodies_and_posts_pass_by() {
    let origin = echo();
    let builder = CacheLayer::builder().key(Key::new().body(LIMIT));
    let (cache, _) = of(builder.invalidation(false).build(), &origin);
    for is_hit in [false, true] {
        for body in ["", "a", "b"] {
            let got = send(&cache, asking("GET", "/search", full(body))).await;
            assert_eq!(got.is_hit(), is_hit);
            assert!(got.text().starts_with(&format!("GET {body} ")));
            assert_eq!(
                send(&cache, post(body)).await.reason(),
                Some(Reason::Method)
            );
        }
    }
}

// Invariant 2.
#[tokio::test]
async fn who_says_who_it_is_passes_by_unless_the_key_knows_it() {
    let cases = [
        (
            "authorization",
            "Bearer alice",
            "",
            Some(Reason::Authorization),
        ),
        ("authorization", "Bearer alice", "public", None),
        (
            "proxy-authorization",
            "Basic x",
            "public",
            Some(Reason::ProxyAuthorization),
        ),
        ("cookie", "session=alice", "public", Some(Reason::Cookie)),
        ("x-api-key", "alice", "public", Some(Reason::ClientIdentity)),
    ];
    for (name, value, control, reason) in cases {
        let answer = move |_| with(ok("x"), "cache-control", control);
        let (cache, _) = cached(&Origin::new(answer));
        for is_second in [false, true] {
            let got = send(&cache, with(post("a"), name, value)).await;
            assert_eq!(got.reason(), reason, "{name} {control}");
            assert_eq!(
                got.is_hit(),
                is_second && reason.is_none(),
                "{name} {control}"
            );
        }
        let nobody = send(&cache, post("a")).await;
        assert_eq!(nobody.is_hit(), reason.is_none(), "{name} {control}");
    }
    let key = Key::new()
        .header(header::AUTHORIZATION)
        .cookie("session")
        .body(LIMIT);
    let (cache, _) = of(builder(key, &[Method::POST]).build(), &echo());
    for is_hit in [false, true] {
        for (name, value) in [
            ("authorization", "a"),
            ("authorization", "b"),
            ("cookie", "session=a"),
        ] {
            for body in ["one", "two"] {
                let got = send(&cache, with(post(body), name, value)).await;
                assert_eq!(got.is_hit(), is_hit, "{name} {value} {body}");
            }
        }
    }
}

// Invariants 36, 44.
#[tokio::test]
async fn a_purge_by_request_purges_every_body_of_its_method_and_target() {
    let methods = [Method::GET, Method::POST, Method::QUERY];
    let (cache, handle) = of(builder(Key::new().body(LIMIT), &methods).build(), &echo());
    let asked = |method: &str, uri: &str, body: &'static str| {
        with(
            asking(method, uri, full(body)),
            "content-type",
            "text/plain",
        )
    };
    let purged = ["", "a", "b", "a longer one"];
    let kept = [
        ("GET", "/search"),
        ("QUERY", "/search"),
        ("POST", "/search?b"),
        ("POST", "/other"),
    ];
    for is_second in [false, true] {
        for body in purged {
            assert!(!send(&cache, asked("POST", "/search", body)).await.is_hit());
            assert!(send(&cache, asked("POST", "/search", body)).await.is_hit());
        }
        for (method, uri) in kept {
            let answer = send(&cache, asked(method, uri, "a")).await;
            assert_eq!(answer.is_hit(), is_second, "{method} {uri}");
        }
        let (parts, _) = asked("POST", "/search", "whatever").into_parts();
        assert_eq!(handle.purge_request(&parts).await.unwrap().marks, 1);
    }
}

// Invariants 36, 38.
#[tokio::test]
async fn a_purge_reaches_a_fill_whose_body_was_read_before_it() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let (cache, handle) = cached(&origin);
    let first = tokio::spawn({
        let cache = cache.clone();
        async move { send(&cache, post("a")).await }
    });
    gate.arrival().await;
    let (parts, _) = post("").into_parts();
    let _ = handle.purge_request(&parts).await.unwrap();
    gate.open();
    assert_eq!(first.await.unwrap().text(), "a");
    settle().await;
    assert!(!send(&cache, post("a")).await.is_hit());
    assert_eq!(origin.calls(), 2);
}

// Invariant 44.
#[tokio::test]
async fn a_purge_by_request_purges_bodies_of_every_type() {
    let (cache, handle) = cached(&echo());
    let types = [
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
    ];
    for kind in types {
        send(&cache, with(post("{}"), "content-type", kind)).await;
    }
    let (parts, _) = post("").into_parts();
    let _ = handle.purge_request(&parts).await.unwrap();
    for kind in types {
        let again = send(&cache, with(post("{}"), "content-type", kind)).await;
        assert!(!again.is_hit(), "{kind}");
    }
}

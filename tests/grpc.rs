//! Unary calls, in process and over a real server.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use common::{
    Body, Chunks, Gate, Origin, chunked, full, get, head, next, ok, request, send, streamed, until,
    with, with_headers, within,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header, uri::PathAndQuery};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{
    Code, Status, Streaming,
    client::Grpc,
    codec::CompressionEncoding::Gzip,
    server::{self, NamedService},
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;
use tower::{Layer, Service, service_fn};
use tower_response_cache::{BodyCache, CacheHandle, CacheLayer, Key, Reason};

const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: usize = 1024;

/// A message with its prefix.
fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![flag];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

fn post(path: &str, body: Body) -> Request<Body> {
    let call = request("POST", path).map(|_| body);
    with_headers(
        call,
        &[("content-type", "application/grpc"), ("te", "trailers")],
    )
}

fn call(path: &str, message: &[u8]) -> Request<Body> {
    post(path, full(framed(0, message)))
}

fn ended(code: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(code).unwrap());
    trailers.insert("x-cost", HeaderValue::from_static("3"));
    trailers
}

fn answered(body: Body) -> Response<Body> {
    with(Response::new(body), "content-type", "application/grpc")
}

/// A unary answer.
fn unary(message: &[u8], code: &str) -> Response<Body> {
    answered(chunked(&[&framed(0, message)], Some(ended(code))))
}

/// An answer that is its head alone.
fn head_only(code: &str) -> Response<Body> {
    with(answered(common::empty()), "grpc-status", code)
}

fn cached(origin: &Origin) -> (BodyCache<Origin>, CacheHandle) {
    let layer = CacheLayer::builder()
        .key(Key::grpc(LIMIT).all_methods())
        .ttl(MINUTE)
        .build();
    (layer.layer(origin.clone()), layer.handle())
}

/// Answers with path, message, and how many calls there were.
fn echo() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::later(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let path = request.uri().path().to_owned();
            let message = request.into_body().collect().await.unwrap().to_bytes();
            let told = format!("{path} {} {number}", String::from_utf8_lossy(&message[5..]));
            unary(told.as_bytes(), "0")
        }
    })
}

// Invariants 9, 12, 25, 46, 50.
#[tokio::test]
async fn a_unary_call_is_cached_by_its_path_and_message() {
    let origin = echo();
    let (cache, _) = cached(&origin);
    let calls = [
        ("/s/one", "a"),
        ("/s/one", "b"),
        ("/s/two", "a"),
        ("/s/one", ""),
    ];
    let mut first = Vec::new();
    for (path, message) in calls {
        let answer = send(&cache, call(path, message.as_bytes())).await;
        assert!(answer.cache().is_stored());
        first.push(answer);
    }
    for ((path, message), first) in calls.into_iter().zip(first) {
        let hit = send(&cache, call(path, message.as_bytes())).await;
        assert!(hit.is_hit());
        assert_eq!(hit.body, first.body);
        assert_eq!(hit.trailers, Some(ended("0")));
        assert_eq!(hit.trailers, first.trailers);
        assert_eq!(hit.header("content-length"), None);
    }
    assert_eq!(origin.calls(), 4);
}

// Invariant 9.
#[tokio::test]
async fn a_message_is_the_same_in_however_many_frames_it_comes() {
    let origin = echo();
    let (cache, _) = cached(&origin);
    send(&cache, call("/s/m", b"abcdef")).await;
    let bytes = framed(0, b"abcdef");
    for step in 1..bytes.len() {
        let chunks: Vec<_> = bytes.chunks(step).collect();
        assert!(
            send(&cache, post("/s/m", chunked(&chunks, None)))
                .await
                .is_hit()
        );
    }
}

// Invariant 25.
#[tokio::test]
async fn calls_at_once_are_one() {
    let gate = Gate::new();
    let inside = gate.clone();
    let origin = Origin::later(move |_| {
        let inside = inside.clone();
        async move {
            inside.pass().await;
            unary(b"x", "0")
        }
    });
    let (cache, handle) = cached(&origin);
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { send(&cache, call("/s/m", b"a")).await })
        })
        .collect();
    gate.arrival().await;
    until(|| handle.stats().waiters == 49).await;
    gate.open();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(
            (&answer.body[..], answer.trailers),
            (&framed(0, b"x")[..], Some(ended("0")))
        );
    }
    assert_eq!(origin.calls(), 1);
}

// Invariants 2, 8.
#[tokio::test]
async fn metadata_is_keyed_by_choice_and_credentials_pass_by() {
    let origin = echo();
    let (cache, _) = cached(&origin);
    let asked = |name: &str, value: &str| with(call("/s/m", b"a"), name, value);
    send(&cache, asked("x-shade", "alice")).await;
    assert!(send(&cache, asked("x-shade", "bob")).await.is_hit());
    for _ in 0..2 {
        let answer = send(&cache, asked("authorization", "Bearer x")).await;
        assert_eq!(answer.reason(), Some(Reason::Authorization));
    }
    assert_eq!(
        send(&cache, asked("cookie", "a=1")).await.reason(),
        Some(Reason::Cookie)
    );
    let users = Key::grpc(LIMIT)
        .all_methods()
        .header(HeaderName::from_static("x-shade"))
        .header(header::AUTHORIZATION);
    let keyed = CacheLayer::builder().key(users).build().layer(origin);
    for name in ["x-shade", "authorization"] {
        for who in ["alice", "bob"] {
            assert!(!send(&keyed, asked(name, who)).await.is_hit());
            assert!(send(&keyed, asked(name, who)).await.is_hit());
        }
    }
}

// Invariants 22, 45.
#[tokio::test]
async fn no_status_but_ok_is_stored() {
    for code in 1..=17 {
        for in_trailers in [true, false] {
            let code = code.to_string();
            let told = code.clone();
            let origin = Origin::new(move |_| {
                if in_trailers {
                    unary(b"x", &told)
                } else {
                    head_only(&told)
                }
            });
            let (cache, handle) = cached(&origin);
            for calls in 1..=3 {
                let answer = send(&cache, call("/s/m", b"a")).await;
                assert!(!answer.is_hit());
                assert_eq!(origin.calls(), calls, "{code} {in_trailers}");
                let fault = ["2", "4", "8", "13", "14", "15"].contains(&&*code);
                if !in_trailers {
                    assert_eq!(answer.header("grpc-status"), Some(&*code));
                    let reason = if fault {
                        Reason::Status
                    } else {
                        Reason::GrpcStatus
                    };
                    assert_eq!(answer.reason(), Some(reason), "{code}");
                }
                if fault {
                    assert_eq!(
                        handle.stats().refusals,
                        0,
                        "a fault is not remembered: {code}"
                    );
                }
            }
            assert_eq!(handle.stats().entries, 0);
        }
    }
}

// Invariants 22, 30.
#[tokio::test]
async fn a_service_that_recovers_is_cached_at_once() {
    let count = AtomicUsize::new(0);
    let origin = Origin::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => head_only("14"),
        1 => unary(b"", "14"),
        _ => unary(b"x", "0"),
    });
    let (cache, _) = cached(&origin);
    for _ in 0..3 {
        assert!(!send(&cache, call("/s/m", b"a")).await.is_hit());
    }
    assert!(send(&cache, call("/s/m", b"a")).await.is_hit());
}

// Invariant 45.
#[tokio::test]
async fn an_answer_that_is_not_one_whole_message_with_a_status_is_not_stored() {
    let whole = framed(0, b"abc");
    let cut = whole[..7].to_vec();
    let two = [whole.clone(), framed(0, b"")].concat();
    let bodies: [(Vec<u8>, Option<HeaderMap>); 7] = [
        (whole.clone(), None),
        (whole.clone(), Some(HeaderMap::new())),
        (cut, Some(ended("0"))),
        (two, Some(ended("0"))),
        (whole[..3].to_vec(), Some(ended("0"))),
        (Vec::new(), Some(ended("0"))),
        (whole.clone(), Some(ended("00"))),
    ];
    for (body, trailers) in bodies {
        let (told, ending) = (body.clone(), trailers.clone());
        let origin = Origin::new(move |_| answered(chunked(&[&told], ending.clone())));
        let (cache, handle) = cached(&origin);
        for calls in 1..=2 {
            let answer = send(&cache, call("/s/m", b"a")).await;
            assert_eq!((&answer.body[..], &answer.trailers), (&body[..], &trailers));
            assert_eq!(origin.calls(), calls, "{body:?}");
        }
        assert_eq!(handle.stats().entries, 0);
    }
}

// Invariants 45, 47.
#[tokio::test(start_paused = true)]
async fn a_server_stream_flows_and_is_not_stored() {
    let (chunks, body) = streamed();
    let body = std::sync::Mutex::new(Some(body));
    let origin =
        Origin::new(move |_| answered(body.lock().unwrap().take().unwrap_or_else(common::empty)));
    let (cache, handle) = cached(&origin);
    let started = tokio::time::Instant::now();
    let mut answer = head(&cache, call("/s/list", b"a")).await;
    for number in 0..5u8 {
        chunks.send(framed(0, &[number]));
        assert_eq!(next(answer.body_mut()).await.unwrap(), framed(0, &[number]));
    }
    assert_eq!(
        started.elapsed(),
        Duration::ZERO,
        "nothing waits for anything"
    );
    chunks.trailers(ended("0"));
    drop(chunks);
    assert_eq!(common::read(answer).await.trailers, Some(ended("0")));
    assert_eq!(handle.stats().entries, 0);
    send(&cache, call("/s/list", b"a")).await;
    assert_eq!(origin.calls(), 2);
}

/// Answers each message of the request with the same, as it comes.
fn conversation() -> Origin {
    Origin::new(|request| {
        let (chunks, body) = streamed();
        tokio::spawn(async move {
            let mut asked = request.into_body();
            while let Some(Ok(frame)) = asked.frame().await {
                chunks.send(frame.into_data().unwrap());
            }
            chunks.trailers(ended("0"));
        });
        answered(body)
    })
}

// Invariants 32, 47.
#[tokio::test(start_paused = true)]
async fn a_conversation_flows_without_a_deadlock() {
    let origin = conversation();
    let (cache, handle) = cached(&origin);
    let (chunks, body) = streamed();
    chunks.send(framed(0, b"one"));
    let mut answer = head(&cache, post("/s/talk", body)).await;
    for message in [&b"one"[..], b"two", b"three"] {
        if message != b"one" {
            chunks.send(framed(0, message));
        }
        assert_eq!(next(answer.body_mut()).await.unwrap(), framed(0, message));
    }
    drop(chunks);
    let answer = common::read(answer).await;
    assert_eq!(
        (answer.trailers.clone(), answer.reason()),
        (Some(ended("0")), Some(Reason::RequestBodyNotKeyed))
    );
    assert_eq!(handle.stats().entries, 0);
}

// Invariants 5, 47.
#[tokio::test(start_paused = true)]
async fn a_client_stream_arrives_whole_and_is_not_stored() {
    let origin = conversation();
    let (cache, handle) = cached(&origin);
    let messages: Vec<_> = (0..10u8).map(|n| framed(0, &[n])).collect();
    let (chunks, body): (Chunks, Body) = streamed();
    let slowly = messages.clone();
    tokio::spawn(async move {
        for message in slowly {
            chunks.send(message);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let answer = send(&cache, post("/s/collect", body)).await;
    assert_eq!(answer.body, messages.concat());
    assert_eq!(answer.reason(), Some(Reason::RequestBodyNotKeyed));
    assert_eq!(handle.stats().entries, 0);
}

// Invariants 5, 48.
#[tokio::test]
async fn a_message_of_just_the_limit_is_keyed_and_a_longer_one_passes_by_whole() {
    let origin = echo();
    let (cache, _) = cached(&origin);
    let just = vec![b'x'; LIMIT];
    assert!(send(&cache, call("/s/m", &just)).await.cache().is_stored());
    assert!(send(&cache, call("/s/m", &just)).await.is_hit());
    let longer = vec![b'x'; LIMIT + 1];
    for chunk in [1, 100, LIMIT + 6] {
        let bytes = framed(0, &longer);
        let chunks: Vec<_> = bytes.chunks(chunk).collect();
        let answer = send(&cache, post("/s/m", chunked(&chunks, None))).await;
        assert_eq!(answer.reason(), Some(Reason::RequestBodyNotKeyed));
        let told = answer.body.windows(2).filter(|pair| *pair == b"xx").count();
        assert_eq!(told, LIMIT, "it arrived whole");
    }
}

// Invariants 9, 24.
#[tokio::test]
async fn a_compressed_message_and_other_codings_have_entries_of_their_own() {
    let origin = echo();
    let (cache, _) = cached(&origin);
    let asked = |flag: u8, name: &str, value: &str| {
        with(post("/s/m", full(framed(flag, b"same"))), name, value)
    };
    let calls = || {
        [
            asked(0, "x-none", ""),
            asked(1, "x-none", ""),
            asked(1, "grpc-encoding", "gzip"),
            asked(1, "grpc-encoding", "zstd"),
            asked(0, "grpc-encoding", "gzip"),
            asked(0, "grpc-accept-encoding", "gzip"),
            with(
                request("POST", "/s/m").map(|_| full(framed(0, b"same"))),
                "content-type",
                "application/grpc+json",
            ),
        ]
    };
    for is_hit in [false, true] {
        for call in calls() {
            assert_eq!(send(&cache, call).await.is_hit(), is_hit);
        }
    }
    assert_eq!(origin.calls(), calls().len());
}

// Invariant 25.
#[tokio::test]
async fn the_leaders_patience_is_not_handed_on() {
    let origin = Origin::new(
        |request| match request.headers().contains_key("grpc-timeout") {
            true => head_only("4"),
            false => unary(b"x", "0"),
        },
    );
    let (cache, _) = cached(&origin);
    assert!(
        send(&cache, with(call("/s/m", b"a"), "grpc-timeout", "1n"))
            .await
            .cache()
            .is_stored()
    );
    assert!(send(&cache, call("/s/m", b"a")).await.is_hit());
    let passing = with_headers(
        call("/s/m", b"a"),
        &[("grpc-timeout", "1n"), ("cookie", "a=1")],
    );
    assert_eq!(send(&cache, passing).await.header("grpc-status"), Some("4"));
}

// Invariants 5, 45.
#[tokio::test]
async fn a_request_that_breaks_is_handed_on_as_far_as_it_came() {
    let origin = Origin::later(|request| async move {
        let mut body = request.into_body();
        let mut seen = Vec::new();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => seen.extend_from_slice(&frame.into_data().unwrap()),
                Some(Err(error)) => return ok(format!("{} bytes, then {error}", seen.len())),
                None => return ok(format!("{} bytes", seen.len())),
            }
        }
    });
    let (cache, handle) = cached(&origin);
    let bytes = framed(0, b"abc");
    for sent in [0, 3, 5, 7, 8] {
        let (chunks, body) = streamed();
        chunks.send(bytes[..sent].to_vec());
        chunks.fail("reset");
        let answer = send(&cache, post("/s/m", body)).await;
        assert_eq!(answer.text(), format!("{sent} bytes, then reset"));
        assert_eq!(answer.reason(), Some(Reason::RequestBodyNotKeyed));
        let cut = send(&cache, post("/s/m", chunked(&[&bytes[..sent]], None))).await;
        assert_eq!(cut.text(), format!("{sent} bytes"));
    }
    assert!(handle.stats().entries <= 1, "the whole one at the most");
}

// Invariants 5, 12.
#[tokio::test]
async fn what_is_no_call_passes_by() {
    let origin = Origin::counting(&[]);
    let (cache, handle) = cached(&origin);
    for (asked, reason) in [
        (get("/s/m"), Reason::Method),
        (request("HEAD", "/s/m"), Reason::Method),
        (request("PUT", "/s/m"), Reason::Method),
        (request("POST", "/s/m"), Reason::RequestBodyNotKeyed),
        (
            with(request("POST", "/s/m"), "content-type", "application/json"),
            Reason::RequestBodyNotKeyed,
        ),
        (
            post("/s/m", full("not framed")),
            Reason::RequestBodyNotKeyed,
        ),
        (
            post("/s/m", full([framed(0, b"a"), framed(0, b"b")].concat())),
            Reason::RequestBodyNotKeyed,
        ),
        (post("/s/m", common::empty()), Reason::RequestBodyNotKeyed),
    ] {
        assert_eq!(send(&cache, asked).await.reason(), Some(reason));
    }
    assert_eq!((origin.calls(), handle.stats().entries), (8, 0));
}

// Invariant 45.
#[tokio::test]
async fn trailers_inside_the_body_are_not_taken_for_the_end_of_a_call() {
    let origin = Origin::new(|_| {
        let body = [framed(0, b"x"), framed(0x80, b"grpc-status: 13\r\n")].concat();
        with(
            Response::new(chunked(&[&body], None)),
            "content-type",
            "application/grpc-web+proto",
        )
    });
    let (cache, handle) = cached(&origin);
    for calls in 1..=2 {
        let mut asked = call("/s/m", b"a");
        asked.headers_mut().insert(
            "content-type",
            HeaderValue::from_static("application/grpc-web+proto"),
        );
        send(&cache, asked).await;
        assert_eq!(origin.calls(), calls);
    }
    assert_eq!(handle.stats().entries, 0);
}

// ---- over a real server

#[derive(Clone, PartialEq, prost::Message)]
struct Query {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    filler: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Found {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint64, tag = "2")]
    calls: u64,
}

fn query(id: u64) -> Query {
    Query {
        id,
        filler: Vec::new(),
    }
}

/// Written by hand, as the generated code would look.
#[derive(Debug, Clone, Default)]
struct Catalogue {
    calls: Arc<AtomicUsize>,
    /// It reads compressed messages, and answers so to those who accept it.
    compresses: bool,
}

impl Catalogue {
    fn find(&self, query: &Query) -> Result<Found, Status> {
        let calls = self.calls.fetch_add(1, Ordering::SeqCst) as u64 + 1;
        match query.id {
            404 => Err(Status::not_found("nothing")),
            503 => Err(Status::unavailable("not now")),
            id => Ok(Found {
                text: format!("{id} {}", query.filler.len()),
                calls,
            }),
        }
    }
}

impl NamedService for Catalogue {
    const NAME: &'static str = "shop.Catalogue";
}

type Answers = Pin<Box<dyn Stream<Item = Result<Found, Status>> + Send>>;

impl Service<Request<tonic::body::Body>> for Catalogue {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Found, Query>::default();
            let mut grpc = server::Grpc::new(codec);
            if this.compresses {
                grpc = grpc.accept_compressed(Gzip).send_compressed(Gzip);
            }
            Ok(match request.uri().path() {
                FIND => {
                    let find = service_fn(move |asked: tonic::Request<Query>| {
                        let found = this.find(asked.get_ref());
                        async { found.map(tonic::Response::new) }
                    });
                    grpc.unary(find, request).await
                }
                LIST => {
                    let list = service_fn(move |asked: tonic::Request<Query>| {
                        let (id, this) = (asked.get_ref().id, this.clone());
                        let all = (0..id).map(move |id| this.find(&query(id)));
                        async {
                            Ok(tonic::Response::new(
                                Box::pin(tokio_stream::iter(all)) as Answers
                            ))
                        }
                    });
                    grpc.server_streaming(list, request).await
                }
                TALK => {
                    let talk = service_fn(move |asked: tonic::Request<Streaming<Query>>| {
                        let this = this.clone();
                        let answers = asked.into_inner().map(move |query| this.find(&query?));
                        async { Ok(tonic::Response::new(Box::pin(answers) as Answers)) }
                    });
                    grpc.streaming(talk, request).await
                }
                _ => Status::unimplemented("there is no such method").into_http(),
            })
        })
    }
}

const FIND: &str = "/shop.Catalogue/Find";
const LIST: &str = "/shop.Catalogue/List";
const TALK: &str = "/shop.Catalogue/Talk";

struct Client {
    grpc: Grpc<Channel>,
    service: Catalogue,
    cache: CacheHandle,
}

impl Client {
    async fn new() -> Self {
        Self::of(Catalogue::default()).await
    }

    async fn of(service: Catalogue) -> Self {
        let layer = CacheLayer::builder()
            .key(Key::grpc(LIMIT).all_methods())
            .ttl(MINUTE)
            .build();
        let cache = layer.handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let server = Server::builder().layer(layer).add_service(service.clone());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = within(
            Endpoint::from_shared(format!("http://{address}"))
                .unwrap()
                .connect(),
        )
        .await
        .unwrap();
        Self {
            grpc: Grpc::new(channel),
            service,
            cache,
        }
    }

    async fn find(
        &mut self,
        asked: tonic::Request<Query>,
    ) -> Result<tonic::Response<Found>, Status> {
        within(self.grpc.ready()).await.unwrap();
        let codec = ProstCodec::<Query, Found>::default();
        within(
            self.grpc
                .unary(asked, PathAndQuery::from_static(FIND), codec),
        )
        .await
    }

    fn calls(&self) -> usize {
        self.service.calls.load(Ordering::SeqCst)
    }
}

fn said(answer: &tonic::Response<Found>) -> &str {
    answer
        .metadata()
        .get("cache-status")
        .unwrap()
        .to_str()
        .unwrap()
}

// Invariants 2, 9, 46, 50.
#[tokio::test]
async fn a_real_unary_call_is_answered_from_the_cache() {
    let mut client = Client::new().await;
    for (id, is_hit) in [(1, false), (2, false), (1, true), (2, true)] {
        let answer = client.find(tonic::Request::new(query(id))).await.unwrap();
        assert_eq!(answer.get_ref().text, format!("{id} 0"));
        assert_eq!(answer.get_ref().calls, id);
        assert_eq!(said(&answer).contains("; hit; ttl="), is_hit);
        assert_eq!(answer.metadata().contains_key("age"), is_hit);
    }
    let mut with_user = tonic::Request::new(query(1));
    with_user
        .metadata_mut()
        .insert("x-shade", "alice".parse().unwrap());
    assert!(said(&client.find(with_user).await.unwrap()).contains("; hit"));
    let mut with_credentials = tonic::Request::new(query(1));
    with_credentials
        .metadata_mut()
        .insert("authorization", "Bearer alice".parse().unwrap());
    let answer = client.find(with_credentials).await.unwrap();
    assert!(said(&answer).ends_with("detail=authorization"));
    assert_eq!(client.calls(), 3);
}

// Invariants 22, 45.
#[tokio::test]
async fn real_errors_are_answered_by_the_service_each_time() {
    let mut client = Client::new().await;
    for (id, code) in [(404, Code::NotFound), (503, Code::Unavailable)] {
        let before = client.calls();
        for calls in 1..=3 {
            let error = client
                .find(tonic::Request::new(query(id)))
                .await
                .unwrap_err();
            assert_eq!(error.code(), code);
            assert_eq!(client.calls() - before, calls);
        }
    }
    let stats = client.cache.stats();
    assert_eq!(
        (stats.entries, stats.refusals),
        (0, 1),
        "only the one that is no fault is remembered"
    );
}

// Invariants 5, 48.
#[tokio::test]
async fn a_real_message_over_the_limit_passes_by_whole() {
    let mut client = Client::new().await;
    for size in [LIMIT, 300_000, 3_000_000] {
        for _ in 0..2 {
            let asked = Query {
                id: 1,
                filler: vec![7; size],
            };
            let answer = client.find(tonic::Request::new(asked)).await.unwrap();
            assert_eq!(answer.get_ref().text, format!("1 {size}"));
            assert!(said(&answer).ends_with("detail=request-body-not-keyed"));
        }
    }
    assert_eq!(client.calls(), 6);
}

// Invariants 45, 47.
#[tokio::test]
async fn a_real_server_stream_arrives_whole_each_time() {
    let mut client = Client::new().await;
    for _ in 0..3 {
        let before = client.calls();
        within(client.grpc.ready()).await.unwrap();
        let codec = ProstCodec::<Query, Found>::default();
        let asked = tonic::Request::new(query(20));
        let answers = client
            .grpc
            .server_streaming(asked, PathAndQuery::from_static(LIST), codec);
        let answers = within(answers).await.unwrap().into_inner();
        let all: Vec<_> = within(answers.collect::<Vec<_>>()).await;
        assert_eq!((all.len(), all.iter().all(Result::is_ok)), (20, true));
        assert_eq!(client.calls() - before, 20);
    }
    assert_eq!(client.cache.stats().entries, 0);
}

// Invariants 32, 47.
#[tokio::test]
async fn a_real_conversation_flows() {
    let mut client = Client::new().await;
    within(client.grpc.ready()).await.unwrap();
    let (asking, asked) = tokio::sync::mpsc::unbounded_channel();
    let asked = tokio_stream::wrappers::UnboundedReceiverStream::new(asked);
    asking.send(query(1)).unwrap();
    let codec = ProstCodec::<Query, Found>::default();
    let answers = client.grpc.streaming(
        tonic::Request::new(asked),
        PathAndQuery::from_static(TALK),
        codec,
    );
    let mut answers = within(answers).await.unwrap().into_inner();
    for id in 1..=5 {
        assert_eq!(
            within(answers.message()).await.unwrap().unwrap().text,
            format!("{id} 0")
        );
        asking.send(query(id + 1)).unwrap();
    }
    drop(asking);
    assert!(within(answers.message()).await.unwrap().is_some());
    assert!(within(answers.message()).await.unwrap().is_none());
    assert_eq!(client.cache.stats().entries, 0);
}

/// How a client asks: what it is, and whether it got a compressed answer.
type Asking = (&'static str, fn(Grpc<Channel>) -> Grpc<Channel>, bool);

const ASKING: [Asking; 4] = [
    (
        "sends and accepts",
        |grpc| grpc.send_compressed(Gzip).accept_compressed(Gzip),
        true,
    ),
    ("accepts", |grpc| grpc.accept_compressed(Gzip), true),
    ("sends", |grpc| grpc.send_compressed(Gzip), false),
    ("does neither", |grpc| grpc, false),
];

// Invariants 9, 24, 46.
#[tokio::test]
async fn a_real_compressed_message_is_answered_by_what_was_made_of_it() {
    let service = Catalogue {
        compresses: true,
        ..Catalogue::default()
    };
    let mut client = Client::of(service).await;
    let plain = client.grpc.clone();
    let queries = [1, 2].map(|id| Query {
        id,
        filler: vec![7; LIMIT / 2],
    });
    let mut first = Vec::new();
    for round in 0..3 {
        for (who, asking, is_compressed) in ASKING {
            for (nth, query) in queries.iter().enumerate() {
                client.grpc = asking(plain.clone());
                let answer = client.find(tonic::Request::new(query.clone())).await;
                let answer = answer.unwrap_or_else(|error| panic!("{who}: {error}"));
                assert_eq!(said(&answer).contains("; hit"), round > 0, "{who}");
                let coding = answer.metadata().get("grpc-encoding");
                assert_eq!(
                    coding.is_some_and(|it| it == "gzip"),
                    is_compressed,
                    "{who}"
                );
                let found = answer.into_inner();
                assert_eq!(found.text, format!("{} {}", nth + 1, LIMIT / 2), "{who}");
                first.push(found);
            }
        }
    }
    let (made, hits) = first.split_at(8);
    assert_eq!([made, made].concat(), hits);
    assert_eq!(client.calls(), 8);
}

// Invariants 5, 48.
#[tokio::test]
async fn a_real_compressed_message_is_measured_as_it_comes() {
    let service = Catalogue {
        compresses: true,
        ..Catalogue::default()
    };
    let mut client = Client::of(service).await;
    let plain = client.grpc.clone();
    let long = Query {
        id: 1,
        filler: vec![7; 100 * LIMIT],
    };
    for (who, asking, _) in ASKING {
        let sends = who.contains("sends");
        for is_second in [false, true] {
            client.grpc = asking(plain.clone());
            let answer = client
                .find(tonic::Request::new(long.clone()))
                .await
                .unwrap();
            assert_eq!(said(&answer).contains("; hit"), is_second && sends, "{who}");
            assert_eq!(
                said(&answer).ends_with("request-body-not-keyed"),
                !sends,
                "{who}"
            );
            assert_eq!(answer.get_ref().text, format!("1 {}", 100 * LIMIT));
        }
    }
    assert_eq!(client.calls(), 6);
}

// Invariant 25.
#[tokio::test]
async fn a_real_deadline_of_the_leader_is_its_own() {
    let mut client = Client::new().await;
    let mut hurried = tonic::Request::new(query(1));
    hurried.set_timeout(Duration::from_secs(5));
    client.find(hurried).await.unwrap();
    assert!(said(&client.find(tonic::Request::new(query(1))).await.unwrap()).contains("; hit"));
    assert_eq!(client.calls(), 1);
}

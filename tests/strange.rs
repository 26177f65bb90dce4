//! Requests that nobody expects: they pass by, or are keyed by their raw bytes, and nothing panics.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{Body, Gate, Origin, empty, eventually, ok, send, with, within};
use http::{
    HeaderName, HeaderValue, Request, Uri, header,
    uri::{Parts, PathAndQuery},
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop},
    prop_assert_eq, prop_oneof,
    test_runner::{Config, TestRunner},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::Layer;
use tower_response_cache::{Cache, CacheHandle, CacheLayer, Key, Reason};

/// Tells all that the default key is made of, byte by byte, and the headers that start with `x-`.
fn echo() -> Origin {
    Origin::new(|request| ok(digest(&request)))
}

fn digest(request: &Request<Body>) -> String {
    let uri = request.uri();
    // The host is the same wherever it stands, and without an empty port.
    let of_uri = uri.authority().map(|host| host.as_str().as_bytes());
    let lines = request.headers().get_all(header::HOST).iter();
    let hosts = of_uri.into_iter().chain(lines.map(HeaderValue::as_bytes));
    let mut hosts: Vec<_> = hosts.map(without_empty_port).collect();
    hosts.dedup();
    let headers: Vec<_> = request
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-"))
        .collect();
    format!(
        "{:?} {} {:?} {hosts:?} {headers:?}",
        uri.scheme_str(),
        uri.path(),
        uri.query()
    )
}

fn without_empty_port(host: &[u8]) -> Vec<u8> {
    let lower = host.to_ascii_lowercase();
    match &lower[..] {
        [rest @ .., b':'] if !rest.is_empty() && !rest.contains(&b':') => rest.to_vec(),
        _ => lower,
    }
}

fn default_cache(origin: &Origin) -> Cache<Origin> {
    CacheLayer::new(Duration::from_secs(60)).layer(origin.clone())
}

fn of(method: &str, uri: Uri) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(empty())
        .unwrap()
}

fn at(uri: &str) -> Request<Body> {
    of("GET", uri.parse().unwrap())
}

fn with_bytes(mut request: Request<Body>, name: &'static str, values: &[&[u8]]) -> Request<Body> {
    for value in values {
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(value).unwrap());
    }
    request
}

/// Each of these has an entry of its own, and always gets what was made for it.
async fn are_told_apart(
    cache: &Cache<Origin>,
    origin: &Origin,
    requests: &[&dyn Fn() -> Request<Body>],
) {
    for round in 0..2 {
        for request in requests {
            let answer = send(cache, request()).await;
            assert_eq!(answer.text(), digest(&request()));
            assert_eq!(answer.is_hit(), round > 0, "{:?}", request());
        }
    }
    assert_eq!(origin.calls(), requests.len());
}

// Invariants 7, 8, 10.
#[tokio::test]
async fn targets_are_keyed_by_their_raw_bytes() {
    let origin = echo();
    let mut bare = Parts::default();
    bare.path_and_query = Some(PathAndQuery::from_static("*"));
    let star = Uri::from_parts(bare).unwrap();
    are_told_apart(
        &default_cache(&origin),
        &origin,
        &[
            &|| at("/"),
            &|| at("/?"),
            &|| at("//"),
            &|| at("/%zz"),
            &|| at("/?%zz"),
            &|| at("/%2F"),
            &|| at("/%2f"),
            &|| at("/a/../b"),
            &|| at("/b"),
            &|| at("/?a=1&a=2"),
            &|| at("/?a=2&a=1"),
            &|| at("/?a=1;a=2"),
            &|| at("/?\u{fc}"),
            &|| at("/?a?b"),
            &|| at("http://shop.example/"),
            &|| at("https://shop.example:80/"),
            &|| at("ftp://shop.example/"),
            &|| at("other.example"),
            &|| of("GET", star.clone()),
        ],
    )
    .await;
}

// Invariants 7, 8.
#[tokio::test]
async fn hosts_are_keyed_whether_there_is_none_or_one_and_two_have_no_key() {
    let origin = echo();
    let host = |lines: &'static [&'static [u8]]| move || with_bytes(at("/"), "host", lines);
    are_told_apart(
        &default_cache(&origin),
        &origin,
        &[
            &host(&[]),
            &host(&[b""]),
            &host(&[b"a"]),
            &host(&[b"a, b"]),
            &host(&[b"\xff"]),
            &host(&[b"\xfe\xff"]),
        ],
    )
    .await;
    for _ in 0..2 {
        for request in [
            host(&[b"a", b"b"])(),
            host(&[b"b", b"a"])(),
            with_bytes(at("http://a/"), "host", &[b"b"]),
            with_bytes(at("http://b/"), "host", &[b"a"]),
            at("http://user@a/"),
        ] {
            let expected = digest(&request);
            let answer = send(&default_cache(&origin), request).await;
            assert_eq!(answer.reason(), Some(Reason::Authority));
            assert_eq!(answer.text(), expected);
        }
    }
    let cache = default_cache(&origin);
    send(&cache, with_bytes(at("/"), "host", &[b"Shop.Example"])).await;
    assert!(
        send(&cache, with_bytes(at("/"), "host", &[b"shop.example"]))
            .await
            .is_hit()
    );
}

// Invariant 7.
#[tokio::test]
async fn header_values_that_are_no_text_are_keyed_by_their_bytes() {
    let origin = echo();
    let key = Key::new().header(HeaderName::from_static("x-a"));
    let cache = CacheLayer::builder().key(key).build().layer(origin.clone());
    let value = |lines: &'static [&'static [u8]]| move || with_bytes(at("/"), "x-a", lines);
    are_told_apart(
        &cache,
        &origin,
        &[
            &value(&[]),
            &value(&[b""]),
            &value(&[b"", b""]),
            &value(&[b"\xff"]),
            &value(&[b"\xfe"]),
            &value(&[b"\xff", b"\xfe"]),
            &value(&[b"\xff, \xfe"]),
            &value(&[b"\t"]),
        ],
    )
    .await;
}

// Invariants 4, 7.
#[tokio::test]
async fn variants_of_values_that_are_no_text_are_told_apart() {
    let origin = Origin::new(|request| with(ok(digest(&request)), "vary", "x-a"));
    let value = |lines: &'static [&'static [u8]]| move || with_bytes(at("/"), "x-a", lines);
    are_told_apart(
        &default_cache(&origin),
        &origin,
        &[
            &value(&[]),
            &value(&[b""]),
            &value(&[b"\xff"]),
            &value(&[b"\xfe"]),
            &value(&[b"\xff", b"\xfe"]),
        ],
    )
    .await;
}

// Invariant 2.
#[tokio::test]
async fn cookies_that_are_no_text_are_told_apart_or_pass_by() {
    let origin = Origin::new(|request| ok(format!("{:?}", request.headers().get("cookie"))));
    let cache = CacheLayer::builder()
        .key(Key::new().cookie("c"))
        .build()
        .layer(origin.clone());
    for value in [
        &b"c=\xff"[..],
        b"c=\xfe",
        b"c=\"\xff\"",
        b"c==",
        b"c=",
        b"c",
    ] {
        let answer = send(&cache, with_bytes(at("/"), "cookie", &[value])).await;
        assert_eq!(
            answer.text(),
            format!("{:?}", Some(HeaderValue::from_bytes(value).unwrap()))
        );
    }
    for value in [
        &b"\xff"[..],
        b"\xff=1",
        b"c=1; \xff",
        b"C=1",
        b"=",
        b"c=1;d",
    ] {
        let answer = send(&cache, with_bytes(at("/"), "cookie", &[value])).await;
        assert_eq!(answer.reason(), Some(Reason::Cookie), "{value:?}");
    }
}

// Invariants 5, 12, 57.
#[tokio::test]
async fn what_is_no_request_for_a_page_passes_by() {
    let origin = Origin::counting(&[]);
    let cache = default_cache(&origin);
    let long: Uri = format!("/{}", "x".repeat(64_000)).parse().unwrap();
    let huge_query: Uri = format!("/?{}", "x".repeat(60_000)).parse().unwrap();
    for (request, reason) in [
        (of("OPTIONS", "*".parse().unwrap()), Reason::Method),
        (
            of("CONNECT", "shop.example:443".parse().unwrap()),
            Reason::Upgrade,
        ),
        (of("G\u{45}T2", Uri::from_static("/")), Reason::Method),
        (of("!#$%&'*+-.^_`|~", Uri::from_static("/")), Reason::Method),
        (of(&"M".repeat(5000), Uri::from_static("/")), Reason::Method),
        (of("GET", long), Reason::KeyTooLong),
        (of("GET", huge_query), Reason::KeyTooLong),
    ] {
        let before = origin.calls();
        assert_eq!(send(&cache, request).await.reason(), Some(reason));
        assert_eq!(origin.calls(), before + 1);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: 4000,
        failure_persistence: None,
        ..Config::default()
    })
}

fn bytes_of(alphabet: &'static [u8], longest: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![9 => prop::sample::select(alphabet), 1 => any::<u8>()],
        0..longest,
    )
}

type Made = (Vec<u8>, Vec<(bool, Vec<u8>)>);

fn strange_request() -> impl Strategy<Value = Made> {
    let target = bytes_of(b"/?&=%2fF;#[]ab+.\\:@* \xc3\xbc\xff", 12);
    let headers = vec((any::<bool>(), bytes_of(b"ab,; =\"\xff\t", 5)), 0..3);
    (target, headers)
}

fn build(target: &[u8], headers: &[(bool, Vec<u8>)]) -> Option<Request<Body>> {
    let uri = Uri::try_from(target).ok()?;
    let mut request = of("GET", uri);
    for (is_host, value) in headers {
        let name = if *is_host {
            header::HOST
        } else {
            HeaderName::from_static("x-a")
        };
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(request)
}

// Invariants 7, 8, 9, 10, 19.
#[test]
fn whatever_is_asked_the_answer_is_the_askers_own() {
    // One cache for all cases: what one case left there must never be the answer to another.
    let key = Key::new().header(HeaderName::from_static("x-a"));
    let (origin, runtime) = (echo(), runtime());
    let cache = CacheLayer::builder().key(key).build().layer(origin.clone());
    let result = runner().run(&strange_request(), |(target, headers)| {
        for _ in 0..2 {
            let Some(request) = build(&target, &headers) else {
                return Ok(());
            };
            let expected = digest(&request);
            let answer = runtime.block_on(send(&cache, request));
            prop_assert_eq!(answer.text(), expected);
        }
        Ok(())
    });
    assert_eq!(result, Ok(()));
    assert!(
        origin.calls() > 200,
        "most of them were no requests: {}",
        origin.calls()
    );
}

// Invariants 7, 10.
#[test]
fn whatever_the_query_the_chosen_parameters_are_the_askers_own() {
    // What a handler makes of a query: the first `a`, as two common readers have it.
    fn readings(query: &str) -> [Option<String>; 2] {
        let first = |separators: &[char]| {
            let pairs = query
                .split(separators)
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let mut of_a = pairs.filter(|(name, _)| matches!(*name, "a" | "%61"));
            of_a.next().map(|(_, value)| value.to_owned())
        };
        [first(&['&']), first(&['&', ';'])]
    }
    let origin = Origin::new(|request| {
        ok(format!(
            "{:?}",
            readings(request.uri().query().unwrap_or_default())
        ))
    });
    let cache = CacheLayer::builder()
        .key(Key::new().query(["a"]))
        .build()
        .layer(origin);
    let runtime = runtime();
    let pieces = prop::sample::select(
        &[
            "a", "b", "=", "&", ";", "%61", "%", "+", "1", "[", "]", "a=1", "&a=2", "%zz",
        ][..],
    );
    let query = vec(pieces, 0..10).prop_map(|pieces| pieces.concat());
    let result = runner().run(&query, |query| {
        let Ok(uri) = format!("/?{query}").parse() else {
            return Ok(());
        };
        let answer = runtime.block_on(send(&cache, of("GET", uri)));
        prop_assert_eq!(answer.text(), format!("{:?}", readings(&query)));
        Ok(())
    });
    assert_eq!(result, Ok(()));
}

// ---- raw bytes, over a real server

async fn served(origin: Origin, half_close: bool) -> (SocketAddr, CacheHandle) {
    let layer = CacheLayer::new(Duration::from_secs(60));
    let (cache, handle) = (layer.layer(origin), layer.handle());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(cache.clone());
            tokio::spawn(async move {
                let mut builder = http1::Builder::new();
                builder.half_close(half_close).pipeline_flush(true);
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, handle)
}

/// What comes back, to the end of the connection.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

// Invariants 25, 50.
#[tokio::test]
async fn two_requests_in_one_go_are_answered_in_their_order() {
    let origin = Origin::counting(&[]);
    let (address, _) = served(origin.clone(), false).await;
    let answers = exchange(
        address,
        b"GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    let told: Vec<_> = answers
        .lines()
        .filter(|line| line.starts_with("cache-status"))
        .collect();
    assert_eq!(told.len(), 3, "{answers}");
    assert!(
        told[0].ends_with("fwd=uri-miss; stored")
            && told[1].contains("; hit; ttl=")
            && told[2].ends_with("stored")
    );
    assert!(answers.ends_with('2'));
    assert_eq!(origin.calls(), 2);
}

// Invariants 5, 7, 8.
#[tokio::test]
async fn strange_bytes_never_fill_the_entry_of_a_plain_request() {
    let origin = echo();
    let (address, _) = served(origin, false).await;
    let plain = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for strange in [
        &b"GET / HTTP/1.1\r\nhost: a\r\nhost: evil\r\nconnection: close\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: evil\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET http://evil/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-evil: \xff\xfe\r\nx-evil: 2\r\nconnection: close, x-evil\r\ncookie: \xff\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nconnection: close\r\n\r\nevil",
        b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"EVIL / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost",
        b"\r\n\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(strange).await;
        let _ = stream.shutdown().await;
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    for is_hit in [false, true] {
        let answer = exchange(address, plain).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && !answer.contains("evil"),
            "{answer}"
        );
        assert_eq!(answer.contains("; hit; ttl="), is_hit, "{answer}");
    }
}

// Invariants 26, 31.
#[tokio::test]
async fn a_client_that_closes_its_half_gets_its_answer_where_the_server_allows_it_and_loses_no_fill()
 {
    for half_close in [true, false] {
        let gate = Gate::new();
        let inside = gate.clone();
        let origin = Origin::later(move |_| {
            let inside = inside.clone();
            async move {
                inside.pass().await;
                ok("whole")
            }
        });
        let (address, handle) = served(origin.clone(), half_close).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        gate.arrival().await;
        stream.shutdown().await.unwrap();
        if !half_close {
            // The server takes it for gone, and drops the request.
            let _ = within(stream.read_to_end(&mut Vec::new())).await;
        }
        gate.open();
        if half_close {
            let mut answer = String::new();
            within(stream.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.ends_with("whole"), "{answer}");
        }
        eventually(|| handle.stats().fills == 0 && handle.stats().flights == 0).await;
        let answer = exchange(
            address,
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(
            answer.contains("; hit; ttl=") && answer.ends_with("whole"),
            "{answer}"
        );
        assert_eq!(origin.calls(), 1);
    }
}

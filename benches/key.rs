//! What each part of a key costs, in nanoseconds and allocations.
//!
//! `cargo bench --all-features --bench key`
//!
//! Each row is a difference: requests with the part in their key, less the same requests without it, both in one run.
//! The keys are all longer than they may be, so that the key is made and nothing else happens; where the body is in the
//! key, the requests are hits. Differences of less than about 10 ns are noise.

mod common;

use std::{convert::Infallible, time::Duration};

use axum::{Router, routing};
use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_response_cache::{CacheLayer, CacheLayerBuilder, Key, key::Normalize};

use common::{Body, Case, ready, run, runtime};

/// The requests without a part in their key and those with it, which bear its name.
type Row = [Case<'static>; 2];

fn main() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut rows = vec![target(), long_target()];
    rows.extend(queries());
    rows.extend(headers());
    rows.extend(found());
    rows.push(capture());
    rows.extend(bodies(&runtime));
    let mut cases: Vec<_> = rows.into_iter().flatten().collect();
    run(&mut cases);
    println!(
        "\n{:<60}{:>8}{:>14}",
        "part of the key", "ns", "allocations"
    );
    for pair in cases.chunks_exact_mut(2) {
        let part = pair[1].name;
        let ns = pair[1].median() - pair[0].median();
        let allocations = pair[1].allocations() - pair[0].allocations();
        println!("{part:<60}{ns:>8.0}{allocations:>14.1}");
    }
}

/// All that is always in the key: against requests that pass by before there is one.
fn target() -> Row {
    let by_method = || {
        let mut request = get();
        *request.method_mut() = Method::PUT;
        request
    };
    [
        case("", by_method, Key::new()),
        case("method, host, path, query as it comes", get, Key::new()),
    ]
}

fn long_target() -> Row {
    let get = || {
        let mut request = get();
        *request.uri_mut() = LONG.parse().expect("a target");
        request
    };
    let by_method = move || {
        let mut request = get();
        *request.method_mut() = Method::PUT;
        request
    };
    [
        case("", by_method, Key::new()),
        case("the same, of 220 bytes together", get, Key::new()),
    ]
}

/// With its host, method and path 220 bytes.
const LONG: &str = concat!(
    "/shop/products/in/category/1234567890",
    "?name=something%20long&page=12&sort=price&order=ascending&filter=colour%3Ablue&filter=size%3Alarge&view=list",
    "&utm_source=newsletter&utm_medium=email&session=0123456789",
);

fn queries() -> Vec<Row> {
    let asked = || uri("/p?a=1&page=2&utm_source=x&sort=price&utm_medium=y");
    vec![
        more("query: two of five parameters", asked, Key::new(), |key| {
            key.query(["page", "sort"])
        }),
        more("query: all but utm_*", asked, Key::new(), |key| {
            key.query_except(["utm_*"])
        }),
    ]
}

fn headers() -> Vec<Row> {
    let asked = || {
        with(&[
            ("accept-language", "de-AT,de;q=0.9,en;q=0.8"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
        ])
    };
    let codings = || Normalize::codings(["br", "gzip"]).expect("tokens");
    let languages = || Normalize::languages(["en", "de"]).expect("tokens");
    let cookies = || with(&[("cookie", "theme=dark; region=eu; seen=1")]);
    let forwarded = || {
        with(&[
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "https"),
        ])
    };
    let element = || with(&[("forwarded", "for=10.0.0.1;host=shop.example;proto=https")]);
    let language = header::ACCEPT_LANGUAGE;
    vec![
        more("header", asked, Key::new(), |key| key.header(language)),
        more("header, absent", get, Key::new(), |key| {
            key.header(header::ACCEPT_CHARSET)
        }),
        more("header_as: Accept-Encoding", asked, Key::new(), |key| {
            key.header_as(header::ACCEPT_ENCODING, codings())
        }),
        more("header_as: Accept-Language", asked, Key::new(), |key| {
            key.header_as(header::ACCEPT_LANGUAGE, languages())
        }),
        more("header_as: case and space", asked, Key::new(), |key| {
            key.header_as(header::ACCEPT_LANGUAGE, Normalize::case_and_space())
        }),
        more(
            "cookie, one of three",
            cookies,
            Key::new().ignore_cookies(),
            |key| key.cookie("region"),
        ),
        [
            case("", get, Key::new()),
            case(
                "X-Forwarded-Host and -Proto (there, or not)",
                forwarded,
                Key::new(),
            ),
        ],
        [
            case("", get, Key::new()),
            case("Forwarded (there, or not)", element, Key::new()),
        ],
    ]
}

fn found() -> Vec<Row> {
    let asked = || {
        let mut request = get();
        request.extensions_mut().insert(7u64);
        request
    };
    vec![
        more("extension, a number", asked, Key::new(), |key| {
            key.extension::<u64>()
        }),
        more("optional extension, absent", asked, Key::new(), |key| {
            key.optional_extension::<u32>()
        }),
        more(
            "part: a closure that makes a number",
            asked,
            Key::new(),
            |key| key.part("length", |parts| Some(parts.headers.len() as u64)),
        ),
    ]
}

/// Through a router, which is what captures.
fn capture() -> Row {
    let case = |part, key: Key| {
        let route = routing::get(async || "");
        let router = Router::<()>::new().route("/products/{id}", route);
        let mut answer = ready(router.layer(layer(key)));
        let asked = || uri("/products/a-name-of-some-length").map(axum::body::Body::new);
        Case::new(part, get, move |_| answer(asked()))
    };
    let with = Key::new().capture("id");
    [case("", Key::new()), case("capture, one of a path", with)]
}

fn bodies(runtime: &tokio::runtime::Runtime) -> Vec<Row> {
    let json = |bytes: usize| {
        let filler = "x".repeat(bytes - 60);
        let query = format!(r#"{{"size":10,"query":{{"match":{{"title":"{filler}"}}}},"from":0}}"#);
        move || {
            let mut request = get().map(|_| Full::from(query.clone()));
            let json = http::HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
            request
        }
    };
    let row = |part, bytes, key: Key<tower_response_cache::key::Body>| {
        let without = hit("", runtime, get, Key::new().body(1 << 20));
        [without, hit(part, runtime, json(bytes), key)]
    };
    vec![
        row(
            "body of 1 KiB, raw (a hit; against no body)",
            1 << 10,
            Key::new().body(1 << 20),
        ),
        row(
            "body of 64 KiB, raw (a hit; against no body)",
            1 << 16,
            Key::new().body(1 << 20),
        ),
        row(
            "body of 1 KiB, JSON (a hit; against no body)",
            1 << 10,
            Key::new().json_body(1 << 20),
        ),
        row(
            "body of 64 KiB, JSON (a hit; against no body)",
            1 << 16,
            Key::new().json_body(1 << 20),
        ),
    ]
}

/// What a part adds to a key.
fn more(
    part: &'static str,
    make: fn() -> Request<Body>,
    key: Key,
    add: impl FnOnce(Key) -> Key,
) -> Row {
    [case("", make, key.clone()), case(part, make, add(key))]
}

/// Requests for which a key is made, and that then pass by.
fn case(
    part: &'static str,
    make: impl FnMut() -> Request<Body> + 'static,
    key: Key,
) -> Case<'static> {
    Case::new(part, make, ready(layer(key).layer(origin())))
}

/// No path is longer than a key may be, and every key is.
fn layer(key: Key) -> CacheLayer {
    mute(CacheLayer::builder().key(key))
        .max_key_bytes(40)
        .build()
}

fn mute<B>(builder: CacheLayerBuilder<B>) -> CacheLayerBuilder<B> {
    builder.status_header(false).status_extension(false)
}

/// Hits under a key that reads the body.
fn hit(
    part: &'static str,
    runtime: &tokio::runtime::Runtime,
    mut make: impl FnMut() -> Request<Body> + 'static,
    key: Key<tower_response_cache::key::Body>,
) -> Case<'static> {
    let builder = mute(CacheLayer::builder().key(key)).ttl(Duration::from_secs(3600));
    let mut service = builder.build().layer(origin());
    let first = service.call(make());
    runtime.block_on(async {
        let Ok(response) = first.await;
        response.into_body().collect().await.expect("a body");
    });
    Case::new(part, make, ready(service))
}

fn origin<B>() -> impl Service<
    Request<B>,
    Response = Response<Body>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<Body>, Infallible>>,
> + Clone
+ Send
+ 'static {
    service_fn(|_: Request<B>| {
        let response = Response::new(Full::new(Bytes::from_static(b"hello")));
        std::future::ready(Ok(response))
    })
}

fn get() -> Request<Body> {
    uri("/products?page=1&sort=price")
}

fn uri(target: &'static str) -> Request<Body> {
    let mut request = Request::new(Body::default());
    *request.uri_mut() = http::Uri::from_static(target);
    let headers = request.headers_mut();
    headers.insert(header::HOST, http::HeaderValue::from_static("shop.example"));
    headers.insert(header::ACCEPT, http::HeaderValue::from_static("*/*"));
    request
}

fn with(lines: &[(&'static str, &'static str)]) -> Request<Body> {
    let mut request = get();
    for (name, value) in lines {
        let name = HeaderName::from_static(name);
        request
            .headers_mut()
            .append(name, http::HeaderValue::from_static(value));
    }
    request
}

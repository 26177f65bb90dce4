//! Counts instructions of one kind of request at a time, for comparing two commits: counts do not depend on how busy the
//! machine is.
//!
//! ```console
//! $ cargo bench --bench instructions --no-run
//! $ for n in 1000 11000; do valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/deps/instructions-… hit $n; done
//! ```
//!
//! The difference of the two totals, divided by 10,000, is what one request takes. The kinds are `hit` (with status
//! header and extension), `hit-mute` (without), `hit-browser` (twelve header fields), `hit-rfc9111`, `bypass`, `post`
//! and `miss`. Without arguments each kind runs once.

use std::{convert::Infallible, env, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_response_cache::{CacheLayer, CacheLayerBuilder};

type Body = Full<Bytes>;

const KINDS: [&str; 7] = [
    "hit",
    "hit-mute",
    "hit-browser",
    "hit-rfc9111",
    "bypass",
    "post",
    "miss",
];

fn main() {
    let arguments: Vec<_> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match &*arguments {
        [kind, number] => run(kind, number.parse().expect("a number of requests")),
        _ => KINDS.iter().for_each(|kind| run(kind, 1)),
    }
}

fn run(kind: &str, number: u32) {
    let layer = match kind {
        "hit" | "hit-browser" => CacheLayer::builder(),
        "hit-rfc9111" => CacheLayer::builder().rfc9111(),
        _ => mute(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut service = layer
            .ttl(Duration::from_secs(3600))
            .build()
            .layer(service_fn(answer));
        for n in 0..=number {
            let response = service.call(request(kind, n)).await;
            let Ok(body) = response.expect("an answer").into_body().collect().await else {
                panic!("the body is whole");
            };
            std::hint::black_box(body.to_bytes());
        }
    });
    println!("{kind}: {number}");
}

fn mute() -> CacheLayerBuilder {
    CacheLayer::builder()
        .status_header(false)
        .status_extension(false)
}

fn request(kind: &str, n: u32) -> Request<Body> {
    let path = match kind {
        "miss" => format!("http://shop.example/products/{n}?page=2"),
        _ => "http://shop.example/products/7?page=2".to_owned(),
    };
    let mut request = Request::new(Body::default());
    *request.uri_mut() = path.parse().expect("a URI");
    match kind {
        "post" => *request.method_mut() = Method::POST,
        "bypass" => put(&mut request, "cookie", "sid=1"),
        _ => {}
    }
    put(&mut request, "accept", "text/html");
    put(&mut request, "user-agent", "Mozilla/5.0");
    if kind == "hit-browser" {
        for (name, value) in [
            ("accept-language", "de,en;q=0.5"),
            ("accept-encoding", "gzip, br"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-user", "?1"),
            ("sec-ch-ua-mobile", "?0"),
            ("upgrade-insecure-requests", "1"),
            ("priority", "u=0, i"),
            ("referer", "http://shop.example/"),
        ] {
            put(&mut request, name, value);
        }
    }
    request
}

fn put(request: &mut Request<Body>, name: &'static str, value: &'static str) {
    request
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}

async fn answer(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    let mut response = Response::new(Body::from(vec![b'x'; 1024]));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "max-age=3600"),
        (header::ETAG, "\"abc\""),
        (header::LAST_MODIFIED, "Sun, 01 Nov 2026 00:00:00 GMT"),
        (header::CONTENT_LANGUAGE, "en"),
        (header::SERVER, "shop"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

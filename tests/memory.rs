//! The memory that is counted is the memory that is used. One test, so that nobody else's allocations are counted.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "../benches/common/counting.rs"]
mod counting;

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{CacheHandle, CacheLayer, Key, Tag, Tags};

type Body = Full<Bytes>;

/// How many responses are stored before it is measured, so that what is made once for all is there.
const WARM: usize = 500;

/// What a handler answers.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    body: usize,
    /// Custom headers, of names and values of about 12 bytes.
    headers: usize,
    tags: usize,
    vary: bool,
    etag: bool,
    /// Values of one header, `Link`.
    links: usize,
    /// Whether the request is recorded, so that it can be sent again.
    refreshable: bool,
}

impl Shape {
    fn answer(self, page: usize) -> Response<Body> {
        let mut response = Response::new(Full::from(vec![b'x'; self.body]));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("max-age=60"),
        );
        for number in 0..self.headers {
            let name = HeaderName::from_bytes(format!("x-header-{number:03}").as_bytes()).unwrap();
            headers.append(
                name,
                HeaderValue::try_from(format!("value {number:06}")).unwrap(),
            );
        }
        for number in 0..self.links {
            let link = format!("</style/{number}.css>; rel=preload");
            headers.append(header::LINK, HeaderValue::try_from(link).unwrap());
        }
        if self.vary {
            headers.insert(
                header::VARY,
                HeaderValue::from_static("accept-language, x-theme"),
            );
        }
        let tags = (0..self.tags).map(|tag| Tag::from(format!("product:{page}:{tag}")));
        response.extensions_mut().insert(tags.collect::<Tags>());
        response
    }
}

fn get(page: usize) -> Request<Body> {
    let request = Request::get(format!("/pages/{page:06}?sort=price"));
    let request = request.header(header::HOST, "shop.example");
    let request = request.header(header::ACCEPT_LANGUAGE, "de-CH, en;q=0.5");
    request.body(Body::default()).unwrap()
}

/// The bytes that stored responses of this shape take, over the bytes that the handle counts for them.
async fn used_over_counted(shape: Shape, entries: usize) -> f64 {
    let handle = CacheHandle::builder().max_bytes(1 << 30).build();
    let builder = CacheLayer::builder()
        .handle(&handle)
        .key(Key::new())
        .etag_from_body(shape.etag)
        .ttl(Duration::from_secs(3600));
    let inner = service_fn(move |request: Request<Body>| async move {
        let page = &request.uri().path()["/pages/".len()..];
        Ok::<_, Infallible>(shape.answer(page.parse().unwrap()))
    });
    let service = if shape.refreshable {
        BoxCloneService::new(builder.refreshable().build().layer(inner))
    } else {
        BoxCloneService::new(builder.build().layer(inner))
    };
    let ask = async |page| {
        let response = service.clone().oneshot(get(page)).await.unwrap();
        response.into_body().collect().await.unwrap();
    };
    // What is made once for all, by the cache and the runtime.
    for page in 0..WARM {
        ask(page).await;
        ask(page).await;
    }
    let counted_before = handle.stats().bytes;
    let before = counting::bytes();
    for page in WARM..WARM + entries {
        ask(page).await;
        // A hit may make what is stored take more.
        ask(page).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stats = handle.stats();
    assert_eq!(stats.entries, (WARM + entries) as u64);
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = (counting::bytes() - before) as f64 / (stats.bytes - counted_before) as f64;
    let each = (counting::bytes() - before) / i64::try_from(entries).unwrap();
    let counted = stats.bytes / stats.entries;
    println!("{share:.3}: {each} used, {counted} counted, {entries} times {shape:?}");
    share
}

// Invariants 56, 66.
#[tokio::test]
async fn memory_counted_is_memory_used_within_a_tenth() {
    let usual = Shape {
        body: 1024,
        headers: 3,
        tags: 2,
        ..Shape::default()
    };
    let shapes = [
        Shape::default(),
        usual,
        Shape {
            body: 0,
            headers: 10,
            ..usual
        },
        Shape {
            headers: 100,
            ..usual
        },
        Shape { tags: 100, ..usual },
        Shape {
            vary: true,
            ..usual
        },
        Shape {
            etag: true,
            ..usual
        },
        Shape { links: 20, ..usual },
        Shape {
            body: 100_000,
            ..usual
        },
        Shape {
            refreshable: true,
            ..usual
        },
    ];
    let mut wrong = Vec::new();
    for shape in shapes {
        let share = used_over_counted(shape, 500).await;
        if !(0.9..=1.1).contains(&share) {
            wrong.push((share, shape));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

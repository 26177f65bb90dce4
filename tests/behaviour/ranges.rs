//! Parts of responses: of stored ones behind and before compression, and of those that are never stored.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::any,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_http::{compression::CompressionLayer, services::ServeDir};
use tower_response_cache::{CacheHandle, CacheLayer, CacheLayerBuilder, CacheStatus, Key, Reason};

use crate::common;

const LIMIT: usize = 1000;
const LONG: usize = 5 * LIMIT;

fn builder() -> CacheLayerBuilder {
    CacheLayer::builder()
        .ttl(Duration::from_secs(60))
        .max_body_bytes(LIMIT)
}

fn both_modes() -> [CacheLayerBuilder; 2] {
    [builder(), builder().rfc9111().ttl(Duration::from_secs(60))]
}

/// Bytes of which each window is another.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + (at * at % 23) as u8).collect()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn of<B>(response: http::Response<B>) -> Self
    where
        B: http_body::Body<Error: std::fmt::Debug>,
    {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: common::within(body.collect()).await.unwrap().to_bytes(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|line| line.to_str().unwrap())
    }

    fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap_or_default()
    }

    /// Checks that it is this part of these bytes.
    #[track_caller]
    fn is_part(&self, of: &[u8], from: usize, to: usize) {
        let told = format!("bytes {from}-{}/{}", to - 1, of.len());
        assert_eq!(self.status, 206, "{self:?}");
        assert_eq!(self.header("content-range"), Some(&*told));
        assert_eq!(
            self.header("content-length"),
            Some(&*(to - from).to_string())
        );
        assert!(self.body == of[from..to]);
    }
}

/// The `Range` and `If-None-Match` of each call of the handler.
type Seen = Arc<Mutex<Vec<String>>>;

fn noted(headers: &HeaderMap) -> String {
    let line = |name| {
        let value = headers.get(name);
        value.map_or("-", |value: &HeaderValue| value.to_str().unwrap())
    };
    format!("{} {}", line(header::RANGE), line(header::IF_NONE_MATCH))
}

/// Notes what a handler sees, and adds to its response what the query asks for.
async fn note(State(seen): State<Seen>, request: Request, next: Next) -> Response {
    let noted = noted(request.headers());
    seen.lock().unwrap().push(noted);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut response = next.run(request).await;
    let (name, value) = match query.as_str() {
        "private" => (header::CACHE_CONTROL, "private"),
        "no-store" => (header::CACHE_CONTROL, "no-store"),
        "cookie" => (header::SET_COOKIE, "a=b"),
        "fresh" => (header::CACHE_CONTROL, "max-age=60"),
        _ => return response,
    };
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    response
}

/// Files behind a cache.
struct Files {
    app: Router,
    seen: Seen,
}

impl Files {
    fn new(name: &str, builder: CacheLayerBuilder) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("long.bin"), bytes(LONG)).unwrap();
        std::fs::write(folder.join("fits.bin"), bytes(LIMIT)).unwrap();
        std::fs::write(folder.join("over.bin"), bytes(LIMIT + 1)).unwrap();
        let files = Router::new().fallback_service(ServeDir::new(folder));
        Self::of(files, builder)
    }

    fn of(router: Router, builder: CacheLayerBuilder) -> Self {
        let seen = Seen::default();
        let app = router
            .layer(from_fn_with_state(seen.clone(), note))
            .layer(builder.build());
        Self { app, seen }
    }

    async fn ask(&self, path: &str, lines: &[(&str, &str)]) -> Answer {
        let mut request = http::Request::get(path).header("host", "files.example");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = common::within(self.app.clone().oneshot(request)).await;
        Answer::of(response.unwrap()).await
    }

    /// What the handler has seen since the last time.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

// Invariant 63.
#[tokio::test]
async fn a_part_of_a_file_over_the_limit_is_cut_out_of_what_comes_in_or_asked_for_over_a_socket() {
    let files = Files::new("sockets", builder());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = files.app.clone();
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let long = bytes(LONG);
    for (path, range, from, to, calls) in [
        ("/over.bin", "bytes=0-1", 0, 2, &["- -"][..]),
        ("/over.bin", "bytes=0-1", 0, 2, &["bytes=0-1 -"]),
        ("/long.bin?1", "bytes=1000-1999", LIMIT, 2 * LIMIT, &["- -"]),
        (
            "/long.bin?2",
            "bytes=1001-1999",
            LIMIT + 1,
            2 * LIMIT,
            &["- -", "bytes=1001-1999 -"],
        ),
        ("/long.bin?2", "bytes=-7", LONG - 7, LONG, &["bytes=-7 -"]),
        (
            "/long.bin?3",
            "bytes=-7",
            LONG - 7,
            LONG,
            &["- -", "bytes=-7 -"],
        ),
    ] {
        let request = http::Request::get(format!("http://{address}{path}"))
            .header("range", range)
            .body(Body::empty());
        let response = common::within(client.request(request.unwrap())).await;
        let answer = Answer::of(response.unwrap()).await;
        let whole = if path.starts_with("/over") {
            &long[..=LIMIT]
        } else {
            &long[..]
        };
        answer.is_part(whole, from, to);
        assert!(
            answer.cache_status().contains("detail=too-large"),
            "{answer:?}"
        );
        assert_eq!(files.seen(), calls, "{path} {range}");
    }
    serving.abort();
}

// Invariant 63.
#[tokio::test]
async fn a_file_that_fits_is_stored_and_parts_are_cut_out_of_it() {
    let files = Files::new("fits", builder());
    let whole = bytes(LIMIT);
    for at in 0..3 {
        files
            .ask("/fits.bin", &[("range", "bytes=5-9")])
            .await
            .is_part(&whole, 5, 10);
        let seen: &[&str] = if at == 0 { &["- -"] } else { &[] };
        assert_eq!(files.seen(), seen);
    }
}

// Invariant 63.
#[tokio::test]
async fn a_part_of_a_response_that_is_its_requesters_alone_stays_a_part() {
    let long = bytes(LONG);
    for what in ["private", "no-store", "cookie"] {
        let files = Files::new("alone", builder());
        let path = format!("/long.bin?{what}");
        let beyond = "bytes=4000-4999";
        let first = files.ask(&path, &[("range", beyond)]).await;
        first.is_part(&long, 4000, 5000);
        assert_eq!(first.header("set-cookie").is_some(), what == "cookie");
        // A cookie was made for this client: the handler is not called twice.
        let twice = ["- -".to_owned(), format!("{beyond} -")];
        let calls = if what == "cookie" {
            &twice[..1]
        } else {
            &twice[..]
        };
        assert_eq!(files.seen(), calls, "{what}");
        // From now on the inner service sees what the client sent.
        files
            .ask(&path, &[("range", beyond)])
            .await
            .is_part(&long, 4000, 5000);
        assert_eq!(files.seen(), twice[1..], "{what}");
        let none = files.ask(&path, &[("range", "bytes=5000-")]).await;
        assert_eq!(none.status, 416, "{what}");
        assert_eq!(none.header("content-range"), Some("bytes */5000"));
    }
}

// Invariant 63.
#[tokio::test]
async fn several_parts_of_what_is_not_stored_are_the_handlers_own() {
    async fn parts(headers: HeaderMap) -> Response {
        let mut response = Response::new(Body::from(bytes(LONG)));
        if headers.contains_key("range") {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let kind = HeaderValue::from_static("multipart/byteranges; boundary=x");
            response.headers_mut().insert("content-type", kind);
            *response.body_mut() = Body::from("several parts");
        }
        response
    }
    let several = [("range", "bytes=0-0,9-9")];
    let files = Files::of(Router::new().fallback(any(parts)), builder());
    for calls in [&["- -", "bytes=0-0,9-9 -"][..], &["bytes=0-0,9-9 -"]] {
        let answer = files.ask("/", &several).await;
        assert_eq!((answer.status, &*answer.body), (206, &b"several parts"[..]));
        assert_eq!(files.seen(), calls);
    }
    // Where the handler is not to be called twice, the whole is as good (RFC 9110 §14.2).
    let answer = files.ask("/?cookie", &several).await;
    assert_eq!((answer.status, answer.body.len()), (200, LONG));
    assert_eq!(files.seen(), ["- -"]);
}

// Invariant 63.
#[tokio::test]
async fn a_part_of_a_private_stream_of_unknown_length_is_the_handlers_own() {
    async fn stream(headers: HeaderMap) -> Response {
        let mut response = if headers.contains_key("range") {
            let mut part = Response::new(Body::from("part"));
            *part.status_mut() = StatusCode::PARTIAL_CONTENT;
            part
        } else {
            let frames = tokio_stream::iter([Ok::<_, std::io::Error>(http_body::Frame::data(
                Bytes::from("whole"),
            ))]);
            Response::new(Body::new(StreamBody::new(frames)))
        };
        let private = HeaderValue::from_static("private");
        response.headers_mut().insert("cache-control", private);
        response
    }
    let files = Files::of(Router::new().fallback(any(stream)), builder());
    for calls in [&["- -", "bytes=1-4 -"][..], &["bytes=1-4 -"]] {
        let answer = files.ask("/", &[("range", "bytes=1-4")]).await;
        assert_eq!((answer.status, &*answer.body), (206, &b"part"[..]));
        assert_eq!(files.seen(), calls);
    }
}

// Invariant 63.
#[tokio::test]
async fn if_range_decides_also_over_what_is_not_stored() {
    let long = bytes(LONG);
    for builder in [builder(), builder().rfc9111().whole_for_ranges(true)] {
        let files = Files::new("if-range", builder);
        let whole = files.ask("/long.bin?private", &[]).await;
        let modified = whole.header("last-modified").unwrap().to_owned();
        files.seen();
        let range = ("range", "bytes=1-2");
        let other = "Sun, 06 Nov 1994 08:49:37 GMT";
        // A file of this very second may still change (RFC 9110 §8.8.2.2), so that only the other date is sure.
        let answer = files.ask("/over.bin", &[range, ("if-range", other)]).await;
        assert_eq!((answer.status, answer.body.len()), (200, LIMIT + 1));
        assert_eq!(files.seen(), ["- -"]);
        let answer = files.ask("/long.bin?no-store", &[range]).await;
        answer.is_part(&long, 1, 3);
        let answer = files
            .ask("/long.bin?private", &[range, ("if-range", &modified)])
            .await;
        assert!(matches!(answer.status, 200 | 206), "{answer:?}");
    }
}

// Invariant 63.
#[tokio::test]
async fn a_part_that_the_handler_sends_unasked_is_passed_on() {
    async fn part() -> Response {
        let mut response = Response::new(Body::from("part"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = HeaderValue::from_static("bytes 0-3/9");
        response.headers_mut().insert("content-range", range);
        response
    }
    let files = Files::of(Router::new().fallback(any(part)), builder());
    for lines in [
        &[][..],
        &[("range", "bytes=0-3")],
        &[("range", "bytes=7-8")],
    ] {
        let answer = files.ask("/", lines).await;
        assert_eq!((answer.status, &*answer.body), (206, &b"part"[..]));
        assert_eq!(answer.header("content-range"), Some("bytes 0-3/9"));
        assert_eq!(files.seen().len(), 1);
    }
}

// Invariant 63.
#[tokio::test]
async fn a_unit_other_than_bytes_bypasses_the_cache() {
    async fn items(headers: HeaderMap) -> Response {
        let mut response = Response::new(Body::from("all items"));
        if headers.contains_key("range") {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = Body::from("two items");
        }
        response
    }
    for builder in both_modes() {
        let handle = CacheHandle::builder().build();
        let files = Files::of(Router::new().fallback(any(items)), builder.handle(&handle));
        for is_stored in [false, true] {
            if is_stored {
                assert_eq!(files.ask("/", &[]).await.body, "all items");
                files.seen();
            }
            let answer = files.ask("/", &[("range", "items=0-1")]).await;
            assert_eq!((answer.status, &*answer.body), (206, &b"two items"[..]));
            assert!(
                answer
                    .cache_status()
                    .ends_with("fwd=bypass; detail=range-unit")
            );
            assert_eq!(files.seen(), ["items=0-1 -"]);
            let request = http::Request::get("/").header("host", "files.example");
            let request = request.header("range", "items=0-1").body(()).unwrap();
            let told = handle.explain(&request.into_parts().0);
            assert!(format!("{told:?}").contains("RangeUnit"), "{told:?}");
        }
        let whole = files.ask("/", &[]).await;
        assert_eq!((&*whole.body, files.seen().len()), (&b"all items"[..], 0));
    }
}

// Invariant 63.
#[tokio::test]
async fn by_the_rfc_a_range_of_all_bytes_fetches_the_whole_and_other_ranges_go_on_as_they_are() {
    let files = Files::new(
        "all-bytes",
        builder().rfc9111().ttl(Duration::from_secs(60)),
    );
    let (fits, long) = (bytes(LIMIT), bytes(LONG));
    files
        .ask("/fits.bin?fresh", &[("range", "bytes=0-")])
        .await
        .is_part(&fits, 0, LIMIT);
    assert_eq!(files.seen(), ["- -"]);
    assert!(files.ask("/fits.bin?fresh", &[]).await.body == fits);
    let part = files.ask("/fits.bin?fresh", &[("range", "bytes=3-")]).await;
    part.is_part(&fits, 3, LIMIT);
    assert_eq!(files.seen(), [""; 0]);
    files
        .ask("/fits.bin", &[("range", "bytes=3-")])
        .await
        .is_part(&fits, 3, LIMIT);
    assert_eq!(files.seen(), ["bytes=3- -"]);
    // A file that is not stored is not fetched twice for it.
    files
        .ask("/long.bin", &[("range", "bytes=0-")])
        .await
        .is_part(&long, 0, LONG);
    assert_eq!(files.seen(), ["- -"]);
}

// Invariant 63.
#[tokio::test]
async fn a_handler_without_ranges_still_answers_with_a_part() {
    async fn page() -> Response {
        let mut response = Response::new(Body::from(bytes(LONG)));
        let private = HeaderValue::from_static("private");
        response.headers_mut().insert("cache-control", private);
        response
    }
    let files = Files::of(Router::new().fallback(any(page)), builder());
    let long = bytes(LONG);
    for _ in 0..2 {
        files
            .ask("/", &[("range", "bytes=7-9")])
            .await
            .is_part(&long, 7, 10);
    }
    // The second call says no more than the first one.
    let answer = files.ask("/?other", &[("range", "bytes=4000-4001")]).await;
    answer.is_part(&long, 4000, 4002);
    assert_eq!(files.seen().len(), 4);
}

// Invariant 63.
#[tokio::test]
async fn a_body_that_the_key_has_read_is_sent_again() {
    async fn search(request: Request) -> Response {
        let is_part = request.headers().contains_key("range");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Body::from([&asked[..], &bytes(LONG)].concat()));
        if is_part {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = Body::from([b"part of ", &asked[..]].concat());
        }
        response
    }
    let seen = Seen::default();
    let query = Method::from_bytes(b"QUERY").unwrap();
    let layer = builder()
        .key(Key::new().body(64))
        .methods([query.clone()])
        .unwrap();
    let app = Router::new()
        .fallback(any(|request: Request<Body>| search(request)))
        .layer(from_fn_with_state(seen.clone(), note));
    let app = tower::ServiceBuilder::new()
        .layer(layer.build())
        .map_request(
            |request: http::Request<tower_response_cache::ReplayBody<Body>>| request.map(Body::new),
        )
        .service(app);
    let request = http::Request::builder().method(query).uri("/");
    let request = request
        .header("range", "bytes=4000-4001")
        .header("host", "a");
    let request = request.body(Body::from("red shoes")).unwrap();
    let answer = Answer::of(app.oneshot(request).await.unwrap()).await;
    assert_eq!(
        (answer.status, &*answer.body),
        (206, &b"part of red shoes"[..])
    );
    assert_eq!(*seen.lock().unwrap(), ["- -", "bytes=4000-4001 -"]);
}

// Invariant 63.
#[tokio::test]
async fn the_second_call_of_a_sealed_layer_sees_no_more_than_the_first() {
    async fn page(headers: HeaderMap) -> Response {
        assert!(!headers.contains_key("x-user"));
        let mut response = Response::new(Body::from(bytes(LONG)));
        let private = HeaderValue::from_static("private");
        response.headers_mut().insert("cache-control", private);
        response
    }
    let sealed = builder().key(Key::new().seal());
    let files = Files::of(Router::new().fallback(any(page)), sealed);
    let lines = [("range", "bytes=4000-"), ("x-user", "7")];
    for calls in [2, 1] {
        assert_eq!(files.ask("/", &lines).await.status, 206);
        assert_eq!(files.seen().len(), calls);
    }
}

// Invariant 63.
#[tokio::test]
async fn a_client_that_takes_only_what_is_stored_gets_the_whole_for_a_unit_that_the_cache_does_not_know()
 {
    let files = Files::of(Router::new().fallback(any(async || "page")), builder());
    files.ask("/", &[]).await;
    files.seen();
    let lines = [("range", "items=0-1"), ("cache-control", "only-if-cached")];
    let answer = files.ask("/", &lines).await;
    assert_eq!(
        (answer.status, &*answer.body, files.seen().len()),
        (200, &b"page"[..], 0)
    );
}

// Invariant 63. A body that can come from a connection only cannot be made a second time: the part is cut out, however far it is.
#[tokio::test]
async fn a_request_whose_body_cannot_be_made_again_gets_its_part_from_one_call() {
    let origin = common::Origin::new(|_| {
        let response = common::ok(bytes(LONG));
        common::with(response, "cache-control", "private")
    });
    let cache = tower::Layer::layer(&builder().build(), origin.clone());
    let request = common::with(common::get("/"), "range", "bytes=4000-4003");
    let answer = common::send(&cache, request).await;
    assert_eq!(answer.parts.status, 206);
    assert!(answer.body == bytes(LONG)[4000..4004]);
    assert_eq!(
        (origin.calls(), answer.reason()),
        (1, Some(Reason::Private))
    );
}

// Invariant 63. The flight is over before the second call begins.
#[tokio::test]
async fn followers_do_not_wait_for_the_second_call_of_a_leader() {
    let gate = common::Gate::new();
    let at = gate.clone();
    let slow = move |headers: HeaderMap| {
        let gate = at.clone();
        async move {
            if headers.contains_key("range") {
                gate.pass().await;
            }
            let mut response = Response::new(Body::from(bytes(LONG)));
            let private = HeaderValue::from_static("private");
            response.headers_mut().insert("cache-control", private);
            response
        }
    };
    let files = Files::of(Router::new().fallback(any(slow)), builder());
    let app = files.app.clone();
    let leader = tokio::spawn(async move {
        let request = http::Request::get("/").header("range", "bytes=4000-");
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await;
        response.unwrap().extensions().get::<CacheStatus>().copied()
    });
    gate.arrival().await;
    let request = http::Request::get("/").body(Body::empty()).unwrap();
    let follower = common::within(files.app.clone().oneshot(request))
        .await
        .unwrap();
    assert_eq!(follower.status(), 200);
    gate.open();
    let status = common::within(leader).await.unwrap().unwrap();
    assert_eq!(status.reason(), Some(Reason::Private));
}

// Invariants 21, 63.
#[tokio::test]
async fn behind_compression_parts_of_two_codings_are_never_mixed() {
    async fn page() -> Response {
        let mut response = Response::new(Body::from(bytes(LIMIT)));
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("etag", HeaderValue::from_static("\"v\""));
        headers.insert("cache-control", HeaderValue::from_static("max-age=60"));
        let long_ago = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        headers.insert("last-modified", long_ago);
        response
    }
    let whole = bytes(LIMIT);
    let gzip = ("accept-encoding", "gzip");
    let (range, several) = (("range", "bytes=2-5"), ("range", "bytes=0-1,5-6"));
    for is_outside in [true, false] {
        for builder in both_modes() {
            let router = Router::new().fallback(any(page));
            let mut files = if is_outside {
                Files::of(router, builder)
            } else {
                Files::of(router.layer(CompressionLayer::new()), builder)
            };
            if is_outside {
                files.app = files.app.layer(CompressionLayer::new());
            }
            let gzipped = files.ask("/", &[gzip]).await;
            assert_eq!(gzipped.header("content-encoding"), Some("gzip"));
            files.ask("/", &[]).await;
            for validator in ["\"v\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
                let answer = files
                    .ask("/", &[gzip, range, ("if-range", validator)])
                    .await;
                assert_eq!(
                    (answer.status, &answer.body),
                    (200, &gzipped.body),
                    "{validator}"
                );
                let plain = files.ask("/", &[range, ("if-range", validator)]).await;
                plain.is_part(&whole, 2, 6);
            }
            let answer = files.ask("/", &[gzip, several]).await;
            assert_eq!((answer.status, &answer.body), (200, &gzipped.body));
            let answer = files.ask("/", &[several]).await;
            assert_eq!(
                (answer.status, answer.header("content-encoding")),
                (206, None)
            );
            // One part without a condition is a part of what it says it is.
            let answer = files.ask("/", &[gzip, range]).await;
            assert_eq!(answer.status, 206);
            let encoding = (!is_outside).then_some("gzip");
            assert_eq!(answer.header("content-encoding"), encoding);
            let of = if is_outside {
                &whole[2..6]
            } else {
                &gzipped.body[2..6]
            };
            assert!(answer.body == of);
        }
    }
}

//! What reviews of the whole have found, each with the test that would have shown it.

mod common;

use bytes::Bytes;
use common::*;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use std::{
    convert::Infallible,
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{CacheHandle, CacheLayer, FillMode, Key};

// Invariants 48, 50.
#[test]
fn handed_over_body_is_whole() {
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (mut short, rounds) = (0, 2000);
    for _ in 0..rounds {
        let (chunks, body) = streamed();
        let body = Mutex::new(Some(body));
        let origin = Origin::new(move |_| Response::new(body.lock().unwrap().take().unwrap()));
        let cache = CacheLayer::builder()
            .max_body_bytes(10)
            .build()
            .layer(origin);
        let mut body = rt.block_on(head(&cache, get("/"))).into_body();
        let (started, start) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut cx = Context::from_waker(Waker::noop());
            let mut n = 0;
            started.send(()).unwrap();
            let begun = std::time::Instant::now();
            loop {
                match Pin::new(&mut body).poll_frame(&mut cx) {
                    Poll::Ready(Some(Ok(f))) => n += f.data_ref().map_or(0, |d| d.len()),
                    Poll::Ready(Some(Err(e))) => panic!("{e}"),
                    Poll::Ready(None) => return n,
                    Poll::Pending => assert!(begun.elapsed().as_secs() < 10, "hangs"),
                }
            }
        });
        start.recv().unwrap();
        chunks.send("0123456789abcdef");
        chunks.send("0123456789abcdef");
        drop(chunks);
        if reader.join().unwrap() != 32 {
            short += 1;
        }
    }
    assert_eq!(
        short, 0,
        "of {rounds} bodies, so many ended early, with a clean end"
    );
}

// Invariant 28.
#[test]
fn a_miss_outside_a_runtime_is_as_inline() {
    let cache = CacheLayer::builder()
        .fill_mode(FillMode::Inline)
        .build()
        .layer(Origin::counting(&[]));
    let mut task = tokio_test::task::spawn(cache.oneshot(get("/")));
    assert!(tokio_test::assert_ready!(task.poll()).is_ok());
}

// Invariant 6.
#[tokio::test]
async fn trailers_of_one_requester_reach_no_other() {
    let n = AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        let n = n.fetch_add(1, Ordering::SeqCst).to_string();
        let mut t = HeaderMap::new();
        t.insert("x-request-id", n.parse().unwrap());
        t.insert("server-timing", "db;dur=53".parse().unwrap());
        t.insert("set-cookie", format!("session={n}").parse().unwrap());
        Response::new(chunked(&[b"hello"], Some(t)))
    });
    let cache = CacheLayer::new(Duration::from_secs(60)).layer(origin);
    send(&cache, get("/")).await;
    let hit = send(&cache, get("/")).await;
    assert!(hit.is_hit());
    let t = hit.trailers.unwrap_or_default();
    assert!(t.is_empty(), "{t:?}");
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(
        &u32::try_from(message.len())
            .expect("a short message")
            .to_be_bytes(),
    );
    framed.extend_from_slice(message);
    framed
}
fn grpc_call(body: Body) -> Request<Body> {
    with_headers(
        request("POST", "/s/m").map(|_| body),
        &[("content-type", "application/grpc"), ("te", "trailers")],
    )
}

// Invariant 45.
#[tokio::test]
async fn an_answer_that_is_no_grpc_is_not_stored_for_a_grpc_call() {
    for ct in [Some("text/html"), None] {
        let origin = Origin::new(move |_| {
            let r = ok("<h1>maintenance</h1>");
            match ct {
                Some(ct) => with(r, "content-type", ct),
                None => r,
            }
        });
        let cache = CacheLayer::builder()
            .key(Key::grpc(1024).all_methods())
            .build()
            .layer(origin.clone());
        send(&cache, grpc_call(full(framed(b"a")))).await;
        let second = send(&cache, grpc_call(full(framed(b"a")))).await;
        assert!(!second.is_hit(), "{ct:?}: {:?}", second.cache());
    }
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn inline_a_slow_client_holds_its_place_no_longer_than_a_fill_may_take() {
    let handle = CacheHandle::builder()
        .max_concurrent_fills(NonZeroUsize::new(2).unwrap())
        .build();
    let origin = Origin::new(|_| Response::new(chunked(&[b"he", b"llo"], None)));
    let cache = CacheLayer::builder()
        .handle(&handle)
        .fill_mode(FillMode::Inline)
        .fill_timeout(Duration::from_secs(30))
        .build()
        .layer(origin);
    let _first = head(&cache, get("/a")).await;
    let _second = head(&cache, get("/b")).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let begun = tokio::time::Instant::now();
    let other = send(&cache, get("/another")).await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "another key waits {:?} ({:?}); births {}",
        begun.elapsed(),
        other.reason(),
        handle.stats().in_flight
    );
}

// Invariant 25.
#[tokio::test]
async fn inline_an_empty_body_is_stored_over_http_1() {
    let handle = CacheHandle::builder().build();
    let origin = Origin::new(|_| Response::new(empty()));
    let cache = CacheLayer::builder()
        .handle(&handle)
        .fill_mode(FillMode::Inline)
        .build()
        .layer(origin.clone());
    let (client, server) = tokio::io::duplex(4096);
    let svc = service_fn(move |r: Request<hyper::body::Incoming>| {
        let c = cache.clone();
        async move { c.oneshot(r.map(boxed)).await }
    });
    tokio::spawn(async move {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(
                hyper_util::rt::TokioIo::new(server),
                hyper_util::service::TowerToHyperService::new(svc),
            )
            .await
    });
    let (mut send, conn) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(client))
            .await
            .unwrap();
    tokio::spawn(conn);
    for _ in 0..3 {
        let r = within(send.send_request(get("/"))).await.unwrap();
        r.into_body().collect().await.unwrap();
        settle().await;
    }
    assert_eq!(origin.calls(), 1, "{:?}", handle.stats());
}

// Invariant 22.
#[tokio::test(start_paused = true)]
async fn an_older_answer_never_takes_the_place_of_a_newer_one() {
    let n = AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        let n = n.fetch_add(1, Ordering::SeqCst) + 1;
        let r = ok(format!("{n}"));
        if n == 1 {
            with(r, "cache-control", "no-store")
        } else {
            r
        }
    });
    let cache = CacheLayer::builder()
        .ttl(Duration::from_secs(60))
        .build()
        .layer(origin.clone());
    send(&cache, get("/")).await; // not to be stored: from now on side by side
    let slow = head(&cache, get("/")).await; // 2, its body unread
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(send(&cache, get("/")).await.text(), "3");
    assert_eq!(send(&cache, get("/")).await.text(), "3", "a hit");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(send(&cache, get("/")).await.is_hit());
    assert_eq!(read(slow).await.text(), "2"); // the slow client is done at last
    let next = send(&cache, get("/")).await;
    assert!(
        next.is_hit() && next.text() == "3",
        "{} {:?}",
        next.text(),
        next.cache()
    );
}
// Invariant 22.
#[tokio::test(start_paused = true)]
async fn an_older_answer_is_not_served_after_a_newer_one() {
    let n = AtomicUsize::new(0);
    let origin = Origin::new(move |_| {
        let n = n.fetch_add(1, Ordering::SeqCst) + 1;
        let r = ok(format!("{n}"));
        if n == 1 {
            with(r, "cache-control", "no-store")
        } else {
            r
        }
    });
    let cache = CacheLayer::builder()
        .ttl(Duration::from_secs(60))
        .build()
        .layer(origin.clone());
    send(&cache, get("/")).await;
    let slow = head(&cache, get("/")).await; // 2
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(send(&cache, get("/")).await.text(), "3");
    assert_eq!(send(&cache, get("/")).await.text(), "3");
    read(slow).await;
    assert_eq!(send(&cache, get("/")).await.text(), "3");
}

// Invariant 36.
#[tokio::test]
async fn a_purge_by_request_counts_for_a_layer_built_anew() {
    let handle = CacheHandle::builder().build();
    let origin = Origin::counting(&[]);
    let build = || {
        CacheLayer::builder()
            .handle(&handle)
            .name("pages")
            .build()
            .layer(origin.clone())
    };
    let first = build();
    assert_eq!(send(&first, get("/")).await.text(), "1");
    drop(first);
    settle().await;
    let p = handle
        .purge_request(&get("/").into_parts().0)
        .await
        .unwrap();
    let second = build();
    let after = send(&second, get("/")).await;
    assert_eq!(
        after.text(),
        "2",
        "purged, {p:?}, and served: {:?}",
        after.cache()
    );
}

struct Big(Vec<u8>, Arc<AtomicUsize>);
impl Drop for Big {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::SeqCst);
    }
}
impl AsRef<[u8]> for Big {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
// Invariant 56.
#[tokio::test]
async fn what_is_stored_takes_no_more_than_it_says() {
    let live = Arc::new(AtomicUsize::new(0));
    let l = live.clone();
    let origin = Origin::new(move |_| {
        // a header value is a slice of the connection's read buffer, as hyper's client hands it out
        let size = 100_000;
        l.fetch_add(size, Ordering::SeqCst);
        let buffer = Bytes::from_owner(Big(vec![b'a'; size], l.clone()));
        let mut r = ok("small");
        r.headers_mut().insert(
            "etag",
            HeaderValue::from_maybe_shared(buffer.slice(100..110)).unwrap(),
        );
        r
    });
    let handle = CacheHandle::builder().max_bytes(1_000_000).build();
    let cache = CacheLayer::builder().handle(&handle).build().layer(origin);
    for i in 0..500 {
        send(&cache, get(&format!("/{i}"))).await;
    }
    let stats = handle.stats();
    let live = live.load(Ordering::SeqCst);
    assert!(
        live <= 1_100_000,
        "the cache says {} bytes in {} entries, and holds {live} bytes of buffers alive",
        stats.bytes,
        stats.entries
    );
}

// Invariant 57.
#[test]
fn empty_frames_do_not_keep_a_call_for_ever() {
    let polls = Arc::new(AtomicUsize::new(0));
    struct Empties(Arc<AtomicUsize>);
    impl http_body::Body for Empties {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let n = self.0.fetch_add(1, Ordering::SeqCst);
            if n > 2_000_000 {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
        }
    }
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let p = polls.clone();
    rt.block_on(async move {
        let cache = CacheLayer::builder()
            .key(Key::grpc(1024).all_methods())
            .wait_timeout(Duration::from_millis(50))
            .build()
            .layer(Origin::new(|_| ok("x")));
        let _ = tokio::time::timeout(
            Duration::from_secs(1),
            cache.oneshot(grpc_call(boxed(Empties(p.clone())))),
        )
        .await;
        let n = p.load(Ordering::SeqCst);
        assert!(
            n < 100_000,
            "with a limit of 1,024 bytes, {n} frames were read and kept"
        );
    });
}

// Invariant 14.
#[tokio::test]
async fn the_element_of_forwarded_that_names_the_host_matters() {
    // a handler that trusts the first element of Forwarded, and falls back to Host
    let origin = Origin::new(|r: Request<Body>| {
        let f = r
            .headers()
            .get("forwarded")
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default();
        let first = f.split(',').next().unwrap().to_owned();
        let host = first
            .split(';')
            .find_map(|p| p.trim().strip_prefix("host=").map(str::to_owned))
            .unwrap_or("default".into());
        ok(host)
    });
    let cache = CacheLayer::new(Duration::from_secs(60)).layer(origin);
    send(
        &cache,
        with(
            get("/"),
            "forwarded",
            "for=192.0.2.1, for=192.0.2.9;host=shop.example",
        ),
    )
    .await;
    let answer = send(
        &cache,
        with(get("/"), "forwarded", "for=192.0.2.1;host=shop.example"),
    )
    .await;
    assert_eq!(answer.text(), "shop.example", "{:?}", answer.cache());
}
// Invariant 14.
#[tokio::test]
async fn other_forwarded_schemes_and_hosts() {
    let mut poisoned = Vec::new();
    for name in [
        "x-forwarded-scheme",
        "x-forwarded-ssl",
        "x-url-scheme",
        "front-end-https",
        "x-original-host",
        "x-host",
        "x-forwarded-path",
        "x-forwarded-uri",
        "x-method",
        "x-original-path",
        "x-script-name",
    ] {
        let origin =
            Origin::new(move |r: Request<Body>| ok(format!("{:?}", r.headers().get(name))));
        let cache = CacheLayer::new(Duration::from_secs(60)).layer(origin);
        send(&cache, with(get("/"), name, "evil")).await;
        if send(&cache, get("/")).await.text() != "None" {
            poisoned.push(name);
        }
    }
    assert!(poisoned.is_empty(), "{poisoned:?}");
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn s_maxage_is_counted_from_the_origin() {
    let cache = CacheLayer::new(Duration::from_secs(60)).layer(Origin::counting(&[
        ("cache-control", "s-maxage=10"),
        ("age", "9"),
    ]));
    send(&cache, get("/")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let second = send(&cache, get("/")).await;
    assert!(
        !second.is_hit(),
        "s-maxage=10, and Age: {:?}",
        second.header("age")
    );
}

// Invariant 24.
#[tokio::test]
async fn an_encoding_only_to_those_who_accept_it() {
    let cache = CacheLayer::new(Duration::from_secs(60)).layer(Origin::new(|r: Request<Body>| {
        if r.headers().contains_key("accept-encoding") {
            with(ok("zipped"), "content-encoding", "br")
        } else {
            ok("plain")
        }
    }));
    send(&cache, with(get("/"), "accept-encoding", "br")).await;
    let second = send(&cache, get("/")).await;
    assert_eq!(second.text(), "plain");
}

// Invariant 32.
#[test]
fn a_waker_may_drop_or_poll_the_body() {
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        rt.block_on(async {
            let (chunks, body) = streamed();
            let body = Mutex::new(Some(body));
            let cache = CacheLayer::builder().build().layer(Origin::new(move |_| {
                Response::new(body.lock().unwrap().take().unwrap())
            }));
            let response = head(&cache, get("/")).await;
            struct Task(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);
            impl Wake for Task {
                fn wake(self: Arc<Self>) {
                    let gone = self.0.lock().unwrap().take();
                    drop(gone);
                }
            }
            let mut body = response.into_body();
            let fut = async move {
                let _ = body.frame().await;
            };
            let task = Arc::new(Task(Mutex::new(Some(Box::pin(fut)))));
            let waker = Waker::from(task.clone());
            let p = task
                .0
                .lock()
                .unwrap()
                .as_mut()
                .unwrap()
                .as_mut()
                .poll(&mut Context::from_waker(&waker));
            assert!(p.is_pending());
            chunks.send("x");
            settle().await;
        });
        tx.send(()).unwrap();
    });
    assert!(
        rx.recv_timeout(Duration::from_secs(5)).is_ok(),
        "deadlock: Reader::drop in a waker that runs under the recording's lock"
    );
}

// Invariant 58.
#[tokio::test]
async fn a_long_vary_costs_little() {
    let names = (0..60_000)
        .map(|i| format!("a{i}"))
        .collect::<Vec<_>>()
        .join(",");
    let cache = CacheLayer::new(Duration::from_secs(60))
        .layer(Origin::new(move |_| with(ok("x"), "vary", &names)));
    let t = std::time::Instant::now();
    send(&cache, get("/")).await;
    // Where each name is held against all before it, it takes most of a minute.
    assert!(t.elapsed() < Duration::from_secs(10), "{:?}", t.elapsed());
}

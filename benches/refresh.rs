//! What it costs to be able to refresh: the memory of recorded requests, and the time of purges that refresh.
//!
//! `cargo bench --all-features --bench refresh`
//!
//! Memory is told twice: as the cache counts it against its limit, and as the allocator does. Times are medians; the inner
//! service answers at once, so that what is measured is the cache's own share.

#[path = "common/live.rs"]
mod live;

use std::{
    convert::Infallible,
    error::Error,
    fmt::Debug,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use axum::{Router, extract::Path, routing};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{CacheHandle, CacheLayer, CacheLayerBuilder, Purge, Tag, Tags};

use live::live_bytes;

type Body = Full<Bytes>;

const ALL: Tag = Tag::new("all");
const PAGE_BYTES: usize = 1 << 10;
const HOUR: Duration = Duration::from_secs(3600);

/// How much is measured: the whole, or just enough to see that it works.
struct Scale {
    entries: usize,
    few: usize,
    many: usize,
    rounds: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let measured = measured && !std::env::args().any(|arg| arg == "--test");
    let scale = if measured {
        Scale {
            entries: 10_000,
            few: 1000,
            many: 100_000,
            rounds: 21,
        }
    } else {
        Scale {
            entries: 500,
            few: 100,
            many: 1000,
            rounds: 1,
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        memory(&scale).await;
        times(&scale).await
    })
}

fn builder(handle: &CacheHandle) -> CacheLayerBuilder {
    let builder = CacheLayer::builder().handle(handle).ttl(HOUR);
    builder.stale_while_revalidate(HOUR)
}

fn handle() -> CacheHandle {
    CacheHandle::builder().max_bytes(4 << 30).build()
}

fn page() -> Bytes {
    Bytes::from(vec![b'x'; PAGE_BYTES])
}

fn origin()
-> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(|_: Request<Body>| {
        let mut response = Response::new(Full::new(page()));
        response.extensions_mut().insert(Tags::from(ALL));
        std::future::ready(Ok(response))
    })
}

async fn show(Path((_kind, _page)): Path<(String, u64)>) -> (Tags, Bytes) {
    (Tags::from(ALL), page())
}

fn bare(nth: usize) -> Request<Body> {
    let request = Request::get(format!("/products/{nth}"));
    request.body(Body::default()).expect("a request")
}

/// As a browser asks, in the main.
fn browsers(nth: usize) -> Request<axum::body::Body> {
    let mut request = bare(nth).map(|_| axum::body::Body::empty());
    let headers = HeaderMap::from_iter(
        [
            (header::HOST, "shop.example"),
            (
                header::USER_AGENT,
                "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            ),
            (
                header::ACCEPT,
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            ),
            (header::ACCEPT_LANGUAGE, "de,en-US;q=0.7,en;q=0.3"),
            (header::ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
            (header::CONNECTION, "keep-alive"),
            (header::UPGRADE_INSECURE_REQUESTS, "1"),
            (HeaderName::from_static("sec-fetch-mode"), "navigate"),
        ]
        .map(|(name, value)| (name, HeaderValue::from_static(value))),
    );
    *request.headers_mut() = headers;
    request
}

/// Sends them all, and reads the answers.
async fn ask_all<S, ReqB, ResB>(service: &S, requests: impl Iterator<Item = Request<ReqB>>)
where
    S: Service<Request<ReqB>, Response = Response<ResB>, Error: Debug> + Clone,
    ResB: HttpBody<Error: Debug>,
{
    for request in requests {
        let response = service.clone().oneshot(request).await.expect("an answer");
        response.into_body().collect().await.expect("a body");
    }
}

/// What an entry takes: as the cache counts it, and as the allocator does.
async fn weigh<S, ReqB, ResB>(
    make: impl FnOnce(&CacheHandle) -> S,
    request: fn(usize) -> Request<ReqB>,
    entries: usize,
) -> [usize; 2]
where
    S: Service<Request<ReqB>, Response = Response<ResB>, Error: Debug> + Clone,
    ResB: HttpBody<Error: Debug>,
{
    let handle = handle();
    let service = make(&handle);
    ask_all(&service, (0..1).map(request)).await;
    let (live, counted) = (live_bytes(), handle.stats().bytes);
    ask_all(&service, (1..=entries).map(request)).await;
    let stats = handle.stats();
    assert_eq!(stats.entries, entries as u64 + 1);
    let counted = usize::try_from(stats.bytes - counted).expect("as much as there is");
    [counted / entries, (live_bytes() - live) / entries]
}

/// As [`weigh`], of what came over connections that are closed.
async fn weigh_served(make: impl FnOnce(&CacheHandle) -> Router, entries: usize) -> [usize; 2] {
    let handle = handle();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(axum::serve(listener, make(&handle)).into_future());
    let mut weights = [[0; 2]; 2];
    for (weights, asked) in weights.iter_mut().zip([0..100, 100..100 + entries]) {
        for nth in asked {
            let mut head = format!("GET /products/{nth} HTTP/1.1\r\n");
            for (name, value) in browsers(nth).headers() {
                let value = value.to_str().expect("text").replace("keep-alive", "close");
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(head.as_bytes()).await.expect("it listens");
            let mut answer = Vec::with_capacity(2 * PAGE_BYTES);
            stream.read_to_end(&mut answer).await.expect("an answer");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        *weights = [handle.stats().bytes as usize, live_bytes()];
    }
    server.abort();
    let [before, after] = weights;
    [0, 1].map(|at| (after[at] - before[at]) / entries)
}

async fn memory(scale: &Scale) {
    let entries = scale.entries;
    let bare_once = |handle: &CacheHandle| builder(handle).build().layer(origin());
    let bare_again = |handle: &CacheHandle| builder(handle).refreshable().build().layer(origin());
    let routes = || Router::new().route("/{kind}/{page}", routing::get(show));
    let axum_once = |handle: &CacheHandle| routes().layer(builder(handle).build()).with_state(());
    let axum_again = |handle: &CacheHandle| {
        let layer = builder(handle).refreshable().build();
        routes().layer(layer).with_state(())
    };
    println!("\n| bytes an entry, page of 1 KiB | counted | allocated |\n|---|--:|--:|");
    let told = |name: &str, once: [usize; 2], again: [usize; 2]| {
        println!("| {name} | {} | {} |", once[0], once[1]);
        println!("| {name}, refreshable | {} | {} |", again[0], again[1]);
        let more = |at: usize| again[at].saturating_sub(once[at]);
        println!(
            "| {name}: the recorded request | {} | {} |",
            more(0),
            more(1)
        );
    };
    let once = weigh(bare_once, bare, entries).await;
    told(
        "a bare request",
        once,
        weigh(bare_again, bare, entries).await,
    );
    let once = weigh(axum_once, browsers, entries).await;
    told(
        "a browser's, in axum",
        once,
        weigh(axum_again, browsers, entries).await,
    );
    let once = weigh_served(axum_once, entries.min(2000)).await;
    let again = weigh_served(axum_again, entries.min(2000)).await;
    told("the same over a connection each", once, again);
}

/// A cache with as many entries.
async fn filled(entries: usize) -> CacheHandle {
    let handle = handle();
    let service = builder(&handle).refreshable().build().layer(origin());
    ask_all(&service, (0..entries).map(bare)).await;
    assert_eq!(handle.stats().entries, entries as u64);
    // What is stored can be asked for again as long as its service is there.
    std::mem::forget(service);
    handle
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The time of one poll of a purge. What it starts in the background ends before the next.
async fn first_polls(
    handle: &CacheHandle,
    rounds: usize,
    purge: impl Fn(&CacheHandle) -> Purge,
) -> Duration {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let purge = purge(handle);
        let mut purge = purge.into_future();
        let began = Instant::now();
        let polled = purge.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        times.push(began.elapsed());
        drop((polled, purge));
        tokio::time::timeout(Duration::from_secs(10), async {
            while handle.stats().marks > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the sweep ends");
    }
    median(times)
}

async fn times(scale: &Scale) -> Result<(), Box<dyn Error>> {
    println!(
        "\n| time of a purge | {} entries | {} entries |\n|---|--:|--:|",
        scale.few, scale.many
    );
    let (few, many) = (filled(scale.few).await, filled(scale.many).await);
    let soft = |handle: &CacheHandle| handle.purge(ALL).soft();
    let refresh = |handle: &CacheHandle| handle.purge(ALL).refresh();
    let times = [
        first_polls(&few, scale.rounds, soft).await,
        first_polls(&many, scale.rounds, soft).await,
    ];
    println!(
        "| soft, until it has returned | {:.1?} | {:.1?} |",
        times[0], times[1]
    );
    let times = [
        first_polls(&few, scale.rounds, refresh).await,
        first_polls(&many, scale.rounds, refresh).await,
    ];
    println!(
        "| with refresh, its first poll | {:.1?} | {:.1?} |",
        times[0], times[1]
    );
    drop((few, many));

    let handle = filled(scale.entries).await;
    let mut times = Vec::new();
    for _ in 0..scale.rounds.min(5) {
        let began = Instant::now();
        let purged = handle.purge(ALL).refresh().await?;
        times.push(began.elapsed());
        assert_eq!((purged.refreshed, purged.failed), (scale.entries, 0));
    }
    let total = median(times);
    let each = total / u32::try_from(scale.entries)?;
    println!("\n| a purge with refresh, to its end | total | an entry |\n|---|--:|--:|");
    println!("| {} entries | {total:.1?} | {each:.1?} |", scale.entries);
    Ok(())
}

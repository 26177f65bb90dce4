//! A site of 2,000 pages that is warmed before it opens, and refreshed while it is read: nobody ever waits for a page.
//!
//! `cargo run --all-features --example warm`; it ends by itself, after a few seconds, and fails if anything is not so:
//!
//! ```text
//! warmed: 2000 of 2000 pages, 0 failed, in 1.3 s; a page takes 20ms, and they were made 64 at a time
//! refreshed: 100 pages of section 7, 0 failed, in 0.3 s
//! meanwhile: 542 requests, 542 of them hits, 66 of these stale; the slowest took 18 ms
//! afterwards: 298 requests, 298 of them hits, 0 of these stale, 0 with an old page
//! 2100 calls of the handler: one a page, and one more a page of section 7
//! ```

use std::{
    error::Error,
    io::IsTerminal,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{Request, header},
    routing::get,
};
use http_body_util::BodyExt;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{net::TcpListener, time::sleep};
use tower_response_cache::{CacheHandle, CacheLayer, TagFamily, Tags};

const PAGE: TagFamily<usize> = TagFamily::new("page");
const SECTION: TagFamily<usize> = TagFamily::new("section");

const PAGES: usize = 2000;
const SECTIONS: usize = 20;
const CHANGED: usize = 7;
const SLOW: Duration = Duration::from_millis(20);
const READERS: usize = 8;

/// The data: a version of each section.
#[derive(Default)]
struct Site {
    versions: [AtomicU64; SECTIONS],
    calls: AtomicU64,
}

async fn show(State(site): State<Arc<Site>>, Path(page): Path<usize>) -> (Tags, String) {
    site.calls.fetch_add(1, SeqCst);
    let section = page % SECTIONS;
    // Read before it takes its time: what changes meanwhile is not in this page.
    let version = site.versions[section].load(SeqCst);
    sleep(SLOW).await;
    let tags = Tags::from_iter([PAGE.tag(page), SECTION.tag(section)]);
    (tags, format!("page {page}, version {version}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tokio::time::timeout(Duration::from_secs(30), run()).await?
}

async fn run() -> Result<(), Box<dyn Error>> {
    let cache = CacheLayer::builder()
        .ttl(Duration::from_secs(3600))
        .stale_while_revalidate(Duration::from_secs(60))
        .refreshable()
        .build();
    let (handle, site) = (cache.handle(), Arc::<Site>::default());
    let app = Router::new().route("/pages/{page}", get(show)).layer(cache);
    let app = app.with_state(site.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;

    warm(&handle, &app, address).await;
    assert_eq!(site.calls.load(SeqCst), PAGES as u64, "one call a page");

    tokio::spawn(axum::serve(listener, app).into_future());
    let (phase, diary) = (Arc::new(AtomicU8::new(READING)), Diary::default());
    let reader = |nth| tokio::spawn(read(address, phase.clone(), diary.clone(), nth));
    let readers: Vec<_> = (0..READERS).map(reader).collect();
    sleep(Duration::from_millis(200)).await;

    site.versions[CHANGED].store(1, SeqCst);
    let began = Instant::now();
    let purged = handle.purge(SECTION.tag(CHANGED)).refresh().await?;
    // A reader's request may have refreshed a page before its turn came: it is not fetched twice.
    println!(
        "refreshed: {} pages of section {CHANGED}, {} of them for readers, {} failed, in {:.1} s",
        PAGES / SECTIONS,
        PAGES / SECTIONS - purged.refreshed,
        purged.failed,
        began.elapsed().as_secs_f64()
    );
    assert!(purged.refreshed > 0);
    assert_eq!((purged.failed, purged.not_recorded), (0, 0));
    phase.store(REFRESHED, SeqCst);
    sleep(Duration::from_millis(200)).await;
    phase.store(CLOSED, SeqCst);
    for reader in readers {
        reader.await?.map_err(|error| error.to_string())?;
    }
    tell(&diary.lock().unwrap_or_else(PoisonError::into_inner));

    let calls = site.calls.load(SeqCst);
    println!("{calls} calls of the handler: one a page, and one more a page of section {CHANGED}");
    assert_eq!(calls, (PAGES + PAGES / SECTIONS) as u64);
    Ok(())
}

/// Has every page made, a good many at a time, and shows how far that is.
async fn warm(handle: &CacheHandle, app: &Router, address: SocketAddr) {
    // As those to come will ask for it: by its path, of this host.
    let pages = (0..PAGES).map(move |page| request(page, address));
    let at_once = NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN);
    let mut warming = handle.warm(app.clone(), pages).at_once(at_once);
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} pages{msg}");
        ProgressBar::new(PAGES as u64).with_style(style.expect("a template"))
    });
    let began = Instant::now();
    let mut last = None;
    while let Some(progress) = warming.next().await {
        if let Some(bar) = &bar {
            bar.set_position(progress.done as u64);
            bar.set_message(format!(", {} failed", progress.failed));
        } else if progress.done % 500 == 0 {
            eprintln!("{} of {} pages", progress.done, progress.total);
        }
        last = Some(progress);
    }
    bar.iter().for_each(ProgressBar::finish_and_clear);
    let warmed = last.expect("there are pages");
    println!(
        "warmed: {} of {} pages, {} failed, in {:.1} s; a page takes {SLOW:?}, and they were made {at_once} at a time",
        warmed.done,
        warmed.total,
        warmed.failed,
        began.elapsed().as_secs_f64()
    );
    assert_eq!((warmed.done, warmed.failed), (PAGES, 0));
}

fn request(page: usize, address: SocketAddr) -> Request<Body> {
    let request = Request::get(format!("/pages/{page}")).header(header::HOST, address.to_string());
    request.body(Body::empty()).expect("a request")
}

/// What readers are told: that all is as it was or is being refreshed, that it is refreshed, and to go home.
const READING: u8 = 0;
const REFRESHED: u8 = 1;
const CLOSED: u8 = 2;

/// What the readers saw in one phase.
#[derive(Default)]
struct Seen {
    requests: usize,
    hits: usize,
    stale: usize,
    old: usize,
    slowest: Duration,
}

type Diary = Arc<Mutex<[Seen; 2]>>;

/// Asks for one page after the other over a connection of its own; every second one is of the section that changes.
async fn read(
    address: SocketAddr,
    phase: Arc<AtomicU8>,
    diary: Diary,
    nth: usize,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
    for step in 0.. {
        let now = phase.load(SeqCst);
        if now == CLOSED {
            break;
        }
        let any = (nth * 251 + step * 7) % PAGES;
        let changed = any / SECTIONS * SECTIONS + CHANGED;
        let page = if step % 2 == 0 { any } else { changed };
        let began = Instant::now();
        let response = client.get(format!("http://{address}/pages/{page}").parse()?);
        let (head, body) = response.await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let took = began.elapsed();
        let status = head.headers.get("cache-status");
        let status = status.ok_or("the cache says nothing")?.to_str()?;
        {
            let mut diary = diary.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = &mut diary[usize::from(now)];
            seen.requests += 1;
            seen.hits += usize::from(status.contains("; hit"));
            seen.stale += usize::from(status.contains("stale"));
            seen.old += usize::from(page % SECTIONS == CHANGED && body.ends_with(b"version 0"));
            seen.slowest = seen.slowest.max(took);
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Says what the readers saw: nobody waited for a page, and nobody who came later saw an old one.
fn tell([during, after]: &[Seen; 2]) {
    println!(
        "meanwhile: {} requests, {} of them hits, {} of these stale; the slowest took {} ms",
        during.requests,
        during.hits,
        during.stale,
        during.slowest.as_millis()
    );
    println!(
        "afterwards: {} requests, {} of them hits, {} of these stale, {} with an old page",
        after.requests, after.hits, after.stale, after.old
    );
    assert!(during.requests > 0 && after.requests > 0);
    assert_eq!(during.hits, during.requests, "somebody waited for a page");
    assert_eq!(after.hits, after.requests, "somebody waited for a page");
    assert_eq!((after.stale, after.old), (0, 0), "somebody saw an old page");
}

//! The promise of a purge, under races, for pages that are made of parts: the twin of `promise`, which is of single
//! responses.
//!
//! Each item has a version. A part shows the version of one item; a page is made of parts of every kind, or of other pages. A
//! writer raises a version and purges what shows the item; when the purge has returned, it notes the version as seen by
//! everybody. A reader takes these notes, and then asks: no version in the answer may be older than its note. A page that is
//! its requester's alone says so, with a number, and no two readers may get it.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{
    body::ResponseBody,
    handle::CacheHandle,
    layer::CacheLayer,
    mutant::Mutant,
    policy::TagHeader,
    tags::{TagFamily, Tags, scope},
    tests::scale::scaled,
};

const ITEM: TagFamily<usize> = TagFamily::new("item");
const ITEMS: usize = 6;
const VARIANTS: usize = 64;
const READERS: u64 = 32;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Asked = Request<Full<Bytes>>;
type Cached = BoxCloneSyncService<Asked, Response<ResponseBody<Body>>, Infallible>;

/// How a part is asked, and what its response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Streamed,
    ByPost,
    WithCookie,
    WithOverride,
    WithBody,
    WithLongKey,
    NotStored,
    Private,
    SetsCookie,
    Late,
    Fails,
    Panics,
    Never,
    /// Another page.
    Page,
}

const KINDS: [Kind; 15] = [
    Kind::Plain,
    Kind::Streamed,
    Kind::ByPost,
    Kind::WithCookie,
    Kind::WithOverride,
    Kind::WithBody,
    Kind::WithLongKey,
    Kind::NotStored,
    Kind::Private,
    Kind::SetsCookie,
    Kind::Late,
    Kind::Fails,
    Kind::Panics,
    Kind::Never,
    Kind::Page,
];

/// Where a part says its tag.
const SOURCES: [&str; 5] = ["extension", "header", "request", "scope", "blocking"];

impl Kind {
    /// Whether the page is its requester's alone because of it.
    fn sets_apart(self) -> bool {
        matches!(
            self,
            Self::Private
                | Self::SetsCookie
                | Self::Late
                | Self::Fails
                | Self::Panics
                | Self::Never
        )
    }
}

/// What is stored, and what the writers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// It is fresh for long, and purged in every way.
    Fresh,
    /// As `Fresh`, but stale soon.
    Stale,
    /// As `Fresh`, but purged by unsafe requests only, so that no mark of another purge meets what these should have purged.
    Unsafe,
}

struct Site {
    course: Course,
    versions: [AtomicU64; ITEMS],
    /// The versions whose purge has returned.
    announced: [AtomicU64; ITEMS],
    layers: OnceLock<[Cached; 2]>,
    pages: OnceLock<Cached>,
    renders: AtomicU64,
    /// The numbers of the pages that were one requester's alone, as far as they were seen.
    alone: Mutex<HashSet<u64>>,
    reads: AtomicU64,
    shared: AtomicU64,
    purges: AtomicU64,
    violations: AtomicU64,
    closed: AtomicBool,
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

async fn pause(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

fn part_request(item: usize, by: &str, kind: Kind) -> Asked {
    let query = if kind == Kind::WithLongKey {
        "x".repeat(600)
    } else {
        String::new()
    };
    let mut request = Request::get(format!("/{item}/{by}/{kind:?}?{query}"));
    // A purge by request is refused where the request does not say for which host it is.
    request = request.header(header::HOST, "parts.example");
    let body = if kind == Kind::WithBody { "body" } else { "" };
    let set = match kind {
        Kind::ByPost => {
            request = request.method(Method::POST);
            None
        }
        Kind::WithCookie => Some(("cookie", "session=1")),
        Kind::WithOverride => Some(("x-http-method-override", "PUT")),
        _ => None,
    };
    if let Some((name, value)) = set {
        request = request.header(name, value);
    }
    request.body(Full::from(body)).unwrap()
}

/// A path's item, source of tags, and kind.
fn of_path(path: &str) -> (usize, &str, Kind) {
    let mut segments = path[1..].split('/');
    let item = segments.next().unwrap().parse().unwrap();
    let by = segments.next().unwrap();
    let kind = segments.next().unwrap();
    let kind = KINDS.into_iter().find(|known| format!("{known:?}") == kind);
    (item, by, kind.unwrap())
}

impl Site {
    fn new(course: Course) -> Self {
        Self {
            course,
            versions: Default::default(),
            announced: Default::default(),
            layers: OnceLock::new(),
            pages: OnceLock::new(),
            renders: AtomicU64::new(0),
            alone: Mutex::default(),
            reads: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Answers for a part: the item, and its version when the handler started.
    async fn part(&self, request: Asked) -> Response<Body> {
        if request.method() == Method::PUT {
            return Response::new(full(""));
        }
        let path = request.uri().path().to_owned();
        let (item, by, kind) = of_path(&path);
        let version = self.versions[item].load(SeqCst);
        pause(usize::try_from(version % 5).unwrap()).await;
        let text = format!("{item}:{version}");
        let tag = ITEM.tag(item);
        let mut response = match kind {
            Kind::Late => Response::new(streamed(text, Some(item))),
            Kind::Streamed => Response::new(streamed(text, None)),
            Kind::Panics => std::panic::resume_unwind(Box::new("the handler panicked")),
            Kind::Never => std::future::pending().await,
            _ => Response::new(full(text)),
        };
        if kind == Kind::Late {
            return response;
        }
        match by {
            "extension" => drop(response.extensions_mut().insert(Tags::from(tag))),
            "scope" => scope::tag(tag),
            "blocking" => scope::spawn_blocking(move || scope::tag(tag))
                .await
                .unwrap(),
            "header" => {
                let value = HeaderValue::try_from(tag.as_str()).unwrap();
                response.headers_mut().insert("x-tags", value);
            }
            _ => {}
        }
        let mut control = "public";
        match kind {
            Kind::NotStored => scope::do_not_store("of this kind"),
            Kind::Private => control = "private",
            Kind::Fails => *response.status_mut() = StatusCode::BAD_GATEWAY,
            Kind::SetsCookie => {
                let cookie = HeaderValue::from_static("a=1");
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            _ => {}
        }
        let control = HeaderValue::from_static(control);
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, control);
        response
    }

    /// Answers for a page: its number, whether it is for one requester, and what its parts show.
    async fn page(self: Arc<Self>, request: Asked) -> Response<Body> {
        let render = self.renders.fetch_add(1, SeqCst);
        let (item, variant) = request.uri().path()[1..].split_once('/').unwrap();
        let (item, variant): (usize, usize) = (item.parse().unwrap(), variant.parse().unwrap());
        let seed = (item * VARIANTS + variant + 1) as u64;
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (mut shown, mut alone) = (Vec::new(), false);
        for nth in 0..=next(&mut random) % 3 {
            let kind = KINDS[next(&mut random) % KINDS.len()];
            let by = SOURCES[next(&mut random) % SOURCES.len()];
            let (text, is_alone) = self
                .ask((item + nth) % ITEMS, by, kind, variant, &mut random)
                .await;
            shown.push(text);
            alone |= is_alone;
        }
        let head = format!("{render};{};{}", u8::from(alone), shown.join(","));
        let mut chances = render.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
        if next(&mut chances).is_multiple_of(4) {
            // One more part flows through the page's own body.
            let kind = [Kind::Plain, Kind::Streamed, Kind::NotStored][next(&mut chances) % 3];
            let part = self
                .layer(0)
                .oneshot(part_request(item, "scope", kind))
                .await;
            let Ok(part) = part;
            return Response::new(through(format!("{head},"), part.into_body()));
        }
        if next(&mut chances).is_multiple_of(2) {
            return Response::new(streamed(head, None));
        }
        Response::new(full(head))
    }

    fn layer(&self, nth: usize) -> Cached {
        self.layers.get().unwrap()[nth % 2].clone()
    }

    /// What a part shows, and whether it is for one requester.
    async fn ask(
        &self,
        item: usize,
        by: &str,
        kind: Kind,
        variant: usize,
        random: &mut u64,
    ) -> (String, bool) {
        if kind == Kind::Page {
            if variant == 0 {
                return (String::new(), false);
            }
            let request = Request::get(format!("/{item}/{}", variant / 8))
                .body(Full::default())
                .unwrap();
            let Ok(response) = self.pages.get().unwrap().clone().oneshot(request).await;
            let Ok(body) = response.into_body().collect().await else {
                return (String::new(), true);
            };
            let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
            let mut fields = text.splitn(3, ';').skip(1);
            let is_alone = fields.next() == Some("1");
            return (fields.next().unwrap().to_owned(), is_alone);
        }
        let service = self.layer(next(random));
        let call = service.oneshot(part_request(item, by, kind));
        if kind == Kind::Never {
            let timed_out = tokio::time::timeout(Duration::from_micros(200), call).await;
            return (String::new(), timed_out.is_err());
        }
        let read = async {
            let Ok(response) = call.await;
            let is_ok = response.status() == StatusCode::OK;
            let body = response.into_body().collect().await.ok()?.to_bytes();
            is_ok.then(|| String::from_utf8(body.to_vec()).unwrap())
        };
        let text = if kind == Kind::Panics || next(random).is_multiple_of(3) {
            scope::spawn(read).await.unwrap_or(None)
        } else {
            read.await
        };
        (text.unwrap_or_default(), kind.sets_apart())
    }

    async fn write(&self, cache: &CacheHandle, purges: u64, seed: u64) {
        let mut random = seed;
        while self.purges.load(SeqCst) < purges && !self.closed.load(SeqCst) {
            let item = next(&mut random) % ITEMS;
            let version = self.versions[item].fetch_add(1, SeqCst) + 1;
            let tag = ITEM.tag(item);
            let way = next(&mut random) % 40;
            match way {
                _ if self.course == Course::Unsafe => {
                    self.purge_requests(cache, item, &mut random).await;
                }
                0 => drop(cache.purge_all().await),
                // Announces nothing: what is stale may be served.
                1..3 => {
                    drop(cache.purge(tag).soft().await);
                    continue;
                }
                3 => drop(cache.begin_purge(tag)),
                4 => drop(cache.begin_purge(tag).commit().await),
                5 => drop(cache.purge(Tags::all_of([tag])).await),
                6 => drop(cache.purge([tag, ITEM.tag((item + 1) % ITEMS)]).await),
                7 => drop(cache.purge(tag).hold_off(Duration::from_micros(300)).await),
                8 => self.purge_requests(cache, item, &mut random).await,
                _ => drop(cache.purge(tag).await),
            }
            self.announced[item].fetch_max(version, SeqCst);
            self.purges.fetch_add(1, SeqCst);
            pause(next(&mut random) % 32).await;
        }
    }

    /// Purges every part that shows an item by its request, or by an unsafe request to its target.
    async fn purge_requests(&self, cache: &CacheHandle, item: usize, random: &mut u64) {
        for by in SOURCES {
            for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Page) {
                let (mut parts, body) = part_request(item, by, kind).into_parts();
                let may_be_by_request = self.course != Course::Unsafe;
                // A POST part does not hear of unsafe requests to its own target.
                if kind == Kind::ByPost || (may_be_by_request && next(random).is_multiple_of(2)) {
                    cache.purge_request(&parts).await.unwrap();
                } else {
                    parts.method = Method::PUT;
                    let put = self
                        .layer(next(random))
                        .oneshot(Request::from_parts(parts, body));
                    let Ok(response) = put.await;
                    drop(response);
                }
            }
        }
    }

    async fn read(&self, reads: u64, seed: u64) {
        let mut random = seed;
        while self.reads.fetch_add(1, SeqCst) < reads && !self.closed.load(SeqCst) {
            let announced: Vec<_> = self
                .announced
                .iter()
                .map(|version| version.load(SeqCst))
                .collect();
            let path = format!(
                "/{}/{}",
                next(&mut random) % ITEMS,
                next(&mut random) % VARIANTS
            );
            let request = Request::get(path).body(Full::default()).unwrap();
            let call = self.pages.get().unwrap().clone().oneshot(request);
            let leaves = next(&mut random).is_multiple_of(16);
            let patience = Duration::from_micros(if leaves { 100 } else { 100_000_000 });
            let answered = tokio::time::timeout(patience, async {
                let Ok(response) = call.await;
                if next(&mut random).is_multiple_of(32) {
                    // It leaves in the middle of the body.
                    drop(response.into_body().frame().await);
                    return None;
                }
                let is_shared = response.status() == StatusCode::OK;
                let body = response.into_body().collect().await.ok()?.to_bytes();
                is_shared.then(|| String::from_utf8(body.to_vec()).unwrap())
            });
            if let Ok(Some(text)) = answered.await {
                self.check(&text, &announced);
            }
            if next(&mut random).is_multiple_of(16) {
                pause(1).await;
            }
        }
    }

    fn check(&self, text: &str, announced: &[u64]) {
        let mut fields = text.splitn(3, ';');
        let render = fields.next().unwrap().parse().unwrap();
        let is_alone = fields.next() == Some("1");
        if is_alone && !self.alone.lock().unwrap().insert(render) {
            self.violations.fetch_add(1, SeqCst);
        }
        self.shared.fetch_add(u64::from(!is_alone), SeqCst);
        for shown in fields
            .next()
            .unwrap()
            .split(',')
            .filter(|shown| !shown.is_empty())
        {
            let (item, version) = shown.split_once(':').unwrap();
            let (item, version): (usize, u64) = (item.parse().unwrap(), version.parse().unwrap());
            if version < announced[item] {
                self.violations.fetch_add(1, SeqCst);
            }
        }
    }
}

/// The text in two frames, with a pause before each. It may tag itself in between.
fn streamed(text: String, tags: Option<usize>) -> Body {
    let half = text.len() / 2;
    let frames = [text[..half].to_owned(), text[half..].to_owned()];
    let frames = stream::unfold(frames.into_iter(), move |mut frames| async move {
        pause(2).await;
        let frame = frames.next()?;
        if let Some(item) = tags {
            scope::tag(ITEM.tag(item));
        }
        Some((Ok(Frame::data(Bytes::from(frame))), frames))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// The text, and then a part as it comes.
fn through(text: String, part: ResponseBody<Body>) -> Body {
    let frames = stream::unfold((Some(text), part), |(text, mut part)| async move {
        if let Some(text) = text {
            return Some((Ok(Frame::data(Bytes::from(text))), (None, part)));
        }
        let frame = part.frame().await?.ok()?;
        Some((Ok(frame), (None, part)))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A small random number (xorshift).
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 40).unwrap()
}

fn site(course: Course, mutant: Option<Mutant>) -> (Arc<Site>, CacheHandle) {
    let handle = CacheHandle::builder()
        .max_marks(if course == Course::Unsafe { 10_000 } else { 32 })
        .max_bytes(256 << 10)
        .build();
    if let Some(mutant) = mutant {
        handle.shared().purges.mutants.switch_on(mutant);
    }
    let layer = || {
        let builder = CacheLayer::builder().handle(&handle).max_key_bytes(512);
        if course == Course::Stale {
            builder
                .ttl(Duration::from_millis(5))
                .stale_while_revalidate(Duration::from_millis(5))
                .stale_if_error(Duration::from_secs(3600))
                .retry_after(Duration::from_millis(1))
        } else {
            builder.ttl(Duration::from_secs(3600))
        }
    };
    let site = Arc::new(Site::new(course));
    let parts = [(); 2].map(|()| {
        let origin = site.clone();
        let origin = service_fn(move |request| {
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(origin.part(request).await) }
        });
        let by_request = |parts: &http::request::Parts| match of_path(parts.uri.path()) {
            (_, _, Kind::Late) => Tags::new(),
            (item, "request", _) => ITEM.tag(item).into(),
            _ => Tags::new(),
        };
        let tags = TagHeader::new(HeaderName::from_static("x-tags"), b',');
        let layer = layer().tag_header(tags).tag_requests(by_request).build();
        BoxCloneSyncService::new(layer.layer(origin))
    });
    let _ = site.layers.set(parts);
    let origin = site.clone();
    let pages = service_fn(move |request| {
        let origin = origin.clone();
        async move { Ok::<_, Infallible>(origin.page(request).await) }
    });
    let _ = site
        .pages
        .set(BoxCloneSyncService::new(layer().build().layer(pages)));
    (site, handle)
}

/// Runs until there were so many reads and purges, or, with a fault, until it shows.
fn race(course: Course, mutant: Option<Mutant>, reads: u64, purges: u64) -> Arc<Site> {
    // A page of a page of a page, in one task, takes more than the usual 2 MiB of stack where nothing is optimised.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(course, mutant, reads, purges))
}

async fn run(course: Course, mutant: Option<Mutant>, reads: u64, purges: u64) -> Arc<Site> {
    let (site, handle) = site(course, mutant);
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 1..=2 {
        let (site, handle) = (site.clone(), handle.clone());
        tasks.spawn(async move { site.write(&handle, purges, seed * 0x9e37_79b9).await });
    }
    for seed in 1..=READERS {
        let site = site.clone();
        tasks.spawn(async move {
            while site.purges.load(SeqCst) < purges || site.reads.load(SeqCst) < reads {
                site.read(reads, seed * 0x51_7cc1).await;
                if site.closed.load(SeqCst) {
                    return;
                }
                pause(1).await;
            }
        });
    }
    let watch = site.clone();
    let all = async move { while tasks.join_next().await.transpose().unwrap().is_some() {} };
    let shown = async move {
        while mutant.is_none() || watch.violations.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        watch.closed.store(true, SeqCst);
    };
    let bounded = tokio::time::timeout(Duration::from_secs(3600), async {
        tokio::pin!(all, shown);
        tokio::select! {
            () = &mut all => {}
            () = &mut shown => all.await,
        }
    });
    bounded.await.expect("the race takes too long");
    let stats = handle.stats();
    println!(
        "{} reads, {} of pages that are shared, {} purges, {} renders; {stats:?}",
        site.reads.load(SeqCst),
        site.shared.load(SeqCst),
        site.purges.load(SeqCst),
        site.renders.load(SeqCst),
    );
    site
}

// Invariants 36, 37, 38, 61: a million reads at a scale of 340.
#[test]
fn a_page_after_a_purge_never_shows_what_is_older() {
    let site = race(Course::Fresh, None, scaled(3_000) as u64, scaled(90) as u64);
    assert_eq!(site.violations.load(SeqCst), 0);
    assert!(site.shared.load(SeqCst) > 0);
}

// Invariants 36, 38, 40, 61: the same, where responses are served stale, renewed and fallen back on.
#[test]
fn a_page_after_a_purge_never_shows_what_is_older_however_stale_it_may_be_served() {
    let site = race(Course::Stale, None, scaled(2_000) as u64, scaled(60) as u64);
    assert_eq!(site.violations.load(SeqCst), 0);
}

// Invariants 36, 61, 64: whether the target of a part is in the table of what unsafe requests mark, for as long as a page is made of it.
#[test]
fn a_page_after_an_unsafe_request_to_a_part_never_shows_what_is_older() {
    let site = race(
        Course::Unsafe,
        None,
        scaled(3_000) as u64,
        scaled(90) as u64,
    );
    assert_eq!(site.violations.load(SeqCst), 0);
    assert!(site.shared.load(SeqCst) > 0);
}

#[test]
fn a_page_that_does_not_hold_the_targets_of_its_parts_would_show() {
    let mutant = Some(Mutant::PresenceEndsWithFill);
    let site = race(Course::Unsafe, mutant, 1_000_000, u64::MAX);
    assert!(site.violations.load(SeqCst) > 0);
}

#[test]
fn a_page_that_does_not_hear_of_its_parts_would_show() {
    let site = race(
        Course::Fresh,
        Some(Mutant::PartsForgotten),
        1_000_000,
        u64::MAX,
    );
    assert!(site.violations.load(SeqCst) > 0);
}

#[test]
fn a_page_that_is_stored_though_its_parts_are_unknown_would_show() {
    let site = race(
        Course::Fresh,
        Some(Mutant::UnknownPartsStored),
        1_000_000,
        u64::MAX,
    );
    assert!(site.violations.load(SeqCst) > 0);
}

//! Events of the feature `tracing`.

use std::{
    cell::RefCell,
    fmt::Debug,
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use http::StatusCode;
use tower::Layer;
use tower_response_cache::{CacheHandle, CacheLayer, Tag, Tags, scope};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::common::{Origin, get, ok, request, send, with};

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Written>> = const { RefCell::new(None) };
}

/// The cache's events of the current thread, a line each: the level, the target, and the fields.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<String>>>);

impl Written {
    /// The lines with this text in them.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        let found = lines.iter().filter(|line| line.contains(text));
        found.cloned().collect()
    }

    /// Notes what happens on this thread until the guard is dropped.
    pub(crate) fn start(&self) -> Guard {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(ByThread).unwrap());
        OF_THIS_THREAD.set(Some(self.clone()));
        Guard
    }
}

pub(crate) struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        OF_THIS_THREAD.set(None);
    }
}

/// One subscriber of all threads. With one for each thread, `tracing` may remember of an event that nobody listens, because it first
/// happened on a thread without one.
struct ByThread;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl Subscriber for ByThread {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_response_cache") && metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(written) = OF_THIS_THREAD.with_borrow(Clone::clone) else {
            return;
        };
        let metadata = event.metadata();
        let mut line = Line(format!("{} {}", metadata.level(), metadata.target()));
        event.record(&mut line);
        written.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn stores_refusals_purges_and_failed_refreshes_are_debug_events() {
    let written = Written::default();
    let _guard = written.start();
    let origin = Origin::new(|request| match request.uri().path() {
        "/cookie" => with(ok("mine"), "set-cookie", "sid=1"),
        "/fails" if request.headers().contains_key("if-none-match") => {
            let mut failed = ok("no");
            *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            failed
        }
        "/fails" => with(ok("page"), "etag", "\"1\""),
        "/building" => {
            scope::do_not_store("the index is building");
            ok("page")
        }
        _ => ok("page"),
    });
    let layer = CacheLayer::builder()
        .ttl(Duration::from_secs(60))
        .stale_while_revalidate(Duration::from_secs(60))
        .tag_requests(|_| Tags::from(Tag::new("secret-tag")))
        .build();
    let (cache, handle) = (layer.layer(origin), layer.handle());

    send(&cache, get("/page")).await;
    assert_eq!(written.with("response stored").len(), 1);
    assert_eq!(
        written.with("body_bytes=4")[0].split(' ').next(),
        Some("DEBUG")
    );
    send(&cache, get("/cookie")).await;
    assert_eq!(written.with("reason=\"set-cookie\"").len(), 1);
    send(&cache, get("/building")).await;
    assert_eq!(written.with("cause=\"the index is building\"").len(), 1);
    send(&cache, request("POST", "/page")).await;
    assert_eq!(written.with("verb=\"invalidation\"").len(), 1);
    send(&cache, get("/fails")).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(send(&cache, get("/fails")).await.cache().is_stale());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(written.with("refresh of a stored response failed").len(), 1);
    handle.purge(Tag::new("secret-tag")).soft().await.unwrap();
    handle.purge_all().await.unwrap();
    assert_eq!(written.with("verb=\"soft\" marks=1").len(), 1);
    assert_eq!(written.with("verb=\"hard\"").len(), 1);
    assert!(written.with("WARN").is_empty());
    for secret in ["/page", "secret-tag", "sid=1"] {
        assert!(written.with(secret).is_empty(), "{secret}");
    }
}

#[tokio::test]
async fn a_limit_that_is_reached_is_one_warning_a_minute() {
    let written = Written::default();
    let _guard = written.start();
    let handle = CacheHandle::builder().max_marks(4).build();
    for n in 0..100 {
        let _ = handle.purge(Tag::from(format!("tag {n}"))).await.unwrap();
    }
    let warnings = written.with("limit=\"max_marks\"");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with(Level::WARN.as_str()));
}

#[tokio::test]
async fn the_cause_of_do_not_store_is_in_the_status_the_header_and_the_explanation() {
    let layer = CacheLayer::builder().build();
    let cache = layer.layer(Origin::new(|_| {
        scope::do_not_store("the index is building");
        ok("page")
    }));
    let answer = send(&cache, get("/")).await;
    assert_eq!(answer.cache().cause(), Some("the index is building"));
    let header = answer.header("cache-status").unwrap();
    assert!(
        header.ends_with("; detail=\"do-not-store: the index is building\""),
        "{header}"
    );
    let (parts, _) = get("/").into_parts();
    let explanation = layer.explain(&parts);
    assert_eq!(explanation.refused_cause, Some("the index is building"));
    assert!(
        explanation
            .to_string()
            .contains("do-not-store (the index is building)")
    );
    assert_eq!(
        explanation.decision.to_string(),
        "asks the inner service (uri-miss)",
        "requests for it go on sharing calls"
    );
}

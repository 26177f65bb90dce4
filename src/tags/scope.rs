//! What deep code adds to the response that is being built, without its signature knowing of it.
//!
//! The functions of this module speak to the request whose handler runs in the current task. Where the response is not
//! recorded, because the request bypasses the cache, they do nothing.
//!
//! # Other tasks and threads
//!
//! A task-local carries the scope, so a task or thread that the handler starts does not have it: a tag that
//! `tokio::spawn` or `tokio::task::spawn_blocking` code adds would be lost, and a later purge of it would miss the
//! response. [`spawn`] and [`spawn_blocking`] are those functions with the scope carried along; [`current`] carries it
//! anywhere else. A call outside any request that passed a cache layer is counted ([`calls_outside`]) and, with the
//! feature `tracing`, reported by a `warn` event, at most one a minute. [`outside`] marks code that is meant to run
//! there; [`strict`] makes such a call a panic, for tests.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use tower_response_cache::{TagFamily, scope};
//!
//! const PRODUCT: TagFamily<u64> = TagFamily::new("product");
//!
//! async fn load_product(id: u64) -> Option<String> {
//!     scope::ttl_at_most(Duration::from_secs(30));
//!     let loaded = scope::spawn_blocking(move || {
//!         scope::tag(PRODUCT.tag(id)); // with `tokio::task::spawn_blocking` this tag would be lost
//!         format!("product {id}")
//!     });
//!     loaded.await.ok()
//! }
//! ```

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Extensions;
use tokio::task::{JoinHandle, futures::TaskLocalFuture};

use super::{
    Tag, Tags,
    part::{Part, Parts},
};
pub use outside::{Job, Outside, calls_outside, outside, strict};

mod outside;

tokio::task_local! {
    /// The scope of the request whose inner service runs in this task.
    pub(crate) static CURRENT: CacheScope;
}

/// Whether this code runs inside a fill, as far as its task knows.
pub(crate) fn inside_a_fill() -> bool {
    CURRENT.try_with(CacheScope::is_of_a_fill).unwrap_or(false)
}

/// The scope of the fill that a request is part of, if it is: it came through that fill, or is made by code in its task.
pub(crate) fn enclosing(extensions: &Extensions) -> Option<CacheScope> {
    let of_the_request = extensions.get::<CacheScope>().cloned();
    let of_a_fill = |scope: &CacheScope| scope.is_of_a_fill();
    of_the_request.filter(of_a_fill).or_else(|| {
        let of_the_task = CURRENT.try_with(CacheScope::clone).ok();
        of_the_task.filter(of_a_fill)
    })
}

/// Runs code of a request that bypasses the cache, in the scope of the part that it is, if it is one.
pub(crate) fn in_bypass<R>(part: Option<&CacheScope>, run: impl FnOnce() -> R) -> R {
    CURRENT.sync_scope(part.cloned().unwrap_or_default(), run)
}

/// The scope of the current task, to carry it into other tasks and threads.
///
/// Outside any request that passed a cache layer it is a scope whose calls are noticed as lost: see
/// [the module](self#other-tasks-and-threads).
///
/// # Examples
///
/// ```
/// use tower_response_cache::scope;
///
/// let scope = scope::current();
/// let thread = std::thread::spawn(move || {
///     scope.enter(|| scope::tag("products"));
///     "rendered in a thread"
/// });
/// # let _ = thread.join();
/// ```
#[must_use]
pub fn current() -> CacheScope {
    let current = CURRENT.try_with(CacheScope::clone);
    current.unwrap_or(CacheScope { of: Of::Outside })
}

/// As [`tokio::spawn`], with the scope of the current task.
///
/// # Panics
///
/// Outside a tokio runtime.
///
/// # Examples
///
/// ```
/// use tower_response_cache::scope;
///
/// async fn handler() -> Option<String> {
///     let loaded = scope::spawn(async {
///         scope::tag("products");
///         "products".to_owned()
///     });
///     loaded.await.ok()
/// }
/// ```
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(current().wrap(future))
}

/// As [`tokio::task::spawn_blocking`], with the scope of the current task: for database calls and other code that blocks.
///
/// # Panics
///
/// Outside a tokio runtime.
///
/// # Examples
///
/// ```
/// use tower_response_cache::scope;
///
/// async fn handler() -> Option<String> {
///     let loaded = scope::spawn_blocking(|| {
///         scope::tag("products");
///         "read from a database".to_owned()
///     });
///     loaded.await.ok()
/// }
/// ```
#[track_caller]
pub fn spawn_blocking<F, R>(code: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let scope = current();
    tokio::task::spawn_blocking(move || scope.enter(code))
}

/// Lets this speak to the scope of the current task; noticed as lost, if there is none.
#[track_caller]
fn with_current(speak: impl FnOnce(&CacheScope)) {
    if CURRENT.try_with(speak).is_err() {
        outside::notice();
    }
}

/// Tags the response that is being built.
///
/// # Examples
///
/// ```
/// tower_response_cache::scope::tag("products");
/// ```
#[track_caller]
pub fn tag(tag: impl Into<Tag>) {
    with_current(|scope| scope.tag(tag));
}

/// Tags the response that is being built with each of these.
///
/// # Examples
///
/// ```
/// # use tower_response_cache::{TagFamily, scope};
/// const PRODUCT: TagFamily<u64> = TagFamily::new("product");
/// scope::tags([1, 2, 3].map(|id| PRODUCT.tag(id)));
/// ```
#[track_caller]
pub fn tags(tags: impl Into<Tags>) {
    with_current(|scope| scope.tags(tags));
}

/// Bounds the lifetime of the response that is being built; the shortest bound counts.
///
/// # Examples
///
/// ```
/// tower_response_cache::scope::ttl_at_most(std::time::Duration::from_secs(5));
/// ```
#[track_caller]
pub fn ttl_at_most(ttl: Duration) {
    with_current(|scope| scope.ttl_at_most(ttl));
}

/// Asks that the response that is being built not be stored. Requests that wait for it now still get it. The cause is for people: it is
/// in the `detail` of `Cache-Status`, in [`CacheStatus::cause`](crate::CacheStatus::cause), in
/// [`Explanation::refused_cause`](crate::Explanation::refused_cause) for two minutes, and in a `debug` event.
///
/// # Examples
///
/// ```
/// tower_response_cache::scope::do_not_store("search index is still building");
/// ```
#[track_caller]
pub fn do_not_store(cause: &'static str) {
    with_current(|scope| scope.do_not_store(cause));
}

/// The response that is being built, for code that runs outside the handler's task: it lies in the request's
/// extensions, and is an axum extractor (feature `axum`).
///
/// What is said after the response's head has been returned comes too late for the requests that wait for it, so such
/// a response is not stored.
///
/// # Examples
///
/// ```
/// use http::Request;
/// use tower_response_cache::CacheScope;
///
/// async fn handler(request: Request<String>) -> String {
///     let scope = request.extensions().get::<CacheScope>().cloned().unwrap_or_default();
///     let (sender, receiver) = tokio::sync::oneshot::channel();
///     tokio::spawn(async move {
///         scope.tag("products");
///         let _ = sender.send("rendered elsewhere".to_owned());
///     });
///     receiver.await.unwrap_or_default()
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct CacheScope {
    of: Of,
}

/// What a scope is of.
#[derive(Debug, Clone, Default)]
enum Of {
    /// Of no request that passed a cache layer. Calls are lost, and noticed.
    Outside,
    /// Of a request that bypasses the cache: nothing is recorded, and nothing is lost.
    #[default]
    Bypass,
    Fill(Arc<Mutex<Gathering>>),
}

#[derive(Debug, Default)]
struct Gathering {
    gathered: Gathered,
    /// The head is out: what is said from now on is too late.
    closed: bool,
    late: bool,
    /// The body has come to its end.
    ended: bool,
    /// How many of its parts have not come to their end.
    pending_parts: usize,
    /// What it depends on cannot be told: see [`Part`].
    has_unknown_part: bool,
    /// `store_if` has refused it, or a part of it.
    refused: bool,
}

/// What was said of a response while it was built.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) tags: Tags,
    ttl_at_most: Option<Duration>,
    do_not_store: Option<&'static str>,
    /// Of the responses that it is made of.
    pub(crate) parts: Parts,
}

impl Gathered {
    /// No lifetime may be longer, its handler has said.
    pub(crate) fn at_most(&self) -> Duration {
        self.ttl_at_most.unwrap_or(Duration::MAX)
    }

    /// Why it is not to be stored.
    pub(crate) fn do_not_store(&self) -> Option<&'static str> {
        let by_a_part = || {
            self.parts
                .do_not_store()
                .then_some("a part of it is not stored")
        };
        self.do_not_store.or_else(by_a_part)
    }
}

impl CacheScope {
    /// The scope of a fill.
    pub(crate) fn recording() -> Self {
        Self {
            of: Of::Fill(Arc::default()),
        }
    }

    fn is_of_a_fill(&self) -> bool {
        matches!(self.of, Of::Fill(_))
    }

    /// Takes over from a response that this one is made of.
    pub(crate) fn take_over(&self, part: Part) {
        self.say(|gathered| gathered.parts.push(part));
    }

    /// A request for a part begins: until it has ended, it is not known on what this response depends.
    pub(crate) fn begin_part(&self) {
        if let Some(mut gathering) = self.lock() {
            gathering.pending_parts += 1;
        }
    }

    /// A part has come to its end: whether it is known what it depends on, and whether `store_if` has refused it.
    pub(crate) fn end_part(&self, is_known: bool, refused: bool) {
        if let Some(mut gathering) = self.lock() {
            gathering.pending_parts = gathering.pending_parts.saturating_sub(1);
            gathering.has_unknown_part |= !is_known;
            gathering.refused |= refused;
        }
    }

    /// `store_if` has refused the response: whatever is made of it is not stored either.
    pub(crate) fn refuse(&self) {
        if let Some(mut gathering) = self.lock() {
            gathering.refused = true;
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.lock().is_some_and(|gathering| gathering.refused)
    }

    /// Whether a part is unknown, whatever becomes of the others.
    pub(crate) fn has_unknown_part(&self) -> bool {
        self.lock()
            .is_some_and(|gathering| gathering.has_unknown_part)
    }

    /// Whether all parts have come to their end, and are known.
    pub(crate) fn knows_its_parts(&self) -> bool {
        self.lock()
            .is_none_or(|gathering| gathering.pending_parts == 0 && !gathering.has_unknown_part)
    }

    /// Whether it is known what the response depends on, now that its body has come to its end.
    pub(crate) fn is_known(&self) -> bool {
        !self.was_late() && self.knows_its_parts()
    }

    /// The response's body has come to its end.
    pub(crate) fn end(&self) {
        if let Some(mut gathering) = self.lock() {
            gathering.ended = true;
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().is_some_and(|gathering| gathering.ended)
    }

    /// Runs this code in the scope: the functions of [`scope`](self) speak to it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheScope, scope};
    ///
    /// fn in_a_thread_pool(scope: &CacheScope) {
    ///     scope.enter(|| scope::tag("products"));
    /// }
    /// # in_a_thread_pool(&CacheScope::default());
    /// ```
    pub fn enter<R>(&self, code: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), code)
    }

    /// The future, in the scope whenever it is polled: for a `JoinSet`, or another runtime's `spawn`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::task::JoinSet;
    /// use tower_response_cache::scope;
    ///
    /// async fn load_all(tasks: &mut JoinSet<()>) {
    ///     for id in 0..3 {
    ///         tasks.spawn(scope::current().wrap(async move { scope::tag(format!("product:{id}")) }));
    ///     }
    /// }
    /// ```
    pub fn wrap<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.scope(future)
    }

    /// As [`wrap`](Self::wrap), by a name.
    pub(crate) fn scope<F: Future>(&self, future: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self.clone(), future)
    }

    /// Tags the response.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheScope;
    /// CacheScope::default().tag("products");
    /// ```
    #[track_caller]
    pub fn tag(&self, tag: impl Into<Tag>) {
        self.say(|gathered| gathered.tags.extend([tag.into()]));
    }

    /// Tags the response with each of these.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheScope, Tag};
    /// CacheScope::default().tags([Tag::new("products"), Tag::new("home")]);
    /// ```
    #[track_caller]
    pub fn tags(&self, tags: impl Into<Tags>) {
        self.say(|gathered| gathered.tags.extend(tags.into()));
    }

    /// Bounds the response's lifetime; the shortest bound counts.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheScope;
    /// CacheScope::default().ttl_at_most(std::time::Duration::from_secs(5));
    /// ```
    #[track_caller]
    pub fn ttl_at_most(&self, ttl: Duration) {
        self.say(|gathered| {
            gathered.ttl_at_most = Some(gathered.ttl_at_most.map_or(ttl, |t| t.min(ttl)))
        });
    }

    /// Asks that the response not be stored; requests that wait for it now still get it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheScope;
    /// CacheScope::default().do_not_store("a part of the page could not be loaded");
    /// ```
    #[track_caller]
    pub fn do_not_store(&self, cause: &'static str) {
        self.say(|gathered| gathered.do_not_store = Some(cause));
    }

    /// The head is known: takes what was said, and notes whether anything is said later.
    pub(crate) fn close(&self) -> Gathered {
        let Some(mut gathering) = self.lock() else {
            return Gathered::default();
        };
        gathering.closed = true;
        std::mem::take(&mut gathering.gathered)
    }

    /// Whether anything was said after the head was known.
    pub(crate) fn was_late(&self) -> bool {
        self.lock().is_some_and(|gathering| gathering.late)
    }

    #[track_caller]
    fn say(&self, what: impl FnOnce(&mut Gathered)) {
        if matches!(self.of, Of::Outside) {
            outside::notice();
        }
        if let Some(mut gathering) = self.lock() {
            if gathering.closed {
                gathering.late = true;
            } else {
                what(&mut gathering.gathered);
            }
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Gathering>> {
        let Of::Fill(gathering) = &self.of else {
            return None;
        };
        Some(gathering.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

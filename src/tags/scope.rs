//! What deep code adds to the response that is being built, without its signature knowing of it.
//!
//! The functions of this module speak to the fill in whose task they run. Outside a fill (the request passed by, or
//! there is no cache) they do nothing. Code that runs in another task takes the [`CacheScope`] out of the request's
//! extensions and speaks to that.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use tower_response_cache::{TagFamily, scope};
//!
//! const PRODUCT: TagFamily<u64> = TagFamily::new("product");
//!
//! async fn load_product(id: u64) -> String {
//!     scope::tag(PRODUCT.tag(id));
//!     scope::ttl_at_most(Duration::from_secs(30));
//!     format!("product {id}")
//! }
//! ```

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Extensions;

use super::{Tag, TagNames, Tags};

tokio::task_local! {
    /// The scope of the fill that runs in this task. That it is set at all marks code that runs inside a fill.
    pub(crate) static CURRENT: CacheScope;
}

/// Whether this code runs inside a fill, as far as its task knows.
pub(crate) fn inside_a_fill() -> bool {
    CURRENT.try_with(|_| ()).is_ok()
}

/// What one answer says to another that is made of it.
#[derive(Debug, Clone)]
pub(crate) struct Within {
    /// By their names; `None` if they are not known.
    pub(crate) tags: Option<TagNames>,
    pub(crate) at_most: Duration,
    /// It is not to be stored.
    pub(crate) do_not_store: bool,
}

impl Within {
    /// Nothing is known of it.
    pub(crate) fn unknown() -> Self {
        Self {
            tags: None,
            at_most: Duration::MAX,
            do_not_store: true,
        }
    }
}

/// The scope of the fill that a request is part of, if it is: it came through that fill, or is made by code in its task.
pub(crate) fn enclosing(extensions: &Extensions) -> Option<CacheScope> {
    let of_the_request = extensions.get::<CacheScope>();
    let of_the_request = of_the_request.filter(|scope| scope.gathered.is_some());
    of_the_request
        .cloned()
        .or_else(|| CURRENT.try_with(CacheScope::clone).ok())
}

/// Tags the response that is being built.
///
/// # Examples
///
/// ```
/// tower_response_cache::scope::tag("products");
/// ```
pub fn tag(tag: impl Into<Tag>) {
    let _ = CURRENT.try_with(|scope| scope.tag(tag));
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
pub fn tags(tags: impl Into<Tags>) {
    let _ = CURRENT.try_with(|scope| scope.tags(tags));
}

/// Bounds the lifetime of the response that is being built; the shortest bound counts.
///
/// # Examples
///
/// ```
/// tower_response_cache::scope::ttl_at_most(std::time::Duration::from_secs(5));
/// ```
pub fn ttl_at_most(ttl: Duration) {
    let _ = CURRENT.try_with(|scope| scope.ttl_at_most(ttl));
}

/// Asks that the response that is being built not be stored. Requests that wait for it now still get it. The cause is
/// for people who read the code or its traces.
///
/// # Examples
///
/// ```
/// tower_response_cache::scope::do_not_store("search index is still building");
/// ```
pub fn do_not_store(cause: &'static str) {
    let _ = CURRENT.try_with(|scope| scope.do_not_store(cause));
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
    /// `None` outside a fill: nothing is recorded.
    gathered: Option<Arc<Mutex<Gathering>>>,
}

#[derive(Debug, Default)]
struct Gathering {
    gathered: Gathered,
    /// The head is out: what is said from now on is too late.
    closed: bool,
    late: bool,
}

/// What was said of a response while it was built.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) tags: Tags,
    pub(crate) ttl_at_most: Option<Duration>,
    pub(crate) do_not_store: Option<&'static str>,
}

impl Gathered {
    /// No lifetime may be longer.
    pub(crate) fn at_most(&self) -> Duration {
        self.ttl_at_most.unwrap_or(Duration::MAX)
    }
}

impl CacheScope {
    /// Hears of a response that a cache further in has answered with: what is being built has its tags, and lives no longer than
    /// that one's handler said.
    pub(crate) fn hear(&self, within: &Within) {
        let tags = within.tags.as_ref().and_then(TagNames::to_tags);
        if let Some(tags) = tags.filter(|_| !within.do_not_store) {
            self.ttl_at_most(within.at_most);
            self.tags(tags);
        } else {
            self.do_not_store("a cache further in does not store it, or knows not all of its tags");
        }
    }

    /// The scope of a fill.
    pub(crate) fn recording() -> Self {
        Self {
            gathered: Some(Arc::default()),
        }
    }

    /// Tags the response.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::CacheScope;
    /// CacheScope::default().tag("products");
    /// ```
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

    fn say(&self, what: impl FnOnce(&mut Gathered)) {
        if let Some(mut gathering) = self.lock() {
            if gathering.closed {
                gathering.late = true;
            } else {
                what(&mut gathering.gathered);
            }
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Gathering>> {
        let gathered = self.gathered.as_ref()?;
        Some(gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

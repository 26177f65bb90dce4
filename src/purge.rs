//! Purges: of what, how hard, and when.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use crate::{
    clock::{deadline_in, has_timer},
    entry::Entry,
    error::PurgeError,
    events,
    refresh::Refresh,
    shared::{Shared, count},
    tags::{Force, Tag, Tagged, Targets},
};
use tokio::time::Instant;

/// A purge that is about to happen: it happens when it is awaited.
///
/// Made by [`CacheHandle::purge`](crate::CacheHandle::purge), [`purge_all`](crate::CacheHandle::purge_all),
/// [`purge_request`](crate::CacheHandle::purge_request) and [`PurgeGuard::commit`]. It is hard, unless it is made
/// [`soft`](Self::soft).
///
/// # Errors
///
/// A purge by request whose request does not tell the host: see [`PurgeError`].
///
/// # Cancel safety
///
/// A purge does not wait, unless it is to [`refresh`](Self::refresh): whoever polls it once has purged; dropped before, it has
/// done nothing.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{CacheHandle, PurgeError, Tag};
///
/// async fn indexed(cache: &CacheHandle) -> Result<(), PurgeError> {
///     // The search index shows the change within two seconds; until then, nothing that it says is stored.
///     cache.purge(Tag::new("search")).hold_off(Duration::from_secs(2)).await?;
///     Ok(())
/// }
/// ```
#[must_use = "a purge does nothing until it is awaited"]
pub struct Purge {
    shared: Arc<Shared>,
    targets: Targets,
    skipped: usize,
    soft: bool,
    refresh: bool,
    count: bool,
    hold_off: Option<Duration>,
    held: Option<Held>,
    /// Of a purge by request: its target without the query, as each layer compares it.
    paths: Vec<u64>,
    /// Why it will not happen.
    error: Option<PurgeError>,
}

impl Purge {
    pub(crate) fn new(shared: &Arc<Shared>, targets: Targets, skipped: usize) -> Self {
        Self {
            shared: shared.clone(),
            targets,
            skipped,
            soft: false,
            refresh: false,
            count: false,
            hold_off: None,
            held: None,
            paths: Vec::new(),
            error: None,
        }
    }

    /// One that is an error when it is awaited, and purges nothing.
    /// As a purge by request of this target, which can be [of all queries](Self::all_queries).
    pub(crate) fn of_paths(mut self, mut paths: Vec<u64>) -> Self {
        paths.sort_unstable();
        paths.dedup();
        self.paths = paths;
        self
    }

    pub(crate) fn failed(shared: &Arc<Shared>, error: PurgeError) -> Self {
        let mut purge = Self::new(shared, Targets::any(Vec::new()), 0);
        purge.error = Some(error);
        purge
    }

    /// The responses are stale from now on, and may be served as such: while they are fetched anew, for as long as their layer's
    /// [`stale_while_revalidate`](crate::CacheLayerBuilder::stale_while_revalidate) says, or if they cannot be, for its
    /// [`stale_if_error`](crate::CacheLayerBuilder::stale_if_error), both counted from now. On a layer that has neither, this
    /// is as hard as any purge. They are not fresh again, unless the inner service says that one has not changed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
    /// # async fn example(cache: CacheHandle) -> Result<(), PurgeError> {
    /// cache.purge(Tag::new("front-page")).soft().await?; // a little late is better than slow
    /// # Ok(())
    /// # }
    /// ```
    pub fn soft(mut self) -> Self {
        self.soft = true;
        self
    }

    /// Responses with these tags whose handlers start within this time from now on are served and not stored: for handlers that
    /// read what lags behind the change, such as a replica or a search index.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
    /// # async fn example(cache: CacheHandle) -> Result<(), PurgeError> {
    /// cache.purge(Tag::new("search")).hold_off(Duration::from_secs(2)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn hold_off(mut self, lag: Duration) -> Self {
        self.hold_off = Some(lag);
        self
    }

    /// Counts the stored responses that the purge concerns: [`Purged::responses`]. A purge alone takes as long as it has tags; this looks at
    /// everything that is stored, in one go, before the purge: about a millisecond for ten thousand responses. It is for the tools of
    /// whoever operates the service, and not for each change.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
    /// # async fn example(cache: CacheHandle) -> Result<(), PurgeError> {
    /// let purged = cache.purge(Tag::new("products")).count_responses().await?;
    /// println!("{} responses were purged", purged.responses.unwrap_or_default());
    /// # Ok(())
    /// # }
    /// ```
    pub fn count_responses(mut self) -> Self {
        self.count = true;
        self
    }

    /// Of a purge [by request](crate::CacheHandle::purge_request): what is stored for the request's host and path with any query, and
    /// whatever else is in the key. A successful `PUT /products/7` invalidates `/products/7` alone; a handler that knows of
    /// `/products/7?page=2` purges all of them with this. On other purges it changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use http::Request;
    /// # use tower_response_cache::{CacheHandle, PurgeError};
    /// async fn changed(cache: &CacheHandle) -> Result<(), PurgeError> {
    ///     let (request, ()) = Request::get("http://shop.example/products/7").body(()).unwrap().into_parts();
    ///     cache.purge_request(&request).all_queries().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn all_queries(mut self) -> Self {
        let paths = std::mem::take(&mut self.paths);
        if !paths.is_empty() {
            // The path is found in every layer, whatever else its key is made of.
            self.skipped = 0;
        }
        let _ = self.targets.add(&Targets::any(paths));
        self
    }

    /// As [`soft`](Self::soft), and fetches each response anew that is concerned, through the service that it came from, with
    /// the request that was recorded with it: those that were used most first, a few at a time. It is done when all are, or have
    /// failed; those that fail are kept, stale. Only layers that are
    /// [`refreshable`](crate::CacheLayerBuilder::refreshable) record what is needed: [`Purged::not_recorded`] counts the others'.
    ///
    /// With [`hold_off`](Self::hold_off) it waits for that time first. Each call takes a place among the
    /// [refreshes](crate::CacheHandleBuilder::max_concurrent_refreshes), and no longer than its layer's
    /// [`fill_timeout`](crate::CacheLayerBuilder::fill_timeout). To wait for none of it, spawn it:
    /// `tokio::spawn(handle.purge(tag).refresh().into_future())`. Outside a tokio runtime it purges, and all that is concerned has
    /// failed.
    ///
    /// # Cancel safety
    ///
    /// Polled once, it has purged, softly. Dropped later, no more calls begin; those that have begun go on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
    /// # async fn example(cache: CacheHandle) -> Result<(), PurgeError> {
    /// let purged = cache.purge(Tag::new("prices")).refresh().await?;
    /// println!("{} pages are warm again, {} could not be fetched", purged.refreshed, purged.failed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn refresh(mut self) -> Self {
        self.soft = true;
        self.refresh = true;
        self
    }

    async fn run(self) -> Purged {
        if !self.refresh {
            return self.mark();
        }
        let refresh = Refresh::begin(&self.shared);
        let (targets, lag) = (self.targets.clone(), self.hold_off);
        let mut purged = self.mark();
        if let Some(lag) = lag {
            let until = deadline_in(lag);
            if has_timer() {
                tokio::time::sleep_until(until).await;
            }
        }
        let done = refresh.run(&targets).await;
        purged.refreshed = done.refreshed;
        purged.failed = done.failed;
        purged.not_recorded = done.not_recorded;
        purged
    }

    fn mark(mut self) -> Purged {
        let purges = &self.shared.purges;
        let force = if self.soft {
            Force::Soft(Instant::now())
        } else {
            Force::Hard
        };
        let purged = Purged {
            marks: self.targets.len(),
            skipped: self.skipped,
            responses: self.count.then(|| self.shared.count(&self.targets)),
            refreshed: 0,
            failed: 0,
            not_recorded: 0,
        };
        if self.targets.is_empty() {
            return purged;
        }
        if let Some(lag) = self.hold_off {
            purges.purge_and_hold_off(&self.targets, force, deadline_in(lag));
        }
        match self.held.take() {
            Some(held) => held.release(force),
            None if self.hold_off.is_none() => drop(purges.purge(&self.targets, force)),
            None => {}
        }
        count(&self.shared.counters.purges);
        let verb = if self.soft { "soft" } else { "hard" };
        events::purged(verb, purged.marks);
        self.shared.sweep_soon();
        purged
    }
}

impl IntoFuture for Purge {
    type Output = Result<Purged, PurgeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async {
            match self.error.take() {
                Some(error) => Err(error),
                None => Ok(self.run().await),
            }
        })
    }
}

impl fmt::Debug for Purge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purge")
            .field("marks", &self.targets.len())
            .field("soft", &self.soft)
            .field("refresh", &self.refresh)
            .field("hold_off", &self.hold_off)
            .finish_non_exhaustive()
    }
}

/// What a purge did.
///
/// # Examples
///
/// ```
/// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
/// # async fn example(cache: CacheHandle) -> Result<(), PurgeError> {
/// assert_eq!(cache.purge([Tag::new("a"), Tag::new("b")]).await?.marks, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// How many tags or keys were marked. Several tags that responses bear all are one.
    pub marks: usize,
    /// For how many layers the request of a purge by request has no key: a part is absent that has to be there. Nothing of
    /// theirs was purged.
    pub skipped: usize,
    /// How many stored responses, each variant of one counted, bore the tags and had not been purged before. `None` unless the purge was to
    /// [count](Purge::count_responses) them. Responses in flight are purged as well, and not counted.
    pub responses: Option<usize>,
    /// How many responses were fetched anew: [`Purge::refresh`]. One that a request has refreshed meanwhile is not fetched
    /// twice, and not counted.
    pub refreshed: usize,
    /// How many could not be fetched anew, and are stale.
    pub failed: usize,
    /// How many could not be asked for again, because their layer does not record their requests, or is gone.
    pub not_recorded: usize,
}

/// A purge that has begun, before the change that it is for: until it is committed, nothing that bears these tags is stored.
///
/// Made by [`CacheHandle::begin_purge`](crate::CacheHandle::begin_purge). Dropped without [`commit`](Self::commit), because
/// the change failed, the task was cancelled, or somebody forgot, it purges all the same, hard.
///
/// Nothing stale is left if the guard lives for as long as the transaction. Where that goes on without the task that began it, the guard
/// goes along: into the closure of a `spawn_blocking`, which cannot be cancelled, and out again when it has committed. Where a server may
/// commit after its client was cancelled, both belong in a task of their own, which nobody aborts.
///
/// # Examples
///
/// ```
/// # use tower_response_cache::{CacheHandle, PurgeError, TagFamily};
/// const PRODUCT: TagFamily<u64> = TagFamily::new("product");
///
/// async fn update(cache: &CacheHandle, id: u64) -> Result<(), PurgeError> {
///     let purge = cache.begin_purge(PRODUCT.tag(id));
///     // begin the transaction, change the product, commit the transaction; if that fails, `?` drops the guard
///     purge.commit().await?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "dropped, it purges at once"]
pub struct PurgeGuard {
    held: Held,
}

impl PurgeGuard {
    pub(crate) fn new(shared: &Arc<Shared>, targets: Targets) -> Self {
        Self {
            held: Held::new(shared, targets),
        }
    }

    /// Adds tags that were found in the course of the change: from now on nothing that bears one of them is stored, and they are purged
    /// with the others. A response that was stored before is purged too, since its handler started before the commit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, TagFamily};
    /// # async fn orders_of(customer: u64) -> Vec<u64> { Vec::new() }
    /// const CUSTOMER: TagFamily<u64> = TagFamily::new("customer");
    /// const ORDER: TagFamily<u64> = TagFamily::new("order");
    ///
    /// async fn delete(cache: &CacheHandle, customer: u64) -> Result<(), PurgeError> {
    ///     let mut purge = cache.begin_purge(CUSTOMER.tag(customer));
    ///     // begin the transaction
    ///     for order in orders_of(customer).await {
    ///         purge.add(ORDER.tag(order));
    ///     }
    ///     // delete, commit the transaction
    ///     purge.commit().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn add(&mut self, what: impl Into<Tagged>) {
        self.held.add(&what.into());
    }

    /// The change is visible to the handlers: purges, and lets responses with these tags be stored again. If the purge that this
    /// gives is dropped instead of awaited, it has happened all the same, hard.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
    /// # async fn example(cache: CacheHandle) -> Result<(), PurgeError> {
    /// let purge = cache.begin_purge(Tag::new("products"));
    /// purge.commit().soft().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit(self) -> Purge {
        let Self { held } = self;
        let mut purge = Purge::new(&held.shared, held.targets.clone(), 0);
        purge.held = Some(held);
        purge
    }
}

/// Tags that are held. On every way out they are released, and purged at the same time.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    targets: Targets,
    is_released: bool,
}

impl Held {
    fn new(shared: &Arc<Shared>, targets: Targets) -> Self {
        shared.purges.hold(&targets);
        Self {
            shared: shared.clone(),
            targets,
            is_released: false,
        }
    }

    fn add(&mut self, tagged: &Tagged) {
        let targets = self.shared.targets(tagged);
        let added = self.targets.add(&targets);
        self.shared.purges.hold(&added);
    }

    fn release(mut self, force: Force) {
        self.is_released = true;
        self.shared.purges.purge_and_release(&self.targets, force);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_released && !self.targets.is_empty() {
            let purges = &self.shared.purges;
            purges.purge_and_release(&self.targets, Force::Hard);
            count(&self.shared.counters.purges);
            self.shared.sweep_soon();
        }
    }
}

impl Shared {
    /// How many stored responses a purge of these targets concerns.
    fn count(&self, targets: &Targets) -> usize {
        let is_concerned = |entry: &&Arc<Entry>| {
            targets.mean(entry.stamp.tags()) && self.purges.keeps(&entry.stamp)
        };
        let stored = self.memory.iter();
        stored
            .map(|(_, slot)| slot.entries().iter().filter(is_concerned).count())
            .sum()
    }

    /// The marks of these tags.
    pub(crate) fn targets(&self, tagged: &Tagged) -> Targets {
        let hash = |tag: &Tag| self.purges.hash_tag(tag.as_str().as_bytes());
        let hashes = tagged.tags.iter().map(hash);
        if tagged.all {
            Targets::all(hashes)
        } else {
            Targets::any(hashes)
        }
    }
}

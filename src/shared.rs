//! What all layers of one handle share: memory, the purge clock, the flights, and the bounds on them.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::request;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    clock::before,
    entry::Head,
    error::HostError,
    events::{self, Limit},
    explanation::Explanation,
    flight::Flights,
    key,
    reasons::ReasonCounters,
    recording::{Budget, Invitation},
    status::Reason,
    store::{Expiry, Memory, Searches},
    tags::{Birth, PurgeClock},
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) memory: Memory,
    pub(crate) searches: Searches,
    pub(crate) purges: Arc<PurgeClock>,
    pub(crate) flights: Arc<Flights<Answer>>,
    pub(crate) refusals: Refusals,
    pub(crate) counters: Counters,
    /// The limits that were reached.
    pub(crate) limits: events::Limits,
    /// What bodies under way may hold.
    pub(crate) budget: Arc<Budget>,
    /// The application's name for its cache, and the version of what it stores.
    pub(crate) namespace: [Box<str>; 2],
    fills: Arc<Semaphore>,
    refreshes: Arc<Semaphore>,
    running: AtomicUsize,
    idle: Notify,
    shutting_down: AtomicBool,
    pub(crate) sweeping: AtomicBool,
    pub(crate) expiry: Expiry,
    /// How many purges are looking for what they have to fetch anew: until then, it stays.
    pub(crate) collecting: AtomicUsize,
    layers: Mutex<Vec<Enrolled>>,
    next_layer: AtomicU64,
}

/// What those who wait on a flight are told.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Told(Arc<Told>),
    /// It is for its requester alone: everybody goes their own way, side by side.
    Refused,
}

/// A response that may be shared: its head, and its body as far as it has come.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) head: Head,
    pub(crate) recording: Invitation,
    pub(crate) tags: Box<[u64]>,
    /// The hash of the request that it answers.
    pub(crate) request: u64,
    /// Held by all who may still be given the response: no mark that concerns it is dropped meanwhile.
    pub(crate) in_flight: InFlight,
    /// It is a failure, shared because a second opinion was no better.
    pub(crate) failed: bool,
}

/// A response between the call of its handler and the last who may be given it without its being stored.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// Dropped first: fields are dropped in their order.
    birth: Birth,
    _sweep: SweepWhenDropped,
}

impl InFlight {
    pub(crate) fn born(&self) -> u64 {
        self.birth.at()
    }

    pub(crate) fn birth(&self) -> &Birth {
        &self.birth
    }

    /// The response's head is known, and with it for which of the targets it is, and in which cache groups.
    pub(crate) fn settle(&mut self, targets: &[u64], groups: &[u64]) {
        self.birth.settle(targets, groups);
    }
}

/// Marks that were kept for the sake of a birth may go when that is gone.
#[derive(Debug)]
struct SweepWhenDropped(Arc<Shared>);

impl Drop for SweepWhenDropped {
    fn drop(&mut self) {
        self.0.sweep_soon();
    }
}

/// A layer, as far as a purge by request needs it.
pub(crate) trait Keyed: Send + Sync + fmt::Debug {
    /// What a purge compares of the key of a request. `None` if it has none.
    fn purge_form_of(&self, parts: &request::Parts) -> Option<Vec<u8>>;

    /// Whether the host is in the key.
    fn keys_authority(&self) -> bool;

    /// The target of a request without its query, as far as that is in the key.
    fn path_of(&self, parts: &request::Parts) -> Vec<u8>;

    /// Whether a request of this head has this key, as far as its head goes.
    fn makes(&self, parts: request::Parts, key: &[u8]) -> bool;
}

/// A layer, as far as it explains itself.
pub(crate) trait Explain: Send + Sync {
    /// What it would do with a request of this head and body.
    fn explain(&self, parts: &request::Parts, body: &[u8]) -> Explanation;

    /// Whether a request for this path may have come to one of its services, and was passed on.
    fn has_noted_path(&self, parts: &request::Parts) -> bool;
}

impl Shared {
    /// Whether a request that the application made names the host that it is for, as far as that is in a key.
    ///
    /// # Errors
    ///
    /// It names none, or several.
    pub(crate) fn may_be_found(&self, request: &request::Parts) -> Result<(), HostError> {
        if key::names_one_authority(request) {
            return Ok(());
        }
        let is_keyed = self.keyed().iter().any(|layer| layer.keys_authority());
        is_keyed
            .then_some(HostError::of(key::all_authorities(request).len()))
            .map_or(Ok(()), Err)
    }
}

/// A layer that purges by request know.
#[derive(Debug)]
pub(crate) struct Enrolled {
    pub(crate) name: Option<Box<str>>,
    pub(crate) keyed: Arc<dyn Keyed>,
    /// Gone with the layer's last service.
    pub(crate) layer: Weak<dyn Explain>,
    /// Gone with the last response that it has stored.
    pub(crate) stored: Weak<()>,
}

impl Enrolled {
    fn is_alive(&self) -> bool {
        self.layer.strong_count() > 0
    }

    /// Whether a request may still be answered with what it stores or has stored. One with a name may when it is gone, since another of
    /// that name answers with what it stored.
    fn is_of_use(&self) -> bool {
        self.is_alive() || (self.name.is_some() && self.stored.strong_count() > 0)
    }
}

/// The limits of a handle.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) max_bytes: u64,
    pub(crate) max_marks: usize,
    pub(crate) max_concurrent_fills: usize,
    pub(crate) max_concurrent_refreshes: usize,
    pub(crate) max_refusals: usize,
    /// `None` for the default, which depends on the others.
    pub(crate) max_recording_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 128 << 20,
            max_marks: 100_000,
            max_concurrent_fills: 1024,
            max_concurrent_refreshes: 64,
            max_refusals: 10_000,
            max_recording_bytes: None,
        }
    }
}

impl Shared {
    pub(crate) fn new(limits: &Limits, namespace: [&str; 2]) -> Self {
        Self {
            memory: Memory::new(limits.max_bytes),
            searches: Searches::new(),
            purges: Arc::new(PurgeClock::new(limits.max_marks)),
            flights: Flights::new(),
            refusals: Refusals::new(limits.max_refusals),
            counters: Counters::default(),
            limits: events::Limits::default(),
            budget: Budget::new(limits.max_recording_bytes, limits.max_bytes),
            namespace: namespace.map(Into::into),
            fills: places(limits.max_concurrent_fills),
            refreshes: places(limits.max_concurrent_refreshes),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
            shutting_down: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            expiry: Expiry::new(),
            collecting: AtomicUsize::new(0),
            layers: Mutex::default(),
            next_layer: AtomicU64::new(0),
        }
    }

    /// The number of a new layer.
    pub(crate) fn number(&self) -> u64 {
        self.next_layer.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes a layer known to purges by request, in place of one of the same name that is gone.
    pub(crate) fn enrol(&self, layer: Enrolled) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|known| known.is_alive() || (known.is_of_use() && known.name != layer.name));
        layers.push(layer);
    }

    /// Forgets the names of layers that are gone, and of which nothing is stored any more.
    pub(crate) fn forget_layers(&self) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(Enrolled::is_of_use);
    }

    /// All layers by whose keys something may be stored.
    pub(crate) fn keyed(&self) -> Vec<Arc<dyn Keyed>> {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let of_use = layers.iter().filter(|layer| layer.is_of_use());
        of_use.map(|layer| layer.keyed.clone()).collect()
    }

    /// All layers that are in use, in the order in which they were built.
    pub(crate) fn in_use(&self) -> Vec<Arc<dyn Explain>> {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers
            .iter()
            .filter_map(|known| known.layer.upgrade())
            .collect()
    }

    /// A place among the fills that may run at once. `None` if there is none until the deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives up its place in the queue.
    pub(crate) async fn permit(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let acquired = before(deadline, self.fills.clone().acquire_owned()).await;
        acquired.and_then(Result::ok)
    }

    /// A place among the fills, if there is one now.
    pub(crate) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.fills.clone().try_acquire_owned().ok()
    }

    /// Whether there is a place among the fills now.
    pub(crate) fn has_room(&self) -> bool {
        self.fills.available_permits() > 0
    }

    /// A place among the refreshes that may run at once, if there is one now.
    pub(crate) fn try_refresh_permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = self.refreshes.clone().try_acquire_owned().ok();
        if permit.is_none() {
            self.limits.reached(Limit::Refreshes);
        }
        permit
    }

    /// As [`try_refresh_permit`](Self::try_refresh_permit), for one who waits: those that are there go on for no longer than a
    /// fill may take. `None` if there will be none.
    pub(crate) async fn refresh_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.refreshes.clone().acquire_owned().await.ok()
    }

    /// The inner service is about to be called: whatever was purged until now, the handler sees. From now on, unsafe requests to
    /// these targets are noted.
    pub(crate) fn bear_for(self: &Arc<Self>, targets: &[u64]) -> InFlight {
        self.in_flight(self.purges.bear_for(targets))
    }

    /// What is stored will be used after a wait: no mark that concerns it is dropped until then.
    pub(crate) fn bear(self: &Arc<Self>) -> InFlight {
        self.in_flight(self.purges.bear())
    }

    fn in_flight(self: &Arc<Self>, birth: Birth) -> InFlight {
        InFlight {
            birth,
            _sweep: SweepWhenDropped(self.clone()),
        }
    }

    /// A fill begins that outlives its requester. `None` once the cache is shutting down.
    pub(crate) fn start_running(self: &Arc<Self>) -> Option<Running> {
        // Counted first: who shuts down either sees this fill, or is seen by it.
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = Running {
            shared: self.clone(),
        };
        (!self.shutting_down.load(Ordering::SeqCst)).then_some(running)
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Starts no more fills, and waits until those that run have ended. Returns how many had not, at the deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it stops waiting; no more fills are started all the same.
    pub(crate) async fn shut_down(&self, deadline: Instant) -> usize {
        self.shutting_down.store(true, Ordering::SeqCst);
        loop {
            let idle = self.idle.notified();
            let running = self.running();
            if running == 0 || before(deadline, idle).await.is_none() {
                return self.running();
            }
        }
    }
}

fn places(number: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)))
}

/// A fill that runs on its own.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shared.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

/// The keys whose last answer could not be stored, with the reason: requests for them do not wait for each other.
/// Kept for a while, bounded, and by a hash of the key: a collision lets a request go its own way, no more.
pub(crate) struct Refusals {
    known: moka::sync::Cache<u64, Refusal>,
    hasher: RandomState,
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals")
            .field("known", &self.known.entry_count())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    reason: Reason,
    /// Why the handler asked that the response not be stored.
    cause: Option<&'static str>,
    /// Requests for the key do not wait for each other.
    is_uncacheable: bool,
    until: Instant,
}

/// How long it is remembered that an answer could not be stored.
const REMEMBERED: Duration = Duration::from_secs(120);

impl Refusals {
    fn new(capacity: usize) -> Self {
        Self {
            known: moka::sync::Cache::new(capacity as u64),
            hasher: RandomState::new(),
        }
    }

    /// Why requests for this key do not wait for each other, if they do not.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Reason> {
        let refusal = self.find(key).filter(|refusal| refusal.is_uncacheable);
        refusal.map(|refusal| refusal.reason)
    }

    /// Why the last response for this key was not stored, and the cause that its handler gave, if it did.
    pub(crate) fn last(&self, key: &[u8]) -> Option<(Reason, Option<&'static str>)> {
        self.find(key)
            .map(|refusal| (refusal.reason, refusal.cause))
    }

    fn find(&self, key: &[u8]) -> Option<Refusal> {
        let refusal = self.known.get(&self.hasher.hash_one(key))?;
        (Instant::now() < refusal.until).then_some(refusal)
    }

    pub(crate) fn remember(&self, key: &[u8], reason: Reason) {
        self.insert(key, reason, None, true);
    }

    /// Keeps for people why a response was not stored. Requests for the key go on sharing calls.
    pub(crate) fn note(&self, key: &[u8], reason: Reason, cause: &'static str) {
        self.insert(key, reason, Some(cause), false);
    }

    fn insert(
        &self,
        key: &[u8],
        reason: Reason,
        cause: Option<&'static str>,
        is_uncacheable: bool,
    ) {
        let refusal = Refusal {
            reason,
            cause,
            is_uncacheable,
            until: Instant::now() + REMEMBERED,
        };
        self.known.insert(self.hasher.hash_one(key), refusal);
    }

    pub(crate) fn forget(&self, key: &[u8]) {
        self.known.invalidate(&self.hasher.hash_one(key));
    }

    pub(crate) fn len(&self) -> u64 {
        self.known.run_pending_tasks();
        self.known.entry_count()
    }
}

/// What has happened since the cache was built.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) collapsed: AtomicU64,
    pub(crate) bypasses: AtomicU64,
    pub(crate) unavailable: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) purges: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    /// Why responses were not answered from the cache or not stored.
    pub(crate) reasons: ReasonCounters,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

//! One layer, as its builder left it.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Response, StatusCode, header::Entry, request};
use tokio::time::Instant;

use crate::{
    clock::deadline_in,
    entry::{Cells, LayerInUse},
    filter::PathFilter,
    key::{self, Identity, KeyBytes, KeyPrefix, Reach, Selection},
    policy::{Credentials, Policy},
    shared::{Keyed, Shared},
    status::{self, CacheStatus, Reason, StatusName},
};

/// A layer's rules, shared by all of its services.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) shared: Arc<Shared>,
    pub(crate) policy: Policy,
    pub(crate) selection: Arc<Selection>,
    pub(crate) waiting: Waiting,
    pub(crate) fill_mode: FillMode,
    pub(crate) report: Report,
    /// Whether requests are recorded, so that what they were answered with can be asked for again.
    pub(crate) refreshable: bool,
    /// The paths of the requests that its services have passed on.
    pub(crate) paths: PathFilter,
    /// Held by all that is stored, too: until then the layer's name is known.
    pub(crate) in_use: LayerInUse,
}

impl Config {
    /// Whether a fill may run in a task of its own.
    pub(crate) fn may_detach(&self) -> bool {
        self.fill_mode == FillMode::Detached && tokio::runtime::Handle::try_current().is_ok()
    }

    /// Notes that one of its services got a request for this path, and passed it on.
    pub(crate) fn note_path(&self, parts: &request::Parts) {
        let path = key::as_sent(parts).path();
        self.paths.add(self.path_hash(path.as_bytes()));
    }

    /// Whether one of its services may have got a request for this path, and passed it on.
    pub(crate) fn has_noted_path(&self, parts: &request::Parts) -> bool {
        let path = key::as_sent(parts).path();
        self.paths.may_have(self.path_hash(path.as_bytes()))
    }

    /// Tells in a response that did not come from the store what the cache did, and counts the reason.
    pub(crate) fn label<B>(&self, response: &mut Response<B>, status: CacheStatus) {
        if let Some(reason) = status.reason() {
            self.shared.counters.reasons.count(reason);
        }
        self.report.label(response, status);
    }

    /// What an unsafe request to this target marks.
    pub(crate) fn target_hash(&self, parts: &request::Parts) -> u64 {
        self.shared
            .purges
            .hash_target(&self.selection.target(parts))
    }

    /// What an unsafe request to any target of this path marks: what is stored for many queries.
    pub(crate) fn path_hash(&self, path: &[u8]) -> u64 {
        self.shared.purges.hash_path(path)
    }

    /// What a purge of all queries of this path marks.
    pub(crate) fn all_queries_hash(&self, parts: &request::Parts) -> u64 {
        let path = self.selection.target_path(parts);
        self.shared.purges.hash_all_queries(&path)
    }

    /// The host that a request is for, if answers to different hosts are apart.
    pub(crate) fn origin(&self, parts: &request::Parts) -> Option<String> {
        let keyed = self.selection.keys_authority();
        keyed.then(|| key::authority(parts)).flatten()
    }
}

/// The bounds on what waits.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    /// `None` for as long as `fill_timeout`.
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) leader_timeout: Duration,
    pub(crate) fill_timeout: Duration,
    pub(crate) max_waiters: usize,
    /// For how long a reader may make the others wait that share a body with it.
    pub(crate) stall_timeout: Duration,
    /// How long after a failure the inner service is not asked again for what can be served stale.
    pub(crate) retry_after: Duration,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            wait_timeout: None,
            leader_timeout: Duration::from_secs(10),
            fill_timeout: Duration::from_secs(30),
            max_waiters: 10_000,
            stall_timeout: Duration::from_secs(5),
            retry_after: Duration::from_secs(10),
        }
    }
}

impl Waiting {
    pub(crate) fn wait_timeout(&self) -> Duration {
        self.wait_timeout.unwrap_or(self.fill_timeout)
    }

    /// When a request that can fall back on a stale response does so, if it calls the inner service now and must have
    /// an answer by this deadline.
    pub(crate) fn falls_back_at(&self, deadline: Instant) -> Instant {
        deadline.min(deadline_in(self.leader_timeout))
    }
}

/// Where the one call to the inner service runs.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{CacheLayer, FillMode};
///
/// let cache = CacheLayer::builder().fill_mode(FillMode::Inline).build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FillMode {
    /// In a task of its own, so that a client that hangs up takes nothing with it. Outside a tokio runtime this is
    /// the same as `Inline`.
    #[default]
    Detached,
    /// In the task of the request that leads, for services that cannot leave it. If its client hangs up, one of those
    /// who wait begins anew; and those who wait do so until the leader's client has read the whole body.
    ///
    /// A leader that asks for less than the whole (`If-None-Match`, `If-Modified-Since`, `Range`) and is to get less gets it when the body
    /// has been read to its end, and so stored; after `fill_timeout`, or when the body is too long to be stored, without that.
    Inline,
}

/// How a response tells what the cache did.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) header: bool,
    pub(crate) extension: bool,
    name: StatusName,
    /// What is said of a request that passes by, for each reason: made in advance, so that saying it takes no memory.
    bypasses: Box<[HeaderValue]>,
}

impl Default for Report {
    fn default() -> Self {
        Self::under(StatusName::default(), true, true)
    }
}

impl Report {
    fn under(name: StatusName, header: bool, extension: bool) -> Self {
        let bypasses = Reason::ALL.iter();
        let bypasses = bypasses
            .map(|reason| CacheStatus::bypass(*reason).to_header(&name))
            .collect();
        Self {
            header,
            extension,
            name,
            bypasses,
        }
    }

    pub(crate) fn renamed(self, name: StatusName) -> Self {
        Self::under(name, self.header, self.extension)
    }

    /// Tells it in the response's extensions and in `Cache-Status`, behind what caches further in have said
    /// (RFC 9211 §2).
    pub(crate) fn label<B>(&self, response: &mut Response<B>, status: CacheStatus) {
        // RFC 9211 §2: what the cache answers of itself is nothing that it handled.
        if self.header && !status.is_unavailable() {
            let member = match status.bypassed() {
                Some(reason) => self.bypasses[reason as usize].clone(),
                None => status.to_header(&self.name),
            };
            response.headers_mut().append("cache-status", member);
        }
        if self.extension {
            response.extensions_mut().insert(status);
        }
    }

    /// Takes back that a response is stored.
    pub(crate) fn not_stored<B>(&self, response: &mut Response<B>) {
        let status = response.extensions_mut().get_mut::<CacheStatus>();
        if let Some(status) = status {
            status.stored = false;
        }
        if self.header
            && let Entry::Occupied(mut lines) = response.headers_mut().entry("cache-status")
            && let Some(own) = lines.iter_mut().last()
        {
            status::take_stored(own);
        }
    }

    /// Adds to what was told that the inner service answered so, where that is not what is sent (RFC 9211 §2.3).
    pub(crate) fn relabel<B>(&self, response: &mut Response<B>, received: StatusCode) {
        if response.status() == received {
            return;
        }
        if let Some(status) = response.extensions_mut().get_mut::<CacheStatus>()
            && status.forward().is_some()
        {
            status.forward_status.get_or_insert(received);
        }
        if self.header {
            let lines = response.headers_mut().entry("cache-status");
            if let Entry::Occupied(mut lines) = lines
                && let Some(own) = lines.iter_mut().last()
            {
                status::put_forward_status(own, received);
            }
        }
    }
}

/// A layer with its key.
#[derive(Debug)]
pub(crate) struct Layered<K> {
    pub(crate) name: Option<Box<str>>,
    pub(crate) config: Arc<Config>,
    pub(crate) keys: Arc<KeyMaker<K>>,
    /// Its services, where they can be asked again.
    pub(crate) cells: Cells,
}

impl<K> Drop for Layered<K> {
    /// What was recorded for it may hold what holds the store, and so itself.
    fn drop(&mut self) {
        if !self.cells.empty() {
            return;
        }
        for (_, slot) in self.config.shared.memory.iter() {
            let recorded = slot
                .entries()
                .iter()
                .filter_map(|entry| entry.recorded.as_ref());
            let left = recorded.filter(|recorded| recorded.again().is_none());
            left.for_each(|recorded| recorded.forget());
        }
    }
}

/// A layer's key, without the rest of the layer.
#[derive(Debug)]
pub(crate) struct KeyMaker<K> {
    pub(crate) prefix: KeyPrefix,
    pub(crate) selection: Arc<Selection>,
    /// What of the request's body is in the key.
    pub(crate) body: K,
    pub(crate) max_bytes: usize,
    pub(crate) credentials: Credentials,
}

impl<K> KeyMaker<K> {
    /// Makes the key of a request's head, and says what it leaves open of who asks, and how much of it a purge by request
    /// marks.
    pub(crate) fn make(
        &self,
        parts: &mut request::Parts,
        key: &mut KeyBytes,
    ) -> Result<(Identity, Reach), Reason> {
        self.selection.admit(parts)?;
        let identity = match (
            self.selection.identity(&parts.method, &parts.headers),
            self.credentials,
        ) {
            (Err(_), Credentials::IfPermitted) => Identity::Authorized,
            (identity, _) => identity?,
        };
        let reach = self.encode(parts, key)?;
        Ok((identity, reach))
    }

    /// Makes the key, whoever asks. Where it fails, what there is of the key ends with the part at which it did.
    pub(crate) fn encode(
        &self,
        parts: &mut request::Parts,
        key: &mut KeyBytes,
    ) -> Result<Reach, Reason> {
        self.selection
            .encode(&self.prefix, parts, self.max_bytes, key)
    }
}

impl<K: Send + Sync + std::fmt::Debug> Keyed for KeyMaker<K> {
    fn purge_form_of(&self, parts: &request::Parts) -> Option<Vec<u8>> {
        let mut key = KeyBytes::new();
        let selection = &self.selection;
        // However long: a purge may compare more loosely than a key, and never more strictly.
        let head = selection.encode_head(&self.prefix, parts, usize::MAX, &mut key);
        head.ok().map(|_| key::purge_form(&key).to_vec())
    }

    fn keys_authority(&self) -> bool {
        self.selection.keys_authority()
    }

    fn path_of(&self, parts: &request::Parts) -> Vec<u8> {
        self.selection.target_path(parts).to_vec()
    }

    fn makes(&self, mut parts: request::Parts, key: &[u8]) -> bool {
        let mut made = KeyBytes::new();
        self.encode(&mut parts, &mut made).is_ok() && key.starts_with(&made)
    }
}

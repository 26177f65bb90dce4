//! The request of a stored response, as far as that depends on it: with it the response can be asked for again.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request,
};

use tokio::sync::OwnedSemaphorePermit;

use super::{Entry, of_its_own, weight as weights};
use crate::{
    key::Reach,
    tags::{Tag, Tags},
};

/// A service that can be asked again.
pub(crate) trait Again: Send + Sync + fmt::Debug {
    /// Asks for what is stored under this key again, for those to come, in this place among the refreshes. Says whether something
    /// newer is stored then. If somebody asks already, it waits, unless it may not.
    ///
    /// # Cancel safety
    ///
    /// Dropped, a call that has begun goes on.
    fn ask(
        self: Arc<Self>,
        key: &[u8],
        entry: Arc<Entry>,
        place: OwnedSemaphorePermit,
        may_wait: bool,
    ) -> Pin<Box<dyn Future<Output = bool> + Send>>;
}

/// A service that can be asked again for as long as its layer is there: the layer empties it when it goes, so that what is stored
/// keeps nothing alive that keeps the store alive.
#[derive(Debug, Default)]
pub(crate) struct AgainCell(Mutex<Option<Arc<dyn Again>>>);

impl AgainCell {
    pub(crate) fn new(again: Arc<dyn Again>) -> Self {
        Self(Mutex::new(Some(again)))
    }

    pub(crate) fn get(&self) -> Option<Arc<dyn Again>> {
        self.lock().clone()
    }

    pub(crate) fn empty(&self) {
        let again = self.lock().take();
        // What it holds may drop what is locked: after the lock.
        drop(again);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<dyn Again>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is kept of one layer's services. Emptied with the layer, since a service may hold what holds the store.
#[derive(Debug, Default)]
pub(crate) struct Cells(Mutex<Vec<Weak<AgainCell>>>);

impl Cells {
    pub(crate) fn add(&self, cell: &Arc<AgainCell>) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Now and then, so that it costs next to nothing.
        if cells.len() == cells.capacity() {
            cells.retain(|cell| cell.strong_count() > 0);
        }
        cells.push(Arc::downgrade(cell));
    }

    /// Empties all of them. `false` if there never was one.
    pub(crate) fn empty(&self) -> bool {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cells = std::mem::take(&mut *cells);
        let left = cells.iter().filter_map(Weak::upgrade);
        left.for_each(|cell| cell.empty());
        !cells.is_empty()
    }
}

/// A request on its way to the inner service, with what it can be made of again.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) extensions: Extensions,
    /// What of its body was read into its key.
    pub(crate) body: Bytes,
    /// What stands where in the key.
    pub(crate) reach: Reach,
    /// The tags that the application made of the whole of it.
    pub(crate) tags: Tags,
    pub(crate) again: Arc<AgainCell>,
}

/// The request of a stored response.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// `None` once its layer is gone.
    asked: Mutex<Option<Asked>>,
    weight: usize,
    /// Few, and not looked up: a map would take more than they do.
    headers: Box<[(HeaderName, HeaderValue)]>,
    /// How often the response was served.
    used: AtomicU32,
}

/// What an extension is taken to weigh, with its place in the table: nobody can tell.
const EXTENSION_BYTES: usize = 192;

/// What a URI takes besides its text.
const URI_BYTES: usize = 96;

impl Recorded {
    /// The headers are those that the response may depend on.
    pub(crate) fn new(mut asked: Asked, headers: &HeaderMap) -> Self {
        asked.uri = of_its_own_memory(&asked.uri);
        #[cfg(feature = "axum")]
        if let Some(original) = asked.extensions.get_mut::<axum::extract::OriginalUri>() {
            original.0 = of_its_own_memory(&original.0);
        }
        let fields = headers.iter();
        let fields = fields.map(|(name, value)| (name.clone(), of_its_own(value)));
        let headers: Box<[_]> = fields.collect();
        Self {
            weight: weight(&asked, &headers),
            asked: Mutex::new(Some(asked)),
            headers,
            used: AtomicU32::new(0),
        }
    }

    /// The request, to be asked again, and what else is known of it. `None` once its layer is gone.
    pub(crate) fn request(&self) -> Option<(request::Parts, Asked)> {
        let mut asked = self.lock().clone()?;
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = asked.method.clone();
        parts.uri = asked.uri.clone();
        parts.version = asked.version;
        parts.headers.reserve(self.headers.len());
        for (name, value) in &self.headers {
            parts.headers.append(name.clone(), value.clone());
        }
        parts.extensions = std::mem::take(&mut asked.extensions);
        Some((parts, asked))
    }

    /// The service to ask, if it is there.
    pub(crate) fn again(&self) -> Option<Arc<dyn Again>> {
        self.lock().as_ref()?.again.get()
    }

    /// Its layer is gone: lets go of all that may keep the store alive.
    pub(crate) fn forget(&self) {
        let asked = self.lock().take();
        // What it holds may drop what is locked: after the lock.
        drop(asked);
    }

    pub(crate) fn count_use(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    fn lock(&self) -> MutexGuard<'_, Option<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(asked: &Asked, headers: &[(HeaderName, HeaderValue)]) -> usize {
    let fields = headers.iter().map(|(name, value)| {
        let field = size_of::<(HeaderName, HeaderValue)>();
        field + weights::of_name(name) + weights::of_bytes(value.len())
    });
    let uri = asked.uri.path().len() + asked.uri.query().map_or(0, str::len);
    let extensions = asked.extensions.len() * EXTENSION_BYTES;
    let tags = asked
        .tags
        .iter()
        .map(|tag: &Tag| tag.as_str().len() + size_of::<Tag>());
    let extensions = extensions + tags.sum::<usize>();
    let around = size_of::<Recorded>() + URI_BYTES + asked.body.len() + uri + extensions;
    around + fields.sum::<usize>()
}

/// A URI in memory of its own: as it came, it may be a slice of a connection's buffer, and keep all of that alive.
fn of_its_own_memory(uri: &Uri) -> Uri {
    uri.to_string().parse().unwrap_or_else(|_| uri.clone())
}

//! One request's place in the store.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, request};
use tokio::time::Instant;

use crate::{
    config::{Config, KeyMaker},
    entry::Entry,
    key::{self, Identity, KeyBytes},
    shared::Told,
    status::{Forward, Reason},
    store::Slot,
    tags::Arrival,
    vary::Vary,
};

/// What a request looks for.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(crate) key: KeyBytes,
    /// How much of the key was made of the request's head.
    pub(crate) head_bytes: usize,
    pub(crate) identity: Identity,
    /// Taken before the store is looked at.
    pub(crate) arrival: Arrival,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    Fresh(Hit),
    Nothing(Forward, Option<Slot>),
}

/// A stored response that may be served.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) entry: Arc<Entry>,
    pub(crate) ttl: Duration,
    pub(crate) now: Instant,
}

impl Lookup {
    /// Of a request that comes now, and whose key is still to be made.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            key: KeyBytes::new(),
            head_bytes: 0,
            identity: Identity::None,
            arrival: config.shared.purges.arrive(),
        }
    }

    /// Makes the key of a request's head.
    ///
    /// # Errors
    ///
    /// The reason for which it has none.
    pub(crate) fn make_key<K>(
        &mut self,
        keys: &KeyMaker<K>,
        parts: &request::Parts,
    ) -> Result<(), Reason> {
        self.identity = keys.make(parts, &mut self.key)?;
        self.head_bytes = self.key.len();
        Ok(())
    }

    /// Looks for a response that is for this request, fresh, and not purged.
    pub(crate) fn look(&self, config: &Config, headers: &HeaderMap) -> Found {
        let Some(slot) = config.shared.memory.get(&self.key) else {
            return Found::Nothing(Forward::UriMiss, None);
        };
        let now = Instant::now();
        let mut forward = Forward::VaryMiss;
        for entry in slot.entries() {
            if !entry.head.vary.matches(headers) {
                continue;
            }
            if !self.may_be_told(entry.head.for_authorized) {
                forward = Forward::Request;
                continue;
            }
            forward = Forward::Stale;
            if !config.shared.purges.is_valid(&entry.stamp, self.arrival) {
                continue;
            }
            if let Some(ttl) = entry.head.fresh_for(now) {
                let entry = entry.clone();
                return Found::Fresh(Hit { entry, ttl, now });
            }
        }
        Found::Nothing(forward, Some(slot))
    }

    /// Whether a response that this request waited for is for it.
    pub(crate) fn is_answered_by(&self, told: &Told, headers: &HeaderMap) -> bool {
        self.may_be_told(told.head.for_authorized) && told.head.vary.matches(headers)
    }

    /// Whether no purge came between the call of its handler and this request.
    pub(crate) fn may_share(&self, told: &Told, config: &Config) -> bool {
        let purges = &config.shared.purges;
        purges.may_share(told.in_flight.born(), &told.tags, self.arrival)
    }

    /// RFC 9111 §3.5: to a request with credentials, only what says that it may be shared with such.
    fn may_be_told(&self, for_authorized: bool) -> bool {
        self.identity == Identity::None || for_authorized
    }

    /// The key by which requests wait for each other: of one variant, as far as the variants are known.
    pub(crate) fn flight_key(&self, headers: &HeaderMap, vary: Option<&Vary>) -> KeyBytes {
        let mut flight = self.key.clone();
        if self.identity == Identity::Authorized {
            key::put_authorized(&mut flight);
        }
        if let Some(vary) = vary {
            vary.put(headers, &mut flight);
        }
        flight
    }

    /// The hash that a purge by request marks.
    pub(crate) fn request_hash(&self, config: &Config) -> u64 {
        config.shared.purges.hash_key(&self.key[..self.head_bytes])
    }
}

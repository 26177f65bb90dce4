//! One request's place in the store.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, request};
use tokio::time::Instant;

use crate::{
    clock::lacks_timer,
    config::{Config, Layered},
    entry::{Entry, Life},
    explanation::Standing,
    field::NoVarySearch,
    key::{self, Body, Fragment, Identity, KeyBytes, Reach},
    policy::{self, Acceptance},
    recorder::{Keys, Searched},
    renewal::Renewal,
    shared::Told,
    status::{Forward, Reason},
    store::Slot,
    tags::Arrival,
    vary::Vary,
};

/// What a request looks for.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    pub(crate) key: KeyBytes,
    /// What stands where in the key.
    pub(crate) reach: Reach,
    /// Where the key has not all of the query in it.
    search: Option<Box<Search>>,
    pub(crate) identity: Identity,
    /// Which fragment of a page is asked for.
    pub(crate) fragment: Fragment,
    /// Taken before the store is looked at.
    pub(crate) arrival: Arrival,
    /// What the request accepts of what is stored.
    pub(crate) acceptance: Acceptance,
}

/// A request that is looked for by no more of its query than matters.
#[derive(Debug, Clone)]
struct Search {
    /// The key with all of the query.
    exact: KeyBytes,
    rule: Arc<NoVarySearch>,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    Hit(Hit),
    Nothing(Missing),
}

/// A stored response that may be served.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) entry: Arc<Entry>,
    pub(crate) served: Served,
    pub(crate) now: Instant,
    /// Whether it is to be fetched anew behind that.
    pub(crate) wants_renewal: bool,
}

impl Hit {
    /// Whether it is served because it is too early to try to fetch it anew.
    pub(crate) fn is_put_off(&self) -> bool {
        matches!(self.served, Served::Stale(_, Reason::StaleIfError))
    }

    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.served, Served::Fresh(_))
    }

    /// Claims the attempt to fetch it anew, if this request is the one to make it.
    pub(crate) fn claim(&self, config: &Config, method: &Method) -> Option<Renewal> {
        let waiting = &config.waiting;
        let claim = || Renewal::claim(&self.entry, waiting.retry_after, waiting.fill_timeout);
        self.may_renew(method).then(claim).flatten()
    }

    fn may_renew(&self, method: &Method) -> bool {
        self.wants_renewal && *method != Method::HEAD
    }

    /// Whether this request would fetch it anew, and wait for that: where nothing can be done in the background.
    pub(crate) fn would_wait(&self, config: &Config, method: &Method) -> bool {
        self.may_renew(method) && !config.may_detach() && self.entry.attempts.are_free()
    }
}

/// As what a stored response is served.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Served {
    /// Fresh for this long.
    Fresh(Duration),
    /// Stale by this much, and why.
    Stale(Duration, Reason),
}

/// What is there where nothing may be served at once.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) forward: Forward,
    /// What is stored under the key.
    pub(crate) stored: Option<Slot>,
    /// What is stored for this very request, past its lifetime: to be renewed, and perhaps to be served if that fails.
    pub(crate) stale: Option<Arc<Entry>>,
}

impl Default for Missing {
    /// Nothing is stored under the key.
    fn default() -> Self {
        Self {
            forward: Forward::UriMiss,
            stored: None,
            stale: None,
        }
    }
}

impl Missing {
    /// Whatever is stored, the inner service is to be asked.
    pub(crate) fn anew(stored: Option<Slot>) -> Self {
        Self {
            forward: Forward::Request,
            stored,
            stale: None,
        }
    }

    /// Nothing is, but this is to be fetched anew.
    pub(crate) fn renewed(entry: &Arc<Entry>) -> Self {
        Self {
            forward: Forward::Stale,
            stored: None,
            stale: Some(entry.clone()),
        }
    }
}

impl Lookup {
    /// Of a request that comes now, and whose key is still to be made.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            key: KeyBytes::new(),
            reach: Reach::default(),
            search: None,
            identity: Identity::None,
            fragment: Fragment::default(),
            arrival: config.shared.purges.arrive(),
            acceptance: Acceptance::default(),
        }
    }

    /// Makes the key of a request, if it is one that the cache answers. The parts are as they were.
    ///
    /// # Errors
    ///
    /// The reason for which it passes by.
    pub(crate) fn admit_head(
        &mut self,
        layered: &Layered<key::Head>,
        parts: &mut request::Parts,
        has_body: bool,
    ) -> Result<(), Reason> {
        policy::admit(parts, has_body)?;
        self.make_key(layered, parts)?;
        self.find_rule(&layered.config, parts);
        Ok(())
    }

    /// As [`admit_head`](Self::admit_head), of a request whose body is to be in the key, but is not yet.
    ///
    /// # Errors
    ///
    /// The reason for which it passes by.
    pub(crate) fn admit(
        &mut self,
        layered: &Layered<Body>,
        parts: &mut request::Parts,
    ) -> Result<(), Reason> {
        let methods = &layered.config.policy.methods;
        let body = &layered.keys.body;
        policy::admit_body(parts, methods, body.is_grpc())?;
        body.admit(parts, layered.config.selection.keys_authority())?;
        self.make_key(layered, parts)
    }

    /// Adds a whole body to the key.
    ///
    /// # Errors
    ///
    /// The reason for which the request passes by after all.
    pub(crate) fn put_body(
        &mut self,
        layered: &Layered<Body>,
        parts: &request::Parts,
        body: &[u8],
        trailers: Option<&HeaderMap>,
    ) -> Result<(), Reason> {
        let keys = &layered.keys;
        keys.selection
            .put_of_the_body(&parts.headers, &mut self.key);
        if !keys.body.put(parts, body, trailers, &mut self.key) {
            return Err(Reason::RequestBodyNotKeyed);
        }
        if self.key.len() > keys.max_bytes {
            return Err(Reason::KeyTooLong);
        }
        self.find_rule(&layered.config, parts);
        Ok(())
    }

    /// Leaves out of the key what does not matter of the query, as a response of the same path has said, unless something is stored
    /// for the very query.
    fn find_rule(&mut self, config: &Config, parts: &request::Parts) {
        if !config.policy.no_vary_search {
            return;
        }
        let shared = &config.shared;
        let path = || config.selection.target_path(parts);
        let Some(rule) = shared.searches.get(path) else {
            return;
        };
        let exact = shared.memory.get(&self.key);
        let now = Instant::now();
        let is_of_use = |entry: &Arc<Entry>| match self.standing(entry, config, &parts.headers, now)
        {
            Standing::Fresh(_) | Standing::StaleWhileRevalidate(_) | Standing::StaleIfError(_) => {
                true
            }
            Standing::Expired => entry.may_be_renewed(),
            Standing::OtherVariant | Standing::NotForCredentials | Standing::Purged => false,
        };
        if exact.is_some_and(|slot| slot.entries().iter().any(is_of_use)) {
            return;
        }
        let searched = self.reach.search(&self.key, &rule, parts.uri.query());
        if let Some(searched) = searched
            && searched.len() <= config.policy.max_key_bytes
        {
            let exact = std::mem::replace(&mut self.key, searched);
            self.search = Some(Box::new(Search { exact, rule }));
        }
    }

    /// The key with all of the query in it.
    pub(crate) fn exact(&self) -> &KeyBytes {
        self.search
            .as_ref()
            .map_or(&self.key, |search| &search.exact)
    }

    fn make_key<K>(
        &mut self,
        layered: &Layered<K>,
        parts: &mut request::Parts,
    ) -> Result<(), Reason> {
        let policy = &layered.config.policy;
        policy.admit_preconditions(&parts.headers)?;
        (self.identity, self.reach) = layered.keys.make(parts, &mut self.key)?;
        self.fragment = layered.keys.selection.fragment(&parts.headers)?;
        self.acceptance = policy.acceptance(parts);
        Ok(())
    }

    /// Looks for a response that is for this request, may be served, and was not purged.
    pub(crate) fn look(&mut self, config: &Config, headers: &HeaderMap) -> Found {
        let found = self.look_once(config, headers);
        if matches!(found, Found::Hit(_)) || !self.arrives_again(config) {
            return found;
        }
        self.look_once(config, headers)
    }

    fn look_once(&self, config: &Config, headers: &HeaderMap) -> Found {
        match config.shared.memory.get(&self.key) {
            Some(slot) => self.look_at(slot, config, headers),
            None => Found::Nothing(Missing::default()),
        }
    }

    /// If a sweep has dropped marks since the request arrived, nothing that it finds can be known to be valid, and it would miss what is
    /// there to fall back on. Then it arrives now: a later arrival is allowed less. Returns whether it does.
    pub(crate) fn arrives_again(&mut self, config: &Config) -> bool {
        let purges = &config.shared.purges;
        let is_overtaken = purges.is_overtaken(self.arrival);
        if is_overtaken {
            self.arrival = purges.arrive();
        }
        is_overtaken
    }

    /// As [`look`](Self::look), at what is stored under the key. Of the responses that are for this request, the newest
    /// decides: what is purged or expired does not uncover an older one.
    pub(crate) fn look_at(&self, slot: Slot, config: &Config, headers: &HeaderMap) -> Found {
        let now = Instant::now();
        let is_purged = |entry: &Entry| !config.shared.purges.is_valid(&entry.stamp, self.arrival);
        let mut forward = Forward::VaryMiss;
        let mut stale = None;
        for entry in slot.entries_for(&self.fragment, headers, now) {
            let standing = self.standing(entry, config, headers, now);
            let (served, wants_renewal) = match standing {
                Standing::OtherVariant => continue,
                Standing::NotForCredentials => {
                    if !is_purged(entry) {
                        forward = Forward::Request;
                    }
                    continue;
                }
                Standing::Purged => break,
                standing => match self.served(standing, entry, config, now) {
                    Ok(served) => served,
                    Err(why) => {
                        forward = why;
                        stale = Some(entry.clone());
                        break;
                    }
                },
            };
            return Found::Hit(Hit {
                entry: entry.clone(),
                served,
                now,
                wants_renewal,
            });
        }
        // A purged response is as good as gone, whether a sweep has come by already or not.
        if stale.is_none() && slot.entries().iter().all(|entry| is_purged(entry)) {
            forward = Forward::UriMiss;
        }
        Found::Nothing(Missing {
            forward,
            stored: Some(slot),
            stale,
        })
    }

    /// As what a response that is for this request is served, and whether it is to be fetched anew behind that.
    ///
    /// # Errors
    ///
    /// Why the inner service has to be asked first.
    fn served(
        &self,
        standing: Standing,
        entry: &Entry,
        config: &Config,
        now: Instant,
    ) -> Result<(Served, bool), Forward> {
        let age = || entry.head.exact_age(now);
        match standing {
            Standing::Fresh(left)
                if self.acceptance.takes_fresh(age, left, entry.head.immutable) =>
            {
                return Ok((
                    Served::Fresh(left),
                    config.policy.wants_renewal(entry, left),
                ));
            }
            // RFC 9211 §2.2: what is stored would do, and the request wants better.
            Standing::Fresh(_) => return Err(Forward::Request),
            _ => {}
        }
        let on_request = entry.stale_on_request(now);
        if let Some(by) = on_request.filter(|by| self.acceptance.asks_for_stale(age(), *by)) {
            return Ok((Served::Stale(by, Reason::MaxStale), false));
        }
        match standing {
            _ if self.acceptance.wants_news() => Err(Forward::Stale),
            Standing::StaleWhileRevalidate(by) => {
                Ok((Served::Stale(by, Reason::StaleWhileRevalidate), true))
            }
            Standing::StaleIfError(by) if entry.attempts.are_put_off(now) => {
                Ok((Served::Stale(by, Reason::StaleIfError), false))
            }
            _ => Err(Forward::Stale),
        }
    }

    /// Whether a stored response may be served to this request.
    pub(crate) fn standing(
        &self,
        entry: &Entry,
        config: &Config,
        headers: &HeaderMap,
        now: Instant,
    ) -> Standing {
        let head = &entry.head;
        if !head.vary.is_for(&self.fragment, headers) {
            Standing::OtherVariant
        } else if !self.may_be_told(head.for_authorized) {
            Standing::NotForCredentials
        } else if !config.shared.purges.is_valid(&entry.stamp, self.arrival) {
            Standing::Purged
        } else {
            match entry.life(now) {
                Life::Fresh(ttl) => Standing::Fresh(ttl),
                Life::StaleWhileRevalidate(by) => Standing::StaleWhileRevalidate(by),
                Life::StaleIfError(by) => Standing::StaleIfError(by),
                Life::Over => Standing::Expired,
            }
        }
    }

    /// Why the answer to this request is its own, and is not stored. It is known if something stale is stored for it.
    pub(crate) fn goes_alone(
        &self,
        config: &Config,
        parts: &request::Parts,
        is_known: bool,
    ) -> Option<Reason> {
        let policy = &config.policy;
        let is_forwarded = || match policy.is_by_the_book() {
            // RFC 9111 §4.3.5: the answer may speak of what is stored.
            true => !is_known,
            false => !config.may_detach(),
        };
        if lacks_timer() {
            Some(Reason::NoTimer)
        } else if config.selection.has_session(parts) {
            Some(Reason::Session)
        } else if policy::asks_in_another_unit(parts) {
            Some(Reason::RangeUnit)
        } else if parts.method == Method::HEAD && is_forwarded() {
            // It fills nothing: its answer has no body to store.
            Some(Reason::Head)
        } else if self.acceptance.no_store() {
            Some(Reason::RequestNoStore)
        } else if !policy.whole_for_ranges && !is_known && policy::asks_for_a_part(parts) {
            Some(Reason::Range)
        } else {
            None
        }
    }

    /// Whether a response that this request waited for is for it.
    pub(crate) fn is_answered_by(&self, told: &Told, config: &Config, headers: &HeaderMap) -> bool {
        self.may_be_told(told.head.for_authorized)
            && told.head.vary.is_for(&self.fragment, headers)
            && self.is_for_this_query(told, config)
    }

    /// Whether what the other request did not look at does not matter, also by what the response says now.
    fn is_for_this_query(&self, told: &Told, config: &Config) -> bool {
        let Some(search) = &self.search else {
            return true;
        };
        let by_the_same_rule = told.head.search.as_ref() == Some(&search.rule);
        by_the_same_rule || told.request == self.request_hash(config)
    }

    /// Whether no purge came between the call of its handler and this request.
    pub(crate) fn may_share(&self, told: &Told, config: &Config) -> bool {
        let purges = &config.shared.purges;
        purges.may_share(told.in_flight.birth(), &told.tags, self.arrival)
    }

    /// RFC 9111 §3.5: to a request with credentials, only what says that it may be shared with such.
    fn may_be_told(&self, for_authorized: bool) -> bool {
        self.identity == Identity::None || for_authorized
    }

    /// The key by which requests wait for each other, of one variant as far as these are known by what is stored.
    fn flight_of(&self, headers: &HeaderMap, stored: Option<&Slot>) -> KeyBytes {
        let newest = stored.and_then(|slot| slot.entries().first());
        self.flight_key(headers, newest.map(|entry| &entry.head.vary))
    }

    /// As [`flight_of`](Self::flight_of), for a request of which this is missing.
    pub(crate) fn flight_for(&self, headers: &HeaderMap, missing: &Missing) -> KeyBytes {
        match &missing.stale {
            Some(stale) => self.flight_key(headers, Some(&stale.head.vary)),
            None => self.flight_of(headers, missing.stored.as_ref()),
        }
    }

    /// The key by which requests wait for each other: of one variant, by the fields of this `Vary`.
    pub(crate) fn flight_key(&self, headers: &HeaderMap, vary: Option<&Vary>) -> KeyBytes {
        let mut flight = self.key.clone();
        if self.identity == Identity::Authorized {
            key::put_authorized(&mut flight);
        }
        key::put_fragment(&mut flight, &self.fragment);
        if let Some(vary) = vary {
            vary.put(headers, &mut flight);
        }
        flight
    }

    /// The keys of an answer to this request, which others wait for by this one.
    pub(crate) fn keys(&self, config: &Config, parts: &request::Parts, flight: KeyBytes) -> Keys {
        let searched = config.policy.no_vary_search.then(|| Searched {
            found: self.key.clone(),
            exact: self.exact().clone(),
            reach: self.reach,
            query: parts.uri.query().map(Into::into),
            path: config.selection.target_path(parts),
        });
        Keys {
            key: self.key.clone(),
            request: self.request_hash(config),
            target: config.target_hash(parts),
            all_queries: config.all_queries_hash(parts),
            searched,
            fragment: self.fragment.clone(),
            flight,
        }
    }

    /// The hash that a purge by request marks.
    pub(crate) fn request_hash(&self, config: &Config) -> u64 {
        let head = &self.exact()[..self.reach.head];
        config.shared.purges.hash_key(&key::purge_form(head))
    }
}

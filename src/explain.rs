//! Tells what would be done with a request, by the steps that are gone when it comes.

use std::sync::Arc;

use http::{Method, request};

use crate::{
    config::Layered,
    entry::Entry,
    explanation::{Decision, Explanation, Stored},
    key::{self, Body, Head, text},
    lookup::{Found, Lookup, Missing, Served},
    pinned::Pinned,
    policy,
    shared::Explain,
    stale::Fallback,
    status::{Forward, Reason},
};

impl Explain for Layered<Head> {
    fn explain(&self, parts: &request::Parts, body: &[u8]) -> Explanation {
        let mut parts = parts.clone();
        let mut lookup = Lookup::new(&self.config);
        let admitted = lookup.admit_head(self, &mut parts, !body.is_empty());
        self.explained(lookup, admitted, parts)
    }

    fn has_noted_path(&self, parts: &request::Parts) -> bool {
        self.config.has_noted_path(parts)
    }
}

impl Explain for Layered<Body> {
    fn explain(&self, parts: &request::Parts, body: &[u8]) -> Explanation {
        let mut parts = parts.clone();
        let mut lookup = Lookup::new(&self.config);
        let too_long = body.len() > self.keys.body.limit();
        let admitted = lookup.admit(self, &mut parts).and_then(|()| {
            if too_long {
                return Err(Reason::RequestBodyNotKeyed);
            }
            lookup.put_body(self, &parts, body, None)
        });
        self.explained(lookup, admitted, parts)
    }

    fn has_noted_path(&self, parts: &request::Parts) -> bool {
        self.config.has_noted_path(parts)
    }
}

impl<K> Layered<K> {
    fn explained(
        &self,
        mut lookup: Lookup,
        admitted: Result<(), Reason>,
        mut parts: request::Parts,
    ) -> Explanation {
        if admitted.is_err() {
            // What is wrong with it may have been found before there was a key. It says why, as far as it goes.
            let _ = self.keys.encode(&mut parts, &mut lookup.key);
        }
        let mut explanation = Explanation {
            layer: self.name.as_deref().map(str::to_owned),
            decision: Decision::Bypass(Reason::Method),
            key: key::parts(&lookup.key, &parts.headers, &self.config.selection),
            unknown_extensions: self.keys.selection.unknown_extensions(&parts),
            stored: Vec::new(),
            in_flight: None,
            refused: None,
            refused_cause: None,
        };
        match admitted {
            Ok(()) => self.look_into(&lookup, &parts, &mut explanation),
            Err(reason) => explanation.decision = Decision::Bypass(reason),
        }
        explanation
    }

    fn look_into(&self, lookup: &Lookup, parts: &request::Parts, into: &mut Explanation) {
        let (config, headers) = (&*self.config, &parts.headers);
        let slot = config.shared.memory.get(&lookup.key);
        let entries = slot.as_ref().map_or(&[][..], |slot| slot.entries());
        let told = entries
            .iter()
            .map(|entry| self.stored(lookup, parts, entry));
        into.stored = told.collect();
        let found = match slot {
            Some(slot) => lookup.look_at(slot, config, headers),
            None => Found::Nothing(Missing::default()),
        };
        let flight = match &found {
            Found::Hit(hit) => lookup.flight_for(headers, &Missing::renewed(&hit.entry)),
            Found::Nothing(missing) => lookup.flight_for(headers, missing),
        };
        let is_head_by_the_book = parts.method == Method::HEAD && config.policy.is_by_the_book();
        into.in_flight = config.shared.flights.waiting_for(&flight);
        let last = config.shared.refusals.last(&flight);
        into.refused = last.map(|(reason, _)| reason);
        into.refused_cause = last.and_then(|(_, cause)| cause);
        into.decision = match found {
            Found::Hit(_) if policy::asks_in_another_unit(parts) => {
                Decision::Bypass(Reason::RangeUnit)
            }
            Found::Hit(hit) if hit.would_wait(config, &parts.method) => {
                Decision::Fetch(Forward::Stale)
            }
            Found::Hit(hit) => match hit.served {
                Served::Fresh(ttl) => Decision::Hit(ttl),
                Served::Stale(_, why) => Decision::Stale(why),
            },
            Found::Nothing(_) if policy::only_if_cached(headers) => {
                Decision::Unavailable(Reason::OnlyIfCached)
            }
            Found::Nothing(missing) => {
                match lookup.goes_alone(config, parts, missing.stale.is_some()) {
                    Some(reason) => Decision::Bypass(reason),
                    // It waits for nobody.
                    None if lookup.acceptance.wants_news() || is_head_by_the_book => {
                        Decision::Fetch(missing.forward)
                    }
                    None => self.long_way(lookup, &missing, into),
                }
            }
        };
    }

    /// What becomes of a request that is not in the store.
    fn long_way(&self, lookup: &Lookup, missing: &Missing, known: &Explanation) -> Decision {
        let stale = missing.stale.as_ref();
        let pinned = |stale| Pinned::new(&self.config.shared, stale, lookup.arrival);
        let pinned = stale.and_then(pinned).map(Arc::new);
        let falls_back = pinned.is_some_and(|pinned| {
            Fallback::new(&self.config, &pinned, &Method::GET, false, None).is_some()
        });
        // Where the handler gave a cause, it asked only that the response not be stored: requests share it.
        let is_uncacheable = known.refused_cause.is_none() && !falls_back;
        if let Some(reason) = known.refused.filter(|_| is_uncacheable) {
            return Decision::SideBySide(reason);
        }
        let shared = &self.config.shared;
        match known.in_flight {
            Some(waiting) if waiting < self.config.waiting.max_waiters => Decision::Wait,
            _ if falls_back && !shared.has_room() => Decision::Stale(Reason::StaleIfError),
            Some(_) if falls_back => Decision::Stale(Reason::StaleIfError),
            Some(_) if shared.has_room() => Decision::Bypass(Reason::TooManyWaiters),
            Some(_) => Decision::Unavailable(Reason::TooManyWaiters),
            None if shared.is_shutting_down() => Decision::Bypass(Reason::ShuttingDown),
            None => Decision::Fetch(missing.forward),
        }
    }

    fn stored(&self, lookup: &Lookup, parts: &request::Parts, entry: &Entry) -> Stored {
        let now = tokio::time::Instant::now();
        let head = &entry.head;
        Stored {
            status: head.status,
            body_bytes: entry.body.len(),
            age: head.resident(now) + std::time::Duration::from_secs(head.initial_age),
            lifetime: head.ttl,
            tags: entry.tag_names.iter().map(text).collect(),
            varies_by: head.vary.told().collect(),
            standing: lookup.standing(entry, &self.config, &parts.headers, now),
        }
    }
}

//! A shared cache by the book, held against a model of RFC 9111 that is as simple as can be: whatever is asked and answered, nothing is
//! served without asking the origin that the model forbids.
//!
//! The model remembers what the origin has said, and when. It knows no store: it only says of a response that was served whether it may
//! have been. Directives are values to it, which are written into headers for the cache; it reads no header.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use common::{Answer, Body, Origin, empty, ok, send, settle, with};
use http::{Method, Request, Response, StatusCode};
use proptest::{
    collection::vec,
    option,
    prelude::{Just, Strategy, any},
    prop_oneof,
    sample::select,
    test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner},
};
use tokio::time::{Instant, advance};
use tower::Layer;
use tower_response_cache::{Cache, CacheLayer};

const DAY: u64 = 24 * 60 * 60;

// ---- what is asked and answered

/// A directive of a response, as far as the model knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    NoStore,
    NoCache,
    Private,
    Public,
    MaxAge(u64),
    SMaxAge(u64),
    MustRevalidate,
    ProxyRevalidate,
    StaleWhileRevalidate(u64),
    StaleIfError(u64),
    Unknown,
}

/// A directive of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    NoCache,
    NoStore,
    MaxAge(u64),
    MinFresh(u64),
    MaxStale(Option<u64>),
    OnlyIfCached,
    StaleIfError(u64),
    Pragma,
}

/// The fields of a response. Dates are seconds from the time at which it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    control: Option<Vec<Says>>,
    age: Option<u64>,
    date: Option<i64>,
    expires: Option<i64>,
    modified: Option<i64>,
    vary: Option<Vary>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vary {
    Variant,
    All,
}

#[derive(Debug, Clone)]
struct Answers {
    status: u16,
    /// Whether it answers 304 where it is asked if something has changed.
    unchanged: bool,
    tagged: bool,
    takes: u64,
    fields: Fields,
}

#[derive(Debug, Clone)]
struct Asks {
    method: Method,
    path: &'static str,
    variant: u8,
    authorized: bool,
    wants: Vec<Wants>,
    /// It has what the origin gave as this number.
    has: Option<usize>,
    /// What the origin says if it is asked.
    origin: Answers,
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Ask(Asks),
}

fn seconds() -> impl Strategy<Value = u64> {
    select(vec![0, 1, 5, 10, 20, 60, 100, 1000])
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        6 => seconds().prop_map(Says::MaxAge),
        2 => seconds().prop_map(Says::SMaxAge),
        1 => Just(Says::NoStore),
        1 => Just(Says::NoCache),
        1 => Just(Says::Private),
        2 => Just(Says::Public),
        1 => Just(Says::MustRevalidate),
        1 => Just(Says::ProxyRevalidate),
        2 => seconds().prop_map(Says::StaleWhileRevalidate),
        2 => seconds().prop_map(Says::StaleIfError),
        1 => Just(Says::Unknown),
    ]
}

fn wants() -> impl Strategy<Value = Wants> {
    prop_oneof![
        Just(Wants::NoCache),
        Just(Wants::NoStore),
        seconds().prop_map(Wants::MaxAge),
        seconds().prop_map(Wants::MinFresh),
        option::of(seconds()).prop_map(Wants::MaxStale),
        Just(Wants::OnlyIfCached),
        seconds().prop_map(Wants::StaleIfError),
        Just(Wants::Pragma),
    ]
}

fn around_now() -> impl Strategy<Value = i64> {
    select(vec![-1000, -100, -20, -5, 0, 5, 20, 100, 1000])
}

fn fields() -> impl Strategy<Value = Fields> {
    let modified = select(vec![-100_000, -1000, -100, 0, 100]);
    let vary = prop_oneof![4 => Just(Vary::Variant), 1 => Just(Vary::All)];
    (
        option::weighted(0.8, vec(says(), 1..4)),
        option::weighted(0.2, seconds()),
        option::weighted(0.5, around_now()),
        option::weighted(0.3, around_now()),
        option::weighted(0.3, modified),
        option::weighted(0.3, vary),
    )
        .prop_map(|(control, age, date, expires, modified, vary)| Fields {
            control,
            age,
            date,
            expires,
            modified,
            vary,
        })
}

fn answers() -> impl Strategy<Value = Answers> {
    let status = prop_oneof![
        12 => Just(200),
        1 => Just(404),
        1 => Just(302),
        2 => Just(500),
        1 => Just(503),
        1 => Just(299),
    ];
    (status, any::<bool>(), any::<bool>(), fields()).prop_flat_map(
        |(status, unchanged, tagged, fields)| {
            let takes = prop_oneof![6 => Just(0), 1 => Just(3)];
            takes.prop_map(move |takes| Answers {
                status,
                unchanged,
                tagged,
                takes,
                fields: fields.clone(),
            })
        },
    )
}

fn asks() -> impl Strategy<Value = Asks> {
    let method = prop_oneof![
        10 => Just(Method::GET),
        2 => Just(Method::HEAD),
        1 => Just(Method::PUT),
        1 => Just(Method::DELETE),
    ];
    let wants = prop_oneof![3 => Just(Vec::new()), 1 => vec(wants(), 1..3)];
    (
        method,
        select(vec!["/a", "/a", "/b"]),
        0_u8..3,
        any::<u8>(),
        wants,
        option::weighted(0.2, 0_usize..20),
        answers(),
    )
        .prop_map(|(method, path, variant, dice, wants, has, origin)| Asks {
            method,
            path,
            variant,
            authorized: dice % 8 == 0,
            wants,
            has,
            origin,
        })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![1 => seconds().prop_map(Step::Wait), 2 => asks().prop_map(Step::Ask)];
    vec(step, 1..40)
}

// ---- as headers

/// In one line or two, in some case and with quotes.
fn written(control: &[Says], spelling: usize) -> Vec<String> {
    let quoted = |seconds: &u64| match spelling % 3 {
        0 => format!("\"{seconds}\""),
        _ => seconds.to_string(),
    };
    let one = |says: &Says| match says {
        Says::NoStore => "no-store".to_owned(),
        Says::NoCache => "No-Cache".to_owned(),
        Says::Private => "private".to_owned(),
        Says::Public => "PUBLIC".to_owned(),
        Says::MaxAge(seconds) => format!("max-age={}", quoted(seconds)),
        Says::SMaxAge(seconds) => format!("S-MaxAge={}", quoted(seconds)),
        Says::MustRevalidate => "must-revalidate".to_owned(),
        Says::ProxyRevalidate => "proxy-revalidate".to_owned(),
        Says::StaleWhileRevalidate(seconds) => format!("stale-while-revalidate={seconds}"),
        Says::StaleIfError(seconds) => format!("stale-if-error={seconds}"),
        Says::Unknown => "foo=\"no-store, max-age=7\"".to_owned(),
    };
    let members: Vec<_> = control.iter().map(one).collect();
    match spelling % 2 {
        0 => vec![members.join(", ")],
        _ => members,
    }
}

fn date(base: SystemTime, seconds: i64) -> String {
    let by = Duration::from_secs(seconds.unsigned_abs());
    httpdate::fmt_http_date(if seconds < 0 { base - by } else { base + by })
}

fn with_fields(mut response: Response<Body>, fields: &Fields, spelling: usize) -> Response<Body> {
    let base = SystemTime::now();
    let dates = [
        ("date", fields.date),
        ("expires", fields.expires),
        ("last-modified", fields.modified),
    ];
    for (name, seconds) in dates {
        if let Some(seconds) = seconds {
            response = with(response, name, &date(base, seconds));
        }
    }
    for line in fields
        .control
        .iter()
        .flat_map(|control| written(control, spelling))
    {
        response = with(response, "cache-control", &line);
    }
    if let Some(age) = fields.age {
        response = with(response, "age", &age.to_string());
    }
    match fields.vary {
        None => response,
        Some(Vary::Variant) => with(response, "vary", "x-variant"),
        Some(Vary::All) => with(response, "vary", "*"),
    }
}

fn request(asks: &Asks) -> Request<Body> {
    let mut request = Request::new(empty());
    *request.method_mut() = asks.method.clone();
    *request.uri_mut() = asks.path.parse().unwrap();
    let mut request = with(request, "host", "shop.example");
    for wants in &asks.wants {
        request = match wants {
            Wants::NoCache => with(request, "cache-control", "no-cache"),
            Wants::NoStore => with(request, "cache-control", "no-store"),
            Wants::MaxAge(n) => with(request, "cache-control", &format!("max-age={n}")),
            Wants::MinFresh(n) => with(request, "cache-control", &format!("min-fresh={n}")),
            Wants::MaxStale(None) => with(request, "cache-control", "max-stale"),
            Wants::MaxStale(Some(n)) => with(request, "cache-control", &format!("max-stale={n}")),
            Wants::OnlyIfCached => with(request, "cache-control", "only-if-cached"),
            Wants::StaleIfError(n) => {
                with(request, "cache-control", &format!("stale-if-error={n}"))
            }
            Wants::Pragma => with(request, "pragma", "no-cache"),
        };
    }
    if asks.variant > 0 {
        request = with(request, "x-variant", &asks.variant.to_string());
    }
    if asks.authorized {
        request = with(request, "authorization", "Basic YTph");
    }
    match asks.has {
        Some(number) => with(request, "if-none-match", &format!("\"{number}\"")),
        None => request,
    }
}

// ---- the model

/// A response of the origin.
#[derive(Debug, Clone)]
struct Known {
    path: String,
    method: Method,
    status: u16,
    authorized: bool,
    /// What the requests for which the origin meant it had as `x-variant`, and in which call it said so last. 0: only in answer to
    /// a HEAD, which the cache need not heed.
    variant: BTreeMap<String, usize>,
    /// The request asked that it be not stored.
    not_to_be_stored: bool,
    /// The request had a condition of its own: such may bypass the cache.
    on_condition: bool,
    tagged: bool,
    /// As it was made, or as the last 304 has left it; and as a HEAD since then may have.
    versions: Vec<Version>,
    /// A request that changes something has ended it.
    ended: bool,
    /// What the origin said last of its path was a failure.
    failed_since: bool,
    /// In which call of the origin it was made or found unchanged.
    call: usize,
}

/// What a response says of itself, and when it was received, or found unchanged.
#[derive(Debug, Clone)]
struct Version {
    fields: Fields,
    age_then: u64,
    then: Instant,
}

#[derive(Debug, Default)]
struct Model {
    known: Vec<Known>,
    calls: usize,
}

/// RFC 9110 §15.1.
const HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

impl Version {
    fn new(fields: Fields, age_then: u64) -> Self {
        Self {
            fields,
            age_then,
            then: Instant::now(),
        }
    }

    /// What this is after fields in a 304, or of a HEAD, took the place of its own (RFC 9111 §3.2).
    fn updated(&self, told: &Fields, takes: u64) -> Self {
        // Dates stay as they are: the clock on the wall stands still here, while the other is set forward.
        let stored = &self.fields;
        let fields = Fields {
            control: told.control.clone().or(stored.control.clone()),
            age: told.age,
            date: told.date,
            expires: told.expires.or(stored.expires),
            modified: told.modified.or(stored.modified),
            vary: told.vary.or(stored.vary),
        };
        Self::new(fields, age_of(told, takes))
    }

    fn has(&self, says: Says) -> bool {
        self.fields
            .control
            .iter()
            .flatten()
            .any(|known| *known == says)
    }

    fn first(&self, of: impl Fn(&Says) -> Option<u64>) -> Option<u64> {
        self.fields.control.iter().flatten().find_map(of)
    }

    fn s_maxage(&self) -> Option<u64> {
        self.first(|says| match says {
            Says::SMaxAge(seconds) => Some(*seconds),
            _ => None,
        })
    }

    fn max_age(&self) -> Option<u64> {
        self.first(|says| match says {
            Says::MaxAge(seconds) => Some(*seconds),
            _ => None,
        })
    }

    /// RFC 9111 §4.2.3, at the least.
    fn age(&self) -> u64 {
        self.age_then + self.then.elapsed().as_secs()
    }

    /// Whether it gives its lifetime twice, and differently: then a cache may take it for stale (RFC 9111 §4.2.1).
    fn contradicts_itself(&self) -> bool {
        let first = [self.s_maxage(), self.max_age()];
        let differs = |says: &Says| match says {
            Says::SMaxAge(seconds) => first[0] != Some(*seconds),
            Says::MaxAge(seconds) => first[1] != Some(*seconds),
            _ => false,
        };
        self.fields.control.iter().flatten().any(differs)
    }

    /// RFC 9111 §4.2.1, at the most.
    fn lifetime(&self, status: u16) -> u64 {
        let explicit = self.s_maxage().or(self.max_age());
        let after_date = |then: i64| (then - self.fields.date.unwrap_or(0)).max(0).unsigned_abs();
        let by_expires = || self.fields.expires.map(after_date);
        let by_heuristics = || {
            let may = HEURISTIC.contains(&status) || self.has(Says::Public);
            let modified = self.fields.modified.filter(|_| may)?;
            let unchanged = (self.fields.date.unwrap_or(0) - modified)
                .max(0)
                .unsigned_abs();
            Some((unchanged / 10).min(DAY))
        };
        explicit
            .or_else(by_expires)
            .or_else(by_heuristics)
            .unwrap_or(0)
    }

    /// RFC 9111 §3.5.
    fn permits_authorized(&self) -> bool {
        self.has(Says::Public) || self.has(Says::MustRevalidate) || self.s_maxage().is_some()
    }

    /// RFC 9111 §4.2.4.
    fn may_be_stale(&self) -> bool {
        !self.has(Says::MustRevalidate)
            && !self.has(Says::ProxyRevalidate)
            && self.s_maxage().is_none()
    }

    /// For how long after its lifetime, at the most. RFC 5861 §4: a failure is not served instead of another.
    fn grace(&self, asks: &Asks, status: u16, failed: bool) -> u64 {
        let failed = failed && !is_failure(status);
        let swr = self.first(|says| match says {
            Says::StaleWhileRevalidate(seconds) => Some(*seconds),
            _ => None,
        });
        let sie = self.first(|says| match says {
            Says::StaleIfError(seconds) => Some(*seconds),
            _ => None,
        });
        let asked = asks.wants.iter().filter_map(|wants| match wants {
            Wants::MaxStale(None) => Some(u64::MAX),
            Wants::MaxStale(Some(seconds)) => Some(*seconds),
            Wants::StaleIfError(seconds) if failed => Some(*seconds),
            _ => None,
        });
        let sie = sie.filter(|_| failed);
        asked.chain(swr).chain(sie).max().unwrap_or(0)
    }

    fn is_fresh(&self, status: u16) -> bool {
        self.age() < self.lifetime(status)
    }
}

impl Known {
    /// The origin has said to one who asks so that it is what they would get.
    fn is_for_those_who_ask(&mut self, request: &Request<Body>, call: usize) {
        let is_head = *request.method() == Method::HEAD;
        let said = self.variant.entry(variant_in(request)).or_default();
        *said = if is_head { *said } else { call };
        self.authorized &= request.headers().contains_key("authorization");
    }

    /// Whether a 304 to this request updates what is stored (RFC 9111 §4.3.4: what could have been chosen for that request). The answer to
    /// a request with `no-store` may not be stored in any part (§5.2.1.5), and with `Authorization`, nothing is chosen that does not
    /// permit it: such a 304 is the answer to the client's own condition.
    fn is_chosen_for(&self, request: &Request<Body>) -> bool {
        let is_authorized = request.headers().contains_key("authorization");
        !says_no_store(request)
            && (!is_authorized || self.versions.iter().all(Version::permits_authorized))
    }

    /// RFC 9111 §3.
    fn may_be_stored(&self, version: &Version) -> bool {
        let says_so = version.has(Says::Public)
            || version.s_maxage().is_some()
            || version.max_age().is_some()
            || version.fields.expires.is_some()
            || HEURISTIC.contains(&self.status);
        self.method == Method::GET
            && !version.has(Says::NoStore)
            && !version.has(Says::Private)
            && !self.not_to_be_stored
            && (!self.authorized || version.permits_authorized())
            && says_so
    }

    /// RFC 9111 §4.1.
    fn is_for(&self, asks: &Asks, version: &Version) -> bool {
        self.path == asks.path
            && match version.fields.vary {
                None => true,
                Some(Vary::Variant) => self.variant.contains_key(&variant_of(asks.variant)),
                Some(Vary::All) => false,
            }
    }

    /// In which call the origin has said last that it is what those get who ask so: with `Vary`, in answer to one of them. What a 304
    /// says to others does not make it newer for these (RFC 9111 §4.1, §4.3.4).
    fn said_to(&self, asks: &Asks, version: &Version) -> usize {
        let said = || self.variant.get(&variant_of(asks.variant)).copied();
        match version.fields.vary {
            Some(Vary::Variant) => said().unwrap_or(0),
            _ => self.call,
        }
    }

    /// Why it may not be served without asking; `None` if it may.
    fn forbidden(&self, asks: &Asks, failed_now: bool) -> Option<&'static str> {
        let mut why = None;
        for version in &self.versions {
            let forbidden = self.forbidden_as(asks, version);
            // When the origin has just failed, what is there is better than nothing (RFC 5861 §4).
            let refused = || self.refused(asks, version).filter(|_| !failed_now);
            why = Some(forbidden.or_else(refused)?);
        }
        why
    }

    fn forbidden_as(&self, asks: &Asks, version: &Version) -> Option<&'static str> {
        if !self.is_for(asks, version) {
            return Some("it is for others (§4, §4.1)");
        }
        if !self.may_be_stored(version) {
            return Some("it may not be stored (§3)");
        }
        if self.ended {
            return Some("it was ended (§4.4)");
        }
        if version.has(Says::NoCache) {
            return Some("no-cache (§5.2.2.4)");
        }
        if !version.is_fresh(self.status) {
            if !version.may_be_stale() {
                return Some("it may not be stale (§4.2.4)");
            }
            let stale = version.age() - version.lifetime(self.status);
            if stale > version.grace(asks, self.status, self.failed_since) {
                return Some("it is stale (§4.2)");
            }
        }
        None
    }

    /// RFC 9111 §5.2.1, §5.4.
    fn refused(&self, asks: &Asks, version: &Version) -> Option<&'static str> {
        let (age, lifetime) = (version.age(), version.lifetime(self.status));
        let has_control = asks.wants.iter().any(|wants| *wants != Wants::Pragma);
        asks.wants.iter().find_map(|wants| match wants {
            Wants::NoCache => Some("the request says no-cache (§5.2.1.4)"),
            Wants::Pragma if !has_control => Some("the request says no-cache (§5.4)"),
            Wants::MaxAge(most) if age > *most => {
                Some("it is older than the request's max-age (§5.2.1.1)")
            }
            Wants::MinFresh(least) if lifetime < age + least => {
                Some("it is less fresh than the request's min-fresh (§5.2.1.3)")
            }
            _ => None,
        })
    }
}

/// RFC 5861 §4, of the statuses that the origin of these tests has.
fn is_failure(status: u16) -> bool {
    matches!(status, 500 | 503)
}

fn variant_of(variant: u8) -> String {
    if variant == 0 {
        String::new()
    } else {
        variant.to_string()
    }
}

fn age_of(fields: &Fields, delay: u64) -> u64 {
    let apparent = fields.date.map_or(0, |date| (-date).max(0).unsigned_abs());
    apparent.max(fields.age.unwrap_or(0) + delay)
}

impl Model {
    /// The response that the origin would find unchanged: the first that the request names, and that is of its path.
    fn named(&self, request: &Request<Body>) -> Option<usize> {
        let listed = request.headers().get("if-none-match")?.to_str().unwrap();
        let numbers = listed.split(',').map(|tag| tag.trim().trim_matches('"'));
        let known = |number: usize| {
            let known = self.known.get(number)?;
            (known.tagged && known.path == request.uri().path() && known.method == Method::GET)
                .then_some(number)
        };
        numbers
            .filter_map(|number| known(number.parse().ok()?))
            .next()
    }

    /// Whether the origin had said something newer until this call of it to those who ask so, which was stored and is no failure in place of a good
    /// response (RFC 9111 §4: the most recent response). What a 304 has given a `Vary` that it had not is stored for the one who was told
    /// last: that it is not kept for others is no loss (§3).
    fn is_outdated(&self, number: usize, asks: &Asks, until: usize) -> bool {
        let known = &self.known[number];
        self.known.iter().any(|later| {
            let ([version], [before]) = (&later.versions[..], &known.versions[..]) else {
                return false;
            };
            let since = known.said_to(asks, before);
            since > 0
                && (since + 1..=until).contains(&later.call)
                && later.said_to(asks, version) == later.call
                && !later.on_condition
                && later.may_be_stored(version)
                && later.is_for(asks, version)
                && version.fields.vary == before.fields.vary
                && !version.has(Says::NoCache)
                && !version.contradicts_itself()
                && version.lifetime(later.status) > version.age_then
                && (!is_failure(later.status)
                    || (is_failure(known.status) && !self.may_be_kept_instead(later)))
        })
    }

    /// Whether something good may be stored for those who got this failure, which is then not stored in its place (RFC 9111 §3: a response
    /// need not be stored).
    fn may_be_kept_instead(&self, failure: &Known) -> bool {
        self.known.iter().any(|good| {
            let may_be_for = |version: &Version| match version.fields.vary {
                None => true,
                Some(Vary::Variant) => {
                    let mut variants = failure.variant.keys();
                    variants.any(|variant| good.variant.contains_key(variant))
                }
                Some(Vary::All) => false,
            };
            let may_be = |version: &Version| good.may_be_stored(version) && may_be_for(version);
            // What was renewed since then may have been another.
            good.path == failure.path
                && !is_failure(good.status)
                && !good.ended
                && (good.call > failure.call || good.versions.iter().any(may_be))
        })
    }

    /// The origin has answered; with what it has in answer to this request.
    fn answered(&mut self, request: &Request<Body>, says: &Answers) -> Response<Body> {
        self.calls += 1;
        let path = request.uri().path().to_owned();
        let safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let status = StatusCode::from_u16(says.status).unwrap();
        let failed = status.is_server_error();
        let ends = !safe && (status.is_success() || status.is_redirection());
        for known in self.known.iter_mut().filter(|known| known.path == path) {
            known.failed_since |= failed;
            known.ended |= ends;
        }
        if *request.method() == Method::HEAD && says.status == 200 && !says.tagged {
            self.told(request, says);
        }
        let named = self
            .named(request)
            .filter(|_| safe && says.unchanged && !failed);
        match named {
            Some(number) => self.unchanged(number, request, says),
            None => self.made(path, request, says),
        }
    }

    /// RFC 9111 §4.3.5: a HEAD may be taken for an update of what was modified at the same time.
    fn told(&mut self, request: &Request<Body>, says: &Answers) {
        let path = request.uri().path();
        for known in self.known.iter_mut().filter(|known| known.path == path) {
            let modified = known.versions[0].fields.modified;
            let same = modified.is_some() && modified == says.fields.modified && !known.tagged;
            if known.method == Method::GET && known.status == 200 && same {
                // Whether it was taken so or not is the cache's choice, each time.
                let told = |version: &Version| version.updated(&says.fields, says.takes);
                let told: Vec<_> = known.versions.iter().map(told).collect();
                known.versions.extend(told);
                known.versions.truncate(1 << 10);
                known.is_for_those_who_ask(request, self.calls);
            }
        }
    }

    fn unchanged(
        &mut self,
        number: usize,
        request: &Request<Body>,
        says: &Answers,
    ) -> Response<Body> {
        let call = self.calls;
        let known = &mut self.known[number];
        let told = known.versions[0].updated(&says.fields, says.takes);
        let is_head = *request.method() == Method::HEAD;
        if is_head {
            // What a HEAD brings may be told to its client only.
            known.versions.push(told);
        } else {
            if known.is_chosen_for(request) {
                known.versions.clear();
            }
            known.versions.push(told);
            known.ended = false;
            known.failed_since = false;
            known.call = call;
        }
        known.is_for_those_who_ask(request, call);
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        let response = with(response, "etag", &format!("\"{number}\""));
        with_fields(response, &says.fields, call)
    }

    fn made(&mut self, path: String, request: &Request<Body>, says: &Answers) -> Response<Body> {
        let number = self.known.len();
        self.known.push(Known {
            path,
            method: request.method().clone(),
            status: says.status,
            authorized: request.headers().contains_key("authorization"),
            variant: [(variant_in(request), self.calls)].into(),
            not_to_be_stored: says_no_store(request),
            on_condition: false,
            tagged: says.tagged,
            versions: vec![Version::new(
                says.fields.clone(),
                age_of(&says.fields, says.takes),
            )],
            ended: false,
            failed_since: false,
            call: self.calls,
        });
        let body = if *request.method() == Method::HEAD {
            String::new()
        } else {
            number.to_string()
        };
        let mut response = ok(body);
        *response.status_mut() = StatusCode::from_u16(says.status).unwrap();
        // What a HEAD says may be put in place of what a stored GET has: its number is not.
        let is_head = *request.method() == Method::HEAD;
        let name = if is_head { "x-head" } else { "x-number" };
        let mut response = with(response, name, &number.to_string());
        if says.tagged {
            response = with(response, "etag", &format!("\"{number}\""));
        }
        with_fields(response, &says.fields, self.calls)
    }
}

fn says_no_store(request: &Request<Body>) -> bool {
    let mut lines = request.headers().get_all("cache-control").iter();
    lines.any(|line| line == "no-store")
}

fn variant_in(request: &Request<Body>) -> String {
    let variant = request.headers().get("x-variant");
    variant.map_or(String::new(), |variant| {
        variant.to_str().unwrap().to_owned()
    })
}

// ---- a run

/// How often what came about, so that a model that never has its say is noticed.
#[derive(Debug, Default)]
struct Tally {
    asked: AtomicUsize,
    fresh: AtomicUsize,
    stale: AtomicUsize,
    renewed: AtomicUsize,
    refused: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct World {
    model: Arc<Mutex<Model>>,
    says: Arc<Mutex<Option<Answers>>>,
    cache: Cache<Origin>,
}

impl World {
    fn new() -> Self {
        let model = Arc::new(Mutex::new(Model::default()));
        let says: Arc<Mutex<Option<Answers>>> = Arc::default();
        let (knows, told) = (model.clone(), says.clone());
        let origin = Origin::later(move |request| {
            let model = knows.clone();
            let says = told.lock().unwrap().clone().unwrap();
            async move {
                if says.takes > 0 {
                    tokio::time::sleep(Duration::from_secs(says.takes)).await;
                }
                model.lock().unwrap().answered(&request, &says)
            }
        });
        Self {
            model,
            says,
            cache: CacheLayer::rfc9111().layer(origin),
        }
    }

    async fn ask(&self, asks: &Asks, tally: &Tally) -> Result<(), String> {
        *self.says.lock().unwrap() = Some(asks.origin.clone());
        let before = self.model.lock().unwrap().calls;
        let made = self.model.lock().unwrap().known.len();
        let answer = send(&self.cache, request(asks)).await;
        let calls = self.model.lock().unwrap().calls - before;
        settle().await;
        for known in &mut self.model.lock().unwrap().known[made..] {
            known.on_condition = asks.has.is_some();
        }
        let is_safe = matches!(asks.method, Method::GET | Method::HEAD);
        let stored_only = is_safe && asks.wants.contains(&Wants::OnlyIfCached);
        if answer.parts.status == 504 && stored_only {
            count(&tally.refused);
            return if calls == 0 {
                Ok(())
            } else {
                Err("504, and the origin was asked".to_owned())
            };
        }
        if asks.method == Method::HEAD && calls > 0 {
            count(&tally.asked);
            return Ok(());
        }
        let number = number_of(asks, &answer);
        let number = number.ok_or_else(|| format!("nobody said this: {answer:?}"))?;
        let model = self.model.lock().unwrap();
        let known = model.known.get(number).ok_or("nobody said this")?;
        if answer.parts.status == 304 && asks.has != Some(number) {
            return Err(format!("304 to one that does not have it: {asks:?}"));
        }
        if known.call > before {
            count(if calls > 0 {
                &tally.asked
            } else {
                &tally.renewed
            });
            return if stored_only && !answer.is_hit() {
                Err("only-if-cached, and not from the store".to_owned())
            } else {
                Ok(())
            };
        }
        if !is_safe {
            return Err(format!("{} from the store", asks.method));
        }
        let is_fresh = known.versions[0].is_fresh(known.status);
        count(if is_fresh { &tally.fresh } else { &tally.stale });
        from_the_store(&model, number, asks, &answer, (before, calls))
    }
}

/// Whether a response that was made before this request, `before` calls in, may be the answer to it, for which there were so many `calls`.
fn from_the_store(
    model: &Model,
    number: usize,
    asks: &Asks,
    answer: &Answer,
    (before, calls): (usize, usize),
) -> Result<(), String> {
    let known = &model.known[number];
    let version = &known.versions[0];
    if model.is_outdated(number, asks, before) {
        return Err(format!("a later answer is lost: {known:?}, to {asks:?}"));
    }
    let failed_now = calls > 0 && known.failed_since;
    known.forbidden(asks, failed_now).map_or(Ok(()), |why| {
        let (age, lifetime) = (version.age(), version.lifetime(known.status));
        let told = answer.header("cache-status");
        Err(format!(
            "{why}: {known:?}, age {age} of {lifetime}, to {asks:?}; {told:?}"
        ))
    })
}

/// Which of the origin's responses this is.
fn number_of(asks: &Asks, answer: &Answer) -> Option<usize> {
    let number = match answer.parts.status {
        StatusCode::NOT_MODIFIED => answer.header("etag")?.trim_matches('"'),
        _ if asks.method == Method::GET => answer.text(),
        _ => answer.header("x-number")?,
    };
    number.parse().ok()
}

async fn run(steps: Vec<Step>, tally: &Tally) -> Result<(), String> {
    let world = World::new();
    for step in steps {
        match step {
            Step::Wait(seconds) => {
                advance(Duration::from_secs(seconds)).await;
                settle().await;
            }
            Step::Ask(asks) => world.ask(&asks, tally).await?,
        }
    }
    Ok(())
}

// Invariants 2, 3, 4, 11, 16, 21, 23: nothing is served without asking that RFC 9111 forbids.
#[test]
fn nothing_is_served_without_asking_that_the_book_forbids() {
    let cases = env::var("BOOK_CASES").map_or(500, |cases| cases.parse().unwrap());
    let config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/book_model.proptest-regressions",
        ))),
        ..Config::with_cases(cases)
    };
    let tally = Tally::default();
    let result = TestRunner::new(config).run(&steps(), |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let ran = runtime.block_on(run(steps, &tally));
        ran.map_err(TestCaseError::fail)
    });
    println!("{tally:?}");
    if let Err(TestError::Fail(why, steps)) = &result {
        let steps: Vec<_> = steps.iter().map(|step| format!("{step:?}")).collect();
        panic!("{why}\n{}", steps.join("\n"));
    }
    result.unwrap();
    for (what, often) in [
        ("asked", &tally.asked),
        ("fresh", &tally.fresh),
        ("stale", &tally.stale),
        ("refused", &tally.refused),
    ] {
        assert!(
            often.load(Ordering::Relaxed) > 20,
            "hardly ever {what}: {tally:?}"
        );
    }
}

/// A GET for `/a` of this variant, and what the origin says if it is asked.
fn get(variant: u8, wants: &[Wants], origin: Answers) -> Step {
    Step::Ask(Asks {
        method: Method::GET,
        path: "/a",
        variant,
        authorized: false,
        wants: wants.to_vec(),
        has: None,
        origin,
    })
}

fn gives(status: u16, control: &[Says], vary: Option<Vary>) -> Answers {
    Answers {
        status,
        unchanged: false,
        tagged: false,
        takes: 0,
        fields: Fields {
            control: Some(control.to_vec()),
            age: None,
            date: None,
            expires: None,
            modified: None,
            vary,
        },
    }
}

async fn play(steps: Vec<Step>) -> Result<(), String> {
    run(steps, &Tally::default()).await
}

// What a 304 says to one variant does not make the response newer for another.
#[tokio::test(start_paused = true)]
async fn what_a_304_says_to_one_variant_is_not_newer_for_others() {
    const MINUTE: Says = Says::MaxAge(60);
    let tagged = Answers {
        tagged: true,
        ..gives(200, &[Says::MustRevalidate], None)
    };
    let unchanged = Answers {
        unchanged: true,
        ..gives(200, &[MINUTE], Some(Vary::Variant))
    };
    let steps = vec![
        get(0, &[], tagged),
        get(0, &[], gives(299, &[MINUTE], Some(Vary::Variant))),
        get(2, &[], unchanged),
        get(0, &[], gives(200, &[MINUTE], None)),
    ];
    play(steps).await.unwrap();
}

// A failure that is not stored, since something good is, leaves the older failure that others get.
#[tokio::test(start_paused = true)]
async fn a_failure_that_is_not_stored_in_place_of_what_is_good_is_no_loss() {
    const MINUTE: Says = Says::MaxAge(60);
    let steps = vec![
        get(0, &[], gives(200, &[MINUTE], Some(Vary::Variant))),
        get(1, &[], gives(500, &[Says::SMaxAge(60)], None)),
        get(0, &[Wants::NoCache], gives(503, &[MINUTE], None)),
        get(1, &[], gives(200, &[MINUTE], None)),
    ];
    play(steps).await.unwrap();
}

//! On what terms a response may be stored: for how long, and who may have it.

use std::time::Duration;

use http::{HeaderName, StatusCode, header};

use super::{
    Candidate, Policy, ResponseDirectives, SetCookie, is_partial, judge::leads_to_itself,
    response_credentials,
};
use crate::{
    entry::Grace,
    field::{self, Qualified, ResponseControl},
    key::Identity,
    status::Reason,
};

/// The terms of one response.
#[derive(Debug)]
pub(super) struct Terms {
    /// For how long it is fresh from now on.
    pub(super) ttl: Duration,
    /// By how much it was stale already when it came.
    pub(super) overdue: Duration,
    pub(super) grace: Grace,
    /// How old it is, in seconds.
    pub(super) age: u64,
    /// When it was made, in seconds since 1970.
    pub(super) date: i64,
    pub(super) for_authorized: bool,
    /// Whether a request may have it stale that asks for it so.
    pub(super) may_be_stale: bool,
    pub(super) immutable: bool,
    /// It has to be validated before anybody else gets it.
    pub(super) alone: bool,
    /// The fields that others do not get.
    pub(super) without: Vec<HeaderName>,
}

impl Policy {
    /// # Errors
    ///
    /// The reason for which it is for nobody but its requester.
    pub(super) fn terms(&self, candidate: &Candidate<'_>) -> Result<Terms, Reason> {
        let mut terms = match self.response_directives {
            ResponseDirectives::PolicyFirst => self.own_terms(candidate)?,
            ResponseDirectives::Honour => self.stated_terms(candidate)?,
        };
        let sets_cookies = candidate.response.headers.contains_key(header::SET_COOKIE);
        if sets_cookies && !terms.without.contains(&header::SET_COOKIE) {
            match self.set_cookie {
                SetCookie::Refuse => return Err(Reason::SetCookie),
                SetCookie::Strip => terms.without.push(header::SET_COOKIE),
                SetCookie::Store => {}
            }
        }
        let is_shared =
            |name: &HeaderName| self.share_despite.contains(name) || terms.without.contains(name);
        if leads_to_itself(candidate) {
            return Err(Reason::RedirectToSelf);
        }
        if let Some(reason) = response_credentials::of(&candidate.response.headers, is_shared) {
            return Err(reason);
        }
        Ok(terms)
    }

    /// The layer decides; what the response says of its being shared comes first. `Clear-Site-Data` is for one requester; in RFC 9111
    /// mode it is stored, as §3.1 has it.
    fn own_terms(&self, candidate: &Candidate<'_>) -> Result<Terms, Reason> {
        let response = candidate.response;
        let ttl = match self.ttl_of(response.status) {
            Some(_) if candidate.is_of_uncached_method => Duration::MAX,
            Some(ttl) => ttl,
            None if response.status.is_server_error() => Duration::ZERO,
            None => return Err(Reason::Status),
        };
        let control = control(candidate)?;
        // With a list of fields too: what is left without them might be shared, and need not be.
        if control.no_store {
            return Err(Reason::NoStore);
        }
        if control.private.is_some() {
            return Err(Reason::Private);
        }
        if control.no_cache.is_some() {
            return Err(Reason::NoCache);
        }
        let for_authorized = permits_authorized(candidate, &control)?;
        // RFC 9111 §4.2: a lifetime that the response states is counted from its origin.
        let age = field::age(&response.headers);
        let stated = control
            .s_maxage
            .map(|lifetime| seconds(lifetime.saturating_sub(age)));
        let chosen = || self.ttl_by.as_ref().and_then(|ttl_by| ttl_by(response));
        let ttl = stated.or_else(chosen).unwrap_or(ttl);
        // RFC 9111 §5.2.2.2, §5.2.2.8: not reused once stale, whatever the layer says. That `s-maxage` says so too to caches by the
        // book is not heeded: here it is how a handler chooses a lifetime.
        let parts_must_revalidate = candidate.gathered.parts.must_revalidate();
        let must_revalidate =
            control.must_revalidate || control.proxy_revalidate || parts_must_revalidate;
        let grace = if must_revalidate {
            Grace::default()
        } else {
            self.grace
        };
        let clears_site_data = response.headers.contains_key(CLEAR_SITE_DATA);
        let terms = Terms {
            ttl: self.shortened(ttl, candidate),
            overdue: Duration::ZERO,
            grace,
            age,
            date: past_date(candidate),
            for_authorized,
            may_be_stale: !must_revalidate,
            immutable: control.immutable,
            alone: false,
            without: clears_site_data
                .then_some(CLEAR_SITE_DATA)
                .into_iter()
                .collect(),
        };
        if terms.ttl.is_zero() && !response.status.is_server_error() {
            return Err(Reason::NoLifetime);
        }
        Ok(terms)
    }

    /// Whether the response says that it is stale at once, where the layer decides. `s-maxage` comes before `max-age`, and that before
    /// `Expires`; what cannot be read is 0, or in the past.
    pub(super) fn is_stale_at_once(&self, candidate: &Candidate<'_>) -> bool {
        if self.ignore_max_age || self.is_by_the_book() {
            return false;
        }
        control(candidate).is_ok_and(|control| {
            let lifetime = stated_lifetime(candidate, &control, false);
            control.s_maxage.is_none() && lifetime == Some(Duration::ZERO)
        })
    }

    /// The response decides (RFC 9111 §3, §4.2).
    fn stated_terms(&self, candidate: &Candidate<'_>) -> Result<Terms, Reason> {
        let response = candidate.response;
        let status = response.status;
        if status.is_informational() || is_partial(status) {
            return Err(Reason::Status);
        }
        let targeted = self.targeted(candidate);
        let is_targeted = targeted.is_some();
        let control = targeted.map_or_else(|| control(candidate), Ok)?;
        if !may_be_stored(status, &control) {
            return Err(Reason::NoStore);
        }
        let mut without = Vec::new();
        if !keeps_back(control.private.as_ref(), &mut without) {
            return Err(Reason::Private);
        }
        let for_authorized = permits_authorized(candidate, &control)?;
        let stated = stated_lifetime(candidate, &control, is_targeted);
        let lifetime = match stated {
            Some(lifetime) => lifetime,
            // RFC 9110 §9.3.3: the answer to a POST only if it says itself for how long it is fresh.
            None if candidate.is_of_uncached_method => Duration::MAX,
            None if candidate.is_post => return Err(Reason::Method),
            None => self.unstated_lifetime(candidate, &control)?,
        };
        let has_to_be_validated = !keeps_back(control.no_cache.as_ref(), &mut without);
        let lifetime = if has_to_be_validated {
            Duration::ZERO
        } else {
            lifetime
        };
        // RFC 9111 §5.2.2.10: `s-maxage` means `proxy-revalidate` too.
        let by_s_maxage = control.s_maxage.is_some() && !self.stale_despite_s_maxage;
        let must_revalidate = control.must_revalidate
            || control.proxy_revalidate
            || by_s_maxage
            || candidate.gathered.parts.must_revalidate();
        let may_be_stale = !must_revalidate && !has_to_be_validated;
        let age = current_age(candidate);
        let ttl = self.shortened(lifetime.saturating_sub(seconds(age)), candidate);
        let grace = if may_be_stale {
            self.stated_grace(&control, ttl, self.is_failure_status(status))
        } else {
            Grace::default()
        };
        let overdue = seconds(age).saturating_sub(lifetime);
        let is_of_use = has_validator(candidate) || overdue < grace.longest();
        if ttl.is_zero() && !is_of_use && !self.is_failure_status(status) {
            return Err(Reason::NoLifetime);
        }
        Ok(Terms {
            ttl,
            overdue,
            grace,
            age,
            date: past_date(candidate),
            for_authorized,
            may_be_stale,
            immutable: control.immutable,
            alone: ttl.is_zero() && grace.while_revalidate <= overdue,
            without,
        })
    }

    /// RFC 9213 §2.2: the first of the fields that speak to this cache which can be read, in place of `Cache-Control` and `Expires`.
    fn targeted(&self, candidate: &Candidate<'_>) -> Option<ResponseControl> {
        let headers = &candidate.response.headers;
        let mut targets = self.targets.iter();
        targets.find_map(|name| ResponseControl::targeted(headers, name))
    }

    /// The lifetime of what does not state it.
    fn unstated_lifetime(
        &self,
        candidate: &Candidate<'_>,
        control: &ResponseControl,
    ) -> Result<Duration, Reason> {
        let response = candidate.response;
        let chosen = self.ttl_by.as_ref().and_then(|ttl_by| ttl_by(response));
        let chosen = chosen.or_else(|| self.ttl_of(response.status).filter(|ttl| !ttl.is_zero()));
        if let Some(chosen) = chosen {
            return Ok(chosen);
        }
        // RFC 9111 §3, §4.2.2: such statuses may be guessed at, and what says `public`.
        if is_heuristically_cacheable(response.status) || control.public {
            return Ok(seconds(self.guessed(candidate)));
        }
        if self.is_failure_status(response.status) {
            return Ok(Duration::ZERO);
        }
        Err(Reason::Status)
    }

    /// RFC 9111 §4.2.2: what has not been modified for long will not be for a while.
    fn guessed(&self, candidate: &Candidate<'_>) -> u64 {
        let headers = &candidate.response.headers;
        let Some(modified) = field::single_date(headers, &header::LAST_MODIFIED, candidate.at)
        else {
            return 0;
        };
        let unmodified = u64::try_from(date(candidate).saturating_sub(modified)).unwrap_or(0);
        let share = u64::from(self.heuristics.thousandths);
        let guessed = unmodified.saturating_mul(share) / 1000;
        guessed.min(self.heuristics.at_most.as_secs())
    }

    /// RFC 5861; what the response does not say, the layer does, of what was fresh when it came. A stored failure is no better than
    /// a newer one: it has no `stale-if-error` window, and none of the layer's.
    fn stated_grace(&self, control: &ResponseControl, ttl: Duration, is_failure: bool) -> Grace {
        let own = if ttl.is_zero() || is_failure {
            Grace::default()
        } else {
            self.grace
        };
        let stated = |stated: Option<u64>, own| stated.map_or(own, seconds);
        let if_error = control.stale_if_error.filter(|_| !is_failure);
        Grace {
            while_revalidate: stated(control.stale_while_revalidate, own.while_revalidate),
            if_error: stated(if_error, own.if_error),
        }
    }

    /// No lifetime is longer than its handler said, and what was stored together does not expire together.
    fn shortened(&self, ttl: Duration, candidate: &Candidate<'_>) -> Duration {
        let at_most = candidate.at_most().min(candidate.parts_are_fresh_for());
        crate::clock::shortened(ttl.min(at_most), self.jitter)
    }
}

/// What others may not have of it is kept back. `false` if that is all of it.
fn keeps_back(qualified: Option<&Qualified>, without: &mut Vec<HeaderName>) -> bool {
    match qualified {
        None => true,
        // RFC 9111 §5.2.2.4, §5.2.2.7: without these fields, it may be used.
        Some(Qualified::Fields(fields)) if !fields.iter().any(tells_how_to_read) => {
            without.extend(fields.iter().cloned());
            true
        }
        Some(Qualified::Fields(_)) => false,
        Some(Qualified::All) => false,
    }
}

/// Without such a field, others could not read the rest, or would take it for theirs.
fn tells_how_to_read(name: &HeaderName) -> bool {
    const FIELDS: [HeaderName; 5] = [
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::VARY,
        header::CACHE_CONTROL,
    ];
    FIELDS.contains(name)
}

fn control(candidate: &Candidate<'_>) -> Result<ResponseControl, Reason> {
    ResponseControl::of(&candidate.response.headers).map_err(|_| Reason::CacheControl)
}

/// RFC 9111 §3.5: an answer to a request with credentials is for others only if it says so.
fn permits_authorized(
    candidate: &Candidate<'_>,
    control: &ResponseControl,
) -> Result<bool, Reason> {
    let permits = control.public || control.s_maxage.is_some() || control.must_revalidate;
    if candidate.identity == Identity::Authorized && !permits {
        return Err(Reason::Authorization);
    }
    Ok(permits)
}

/// RFC 9111 §5.2.2.3: who understands the status need not heed `no-store` beside `must-understand`; who does not, stores nothing.
fn may_be_stored(status: StatusCode, control: &ResponseControl) -> bool {
    if control.must_understand {
        status.canonical_reason().is_some()
    } else {
        !control.no_store
    }
}

/// RFC 9111 §4.2.1. What states it in a way that cannot be read has expired.
fn stated_lifetime(
    candidate: &Candidate<'_>,
    control: &ResponseControl,
    is_targeted: bool,
) -> Option<Duration> {
    let headers = &candidate.response.headers;
    let stated = control.s_maxage.or(control.max_age).map(seconds);
    if stated.is_some() || is_targeted || !headers.contains_key(header::EXPIRES) {
        return stated;
    }
    let expires = field::single_date(headers, &header::EXPIRES, candidate.at);
    let lifetime = expires.map_or(0, |expires| expires.saturating_sub(date(candidate)));
    Some(seconds(u64::try_from(lifetime).unwrap_or(0)))
}

/// When the response was made, in seconds since 1970, for all that is known (RFC 9110 §6.6.1).
fn date(candidate: &Candidate<'_>) -> i64 {
    let headers = &candidate.response.headers;
    field::single_date(headers, &header::DATE, candidate.at)
        .unwrap_or_else(|| since_1970(candidate))
}

/// As [`date`], and not in the future, which would stand before all that comes until then.
fn past_date(candidate: &Candidate<'_>) -> i64 {
    date(candidate).min(since_1970(candidate))
}

fn since_1970(candidate: &Candidate<'_>) -> i64 {
    let since = candidate.at.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// RFC 9111 §4.2.3, when the response came, in seconds.
fn current_age(candidate: &Candidate<'_>) -> u64 {
    let apparent = since_1970(candidate).saturating_sub(date(candidate));
    let apparent = u64::try_from(apparent).unwrap_or(0);
    let told = field::age(&candidate.response.headers);
    apparent.max(told.saturating_add(candidate.delay.as_secs()))
}

fn has_validator(candidate: &Candidate<'_>) -> bool {
    let headers = &candidate.response.headers;
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// RFC 9110 §15.1, without 206.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

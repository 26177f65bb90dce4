//! A response as it is stored.

mod attempts;
mod lineage;
mod recorded;
mod weight;

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, response};
use http_body::SizeHint;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    field::{NoVarySearch, OfTheConnection, delta_seconds, is_of_one_request, retain},
    tags::{Stamp, TagNames},
    vary::Vary,
};
pub(crate) use attempts::Attempts;
pub(crate) use lineage::Lineage;
pub(crate) use recorded::{Again, AgainCell, Asked, Cells, Recorded};

/// For how long a response may be served after the end of its lifetime, both counted from there (RFC 5861).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Grace {
    /// Served at once, while it is fetched anew.
    pub(crate) while_revalidate: Duration,
    /// Served when it cannot be fetched anew.
    pub(crate) if_error: Duration,
}

impl Grace {
    pub(crate) fn longest(&self) -> Duration {
        self.while_revalidate.max(self.if_error)
    }
}

/// All that is known of a response when its head is: what is told to those who read along, and what is stored.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    /// Without what was for one requester alone; with an `Age` of zero at the end, whose place every hit takes.
    pub(crate) headers: HeaderMap,
    /// The fields that others do not get, in trailers too.
    pub(crate) kept_back: Arc<[HeaderName]>,
    /// Whether its entity tag was made here, and says nothing to the inner service.
    has_own_tag: bool,
    pub(crate) vary: Vary,
    /// What of the query it says that matters, where that is heeded.
    pub(crate) search: Option<Arc<NoVarySearch>>,
    /// Whether requests with an unkeyed `Authorization` may have it (RFC 9111 §3.5).
    pub(crate) for_authorized: bool,
    pub(crate) ttl: Duration,
    /// By how much it was stale already when it came.
    pub(crate) overdue: Duration,
    pub(crate) grace: Grace,
    /// Whether a request may have it stale that asks for it so.
    pub(crate) may_be_stale: bool,
    /// It will not change while it is fresh (RFC 8246).
    pub(crate) immutable: bool,
    /// What its handler said of its lifetime, which a 304 does not take back.
    pub(crate) at_most: Duration,
    /// How old it was when it came, in seconds.
    pub(crate) initial_age: u64,
    pub(crate) received: Instant,
    /// When the inner service was called for it.
    pub(crate) began: Instant,
    /// When it was made, in seconds since 1970, as far as is known.
    pub(crate) date: i64,
    /// Whether it says by which fields it was chosen.
    pub(crate) names_fields: bool,
}

impl Head {
    pub(crate) fn new(
        parts: &response::Parts,
        vary: Vary,
        ttl: Duration,
        received: Instant,
    ) -> Self {
        let mut headers = without_one_requesters(&parts.headers, parts.status);
        // At the end, so that it can be taken out again without a change in the order of the others.
        retain(&mut headers, |name| *name != header::AGE);
        headers.insert(header::AGE, HeaderValue::from_static("0"));
        Self {
            status: parts.status,
            version: parts.version,
            headers,
            kept_back: Arc::default(),
            has_own_tag: false,
            vary,
            search: None,
            for_authorized: false,
            ttl,
            overdue: Duration::ZERO,
            grace: Grace::default(),
            may_be_stale: false,
            immutable: false,
            at_most: Duration::MAX,
            initial_age: 0,
            received,
            began: received,
            date: 0,
            names_fields: false,
        }
    }

    /// Gives it an entity tag made of its body, if it is a whole one that has none (RFC 9110 §8.8.3).
    pub(crate) fn name_by(&mut self, body: &[u8], is_weak: bool) {
        if self.status != StatusCode::OK || self.headers.contains_key(header::ETAG) {
            return;
        }
        let digest = Sha256::digest(body);
        let mut tag = String::with_capacity(TAG_BYTES * 2 + 4);
        tag.push_str(if is_weak { "W/\"" } else { "\"" });
        for byte in &digest[..TAG_BYTES] {
            let _ = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        if let Ok(tag) = HeaderValue::try_from(tag) {
            self.headers.insert(header::ETAG, tag);
            // A map that has grown has room for twice as much; a clone has not.
            self.headers = self.headers.clone();
            self.has_own_tag = true;
        }
    }

    /// Keeps in mind that its tag was made here, if it is that of what it renews.
    pub(crate) fn keep_own_tag(&mut self, renewed: &Self) {
        let same = self.headers.get(header::ETAG) == renewed.headers.get(header::ETAG);
        self.has_own_tag = renewed.has_own_tag && same;
    }

    /// The entity tag that the inner service has given it.
    pub(crate) fn tag(&self) -> Option<&HeaderValue> {
        let tag = self.headers.get(header::ETAG);
        tag.filter(|_| !self.has_own_tag)
    }

    /// For how long it is fresh from now on. `None` if it is not.
    pub(crate) fn fresh_for(&self, now: Instant) -> Option<Duration> {
        // RFC 9111 §4.2: fresh while the lifetime is greater than the age.
        self.ttl
            .checked_sub(self.resident(now))
            .filter(|left| !left.is_zero())
    }

    /// For how long it has not been fresh any more. `None` if it is.
    fn stale_for(&self, now: Instant) -> Option<Duration> {
        let stale_for = self.resident(now).checked_sub(self.ttl)?;
        Some(stale_for.saturating_add(self.overdue))
    }

    /// How long ago it came. A clock that stands before that gives zero.
    pub(crate) fn resident(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.received)
    }

    /// RFC 9111 §4.2.3, in whole seconds.
    pub(crate) fn age(&self, now: Instant) -> u64 {
        self.initial_age
            .saturating_add(self.resident(now).as_secs())
    }

    /// As [`age`](Self::age), exactly.
    pub(crate) fn exact_age(&self, now: Instant) -> Duration {
        Duration::from_secs(self.initial_age).saturating_add(self.resident(now))
    }

    /// Whether both bear one strong entity tag.
    pub(crate) fn is_the_same_as(&self, other: &Self) -> bool {
        let strong = self.tag().filter(|tag| !tag.as_bytes().starts_with(b"W/"));
        strong.is_some() && strong == other.tag()
    }

    /// Whether a 304 with these headers speaks of this response (RFC 9111 §4.3.4): of the one with its strong entity tag, if it has
    /// one, and otherwise of one with the same weak validator. One without any speaks of what was asked about.
    pub(crate) fn is_named_by(&self, headers: &HeaderMap) -> bool {
        let stored = |name| self.headers.get(name).map(HeaderValue::as_bytes);
        let tag = self.tag().map(HeaderValue::as_bytes);
        let opaque = |tag: &'_ [u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
        match headers.get(header::ETAG).map(HeaderValue::as_bytes) {
            Some(weak) if weak.starts_with(b"W/") => tag.map(opaque) == Some(opaque(weak)),
            Some(strong) => tag == Some(strong),
            None => headers.get(header::LAST_MODIFIED).is_none_or(|modified| {
                let known = stored(header::LAST_MODIFIED);
                known.is_none_or(|known| known == modified.as_bytes())
            }),
        }
    }

    /// This response, with what a 304 says of it in place of what it said itself (RFC 9111 §3.2).
    fn updated_by(&self, not_modified: response::Parts) -> response::Parts {
        // RFC 9111 §3.2: these describe the stored bytes themselves, which a 304 does not change. `Content-Type` is updated.
        const OF_THE_BODY: [HeaderName; 4] = [
            header::CONTENT_LENGTH,
            header::CONTENT_ENCODING,
            header::CONTENT_RANGE,
            header::ETAG,
        ];
        let mut parts = not_modified;
        OfTheConnection::strip(&mut parts.headers);
        let news = std::mem::replace(&mut parts.headers, self.headers.clone());
        parts.status = self.status;
        parts.version = self.version;
        // It is the 304's, or none.
        retain(&mut parts.headers, |name| *name != header::AGE);
        // A layer around the handler may name its own fields only: what told the variants apart still does.
        let told = |name: &HeaderName| *name != header::VARY && !OF_THE_BODY.contains(name);
        for name in news.keys().filter(|name| told(name)) {
            let mut lines = news.get_all(name).iter();
            if let Some(first) = lines.next() {
                parts.headers.insert(name.clone(), first.clone());
            }
            for line in lines {
                parts.headers.append(name.clone(), line.clone());
            }
        }
        unite_vary(&mut parts.headers, &news);
        parts
    }

    /// The memory behind it.
    fn weight(&self) -> usize {
        let search = self.search.as_ref().map_or(0, |search| search.weight());
        weight::of_headers(&self.headers) + self.vary.weight() + search
    }
}

/// How much of a body's digest its entity tag is made of: so much that no two bodies have the same.
const TAG_BYTES: usize = 16;

/// What an entry takes besides itself and the memory behind its key, headers, body and tags: moka's nodes and its place in the
/// table of targets.
const AROUND_AN_ENTRY: usize = 400;

/// A stored response.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    /// Whether the body's length was told in advance, as it will be told again.
    pub(crate) length_known: bool,
    pub(crate) stamp: Stamp,
    /// Kept to be told: what counts is the stamp.
    pub(crate) tag_names: TagNames,
    pub(crate) attempts: Attempts,
    /// Shared with the entries that 304s have made of it.
    pub(crate) lineage: Lineage,
    /// How it is asked for again, if its layer is to know.
    pub(crate) recorded: Option<Box<Recorded>>,
    /// For how long it is kept after its stale windows if it can be revalidated, refreshed, or asked for.
    kept_for_revalidation: Duration,
    /// Whether a request may have it stale that asks for it so (`max-stale`, `stale-if-error`).
    may_be_asked_for_stale: bool,
    /// Its layer's, so that the name of that is known for as long as something is stored under it.
    _layer: Option<LayerInUse>,
    weight: u32,
}

/// Held by a layer, its fills, and all that they have stored.
pub(crate) type LayerInUse = Arc<()>;

/// How long a response is kept for revalidation by default: for as long as it was fresh, within these bounds.
const KEPT_AT_LEAST: Duration = Duration::from_secs(60);
const KEPT_AT_MOST: Duration = Duration::from_secs(3600);

/// Where a stored response is in its life; where it is stale, for how long it has been so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Fresh(Duration),
    /// It is served, and fetched anew behind that.
    StaleWhileRevalidate(Duration),
    /// It is served if it cannot be fetched anew.
    StaleIfError(Duration),
    Over,
}

impl Entry {
    pub(crate) fn new(
        head: Head,
        body: Bytes,
        trailers: Option<HeaderMap>,
        length_known: bool,
        stamp: Stamp,
        tag_names: TagNames,
        key_bytes: usize,
    ) -> Self {
        let trailers_weight = trailers.as_ref().map_or(0, |trailers| {
            size_of::<HeaderMap>() + weight::of_headers(trailers)
        });
        let rows = stamp.rows().saturating_sub(1) * weight::TARGET_ROW;
        let tags = size_of_val(stamp.tags()) + tag_names.weight() + rows;
        let around = size_of::<Self>() + AROUND_AN_ENTRY + key_bytes;
        let kept_for_revalidation = head.ttl.clamp(KEPT_AT_LEAST, KEPT_AT_MOST);
        let body_weight = weight::of_bytes(body.len());
        let weight = around + head.weight() + body_weight + trailers_weight + tags;
        Self {
            head,
            body,
            trailers: trailers.map(Box::new),
            length_known,
            stamp,
            tag_names,
            attempts: Attempts::default(),
            lineage: Lineage::default(),
            recorded: None,
            kept_for_revalidation,
            may_be_asked_for_stale: false,
            _layer: None,
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
        }
    }

    /// As the successor of the entry that it revalidates, if it does.
    pub(crate) fn succeeding(mut self, revalidated: Option<&Self>) -> Self {
        if let Some(revalidated) = revalidated {
            self.lineage = revalidated.lineage.clone();
        }
        self
    }

    /// What an entry of this head takes at the least, besides its body.
    pub(crate) fn least_weight(head: &Head, key_bytes: usize) -> u64 {
        (size_of::<Self>() + AROUND_AN_ENTRY + key_bytes + head.weight()) as u64
    }

    /// As its layer keeps it: for so long after its stale windows, if that is chosen; also where requests may ask for a stale one.
    pub(crate) fn kept_by(mut self, layer: &LayerInUse, keeping: (Option<Duration>, bool)) -> Self {
        let (for_revalidation, are_requests_heeded) = keeping;
        self._layer = Some(layer.clone());
        self.kept_for_revalidation = for_revalidation.unwrap_or(self.kept_for_revalidation);
        self.may_be_asked_for_stale = self.head.may_be_stale && are_requests_heeded;
        self
    }

    /// With its request, which counts as part of it.
    pub(crate) fn recorded(mut self, request: Option<Box<Recorded>>) -> Self {
        let weight = request.as_ref().map_or(0, |request| request.weight());
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        self.weight = self.weight.saturating_add(weight);
        self.recorded = request;
        self
    }

    /// Whether it may be served now, were it for this request and not purged.
    pub(crate) fn life(&self, now: Instant) -> Life {
        let by = match self.stale_by(now) {
            Ok(left) => return Life::Fresh(left),
            Err(by) => by,
        };
        let grace = &self.head.grace;
        if self.attempts.are_over() {
            Life::Over
        } else if by < grace.while_revalidate {
            Life::StaleWhileRevalidate(by)
        } else if by < grace.if_error {
            Life::StaleIfError(by)
        } else {
            Life::Over
        }
    }

    /// For how long it has been stale, or else will be fresh.
    fn stale_by(&self, now: Instant) -> Result<Duration, Duration> {
        let softly_purged = self.stamp.stale_since();
        if softly_purged.is_none()
            && let Some(left) = self.head.fresh_for(now)
        {
            return Ok(left);
        }
        let stale_for = softly_purged.map(|since| now.saturating_duration_since(since));
        Err(stale_for.max(self.head.stale_for(now)).unwrap_or_default())
    }

    /// By how much it is stale, if a request may have it so that asks for it: nothing that was purged, or is no more.
    pub(crate) fn stale_on_request(&self, now: Instant) -> Option<Duration> {
        let may = self.head.may_be_stale
            && self.stamp.stale_since().is_none()
            && !self.attempts.are_over();
        self.stale_by(now).err().filter(|_| may)
    }

    /// Whether it says by what it is known from others.
    pub(crate) fn has_validator(&self) -> bool {
        let head = &self.head;
        head.tag().is_some() || head.headers.contains_key(header::LAST_MODIFIED)
    }

    /// Whether the answer to a HEAD with these headers speaks of it (RFC 9111 §4.3.5): validators and length are as they were.
    pub(crate) fn is_told_of_by(&self, headers: &HeaderMap) -> bool {
        let same = |name| headers.get(&name) == self.head.headers.get(&name);
        let length = headers
            .get(header::CONTENT_LENGTH)
            .map(HeaderValue::as_bytes);
        let as_long =
            length.is_none_or(|length| delta_seconds(length) == Some(self.body.len() as u64));
        let same_tag = headers.get(header::ETAG) == self.head.tag();
        same_tag && same(header::LAST_MODIFIED) && as_long
    }

    /// Its head, with what a 304 or a HEAD says of it, and the length of its body.
    pub(crate) fn updated_by(&self, news: response::Parts) -> (response::Parts, SizeHint) {
        let mut hint = SizeHint::new();
        if self.length_known {
            hint.set_exact(self.body.len() as u64);
        }
        (self.head.updated_by(news), hint)
    }

    /// For how long from now on it can be of use, for all that is known: until the end of its stale windows, or, if it can be revalidated,
    /// refreshed or asked for stale, for as long after that as its layer keeps it. `None` if it is not any more.
    pub(crate) fn useful_for(&self, now: Instant) -> Option<Duration> {
        let can_return =
            self.has_validator() || self.recorded.is_some() || self.may_be_asked_for_stale;
        let kept = if can_return {
            self.kept_for_revalidation
        } else {
            Duration::ZERO
        };
        let stale_at_most = self.head.grace.longest().saturating_add(kept);
        match self.stale_by(now) {
            Ok(left) => Some(left.saturating_add(stale_at_most)),
            Err(_) if self.attempts.are_over() => None,
            Err(by) => stale_at_most.checked_sub(by).filter(|left| !left.is_zero()),
        }
    }

    /// Whether a 304 may bring it back to life, for all that is known.
    pub(crate) fn may_be_renewed(&self) -> bool {
        !self.attempts.are_over() && self.has_validator()
    }

    /// What it takes of the cache's capacity, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }
}

/// The fields that concern one connection or one requester, and so no other.
fn without_one_requesters(headers: &HeaderMap, status: StatusCode) -> HeaderMap {
    // RFC 9111 §3.1: fields of the connection, and those between a proxy and its client. `Trailer` announces what is stored with the
    // body, and is needed where that is sent again.
    const OF_A_PROXY: [HeaderName; 3] = [
        header::PROXY_AUTHENTICATE,
        HeaderName::from_static("proxy-authentication-info"),
        header::PROXY_AUTHORIZATION,
    ];
    let of_the_connection = OfTheConnection::of(headers);
    // With a place for `Age`, and for the `Cache-Status` of each hit, which is then told without a larger map.
    let mut kept = HeaderMap::with_capacity(headers.keys_len() + 2);
    for (name, value) in headers {
        let is_ones = OF_A_PROXY.contains(name) || is_of_one_request(name, status);
        if !is_ones && !of_the_connection.contains(name) {
            kept.append(name.clone(), of_its_own(value));
        }
    }
    kept
}

/// A value in memory of its own: as it came, it may be a slice of a connection's buffer, and keep all of that alive.
fn of_its_own(value: &HeaderValue) -> HeaderValue {
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    copy.set_sensitive(value.is_sensitive());
    copy
}

/// Adds the lines of `Vary` that name what is not named yet.
fn unite_vary(headers: &mut HeaderMap, news: &HeaderMap) {
    let members = |line: &HeaderValue| -> Vec<Vec<u8>> {
        let members = line.as_bytes().split(|&b| b == b',');
        let members = members.map(|member| member.trim_ascii().to_ascii_lowercase());
        members.collect()
    };
    for line in news.get_all(header::VARY) {
        let known = headers.get_all(header::VARY).iter();
        let known: Vec<_> = known.flat_map(members).collect();
        if members(line).iter().any(|member| !known.contains(member)) {
            headers.append(header::VARY, line.clone());
        }
    }
}

/// The trailers that others may have too, without those that are kept back.
pub(crate) fn shared_trailers(trailers: &HeaderMap, kept_back: &[HeaderName]) -> HeaderMap {
    let mut shared = without_one_requesters(trailers, StatusCode::OK);
    retain(&mut shared, |name| {
        *name != header::SET_COOKIE && !kept_back.contains(name)
    });
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&'static str, &'static str)], ttl: Duration) -> Head {
        let mut response = http::Response::new(());
        for (name, value) in lines {
            response
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        Head::new(
            &response.into_parts().0,
            Vary::default(),
            ttl,
            Instant::now(),
        )
    }

    // Invariants 16, 20.
    #[tokio::test(start_paused = true)]
    async fn it_is_fresh_while_its_lifetime_is_greater_than_its_age() {
        let mut head = head(&[], Duration::from_secs(10));
        head.initial_age = 7;
        let at = |seconds| head.received + Duration::from_secs(seconds);
        assert_eq!(head.fresh_for(at(9)), Some(Duration::from_secs(1)));
        assert_eq!(head.fresh_for(at(10)), None);
        assert_eq!(head.age(at(9)), 16);
        assert_eq!(
            head.fresh_for(head.received - Duration::from_secs(3600)),
            Some(Duration::from_secs(10))
        );
    }

    // Invariant 19.
    #[tokio::test]
    async fn a_lifetime_of_any_length_is_only_compared() {
        let head = head(&[], Duration::MAX);
        assert!(
            head.fresh_for(head.received + Duration::from_secs(10 * 365 * 86_400))
                .is_some()
        );
    }

    // Invariant 6.
    #[test]
    fn what_concerned_one_requester_is_not_kept() {
        let head = head(
            &[
                ("connection", "x-one, close"),
                ("x-one", "1"),
                ("keep-alive", "1"),
                ("x-request-id", "1"),
                ("traceparent", "1"),
                ("server-timing", "db"),
                ("link", "a"),
                ("link", "b"),
            ],
            Duration::MAX,
        );
        let kept: Vec<_> = head
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_bytes()))
            .collect();
        assert_eq!(kept, [("link", &b"a"[..]), ("link", b"b"), ("age", b"0")]);
    }
}

//! What a request that may change something purges (RFC 9111 §4.4).

use std::sync::Arc;

use fluent_uri::{Uri, UriRef};
use http::{HeaderMap, HeaderName, Request, StatusCode, header, request};

use crate::{config::Config, events, key, policy, shared::count, tags::Presence};

/// An unsafe request on its way to the inner service. Whatever becomes of it, what it may have changed is purged: dropped before
/// there is an answer, it may have done its work all the same. Only an answer that says that it failed purges nothing.
///
/// A target for which nothing is stored or in flight leaves no mark, so that clients cannot fill the tables of the purge clock.
#[derive(Debug)]
pub(crate) struct Invalidation {
    config: Arc<Config>,
    /// The request as far as its target goes.
    request: request::Parts,
    is_pending: bool,
}

impl Invalidation {
    /// `None` if the request changes nothing, or the layer does not heed it.
    pub(crate) fn of(config: &Arc<Config>, parts: &request::Parts) -> Option<Box<Self>> {
        if !config.policy.invalidation || config.policy.is_safe(&parts.method) {
            return None;
        }
        let (mut request, ()) = Request::new(()).into_parts();
        request.uri = key::as_sent(parts).clone();
        for host in parts.headers.get_all(header::HOST) {
            request.headers.append(header::HOST, host.clone());
        }
        Some(Box::new(Self {
            config: config.clone(),
            request,
            is_pending: true,
        }))
    }

    /// The inner service has answered: purged is what its answer says is changed. It is so before the answer goes to its requester.
    /// Returns the epoch of the purge, or `None` if nothing was stored or in flight that it would concern.
    pub(crate) fn answered(mut self, status: StatusCode, headers: &HeaderMap) -> Option<u64> {
        self.is_pending = false;
        // RFC 9111 §4.4: an answer that is no error. What is only announced is none yet.
        if !status.is_success() && !status.is_redirection() {
            return None;
        }
        let purges = &self.config.shared.purges;
        let mut hashes = self.hashes_of(&self.request);
        // RFC 9111 §4.4 leaves these to the cache. Where a redirect goes to may be the client's choice.
        let names = [header::CONTENT_LOCATION, header::LOCATION];
        let named_in = if status.is_success() { 2 } else { 1 };
        for name in names.into_iter().take(named_in) {
            let named = self.named(headers, &name);
            hashes.extend(named.iter().flat_map(|named| self.hashes_of(named)));
        }
        let mut groups = Vec::new();
        if self.config.policy.cache_groups {
            let origin = self.config.origin(&self.request);
            let named = policy::invalidated_groups(origin.as_deref(), headers);
            groups.extend(named.iter().map(|tag| purges.hash_tag(tag)));
        }
        self.purge(&hashes, &groups)
    }

    /// Makes the target of this request count as one that is in flight, so that other unsafe requests to it are noticed.
    pub(crate) fn enter(&self) -> Presence {
        let purges = &self.config.shared.purges;
        purges.enter(&self.hashes_of(&self.request))
    }

    /// The target that a response names, if it is on the same origin (RFC 9111 §4.4 forbids the others).
    fn named(&self, headers: &HeaderMap, name: &HeaderName) -> Option<request::Parts> {
        let mut request = self.request.clone();
        request.uri = resolved(&self.request, headers, name)?;
        Some(request)
    }

    /// What is marked to purge all that is stored for the target of a request.
    fn hashes_of(&self, request: &request::Parts) -> Vec<u64> {
        let config = &self.config;
        let mut hashes = Vec::new();
        for target in targets(request) {
            hashes.push(config.target_hash(&target));
            if config.shared.searches.are_heeded() {
                hashes.push(config.path_hash(&config.selection.target_path(&target)));
            }
        }
        hashes
    }

    fn purge(&self, targets: &[u64], groups: &[u64]) -> Option<u64> {
        let (shared, marks) = (&self.config.shared, targets.len() + groups.len());
        let epoch = shared.purges.invalidate(targets, groups)?;
        count(&shared.counters.invalidations);
        events::purged("invalidation", marks);
        shared.sweep_soon();
        Some(epoch)
    }
}

impl Drop for Invalidation {
    fn drop(&mut self) {
        if self.is_pending {
            self.purge(&self.hashes_of(&self.request), &[]);
        }
    }
}

/// What a request may be for: one target, unless it names hosts that differ. Which of these its handler took, nobody knows.
fn targets(request: &request::Parts) -> Vec<request::Parts> {
    let mut targets = vec![request.clone()];
    if key::all_authorities(request).len() > 1 {
        for host in request.headers.get_all(header::HOST) {
            let mut target = request.clone();
            let origin_form = target.uri.path_and_query().cloned();
            target.uri = origin_form.map(http::Uri::from).unwrap_or_default();
            target.headers.insert(header::HOST, host.clone());
            targets.push(target);
        }
    }
    targets
}

/// What this field of a response refers to, if that is on the origin of the request.
pub(crate) fn resolved(
    request: &request::Parts,
    headers: &HeaderMap,
    name: &HeaderName,
) -> Option<http::Uri> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let reference = UriRef::parse(line.to_str().ok()?).ok()?;
    let authority = key::authority(request)?;
    // A service behind a proxy is not told its scheme: then either may be its own.
    let own = request.uri.scheme_str();
    let named = reference
        .scheme()
        .map(|scheme| scheme.as_str().to_ascii_lowercase());
    let scheme = own.or(named.as_deref()).unwrap_or("http");
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let path = request
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let base = Uri::parse(format!("{scheme}://{authority}{path}")).ok()?;
    let resolved = reference.resolve_against(&base).ok()?;
    let query = resolved
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    // RFC 9110 §4.2.3: no path is the root.
    let path = if resolved.path().is_empty() {
        "/"
    } else {
        resolved.path().as_str()
    };
    let of_the_path = format!("{path}{query}");
    let other: http::Uri = format!(
        "{}://{}{of_the_path}",
        resolved.scheme(),
        resolved.authority()?
    )
    .parse()
    .ok()?;
    let canonical = |authority: &str| key::canonical_authority(authority, Some(scheme));
    let named = other.authority().map(|named| canonical(named.as_str()));
    if other.scheme_str() != Some(scheme) || named != Some(canonical(&authority)) {
        return None;
    }
    // In the form in which the request came.
    match (own, request.uri.authority()) {
        (Some(_), Some(_)) => Some(other),
        _ => of_the_path.parse().ok(),
    }
}

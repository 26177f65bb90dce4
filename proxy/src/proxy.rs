//! What stands outside the cache: which requests are taken, in what form, and what becomes of a failure.

use std::{net::SocketAddr, sync::Arc};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request,
    uri::{Authority, PathAndQuery},
};
use http_body::Body as _;
use hyper::body::Incoming;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, RequestDirectives, SetCookie, TagHeader,
};

use crate::{
    answers::{Refusal, boxed},
    args::{Caching, Limits},
    failures::FailureLog,
    fields::{
        Pseudonym, is_coding_understood, join_cookie_crumbs, remove_hop_by_hop, unify_length,
    },
    forwarded::TrustedProxies,
    search::Searches,
    server::{Body, BoxError},
    upstream::{ClientAddress, Upstream, UpstreamError},
};

/// What clients talk to.
#[derive(Clone)]
pub(crate) struct Proxy {
    pseudonym: Pseudonym,
    failures: Arc<FailureLog>,
    trusted: Arc<TrustedProxies>,
    cached: Cached,
}

#[derive(Clone)]
enum Cached {
    Pages(Cache<Upstream>),
    Searches(Box<Searches>),
}

impl Proxy {
    pub(crate) fn new(
        origin: Authority,
        handle: &CacheHandle,
        caching: &Caching,
        limits: Limits,
        trusted: TrustedProxies,
    ) -> Result<Self, BoxError> {
        let pseudonym = Pseudonym::new();
        let upstream = Upstream::new(origin, pseudonym.clone(), limits);
        let builder = builder(handle, caching, limits);
        let cached = match caching.search_lag {
            None => Cached::Pages(
                builder
                    .name("pages")
                    .key(caching.key.clone())
                    .build()
                    .layer(upstream),
            ),
            Some(lag) => Cached::Searches(Box::new(Searches::new(
                builder,
                caching.key.clone(),
                upstream,
                handle,
                lag,
            )?)),
        };
        Ok(Self {
            pseudonym,
            failures: Arc::default(),
            trusted: Arc::new(trusted),
            cached,
        })
    }

    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<Body> {
        let request = match self.take(request, client) {
            Ok(request) => request,
            Err(refusal) => return refusal.into_response(),
        };
        let (method, target) = (request.method().clone(), request.uri().clone());
        let answer = match &self.cached {
            Cached::Pages(pages) => {
                let answer = pages.clone().oneshot(request).await;
                answer.map(|answer| answer.map(boxed))
            }
            Cached::Searches(searches) => searches.answer(request).await,
        };
        answer.unwrap_or_else(|error| {
            self.failures
                .failed(&method, &target, error.status().as_u16(), &error);
            failed(&error)
        })
    }

    /// Refuses what this proxy does not do, or does not understand.
    fn admit(&self, parts: &request::Parts) -> Result<(), Refusal> {
        if [Method::CONNECT, Method::TRACE].contains(&parts.method) {
            return Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "neither tunnels nor traces are made here",
            ));
        }
        if upgrades(parts) {
            return Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "protocols are not changed here, to WebSocket or to any other",
            ));
        }
        if self.pseudonym.has_signed(&parts.headers) {
            return Err(Refusal::new(
                StatusCode::LOOP_DETECTED,
                "this request has been here before: the origin leads back to this proxy",
            ));
        }
        if !is_coding_understood(&parts.headers) {
            return Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "no other transfer coding than chunked is understood here",
            ));
        }
        Ok(())
    }

    /// Makes a request one that the cache and the origin understand without doubt, or refuses it.
    fn take(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
    ) -> Result<Request<Incoming>, Refusal> {
        let (mut parts, body) = request.into_parts();
        self.admit(&parts)?;
        let host = host(&parts)?;
        let path = target(&parts)?;
        spend_a_forward(&mut parts)?;
        remove_hop_by_hop(&mut parts.headers);
        if !unify_length(&mut parts.headers) {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "Content-Length is not one length",
            ));
        }
        if parts.version == Version::HTTP_2 {
            join_cookie_crumbs(&mut parts.headers);
        }
        // RFC 9110 §10.1.1: nobody waits for a body that does not come.
        if body.is_end_stream() {
            parts.headers.remove(header::EXPECT);
        }
        self.trusted.filter(&mut parts.headers, client.ip());
        // Now the same target is the same request, in whichever version of HTTP it comes.
        parts.uri = Uri::from(path);
        match host {
            Some(host) => drop(parts.headers.insert(header::HOST, host)),
            None => drop(parts.headers.remove(header::HOST)),
        }
        parts.extensions.insert(ClientAddress(client));
        Ok(Request::from_parts(parts, body))
    }
}

/// What is the same for everything that is cached.
fn builder(handle: &CacheHandle, caching: &Caching, limits: Limits) -> CacheLayerBuilder {
    let mut builder = CacheLayer::builder();
    if caching.by_the_book {
        builder = builder.rfc9111().targets(caching.targets.clone());
    }
    if caching.ignore_client_directives {
        builder = builder.request_directives(RequestDirectives::Ignore);
    }
    if caching.store_set_cookie {
        builder = builder.set_cookie(SetCookie::Store);
    }
    let xkey = TagHeader::new(header::HeaderName::from_static("xkey"), b' ');
    builder
        .handle(handle)
        .invalidation(caching.invalidation)
        .ttl(caching.ttl)
        .stale_while_revalidate(caching.stale_while_revalidate)
        .stale_if_error(caching.stale_if_error)
        .max_body_bytes(caching.max_body_bytes)
        // A slow origin is what this is for: who waits for another's answer waits for as long as that may take.
        .wait_timeout(limits.origin_timeout)
        .fill_timeout(limits.origin_timeout * 4)
        .tag_header(TagHeader::SURROGATE_KEY.strip())
        .tag_header(TagHeader::CACHE_TAG.strip())
        .tag_header(xkey.strip())
}

/// Whether a request needs the protocol to be changed. `h2c` is an offer that may be left alone (RFC 9110 §7.8), as some clients
/// make it every time.
fn upgrades(parts: &request::Parts) -> bool {
    let mut lines = parts.headers.get_all(header::UPGRADE).iter();
    lines.any(|line| !line.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// The path and query of a request. RFC 9112 §3.2.4 makes `OPTIONS *` of `OPTIONS http://host`, which `http::Uri` does not tell from
/// `OPTIONS http://host/`: both are of `/` here.
fn target(parts: &request::Parts) -> Result<PathAndQuery, Refusal> {
    let path = parts.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if path.path() == "*" && parts.method != Method::OPTIONS {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "only OPTIONS can ask of everything",
        ));
    }
    Ok(path)
}

/// It is not clear for which host a request is.
struct Doubt;

impl From<Doubt> for Refusal {
    fn from(Doubt: Doubt) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "which host is this for?")
    }
}

/// The host that a request is for: one, without doubt (RFC 9112 §3.2).
fn host(parts: &request::Parts) -> Result<Option<HeaderValue>, Doubt> {
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(line), None) => Some(canonical(line.as_bytes()).ok_or(Doubt)?),
        (Some(_), Some(_)) => return Err(Doubt),
    };
    let Some(target) = parts.uri.authority() else {
        let may_be_left_out = parts.version < Version::HTTP_11;
        return (line.is_some() || may_be_left_out)
            .then_some(line)
            .ok_or(Doubt);
    };
    // The target is a whole URL, as it always is in HTTP/2, and as clients of forward proxies have it.
    let schemes: &[_] = match parts.version {
        Version::HTTP_2 => &[None, Some("http"), Some("https")],
        _ => &[Some("http")],
    };
    let is_http = schemes.contains(&parts.uri.scheme_str());
    let target = canonical(target.as_str().as_bytes())
        .filter(|_| is_http)
        .ok_or(Doubt)?;
    let agrees = line.is_none_or(|line| line == target);
    agrees.then_some(Some(target)).ok_or(Doubt)
}

/// A host as everything here has it: in lower case, and without a port that says nothing.
pub(crate) fn canonical(host: &[u8]) -> Option<HeaderValue> {
    let host = Authority::try_from(host).ok()?;
    let name = host.host().to_ascii_lowercase();
    // What stands before an `@` is not part of a host.
    let port = host.as_str().get(name.len()..)?;
    if name.is_empty() || host.as_str().contains('@') {
        return None;
    }
    let canonical = match host.port_u16() {
        None if !["", ":"].contains(&port) => return None,
        None | Some(80) => name,
        Some(port) => format!("{name}:{port}"),
    };
    HeaderValue::try_from(canonical).ok()
}

/// RFC 9110 §7.6.2: whoever asks for the options of the n-th hop counts from here.
fn spend_a_forward(parts: &mut request::Parts) -> Result<(), Refusal> {
    if parts.method != Method::OPTIONS {
        return Ok(());
    }
    let forwards = parts.headers.get(header::MAX_FORWARDS);
    let forwards = forwards.and_then(|line| line.to_str().ok()?.parse::<u64>().ok());
    match forwards {
        None => Ok(()),
        Some(0) => Err(Refusal::new(StatusCode::OK, "this is as far as it goes")),
        Some(left) => {
            parts
                .headers
                .insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
            Ok(())
        }
    }
}

/// There is no answer, not even a stale one.
fn failed(error: &UpstreamError) -> Response<Body> {
    let status = error.status();
    let refusal = Refusal::new(
        status,
        "there is no answer from the service behind this proxy",
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return refusal.with(header::RETRY_AFTER, "1").into_response();
    }
    refusal.into_response()
}

//! What stands outside the cache: which requests are taken, in what form, and what becomes of a failure.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request,
    uri::{Authority, PathAndQuery},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, SetCookie, TagHeader,
};

use crate::{
    args::{Caching, Limits},
    fields::{Pseudonym, remove_forwarded, remove_hop_by_hop},
    search::Searches,
    server::{Body, BoxError},
    upstream::{ClientAddress, Upstream, UpstreamError},
};

/// What clients talk to.
#[derive(Clone)]
pub(crate) struct Proxy {
    pseudonym: Pseudonym,
    cached: Cached,
}

#[derive(Clone)]
enum Cached {
    Pages(Cache<Upstream>),
    Searches(Searches),
}

impl Proxy {
    pub(crate) fn new(
        origin: Authority,
        handle: &CacheHandle,
        caching: &Caching,
        limits: Limits,
    ) -> Result<Self, BoxError> {
        let pseudonym = Pseudonym::new();
        let upstream = Upstream::new(origin, pseudonym.clone(), limits);
        let builder = builder(handle, caching, limits);
        let cached = match caching.search_lag {
            None => Cached::Pages(builder.name("pages").build().layer(upstream)),
            Some(lag) => Cached::Searches(Searches::new(builder, upstream, handle, lag)?),
        };
        Ok(Self { pseudonym, cached })
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
        let answer = match &self.cached {
            Cached::Pages(pages) => {
                let answer = pages.clone().oneshot(request).await;
                answer.map(|answer| answer.map(boxed))
            }
            Cached::Searches(searches) => searches.answer(request).await,
        };
        answer.unwrap_or_else(|error| failed(&error))
    }

    /// Makes a request one that the cache and the origin understand without doubt, or refuses it.
    fn take(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
    ) -> Result<Request<Incoming>, Refusal> {
        let (mut parts, body) = request.into_parts();
        if [Method::CONNECT, Method::TRACE].contains(&parts.method) {
            return Err(Refusal(
                StatusCode::NOT_IMPLEMENTED,
                "neither tunnels nor traces are made here",
            ));
        }
        if upgrades(&parts) {
            return Err(Refusal(
                StatusCode::NOT_IMPLEMENTED,
                "protocols are not changed here, to WebSocket or to any other",
            ));
        }
        if self.pseudonym.has_signed(&parts.headers) {
            return Err(Refusal(
                StatusCode::LOOP_DETECTED,
                "this request has been here before: the origin leads back to this proxy",
            ));
        }
        let host = host(&parts)?;
        let path = parts.uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.path() == "*" && parts.method != Method::OPTIONS {
            return Err(Refusal(
                StatusCode::BAD_REQUEST,
                "only OPTIONS can ask of everything",
            ));
        }
        spend_a_forward(&mut parts)?;
        remove_hop_by_hop(&mut parts.headers);
        remove_forwarded(&mut parts.headers);
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
    if caching.store_set_cookie {
        builder = builder.set_cookie(SetCookie::Store);
    }
    let xkey = TagHeader::new(header::HeaderName::from_static("xkey"), b' ');
    builder
        .handle(handle)
        .ttl(caching.ttl)
        .stale_while_revalidate(caching.stale_while_revalidate)
        .stale_if_error(caching.stale_if_error)
        .max_body_bytes(caching.max_body_bytes)
        .wait_timeout(
            limits
                .origin_timeout
                .min(std::time::Duration::from_secs(10)),
        )
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

/// The host that a request is for: one, without doubt (RFC 9112 §3.2). In lower case, and without a port that says nothing.
fn host(parts: &request::Parts) -> Result<Option<HeaderValue>, Refusal> {
    const DOUBT: Refusal = Refusal(
        StatusCode::BAD_REQUEST,
        "it is not clear which host this is for",
    );
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = lines
        .next()
        .map(|line| canonical(line.as_bytes()).ok_or(DOUBT));
    let line = line.transpose()?;
    if lines.next().is_some() {
        return Err(DOUBT);
    }
    let Some(target) = parts.uri.authority() else {
        let may_be_left_out = parts.version < Version::HTTP_11;
        return if line.is_some() || may_be_left_out {
            Ok(line)
        } else {
            Err(DOUBT)
        };
    };
    // The whole URL is the target, as every request of HTTP/2 has it, and as clients of forward proxies do.
    let is_http = parts.version == Version::HTTP_2 || parts.uri.scheme_str() == Some("http");
    let target = canonical(target.as_str().as_bytes()).filter(|_| is_http);
    if target.is_none() || line.is_some_and(|line| Some(line) != target) {
        return Err(DOUBT);
    }
    Ok(target)
}

/// A host as everything here has it.
pub(crate) fn canonical(host: &[u8]) -> Option<HeaderValue> {
    let host = Authority::try_from(host)
        .ok()
        .filter(|host| !host.as_str().contains('@'))?;
    let name = host.host().to_ascii_lowercase();
    let canonical = match host.port_u16() {
        _ if name.is_empty() => return None,
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
        Some(0) => Err(Refusal(StatusCode::NO_CONTENT, "")),
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
    let cause = std::error::Error::source(error);
    eprintln!(
        "{}: {error}{}",
        status.as_u16(),
        cause.map_or(String::new(), |cause| format!(": {cause:?}"))
    );
    let mut response =
        Refusal(status, "the service behind this proxy cannot answer now").into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(1));
    }
    response
}

/// An answer of the proxy's own.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) &'static str);

impl Refusal {
    pub(crate) fn into_response(self) -> Response<Body> {
        let Self(status, text) = self;
        if text.is_empty() {
            let mut response = Response::new(text_body(String::new()));
            *response.status_mut() = status;
            return response;
        }
        text_response(status, format!("{text}\n"))
    }
}

/// A few words, which nobody is to keep.
pub(crate) fn text_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(text_body(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text_body(text: String) -> Body {
    boxed(Full::new(Bytes::from(text)))
}

/// Any body, as clients get it.
pub(crate) fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

//! The method and the target of a request.

use http::{Method, Uri, header, request::Parts};

#[cfg(feature = "axum")]
use super::encode::put_optional;
use super::encode::{KeyBytes, Tag, put};

/// GET and HEAD share a key: a stored GET answers both.
pub(super) fn put_method(key: &mut KeyBytes, method: &Method) {
    let class = match *method {
        Method::HEAD => Method::GET.as_str(),
        _ => method.as_str(),
    };
    put(key, Tag::Method, class.as_bytes());
}

/// Scheme and authority of the target, and what `Host` says besides: handlers read either.
pub(super) fn put_authority(key: &mut KeyBytes, parts: &Parts) {
    if let Some(scheme) = parts.uri.scheme() {
        put(key, Tag::Scheme, scheme.as_str().as_bytes());
    }
    if let Some(authority) = parts.uri.authority() {
        put_host(key, Tag::Authority, authority.as_str().as_bytes());
    }
    for host in parts.headers.get_all(header::HOST) {
        put_host(key, Tag::Host, host.as_bytes());
    }
}

/// RFC 9110 §4.2.3: a host's name is the same in any case. What stands before an `@` is not.
fn put_host(key: &mut KeyBytes, tag: Tag, host: &[u8]) {
    put(key, tag, host);
    if !host.contains(&b'@') {
        let value = key.len() - host.len();
        key[value..].make_ascii_lowercase();
    }
}

/// Host and port that a request is for, in lower case, without a port that says nothing. `None` if it does not tell.
pub(crate) fn authority(parts: &Parts) -> Option<String> {
    let host = || parts.headers.get(header::HOST)?.to_str().ok();
    let of_uri = parts.uri.authority().map(http::uri::Authority::as_str);
    let authority = of_uri.or_else(host)?;
    Some(canonical_authority(authority, parts.uri.scheme_str()))
}

/// As [`authority`], of a target of this scheme.
pub(crate) fn canonical_authority(authority: &str, scheme: Option<&str>) -> String {
    let authority = authority.to_ascii_lowercase();
    // RFC 9110 §4.2: what stands before an `@` is not part of it.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let usual: &[&str] = match scheme {
        Some("http") => &[":80"],
        Some("https") => &[":443"],
        // Which of the two it is, a service behind a proxy is not told.
        _ => &[":80", ":443"],
    };
    let without = usual.iter().find_map(|port| authority.strip_suffix(port));
    without.unwrap_or(authority).to_owned()
}

/// The target as the client sent it, where a router has changed what the cache sees.
pub(crate) fn as_sent(parts: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return original;
    }
    &parts.uri
}

/// The path as it comes, and the path and query as the client sent them, where a router has changed what the cache
/// sees (`nest` strips a prefix).
pub(super) fn put_path(key: &mut KeyBytes, parts: &Parts) {
    put(key, Tag::Path, parts.uri.path().as_bytes());
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        if original.path() != parts.uri.path() {
            put(key, Tag::OriginalPath, original.path().as_bytes());
        }
        if original.query() != parts.uri.query() {
            let query = original.query().map(str::as_bytes);
            put_optional(key, Tag::OriginalQuery, b"", query);
        }
    }
}

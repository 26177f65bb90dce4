//! Header fields that are for one hop only, and those by which proxies tell of themselves.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

/// RFC 9110 §7.6.1: what concerns one connection goes no further, and neither does what `Connection` names. That trailers are
/// welcome does: they are passed on.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const OF_A_CONNECTION: [HeaderName; 7] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let trailers = members(headers, &header::TE).any(|coding| coding == b"trailers");
    let named = members(headers, &header::CONNECTION);
    let named: Vec<_> = named
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // RFC 9112 §6.3: it is the chunks that count.
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in OF_A_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// How many header lines a message may have.
pub(crate) const MAX_LINES: usize = 1024;

/// RFC 9110 §8.6: makes one length of one that is repeated. Returns false if there are two, or what is no length.
pub(crate) fn unify_length(headers: &mut HeaderMap) -> bool {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        return true;
    }
    let length = length(headers);
    let is_one = length.is_some();
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    is_one
}

/// The length of a message, if it is stated and all statements agree.
fn length(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lengths = members(headers, &header::CONTENT_LENGTH);
    let first = lengths.next()?;
    let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let is_one = is_number && lengths.all(|other| other == first);
    HeaderValue::from_bytes(first).ok().filter(|_| is_one)
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

/// Returns whether the transfer coding is none, or `chunked` once.
pub(crate) fn is_coding_understood(headers: &HeaderMap) -> bool {
    let mut codings = members(headers, &header::TRANSFER_ENCODING);
    codings.next().is_none_or(is_chunked) && codings.next().is_none()
}

/// Returns whether a response in a coding that is not understood ends with its connection (RFC 9112 §6.3).
pub(crate) fn ends_with_connection(headers: &HeaderMap) -> bool {
    let mut codings = members(headers, &header::TRANSFER_ENCODING);
    !codings.any(is_chunked) && !headers.contains_key(header::CONTENT_LENGTH)
}

/// RFC 9113 §8.2.3: makes one header of the crumbs that a cookie may be split into in HTTP/2.
pub(crate) fn join_cookie_crumbs(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(header::COOKIE).iter();
    let crumbs: Vec<_> = crumbs.map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, cookie);
    }
}

/// The members of a list, over all its lines.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| {
        line.as_bytes()
            .split(|&b| b == b',')
            .map(<[u8]>::trim_ascii)
    })
}

/// By what name this process calls itself in `Via` (RFC 9110 §7.6.3).
#[derive(Clone)]
pub(crate) struct Pseudonym(String);

impl Pseudonym {
    /// One that no other process has.
    pub(crate) fn new() -> Self {
        let random = RandomState::new().hash_one(0);
        Self(format!("reverse-proxy-{random:016x}"))
    }

    /// Says that a message of this version came through here.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, version: Version) {
        let version = match version {
            Version::HTTP_09 => "0.9",
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        if let Ok(via) = HeaderValue::try_from(format!("{version} {self}")) {
            headers.append(header::VIA, via);
        }
    }

    /// Whether this message has been here before.
    pub(crate) fn has_signed(&self, headers: &HeaderMap) -> bool {
        let mut hops = members(headers, &header::VIA);
        hops.any(|hop| {
            hop.split(|&b| b == b' ')
                .any(|word| word == self.0.as_bytes())
        })
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

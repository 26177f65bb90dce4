//! What proxies in front say of the target, and handlers make links of: anybody may send it, so it has to be in the key.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use super::{
    encode::{KeyBytes, Tag, put},
    is_text,
};
use crate::status::Reason;

/// What of `X-Forwarded-*` tells host, scheme and place of the service as the client sees them. What tells of the client or of
/// the proxies is not in the key, and what carries credentials is known to `identity`.
const FORWARDED: [&str; 9] = [
    "host",
    "proto",
    "port",
    "prefix",
    "scheme",
    "ssl",
    "uri",
    "path",
    "server-port",
];

/// The same in other words.
const TARGET: [HeaderName; 11] = [
    HeaderName::from_static("x-original-host"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-url-scheme"),
    HeaderName::from_static("x-scheme"),
    HeaderName::from_static("x-script-name"),
    HeaderName::from_static("front-end-https"),
    HeaderName::from_static("x-http-host-override"),
    HeaderName::from_static("x-backend-host"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("cf-visitor"),
    HeaderName::from_static("cloudfront-forwarded-proto"),
];

/// Some frameworks and servers take the method or the path from these.
const OVERRIDES: [HeaderName; 8] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-method"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-original-uri"),
    HeaderName::from_static("x-original-path"),
    HeaderName::from_static("x-rewrite-url"),
];

/// Adds what is there of it to the key, unless it is ignored.
///
/// # Errors
///
/// The reason for which such a request has no key: it is for another target than it says, or nobody can tell.
pub(super) fn put_forwarded(
    key: &mut KeyBytes,
    headers: &HeaderMap,
    is_ignored: bool,
) -> Result<(), Reason> {
    let mut has_elements = false;
    let mut found: SmallVec<[(&HeaderName, &HeaderValue); 8]> = SmallVec::new();
    for (name, value) in headers {
        // This runs on every hit, and most names are neither.
        if !matches!(name.as_str().as_bytes(), [b'x' | b'f' | b'c', ..]) {
            continue;
        }
        // Applications that get headers as variables (CGI, WSGI, Rack) cannot tell `_` from `-`.
        let read_as = if name.as_str().contains('_') {
            HeaderName::try_from(name.as_str().replace('_', "-")).ok()
        } else {
            None
        };
        let read_as = read_as.as_ref().unwrap_or(name);
        if OVERRIDES.contains(read_as) {
            return Err(Reason::Override);
        }
        if is_ignored {
            continue;
        }
        if *name == header::FORWARDED {
            has_elements = true;
        } else if tells_target(read_as) {
            found.push((name, value));
        }
    }
    // Lines of one name stay in their order.
    found.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    for (name, value) in found {
        put(key, Tag::Forwarded, name.as_str().as_bytes());
        put(key, Tag::Value, value.as_bytes());
    }
    if has_elements {
        put_elements(key, headers).ok_or(Reason::Forwarded)?;
    }
    Ok(())
}

/// The hosts and schemes, each with the number of its element, and how many elements there are on each line: readers take
/// the first or the last (RFC 7239 §4), of the first line or of all. Nothing, if none of these is told.
fn put_elements(key: &mut KeyBytes, headers: &HeaderMap) -> Option<()> {
    let mut elements = Elements::default();
    let mut tells = false;
    for line in headers.get_all(header::FORWARDED) {
        elements.each(line.as_bytes(), |element, name, value| {
            tells = true;
            put(key, Tag::ForwardedElement, &element.to_le_bytes());
            put(key, Tag::Value, name);
            put(key, Tag::Value, value);
        })?;
    }
    if tells {
        put(key, Tag::ForwardedElements, b"");
        for line in headers.get_all(header::FORWARDED) {
            let commas = line.as_bytes().iter().filter(|&&b| b == b',').count();
            put(key, Tag::Value, &commas.to_le_bytes());
        }
    }
    Some(())
}

/// Whether a header tells where the service is, as the client sees it.
pub(super) fn tells_target(name: &HeaderName) -> bool {
    match name.as_str().strip_prefix("x-forwarded-") {
        Some(what) => FORWARDED.contains(&what),
        None => TARGET.contains(name),
    }
}

/// `Forwarded` with nothing in it but what is in the key: the hosts and schemes, each in its place.
pub(super) fn sealed(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut elements = Elements::default();
    let mut told: Vec<Vec<u8>> = Vec::new();
    for line in headers.get_all(header::FORWARDED) {
        elements.each(line.as_bytes(), |element, name, value| {
            // An element of which nothing is in the key still keeps its place.
            told.resize_with(element.max(told.len()), Vec::new);
            let pairs = &mut told[element - 1];
            if !pairs.is_empty() {
                pairs.push(b';');
            }
            pairs.extend([name, b"=", value].concat());
        })?;
    }
    for pairs in told.iter_mut().filter(|pairs| pairs.is_empty()) {
        pairs.extend(b"for=unknown");
    }
    let line = told.join(&b", "[..]);
    (!line.is_empty())
        .then(|| HeaderValue::from_bytes(&line).ok())
        .flatten()
}

/// Numbers the elements of the `Forwarded` lines of a request.
#[derive(Default)]
struct Elements(usize);

impl Elements {
    /// The hosts and schemes of a line, each with the number of its element. `None` if the line cannot be read.
    fn each(&mut self, line: &[u8], mut told: impl FnMut(usize, &[u8], &[u8])) -> Option<()> {
        if !is_plain(line) {
            return None;
        }
        for element in line.split(|&b| b == b',') {
            self.0 += 1;
            let pairs = element.split(|&b| b == b';').map(<[u8]>::trim_ascii);
            for pair in pairs {
                if pair.is_empty() {
                    continue;
                }
                let at = pair.iter().position(|&b| b == b'=')?;
                let (name, value) = (&pair[..at], &pair[at + 1..]);
                if name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"proto") {
                    told(self.0, name, value);
                } else if name.is_empty() || !name.iter().all(u8::is_ascii_alphanumeric) {
                    return None;
                }
            }
        }
        Some(())
    }
}

/// Whether every reader takes this line apart in the same way: there are some that know no quotes, and some that take
/// nothing but text. So no separator stands in quotes, nothing is escaped, and all is visible ASCII.
fn is_plain(line: &[u8]) -> bool {
    let mut quoted = false;
    let plain = line.iter().all(|&b| {
        quoted ^= b == b'"';
        let separates = b == b',' || b == b';';
        b != b'\\' && !(quoted && separates)
    });
    plain && !quoted && is_text(line)
}

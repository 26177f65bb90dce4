//! What proxies in front say of the target, and handlers make links of: anybody may send it, so it has to be in the key.

use http::{HeaderMap, HeaderName, header};

use super::encode::{KeyBytes, Tag, put, put_count};
use crate::status::Reason;

/// Host, scheme and place of the service as the client sees them, besides what begins with `x-forwarded-`.
const TARGET: [HeaderName; 6] = [
    HeaderName::from_static("x-original-host"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-url-scheme"),
    HeaderName::from_static("x-scheme"),
    HeaderName::from_static("x-script-name"),
    HeaderName::from_static("front-end-https"),
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

/// Adds what is there of it to the key.
///
/// # Errors
///
/// The reason for which such a request has no key: it is for another target than it says, or nobody can tell.
pub(super) fn put_forwarded(key: &mut KeyBytes, headers: &HeaderMap) -> Result<(), Reason> {
    let mut elements = 0;
    for (name, value) in headers {
        // This runs on every hit, and most names are neither.
        if !matches!(name.as_str().as_bytes(), [b'x' | b'f', ..]) {
            continue;
        }
        if *name == header::FORWARDED {
            put_elements(key, value.as_bytes(), &mut elements).ok_or(Reason::Forwarded)?;
        } else if OVERRIDES.contains(name) {
            return Err(Reason::Override);
        } else if tells_target(name) {
            put(key, Tag::Forwarded, name.as_str().as_bytes());
            put(key, Tag::Value, value.as_bytes());
        }
    }
    Ok(())
}

/// All that begins with `x-forwarded-`, but for the client's own address, and those that say the same in other words.
fn tells_target(name: &HeaderName) -> bool {
    let forwarded = name.as_str().strip_prefix("x-forwarded-");
    forwarded.is_some_and(|what| what != "for") || TARGET.contains(name)
}

/// The hosts and schemes of a `Forwarded` line, each with the number of its element: readers take the first or the
/// last (RFC 7239 §4). `None` if it cannot be read.
fn put_elements(key: &mut KeyBytes, line: &[u8], elements: &mut usize) -> Option<()> {
    // A quoted string may hold separators, so a line with an escape or an odd quote is not taken apart.
    let quotes = line.iter().filter(|&&b| b == b'"').count();
    if quotes % 2 != 0 || line.contains(&b'\\') {
        return None;
    }
    for element in unquoted(line, b',') {
        *elements += 1;
        for pair in unquoted(element, b';').map(<[u8]>::trim_ascii) {
            if pair.is_empty() {
                continue;
            }
            let at = pair.iter().position(|&b| b == b'=')?;
            let (name, value) = (&pair[..at], &pair[at + 1..]);
            if name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"proto") {
                put(key, Tag::Forwarded, name);
                put_count(key, *elements);
                put(key, Tag::Value, value);
            } else if name.is_empty() || !name.iter().all(u8::is_ascii_alphanumeric) {
                return None;
            }
        }
    }
    Some(())
}

/// The pieces between separators that stand in no quoted string.
fn unquoted(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    line.split(move |&b| {
        quoted ^= b == b'"';
        !quoted && b == separator
    })
}

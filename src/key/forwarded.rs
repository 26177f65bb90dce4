//! What proxies in front say of the target, and handlers make links of: anybody may send it, so it has to be in the key.

use http::{HeaderMap, HeaderName, header};

use super::encode::{KeyBytes, Tag, put};
use crate::status::Reason;

/// Host, scheme and place of the service as the client sees them; never the client's own address.
const TARGET: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
];

/// Some frameworks and servers take the method or the path from these.
const OVERRIDES: [HeaderName; 6] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-original-uri"),
];

/// Adds what is there of it to the key.
///
/// # Errors
///
/// The reason for which such a request has no key: it is for another target than it says, or nobody can tell.
pub(super) fn put_forwarded(key: &mut KeyBytes, headers: &HeaderMap) -> Result<(), Reason> {
    for (name, value) in headers {
        if *name == header::FORWARDED {
            put_parameters(key, value.as_bytes()).ok_or(Reason::Forwarded)?;
        } else if name.as_str().starts_with("x-") {
            if OVERRIDES.contains(name) {
                return Err(Reason::Override);
            }
            if TARGET.contains(name) {
                put(key, Tag::Forwarded, name.as_str().as_bytes());
                put(key, Tag::Value, value.as_bytes());
            }
        }
    }
    Ok(())
}

/// The hosts and schemes of a `Forwarded` line, in their order (RFC 7239 §4). `None` if it cannot be read.
fn put_parameters(key: &mut KeyBytes, line: &[u8]) -> Option<()> {
    // A quoted string may hold separators, so a line with an escape or an odd quote is not taken apart.
    let mut quoted = false;
    let pieces = line.split(|&b| {
        quoted ^= b == b'"';
        !quoted && (b == b',' || b == b';')
    });
    for piece in pieces {
        let piece = piece.trim_ascii();
        if piece.is_empty() {
            continue;
        }
        let at = piece.iter().position(|&b| b == b'=')?;
        let (name, value) = (&piece[..at], &piece[at + 1..]);
        if name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"proto") {
            put(key, Tag::Forwarded, name);
            put(key, Tag::Value, value);
        } else if name.is_empty() || !name.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
    }
    let readable = line.iter().filter(|&&b| b == b'"').count() % 2 == 0 && !line.contains(&b'\\');
    readable.then_some(())
}

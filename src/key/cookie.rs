//! The cookies of a request, read as far as a key needs (RFC 6265 §5.4).

use std::borrow::Cow;

use http::{HeaderMap, header};

/// Whether the request carries a cookie of another name than these. What cannot be read as a cookie is one.
pub(super) fn any_besides(headers: &HeaderMap, names: &[Cow<'static, str>]) -> bool {
    pairs(headers).any(|(name, _)| !names.iter().any(|known| known.as_bytes() == name))
}

/// The values of all cookies of this name, in their order.
pub(super) fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    pairs(headers)
        .filter(move |(found, _)| *found == name.as_bytes())
        .map(|(_, value)| value)
}

/// HTTP/2 may split `Cookie` over several lines (RFC 9113 §8.2.3).
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b';'))
        .map(|pair| {
            let pair = pair.trim_ascii();
            match pair.iter().position(|&b| b == b'=') {
                Some(at) => (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()),
                None => (pair, &pair[pair.len()..]),
            }
        })
        .filter(|(name, value)| !(name.is_empty() && value.is_empty()))
}

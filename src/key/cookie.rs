//! The cookies of a request, read as far as a key needs (RFC 6265 §5.4).

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};

/// Whether the request carries a cookie of another name than these. What cannot be read as a cookie is one.
pub(super) fn any_besides(headers: &HeaderMap, names: &[Cow<'static, str>]) -> bool {
    pairs(headers).any(|pair| !names.iter().any(|known| known.as_bytes() == name(pair)))
}

/// All cookies of this name, in their order, each with its name as it stands: readers differ over `a`, `a=` and `a =`.
pub(super) fn named<'a>(headers: &'a HeaderMap, wanted: &str) -> impl Iterator<Item = &'a [u8]> {
    pairs(headers).filter(move |pair| name(pair) == wanted.as_bytes())
}

/// The cookies of these names, in one line (RFC 6265 §5.4): those of one name in their order, the names in theirs.
pub(super) fn sealed(headers: &HeaderMap, names: &[Cow<'static, str>]) -> Option<HeaderValue> {
    let kept = names.iter().flat_map(|name| named(headers, name));
    let line = kept.collect::<Vec<_>>().join(&b"; "[..]);
    (!line.is_empty())
        .then(|| HeaderValue::from_bytes(&line).ok())
        .flatten()
}

fn name(pair: &[u8]) -> &[u8] {
    let end = pair.iter().position(|&b| b == b'=').unwrap_or(pair.len());
    pair[..end].trim_ascii()
}

/// HTTP/2 may split `Cookie` over several lines (RFC 9113 §8.2.3).
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

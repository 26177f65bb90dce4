//! The cookies of a request, read as far as a key needs (RFC 6265 §5.4).

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};

use super::{
    encode::{KeyBytes, Tag, put},
    is_text,
    query::unescape,
};

/// Whether the request carries a cookie of another name than these. What cannot be read as a cookie is one.
pub(super) fn any_besides(headers: &HeaderMap, names: &[Cow<'static, str>]) -> bool {
    pairs(headers).any(|pair| !names.iter().any(|known| known.as_bytes() == name(pair)))
}

/// Whether some reader may find a cookie of one of these names. A name that ends in `*` means all that begin with it.
pub(super) fn may_have(headers: &HeaderMap, names: &[Cow<'static, str>]) -> bool {
    // Readers differ over quotes and commas: a cookie counts wherever one of them sees it begin.
    let loose = lines(headers).flat_map(|line| line.split(|b| b";,\"".contains(b)));
    loose.map(<[u8]>::trim_ascii).any(|pair| {
        let found = name(pair);
        let decoded = found.contains(&b'%').then(|| unescape(found));
        names.iter().any(|wanted| {
            is_meant(wanted, found) || decoded.as_deref().is_some_and(|d| is_meant(wanted, d))
        })
    })
}

fn is_meant(wanted: &str, name: &[u8]) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => name.starts_with(start.as_bytes()),
        None => name == wanted.as_bytes(),
    }
}

/// Adds the cookies of these names to a key; or all lines as they come, if readers may not agree on what is in them.
/// Where they are sealed, readers get nothing else than these cookies.
pub(super) fn put_cookies(
    key: &mut KeyBytes,
    headers: &HeaderMap,
    names: &[Cow<'static, str>],
    sealed: bool,
) {
    if !sealed && !lines(headers).all(|line| is_plain(line, names)) {
        put(key, Tag::RawCookies, b"");
        lines(headers).for_each(|line| put(key, Tag::Value, line));
        return;
    }
    for name in names {
        put(key, Tag::Cookie, name.as_bytes());
        named(headers, name, sealed).for_each(|pair| put(key, Tag::Value, pair));
    }
}

/// The cookies of these names, in one line (RFC 6265 §5.4): those of one name in their order, the names in theirs.
pub(super) fn sealed(headers: &HeaderMap, names: &[Cow<'static, str>]) -> Option<HeaderValue> {
    let pairs = names.iter().flat_map(|name| named(headers, name, true));
    let line = pairs.collect::<Vec<_>>().join(&b"; "[..]);
    let value = HeaderValue::from_bytes(&line).ok();
    value.filter(|value| !value.is_empty())
}

/// All cookies of this name, in their order, each with its name as it stands: readers differ over `a`, `a=` and `a =`,
/// and some take `%61` for `a`; where the cookies are sealed, these never get there.
fn named<'a>(headers: &'a HeaderMap, wanted: &str, sealed: bool) -> impl Iterator<Item = &'a [u8]> {
    pairs(headers).filter(move |pair| {
        if sealed {
            name(pair) == wanted.as_bytes()
        } else {
            is_named(pair, wanted)
        }
    })
}

fn is_named(pair: &[u8], wanted: &str) -> bool {
    let name = name(pair);
    name == wanted.as_bytes() || (name.contains(&b'%') && *unescape(name) == *wanted.as_bytes())
}

/// Whether every reader finds the same cookies of these names in a line: it is text, and none of them stands where some
/// see a quoted string and others a separator.
fn is_plain(line: &[u8], names: &[Cow<'static, str>]) -> bool {
    if !is_text(line) {
        return false;
    }
    if !line.iter().any(|b| b"\",".contains(b)) {
        return true;
    }
    let any = |pair: &[u8]| names.iter().any(|wanted| is_named(pair, wanted));
    let loose = line.split(|b| b";,\"".contains(b)).map(<[u8]>::trim_ascii);
    let strict = line.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let mut quotes = 0;
    let in_quotes = strict.clone().any(|pair| {
        let hidden = quotes % 2 != 0 && any(pair);
        quotes += pair.iter().filter(|b| **b == b'"').count();
        hidden
    });
    !in_quotes && loose.filter(|pair| any(pair)).count() == strict.filter(|pair| any(pair)).count()
}

fn name(pair: &[u8]) -> &[u8] {
    let end = pair.iter().position(|&b| b == b'=').unwrap_or(pair.len());
    pair[..end].trim_ascii()
}

/// HTTP/2 may split `Cookie` over several lines (RFC 9113 §8.2.3).
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    lines(headers)
        .flat_map(|line| line.split(|&b| b == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

fn lines(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines.map(HeaderValue::as_bytes)
}

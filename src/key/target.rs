//! The method and the target of a request.

use http::{HeaderValue, Method, Uri, header, request::Parts, uri::Authority, uri::Scheme};

#[cfg(feature = "axum")]
use super::encode::put_optional;
use super::encode::{KeyBytes, Tag, put};
use crate::status::Reason;

/// GET and HEAD share a key: a stored GET answers both.
pub(super) fn put_method(key: &mut KeyBytes, method: &Method) {
    let class = match *method {
        Method::HEAD => Method::GET.as_str(),
        _ => method.as_str(),
    };
    put(key, Tag::Method, class.as_bytes());
}

/// How the scheme of a target counts.
#[derive(Debug, Clone, Default)]
pub(super) struct SchemeRule {
    /// The scheme of a request whose URI does not tell it. `None` if it may be either of the two.
    pub(super) assumed: Option<Scheme>,
    /// Whether the scheme is in the key.
    pub(super) is_keyed: bool,
}

impl SchemeRule {
    fn of<'a>(&'a self, parts: &'a Parts) -> Option<&'a str> {
        let of_uri = parts.uri.scheme_str();
        of_uri.or(self.assumed.as_ref().map(Scheme::as_str))
    }
}

/// The one authority that a request names: its URI's, else that of `Host`, in lower case and without the default port, so
/// that HTTP/1.1, HTTP/2 and the absolute form of one target are one key. Nothing, if it names none.
///
/// # Errors
///
/// The request names two that differ, or one with a name of a user in it: handlers may read any of them (RFC 9110 §4.2.4, §7.2).
pub(super) fn put_authority(
    key: &mut KeyBytes,
    parts: &Parts,
    rule: &SchemeRule,
) -> Result<(), Reason> {
    let scheme = rule.of(parts);
    // A scheme that is none of HTTP's is another target in any case, and nothing that a client may choose for all.
    let is_of_http = |scheme: &str| ["http", "https"].contains(&scheme);
    if let Some(scheme) = scheme
        && (rule.is_keyed || !is_of_http(scheme))
    {
        put(key, Tag::Scheme, scheme.as_bytes());
        let value = key.len() - scheme.len();
        key[value..].make_ascii_lowercase();
    }
    let mut known: Option<&[u8]> = None;
    for authority in authorities(parts) {
        let authority = without_default_port(authority, scheme);
        let differs = known.is_some_and(|known| !known.eq_ignore_ascii_case(authority));
        if differs || authority.contains(&b'@') {
            return Err(Reason::Authority);
        }
        known = Some(authority);
    }
    if let Some(authority) = known {
        // RFC 9110 §4.2.3: a host's name is the same in any case.
        put(key, Tag::Authority, authority);
        let value = key.len() - authority.len();
        key[value..].make_ascii_lowercase();
    }
    Ok(())
}

/// All that a request says of its authority, as it came: the URI's first.
fn authorities(parts: &Parts) -> impl Iterator<Item = &[u8]> {
    let of_uri = parts.uri.authority().map(|host| host.as_str().as_bytes());
    let hosts = parts.headers.get_all(header::HOST).iter();
    of_uri.into_iter().chain(hosts.map(HeaderValue::as_bytes))
}

/// An authority without a port that says nothing: an empty one (RFC 3986 §6.2.3), or the default one of the scheme.
///
/// An HTTP/1.1 server does not hear the scheme. Then both ports go: over TLS `Host: h:443` is `https://h/`, in clear text
/// `Host: h:80` is `http://h/`, and these are one key in any case. So that a client cannot choose the links that a handler
/// makes of it, the inner service sees the authority without the port, too: [`show_authority`].
fn without_default_port<'a>(authority: &'a [u8], scheme: Option<&str>) -> &'a [u8] {
    let may_be = |known: &str| scheme.is_none_or(|scheme| scheme.eq_ignore_ascii_case(known));
    let host = match authority {
        [host @ .., b':'] => host,
        [host @ .., b':', b'8', b'0'] if may_be("http") => host,
        [host @ .., b':', b'4', b'4', b'3'] if may_be("https") => host,
        _ => return authority,
    };
    let is_host = match host {
        [] => false,
        [b'[', .., b']'] => true,
        _ => !host.contains(&b':'),
    };
    if is_host { host } else { authority }
}

/// An authority as purges compare it: without a user's name, and without the default port of either scheme.
pub(super) fn comparable_authority(authority: &[u8]) -> Vec<u8> {
    let host = authority.rsplit(|b| *b == b'@').next().unwrap_or_default();
    let mut host = normalized(without_default_port(host, None));
    host.make_ascii_lowercase();
    host
}

/// Host and port that a request is for, as purges compare them. `None` if it names none.
pub(crate) fn authority(parts: &Parts) -> Option<String> {
    let authority = authorities(parts).next()?;
    String::from_utf8(comparable_authority(authority)).ok()
}

/// Each authority that a request names, once, as purges compare them.
pub(crate) fn all_authorities(parts: &Parts) -> Vec<Vec<u8>> {
    let mut known: Vec<_> = authorities(parts).map(comparable_authority).collect();
    known.dedup();
    known
}

/// Whether a request names exactly one authority, so that it can be found by that.
pub(crate) fn names_one_authority(parts: &Parts) -> bool {
    let known = all_authorities(parts);
    matches!(&known[..], [known] if !known.is_empty())
}

/// As [`authority`], of a target of this scheme, whose port is compared.
pub(crate) fn canonical_authority(authority: &str, scheme: Option<&str>) -> String {
    // RFC 9110 §4.2: what stands before an `@` is not part of it.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = without_default_port(authority.as_bytes(), scheme);
    authority[..host.len()].to_ascii_lowercase()
}

/// Puts purge forms of an authority into a key.
pub(super) fn put_comparable_authority(key: &mut KeyBytes, authority: &[u8]) {
    put(key, Tag::Authority, &comparable_authority(authority));
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

/// Lets the inner service see no default port in the authority where there is none in the key; behind a seal no upper case
/// either. Everything else of it is in the key. `Host` stays as it is if it is in the key by itself.
pub(super) fn show_authority(
    parts: &mut Parts,
    rule: &SchemeRule,
    is_sealed: bool,
    shows_host: bool,
) {
    let is_repeated = parts.headers.get_all(header::HOST).iter().nth(1).is_some();
    let is_shown = |authority: &[u8]| is_shown(authority, rule.of(parts), is_sealed);
    if !is_repeated && authorities(parts).all(is_shown) {
        return;
    }
    let scheme = rule.of(parts).map(str::to_owned);
    let shown = |authority: &[u8]| {
        let mut shown = without_default_port(authority, scheme.as_deref()).to_vec();
        if is_sealed {
            shown.make_ascii_lowercase();
        }
        shown
    };
    if shows_host
        && let Some(host) = parts.headers.get(header::HOST)
        && let Ok(mut line) = HeaderValue::from_bytes(&shown(host.as_bytes()))
    {
        line.set_sensitive(host.is_sensitive());
        // Where there are several, they are the same one.
        parts.headers.insert(header::HOST, line);
    }
    parts.uri = uri_with_authority(&parts.uri, shown);
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get_mut::<axum::extract::OriginalUri>() {
        original.0 = uri_with_authority(&original.0, shown);
    }
}

fn is_shown(authority: &[u8], scheme: Option<&str>, is_sealed: bool) -> bool {
    let has_its_case = is_sealed && authority.iter().any(u8::is_ascii_uppercase);
    !has_its_case && without_default_port(authority, scheme).len() == authority.len()
}

/// Whether the inner service sees the authority as it came, without a seal.
pub(super) fn shows_authority(parts: &Parts, rule: &SchemeRule) -> bool {
    authorities(parts).all(|authority| is_shown(authority, rule.of(parts), false))
}

fn uri_with_authority(uri: &Uri, shown: impl Fn(&[u8]) -> Vec<u8>) -> Uri {
    let authority = uri.authority().map(|host| shown(host.as_str().as_bytes()));
    let Some(authority) = authority.and_then(|host| Authority::from_maybe_shared(host).ok()) else {
        return uri.clone();
    };
    let mut pieces = uri.clone().into_parts();
    pieces.authority = Some(authority);
    Uri::from_parts(pieces).unwrap_or_else(|_| uri.clone())
}

/// A path or query as purges compare it (RFC 3986 §6.2.2.1, §6.2.2.2): escapes in upper case, and none of what needs none.
pub(super) fn normalized(text: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                [*high, *low]
            }
            _ => {
                normal.push(*first);
                continue;
            }
        };
        rest = &tail[2..];
        let byte = super::query::unescape(&[b'%', escaped[0], escaped[1]])[0];
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            normal.push(byte);
        } else {
            normal.push(b'%');
            normal.extend(escaped.map(|digit| digit.to_ascii_uppercase()));
        }
    }
    normal
}

/// As [`normalized`], and without `.` and `..` as segments (RFC 3986 §6.2.2.3).
pub(super) fn normalized_path(path: &[u8]) -> Vec<u8> {
    let path = normalized(path);
    if !path.windows(2).any(|pair| pair == b"/.") {
        return path;
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|b| *b == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." => {}
            // What stands before the first slash stays: it is nothing.
            b".." => kept.truncate(kept.len().saturating_sub(1).max(1)),
            _ => kept.push(segment),
        }
        let is_last = segments.peek().is_none();
        if is_last && matches!(segment, b"." | b"..") {
            kept.push(b"");
        }
    }
    kept.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(authority: &str, scheme: Option<&str>) -> String {
        let host = without_default_port(authority.as_bytes(), scheme);
        String::from_utf8(host.to_vec()).unwrap()
    }

    #[test]
    fn the_default_port_of_a_known_scheme_is_dropped_and_of_an_unknown_one_either() {
        for (authority, http, https, unknown) in [
            ("h", "h", "h", "h"),
            ("h:", "h", "h", "h"),
            ("h:80", "h", "h:80", "h"),
            ("h:443", "h:443", "h", "h"),
            ("h:8080", "h:8080", "h:8080", "h:8080"),
            ("h:080", "h:080", "h:080", "h:080"),
            ("[::1]:80", "[::1]", "[::1]:80", "[::1]"),
            ("[::80]", "[::80]", "[::80]", "[::80]"),
            // These are no hosts: nothing is made of them.
            ("::80", "::80", "::80", "::80"),
            ("h:80:80", "h:80:80", "h:80:80", "h:80:80"),
            (":80", ":80", ":80", ":80"),
            (":", ":", ":", ":"),
            ("", "", "", ""),
        ] {
            assert_eq!(without(authority, Some("http")), http, "{authority}");
            assert_eq!(without(authority, Some("https")), https, "{authority}");
            assert_eq!(without(authority, None), unknown, "{authority}");
            assert_eq!(
                without(authority, Some("ftp")).len(),
                authority
                    .trim_end_matches(':')
                    .len()
                    .max(usize::from(authority.starts_with(':'))),
                "{authority}"
            );
        }
    }

    #[test]
    fn purges_compare_authorities_without_user_case_and_default_ports() {
        for authority in ["h", "H", "h:80", "h:443", "h:", "user@h", "a:b@H:80", "%68"] {
            assert_eq!(
                comparable_authority(authority.as_bytes()),
                b"h",
                "{authority}"
            );
        }
        for authority in ["h:8080", "g", "h:81", ""] {
            assert_ne!(
                comparable_authority(authority.as_bytes()),
                b"h",
                "{authority}"
            );
        }
    }

    // RFC 3986 §6.2.2.
    #[test]
    fn equivalent_spellings_of_a_path_have_one_normal_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%61%2Fb", "/a%2Fb"),
            ("/%61%2fb", "/a%2Fb"),
            ("/%7euser/%2D%2e%5F", "/~user/-._"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/../../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a/.b", "/a/.b"),
            ("/a//b", "/a//b"),
            ("*", "*"),
        ] {
            let made = normalized_path(path.as_bytes());
            assert_eq!(String::from_utf8(made).unwrap(), normal, "{path}");
            let again = normalized_path(normal.as_bytes());
            assert_eq!(String::from_utf8(again).unwrap(), normal, "again {path}");
        }
    }

    #[test]
    fn a_query_is_normalized_as_far_as_its_escapes_go() {
        for (query, normal) in [
            ("a=%7e&b=%2f", "a=~&b=%2F"),
            ("a=../b", "a=../b"),
            ("a=+%20", "a=+%20"),
        ] {
            let made = normalized(query.as_bytes());
            assert_eq!(String::from_utf8(made).unwrap(), normal, "{query}");
        }
    }
}

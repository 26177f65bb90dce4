//! `Cache-Control` of a response, as far as a policy of the application's own heeds it (RFC 9111 §5.2.2).

use std::time::Duration;

use http::{HeaderMap, header};

use crate::{entry::delta_seconds, status::Reason};

/// What a response says of its being shared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CacheControl {
    /// Requests with credentials may have it: `public`, `s-maxage` or `must-revalidate` (RFC 9111 §3.5).
    pub(super) for_authorized: bool,
    pub(super) s_maxage: Option<Duration>,
    /// Once stale, it may not be reused: `must-revalidate` or `proxy-revalidate`. `s-maxage` says so too to caches by the
    /// book; here it is how a handler chooses a lifetime.
    pub(super) must_revalidate: bool,
}

impl CacheControl {
    /// # Errors
    ///
    /// The reason for which the response may not be shared. What cannot be read is a reason too.
    pub(super) fn of(response: &HeaderMap) -> Result<Self, Reason> {
        let mut read = Self::default();
        for line in response.get_all(header::CACHE_CONTROL) {
            let mut rest = line.as_bytes();
            while let Some((name, value, after)) = member(rest)? {
                read.heed(name, value)?;
                rest = after;
            }
        }
        Ok(read)
    }

    fn heed(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), Reason> {
        match name.to_ascii_lowercase().as_slice() {
            // Also with an argument: `private="set-cookie"` lets a cache store the rest, and need not be used.
            b"no-store" => return Err(Reason::NoStore),
            b"private" => return Err(Reason::Private),
            b"no-cache" => return Err(Reason::NoCache),
            b"public" => self.for_authorized = true,
            b"must-revalidate" => {
                self.for_authorized = true;
                self.must_revalidate = true;
            }
            b"proxy-revalidate" => self.must_revalidate = true,
            b"s-maxage" => {
                self.for_authorized = true;
                // RFC 9111 §4.2.1: what is not a number is stale, and of several the shortest is safe.
                let seconds = value.and_then(delta_seconds).unwrap_or(0);
                let lifetime = Duration::from_secs(seconds);
                self.s_maxage = Some(self.s_maxage.map_or(lifetime, |other| other.min(lifetime)));
            }
            _ => {}
        }
        Ok(())
    }
}

type Member<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

/// The first member of a list, with its argument (without quotes), and what follows. `None` at the end.
fn member(list: &[u8]) -> Result<Option<Member<'_>>, Reason> {
    let separator = |b: &u8| matches!(b, b',' | b' ' | b'\t');
    let list = &list[list
        .iter()
        .position(|b| !separator(b))
        .unwrap_or(list.len())..];
    if list.is_empty() {
        return Ok(None);
    }
    let name_end = list
        .iter()
        .position(|&b| !is_token(b))
        .unwrap_or(list.len());
    let (name, rest) = list.split_at(name_end);
    if name.is_empty() {
        return Err(Reason::CacheControl);
    }
    let (value, rest) = match rest {
        [b'=', b'"', quoted @ ..] => {
            let end = closing_quote(quoted).ok_or(Reason::CacheControl)?;
            (Some(&quoted[..end]), &quoted[end + 1..])
        }
        [b'=', plain @ ..] => {
            let end = plain
                .iter()
                .position(|&b| !is_token(b))
                .unwrap_or(plain.len());
            (Some(&plain[..end]), &plain[end..])
        }
        _ => (None, rest),
    };
    match rest.trim_ascii_start().first() {
        None | Some(b',') => Ok(Some((name, value, rest))),
        Some(_) => Err(Reason::CacheControl),
    }
}

fn closing_quote(quoted: &[u8]) -> Option<usize> {
    let mut escaped = false;
    quoted.iter().position(|&b| {
        let closes = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        closes
    })
}

/// RFC 9110 §5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Result<CacheControl, Reason> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                header::CACHE_CONTROL,
                http::HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        CacheControl::of(&headers)
    }

    #[test]
    fn what_forbids_sharing_is_found_wherever_it_stands() {
        for (line, reason) in [
            ("no-store", Reason::NoStore),
            ("max-age=60, NO-STORE", Reason::NoStore),
            ("  ,,\tNo-Store ,", Reason::NoStore),
            ("no-store=\"x\"", Reason::NoStore),
            ("no-store=1", Reason::NoStore),
            ("private", Reason::Private),
            ("Private=\"set-cookie, x\"", Reason::Private),
            ("no-CaChE", Reason::NoCache),
            ("ext=\"a, b\", no-cache", Reason::NoCache),
            ("public, private", Reason::Private),
        ] {
            assert_eq!(of(&[line]), Err(reason), "{line}");
        }
        assert_eq!(of(&["public", "private"]), Err(Reason::Private));
    }

    #[test]
    fn what_cannot_be_read_forbids_sharing() {
        for line in [
            "no-store;max-age=1",
            "ext=\"no-store",
            "=1",
            "\u{fc}",
            "max-age 60",
            "a=\"b\"c",
            "\"no-store\"",
        ] {
            assert_eq!(of(&[line]), Err(Reason::CacheControl), "{line}");
        }
    }

    #[test]
    fn what_is_quoted_or_unknown_is_no_directive() {
        for line in [
            "",
            " , ",
            "max-age=60",
            "ext=\"no-store\"",
            "ext=\"a\\\", private, \"",
            "x-no-store",
            "no-storex",
        ] {
            assert_eq!(of(&[line]), Ok(CacheControl::default()), "{line}");
        }
    }

    #[test]
    fn s_maxage_is_read_and_the_shortest_counts() {
        let seconds = |lines: &[&str]| of(lines).unwrap().s_maxage.map(|d| d.as_secs());
        assert_eq!(seconds(&["s-maxage=60"]), Some(60));
        assert_eq!(seconds(&["S-MaxAge=\"60\""]), Some(60));
        assert_eq!(
            seconds(&["s-maxage=60, s-maxage=30", "s-maxage=90"]),
            Some(30)
        );
        assert_eq!(seconds(&["s-maxage=-1"]), Some(0));
        assert_eq!(seconds(&["s-maxage=1.5"]), Some(0));
        assert_eq!(seconds(&["s-maxage"]), Some(0));
        assert_eq!(seconds(&["s-maxage='60'"]), Some(0));
        assert_eq!(seconds(&["max-age=60"]), None);
        assert!(of(&["s-maxage=1"]).unwrap().for_authorized);
        assert!(of(&["must-revalidate"]).unwrap().for_authorized);
        assert!(of(&["Public"]).unwrap().for_authorized);
        assert!(!of(&["max-age=1"]).unwrap().for_authorized);
    }
}

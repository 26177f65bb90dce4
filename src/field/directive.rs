//! A list of directives: names, some with an argument, which is a token or a quoted string (RFC 9111 §5.2).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header::ValueIter};

use super::number::delta_seconds;

/// What cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The directives that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Immutable,
    MaxAge,
    MaxStale,
    MinFresh,
    MustRevalidate,
    MustUnderstand,
    NoCache,
    NoStore,
    OnlyIfCached,
    Private,
    ProxyRevalidate,
    Public,
    SMaxage,
    StaleIfError,
    StaleWhileRevalidate,
}

impl Name {
    const ALL: [(&str, Self); 15] = [
        ("immutable", Self::Immutable),
        ("max-age", Self::MaxAge),
        ("max-stale", Self::MaxStale),
        ("min-fresh", Self::MinFresh),
        ("must-revalidate", Self::MustRevalidate),
        ("must-understand", Self::MustUnderstand),
        ("no-cache", Self::NoCache),
        ("no-store", Self::NoStore),
        ("only-if-cached", Self::OnlyIfCached),
        ("private", Self::Private),
        ("proxy-revalidate", Self::ProxyRevalidate),
        ("public", Self::Public),
        ("s-maxage", Self::SMaxage),
        ("stale-if-error", Self::StaleIfError),
        ("stale-while-revalidate", Self::StaleWhileRevalidate),
    ];

    /// RFC 9111 §5.2: in whatever case.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let mut known = Self::ALL.iter();
        known
            .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))
            .map(|(_, name)| *name)
    }
}

/// One member of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directive<'a> {
    /// `None` if it means nothing here.
    pub(super) name: Option<Name>,
    /// Without quotes.
    pub(super) argument: Option<Cow<'a, [u8]>>,
}

impl Directive<'_> {
    pub(super) fn is_bare(&self) -> bool {
        self.argument.is_none()
    }

    /// RFC 9111 §5.2: a number may be quoted.
    pub(super) fn seconds(&self) -> Option<u64> {
        self.argument.as_deref().and_then(delta_seconds)
    }
}

/// All directives of all lines of a field. Where a line cannot be read, it says so once, and goes on with the next line.
pub(super) fn directives<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Directives<'a> {
    Directives {
        lines: headers.get_all(name).iter(),
        rest: b"",
    }
}

#[derive(Debug)]
pub(super) struct Directives<'a> {
    lines: ValueIter<'a, HeaderValue>,
    rest: &'a [u8],
}

impl<'a> Iterator for Directives<'a> {
    type Item = Result<Directive<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.rest = without_separators(self.rest);
            if self.rest.is_empty() {
                self.rest = self.lines.next()?.as_bytes();
                continue;
            }
            let read = directive(self.rest);
            self.rest = read.as_ref().map_or(b"", |(_, rest)| rest);
            return Some(read.map(|(directive, _)| directive).ok_or(Malformed));
        }
    }
}

/// RFC 9110 §5.6.1.2: members may be empty.
fn without_separators(list: &[u8]) -> &[u8] {
    let start = list.iter().position(|b| !b", \t".contains(b));
    &list[start.unwrap_or(list.len())..]
}

/// The directive that a list begins with, and what follows.
fn directive(list: &[u8]) -> Option<(Directive<'_>, &[u8])> {
    let (name, rest) = token(list);
    if name.is_empty() {
        return None;
    }
    let (argument, rest) = match rest {
        [b'=', b'"', rest @ ..] => {
            let (argument, rest) = quoted(rest)?;
            (Some(argument), rest)
        }
        [b'=', rest @ ..] => {
            let (argument, rest) = token(rest);
            (Some(Cow::Borrowed(argument)), rest)
        }
        _ => (None, rest),
    };
    let name = Name::of(name);
    let ends = matches!(rest.trim_ascii_start().first(), None | Some(b','));
    ends.then_some((Directive { name, argument }, rest))
}

/// The token that a text begins with, which may be empty, and what follows.
fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&b| !is_token(b));
    text.split_at(end.unwrap_or(text.len()))
}

/// RFC 9110 §5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// What stands before the closing quote, and what follows that. RFC 9110 §5.6.4: a backslash stands before what is
/// meant as it is.
fn quoted(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut escaped = false;
    let end = text.iter().position(|&b| {
        let closes = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        closes
    })?;
    let (inside, rest) = (&text[..end], &text[end + 1..]);
    if !inside.contains(&b'\\') {
        return Some((Cow::Borrowed(inside), rest));
    }
    let mut plain = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(&b) = bytes.next() {
        let meant = if b == b'\\' { bytes.next() } else { Some(&b) };
        plain.extend(meant);
    }
    Some((Cow::Owned(plain), rest))
}

#[cfg(test)]
mod tests {
    use http::header::CACHE_CONTROL;

    use super::*;

    const MAX_AGE: Option<Name> = Some(Name::MaxAge);

    /// The directives of some lines, `None` where one cannot be read.
    fn read(lines: &[&str]) -> Vec<Option<(Option<Name>, Option<String>)>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(CACHE_CONTROL, line);
        }
        let text = |argument: Cow<'_, [u8]>| String::from_utf8(argument.into_owned()).unwrap();
        directives(&headers, &CACHE_CONTROL)
            .map(|directive| directive.ok().map(|d| (d.name, d.argument.map(text))))
            .collect()
    }

    #[test]
    fn a_directive_has_no_argument_a_token_or_a_quoted_string() {
        let max_age = |argument: &str| vec![Some((MAX_AGE, Some(argument.to_owned())))];
        assert_eq!(read(&["max-age"]), [Some((MAX_AGE, None))]);
        for (line, argument) in [
            ("max-age=1", "1"),
            ("MaX-aGe=1", "1"),
            ("max-age=", ""),
            ("max-age='1'", "'1'"),
            ("max-age=\"1\"", "1"),
            ("max-age=\"\"", ""),
            ("max-age=\"a, b = c\"", "a, b = c"),
            (r#"max-age="\"\\\1\,""#, r#""\1,"#),
            (r#"max-age="\\""#, r"\"),
            ("max-age=\" \u{fc}\"\t", " \u{fc}"),
        ] {
            assert_eq!(read(&[line]), max_age(argument), "{line}");
        }
    }

    #[test]
    fn a_list_has_empty_members_and_many_lines() {
        let bare = |name| Some((name, None));
        assert_eq!(read(&[]), []);
        assert_eq!(read(&["", " ,\t, "]), []);
        assert_eq!(
            read(&[",, max-age ,x\t,", "", ",max-stale"]),
            [bare(MAX_AGE), bare(None), bare(Some(Name::MaxStale))]
        );
        assert_eq!(
            read(&[r#"x="a, max-age=1, \", b=",no-store"#]),
            [
                Some((None, Some("a, max-age=1, \", b=".to_owned()))),
                bare(Some(Name::NoStore))
            ]
        );
    }

    #[test]
    fn a_line_ends_where_it_cannot_be_read() {
        for line in [
            "max-age=1;x, max-stale",
            "max-age=1 max-stale",
            "max-age =1",
            "max-age= 1",
            "max-age=\"1",
            r#"max-age="1\""#,
            "max-age=\"1\"2",
            "=1, max-age",
            "\"max-age\"",
            "\u{fc}",
            "max-age\u{fc}",
            "max-age=\u{fc}",
            "(max-age)",
            "max-age=1=2",
        ] {
            assert_eq!(read(&[line]), [None], "{line}");
            assert_eq!(
                read(&["public", line, "private, "]),
                [
                    Some((Some(Name::Public), None)),
                    None,
                    Some((Some(Name::Private), None))
                ],
                "{line}"
            );
        }
        assert_eq!(read(&["max-age=1, (", "x"]).len(), 3);
    }

    #[test]
    fn each_name_is_found_by_itself_alone() {
        for (text, name) in Name::ALL {
            assert_eq!(Name::of(text.as_bytes()), Some(name));
            assert_eq!(Name::of(text.to_uppercase().as_bytes()), Some(name));
            for other in [format!("{text}s"), format!("x{text}"), text[1..].into()] {
                assert_eq!(Name::of(other.as_bytes()), None, "{other}");
            }
        }
    }
}

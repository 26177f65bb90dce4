//! The query of a request, whole or in part.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::encode::{KeyBytes, Tag, put, put_optional};

/// Which parameters are in the key.
#[derive(Debug, Clone)]
pub(super) enum Query {
    All,
    Only(Vec<Cow<'static, str>>),
    Except {
        names: Vec<Cow<'static, str>>,
        prefixes: Vec<Cow<'static, str>>,
    },
}

impl Query {
    pub(super) fn only<N: Into<Cow<'static, str>>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut names: Vec<_> = names.into_iter().map(Into::into).collect();
        names.sort_unstable();
        names.dedup();
        Self::Only(names)
    }

    pub(super) fn except<N: Into<Cow<'static, str>>>(names: impl IntoIterator<Item = N>) -> Self {
        let (prefixes, names): (Vec<Cow<'static, str>>, Vec<_>) = names
            .into_iter()
            .map(Into::into)
            .partition(|name| name.ends_with('*'));
        let prefixes = prefixes
            .into_iter()
            .map(|p| p[..p.len() - 1].to_owned().into())
            .collect();
        Self::Except { names, prefixes }
    }

    pub(super) fn encode(&self, key: &mut KeyBytes, query: Option<&str>) {
        let selected = match self {
            Self::All => None,
            _ if query.is_some_and(|q| !is_plain(q)) => None,
            Self::Only(names) if query.is_some_and(|q| brackets_a_selected(q, names)) => None,
            Self::Only(names) => Some(select(query, |name| {
                names.iter().any(|n| n.as_bytes() == name)
            })),
            Self::Except { names, prefixes } => Some(select(query, |name| {
                !names.iter().any(|n| n.as_bytes() == name)
                    && !prefixes.iter().any(|p| name.starts_with(p.as_bytes()))
            })),
        };
        match selected {
            Some(pairs) => {
                for (name, value) in &pairs {
                    put(key, Tag::Parameter, name);
                    put_optional(key, Tag::Value, *value);
                }
            }
            None => {
                put(key, Tag::RawQuery, &[]);
                put_optional(key, Tag::Value, query.map(str::as_bytes));
            }
        }
    }
}

type Pairs<'a> = SmallVec<[(Cow<'a, [u8]>, Option<&'a [u8]>); 8]>;

/// The chosen parameters, ordered by name; the values of a repeated name stay in their order. Names are compared as
/// the handler will see them, decoded; values are kept as they come.
fn select(query: Option<&str>, chosen: impl Fn(&[u8]) -> bool) -> Pairs<'_> {
    let mut pairs: Pairs<'_> = pieces(query.unwrap_or_default())
        .map(|(name, value)| (decode(name), value))
        .filter(|(name, _)| chosen(name))
        .collect();
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    pairs
}

fn pieces(query: &str) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let pieces = query
        .as_bytes()
        .split(|&b| b == b'&')
        .filter(|piece| !piece.is_empty());
    pieces.map(|piece| match piece.iter().position(|&b| b == b'=') {
        Some(at) => (&piece[..at], Some(&piece[at + 1..])),
        None => (piece, None),
    })
}

/// Whether every reader of a query takes this one apart in the same way: no `;`, which some take for `&`, and every
/// `%` with its two digits. Any other query is in the key as a whole.
fn is_plain(query: &str) -> bool {
    let bytes = query.as_bytes();
    bytes.iter().enumerate().all(|(at, &b)| match b {
        b';' => false,
        b'%' => bytes
            .get(at + 1..at + 3)
            .is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)),
        _ => true,
    })
}

/// Whether a parameter is written `name[…]` for a chosen name: some readers take it for a part of `name`.
fn brackets_a_selected(query: &str, names: &[Cow<'static, str>]) -> bool {
    pieces(query).any(|(name, _)| {
        let name = decode(name);
        names.iter().any(|chosen| {
            name.strip_prefix(chosen.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&b'['))
        })
    })
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%41` a byte.
fn decode(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.iter().any(|&b| b == b'%' || b == b'+') {
        return Cow::Borrowed(name);
    }
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                decoded.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => decoded.push(*first),
        }
    }
    Cow::Owned(decoded)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit.to_ascii_lowercase().wrapping_sub(b'a')).wrapping_add(10) & 0xf,
    }
}

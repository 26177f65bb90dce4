//! The query of a request, whole or in part.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::encode::{KeyBytes, Tag, put_optional};

/// Which parameters are in the key.
#[derive(Debug, Clone, Default)]
pub(super) enum Query {
    #[default]
    All,
    Only(Names),
    Except(Names),
}

/// Names of parameters; one that ends in `*` stands for all that begin with it.
#[derive(Debug, Clone)]
pub(super) struct Names {
    whole: Vec<Cow<'static, str>>,
    prefixes: Vec<Cow<'static, str>>,
}

impl Names {
    fn new<N: Into<Cow<'static, str>>>(names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into);
        let (mut prefixes, whole): (Vec<Cow<'static, str>>, Vec<_>) =
            names.partition(|name| name.ends_with('*'));
        for prefix in &mut prefixes {
            *prefix = prefix[..prefix.len() - 1].to_owned().into();
        }
        Self { whole, prefixes }
    }

    fn contain(&self, name: &[u8]) -> bool {
        let mut prefixes = self.prefixes.iter();
        self.whole.iter().any(|known| known.as_bytes() == name)
            || prefixes.any(|prefix| name.starts_with(prefix.as_bytes()))
    }
}

/// Parameters, ordered by name; the values of a repeated name, and of `name[…]`, stay in their order. Names are compared
/// as the handler will see them, decoded; values are kept as they come.
type Pairs<'a> = SmallVec<[(Cow<'a, [u8]>, Option<&'a [u8]>); 8]>;

impl Query {
    pub(super) fn only<N: Into<Cow<'static, str>>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::Only(Names::new(names))
    }

    pub(super) fn except<N: Into<Cow<'static, str>>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::Except(Names::new(names))
    }

    pub(super) fn put(&self, key: &mut KeyBytes, query: Option<&str>) {
        match self.select(query.unwrap_or_default()) {
            Some(pairs) => {
                for (name, value) in &pairs {
                    put_optional(key, Tag::Parameter, name, *value);
                }
            }
            None => put_optional(key, Tag::RawQuery, b"", query.map(str::as_bytes)),
        }
    }

    /// The query with nothing in it but what is in the key. `None` if that is all of it.
    pub(super) fn sealed(&self, query: &str) -> Option<String> {
        let pairs = self.select(query)?;
        let mut sealed = String::with_capacity(query.len());
        for (name, value) in &pairs {
            if !sealed.is_empty() {
                sealed.push('&');
            }
            for byte in &**name {
                encode(*byte, &mut sealed);
            }
            if let Some(value) = value.and_then(|value| std::str::from_utf8(value).ok()) {
                sealed.push('=');
                sealed.push_str(value);
            }
        }
        Some(sealed)
    }

    /// The parameters that are chosen. `None` if it is the whole query: because it was chosen, or because its readers
    /// may not agree on what is in it.
    fn select<'a>(&self, query: &'a str) -> Option<Pairs<'a>> {
        let chosen: &dyn Fn(&[u8]) -> bool = match self {
            Self::All => return None,
            _ if !is_plain(query) => return None,
            Self::Only(names) => &|name| names.contain(name),
            Self::Except(names) => &|name| !names.contain(name),
        };
        // Most queries have neither, and this runs on every hit.
        let may_have_brackets = query.bytes().any(|b| b == b'[' || b == b'%');
        if may_have_brackets && self.has_doubtful_brackets(query, chosen) {
            return None;
        }
        let mut pairs: Pairs<'a> = pieces(query)
            .map(|(name, value)| (decode(name), value))
            .filter(|(name, _)| chosen(name))
            .collect();
        // Stable: what is of one name stays in its order.
        pairs.sort_by(|(a, _), (b, _)| base(a).cmp(base(b)));
        Some(pairs)
    }

    /// Whether readers may not agree on what the brackets of a parameter mean, as far as that matters: some take `[name]`
    /// for `name`, to some an encoded bracket is none, and some take `name[…]`, which is not chosen, for a part of
    /// `name`, which is.
    fn has_doubtful_brackets(&self, query: &str, chosen: &dyn Fn(&[u8]) -> bool) -> bool {
        pieces(query).any(|(raw, _)| {
            let name = decode(raw);
            let mut escapes = raw.windows(3).filter(|bytes| bytes.starts_with(b"%5"));
            let encoded = escapes.any(|bytes| b"bBdD".contains(&bytes[2]));
            name.starts_with(b"[")
                || (encoded && (chosen(&name) || chosen(base(&name))))
                || self.chooses_a_start_of(&name)
        })
    }

    fn chooses_a_start_of(&self, name: &[u8]) -> bool {
        let Self::Only(names) = self else {
            return false;
        };
        let mut brackets = name.iter().enumerate().filter(|(_, b)| **b == b'[');
        brackets.any(|(at, _)| names.contain(&name[..at])) && !names.contain(name)
    }
}

/// The name that some readers take `name[…]` for.
fn base(name: &[u8]) -> &[u8] {
    let end = name.iter().position(|&b| b == b'[').unwrap_or(name.len());
    &name[..end]
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

/// Whether every reader of a query takes this one apart in the same way, and nothing but ASCII is in it. Any other query is in the key
/// as a whole.
fn is_plain(query: &str) -> bool {
    query.is_ascii() && is_read_in_one_way(query)
}

/// Whether every reader of a query takes this one apart in the same way: no `;`, which some take for `&`, and every `%` with its
/// two digits.
pub(super) fn is_read_in_one_way(query: &str) -> bool {
    let bytes = query.as_bytes();
    bytes.iter().enumerate().all(|(at, &b)| match b {
        b';' => false,
        b'%' => bytes
            .get(at + 1..at + 3)
            .is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)),
        _ => true,
    })
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%41` a byte.
fn decode(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'+') {
        return unescape(name);
    }
    let spaced: Vec<u8> = name
        .iter()
        .map(|&b| if b == b'+' { b' ' } else { b })
        .collect();
    Cow::Owned(unescape(&spaced).into_owned())
}

/// `%41` is a byte.
pub(super) fn unescape(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'%') {
        return Cow::Borrowed(name);
    }
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
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

/// The reverse of `decode`. It is never longer than what was decoded, so that it fits where that was.
fn encode(byte: u8, to: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    match byte {
        b' ' => to.push('+'),
        b'!' | b'$' | b'\''..=b'*' | b','..=b':' | b'?'..=b'~' => to.push(byte.into()),
        _ => {
            to.push('%');
            to.push(DIGITS[usize::from(byte >> 4)].into());
            to.push(DIGITS[usize::from(byte & 0xf)].into());
        }
    }
}

//! A header in the key: as it comes, or in a form that many spellings share.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header::GetAll};

use smallvec::SmallVec;

use super::encode::{KeyBytes, Tag, put};
use crate::error::BuildError;

/// A header that is in the key.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) name: HeaderName,
    pub(super) normalize: Option<Normalize>,
}

impl Header {
    pub(super) fn as_it_comes(name: HeaderName) -> Self {
        Self {
            name,
            normalize: None,
        }
    }

    pub(super) fn is_as_it_comes(&self) -> bool {
        self.normalize.is_none()
    }

    /// The lines that are in the key, and that the inner service sees.
    pub(super) fn put(&self, key: &mut KeyBytes, headers: &HeaderMap) {
        put(key, Tag::Header, self.name.as_str().as_bytes());
        let lines = headers.get_all(&self.name);
        match self.form(headers) {
            Form::AsItComes => lines
                .iter()
                .for_each(|line| put(key, Tag::Value, line.as_bytes())),
            Form::One(line) => put(key, Tag::Value, line.as_bytes()),
            Form::Absent => {}
        }
    }

    /// Lets the inner service see the header as it is in the key.
    pub(super) fn show(&self, headers: &mut HeaderMap) {
        let is_sensitive = any_sensitive(headers, &self.name);
        match self.form(headers) {
            Form::AsItComes => {}
            Form::One(mut line) => {
                line.set_sensitive(is_sensitive || line.is_sensitive());
                headers.insert(&self.name, line);
            }
            Form::Absent => drop(headers.remove(&self.name)),
        }
    }

    fn form(&self, headers: &HeaderMap) -> Form {
        match &self.normalize {
            Some(normalize) => normalize.form(&headers.get_all(&self.name)),
            None => Form::AsItComes,
        }
    }
}

/// Whether a line of this header is marked so.
pub(crate) fn any_sensitive(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(HeaderValue::is_sensitive)
}

/// How a header's many spellings become few, so that they share an answer.
///
/// The inner service sees the header in its normal form too: so what it answers depends on no more than the key has.
///
/// # Examples
///
/// ```
/// use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE};
/// use tower_response_cache::{Key, key::Normalize};
///
/// # fn main() -> Result<(), tower_response_cache::BuildError> {
/// let key = Key::new()
///     .header_as(ACCEPT_ENCODING, Normalize::codings(["br", "gzip"])?)
///     .header_as(ACCEPT_LANGUAGE, Normalize::languages(["en", "de"])?);
/// # let _ = key;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Normalize(Rule);

#[derive(Clone)]
enum Rule {
    Codings(Arc<[HeaderValue]>),
    Languages(Arc<[HeaderValue]>),
    CaseAndSpace,
    GrpcType,
    GrpcCodings,
    With(Normal),
}

type Normal = Arc<dyn Fn(&GetAll<'_, HeaderValue>) -> Option<HeaderValue> + Send + Sync>;

/// What a header is in its normal form.
enum Form {
    AsItComes,
    One(HeaderValue),
    Absent,
}

impl Normalize {
    /// `Accept-Encoding`, as the one of these codings that the client likes best, or `identity` (RFC 9110 §12.5.3).
    /// Among those that it likes equally, the first one counts. A client that says nothing, or names `identity` and likes it
    /// better than any of these, gets `identity`; what cannot be read, or forbids `identity` and takes none of these, stays as it
    /// comes.
    ///
    /// # Errors
    ///
    /// If a coding is not a token.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::key::Normalize;
    /// assert!(Normalize::codings(["zstd", "br", "gzip"]).is_ok());
    /// assert!(Normalize::codings(["br, gzip"]).is_err());
    /// ```
    pub fn codings<C: AsRef<str>>(
        offered: impl IntoIterator<Item = C>,
    ) -> Result<Self, BuildError> {
        Ok(Self(Rule::Codings(tokens(offered)?)))
    }

    /// `Accept-Language`, as the one of these languages that the client likes best (RFC 9110 §12.5.4): a range is
    /// matched by itself and by what begins with it (`de` by `de-AT`), and where nothing does, by its shorter forms
    /// (`de-AT` by `de`; RFC 4647 §3.4); `*` by what no other range matches. What is refused (`de;q=0`) is never chosen. Where none
    /// is liked, or the client says nothing, it is the first that is not refused. What cannot be read, or refuses all of
    /// these, stays as it comes.
    ///
    /// # Errors
    ///
    /// If there is no language, or one is not a token.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::key::Normalize;
    /// assert!(Normalize::languages(["en", "de", "de-AT"]).is_ok());
    /// assert!(Normalize::languages([""]).is_err());
    /// ```
    pub fn languages<L: AsRef<str>>(
        offered: impl IntoIterator<Item = L>,
    ) -> Result<Self, BuildError> {
        let offered = tokens(offered)?;
        if offered.is_empty() {
            return Err(BuildError::new(
                "no language is offered",
                "name at least the one in which the service answers when it knows no better",
            ));
        }
        Ok(Self(Rule::Languages(offered)))
    }

    /// A header in which case does not matter, nor white space around commas, semicolons and equal signs. Several
    /// lines, and what has quotes or is not ASCII, stay as they come.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_response_cache::{Key, key::Normalize};
    ///
    /// let key = Key::new().header_as(HeaderName::from_static("x-device"), Normalize::case_and_space());
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn case_and_space() -> Self {
        Self(Rule::CaseAndSpace)
    }

    /// What this closure makes of the header's lines; `None` is an absent header. It runs on every request, also on
    /// hits, and once more on a miss: it must say the same each time.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{HeaderValue, header::USER_AGENT};
    /// use tower_response_cache::{Key, key::Normalize};
    ///
    /// let device = Normalize::with(|lines| {
    ///     let mobile = lines.iter().any(|line| line.as_bytes().windows(6).any(|word| word == b"Mobile"));
    ///     Some(HeaderValue::from_static(if mobile { "mobile" } else { "desktop" }))
    /// });
    /// let key = Key::new().header_as(USER_AGENT, device);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn with<F>(normal: F) -> Self
    where
        F: Fn(&GetAll<'_, HeaderValue>) -> Option<HeaderValue> + Send + Sync + 'static,
    {
        Self(Rule::With(Arc::new(normal)))
    }

    /// The `Content-Type` of a gRPC call: `application/grpc+proto` is `application/grpc`.
    pub(super) fn grpc_type() -> Self {
        Self(Rule::GrpcType)
    }

    /// `grpc-accept-encoding` as a set: order, white space and `identity`, which is always accepted, do not matter.
    pub(super) fn grpc_codings() -> Self {
        Self(Rule::GrpcCodings)
    }

    fn form(&self, lines: &GetAll<'_, HeaderValue>) -> Form {
        let found = match &self.0 {
            Rule::Codings(offered) => best_coding(lines, offered),
            Rule::Languages(offered) => best_language(lines, offered),
            Rule::CaseAndSpace => one_spelling(lines),
            Rule::GrpcType => grpc_type(lines),
            Rule::GrpcCodings => return grpc_codings(lines),
            Rule::With(normal) => return normal(lines).map_or(Form::Absent, Form::One),
        };
        found.map_or(Form::AsItComes, Form::One)
    }
}

fn grpc_type(lines: &GetAll<'_, HeaderValue>) -> Option<HeaderValue> {
    let mut lines = lines.iter();
    let (Some(only), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let only = only.as_bytes().trim_ascii();
    let same = [&b"application/grpc"[..], b"application/grpc+proto"];
    let is_same = same.iter().any(|same| only.eq_ignore_ascii_case(same));
    is_same.then(|| HeaderValue::from_static("application/grpc"))
}

fn grpc_codings(lines: &GetAll<'_, HeaderValue>) -> Form {
    let members = lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b','));
    let mut names: SmallVec<[&[u8]; 8]> = members.collect();
    // The usual line is in its normal form already, and nothing is allocated for it.
    let is_name = |name: &&[u8]| name.trim_ascii() == *name && !name.is_empty();
    let is_one_line = lines.iter().nth(1).is_none();
    let is_normal = names.iter().all(is_name) && names.is_sorted_by(|a, b| a < b);
    if is_one_line && is_normal && !names.is_empty() && !names.contains(&&b"identity"[..]) {
        return Form::AsItComes;
    }
    for name in &mut names {
        *name = name.trim_ascii();
    }
    names.retain(|name| !name.is_empty() && **name != *b"identity");
    if names.is_empty() {
        return Form::Absent;
    }
    names.sort_unstable();
    names.dedup();
    HeaderValue::from_bytes(&names.join(&b","[..])).map_or(Form::AsItComes, Form::One)
}

impl fmt::Debug for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Codings(offered) => f.debug_tuple("Codings").field(offered).finish(),
            Rule::Languages(offered) => f.debug_tuple("Languages").field(offered).finish(),
            Rule::CaseAndSpace => f.write_str("CaseAndSpace"),
            Rule::GrpcType => f.write_str("GrpcType"),
            Rule::GrpcCodings => f.write_str("GrpcCodings"),
            Rule::With(_) => f.write_str("With(..)"),
        }
    }
}

fn tokens<T: AsRef<str>>(
    offered: impl IntoIterator<Item = T>,
) -> Result<Arc<[HeaderValue]>, BuildError> {
    let token = |name: T| {
        let name = name.as_ref();
        let is_one = is_token(name.as_bytes()) && !name.contains('*') && !name.starts_with('-');
        let value = is_one.then(|| HeaderValue::from_str(name).ok());
        value.flatten().ok_or(BuildError::new(
            "what is offered is not a token",
            "give one coding or language each, as it stands in a header: `gzip`, `de-AT`",
        ))
    };
    offered.into_iter().map(token).collect()
}

/// RFC 9110 §5.6.2, as far as codings and language ranges need it.
fn is_token(name: &[u8]) -> bool {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.+*".contains(b);
    !name.is_empty() && name.iter().all(is_plain)
}

/// What is longer than any client's list is not read: it costs something on every request.
const MAX_MEMBERS: usize = 64;

/// The members of a list with weights, in thousandths (RFC 9110 §12.4.2). `None` if any of it cannot be read, or it is
/// too long.
fn weighted<'a>(lines: &'a GetAll<'_, HeaderValue>) -> Option<Vec<(&'a [u8], u16)>> {
    let mut members = Vec::new();
    for line in lines {
        for member in line.as_bytes().split(|&b| b == b',') {
            let mut pieces = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
            let name = pieces.next().unwrap_or_default();
            let weight = match (pieces.next(), pieces.next()) {
                (None, _) if name.is_empty() => continue,
                (None, _) => 1000,
                (Some(weight), None) => thousandths(weight)?,
                _ => return None,
            };
            // Of two members of one name, readers may take either.
            let same = |(known, other): &(&[u8], u16)| {
                known.eq_ignore_ascii_case(name) && *other != weight
            };
            if !is_token(name) || members.len() == MAX_MEMBERS || members.iter().any(same) {
                return None;
            }
            members.push((name, weight));
        }
    }
    Some(members)
}

fn thousandths(weight: &[u8]) -> Option<u16> {
    let number = weight
        .strip_prefix(b"q=")
        .or_else(|| weight.strip_prefix(b"Q="))?;
    let (whole, decimals) = match number {
        [whole] => (whole, &[][..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut digits = decimals.iter().chain(std::iter::repeat(&b'0'));
    let mut total = match whole {
        b'0' | b'1' => u16::from(whole - b'0'),
        _ => return None,
    };
    for digit in digits.by_ref().take(3) {
        if !digit.is_ascii_digit() {
            return None;
        }
        total = total * 10 + u16::from(digit - b'0');
    }
    (total <= 1000).then_some(total)
}

const IDENTITY: &[u8] = b"identity";

fn best_coding(lines: &GetAll<'_, HeaderValue>, offered: &[HeaderValue]) -> Option<HeaderValue> {
    let members = weighted(lines)?;
    let weight_of = |coding: &[u8]| {
        let named = |name: &[u8]| {
            let mut same = members.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            same.next().map(|(_, weight)| *weight)
        };
        // RFC 9110 §8.4.1.3: the old name of gzip.
        let gzip = coding.eq_ignore_ascii_case(b"gzip");
        named(coding)
            .or_else(|| gzip.then(|| named(b"x-gzip")).flatten())
            .or_else(|| named(b"*"))
    };
    let liked = offered
        .iter()
        .filter_map(|coding| Some((coding, weight_of(coding.as_bytes())?)));
    let best = liked
        .filter(|(_, weight)| *weight > 0)
        .reduce(|best, next| if next.1 > best.1 { next } else { best });
    let named = members
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(IDENTITY));
    match best {
        Some((_, weight)) if named.is_some_and(|(_, identity)| *identity > weight) => {
            Some(HeaderValue::from_static("identity"))
        }
        Some((coding, _)) => Some(coding.clone()),
        None if weight_of(IDENTITY) == Some(0) => None,
        None => Some(HeaderValue::from_static("identity")),
    }
}

fn best_language(lines: &GetAll<'_, HeaderValue>, offered: &[HeaderValue]) -> Option<HeaderValue> {
    let mut members = weighted(lines)?;
    // RFC 4647 §3.3.1: of the ranges that match a language, the longest speaks of it.
    let said_of = |language: &HeaderValue| {
        let ranges = members.iter().filter(|(range, _)| *range != b"*");
        let matching = ranges.filter(|(range, _)| is_under(language, range));
        let longest = matching.max_by_key(|(range, _)| range.len());
        longest.map(|(_, weight)| *weight)
    };
    let star = members.iter().find(|(range, _)| *range == b"*");
    let star = star.map(|(_, weight)| *weight);
    let not_refused: Vec<_> = offered
        .iter()
        .map(|language| (language, said_of(language)))
        .filter(|(_, said)| said.or(star) != Some(0))
        .collect();
    members.retain(|(_, weight)| *weight > 0);
    // Stable: what is liked equally stays in its order.
    members.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let matching = |(range, _): &(&[u8], u16)| {
        if *range == b"*" {
            let mut unnamed = not_refused.iter().filter(|(_, said)| said.is_none());
            unnamed.next()
        } else {
            language_for(range, &not_refused)
        }
    };
    let best = members.iter().find_map(matching).or(not_refused.first());
    best.map(|(language, _)| (*language).clone())
}

type Offered<'a> = (&'a HeaderValue, Option<u16>);

/// The language that a range stands for; if there is none, that of its shorter forms.
fn language_for<'a, 'b>(mut range: &[u8], offered: &'b [Offered<'a>]) -> Option<&'b Offered<'a>> {
    loop {
        let same = |(tag, _): &&Offered<'_>| tag.as_bytes().eq_ignore_ascii_case(range);
        let under = |(tag, _): &&Offered<'_>| is_under(tag, range);
        let found = offered.iter().find(same);
        if let Some(found) = found.or_else(|| offered.iter().find(under)) {
            return Some(found);
        }
        let shorter = range.iter().rposition(|&b| b == b'-')?;
        range = &range[..shorter];
    }
}

/// Whether a language is what this range says, or begins with it.
fn is_under(language: &HeaderValue, range: &[u8]) -> bool {
    let parts = language.as_bytes().split_at_checked(range.len());
    parts.is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(range) && matches!(rest.first(), None | Some(b'-'))
    })
}

fn one_spelling(lines: &GetAll<'_, HeaderValue>) -> Option<HeaderValue> {
    let mut lines = lines.iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let line = line.as_bytes();
    if !line.is_ascii() || line.iter().any(|b| b"\"\\".contains(b)) {
        return None;
    }
    let is_separator = |b: u8| b",;=".contains(&b);
    let mut spelling: Vec<u8> = Vec::with_capacity(line.len());
    for &byte in line.trim_ascii() {
        if is_separator(byte) {
            spelling.truncate(spelling.trim_ascii_end().len());
        }
        let after_separator = spelling.last().is_some_and(|&last| is_separator(last));
        if !(byte.is_ascii_whitespace() && after_separator) {
            spelling.push(byte.to_ascii_lowercase());
        }
    }
    HeaderValue::from_bytes(&spelling).ok()
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE};

    use super::*;

    /// What a header of these lines becomes.
    fn normal(normalize: &Normalize, name: HeaderName, lines: &[&str]) -> Vec<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let header = Header {
            name: name.clone(),
            normalize: Some(normalize.clone()),
        };
        header.show(&mut headers);
        let seen: Vec<_> = headers.get_all(&name).iter().collect();
        let mut key = KeyBytes::new();
        header.put(&mut key, &headers);
        let mut again = KeyBytes::new();
        header.put(&mut again, &headers);
        assert_eq!(key, again, "a normal form is its own normal form");
        seen.iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    #[test]
    fn of_the_codings_offered_the_client_gets_the_one_it_likes_best() {
        let normalize = Normalize::codings(["br", "gzip"]).unwrap();
        for (lines, expected) in [
            (&["gzip, deflate, br"][..], "br"),
            (&["gzip;q=1.0, br;q=0.8"], "gzip"),
            (&["GZIP ; q=0.5"], "gzip"),
            (&["x-gzip"], "gzip"),
            (&["*"], "br"),
            (&["*, br;q=0"], "gzip"),
            (&["br;q=0.001", "gzip;q=0"], "br"),
            (&["deflate"], "identity"),
            (&["br;q=0"], "identity"),
            (&[""], "identity"),
            (&[], "identity"),
            (&["zstd, identity;q=0.5"], "identity"),
            (&["identity, gzip;q=0.1"], "identity"),
            (&["identity;q=0.1, gzip;q=0.1"], "gzip"),
        ] {
            let found = normal(&normalize, ACCEPT_ENCODING, lines);
            assert_eq!(found, [expected.as_bytes()], "{lines:?}");
        }
    }

    // Invariant 10.
    #[test]
    fn what_cannot_be_read_stays_as_it_comes() {
        let codings = Normalize::codings(["br", "gzip"]).unwrap();
        for line in [
            "br;q=2",
            "br;q=0.0001",
            "br;q=",
            "br;level=1",
            "br;q=1;q=0",
            "b r",
            "gzip;q=0, gzip",
            "\"br\"",
            "br;q=-1",
            "\u{fc}",
            "identity;q=0",
            "*;q=0",
        ] {
            let found = normal(&codings, ACCEPT_ENCODING, &[line]);
            assert_eq!(found, [line.as_bytes()], "{line}");
        }
        for (members, is_read) in [(MAX_MEMBERS, true), (MAX_MEMBERS + 1, false)] {
            let line = vec!["br"; members].join(",");
            let found = normal(&codings, ACCEPT_ENCODING, &[&line]);
            assert_eq!(found == [b"br"], is_read, "{members}");
        }
        let languages = Normalize::languages(["en"]).unwrap();
        let found = normal(&languages, ACCEPT_LANGUAGE, &["de;q=x", "en"]);
        assert_eq!(found, [&b"de;q=x"[..], b"en"]);
        let spelled = Normalize::case_and_space();
        for lines in [&["A", "B"][..], &["A=\"B\""], &["\u{c4}"], &[]] {
            let found = normal(&spelled, ACCEPT_LANGUAGE, lines);
            assert!(
                found
                    .iter()
                    .map(Vec::as_slice)
                    .eq(lines.iter().map(|line| line.as_bytes()))
            );
        }
    }

    #[test]
    fn of_the_languages_offered_the_client_gets_the_one_it_likes_best() {
        let normalize = Normalize::languages(["en", "de-AT", "de", "pt-BR"]).unwrap();
        for (lines, expected) in [
            (&["de"][..], "de"),
            (&["DE-at, en"], "de-AT"),
            (&["de-CH"], "de"),
            (&["de-CH-1996, en;q=0.9"], "de"),
            (&["pt"], "pt-BR"),
            (&["pt-PT"], "pt-BR"),
            (&["fr, de;q=0.5, en;q=0.1"], "de"),
            (&["fr;q=0.9, *;q=0.5"], "en"),
            (&["fr"], "en"),
            (&["de;q=0"], "en"),
            (&[], "en"),
            (&["de;q=0.3", "pt;q=0.4"], "pt-BR"),
            (&["d"], "en"),
            (&["en;q=0, *"], "de-AT"),
            (&["*, en;q=0.1, de;q=0"], "pt-BR"),
            (&["de-AT;q=0, de"], "de"),
            (&["en;q=0"], "de-AT"),
        ] {
            let found = normal(&normalize, ACCEPT_LANGUAGE, lines);
            assert_eq!(found, [expected.as_bytes()], "{lines:?}");
        }
    }

    #[test]
    fn spellings_that_differ_in_case_and_space_become_one() {
        let normalize = Normalize::case_and_space();
        for line in ["a,b;c=d e", "A , B ;\tC = D e", " a,b;c=d e "] {
            let found = normal(&normalize, ACCEPT_LANGUAGE, &[line]);
            assert_eq!(found, [b"a,b;c=d e"], "{line}");
        }
    }

    #[test]
    fn a_closure_may_say_what_a_header_is_or_that_it_is_absent() {
        let normalize = Normalize::with(|lines| {
            let count = lines.iter().count();
            (count > 1).then(|| HeaderValue::from(count))
        });
        let form = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ACCEPT_LANGUAGE, HeaderValue::from_static(line));
            }
            let header = Header {
                name: ACCEPT_LANGUAGE,
                normalize: Some(normalize.clone()),
            };
            header.show(&mut headers);
            headers.remove(ACCEPT_LANGUAGE)
        };
        assert_eq!(form(&["x", "y"]).unwrap(), "2");
        assert_eq!(form(&["x"]), None);
        assert_eq!(form(&[]), None);
    }

    #[test]
    fn what_is_offered_is_checked() {
        assert!(Normalize::codings(["gzip", ""]).is_err());
        assert!(Normalize::codings(["gzip;q=1"]).is_err());
        assert!(Normalize::codings(["*"]).is_err());
        assert!(Normalize::languages(["de-*"]).is_err());
        assert!(Normalize::languages::<&str>([]).is_err());
        assert!(Normalize::languages(["de AT"]).is_err());
    }
}

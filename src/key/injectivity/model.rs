//! What the documentation says is in a key, found in a slow and obvious way. Nothing here calls what makes keys.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, Method, request::Parts};

#[cfg(feature = "json")]
use super::requests::TYPES_OF_JSON;
use super::{
    requests::{Marker, Names, Tenant, Whole},
    spec::{Content, Parameters, Sealed, Spec, Wanted},
};
use crate::status::Reason;

type Lines = Vec<Vec<u8>>;
type Parameter = (Vec<u8>, Option<String>);
/// The number of an element of `Forwarded`, a name and a value.
type Pair = (usize, Vec<u8>, Vec<u8>);
/// Those that are in the key, and how many elements each line has, if there are any.
type Forwarded = (Vec<Pair>, Vec<usize>);

/// The selected values of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) method: String,
    /// The scheme, where that counts, and the one authority; none if they are left out.
    origin: Option<(Option<String>, Option<Vec<u8>>)>,
    pub(super) path: String,
    /// The path and query as they were before a router changed them, if it has.
    original: (Option<String>, Option<Option<String>>),
    proxies: BTreeMap<String, Lines>,
    forwarded: Forwarded,
    query: Query,
    pub(super) headers: BTreeMap<&'static str, Lines>,
    pub(super) cookies: Cookies,
    tenant: Option<Tenant>,
    names: Option<Names>,
    marker: Option<Marker>,
    part: Option<Vec<u8>>,
    body: Said,
    trailers: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Query {
    Whole(Option<String>),
    /// The names and values under each name without brackets, in their order.
    Parts(BTreeMap<Vec<u8>, Vec<Parameter>>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cookies {
    Whole(Lines),
    Parts(BTreeMap<&'static str, Lines>),
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Bytes(Vec<u8>),
    #[cfg(feature = "json")]
    Json(json::Value),
    Message(u8, Vec<u8>),
}

/// Why a request has no key; `None` if it is because of its body.
pub(super) type Refusal = Option<Reason>;

/// `shown` are the headers as the inner service sees them, for the normal forms: that they are normal is not asked
/// here (`header.rs` does), but that the key tells apart just what the inner service can.
pub(super) fn told(spec: &Spec, request: &Whole, shown: &HeaderMap) -> Result<Told, Refusal> {
    let (headers, extensions) = (&request.parts.headers, &request.parts.extensions);
    let method = &request.parts.method;
    let uri = &request.parts.uri;
    let origin = match spec.ignore_authority {
        true => None,
        false => Some(origin(spec, &request.parts)?),
    };
    let part = lines(headers, "x-part").into_iter().next();
    let tenant = found(spec.tenant, extensions.get::<Tenant>().cloned())?;
    let marker = found(spec.marker, extensions.get::<Marker>().cloned())?;
    let part = found(spec.part, part)?;
    let known = found(spec.names, extensions.get::<Names>().cloned())?;
    if OVERRIDES.iter().any(|name| headers.contains_key(*name)) {
        return Err(Some(Reason::Override));
    }
    let forwarded = match spec.ignore_forwarded {
        true => Forwarded::default(),
        false => forwarded(headers).ok_or(Some(Reason::Forwarded))?,
    };
    let names = spec.header_names().into_iter();
    Ok(Told {
        method: match *method {
            Method::HEAD => "GET".to_owned(),
            _ => method.to_string(),
        },
        origin,
        path: uri.path().to_owned(),
        original: original(&request.parts),
        proxies: proxies(spec, headers),
        forwarded,
        query: query(&spec.query, uri.query()),
        headers: names.map(|name| (name, lines(shown, name))).collect(),
        cookies: cookies(spec, headers),
        tenant,
        names: known,
        marker,
        part,
        body: said(spec, request).ok_or(None)?,
        trailers: trailers(spec, request),
    })
}

/// Some servers take the method or the path from these: nobody can tell what such a request is for.
const OVERRIDES: [&str; 8] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-method",
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-rewrite-url",
];

/// What is there of a part, if it is in the key.
fn found<T>(wanted: Wanted, part: Option<T>) -> Result<Option<T>, Refusal> {
    match (wanted, part) {
        (Wanted::No, _) => Ok(None),
        (Wanted::Required, None) => Err(Some(Reason::KeyPart)),
        (_, part) => Ok(part),
    }
}

fn lines(headers: &HeaderMap, name: &str) -> Lines {
    let lines = headers.get_all(name).iter();
    lines.map(|line| line.as_bytes().to_vec()).collect()
}

/// The scheme, if it counts, and the one authority that the request names, by its URI or else by `Host`.
fn origin(spec: &Spec, parts: &Parts) -> Result<(Option<String>, Option<Vec<u8>>), Refusal> {
    let scheme = parts.uri.scheme_str().or(spec.assumed_scheme());
    let mut named = lines(&parts.headers, "host");
    named.extend(parts.uri.authority().map(|host| host.as_str().into()));
    let is_plain = |host: &Vec<u8>| !host.contains(&b'@');
    let alike: BTreeSet<_> = named
        .iter()
        .map(|host| host_and_port(host, scheme))
        .collect();
    if alike.len() > 1 || !named.iter().all(is_plain) {
        return Err(Some(Reason::Authority));
    }
    let is_http = |scheme: &str| scheme == "http" || scheme == "https";
    let scheme = scheme.filter(|scheme| spec.keys_scheme || !is_http(scheme));
    Ok((scheme.map(str::to_lowercase), alike.into_iter().next()))
}

/// In lower case, and without the port where that is empty or the default of the scheme; of either scheme, if nobody knows it.
fn host_and_port(authority: &[u8], scheme: Option<&str>) -> Vec<u8> {
    let lower = authority.to_ascii_lowercase();
    let Some(colon) = lower.iter().rposition(|b| *b == b':') else {
        return lower;
    };
    let (host, port) = (&lower[..colon], &lower[colon + 1..]);
    let is_address = host.starts_with(b"[") && host.ends_with(b"]");
    let is_host = is_address || (!host.is_empty() && !host.contains(&b':'));
    let says_nothing = match scheme {
        _ if port.is_empty() => true,
        None => port == b"80" || port == b"443",
        Some("http") => port == b"80",
        Some("https") => port == b"443",
        Some(_) => false,
    };
    if is_host && says_nothing {
        host.to_vec()
    } else {
        lower
    }
}

#[cfg(feature = "axum")]
fn original(parts: &Parts) -> (Option<String>, Option<Option<String>>) {
    let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() else {
        return (None, None);
    };
    let query = original.query().map(str::to_owned);
    (
        (original.path() != parts.uri.path()).then(|| original.path().to_owned()),
        (original.query() != parts.uri.query()).then_some(query),
    )
}

#[cfg(not(feature = "axum"))]
fn original(_: &Parts) -> (Option<String>, Option<Option<String>>) {
    (None, None)
}

/// What proxies say of the target, but for `Forwarded`.
fn proxies(spec: &Spec, headers: &HeaderMap) -> BTreeMap<String, Lines> {
    let known = [
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-scheme",
        "x-forwarded-ssl",
        "x-forwarded-uri",
        "x-forwarded-path",
        "x-forwarded-server-port",
        "x-original-host",
        "x-host",
        "x-url-scheme",
        "x-scheme",
        "x-script-name",
        "front-end-https",
        "x-http-host-override",
        "x-backend-host",
        "x-envoy-original-path",
        "cf-visitor",
        "cloudfront-forwarded-proto",
    ];
    let mut told = BTreeMap::new();
    for name in headers.keys().map(|name| name.as_str()) {
        if known.contains(&name) && !spec.ignore_forwarded {
            told.insert(name.to_owned(), lines(headers, name));
        }
    }
    told
}

/// The hosts and schemes that `Forwarded` tells, each with the number of its element, as they are written. `None` if
/// a line cannot be read: it is no text, has an escape, an odd quote or a quoted separator, or a part that is no
/// `name=value`.
fn forwarded(headers: &HeaderMap) -> Option<Forwarded> {
    let mut told = Vec::new();
    let mut counts = Vec::new();
    let mut number = 0;
    for line in lines(headers, "forwarded") {
        let text = String::from_utf8(line).ok()?;
        let is_hidden = |(at, piece): (usize, &str)| at % 2 == 1 && piece.contains([',', ';']);
        let is_text = |c: char| c == '\t' || (' '..='~').contains(&c);
        if text.matches('"').count() % 2 == 1
            || text.contains('\\')
            || !text.chars().all(is_text)
            || text.split('"').enumerate().any(is_hidden)
        {
            return None;
        }
        counts.push(text.split(',').count());
        for element in text.split(',') {
            number += 1;
            for pair in element.split(';') {
                let pair = trimmed(pair.as_bytes());
                if pair.is_empty() {
                    continue;
                }
                let (name, value) = halves(pair, b'=');
                let value = value?;
                let lower = name.to_ascii_lowercase();
                if lower == b"host" || lower == b"proto" {
                    told.push((number, name.to_vec(), value.to_vec()));
                } else if name.is_empty() || !name.iter().all(u8::is_ascii_alphanumeric) {
                    return None;
                }
            }
        }
    }
    if told.is_empty() {
        counts.clear();
    }
    Some((told, counts))
}

/// Without the white space around it, of which headers have two kinds.
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What stands before the first separator, and what behind it, if there is one.
fn halves(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    for at in 0..text.len() {
        if text[at] == separator {
            return (&text[..at], Some(&text[at + 1..]));
        }
    }
    (text, None)
}

/// The cookies of the names that were chosen; or all lines, if readers do not agree on where these cookies are. Where
/// the inner service gets no others, there is one reader.
fn cookies(spec: &Spec, headers: &HeaderMap) -> Cookies {
    let lines = lines(headers, "cookie");
    let is_shown = spec.headers.iter().any(|(name, _)| *name == "cookie");
    let is_let_through = |seal: &Sealed| seal.let_through == Some("cookie");
    let sealed = spec.seal.as_ref().is_some_and(|seal| !is_let_through(seal)) && !is_shown;
    if !sealed && !spec.cookies.is_empty() && lines.iter().any(|line| is_doubtful(line, spec)) {
        return Cookies::Whole(lines);
    }
    let mut told = BTreeMap::new();
    for &wanted in &spec.cookies {
        let all = lines.iter().flat_map(|line| line.split(|b| *b == b';'));
        let found = all.map(trimmed).filter(|cookie| {
            let (name, _) = halves(cookie, b'=');
            trimmed(name) == wanted.as_bytes() || (!sealed && is_cookie(cookie, wanted))
        });
        told.insert(wanted, found.map(<[u8]>::to_vec).collect());
    }
    Cookies::Parts(told)
}

/// Whether some reader takes this for a cookie of that name.
fn is_cookie(cookie: &[u8], wanted: &str) -> bool {
    let name = trimmed(halves(cookie, b'=').0);
    let mut decoded = Vec::new();
    let mut rest = name;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        let digits = behind.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let number = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, number) {
            (b'%', Some(number)) => {
                decoded.push(number);
                rest = &behind[2..];
            }
            (byte, _) => decoded.push(*byte),
        }
    }
    name == wanted.as_bytes() || decoded == wanted.as_bytes()
}

fn is_doubtful(line: &[u8], spec: &Spec) -> bool {
    let is_chosen = |cookie: &[u8]| spec.cookies.iter().any(|wanted| is_cookie(cookie, wanted));
    let (mut is_quoted, mut plain, mut at) = (false, 0, 0);
    for cookie in line.split(|b| *b == b';') {
        if is_chosen(trimmed(cookie)) {
            plain += 1;
            let before = line[..at].iter().filter(|b| **b == b'"').count();
            is_quoted |= before % 2 == 1;
        }
        at += cookie.len() + 1;
    }
    let pieces = line.split(|b| [b';', b',', b'"'].contains(b));
    let loose = pieces.filter(|piece| is_chosen(trimmed(piece))).count();
    let is_text = |b: &u8| *b == b'\t' || (32..127).contains(b);
    !line.iter().all(is_text) || is_quoted || loose != plain
}

fn query(chosen: &Parameters, query: Option<&str>) -> Query {
    let text = query.unwrap_or_default();
    let is_chosen = |name: &[u8]| match chosen {
        Parameters::All => true,
        Parameters::Only(names) => names.iter().any(|known| is_meant(known, name)),
        Parameters::Except(names) => !names.iter().any(|known| is_meant(known, name)),
    };
    let whole = Query::Whole(query.map(str::to_owned));
    // What readers may not agree on is in the key as a whole.
    if matches!(chosen, Parameters::All) || text.contains(';') || !text.is_ascii() {
        return whole;
    }
    let escapes = text.split('%').skip(1);
    for digits in escapes {
        if digits.len() < 2 || u8::from_str_radix(&digits[..2], 16).is_err() || &digits[..1] == "+"
        {
            return whole;
        }
    }
    let mut told: BTreeMap<Vec<u8>, Vec<_>> = BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for piece in text.split('&').filter(|piece| !piece.is_empty()) {
        let (name, value) = match piece.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (piece, None),
        };
        let name = unescaped(name);
        // Some take `[name]` for `name`, and to some an encoded bracket is none.
        let lower = piece.split('=').next().unwrap_or_default().to_lowercase();
        let is_encoded = lower.contains("%5b") || lower.contains("%5d");
        let is_meant = || is_chosen(&name) || is_chosen(halves(&name, b'[').0);
        if name.first() == Some(&b'[') || (is_encoded && is_meant()) {
            return whole;
        }
        if is_chosen(&name) {
            let without_brackets = halves(&name, b'[').0.to_vec();
            told.entry(without_brackets)
                .or_default()
                .push((name, value));
        } else {
            left_out.insert(name);
        }
    }
    // Some take `name[x]` for a part of `name`.
    let may_be_chosen =
        |name: &Vec<u8>| (0..name.len()).any(|at| name[at] == b'[' && is_chosen(&name[..at]));
    if matches!(chosen, Parameters::Only(_)) && left_out.iter().any(may_be_chosen) {
        return whole;
    }
    Query::Parts(told)
}

fn is_meant(known: &str, name: &[u8]) -> bool {
    match known.strip_suffix('*') {
        Some(start) => name.len() >= start.len() && &name[..start.len()] == start.as_bytes(),
        None => name == known.as_bytes(),
    }
}

fn unescaped(name: &str) -> Vec<u8> {
    let spaced = name.replace('+', " ");
    let mut pieces = spaced.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        bytes.extend(u8::from_str_radix(&piece[..2], 16));
        bytes.extend(piece[2..].bytes());
    }
    bytes
}

fn said(spec: &Spec, request: &Whole) -> Option<Said> {
    let body = &request.body;
    Some(match spec.body {
        None => Said::Nothing,
        Some(Content::Raw) => Said::Bytes(body.clone()),
        #[cfg(feature = "json")]
        Some(Content::Json) if !body.is_empty() && !has_json_type(&request.parts.headers) => {
            return None;
        }
        #[cfg(feature = "json")]
        Some(Content::Json) => match json::read(body) {
            Some(value) if is_json(&request.parts.headers) => Said::Json(value),
            _ => Said::Bytes(body.clone()),
        },
        Some(Content::Grpc) => {
            let flag = *body.first()?;
            let length = u32::from_be_bytes(body.get(1..5)?.try_into().ok()?);
            let message = body[5..].to_vec();
            if message.len() != usize::try_from(length).ok()? {
                return None;
            }
            Said::Message(flag, message)
        }
    })
}

fn trailers(spec: &Spec, request: &Whole) -> Vec<(String, Vec<u8>)> {
    let trailers = request.trailers.iter().filter(|_| spec.body.is_some());
    let trailers = trailers.flatten();
    trailers
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

/// Whether the one type is JSON, whatever its parameters say.
#[cfg(feature = "json")]
fn has_json_type(headers: &HeaderMap) -> bool {
    let [line] = &lines(headers, "content-type")[..] else {
        return false;
    };
    let line = line.to_ascii_lowercase();
    let kind = trimmed(halves(&line, b';').0);
    [
        &b"application/json"[..],
        b"text/json",
        b"application/x-ndjson",
    ]
    .contains(&kind)
        || kind.ends_with(b"+json")
}

/// Of the types in the alphabet, those that are JSON in UTF-8 are listed; requests have others, too, made of those.
#[cfg(feature = "json")]
fn is_json(headers: &HeaderMap) -> bool {
    let [line] = &lines(headers, "content-type")[..] else {
        return false;
    };
    let line = line.to_ascii_lowercase();
    let mut pieces = halves(&line, b';');
    let kind = trimmed(pieces.0);
    let mut is_json = TYPES_OF_JSON
        .iter()
        .any(|known| trimmed(halves(known.to_ascii_lowercase().as_bytes(), b';').0) == kind);
    is_json |= kind.ends_with(b"+json");
    while let Some(rest) = pieces.1 {
        pieces = halves(rest, b';');
        let charset = trimmed(pieces.0).strip_prefix(b"charset");
        is_json &= matches!(charset, None | Some(b"=utf-8" | b"=\"utf-8\""));
    }
    is_json && !headers.contains_key("content-encoding")
}

#[cfg(feature = "json")]
mod json {
    use std::collections::BTreeMap;

    const LEVELS: usize = 32;

    /// JSON in which names are what they mean, and all else is what is written.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Value {
        Object(BTreeMap<Vec<u16>, Value>),
        Array(Vec<Value>),
        Written(String),
    }

    /// `None` for what is no JSON (RFC 8259), has two members of one name or a name that is no text, or is too deep.
    pub(super) fn read(text: &[u8]) -> Option<Value> {
        let text = std::str::from_utf8(text).ok()?;
        let mut reader = Reader(text);
        let value = reader.value(LEVELS)?;
        reader.space();
        reader.0.is_empty().then_some(value)
    }

    struct Reader<'a>(&'a str);

    impl<'a> Reader<'a> {
        fn space(&mut self) {
            self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        }

        /// Whether this comes next, behind white space: then it is passed.
        fn passes(&mut self, text: &str) -> bool {
            self.space();
            let rest = self.0.strip_prefix(text);
            self.0 = rest.unwrap_or(self.0);
            rest.is_some()
        }

        fn value(&mut self, levels: usize) -> Option<Value> {
            let inside = levels.checked_sub(1)?;
            if self.passes("{") {
                return self.object(inside);
            }
            if self.passes("[") {
                return self.array(inside);
            }
            if self.passes("\"") {
                return Some(Value::Written(["\"", self.string()?, "\""].concat()));
            }
            let word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
            let end = self.0.find(|c| !word(c)).unwrap_or(self.0.len());
            let (text, rest) = self.0.split_at(end);
            self.0 = rest;
            let is_value = ["true", "false", "null"].contains(&text) || is_number(text);
            is_value.then(|| Value::Written(text.to_owned()))
        }

        fn object(&mut self, inside: usize) -> Option<Value> {
            let mut members = BTreeMap::new();
            if self.passes("}") {
                return Some(Value::Object(members));
            }
            loop {
                if !self.passes("\"") {
                    return None;
                }
                let name = meaning(self.string()?)?;
                if !self.passes(":") {
                    return None;
                }
                let value = self.value(inside)?;
                if members.insert(name, value).is_some() {
                    return None;
                }
                if self.passes("}") {
                    return Some(Value::Object(members));
                }
                if !self.passes(",") {
                    return None;
                }
            }
        }

        fn array(&mut self, inside: usize) -> Option<Value> {
            let mut elements = Vec::new();
            if self.passes("]") {
                return Some(Value::Array(elements));
            }
            loop {
                elements.push(self.value(inside)?);
                if self.passes("]") {
                    return Some(Value::Array(elements));
                }
                if !self.passes(",") {
                    return None;
                }
            }
        }

        /// What is written up to the quote that ends a string.
        fn string(&mut self) -> Option<&'a str> {
            let mut characters = self.0.char_indices();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        let written = &self.0[..at];
                        self.0 = &self.0[at + 1..];
                        return Some(written);
                    }
                    '\\' => match characters.next()?.1 {
                        'u' => {
                            for _ in 0..4 {
                                characters.next()?.1.to_digit(16)?;
                            }
                        }
                        escaped => drop("\"\\/bfnrt".find(escaped)?),
                    },
                    '\0'..=' ' if character != ' ' => return None,
                    _ => {}
                }
            }
            None
        }
    }

    /// A string without its escapes. `None` if it is no text.
    fn meaning(written: &str) -> Option<Vec<u16>> {
        let mut units = Vec::new();
        let mut rest = written.chars();
        while let Some(character) = rest.next() {
            if character != '\\' {
                units.extend(character.encode_utf16(&mut [0; 2]).iter());
                continue;
            }
            units.push(match rest.next()? {
                'b' => 8,
                'f' => 12,
                'n' => 10,
                'r' => 13,
                't' => 9,
                'u' => {
                    let digits: String = rest.by_ref().take(4).collect();
                    u16::from_str_radix(&digits, 16).ok()?
                }
                itself => u16::try_from(u32::from(itself)).ok()?,
            });
        }
        String::from_utf16(&units).ok().map(|_| units)
    }

    fn is_number(text: &str) -> bool {
        let text = text.strip_prefix('-').unwrap_or(text);
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, Some(exponent)),
            None => (text, None),
        };
        let (whole, decimals) = match number.split_once('.') {
            Some((whole, decimals)) => (whole, Some(decimals)),
            None => (number, None),
        };
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let unsigned = |text: &str| is_digits(text.strip_prefix(['+', '-']).unwrap_or(text));
        is_digits(whole)
            && (whole == "0" || !whole.starts_with('0'))
            && decimals.is_none_or(is_digits)
            && exponent.is_none_or(unsigned)
    }
}

//! Specifications and requests made of bytes, from alphabets so small that they often coincide.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, request::Parts};

use super::spec::{Content, Spec, Wanted};
use crate::key::value::{KeyValue, KeyWriter};

/// Bytes that are read as choices. When there are no more, the first choice is taken.
#[derive(Debug)]
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(first) % bound
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub(super) fn of<T: Clone>(&mut self, alphabet: &[T]) -> T {
        alphabet[self.below(alphabet.len())].clone()
    }

    fn place(&mut self, length: usize) -> Option<usize> {
        (length > 0).then(|| self.below(length))
    }
}

/// An extension of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tenant(pub(super) &'static str);

impl KeyValue for Tenant {
    fn write(&self, key: &mut KeyWriter<'_>) {
        self.0.write(key);
    }
}

/// An extension of two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names(pub(super) &'static str, pub(super) &'static str);

impl KeyValue for Names {
    fn write(&self, key: &mut KeyWriter<'_>) {
        self.0.write(key);
        self.1.write(key);
    }
}

/// An extension that is there or not: all of its values are equal, so there is nothing to tell them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker;

impl KeyValue for Marker {
    fn write(&self, _: &mut KeyWriter<'_>) {}
}

/// A whole request.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) parts: Parts,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

/// What a request is made of, in pieces that can be changed one by one.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    method: &'static str,
    target: Target,
    path: &'static str,
    query: Option<Vec<String>>,
    /// What a router took off the path, and another query that it saw.
    nested: Option<(&'static str, Option<&'static str>)>,
    headers: Vec<(&'static str, Vec<u8>)>,
    tenant: Option<Tenant>,
    names: Option<Names>,
    marker: Option<Marker>,
    body: BodyPlan,
    trailers: Option<Vec<(&'static str, &'static str)>>,
}

#[derive(Debug, Clone)]
enum Target {
    Origin,
    Absolute(&'static str, &'static str),
    Authority(&'static str),
    Asterisk,
}

#[derive(Debug, Clone)]
enum BodyPlan {
    Bytes(Vec<u8>),
    Frame(u8, Vec<u8>),
    Json(Tree, usize),
    Deep(usize, &'static str),
}

/// JSON, or nearly, with names and leaves as they are written.
#[derive(Debug, Clone)]
enum Tree {
    Object(Vec<(&'static str, Tree)>),
    Array(Vec<Tree>),
    Leaf(&'static str),
}

const METHODS: [&str; 5] = ["GET", "GET", "HEAD", "POST", "get"];
const SCHEMES: [&str; 3] = ["http", "https", "ftp"];
const AUTHORITIES: [&str; 8] = ["a", "A", "a:80", "a", "a:443", "u@a", "a:81", "b"];
const PATHS: [&str; 6] = ["/", "/a", "/%61", "/a/", "/a//b", "/A"];
const PIECES: [&str; 26] = [
    "a=1", "a=2", "b=1", "a", "a=", "aa=1", "ab=1", "b", "c=1", "utm_x=1", "utm_y=2", "%61=1",
    "a=%31", "a+b=1", "a%20b=1", "=1", "", "b[]=1", "a[x]=1", "a%5Bx=2", "a=1;b=2", "c=%zz",
    "c=\u{e9}", "%ff=1", "[a]=1", "%5Ba=2",
];
/// Among them some that look like what a key is made of: a tag, a length, a value.
const TEXTS: [&str; 8] = ["", "a", "b", "ab", "\0", "\0\u{1}b", "a\0\u{1}b", "\0\0"];
const NAMES: [&str; 22] = [
    "host",
    "cookie",
    "accept-encoding",
    "accept-language",
    "x-device",
    "x-part",
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-for",
    "x-forwarded-server",
    "x-forwarded-server-port",
    "content-type",
    "content-encoding",
    "traceparent",
    "user-agent",
    "authorization",
    "x-original-host",
    "front-end-https",
    "grpc-encoding",
    "x-forwarded-",
    "x-rewrite-url",
];
const HOSTS: [&str; 9] = [
    "a", "A", "b", "u@A", "a:80", "a:443", "a:", "[::1]:80", "a:80:80",
];
const COOKIES: [&str; 16] = [
    "a=1",
    "a=2",
    "a=1; b=1",
    "b=1; a=1",
    "a=1;b=1",
    "a",
    "a=",
    "a =1",
    "c=3",
    "A=1; ;",
    "a=\"1;2\"",
    "x=\"; a=1; y=\"",
    "%61=1",
    "b=1; %61=2",
    "x=1,a=2",
    "x=\"1\"; a=1",
];
const FORWARDED: [&str; 16] = [
    "host=a",
    "host=b",
    "HOST=a",
    "proto=http;host=a",
    "host=a;proto=http",
    "for=1;host=a",
    "for=1",
    "for=1, host=a",
    ", host=a",
    "host=\"a,b\"",
    "host=\"a\";for=\"[::1]\"",
    "host=a, for=1",
    "host=\"a;b\" ; for=2",
    "host=\"a",
    "host=a\\",
    "for 1",
];
const CODINGS: [&str; 6] = ["gzip", "br", "gzip;q=0.5, br", "GZIP", "*;q=0", "x"];
const LANGUAGES: [&str; 6] = ["en", "de", "de-AT, en;q=0.1", "DE", "de;q=x", ""];
pub(super) const TYPES_OF_JSON: [&str; 4] = [
    "application/json",
    "Application/JSON ; Charset=UTF-8",
    "application/a+json;x=1",
    "application/json;charset=\"utf-8\"",
];
const TYPES: [&str; 8] = [
    TYPES_OF_JSON[0],
    TYPES_OF_JSON[0],
    TYPES_OF_JSON[1],
    TYPES_OF_JSON[2],
    TYPES_OF_JSON[3],
    "application/json;charset=utf-16",
    "text/plain",
    "",
];
const VALUES: [&str; 8] = ["", "a", "b", "ab", "A , b", "a,b", "a\tb", "\"A\""];
/// What a byte of a header may become. 9 is the tag of a host, if it is taken for one.
const BYTES: [u8; 14] = *b"aA1 \t,;=\"\\\xff%.[";
const MEMBERS: [&str; 8] = [
    "a",
    "b",
    "\\u0061",
    "",
    "\\u00e9",
    "\u{e9}",
    "\\ud83d\\ude00",
    "\\ud800",
];
const LEAVES: [&str; 22] = [
    "1",
    "1.0",
    "1e0",
    "0",
    "-0",
    "true",
    "null",
    "\"a\"",
    "\"\\u0061\"",
    "\"1\"",
    "\"a b\"",
    "1e400",
    "1E+400",
    "\"\\\"\\/\"",
    "\"\u{e9}\"",
    "\"\\ud800\"",
    "01",
    "1.",
    "-",
    "nul",
    "\"\\x\"",
    "\"\t\"",
];
const DEEP_INSIDE: [&str; 5] = ["", " ", "1", " 1", "{}"];
const TRAILERS: [(&str, &str); 4] = [("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-a", "")];

impl Plan {
    pub(super) fn any(choices: &mut Choices<'_>, spec: &Spec) -> Self {
        let pieces = |choices: &mut Choices<'_>| {
            let count = choices.below(4);
            (0..count).map(|_| choices.of(&PIECES).to_owned()).collect()
        };
        let count = choices.below(5);
        let mut headers: Vec<_> = (0..count).map(|_| line(choices)).collect();
        if spec.part != Wanted::No && spec.part.has(choices) {
            headers.push(("x-part", value("x-part", choices)));
        }
        Self {
            method: choices.of(&METHODS),
            target: Target::any(choices),
            path: choices.of(&PATHS),
            query: (!choices.one_in(4)).then(|| pieces(choices)),
            nested: choices
                .one_in(8)
                .then(|| (choices.of(&["", "/n"]), choices.of(&[None, Some("a=1")]))),
            headers,
            tenant: spec.tenant.has(choices).then(|| Tenant(choices.of(&TEXTS))),
            names: spec
                .names
                .has(choices)
                .then(|| Names(choices.of(&TEXTS), choices.of(&TEXTS))),
            marker: spec.marker.has(choices).then_some(Marker),
            body: BodyPlan::any(choices, spec),
            trailers: (spec.body.is_some() && choices.one_in(3))
                .then(|| vec![choices.of(&TRAILERS)]),
        }
    }

    /// The same request, or one that differs in little.
    pub(super) fn changed(&self, choices: &mut Choices<'_>, spec: &Spec) -> Self {
        let mut plan = self.clone();
        if choices.one_in(32) {
            return Self::any(choices, spec);
        }
        for _ in 0..choices.below(4) {
            match choices.below(15) {
                0..4 => plan.change_query(choices),
                4..9 => plan.change_headers(choices),
                9 => plan.change_target(choices),
                10 => plan.change_extensions(choices, spec),
                11 => plan.change_trailers(choices),
                _ => plan.body.change(choices, spec),
            }
        }
        plan
    }

    fn change_query(&mut self, choices: &mut Choices<'_>) {
        let Some(pieces) = &mut self.query else {
            self.query = Some(Vec::new());
            return;
        };
        let (Some(at), Some(other)) = (choices.place(pieces.len()), choices.place(pieces.len()))
        else {
            pieces.extend(choices.of(&[None, Some("".to_owned()), Some("c=1".to_owned())]));
            if pieces.is_empty() {
                self.query = None;
            }
            return;
        };
        match choices.below(7) {
            0 => pieces.swap(at, other),
            1 => drop(pieces.remove(at)),
            2 => pieces.insert(other, pieces[at].clone()),
            3 => pieces[at] = choices.of(&PIECES).to_owned(),
            4 => pieces.push(choices.of(&PIECES).to_owned()),
            5 => pieces[at] = escaped(&pieces[at]),
            _ => pieces.insert(at, choices.of(&["", "utm_x=9", "zz=1"]).to_owned()),
        }
    }

    fn change_headers(&mut self, choices: &mut Choices<'_>) {
        let lines = &mut self.headers;
        let (Some(at), Some(other)) = (choices.place(lines.len()), choices.place(lines.len()))
        else {
            lines.push(line(choices));
            return;
        };
        match choices.below(9) {
            0 => lines.swap(at, other),
            1 => drop(lines.remove(at)),
            2 => lines.insert(other, lines[at].clone()),
            3 => lines.push(line(choices)),
            4 => {
                let name = lines[at].0;
                lines[at].1 = value(name, choices);
            }
            5 => lines[at].1.make_ascii_uppercase(),
            6 => split_or_join(lines, at),
            _ => change_byte(&mut lines[at].1, choices),
        }
    }

    fn change_target(&mut self, choices: &mut Choices<'_>) {
        match choices.below(4) {
            0 => self.method = choices.of(&METHODS),
            1 => self.path = choices.of(&PATHS),
            2 => self.target = Target::any(choices),
            _ => {
                if let Target::Absolute(_, authority) = &mut self.target {
                    *authority = choices.of(&AUTHORITIES);
                }
            }
        }
    }

    fn change_extensions(&mut self, choices: &mut Choices<'_>, spec: &Spec) {
        match choices.below(4) {
            0 => self.tenant = spec.tenant.has(choices).then(|| Tenant(choices.of(&TEXTS))),
            1 => {
                let names =
                    |choices: &mut Choices<'_>| Names(choices.of(&TEXTS), choices.of(&TEXTS));
                self.names = spec.names.has(choices).then(|| names(choices));
            }
            2 => self.marker = self.marker.is_none().then_some(Marker),
            _ => self.nested = choices.of(&[None, Some(("/n", None)), Some(("", Some("a=2")))]),
        }
    }

    fn change_trailers(&mut self, choices: &mut Choices<'_>) {
        match &mut self.trailers {
            Some(trailers) => match choices.below(3) {
                0 => trailers.push(choices.of(&TRAILERS)),
                1 => *trailers = vec![choices.of(&TRAILERS)],
                _ => self.trailers = None,
            },
            None => self.trailers = choices.of(&[Some(Vec::new()), None]),
        }
    }

    /// The request. `None` if it cannot be written as one.
    pub(super) fn request(&self) -> Option<Whole> {
        let query = self.query.as_ref().map(|pieces| pieces.join("&"));
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.target.uri(self.path, query.as_deref())?)
            .body(())
            .ok()?;
        *request.headers_mut() = headers(&self.headers)?;
        let extensions = request.extensions_mut();
        self.tenant.clone().map(|tenant| extensions.insert(tenant));
        self.names.clone().map(|names| extensions.insert(names));
        self.marker.clone().map(|marker| extensions.insert(marker));
        #[cfg(feature = "axum")]
        if let Some((prefix, other_query)) = self.nested {
            let query = other_query.or(query.as_deref());
            let path = [prefix, self.path].concat();
            let original = Target::Origin.uri(&path, query)?;
            extensions.insert(axum::extract::OriginalUri(original));
        }
        let trailers = self.trailers.as_ref().map(|trailers| {
            let mut map = HeaderMap::new();
            for (name, value) in trailers {
                map.append(*name, HeaderValue::from_static(value));
            }
            map
        });
        Some(Whole {
            parts: request.into_parts().0,
            body: self.body.bytes(),
            trailers,
        })
    }
}

impl Target {
    fn any(choices: &mut Choices<'_>) -> Self {
        match choices.below(16) {
            0..10 => Self::Origin,
            10..14 => Self::Absolute(choices.of(&SCHEMES), choices.of(&AUTHORITIES)),
            14 => Self::Authority(choices.of(&["a:80", "A:80", "b:80"])),
            _ => Self::Asterisk,
        }
    }

    fn uri(&self, path: &str, query: Option<&str>) -> Option<Uri> {
        let tail = query.map_or_else(String::new, |query| ["?", query].concat());
        let text = match self {
            Self::Origin => [path, &tail].concat(),
            Self::Absolute(scheme, authority) => [scheme, "://", authority, path, &tail].concat(),
            Self::Authority(authority) => (*authority).to_owned(),
            Self::Asterisk => "*".to_owned(),
        };
        text.parse().ok()
    }
}

fn line(choices: &mut Choices<'_>) -> (&'static str, Vec<u8>) {
    // The last one means that there is no key at all, which should be rare.
    let name = match choices.below(64) {
        63 => NAMES[NAMES.len() - 1],
        at => NAMES[at % (NAMES.len() - 1)],
    };
    (name, value(name, choices))
}

fn value(name: &str, choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.one_in(48) {
        // About where a length no longer fits one byte.
        return vec![b'x'; 126 + choices.below(4)];
    }
    let text = match name {
        "host" => choices.of(&HOSTS),
        "cookie" => choices.of(&COOKIES),
        "forwarded" => choices.of(&FORWARDED),
        "accept-encoding" => choices.of(&CODINGS),
        "accept-language" => choices.of(&LANGUAGES),
        "content-type" => choices.of(&TYPES),
        _ => choices.of(&VALUES),
    };
    text.as_bytes().to_vec()
}

fn headers(lines: &[(&'static str, Vec<u8>)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value).ok()?;
        headers.append(HeaderName::from_static(name), value);
    }
    Some(headers)
}

fn split_or_join(lines: &mut Vec<(&'static str, Vec<u8>)>, at: usize) {
    let (name, value) = lines[at].clone();
    let separator = if name == "cookie" { b';' } else { b',' };
    if let Some(end) = value.iter().position(|&b| b == separator) {
        lines[at].1 = value[..end].to_vec();
        lines.insert(at + 1, (name, value[end + 1..].to_vec()));
    } else if lines.get(at + 1).is_some_and(|next| next.0 == name) {
        let (_, next) = lines.remove(at + 1);
        lines[at].1 = [&value[..], &[separator], &next].concat();
    }
}

fn change_byte(value: &mut Vec<u8>, choices: &mut Choices<'_>) {
    let byte = choices.of(&BYTES);
    match (choices.place(value.len()), choices.below(3)) {
        (Some(at), 0) => value[at] = byte,
        (Some(at), 1) => drop(value.remove(at)),
        (at, _) => value.insert(at.unwrap_or_default(), byte),
    }
}

/// A parameter with the first byte of its name escaped.
fn escaped(piece: &str) -> String {
    match piece.as_bytes().first() {
        Some(first) if first.is_ascii_alphanumeric() => format!("%{first:02X}{}", &piece[1..]),
        _ => piece.to_owned(),
    }
}

impl BodyPlan {
    fn any(choices: &mut Choices<'_>, spec: &Spec) -> Self {
        match spec.body {
            None => Self::Bytes(Vec::new()),
            Some(Content::Raw) if choices.one_in(4) => Self::of_json(choices),
            Some(Content::Raw) => Self::Bytes(choices.of(&TEXTS).into()),
            Some(Content::Grpc) => Self::Frame(choices.of(&[0, 1]), choices.of(&TEXTS).into()),
            #[cfg(feature = "json")]
            Some(Content::Json) => Self::of_json(choices),
        }
    }

    fn of_json(choices: &mut Choices<'_>) -> Self {
        match choices.below(16) {
            14 => Self::Bytes(choices.of(&TEXTS).into()),
            // About as deep as may be.
            15 => Self::Deep(30 + choices.below(4), choices.of(&DEEP_INSIDE)),
            _ => Self::Json(Tree::any(choices, 3), choices.below(256)),
        }
    }

    fn change(&mut self, choices: &mut Choices<'_>, spec: &Spec) {
        if spec.body.is_none() {
            return;
        }
        match self {
            _ if choices.one_in(12) => {
                let mut bytes = self.bytes();
                change_byte(&mut bytes, choices);
                *self = Self::Bytes(bytes);
            }
            Self::Bytes(bytes) => change_byte(bytes, choices),
            Self::Frame(flag, message) => match choices.below(4) {
                0 => *flag ^= 1,
                _ => change_byte(message, choices),
            },
            Self::Json(_, space) if choices.one_in(2) => *space = choices.below(256),
            Self::Json(tree, _) => tree.change(choices),
            Self::Deep(depth, inside) => {
                *depth += choices.below(2);
                *inside = choices.of(&DEEP_INSIDE);
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Frame(flag, message) => {
                let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
                [&[*flag][..], &length.to_be_bytes(), message].concat()
            }
            Self::Json(tree, space) => {
                let mut text = String::new();
                tree.write(&mut { *space }, &mut text);
                text.into_bytes()
            }
            Self::Deep(depth, inside) => [&"[".repeat(*depth), *inside, &"]".repeat(*depth)]
                .concat()
                .into_bytes(),
        }
    }
}

impl Tree {
    fn any(choices: &mut Choices<'_>, depth: usize) -> Self {
        let count = choices.below(4);
        match choices.below(if depth == 0 { 1 } else { 4 }) {
            // What is no JSON at all is rare.
            0 if choices.one_in(12) => Self::Leaf(choices.of(&LEAVES)),
            0 => Self::Leaf(choices.of(&LEAVES[..15])),
            1 => Self::Array((0..count).map(|_| Self::any(choices, depth - 1)).collect()),
            _ => Self::Object(
                (0..count)
                    .map(|_| (choices.of(&MEMBERS[..7]), Self::any(choices, depth - 1)))
                    .collect(),
            ),
        }
    }

    fn change(&mut self, choices: &mut Choices<'_>) {
        match self {
            Self::Object(members) if !members.is_empty() => {
                let (at, other) = (choices.below(members.len()), choices.below(members.len()));
                match choices.below(6) {
                    0 | 1 => members.swap(at, other),
                    2 => members.push(members[at].clone()),
                    3 => members[at].0 = choices.of(&MEMBERS),
                    4 => drop(members.remove(at)),
                    _ => members[at].1.change(choices),
                }
            }
            Self::Array(elements) if !elements.is_empty() => {
                let (at, other) = (choices.below(elements.len()), choices.below(elements.len()));
                match choices.below(4) {
                    0 => elements.swap(at, other),
                    1 => drop(elements.remove(at)),
                    _ => elements[at].change(choices),
                }
            }
            _ => *self = Self::Leaf(choices.of(&LEAVES)),
        }
    }

    fn write(&self, space: &mut usize, to: &mut String) {
        gap(space, to);
        match self {
            Self::Leaf(text) => to.push_str(text),
            Self::Array(elements) => {
                to.push('[');
                for (at, element) in elements.iter().enumerate() {
                    to.push_str(if at == 0 { "" } else { "," });
                    element.write(space, to);
                }
                to.push(']');
            }
            Self::Object(members) => {
                to.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    to.push_str(if at == 0 { "" } else { "," });
                    gap(space, to);
                    to.extend(["\"", name, "\""]);
                    gap(space, to);
                    to.push(':');
                    value.write(space, to);
                }
                gap(space, to);
                to.push('}');
            }
        }
        gap(space, to);
    }
}

fn gap(space: &mut usize, to: &mut String) {
    to.push_str(["", " ", "\n", "\t\r "][*space % 4]);
    *space /= 4;
}

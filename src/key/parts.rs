//! A key, told to people.

use std::fmt;

use http::{HeaderMap, HeaderName, header as field};

use super::{
    encode::{Tag, items},
    header::any_sensitive,
    identity,
    selection::Selection,
};

/// A part of a key, as [`Explanation`](crate::Explanation) tells it.
///
/// # Examples
///
/// ```
/// use http::Request;
/// use tower_response_cache::{CacheLayer, Key};
///
/// let cache = CacheLayer::builder().key(Key::new().query(["page"])).build();
/// let (parts, ()) = Request::get("/products?page=2&utm_source=x").body(()).unwrap().into_parts();
/// let key = cache.explain(&parts).key;
/// let page = key.iter().find(|part| part.kind == "parameter").unwrap();
/// assert_eq!((&*page.name, &*page.values[0]), ("page", "2"));
/// assert_eq!(page.to_string(), "parameter page: 2");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyPart {
    /// What kind of part this is: `method`, `path`, `header`, `cookie`, `extension`…
    pub kind: &'static str,
    /// Which of this kind: the name of the header, of the parameter. Empty where there is but one.
    pub name: String,
    /// Its values: none if it is absent, several if it is repeated. What is not text is written with escapes. `***`
    /// stands for a secret: a header marked sensitive, or one that says who asks. A cookie that was chosen by its name is told,
    /// unless its line is marked.
    pub values: Vec<String>,
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        match &*self.values {
            [] => f.write_str(" (absent)"),
            // An empty value is not an absent one.
            [empty] if empty.is_empty() => f.write_str(": \"\""),
            values => write!(f, ": {}", values.join(" | ")),
        }
    }
}

const HIDDEN: &str = "***";

/// The parts of a key that was made of a request with these headers.
pub(crate) fn parts(key: &[u8], headers: &HeaderMap, selection: &Selection) -> Vec<KeyPart> {
    let mut parts: Vec<KeyPart> = Vec::new();
    let mut hidden = false;
    for (tag, bytes) in items(key).unwrap_or_default() {
        if tag == Tag::Value {
            let value = if hidden {
                HIDDEN.to_owned()
            } else {
                text(bytes)
            };
            parts
                .last_mut()
                .into_iter()
                .for_each(|part| part.values.push(value.clone()));
            continue;
        }
        if tag == Tag::Absent {
            continue;
        }
        hidden = is_secret(tag, bytes, headers, selection);
        let (kind, named) = word(tag);
        let (name, values) = if named {
            (text(bytes), Vec::new())
        } else {
            (String::new(), vec![value_of(tag, bytes)])
        };
        parts.push(KeyPart { kind, name, values });
    }
    parts
}

/// A part's own bytes, where they are a value.
fn value_of(tag: Tag, bytes: &[u8]) -> String {
    if tag != Tag::LayerNumbered {
        return text(bytes);
    }
    // Little-endian, without the zeros behind.
    let number = bytes
        .iter()
        .rev()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    number.to_string()
}

/// The word for a kind of part, and whether its own bytes are a name rather than a value.
fn word(tag: Tag) -> (&'static str, bool) {
    match tag {
        Tag::Value => ("value", false),
        Tag::Absent => ("absent", true),
        Tag::Namespace => ("namespace", false),
        Tag::AppVersion => ("version", false),
        Tag::LayerNamed => ("layer", false),
        Tag::LayerNumbered => ("layer number", false),
        Tag::Sealed => ("sealed", true),
        Tag::Method => ("method", false),
        Tag::Scheme => ("scheme", false),
        Tag::Authority => ("authority", false),
        Tag::Path => ("path", false),
        Tag::OriginalPath => ("original path", false),
        Tag::OriginalQuery => ("original query", true),
        Tag::Forwarded => ("forwarded", true),
        Tag::ForwardedElement => ("forwarded element", true),
        Tag::ForwardedElements => ("forwarded elements", true),
        Tag::RawCookies => ("cookies", true),
        Tag::RawQuery => ("query", true),
        Tag::Search => ("query, as far as it matters", true),
        Tag::Parameter => ("parameter", true),
        Tag::Header => ("header", true),
        Tag::Cookie => ("cookie", true),
        Tag::Capture => ("capture", true),
        Tag::Extension => ("extension", true),
        Tag::Part => ("part", true),
        Tag::RawBody => ("body", true),
        Tag::JsonBody => ("JSON body", true),
        Tag::GrpcMessage => ("gRPC message", true),
        Tag::Trailer => ("trailer", true),
        Tag::Variant => ("variant", true),
        Tag::Fragment => ("fragment", true),
        Tag::Authorized => ("authorized", true),
    }
}

fn is_secret(tag: Tag, name: &[u8], headers: &HeaderMap, selection: &Selection) -> bool {
    let marked = |name: &HeaderName| any_sensitive(headers, name);
    let header = HeaderName::from_bytes(name).ok();
    match tag {
        Tag::Header => header.is_none_or(|name| selection.says_who_asks(&name) || marked(&name)),
        Tag::Forwarded => header.is_none_or(|name| marked(&name)),
        Tag::ForwardedElement => marked(&field::FORWARDED),
        Tag::Cookie => marked(&field::COOKIE),
        Tag::RawCookies => true,
        _ => false,
    }
}

/// The value of a header, unless it is a secret.
pub(crate) fn told(name: &HeaderName, value: &[u8], is_sensitive: bool) -> String {
    if is_sensitive || identity::says(name).is_some() {
        HIDDEN.to_owned()
    } else {
        text(value)
    }
}

/// Bytes as people read them.
pub(crate) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

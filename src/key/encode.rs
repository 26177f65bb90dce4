//! A key's bytes.

use http::{Method, header, request::Parts};
use smallvec::SmallVec;

/// A key while it is made: on the stack, unless it is long.
pub(crate) type KeyBytes = SmallVec<[u8; 256]>;

/// Raised when the encoding changes, so that keys of different versions are never equal.
const VERSION: u8 = 1;

/// What kind of part follows.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Tag {
    Namespace = 1,
    LayerNamed = 2,
    LayerNumbered = 3,
    Method = 4,
    Get = 20,
    Scheme = 5,
    Authority = 6,
    Host = 7,
    Path = 8,
    #[cfg(feature = "axum")]
    OriginalPath = 9,
    #[cfg(feature = "axum")]
    OriginalQuery = 10,
    RawQuery = 11,
    Parameter = 12,
    Header = 13,
    Cookie = 14,
    Custom = 15,
    Value = 16,
    Body = 17,
    Variant = 18,
    Authorized = 19,
    Forwarded = 21,
}

pub(super) fn put(key: &mut KeyBytes, tag: Tag, value: &[u8]) {
    let [b0, b1, b2, b3, b4] = length_bytes(value.len());
    key.extend_from_slice(&[tag as u8, b0, b1, b2, b3, b4]);
    key.extend_from_slice(value);
}

/// A number, in as many bytes as a length has everywhere.
pub(super) fn put_count(key: &mut KeyBytes, count: usize) {
    key.extend_from_slice(&length_bytes(count));
}

/// Lengths are of what is in memory: five bytes hold a terabyte.
fn length_bytes(length: usize) -> [u8; 5] {
    let [b0, b1, b2, b3, b4, ..] = (length as u64).to_le_bytes();
    [b0, b1, b2, b3, b4]
}

/// A value that may be absent, which is not the same as empty.
pub(super) fn put_optional(key: &mut KeyBytes, tag: Tag, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            put_count(key, 1);
            put(key, tag, value);
        }
        None => put_count(key, 0),
    }
}

/// What every key of a layer begins with: the encoding's version, the application's namespace, and the layer.
#[derive(Debug, Clone)]
pub(crate) struct KeyPrefix(KeyBytes);

impl KeyPrefix {
    /// Layers of one name answer each other's requests; layers without a name have a number of their own.
    pub(crate) fn new(namespace: &str, name: Option<&str>, number: u64) -> Self {
        let mut key = KeyBytes::new();
        key.push(VERSION);
        put(&mut key, Tag::Namespace, namespace.as_bytes());
        match name {
            Some(name) => put(&mut key, Tag::LayerNamed, name.as_bytes()),
            None => put(&mut key, Tag::LayerNumbered, &number.to_le_bytes()),
        }
        Self(key)
    }

    pub(super) fn start(&self, key: &mut KeyBytes) {
        key.clear();
        key.extend_from_slice(&self.0);
    }
}

/// GET and HEAD share a key: a stored GET answers both.
pub(super) fn method(key: &mut KeyBytes, method: &Method) {
    match *method {
        Method::GET | Method::HEAD => key.push(Tag::Get as u8),
        _ => put(key, Tag::Method, method.as_str().as_bytes()),
    }
}

/// Scheme and authority of the target, and what `Host` says besides: handlers read either.
pub(super) fn authority(key: &mut KeyBytes, parts: &Parts) {
    if let Some(scheme) = parts.uri.scheme() {
        put(key, Tag::Scheme, scheme.as_str().as_bytes());
    }
    if let Some(authority) = parts.uri.authority() {
        put_host(key, Tag::Authority, authority.as_str().as_bytes());
    }
    for host in parts.headers.get_all(header::HOST) {
        put_host(key, Tag::Host, host.as_bytes());
    }
}

/// RFC 9110 §4.2.3: a host's name is the same in any case. What stands before an `@` is not.
fn put_host(key: &mut KeyBytes, tag: Tag, host: &[u8]) {
    put(key, tag, host);
    if !host.contains(&b'@') {
        let value = key.len() - host.len();
        key[value..].make_ascii_lowercase();
    }
}

/// The path and query as the client sent them, where a router has changed what the cache sees (`nest` strips a prefix).
#[cfg(feature = "axum")]
pub(super) fn original_uri(key: &mut KeyBytes, parts: &Parts) {
    let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() else {
        return;
    };
    if original.path() != parts.uri.path() {
        put(key, Tag::OriginalPath, original.path().as_bytes());
    }
    if original.query() != parts.uri.query() {
        put(key, Tag::OriginalQuery, &[]);
        put_optional(key, Tag::Value, original.query().map(str::as_bytes));
    }
}

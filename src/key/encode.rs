//! A key's bytes: items, one after the other, each a tag, the length of its value, and the value.

use smallvec::SmallVec;

/// A key while it is made: on the stack, unless it is long.
pub(crate) type KeyBytes = SmallVec<[u8; 256]>;

/// Raised when the encoding changes, so that keys of different versions are never equal.
const VERSION: u8 = 3;

macro_rules! tags {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What kind of item follows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Tag {
            $($(#[$doc])* $name = $number,)*
        }

        impl Tag {
            fn of(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

tags! {
    /// A value of the item before it, which has as many as stand there: none, one, or several.
    Value = 0,
    Namespace = 1,
    AppVersion = 2,
    LayerNamed = 3,
    LayerNumbered = 4,
    Sealed = 5,
    Method = 6,
    Scheme = 7,
    Authority = 8,
    // 9 was the lines of `Host`.
    Path = 10,
    OriginalPath = 11,
    OriginalQuery = 12,
    Forwarded = 13,
    ForwardedElement = 14,
    RawQuery = 15,
    Parameter = 16,
    Header = 17,
    Cookie = 18,
    Capture = 19,
    Extension = 20,
    Part = 21,
    RawBody = 22,
    JsonBody = 23,
    GrpcMessage = 24,
    Trailer = 25,
    Variant = 26,
    Authorized = 27,
    ForwardedElements = 28,
    RawCookies = 29,
    /// The item before it has no value, though it might have had one that says nothing.
    Absent = 30,
    /// The query, as far as a response has said that it matters.
    Search = 31,
    /// The fragment of a page that is asked for. In the keys of flights alone.
    Fragment = 40,
}

pub(super) fn put(key: &mut KeyBytes, tag: Tag, value: &[u8]) {
    #[expect(clippy::cast_possible_truncation, reason = "of the last seven bits")]
    if value.len() < 0x80 {
        key.extend_from_slice(&[tag as u8, value.len() as u8]);
    } else {
        key.push(tag as u8);
        let mut length = value.len();
        while length >= 0x80 {
            key.push(length as u8 | 0x80);
            length >>= 7;
        }
        key.push(length as u8);
    }
    key.extend_from_slice(value);
}

/// An item with a value, or none if it is absent.
pub(super) fn put_optional(key: &mut KeyBytes, tag: Tag, name: &[u8], value: Option<&[u8]>) {
    put(key, tag, name);
    if let Some(value) = value {
        put(key, Tag::Value, value);
    }
}

/// What every key of a layer begins with: the encoding's version, the application's namespace and version, the layer.
#[derive(Debug, Clone)]
pub(crate) struct KeyPrefix(KeyBytes);

impl KeyPrefix {
    /// Layers of one name answer each other's requests; layers without a name have a number of their own.
    pub(crate) fn new(namespace: &str, version: &str, name: Option<&str>, number: u64) -> Self {
        let mut key = KeyBytes::new();
        key.push(VERSION);
        if !namespace.is_empty() {
            put(&mut key, Tag::Namespace, namespace.as_bytes());
        }
        if !version.is_empty() {
            put(&mut key, Tag::AppVersion, version.as_bytes());
        }
        match name {
            Some(name) => put(&mut key, Tag::LayerNamed, name.as_bytes()),
            None => {
                let bytes = number.to_le_bytes();
                let zeros = bytes.iter().rev().take_while(|b| **b == 0).count();
                put(&mut key, Tag::LayerNumbered, &bytes[..bytes.len() - zeros]);
            }
        }
        Self(key)
    }

    pub(super) fn start(&self, key: &mut KeyBytes) {
        key.clear();
        key.extend_from_slice(&self.0);
    }
}

/// A key taken apart again: what was put in, in its order. `None` if these bytes are no key.
pub(super) fn items(key: &[u8]) -> Option<Vec<(Tag, &[u8])>> {
    let mut rest = key.strip_prefix(&[VERSION])?;
    let mut items = Vec::new();
    while let Some((&tag, after)) = rest.split_first() {
        let tag = Tag::of(tag)?;
        let (length, after) = length(after)?;
        let (value, after) = after.split_at_checked(length)?;
        items.push((tag, value));
        rest = after;
    }
    Some(items)
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length: usize = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let bits = usize::from(byte & 0x7f);
        let shift = u32::try_from(at).ok()?.checked_mul(7)?;
        if bits.leading_zeros() < shift {
            return None;
        }
        length |= bits.checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((length, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    // Invariant 7.
    #[test]
    fn what_was_put_into_a_key_can_be_taken_out_again() {
        let mut key = KeyBytes::new();
        KeyPrefix::new("shop", "7", None, 3).start(&mut key);
        let long = vec![b'x'; 100_000];
        let values: [&[u8]; 6] = [b"", b"a", &[0; 127], &[1; 128], &[2; 16_384], &long];
        for value in values {
            put_optional(&mut key, Tag::Header, value, Some(value));
            put_optional(&mut key, Tag::Cookie, value, None);
        }
        let items = items(&key).unwrap();
        assert_eq!(items[0], (Tag::Namespace, &b"shop"[..]));
        assert_eq!(items[1], (Tag::AppVersion, &b"7"[..]));
        assert_eq!(items[2], (Tag::LayerNumbered, &[3][..]));
        let expected = values.iter().flat_map(|value| {
            let tags = [Tag::Header, Tag::Value, Tag::Cookie];
            tags.map(|tag| (tag, *value))
        });
        assert!(items[3..].iter().copied().eq(expected));
    }

    #[test]
    fn what_is_no_key_is_none() {
        let mut key = KeyBytes::new();
        KeyPrefix::new("", "", Some("a"), 0).start(&mut key);
        put(&mut key, Tag::Path, &[b'a'; 300]);
        for cut in 0..key.len() {
            let whole_items = cut == 1 || cut == 4;
            assert_eq!(items(&key[..cut]).is_some(), whole_items, "{cut}");
        }
        let huge = [&[VERSION, Tag::Path as u8][..], &[0xff; 12], &[1]].concat();
        assert_eq!(items(&huge), None);
        assert_eq!(items(&[VERSION, 200, 0]), None);
        assert_eq!(items(&[VERSION + 1]), None);
    }
}

//! Structured fields (RFC 9651).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use sfv::{Dictionary, FieldType, List, Parser};

/// `None` if it is absent, or cannot be read.
pub(super) fn dictionary(headers: &HeaderMap, name: &HeaderName) -> Option<Dictionary> {
    read(headers, name)
}

/// `None` if it is absent, or cannot be read.
pub(super) fn list(headers: &HeaderMap, name: &HeaderName) -> Option<List> {
    read(headers, name)
}

fn read<T: FieldType>(headers: &HeaderMap, name: &HeaderName) -> Option<T> {
    let value = combined(headers, name)?;
    Parser::new(&*value).parse().ok()
}

/// RFC 9651 §4.2: all lines are one value.
fn combined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        let value = value.to_mut();
        value.extend_from_slice(b", ");
        value.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

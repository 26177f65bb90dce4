//! Which of the variants of a response a request is for (RFC 9111 §4.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    key::{self, KeyBytes},
    status::Reason,
};

/// The header fields that a response's `Vary` names, with the values that its request had; without those that are in
/// the key, in whatever form the inner service saw them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vary(Box<[Field]>);

#[derive(Debug, Clone)]
struct Field {
    name: HeaderName,
    value: Value,
    /// A line of it was marked so: it is not told.
    is_sensitive: bool,
}

/// What a request says in all lines of a field; `None` if it has none.
type Value = Option<Box<[u8]>>;

/// A `Vary` that names more fields than this is treated as one that cannot be read.
const MAX_FIELDS: usize = 32;

impl Vary {
    /// # Errors
    ///
    /// The reason for which no other request may have the response: `Vary: *`, or a field that cannot be read.
    pub(crate) fn of(
        response: &HeaderMap,
        request: &HeaderMap,
        is_in_key: impl Fn(&HeaderName) -> bool,
    ) -> Result<Self, Reason> {
        let mut names: Vec<HeaderName> = Vec::new();
        for line in response.get_all(header::VARY) {
            for name in line.as_bytes().split(|&b| b == b',') {
                let name = name.trim_ascii();
                if name == b"*" {
                    return Err(Reason::VaryStar);
                }
                if name.is_empty() {
                    continue;
                }
                let name = HeaderName::from_bytes(name).map_err(|_| Reason::Vary)?;
                if names.len() > MAX_FIELDS {
                    return Err(Reason::Vary);
                }
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        if names.len() > MAX_FIELDS {
            return Err(Reason::Vary);
        }
        // What is encoded is for those who asked for it in the same way, also where the response forgets to say so.
        let encoded = response.contains_key(header::CONTENT_ENCODING);
        if encoded && !names.contains(&header::ACCEPT_ENCODING) {
            names.push(header::ACCEPT_ENCODING);
        }
        // Who has the same key has the same in these.
        names.retain(|name| !is_in_key(name));
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let with_value = |name: HeaderName| Field {
            value: value(request, &name),
            is_sensitive: key::any_sensitive(request, &name),
            name,
        };
        Ok(Self(names.into_iter().map(with_value).collect()))
    }

    /// Whether every nominated field has the value that it had.
    pub(crate) fn matches(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|field| {
            let stored = &field.value;
            let mut lines = request.get_all(&field.name).iter();
            match (lines.next(), lines.next()) {
                (None, _) => stored.is_none(),
                (Some(only), None) => stored.as_deref() == Some(only.as_bytes().trim_ascii()),
                _ => *stored == value(request, &field.name),
            }
        })
    }

    /// Whether two responses are for the same requests.
    pub(crate) fn same_variant(&self, other: &Self) -> bool {
        let same = |(a, b): (&Field, &Field)| a.name == b.name && a.value == b.value;
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }

    /// Whether two responses tell requests apart by the same fields: then either is for other requests than the other, or
    /// for the same.
    pub(crate) fn same_fields(&self, other: &Self) -> bool {
        let same = |(a, b): (&Field, &Field)| a.name == b.name;
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }

    /// The fields that are told apart.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|field| &field.name)
    }

    /// Adds to a key what tells this request's variant from others, by the fields that this response nominates.
    pub(crate) fn put(&self, request: &HeaderMap, key: &mut KeyBytes) {
        for Field { name, .. } in &self.0 {
            key::put_variant(key, name, value(request, name).as_deref());
        }
    }

    /// Each field, with the value that it had, as far as people may be told.
    pub(crate) fn told(&self) -> impl Iterator<Item = (HeaderName, Option<String>)> {
        self.0.iter().map(|field| {
            let told = |value| key::told(&field.name, value, field.is_sensitive);
            (field.name.clone(), field.value.as_deref().map(told))
        })
    }

    pub(crate) fn weight(&self) -> usize {
        let fields = self.0.iter();
        fields
            .map(|field| {
                let value = field.value.as_ref().map_or(0, |value| value.len());
                field.name.as_str().len() + value + 64
            })
            .sum()
    }
}

/// RFC 9111 §4.1: lines are joined, and white space around them does not matter.
fn value(headers: &HeaderMap, name: &HeaderName) -> Value {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let mut value = lines.next()?.trim_ascii().to_vec();
    for line in lines {
        value.extend_from_slice(b", ");
        value.extend_from_slice(line.trim_ascii());
    }
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn of(response: &HeaderMap, request: &HeaderMap) -> Result<Vary, Reason> {
        Vary::of(response, request, |_| false)
    }

    #[test]
    fn what_is_in_the_key_is_not_compared_again() {
        let response = headers(&[("vary", "foo, bar")]);
        let request = headers(&[("foo", "1"), ("bar", "2")]);
        let vary = Vary::of(&response, &request, |name| name == "foo").unwrap();
        assert!(vary.matches(&headers(&[("foo", "other"), ("bar", "2")])));
        assert!(!vary.matches(&headers(&[("foo", "1"), ("bar", "other")])));
        let star = headers(&[("vary", "foo, *")]);
        assert!(Vary::of(&star, &request, |_| true).is_err());
    }

    #[test]
    fn every_nominated_field_must_match() {
        let request = headers(&[("foo", "1"), ("bar", "2")]);
        let vary = of(
            &headers(&[("vary", "Foo, BAR"), ("vary", ",baz")]),
            &request,
        )
        .unwrap();
        assert!(vary.matches(&request));
        assert!(vary.matches(&headers(&[("foo", " 1 "), ("bar", "2"), ("other", "x")])));
        for other in [
            headers(&[("foo", "1")]),
            headers(&[("foo", "1"), ("bar", "")]),
            headers(&[("foo", "1"), ("bar", "2"), ("baz", "")]),
            headers(&[("foo", "1"), ("foo", "1"), ("bar", "2")]),
        ] {
            assert!(!vary.matches(&other), "{other:?}");
        }
    }

    #[test]
    fn lines_are_joined() {
        let vary = of(&headers(&[("vary", "foo")]), &headers(&[("foo", "1, 2")])).unwrap();
        assert!(vary.matches(&headers(&[("foo", "1"), ("foo", "2 ")])));
        assert!(!vary.matches(&headers(&[("foo", "2"), ("foo", "1")])));
    }

    #[test]
    fn a_star_or_what_cannot_be_read_matches_nothing() {
        let request = HeaderMap::new();
        let of = |lines: &[(&'static str, &str)]| of(&headers(lines), &request).map(|_| ());
        assert_eq!(of(&[("vary", "*")]), Err(Reason::VaryStar));
        assert_eq!(of(&[("vary", "foo, *")]), Err(Reason::VaryStar));
        assert_eq!(of(&[("vary", ""), ("vary", " , *")]), Err(Reason::VaryStar));
        assert_eq!(of(&[("vary", "f oo")]), Err(Reason::Vary));
        assert_eq!(of(&[("vary", "\u{fc}")]), Err(Reason::Vary));
        assert_eq!(of(&[("vary", " ,")]), Ok(()));
        let many = |n: usize| {
            (0..n)
                .map(|i| format!("f{i}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(of(&[("vary", &many(MAX_FIELDS))]), Ok(()));
        assert_eq!(of(&[("vary", &many(MAX_FIELDS + 1))]), Err(Reason::Vary));
    }
}

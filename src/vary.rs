//! Which of the variants of a response a request is for (RFC 9111 §4.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    key::{self, Fragment, KeyBytes},
    status::Reason,
};

/// The header fields that a response's `Vary` names, with the values that its request had; without those that are in
/// the key, in whatever form the inner service saw them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vary {
    fields: Box<[Field]>,
    /// Whether the order of languages that are equally welcome does not matter, as RFC 9110 §12.5.4 has it. Handlers may take it
    /// for one of preference.
    any_order: bool,
    /// Which fragment of a page the response is: told apart as if `Vary` named the headers that ask for one.
    fragment: Fragment,
}

#[derive(Debug, Clone)]
struct Field {
    name: HeaderName,
    /// As it came: most requests for the same have it so too.
    value: Value,
    /// In the form that all its spellings share.
    normal: Value,
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
        any_order: bool,
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
            normal: normal(request, &name, any_order),
            is_sensitive: key::any_sensitive(request, &name),
            name,
        };
        Ok(Self {
            fields: names.into_iter().map(with_value).collect(),
            any_order,
            fragment: Fragment::default(),
        })
    }

    /// Of a response that is this fragment of a page.
    pub(crate) fn of_fragment(mut self, fragment: &Fragment) -> Self {
        self.fragment = fragment.clone();
        self
    }

    /// Which fragment of a page the response is.
    pub(crate) fn fragment(&self) -> &Fragment {
        &self.fragment
    }

    /// Whether a request for this fragment, with these headers, is answered by the response.
    pub(crate) fn is_for(&self, fragment: &Fragment, request: &HeaderMap) -> bool {
        self.fragment == *fragment && self.matches(request)
    }

    /// Whether every nominated field has the value that it had, however it is spelled (RFC 9111 §4.1).
    pub(crate) fn matches(&self, request: &HeaderMap) -> bool {
        self.fields.iter().all(|field| {
            let mut lines = request.get_all(&field.name).iter();
            let as_it_came = match (lines.next(), lines.next(), &field.value) {
                (None, _, stored) => return stored.is_none(),
                (Some(only), None, Some(stored)) => **stored == *only.as_bytes().trim_ascii(),
                _ => false,
            };
            as_it_came || field.normal == normal(request, &field.name, self.any_order)
        })
    }

    /// Whether two responses are for the same requests.
    pub(crate) fn same_variant(&self, other: &Self) -> bool {
        let same = |(a, b): (&Field, &Field)| a.name == b.name && a.normal == b.normal;
        self.fragment == other.fragment
            && self.fields.len() == other.fields.len()
            && self.fields.iter().zip(&other.fields).all(same)
    }

    /// Whether two responses tell requests apart by the same fields: then either is for other requests than the other, or
    /// for the same. Fragments are told apart by all.
    pub(crate) fn same_fields(&self, other: &Self) -> bool {
        let same = |(a, b): (&Field, &Field)| a.name == b.name;
        self.fields.len() == other.fields.len() && self.fields.iter().zip(&other.fields).all(same)
    }

    /// Whether a response that tells requests apart by these fields is for all that one is which does so by the others.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let names = |vary: &Self, name| vary.names().any(|known| known == name);
        self.fragment == other.fragment && self.names().all(|name| names(other, name))
    }

    /// The fields that are told apart.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|field| &field.name)
    }

    /// Adds to a key what tells this request's variant from others, by the fields that this response nominates.
    pub(crate) fn put(&self, request: &HeaderMap, key: &mut KeyBytes) {
        for Field { name, .. } in &self.fields {
            let normal = normal(request, name, self.any_order);
            key::put_variant(key, name, normal.as_deref());
        }
    }

    /// Each field, with the value that it had, as far as people may be told.
    pub(crate) fn told(&self) -> impl Iterator<Item = (HeaderName, Option<String>)> {
        let fragment = self.fragment.told().map(|(name, value)| {
            let value = value.map_or_else(|| "(present)".to_owned(), key::text);
            (name, Some(value))
        });
        let fields = self.fields.iter().map(|field| {
            let told = |value| key::told(&field.name, value, field.is_sensitive);
            (field.name.clone(), field.value.as_deref().map(told))
        });
        fragment.chain(fields)
    }

    pub(crate) fn weight(&self) -> usize {
        let fields = self.fields.iter();
        fields
            .map(|field| {
                let length = |value: &Value| value.as_ref().map_or(0, |value| value.len());
                let values = length(&field.value) + length(&field.normal);
                field.name.as_str().len() + values + 80
            })
            .sum::<usize>()
            + self.fragment.weight()
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

/// The value in a form that its spellings share: where white space around commas and the cut into lines do not matter, and no more than
/// the field's own definition allows.
fn normal(headers: &HeaderMap, name: &HeaderName, any_order: bool) -> Value {
    let mut value = value(headers, name)?;
    let is_coding = *name == header::ACCEPT_ENCODING;
    // RFC 9110 §12.5.3, §12.5.4: codings and languages are the same in any case.
    if is_coding || *name == header::ACCEPT_LANGUAGE {
        value.make_ascii_lowercase();
    }
    let mut members: Vec<&[u8]> = members(&value).collect();
    if is_coding || (any_order && *name == header::ACCEPT_LANGUAGE) {
        members.sort_unstable();
    }
    Some(members.join(&b","[..]).into())
}

/// The members of a list: between commas that stand in no quoted string, without the white space around them.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let members = list.split(move |&b| {
        match b {
            b'"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && b == b'\\' && !escaped;
        b == b',' && !quoted
    });
    members.map(<[u8]>::trim_ascii)
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
        Vary::of(response, request, false, |_| false)
    }

    #[test]
    fn what_is_in_the_key_is_not_compared_again() {
        let response = headers(&[("vary", "foo, bar")]);
        let request = headers(&[("foo", "1"), ("bar", "2")]);
        let vary = Vary::of(&response, &request, false, |name| name == "foo").unwrap();
        assert!(vary.matches(&headers(&[("foo", "other"), ("bar", "2")])));
        assert!(!vary.matches(&headers(&[("foo", "1"), ("bar", "other")])));
        let star = headers(&[("vary", "foo, *")]);
        assert!(Vary::of(&star, &request, false, |_| true).is_err());
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
    fn a_value_may_be_spelled_in_many_ways_as_far_as_its_definition_allows() {
        let same = |name: &'static str, a: &str, b: &str, any_order| {
            let response = headers(&[("vary", name)]);
            let vary = Vary::of(&response, &headers(&[(name, a)]), any_order, |_| false).unwrap();
            vary.matches(&headers(&[(name, b)]))
        };
        for (name, a, b, expected) in [
            ("foo", "1,2", " 1 ,\t2 ", true),
            ("foo", "1, 2", "2, 1", false),
            ("foo", "a", "A", false),
            ("foo", "\"1,2\"", "\"1, 2\"", false),
            ("foo", "\"\\\",1\"", "\"\\\", 1\"", false),
            ("foo", "1", "1,", false),
            ("accept-encoding", "gzip, BR", "br,gzip", true),
            ("accept-encoding", "gzip;q=0", "gzip", false),
            ("accept-language", "DE, en", "de,EN", true),
            ("accept-language", "de, en", "en, de", false),
        ] {
            assert_eq!(same(name, a, b, false), expected, "{name}: {a} {b}");
        }
        assert!(same("accept-language", "de, en;q=0.5", "EN;q=0.5,de", true));
        assert!(!same("foo", "de, en", "en, de", true));
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

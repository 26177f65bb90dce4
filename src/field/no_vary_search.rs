//! Which parameters of a query a response does not depend on: `No-Vary-Search` (draft-ietf-httpbis-no-vary-search).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, ListEntry};

use super::structured;

const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// How queries are compared, where that is not byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoVarySearch {
    parameters: Parameters,
    /// In which order parameters of different names stand does not matter.
    any_order: bool,
}

/// Names, decoded and in order, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Parameters {
    /// All matter but these.
    Except(Box<[Box<str>]>),
    /// These matter.
    Only(Box<[Box<str>]>),
}

impl NoVarySearch {
    /// A field that names more parameters than this is ignored.
    const MAX_NAMES: usize = 64;

    /// `None` if the field is absent or invalid, or says what holds without it: then queries are equivalent if they are equal.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let members = structured::dictionary(headers, &NO_VARY_SEARCH)?;
        let any_order = match members.get("key-order") {
            None => false,
            Some(ListEntry::Item(item)) => match item.bare_item {
                BareItem::Boolean(any_order) => any_order,
                _ => return None,
            },
            Some(ListEntry::InnerList(_)) => return None,
        };
        let parameters = match (members.get("params"), members.get("except")) {
            (None, None) => Parameters::Except(Box::default()),
            (Some(params), None) => Parameters::Except(names(params)?),
            (None, Some(except)) => Parameters::Only(names(except)?),
            (Some(_), Some(_)) => return None,
        };
        let read = Self {
            parameters,
            any_order,
        };
        (!read.is_default()).then_some(read)
    }

    fn is_default(&self) -> bool {
        let all_matter = match &self.parameters {
            Parameters::Except(names) => names.is_empty(),
            Parameters::Only(_) => false,
        };
        all_matter && !self.any_order
    }

    /// Two queries are equivalent exactly if these are equal.
    pub(crate) fn canonical(&self, query: Option<&str>) -> Vec<u8> {
        let query = query.unwrap_or_default().as_bytes();
        let mut pairs: Vec<_> = form_urlencoded::parse(query)
            .filter(|(name, _)| self.parameters.matter(name))
            .collect();
        if self.any_order {
            // Stable: the values of one name stay in their order.
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        let mut canonical = Vec::with_capacity(query.len() + pairs.len() * 2 * size_of::<u64>());
        for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
            canonical.extend_from_slice(&(part.len() as u64).to_le_bytes());
            canonical.extend_from_slice(part.as_bytes());
        }
        canonical
    }

    /// It, as bytes: of two that are not equal, they are not.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (kind, names) = match &self.parameters {
            Parameters::Except(names) => (0, names),
            Parameters::Only(names) => (1, names),
        };
        let mut bytes = vec![kind, u8::from(self.any_order)];
        for name in names {
            bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    /// Bytes that it takes.
    pub(crate) fn weight(&self) -> usize {
        let (Parameters::Except(names) | Parameters::Only(names)) = &self.parameters;
        let names = names.iter().map(|name| name.len() + size_of::<Box<str>>());
        size_of::<Self>() + names.sum::<usize>()
    }
}

impl Parameters {
    fn matter(&self, name: &str) -> bool {
        let is_in =
            |names: &[Box<str>]| names.binary_search_by(|known| (**known).cmp(name)).is_ok();
        match self {
            Self::Except(names) => !is_in(names),
            Self::Only(names) => is_in(names),
        }
    }
}

/// An inner list of strings, and nothing else.
fn names(value: &ListEntry) -> Option<Box<[Box<str>]>> {
    let ListEntry::InnerList(list) = value else {
        return None;
    };
    if list.items.len() > NoVarySearch::MAX_NAMES {
        return None;
    }
    let name = |item: &sfv::Item| match &item.bare_item {
        BareItem::String(name) => Some(decoded(name.as_str()).into()),
        _ => None,
    };
    let mut names = list.items.iter().map(name).collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names.into())
}

/// A name as the queries' are decoded. What separates parameters there is part of the name here.
fn decoded(name: &str) -> String {
    let whole = name.replace('&', "%26").replace('=', "%3D");
    let mut pairs = form_urlencoded::parse(whole.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(name, _)| Cow::into_owned(name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&str]) -> Option<NoVarySearch> {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(NO_VARY_SEARCH, line);
        }
        NoVarySearch::of(&headers)
    }

    /// Whether these are equivalent under this line; `-` is no query at all.
    fn same(line: &str, one: &str, other: &str) -> bool {
        let read = of(&[line]).unwrap();
        let canonical = |query: &str| read.canonical(Some(query).filter(|query| *query != "-"));
        canonical(one) == canonical(other)
    }

    /// Says something, and nothing of the queries below.
    const HARMLESS: &str = r#"params=("unused")"#;

    #[test]
    fn queries_are_compared_as_forms_are_read() {
        for (one, other) in [
            ("-", ""),
            ("a=x", "%61=%78"),
            ("a=\u{e9}", "a=%C3%A9"),
            ("a=%f6", "a=%ef%bf%bd"),
            ("a=x&&&&", "a=x"),
            ("a=", "a"),
            ("a=%20", "a=+"),
            ("a=%20", "a= "),
            ("&", "-"),
            ("a=%", "a=%25"),
            ("unused=1&a", "a&unused=2&unused"),
        ] {
            assert!(same(HARMLESS, one, other), "{one} {other}");
        }
        for (one, other) in [
            ("-", "="),
            ("a=x", "a=X"),
            ("a=1&b=2", "b=2&a=1"),
            ("a=1&a=2", "a=2&a=1"),
            ("a=1", "a=1&a=1"),
            ("a=b", "ab"),
            ("a=1%26b=2", "a=1&b=2"),
            ("a%3D=", "a=="),
            ("ab=c", "a=bc"),
            ("a=&=a", "a&a"),
            ("a;b", "a&b"),
        ] {
            assert!(!same(HARMLESS, one, other), "{one} {other}");
        }
    }

    #[test]
    fn parameters_that_are_named_do_not_matter() {
        let line = r#"params=("a" "b")"#;
        assert!(same(line, "a=1&x=1", "x=1&b=2&a"));
        assert!(same(line, "%61=1", "-"));
        assert!(!same(line, "a=1&x=1", "a=1&x=2"));
        assert!(!same(line, "A=1", "-"));
        assert!(!same(line, "x=1&y=2", "y=2&x=1"));
        assert!(same(r#"params=("")"#, "=1&x", "x"));
    }

    #[test]
    fn parameters_that_are_not_named_do_not_matter() {
        let line = r#"except=("a" "b")"#;
        assert!(same(line, "a=1&x=1", "y&a=1"));
        assert!(!same(line, "a=1", "a=2"));
        assert!(!same(line, "a=1&b=2", "b=2&a=1"));
        assert!(same("except=()", "a=1&b=2", "-"));
    }

    #[test]
    fn the_order_of_names_does_not_matter_if_it_is_said_so() {
        assert!(same("key-order", "b=1&a=2&b=3", "a=2&b=1&b=3"));
        assert!(!same("key-order", "b=1&a=2&b=3", "a=2&b=3&b=1"));
        let line = r#"key-order, params=("x")"#;
        assert!(same(line, "x&b&a", "a&x=1&b"));
    }

    #[test]
    fn a_name_is_decoded_as_in_a_query() {
        let line = r#"params=("%C3%A9+%E6%B0%97" "a&b=c" "%25" "%f6")"#;
        for query in [
            "%C3%A9+%E6%B0%97=1",
            "\u{e9}%20\u{6c17}",
            "a%26b%3Dc=1",
            "%=1",
            "%ef%bf%bd",
        ] {
            assert!(same(line, query, "-"), "{query}");
        }
        assert!(!same(line, "a", "-"));
    }

    #[test]
    fn what_says_nothing_new_or_cannot_be_read_is_not_there() {
        assert_eq!(of(&[]), None);
        for line in [
            "",
            "key-order=?0",
            "params=()",
            r#"params=(), key-order=?0"#,
            "unknown",
            "key-order=1",
            "key-order=yes",
            "key-order=()",
            r#"key-order="?1""#,
            "params",
            "params=?1",
            "params=?0",
            r#"params="a""#,
            "params=a",
            "params=(a)",
            r#"params=("a" b)"#,
            r#"params=("a" 1)"#,
            "except",
            r#"except="a""#,
            "except=(a)",
            r#"params, except=("a")"#,
            r#"params=("a"), except=("b")"#,
            r#"params=(), except=("b")"#,
            r#"params=("a"), key-order=1"#,
            r#"params=("a""#,
            r#"params=("a"),"#,
            "key-order, &&&",
            "Key-Order",
            "params=(\"\u{fc}\")",
        ] {
            assert_eq!(of(&[line]), None, "{line}");
        }
    }

    #[test]
    fn what_is_unknown_and_parameters_are_ignored_and_lines_are_one() {
        let plain = of(&[r#"params=("a" "b"), key-order"#]);
        assert!(plain.is_some());
        assert_eq!(
            of(&[r#"x=1, params=("b";y "a" "a");z"#, "key-order=?1;y"]),
            plain
        );
        assert_eq!(of(&[r#"params=1, params=("a")"#]), of(&[r#"params=("a")"#]));
    }

    // Invariant 57.
    #[test]
    fn as_many_names_as_may_be_are_read_and_with_one_more_none() {
        let line = |count: usize| {
            let names: Vec<_> = (0..count).map(|n| format!("\"{n}\"")).collect();
            format!("except=({})", names.join(" "))
        };
        let most = of(&[&line(NoVarySearch::MAX_NAMES)]).unwrap();
        assert!(most.weight() > NoVarySearch::MAX_NAMES * size_of::<Box<str>>());
        assert_eq!(of(&[&line(NoVarySearch::MAX_NAMES + 1)]), None);
    }
}

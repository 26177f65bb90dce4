//! JSON in a form that its spellings share: members in any order, white space of any kind.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, header};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Deeper values are keyed as they come: each level is read once for itself and once for every level around it.
const MAX_DEPTH: usize = 32;

/// Bytes that two texts share only if they have the same members with the same values, in whatever order and with
/// whatever white space. Numbers and strings stay as they are written, so that no two become one. Members of the outermost object
/// with one of the names `except` are left out. `None` for what is not JSON, and what its readers do not agree on: two members of
/// one name.
pub(super) fn canonical(text: &[u8], except: &[Cow<'static, str>]) -> Option<Vec<u8>> {
    let value: &RawValue = serde_json::from_slice(text).ok()?;
    let mut canonical = Vec::with_capacity(text.len());
    put(value, except, MAX_DEPTH, &mut canonical)?;
    Some(canonical)
}

fn put(
    value: &RawValue,
    except: &[Cow<'static, str>],
    depth: usize,
    to: &mut Vec<u8>,
) -> Option<()> {
    let text = value.get();
    let inside = depth.checked_sub(1)?;
    match text.as_bytes().first()? {
        b'{' => {
            let Members(mut members) = serde_json::from_str(text).ok()?;
            members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return None;
            }
            members.retain(|(name, _)| except.iter().all(|left_out| left_out != name));
            put_count(b'{', members.len(), to);
            for (name, value) in members {
                put_text(b'n', name.as_bytes(), to);
                put(value, &[], inside, to)?;
            }
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            put_count(b'[', elements.len(), to);
            for value in elements {
                put(value, &[], inside, to)?;
            }
        }
        _ => put_text(b'v', text.as_bytes(), to),
    }
    Some(())
}

fn put_text(tag: u8, text: &[u8], to: &mut Vec<u8>) {
    put_count(tag, text.len(), to);
    to.extend_from_slice(text);
}

fn put_count(tag: u8, count: usize, to: &mut Vec<u8>) {
    to.push(tag);
    to.extend_from_slice(&(count as u64).to_le_bytes());
}

/// The members of an object as they come, those of one name too.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// Whether a body with these headers is JSON or a sequence of JSON texts by its type, in whatever charset and coding.
pub(super) fn is_typed(headers: &HeaderMap) -> bool {
    const TYPES: [&[u8]; 7] = [
        b"application/json",
        b"text/json",
        b"application/x-ndjson",
        b"application/ndjson",
        b"application/jsonl",
        b"application/x-jsonlines",
        b"application/json-seq",
    ];
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else {
        return false;
    };
    let only = only.as_bytes().to_ascii_lowercase();
    let media_type = only.split(|&b| b == b';').next().unwrap_or_default();
    let media_type = media_type.trim_ascii();
    let suffixes = [&b"+json"[..], b"+json-seq"];
    let has_suffix = suffixes.iter().any(|suffix| media_type.ends_with(suffix));
    TYPES.contains(&media_type) || has_suffix
}

/// Whether every reader takes a body with these headers for JSON in UTF-8: only then its spelling may be put aside.
pub(super) fn is_said(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else {
        return false;
    };
    let only = only.as_bytes().to_ascii_lowercase();
    let mut pieces = only.split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let media_type = pieces.next().unwrap_or_default();
    let json = media_type == b"application/json" || media_type.ends_with(b"+json");
    let utf_8 = |parameter: &[u8]| {
        let value = parameter.strip_prefix(b"charset");
        value.is_none_or(|charset| [&b"=utf-8"[..], b"=\"utf-8\""].contains(&charset))
    };
    json && pieces.all(utf_8) && !headers.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        same_except(&[], a, b)
    }

    fn same_except(except: &[&'static str], a: &str, b: &str) -> bool {
        let except: Vec<_> = except.iter().copied().map(Cow::Borrowed).collect();
        let [a, b] = [a, b].map(|text| canonical(text.as_bytes(), &except).unwrap());
        a == b
    }

    // Invariant 10.
    #[test]
    fn a_member_that_is_left_out_is_one_of_the_outermost_object() {
        let same = |a, b| same_except(&["id"], a, b);
        assert!(same(
            r#"{"id":1,"method":"a"}"#,
            r#"{"method":"a","id":"2"}"#
        ));
        assert!(same(r#"{"id":1,"method":"a"}"#, r#"{"method":"a"}"#));
        assert!(same(r#"{"\u0069d":1}"#, r#"{"id":{"x":[2]}}"#));
        assert!(!same(
            r#"{"id":1,"method":"a"}"#,
            r#"{"id":1,"method":"b"}"#
        ));
        assert!(!same(r#"{"p":{"id":1}}"#, r#"{"p":{"id":2}}"#));
        assert!(!same(r#"[{"id":1}]"#, r#"[{"id":2}]"#));
        assert!(!same(r#"{"ID":1}"#, r#"{"ID":2}"#));
        let except = [Cow::Borrowed("id")];
        assert_eq!(canonical(br#"{"id":1,"id":2}"#, &except), None);
    }

    #[test]
    fn a_type_is_json_or_a_sequence_of_json_texts_or_neither() {
        let typed = |types: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in types {
                headers.append(header::CONTENT_TYPE, http::HeaderValue::from_static(line));
            }
            is_typed(&headers)
        };
        for line in [
            "application/json",
            "Application/JSON; charset=utf-16",
            "application/vnd.api+json",
            "application/x-ndjson",
        ] {
            assert!(typed(&[line]), "{line}");
        }
        for lines in [
            &[][..],
            &["application/x-www-form-urlencoded"],
            &["multipart/form-data; boundary=json"],
            &["text/plain"],
            &["application/jsonx"],
            &["application/json", "text/plain"],
        ] {
            assert!(!typed(lines), "{lines:?}");
        }
    }

    #[test]
    fn the_order_of_members_and_white_space_do_not_matter() {
        assert!(same(
            r#"{"query":{"match":{"title":"a b"}},"size":10}"#,
            "\t{ \"size\" : 10,\n \"query\": {\"match\" : { \"title\":\"a b\" } } }\r\n"
        ));
        assert!(same("[1, [ ], {}]", "[1,[],{ }]"));
        assert!(same(r#"{"\u0061":1}"#, r#"{"a":1}"#));
    }

    // Invariant 10.
    #[test]
    fn what_may_mean_something_else_is_something_else() {
        for (a, b) in [
            ("[1,2]", "[2,1]"),
            ("1", "1.0"),
            ("1", "1e0"),
            ("0.1", "0.10000000000000000001"),
            ("9007199254740992", "9007199254740993"),
            ("1e400", "1e401"),
            ("0", "-0"),
            ("\"a b\"", "\"a  b\""),
            ("\"1\"", "1"),
            ("null", "\"null\""),
            ("[]", "{}"),
            ("[[],[]]", "[[[]]]"),
            (r#"["a","b"]"#, r#"["a\",\"b"]"#),
            (r#"{"a":1}"#, r#"{"A":1}"#),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":{"b":1},"c":2}"#, r#"{"a":{"b":1,"c":2}}"#),
        ] {
            assert!(!same(a, b), "{a} and {b}");
        }
    }

    // Invariant 10.
    #[test]
    fn what_readers_may_take_differently_has_no_canonical_form() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"[{"x":0,"x":0}]"#,
            r#"{"\ud800":1}"#,
            "{",
            "{'a':1}",
            "{\"a\":1,}",
            "[1 2]",
            "01",
            "NaN",
            "",
            "{} {}",
            "{}\n{}",
            "\u{feff}{}",
            "\"\n\"",
        ] {
            assert_eq!(canonical(text.as_bytes(), &[]), None, "{text}");
        }
        assert_eq!(canonical(b"\"\xff\"", &[]), None);
    }

    #[test]
    fn values_are_read_as_deep_as_may_be_and_no_deeper() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(canonical(nested(MAX_DEPTH).as_bytes(), &[]).is_some());
        assert_eq!(canonical(nested(MAX_DEPTH + 1).as_bytes(), &[]), None);
        assert_eq!(canonical("[".repeat(100_000).as_bytes(), &[]), None);
    }

    #[test]
    fn only_what_is_said_to_be_json_in_utf_8_is_taken_for_it() {
        let said = |types: &[&'static str], encoding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            for line in types {
                headers.append(header::CONTENT_TYPE, http::HeaderValue::from_static(line));
            }
            if let Some(encoding) = encoding {
                headers.insert(
                    header::CONTENT_ENCODING,
                    http::HeaderValue::from_static(encoding),
                );
            }
            is_said(&headers)
        };
        assert!(said(&["application/json"], None));
        assert!(said(&["Application/JSON ; Charset=UTF-8"], None));
        assert!(said(
            &["application/vnd.elasticsearch+json;compatible-with=8"],
            None
        ));
        for types in [
            &["text/plain"][..],
            &["application/x-ndjson"],
            &["application/x-www-form-urlencoded"],
            &["application/json;charset=utf-16"],
            &["application/json;charset =utf-16"],
            &["application/json", "application/json"],
            &[],
        ] {
            assert!(!said(types, None), "{types:?}");
        }
        assert!(!said(&["application/json"], Some("gzip")));
    }
}

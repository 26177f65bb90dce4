//! Groups of responses: `Cache-Groups` and `Cache-Group-Invalidation` (RFC 9875).

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, ListEntry};

use super::structured;

/// The groups that a field names, in all its lines. `None` if it is absent, or not such a list.
pub(crate) fn groups(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let members = structured::list(headers, name)?;
    members.into_iter().map(group).collect()
}

/// RFC 9875 §2: a String, whose parameters are ignored.
fn group(member: ListEntry) -> Option<String> {
    match member {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::String(name) => Some(name.into()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

    fn of(lines: &[&str]) -> Option<Vec<String>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(CACHE_GROUPS, line);
        }
        groups(&headers, &CACHE_GROUPS)
    }

    fn numbered(count: usize) -> String {
        let names: Vec<_> = (0..count).map(|n| format!("\"{n:032}\"")).collect();
        names.join(", ")
    }

    #[test]
    fn groups_are_strings_in_all_lines_whatever_their_parameters() {
        assert_eq!(of(&[r#""a""#]).unwrap(), ["a"]);
        assert_eq!(
            of(&[r#""B b,c";x;y=1 ,	"""#, r#""\"\\""#]).unwrap(),
            ["B b,c", "", "\"\\"]
        );
        assert_eq!(of(&[""]).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_list_of_strings_is_ignored_as_a_whole() {
        assert_eq!(of(&[]), None);
        for line in [
            "a",
            r#""a", b"#,
            r#""a", 1"#,
            r#""a", ?1"#,
            r#""a", ("b")"#,
            r#""a", "b"#,
            r#""a","#,
            r#""a" "b""#,
            "\"\u{fc}\"",
            r#"%"a""#,
            "&",
        ] {
            assert_eq!(of(&[line]), None, "{line}");
            assert_eq!(of(&[r#""x""#, line]), None, "{line}");
        }
    }

    #[test]
    fn as_many_groups_are_read_as_there_are() {
        assert_eq!(of(&[&numbered(1000)]).unwrap().len(), 1000);
    }
}

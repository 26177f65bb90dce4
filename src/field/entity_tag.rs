//! Entity tags (RFC 9110 §8.8.3), and the lists of them that conditions are made of.

/// An entity tag. Tags are compared by their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntityTag<'a> {
    is_weak: bool,
    opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// The one that is all of a field's value.
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        let (tag, rest) = Self::first(value.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    /// The one that a value begins with, and what follows.
    fn first(value: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (is_weak, quoted) = match value.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, value),
        };
        let text = quoted.strip_prefix(b"\"")?;
        let end = text.iter().position(|&b| b == b'"')?;
        let (opaque, rest) = (&text[..end], &text[end + 1..]);
        // Whatever a line can hold but blanks: commas and bytes that are no ASCII too.
        let is_text = opaque.iter().all(|b| !b.is_ascii_whitespace());
        is_text.then_some((Self { is_weak, opaque }, rest))
    }

    /// RFC 9110 §8.8.3.2: the same bytes will do.
    pub(crate) fn is_weakly(self, other: Self) -> bool {
        self.opaque == other.opaque
    }

    /// RFC 9110 §8.8.3.2: the same bytes, and neither is weak.
    pub(crate) fn is_strongly(self, other: Self) -> bool {
        !self.is_weak && !other.is_weak && self.opaque == other.opaque
    }
}

/// Whether these lines name what is stored with this tag: any that is stored, or by its tag, compared weakly (RFC 9110 §13.1.2). A
/// list that cannot be read names nothing.
pub(crate) fn names<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    stored: Option<EntityTag<'_>>,
) -> bool {
    let (mut members, mut any, mut named) = (0, false, false);
    for line in lines {
        let mut rest = line;
        loop {
            rest = without_blanks_and(rest, b',');
            if rest.is_empty() {
                break;
            }
            members += 1;
            if let Some(behind) = rest.strip_prefix(b"*") {
                any = true;
                rest = behind;
            } else {
                let Some((tag, behind)) = EntityTag::first(rest) else {
                    return false;
                };
                named |= stored.is_some_and(|stored| stored.is_weakly(tag));
                rest = behind;
            }
            rest = without_blanks_and(rest, b' ');
            if !rest.is_empty() && !rest.starts_with(b",") {
                return false;
            }
        }
    }
    if any { members == 1 } else { named }
}

fn without_blanks_and(value: &[u8], other: u8) -> &[u8] {
    let is_blank = |b: &u8| *b == b' ' || *b == b'\t' || *b == other;
    let start = value.iter().position(|b| !is_blank(b));
    &value[start.unwrap_or(value.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_whole_of_its_field() {
        for (value, is_one) in [
            (&b"\"a\""[..], true),
            (b"W/\"a\"", true),
            (b"\"\"", true),
            (b" \"a\"\t", true),
            (b"\"a,b\xff!\"", true),
            (b"w/\"a\"", false),
            (b"a", false),
            (b"", false),
            (b"\"", false),
            (b"\"a", false),
            (b"\"a b\"", false),
            (b"\"a\" \"b\"", false),
            (b"\"a\", \"b\"", false),
            (b"W/", false),
            (b"W /\"a\"", false),
            (b"*", false),
        ] {
            assert_eq!(EntityTag::parse(value).is_some(), is_one, "{value:?}");
        }
    }

    // RFC 9110 §8.8.3.2, the table there.
    #[test]
    fn tags_are_compared_strongly_and_weakly() {
        for (one, other, strongly, weakly) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "W/\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
            ("\"a\"", "\"A\"", false, false),
        ] {
            let (Some(a), Some(b)) = (
                EntityTag::parse(one.as_bytes()),
                EntityTag::parse(other.as_bytes()),
            ) else {
                panic!("{one}, {other}");
            };
            let found = (a.is_strongly(b), a.is_weakly(b));
            assert_eq!(found, (strongly, weakly), "{one}, {other}");
        }
    }

    #[test]
    fn rule_7_2_a_list_names_a_tag_on_whatever_line_it_stands() {
        let stored = b"\"a,\xff\"";
        for (lines, expected) in [
            (&[&b"\"a,\xff\""[..]][..], true),
            (&[b"W/\"a,\xff\""], true),
            (&[b"\"x\", \"a,\xff\""], true),
            (&[b"\"x\",\"a,\xff\",\"y\""], true),
            (&[b"\"x\"", b"\"a,\xff\""], true),
            (&[b", ,\t\"a,\xff\" , "], true),
            (&[b"*"], true),
            (&[b" * ,"], true),
            (&[b"", b"*"], true),
            (&[b"\"a\""], false),
            (&[b"\"A,\xff\""], false),
            (&[b"\"a", b"\xff\""], false),
            (&[b""], false),
            (&[], false),
            // What cannot be read names nothing, whatever stands beside it.
            (&[b"*, \"x\""], false),
            (&[b"*", b"*"], false),
            (&[b"**"], false),
            (&[b"\"x\" \"a,\xff\""], false),
            (&[b"x, \"a,\xff\""], false),
            (&[b"\"a,\xff\"x"], false),
            (&[b"\"a,\xff\", \""], false),
            (&[b"w/\"a,\xff\""], false),
        ] {
            let stored = EntityTag::parse(stored);
            assert!(stored.is_some());
            assert_eq!(names(lines.iter().copied(), stored), expected, "{lines:?}");
        }
        assert!(names([&b"*"[..]], None));
        assert!(!names([&b"\"\""[..]], None));
    }
}

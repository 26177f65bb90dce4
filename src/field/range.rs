//! `Range` (RFC 9110 §14): which bytes of a whole are asked for.

use std::ops::Range;

/// More ranges than this are none: the whole is less work.
const MOST_RANGES: usize = 10;

/// More ranges than this that share bytes with others are none (RFC 9110 §17.15).
const MOST_THAT_OVERLAP: usize = 2;

/// What a `Range` selects of a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selected {
    One(Range<u64>),
    /// In the order in which they are asked for.
    Several(Vec<Range<u64>>),
    /// There is nothing of what is asked for.
    Nothing,
}

/// What a line of `Range` selects of a whole of this length. `None` if the line does not count: its unit is unknown, it cannot be read,
/// or it asks for more than is good.
pub(crate) fn select(line: &[u8], length: u64) -> Option<Selected> {
    let (unit, set) = unit_and_set(line)?;
    if !is_bytes(unit) {
        return None;
    }
    let mut specs = 0;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for member in set.split(|&b| b == b',') {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        specs += 1;
        if specs > MOST_RANGES {
            return None;
        }
        let range = Spec::parse(member)?.of(length)?;
        ranges.extend((!range.is_empty()).then_some(range));
    }
    match ranges.len() {
        _ if specs == 0 => None,
        0 => Some(Selected::Nothing),
        1 => ranges.pop().map(Selected::One),
        _ if are_too_much(&ranges, length) => None,
        _ => Some(Selected::Several(ranges)),
    }
}

/// Returns whether a line of `Range` is in a unit other than bytes (RFC 9110 §14.1), which an inner service may know. A line that has no
/// unit is not one.
pub(crate) fn has_another_unit(line: &[u8]) -> bool {
    unit_and_set(line).is_some_and(|(unit, _)| {
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        !is_bytes(unit) && !unit.is_empty() && unit.iter().all(is_token)
    })
}

/// Returns whether a line of `Range` is `bytes=0-`: all bytes, however many there are.
pub(crate) fn selects_all(line: &[u8]) -> bool {
    unit_and_set(line).is_some_and(|(unit, set)| is_bytes(unit) && set.trim_ascii() == b"0-")
}

fn unit_and_set(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii();
    let equals = line.iter().position(|&b| b == b'=')?;
    Some((&line[..equals], &line[equals + 1..]))
}

/// RFC 9110 §14.1: units are compared without regard to case.
fn is_bytes(unit: &[u8]) -> bool {
    unit.eq_ignore_ascii_case(b"bytes")
}

/// RFC 9110 §14.1.2.
enum Spec {
    From { first: u64, last: Option<u64> },
    Suffix(u64),
}

impl Spec {
    fn parse(spec: &[u8]) -> Option<Self> {
        let dash = spec.iter().position(|&b| b == b'-')?;
        let (first, last) = (&spec[..dash], &spec[dash + 1..]);
        if first.is_empty() {
            return number(last).map(Self::Suffix);
        }
        let first = number(first)?;
        if last.is_empty() {
            return Some(Self::From { first, last: None });
        }
        let last = number(last).filter(|last| first <= *last);
        last.map(|last| Self::From {
            first,
            last: Some(last),
        })
    }

    /// The bytes of a whole of this length, none if there are none. `None` if that cannot be said of it.
    fn of(&self, length: u64) -> Option<Range<u64>> {
        match *self {
            // The last bytes of nothing are nothing, which no `Content-Range` can tell.
            Self::Suffix(bytes) if length == 0 && bytes > 0 => None,
            Self::Suffix(bytes) => Some(length - bytes.min(length)..length),
            Self::From { first, last } => {
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                Some(first.min(end)..end)
            }
        }
    }
}

/// Digits; what is too large is as large as can be.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |total: u64, b: &u8| total.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    Some(digits.iter().fold(0, digit))
}

fn are_too_much(ranges: &[Range<u64>], length: u64) -> bool {
    let bytes = ranges.iter().map(|range| range.end - range.start);
    let bytes = bytes.fold(0, u64::saturating_add);
    let overlaps = |(i, one): &(usize, &Range<u64>)| {
        let mut others = ranges.iter().enumerate().filter(|(j, _)| i != j);
        others.any(|(_, other)| one.start < other.end && other.start < one.end)
    };
    bytes > length || ranges.iter().enumerate().filter(overlaps).count() > MOST_THAT_OVERLAP
}

#[cfg(test)]
mod tests {
    use super::{
        Selected::{Nothing, One, Several},
        *,
    };

    #[test]
    fn a_unit_is_known_by_its_name_alone() {
        for (line, another, all) in [
            (&b"bytes=0-"[..], false, true),
            (b" BYTES=0- ", false, true),
            (b"bytes=0-0", false, false),
            (b"bytes=00-", false, false),
            (b"bytes=0-,0-", false, false),
            (b"bytes=x", false, false),
            (b"items=0-", true, false),
            (b"x-rows=1", true, false),
            (b"items=", true, false),
            (b"items", false, false),
            (b"=0-", false, false),
            (b"a b=0-", false, false),
        ] {
            let note = String::from_utf8_lossy(line);
            assert_eq!(has_another_unit(line), another, "{note}");
            assert_eq!(selects_all(line), all, "{note}");
        }
    }

    #[test]
    fn rule_8_1_one_range_selects_its_bytes() {
        for (line, length, expected) in [
            ("bytes=0-4", 10, One(0..5)),
            ("bytes=5-", 10, One(5..10)),
            ("bytes=-3", 10, One(7..10)),
            ("bytes=0-0", 10, One(0..1)),
            ("bytes=9-9", 10, One(9..10)),
            ("bytes=0-9", 10, One(0..10)),
            ("bytes=0-10", 10, One(0..10)),
            ("bytes=9-99", 10, One(9..10)),
            ("bytes=-10", 10, One(0..10)),
            ("bytes=-11", 10, One(0..10)),
            ("BYTES=0-4", 10, One(0..5)),
            ("Bytes=007-08", 10, One(7..9)),
            (" bytes=, 0-4 ,\t", 10, One(0..5)),
            ("bytes=0-18446744073709551615", 10, One(0..10)),
            ("bytes=1-99999999999999999999999", 10, One(1..10)),
            ("bytes=-99999999999999999999999", 10, One(0..10)),
            (
                "bytes=18446744073709551614-",
                u64::MAX,
                One(u64::MAX - 1..u64::MAX),
            ),
            ("bytes=10-", 10, Nothing),
            ("bytes=10-10", 10, Nothing),
            ("bytes=-0", 10, Nothing),
            ("bytes=18446744073709551615-", u64::MAX, Nothing),
            ("bytes=99999999999999999999999-", 10, Nothing),
            ("bytes=0-", 0, Nothing),
            ("bytes=-0", 0, Nothing),
        ] {
            assert_eq!(select(line.as_bytes(), length), Some(expected), "{line}");
        }
    }

    #[test]
    fn rule_8_2_what_is_unknown_or_cannot_be_read_does_not_count() {
        for line in [
            "",
            "bytes",
            "bytes=",
            "bytes= , ,",
            "bytes=a-b",
            "bytes=5",
            "bytes=-",
            "bytes=--1",
            "bytes=4-3",
            "bytes=1-2-3",
            "bytes=0-4, 9-8",
            "bytes=0-4, x",
            "bytes=+0-4",
            "bytes=0x0-4",
            "bytes=0 -4",
            "bytes=0- 4",
            "bytes =0-4",
            "bytes=0-4;q=1",
            "byte=0-4",
            "items=0-4",
            "=0-4",
            "0-4",
        ] {
            assert_eq!(select(line.as_bytes(), 10), None, "{line}");
        }
        // There is no way to tell the last bytes of nothing.
        assert_eq!(select(b"bytes=-1", 0), None);
    }

    #[test]
    fn rule_8_4_several_ranges_are_bounded() {
        let several = |ranges: &[Range<u64>]| Some(Several(ranges.to_vec()));
        for (line, expected) in [
            ("bytes=0-1,4-5", several(&[0..2, 4..6])),
            ("bytes=-1,0-0", several(&[9..10, 0..1])),
            // What there is nothing of is left out; what remains may be one.
            ("bytes=0-1,10-", Some(One(0..2))),
            ("bytes=0-1,10-,4-5", several(&[0..2, 4..6])),
            ("bytes=10-,11-", Some(Nothing)),
            // Two may overlap, and not three; touching is not overlapping.
            ("bytes=0-2,2-4", several(&[0..3, 2..5])),
            ("bytes=0-1,1-2,2-3", None),
            ("bytes=0-1,1-2,4-5,5-6", None),
            ("bytes=0-1,1-2,4-5,6-7", several(&[0..2, 1..3, 4..6, 6..8])),
            ("bytes=0-1,2-3,4-5", several(&[0..2, 2..4, 4..6])),
            // Together they are no longer than the whole.
            ("bytes=0-4,5-9", several(&[0..5, 5..10])),
            ("bytes=0-5,5-9", None),
            ("bytes=0-,0-0", None),
        ] {
            assert_eq!(select(line.as_bytes(), 10), expected, "{line}");
        }
        let as_many = |n: usize| {
            let ranges: Vec<_> = (0..n).map(|i| format!("{}-{}", 2 * i, 2 * i)).collect();
            format!("bytes={}", ranges.join(","))
        };
        let ten = select(as_many(10).as_bytes(), 100);
        assert!(matches!(ten, Some(Several(ranges)) if ranges.len() == 10));
        assert_eq!(select(as_many(11).as_bytes(), 100), None);
        assert_eq!(select(as_many(11).as_bytes(), 2), None, "there is one");
    }
}

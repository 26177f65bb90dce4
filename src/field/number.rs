//! Numbers of seconds.

use http::{HeaderMap, header};

/// What is larger is as large.
pub(super) const LARGEST: u64 = 1 << 31;

/// RFC 9111 §5.1: the first member of the first line, or nothing if that is not a number.
pub(crate) fn age(headers: &HeaderMap) -> u64 {
    let Some(line) = headers.get(header::AGE) else {
        return 0;
    };
    let first = line
        .as_bytes()
        .split(|&b| b == b',')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    delta_seconds(first).unwrap_or(0)
}

/// RFC 9111 §1.2.2: digits, and what is too large is very large.
pub(crate) fn delta_seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |total: u64, b: &u8| (total * 10 + u64::from(b - b'0')).min(LARGEST);
    Some(value.iter().fold(0, digit))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn seconds_are_digits_and_saturate() {
        for (value, seconds) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("2147483647", Some(LARGEST - 1)),
            ("2147483648", Some(LARGEST)),
            ("99999999999999999999999", Some(LARGEST)),
            ("", None),
            (" 1", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("'3600'", None),
            ("1e3", None),
            ("\u{661}", None),
        ] {
            assert_eq!(delta_seconds(value.as_bytes()), seconds, "{value}");
        }
    }

    #[test]
    fn an_age_is_the_first_member_of_the_first_line() {
        let age = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::AGE, HeaderValue::from_static(line));
            }
            age(&headers)
        };
        assert_eq!(age(&[]), 0);
        for (value, seconds) in [
            ("7200", 7200),
            (" 7200 ,0", 7200),
            ("7200, 0", 7200),
            ("abc, 0", 0),
            ("-7200", 0),
            ("7200.0", 0),
            ("7200;a=b", 0),
            ("99999999999999999999999", LARGEST),
        ] {
            assert_eq!(age(&[value]), seconds, "{value}");
        }
        assert_eq!(age(&["7200", "0"]), 7200);
        assert_eq!(age(&["abc", "7200"]), 0);
    }
}

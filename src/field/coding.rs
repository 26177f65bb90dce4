//! Content codings (RFC 9110 §8.4, §12.5.3), as far as it matters whether a response may be sent in one.

use http::{HeaderMap, HeaderName, header};

/// Returns whether a request accepts any coding but `identity`. A request without `Accept-Encoding` accepts whatever there is (RFC 9110
/// §12.5.3), but no server encodes a response for it. A weight that cannot be read counts as more than zero.
pub(crate) fn accepts_a_coding(headers: &HeaderMap) -> bool {
    members(headers, &header::ACCEPT_ENCODING).any(|member| {
        let mut pieces = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let coding = pieces.next().unwrap_or_default();
        let is_refused = pieces.any(is_zero);
        !(is_refused || coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
    })
}

/// Returns whether a list of field names, such as `Vary`, has this one.
pub(crate) fn names_field(headers: &HeaderMap, list: &HeaderName, field: &HeaderName) -> bool {
    let field = field.as_str().as_bytes();
    members(headers, list).any(|member| member.eq_ignore_ascii_case(field))
}

/// The members of a list on all lines of a field.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|&b| b == b','));
    members.map(<[u8]>::trim_ascii)
}

/// RFC 9110 §12.4.2: a weight of zero refuses.
fn is_zero(weight: &[u8]) -> bool {
    let number = weight
        .strip_prefix(b"q=")
        .or_else(|| weight.strip_prefix(b"Q="));
    number.is_some_and(|number| {
        number.starts_with(b"0") && number[1..].iter().all(|b| matches!(b, b'.' | b'0'))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_coding_is_accepted_unless_it_is_identity_or_refused() {
        for (lines, expected) in [
            (&[][..], false),
            (&[""], false),
            (&["identity"], false),
            (&["Identity;q=1"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000, br; Q=0"], false),
            (&["identity;q=1, *;q=0"], false),
            (&["gzip"], true),
            (&["*"], true),
            (&["identity", "br;q=0.001"], true),
            (&["gzip;q=x"], true),
            (&["gzip;q=0.0001"], true),
            (&[" ,, deflate"], true),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                let line = HeaderValue::from_static(line);
                headers.append(header::ACCEPT_ENCODING, line);
            }
            assert_eq!(accepts_a_coding(&headers), expected, "{lines:?}");
        }
    }
}

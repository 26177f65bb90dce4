//! What of a response its requester is to get: the whole, a part, or that it has it already.

use std::{ops::Range, time::SystemTime};

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use crate::field::{EntityTag, Selected, accepts_a_coding, names, names_field, parse_date, select};

/// What of a response its requester is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    /// It has it already.
    NotModified,
    Part(Range<u64>, Of),
    /// In the order in which they are asked for.
    Parts(Vec<Range<u64>>, Of),
    /// There is nothing of what it asks for.
    Unsatisfiable(Of),
}

/// The length of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Of(pub(crate) u64);

/// A response, as far as its shape is decided by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    /// `None` as long as nobody knows.
    pub(crate) length: Option<u64>,
    /// Whether `Date` stands in for a missing `Last-Modified` (RFC 9111 §4.3.2). It does for a response that others may get too, and not
    /// for one that was made for this request alone: another one could have been made within the same second.
    pub(crate) date_counts: bool,
}

/// Whether a request may be answered with less than the whole: a question that costs next to nothing.
pub(crate) fn may_be_shaped(method: &Method, headers: &HeaderMap) -> bool {
    // A walk over the few names that there are is cheaper than a search for each of these.
    let is_condition = |name: &HeaderName| {
        *name == header::IF_NONE_MATCH
            || *name == header::IF_MODIFIED_SINCE
            || *name == header::RANGE
    };
    let is_asked = headers.keys().any(is_condition);
    // RFC 9110 §13.1.3, §14.2; RFC 10008 §2: QUERY is as GET.
    is_asked && (*method == Method::GET || *method == Method::HEAD || *method == *"QUERY")
}

/// The shape of a reply, in the order of RFC 9110 §13.2.2. `If-Match` and `If-Unmodified-Since` are not for a cache (RFC 9111 §4.3.2).
pub(crate) fn shape(
    (method, asked): (&Method, &HeaderMap),
    whole: Whole<'_>,
    now: SystemTime,
) -> Shape {
    if whole.status != StatusCode::OK || !may_be_shaped(method, asked) {
        return Shape::Whole;
    }
    if is_not_modified(asked, whole, now) {
        return Shape::NotModified;
    }
    let (Some(range), Some(length)) = (range((method, asked), whole, now), whole.length) else {
        return Shape::Whole;
    };
    match select(range, length) {
        None => Shape::Whole,
        Some(Selected::One(range)) => Shape::Part(range, Of(length)),
        // A layer outside that compresses may encode the body of several parts as if it were one text.
        Some(Selected::Several(_)) if may_be_recoded(asked, whole.headers) => Shape::Whole,
        Some(Selected::Several(ranges)) => Shape::Parts(ranges, Of(length)),
        Some(Selected::Nothing) => Shape::Unsatisfiable(Of(length)),
    }
}

/// Returns whether a part of the response is asked for, as far as that can be told without its length.
pub(crate) fn is_for_a_part(
    (method, asked): (&Method, &HeaderMap),
    whole: Whole<'_>,
    now: SystemTime,
) -> bool {
    if whole.status != StatusCode::OK || is_not_modified(asked, whole, now) {
        return false;
    }
    let range = range((method, asked), whole, now);
    match range.and_then(|range| select(range, u64::MAX)) {
        Some(Selected::Several(_)) => !may_be_recoded(asked, whole.headers),
        selected => selected.is_some(),
    }
}

/// The value of the `Range` that the response is subject to.
fn range<'a>(
    (method, asked): (&Method, &'a HeaderMap),
    whole: Whole<'_>,
    now: SystemTime,
) -> Option<&'a [u8]> {
    // RFC 9110 §14.2: only where a GET is answered. Of more than one line nobody knows what they ask for together.
    let range = one_line(asked, &header::RANGE).filter(|_| *method != Method::HEAD)?;
    is_the_same(asked, whole.headers, now).then_some(range)
}

/// Returns whether the client may hold bytes of another content coding under the same validators. A layer that compresses outside the
/// cache does so to an identity response if the request accepts a coding, and one inside has done so to an encoded response that
/// varies by `Accept-Encoding`; both keep `ETag` and `Last-Modified` as they are.
fn may_be_recoded(asked: &HeaderMap, stored: &HeaderMap) -> bool {
    if stored.contains_key(header::CONTENT_ENCODING) {
        names_field(stored, &header::VARY, &header::ACCEPT_ENCODING)
    } else {
        accepts_a_coding(asked)
    }
}

fn is_not_modified(asked: &HeaderMap, whole: Whole<'_>, now: SystemTime) -> bool {
    let stored = whole.headers;
    if asked.contains_key(header::IF_NONE_MATCH) {
        let lines = asked.get_all(header::IF_NONE_MATCH).iter();
        return names(lines.map(|line| line.as_bytes()), tag(stored));
    }
    // RFC 9110 §13.1.3: a second line, or one that is no date, does not count.
    let since = one_line(asked, &header::IF_MODIFIED_SINCE).and_then(|line| parse_date(line, now));
    let Some(since) = since else {
        return false;
    };
    // RFC 9111 §4.3.2: what does not say when it was modified was there when it was made.
    let modified = if stored.contains_key(header::LAST_MODIFIED) || !whole.date_counts {
        header::LAST_MODIFIED
    } else {
        header::DATE
    };
    let modified = one_line(stored, &modified).and_then(|line| parse_date(line, now));
    modified.is_some_and(|modified| modified <= since)
}

/// Whether what the requester has a part of is what is stored (RFC 9110 §13.1.5).
fn is_the_same(asked: &HeaderMap, stored: &HeaderMap, now: SystemTime) -> bool {
    if !asked.contains_key(header::IF_RANGE) {
        return true;
    }
    // RFC 9110 §8.8.1: a validator that two codings share tells their bytes not apart.
    if may_be_recoded(asked, stored) {
        return false;
    }
    let Some(validator) = one_line(asked, &header::IF_RANGE).map(<[u8]>::trim_ascii) else {
        return false;
    };
    if let Some(known) = EntityTag::parse(validator) {
        return tag(stored).is_some_and(|stored| stored.is_strongly(known));
    }
    let line = |name| one_line(stored, &name);
    let modified = line(header::LAST_MODIFIED).filter(|line| line.trim_ascii() == validator);
    let modified = modified.and_then(|line| parse_date(line, now));
    let made = line(header::DATE).and_then(|line| parse_date(line, now));
    // RFC 9110 §8.8.2.2: within the second in which it was made, it may have been modified again.
    matches!((modified, made), (Some(modified), Some(made)) if modified < made)
}

fn tag(stored: &HeaderMap) -> Option<EntityTag<'_>> {
    one_line(stored, &header::ETAG).and_then(EntityTag::parse)
}

/// A field's line, if it has one and no other.
fn one_line<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?;
    lines.next().is_none().then(|| line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn shape_of(method: &str, asked: &[(&'static str, &'static str)], whole: Whole<'_>) -> Shape {
        let method = method.parse().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        shape((&method, &headers(asked)), whole, now)
    }

    const TAG: (&str, &str) = ("if-none-match", "\"a\"");
    const OTHER: (&str, &str) = ("if-none-match", "\"b\"");
    const SINCE: (&str, &str) = ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
    const RANGE: (&str, &str) = ("range", "bytes=0-0");
    const BEYOND: (&str, &str) = ("range", "bytes=9-");
    const IF_THAT: (&str, &str) = ("if-range", "\"a\"");
    const IF_OTHER: (&str, &str) = ("if-range", "\"b\"");

    fn stored() -> HeaderMap {
        headers(&[
            ("etag", "\"a\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("date", "Sun, 06 Nov 1994 08:49:38 GMT"),
        ])
    }

    // Invariant 23.
    #[test]
    fn rule_7_1_conditions_come_before_ranges() {
        let part = Shape::Part(0..1, Of(9));
        let stored = stored();
        let whole = Whole {
            status: StatusCode::OK,
            headers: &stored,
            length: Some(9),
            date_counts: true,
        };
        for (asked, expected) in [
            (&[TAG, RANGE][..], Shape::NotModified),
            (&[SINCE, BEYOND], Shape::NotModified),
            (&[OTHER, SINCE], Shape::Whole),
            (&[OTHER, SINCE, RANGE], part.clone()),
            (&[RANGE, IF_THAT], part),
            (&[RANGE, IF_OTHER], Shape::Whole),
            (&[BEYOND, IF_OTHER], Shape::Whole),
            (&[BEYOND], Shape::Unsatisfiable(Of(9))),
            (&[IF_THAT], Shape::Whole),
            (&[], Shape::Whole),
        ] {
            assert_eq!(shape_of("GET", asked, whole), expected, "{asked:?}");
        }
    }

    // Invariant 21.
    #[test]
    fn rule_8_2_all_depends_on_method_status_and_length() {
        let part = || Shape::Part(0..1, Of(9));
        let stored = stored();
        for (method, status, length, named, range) in [
            ("GET", 200, Some(9), Shape::NotModified, part()),
            ("QUERY", 200, Some(9), Shape::NotModified, part()),
            ("HEAD", 200, Some(9), Shape::NotModified, Shape::Whole),
            ("GET", 200, None, Shape::NotModified, Shape::Whole),
            ("POST", 200, Some(9), Shape::Whole, Shape::Whole),
            ("query", 200, Some(9), Shape::Whole, Shape::Whole),
            ("GET", 203, Some(9), Shape::Whole, Shape::Whole),
            ("GET", 204, Some(0), Shape::Whole, Shape::Whole),
            ("GET", 404, Some(9), Shape::Whole, Shape::Whole),
        ] {
            let whole = Whole {
                status: StatusCode::from_u16(status).unwrap(),
                headers: &stored,
                length,
                date_counts: true,
            };
            let note = format!("{method} {whole:?}");
            assert_eq!(shape_of(method, &[TAG, RANGE], whole), named, "{note}");
            assert_eq!(shape_of(method, &[RANGE], whole), range, "{note}");
        }
    }

    const SEVERAL: (&str, &str) = ("range", "bytes=0-0,2-3");
    const GZIP: (&str, &str) = ("accept-encoding", "gzip, br;q=0.5");
    const IDENTITY: (&str, &str) = ("accept-encoding", "identity, gzip;q=0, *;q=0");
    const IF_DATE: (&str, &str) = ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn a_validator_that_two_codings_may_share_does_not_permit_a_part() {
        let (part, parts) = (
            Shape::Part(0..1, Of(9)),
            Shape::Parts(vec![0..1, 2..4], Of(9)),
        );
        let encoded: &[(&str, &str)] =
            &[("content-encoding", "gzip"), ("vary", "x, Accept-Encoding")];
        let only_encoded: &[(&str, &str)] = &[("content-encoding", "gzip")];
        for (more, asked, expected) in [
            (&[][..], &[RANGE, IF_THAT, GZIP][..], Shape::Whole),
            (&[], &[RANGE, IF_DATE, GZIP], Shape::Whole),
            (&[], &[SEVERAL, GZIP], Shape::Whole),
            (&[], &[RANGE, GZIP], part.clone()),
            (&[], &[BEYOND, GZIP], Shape::Unsatisfiable(Of(9))),
            (&[], &[TAG, GZIP], Shape::NotModified),
            (&[], &[RANGE, IF_THAT, IDENTITY], part.clone()),
            (&[], &[RANGE, IF_DATE, IDENTITY], part.clone()),
            (&[], &[SEVERAL, IDENTITY], parts.clone()),
            (&[], &[SEVERAL], parts.clone()),
            (encoded, &[RANGE, IF_THAT], Shape::Whole),
            (encoded, &[RANGE, IF_THAT, GZIP], Shape::Whole),
            (encoded, &[SEVERAL], Shape::Whole),
            (encoded, &[RANGE, GZIP], part.clone()),
            (only_encoded, &[RANGE, IF_THAT, GZIP], part),
            (only_encoded, &[SEVERAL, GZIP], parts),
        ] {
            let mut stored = stored();
            stored.extend(headers(more));
            let whole = Whole {
                status: StatusCode::OK,
                headers: &stored,
                length: Some(9),
                date_counts: true,
            };
            assert_eq!(
                shape_of("GET", asked, whole),
                expected,
                "{more:?} {asked:?}"
            );
        }
    }

    #[test]
    fn a_date_of_receipt_says_nothing_of_a_response_that_was_made_for_one_request() {
        const MADE: (&str, &str) = ("if-modified-since", "Sun, 06 Nov 1994 08:49:38 GMT");
        let undated = headers(&[("date", "Sun, 06 Nov 1994 08:49:38 GMT")]);
        for (stored, date_counts, expected) in [
            (&undated, true, Shape::NotModified),
            (&undated, false, Shape::Whole),
            (&stored(), false, Shape::NotModified),
        ] {
            let whole = Whole {
                status: StatusCode::OK,
                headers: stored,
                length: Some(9),
                date_counts,
            };
            assert_eq!(shape_of("GET", &[MADE], whole), expected, "{whole:?}");
        }
    }
}

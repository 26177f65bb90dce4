//! Responses that are streams by what their head says: they are not shared, stored or waited for.

use http::{HeaderMap, header};
use http_body::SizeHint;

use crate::{field::ResponseControl, grpc::content_type_starts_with, status::Reason};

/// Media types whose messages are worth something one at a time, as they come.
const STREAMS: [&[u8]; 6] = [
    b"application/x-ndjson",
    b"application/jsonl",
    b"application/stream+json",
    b"application/json-seq",
    b"multipart/mixed",
    b"multipart/x-mixed-replace",
];

/// Returns the reason if the response is a stream. `content_length` is what the field of that name says.
///
/// Audio and video without a length may be live. They count as streams unless the response says that it is for
/// everybody (`public` or `s-maxage`).
pub(super) fn stream(
    headers: &HeaderMap,
    content_length: Option<u64>,
    body: &SizeHint,
) -> Option<Reason> {
    if content_type_starts_with(headers, b"text/event-stream") {
        return Some(Reason::EventStream);
    }
    let has_length = content_length.is_some() || body.exact().is_some();
    let may_be_live = || {
        let control = ResponseControl::of(headers);
        !control.is_ok_and(|control| control.public || control.s_maxage.is_some())
    };
    let is_stream = any_media_type(headers, |media_type| {
        let is_media = starts_with(media_type, b"audio/") || starts_with(media_type, b"video/");
        let is_listed = || STREAMS.iter().any(|s| media_type.eq_ignore_ascii_case(s));
        is_listed() || (is_media && !has_length && may_be_live())
    });
    (is_stream || is_unbuffered(headers)).then_some(Reason::Stream)
}

/// Whether any `Content-Type` has a media type, without its parameters, for which this holds.
fn any_media_type(headers: &HeaderMap, holds: impl Fn(&[u8]) -> bool) -> bool {
    let lines = headers.get_all(header::CONTENT_TYPE).iter();
    let mut media_types = lines.map(|line| {
        let mut parameters = line.as_bytes().split(|&b| b == b';');
        parameters.next().unwrap_or_default().trim_ascii()
    });
    media_types.any(holds)
}

fn starts_with(media_type: &[u8], start: &[u8]) -> bool {
    let found = media_type.get(..start.len());
    found.is_some_and(|found| found.eq_ignore_ascii_case(start))
}

/// `X-Accel-Buffering: no`: the handler asks proxies to pass each piece on as it comes.
fn is_unbuffered(headers: &HeaderMap) -> bool {
    let lines = headers.get_all("x-accel-buffering").iter();
    let mut values = lines.map(|line| line.as_bytes().trim_ascii());
    values.any(|value| value.eq_ignore_ascii_case(b"no"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn reason(lines: &[(&str, &str)], body: &SizeHint) -> Option<Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().unwrap().parse().ok());
        stream(&headers, length, body)
    }

    #[test]
    fn media_types_of_streams_are_streams_with_or_without_a_length() {
        for media_type in [
            "application/x-ndjson",
            "Application/JSONL",
            "application/stream+json; charset=utf-8",
            " application/json-seq ;x=y",
            "multipart/mixed; boundary=b",
            "multipart/x-mixed-replace;boundary=frame",
        ] {
            let headers = [("content-type", media_type)];
            for body in [SizeHint::new(), SizeHint::with_exact(5)] {
                assert_eq!(
                    reason(&headers, &body),
                    Some(Reason::Stream),
                    "{media_type}"
                );
            }
        }
        let events = [("content-type", "text/event-stream; charset=utf-8")];
        assert_eq!(reason(&events, &SizeHint::new()), Some(Reason::EventStream));
    }

    #[test]
    fn other_media_types_are_no_streams() {
        for media_type in [
            "application/json",
            "application/octet-stream",
            "application/jsonlines",
            "application/x-ndjson2",
            "multipart/form-data; boundary=b",
            "text/html; multipart/mixed",
            "audiobook/mp3",
            "",
        ] {
            let headers = [("content-type", media_type)];
            assert_eq!(reason(&headers, &SizeHint::new()), None, "{media_type}");
        }
        assert_eq!(reason(&[], &SizeHint::new()), None);
    }

    #[test]
    fn audio_and_video_are_streams_without_a_length_unless_they_are_for_everybody() {
        for media_type in ["audio/mpeg", "Video/MP4; codecs=x"] {
            let unknown = SizeHint::new();
            let media = ("content-type", media_type);
            let with = |name, value| reason(&[media, (name, value)], &unknown);
            assert_eq!(reason(&[media], &unknown), Some(Reason::Stream));
            assert_eq!(with("cache-control", "max-age=60"), Some(Reason::Stream));
            assert_eq!(with("cache-control", "public;"), Some(Reason::Stream));
            assert_eq!(with("cache-control", "max-age=60, public"), None);
            assert_eq!(with("cache-control", "s-maxage=60"), None);
            assert_eq!(with("content-length", "9"), None);
            assert_eq!(reason(&[media], &SizeHint::with_exact(9)), None);
        }
    }

    #[test]
    fn any_response_that_asks_not_to_be_buffered_is_a_stream() {
        let html = ("content-type", "text/html");
        for value in ["no", "No", " no "] {
            let body = SizeHint::with_exact(9);
            let lines = [html, ("x-accel-buffering", value)];
            assert_eq!(reason(&lines, &body), Some(Reason::Stream), "{value}");
        }
        let twice = [("x-accel-buffering", "yes"), ("x-accel-buffering", "no")];
        assert_eq!(reason(&twice, &SizeHint::new()), Some(Reason::Stream));
        let yes = [html, ("x-accel-buffering", "yes")];
        assert_eq!(reason(&yes, &SizeHint::new()), None);
    }
}

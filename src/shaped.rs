//! A reply is given the shape that its requester asks for: a part, or that it has it already.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
    time::SystemTime,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request,
};
use http_body::Body;
use memchr::memmem;
use tower_service::Service;

use crate::{
    body::{ResponseBody, index},
    clock::deadline_in,
    config::Config,
    error::BoxError,
    field::retain,
    fill::read_ahead,
    policy::{Of, Shape, Whole, content_length, is_for_a_part, may_be_shaped, shape},
    repeat::Repeat,
};

/// An answer that is stored, in the shape that is asked for.
#[inline]
pub(crate) fn at_once<B: Body>(
    response: Response<ResponseBody<B>>,
    method: &Method,
    asked: &HeaderMap,
) -> Response<ResponseBody<B>> {
    if !may_be_shaped(method, asked) {
        return response;
    }
    let shape = shape_of(&response, method, asked);
    shaped(response, shape)
}

/// What a request asks for, kept until its answer is there.
#[derive(Debug)]
pub(crate) struct Wish {
    method: Method,
    headers: HeaderMap,
}

impl Wish {
    /// `None` if it asks for the whole.
    pub(crate) fn of(parts: &request::Parts) -> Option<Self> {
        const HEEDED: [HeaderName; 5] = [
            header::ACCEPT_ENCODING,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_RANGE,
            header::RANGE,
        ];
        if !may_be_shaped(&parts.method, &parts.headers) {
            return None;
        }
        let mut headers = HeaderMap::new();
        for name in &HEEDED {
            for line in parts.headers.get_all(name) {
                headers.append(name, line.clone());
            }
        }
        let method = parts.method.clone();
        Some(Self { method, headers })
    }

    /// Any answer, in the shape that is asked for. A response that is its requester's alone, and of which the cache cannot make what is
    /// asked for, is dropped, and the inner service is called once more with the requester's own fields.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves as its requester would: see [`read_ahead`]. The second call is dropped with it.
    ///
    /// # Errors
    ///
    /// That of the second call.
    pub(crate) async fn answer<S, ReqB, ResB>(
        &self,
        response: Response<ResponseBody<ResB>>,
        repeat: Option<Repeat<S, ReqB>>,
        config: &Config,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<ResB>>,
        ResB: Body,
        ResB::Error: Into<BoxError>,
    {
        let Some(unshaped) = response.body().unshaped() else {
            let shape = shape_of(&response, &self.method, &self.headers);
            return Ok(self.shape(response, shape, config).await);
        };
        let may_repeat =
            unshaped.may_repeat && !response.headers().contains_key(header::SET_COOKIE);
        let repeat = repeat.filter(|_| may_repeat);
        let most_skipped = config.policy.max_body_bytes;
        match self.shape_of_own(&response, repeat.is_some(), most_skipped) {
            Own::Shaped(shape) => Ok(self.shape(response, shape, config).await),
            Own::AskAgain => match repeat {
                Some(repeat) => {
                    drop(response);
                    let response = repeat.call(config, unshaped.status).await?;
                    // An inner service that knows no ranges has sent the whole once more.
                    let shape = self.shape_of_own(&response, false, most_skipped).shape();
                    Ok(self.shape(response, shape, config).await)
                }
                None => Ok(response),
            },
        }
    }

    /// What becomes of a response that is its requester's alone, by its head.
    fn shape_of_own<B: Body>(
        &self,
        response: &Response<ResponseBody<B>>,
        may_repeat: bool,
        most_skipped: usize,
    ) -> Own {
        let (asked, now) = ((&self.method, &self.headers), SystemTime::now());
        let headers = response.headers();
        let whole = Whole {
            status: response.status(),
            headers,
            length: known_length(headers, response.body().whole_length()),
            date_counts: false,
        };
        let is_near = |range: &Range<u64>| range.start <= most_skipped as u64;
        match shape(asked, whole, now) {
            Shape::Part(range, _) if may_repeat && !is_near(&range) => Own::AskAgain,
            Shape::Parts(..) if may_repeat => Own::AskAgain,
            // Several parts cannot be cut out of a body that is still coming in.
            Shape::Parts(..) => Own::Shaped(Shape::Whole),
            Shape::Whole
                if may_repeat && whole.length.is_none() && is_for_a_part(asked, whole, now) =>
            {
                Own::AskAgain
            }
            shape => Own::Shaped(shape),
        }
    }

    /// An answer in this shape. Where its requester would record it while it reads all of it, it is recorded first, for as long as a
    /// fill may take at the most.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves as its requester would: see [`read_ahead`].
    async fn shape<B>(
        &self,
        response: Response<ResponseBody<B>>,
        shape: Shape,
        config: &Config,
    ) -> Response<ResponseBody<B>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        if shape == Shape::Whole {
            return response;
        }
        let (parts, body) = response.into_parts();
        let body = match body.into_recorded() {
            Ok((body, recorder, scope)) => {
                let deadline = deadline_in(config.waiting.fill_timeout);
                read_ahead(body, recorder, scope, deadline).await
            }
            Err(body) => body,
        };
        let received = parts.status;
        let mut response = shaped(Response::from_parts(parts, body), shape);
        config.report.relabel(&mut response, received);
        response
    }
}

/// What becomes of a response that is its requester's alone.
enum Own {
    Shaped(Shape),
    /// The cache cannot make of it what is asked for.
    AskAgain,
}

impl Own {
    fn shape(self) -> Shape {
        match self {
            Self::Shaped(shape) => shape,
            Self::AskAgain => Shape::Whole,
        }
    }
}

fn shape_of<B: Body>(
    response: &Response<ResponseBody<B>>,
    method: &Method,
    asked: &HeaderMap,
) -> Shape {
    let body = response.body();
    if body.is_passed() {
        return Shape::Whole;
    }
    let headers = response.headers();
    let whole = Whole {
        status: response.status(),
        headers,
        length: known_length(headers, body.whole_length()),
        date_counts: true,
    };
    match shape((method, asked), whole, SystemTime::now()) {
        // Of what is still coming in, one part can be told, and not several.
        Shape::Parts(..) if body.data().is_none() => Shape::Whole,
        shape => shape,
    }
}

/// The length of the whole, if those who know it agree.
fn known_length(headers: &HeaderMap, told: Option<u64>) -> Option<u64> {
    let announced = content_length(headers).ok()?;
    match (announced, told) {
        (Some(announced), Some(told)) if announced != told => None,
        (announced, told) => told.or(announced),
    }
}

fn shaped<B: Body>(response: Response<ResponseBody<B>>, shape: Shape) -> Response<ResponseBody<B>> {
    let (mut parts, body) = response.into_parts();
    let body = match shape {
        Shape::Whole => body,
        Shape::NotModified => {
            parts.status = StatusCode::NOT_MODIFIED;
            not_modified(&mut parts.headers);
            ResponseBody::withheld()
        }
        Shape::Part(range, of) => {
            parts.status = StatusCode::PARTIAL_CONTENT;
            let content_range = content_range(&range, of);
            partial(&mut parts.headers, range.end - range.start);
            parts.headers.insert(header::CONTENT_RANGE, content_range);
            body.cut(&range)
        }
        Shape::Parts(ranges, of) => {
            parts.status = StatusCode::PARTIAL_CONTENT;
            let data = body.data().cloned().unwrap_or_default();
            let frames = multipart(&mut parts.headers, &data, &ranges, of);
            ResponseBody::parts(frames)
        }
        Shape::Unsatisfiable(of) => {
            parts.status = StatusCode::RANGE_NOT_SATISFIABLE;
            unsatisfiable(&mut parts.headers, of);
            ResponseBody::empty()
        }
    };
    Response::from_parts(parts, body)
}

/// What describes a body, and not the resource.
const OF_THE_BODY: [HeaderName; 11] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
    header::ACCEPT_RANGES,
    header::TRAILER,
];

/// RFC 9110 §15.4.5: all but what its requester has with the body.
fn not_modified(headers: &mut HeaderMap) {
    let has_tag = headers.contains_key(header::ETAG);
    retain(headers, |name| {
        !(OF_THE_BODY.contains(name) || (has_tag && *name == header::LAST_MODIFIED))
    });
}

/// RFC 9110 §15.3.7: as with the whole, but for what is said of the bytes that are sent.
fn partial(headers: &mut HeaderMap, length: u64) {
    retain(headers, |name| {
        *name != header::TRAILER
            && !["content-md5", "content-digest", "digest"].contains(&name.as_str())
    });
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
}

/// RFC 9110 §15.5.17: nothing of what is stored, but its length. Nor for how long it is fresh: else a cache on the way could keep this
/// for the answer to those who ask for the whole.
fn unsatisfiable(headers: &mut HeaderMap, Of(length): Of) {
    const OF_WHAT_IS_STORED: [HeaderName; 5] = [
        header::ETAG,
        header::LAST_MODIFIED,
        header::CONTENT_LOCATION,
        header::CONTENT_DISPOSITION,
        header::EXPIRES,
    ];
    retain(headers, |name| {
        let is_lifetime = name.as_str().ends_with("cache-control") || name == "surrogate-control";
        !(is_lifetime || OF_THE_BODY.contains(name) || OF_WHAT_IS_STORED.contains(name))
    });
    let content_range = format!("bytes */{length}");
    headers.insert(header::CONTENT_RANGE, text(content_range));
}

fn content_range(range: &Range<u64>, Of(length): Of) -> HeaderValue {
    let last = range.end.saturating_sub(1);
    text(format!("bytes {}-{last}/{length}", range.start))
}

/// A value that is made of digits and ASCII.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

/// Several parts in one body (RFC 9110 §14.6), each behind its own head. The parts are not copied.
fn multipart(headers: &mut HeaderMap, whole: &Bytes, ranges: &[Range<u64>], of: Of) -> Vec<Bytes> {
    let parts = ranges.iter();
    let parts: Vec<_> = parts
        .map(|range| whole.slice(index(range.start)..index(range.end)))
        .collect();
    let boundary = boundary(&parts);
    let content_type = headers.get(header::CONTENT_TYPE).cloned();
    let mut frames = Vec::with_capacity(2 * parts.len() + 1);
    for (range, part) in ranges.iter().zip(parts) {
        let start = if frames.is_empty() { "--" } else { "\r\n--" };
        let mut head = format!("{start}{boundary}\r\n").into_bytes();
        if let Some(content_type) = &content_type {
            head.extend_from_slice(b"content-type: ");
            head.extend_from_slice(content_type.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"content-range: ");
        head.extend_from_slice(content_range(range, of).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        frames.extend([head.into(), part]);
    }
    frames.push(format!("\r\n--{boundary}--\r\n").into());
    let bytes: usize = frames.iter().map(Bytes::len).sum();
    // What there is of several ranges is said with each.
    retain(headers, |name| *name != header::CONTENT_RANGE);
    partial(headers, bytes as u64);
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    headers.insert(header::CONTENT_TYPE, text(content_type));
    frames
}

/// What stands between parts, and occurs in none. Nobody who writes a body can know it.
fn boundary(parts: &[Bytes]) -> String {
    loop {
        let chance = || RandomState::new().hash_one(parts.len());
        let boundary = format!("{:016x}{:016x}", chance(), chance());
        let finder = memmem::Finder::new(&boundary);
        if parts.iter().all(|part| finder.find(part).is_none()) {
            return boundary;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_parts_is_another_each_time_and_in_none_of_them() {
        let parts = [Bytes::from_static(b"--0123456789abcdef")];
        let made: Vec<_> = (0..100).map(|_| boundary(&parts)).collect();
        let mut distinct = made.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), made.len());
        let digits = |boundary: &String| boundary.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(made.iter().all(|made| made.len() == 32 && digits(made)));
    }

    #[test]
    fn the_length_is_known_if_nobody_who_knows_it_contradicts() {
        for (lines, told, expected) in [
            (&[][..], None, None),
            (&[], Some(5), Some(5)),
            (&["5"], None, Some(5)),
            (&["5"], Some(5), Some(5)),
            (&["5"], Some(6), None),
            (&["x"], Some(5), None),
            (&["5", "5"], Some(5), None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CONTENT_LENGTH, HeaderValue::from_static(line));
            }
            assert_eq!(known_length(&headers, told), expected, "{lines:?} {told:?}");
        }
    }
}

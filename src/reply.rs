//! A stored response, or one that is coming in, shaped for a request.

use http::{Extensions, HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body;

use crate::{
    body::ResponseBody,
    config::Config,
    entry::Head,
    error::BoxError,
    lookup::{Hit, Served},
    shared::{Told, count},
    status::{CacheStatus, Forward, Reason, ServedStale},
    tags::{Part, PartMarks},
};

/// A stored response. These extensions, emptied, are the response's: those of a request that is over have their memory
/// already.
pub(crate) fn hit<B>(
    config: &Config,
    hit: &Hit,
    method: &Method,
    extensions: Extensions,
) -> Response<ResponseBody<B>> {
    let entry = &*hit.entry;
    if let Some(recorded) = &entry.recorded {
        recorded.count_use();
    }
    let head_only = *method == Method::HEAD;
    let body = if head_only {
        ResponseBody::withheld()
    } else {
        ResponseBody::stored(entry)
    };
    let mut response = with_head(&entry.head, body, entry.head.age(hit.now));
    if head_only && !response.headers().contains_key(header::CONTENT_LENGTH) && entry.length_known {
        // RFC 9110 §9.3.2: as the GET would have it.
        let length = HeaderValue::from(entry.body.len());
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
    *response.extensions_mut() = emptied(extensions);
    let counters = &config.shared.counters;
    let (status, counter) = match hit.served {
        Served::Fresh(ttl) => (CacheStatus::hit(ttl), &counters.hits),
        Served::Stale(by, why) => (CacheStatus::stale(by, why), &counters.stale),
    };
    if status.is_stale() {
        response.extensions_mut().insert(ServedStale);
    }
    config.report.label(&mut response, status);
    count(counter);
    response
}

/// What a page takes over from a stored response.
pub(crate) fn part(config: &Config, hit: &Hit) -> Part {
    let entry = &*hit.entry;
    let is_stale = matches!(hit.served, Served::Stale(..));
    let fresh_until = entry.head.received.checked_add(entry.head.ttl);
    Part {
        tags: entry.tag_names.clone(),
        marks: Some(PartMarks::new(&config.shared.purges, entry.stamp.tags())),
        fresh_until: fresh_until.filter(|_| !is_stale),
        must_revalidate: !entry.head.may_be_stale,
        do_not_store: is_stale,
        private: None,
        scope: None,
    }
}

/// The answer that a request waited for.
pub(crate) fn collapsed<B>(
    config: &Config,
    told: &Told,
    forward: Forward,
) -> Response<ResponseBody<B>> {
    let body = ResponseBody::followed(told.recording.reader());
    let mut response = with_head(&told.head, body, told.head.initial_age);
    if told.head.initial_age == 0 {
        response.headers_mut().remove(header::AGE);
    }
    let mut status = CacheStatus::forwarded(forward, None);
    status.collapsed = true;
    config.label(&mut response, status);
    count(&config.shared.counters.collapsed);
    response
}

/// The answer to a HEAD, made of the answer to a GET (RFC 9110 §9.3.2): with its length, if that is known, and without its body.
pub(crate) fn withheld<B>(response: Response<ResponseBody<B>>) -> Response<ResponseBody<B>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (mut parts, body) = response.into_parts();
    let says_its_length = parts.headers.contains_key(header::CONTENT_LENGTH)
        || parts.headers.contains_key(header::TRANSFER_ENCODING);
    // RFC 9110 §8.6: not in a response that never has a body.
    let has_a_body = !matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let length = body.size_hint().exact();
    if let Some(length) = length.filter(|_| has_a_body && !says_its_length) {
        let length = HeaderValue::from(length);
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    Response::from_parts(parts, ResponseBody::withheld())
}

/// A response that the cache let through as it is.
pub(crate) fn passed<B>(
    config: &Config,
    response: Response<B>,
    status: CacheStatus,
) -> Response<ResponseBody<B>> {
    let mut response = response.map(ResponseBody::passed);
    config.policy.strip(response.headers_mut());
    config.label(&mut response, status);
    response
}

/// There is no place at the inner service: the client is to come back (RFC 9110 §15.6.4).
pub(crate) fn unavailable<B>(config: &Config, reason: Reason) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let pause = config.waiting.retry_after;
    let begun = u64::from(pause.subsec_nanos() > 0);
    let seconds = pause.as_secs().saturating_add(begun);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    config.label(&mut response, CacheStatus::unavailable(reason));
    count(&config.shared.counters.unavailable);
    response
}

/// The client wants what is stored, or nothing, and nothing is (RFC 9111 §5.2.1.7).
pub(crate) fn not_cached<B>(config: &Config) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    let status = CacheStatus::unavailable(Reason::OnlyIfCached);
    config.label(&mut response, status);
    count(&config.shared.counters.unavailable);
    response
}

fn with_head<B>(head: &Head, body: ResponseBody<B>, age: u64) -> Response<ResponseBody<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    *response.headers_mut() = head.headers.clone();
    set_age(response.headers_mut(), age);
    response
}

/// RFC 9111 §5.1. The field has its place since the response was stored.
fn set_age(headers: &mut HeaderMap, age: u64) {
    let age = usize::try_from(age)
        .ok()
        .and_then(|age| AGES.get(age))
        .map_or_else(
            || HeaderValue::from(age),
            |digits| {
                HeaderValue::from_static(
                    std::str::from_utf8(digits.trim_ascii_start()).unwrap_or("0"),
                )
            },
        );
    match headers.get_mut(header::AGE) {
        Some(place) => *place = age,
        None => drop(headers.insert(header::AGE, age)),
    }
}

/// The ages of most hits, written in advance: a header value made of them takes no memory.
static AGES: [[u8; 3]; 1000] = {
    let mut ages = [[b' '; 3]; 1000];
    let mut age = 0;
    while age < 1000 {
        let (hundreds, tens, ones) = (age / 100, age / 10 % 10, age % 10);
        if hundreds > 0 {
            ages[age][0] = DIGITS[hundreds];
        }
        if age >= 10 {
            ages[age][1] = DIGITS[tens];
        }
        ages[age][2] = DIGITS[ones];
        age += 1;
    }
    ages
};

const DIGITS: &[u8; 10] = b"0123456789";

fn emptied(mut extensions: Extensions) -> Extensions {
    extensions.clear();
    extensions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_age_is_written_as_a_number_is() {
        for age in (0..1100).chain([u64::MAX]) {
            let mut headers = HeaderMap::new();
            set_age(&mut headers, age);
            assert_eq!(headers[header::AGE], age.to_string());
        }
    }
}

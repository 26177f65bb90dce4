//! Response header fields that describe one request, and say nothing to others.

use http::{HeaderName, StatusCode};

/// Identifiers, figures and instructions of one request: no hit and no follower gets them. `docs/response_headers.md` has this list.
const NAMES: [&str; 33] = [
    // Identifiers.
    "request-id",
    "x-requestid",
    "x-amzn-requestid",
    "correlation-id",
    "trace-id",
    "traceparent",
    "tracestate",
    "traceresponse",
    "elastic-apm-traceparent",
    "b3",
    "sentry-trace",
    "baggage",
    "x-cloud-trace-context",
    "x-ot-span-context",
    "cf-ray",
    "x-amz-cf-id",
    "x-amz-id-2",
    "x-azure-ref",
    "x-vercel-id",
    // Times.
    "server-timing",
    "x-runtime",
    "x-response-time",
    "x-process-time",
    "x-timer",
    "x-envoy-upstream-service-time",
    "x-kong-proxy-latency",
    "x-kong-response-latency",
    "x-kong-upstream-latency",
    // Limits.
    "ratelimit",
    "x-ratelimit",
    // Instructions to the proxy that has sent the request.
    "x-accel-redirect",
    "x-sendfile",
    "x-lighttpd-send-file",
];

const PREFIXES: [&str; 8] = [
    "x-b3-",
    "x-datadog-",
    "x-instana-",
    "uberctx-",
    "ot-tracer-",
    "ratelimit-",
    "x-ratelimit-",
    "x-rate-limit-",
];

const ENDINGS: [&str; 5] = [
    "-trace-id",
    "-request-id",
    "-correlation-id",
    "-runtime",
    "-response-time",
];

/// Whether a field of a response with this status describes one request.
pub(crate) fn is_of_one_request(name: &HeaderName, status: StatusCode) -> bool {
    let name = name.as_str();
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || (name == "retry-after" && !gives_retry_after_a_meaning(status))
}

/// RFC 9110 §10.2.3, RFC 6585 §4: there it is part of the response. Elsewhere it belongs to a rate limit of the requester.
fn gives_retry_after_a_meaning(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status.as_u16(), 413 | 429 | 503)
}

/// Whether a proxy outside sends something else in place of the body.
pub(crate) fn hands_over(headers: &http::HeaderMap) -> bool {
    const INSTRUCTIONS: [&str; 3] = ["x-accel-redirect", "x-sendfile", "x-lighttpd-send-file"];
    INSTRUCTIONS.iter().any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_one_requests(name: &'static str, status: u16) -> bool {
        let name = HeaderName::from_static(name);
        is_of_one_request(&name, StatusCode::from_u16(status).unwrap())
    }

    // Invariant 6.
    #[test]
    fn a_field_is_one_requests_by_its_name_its_beginning_or_its_ending() {
        for name in [
            "x-request-id",
            "x-ms-request-id",
            "x-b3-sampled",
            "x-datadog-trace-id",
            "uber-trace-id",
            "x-ratelimit-remaining",
            "ratelimit",
            "ratelimit-policy",
            "x-app-runtime",
            "x-upstream-response-time",
        ] {
            assert!(is_one_requests(name, 200), "{name}");
        }
        for name in [
            "x-runtime-version",
            "content-type",
            "x-b3",
            "trace",
            "runtime",
            "age",
            "x-limit",
        ] {
            assert!(!is_one_requests(name, 200), "{name}");
        }
    }

    #[test]
    fn retry_after_stays_with_the_statuses_that_define_it() {
        for (status, is_ones) in [
            (200, true),
            (404, true),
            (301, false),
            (413, false),
            (429, false),
            (503, false),
        ] {
            assert_eq!(is_one_requests("retry-after", status), is_ones, "{status}");
        }
    }
}

//! What in a response's headers is for one requester, or for one use.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::status::Reason;

/// A closed list, as `docs/headers.md` has it. A rule by ending would keep too much from being stored, and nobody would see
/// why.
const TOKENS: [(&str, Reason); 26] = [
    ("access-token", Reason::ResponseCredentials),
    ("auth-token", Reason::ResponseCredentials),
    ("authentication-info", Reason::ResponseCredentials),
    ("authorization", Reason::ResponseCredentials),
    ("csrf-token", Reason::CsrfToken),
    ("dpop-nonce", Reason::ResponseCredentials),
    ("id-token", Reason::ResponseCredentials),
    ("proxy-authentication-info", Reason::ResponseCredentials),
    ("refresh-token", Reason::ResponseCredentials),
    ("replay-nonce", Reason::ResponseCredentials),
    ("session-id", Reason::ResponseCredentials),
    ("session-token", Reason::ResponseCredentials),
    ("x-access-token", Reason::ResponseCredentials),
    ("x-auth-token", Reason::ResponseCredentials),
    ("x-authorization", Reason::ResponseCredentials),
    ("x-csrf-token", Reason::CsrfToken),
    ("x-csrftoken", Reason::CsrfToken),
    ("x-id-token", Reason::ResponseCredentials),
    ("x-jwt-token", Reason::ResponseCredentials),
    ("x-refresh-token", Reason::ResponseCredentials),
    ("x-session-id", Reason::ResponseCredentials),
    ("x-session-token", Reason::ResponseCredentials),
    ("x-subject-token", Reason::ResponseCredentials),
    ("x-token", Reason::ResponseCredentials),
    ("x-xsrf-token", Reason::CsrfToken),
    ("xsrf-token", Reason::CsrfToken),
];

/// Why a response is for its requester alone, by its headers, but for those that may be shared.
pub(super) fn of(headers: &HeaderMap, is_shared: impl Fn(&HeaderName) -> bool) -> Option<Reason> {
    headers.keys().find_map(|name| {
        let reason = reason(name, headers)?;
        (!is_shared(name)).then_some(reason)
    })
}

fn reason(name: &HeaderName, headers: &HeaderMap) -> Option<Reason> {
    if *name == header::CONTENT_SECURITY_POLICY {
        // What is only reported breaks nothing.
        let mut lines = headers.get_all(name).iter();
        return lines.any(has_nonce).then_some(Reason::CspNonce);
    }
    let known = TOKENS.binary_search_by_key(&name.as_str(), |(known, _)| known);
    known.ok().map(|at| TOKENS[at].1)
}

/// CSP 3 §2.3.1: `'nonce-…'`, in any case.
fn has_nonce(line: &HeaderValue) -> bool {
    const NONCE: &[u8] = b"'nonce-";
    let mut places = line.as_bytes().windows(NONCE.len());
    places.any(|place| place.eq_ignore_ascii_case(NONCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, value: &str) -> Option<Reason> {
        let mut headers = HeaderMap::new();
        let name: HeaderName = name.parse().unwrap();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        of(&headers, |_| false)
    }

    #[test]
    fn the_list_is_in_order_and_each_name_is_found() {
        assert!(TOKENS.is_sorted_by(|(a, _), (b, _)| a < b));
        for (name, reason) in TOKENS {
            assert_eq!(found(name, "x"), Some(reason), "{name}");
        }
    }

    #[test]
    fn the_docs_list_the_same_headers() {
        let docs = include_str!("../../docs/headers.md");
        let table = docs.split("<!-- response credentials -->").nth(1).unwrap();
        let table = table.split("<!--").next().unwrap();
        let quoted = table.split('`').skip(1).step_by(2);
        let mut listed: Vec<_> = quoted.map(str::to_ascii_lowercase).collect();
        listed.retain(|name| name != "content-security-policy");
        listed.sort();
        assert!(
            listed.iter().eq(TOKENS.iter().map(|(name, _)| name)),
            "{listed:?}"
        );
    }

    #[test]
    fn a_nonce_in_an_enforced_policy_keeps_a_response_to_its_requester() {
        let csp = "content-security-policy";
        for policy in [
            "script-src 'nonce-r4nd0m'",
            "default-src 'self'; style-src 'NONCE-abc=='",
        ] {
            assert_eq!(found(csp, policy), Some(Reason::CspNonce), "{policy}");
        }
        for policy in [
            "default-src 'self'",
            "script-src 'sha256-abc='",
            "script-src nonce-x",
        ] {
            assert_eq!(found(csp, policy), None, "{policy}");
        }
        let report_only = "content-security-policy-report-only";
        assert_eq!(found(report_only, "script-src 'nonce-r4nd0m'"), None);
    }

    #[test]
    fn what_is_like_a_token_and_not_listed_is_shared() {
        for name in [
            "x-next-page-token",
            "etag",
            "x-request-id",
            "continuation-token",
            "www-authenticate",
        ] {
            assert_eq!(found(name, "x"), None, "{name}");
        }
    }
}

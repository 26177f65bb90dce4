//! What in a request says who asks.

use http::{HeaderName, header};

/// Who asks, as far as the key leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody in particular, or it is in the key.
    None,
    /// Somebody with credentials that are not in the key: only a response that says so may be shared.
    Authorized,
}

/// A header that says who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    Authorization,
    Cookies,
    ProxyAuthorization,
    /// One that is no standard, and in wide use.
    Other,
}

/// Whether a header says who asks. This runs for every header of every request.
#[inline]
pub(super) fn says(name: &HeaderName) -> Option<Says> {
    let name = match *name {
        header::AUTHORIZATION => return Some(Says::Authorization),
        header::COOKIE => return Some(Says::Cookies),
        header::PROXY_AUTHORIZATION => return Some(Says::ProxyAuthorization),
        _ => name.as_str(),
    };
    let other = match name.as_bytes() {
        // Most other names end here.
        [b'x', b'-', ..] => is_known(name, &EXTENDED, &EXTENDED_PREFIXES),
        [b'a' | b'c' | b'd' | b'r' | b's' | b't', ..] => is_known(name, &PLAIN, &PLAIN_PREFIXES),
        [b'p' | b'x', ..] => false,
        _ => return None,
    };
    if !other && name.contains('_') {
        return with_underscores(name);
    }
    other.then_some(Says::Other)
}

/// Applications that get headers as variables (CGI, WSGI, Rack) cannot tell `_` from `-`.
#[cold]
fn with_underscores(name: &str) -> Option<Says> {
    match &*name.replace('_', "-") {
        "proxy-authorization" => Some(Says::ProxyAuthorization),
        name => {
            let extended = is_known(name, &EXTENDED, &EXTENDED_PREFIXES);
            let plain = is_known(name, &PLAIN, &PLAIN_PREFIXES);
            (extended || plain).then_some(Says::Other)
        }
    }
}

fn is_known(name: &str, names: &[&str], prefixes: &[&str]) -> bool {
    names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Keys and tokens of an API, and what proxies that know the user tell those behind them: Cloudflare, Google, AWS,
/// Azure, Tailscale, nginx and Apache with client certificates.
const EXTENDED: [&str; 15] = [
    "x-api-key",
    "x-api-token",
    "x-auth-token",
    "x-access-token",
    "x-id-token",
    "x-session-id",
    "x-session-token",
    "x-user",
    "x-user-id",
    "x-user-email",
    "x-remote-user",
    "x-authenticated-user",
    "x-client-cert",
    "x-amz-security-token",
    "x-goog-iap-jwt-assertion",
];

const EXTENDED_PREFIXES: [&str; 6] = [
    "x-auth-request-",
    "x-amzn-oidc-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-ssl-client-",
];

const PLAIN: [&str; 6] = [
    "api-key",
    "apikey",
    "auth-token",
    "remote-user",
    "client-cert",
    "client-cert-chain",
];

const PLAIN_PREFIXES: [&str; 3] = ["cf-access-", "ssl-client-", "tailscale-user-"];

//! What in a request says who asks.

use http::{HeaderName, Method, header};

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
    /// A token against cross-site request forgery.
    ForgeryToken,
}

/// What the application says of headers that are not known here, or not as it takes them.
#[derive(Debug, Clone, Default)]
pub(super) struct Chosen {
    pub(super) identity: Vec<HeaderName>,
    pub(super) not_identity: Vec<HeaderName>,
}

impl Chosen {
    /// Whether a header says who asks. This runs for every header of every request.
    #[inline]
    pub(super) fn says(&self, name: &HeaderName) -> Option<Says> {
        if self.not_identity.contains(name) {
            return None;
        }
        let chosen = || self.identity.contains(name).then_some(Says::Other);
        says(name).or_else(chosen)
    }
}

/// Whether a header says who asks, as far as it is known here.
#[inline]
pub(super) fn says(name: &HeaderName) -> Option<Says> {
    match *name {
        header::AUTHORIZATION => Some(Says::Authorization),
        header::COOKIE => Some(Says::Cookies),
        header::PROXY_AUTHORIZATION => Some(Says::ProxyAuthorization),
        // Most requests have most of these: one comparison each.
        header::ACCEPT
        | header::ACCEPT_ENCODING
        | header::ACCEPT_LANGUAGE
        | header::CACHE_CONTROL
        | header::CONNECTION
        | header::CONTENT_LENGTH
        | header::CONTENT_TYPE
        | header::DNT
        | header::FORWARDED
        | header::HOST
        | header::IF_MODIFIED_SINCE
        | header::IF_NONE_MATCH
        | header::ORIGIN
        | header::PRAGMA
        | header::RANGE
        | header::REFERER
        | header::TE
        | header::UPGRADE_INSECURE_REQUESTS
        | header::USER_AGENT
        | header::VIA => None,
        _ => says_by_name(name.as_str()),
    }
}

fn says_by_name(name: &str) -> Option<Says> {
    // Browsers alone set these, and say nothing in them of who asks (Fetch, forbidden request-headers): half of the
    // fields of a browser's request.
    if name.starts_with("sec-") {
        return None;
    }
    if is_listed(name) || has_telling_end(name) {
        return Some(kind(name));
    }
    // Applications that get headers as variables (CGI, WSGI, Rack) cannot tell `_` from `-`.
    if memchr::memchr(b'_', name.as_bytes()).is_some() {
        return with_underscores(name);
    }
    None
}

#[cold]
fn with_underscores(name: &str) -> Option<Says> {
    match &*name.replace('_', "-") {
        "proxy-authorization" => Some(Says::ProxyAuthorization),
        name => (is_listed(name) || has_telling_end(name)).then(|| kind(name)),
    }
}

#[cold]
fn kind(name: &str) -> Says {
    if name.contains("csrf") || name.contains("xsrf") {
        Says::ForgeryToken
    } else {
        Says::Other
    }
}

/// Whether a response may depend on what a header says of who asks. A token against forgery protects requests that change
/// something: clients send it with all of them, and no answer to a GET depends on it.
pub(super) fn counts(says: Says, method: &Method) -> bool {
    says != Says::ForgeryToken || !matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a name is listed, by itself or by how it begins. Only those that begin with the same letters are compared: a name that is added may need a letter here.
fn is_listed(name: &str) -> bool {
    let (names, prefixes): (&[&str], &[&str]) = match name.as_bytes() {
        [b'x', b'-', b'a', ..] => (&X_A, &X_A_PREFIXES),
        [b'x', b'-', b'c' | b'e' | b'f', ..] => (&X_C_TO_F, &X_C_TO_F_PREFIXES),
        [b'x', b'-', b'g' | b'h' | b'j' | b'm', ..] => (&X_G_TO_M, &X_G_TO_M_PREFIXES),
        [b'x', b'-', b'p' | b'r' | b's', ..] => (&X_P_TO_S, &X_P_TO_S_PREFIXES),
        [b'x', b'-', b't' | b'u' | b'w', ..] => (&X_T_TO_W, &X_T_TO_W_PREFIXES),
        [b'c', b'f' | b'l', ..] | [b'd', b'p', ..] => (&A_TO_D, &A_TO_D_PREFIXES),
        [b'i' | b'm' | b'o', ..] | [b'r', b'e', b'm', ..] => (&I_TO_R, &I_TO_R_PREFIXES),
        [b's', b's', ..] | [b't', b'a', ..] => (&S_TO_U, &S_TO_U_PREFIXES),
        _ => return false,
    };
    names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a name ends as those of credentials and of users do, whatever stands before.
fn has_telling_end(name: &str) -> bool {
    let ends: &[&str] = match name.as_bytes() {
        [.., b'e', b'n'] => &["-token", "-authtoken", "-csrftoken", "-xsrftoken"],
        [.., b'o', b'n'] => &["-authorization", "-assertion"],
        [.., b'e', b'y'] => &KEYS,
        [.., b'e', b't'] => &["-secret"],
        [.., b'w', b't'] => &["-jwt"],
        [.., b'i', b'd'] => &["-userid", "-user-id", "-session-id", "-sessionid"],
        [.., b'm', b'e'] => &["-username", "-user-name"],
        [.., b'e', b'r'] => &["-user"],
        [.., b'i', b'l'] => &["-email"],
        [.., b'r', b't'] => &["-client-cert", "-clientcert"],
        [.., b't', b'h'] => &["-auth"],
        [.., b'a', b'l'] => &["-credential"],
        [.., b'l', b's'] => &["-credentials"],
        [.., b'r', b'd'] => &["-password"],
        _ => return false,
    };
    let ends_so = |end: &&str| name.ends_with(end) || *name == end[1..];
    ends.iter().any(ends_so)
}

const KEYS: [&str; 10] = [
    "-api-key",
    "-apikey",
    "-access-key",
    "-secret-key",
    "-private-key",
    "-auth-key",
    "-session-key",
    "-subscription-key",
    "-application-key",
    "-master-key",
];

// The lists. `docs/headers.md` has them as a table.

const X_A: [&str; 4] = [
    // Azure App Service, with client certificates.
    "x-arr-clientcert",
    "x-auth",
    "x-auth-roles",
    "x-amzn-mtls-clientcert",
];
const X_A_PREFIXES: [&str; 7] = [
    // oauth2-proxy, behind nginx.
    "x-auth-request-",
    // Kong.
    "x-authenticated-",
    // Authentik.
    "x-authentik-",
    // AWS.
    "x-amzn-oidc-",
    "x-amzn-mtls-clientcert-",
    "x-appengine-user-",
    "x-auth-user-",
];

const X_C_TO_F: [&str; 7] = [
    "x-client-cert",
    // Firebase.
    "x-firebase-appcheck",
    // What proxies know of the user: oauth2-proxy, Envoy, Traefik.
    "x-forwarded-user",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-client-cert",
    "x-forwarded-tls-client-cert-info",
];
// Kong; Azure Functions.
const X_C_TO_F_PREFIXES: [&str; 3] = ["x-consumer-", "x-credential-", "x-functions-"];

const X_G_TO_M: [&str; 2] = ["x-jwt-payload", "x-msisdn"];
const X_G_TO_M_PREFIXES: [&str; 6] = [
    "x-goog-authenticated-user-",
    // Hasura: the role and the user.
    "x-hasura-",
    "x-jwt-claim-",
    // Azure.
    "x-ms-client-principal",
    "x-ms-token-",
    "x-goog-iap-",
];

const X_P_TO_S: [&str; 4] = [
    "x-remote-group",
    "x-remote-groups",
    "x-remote-name",
    "x-session",
];
const X_P_TO_S_PREFIXES: [&str; 4] = [
    // Pomerium.
    "x-pomerium-",
    // Kubernetes.
    "x-remote-extra-",
    "x-remote-user-",
    "x-ssl-client-",
];

const X_T_TO_W: [&str; 6] = [
    "x-user",
    "x-user-claims",
    "x-user-groups",
    "x-user-role",
    "x-user-roles",
    // Kong.
    "x-userinfo",
];
// Grafana has the last.
const X_T_TO_W_PREFIXES: [&str; 2] = ["x-tailscale-user-", "x-webauth-"];

const A_TO_D: [&str; 3] = [
    "client-cert",
    "client-cert-chain",
    // RFC 9449.
    "dpop",
];
const A_TO_D_PREFIXES: [&str; 1] = ["cf-access-"];

const I_TO_R: [&str; 3] = [
    "msisdn",
    // Authelia.
    "remote-groups",
    "remote-name",
];
const I_TO_R_PREFIXES: [&str; 2] = [
    // Kubernetes.
    "impersonate-",
    // Shibboleth and Apache.
    "oidc-claim-",
];

const S_TO_U: [&str; 1] = ["tailscale-app-capabilities"];
const S_TO_U_PREFIXES: [&str; 2] = ["ssl-client-", "tailscale-user-"];

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str) -> Option<Says> {
        says(&name.parse().unwrap())
    }

    // Each row of the table in the documentation.
    #[test]
    fn every_header_that_is_listed_in_the_docs_says_who_asks() {
        let docs = include_str!("../../docs/headers.md");
        let names = listed(docs, "<!-- request credentials -->");
        assert!(names.len() > 60, "{names:?}");
        for name in names {
            let example = name.replace('*', "a");
            assert!(said(&example).is_some(), "{name}");
        }
    }

    #[test]
    fn every_header_that_is_known_is_listed_in_the_docs() {
        let docs = include_str!("../../docs/headers.md");
        let listed = listed(docs, "<!-- request credentials -->");
        let names = [
            &X_A[..],
            &X_C_TO_F,
            &X_G_TO_M,
            &X_P_TO_S,
            &X_T_TO_W,
            &A_TO_D,
            &I_TO_R,
            &S_TO_U,
        ];
        let prefixes = [
            &X_A_PREFIXES[..],
            &X_C_TO_F_PREFIXES,
            &X_G_TO_M_PREFIXES,
            &X_P_TO_S_PREFIXES,
            &X_T_TO_W_PREFIXES,
            &A_TO_D_PREFIXES,
            &I_TO_R_PREFIXES,
            &S_TO_U_PREFIXES,
        ];
        let is_covered = |name: &str| {
            listed.iter().any(|known| match known.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == known,
            })
        };
        for name in names.concat() {
            assert!(is_covered(name) || has_telling_end(name), "{name}");
        }
        for prefix in prefixes.concat() {
            assert!(listed.contains(&format!("{prefix}*")), "{prefix}");
        }
    }

    /// The names in back quotes of the table that follows this mark, in lower case.
    fn listed(docs: &str, mark: &str) -> Vec<String> {
        let table = docs.split(mark).nth(1).unwrap();
        let table = table.split("<!--").next().unwrap();
        let quoted = table.split('`').skip(1).step_by(2);
        quoted.map(str::to_ascii_lowercase).collect()
    }

    #[test]
    fn what_ends_as_credentials_do_says_who_asks_whatever_stands_before() {
        for name in [
            "private-token",
            "job-token",
            "x-vault-token",
            "x-gitlab-token",
            "x-shopify-storefront-access-token",
            "x-hasura-admin-secret",
            "x-goog-api-key",
            "apikey",
            "token",
            "teleport-jwt-assertion",
            "x-consumer-username",
            "x-serverless-authorization",
            "x-functions-key",
            "x-forwarded-access-token",
            "x-forwarded-tls-client-cert",
            "x_auth_token",
            "x-my-userid",
        ] {
            assert_eq!(said(name), Some(Says::Other), "{name}");
        }
    }

    const OF_EVERYBODY: &str = "\
        accept accept-charset accept-encoding accept-language cache-control cf-connecting-ip \
        cf-ipcountry cf-ray cf-visitor connection content-length content-type device-memory dnt \
        downlink ect forwarded from host hx-request idempotency-key if-none-match \
        if-modified-since last-event-id next-router-state-tree origin pragma priority purpose \
        range referer rsc save-data sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest \
        sec-fetch-mode sec-fetch-site sec-fetch-user sec-gpc sec-purpose sec-websocket-key \
        surrogate-key te traceparent tracestate true-client-ip turbo-frame \
        upgrade-insecure-requests user-agent via viewport-width x-amz-cf-id x-amzn-trace-id \
        x-b3-traceid x-client-data x-cloud-trace-context x-correlation-id x-device \
        x-envoy-external-address x-forwarded-for x-forwarded-host x-forwarded-proto \
        x-forwarded-port x-forwarded-server x-forwarded-request-id x-forwarded-client-ip \
        x-forwarded-tls-version x-inertia x-pjax x-real-ip x-request-id x-requested-with \
        x-up-target key x-key x-userid-hash \
    ";

    #[test]
    fn what_browsers_and_proxies_send_of_everybody_says_nothing_of_who_asks() {
        for name in OF_EVERYBODY.split_whitespace() {
            assert_eq!(said(name), None, "{name}");
        }
    }

    #[test]
    fn tokens_against_forgery_count_where_something_is_changed() {
        for name in [
            "x-csrf-token",
            "x-xsrf-token",
            "csrf-token",
            "x-csrftoken",
            "x_csrf_token",
        ] {
            let says = said(name).unwrap();
            assert_eq!(says, Says::ForgeryToken, "{name}");
            for (method, expected) in [
                (Method::GET, false),
                (Method::HEAD, false),
                (Method::POST, true),
                (Method::QUERY, true),
            ] {
                assert_eq!(counts(says, &method), expected, "{name} {method}");
            }
        }
        assert!(counts(Says::Other, &Method::GET));
    }
}

//! Whether a redirect leads back to what its request is for.

use fluent_uri::{Uri as Absolute, UriRef};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::{encode::KeyBytes, selection::Selection, target};

impl Selection {
    /// Whether a `Location` leads to the target of a request, in any scheme, as far as the target is in the key. Hosts are
    /// all that the request is said to be for, by itself or by proxies.
    pub(crate) fn leads_to_target(&self, location: &[u8], uri: &Uri, headers: &HeaderMap) -> bool {
        let hosts = hosts(uri, headers);
        let of_the_request = (uri.path(), uri.query());
        let Some(named) = resolved(location, &hosts, of_the_request) else {
            return false;
        };
        let Some(authority) = named.authority() else {
            return false;
        };
        let authority = target::comparable_authority(authority.as_str().as_bytes());
        // A request that names no host may be for any.
        let is_own_host = self.ignore_authority || hosts.is_empty() || hosts.contains(&authority);
        let path = match named.path().as_str() {
            // RFC 9110 §4.2.3: no path is the root.
            "" => "/",
            path => path,
        };
        is_own_host
            && target::normalized_path(path.as_bytes())
                == target::normalized_path(uri.path().as_bytes())
            && self.comparable_query(named.query().map(|query| query.as_str()))
                == self.comparable_query(uri.query())
    }

    fn comparable_query(&self, query: Option<&str>) -> KeyBytes {
        let mut key = KeyBytes::new();
        self.put_comparable_query(&mut key, query);
        key
    }
}

fn hosts(uri: &Uri, headers: &HeaderMap) -> Vec<Vec<u8>> {
    const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
    let of_uri = uri.authority().map(|host| host.as_str().as_bytes());
    let lines = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let listed = lines(FORWARDED_HOST).flat_map(|line| line.split(|b| *b == b','));
    let pairs = lines(header::FORWARDED).flat_map(|line| line.split(|b| b",;".contains(b)));
    let told = pairs.map(<[u8]>::trim_ascii).filter_map(|pair| {
        let (name, value) = pair.split_at_checked(5)?;
        name.eq_ignore_ascii_case(b"host=")
            .then_some(unquoted(value))
    });
    let all = of_uri
        .into_iter()
        .chain(lines(header::HOST))
        .chain(listed)
        .chain(told);
    let all = all.map(|host| target::comparable_authority(host.trim_ascii()));
    all.filter(|host| !host.is_empty()).collect()
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inside @ .., b'"'] => inside,
        _ => value,
    }
}

/// What a reference in a response refers to (RFC 3986 §5).
fn resolved(
    location: &[u8],
    hosts: &[Vec<u8>],
    (path, query): (&str, Option<&str>),
) -> Option<Absolute<String>> {
    let location = visible(location.trim_ascii());
    let reference = UriRef::parse(location.as_str()).ok()?;
    let host = hosts
        .first()
        .and_then(|host| std::str::from_utf8(host).ok());
    let host = host.unwrap_or("host.invalid");
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let base = visible(format!("http://{host}{path}{query}").as_bytes());
    let base = Absolute::parse(base).ok()?;
    reference.resolve_against(&base).ok()
}

/// As clients read a field that is no URI: what cannot stand in one is escaped.
fn visible(text: &[u8]) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'!'..=b'~' if !b"\"<>\\^`{|}".contains(byte) => visible.push(char::from(*byte)),
            _ => visible.push_str(&format!("%{byte:02X}")),
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use http::Request;

    use crate::key::Key;

    fn leads(key: Key, location: &str, uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (selection, _) = key.into_parts();
        selection.leads_to_target(location.as_bytes(), &parts.uri, &parts.headers)
    }

    #[test]
    fn a_redirect_to_the_same_host_path_and_query_in_any_scheme_leads_to_itself() {
        let host = [("host", "h")];
        for location in [
            "https://h/p?q=1",
            "http://H:80/p?q=1",
            "//h/p?q=1#top",
            "/p?q=1",
            "?q=1",
            "/%70?q=%31",
            "https://h/x/../p?q=1",
            "",
        ] {
            assert!(leads(Key::new(), location, "/p?q=1", &host), "{location}");
        }
        for location in [
            "https://h/p",
            "https://h/p/?q=1",
            "https://www.h/p?q=1",
            "/q?q=1",
            "https://h:8080/p?q=1",
            "h\u{0}",
        ] {
            assert!(!leads(Key::new(), location, "/p?q=1", &host), "{location}");
        }
        assert!(leads(Key::new(), "https://h", "/", &host));
        assert!(leads(
            Key::new(),
            "https://h/caf\u{e9}",
            "/caf%C3%A9",
            &host
        ));
        assert!(leads(Key::new(), "/p", "https://h/p", &[]));
        assert!(leads(Key::new(), "https://any/p", "/p", &[]));
    }

    #[test]
    fn a_redirect_to_another_host_or_parameter_leads_to_itself_where_the_key_leaves_that_out() {
        let host = [("host", "h")];
        let to_www = |key| leads(key, "https://www.h/p", "/p", &host);
        assert!(to_www(Key::new().ignore_authority()));
        let without_utm = |key| leads(key, "/p?a=1", "/p?utm=x&a=1", &host);
        assert!(without_utm(Key::new().query_except(["utm"])));
        assert!(!without_utm(Key::new()));
    }

    #[test]
    fn a_redirect_to_the_host_that_a_proxy_was_asked_for_leads_to_itself() {
        for forwarded in [
            ("x-forwarded-host", "a.example, h.example"),
            ("forwarded", "for=1;host=\"h.example\";proto=http"),
        ] {
            let headers = [("host", "127.0.0.1:3000"), forwarded];
            assert!(leads(Key::new(), "https://h.example/p", "/p", &headers));
            assert!(!leads(Key::new(), "https://other/p", "/p", &headers));
        }
    }
}

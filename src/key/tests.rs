use http::{
    Method, Request,
    header::{ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION},
};

use super::*;
use crate::status::Reason;

fn parts(uri: &str, headers: &[(HeaderName, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(
            name,
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    request.body(()).unwrap().into_parts().0
}

fn encoded<B>(key: &Key<B>, parts: &Parts) -> Vec<u8> {
    tried(key, &prefix(), parts, 8192).unwrap()
}

fn prefix() -> KeyPrefix {
    KeyPrefix::new("", "", None, 0)
}

fn tried<B>(
    key: &Key<B>,
    prefix: &KeyPrefix,
    parts: &Parts,
    limit: usize,
) -> Result<Vec<u8>, Reason> {
    let mut bytes = KeyBytes::new();
    let mut parts = parts.clone();
    key.selection
        .encode(prefix, &mut parts, limit, &mut bytes)?;
    Ok(bytes.to_vec())
}

fn same(key: &Key, a: &str, b: &str) -> bool {
    encoded(key, &parts(a, &[])) == encoded(key, &parts(b, &[]))
}

// Invariant 8.
#[test]
fn the_default_key_is_the_authority_and_the_path_and_query_byte_for_byte() {
    let key = Key::new();
    for (a, b) in [
        ("/a?x=1", "/a?x=2"),
        ("/a", "/a?"),
        ("/a?x=1&y=2", "/a?y=2&x=1"),
        ("/%61", "/a"),
        ("/a/", "/a"),
        ("/a//b", "/a/b"),
        ("http://one/a", "http://two/a"),
        ("http://one/a", "http://one:443/a"),
        ("http://one/a", "/a"),
    ] {
        assert!(!same(&key, a, b), "{a} and {b}");
    }
    for (a, b) in [
        ("http://Example.COM/a", "http://example.com/a"),
        ("http://one/a", "https://one/a"),
        ("http://one/a", "http://one:80/a"),
        ("https://one:443/a", "http://one/a"),
    ] {
        assert!(same(&key, a, b), "{a} and {b}");
    }
    assert!(same(
        &key.ignore_authority(),
        "http://one/a",
        "https://two/a"
    ));
}

#[test]
fn head_shares_the_key_of_get_and_no_other_method_does() {
    let key = Key::new();
    let mut get = parts("/", &[]);
    let with = |get: &mut Parts, method: Method| {
        get.method = method;
        encoded(&key, get)
    };
    let first = with(&mut get, Method::GET);
    assert_eq!(first, with(&mut get, Method::HEAD));
    assert_ne!(first, with(&mut get, Method::POST));
}

// Invariant 62.
#[test]
fn the_authority_is_one_whether_the_uri_or_host_names_it() {
    let key = Key::new();
    let one = encoded(&key, &parts("/", &[(HOST, "one")]));
    for (uri, hosts) in [
        ("/", &[(HOST, "ONE")][..]),
        ("/", &[(HOST, "one:80")]),
        ("/", &[(HOST, "one:443")]),
        ("/", &[(HOST, "one"), (HOST, "One:")]),
        ("http://one/", &[]),
        ("https://One:443/", &[(HOST, "one")]),
    ] {
        assert_eq!(one, encoded(&key, &parts(uri, hosts)), "{uri} {hosts:?}");
    }
    for (uri, hosts) in [
        ("/", &[(HOST, "two")][..]),
        ("/", &[(HOST, "one:8080")]),
        ("/", &[(HOST, "")]),
        ("/", &[]),
        ("https://one:80/", &[]),
    ] {
        assert_ne!(one, encoded(&key, &parts(uri, hosts)), "{uri} {hosts:?}");
    }
}

#[test]
fn a_request_that_names_two_authorities_or_a_user_has_no_key() {
    for (uri, hosts) in [
        ("/", &[(HOST, "one"), (HOST, "two")][..]),
        ("http://one/", &[(HOST, "two")]),
        ("http://one/", &[(HOST, "one:443")]),
        ("http://one/", &[(HOST, "")]),
        ("/", &[(HOST, "user@one")]),
        ("http://user@one/", &[]),
    ] {
        let request = parts(uri, hosts);
        let refused = tried(&Key::new(), &prefix(), &request, 1 << 13);
        assert_eq!(refused, Err(Reason::Authority), "{uri} {hosts:?}");
        assert!(tried(&Key::new().ignore_authority(), &prefix(), &request, 1 << 13).is_ok());
    }
}

// Invariant 14.
#[test]
fn what_proxies_say_of_the_target_is_in_the_key_and_the_clients_address_is_not() {
    let key = Key::new();
    let of = |name: &'static str, value: &str| {
        let headers = [(HeaderName::from_static(name), value)];
        tried(&key, &prefix(), &parts("/", &headers), 8192)
    };
    let plain = of("accept", "x");
    for (name, value) in [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "host=evil.example"),
        ("forwarded", "for=1.2.3.4;PROTO=http, for=5.6.7.8"),
        ("forwarded", "for=\"[::1]:80\";host=\"a\""),
    ] {
        assert!(
            of(name, value).is_ok_and(|key| Ok(key) != plain),
            "{name}: {value}"
        );
    }
    assert_eq!(of("x-forwarded-for", "1.2.3.4"), plain);
    assert_eq!(of("forwarded", "for=1.2.3.4;by=10.0.0.1"), plain);
    assert_ne!(of("forwarded", "host=a"), of("forwarded", "host=b"));
    let hidden = "for=\"x;host=evil.example\"";
    let escaped = "host=\"a\\\"b\"";
    for broken in [
        "host",
        "for=1;\"host=a",
        "a b=1",
        "=x",
        hidden,
        escaped,
        "for=\u{fc}",
    ] {
        assert_eq!(of("forwarded", broken), Err(Reason::Forwarded), "{broken}");
    }
    // The first and the last element are other ones, and so is the first line.
    assert_ne!(of("forwarded", "host=a, for=1"), of("forwarded", "host=a"));
    for name in ["x-http-method-override", "x-original-url", "x-rewrite-url"] {
        assert_eq!(of(name, "/admin"), Err(Reason::Override));
    }
}

#[test]
fn only_the_chosen_parameters_split_the_cache() {
    let key = Key::new().query(["page", "sort"]);
    assert!(same(&key, "/?page=1&sort=a&utm=x", "/?sort=a&page=1"));
    assert!(same(&key, "/?utm=1", "/"));
    assert!(same(&key, "/?%70age=1", "/?page=1"));
    for (a, b) in [
        ("/?page=1", "/?page=2"),
        ("/?page", "/?page="),
        ("/?page", "/"),
        ("/?page=1&page=2", "/?page=2&page=1"),
        ("/?page=1", "/?page=1&page=1"),
        ("/?page=1", "/?sort=1"),
        ("/?page=%31", "/?page=1"),
        ("/?page=+1", "/?page=%201"),
    ] {
        assert!(!same(&key, a, b), "{a} and {b}");
    }
}

// Invariant 10.
#[test]
fn a_query_that_readers_may_take_apart_differently_is_keyed_whole() {
    let key = Key::new().query(["q"]);
    assert!(!same(&key, "/?x=1;q=evil", "/?x=1"), "some take ; for &");
    assert!(!same(&key, "/?x=%zz&q=1", "/?x=%yy&q=1"), "broken escapes");
    assert!(!same(&key, "/?x=%2", "/?x=%3"));
    assert!(!same(&key, "/?q[]=1", "/?q[]=2"), "some take q[] for q");
    assert!(same(&key, "/?x[]=1", "/?x[]=2"));
    assert!(!same(&key, "/?[q]=1", "/"), "some take [q] for q");
    assert!(!same(&key, "/?%5bq]=1", "/"));
    assert!(
        same(&key, "/?x%5b%5D=1", "/"),
        "whatever it means, it is not q"
    );
    let rest = Key::new().query_except(["utm_*"]);
    assert!(
        !same(&rest, "/?a%5Bb%5D=1", "/?a[b]=1"),
        "to some these are two"
    );
    let key = Key::new().query(["q*"]);
    assert!(
        !same(&key, "/?q=1&q[]=2", "/?q[]=2&q=1"),
        "which comes last"
    );
    assert!(same(&key, "/?qa=1&q[]=2", "/?q[]=2&qa=1"));
}

#[test]
fn all_but_some_parameters() {
    let key = Key::new().query_except(["utm_*", "fbclid"]);
    assert!(same(&key, "/?a=1&utm_source=x&b=2&fbclid=9", "/?b=2&a=1"));
    assert!(!same(&key, "/?a=1&utm=x", "/?a=1"));
    assert!(!same(&key, "/?a=1&a=2", "/?a=2&a=1"));
    assert!(same(&key, "/?utm_source=x", "/"));
}

// Invariant 7.
#[test]
fn absent_empty_repeated_and_joined_headers_are_different_things() {
    let key = Key::new().header(ACCEPT);
    let of = |headers: &[(HeaderName, &str)]| encoded(&key, &parts("/", headers));
    let all = [
        of(&[]),
        of(&[(ACCEPT, "")]),
        of(&[(ACCEPT, ""), (ACCEPT, "")]),
        of(&[(ACCEPT, "a")]),
        of(&[(ACCEPT, "a"), (ACCEPT, "b")]),
        of(&[(ACCEPT, "b"), (ACCEPT, "a")]),
        of(&[(ACCEPT, "a, b")]),
        of(&[(ACCEPT, "\u{fc}")]),
    ];
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            assert_ne!(a, b);
        }
    }
    assert_eq!(of(&[]), of(&[(ACCEPT_LANGUAGE, "de")]));
}

#[test]
fn a_cookie_is_found_by_name_on_any_line() {
    let key = Key::new().cookie("region");
    let of = |headers: &[(HeaderName, &str)]| encoded(&key, &parts("/", headers));
    let eu = of(&[(COOKIE, "region=eu")]);
    assert_eq!(eu, of(&[(COOKIE, "a=1; region=eu; b=2")]));
    assert_eq!(eu, of(&[(COOKIE, "a=1"), (COOKIE, "region=eu")]));
    assert_ne!(eu, of(&[(COOKIE, "region=us")]));
    assert_ne!(eu, of(&[(COOKIE, "region=eu; region=us")]));
    assert_ne!(of(&[]), of(&[(COOKIE, "region=")]));
    assert_ne!(eu, of(&[(COOKIE, "REGION=eu")]));
    assert_ne!(of(&[(COOKIE, "region")]), of(&[(COOKIE, "region=")]));
    assert_ne!(eu, of(&[(COOKIE, "region =eu")]));
}

// Invariant 10.
#[test]
fn cookies_that_readers_may_take_apart_differently_are_keyed_whole() {
    let key = Key::new().cookie("region");
    let of = |line: &str| encoded(&key, &parts("/", &[(COOKIE, line)]));
    for (a, b) in [
        ("%72egion=evil", "a=1"),
        ("region=eu; %72egion=evil", "region=eu"),
        ("region=eu; a=\u{fc}", "region=eu"),
        ("a=1,region=evil", "a=1"),
        ("a=\"; region=eu; b=\"", "region=eu"),
        ("a=\"region=evil\"", "a=1"),
    ] {
        assert_ne!(of(a), of(b), "{a} and {b}");
    }
    assert_eq!(of("region=eu; a=\"1\"; b=2,3"), of("region=eu"));
}

#[test]
fn a_request_that_says_who_asks_is_known_unless_the_key_says_who() {
    let identity = |key: Key, name: HeaderName, value: &str| {
        let request = parts("/", &[(name, value)]);
        key.selection.identity(&request.method, &request.headers)
    };
    assert_eq!(identity(Key::new(), ACCEPT, "x"), Ok(Identity::None));
    assert_eq!(identity(Key::new(), COOKIE, "a=1"), Err(Reason::Cookie));
    assert_eq!(identity(Key::new(), COOKIE, "junk"), Err(Reason::Cookie));
    assert_eq!(
        identity(Key::new().cookie("a"), COOKIE, "a=1"),
        Ok(Identity::None)
    );
    assert_eq!(
        identity(Key::new().cookie("a"), COOKIE, "a=1; sid=2"),
        Err(Reason::Cookie)
    );
    assert_eq!(
        identity(Key::new().header(COOKIE), COOKIE, "sid=2"),
        Ok(Identity::None)
    );
    assert_eq!(
        identity(Key::new().ignore_cookies(), COOKIE, "sid=2"),
        Ok(Identity::None)
    );
    assert_eq!(
        identity(Key::new(), AUTHORIZATION, "x"),
        Ok(Identity::Authorized)
    );
    assert_eq!(
        identity(Key::new().header(AUTHORIZATION), AUTHORIZATION, "x"),
        Ok(Identity::None)
    );
    assert_eq!(
        identity(Key::new().ignore_authorization(), AUTHORIZATION, "x"),
        Ok(Identity::None)
    );
    assert_eq!(
        identity(Key::new(), PROXY_AUTHORIZATION, "x"),
        Err(Reason::ProxyAuthorization)
    );
}

#[test]
fn a_closure_adds_a_part_or_says_that_there_is_no_key() {
    let key = Key::new().part("n", |parts| parts.extensions.get::<u8>().copied());
    let prefix = prefix();
    let mut request = parts("/", &[]);
    assert_eq!(tried(&key, &prefix, &request, 8192), Err(Reason::KeyPart));
    request.extensions.insert(1u8);
    let one = encoded(&key, &request);
    request.extensions.insert(2u8);
    assert_ne!(one, encoded(&key, &request));
}

#[test]
fn a_key_at_the_limit_is_made_and_one_past_it_is_not() {
    let (key, prefix) = (Key::new(), prefix());
    let request = parts("/abc?d", &[]);
    let length = tried(&key, &prefix, &request, 8192).unwrap().len();
    assert!(tried(&key, &prefix, &request, length).is_ok());
    assert_eq!(
        tried(&key, &prefix, &request, length - 1),
        Err(Reason::KeyTooLong)
    );
}

// Invariant 8.
#[test]
fn namespaces_and_layers_are_apart() {
    let (key, request) = (Key::new(), parts("/", &[]));
    let of = |prefix: KeyPrefix| tried(&key, &prefix, &request, 8192).unwrap();
    let prefixes = [
        KeyPrefix::new("", "", None, 0),
        KeyPrefix::new("", "", None, 1),
        KeyPrefix::new("a", "", None, 0),
        KeyPrefix::new("", "a", None, 0),
        KeyPrefix::new("a", "a", None, 0),
        KeyPrefix::new("", "", Some("a"), 0),
        KeyPrefix::new("a", "", Some("a"), 0),
        KeyPrefix::new("", "", Some("\0\0\0\0\0\0\0\0"), 0),
    ];
    for (i, a) in prefixes.iter().enumerate() {
        for b in &prefixes[i + 1..] {
            assert_ne!(of(a.clone()), of(b.clone()));
        }
    }
    assert_eq!(
        of(KeyPrefix::new("", "", Some("a"), 1)),
        of(KeyPrefix::new("", "", Some("a"), 2))
    );
}

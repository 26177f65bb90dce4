//! Heads of messages that are unusual, contradictory or large, in requests and in the origin's responses.

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};

use crate::tools::{Origin, Proxy, in_time, ok, say, say_and_close, stored};

/// A request in HTTP/2: the status and the body of its response.
async fn over_http2(proxy: &Proxy, request: Request<Empty<Bytes>>) -> (StatusCode, String) {
    let mut client = proxy.http2().await;
    let response = in_time(client.send_request(request)).await.unwrap();
    let status = response.status();
    let body = in_time(response.collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn http2_get(uri: &str) -> http::request::Builder {
    Request::get(uri).version(Version::HTTP_2)
}

#[tokio::test]
async fn cookie_crumbs_of_http_2_are_one_cookie_header() {
    let origin = Origin::new(|asked| ok("", &asked.all("cookie").join(" | "))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let crumbs = http2_get("http://site.example/").header("cookie", "a=1");
    let crumbs = crumbs.header("cookie", "b=2").header("cookie", "c=3; d=4");
    let (_, heard) = over_http2(&proxy, crumbs.body(Empty::new()).unwrap()).await;
    assert_eq!(heard, "a=1; b=2; c=3; d=4");
}

#[tokio::test]
async fn cookie_crumbs_are_joined_before_the_cache_looks_at_them() {
    let answer = "Cache-Control: s-maxage=600\r\nVary: Cookie\r\n";
    let origin = Origin::new(move |asked| ok(answer, &asked.all("cookie").join(" | "))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let plain = proxy.get_with("/", "Cookie: a=1; b=2\r\n").await;
    assert_eq!(plain.text(), "a=1; b=2");
    let crumbs = http2_get("http://site.example/").header("cookie", "a=1");
    let crumbs = crumbs.header("cookie", "b=2").body(Empty::new()).unwrap();
    let (_, heard) = over_http2(&proxy, crumbs).await;
    assert_eq!((heard.as_str(), origin.calls()), ("a=1; b=2", 1));
}

#[tokio::test]
async fn a_repeated_length_of_a_request_is_one_length_or_refused() {
    let origin = Origin::new(|asked| ok("", &asked.all("content-length").join(" | "))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for (lengths, expected) in [
        ("Content-Length: 3, 3", None),
        ("Content-Length: 3,4", None),
        ("Content-Length: 3\r\nContent-Length: 3", Some("3")),
        ("Content-Length: 3\r\nContent-Length: 4", None),
        ("Content-Length: +3", None),
    ] {
        let head = "POST / HTTP/1.1\r\nHost: site.example\r\nConnection: close";
        let answer = proxy.say(&format!("{head}\r\n{lengths}\r\n\r\nabc")).await;
        match expected {
            None => assert_eq!(answer.status, 400, "{lengths}: {answer:?}"),
            Some(length) => assert_eq!(answer.text(), length, "{lengths}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_repeated_length_of_a_response_is_one_length_or_a_bad_gateway() {
    for (lengths, status) in [
        ("Content-Length: 3, 3", 200),
        ("Content-Length: 3,3\r\nContent-Length: 3", 200),
        ("Content-Length: 3\r\nContent-Length: 3", 200),
        ("Content-Length: 3, 4", 502),
        ("Content-Length: 3,", 502),
        ("Content-Length: 3\r\nContent-Length: 4", 502),
    ] {
        let cached = "Cache-Control: s-maxage=600";
        let head = format!("HTTP/1.1 200 OK\r\n{cached}\r\n{lengths}\r\n\r\n");
        let origin = Origin::new(move |asked| match asked.line.starts_with("HEAD") {
            true => say(&head),
            false => say(format!("{head}abc")),
        })
        .await;
        let proxy = Proxy::before(&origin, &[]).await;
        let head = "HEAD /head HTTP/1.1\r\nHost: site.example\r\n\r\n";
        let answers = [
            proxy.say(head).await,
            proxy.get("/").await,
            proxy.get("/").await,
        ];
        for answer in answers {
            assert_eq!(answer.status, status, "{lengths}: {answer:?}");
            if status == 200 {
                assert_eq!(answer.one("content-length"), Some("3"), "{lengths}");
            }
        }
    }
}

/// One whose last coding is not `chunked` has no end: 400 (RFC 9112 §6.3).
#[tokio::test]
async fn a_request_in_a_coding_that_is_not_understood_is_not_implemented() {
    let origin = Origin::new(|asked| ok("", &asked.body)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for (codings, status) in [
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
        ("Transfer-Encoding: chunked, chunked", 501),
        ("Transfer-Encoding: identity, chunked", 501),
        ("Transfer-Encoding: gzip", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: Chunked", 200),
    ] {
        let head = "POST / HTTP/1.1\r\nHost: site.example\r\nConnection: close";
        let request = format!("{head}\r\n{codings}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        let answer = proxy.say(&request).await;
        assert_eq!(answer.status, status, "{codings}: {answer:?}");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_coding_of_a_response_that_ends_with_its_connection_is_dropped() {
    for coding in ["identity", "x-unknown", "Identity, x-unknown"] {
        let origin = Origin::new(move |_| {
            let cached = "Cache-Control: s-maxage=600";
            say_and_close(format!(
                "HTTP/1.1 200 OK\r\n{cached}\r\nTransfer-Encoding: {coding}\r\n\r\nall of it"
            ))
        })
        .await;
        let proxy = Proxy::before(&origin, &[]).await;
        for _ in 0..2 {
            let answer = proxy.get("/").await;
            assert_eq!((answer.status, answer.text()), (200, "all of it"));
            assert!(answer.is_whole, "{coding}: {answer:?}");
            assert!(
                ["chunked", ""].contains(&answer.one("transfer-encoding").unwrap_or_default()),
                "{coding}: {answer:?}"
            );
        }
        assert_eq!(origin.calls(), 1);
    }
}

#[tokio::test]
async fn a_coding_of_a_response_that_does_not_end_with_its_connection_is_a_bad_gateway() {
    for fields in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: x-unknown\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity\r\nContent-Length: 13",
    ] {
        let origin = Origin::new(move |_| {
            say_and_close(format!(
                "HTTP/1.1 200 OK\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ))
        })
        .await;
        let proxy = Proxy::before(&origin, &[]).await;
        let answer = proxy.get("/").await;
        assert_eq!(answer.status, 502, "{fields}: {answer:?}");
    }
}

#[tokio::test]
async fn options_go_on_with_the_target_that_they_have() {
    let origin = Origin::new(|asked| ok("", &asked.line)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for (target, line) in [
        ("http://site.example/", "OPTIONS / HTTP/1.1"),
        ("http://site.example/a", "OPTIONS /a HTTP/1.1"),
        ("http://site.example?a", "OPTIONS /?a HTTP/1.1"),
        ("/", "OPTIONS / HTTP/1.1"),
        ("*", "OPTIONS * HTTP/1.1"),
    ] {
        let request = format!("OPTIONS {target} HTTP/1.1\r\nHost: site.example\r\n\r\n");
        let answer = proxy.say(&request).await;
        assert_eq!((answer.status, answer.text()), (200, line), "{target}");
    }
    let bare = "GET http://site.example HTTP/1.1\r\nHost: site.example\r\n\r\n";
    assert_eq!(proxy.say(bare).await.text(), "GET / HTTP/1.1");
}

#[tokio::test]
async fn what_a_get_expects_is_not_sent_on() {
    let origin = Origin::new(|asked| ok("", asked.one("expect").unwrap_or("nothing"))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let answer = proxy.get_with("/", "Expect: 100-continue\r\n").await;
    assert_eq!((answer.status, answer.text()), (200, "nothing"));
    let head = "DELETE / HTTP/1.1\r\nHost: site.example\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(proxy.say(head).await.text(), "nothing");
}

#[tokio::test]
async fn a_scheme_of_http_2_other_than_http_and_https_is_refused() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for (scheme, status) in [("http", 200), ("https", 200), ("ftp", 400), ("urn", 400)] {
        let request = http2_get(&format!("{scheme}://site.example/"));
        let request = request.body(Empty::new()).unwrap();
        let (answered, _) = over_http2(&proxy, request).await;
        assert_eq!(answered, status, "{scheme}");
    }
}

#[tokio::test]
async fn a_thousand_header_lines_of_a_request_are_accepted() {
    let origin = Origin::new(|asked| ok("", &asked.all("x-line").len().to_string())).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let answer = proxy.get_with("/", &"X-Line: 1\r\n".repeat(1000)).await;
    assert_eq!((answer.status, answer.text()), (200, "1000"));
    let mut request = http2_get("http://site.example/2");
    for _ in 0..1000 {
        request = request.header("x-line", "1");
    }
    let (status, heard) = over_http2(&proxy, request.body(Empty::new()).unwrap()).await;
    assert_eq!((status.as_u16(), heard.as_str()), (200, "1000"));
}

#[tokio::test]
async fn a_thousand_header_lines_of_a_response_are_accepted() {
    let lines = format!(
        "Cache-Control: s-maxage=600\r\n{}",
        "X-Line: 1\r\n".repeat(1000)
    );
    let origin = Origin::new(move |_| ok(&lines, "ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for is_hit in [false, true] {
        let answer = proxy.get("/").await;
        assert_eq!((answer.status, answer.is_hit()), (200, is_hit));
        assert_eq!(answer.all("x-line").len(), 1000);
    }
}

//! What an origin answers comes through as it is, from the cache too; what is cut short is never taken for the whole.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};

use crate::tools::{Gate, Origin, Proxy, Step, in_time, ok, say, say_and_close, stored};

#[tokio::test]
async fn an_answer_is_fetched_once_and_then_stored() {
    let origin = Origin::new(|asked| stored(&format!("{} {}", asked.number, asked.line))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let (first, second) = (proxy.get("/a?b=c").await, proxy.get("/a?b=c").await);
    assert_eq!(first.text(), "1 GET /a?b=c HTTP/1.1");
    assert!(!first.is_hit() && second.is_hit(), "{second:?}");
    assert_eq!(second.body, first.body);
    assert_eq!(proxy.get("/a?b=d").await.text(), "2 GET /a?b=d HTTP/1.1");
}

/// A body that ends before it should is seen by the client as such, and nobody gets it from the store.
async fn is_cut_and_not_stored(said: &'static str) {
    let origin = Origin::new(move |_| say_and_close(said)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for calls in 1..=2 {
        let mut wire = proxy.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: site.example\r\n\r\n")
            .await;
        // What comes so fast may not even get out before it breaks.
        if let Some(answer) = wire.answer_if_any("GET").await {
            assert_eq!((answer.status, answer.is_whole), (200, false), "{answer:?}");
        }
        assert_eq!(origin.calls(), calls);
    }
}

#[tokio::test]
async fn a_body_shorter_than_its_length_breaks_off_and_is_not_stored() {
    is_cut_and_not_stored(
        "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=9\r\nContent-Length: 8\r\n\r\nhalf",
    )
    .await;
}

#[tokio::test]
async fn a_body_without_its_last_chunk_breaks_off_and_is_not_stored() {
    is_cut_and_not_stored(
        "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    )
    .await;
}

#[tokio::test]
async fn a_body_that_is_cut_in_a_chunk_breaks_off_and_is_not_stored() {
    is_cut_and_not_stored(
        "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n9\r\nan",
    )
    .await;
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_whole() {
    let said = "HTTP/1.0 200 OK\r\nCache-Control: s-maxage=9\r\n\r\nall of it";
    let origin = Origin::new(move |_| say_and_close(said)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let answer = proxy.get("/").await;
    assert_eq!((answer.text(), answer.is_whole), ("all of it", true));
    // RFC 9110 §6.2: the version is that of who sends it.
    assert_eq!(answer.line, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn headers_come_through_in_order_and_byte_for_byte() {
    let origin = Origin::new(|_| {
        let mut said = b"HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nX-Odd: \xe4\xff\x80\r\nX-Odd:\r\nX-Odd:  a,\tb  \r\n".to_vec();
        said.extend(b"Link: </1>\r\nX-Between: \"\r\nLink: </2>\r\nContent-Length: 2\r\n\r\nok");
        say(said)
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    for is_hit in [false, true] {
        let answer = proxy.get("/").await;
        assert_eq!(answer.is_hit(), is_hit);
        assert_eq!(answer.all("x-odd"), ["\u{e4}\u{ff}\u{80}", "", "a,\tb"]);
        assert_eq!(answer.all("link"), ["</1>", "</2>"]);
        assert_eq!(answer.one("x-between"), Some("\""));
        assert_eq!(answer.one("content-length"), Some("2"));
    }
}

#[tokio::test]
async fn an_answer_has_the_date_at_which_it_came_unless_it_says_so_itself() {
    let dated = "Cache-Control: s-maxage=600\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\n";
    let origin = Origin::new(move |asked| {
        if asked.line.contains("dated") {
            ok(dated, "ok")
        } else {
            stored("ok")
        }
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    let came = proxy.get("/").await.one("date").unwrap().to_owned();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(proxy.get("/").await.one("date"), Some(came.as_str()));
    for _ in 0..2 {
        let answer = proxy.get("/dated").await;
        assert_eq!(answer.one("date"), Some("Tue, 01 Jan 2030 00:00:00 GMT"));
    }
}

#[tokio::test]
async fn each_cookie_has_a_line_of_its_own_and_is_for_its_requester_alone() {
    let headers =
        "Cache-Control: s-maxage=600\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2, 3\r\n";
    let origin = Origin::new(move |_| ok(headers, "for you")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for calls in 1..=2 {
        let answer = proxy.get("/").await;
        assert_eq!(answer.all("set-cookie"), ["a=1; Path=/", "b=2, 3"]);
        assert_eq!((answer.is_hit(), origin.calls()), (false, calls));
    }
}

#[tokio::test]
async fn cookies_are_stored_if_the_operator_says_so() {
    let headers = "Cache-Control: s-maxage=600\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n";
    let origin = Origin::new(move |_| ok(headers, "for all")).await;
    let proxy = Proxy::before(&origin, &["--store-set-cookie"]).await;
    proxy.get("/").await;
    let answer = proxy.get("/").await;
    assert!(answer.is_hit(), "{answer:?}");
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn what_concerns_one_connection_goes_no_further() {
    let headers = "Cache-Control: s-maxage=600\r\nConnection: X-Mine, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\n\
                   Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Yours: 2\r\n";
    let origin = Origin::new(move |_| ok(headers, "ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for is_hit in [false, true] {
        let answer = proxy.get("/").await;
        assert_eq!(answer.is_hit(), is_hit);
        for gone in [
            "connection",
            "keep-alive",
            "x-mine",
            "proxy-connection",
            "upgrade",
        ] {
            assert_eq!(answer.one(gone), None, "{answer:?}");
        }
        assert_eq!(answer.one("x-yours"), Some("2"));
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_believed() {
    let said = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    let origin = Origin::new(move |_| say(said)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let answer = proxy.get("/").await;
    assert_eq!(
        (answer.text(), answer.is_whole),
        ("whole", true),
        "{answer:?}"
    );
    assert_eq!(answer.one("content-length"), None);
}

#[tokio::test]
async fn early_hints_are_neither_stored_nor_mixed_into_the_answer() {
    let origin = Origin::new(|_| {
        let mut said = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nX-Early: 1\r\nCache-Control: no-store\r\n\r\n".to_vec();
        said.extend(b"HTTP/1.1 102 Processing\r\n\r\n");
        said.extend(b"HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: 5\r\n\r\nfinal");
        say(said)
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    for is_hit in [false, true] {
        let answer = proxy.get("/").await;
        assert_eq!(
            (answer.status, answer.text(), answer.is_hit()),
            (200, "final", is_hit)
        );
        assert_eq!((answer.one("link"), answer.one("x-early")), (None, None));
        assert_eq!(answer.one("cache-control"), Some("s-maxage=600"));
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn head_has_the_head_of_get_and_no_body() {
    let origin = Origin::new(|asked| {
        if asked.line.starts_with("HEAD") {
            return say(
                "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: 5\r\n\r\n",
            );
        }
        stored("hello")
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    let head = "HEAD / HTTP/1.1\r\nHost: site.example\r\n\r\n";
    let mut wire = proxy.connect().await;
    for (is_hit, calls) in [(false, 1), (true, 2)] {
        wire.send(head).await;
        let answer = wire.answer_to(head).await;
        assert_eq!(
            (answer.is_hit(), answer.one("content-length")),
            (is_hit, Some("5"))
        );
        // Had it a body, this would be read as the next answer.
        wire.send("GET / HTTP/1.1\r\nHost: site.example\r\n\r\n")
            .await;
        assert_eq!(wire.answer().await.text(), "hello");
        assert_eq!(origin.calls(), calls.max(2));
    }
}

#[tokio::test]
async fn an_answer_without_a_body_has_none_and_the_connection_goes_on() {
    let origin = Origin::new(|asked| match asked.line.as_str() {
        "DELETE /a HTTP/1.1" => say("HTTP/1.1 204 No Content\r\nX-Done: 1\r\n\r\n"),
        _ => stored("next"),
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    wire.send("DELETE /a HTTP/1.1\r\nHost: site.example\r\n\r\nGET / HTTP/1.1\r\nHost: site.example\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.one("x-done")), (204, Some("1")));
    assert_eq!(
        (
            answer.one("content-length"),
            answer.one("transfer-encoding")
        ),
        (None, None)
    );
    assert_eq!(wire.answer().await.text(), "next");
}

#[tokio::test]
async fn an_origins_304_goes_to_whoever_asked_past_the_cache() {
    let origin = Origin::new(|asked| {
        assert_eq!(asked.one("if-none-match"), Some("\"v1\""));
        say("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n")
    })
    .await;
    let proxy = Proxy::before(&origin, &["--mode", "policy"]).await;
    let answer = proxy
        .get_with("/", "Cookie: me=1\r\nIf-None-Match: \"v1\"\r\n")
        .await;
    assert_eq!((answer.status, answer.one("etag")), (304, Some("\"v1\"")));
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn a_condition_does_not_make_a_304_of_what_everybody_gets() {
    let headers = "Cache-Control: s-maxage=600\r\nETag: \"v1\"\r\n";
    let origin = Origin::new(move |asked| match asked.one("if-none-match") {
        Some(_) => say("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n"),
        None => ok(headers, "whole"),
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    let first = proxy.get_with("/", "If-None-Match: \"v1\"\r\n").await;
    assert!([200, 304].contains(&first.status), "{first:?}");
    let second = proxy.get("/").await;
    assert_eq!((second.status, second.text()), (200, "whole"));
}

#[tokio::test]
async fn a_condition_that_is_met_is_answered_from_the_store() {
    let headers = "Cache-Control: s-maxage=600\r\nETag: \"v1\"\r\n";
    let origin = Origin::new(move |_| ok(headers, "whole")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    proxy.get("/").await;
    let answer = proxy.get_with("/", "If-None-Match: \"v1\"\r\n").await;
    assert_eq!((answer.status, origin.calls()), (304, 1), "{answer:?}");
}

#[tokio::test]
async fn trailers_come_through_to_those_who_want_them() {
    let said = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n";
    let origin = Origin::new(move |_| say(said)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for is_hit in [false, true] {
        let answer = proxy
            .get_with("/", "TE: trailers\r\nConnection: te\r\n")
            .await;
        assert_eq!((answer.text(), answer.is_hit()), ("hello", is_hit));
        assert_eq!(
            answer.trailers,
            [("x-sum".to_owned(), "42".to_owned())],
            "{answer:?}"
        );
        assert_eq!(answer.one("x-sum"), None);
    }
    assert_eq!(
        (origin.last().one("te"), origin.calls()),
        (Some("trailers"), 1)
    );
    let answer = proxy.get("/").await;
    assert_eq!((answer.text(), answer.trailers.len()), ("hello", 0));
}

#[tokio::test]
async fn what_comes_in_pieces_goes_out_in_pieces() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin = Origin::new(move |_| {
        let begins = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        let ends = "4\r\nlast\r\n0\r\n\r\n";
        vec![
            Step::Say(begins.into()),
            Step::Wait(behind.clone()),
            Step::Say(ends.into()),
        ]
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: site.example\r\n\r\n")
        .await;
    assert!(wire.head().await.contains("transfer-encoding: chunked"));
    assert_eq!(wire.read_bytes(10).await, b"5\r\nfirst\r\n");
    gate.open();
    assert_eq!(wire.read_bytes(14).await, b"4\r\nlast\r\n0\r\n\r\n");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_shares_what_is_stored() {
    let said = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n";
    let origin = Origin::new(move |_| say(said)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut client = proxy.http2().await;
    for is_hit in [false, true] {
        let request = Request::get("http://site.example/").body(Empty::<Bytes>::new());
        let response = in_time(client.send_request(request.unwrap()))
            .await
            .unwrap();
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (200, Version::HTTP_2)
        );
        assert_eq!(
            response.headers()["cache-status"]
                .to_str()
                .unwrap()
                .contains("; hit"),
            is_hit
        );
        let body = in_time(response.into_body().collect()).await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "42");
        assert_eq!(body.to_bytes(), "hello");
    }
    let answer = proxy.get("/").await;
    assert!(answer.is_hit(), "{answer:?}");
    assert_eq!(
        (origin.calls(), origin.last().line.as_str()),
        (1, "GET / HTTP/1.1")
    );
}

#[tokio::test]
async fn an_answer_may_be_folded_as_old_servers_do_it() {
    let said =
        "HTTP/1.1 200 OK\r\nX-Folded: one\r\n two\r\nX-Spaced : 3\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::new(move |_| say(said)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let answer = proxy.get("/").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let folded: Vec<_> = answer
        .one("x-folded")
        .unwrap()
        .split_ascii_whitespace()
        .collect();
    assert_eq!(
        (folded, answer.one("x-spaced")),
        (vec!["one", "two"], Some("3"))
    );
}

#[tokio::test]
async fn the_origin_decides_unless_the_operator_does() {
    let origin = Origin::new(|asked| match asked.line.as_str() {
        "GET /max-age HTTP/1.1" => ok("Cache-Control: max-age=600\r\n", "ok"),
        "GET /target HTTP/1.1" => ok(
            "Cache-Control: no-store\r\nCDN-Cache-Control: max-age=600\r\n",
            "ok",
        ),
        "GET /no-store HTTP/1.1" => ok("Cache-Control: no-store\r\n", "ok"),
        _ => ok("", "ok"),
    })
    .await;
    for (arguments, stored) in [
        (&[][..], &["/max-age"][..]),
        (&["--target", "CDN-Cache-Control"], &["/max-age", "/target"]),
        (&["--ttl", "60"], &["/max-age", "/silent"]),
        (&["--mode", "policy"], &["/max-age", "/silent"]),
    ] {
        let proxy = Proxy::before(&origin, arguments).await;
        for path in ["/max-age", "/target", "/no-store", "/silent"] {
            proxy.get(path).await;
            let is_hit = proxy.get(path).await.is_hit();
            assert_eq!(is_hit, stored.contains(&path), "{arguments:?} {path}");
        }
    }
}

#[tokio::test]
async fn what_was_changed_through_the_proxy_is_fetched_anew() {
    let origin = Origin::new(|asked| stored(&asked.number.to_string())).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for method in ["PUT", "POST", "DELETE", "PATCH", "FROB"] {
        proxy.get("/").await;
        assert!(proxy.get("/").await.is_hit());
        proxy.send(method, "/", "{}").await;
        assert!(!proxy.get("/").await.is_hit(), "{method}");
    }
}

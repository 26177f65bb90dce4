//! What a client sends reaches the origin as one request without doubt, or not at all.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::tools::{Gate, Origin, Proxy, Step, binary, in_time, ok, say, stored};

#[tokio::test]
async fn the_origin_learns_who_asks_from_the_proxy_alone() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let told = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /x\r\n\
                Forwarded: host=evil.example\r\nX-Real-IP: 6.6.6.6\r\nVia: 1.0 fred\r\n";
    let first = proxy.get_with("/", told).await;
    let asked = origin.last();
    let address = origin.address.to_string();
    assert_eq!(asked.one("host"), Some(address.as_str()));
    assert_eq!(asked.one("x-forwarded-host"), Some("site.example"));
    assert_eq!(asked.one("x-forwarded-proto"), Some("http"));
    assert_eq!(asked.one("x-forwarded-for"), Some("127.0.0.1"));
    for gone in ["forwarded", "x-real-ip", "x-forwarded-prefix"] {
        assert_eq!(asked.one(gone), None);
    }
    let via = asked.all("via");
    assert!(
        via[0] == "1.0 fred" && via[1].starts_with("1.1 reverse-proxy-"),
        "{via:?}"
    );
    assert!(first.one("via").unwrap().starts_with("1.1 reverse-proxy-"));
    // Nor does what was not believed make another entry.
    assert!(proxy.get("/").await.is_hit());
}

#[tokio::test]
async fn what_concerns_one_connection_is_not_sent_on() {
    let origin = Origin::new(|_| ok("", "ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let told = "Connection: X-Mine, Keep-Alive\r\nConnection: te\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nX-Mine: 1\r\nTE: gzip, trailers\r\nX-Yours: 2\r\n";
    proxy.get_with("/", told).await;
    let asked = origin.last();
    for gone in ["keep-alive", "proxy-connection", "x-mine"] {
        assert_eq!(asked.one(gone), None, "{asked:?}");
    }
    assert_eq!(
        (asked.one("te"), asked.one("connection")),
        (Some("trailers"), Some("te"))
    );
    assert_eq!(asked.one("x-yours"), Some("2"));
}

#[tokio::test]
async fn a_client_that_names_other_headers_so_takes_them_from_the_cache_and_the_origin_alike() {
    let origin = Origin::new(|asked| stored(&format!("for {:?}", asked.one("cookie")))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let told = "Connection: cookie, host, content-length, x-forwarded-for\r\nCookie: me=1\r\n";
    let answer = proxy.get_with("/", told).await;
    assert_eq!((answer.status, answer.text()), (200, "for None"));
    assert_eq!(origin.last().one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(proxy.get("/").await.text(), "for None");
    let head =
        "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: content-length\r\nContent-Length: 5";
    proxy.say(&format!("{head}\r\n\r\nhello")).await;
    assert_eq!(origin.last().body, "hello");
}

#[tokio::test]
async fn headers_of_a_request_come_through_in_order_and_byte_for_byte() {
    let origin = Origin::new(|_| ok("", "ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    let head = b"GET /%7e/..//a%2Fb?x=%zz&'q' HTTP/1.1\r\nHost: site.example\r\nX-Odd: \xe4\xff\r\nX-Odd:\r\nX-Odd: a,b\r\n\r\n";
    wire.send(head).await;
    assert_eq!(wire.answer().await.status, 200);
    let asked = origin.last();
    assert_eq!(asked.all("x-odd"), ["\u{e4}\u{ff}", "", "a,b"]);
    assert_eq!(asked.line, "GET /%7e/..//a%2Fb?x=%zz&'q' HTTP/1.1");
}

#[tokio::test]
async fn two_requests_at_once_on_one_connection_are_answered_in_their_order() {
    let origin = Origin::new(|asked| stored(&asked.line)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: site.example\r\n\r\n");
    wire.send([get("/first"), get("/second"), get("/first")].concat())
        .await;
    for line in [
        "GET /first HTTP/1.1",
        "GET /second HTTP/1.1",
        "GET /first HTTP/1.1",
    ] {
        assert_eq!(wire.answer().await.text(), line);
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn who_waits_to_be_told_to_go_on_is_told() {
    let origin = Origin::new(|asked| ok("", &format!("got {}", asked.body))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    wire.send("POST /in HTTP/1.1\r\nHost: site.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 100 "));
    wire.send("hello").await;
    assert_eq!(wire.answer().await.text(), "got hello");
}

#[tokio::test]
async fn a_body_in_chunks_comes_through_and_its_length_is_not_believed() {
    let origin = Origin::new(|asked| ok("", &format!("got {}", asked.body))).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: site.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(wire.answer().await.text(), "got hello");
    assert_eq!(origin.last().one("content-length"), None);
}

/// One of them would be a request of its own for somebody who counts otherwise (RFC 9112 §11.2).
#[tokio::test]
async fn a_body_of_two_lengths_does_not_smuggle_a_request() {
    let origin = Origin::new(|asked| ok("", &asked.line)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: site.example\r\n\r\n";
    for fields in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked",
            5 + inner.len()
        ),
        format!(
            "Transfer-Encoding: chunked\r\nContent-Length: {}",
            5 + inner.len()
        ),
        format!("Content-Length: 5\r\nContent-Length: {}", 5 + inner.len()),
        "Transfer-Encoding: gzip".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
    ] {
        let mut wire = proxy.connect().await;
        wire.send(format!(
            "POST /outer HTTP/1.1\r\nHost: site.example\r\n{fields}\r\n\r\n0\r\n\r\n{inner}"
        ))
        .await;
        let answer = wire.answer().await;
        let last = if origin.calls() > 0 {
            origin.last().line
        } else {
            String::new()
        };
        // What came behind the chunks is a request of the client's own, if it is one at all: never part of another's connection.
        assert!(
            answer.status == 400 || answer.text() == "POST /outer HTTP/1.1",
            "{fields}: {answer:?}"
        );
        assert!(
            last.is_empty() || !last.contains("smuggled") || answer.status == 200,
            "{fields}: {last}"
        );
    }
}

#[tokio::test]
async fn a_request_in_http_1_0_is_answered_so_that_it_can_be_read() {
    let said = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let origin = Origin::new(move |_| say(said)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for _ in 0..2 {
        let mut wire = proxy.connect().await;
        wire.send("GET / HTTP/1.0\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text()), (200, "hello"));
        assert!(answer.line.starts_with("HTTP/1.0 "), "{answer:?}");
        assert_eq!(answer.one("transfer-encoding"), None);
        assert!(wire.is_closed().await);
    }
    let asked = origin.last();
    assert_eq!(
        (asked.line.as_str(), asked.one("x-forwarded-host")),
        ("GET / HTTP/1.1", None)
    );
    assert!(asked.one("via").unwrap().starts_with("1.0 "), "{asked:?}");
}

#[tokio::test]
async fn it_is_clear_for_which_host_a_request_is() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for doubtful in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me@a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example:99999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
        "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        let answer = proxy.say(doubtful).await;
        assert_eq!(answer.status, 400, "{doubtful}: {answer:?}");
    }
    assert_eq!(origin.calls(), 0);
    for (same, is_hit) in [
        ("GET / HTTP/1.1\r\nHost: site.example\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: SITE.example\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: site.example:80\r\n\r\n", true),
        (
            "GET http://site.example/ HTTP/1.1\r\nHost: site.example\r\n\r\n",
            true,
        ),
        (
            "GET http://Site.Example:80 HTTP/1.1\r\nHost: site.example\r\n\r\n",
            true,
        ),
        ("GET / HTTP/1.1\r\nHost: site.example:8080\r\n\r\n", false),
    ] {
        assert_eq!(proxy.say(same).await.is_hit(), is_hit, "{same}");
    }
}

#[tokio::test]
async fn tunnels_traces_and_other_protocols_are_refused() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for refused in [
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
    ] {
        let answer = proxy.say(refused).await;
        assert_eq!(answer.status, 501, "{refused}: {answer:?}");
    }
    assert_eq!(origin.calls(), 0);
    let offer =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(proxy.get_with("/", offer).await.text(), "ok");
    assert_eq!(
        (
            origin.last().one("upgrade"),
            origin.last().one("http2-settings")
        ),
        (None, None)
    );
}

#[tokio::test]
async fn options_go_as_far_as_they_are_to_go() {
    let origin = Origin::new(|_| ok("Allow: GET\r\n", "")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let options =
        |target, more| format!("OPTIONS {target} HTTP/1.1\r\nHost: a.example\r\n{more}\r\n");
    assert_eq!(proxy.say(&options("*", "")).await.one("allow"), Some("GET"));
    assert_eq!(origin.last().line, "OPTIONS * HTTP/1.1");
    proxy.say(&options("/", "Max-Forwards: 7\r\n")).await;
    assert_eq!(origin.last().one("max-forwards"), Some("6"));
    assert_eq!(
        proxy.say(&options("/", "Max-Forwards: 0\r\n")).await.status,
        200
    );
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_request_that_comes_back_is_not_sent_round_once_more() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let via = proxy.get("/").await.one("via").unwrap().to_owned();
    let answer = proxy
        .get_with("/other", &format!("Via: 1.1 fred, {via}\r\n"))
        .await;
    assert_eq!((answer.status, origin.calls()), (508, 1));
}

#[tokio::test]
async fn who_has_said_all_may_still_listen() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin =
        Origin::new(move |_| [vec![Step::Wait(behind.clone())], stored("for you")].concat()).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for cookie in ["", "Cookie: me=1\r\n"] {
        let mut wire = proxy.connect().await;
        wire.send(format!(
            "GET /{} HTTP/1.1\r\nHost: site.example\r\n{cookie}\r\n",
            cookie.len()
        ))
        .await;
        wire.end().await;
        gate.open();
        assert_eq!(wire.answer().await.text(), "for you");
        assert!(wire.is_closed().await);
    }
}

#[tokio::test]
async fn what_is_in_flight_is_finished_before_the_end() {
    for signal in ["-INT", "-TERM"] {
        let gate = Gate::closed();
        let behind = gate.clone();
        let origin = Origin::new(move |_| {
            let begins = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
            vec![
                Step::Say(begins.into()),
                Step::Wait(behind.clone()),
                Step::Say("full".into()),
            ]
        })
        .await;
        let mut proxy = Proxy::before(&origin, &[]).await;
        let mut wire = proxy.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: site.example\r\n\r\n")
            .await;
        wire.head().await;
        proxy.signal(signal);
        // It takes nobody in any more.
        in_time(async { while tokio::net::TcpStream::connect(proxy.address).await.is_ok() {} })
            .await;
        gate.open();
        assert_eq!(wire.read_bytes(8).await, b"halffull");
        let status = in_time(proxy.process().wait()).await.unwrap();
        assert!(status.success(), "{signal}: {status}");
    }
}

#[tokio::test]
async fn what_cannot_be_understood_on_the_command_line_is_said_with_its_cure() {
    let origin = ["--origin", "http://127.0.0.1:9"];
    for (arguments, cure) in [
        (&[][..], "--origin is missing"),
        (&["--bogus"], "bogus"),
        (&["--origin"], "--origin"),
        (&["--origin", "https://a.example"], "write http://"),
        (&["--origin", "http://a.example/path"], "nothing behind it"),
        (&["--origin", "http://me@a.example"], "nothing before it"),
        (
            &[origin[0], origin[1], "--admin", "127.0.0.1:0"],
            "ADMIN_TOKEN",
        ),
        (
            &[
                origin[0],
                origin[1],
                "--admin",
                "127.0.0.1:0",
                "--admin-token",
                "",
            ],
            "ADMIN_TOKEN",
        ),
        (
            &[origin[0], origin[1], "--admin-token", "secret"],
            "--admin HOST:PORT",
        ),
        (&[origin[0], origin[1], "--ttl", "-1"], "seconds"),
        (&[origin[0], origin[1], "--mode", "fast"], "rfc9111, policy"),
        (
            &[origin[0], origin[1], "--max-connections", "0"],
            "--max-connections",
        ),
        (
            &[origin[0], origin[1], "--mode", "rfc9111", "--search-paths"],
            "leave --mode rfc9111 out",
        ),
    ] {
        let mut command = tokio::process::Command::new(binary());
        command
            .args(arguments)
            .env_remove("ADMIN_TOKEN")
            .kill_on_drop(true);
        let output = in_time(command.output()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(
            said.contains(cure) && said.contains("--help"),
            "{arguments:?}: {said}"
        );
    }
}

#[tokio::test]
async fn the_demo_works_as_its_head_says() {
    let mut proxy = Proxy::run("demo", &[], Stdio::piped()).await;
    let (first, second) = (
        proxy.get("/products/7").await,
        proxy.get("/products/7").await,
    );
    assert_eq!(first.text(), "GET /products/7, made by call 1\n");
    assert!(second.is_hit(), "{second:?}");
    let purged = proxy.govern("POST", "/purge/tags?tag=products/7").await;
    assert_eq!(purged.text(), "purged\n");
    let mut lines = BufReader::new(proxy.process().stderr.take().unwrap()).lines();
    let line = in_time(lines.next_line()).await.unwrap().unwrap();
    assert!(
        line.ends_with("POST \"/purge/tags?tag=products/7\": 200"),
        "{line}"
    );
    assert_eq!(
        proxy.get("/products/7").await.text(),
        "GET /products/7, made by call 2\n"
    );
}

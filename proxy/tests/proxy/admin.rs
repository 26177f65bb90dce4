//! The administrative address: nobody without the token, nothing on the public one.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::tools::{Answer, Origin, Proxy, TOKEN, Wire, in_time, ok, stored};

async fn ask(proxy: &Proxy, request: &str) -> Answer {
    let mut wire = Wire::to(proxy.admin).await;
    wire.send(request).await;
    wire.answer_to(request).await
}

async fn stats(proxy: &Proxy) -> Value {
    serde_json::from_slice(&proxy.govern("GET", "/stats").await.body).unwrap()
}

// Invariant 59.
#[tokio::test]
async fn nobody_is_let_in_without_the_token() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    proxy.get("/").await;
    let long = format!("Authorization: Bearer {TOKEN}x\r\n");
    let twice = format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer x\r\n");
    let other = format!("Authorization: Basic {TOKEN}\r\n");
    let bare = format!("Authorization: {TOKEN}\r\n");
    let elsewhere = format!("Proxy-Authorization: Bearer {TOKEN}\r\n");
    for authorization in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer \r\n",
        "Authorization:\r\n",
        &long,
        &twice,
        &other,
        &bare,
        &elsewhere,
    ] {
        for request in [
            "POST /purge/all",
            "GET /stats",
            "GET /nothing",
            "DELETE /purge/all",
        ] {
            let answer = ask(
                &proxy,
                &format!("{request} HTTP/1.1\r\nHost: a\r\n{authorization}\r\n"),
            )
            .await;
            assert_eq!(answer.status, 401, "{authorization}{request}: {answer:?}");
            assert!(
                answer
                    .one("www-authenticate")
                    .unwrap()
                    .starts_with("Bearer")
            );
        }
    }
    assert!(proxy.get("/").await.is_hit(), "nothing was purged");
    let answer = ask(
        &proxy,
        &format!("GET /stats HTTP/1.1\r\nHost: a\r\nauthorization: bearer {TOKEN}\r\n\r\n"),
    )
    .await;
    assert_eq!(answer.status, 200);
}

// Invariant 59.
#[tokio::test]
async fn the_public_address_knows_nothing_of_it() {
    let origin = Origin::new(|asked| {
        ok(
            "Cache-Control: s-maxage=600\r\n",
            &format!("origin: {}", asked.line),
        )
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    proxy.get("/").await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for (method, path) in [
        ("POST", "/purge/all"),
        ("GET", "/stats"),
        ("PURGE", "/else"),
        ("BAN", "/else"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: site.example\r\n{bearer}\r\n");
        assert_eq!(
            proxy.say(&request).await.text(),
            format!("origin: {method} {path} HTTP/1.1")
        );
    }
    let fields =
        "Cache-Control: no-cache\r\nX-Purge: 1\r\nSurrogate-Key: a\r\nFastly-Soft-Purge: 1\r\n";
    proxy.get_with("/third", fields).await;
    assert!(proxy.get("/").await.is_hit(), "nothing was purged");
}

#[tokio::test]
async fn what_bears_a_tag_is_purged_by_it() {
    let headers = "Cache-Control: s-maxage=600\r\nSurrogate-Key: one both\r\nCache-Tag: two, three\r\nxkey: four\r\n";
    let origin = Origin::new(move |asked| {
        if asked.line.contains("other") {
            stored("other")
        } else {
            ok(headers, &asked.number.to_string())
        }
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    proxy.get("/other").await;
    let answer = proxy.get("/").await;
    for hidden in ["surrogate-key", "cache-tag", "xkey"] {
        assert_eq!(answer.one(hidden), None, "{answer:?}");
    }
    for query in [
        "tag=one",
        "tag=none&tag=two",
        "tag=three",
        "tag=four",
        "tag=%62oth",
        "tag=one&soft",
    ] {
        assert!(proxy.get("/").await.is_hit(), "{query}");
        let purged = proxy.govern("POST", &format!("/purge/tags?{query}")).await;
        assert_eq!((purged.status, purged.text()), (200, "purged\n"));
        assert!(!proxy.get("/").await.is_hit(), "{query}");
    }
    proxy.govern("POST", "/purge/tags?tag=nothing").await;
    assert!(proxy.get("/").await.is_hit() && proxy.get("/other").await.is_hit());
}

#[tokio::test]
async fn what_is_at_a_url_is_purged_by_it() {
    let origin = Origin::new(|asked| {
        let headers = "Cache-Control: s-maxage=600\r\nVary: Accept-Language\r\n";
        ok(headers, &asked.number.to_string())
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    let languages = ["", "Accept-Language: de\r\n"];
    proxy.get("/b").await;
    for path in [
        "/purge/url?url=http://site.example/a?x=1",
        "/purge/url?url=http%3A%2F%2FSITE.example%3A80%2Fa%3Fx%3D1&soft",
    ] {
        for language in languages {
            proxy.get_with("/a?x=1", language).await;
            assert!(proxy.get_with("/a?x=1", language).await.is_hit());
        }
        assert_eq!(proxy.govern("POST", path).await.status, 200);
        for language in languages {
            assert!(!proxy.get_with("/a?x=1", language).await.is_hit(), "{path}");
        }
    }
    let url = "http://site.example/a?x=1";
    let head = format!("POST /purge/url HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}");
    let answer = ask(
        &proxy,
        &format!("{head}\r\nContent-Length: {}\r\n\r\n{url}", url.len()),
    )
    .await;
    assert_eq!(answer.status, 200);
    assert!(!proxy.get("/a?x=1").await.is_hit());
    assert!(proxy.get("/b").await.is_hit());
}

#[tokio::test]
async fn everything_is_purged_at_once() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for path in ["/purge/all", "/purge/all?soft"] {
        for page in ["/a", "/b"] {
            proxy.get(page).await;
            assert!(proxy.get(page).await.is_hit());
        }
        assert_eq!(proxy.govern("POST", path).await.status, 200);
        assert!(!proxy.get("/a").await.is_hit() && !proxy.get("/b").await.is_hit());
    }
}

// Invariant 59.
#[tokio::test]
async fn what_cannot_be_done_is_refused() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    proxy.get("/").await;
    for (method, path, status) in [
        ("GET", "/purge/all", 405),
        ("HEAD", "/purge/all", 405),
        ("PUT", "/purge/tags?tag=a", 405),
        ("POST", "/stats", 405),
        ("POST", "/explain?url=http://site.example/", 405),
        ("POST", "/purge", 404),
        ("POST", "/purge/all/", 404),
        ("POST", "/purge/tags", 400),
        ("POST", "/purge/tags?tags=a", 400),
        ("POST", "/purge/url", 400),
        ("POST", "/purge/url?url=/path", 400),
        ("POST", "/purge/url?url=http://me@site.example/", 400),
        ("GET", "/explain", 400),
    ] {
        let answer = proxy.govern(method, path).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.one("allow").is_some(), status == 405, "{answer:?}");
    }
    assert!(proxy.get("/").await.is_hit(), "nothing was purged");
    let head = format!("POST /purge/url HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}");
    let answer = ask(
        &proxy,
        &format!(
            "{head}\r\nContent-Length: 20000\r\n\r\n{}",
            "x".repeat(20000)
        ),
    )
    .await;
    assert_eq!(answer.status, 413);
    let answer = ask(
        &proxy,
        &format!("{head}\r\nContent-Length: 2\r\n\r\n\u{0}\u{1}"),
    )
    .await;
    assert_eq!(answer.status, 400);
}

// Invariant 59.
#[tokio::test]
async fn who_guesses_fast_is_told_to_wait() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = Wire::to(proxy.admin).await;
    in_time(async {
        loop {
            wire.send("GET /stats HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess\r\n\r\n")
                .await;
            let answer = wire.answer().await;
            if answer.status == 429 {
                assert_eq!(answer.one("retry-after"), Some("1"));
                // Who does not guess is let in all the same.
                return assert_eq!(proxy.govern("GET", "/stats").await.status, 200);
            }
            assert_eq!(answer.status, 401);
        }
    })
    .await;
}

#[tokio::test]
async fn it_tells_what_is_there_and_why() {
    let headers = "Cache-Control: s-maxage=600\r\nSurrogate-Key: product\r\n";
    let origin = Origin::new(move |_| ok(headers, "ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    assert_eq!(stats(&proxy).await["entries"], 0);
    for _ in 0..3 {
        proxy.get("/").await;
    }
    let stats = stats(&proxy).await;
    assert_eq!(
        (&stats["hits"], &stats["misses"], &stats["entries"]),
        (&2.into(), &1.into(), &1.into())
    );
    let why = proxy
        .govern("GET", "/explain?url=http://site.example/")
        .await;
    assert!(
        why.text().contains("a hit, fresh for") && why.text().contains("tags product"),
        "{why:?}"
    );
    let why = proxy
        .govern("GET", "/explain?url=http://site.example/other")
        .await;
    assert!(why.text().contains("asks the inner service"), "{why:?}");
}

// Invariant 59.
#[tokio::test]
async fn each_request_leaves_a_line_and_no_token() {
    let origin = Origin::new(|_| stored("ok")).await;
    let mut proxy = Proxy::run(&format!("http://{}", origin.address), &[], Stdio::piped()).await;
    let mut lines = BufReader::new(proxy.process().stderr.take().unwrap()).lines();
    proxy.govern("POST", "/purge/tags?tag=a%0ab").await;
    ask(
        &proxy,
        "POST /purge/all HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-wrong-one\r\n\r\n",
    )
    .await;
    for ends in [
        "POST \"/purge/tags?tag=a%0ab\": 200",
        "POST \"/purge/all\": 401",
    ] {
        let line = in_time(lines.next_line()).await.unwrap().unwrap();
        assert!(
            line.starts_with("administration: 127.0.0.1:") && line.ends_with(ends),
            "{line}"
        );
        assert!(!line.contains(TOKEN) && !line.contains("a-wrong-one"));
    }
}

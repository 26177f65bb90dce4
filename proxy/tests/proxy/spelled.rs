//! The same thing said in another way: what the origin gets is what the cache has looked at.

use crate::tools::{Origin, Proxy, ok, say, stored};

const SEARCHES: [&str; 3] = ["--search-paths", "--refresh-interval", "0"];

async fn counting() -> Origin {
    Origin::new(|asked| {
        ok(
            "Content-Type: application/json\r\n",
            &asked.number.to_string(),
        )
    })
    .await
}

fn chunked(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "GET {path} HTTP/1.1\r\nHost: site.example\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
    )
}

/// Whether a search with this body is not answered from the store after a write to an index that it may read.
async fn is_purged(body: &str, method: &str, path: &str) -> bool {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    proxy.send("POST", "/a/_search", body).await;
    proxy.send(method, path, "{}").await;
    !proxy.send("POST", "/a/_search", body).await.is_hit()
}

// Invariants 7, 13: hyper's client sends no body with a GET unless it is told that there is one.
#[tokio::test]
async fn a_get_keeps_its_body_however_that_came() {
    let long = format!("{{\"size\":1{}}}", " ".repeat(300 << 10));
    for (options, path, body) in [
        (&[][..], "/page", "hello"),
        (&SEARCHES, "/a/_mget", r#"{"ids":["1"]}"#),
        (&SEARCHES, "/a/_search", r#"{"size":1}"#),
        (&SEARCHES, "/a/_search", &long),
        (&SEARCHES, "/a/_search?scroll=1m", r#"{"size":1}"#),
    ] {
        let origin = counting().await;
        let proxy = Proxy::before(&origin, options).await;
        proxy.say(&chunked(path, body)).await;
        assert_eq!(origin.last().body, body, "{path}");
    }
}

// Invariants 7, 10.
#[tokio::test]
async fn what_was_asked_in_chunks_is_the_same_question() {
    let origin = Origin::new(|asked| {
        let answer = format!("answer to <{}>", asked.body);
        ok("Content-Type: application/json\r\n", &answer)
    })
    .await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    let body = r#"{"query":{"term":{"tenant":1}}}"#;
    proxy.say(&chunked("/a/_search", body)).await;
    let answer = proxy.send("GET", "/a/_search", body).await;
    assert_eq!(answer.text(), format!("answer to <{body}>"));
}

// Invariants 10, 36.
#[tokio::test]
async fn a_search_that_may_read_another_index_is_purged_with_it_however_it_is_spelled() {
    let zeros: String = r#"{"query":{"terms":{"user":{"index":"b","id":"1"}}}}"#
        .chars()
        .flat_map(|c| ['\0', c])
        .collect();
    for body in [
        r#"{"query":{"terms":{"user":{"\u0069ndex":"b","id":"1","path":"x"}}}}"#,
        r#"{"runtime_mappings":{"x":{"type":"lookup","target_index":"b"}}}"#,
        r#"{"\u0070it":{"id":"x"}}"#,
        &zeros,
    ] {
        assert!(is_purged(body, "PUT", "/b/_doc/1").await, "{body}");
    }
}

// Invariant 36.
#[tokio::test]
async fn what_changes_what_is_found_purges_however_it_is_spelled() {
    for (method, path) in [
        ("POST", "/a/_refresh"),
        ("GET", "/a/_refresh"),
        ("GET", "/_flush"),
        ("PUT", "/b/_alias/a"),
        ("PUT", "/b/%5Falias/a"),
        ("DELETE", "/a/_query"),
    ] {
        assert!(is_purged("{}", method, path).await, "{method} {path}");
    }
    for (method, path) in [
        ("DELETE", "/_search/scroll"),
        ("POST", "/a/_count"),
        ("PUT", "/b/_doc/1"),
    ] {
        assert!(!is_purged("{}", method, path).await, "{method} {path}");
    }
}

// Invariant 14: applications that get headers as variables cannot tell `_` from `-`.
#[tokio::test]
async fn a_name_with_an_underscore_goes_no_further() {
    for name in ["X_Forwarded_Host", "X-Forwarded_Host", "X_Original_URL"] {
        let origin = Origin::new(|asked| {
            let told = asked.fields.iter().any(|(name, _)| name.contains('_'));
            stored(&format!("underscores: {told}"))
        })
        .await;
        let proxy = Proxy::before(&origin, &[]).await;
        let answer = proxy.get_with("/p", &format!("{name}: evil\r\n")).await;
        assert_eq!(answer.text(), "underscores: false", "{name}");
    }
}

#[tokio::test]
async fn an_answer_whose_end_nobody_knows_is_a_bad_gateway_for_a_head_too() {
    for framing in [
        "Content-Length: 3\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
    ] {
        let origin = Origin::new(move |_| say(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"))).await;
        let proxy = Proxy::before(&origin, &[]).await;
        let request = "HEAD /p HTTP/1.1\r\nHost: site.example\r\n\r\n";
        assert_eq!(proxy.say(request).await.status, 502, "{framing}");
    }
}

//! Searches by POST: cached by their body, purged by writes to their index, and by nothing else.

use serde_json::Value;

use crate::tools::{Answer, Gate, Origin, Proxy, Step, ok, say, until};

/// What is written is seen at once.
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

async fn search(proxy: &Proxy, path: &str) -> Answer {
    proxy
        .send("POST", path, r#"{"query":{"match_all":{}}}"#)
        .await
}

#[tokio::test]
async fn members_in_any_order_are_one_search() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    let first = proxy
        .send(
            "POST",
            "/a/_search",
            r#"{"query":{"match":{"x":"y"}},"size":10}"#,
        )
        .await;
    assert_eq!((first.text(), first.is_hit()), ("1", false));
    assert_eq!(
        origin.last().body,
        r#"{"query":{"match":{"x":"y"}},"size":10}"#
    );
    let second = proxy
        .send(
            "POST",
            "/a/_search",
            r#"{ "size": 10, "query": {"match": {"x": "y"}} }"#,
        )
        .await;
    assert_eq!((second.text(), second.is_hit()), ("1", true));
    for (path, body) in [
        ("/a/_search", r#"{"query":{"match":{"x":"y"}},"size":11}"#),
        ("/b/_search", r#"{"query":{"match":{"x":"y"}},"size":10}"#),
        (
            "/a/_search?routing=1",
            r#"{"query":{"match":{"x":"y"}},"size":10}"#,
        ),
        ("/a/_count", r#"{"query":{"match":{"x":"y"}},"size":10}"#),
    ] {
        assert!(
            !proxy.send("POST", path, body).await.is_hit(),
            "{path} {body}"
        );
        assert!(
            proxy.send("POST", path, body).await.is_hit(),
            "{path} {body}"
        );
    }
    assert_eq!(origin.calls(), 5);
}

#[tokio::test]
async fn searches_by_get_are_cached_too_with_and_without_a_body() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    for (path, body) in [
        ("/a/_search?q=x", ""),
        ("/_count", ""),
        ("/a/_search", r#"{"size":1}"#),
        ("/a/_search", r#"{"size":2}"#),
    ] {
        assert!(
            !proxy.send("GET", path, body).await.is_hit(),
            "{path} {body}"
        );
        assert!(
            proxy.send("GET", path, body).await.is_hit(),
            "{path} {body}"
        );
    }
    assert_eq!(origin.calls(), 4);
}

#[tokio::test]
async fn many_searches_in_one_are_keyed_byte_for_byte() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    let lines = "{\"index\":\"a\"}\n{\"size\":1,\"from\":2}\n";
    let other = "{\"index\":\"a\"}\n{\"from\":2,\"size\":1}\n";
    for (body, is_hit) in [(lines, false), (lines, true), (other, false), (other, true)] {
        assert_eq!(proxy.send("POST", "/_msearch", body).await.is_hit(), is_hit);
    }
    assert_eq!(origin.last().body, other);
    // They may be of any index.
    proxy.send("PUT", "/z/_doc/1", "{}").await;
    assert!(!proxy.send("POST", "/_msearch", lines).await.is_hit());
}

#[tokio::test]
async fn a_write_purges_the_searches_of_its_index_alone() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    let of_a = [
        "/a/_search",
        "/a,b/_search",
        "/a/_count",
        "/b,a/doc/_search",
    ];
    let of_any = [
        "/_search",
        "/_all/_search",
        "/*/_search",
        "/a*/_search",
        "/b,-a/_search",
        "/%61/_search",
        "/<a-{now/d}>/_search",
    ];
    let of_others = ["/b/_search", "/b,c/_search", "/aa/_search", "/c/_count"];
    let all = [&of_a[..], &of_any, &of_others].concat();
    let all: Vec<_> = all.into_iter().filter(|path| !path.contains('<')).collect();
    for (method, path) in [
        ("PUT", "/a/_doc/1"),
        ("POST", "/a/_doc"),
        ("DELETE", "/a/_doc/1"),
        ("PUT", "/a/_create/1"),
        ("POST", "/a/_update/1"),
        ("POST", "/a/_bulk"),
        ("POST", "/a/_update_by_query?conflicts=proceed"),
        ("POST", "/a/_delete_by_query"),
        ("POST", "/a/_refresh"),
        ("PUT", "/a/doc/1"),
    ] {
        for search_path in &all {
            search(&proxy, search_path).await;
            assert!(search(&proxy, search_path).await.is_hit(), "{search_path}");
        }
        proxy.send(method, path, "{}").await;
        assert_eq!(origin.last().line, format!("{method} {path} HTTP/1.1"));
        for search_path in &all {
            let concerns_it = !of_others.contains(search_path);
            assert_eq!(
                !search(&proxy, search_path).await.is_hit(),
                concerns_it,
                "{method} {path}: {search_path}"
            );
        }
    }
}

#[tokio::test]
async fn a_write_of_which_nobody_knows_where_it_goes_purges_every_search() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    for (method, path) in [
        ("POST", "/_bulk"),
        ("POST", "/_reindex"),
        ("POST", "/_aliases"),
        ("PUT", "/a/_alias/z"),
        ("DELETE", "/a"),
        ("DELETE", "/a*"),
        ("POST", "/a*/_update_by_query"),
        ("PUT", "/%61/_doc/1"),
        ("POST", "/a/_rollover"),
        ("PATCH", "/"),
    ] {
        search(&proxy, "/z/_search").await;
        assert!(search(&proxy, "/z/_search").await.is_hit());
        proxy.send(method, path, "{}").await;
        assert!(
            !search(&proxy, "/z/_search").await.is_hit(),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn what_only_asks_purges_nothing_and_what_is_no_search_is_not_stored() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    search(&proxy, "/a/_search").await;
    for (method, path) in [
        ("GET", "/a/_doc/1"),
        ("GET", "/_cluster/health"),
        ("HEAD", "/a"),
        ("POST", "/_mget"),
        ("POST", "/a/_mget"),
        ("POST", "/_search/scroll"),
        ("DELETE", "/_search/scroll"),
        ("POST", "/a/_pit?keep_alive=1m"),
        ("POST", "/a/_search/template"),
        ("POST", "/a/_field_caps"),
        ("POST", "/_validate/query"),
    ] {
        let calls = origin.calls();
        for _ in 0..2 {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: site.example\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            assert!(!proxy.say(&request).await.is_hit(), "{method} {path}");
        }
        assert_eq!(origin.calls(), calls + 2, "{method} {path}");
    }
    assert!(search(&proxy, "/a/_search").await.is_hit());
}

#[tokio::test]
async fn a_search_that_does_more_than_ask_passes_by() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    let lookup = r#"{"query":{"terms":{"user":{"index":"users","id":"2","path":"followers"}}}}"#;
    for (path, body) in [
        ("/a/_search?scroll=1m", "{}"),
        ("/_search", r#"{"pit":{"id":"46To","keep_alive":"1m"}}"#),
        ("/a/_search", lookup),
        (
            "/a/_search?source=%7B%7D&source_content_type=application/json",
            "",
        ),
    ] {
        for _ in 0..2 {
            assert!(
                !proxy.send("POST", path, body).await.is_hit(),
                "{path} {body}"
            );
        }
    }
    for kind in [
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
        "Content-Type: application/cbor\r\n",
        "",
    ] {
        for _ in 0..2 {
            let head = format!("POST /a/_search HTTP/1.1\r\nHost: site.example\r\n{kind}");
            let answer = proxy
                .say(&format!("{head}Content-Length: 2\r\n\r\n{{}}"))
                .await;
            assert!(!answer.is_hit(), "{kind}");
        }
    }
    assert_eq!(origin.calls(), 14);
}

#[tokio::test]
async fn who_asks_and_in_which_format_is_kept_apart() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    let ask = async |fields: &str| {
        let head = format!(
            "POST /a/_search HTTP/1.1\r\nHost: site.example\r\nContent-Type: application/json\r\n{fields}"
        );
        proxy
            .say(&format!("{head}Content-Length: 2\r\n\r\n{{}}"))
            .await
            .is_hit()
    };
    for (fields, is_hit) in [
        ("", false),
        ("Accept: application/yaml\r\n", false),
        ("Accept: application/yaml\r\n", true),
        ("Authorization: Basic bWU6bWU=\r\n", false),
        ("Authorization: Basic bWU6bWU=\r\n", false),
        ("", true),
    ] {
        assert_eq!(ask(fields).await, is_hit, "{fields}");
    }
}

#[tokio::test]
async fn ids_of_a_request_are_not_in_the_key_and_an_answer_repeats_the_askers_own() {
    let origin = Origin::new(|asked| {
        let id = asked
            .one("x-opaque-id")
            .map(|id| format!("X-Opaque-Id: {id}\r\n"));
        ok(&id.unwrap_or_default(), "{}")
    })
    .await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    for (lines, id) in [
        (
            "X-Opaque-Id: first\r\ntraceparent: 00-1-1-01\r\n",
            Some("first"),
        ),
        (
            "X-Opaque-Id: second\r\ntraceparent: 00-2-2-01\r\ntracestate: a=1\r\n",
            Some("second"),
        ),
        ("b3: 1-2\r\nX-B3-TraceId: 3\r\nX-Request-Id: 4\r\n", None),
        (
            "elastic-apm-traceparent: 5\r\nX-Cloud-Trace-Context: 6\r\n",
            None,
        ),
    ] {
        let answer = proxy.get_with("/a/_search", lines).await;
        assert_eq!(answer.one("x-opaque-id"), id, "{lines}");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn an_incomplete_search_is_not_stored() {
    let complete = r#"{"timed_out":false,"_shards":{"total":2,"successful":2,"skipped":1,"failed":0},
        "_clusters":{"total":1,"successful":1,"skipped":0,"partial":0,"failed":0,"running":0}}"#;
    for (answer, is_stored) in [
        (complete.to_owned(), true),
        (
            complete.replace("\"timed_out\":false", "\"timed_out\":true"),
            false,
        ),
        (
            complete.replace("\"failed\":0},\n", "\"failed\":1},\n"),
            false,
        ),
        (
            complete.replace("\"successful\":2", "\"successful\":1"),
            false,
        ),
        (complete.replace("\"skipped\":0", "\"skipped\":1"), false),
        (complete.replace("\"partial\":0", "\"partial\":1"), false),
        (complete.replace("\"running\":0", "\"running\":1"), false),
        (format!("{{\"responses\":[{complete}]}}"), true),
        (r#"{"responses":[{},{"timed_out":true}]}"#.to_owned(), false),
    ] {
        let body = answer.clone();
        let origin = Origin::new(move |_| ok("", &body)).await;
        let proxy = Proxy::before(&origin, &SEARCHES).await;
        search(&proxy, "/a/_search").await;
        assert_eq!(
            search(&proxy, "/a/_search").await.is_hit(),
            is_stored,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_search_whose_filter_hides_failures_bypasses_the_cache() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    for (filter, is_hit) in [
        ("hits.hits", false),
        ("-timed_out", false),
        ("hits,timed_out,_shards", false),
        ("hits.hits,timed_out,_shards,_clusters", true),
    ] {
        let path = format!("/a/_search?filter_path={filter}");
        search(&proxy, &path).await;
        assert_eq!(search(&proxy, &path).await.is_hit(), is_hit, "{filter}");
    }
}

#[tokio::test]
async fn what_was_asked_during_a_write_is_purged_at_its_end_though_its_client_has_left() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin = Origin::new(move |asked| {
        let answer = ok("", &asked.number.to_string());
        if asked.line.starts_with("PUT") {
            [vec![Step::Wait(behind.clone())], answer].concat()
        } else {
            answer
        }
    })
    .await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    search(&proxy, "/a/_search").await;
    // The writer leaves before it is told that all is well.
    let mut wire = proxy.connect().await;
    wire.send("PUT /a/_doc/1 HTTP/1.1\r\nHost: site.example\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    until(|| origin.last().line.starts_with("PUT")).await;
    drop(wire);
    assert!(
        search(&proxy, "/a/_search").await.is_hit(),
        "it is not done yet"
    );
    search(&proxy, "/a/_count").await;
    gate.open();
    let purges = async || {
        let stats = proxy.govern("GET", "/stats").await;
        serde_json::from_slice::<Value>(&stats.body).unwrap()["purges"].clone()
    };
    while purges().await == 0 {}
    assert!(!search(&proxy, "/a/_search").await.is_hit());
    assert!(search(&proxy, "/a/_search").await.is_hit());
}

#[tokio::test]
async fn what_a_search_says_before_it_can_see_a_write_is_not_stored() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &["--search-paths", "--refresh-interval", "600"]).await;
    proxy.send("PUT", "/a/_doc/1", "{}").await;
    for _ in 0..2 {
        assert!(!search(&proxy, "/a/_search").await.is_hit());
    }
    search(&proxy, "/b/_search").await;
    assert!(search(&proxy, "/b/_search").await.is_hit());
}

#[tokio::test]
async fn an_operator_purges_an_index_or_what_was_asked_at_a_url() {
    let origin = counting().await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    for path in [
        "/purge/tags?tag=index:a",
        "/purge/tags?tag=searches",
        "/purge/url?url=http://site.example/a/_search",
        "/purge/all",
    ] {
        search(&proxy, "/a/_search").await;
        assert!(search(&proxy, "/a/_search").await.is_hit());
        proxy.govern("POST", path).await;
        assert!(!search(&proxy, "/a/_search").await.is_hit(), "{path}");
    }
}

#[tokio::test]
async fn a_search_that_fails_is_not_stored() {
    let origin = Origin::new(|asked| {
        let status = if asked.number == 1 {
            "429 Too Many Requests"
        } else {
            "200 OK"
        };
        crate::tools::say(format!(
            "HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{}",
            asked.number
        ))
    })
    .await;
    let proxy = Proxy::before(&origin, &SEARCHES).await;
    assert_eq!(search(&proxy, "/a/_search").await.status, 429);
    assert_eq!(search(&proxy, "/a/_search").await.text(), "2");
    assert!(search(&proxy, "/a/_search").await.is_hit());
}

async fn refusing() -> Origin {
    Origin::new(|asked| {
        if asked.line.starts_with("PUT") {
            return say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        }
        ok(
            "Content-Type: application/json\r\n",
            &asked.number.to_string(),
        )
    })
    .await
}

// Invariants 35, 59.
#[tokio::test]
async fn a_write_that_is_refused_purges_nothing() {
    let origin = refusing().await;
    let proxy = Proxy::before(&origin, &["--search-paths", "--refresh-interval", "0"]).await;
    let search = async || proxy.send("POST", "/a/_search", "{}").await;
    search().await;
    assert!(search().await.is_hit());
    proxy.send("PUT", "/nobodys", "{}").await;
    assert!(search().await.is_hit());
}

// Invariant 58.
#[tokio::test]
async fn a_client_that_writes_slowly_does_not_stop_the_cache() {
    let origin = refusing().await;
    let proxy = Proxy::before(&origin, &["--search-paths", "--refresh-interval", "0"]).await;
    let mut slow = proxy.connect().await;
    slow.send("PUT /nobodys HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        .await;
    let search = async || proxy.send("POST", "/a/_search", "{}").await;
    search().await;
    assert!(search().await.is_hit());
}

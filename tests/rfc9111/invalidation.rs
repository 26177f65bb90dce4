//! Section 10: what a request that changes something ends (RFC 9111 §4.4).

use std::time::Duration;

use http::{Method, Response};
use tower::Layer;
use tower_response_cache::{CacheLayerBuilder, Key};

use crate::{
    common::{self, Body, Gate, settle},
    harness::{Ask, Mode, Row, ask, book, fresh, get, play, policy, reply, row},
};

/// Something is stored for the target, for others of the same path and for another host.
fn stored(name: impl Into<String>) -> Row {
    row(name)
        .ask(get().origin(fresh("1").etag("\"1\"")))
        .ask(ask("GET", "/?a=1").origin(fresh("query")))
        .ask(ask("GET", "/b").origin(fresh("b")))
        .ask(get().at("other.example").origin(fresh("other")))
}

fn others_stay(row: Row) -> Row {
    row.ask(ask("GET", "/?a=1").hit("query"))
        .ask(ask("GET", "/b").hit("b"))
        .ask(get().at("other.example").hit("other"))
}

fn is_gone(row: Row) -> Row {
    row.ask(get().origin(fresh("2")).unsaid("hit"))
}

fn put() -> Ask {
    ask("PUT", "/")
}

// Invariants 36, 40.
#[tokio::test(start_paused = true)]
async fn rule_10_1_what_succeeds_ends_what_is_stored() {
    play(|| {
        let mut rows = Vec::new();
        for method in ["POST", "PUT", "DELETE", "PATCH", "FOO"] {
            for status in [200, 201, 202, 204, 299, 301, 302, 303, 307, 308] {
                let name = format!("10.1 §4.4 {method}, {status}");
                let changed = ask(method, "/").origin(reply("").status(status));
                rows.push(others_stay(is_gone(stored(name).ask(changed))));
            }
        }
        let variants = row("10.1 §4.4 all variants")
            .ask(get().has("foo", "1").origin(fresh("1").has("vary", "foo")))
            .ask(get().has("foo", "2").origin(fresh("2").has("vary", "foo")))
            .ask(put().origin(reply("")));
        rows.push(
            variants
                .ask(get().has("foo", "1").origin(fresh("3").has("vary", "foo")))
                .ask(get().has("foo", "2").origin(fresh("4").has("vary", "foo"))),
        );
        rows.push(is_gone(
            stored("10.1 §4.4 what it answers is not stored").ask(put().origin(fresh("put"))),
        ));
        rows.push(
            stored("10.1 §4.4 a HEAD afterwards")
                .ask(put().origin(reply("")))
                .ask(ask("HEAD", "/").origin(reply(""))),
        );
        rows.push(
            row("10.1 by choice, nothing ends")
                .with(|layer| layer.invalidation(false))
                .ask(get().origin(fresh("1")))
                .ask(put().origin(reply("")))
                .ask(get().hit("1")),
        );
        rows
    })
    .await;
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn rule_10_1_whatever_the_key_is_made_of() {
    play(|| {
        let language = |language| get().has("accept-language", language);
        let by_language =
            |layer: CacheLayerBuilder| layer.key(Key::new().header(http::header::ACCEPT_LANGUAGE));
        vec![
            row("10.1 §4.4 of a key with a header, all")
                .with(by_language)
                .ask(language("de").origin(fresh("de")))
                .ask(language("en").origin(fresh("en")))
                .ask(put().origin(reply("")))
                .ask(language("de").origin(fresh("2")))
                .ask(language("en").origin(fresh("2"))),
            row("10.1 §4.4 of a key with a header, by one that has another")
                .with(by_language)
                .ask(language("de").origin(fresh("de")))
                .ask(put().has("accept-language", "fr").origin(reply("")))
                .ask(language("de").origin(fresh("2"))),
            row("10.1 §4.4 of a key with some parameters, the target with others")
                .with(|layer| layer.key(Key::new().query(["page"])))
                .ask(ask("GET", "/?page=1&x=1").origin(fresh("1")))
                .ask(ask("PUT", "/?page=1&x=1").origin(reply("")))
                .ask(ask("GET", "/?page=1&x=1").origin(fresh("2"))),
            row("10.1 §4.4 of a key without the host")
                .with(|layer| layer.key(Key::new().ignore_authority()))
                .ask(get().origin(fresh("1")))
                .ask(put().origin(reply("")))
                .ask(get().origin(fresh("2"))),
            row("10.1 §4.4 by one with credentials")
                .ask(get().origin(fresh("1")))
                .ask(
                    put()
                        .has("authorization", "Basic YTph")
                        .has("cookie", "a=1")
                        .origin(reply("")),
                )
                .ask(get().origin(fresh("2"))),
            row("10.1 §4.4 by one with a body and an upgrade")
                .ask(get().origin(fresh("1")))
                .ask(
                    put()
                        .has("upgrade", "h2c")
                        .has("connection", "upgrade")
                        .body("1")
                        .origin(reply("")),
                )
                .ask(get().origin(fresh("2"))),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_10_2_what_fails_ends_nothing() {
    play(|| {
        [
            400, 401, 403, 404, 405, 409, 412, 422, 429, 499, 500, 501, 502, 503, 504,
        ]
        .into_iter()
        .map(|status| {
            stored(format!("10.2 §4.4 {status}"))
                .ask(put().origin(reply("no").status(status)))
                .ask(get().hit("1"))
        })
        .collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_10_3_what_the_answer_names() {
    play(|| {
        let mut rows = Vec::new();
        for field in ["location", "content-location"] {
            let named = |name: &str, uri: &str| {
                stored(format!("10.3 §4.4 {field}: {name}"))
                    .ask(put().origin(reply("").status(201).has(field, uri)))
            };
            for (name, uri) in [
                ("a path", "/b"),
                ("a relative path", "b"),
                ("a path with dots", "./x/../b"),
                ("a URI of the same origin", "http://shop.example/b"),
                (
                    "a URI of the same host in another case",
                    "http://SHOP.example/b",
                ),
                ("a URI without its scheme", "//shop.example/b"),
                ("a fragment", "/b#part"),
            ] {
                rows.push(named(name, uri).ask(ask("GET", "/b").origin(fresh("new"))));
            }
            for (name, uri) in [
                ("of another host", "http://other.example/"),
                ("of another port", "http://shop.example:8080/b"),
                ("of another host, without a scheme", "//other.example/"),
                ("that is none", "http://["),
                ("that is empty", ""),
            ] {
                rows.push(others_stay(is_gone(named(name, uri))));
            }
        }
        rows.push(
            stored("10.3 §4.4 not of what fails")
                .ask(put().origin(reply("").status(500).has("location", "/b")))
                .ask(ask("GET", "/b").hit("b")),
        );
        rows.push(
            stored("10.3 §4.4 not of what is safe")
                .ask(ask("GET", "/c").origin(fresh("c").has("content-location", "/b")))
                .ask(ask("GET", "/b").hit("b")),
        );
        rows
    })
    .await;
}

// Invariant 40.
#[tokio::test(start_paused = true)]
async fn rule_10_4_what_was_ended_is_not_served_stale() {
    play(|| {
        let graced = |name: &str| {
            row(format!("10.4 §4.4 {name}"))
                .with(|layer| {
                    let hour = Duration::from_secs(3600);
                    layer.stale_while_revalidate(hour).stale_if_error(hour)
                })
                .ask(get().origin(fresh("1").etag("\"1\"")))
        };
        vec![
            graced("when it was fresh")
                .ask(put().origin(reply("")))
                .ask(get().origin(reply("failed").status(500)).unsaid("hit")),
            graced("when it was stale")
                .after(70)
                .ask(put().origin(reply("")))
                .ask(get().origin(reply("failed").status(500)).unsaid("hit")),
            graced("nor because the request would have it")
                .ask(put().origin(reply("")))
                .ask(
                    get()
                        .cc("max-stale, stale-if-error=60")
                        .origin(reply("failed").status(500)),
                ),
            graced("nor to one that takes what is cached only")
                .ask(put().origin(reply("")))
                .ask(get().cc("only-if-cached").status(504)),
        ]
    })
    .await;
}

/// GET waits at the gate and answers what it read before; all else is answered at once.
fn slow_to_read(gate: &Gate) -> common::Origin {
    let gate = gate.clone();
    common::Origin::later(move |request| {
        let gate = gate.clone();
        async move {
            let response: Response<Body> = common::ok("read before");
            if *request.method() == Method::GET {
                gate.pass().await;
            }
            common::with(response, "cache-control", "max-age=60")
        }
    })
}

// Invariants 36, 37, 38.
#[tokio::test(start_paused = true)]
async fn rule_10_5_what_was_on_its_way_is_not_stored() {
    for mode in [Mode::Book, Mode::Policy] {
        let gate = Gate::new();
        let origin = slow_to_read(&gate);
        let cache = mode.builder().build().layer(origin.clone());
        let slow = tokio::spawn({
            let cache = cache.clone();
            async move { common::send(&cache, common::get("/")).await }
        });
        gate.arrival().await;
        let put = common::send(&cache, common::request("PUT", "/")).await;
        assert_eq!(put.parts.status, 200, "10.5 {mode:?}");
        let after = tokio::spawn({
            let cache = cache.clone();
            async move { common::send(&cache, common::get("/")).await }
        });
        // Who asks after the change waits for no answer from before it.
        gate.arrival().await;
        gate.open();
        assert_eq!(slow.await.unwrap().text(), "read before");
        assert!(
            !after.await.unwrap().cache().is_collapsed(),
            "10.5 {mode:?}"
        );
        settle().await;
        assert_eq!(origin.calls(), 3, "10.5 {mode:?}");
    }
}

// Invariants 36, 38.
#[tokio::test(start_paused = true)]
async fn rule_10_5_what_was_on_its_way_does_not_come_back() {
    for mode in [Mode::Book, Mode::Policy] {
        let gate = Gate::new();
        let origin = slow_to_read(&gate);
        let cache = mode.builder().build().layer(origin.clone());
        let slow = tokio::spawn({
            let cache = cache.clone();
            async move { common::send(&cache, common::get("/")).await }
        });
        gate.arrival().await;
        common::send(&cache, common::request("PUT", "/")).await;
        gate.open();
        slow.await.unwrap();
        settle().await;
        let next = common::send(&cache, common::get("/")).await;
        assert!(!next.is_hit(), "10.5 {mode:?}: {next:?}");
        assert_eq!(origin.calls(), 3, "10.5 {mode:?}");
    }
}

// Invariant 38.
#[tokio::test(start_paused = true)]
async fn rule_10_5_nor_does_a_refresh_that_was_on_its_way() {
    play(|| {
        let swr = "max-age=60, stale-while-revalidate=600";
        let refreshed = |row: Row| {
            row.ask(get().origin(reply("1").cc(swr)))
                .after(70)
                .ask(get().hit("1").behind(fresh("read before").takes(5)))
                .ask(put().origin(reply("")))
                .after(5)
                .ask(get().origin(fresh("2")).unsaid("hit"))
        };
        vec![
            refreshed(book("10.5 §4.4 a refresh in the background")),
            refreshed(
                policy("10.5 §4.4 a refresh in the background")
                    .with(|layer| layer.stale_while_revalidate(Duration::from_secs(600))),
            ),
        ]
    })
    .await;
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn rule_10_6_a_writer_reads_what_it_wrote() {
    play(|| {
        let mut row = row("10.6 again and again");
        for number in 1..=20 {
            let number = number.to_string();
            row = row
                .ask(put().origin(reply("")))
                .ask(get().origin(fresh(&number)))
                .ask(get().hit(&number));
        }
        vec![row]
    })
    .await;
}

//! Section 17: immutable (RFC 8246), No-Vary-Search, and QUERY (RFC 10008).

use http::{Method, Request};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_response_cache::Key;

use crate::{
    common::{Body, boxed},
    harness::{
        Ask, Edge, Mode, Origin, Row, ask, book, edge, fresh, get, not_modified, play, policy,
        reply, row,
    },
};

#[tokio::test(start_paused = true)]
async fn rule_17_1_immutable() {
    play(|| {
        let stored = |name: &str| {
            book(format!("17.1 RFC 8246 §2 {name}"))
                .ask(get().origin(reply("1").cc("max-age=60, immutable").etag("\"1\"")))
                .after(10)
        };
        vec![
            stored("a reload is answered from the store").ask(get().cc("max-age=0").hit("1")),
            stored("no-cache goes to the origin all the same").ask(
                get()
                    .cc("no-cache")
                    .behind(not_modified())
                    .conditional("\"1\"")
                    .status(200)
                    .text("1"),
            ),
            stored("once stale, it is validated").after(60).ask(
                get()
                    .behind(not_modified())
                    .conditional("\"1\"")
                    .status(200)
                    .text("1"),
            ),
            stored("once stale, a reload too").after(60).ask(
                get()
                    .cc("max-age=0")
                    .behind(not_modified())
                    .conditional("\"1\"")
                    .status(200)
                    .text("1"),
            ),
            book("17.1 RFC 8246 §2 it is no lifetime").refuses(&reply("1").cc("immutable")),
            row("17.1 RFC 8246 §2 it goes on to the client")
                .ask(get().origin(reply("1").cc("max-age=60, immutable")))
                .ask(
                    get()
                        .hit("1")
                        .shows("cache-control", "max-age=60, immutable"),
                ),
        ]
    })
    .await;
}

/// A row of each mode; the layer that decides heeds the field by choice.
fn heeded(name: &str, rest: impl Fn(Row) -> Row) -> [Row; 2] {
    let chosen = policy(name).with(|layer| layer.no_vary_search(true));
    [rest(book(name)), rest(chosen)]
}

fn searched(query: &str) -> Ask {
    ask("GET", &format!("/search{query}"))
}

/// Whether what is stored for one query answers another.
fn case(told: &'static str, one: &'static str, other: &'static str, same: bool) -> [Row; 2] {
    heeded(
        &format!("17.2 No-Vary-Search: {told}: {one} and {other}"),
        move |row| {
            let row = row.ask(searched(one).origin(fresh("1").has("no-vary-search", told)));
            if same {
                row.ask(searched(other).hit("1"))
            } else {
                row.ask(searched(other).origin(fresh("2").has("no-vary-search", told)))
                    .ask(searched(one).hit("1"))
            }
        },
    )
}

// Invariants 8, 10.
#[tokio::test(start_paused = true)]
async fn rule_17_2_what_of_the_query_does_not_matter() {
    play(|| {
        [
            case("params=(\"u\")", "?q=1&u=1", "?q=1&u=2", true),
            case("params=(\"u\")", "?q=1&u=1", "?q=1", true),
            case("params=(\"u\")", "?q=1&u=1", "?u=7&q=1&u=8", true),
            case("params=(\"u\")", "?q=1&u=1", "?q=2&u=1", false),
            case("params=(\"u\" \"v\")", "?q=1&u=1", "?q=1&v=1", true),
            case("params=(\"u\")", "?u=1", "", true),
            case("params=(\"u\")", "?U=1", "?U=2", false),
            case("params=(\"a b\")", "?a+b=1", "?a%20b=2", true),
            case("params=(\"\")", "?=1", "?=2", true),
            case("except=(\"q\")", "?q=1&u=1", "?v=2&q=1", true),
            case("except=(\"q\")", "?q=1", "?q=2", false),
            case("except=()", "?q=1", "?r=2", true),
            case("except=()", "?q=1", "", true),
            case("key-order", "?a=1&b=2", "?b=2&a=1", true),
            case("key-order", "?a=1&a=2", "?a=2&a=1", false),
            case("key-order", "?a=1&b=1&a=2", "?b=1&a=1&a=2", true),
            case("key-order", "?a=1&b=2", "?b=1&a=2", false),
            case(
                "key-order, params=(\"u\")",
                "?a=1&b=2&u=1",
                "?u=2&b=2&a=1",
                true,
            ),
            case("params=(\"u\")", "?a=1&b=2", "?b=2&a=1", false),
        ]
        .into_iter()
        .flatten()
        .collect()
    })
    .await;
}

// Invariants 8, 10.
#[tokio::test(start_paused = true)]
async fn rule_17_2_queries_are_compared_as_forms() {
    play(|| {
        [
            case("key-order", "?a=x", "?%61=%78", true),
            case("key-order", "?a=", "?a", true),
            case("key-order", "?a=b+c", "?a=b%20c", true),
            case("key-order", "?a=1&&b=2&", "?a=1&b=2", true),
            case("key-order", "", "?", true),
            case("key-order", "?a=%C3%A9", "?a=\u{e9}", true),
            case("key-order", "?a=1", "?a=1&a=1", false),
            case("key-order", "?a=x", "?a=X", false),
            case("foo", "?a=x", "?%61=%78", false),
        ]
        .into_iter()
        .flatten()
        .collect()
    })
    .await;
}

// Invariants 8, 10.
#[tokio::test(start_paused = true)]
async fn rule_17_2_what_cannot_be_read_says_nothing() {
    play(|| {
        let told = [
            "params",
            "params=?1",
            "params=?0",
            "params=\"u\"",
            "params=(u)",
            "params=(1)",
            "params=u",
            "params=(\"u\" 1)",
            "params, except=(\"q\")",
            "params=(\"u\"), except=(\"q\")",
            "params=(\"u\"), except=()",
            "params=(\"u\"), key-order=1",
            "params=(\"u\"), &",
            "PARAMS=(\"u\")",
            "params=()",
            "",
            "foo=(\"u\")",
        ];
        told.into_iter()
            .flat_map(|told| case(told, "?q=1&u=1", "?q=1&u=2", false))
            .collect()
    })
    .await;
}

// Invariants 4, 8.
#[tokio::test(start_paused = true)]
async fn rule_17_2_where_it_counts() {
    play(|| {
        let says = |body: &str| fresh(body).has("no-vary-search", "params=(\"u\")");
        let mut rows = Vec::new();
        rows.extend(case("params=(\"u\"), foo=1", "?q=1&u=1", "?q=1&u=2", true));
        rows.extend(heeded("17.2 not for another path", |row| {
            row.ask(searched("?u=1").origin(says("1")))
                .ask(ask("GET", "/other?u=2").origin(fresh("2")))
                .ask(ask("GET", "/other?u=3").origin(fresh("3")))
        }));
        rows.extend(heeded("17.2 not for another host", |row| {
            row.ask(searched("?u=1").origin(says("1")))
                .ask(searched("?u=2").at("other.example").origin(fresh("2")))
                .ask(searched("?u=3").at("other.example").origin(fresh("3")))
        }));
        rows.extend(heeded("17.2 Vary holds all the same", |row| {
            row.ask(
                searched("?u=1")
                    .has("foo", "1")
                    .origin(says("1").has("vary", "foo")),
            )
            .ask(
                searched("?u=2")
                    .has("foo", "2")
                    .origin(says("2").has("vary", "foo")),
            )
            .ask(searched("?u=3").has("foo", "1").hit("1"))
        }));
        rows.extend(heeded("17.2 a lifetime ends all the same", |row| {
            row.ask(searched("?u=1").origin(says("1")))
                .after(60)
                .ask(searched("?u=2").origin(says("2")))
                .ask(searched("?u=1").hit("2"))
        }));
        rows.extend(heeded(
            "17.2 what is stored for just this query comes first",
            |row| {
                row.ask(searched("?u=1").origin(fresh("1")))
                    .ask(searched("?u=2").origin(says("2")))
                    .ask(searched("?u=1").hit("1"))
            },
        ));
        rows
    })
    .await;
}

// Invariants 8, 36.
#[tokio::test(start_paused = true)]
async fn rule_17_2_beside_other_rules() {
    play(|| {
        let says = |body: &str| fresh(body).has("no-vary-search", "params=(\"u\")");
        let mut rows = Vec::new();
        rows.extend(heeded(
            "17.2 what changes it ends what answers for it",
            |row| {
                row.ask(searched("?u=1").origin(says("1")))
                    .ask(ask("PUT", "/search?u=2").origin(reply("")))
                    .ask(searched("?u=2").origin(says("2")))
            },
        ));
        rows.extend(heeded("17.2 a HEAD", |row| {
            row.ask(searched("?u=1").origin(says("1")))
                .ask(ask("HEAD", "/search?u=2").hit(""))
        }));
        rows.push(
            policy("17.2 as it comes, the layer does not heed it")
                .ask(searched("?u=1").origin(says("1")))
                .ask(searched("?u=2").origin(says("2"))),
        );
        rows.push(
            book("17.2 by choice, it is not heeded")
                .with(|layer| layer.no_vary_search(false))
                .ask(searched("?u=1").origin(says("1")))
                .ask(searched("?u=2").origin(says("2"))),
        );
        rows
    })
    .await;
}

/// QUERY and GET are answered; bodies of up to 16 bytes are in the key.
fn queries(mode: Mode, origin: Origin) -> Edge {
    let layer = mode
        .builder()
        .key(Key::new().body(16))
        .methods([Method::GET, Method::QUERY]);
    let cached = layer.unwrap().build().layer(origin);
    let boxed = ServiceExt::<Request<Body>>::map_response(cached, |response| response.map(boxed));
    BoxCloneSyncService::new(boxed)
}

fn query(body: &'static str) -> Ask {
    ask("QUERY", "/search")
        .has("content-type", "text/plain")
        .body(body)
}

// Invariants 12, 13.
#[tokio::test(start_paused = true)]
async fn rule_17_3_query() {
    play(|| {
        let case = |name: &str| row(format!("17.3 RFC 10008 §2.7 {name}")).served(queries);
        let whole = |expected: &'static str| {
            move |outcome: &crate::harness::Outcome| {
                let seen: Vec<_> = outcome.seen.iter().map(|seen| seen.body.clone()).collect();
                if seen == [expected] {
                    Ok(())
                } else {
                    Err(format!("the origin sees {seen:?}"))
                }
            }
        };
        vec![
            case("the same content")
                .ask(query("a").origin(fresh("1")).check(whole("a")))
                .ask(query("a").hit("1")),
            case("other content")
                .ask(query("a").origin(fresh("1")))
                .ask(query("b").origin(fresh("2")))
                .ask(query("a").hit("1"))
                .ask(query("b").hit("2")),
            case("another Content-Type")
                .ask(query("a").origin(fresh("1")))
                .ask(
                    ask("QUERY", "/search")
                        .has("content-type", "text/html")
                        .body("a")
                        .origin(fresh("2")),
                )
                .ask(query("a").hit("1")),
            case("another Content-Encoding")
                .ask(query("a").origin(fresh("1")))
                .ask(
                    query("a")
                        .has("content-encoding", "gzip")
                        .origin(fresh("2")),
                )
                .ask(query("a").hit("1")),
            case("another target")
                .ask(query("a").origin(fresh("1")))
                .ask(
                    ask("QUERY", "/other")
                        .has("content-type", "text/plain")
                        .body("a")
                        .origin(fresh("2")),
                ),
        ]
    })
    .await;
}

// Invariants 12, 13.
#[tokio::test(start_paused = true)]
async fn rule_17_3_query_and_other_methods() {
    play(|| {
        let case = |name: &str| row(format!("17.3 RFC 10008 §2.7 {name}")).served(queries);
        let whole = |expected: &'static str| {
            move |outcome: &crate::harness::Outcome| {
                let seen: Vec<_> = outcome.seen.iter().map(|seen| seen.body.clone()).collect();
                if seen == [expected] {
                    Ok(())
                } else {
                    Err(format!("the origin sees {seen:?}"))
                }
            }
        };
        vec![
            case("it does not answer a GET, nor does a GET answer it")
                .ask(query("a").origin(fresh("1")))
                .ask(ask("GET", "/search").origin(fresh("2")))
                .ask(query("a").hit("1"))
                .ask(ask("GET", "/search").hit("2"))
                .ask(query("c").origin(fresh("3"))),
            case("content of the limit")
                .ask(query("1234567890123456").origin(fresh("1")))
                .ask(query("1234567890123456").hit("1")),
            case("content above the limit goes through whole")
                .ask(
                    query("12345678901234567")
                        .origin(fresh("1"))
                        .check(whole("12345678901234567"))
                        .said("fwd=bypass"),
                )
                .ask(query("12345678901234567").origin(fresh("2"))),
            case("it changes nothing")
                .ask(ask("GET", "/search").origin(fresh("1")))
                .ask(query("a").origin(fresh("2")))
                .ask(ask("GET", "/search").hit("1")),
            row("17.3 RFC 10008 §2 where it is not answered, it passes, and changes nothing")
                .served(|mode, origin| edge(&mode.builder().build(), origin))
                .ask(ask("GET", "/search").origin(fresh("1")))
                .ask(query("a").origin(fresh("2")).said("fwd=method"))
                .ask(ask("GET", "/search").hit("1")),
        ]
    })
    .await;
}

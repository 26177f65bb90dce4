//! Section 4: reuse, and what a request asks for (RFC 9111 §4, §5.2.1).

use tower_response_cache::RequestDirectives;

use crate::harness::{
    Ask, ask, book, fresh, get, head, not_modified, play, policy, reply, row, short, tagged,
};

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_4_1_when_a_response_is_reused() {
    play(|| {
        vec![
            row("4.1 §4 the same target, a method that it answers, and fresh")
                .ask(get().origin(short("1")))
                .ask(get().hit("1"))
                .ask(ask("GET", "/other").origin(short("2")))
                .ask(ask("DELETE", "/other").origin(reply("").status(404)))
                .ask(head().hit(""))
                .after(10)
                .ask(get().origin(short("3")))
                .ask(get().hit("3")),
            row("4.1 §4 no-cache").refuses(&fresh("1").cc("no-cache")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_2_a_hit_tells_its_age() {
    play(|| {
        vec![
            row("4.2 §5.1 in seconds")
                .ask(get().origin(fresh("1")).lacks("age"))
                .ask(get().hit("1").shows("age", "0"))
                .after(59)
                .ask(get().hit("1").shows("age", "59")),
            row("4.2 §5.1 in place of what was received")
                .ask(
                    get()
                        .origin(reply("1").cc("s-maxage=100").has("age", "30"))
                        .shows("age", "30"),
                )
                .after(10)
                .ask(get().hit("1").shows("age", "40")),
            book("4.2 §4.2.3 with the time that the response took")
                .ask(get().origin(fresh("1").takes(7)))
                .ask(get().hit("1").shows("age", "7")),
            row("4.2 §5.1 of a HEAD too")
                .ask(get().origin(fresh("1")))
                .after(10)
                .ask(head().hit("").shows("age", "10")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_3_no_cache_is_stored_and_validated() {
    play(|| {
        let rows: Vec<_> = [
            "no-cache",
            "No-CaChE",
            "no-cache, max-age=60",
            "max-age=60, no-cache",
            "no-cache=\"\"",
        ]
        .into_iter()
        .map(|value| {
            let says = reply("1").cc(value).etag("\"1\"");
            book(format!("4.3 §5.2.2.4 {value}"))
                .ask(get().origin(says.clone()))
                .ask(
                    get()
                        .behind(not_modified().etag("\"1\""))
                        .conditional("\"1\"")
                        .status(200)
                        .text("1"),
                )
                .ask(
                    get()
                        .behind(not_modified().etag("\"1\""))
                        .conditional("\"1\"")
                        .status(200)
                        .text("1"),
                )
                .ask(
                    get()
                        .origin(reply("2").cc(value).etag("\"2\""))
                        .conditional("\"1\""),
                )
                .ask(
                    get()
                        .behind(not_modified().etag("\"2\""))
                        .conditional("\"2\"")
                        .status(200)
                        .text("2"),
                )
        })
        .collect();
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_3_what_is_stale_at_once_is_stored_too() {
    play(|| {
        vec![
            book("4.3 §5.2.2.4 max-age=0 likewise")
                .ask(get().origin(reply("1").cc("max-age=0").etag("\"1\"")))
                .ask(
                    get()
                        .behind(not_modified())
                        .conditional("\"1\"")
                        .status(200)
                        .text("1"),
                ),
            book("4.3 §5.2.2.4 without a validator").forgets(&reply("1").cc("no-cache")),
            book("4.3 §5.2.2.4 with Last-Modified")
                .ask(
                    get().origin(
                        reply("1")
                            .cc("no-cache")
                            .has("last-modified", crate::harness::LONG_AGO),
                    ),
                )
                .ask(
                    get()
                        .behind(not_modified())
                        .sees("if-modified-since", crate::harness::LONG_AGO)
                        .status(200)
                        .text("1"),
                ),
            policy("4.3 the layer stores no such response")
                .forgets(&reply("1").cc("no-cache").etag("\"1\"")),
        ]
    })
    .await;
}

/// What is stored has been so for ten of its sixty seconds.
fn aged(name: &str, mode: fn(String) -> crate::harness::Row) -> crate::harness::Row {
    mode(name.to_owned())
        .ask(get().origin(fresh("1").etag("\"1\"")))
        .after(10)
}

fn renewed(ask: Ask) -> Ask {
    ask.behind(not_modified().etag("\"1\""))
        .conditional("\"1\"")
        .status(200)
        .text("1")
}

#[tokio::test(start_paused = true)]
async fn rule_4_4_no_cache_in_a_request() {
    play(|| {
        vec![
            aged("4.4 §5.2.1.4 it is validated", book).ask(renewed(get().cc("no-cache"))),
            aged("4.4 §5.2.1.4 in any case", book).ask(renewed(get().cc("No-Cache"))),
            aged("4.4 §5.2.1.4 what has changed is for the next too", book)
                .ask(get().cc("no-cache").origin(fresh("2").etag("\"2\"")))
                .ask(get().hit("2")),
            book("4.4 §5.2.1.4 without a validator, the whole is asked for")
                .ask(get().origin(fresh("1")))
                .ask(get().cc("no-cache").origin(fresh("2")).unconditional())
                .ask(get().hit("2")),
            aged("4.4 §5.2.1.4 in a second line", book)
                .ask(renewed(get().cc("max-age=60").cc("no-cache"))),
            aged("4.4 §5.2.1.4 of a HEAD", book).ask(
                head()
                    .cc("no-cache")
                    .origin(fresh("").etag("\"1\""))
                    .said("fwd=request"),
            ),
            aged("4.4 §5.4 Pragma", book).ask(renewed(get().has("pragma", "no-cache"))),
            aged("4.4 §5.4 Pragma in any case", book)
                .ask(renewed(get().has("pragma", "foo, No-Cache"))),
            aged("4.4 §5.4 Pragma does not count beside Cache-Control", book)
                .ask(get().has("pragma", "no-cache").cc("max-age=60").hit("1")),
            aged("4.4 §5.4 nor beside a Cache-Control of nothing known", book)
                .ask(get().has("pragma", "no-cache").cc("foo").hit("1")),
            row("4.4 §5.4 Pragma in a response says nothing")
                .stores(&fresh("1").has("pragma", "no-cache")),
            aged("4.4 §5.4 another Pragma", book).ask(get().has("pragma", "foo").hit("1")),
            aged("4.4 the layer does not heed it", policy)
                .ask(get().cc("no-cache").hit("1"))
                .ask(get().has("pragma", "no-cache").hit("1")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_5_max_age_and_min_fresh_in_a_request() {
    play(|| {
        vec![
            aged("4.5 §5.2.1.1 as old as max-age", book).ask(get().cc("max-age=10").hit("1")),
            aged("4.5 §5.2.1.1 older than max-age", book).ask(renewed(get().cc("max-age=9"))),
            aged("4.5 §5.2.1.1 max-age=0", book).ask(renewed(get().cc("max-age=0"))),
            aged("4.5 §5.2.1.1 in quotes", book).ask(renewed(get().cc("max-age=\"9\""))),
            aged(
                "4.5 §5.2.1.1 the age of the response counts, not that of the entry",
                book,
            )
            .ask(renewed(get().cc("max-age=5"))),
            book("4.5 §5.2.1.1 with the Age that it came with")
                .ask(get().origin(reply("1").cc("max-age=100").has("age", "30").etag("\"1\"")))
                .ask(get().cc("max-age=30").hit("1"))
                .ask(renewed(get().cc("max-age=29"))),
            book("4.5 §5.2.1.1 what came in answer is fresh enough")
                .ask(get().cc("max-age=0").origin(fresh("1")))
                .ask(get().hit("1")),
            aged("4.5 §5.2.1.3 just as fresh as min-fresh", book)
                .ask(get().cc("min-fresh=50").hit("1")),
            aged("4.5 §5.2.1.3 less fresh than min-fresh", book)
                .ask(renewed(get().cc("min-fresh=51"))),
            aged("4.5 §5.2.1.3 fresher than it ever was", book)
                .ask(renewed(get().cc("min-fresh=1000"))),
            aged("4.5 §5.2.1 both", book)
                .ask(get().cc("min-fresh=50, max-age=10").hit("1"))
                .ask(renewed(get().cc("min-fresh=50, max-age=9"))),
            aged("4.5 the layer does not heed it", policy)
                .ask(get().cc("max-age=0").hit("1"))
                .ask(get().cc("max-age=9").hit("1"))
                .ask(get().cc("min-fresh=1000").hit("1")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_5_max_stale_in_a_request() {
    play(|| {
        let stale = |name: &str, value: &str| {
            book(name)
                .ask(get().origin(reply("1").cc(value).etag("\"1\"")))
                .after(20)
        };
        let mut rows = vec![
            stale("4.5 §5.2.1.2 stale by no more than max-stale", "max-age=10")
                .ask(get().cc("max-stale=10").hit("1").said("ttl=-10").age(20)),
            stale("4.5 §5.2.1.2 stale by more", "max-age=10").ask(renewed(get().cc("max-stale=9"))),
            stale("4.5 §5.2.1.2 stale by any time", "max-age=10")
                .ask(get().cc("max-stale").hit("1")),
            stale("4.5 §5.2.1.2 it does not shorten a lifetime", "max-age=60")
                .ask(get().cc("max-stale=1").hit("1")),
            stale("4.5 §5.2.1.2 max-age holds all the same", "max-age=10")
                .ask(renewed(get().cc("max-stale=10, max-age=19"))),
            book("4.5 §5.2.1.2 of what has no validator")
                .ask(get().origin(reply("1").cc("max-age=10")))
                .after(20)
                .ask(get().cc("max-stale=10").hit("1")),
            policy("4.5 the layer does not heed it")
                .ask(get().origin(reply("1").cc("s-maxage=10")))
                .after(20)
                .ask(get().cc("max-stale").origin(fresh("2"))),
        ];
        for value in [
            "max-age=10, must-revalidate",
            "max-age=10, proxy-revalidate",
            "s-maxage=10",
            "max-age=10, no-cache",
        ] {
            rows.push(
                stale(
                    &format!("4.5 §4.2.4 not where the response forbids it: {value}"),
                    value,
                )
                .ask(renewed(get().cc("max-stale"))),
            );
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_6_no_store_in_a_request() {
    play(|| {
        vec![
            book("4.6 §5.2.1.5 its answer is not stored")
                .ask(get().cc("no-store").origin(fresh("1")).unsaid("stored"))
                .ask(get().origin(fresh("2"))),
            book("4.6 §5.2.1.5 what is stored may answer it")
                .ask(get().origin(fresh("1")))
                .ask(get().cc("no-store").hit("1")),
            book("4.6 §5.2.1.5 its answer does not take the place of what is stored")
                .ask(get().origin(fresh("1")))
                .ask(get().cc("no-store, no-cache").origin(fresh("2")))
                .ask(get().maybe(|_| fresh("3")).check(|outcome| {
                    let text = outcome.answer()?.text();
                    if text == "2" {
                        Err("it was stored".to_owned())
                    } else {
                        Ok(())
                    }
                })),
            policy("4.6 the layer does not heed it")
                .ask(get().cc("no-store").origin(fresh("1")))
                .ask(get().hit("1")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_7_only_if_cached() {
    play(|| {
        let asked = || get().cc("only-if-cached");
        let refused = || asked().status(504).text("").lacks("cache-status");
        vec![
            row("4.7 §5.2.1.7 nothing is stored")
                .ask(refused())
                .ask(get().origin(fresh("1"))),
            row("4.7 §5.2.1.7 something is stored")
                .ask(get().origin(fresh("1")))
                .ask(asked().hit("1")),
            row("4.7 §5.2.1.7 what is stored is stale")
                .ask(get().origin(tagged("1")))
                .after(20)
                .ask(refused()),
            row("4.7 §5.2.1.7 what is stored is for others")
                .ask(get().has("foo", "1").origin(fresh("1").has("vary", "foo")))
                .ask(refused()),
            row("4.7 §5.2.1.7 in any case").ask(get().cc("Only-If-Cached").status(504)),
            book("4.7 §5.2.1.7 with max-stale")
                .ask(get().origin(reply("1").cc("max-age=10")))
                .after(20)
                .ask(get().cc("only-if-cached, max-stale=60").hit("1")),
            book("4.7 §5.2.1.7 with max-age")
                .ask(get().origin(fresh("1")))
                .after(20)
                .ask(get().cc("only-if-cached, max-age=10").status(504)),
            book("4.7 §5.2.1.7 what must be validated")
                .ask(get().origin(reply("1").cc("no-cache").etag("\"1\"")))
                .ask(refused()),
            row("4.7 §5.2.1.7 a HEAD")
                .ask(head().cc("only-if-cached").status(504))
                .ask(get().origin(fresh("1")))
                .ask(head().cc("only-if-cached").hit("")),
            row("4.7 RFC 5861 §3 stale while it is fetched anew")
                .with(|layer| layer.stale_while_revalidate(crate::harness::MINUTE))
                .ask(get().origin(reply("1").cc("max-age=60")))
                .after(70)
                .ask(asked().maybe(|_| fresh("2")).text("1").said("hit")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_8_a_hit_that_the_request_refuses() {
    play(|| {
        let mut rows: Vec<_> = ["no-cache", "max-age=5", "min-fresh=55"]
            .into_iter()
            .map(|value| {
                aged(&format!("4.8 RFC 9211 §2.2 {value}"), book).ask(
                    renewed(get().cc(value))
                        .said("fwd=request")
                        .said("fwd-status=304"),
                )
            })
            .collect();
        rows.push(
            aged("4.8 RFC 9211 §2.2 what is stale all the same", book)
                .after(60)
                .ask(renewed(get().cc("no-cache")).said("fwd=stale")),
        );
        rows
    })
    .await;
}

// Invariant 12.
#[tokio::test(start_paused = true)]
async fn rule_4_9_methods_that_are_not_answered_from_the_store() {
    play(|| {
        let mut rows = Vec::new();
        for method in ["POST", "PUT", "DELETE", "PATCH", "FOO"] {
            rows.push(
                row(format!("4.9 §4 {method} is always written through"))
                    .ask(get().origin(fresh("1")))
                    .ask(
                        ask(method, "/")
                            .body("what is written")
                            .origin(reply("").status(409))
                            .said("fwd=method")
                            .check(|outcome| {
                                let body = outcome.seen.first().map(|seen| seen.body.clone());
                                match body.as_deref() {
                                    Some(b"what is written") => Ok(()),
                                    other => Err(format!("the body, not {other:?}")),
                                }
                            }),
                    )
                    .ask(get().hit("1")),
            );
        }
        for method in ["OPTIONS", "TRACE"] {
            rows.push(
                row(format!("4.9 §4 {method} passes, and purges nothing"))
                    .ask(get().origin(fresh("1")))
                    .ask(ask(method, "/").origin(fresh("2")))
                    .ask(get().hit("1")),
            );
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_10_of_several_the_most_recent() {
    play(|| {
        let both = || get().has("foo", "1").has("bar", "1");
        let foo = |date| fresh("foo").has("vary", "foo").has("date", date);
        let bar = |date| fresh("bar").has("vary", "bar").has("date", date);
        let stored = |name: &str, one: &'static str, other: &'static str| {
            row(format!("4.10 §4 {name}"))
                .ask(get().has("foo", "1").has("bar", "2").origin(foo(one)))
                .ask(get().has("foo", "2").has("bar", "1").origin(bar(other)))
        };
        vec![
            stored(
                "the later stored is the more recent",
                "{now-40}",
                "{now-10}",
            )
            .ask(both().hit("bar")),
            stored(
                "the earlier stored is the more recent",
                "{now-10}",
                "{now-40}",
            )
            .ask(both().hit("foo")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_4_12_those_who_may_ask_for_what_is_newer() {
    play(|| {
        vec![
            policy("4.12 by choice")
                .with(|layer| {
                    let trusted =
                        |parts: &http::request::Parts| parts.headers.contains_key("x-editor");
                    layer.request_directives(RequestDirectives::honour_if(trusted))
                })
                .ask(get().origin(fresh("1")))
                .ask(get().cc("no-cache").hit("1"))
                .ask(get().cc("no-cache").has("x-editor", "1").origin(fresh("2")))
                .ask(get().hit("2")),
            book("4.12 by choice, nobody")
                .with(|layer| layer.request_directives(RequestDirectives::Ignore))
                .ask(get().origin(fresh("1")))
                .ask(get().cc("no-cache").hit("1")),
            policy("4.12 by choice, everybody")
                .with(|layer| layer.request_directives(RequestDirectives::Honour))
                .ask(get().origin(fresh("1")))
                .ask(get().cc("no-cache").origin(fresh("2"))),
        ]
    })
    .await;
}

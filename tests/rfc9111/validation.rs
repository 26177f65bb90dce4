//! Section 5: validating with the origin (RFC 9111 §4.3.1, §4.3.3, §4.3.4).

use crate::harness::{
    Ask, LONG_AGO, Row, book, fresh, get, not_modified, or_not_modified, play, reply, row, short,
    tagged, unreachable,
};

/// A response with the tag `"1"` that has gone stale.
fn stale(name: &str) -> Row {
    row(name).ask(get().origin(tagged("1"))).after(20)
}

fn renewed(ask: Ask) -> Ask {
    ask.behind(short("").status(304).etag("\"1\""))
        .conditional("\"1\"")
        .status(200)
        .text("1")
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_5_1_what_is_stale_is_validated() {
    play(|| {
        vec![
            stale("5.1 §4.3.1 with its ETag")
                .ask(renewed(get()))
                .ask(get().hit("1")),
            row("5.1 §4.3.1 a weak one too")
                .ask(get().origin(short("1").etag("W/\"1\"")))
                .after(20)
                .ask(
                    get()
                        .behind(not_modified().etag("W/\"1\""))
                        .conditional("W/\"1\"")
                        .status(200)
                        .text("1"),
                ),
            row("5.1 §4.3.1 with its Last-Modified")
                .ask(get().origin(short("1").has("last-modified", LONG_AGO)))
                .after(20)
                .ask(
                    get()
                        .behind(not_modified())
                        .sees("if-modified-since", LONG_AGO)
                        .unseen("if-none-match")
                        .status(200)
                        .text("1"),
                ),
            row("5.1 §4.3.1 with both")
                .ask(get().origin(tagged("1").has("last-modified", LONG_AGO)))
                .after(20)
                .ask(renewed(get()).sees("if-modified-since", LONG_AGO)),
            row("5.1 §4.3.1 with neither")
                .ask(get().origin(short("1")))
                .after(20)
                .ask(get().origin(short("2")).unconditional()),
            row("5.1 §4.3.1 again and again")
                .ask(get().origin(tagged("1")))
                .after(20)
                .ask(renewed(get()))
                .after(20)
                .ask(renewed(get()))
                .after(20)
                .ask(get().origin(tagged("2")).conditional("\"1\""))
                .ask(get().hit("2")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_5_2_the_request_goes_on_as_it_is() {
    play(|| {
        vec![
            stale("5.2 §4.3.1 its fields are sent").ask(
                renewed(get().has("x-trace-me", "1").has("accept-language", "de"))
                    .sees("x-trace-me", "1")
                    .sees("accept-language", "de"),
            ),
            row("5.2 §4.3.1 what Vary names in a refresh behind the request")
                .with(|layer| layer.stale_while_revalidate(crate::harness::MINUTE))
                .ask(get().has("foo", "1").origin(fresh("1").has("vary", "foo")))
                .after(70)
                .ask(
                    get()
                        .has("foo", "1")
                        .hit("1")
                        .behind(fresh("2").has("vary", "foo"))
                        .sees("foo", "1"),
                )
                .ask(get().has("foo", "1").hit("2")),
        ]
    })
    .await;
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_5_3_what_the_client_has_and_what_is_stored() {
    play(|| {
        let asked = || get().has("if-none-match", "\"2\"");
        vec![
            stale("5.3 §4.3.3 the origin has what is stored: the client gets it")
                .ask(
                    asked()
                        .maybe(|seen| or_not_modified(seen, &tagged("1")))
                        .status(200)
                        .text("1"),
                )
                .ask(get().hit("1")),
            stale("5.3 §4.3.3 the origin has what the client has: it is told so")
                .ask(
                    asked()
                        .maybe(|seen| or_not_modified(seen, &tagged("2")))
                        .status(304),
                )
                .ask(
                    get()
                        .maybe(|seen| or_not_modified(seen, &tagged("2")))
                        .status(200)
                        .text("2"),
                ),
            stale("5.3 §4.3.3 the origin has neither")
                .ask(
                    asked()
                        .maybe(|seen| or_not_modified(seen, &tagged("3")))
                        .status(200)
                        .text("3"),
                )
                .ask(get().hit("3")),
            stale("5.3 §4.3.3 both have the same")
                .ask(
                    get()
                        .has("if-none-match", "\"1\"")
                        .maybe(|seen| or_not_modified(seen, &tagged("1")))
                        .status(304),
                )
                .ask(get().hit("1")),
        ]
    })
    .await;
}

// Invariants 21, 23.
#[tokio::test(start_paused = true)]
async fn rule_5_4_a_miss_with_what_the_client_has() {
    play(|| {
        let says = || fresh("1").etag("\"1\"").has("last-modified", LONG_AGO);
        let mut rows = Vec::new();
        for (name, value) in [("if-none-match", "\"1\""), ("if-modified-since", LONG_AGO)] {
            rows.push(
                row(format!("5.4 §4.3.2 {name} that holds"))
                    .ask(
                        get()
                            .has(name, value)
                            .maybe(move |seen| or_not_modified(seen, &says()))
                            .status(304),
                    )
                    .ask(
                        get()
                            .maybe(move |seen| or_not_modified(seen, &says()))
                            .status(200)
                            .text("1"),
                    ),
            );
            rows.push(
                row(format!(
                    "5.4 §4.3.2 {name}: here the whole is asked for, and stored"
                ))
                .ask(
                    get()
                        .has(name, value)
                        .behind(says())
                        .unconditional()
                        .status(304),
                )
                .ask(get().hit("1")),
            );
        }
        rows.push(
            row("5.4 §4.3.2 an answer that is no 200 is told as it is")
                .ask(
                    get()
                        .has("if-none-match", "\"1\"")
                        .origin(fresh("none").status(404).etag("\"1\"")),
                )
                .ask(
                    get()
                        .has("if-none-match", "*")
                        .maybe(|_| fresh("none").status(404))
                        .status(404),
                ),
        );
        rows.push(
            row("5.4 §4.3.2 that does not hold")
                .ask(
                    get()
                        .has("if-none-match", "\"2\"")
                        .origin(says())
                        .unconditional(),
                )
                .ask(get().hit("1")),
        );
        rows
    })
    .await;
}

// Invariants 16, 21.
#[tokio::test(start_paused = true)]
async fn rule_5_5_a_304_renews_what_it_names() {
    play(|| {
        let is_new = |outcome: &crate::harness::Outcome| {
            let answer = outcome.answer()?;
            if answer.parts.status == 304 {
                return Err("a 304 to a client that asked for the whole".to_owned());
            }
            if answer.text() == "1" && answer.parts.status == 200 {
                return Err("what was stored is served".to_owned());
            }
            Ok(())
        };
        vec![
            // There is nothing else to give to the one who asked; the next gets the whole of what is there.
            stale("5.5 §4.3.4 another strong ETag renews nothing")
                .ask(get().maybe(|seen| match seen.header("if-none-match") {
                    Some(_) => short("").status(304).etag("\"2\""),
                    None => tagged("2"),
                }))
                .ask(get().maybe(|_| tagged("2")).check(is_new)),
            stale("5.5 §4.3.4 none at all: it can only mean the one that it was asked for")
                .ask(
                    get()
                        .behind(not_modified())
                        .conditional("\"1\"")
                        .status(200)
                        .text("1"),
                )
                .ask(get().hit("1")),
            row("5.5 §4.3.4 a weak one")
                .ask(get().origin(short("1").etag("W/\"1\"")))
                .after(20)
                .ask(
                    get()
                        .behind(short("").status(304).etag("W/\"1\""))
                        .status(200)
                        .text("1"),
                )
                .ask(get().hit("1")),
        ]
    })
    .await;
}

// Invariants 16, 21.
#[tokio::test(start_paused = true)]
async fn rule_5_5_a_304_with_another_validator() {
    play(|| {
        vec![
            row("5.5 §4.3.4 the same Last-Modified")
                .ask(get().origin(short("1").has("last-modified", LONG_AGO)))
                .after(20)
                .ask(
                    get()
                        .behind(short("").status(304).has("last-modified", LONG_AGO))
                        .status(200)
                        .text("1"),
                )
                .ask(get().hit("1")),
            row("5.5 §4.3.4 one variant is renewed, the other is not")
                .ask(get().has("foo", "1").origin(tagged("1").has("vary", "foo")))
                .ask(get().has("foo", "2").origin(tagged("2").has("vary", "foo")))
                .after(20)
                .ask(renewed(get().has("foo", "1")))
                .ask(get().has("foo", "1").hit("1"))
                .ask(
                    get()
                        .has("foo", "2")
                        .maybe(|seen| or_not_modified(seen, &tagged("2").has("vary", "foo")))
                        .text("2")
                        .unsaid("hit"),
                ),
        ]
    })
    .await;
}

// Invariants 1, 3.
#[tokio::test(start_paused = true)]
async fn rule_5_6_what_a_304_changes() {
    play(|| {
        let stored = || {
            tagged("12345")
                .has("x-one", "1")
                .has("x-lines", "a")
                .has("x-lines", "b")
                .has("x-kept", "kept")
                .has("content-type", "text/plain")
        };
        let told = || {
            short("")
                .status(304)
                .etag("\"12345\"")
                .has("x-one", "2")
                .has("x-lines", "c")
                .has("x-new", "new")
                .has("connection", "x-hop")
                .has("x-hop", "1")
                .has("keep-alive", "timeout=1")
        };
        let changed = |ask: Ask| {
            ask.text("12345")
                .shows("x-one", "2")
                .shows("x-lines", "c")
                .shows("x-new", "new")
                .shows("x-kept", "kept")
                .lacks("x-hop")
                .lacks("keep-alive")
        };
        let case = |name: &str| {
            row(format!("5.6 §3.2 {name}"))
                .ask(get().origin(stored()))
                .after(20)
        };
        vec![
            case("what it has takes the place of what was there, for the one who asked")
                .ask(changed(get().behind(told()).status(200))),
            case("and for those who ask later")
                .ask(get().behind(told()).status(200))
                .ask(changed(get().hit("12345"))),
        ]
    })
    .await;
}

// Invariants 1, 3.
#[tokio::test(start_paused = true)]
async fn rule_5_6_what_a_304_does_not_change() {
    play(|| {
        let stored = || {
            tagged("12345")
                .has("x-one", "1")
                .has("x-lines", "a")
                .has("x-lines", "b")
                .has("x-kept", "kept")
                .has("content-type", "text/plain")
        };
        let told = || {
            short("")
                .status(304)
                .etag("\"12345\"")
                .has("x-one", "2")
                .has("x-lines", "c")
                .has("x-new", "new")
                .has("connection", "x-hop")
                .has("x-hop", "1")
                .has("keep-alive", "timeout=1")
        };
        let case = |name: &str| {
            row(format!("5.6 §3.2 {name}"))
                .ask(get().origin(stored()))
                .after(20)
        };
        vec![
            case("but its Content-Length does not")
                .ask(
                    get()
                        .behind(told().has("content-length", "3"))
                        .status(200)
                        .text("12345")
                        .check(
                            |outcome| match outcome.shown("content-length")?.as_deref() {
                                None | Some("5") => Ok(()),
                                Some(other) => Err(format!("content-length: {other}")),
                            },
                        ),
                )
                .ask(get().hit("12345")),
            case("nor its cookies, for others")
                .ask(
                    get()
                        .behind(told().has("set-cookie", "sid=1"))
                        .status(200)
                        .text("12345"),
                )
                .ask(
                    get()
                        .maybe(|_| tagged("12345"))
                        .text("12345")
                        .lacks("set-cookie"),
                ),
        ]
    })
    .await;
}

// Invariants 1, 3.
#[tokio::test(start_paused = true)]
async fn rule_5_6_a_304_that_ends_what_is_stored() {
    play(|| {
        let stored = || {
            tagged("12345")
                .has("x-one", "1")
                .has("x-lines", "a")
                .has("x-lines", "b")
                .has("x-kept", "kept")
                .has("content-type", "text/plain")
        };
        let case = |name: &str| {
            row(format!("5.6 §3.2 {name}"))
                .ask(get().origin(stored()))
                .after(20)
        };
        vec![
            case("no-store ends it")
                .ask(
                    get()
                        .behind(not_modified().cc("no-store"))
                        .status(200)
                        .text("12345"),
                )
                .ask(get().origin(tagged("2"))),
            case("private ends it")
                .ask(
                    get()
                        .behind(not_modified().cc("private"))
                        .status(200)
                        .text("12345"),
                )
                .ask(get().origin(tagged("2"))),
        ]
    })
    .await;
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_5_7_freshness_begins_anew() {
    play(|| {
        let renew = |ask: Ask, says: crate::harness::Reply| {
            ask.behind(says.status(304).etag("\"1\""))
                .status(200)
                .text("1")
        };
        vec![
            stale("5.7 §4.3.4 with the lifetime that it had")
                .ask(renew(get(), reply("")))
                .after(9)
                .ask(get().hit("1").age(9))
                .after(1)
                .ask(get().origin(tagged("2"))),
            stale("5.7 §4.3.4 with a new one")
                .ask(renew(get(), reply("").cc("s-maxage=100")))
                .after(99)
                .ask(get().hit("1").age(99))
                .after(1)
                .ask(get().origin(tagged("2"))),
            stale("5.7 §4.3.4 its Age counts")
                .ask(renew(get(), reply("").cc("s-maxage=100").has("age", "50")))
                .ask(get().hit("1").age(50))
                .after(50)
                .ask(get().origin(tagged("2"))),
            stale("5.7 §4.3.4 its Date is the new one")
                .ask(renew(
                    get(),
                    reply("")
                        .cc("s-maxage=100")
                        .has("date", "Sun, 06 Nov 2044 08:49:37 GMT"),
                ))
                .ask(
                    get()
                        .hit("1")
                        .shows("date", "Sun, 06 Nov 2044 08:49:37 GMT"),
                ),
            book("5.7 §4.3.4 an Expires that it had and a new Date")
                .ask(
                    get().origin(
                        reply("1")
                            .etag("\"1\"")
                            .has("date", "{now}")
                            .has("expires", "{now+10}"),
                    ),
                )
                .after(20)
                .ask(renew(
                    get(),
                    reply("").has("date", "{now}").has("expires", "{now+100}"),
                ))
                .after(90)
                .ask(get().hit("1")),
        ]
    })
    .await;
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_5_7_a_304_with_another_vary() {
    play(|| {
        let renew = |ask: Ask, says: crate::harness::Reply| {
            ask.behind(says.status(304).etag("\"1\""))
                .status(200)
                .text("1")
        };
        vec![
            stale("5.7 §4.3.4 a new Vary")
                .ask(renew(get().has("foo", "1"), short("").has("vary", "foo")))
                .ask(get().has("foo", "1").hit("1"))
                .ask(
                    get()
                        .has("foo", "2")
                        .maybe(|_| tagged("2").has("vary", "foo"))
                        .text("2"),
                ),
            book("5.7 §4.3.4 a new Vary, while it is fresh")
                .ask(get().origin(fresh("1").etag("\"1\"")))
                .ask(renew(get().cc("no-cache"), short("").has("vary", "foo")))
                .ask(get().hit("1"))
                .ask(get().has("foo", "2").origin(tagged("2").has("vary", "foo"))),
            stale("5.7 §4.3.4 a Vary by everything")
                .ask(renew(get(), short("").has("vary", "*")))
                .ask(get().maybe(|_| tagged("2")).text("2")),
        ]
    })
    .await;
}

// Invariant 22.
#[tokio::test(start_paused = true)]
async fn rule_5_8_a_full_answer_takes_the_place_of_what_was_stored() {
    play(|| {
        vec![
            stale("5.8 §4.3.3 it is stored")
                .ask(get().origin(tagged("2")).conditional("\"1\""))
                .ask(get().hit("2")),
            stale("5.8 §4.3.3 one that cannot be stored ends what was")
                .ask(get().origin(reply("2").cc("no-store")))
                .ask(get().origin(tagged("3")).unconditional()),
            stale("5.8 §4.3.3 nothing there any more")
                .ask(get().origin(reply("none").status(404).cc("no-store")))
                .ask(get().origin(tagged("3")).unconditional()),
            book("5.8 §4.3.3 another status is stored likewise")
                .ask(get().origin(tagged("1")))
                .after(20)
                .ask(get().origin(fresh("none").status(404)))
                .ask(get().status(404).hit("none")),
        ]
    })
    .await;
}

// Invariants 3, 22.
#[tokio::test(start_paused = true)]
async fn rule_5_8_and_5_9_of_what_is_fresh() {
    play(|| {
        let stored = |name: &str| book(name).ask(get().origin(fresh("1").etag("\"1\"")));
        let reload = || get().cc("no-cache");
        vec![
            stored(
                "5.8 §4.3.3 a reload brings what is not stored: what was is not served any more",
            )
            .ask(reload().origin(reply("2").cc("no-store")))
            .ask(get().origin(fresh("3")).unconditional()),
            stored("5.8 §4.3.3 a reload brings a 404: likewise")
                .ask(reload().origin(reply("none").status(404).cc("no-store")))
                .ask(get().origin(fresh("3")).unconditional()),
            stored("5.8 §4.3.3 a reload brings what is stored")
                .ask(reload().origin(fresh("2")))
                .ask(get().hit("2")),
            stored("5.9 §4.3.3 a reload fails: what was stored is as good as it was")
                .ask(reload().origin(reply("failed").status(500)))
                .ask(get().hit("1").said("ttl=60")),
            stored("5.9 §4.3.3 a reload fails with what could be stored: likewise")
                .ask(reload().origin(reply("failed").status(503).cc("max-age=60")))
                .ask(get().hit("1").said("ttl=60")),
        ]
    })
    .await;
}

// Invariant 22.
#[tokio::test(start_paused = true)]
async fn rule_5_9_a_failure_takes_the_place_of_nothing() {
    play(|| {
        let mut rows: Vec<_> = [500, 502, 503, 504]
            .into_iter()
            .map(|status| {
                stale(&format!(
                    "5.9 §4.3.3 {status} is forwarded, and what was stored stays"
                ))
                .ask(
                    get()
                        .origin(reply("failed").status(status))
                        .conditional("\"1\""),
                )
                .after(20)
                .ask(renewed(get()))
                .ask(get().hit("1"))
            })
            .collect();
        rows.push(
            stale("5.9 §4.3.3 nobody answers")
                .ask(get().behind(unreachable()).fails())
                .after(20)
                .ask(renewed(get())),
        );
        rows.push(
            book(
                "5.9 §4.3.3 nor does a failure that could be stored take the place of what is good",
            )
            .ask(get().origin(tagged("1")))
            .after(20)
            .ask(get().origin(reply("failed").status(503).cc("max-age=5")))
            .after(20)
            .ask(renewed(get())),
        );
        rows
    })
    .await;
}

fn is_etag(outcome: &crate::harness::Outcome) -> Result<(), String> {
    let shown = outcome.shown("etag")?.ok_or("an ETag")?;
    let opaque = shown.strip_prefix("W/").unwrap_or(&shown);
    let quoted = opaque.len() > 2 && opaque.starts_with('"') && opaque.ends_with('"');
    if quoted { Ok(()) } else { Err(shown) }
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_5_10_an_etag_made_of_the_body() {
    play(|| {
        let made =
            |name: &str| row(format!("5.10 {name}")).with(|layer| layer.etag_from_body(true));
        vec![
            made("a hit has one")
                .ask(get().origin(fresh("1")))
                .ask(get().hit("1").check(is_etag)),
            made("one that is there stays")
                .ask(get().origin(fresh("1").etag("\"mine\"")))
                .ask(get().hit("1").shows("etag", "\"mine\"")),
            made("`*` is any")
                .ask(get().origin(fresh("1")))
                .ask(get().has("if-none-match", "*").status(304)),
            row("5.10 none is made unless it is chosen")
                .ask(get().origin(fresh("1")))
                .ask(get().hit("1").lacks("etag")),
        ]
    })
    .await;
}

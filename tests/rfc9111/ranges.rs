//! Section 8: parts (RFC 9110 §14, RFC 9111 §3.3, §3.4).

use crate::harness::{
    LONG_AGO, MINUTE, Reply, Row, Seen, ask, book, fresh, get, head, or_not_modified, play, policy,
    reply, row, tagged,
};

const DIGITS: &str = "0123456789";

fn digits() -> Reply {
    fresh(DIGITS)
        .etag("\"v\"")
        .has("content-type", "text/plain")
        .has("last-modified", LONG_AGO)
}

/// What an origin says that heeds `Range: bytes=0-3`.
fn part_or_all(seen: &Seen) -> Reply {
    match seen.header("range").as_deref() {
        Some("bytes=0-3") => digits_of("0123").has("content-range", "bytes 0-3/10"),
        _ => digits(),
    }
}

fn digits_of(part: &str) -> Reply {
    fresh(part).status(206).etag("\"v\"")
}

fn stored(name: impl Into<String>) -> Row {
    row(name).ask(get().origin(digits()))
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_8_1_a_part_of_what_is_stored() {
    play(|| {
        let mut rows = Vec::new();
        for (range, part, told) in [
            ("bytes=0-3", "0123", "bytes 0-3/10"),
            ("bytes=5-", "56789", "bytes 5-9/10"),
            ("bytes=-3", "789", "bytes 7-9/10"),
            ("bytes=0-0", "0", "bytes 0-0/10"),
            ("bytes=9-9", "9", "bytes 9-9/10"),
            ("bytes=8-100", "89", "bytes 8-9/10"),
            ("bytes=-100", DIGITS, "bytes 0-9/10"),
            ("bytes=0-99999999999999999999999", DIGITS, "bytes 0-9/10"),
        ] {
            let length = part.len().to_string();
            rows.push(
                stored(format!("8.1 RFC 9110 §14.4 {range}"))
                    .after(10)
                    .ask(
                        get()
                            .has("range", range)
                            .status(206)
                            .text(part)
                            .shows("content-range", told)
                            .shows("content-length", &length)
                            .shows("etag", "\"v\"")
                            .shows("content-type", "text/plain")
                            .age(10)
                            .said("hit"),
                    )
                    .ask(get().hit(DIGITS)),
            );
        }
        rows
    })
    .await;
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_8_1_a_part_that_is_not_there() {
    play(|| {
        let mut rows = Vec::new();
        for range in [
            "bytes=10-",
            "bytes=100-200",
            "bytes=-0",
            "bytes=99999999999999999999999-",
        ] {
            rows.push(
                stored(format!("8.1 RFC 9110 §15.5.17 {range}"))
                    .ask(
                        get()
                            .has("range", range)
                            .status(416)
                            .text("")
                            .shows("content-range", "bytes */10")
                            .said("hit"),
                    )
                    .ask(get().hit(DIGITS)),
            );
        }
        rows.push(
            row("8.1 RFC 9110 §14.4 of what came without its length")
                .ask(get().origin(digits().chunked()))
                .ask(
                    get()
                        .has("range", "bytes=0-3")
                        .status(206)
                        .text("0123")
                        .shows("content-range", "bytes 0-3/10"),
                ),
        );
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_8_2_where_a_range_is_ignored() {
    play(|| {
        let mut rows: Vec<_> = [
            "bytes",
            "bytes=",
            "bytes=abc",
            "bytes=3-1",
            "bytes=-",
            "bytes=a-3",
            "bytes=0-b",
            "bytes 0-3",
            "0-3",
            "bytes=--1",
            "bytes=0-3;x",
            "bytes=0x0-3",
            "bytes=+0-3",
        ]
        .into_iter()
        .map(|range| {
            stored(format!("8.2 RFC 9110 §14.2 {range}"))
                .ask(get().has("range", range).hit(DIGITS).lacks("content-range"))
        })
        .collect();
        rows.push(
            stored("8.2 RFC 9110 §14.2 two lines").ask(
                get()
                    .has("range", "bytes=0-3")
                    .has("range", "bytes=4-5")
                    .hit(DIGITS),
            ),
        );
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_8_2_what_has_no_parts() {
    play(|| {
        vec![
            stored("8.2 RFC 9110 §14.2 of a HEAD").ask(
                head()
                    .has("range", "bytes=0-3")
                    .hit("")
                    .shows("content-length", "10")
                    .lacks("content-range"),
            ),
            book("8.2 RFC 9110 §14.2 of what is no 200")
                .ask(get().origin(digits().status(404)))
                .ask(get().has("range", "bytes=0-3").status(404).hit(DIGITS)),
            policy("8.2 RFC 9110 §14.2 of what is no 200")
                .with(|layer| layer.status(http::StatusCode::NOT_FOUND, MINUTE).unwrap())
                .ask(get().origin(digits().status(404)))
                .ask(get().has("range", "bytes=0-3").status(404).hit(DIGITS)),
            stored("8.2 RFC 9110 §14.2 of a method that is not GET").ask(
                ask("POST", "/")
                    .has("range", "bytes=0-3")
                    .origin(reply("posted"))
                    .sees("range", "bytes=0-3"),
            ),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_8_3_if_range() {
    play(|| {
        let asked = |condition| get().has("range", "bytes=0-3").has("if-range", condition);
        let mut rows = vec![
            stored("8.3 RFC 9110 §13.1.5 the same ETag")
                .ask(asked("\"v\"").status(206).text("0123")),
            stored("8.3 RFC 9110 §13.1.5 the same Last-Modified")
                .ask(asked(LONG_AGO).status(206).text("0123")),
            row("8.3 RFC 9110 §13.1.5 weak tags never match")
                .ask(get().origin(fresh(DIGITS).etag("W/\"v\"")))
                .ask(asked("W/\"v\"").hit(DIGITS))
                .ask(asked("\"v\"").hit(DIGITS)),
            row(
                "8.3 RFC 9110 §8.8.2.2 a Last-Modified of the same second as Date may still change",
            )
            .ask(
                get().origin(
                    fresh(DIGITS)
                        .has("date", LONG_AGO)
                        .has("last-modified", LONG_AGO)
                        .cc("s-maxage=9999999999"),
                ),
            )
            .ask(asked(LONG_AGO).hit(DIGITS)),
            row("8.3 RFC 9110 §13.1.5 what has no validator")
                .ask(get().origin(fresh(DIGITS)))
                .ask(asked("\"v\"").hit(DIGITS))
                .ask(asked(LONG_AGO).hit(DIGITS)),
            stored("8.3 RFC 9110 §13.1.5 without Range it says nothing")
                .ask(get().has("if-range", "\"w\"").hit(DIGITS)),
        ];
        for condition in [
            "\"w\"",
            "W/\"v\"",
            "v",
            "",
            "\"v\", \"w\"",
            "Tue, 15 Nov 1994 12:45:27 GMT",
            "Tue, 15 Nov 1994 12:45:25 GMT",
        ] {
            rows.push(
                stored(format!(
                    "8.3 RFC 9110 §13.1.5 {condition:?} is not what is stored"
                ))
                .ask(asked(condition).hit(DIGITS).lacks("content-range")),
            );
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_8_4_several_parts() {
    play(|| {
        let whole_or_parts = |outcome: &crate::harness::Outcome| {
            let answer = outcome.answer()?;
            let kind = outcome.shown("content-type")?.unwrap_or_default();
            match answer.parts.status.as_u16() {
                200 if answer.text() == DIGITS => Ok(()),
                206 if kind.starts_with("multipart/byteranges") => Ok(()),
                206 if outcome.shown("content-range")?.is_some() => Ok(()),
                _ => Err(format!("{answer:?}")),
            }
        };
        let many = |part: fn(usize) -> String, count: usize| {
            let parts: Vec<_> = (0..count).map(part).collect();
            format!("bytes={}", parts.join(","))
        };
        vec![
            stored("8.4 RFC 9110 §14.2 two parts")
                .ask(get().has("range", "bytes=0-1,3-4").check(whole_or_parts)),
            stored("8.4 RFC 9110 §14.2 two, one of which is not there")
                .ask(get().has("range", "bytes=0-1,30-40").check(whole_or_parts)),
            stored("8.4 RFC 9110 §14.2 two that are not there").ask(
                get().has("range", "bytes=20-21,30-40").check(|outcome| {
                    match outcome.answer()?.parts.status.as_u16() {
                        200 | 416 => Ok(()),
                        other => Err(other.to_string()),
                    }
                }),
            ),
            stored("8.4 RFC 9110 §17.15 many that overlap").ask(
                get()
                    .has("range", &many(|_| "0-".to_owned(), 100))
                    .hit(DIGITS),
            ),
            stored("8.4 RFC 9110 §17.15 many small ones").ask(
                get()
                    .has("range", &many(|at| format!("{0}-{0}", at % 10), 1000))
                    .hit(DIGITS),
            ),
            stored("8.4 RFC 9110 §14.1.1 one of them is no range: all are ignored")
                .ask(get().has("range", "bytes=0-1,x").hit(DIGITS)),
        ]
    })
    .await;
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_8_5_parts_are_not_stored() {
    play(|| {
        let asked = || get().has("range", "bytes=0-3");
        vec![
            book("8.5 §3.3 a part answers nobody else")
                .ask(
                    asked()
                        .origin_by(part_or_all)
                        .status(206)
                        .text("0123")
                        .unsaid("stored"),
                )
                .ask(asked().origin_by(part_or_all).status(206).text("0123"))
                .ask(get().origin(digits()))
                .ask(asked().status(206).text("0123").said("hit")),
            row("8.5 §3.3 nor does one that was not asked for")
                .ask(get().origin(digits_of("0123").has("content-range", "bytes 0-3/10")))
                .ask(get().origin(digits())),
        ]
    })
    .await;
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_8_6_a_miss_with_a_range() {
    play(|| {
        let asked = || get().has("range", "bytes=0-3");
        vec![
            book("8.6 §3.3 it goes on as it is")
                .ask(
                    asked()
                        .has("if-range", "\"v\"")
                        .origin_by(part_or_all)
                        .sees("range", "bytes=0-3")
                        .sees("if-range", "\"v\"")
                        .status(206)
                        .text("0123"),
                )
                .ask(get().origin(digits())),
            book("8.6 §3.3 and its answer comes as it is, if that is the whole")
                .ask(
                    asked()
                        .origin(digits())
                        .sees("range", "bytes=0-3")
                        .lacks("content-range"),
                )
                .ask(get().maybe(|_| digits()).status(200).text(DIGITS)),
            book("8.6 §5.2.1.7 unless it takes what is stored only")
                .ask(asked().cc("only-if-cached").status(504)),
            book("8.6 §3.3 and so does a 416")
                .ask(asked().origin(reply("").status(416).has("content-range", "bytes */2")))
                .ask(get().origin(digits())),
        ]
    })
    .await;
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_8_6_a_miss_with_a_range_by_choice() {
    play(|| {
        let asked = || get().has("range", "bytes=0-3");
        let whole = |row: Row| {
            row.ask(
                asked()
                    .behind(digits())
                    .unseen("range")
                    .status(206)
                    .text("0123")
                    .shows("content-range", "bytes 0-3/10"),
            )
            .ask(get().hit(DIGITS))
            .ask(asked().status(206).text("0123").said("hit"))
        };
        vec![
            whole(
                book("8.6 by choice, the whole is fetched")
                    .with(|layer| layer.whole_for_ranges(true)),
            ),
            whole(policy("8.6 here the whole is fetched")),
            policy("8.6 here too, by choice, it goes on as it is")
                .with(|layer| layer.whole_for_ranges(false))
                .ask(
                    asked()
                        .origin_by(part_or_all)
                        .sees("range", "bytes=0-3")
                        .status(206)
                        .text("0123"),
                )
                .ask(get().origin(digits())),
            policy("8.6 what is no whole is not cut").ask(
                asked()
                    .origin(reply("none").status(404))
                    .lacks("content-range"),
            ),
        ]
    })
    .await;
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_8_6_a_range_of_what_is_stale() {
    play(|| {
        let says = || tagged(DIGITS);
        let origin = |seen: &Seen| {
            let told = or_not_modified(seen, &tagged(DIGITS));
            match seen.header("range") {
                Some(_) if seen.header("if-none-match").is_none() => reply("0123")
                    .status(206)
                    .etag(&format!("\"{DIGITS}\""))
                    .has("content-range", "bytes 0-3/10"),
                _ => told,
            }
        };
        vec![
            row("8.6 §4.3 it is validated, or goes on as it is")
                .ask(get().origin(says()))
                .after(20)
                .ask(
                    get()
                        .has("range", "bytes=0-3")
                        .maybe(origin)
                        .status(206)
                        .text("0123")
                        .shows("content-range", "bytes 0-3/10"),
                )
                .ask(get().maybe(origin).status(200).text(DIGITS)),
        ]
    })
    .await;
}

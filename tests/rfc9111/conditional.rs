//! Section 7: what a client has already (RFC 9111 §4.3.2, RFC 9110 §13).

use crate::harness::{
    LONG_AGO, MINUTE, Reply, Row, book, fresh, get, head, or_not_modified, play, policy, reply,
    row, tagged,
};

fn stored(name: impl Into<String>, says: Reply) -> Row {
    row(name).ask(get().origin(says))
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_7_1_which_conditions_and_in_which_order() {
    play(|| {
        let says = || fresh("1").etag("\"1\"").has("last-modified", LONG_AGO);
        let later = "Wed, 15 Nov 1995 12:45:26 GMT";
        let earlier = "Mon, 15 Nov 1993 12:45:26 GMT";
        vec![
            stored(
                "7.1 §4.3.2 If-None-Match holds, whatever If-Modified-Since says",
                says(),
            )
            .ask(
                get()
                    .has("if-none-match", "\"1\"")
                    .has("if-modified-since", earlier)
                    .status(304)
                    .said("hit"),
            ),
            stored(
                "7.1 RFC 9110 §13.2.2 If-None-Match does not hold, whatever If-Modified-Since says",
                says(),
            )
            .ask(
                get()
                    .has("if-none-match", "\"2\"")
                    .has("if-modified-since", later)
                    .hit("1"),
            ),
            stored("7.1 RFC 9110 §13.2.2 then Range", says()).ask(
                get()
                    .has("if-none-match", "\"2\"")
                    .has("range", "bytes=0-0")
                    .status(206)
                    .text("1"),
            ),
            stored(
                "7.1 RFC 9110 §13.2.2 a condition that holds comes before Range",
                says(),
            )
            .ask(
                get()
                    .has("if-none-match", "\"1\"")
                    .has("range", "bytes=0-0")
                    .status(304),
            ),
            book("7.1 §4.3.2 only of a stored 200")
                .ask(get().origin(says().status(404)))
                .ask(get().has("if-none-match", "\"1\"").status(404).hit("1")),
            policy("7.1 §4.3.2 only of a stored 200")
                .with(|layer| layer.status(http::StatusCode::NOT_FOUND, MINUTE).unwrap())
                .ask(get().origin(says().status(404)))
                .ask(get().has("if-none-match", "\"1\"").status(404).hit("1"))
                .ask(
                    get()
                        .has("if-modified-since", LONG_AGO)
                        .status(404)
                        .hit("1"),
                ),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_7_1_if_match_is_for_the_origin() {
    play(|| {
        let mut rows = Vec::new();
        for (name, value) in [
            ("if-match", "\"2\""),
            ("if-unmodified-since", "Mon, 15 Nov 1993 12:45:26 GMT"),
        ] {
            let says = || fresh("1").etag("\"1\"").has("last-modified", LONG_AGO);
            rows.push(
                book(format!("7.1 §4.3.2 {name} goes to the origin"))
                    .ask(get().origin(says()))
                    .ask(
                        get()
                            .has(name, value)
                            .origin(reply("").status(412))
                            .sees(name, value),
                    )
                    .ask(get().hit("1")),
            );
            rows.push(
                book(format!("7.1 §4.3.2 {name} goes to the origin on a miss"))
                    .ask(
                        get()
                            .has(name, value)
                            .origin(reply("").status(412))
                            .sees(name, value),
                    )
                    .ask(get().origin(says())),
            );
            rows.push(
                policy(format!("7.1 the layer does not heed {name}"))
                    .ask(get().origin(says()))
                    .ask(get().has(name, value).hit("1")),
            );
        }
        rows
    })
    .await;
}

/// What is stored, and what asks whether it has changed: it has not.
const IS_IN: [(&str, &str); 13] = [
    ("\"1\"", "\"1\""),
    ("\"1\"", "W/\"1\""),
    ("W/\"1\"", "\"1\""),
    ("W/\"1\"", "W/\"1\""),
    ("\"1\"", "\"0\", \"1\""),
    ("\"1\"", "\"0\",\"1\""),
    ("\"1\"", " , \"0\" ,, W/\"1\" , "),
    ("\"1\"", "*"),
    ("\"a,b\"", "\"a,b\""),
    ("\"a,b\"", "\"x\", \"a,b\""),
    ("\"\"", "\"\""),
    ("\"\u{e9}\"", "\"\u{e9}\""),
    ("\"a\\b\"", "\"a\\b\""),
];

/// The same: it has.
const IS_NOT_IN: [(&str, &str); 9] = [
    ("\"1\"", "\"2\""),
    ("\"1\"", "\"0\", \"2\""),
    ("\"1\"", "\"11\""),
    ("\"b\"", "\"a,b\""),
    ("\"b\"", "\"a\\\"b\\\"\""),
    ("\"a\"", "\"A\""),
    ("\"a\"", "\"a,\"b\""),
    ("\"1\"", ""),
    ("\"*\"", "\"1\""),
];

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_7_2_if_none_match() {
    play(|| {
        let holds = IS_IN.map(|(etag, asked)| {
            stored(
                format!("7.2 RFC 9110 §8.8.3.2 {etag} is in {asked}"),
                fresh("1").etag(etag),
            )
            .ask(
                get()
                    .has("if-none-match", asked)
                    .status(304)
                    .text("")
                    .said("hit"),
            )
            .ask(get().hit("1"))
        });
        let fails = IS_NOT_IN.map(|(etag, asked)| {
            stored(
                format!("7.2 RFC 9110 §8.8.3.2 {etag} is not in {asked}"),
                fresh("1").etag(etag),
            )
            .ask(get().has("if-none-match", asked).hit("1"))
        });
        let others = [
            stored(
                "7.2 RFC 9110 §13.1.2 in two lines",
                fresh("1").etag("\"1\""),
            )
            .ask(
                get()
                    .has("if-none-match", "\"0\"")
                    .has("if-none-match", "\"1\"")
                    .status(304),
            ),
            stored(
                "7.2 RFC 9110 §13.1.2 what has no ETag matches only `*`",
                fresh("1"),
            )
            .ask(get().has("if-none-match", "\"1\"").hit("1"))
            .ask(get().has("if-none-match", "*").status(304)),
            stored("7.2 RFC 9110 §13.1.2 of a HEAD", fresh("1").etag("\"1\""))
                .ask(head().has("if-none-match", "\"1\"").status(304))
                .ask(head().has("if-none-match", "\"2\"").hit("")),
        ];
        holds.into_iter().chain(fails).chain(others).collect()
    })
    .await;
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_7_3_if_modified_since() {
    play(|| {
        let mut rows = Vec::new();
        let later = "Wed, 15 Nov 1995 12:45:26 GMT";
        for (since, unchanged) in [
            (LONG_AGO, true),
            (later, true),
            ("Tue, 15 Nov 1994 12:45:27 GMT", true),
            ("Tue, 15 Nov 1994 12:45:25 GMT", false),
            ("Mon, 15 Nov 1993 12:45:26 GMT", false),
            ("yesterday", false),
            ("1", false),
        ] {
            let asked = get().has("if-modified-since", since);
            let stored = stored(
                format!("7.3 RFC 9110 §13.1.3 since {since}"),
                fresh("1").has("last-modified", LONG_AGO),
            );
            rows.push(stored.ask(if unchanged {
                asked.status(304).said("hit")
            } else {
                asked.hit("1")
            }));
        }
        rows.push(
            stored(
                "7.3 §4.3.2 without Last-Modified, Date counts",
                fresh("1").has("date", "{now-10}"),
            )
            .ask(get().has("if-modified-since", "{now-5}").status(304))
            .ask(get().has("if-modified-since", "{now-100}").hit("1")),
        );
        rows.push(
            stored(
                "7.3 §4.3.2 without Date either, the time of receipt counts",
                fresh("1"),
            )
            .ask(get().has("if-modified-since", "{now+5}").status(304))
            .ask(get().has("if-modified-since", "{now-100}").hit("1")),
        );
        rows.push(
            stored(
                "7.3 RFC 9110 §13.1.3 two lines are no date",
                fresh("1").has("last-modified", LONG_AGO),
            )
            .ask(
                get()
                    .has("if-modified-since", LONG_AGO)
                    .has("if-modified-since", later)
                    .hit("1"),
            ),
        );
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_7_4_what_a_304_has() {
    play(|| {
        let kept = [
            ("content-location", "/there"),
            ("date", "Sun, 06 Nov 2044 08:49:37 GMT"),
            ("etag", "\"1\""),
            ("vary", "foo"),
            ("cache-control", "max-age=60"),
            ("expires", "Sun, 06 Nov 2044 08:49:37 GMT"),
        ];
        let says = kept
            .iter()
            .fold(reply("12345"), |says, (name, value)| says.has(name, value));
        let asked = get()
            .has("if-none-match", "\"1\"")
            .status(304)
            .text("")
            .said("hit")
            .age(10);
        let asked = kept
            .iter()
            .fold(asked, |ask, (name, value)| ask.shows(name, value));
        vec![
            stored("7.4 RFC 9110 §15.4.5 what a 200 would have", says)
                .after(10)
                .ask(asked.check(
                    |outcome| match outcome.shown("content-length")?.as_deref() {
                        None | Some("5") => Ok(()),
                        Some(other) => Err(format!("content-length: {other}")),
                    },
                )),
        ]
    })
    .await;
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_7_5_what_is_stale_is_validated_first() {
    play(|| {
        let stale = |name: &str| stored(format!("7.5 §4.3.2 {name}"), tagged("1")).after(20);
        let asked = |etag| get().has("if-none-match", etag);
        vec![
            stale("it has not changed, and the client has it")
                .ask(
                    asked("\"1\"")
                        .maybe(|seen| or_not_modified(seen, &tagged("1")))
                        .status(304),
                )
                .ask(get().hit("1")),
            stale("it has changed, and the client has the old one")
                .ask(
                    asked("\"1\"")
                        .maybe(|seen| or_not_modified(seen, &tagged("2")))
                        .status(200)
                        .text("2"),
                )
                .ask(get().hit("2")),
            stale("it has changed, and the client has the new one")
                .ask(
                    asked("\"2\"")
                        .maybe(|seen| or_not_modified(seen, &tagged("2")))
                        .status(304),
                )
                .ask(
                    get()
                        .maybe(|seen| or_not_modified(seen, &tagged("2")))
                        .status(200)
                        .text("2"),
                ),
            stale("nobody can tell").ask(asked("\"1\"").origin(reply("failed").status(500))),
        ]
    })
    .await;
}

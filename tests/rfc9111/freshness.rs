//! Section 3: freshness, age and dates (RFC 9111 §4.2, §5.1, §5.3).

use crate::harness::{LONG_AGO, Row, book, fresh, get, play, policy, reply, row};

#[tokio::test(start_paused = true)]
async fn rule_3_1_where_a_lifetime_comes_from() {
    play(|| {
        vec![
            row("3.1 §4.2.1 s-maxage before max-age")
                .lives(&reply("1").cc("s-maxage=100, max-age=10"), 100),
            row("3.1 §4.2.1 s-maxage before a longer max-age")
                .lives(&reply("1").cc("max-age=100, s-maxage=10"), 10),
            book("3.1 §4.2.1 max-age before Expires").lives(
                &reply("1").cc("max-age=100").has("expires", "{now-60}"),
                100,
            ),
            book("3.1 §4.2.1 max-age before a later Expires").lives(
                &reply("1").cc("max-age=10").has("expires", "{now+6000}"),
                10,
            ),
            book("3.1 §4.2.1 Expires less Date").lives_about(
                &reply("1").has("date", "{now}").has("expires", "{now+100}"),
                100,
            ),
            book("3.1 §4.2.1 Expires less an old Date").lives_about(
                &reply("1")
                    .has("date", "{now-50}")
                    .has("expires", "{now+50}"),
                50,
            ),
            book("3.1 §4.2.1 Expires without Date")
                .lives_about(&reply("1").has("expires", "{now+100}"), 100),
            book("3.1 §4.2.1 Expires before heuristics").lives_about(
                &reply("1")
                    .has("date", "{now}")
                    .has("expires", "{now+10}")
                    .has("last-modified", LONG_AGO),
                10,
            ),
            policy("3.1 the layer's ttl, not max-age").lives(&reply("1").cc("max-age=10"), 60),
            policy("3.1 the layer's ttl, not Expires")
                .lives(&reply("1").has("expires", "{now+10}"), 60),
            policy("3.1 nothing where Expires is in the past")
                .refuses(&reply("1").has("expires", "{now-10}")),
            policy("3.1 nothing with max-age=0").refuses(&reply("1").cc("max-age=0")),
            policy("3.1 the layer's ttl, where it ignores max-age")
                .with(|builder| builder.ignore_max_age())
                .lives(&reply("1").cc("max-age=0"), 60),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_2_expires_does_not_count_beside_max_age() {
    play(|| {
        ["0", "tomorrow", "", "{now-100}"]
            .into_iter()
            .flat_map(|expires| {
                ["max-age=100", "s-maxage=100"].map(|value| {
                    book(format!("3.2 §5.3 {value} beside Expires: {expires:?}"))
                        .lives(&reply("1").cc(value).has("expires", expires), 100)
                })
            })
            .collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_3_a_lifetime_of_nothing_is_stale_at_once() {
    play(|| {
        vec![
            row("3.3 §4.2 s-maxage=0").refuses(&reply("1").cc("s-maxage=0")),
            row("3.3 §4.2 s-maxage=0 before max-age")
                .refuses(&reply("1").cc("s-maxage=0, max-age=60")),
            book("3.3 §4.2 max-age=0").refuses(&reply("1").cc("max-age=0")),
            book("3.3 §4.2 max-age=0, public").refuses(&reply("1").cc("max-age=0, public")),
            book("3.3 §4.2 Expires of the same second as Date")
                .refuses(&reply("1").has("date", "{now}").has("expires", "{now}")),
            row("3.3 §4.2 s-maxage=1 is fresh for less than a second")
                .lives(&reply("1").cc("s-maxage=1"), 1),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_4_how_old_a_response_is() {
    play(|| {
        vec![
            row("3.4 §4.2.3 Age counts").lives(&reply("1").cc("s-maxage=100").has("age", "30"), 70),
            book("3.4 §4.2.3 Age counts against max-age")
                .lives(&reply("1").cc("max-age=100").has("age", "30"), 70),
            book("3.4 §4.2.3 a Date in the past counts")
                .lives_about(&reply("1").cc("max-age=100").has("date", "{now-30}"), 70),
            book("3.4 §4.2.3 a Date in the future does not count")
                .lives(&reply("1").cc("max-age=100").has("date", "{now+1000}"), 100),
            book("3.4 §4.2.3 the time that the response took counts")
                .lives(&reply("1").cc("max-age=100").takes(5), 95),
            book("3.4 §4.2.3 it counts with Age")
                .lives(&reply("1").cc("max-age=100").has("age", "30").takes(5), 65),
            row("3.4 §4.2.3 an Age beyond the lifetime")
                .refuses(&reply("1").cc("s-maxage=100").has("age", "100")),
            book("3.4 §4.2.3 a Date before the lifetime")
                .refuses(&reply("1").cc("max-age=100").has("date", "{now-200}")),
            row("3.4 §4.2.3 a Date that is none is no Date")
                .lives(&reply("1").cc("s-maxage=100").has("date", "yesterday"), 100),
            row("3.4 §4.2.3 nor are two").lives_about(
                &reply("1")
                    .cc("s-maxage=100")
                    .has("date", "{now}")
                    .has("date", "{now}"),
                100,
            ),
            row("3.4 §4.2.3 Age and Date both: the greater")
                .ask(
                    get().origin(
                        reply("1")
                            .cc("s-maxage=100")
                            .has("age", "30")
                            .has("date", "{now-20}"),
                    ),
                )
                .ask(get().hit("1").age(30)),
        ]
    })
    .await;
}

fn aged(name: &str, ages: &[&str]) -> (Row, crate::harness::Reply) {
    let mut says = reply("1").cc("s-maxage=3600");
    for age in ages {
        says = says.has("age", age);
    }
    (row(format!("3.5 §5.1 {name}: Age {ages:?}")), says)
}

#[tokio::test(start_paused = true)]
async fn rule_3_5_age_is_a_number_of_seconds() {
    play(|| {
        let mut rows = Vec::new();
        for ages in [
            &["7200"][..],
            &["7200, 0"],
            &["7200", "0"],
            &["7200, abc"],
            &["7200", "abc"],
            &["007200"],
            &["2147483648"],
            &["4294967297"],
            &["99999999999999999999999999"],
        ] {
            let (row, says) = aged("older than it may be", ages);
            rows.push(row.refuses(&says));
        }
        for ages in [
            &["0, 7200"][..],
            &["0", "7200"],
            &["abc, 7200"],
            &["abc", "7200"],
            &["-7200"],
            &["7200.0"],
            &["abc"],
            &["7200;foo=bar"],
            &[""],
            &["+7200"],
            &["0x1c20"],
        ] {
            let (row, says) = aged("not old", ages);
            rows.push(row.lives(&says, 3600));
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_6_delta_seconds_are_digits() {
    play(|| {
        let mut rows = Vec::new();
        for (value, seconds) in [
            ("3600", 3600),
            ("03600", 3600),
            ("0000000000000000000000003600", 3600),
            ("\"3600\"", 3600),
            ("2147483648", 100_000),
            ("99999999999999999999999999", 100_000),
        ] {
            for name in ["s-maxage", "max-age"] {
                let said = format!("3.6 §1.2.2 {name}={value}");
                let row = if name == "max-age" {
                    book(said)
                } else {
                    row(said)
                };
                let says = reply("1").cc(&format!("{name}={value}"));
                rows.push(if seconds == 3600 {
                    row.lives(&says, seconds)
                } else {
                    row.stores(&says).after(seconds).ask(get().hit("1"))
                });
            }
        }
        for value in [
            "=-3600",
            "='3600'",
            "=abc",
            "=3600.0",
            "=+3600",
            "= 3600",
            " =3600",
            "",
            "=",
            "=\"\"",
            "=3600abc",
            "=0x3600",
            "=\"-1\"",
            "=\"3600 \"",
            "=1e3",
        ] {
            rows.push(
                row(format!("3.6 §4.2.1 s-maxage{value}"))
                    .refuses(&reply("1").cc(&format!("s-maxage{value}"))),
            );
            rows.push(
                book(format!("3.6 §4.2.1 max-age{value}"))
                    .refuses(&reply("1").cc(&format!("max-age{value}"))),
            );
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_7_cache_control_is_a_list() {
    play(|| {
        let mut rows = Vec::new();
        for lines in [
            &["ext=\"s-maxage=3600\", s-maxage=10"][..],
            &["ext=\"a, s-maxage=3600, b\", s-maxage=10"],
            &["ext=\"\\\", s-maxage=3600, \", s-maxage=10"],
            &["S-MaxAge=10"],
            &[",, , s-maxage=10,,"],
            &["public", "s-maxage=10"],
            &["s-maxage=10", "public"],
            &["", "s-maxage=10"],
            &["\ts-maxage=10 \t,  public"],
        ] {
            let mut says = reply("1");
            for line in lines {
                says = says.cc(line);
            }
            rows.push(row(format!("3.7 §5.2 {lines:?}")).lives(&says, 10));
        }
        rows.push(
            book("3.7 §5.2 ext=\"max-age=3600\", max-age=1")
                .lives(&reply("1").cc("ext=\"max-age=3600\", max-age=1"), 1),
        );
        rows.push(
            row("3.7 §5.2 a quoted no-store is no directive")
                .stores(&fresh("1").cc("ext=\"no-store\"")),
        );
        rows.push(
            row("3.7 §5.2 what only begins or ends so is another directive")
                .stores(&fresh("1").cc("no-storex, x-no-store, privately")),
        );
        rows.push(
            row("3.7 §5.2 no-store after a quoted comma")
                .forgets(&fresh("1").cc("ext=\"a,b\", no-store")),
        );
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_8_what_stands_there_twice_or_contradicts_itself() {
    play(|| {
        let mut rows = Vec::new();
        for lines in [
            &["s-maxage=10, s-maxage=3600"][..],
            &["s-maxage=10", "s-maxage=3600"],
        ] {
            let mut says = reply("1");
            for line in lines {
                says = says.cc(line);
            }
            rows.push(
                row(format!("3.8 §4.2.1 the first, or none: {lines:?}"))
                    .ask(get().origin(says))
                    .after(10)
                    .ask(get().origin(fresh("2"))),
            );
        }
        for lines in [
            &["max-age=3600, max-age=10"][..],
            &["max-age=10, max-age=3600"],
            &["max-age=3600", "max-age=10"],
            &["max-age=10", "max-age=3600"],
        ] {
            let mut says = reply("1");
            for line in lines {
                says = says.cc(line);
            }
            rows.push(
                book(format!(
                    "3.8 §4.2.1 not for longer than any of them: {lines:?}"
                ))
                .ask(get().origin(says))
                .after(10)
                .ask(get().origin(fresh("2"))),
            );
        }
        for value in [
            "max-age=60, no-store",
            "public, private, max-age=60",
            "s-maxage=60, private",
        ] {
            rows.push(
                row(format!("3.8 §4.2.1 the most restrictive: {value}"))
                    .forgets(&reply("1").cc(value)),
            );
        }
        rows.push(
            row("3.8 §4.2.1 the most restrictive: no-cache")
                .refuses(&reply("1").cc("max-age=60, no-cache")),
        );
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_9_what_is_unknown_is_ignored() {
    play(|| {
        vec![
            row("3.9 §5.2.3 in a response")
                .lives(&reply("1").cc("s-maxage=10, foo, bar=1, baz=\"a\""), 10),
            row("3.9 §5.2.3 in a request")
                .ask(get().origin(fresh("1")))
                .ask(get().cc("foo, bar=\"no-cache\"").hit("1")),
            row("3.9 §5.2.3 what means something in a response only")
                .ask(get().origin(fresh("1")))
                .ask(get().cc("private, must-revalidate, s-maxage=0").hit("1")),
        ]
    })
    .await;
}

/// A year that is ahead, in four digits and in two.
const AHEAD: [(&str, &str); 9] = [
    ("the last second of all", "Fri, 31 Dec 9999 23:59:59 GMT"),
    ("IMF-fixdate", "Sun, 06 Nov 2044 08:49:37 GMT"),
    ("of the wrong weekday", "Mon, 06 Nov 2044 08:49:37 GMT"),
    ("in lower case", "sun, 06 nov 2044 08:49:37 gmt"),
    ("in upper case", "SUN, 06 NOV 2044 08:49:37 GMT"),
    ("RFC 850", "Sunday, 06-Nov-44 08:49:37 GMT"),
    ("RFC 850 in lower case", "sunday, 06-nov-44 08:49:37 gmt"),
    ("asctime", "Sun Nov  6 08:49:37 2044"),
    (
        "asctime of a day with two digits",
        "Wed Nov 16 08:49:37 2044",
    ),
];

const NO_DATES: [(&str, &str); 19] = [
    ("another zone", "Sun, 06 Nov 2044 08:49:37 EST"),
    ("UTC", "Sun, 06 Nov 2044 08:49:37 UTC"),
    ("an offset", "Sun, 06 Nov 2044 08:49:37 +0000"),
    ("no zone", "Sun, 06 Nov 2044 08:49:37"),
    ("a year of two digits", "Sun, 06 Nov 44 08:49:37 GMT"),
    ("no comma", "Sun 06 Nov 2044 08:49:37 GMT"),
    ("dashes", "Sun, 06-Nov-2044 08:49:37 GMT"),
    ("dots", "Sun, 06 Nov 2044 08.49.37 GMT"),
    ("an hour of one digit", "Sun, 06 Nov 2044 8:49:37 GMT"),
    ("two spaces", "Sun, 06  Nov  2044 08:49:37 GMT"),
    ("a day of one digit", "Sun, 6 Nov 2044 08:49:37 GMT"),
    ("a 32nd", "Sun, 32 Nov 2044 08:49:37 GMT"),
    ("no such month", "Sun, 06 Foo 2044 08:49:37 GMT"),
    ("no such hour", "Sun, 06 Nov 2044 25:49:37 GMT"),
    ("0", "0"),
    ("-1", "-1"),
    ("nothing", ""),
    ("a number of seconds", "3600"),
    ("ISO 8601", "2044-11-06T08:49:37Z"),
];

// Invariant 19.
#[tokio::test(start_paused = true)]
async fn rule_3_10_dates_of_three_forms_and_no_other() {
    play(|| {
        let mut rows = Vec::new();
        for (form, date) in AHEAD {
            rows.push(
                book(format!("3.10 RFC 9110 §5.6.7 {form}: {date}"))
                    .stores(&reply("1").has("expires", date)),
            );
        }
        for (form, date) in NO_DATES {
            rows.push(
                book(format!("3.10 §5.3 {form}: {date}")).refuses(&reply("1").has("expires", date)),
            );
        }
        rows.push(
            book("3.10 RFC 9110 §5.6.7 RFC 850, of more than 50 years ahead, was long ago")
                .refuses(&reply("1").has("expires", "Sunday, 06-Nov-94 08:49:37 GMT")),
        );
        rows.push(
            book("3.10 §5.3 two lines of Expires").refuses(
                &reply("1")
                    .has("expires", "{now+60}")
                    .has("expires", "{now+120}"),
            ),
        );
        rows
    })
    .await;
}

// Invariant 23.
#[tokio::test(start_paused = true)]
async fn rule_3_10_dates_in_if_modified_since() {
    play(|| {
        let stored = || fresh("1").has("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        let mut rows = Vec::new();
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "sun, 06 nov 1994 08:49:37 gmt",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            rows.push(
                row(format!("3.10 RFC 9110 §5.6.7 If-Modified-Since: {date}"))
                    .ask(get().origin(stored()))
                    .ask(get().has("if-modified-since", date).status(304).said("hit")),
            );
        }
        for (form, date) in NO_DATES {
            if date.is_empty() {
                continue;
            }
            rows.push(
                row(format!(
                    "3.10 RFC 9110 §13.1.3 If-Modified-Since with {form}: {date}"
                ))
                .ask(get().origin(stored()))
                .ask(get().has("if-modified-since", date).hit("1")),
            );
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_11_heuristic_freshness() {
    play(|| {
        let modified = |value: &str| reply("1").has("date", "{now}").has("last-modified", value);
        vec![
            book("3.11 §4.2.2 a tenth of the time since it was last modified")
                .lives_about(&modified("{now-1000}"), 100),
            book("3.11 §4.2.2 a day at the most").lives_about(&modified(LONG_AGO), 24 * 60 * 60),
            book("3.11 §4.2.2 a Last-Modified in the future").refuses(&modified("{now+1000}")),
            book("3.11 §4.2.2 a Last-Modified that is none").refuses(&modified("long ago")),
            book("3.11 §4.2.2 not beside an explicit expiry")
                .refuses(&modified(LONG_AGO).cc("max-age=0")),
            book("3.11 §4.2.2 not beside an Expires that is no date")
                .refuses(&modified(LONG_AGO).has("expires", "0")),
            book("3.11 §4.2.2 by choice, less")
                .with(|layer| {
                    layer
                        .heuristic_freshness(0.01, std::time::Duration::from_secs(3600))
                        .unwrap()
                })
                .lives_about(&modified("{now-1000}"), 10),
            book("3.11 §4.2.2 by choice, none")
                .with(|layer| {
                    layer
                        .heuristic_freshness(0.0, std::time::Duration::ZERO)
                        .unwrap()
                })
                .refuses(&modified(LONG_AGO)),
            policy("3.11 the layer's ttl instead").lives(&modified(LONG_AGO), 60),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_3_12_nothing_to_go_by() {
    play(|| {
        vec![
            book("3.12 §4 neither freshness nor validator").forgets(&reply("1")),
            book("3.12 §4 public alone").forgets(&reply("1").cc("public")),
            policy("3.12 the layer's ttl instead").lives(&reply("1"), 60),
        ]
    })
    .await;
}

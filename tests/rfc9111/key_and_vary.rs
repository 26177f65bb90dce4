//! Section 2: the cache key and Vary (RFC 9111 §2, §4, §4.1).

use crate::harness::{Ask, Row, ask, book, fresh, get, play, policy, reply, row};

// Invariant 8.
#[tokio::test(start_paused = true)]
async fn rule_2_1_the_key_is_the_whole_target() {
    play(|| {
        let mut rows = Vec::new();
        for (what, one, other) in [
            ("path", "/a", "/b"),
            ("case of the path", "/a", "/A"),
            ("percent-encoding", "/a", "/%61"),
            ("case of percent-encoding", "/%c3%a4", "/%C3%A4"),
            ("dots", "/a", "/b/../a"),
            ("trailing slash", "/a", "/a/"),
            ("two slashes", "/a/b", "/a//b"),
            ("query", "/a?x=1", "/a?x=2"),
            ("order of the query", "/a?x=1&y=2", "/a?y=2&x=1"),
            ("empty query", "/a", "/a?"),
            ("no query", "/a?x=1", "/a"),
        ] {
            rows.push(
                row(format!("2.1 §2 another {what}"))
                    .ask(ask("GET", one).origin(fresh("1")))
                    .ask(ask("GET", other).origin(fresh("2")))
                    .ask(ask("GET", one).hit("1"))
                    .ask(ask("GET", other).hit("2")),
            );
        }
        rows.push(
            row("2.1 §2 another host")
                .ask(get().origin(fresh("1")))
                .ask(get().at("other.example").origin(fresh("2")))
                .ask(get().hit("1"))
                .ask(get().at("other.example").hit("2")),
        );
        rows.push(
            row("2.1 §2 another port")
                .ask(get().origin(fresh("1")))
                .ask(get().at("shop.example:8080").origin(fresh("2"))),
        );
        rows.push(
            row("2.1 RFC 9110 §4.2.3 a host is the same in any case")
                .ask(get().origin(fresh("1")))
                .ask(get().at("SHOP.example").hit("1")),
        );
        rows
    })
    .await;
}

// Invariants 13, 14.
#[tokio::test(start_paused = true)]
async fn rule_2_2_what_is_not_in_the_key_decides_nothing() {
    play(|| {
        let mut rows = vec![
            row("2.2 RFC 9110 §9.3.1 a GET with a body passes by")
                .ask(get().body("{}").origin(fresh("1")).said("fwd=bypass"))
                .ask(get().body("{}").origin(fresh("2")))
                .ask(get().origin(fresh("3"))),
        ];
        for (name, value) in [
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "http"),
            ("forwarded", "host=evil.example"),
            ("x-original-url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("x-http-method-override", "DELETE"),
        ] {
            rows.push(
                row(format!("2.2 {name} is for no other"))
                    .ask(get().has(name, value).origin(fresh("1")))
                    .ask(get().origin(fresh("2")))
                    .ask(get().hit("2")),
            );
        }
        rows
    })
    .await;
}

// Invariant 4.
#[tokio::test(start_paused = true)]
async fn rule_2_3_vary_by_everything_is_never_reused() {
    play(|| {
        [
            &["*"][..],
            &["foo, *"],
            &["*, foo"],
            &[", *"],
            &["", "*"],
            &["foo", "*"],
            &[" * "],
        ]
        .into_iter()
        .map(|lines| {
            let says = lines
                .iter()
                .fold(fresh("1"), |says, line| says.has("vary", line));
            row(format!("2.3 §4.1 {lines:?}")).refuses(&says)
        })
        .collect()
    })
    .await;
}

type Headers = &'static [(&'static str, &'static str)];

/// What `Vary` says, what the first request had, and the second; whether they match.
const MATCHES: [(&str, &str, Headers, Headers, bool); 16] = [
    ("the same", "foo", &[("foo", "1")], &[("foo", "1")], true),
    ("another", "foo", &[("foo", "1")], &[("foo", "2")], false),
    (
        "another case of the value",
        "foo",
        &[("foo", "a")],
        &[("foo", "A")],
        false,
    ),
    ("absent then present", "foo", &[], &[("foo", "1")], false),
    ("present then absent", "foo", &[("foo", "1")], &[], false),
    ("absent then empty", "foo", &[], &[("foo", "")], false),
    ("absent twice", "foo", &[], &[], true),
    (
        "the name in another case",
        "FoO",
        &[("foo", "1")],
        &[("foo", "2")],
        false,
    ),
    (
        "one of two differs",
        "foo, bar",
        &[("foo", "1"), ("bar", "1")],
        &[("foo", "1"), ("bar", "2")],
        false,
    ),
    (
        "both are the same",
        "foo, bar",
        &[("foo", "1"), ("bar", "1")],
        &[("bar", "1"), ("foo", "1")],
        true,
    ),
    (
        "one of two is absent",
        "foo, bar",
        &[("foo", "1"), ("bar", "1")],
        &[("foo", "1")],
        false,
    ),
    (
        "what is not named may differ",
        "foo",
        &[("foo", "1"), ("baz", "1")],
        &[("foo", "1"), ("baz", "2")],
        true,
    ),
    (
        "two lines are one",
        "foo",
        &[("foo", "1"), ("foo", "2")],
        &[("foo", "1, 2")],
        true,
    ),
    (
        "another order of lines",
        "foo",
        &[("foo", "1"), ("foo", "2")],
        &[("foo", "2"), ("foo", "1")],
        false,
    ),
    (
        "white space around the value",
        "foo",
        &[("foo", "1")],
        &[("foo", " 1 ")],
        true,
    ),
    (
        "an empty member of the list",
        ", foo,",
        &[("foo", "1")],
        &[("foo", "2")],
        false,
    ),
];

fn get_with(headers: Headers) -> Ask {
    headers
        .iter()
        .fold(get(), |get, (name, value)| get.has(name, value))
}

// Invariant 4.
#[tokio::test(start_paused = true)]
async fn rule_2_4_all_nominated_fields_match() {
    play(|| {
        let row = |(name, vary, one, other, matches): (&str, &str, Headers, Headers, bool)| {
            let says = |body| fresh(body).has("vary", vary);
            let row = row(format!("2.4 §4.1 {name}")).ask(get_with(one).origin(says("1")));
            if matches {
                return row.ask(get_with(other).hit("1"));
            }
            row.ask(get_with(other).origin(says("2")).said("fwd=vary-miss"))
                .ask(get_with(one).hit("1"))
                .ask(get_with(other).hit("2"))
        };
        MATCHES.map(row).into()
    })
    .await;
}

// Invariant 4.
#[tokio::test(start_paused = true)]
async fn rule_2_4_vary_in_several_lines() {
    play(|| {
        let says = |body: &str| fresh(body).has("vary", "foo").has("vary", "bar");
        vec![
            row("2.4 §4.1 each line nominates")
                .ask(get().has("foo", "1").has("bar", "1").origin(says("1")))
                .ask(get().has("foo", "1").has("bar", "2").origin(says("2")))
                .ask(get().has("foo", "2").has("bar", "1").origin(says("3")))
                .ask(get().has("foo", "1").has("bar", "1").hit("1")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_2_5_what_means_the_same_is_the_same() {
    play(|| {
        let case = |field: &'static str, one: &str, other: &str, matches: bool| -> Row {
            let row = row(format!("2.5 §4.1 {field}: {one} and {other}"))
                .ask(get().has(field, one).origin(fresh("1").has("vary", field)));
            if matches {
                row.ask(get().has(field, other).hit("1"))
            } else {
                row.ask(get().has(field, other).origin(fresh("2")))
            }
        };
        vec![
            case("accept-encoding", "gzip, br", "br, gzip", true),
            case("accept-encoding", "gzip, br", "gzip,br", true),
            case("accept-encoding", "gzip, br", "GZip, bR", true),
            case("accept-encoding", "gzip, br", "gzip , br", true),
            case("accept-encoding", "gzip;q=0.5, br", "br, gzip;q=0.5", true),
            case("accept-encoding", "gzip;q=0.5, br", "gzip, br;q=0.5", false),
            case("accept-encoding", "gzip, br", "gzip", false),
            case("accept-encoding", "gzip", "gzip;q=0", false),
            case("accept-language", "en, de", "en,de", true),
            case("accept-language", "en-GB, de", "EN-gb, DE", true),
            case("accept-language", "en, de;q=0.5", "de, en;q=0.5", false),
            case("accept-language", "en", "de", false),
            case("x-other", "a", "A", false),
        ]
    })
    .await;
}

// Invariant 4.
#[tokio::test(start_paused = true)]
async fn rule_2_6_responses_of_one_uri_may_vary_by_different_fields() {
    play(|| {
        vec![
            row("2.6 §4.1 each has its own fields")
                .ask(
                    get()
                        .has("foo", "1")
                        .origin(fresh("foo").has("vary", "foo")),
                )
                .ask(
                    get()
                        .has("foo", "2")
                        .has("bar", "1")
                        .origin(fresh("bar").has("vary", "bar")),
                )
                .ask(get().has("foo", "1").has("bar", "2").hit("foo"))
                .ask(get().has("foo", "3").has("bar", "1").hit("bar"))
                .ask(
                    get()
                        .has("foo", "3")
                        .has("bar", "3")
                        .origin(fresh("3").has("vary", "bar")),
                ),
            row("2.6 §4.1 one without Vary comes after one that varies and is for it")
                .ask(
                    get()
                        .has("foo", "1")
                        .origin(fresh("foo").has("vary", "foo").has("date", "{now-20}")),
                )
                .ask(
                    get()
                        .has("foo", "2")
                        .origin(fresh("any").has("date", "{now-10}")),
                )
                .ask(get().has("foo", "1").hit("foo"))
                .ask(get().has("foo", "3").hit("any")),
            book("2.6 §4.1 one without Vary is not chosen where a later one varies")
                .ask(get().origin(fresh("any")))
                .ask(
                    get()
                        .has("foo", "1")
                        .cc("no-cache")
                        .origin(fresh("foo").has("vary", "foo")),
                )
                .ask(get().has("foo", "1").hit("foo"))
                .ask(
                    get()
                        .has("foo", "3")
                        .origin(fresh("third").has("vary", "foo")),
                ),
        ]
    })
    .await;
}

// Invariant 4.
#[tokio::test(start_paused = true)]
async fn rule_2_6_one_without_vary_where_the_others_are_gone() {
    play(|| {
        vec![
            row("2.6 §4.1 one without Vary is chosen once those that vary are gone")
                .ask(
                    get()
                        .has("foo", "1")
                        .origin(reply("foo").cc("s-maxage=10").has("vary", "foo")),
                )
                .ask(get().has("foo", "2").origin(fresh("any")))
                .after(20)
                .ask(get().has("foo", "3").hit("any")),
        ]
    })
    .await;
}

// Invariant 57.
#[tokio::test(start_paused = true)]
async fn rule_2_7_variants_are_bounded() {
    play(|| {
        let says = |body: &str| fresh(body).has("vary", "foo");
        let asked = |foo: &str| get().has("foo", foo);
        let mut crowd = row("2.7 as it comes, there are twelve");
        for foo in 1..=13 {
            let foo = foo.to_string();
            crowd = crowd.ask(asked(&foo).origin(says(&foo)));
        }
        for foo in (2..=13).rev() {
            let foo = foo.to_string();
            crowd = crowd.ask(asked(&foo).hit(&foo));
        }
        vec![
            crowd.ask(asked("1").origin(says("again"))),
            row("2.7 the oldest leaves")
                .with(|layer| layer.max_variants(2))
                .ask(asked("1").origin(says("1")))
                .ask(asked("2").origin(says("2")))
                .ask(asked("3").origin(says("3")))
                .ask(asked("3").hit("3"))
                .ask(asked("2").hit("2"))
                .ask(asked("1").origin(says("again"))),
            row("2.7 none is as one")
                .with(|layer| layer.max_variants(0))
                .ask(asked("1").origin(says("1")))
                .ask(asked("1").hit("1")),
        ]
    })
    .await;
}

// Invariant 24.
#[tokio::test(start_paused = true)]
async fn rule_2_8_what_is_encoded_is_for_those_who_accept_it() {
    play(|| {
        let says = || fresh("zip").has("content-encoding", "gzip");
        let gzip = || get().has("accept-encoding", "gzip");
        vec![
            row("2.8 compressed inside the cache, and said so")
                .ask(gzip().origin(says().has("vary", "accept-encoding")))
                .ask(get().origin(fresh("plain").has("vary", "accept-encoding")))
                .ask(gzip().hit("zip"))
                .ask(get().hit("plain")),
            row("2.8 compressed inside the cache, and not said so")
                .ask(gzip().origin(says()))
                .ask(get().origin(fresh("plain"))),
            row("2.8 compressed outside the cache: identity is for all")
                .ask(gzip().origin(fresh("plain")))
                .ask(get().hit("plain")),
        ]
    })
    .await;
}

// Invariant 2.
#[tokio::test(start_paused = true)]
async fn rule_2_9_a_cookie_in_the_request() {
    play(|| {
        let asked = |cookie| get().has("cookie", cookie);
        vec![
            book("2.9 it does not keep a request from what is for all")
                .ask(get().origin(fresh("1").cc("public")))
                .ask(asked("sid=1").hit("1")),
            book("2.9 what does not say so is for those without one")
                .ask(get().origin(fresh("1")))
                .ask(asked("sid=1").origin(fresh("2")))
                .ask(get().hit("1")),
            policy("2.9 it passes by, unless it is in the key or makes no difference")
                .ask(get().origin(fresh("1").cc("public")))
                .ask(asked("sid=1").origin(fresh("2")).said("fwd=bypass")),
            policy("2.9 it makes no difference")
                .with(|layer| layer.key(tower_response_cache::Key::new().ignore_cookies()))
                .ask(get().origin(fresh("1")))
                .ask(asked("sid=1").hit("1")),
        ]
    })
    .await;
}

//! Section 16: groups of responses (RFC 9875).

use tower::Layer;

use crate::{
    common::{self, Gate, settle},
    harness::{Ask, Mode, Reply, Row, ask, book, fresh, get, play, policy, reply},
};

fn member(path: &str, groups: &str) -> Ask {
    ask("GET", path).origin(fresh(path).has("cache-groups", groups))
}

/// A row of each mode; the layer that decides heeds groups by choice.
fn both(name: impl Into<String>, rest: impl Fn(Row) -> Row) -> [Row; 2] {
    let name = name.into();
    let chosen = policy(name.clone()).with(|layer| layer.cache_groups(true));
    [rest(book(name)), rest(chosen)]
}

fn post(says: Reply) -> Ask {
    ask("POST", "/change").origin(says)
}

fn ends(groups: &str) -> Ask {
    post(reply("").has("cache-group-invalidation", groups))
}

fn is_gone(path: &str) -> Ask {
    ask("GET", path).origin(fresh("new"))
}

fn stays(path: &str) -> Ask {
    ask("GET", path).hit(path)
}

// Invariant 36.
#[tokio::test(start_paused = true)]
async fn rule_16_1_groups_of_responses() {
    play(|| {
        let case = |name: &str, groups: &'static str, ended: &'static str, gone: bool| {
            both(format!("16.1 RFC 9875 §2 {name}"), move |row| {
                let row = row.ask(member("/a", groups)).ask(ends(ended));
                row.ask(if gone { is_gone("/a") } else { stays("/a") })
            })
        };
        let many: Vec<_> = (10..42)
            .map(|number| format!("\"a-group-of-thirty-two-letters-{number}\""))
            .collect();
        let many: &'static str = Box::leak(many.join(", ").into_boxed_str());
        [
            case("the same", "\"a\"", "\"a\"", true),
            case("another", "\"a\"", "\"b\"", false),
            case("one of several", "\"x\", \"a\"", "\"a\", \"y\"", true),
            case("in another case", "\"a\"", "\"A\"", false),
            case("the beginning of one", "\"ab\"", "\"a\"", false),
            case("with parameters", "\"a\";p=1", "\"a\";q", true),
            case("with a comma in it", "\"a, b\"", "\"b\"", false),
            case("the empty one", "\"\"", "\"\"", true),
            case("escaped", "\"a\\\"b\"", "\"a\\\"b\"", true),
            case(
                "32 of 32 letters",
                many,
                "\"a-group-of-thirty-two-letters-41\"",
                true,
            ),
            case("not strings", "a", "\"a\"", false),
            case("unreadable", "\"a\", &", "\"a\"", false),
        ]
        .into_iter()
        .flatten()
        .chain(both("16.1 RFC 9875 §2 in two lines", |row| {
            row.ask(
                ask("GET", "/a").origin(
                    fresh("/a")
                        .has("cache-groups", "\"x\"")
                        .has("cache-groups", "\"a\""),
                ),
            )
            .ask(ends("\"a\""))
            .ask(is_gone("/a"))
        }))
        .chain(both("16.1 RFC 9875 §2 only of the same origin", |row| {
            row.ask(member("/a", "\"a\""))
                .ask(member("/a", "\"a\"").at("other.example"))
                .ask(ends("\"a\""))
                .ask(is_gone("/a"))
                .ask(stays("/a").at("other.example"))
        }))
        .chain([policy("16.1 as it comes, the layer heeds none")
            .ask(member("/a", "\"a\""))
            .ask(ends("\"a\""))
            .ask(stays("/a"))])
        .collect()
    })
    .await;
}

fn stored(row: Row) -> Row {
    row.ask(member("/a1", "\"a\""))
        .ask(member("/a2", "\"b\", \"a\""))
        .ask(member("/b", "\"b\""))
        .ask(ask("GET", "/none").origin(fresh("/none")))
}

fn all_stay(row: Row) -> Row {
    row.ask(stays("/a1"))
        .ask(stays("/a2"))
        .ask(stays("/b"))
        .ask(stays("/none"))
}

#[tokio::test(start_paused = true)]
async fn rule_16_2_what_ends_a_group() {
    play(|| {
        let mut rows = Vec::new();
        rows.extend(both(
            "16.2 RFC 9875 §3 all its members, no others, and no cascade",
            |row| {
                stored(row)
                    .ask(ends("\"a\""))
                    .ask(is_gone("/a1"))
                    .ask(is_gone("/a2"))
                    .ask(stays("/b"))
                    .ask(stays("/none"))
            },
        ));
        for method in ["PUT", "DELETE", "PATCH", "FOO"] {
            rows.extend(both(format!("16.2 RFC 9875 §3 on a {method}"), |row| {
                stored(row)
                    .ask(
                        ask(method, "/change")
                            .origin(reply("").has("cache-group-invalidation", "\"a\"")),
                    )
                    .ask(is_gone("/a1"))
                    .ask(stays("/b"))
            }));
        }
        for method in ["GET", "HEAD", "OPTIONS"] {
            rows.extend(both(format!("16.2 RFC 9875 §3 not on a {method}"), |row| {
                let safe = ask(method, "/safe").origin(
                    reply("")
                        .cc("no-store")
                        .has("cache-group-invalidation", "\"a\""),
                );
                all_stay(stored(row).ask(safe))
            }));
        }
        for value in ["\"a", "a", "&", "\"a\", &", "\"a\" \"b\"", "", "(\"a\")"] {
            rows.extend(both(
                format!("16.2 RFC 9875 §3 unreadable: {value}"),
                |row| all_stay(stored(row).ask(ends(value))),
            ));
        }
        rows.extend(both(
            "16.2 RFC 9875 §3 what ends its own target ends no group of it",
            |row| {
                stored(row)
                    .ask(ask("PUT", "/a1").origin(reply("")))
                    .ask(is_gone("/a1"))
                    .ask(stays("/a2"))
            },
        ));
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_16_3_the_fields_go_on_to_the_client() {
    play(|| {
        both("16.3 RFC 9875 §2 they are standard fields", |row| {
            row.ask(
                get()
                    .origin(fresh("1").has("cache-groups", "\"a\""))
                    .shows("cache-groups", "\"a\""),
            )
            .ask(get().hit("1").shows("cache-groups", "\"a\""))
            .ask(ends("\"a\"").shows("cache-group-invalidation", "\"a\""))
        })
        .into()
    })
    .await;
}

// Invariants 36, 38.
#[tokio::test(start_paused = true)]
async fn rule_16_3_a_member_that_was_on_its_way_does_not_come_back() {
    for mode in [Mode::Book, Mode::Policy] {
        let gate = Gate::new();
        let waits = gate.clone();
        let origin = common::Origin::later(move |request| {
            let gate = waits.clone();
            async move {
                if *request.method() == http::Method::POST {
                    return common::with(common::ok(""), "cache-group-invalidation", "\"a\"");
                }
                gate.pass().await;
                let headers = [("cache-control", "max-age=60"), ("cache-groups", "\"a\"")];
                common::with_headers(common::ok("read before"), &headers)
            }
        });
        let cache = mode
            .builder()
            .cache_groups(true)
            .build()
            .layer(origin.clone());
        let slow = tokio::spawn({
            let cache = cache.clone();
            async move { common::send(&cache, common::get("/a")).await }
        });
        gate.arrival().await;
        common::send(&cache, common::request("POST", "/change")).await;
        gate.open();
        slow.await.unwrap();
        settle().await;
        let next = common::send(&cache, common::get("/a")).await;
        assert!(!next.is_hit(), "16.3 {mode:?}: {next:?}");
        assert_eq!(origin.calls(), 3, "16.3 {mode:?}");
    }
}

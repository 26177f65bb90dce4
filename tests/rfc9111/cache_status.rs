//! Section 14: what the cache says of itself (RFC 9211). That each `Cache-Status` is a list of structured fields, with one of `hit` and
//! `fwd` in our member, is seen to at every answer of these tests.

use std::time::Duration;

use tower::Layer;
use tower_response_cache::{CacheHandle, Key};

use crate::common::{self, Gate};
use crate::harness::{
    Mode, Outcome, ask, book, edge, fresh, get, head, members, not_modified, play, policy, reply,
    row, short, tagged,
};

/// The names of all members, from the origin on.
fn named(expected: &'static [&'static str]) -> impl Fn(&Outcome) -> Result<(), String> + Send {
    move |outcome| {
        let members = members(outcome.answer()?)?;
        let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
        if names == expected {
            Ok(())
        } else {
            Err(format!("{members:?}"))
        }
    }
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn rule_14_1_one_member_more() {
    play(|| {
        vec![
            row("14.1 RFC 9211 §2 on all that is answered")
                .ask(
                    get()
                        .origin(fresh("1"))
                        .check(named(&["tower-response-cache"])),
                )
                .ask(get().hit("1").check(named(&["tower-response-cache"])))
                .ask(
                    ask("POST", "/")
                        .origin(reply("").status(500))
                        .check(named(&["tower-response-cache"])),
                ),
            row("14.1 RFC 9211 §2 after those that are there")
                .ask(
                    get()
                        .origin(
                            fresh("1")
                                .has("cache-status", "Origin; hit")
                                .has("cache-status", "\"a, b\"; fwd=miss"),
                        )
                        .check(named(&["Origin", "a, b", "tower-response-cache"])),
                )
                .ask(
                    get()
                        .hit("1")
                        .check(named(&["Origin", "a, b", "tower-response-cache"])),
                ),
            row("14.1 RFC 9211 §2 by choice, none")
                .with(|layer| layer.status_header(false))
                .ask(get().origin(fresh("1")).lacks("cache-status")),
        ]
    })
    .await;
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn rule_14_2_what_it_says() {
    play(|| {
        vec![
            row("14.2 RFC 9211 §2.2 uri-miss, and stored").ask(
                get()
                    .origin(fresh("1"))
                    .said("fwd=uri-miss")
                    .said("stored")
                    .unsaid("collapsed"),
            ),
            row("14.2 RFC 9211 §2.2 uri-miss, and not stored").ask(
                get()
                    .origin(reply("1").cc("no-store"))
                    .said("fwd=uri-miss")
                    .unsaid("stored"),
            ),
            row("14.2 RFC 9211 §2.2 vary-miss")
                .ask(get().has("foo", "1").origin(fresh("1").has("vary", "foo")))
                .ask(
                    get()
                        .has("foo", "2")
                        .origin(fresh("2").has("vary", "foo"))
                        .said("fwd=vary-miss"),
                ),
            row("14.2 RFC 9211 §2.2 stale")
                .ask(get().origin(short("1")))
                .after(20)
                .ask(get().maybe(|_| short("2")).text("2").check(|outcome| {
                    // What has nothing to be validated by may be gone.
                    let told = outcome.shown("cache-status")?.unwrap_or_default();
                    let right = told.contains("fwd=stale") || told.contains("fwd=uri-miss");
                    if right { Ok(()) } else { Err(told) }
                })),
            row("14.2 RFC 9211 §2.3 stale, and not changed")
                .ask(get().origin(tagged("1")))
                .after(20)
                .ask(
                    get()
                        .behind(not_modified())
                        .status(200)
                        .text("1")
                        .said("fwd=stale")
                        .said("fwd-status=304"),
                ),
            row("14.2 RFC 9211 §2.3 stale, and changed")
                .ask(get().origin(tagged("1")))
                .after(20)
                .ask(
                    get()
                        .origin(tagged("2"))
                        .said("fwd=stale")
                        .unsaid("fwd-status=304"),
                ),
        ]
    })
    .await;
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn rule_14_2_what_it_says_of_what_was_received() {
    play(|| {
        vec![
            row("14.2 RFC 9211 §2.3 fetched whole for one who has it").ask(
                get()
                    .has("if-none-match", "\"1\"")
                    .behind(fresh("1").etag("\"1\""))
                    .status(304)
                    .said("fwd=uri-miss")
                    .said("fwd-status=200"),
            ),
        ]
    })
    .await;
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn rule_14_2_what_it_says_of_other_things() {
    play(|| {
        vec![
            row("14.2 RFC 9211 §2.2 method").ask(
                ask("POST", "/")
                    .origin(reply(""))
                    .said("fwd=method")
                    .unsaid("stored"),
            ),
            book("14.2 RFC 9211 §2.2 method of a HEAD that is forwarded")
                .ask(head().origin(reply("")).said("fwd=method")),
            policy("14.2 RFC 9211 §2.2 a HEAD that is fetched as a GET")
                .ask(head().origin(reply("")).said("fwd=uri-miss")),
            row("14.2 RFC 9211 §2.2 bypass")
                .ask(get().body("1").origin(reply("")).said("fwd=bypass")),
            policy("14.2 RFC 9211 §2.2 bypass, for what is required and not there")
                .with(|layer| layer.key(Key::new().part("x", |_| None::<Vec<u8>>)))
                .ask(
                    get()
                        .origin(reply(""))
                        .said("fwd=bypass")
                        .said("detail=key-part"),
                ),
            book("14.2 RFC 9211 §2.2 request")
                .ask(get().origin(fresh("1")))
                .ask(get().cc("no-cache").origin(fresh("2")).said("fwd=request")),
            row("14.2 RFC 9211 §2.4 the time that is left")
                .ask(get().origin(fresh("1")))
                .after(23)
                .ask(get().hit("1").said("ttl=37")),
            row("14.2 RFC 9211 §2.4 the time by which it is stale")
                .with(|layer| layer.stale_while_revalidate(crate::harness::MINUTE))
                .ask(get().origin(fresh("1")))
                .after(83)
                .ask(
                    get()
                        .hit("1")
                        .behind(fresh("2"))
                        .said("ttl=-23")
                        .said("detail=stale-while-revalidate"),
                ),
            row("14.2 RFC 9211 §2.8 why").ask(
                get()
                    .origin(fresh("1").has("set-cookie", "a=1"))
                    .said("detail=set-cookie"),
            ),
        ]
    })
    .await;
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn rule_14_3_what_is_made_here() {
    play(|| {
        vec![
            row("14.3 RFC 9211 §2 504 has none of ours")
                .ask(get().cc("only-if-cached").status(504).lacks("cache-status")),
            row("14.3 RFC 9211 §2.1 304 and 206 of what is stored are hits")
                .ask(get().origin(fresh("12345").etag("\"1\"")))
                .ask(get().has("if-none-match", "\"1\"").status(304).said("hit"))
                .ask(
                    get()
                        .has("range", "bytes=0-0")
                        .status(206)
                        .text("1")
                        .said("hit"),
                )
                .ask(get().has("range", "bytes=9-").status(416).said("hit")),
        ]
    })
    .await;
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn rule_14_3_an_answer_of_overload_has_no_member_of_ours() {
    for mode in [Mode::Book, Mode::Policy] {
        let gate = Gate::new();
        let origin = common::Origin::gated(&gate, "late");
        let one = std::num::NonZeroUsize::MIN;
        let handle = CacheHandle::builder().max_concurrent_fills(one).build();
        let layer = mode
            .builder()
            .handle(&handle)
            .wait_timeout(Duration::from_secs(1));
        let cache = layer.build().layer(origin);
        let first = tokio::spawn({
            let cache = cache.clone();
            async move { common::send(&cache, common::get("/a")).await }
        });
        gate.arrival().await;
        let refused = common::send(&cache, common::get("/b")).await;
        assert_eq!(refused.parts.status, 503, "14.3 {mode:?}");
        assert_eq!(refused.header("cache-status"), None, "14.3 {mode:?}");
        gate.open();
        first.await.unwrap();
    }
}

// Invariant 60.
#[tokio::test(start_paused = true)]
async fn rule_14_4_what_it_does_not_say() {
    play(|| {
        vec![
            row("14.4 RFC 9211 §2.7 no key as it comes").ask(
                ask("GET", "/secret?token=1")
                    .origin(fresh("1"))
                    .check(|outcome| {
                        let told = outcome.shown("cache-status")?.unwrap_or_default();
                        if told.contains("key=") || told.contains("secret") {
                            Err(told)
                        } else {
                            Ok(())
                        }
                    }),
            ),
            row("14.4 RFC 9211 §2 what was said of a miss is not said of a hit")
                .ask(get().origin(fresh("1")))
                .ask(
                    get()
                        .hit("1")
                        .unsaid("stored")
                        .check(named(&["tower-response-cache"])),
                )
                .ask(get().hit("1").check(named(&["tower-response-cache"]))),
            row("14.4 RFC 9211 §2 two caches are two members, in their order")
                .served(|mode, origin| {
                    let layer = |name| mode.builder().status_name(name).unwrap().build();
                    edge(
                        &layer("ours at the edge"),
                        edge(&layer("ours-inside"), origin),
                    )
                })
                .ask(
                    get()
                        .origin(fresh("1"))
                        .check(named(&["ours-inside", "ours at the edge"])),
                )
                .ask(
                    get()
                        .hit("1")
                        .check(named(&["ours-inside", "ours at the edge"])),
                ),
        ]
    })
    .await;
}

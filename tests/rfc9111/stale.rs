//! Section 9: what is served past its lifetime (RFC 9111 §4.2.4, RFC 5861).

use std::time::Duration;

use tower_response_cache::CacheLayerBuilder;

use crate::harness::{
    Row, book, fresh, get, not_modified, panics, play, policy, reply, row, tagged, unreachable,
};

const HOUR: Duration = Duration::from_secs(3600);

fn graced(layer: CacheLayerBuilder) -> CacheLayerBuilder {
    layer.stale_while_revalidate(HOUR).stale_if_error(HOUR)
}

fn if_error(layer: CacheLayerBuilder) -> CacheLayerBuilder {
    layer.stale_if_error(HOUR)
}

fn while_revalidate(layer: CacheLayerBuilder) -> CacheLayerBuilder {
    layer.stale_while_revalidate(HOUR)
}

/// What said this when it was stored, and has been stale for ten seconds.
fn stale(row: Row, value: &str) -> Row {
    row.ask(get().origin(reply("1").cc(value))).after(70)
}

fn failed(status: u16) -> crate::harness::Reply {
    reply("failed").status(status)
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_9_1_nothing_is_stale_unless_that_is_allowed() {
    play(|| {
        let mut rows: Vec<_> = [500, 502, 503, 504]
            .into_iter()
            .map(|status| {
                stale(row(format!("9.1 §4.2.4 {status}")), "max-age=60")
                    .ask(get().origin(failed(status)))
            })
            .collect();
        rows.push(
            stale(row("9.1 §4.2.4 nobody answers"), "max-age=60")
                .ask(get().behind(unreachable()).fails()),
        );
        rows.push(
            stale(
                policy("9.1 the layer says, not the response"),
                "max-age=60, stale-while-revalidate=600, stale-if-error=600",
            )
            .ask(get().origin(failed(500))),
        );
        rows
    })
    .await;
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_9_2_what_forbids_it() {
    play(|| {
        let mut rows = Vec::new();
        for value in [
            "max-age=60, must-revalidate",
            "max-age=60, proxy-revalidate",
            "Must-Revalidate, max-age=60",
            "s-maxage=60, must-revalidate",
        ] {
            rows.push(
                stale(row(format!("9.2 §4.2.4 {value}")).with(graced), value)
                    .ask(get().origin(failed(500)).unsaid("hit")),
            );
            rows.push(
                stale(
                    row(format!("9.2 §4.2.4 {value}, and nobody answers")).with(graced),
                    value,
                )
                .ask(get().behind(unreachable()).check(|outcome| {
                    match &outcome.answer {
                        Err(_) => Ok(()),
                        Ok(answer) if answer.parts.status == 504 => Ok(()),
                        Ok(answer) => Err(format!("{answer:?}")),
                    }
                })),
            );
            let said = format!("{value}, stale-while-revalidate=600, stale-if-error=600");
            rows.push(
                stale(book(format!("9.2 §4.2.4 {said}")), &said).ask(get().origin(failed(500))),
            );
        }
        rows.push(
            stale(book("9.2 §5.2.2.10 s-maxage").with(graced), "s-maxage=60")
                .ask(get().origin(failed(500)).unsaid("hit")),
        );
        rows.push(
            stale(
                policy("9.2 here s-maxage is how a handler chooses a lifetime").with(if_error),
                "s-maxage=60",
            )
            .ask(get().hit("1").behind(failed(500))),
        );
        rows.push(
            book("9.2 §5.2.2.4 no-cache")
                .with(graced)
                .ask(get().origin(reply("1").cc("no-cache").etag("\"1\"")))
                .ask(get().origin(failed(500)).unsaid("hit")),
        );
        rows
    })
    .await;
}

// Invariants 16, 25.
#[tokio::test(start_paused = true)]
async fn rule_9_3_stale_while_it_is_fetched_anew() {
    play(|| {
        let value = "max-age=60, stale-while-revalidate=30";
        vec![
            stale(
                book("9.3 RFC 5861 §3 served at once, and fetched anew"),
                value,
            )
            .ask(get().hit("1").behind(fresh("2")).said("ttl=-10").age(70))
            .ask(get().hit("2")),
            stale(book("9.3 RFC 5861 §3 by one"), value)
                .ask(get().hit("1").behind(fresh("2").takes(5)))
                .ask(get().hit("1"))
                .ask(get().hit("1"))
                .after(5)
                .ask(get().hit("2")),
            stale(book("9.3 RFC 5861 §3 not after the window"), value)
                .after(20)
                .ask(get().origin(fresh("2")).said("fwd=stale")),
            book("9.3 RFC 5861 §3 a 304 renews it")
                .ask(get().origin(reply("1").cc(value).etag("\"1\"")))
                .after(70)
                .ask(
                    get()
                        .hit("1")
                        .behind(not_modified().etag("\"1\""))
                        .conditional("\"1\""),
                )
                .after(59)
                .ask(get().hit("1").said("ttl=1")),
            book("9.3 RFC 5861 §3 it is asked for as it was")
                .ask(
                    get()
                        .has("foo", "1")
                        .origin(reply("1").cc(value).has("vary", "foo")),
                )
                .after(70)
                .ask(
                    get()
                        .has("foo", "1")
                        .hit("1")
                        .behind(fresh("2"))
                        .sees("foo", "1"),
                ),
            stale(
                row("9.3 RFC 5861 §3 by choice of the layer").with(while_revalidate),
                "max-age=60",
            )
            .ask(get().hit("1").behind(fresh("2")))
            .ask(get().hit("2")),
            stale(
                book("9.3 RFC 5861 §3 no number of seconds"),
                "max-age=60, stale-while-revalidate",
            )
            .ask(get().origin(fresh("2"))),
        ]
    })
    .await;
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_9_3_what_comes_in_stale_has_the_rest_of_its_window() {
    play(|| {
        let aged = |name: &str, age, value| {
            book(format!("9.3 RFC 5861 §3 {name}: {value}"))
                .ask(get().origin(reply("1").cc(value).has("age", age).etag("\"1\"")))
        };
        let swr = "max-age=10, stale-while-revalidate=30";
        let sie = "max-age=10, stale-if-error=30";
        vec![
            aged("the rest", "30", swr)
                .after(9)
                .ask(get().hit("1").behind(fresh("2")).said("ttl=-29")),
            aged("when that is over", "30", swr)
                .after(11)
                .ask(get().origin(fresh("2"))),
            aged("nothing", "100", swr).ask(get().origin(fresh("2"))),
            aged("the rest", "30", sie)
                .after(9)
                .ask(get().hit("1").behind(failed(500)).said("ttl=-29")),
            aged("when that is over", "30", sie)
                .after(11)
                .ask(get().origin(failed(500))),
            aged("nothing", "100", sie).ask(get().origin(failed(500))),
            aged("what the request allows", "30", "max-age=10")
                .ask(get().cc("max-stale=20").hit("1").said("ttl=-20")),
            aged("what the request does not allow", "30", "max-age=10")
                .ask(get().cc("max-stale=19").origin(fresh("2"))),
        ]
    })
    .await;
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_9_4_stale_if_there_is_an_error() {
    play(|| {
        let value = "max-age=60, stale-if-error=30";
        let mut rows: Vec<_> = [500, 502, 503, 504]
            .into_iter()
            .map(|status| {
                stale(book(format!("9.4 RFC 5861 §4 {status}")), value).ask(
                    get()
                        .hit("1")
                        .behind(failed(status))
                        .said("ttl=-10")
                        .age(70),
                )
            })
            .collect();
        rows.extend([
            stale(book("9.4 RFC 5861 §4 nobody answers"), value)
                .ask(get().hit("1").behind(unreachable())),
            stale(book("9.4 RFC 5861 §4 nobody answers in time"), value)
                .ask(get().hit("1").behind(fresh("2").takes(20))),
            stale(book("9.4 RFC 5861 §4 the handler panics"), value)
                .ask(get().hit("1").behind(panics())),
            stale(book("9.4 RFC 5861 §4 not after the window"), value)
                .after(20)
                .ask(get().origin(failed(500))),
            stale(
                book("9.4 RFC 5861 §4 what is no error is what there is"),
                value,
            )
            .ask(get().origin(reply("2").cc("max-age=60"))),
            stale(book("9.4 RFC 5861 §4 nor is a 404"), value)
                .ask(get().origin(reply("none").status(404).cc("no-store"))),
            stale(book("9.4 RFC 5861 §4 the request allows it"), "max-age=60")
                .ask(get().cc("stale-if-error=30").hit("1").behind(failed(500))),
            stale(
                book("9.4 RFC 5861 §4 the request allows less"),
                "max-age=60",
            )
            .ask(get().cc("stale-if-error=5").origin(failed(500))),
            stale(
                book("9.4 RFC 5861 §4 the request allows what the response forbids"),
                "max-age=60, must-revalidate",
            )
            .ask(get().cc("stale-if-error=30").origin(failed(500))),
            stale(policy("9.4 the layer does not heed it"), "max-age=60")
                .ask(get().cc("stale-if-error=30").origin(failed(500))),
        ]);
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_9_5_beside_s_maxage() {
    play(|| {
        let swr = "s-maxage=60, stale-while-revalidate=600";
        let sie = "s-maxage=60, stale-if-error=600";
        let despite = |layer: CacheLayerBuilder| layer.stale_despite_s_maxage(true);
        vec![
            stale(
                book("9.5 §5.2.2.10 stale-while-revalidate does not count"),
                swr,
            )
            .ask(get().origin(fresh("2"))),
            stale(book("9.5 §5.2.2.10 stale-if-error does not count"), sie)
                .ask(get().origin(failed(500))),
            stale(
                book("9.5 by choice, stale-while-revalidate counts").with(despite),
                swr,
            )
            .ask(get().hit("1").behind(fresh("2"))),
            stale(
                book("9.5 by choice, stale-if-error counts").with(despite),
                sie,
            )
            .ask(get().hit("1").behind(failed(500))),
            stale(
                book("9.5 by choice, must-revalidate holds all the same").with(despite),
                "s-maxage=60, stale-if-error=600, must-revalidate",
            )
            .ask(get().origin(failed(500))),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_9_6_what_the_layer_allows_to_what_says_nothing() {
    play(|| {
        vec![
            stale(
                row("9.6 §4.2.4 stale if there is an error").with(if_error),
                "max-age=60",
            )
            .ask(get().hit("1").behind(failed(500))),
            stale(
                row("9.6 §4.2.4 not for longer than it says").with(if_error),
                "max-age=60",
            )
            .after(3600)
            .ask(get().origin(failed(500))),
            stale(
                book("9.6 RFC 5861 §4 a response that says how long says it").with(if_error),
                "max-age=60, stale-if-error=5",
            )
            .ask(get().origin(failed(500))),
        ]
    })
    .await;
}

// Invariant 16.
#[tokio::test(start_paused = true)]
async fn rule_9_6_what_never_was_fresh_is_never_stale() {
    play(|| {
        let mut rows = Vec::new();
        for (name, says) in [
            ("nothing at all", reply("1")),
            ("max-age=0", reply("1").cc("max-age=0")),
            ("Expires: 0", reply("1").has("expires", "0")),
            ("public alone", reply("1").cc("public")),
        ] {
            rows.push(
                book(format!("9.6 §4.2.4 {name}"))
                    .with(graced)
                    .ask(get().origin(says.clone()))
                    .ask(get().origin(failed(500)).unsaid("hit")),
            );
            rows.push(
                book(format!("9.6 §4.2.4 {name}, with a tag"))
                    .with(graced)
                    .ask(get().origin(says.etag("\"1\"")))
                    .ask(get().origin(failed(500)).unsaid("hit")),
            );
        }
        rows
    })
    .await;
}

// Invariants 3, 16, 22.
#[tokio::test(start_paused = true)]
async fn rule_9_7_what_a_refresh_brings_that_is_not_stored() {
    play(|| {
        let graced = |name: &str| {
            row(format!("9.7 {name}"))
                .with(while_revalidate)
                .ask(get().origin(fresh("1").etag("\"1\"")))
                .after(70)
        };
        vec![
            graced("500: what is stored stays, stale")
                .ask(get().hit("1").behind(failed(500)))
                .ask(get().maybe(|_| failed(500)).hit("1").said("ttl=-10")),
            graced("500: until its window ends")
                .ask(get().hit("1").behind(failed(500)))
                .after(3600)
                .ask(get().origin(failed(500))),
            graced("no-store: it is gone")
                .ask(get().hit("1").behind(reply("2").cc("no-store")))
                .ask(get().origin(fresh("3")).unconditional()),
            graced("private: it is gone")
                .ask(get().hit("1").behind(reply("2").cc("private")))
                .ask(get().origin(fresh("3")).unconditional()),
            graced("404: it is gone")
                .ask(get().hit("1").behind(reply("none").status(404)))
                .ask(get().origin(fresh("3")).unconditional()),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_9_8_no_warning() {
    play(|| {
        vec![
            stale(
                row("9.8 §5.5 what is stale bears none").with(graced),
                "max-age=60",
            )
            .ask(get().hit("1").behind(failed(500)).lacks("warning")),
        ]
    })
    .await;
}

// Invariants 26, 27, 28.
#[tokio::test(start_paused = true)]
async fn rule_9_9_a_refresh_that_dies_leaves_no_lock() {
    play(|| {
        let mut rows = Vec::new();
        let deaths = || {
            [
                ("it panics", panics()),
                ("nobody answers", unreachable()),
                ("it hangs", fresh("late").takes(1000)),
            ]
        };
        for (name, death) in deaths() {
            rows.push(
                stale(
                    row(format!("9.9 in the background, {name}")).with(while_revalidate),
                    "max-age=60",
                )
                .ask(get().hit("1").behind(death))
                .ask(get().hit("1"))
                .after(31)
                .after(20)
                .ask(get().hit("1").behind(fresh("2")))
                .ask(get().hit("2")),
            );
        }
        for (name, death) in deaths() {
            rows.push(
                stale(
                    row(format!("9.9 in the foreground, {name}")).with(if_error),
                    "max-age=60",
                )
                .ask(get().hit("1").behind(death))
                .after(31)
                .after(20)
                .ask(get().origin(fresh("2")))
                .ask(get().hit("2")),
            );
        }
        rows.push(
            row("9.9 on a miss")
                .ask(get().behind(panics()).fails())
                .ask(get().behind(unreachable()).fails())
                .ask(get().origin(tagged("1")))
                .ask(get().hit("1")),
        );
        rows
    })
    .await;
}

//! Section 15: fields that speak to this cache in particular (RFC 9213).

use http::HeaderName;
use tower_response_cache::CacheLayerBuilder;

use crate::harness::{Reply, Row, book, fresh, get, not_modified, play, reply, row};

const CDN: &str = "cdn-cache-control";

fn targeted(layer: CacheLayerBuilder) -> CacheLayerBuilder {
    layer.targets([
        HeaderName::from_static("ours-cache-control"),
        HeaderName::from_static(CDN),
    ])
}

fn target(name: &str) -> Row {
    book(name).with(targeted)
}

fn says(cdn: &str) -> Reply {
    reply("1").has(CDN, cdn)
}

#[tokio::test(start_paused = true)]
async fn rule_15_1_the_first_of_the_list_counts() {
    play(|| {
        vec![
            target("15.1 RFC 9213 §2.2 instead of no-store")
                .lives(&says("max-age=100").cc("no-store"), 100),
            target("15.1 RFC 9213 §2.2 instead of private")
                .lives(&says("max-age=100").cc("private"), 100),
            target("15.1 RFC 9213 §2.2 instead of a longer max-age")
                .lives(&says("max-age=10").cc("max-age=1000"), 10),
            target("15.1 RFC 9213 §2.2 instead of s-maxage")
                .lives(&says("max-age=10").cc("s-maxage=1000"), 10),
            target("15.1 RFC 9213 §2.2 instead of Expires")
                .lives(&says("max-age=100").has("expires", "0"), 100),
            target("15.1 RFC 9213 §2.2 Expires does not count where it says nothing of a lifetime")
                .refuses(&says("foo").has("date", "{now}").has("expires", "{now+100}")),
            target("15.1 RFC 9213 §2.2 nor does Cache-Control")
                .refuses(&says("foo").cc("max-age=100")),
            target("15.1 RFC 9213 §2.2 no-store instead of max-age")
                .refuses(&says("no-store").cc("max-age=100")),
            target("15.1 RFC 9213 §2.2 the first of the list before the second").lives(
                &says("max-age=1000").has("ours-cache-control", "max-age=10"),
                10,
            ),
            target("15.1 RFC 9213 §2.2 the second where the first is not there")
                .lives(&says("max-age=10"), 10),
            target("15.1 RFC 9213 §2.2 Cache-Control where none is there")
                .lives(&reply("1").cc("max-age=10"), 10),
            book("15.1 RFC 9213 §2.2 what is not on the list says nothing")
                .ask(
                    get()
                        .origin(says("max-age=100").cc("max-age=10"))
                        .shows(CDN, "max-age=100"),
                )
                .after(10)
                .ask(get().origin(fresh("2"))),
            row("15.1 RFC 9213 §2.2 as it comes, none is on the list")
                .ask(
                    get()
                        .origin(fresh("1").has(CDN, "no-store"))
                        .shows(CDN, "no-store"),
                )
                .ask(get().hit("1").shows(CDN, "no-store")),
            row("15.1 RFC 9213 §2.2 nor does max-age there make anything last longer")
                .lives(&reply("1").cc("s-maxage=10").has(CDN, "max-age=1000"), 10),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_15_2_it_is_a_dictionary() {
    play(|| {
        let rows: Vec<_> = [
            "",
            "max-age=10000, &&&&&",
            "max-age=10000,",
            "max-age=10000;",
            "MaX-aGe=10000",
            "max-age=10000 foo",
            "max-age='10000'",
            "\"max-age=10000\"",
            "max-age=",
            "max-age= 10000",
            "max-age =10000",
            "max-age=9999999999999999",
        ]
        .into_iter()
        .map(|value| {
            target(&format!(
                "15.2 RFC 9213 §2.1 {value:?} is as if it were not there"
            ))
            .lives(&says(value).cc("max-age=10"), 10)
        })
        .collect();
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_15_2_its_values_have_types() {
    play(|| {
        let mut rows = Vec::new();
        for value in [
            "max-age=\"10000\"",
            "max-age=10000.5",
            "max-age=?1",
            "max-age",
            "max-age=(1 2)",
            "max-age=abc",
        ] {
            rows.push(
                target(&format!("15.2 RFC 9213 §2.1 {value} is no lifetime"))
                    .ask(get().origin(says(value)))
                    .ask(get().origin(fresh("2"))),
            );
        }
        for value in [
            "max-age=10;foo=bar",
            "foo=\"a, max-age=1000\", max-age=10",
            "max-age=1000, max-age=10",
            "max-age=10, foo, bar=?0",
        ] {
            rows.push(target(&format!("15.2 RFC 9213 §2.1 {value}")).lives(&says(value), 10));
        }
        rows.push(
            target("15.2 RFC 9213 §2.1 as many digits as there may be")
                .stores(&says("max-age=999999999999999"))
                .after(1_000_000)
                .ask(get().hit("1")),
        );
        rows.push(
            target("15.2 RFC 9213 §2.1 in two lines")
                .lives(&says("max-age=10").has(CDN, "foo").cc("no-store"), 10),
        );
        rows.push(
            target("15.2 RFC 9213 §2.2 the next of the list where the first is unreadable").lives(
                &says("max-age=10")
                    .has("ours-cache-control", "&")
                    .cc("max-age=1000"),
                10,
            ),
        );
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_15_3_what_it_says() {
    play(|| {
        vec![
            target("15.3 RFC 9213 §2.1 max-age").lives(&says("max-age=10"), 10),
            target("15.3 RFC 9213 §2.1 max-age=0").refuses(&says("max-age=0").cc("max-age=100")),
            target("15.3 RFC 9213 §2.1 Age counts")
                .lives(&says("max-age=100").has("age", "90"), 10),
            target("15.3 RFC 9213 §2.1 no-store").forgets(&says("no-store, max-age=10")),
            target("15.3 RFC 9213 §2.1 private").forgets(&says("private, max-age=10")),
            target("15.3 RFC 9213 §2.1 no-cache")
                .ask(
                    get().origin(
                        says("no-cache, max-age=100")
                            .etag("\"1\"")
                            .cc("max-age=100"),
                    ),
                )
                .ask(
                    get()
                        .behind(not_modified().has(CDN, "no-cache"))
                        .conditional("\"1\"")
                        .status(200)
                        .text("1"),
                ),
            target("15.3 RFC 9213 §2.1 must-revalidate")
                .with(|layer| targeted(layer).stale_if_error(crate::harness::MINUTE))
                .ask(get().origin(says("max-age=10, must-revalidate").cc("max-age=10")))
                .after(20)
                .ask(get().origin(reply("failed").status(500))),
            target("15.3 RFC 9213 §2.1 without must-revalidate")
                .with(|layer| targeted(layer).stale_if_error(crate::harness::MINUTE))
                .ask(get().origin(says("max-age=10").cc("max-age=10, must-revalidate")))
                .after(20)
                .ask(get().hit("1").behind(reply("failed").status(500))),
            target("15.3 RFC 9213 §2.1 for requests with credentials")
                .ask(
                    get()
                        .has("authorization", "Basic YTph")
                        .origin(says("max-age=10, public")),
                )
                .ask(get().hit("1")),
            target("15.3 RFC 9213 §2.1 a 304 that brings another lifetime")
                .ask(get().origin(says("max-age=10").etag("\"1\"")))
                .after(20)
                .ask(
                    get()
                        .behind(not_modified().has(CDN, "max-age=100"))
                        .status(200)
                        .text("1"),
                )
                .after(99)
                .ask(get().hit("1")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_15_4_it_goes_on_to_the_client() {
    play(|| {
        vec![
            target("15.4 RFC 9213 §2.2 as it came")
                .ask(
                    get()
                        .origin(says("max-age=10").cc("no-store"))
                        .shows(CDN, "max-age=10")
                        .shows("cache-control", "no-store"),
                )
                .ask(
                    get()
                        .hit("1")
                        .shows(CDN, "max-age=10")
                        .shows("cache-control", "no-store"),
                ),
        ]
    })
    .await;
}

//! HEAD: answered from a stored GET, and as an update of it (RFC 9111 §4, §4.3.5).

use crate::harness::{LONG_AGO, book, fresh, get, head, play, reply, row};

// Invariant 11.
#[tokio::test(start_paused = true)]
async fn rule_4_11_head_is_answered_from_a_stored_get() {
    play(|| {
        vec![
            row("4.11 RFC 9110 §9.3.2 the head of what a GET would get")
                .ask(
                    get().origin(
                        fresh("12345")
                            .etag("\"1\"")
                            .has("content-type", "text/plain"),
                    ),
                )
                .ask(
                    head()
                        .hit("")
                        .shows("content-length", "5")
                        .shows("content-type", "text/plain")
                        .shows("etag", "\"1\""),
                ),
            book("4.11 RFC 9110 §9.3.2 a HEAD first is forwarded, and is no GET")
                .ask(
                    head()
                        .origin(fresh("").has("content-length", "5"))
                        .check(|outcome| {
                            let method = outcome.seen.first().map(|seen| seen.parts.method.clone());
                            match method {
                                Some(http::Method::HEAD) => Ok(()),
                                other => Err(format!("the origin sees HEAD, not {other:?}")),
                            }
                        }),
                )
                .ask(get().origin(fresh("12345")))
                .ask(get().hit("12345")),
            book("4.11 RFC 9110 §9.3.2 a HEAD does not answer another")
                .ask(head().origin(fresh("")))
                .ask(head().origin(fresh(""))),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_6_1_head_as_an_update() {
    play(|| {
        let stored = || {
            fresh("12345")
                .etag("\"1\"")
                .has("last-modified", LONG_AGO)
                .has("content-length", "5")
                .has("x-version", "1")
        };
        let told = || {
            fresh("")
                .etag("\"1\"")
                .has("last-modified", LONG_AGO)
                .has("content-length", "5")
                .has("x-version", "2")
        };
        let asked = || head().cc("no-cache");
        let revalidated = || get().origin(reply("new").cc("no-store"));
        let changed = |name: &str, says: crate::harness::Reply| {
            book(format!("6.1 §4.3.5 {name}"))
                .ask(get().origin(stored()))
                .ask(asked().behind(says))
                .ask(revalidated())
        };
        vec![
            book("6.1 §4.3.5 all is the same: it is renewed")
                .ask(get().origin(stored()))
                .after(30)
                .ask(asked().origin(told()))
                .after(50)
                .ask(get().hit("12345").shows("x-version", "2").age(50)),
            changed(
                "another ETag: it is stale",
                fresh("")
                    .etag("\"2\"")
                    .has("last-modified", LONG_AGO)
                    .has("content-length", "5"),
            ),
            changed(
                "another Last-Modified: it is stale",
                fresh("")
                    .etag("\"1\"")
                    .has("last-modified", "{now-5}")
                    .has("content-length", "5"),
            ),
            changed(
                "another length: it is stale",
                fresh("")
                    .etag("\"1\"")
                    .has("last-modified", LONG_AGO)
                    .has("content-length", "6"),
            ),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_6_1_head_of_what_is_stale_or_fails() {
    play(|| {
        let stored = || {
            fresh("12345")
                .etag("\"1\"")
                .has("last-modified", LONG_AGO)
                .has("content-length", "5")
                .has("x-version", "1")
        };
        let told = || {
            fresh("")
                .etag("\"1\"")
                .has("last-modified", LONG_AGO)
                .has("content-length", "5")
                .has("x-version", "2")
        };
        let asked = || head().cc("no-cache");
        vec![
            book("6.1 §4.3.5 a stale one is renewed")
                .ask(get().origin(stored()))
                .after(70)
                .ask(head().maybe(move |_| told()).status(200).text(""))
                .ask(get().hit("12345").shows("x-version", "2")),
            book("6.1 §4.3.5 a failure renews no failure")
                .ask(get().origin(reply("failed").status(500).cc("max-age=10")))
                .after(20)
                .ask(head().origin(reply("").status(500).cc("max-age=10")))
                .ask(get().origin(fresh("2"))),
            book("6.1 §4.3.5 nor what is not there")
                .ask(get().origin(fresh("none").status(404).etag("\"1\"")))
                .after(70)
                .ask(
                    head()
                        .maybe(|_| fresh("").status(404).etag("\"1\""))
                        .status(404),
                )
                .ask(get().maybe(|_| fresh("2")).status(200).text("2")),
            book("6.1 §4.3.5 an error says nothing")
                .ask(get().origin(stored()))
                .ask(asked().origin(reply("").status(500)))
                .ask(get().hit("12345").shows("x-version", "1")),
            book("6.1 §4.3.5 what is gone for a HEAD is gone")
                .ask(get().origin(stored()))
                .ask(asked().origin(reply("").status(404)))
                .ask(get().origin(fresh("2"))),
        ]
    })
    .await;
}

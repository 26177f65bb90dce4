//! Section 1: storing a response (RFC 9111 §3).

use tower_response_cache::{Reason, SetCookie};

use crate::harness::{
    LONG_AGO, ask, because, book, fresh, get, head, not_modified, play, policy, reply, row,
};

// Invariant 12.
#[tokio::test(start_paused = true)]
async fn rule_1_1_a_method_must_be_understood() {
    play(|| {
        let methods = ["FOO", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
        let mut rows: Vec<_> = methods
            .into_iter()
            .map(|method| {
                row(format!("1.1 §3 {method} passes through, and is not stored"))
                    .ask(
                        ask(method, "/")
                            .origin(fresh("1").cc("public"))
                            .said("fwd=method"),
                    )
                    .ask(ask(method, "/").origin(fresh("2").cc("public")))
                    .ask(get().origin(fresh("3")))
            })
            .collect();
        rows.push(row("1.1 §3 GET is understood").stores(&fresh("1")));
        rows
    })
    .await;
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_1_2_a_status_must_be_final() {
    play(|| {
        vec![
            row("1.2 §3 103 is not stored").refuses(&fresh("").status(103).cc("public")),
            row("1.2 §3 101 is not stored").refuses(&fresh("").status(101).cc("public")),
        ]
    })
    .await;
}

// Invariant 21.
#[tokio::test(start_paused = true)]
async fn rule_1_3_parts_and_not_modified_are_not_stored_as_the_whole() {
    play(|| {
        vec![
            row("1.3 §3.3 a 206 is not a 200")
                .ask(
                    get()
                        .has("range", "bytes=0-0")
                        .maybe(|seen| match seen.header("range") {
                            Some(_) => fresh("a")
                                .status(206)
                                .has("content-range", "bytes 0-0/3")
                                .etag("\"v\""),
                            None => fresh("abc").etag("\"v\""),
                        })
                        .status(206)
                        .text("a"),
                )
                .ask(
                    get()
                        .maybe(|_| fresh("abc").etag("\"v\""))
                        .status(200)
                        .text("abc"),
                ),
            row("1.3 §3.3 a 206 that nobody asked for")
                .refuses(&fresh("a").status(206).has("content-range", "bytes 0-0/3")),
            row("1.3 §4.3.3 a client's 304 is not the entity")
                .ask(
                    get()
                        .has("if-none-match", "\"v\"")
                        .maybe(|seen| match seen.header("if-none-match") {
                            Some(_) => not_modified().cc("max-age=60").etag("\"v\""),
                            None => fresh("abc").etag("\"v\""),
                        })
                        .status(304),
                )
                .ask(
                    get()
                        .maybe(|_| fresh("abc").etag("\"v\""))
                        .status(200)
                        .text("abc"),
                ),
            row("1.3 §4.3.3 a 304 that nobody asked for")
                .ask(get().behind(not_modified().cc("max-age=60")))
                .ask(get().origin(fresh("abc"))),
        ]
    })
    .await;
}

// Invariant 3.
#[tokio::test(start_paused = true)]
async fn rule_1_4_no_store_in_a_response() {
    play(|| {
        [
            "no-store",
            "No-Store",
            "max-age=60, no-store",
            "no-store, s-maxage=60, public",
            "no-store=1",
        ]
        .into_iter()
        .map(|value| {
            let says = reply("1").cc(value).etag("\"v\"");
            row(format!("1.4 §5.2.2.5 {value}")).forgets(&says)
        })
        .chain([row("1.4 §5.2.2.5 in a line of its own").forgets(&fresh("1").cc("no-store"))])
        .collect()
    })
    .await;
}

// Invariant 3.
#[tokio::test(start_paused = true)]
async fn rule_1_5_private_in_a_response() {
    play(|| {
        [
            "private",
            "PRIVATE",
            "max-age=60, private",
            "private, s-maxage=60",
        ]
        .into_iter()
        .map(|value| {
            let says = reply("1").cc(value).etag("\"v\"");
            row(format!("1.5 §5.2.2.7 {value}")).forgets(&says)
        })
        .chain([
            row("1.5 §5.2.2.7 conflicts with public")
                .forgets(&reply("1").cc("public, private, max-age=60")),
            row("1.5 §5.2.2.7 why").ask(
                get()
                    .origin(reply("1").cc("private"))
                    .check(because(Reason::Private)),
            ),
        ])
        .collect()
    })
    .await;
}

// Invariant 3.
#[tokio::test(start_paused = true)]
async fn rule_1_6_private_for_some_fields() {
    play(|| {
        let says = || {
            reply("1")
                .cc("max-age=60, private=\"x-one, X-Two\"")
                .has("x-one", "1")
                .has("x-two", "2")
                .has("x-three", "3")
        };
        vec![
            book("1.6 §5.2.2.7 without the fields that it lists, or not at all")
                .ask(get().origin(says()).shows("x-one", "1").shows("x-two", "2"))
                .ask(
                    get()
                        .maybe(|_| reply("1").has("x-three", "3"))
                        .text("1")
                        .lacks("x-one")
                        .lacks("x-two")
                        .shows("x-three", "3"),
                ),
            book("1.6 §5.2.2.7 a list of no fields is none")
                .forgets(&reply("1").cc("max-age=60, private=\"\"")),
            book("1.6 §5.2.2.7 a field without quotes")
                .ask(get().origin(reply("1").cc("max-age=60, private=x-one").has("x-one", "1")))
                .ask(get().maybe(|_| reply("1")).text("1").lacks("x-one")),
            policy("1.6 §5.2.2.7 here, not at all").forgets(&says()),
        ]
    })
    .await;
}

// Invariant 2.
#[tokio::test(start_paused = true)]
async fn rule_1_7_a_request_with_credentials() {
    play(|| {
        let asked = || get().has("authorization", "Basic YTph");
        let mut rows = Vec::new();
        for value in [
            "max-age=60",
            "max-age=60, proxy-revalidate",
            "max-age=60, immutable",
        ] {
            rows.push(
                row(format!("1.7 §3.5 {value} is for nobody else"))
                    .ask(asked().origin(reply("1").cc(value)).unsaid("stored"))
                    .ask(get().origin(reply("2").cc("no-store")).unconditional())
                    .ask(asked().origin(reply("3").cc(value))),
            );
        }
        for value in [
            "public, max-age=60",
            "s-maxage=60",
            "must-revalidate, max-age=60",
        ] {
            rows.push(
                row(format!("1.7 §3.5 {value} is for all"))
                    .ask(asked().origin(reply("1").cc(value)).said("stored"))
                    .ask(get().hit("1"))
                    .ask(asked().hit("1")),
            );
        }
        rows
    })
    .await;
}

// Invariant 2: what says who asks by other means is as good as Authorization.
#[tokio::test(start_paused = true)]
async fn rule_1_7_a_request_with_a_cookie_or_an_api_key() {
    play(|| {
        let mut rows = Vec::new();
        for (name, value) in [
            ("cookie", "sid=1"),
            ("x-api-key", "1"),
            ("proxy-authorization", "Basic YTph"),
        ] {
            let asked = move || get().has(name, value);
            rows.push(
                book(format!("1.7 §3.5 {name}: max-age alone is for nobody else"))
                    .ask(asked().origin(fresh("1")).unsaid("stored"))
                    .ask(get().origin(reply("2").cc("no-store")).unconditional()),
            );
            rows.push(
                book(format!("1.7 §3.5 {name}: public is for all"))
                    .ask(asked().origin(reply("1").cc("public, max-age=60")))
                    .ask(get().hit("1"))
                    .ask(asked().hit("1")),
            );
            rows.push(
                policy(format!("1.7 {name} passes by"))
                    .ask(
                        asked()
                            .origin(reply("1").cc("public, max-age=60"))
                            .said("fwd=bypass"),
                    )
                    .ask(get().origin(fresh("2")))
                    .ask(asked().origin(fresh("3"))),
            );
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_1_8_must_understand() {
    play(|| {
        let says = |status| {
            reply("1")
                .status(status)
                .cc("max-age=60, must-understand, no-store")
        };
        vec![
            book("1.8 §5.2.2.3 of a status that is understood, no-store is ignored")
                .stores(&says(200)),
            book("1.8 §5.2.2.3 404 is understood").stores(&says(404)),
            book("1.8 §5.2.2.3 of a status that is not understood, nothing is stored")
                .forgets(&says(299)),
            book("1.8 §5.2.2.3 nor without no-store")
                .forgets(&reply("1").status(599).cc("max-age=60, must-understand")),
            book("1.8 §5.2.2.3 no-store alone").forgets(&reply("1").cc("max-age=60, no-store")),
        ]
    })
    .await;
}

const HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

fn body_of(status: u16) -> &'static str {
    if status == 204 { "" } else { "1" }
}

#[tokio::test(start_paused = true)]
async fn rule_1_9_something_must_say_that_it_may_be_stored() {
    play(|| {
        let modified = |status| {
            reply(body_of(status))
                .status(status)
                .has("date", "{now}")
                .has("last-modified", LONG_AGO)
        };
        let mut rows = vec![
            book("1.9 §3 max-age").stores(&reply("1").cc("max-age=60")),
            book("1.9 §3 s-maxage").stores(&reply("1").cc("s-maxage=60")),
            book("1.9 §3 Expires").stores(&reply("1").has("expires", "{now+60}")),
            book("1.9 §3 nothing").refuses(&reply("1")),
            policy("1.9 nothing: the layer says").stores(&reply("1")),
        ];
        for status in HEURISTIC {
            rows.push(book(format!("1.9 §4.2.2 {status} by heuristics")).stores(&modified(status)));
        }
        for status in [
            201, 202, 205, 299, 302, 303, 307, 400, 403, 409, 429, 500, 503, 599,
        ] {
            rows.push(
                book(format!("1.9 §4.2.2 {status} not by heuristics")).refuses(&modified(status)),
            );
            if status < 500 {
                rows.push(
                    book(format!(
                        "1.9 §4.2.2 {status} by heuristics where it is public"
                    ))
                    .stores(&modified(status).cc("public")),
                );
            }
        }
        rows
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_1_10_any_final_status_with_explicit_freshness() {
    play(|| {
        [
            200, 201, 202, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 403, 404, 405, 410,
            414, 429, 451, 499, 500, 501, 503, 504, 599,
        ]
        .into_iter()
        .map(|status| {
            book(format!("1.10 §3 {status} with max-age"))
                .stores(&fresh(body_of(status)).status(status))
        })
        .collect()
    })
    .await;
}

// Invariants 21, 22.
#[tokio::test(start_paused = true)]
async fn rule_1_10_the_layer_chooses_statuses_by_its_own_policy() {
    play(|| {
        let mut rows: Vec<_> = [201, 204, 299, 302, 404, 500, 503]
            .into_iter()
            .map(|status| {
                policy(format!("1.10 {status} is not stored unless it is chosen"))
                    .ask(get().origin(fresh(body_of(status)).status(status)))
                    .ask(get().origin(reply("again").cc("no-store")))
            })
            .collect();
        rows.push(
            policy("1.10 404 is stored by choice")
                .with(|layer| {
                    layer
                        .status(http::StatusCode::NOT_FOUND, crate::harness::MINUTE)
                        .unwrap()
                })
                .stores(&reply("none").status(404)),
        );
        rows
    })
    .await;
}

// Invariants 6, 50.
#[tokio::test(start_paused = true)]
async fn rule_1_11_all_fields_are_stored_but_those_of_the_connection() {
    play(|| {
        let dropped = [
            ("connection", "x-hop, Keep-Alive"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic YTph"),
        ];
        let kept = [
            ("x-unknown", "kept"),
            ("content-type", "text/plain"),
            ("server", "origin"),
            ("link", "</a>; rel=next"),
            ("content-language", "en"),
        ];
        let mut says = fresh("1");
        for (name, value) in dropped.into_iter().chain(kept) {
            says = says.has(name, value);
        }
        let mut hit = get().hit("1");
        for (name, _) in dropped {
            hit = hit.lacks(name);
        }
        for (name, value) in kept {
            hit = hit.shows(name, value);
        }
        vec![
            row("1.11 §3.1 a hit has the fields of the response, not those of the connection")
                .ask(get().origin(says))
                .ask(hit),
            book("1.11 §5.2.2.4 without the fields that a qualified no-cache lists, or not at all")
                .ask(get().origin(fresh("1").cc("no-cache=\"x-one\"").has("x-one", "1")))
                .ask(get().maybe(|_| fresh("1")).text("1").lacks("x-one")),
        ]
    })
    .await;
}

// Invariant 45.
#[tokio::test(start_paused = true)]
async fn rule_1_12_what_came_in_part_is_not_the_whole() {
    play(|| {
        vec![
            row("1.12 §3.3 a body that breaks")
                .ask(get().origin(fresh("half").broken()).fails())
                .ask(get().origin(fresh("whole")))
                .ask(get().hit("whole")),
            row("1.12 §3.3 a body shorter than its Content-Length")
                .ask(
                    get()
                        .behind(fresh("half").chunked().has("content-length", "10"))
                        .check(|_| Ok(())),
                )
                .ask(get().origin(fresh("whole")))
                .ask(get().hit("whole")),
            row("1.12 §3.3 a body of a length that nobody told").stores(&fresh("whole").chunked()),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_1_13_an_answer_to_post_for_those_who_get() {
    play(|| {
        let post = |says| ask("POST", "/").origin(says);
        vec![
            book("1.13 RFC 9110 §9.3.3 with explicit freshness and its target as Content-Location")
                .ask(post(fresh("1").has("content-location", "/")))
                .ask(get().hit("1"))
                .ask(head().status(200).hit("")),
            book("1.13 RFC 9110 §9.3.3 an absolute Content-Location")
                .ask(post(
                    fresh("1").has("content-location", "http://shop.example/"),
                ))
                .ask(get().hit("1")),
            book("1.13 RFC 9110 §9.3.3 it never answers a POST")
                .ask(post(fresh("1").has("content-location", "/")))
                .ask(post(fresh("2").has("content-location", "/")))
                .ask(get().hit("2")),
            book("1.13 RFC 9110 §9.3.3 another Content-Location")
                .ask(post(fresh("1").has("content-location", "/other")))
                .ask(get().origin(fresh("2")))
                .ask(ask("GET", "/other").origin(fresh("3"))),
            book("1.13 RFC 9110 §9.3.3 a Content-Location of another host")
                .ask(post(
                    fresh("1").has("content-location", "http://other.example/"),
                ))
                .ask(get().origin(fresh("2"))),
            book("1.13 RFC 9110 §9.3.3 none")
                .ask(post(fresh("1")))
                .ask(get().origin(fresh("2"))),
            book("1.13 RFC 9110 §9.3.3 no explicit freshness")
                .ask(post(
                    reply("1")
                        .has("content-location", "/")
                        .has("date", "{now}")
                        .has("last-modified", LONG_AGO),
                ))
                .ask(get().origin(fresh("2"))),
            book("1.13 RFC 9110 §9.3.3 no-store")
                .ask(post(fresh("1").cc("no-store").has("content-location", "/")))
                .ask(get().origin(fresh("2"))),
        ]
    })
    .await;
}

// Invariant 46.
#[tokio::test(start_paused = true)]
async fn rule_1_14_trailers_are_never_headers() {
    play(|| {
        vec![
            row("1.14 §3.1 RFC 9110 §6.5 a trailer does not become a header")
                .ask(
                    get()
                        .origin(fresh("1").trailer("x-sum", "1"))
                        .lacks("x-sum"),
                )
                .ask(get().hit("1").lacks("x-sum")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_1_15_a_response_has_a_date() {
    play(|| {
        let is_dated = |outcome: &crate::harness::Outcome| {
            let shown = outcome.shown("date")?.ok_or("a Date")?;
            httpdate::parse_http_date(&shown)
                .map(drop)
                .map_err(|_| shown)
        };
        vec![
            row("1.15 RFC 9110 §6.6.1 the time of receipt is the date of what has none")
                .ask(get().origin(fresh("1")))
                .after(30)
                .ask(get().hit("1").check(is_dated).age(30)),
            row("1.15 RFC 9110 §6.6.1 a date is kept")
                .ask(get().origin(fresh("1").has("date", LONG_AGO).cc("s-maxage=9999999999")))
                .ask(get().hit("1").shows("date", LONG_AGO)),
        ]
    })
    .await;
}

// Invariant 1.
#[tokio::test(start_paused = true)]
async fn rule_1_16_set_cookie_by_choice() {
    play(|| {
        let says = || {
            fresh("1")
                .cc("public")
                .has("set-cookie", "a=1")
                .has("set-cookie", "b=2")
        };
        vec![
            row("1.16 §7.3 refused as it comes").forgets(&says()),
            row("1.16 §7.3 refused, and said so")
                .ask(get().origin(says()).check(because(Reason::SetCookie))),
            row("1.16 §7.3 stripped")
                .with(|layer| layer.set_cookie(SetCookie::Strip))
                .ask(get().origin(says()).shows("set-cookie", "a=1, b=2"))
                .ask(get().hit("1").lacks("set-cookie")),
            row("1.16 §7.3 stored")
                .with(|layer| layer.set_cookie(SetCookie::Store))
                .ask(get().origin(says()))
                .ask(get().hit("1").shows("set-cookie", "a=1, b=2")),
        ]
    })
    .await;
}

// Invariants 48, 57.
#[tokio::test(start_paused = true)]
async fn rule_1_17_sizes_are_bounded() {
    play(|| {
        vec![
            row("1.17 a body of the limit")
                .with(|layer| layer.max_body_bytes(4))
                .stores(&fresh("1234")),
            row("1.17 a body of one byte more")
                .with(|layer| layer.max_body_bytes(4))
                .refuses(&fresh("12345")),
            row("1.17 a body of one byte more, of a length that nobody told")
                .with(|layer| layer.max_body_bytes(4))
                .refuses(&fresh("12345").chunked()),
            row("1.17 a key that is longer than the limit")
                .with(|layer| layer.max_key_bytes(16))
                .refuses(&fresh("1")),
        ]
    })
    .await;
}

//! Section 11: what an answer is made of (RFC 9111 §3.1, RFC 9110 §6, §7.6.1).

use tower_response_cache::SetCookie;

use crate::harness::{book, fresh, get, head, play, reply, row};

// Invariants 6, 50.
#[tokio::test(start_paused = true)]
async fn rule_11_1_what_is_of_the_connection_goes_no_further() {
    play(|| {
        let fields = [
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-hop", "1"),
            ("x-other-hop", "1"),
        ];
        let says = |says: crate::harness::Reply| {
            let says = says
                .has("connection", "X-Hop, close")
                .has("connection", "x-other-hop");
            fields
                .iter()
                .fold(says, |says, (name, value)| says.has(name, value))
        };
        let lacking = |ask: crate::harness::Ask| {
            fields
                .iter()
                .fold(ask.lacks("connection"), |ask, (name, _)| ask.lacks(name))
        };
        vec![
            row("11.1 RFC 9110 §7.6.1 not into the store")
                .ask(get().origin(says(fresh("1"))))
                .ask(lacking(get().hit("1")))
                .ask(lacking(head().hit(""))),
            book("11.1 RFC 9110 §7.6.1 nor to the one who asked")
                .ask(lacking(get().origin(says(fresh("1"))))),
            book("11.1 RFC 9110 §7.6.1 nor with what is not stored")
                .ask(lacking(get().origin(says(reply("1").cc("no-store"))))),
        ]
    })
    .await;
}

// Invariants 45, 50.
#[tokio::test(start_paused = true)]
async fn rule_11_2_the_length_is_that_of_the_body() {
    play(|| {
        vec![
            row("11.2 RFC 9110 §8.6 as it came")
                .ask(get().origin(fresh("12345").has("content-length", "5")))
                .ask(get().hit("12345").shows("content-length", "5")),
            row("11.2 RFC 9112 §6.1 no transfer coding is told again")
                .ask(get().origin(fresh("12345").chunked().has("transfer-encoding", "chunked")))
                .ask(get().hit("12345").lacks("transfer-encoding")),
            row("11.2 RFC 9110 §8.6 of no body")
                .ask(get().origin(fresh("").has("content-length", "0")))
                .ask(get().hit("").shows("content-length", "0")),
        ]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rule_11_3_what_has_no_body() {
    play(|| {
        vec![
            book("11.3 RFC 9110 §15.3.5 204")
                .ask(get().origin(fresh("").status(204)))
                .ask(get().status(204).hit("").lacks("content-length")),
            row("11.3 RFC 9110 §15.4.5 304")
                .ask(get().origin(fresh("12345").etag("\"1\"")))
                .ask(get().has("if-none-match", "\"1\"").status(304).text("")),
            row("11.3 RFC 9110 §9.3.2 HEAD")
                .ask(get().origin(fresh("12345")))
                .ask(head().hit("")),
        ]
    })
    .await;
}

// Invariant 50.
#[tokio::test(start_paused = true)]
async fn rule_11_4_lines_stay_as_they_are() {
    play(|| {
        let lines = |name: &'static str, expected: &'static [&'static str]| {
            move |outcome: &crate::harness::Outcome| {
                let answer = outcome.answer()?;
                let shown: Vec<_> = answer.parts.headers.get_all(name).iter().collect();
                if shown == *expected {
                    Ok(())
                } else {
                    Err(format!("{name}: {shown:?}"))
                }
            }
        };
        vec![
            row("11.4 RFC 9110 §5.3 in their order, and as many")
                .ask(
                    get().origin(
                        fresh("1")
                            .has("link", "<b>")
                            .has("x-a", "1")
                            .has("link", "<a>")
                            .has("link", "<b>"),
                    ),
                )
                .ask(get().hit("1").check(lines("link", &["<b>", "<a>", "<b>"]))),
            row("11.4 RFC 6265 §3 cookies are never joined")
                .with(|layer| layer.set_cookie(SetCookie::Store))
                .ask(
                    get().origin(
                        fresh("1")
                            .cc("public")
                            .has("set-cookie", "a=1; Expires=Wed, 09 Jun 2044 10:18:14 GMT")
                            .has("set-cookie", "b=2"),
                    ),
                )
                .ask(get().hit("1").check(lines(
                    "set-cookie",
                    &["a=1; Expires=Wed, 09 Jun 2044 10:18:14 GMT", "b=2"],
                ))),
            row("11.4 RFC 9110 §5.5 bytes that are no text")
                .ask(get().origin(fresh("1").has("x-name", "caf\u{e9}")))
                .ask(get().hit("1").shows("x-name", "caf\u{e9}")),
        ]
    })
    .await;
}

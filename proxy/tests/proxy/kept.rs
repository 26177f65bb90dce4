//! Connections to the origin that are kept, and break when they are used again.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};

use crate::tools::{Gate, Origin, Proxy, Step, in_time, ok, say, until};

const DYING: usize = 40;

/// An origin that answers the first request on each connection, and closes it when a second one arrives.
async fn dying(gate: Gate) -> Origin {
    Origin::new(move |asked| {
        if asked.on_connection > 1 {
            return vec![Step::Close];
        }
        let answer = ok("", &format!("{} {}", asked.line, asked.body));
        if asked.line.contains("/first") {
            return [vec![Step::Wait(gate.clone())], answer].concat();
        }
        answer
    })
    .await
}

/// Makes the proxy keep so many connections at once.
async fn keep_connections(proxy: &Proxy, origin: &Origin, gate: &Gate) {
    let mut wires = Vec::new();
    for number in 0..DYING {
        let mut wire = proxy.connect().await;
        wire.send(format!(
            "GET /first/{number} HTTP/1.1\r\nHost: site.example\r\n\r\n"
        ))
        .await;
        wires.push(wire);
    }
    until(|| origin.accepted() >= DYING && origin.calls() >= DYING).await;
    gate.open();
    let mut answers = JoinSet::new();
    for mut wire in wires {
        answers.spawn(async move { wire.answer().await.status });
    }
    let statuses = in_time(answers.join_all()).await;
    assert_eq!(statuses, [200; DYING]);
}

#[tokio::test]
async fn no_get_fails_because_kept_connections_die() {
    let gate = Gate::closed();
    let origin = dying(gate.clone()).await;
    let proxy = Proxy::before(&origin, &[]).await;
    keep_connections(&proxy, &origin, &gate).await;
    let mut failed = 0;
    for number in 0..DYING {
        let answer = proxy.get(&format!("/{number}")).await;
        failed += usize::from(answer.status != 200);
    }
    assert_eq!(failed, 0, "of {DYING}");
}

#[tokio::test]
async fn no_search_by_post_fails_because_kept_connections_die() {
    let gate = Gate::closed();
    let origin = dying(gate.clone()).await;
    let proxy = Proxy::before(&origin, &["--search-paths", "--ttl", "30"]).await;
    keep_connections(&proxy, &origin, &gate).await;
    let mut failed = 0;
    for number in 0..DYING {
        let search = format!("{{\"size\":{number}}}");
        let answer = proxy.send("POST", "/products/_search", &search).await;
        failed += usize::from(answer.status != 200);
        if answer.status == 200 {
            let expected = format!("POST /products/_search HTTP/1.1 {search}");
            assert_eq!(answer.text(), expected);
        }
    }
    assert_eq!(failed, 0, "of {DYING}");
}

#[tokio::test]
async fn a_write_that_may_have_reached_the_origin_is_not_sent_again() {
    let gate = Gate::closed();
    let origin = dying(gate.clone()).await;
    let proxy = Proxy::before(&origin, &["--search-paths", "--ttl", "30"]).await;
    assert_eq!(proxy.get("/").await.status, 200);
    let answer = proxy.send("POST", "/products/_doc", "{}").await;
    assert_eq!((answer.status, origin.calls()), (502, 2));
}

#[tokio::test]
async fn a_post_is_sent_on_a_new_connection_if_the_kept_one_was_closed_before() {
    let origin = Origin::new(|asked| [ok("", &asked.body), vec![Step::Close]].concat()).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for number in 0..10 {
        let body = number.to_string();
        let answer = proxy.send("POST", "/", &body).await;
        assert_eq!((answer.status, answer.text()), (200, body.as_str()));
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((origin.calls(), origin.accepted()), (10, 10));
}

/// Otherwise it would be taken for the answer to the next request, of whichever client.
#[tokio::test]
async fn a_response_that_nobody_asked_for_closes_its_connection() {
    let unasked = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nunasked";
    let pauses = [None, Some(Duration::from_millis(20))];
    for (pause, with_the_answer) in pauses.into_iter().flat_map(|p| [(p, true), (p, false)]) {
        let origin = Origin::new(move |asked| {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{:02}",
                asked.number
            );
            if with_the_answer {
                return say(answer + unasked);
            }
            [say(answer), say(unasked)].concat()
        })
        .await;
        let proxy = Proxy::before(&origin, &[]).await;
        for number in 1..=20 {
            let answer = proxy.get(&format!("/{number}")).await;
            // A request that met the extra response was sent once more.
            assert_ne!(answer.text(), "unasked", "{number}: {answer:?}");
            assert_eq!(answer.status, 200, "{number}: {answer:?}");
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
        assert!(origin.accepted() >= 20, "{}", origin.accepted());
    }
}

//! An origin that is down, hangs, or talks nonsense; and what is stored meanwhile.

use std::{process::Stdio, time::Instant};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
};

use crate::tools::{Gate, Origin, Proxy, Step, in_time, ok, say, say_and_close, stored};

const SOON: [&str; 2] = ["--origin-timeout", "0.3"];

#[tokio::test]
async fn an_origin_that_is_down_is_a_bad_gateway() {
    let mut origin = Origin::new(|_| stored("ok")).await;
    origin.goes_down().await;
    let proxy = Proxy::before(&origin, &[]).await;
    let answer = proxy.get("/").await;
    assert_eq!(
        (answer.status, answer.one("cache-control")),
        (502, Some("no-store"))
    );
    assert!(
        !answer.text().contains("127.0.0.1"),
        "clients learn nothing of the origin: {answer:?}"
    );
    // Nobody has made of it something to be kept.
    assert_eq!(proxy.get("/").await.status, 502);
}

#[tokio::test]
async fn an_origin_that_does_not_answer_is_given_up() {
    let origin = Origin::new(|_| vec![Step::Wait(Gate::closed())]).await;
    let proxy = Proxy::before(&origin, &SOON).await;
    for more in ["", "Cookie: me=1\r\n"] {
        assert_eq!(proxy.get_with("/", more).await.status, 504);
    }
    assert_eq!(proxy.send("POST", "/", "{}").await.status, 504);
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn an_origin_that_does_not_even_accept_is_given_up() {
    // The kernel accepts for it, and nobody reads.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::before_address(listener.local_addr().unwrap(), &SOON).await;
    assert_eq!(proxy.get("/").await.status, 504);
}

#[tokio::test]
async fn an_answer_that_stops_in_its_middle_breaks_off() {
    let origin = Origin::new(|_| {
        let begins =
            "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=9\r\nContent-Length: 8\r\n\r\nhalf";
        vec![Step::Say(begins.into()), Step::Wait(Gate::closed())]
    })
    .await;
    let proxy = Proxy::before(&origin, &SOON).await;
    for calls in 1..=2 {
        let answer = proxy.get("/").await;
        assert_eq!(
            (answer.status, answer.text(), answer.is_whole),
            (200, "half", false)
        );
        assert_eq!(origin.calls(), calls);
    }
}

#[tokio::test]
async fn what_is_no_answer_is_a_bad_gateway() {
    for nonsense in [
        "220 mail.example ESMTP\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 20",
    ] {
        let origin = Origin::new(move |_| say_and_close(nonsense)).await;
        let proxy = Proxy::before(&origin, &[]).await;
        let answer = proxy.get("/").await;
        assert_eq!(answer.status, 502, "{nonsense:?}: {answer:?}");
        // The proxy is none the worse for it.
        assert_eq!(proxy.get("/").await.status, 502);
    }
}

#[tokio::test]
async fn who_only_asks_is_not_told_that_a_kept_connection_was_closed() {
    let origin = Origin::new(|asked| match asked.number {
        2 => vec![Step::Close],
        number => ok("", &number.to_string()),
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    assert_eq!(proxy.get("/a").await.text(), "1");
    let answer = proxy.get("/b").await;
    assert_eq!((answer.status, answer.text()), (200, "3"));
}

#[tokio::test]
async fn what_may_have_been_done_is_not_asked_for_twice() {
    let origin = Origin::new(|_| vec![Step::Close]).await;
    let proxy = Proxy::before(&origin, &[]).await;
    assert_eq!(proxy.send("POST", "/", "{}").await.status, 502);
    assert_eq!(
        proxy
            .say("DELETE / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await
            .status,
        502
    );
    assert_eq!(origin.calls(), 2);
    assert_eq!(proxy.get("/").await.status, 502);
    assert_eq!(origin.calls(), 4, "GET is, once");
}

#[tokio::test]
async fn what_is_stale_is_served_if_the_origin_is_down_and_the_operator_allows_it() {
    let mut origin = Origin::new(|_| ok("", "from before")).await;
    let arguments = ["--mode", "policy", "--stale-if-error", "600"];
    let proxy = Proxy::before(&origin, &arguments).await;
    proxy.get("/").await;
    assert_eq!(proxy.govern("POST", "/purge/all?soft").await.status, 200);
    origin.goes_down().await;
    let answer = proxy.get("/").await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, "from before"),
        "{answer:?}"
    );
    assert_eq!(proxy.get("/other").await.status, 502);
}

#[tokio::test]
async fn what_is_stale_is_served_if_the_origin_hangs_and_the_operator_allows_it() {
    let origin = Origin::new(|asked| match asked.number {
        1 => ok("", "from before"),
        _ => vec![Step::Wait(Gate::closed())],
    })
    .await;
    let arguments = [
        "--mode",
        "policy",
        "--stale-if-error",
        "600",
        SOON[0],
        SOON[1],
    ];
    let proxy = Proxy::before(&origin, &arguments).await;
    proxy.get("/").await;
    proxy.govern("POST", "/purge/all?soft").await;
    assert_eq!(proxy.get("/").await.text(), "from before");
}

#[tokio::test]
async fn what_is_stale_is_served_if_the_origin_fails_and_it_said_so() {
    let origin = Origin::new(|asked| match asked.number {
        1 => ok(
            "Cache-Control: max-age=600, stale-if-error=600\r\n",
            "from before",
        ),
        2 => say_and_close("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
        _ => vec![Step::Close],
    })
    .await;
    let proxy = Proxy::before(&origin, &["--mode", "rfc9111"]).await;
    proxy.get("/").await;
    proxy.govern("POST", "/purge/all?soft").await;
    for _ in 0..2 {
        let answer = proxy.get("/").await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, "from before"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn what_must_be_revalidated_is_not_served_stale() {
    let origin = Origin::new(|asked| match asked.number {
        1 => ok(
            "Cache-Control: s-maxage=600, must-revalidate\r\n",
            "from before",
        ),
        _ => vec![Step::Close],
    })
    .await;
    let proxy = Proxy::before(&origin, &["--stale-if-error", "600"]).await;
    proxy.get("/").await;
    proxy.govern("POST", "/purge/all?soft").await;
    let answer = proxy.get("/").await;
    assert!([502, 504].contains(&answer.status), "{answer:?}");
}

#[tokio::test]
async fn an_origins_own_failure_comes_through_and_is_not_stored() {
    let origin = Origin::new(|asked| match asked.number {
        1 => say("HTTP/1.1 500 Oh\r\nCache-Control: s-maxage=600\r\nX-Why: 1\r\nContent-Length: 3\r\n\r\nsad"),
        _ => stored("well"),
    })
    .await;
    let proxy = Proxy::before(&origin, &["--mode", "policy"]).await;
    let answer = proxy.get("/").await;
    assert_eq!(
        (answer.status, answer.one("x-why"), answer.text()),
        (500, Some("1"), "sad")
    );
    assert_eq!(proxy.get("/").await.text(), "well");
}

#[tokio::test]
async fn there_are_no_more_requests_with_the_origin_than_there_may_be() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin =
        Origin::new(move |_| [vec![Step::Wait(behind.clone())], ok("", "ok")].concat()).await;
    let proxy = Proxy::before(&origin, &["--origin-connections", "2"]).await;
    let answers = async {
        let get = |number| {
            let proxy = &proxy;
            async move { proxy.get(&format!("/{number}")).await.status }
        };
        tokio::join!(get(1), get(2), get(3), get(4))
    };
    let open = async {
        crate::tools::until(|| origin.calls() == 2).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(origin.calls(), 2);
        gate.open();
    };
    let (answers, ()) = in_time(async { tokio::join!(answers, open) }).await;
    assert_eq!((answers, origin.calls()), ((200, 200, 200, 200), 4));
    assert!(origin.accepted() <= 4);
}

#[tokio::test]
async fn who_finds_no_place_at_the_origin_is_told_to_come_back() {
    let origin = Origin::new(|_| {
        let begins = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
        vec![Step::Say(begins.into()), Step::Wait(Gate::closed())]
    })
    .await;
    let proxy = Proxy::before(
        &origin,
        &["--origin-connections", "1", "--origin-timeout", "1"],
    )
    .await;
    let mut holds = proxy.connect().await;
    holds
        .send("GET /1 HTTP/1.1\r\nHost: a.example\r\nCookie: a=1\r\n\r\n")
        .await;
    holds.head().await;
    let answers = [
        proxy.get_with("/2", "Cookie: a=1\r\n").await.status,
        proxy.get("/3").await.status,
    ];
    // Once the first has been given up, the next has its place.
    assert!(
        answers.iter().all(|status| [200, 503].contains(status)),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_failed_request_is_one_line_with_method_target_and_reason_and_a_storm_of_them_is_few() {
    let mut origin = Origin::new(|_| ok("", "there")).await;
    let address = format!("http://{}", origin.address);
    let mut proxy = Proxy::run(&address, &[], Stdio::piped()).await;
    let mut errors = BufReader::new(proxy.process().stderr.take().unwrap()).lines();
    origin.goes_down().await;
    let began = Instant::now();
    for number in 0..50 {
        assert_eq!(proxy.get(&format!("/page?{number}")).await.status, 502);
    }
    proxy.signal("-TERM");
    let mut lines = Vec::new();
    while let Some(line) = in_time(errors.next_line()).await.unwrap() {
        lines.push(line);
    }
    let begins = "GET /page?0: 502: the origin cannot be reached: ";
    assert!(lines[0].starts_with(begins), "{lines:?}");
    // Ten a second, and one that says how many were left out.
    let most = 11 * (began.elapsed().as_secs() + 1);
    assert!(lines.len() >= 10 && lines.len() as u64 <= most, "{lines:?}");
}

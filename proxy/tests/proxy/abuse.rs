//! Clients that are slow, rude, gone, or many.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::{task::JoinSet, time::sleep};

use crate::tools::{Gate, Origin, Proxy, Step, Wire, in_time, ok, say, stored, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: site.example\r\n\r\n";

#[tokio::test]
async fn connections_to_the_origin_are_kept() {
    let origin = Origin::new(|_| ok("", "ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for number in 0..50 {
        assert_eq!(proxy.get(&format!("/{number}")).await.status, 200);
    }
    assert_eq!(origin.calls(), 50);
    assert!(origin.accepted() <= 10, "{} connections", origin.accepted());
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    for _ in 0..100 {
        wire.send(GET).await;
        assert_eq!(wire.answer().await.text(), "ok");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn many_clients_at_once_are_one_request_to_the_origin() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin =
        Origin::new(move |_| [vec![Step::Wait(behind.clone())], stored("ok")].concat()).await;
    let proxy = Arc::new(Proxy::before(&origin, &[]).await);
    let mut clients = JoinSet::new();
    for _ in 0..300 {
        let proxy = proxy.clone();
        clients.spawn(async move { proxy.get("/").await.text() == "ok" });
    }
    until(|| origin.calls() == 1).await;
    gate.open();
    assert!(
        in_time(clients.join_all())
            .await
            .into_iter()
            .all(|is_right| is_right)
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn many_requests_at_once_on_one_connection_of_http_2_are_answered_each() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin =
        Origin::new(move |asked| [vec![Step::Wait(behind.clone())], stored(&asked.line)].concat())
            .await;
    let proxy = Proxy::before(&origin, &["--header-timeout", "0.2"]).await;
    let client = proxy.http2().await;
    let get = async |path: String| {
        let request = Request::get(format!("http://site.example{path}"));
        let mut client = client.clone();
        client.ready().await.unwrap();
        let response = client
            .send_request(request.body(Empty::<Bytes>::new()).unwrap())
            .await;
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), format!("GET {path} HTTP/1.1"));
    };
    let all =
        futures_util::future::join_all((0..300).map(|number| get(format!("/{}", number % 50))));
    let open = async {
        // They take longer than a head may.
        until(|| origin.calls() == 50).await;
        sleep(Duration::from_millis(300)).await;
        gate.open();
    };
    in_time(async { tokio::join!(all, open) }).await;
    assert_eq!(origin.calls(), 50);
    in_time(get("/1".to_owned())).await;
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_takes_nothing_with_it() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin = Origin::new(move |_| {
        let begins =
            "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: 8\r\n\r\nhalf";
        vec![
            Step::Say(begins.into()),
            Step::Wait(behind.clone()),
            Step::Say("full".into()),
        ]
    })
    .await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    wire.send(GET).await;
    wire.head().await;
    assert_eq!(wire.read_bytes(4).await, b"half");
    drop(wire);
    gate.open();
    for _ in 0..20 {
        let answer = proxy.get("/").await;
        assert_eq!((answer.text(), origin.calls()), ("halffull", 1));
        if answer.is_hit() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("it is never stored");
}

#[tokio::test]
async fn a_client_that_goes_before_there_is_an_answer_takes_nothing_with_it() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin =
        Origin::new(move |_| [vec![Step::Wait(behind.clone())], stored("ok")].concat()).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut wire = proxy.connect().await;
    wire.send(GET).await;
    until(|| origin.calls() == 1).await;
    drop(wire);
    gate.open();
    assert_eq!(proxy.get("/").await.text(), "ok");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_up_nobody() {
    let body = "0123456789abcdef".repeat(256 << 10); // 4 MiB: more than sockets hold
    let long = body.clone();
    let origin = Origin::new(move |_| stored(&long)).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let mut slow = proxy.connect().await;
    slow.send(GET).await;
    slow.head().await;
    let answer = proxy.get("/").await;
    assert!(answer.body == body.as_bytes() && origin.calls() == 1);
    // It gets all of it in the end.
    let mut read = 0;
    while read < body.len() {
        let piece = (body.len() - read).min(100_000);
        assert!(slow.read_bytes(piece).await == body.as_bytes()[read..read + piece]);
        read += piece;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_at_all_is_given_up() {
    let origin = Origin::new(|_| ok("", &"x".repeat(32 << 20))).await;
    let arguments = [
        "--idle-timeout",
        "0.2",
        "--origin-timeout",
        "0.5",
        "--origin-connections",
        "1",
        "--mode",
        "policy",
    ];
    let proxy = Proxy::before(&origin, &arguments).await;
    let mut deaf = proxy.connect().await;
    deaf.send(GET.replace("\r\n\r\n", "\r\nCookie: a=1\r\n\r\n"))
        .await;
    deaf.head().await;
    // It has the one place at the origin, until its connection is closed.
    in_time(async { while proxy.get_with("/small", "Cookie: a=1\r\n").await.status != 200 {} })
        .await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &["--header-timeout", "0.3"]).await;
    let mut slow = proxy.connect().await;
    slow.send("GET / HTTP/1.1\r\nHost: site.example\r\n").await;
    let drips = async {
        // It never keeps silent for long.
        while tokio::io::AsyncWriteExt::write_all(&mut slow.stream, b"X: y\r\n")
            .await
            .is_ok()
        {
            sleep(Duration::from_millis(50)).await;
        }
    };
    in_time(drips).await;
    assert_eq!((proxy.get("/").await.status, origin.calls()), (200, 1));
}

#[tokio::test]
async fn who_takes_long_to_say_in_which_protocol_it_speaks_is_not_waited_for() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &["--header-timeout", "0.3"]).await;
    let mut silent = proxy.connect().await;
    let mut slow = proxy.connect().await;
    let drips = async {
        for byte in b"PRI * HTTP/2.0".iter().cycle() {
            let sent = tokio::io::AsyncWriteExt::write_all(&mut slow.stream, &[*byte]).await;
            if sent.is_err() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    in_time(drips).await;
    assert!(silent.is_closed().await);
}

#[tokio::test]
async fn a_client_that_sends_slowly_is_waited_for_as_long_as_it_sends() {
    let origin = Origin::new(|asked| ok("", &asked.body)).await;
    let proxy = Proxy::before(
        &origin,
        &["--origin-timeout", "0.5", "--idle-timeout", "0.5"],
    )
    .await;
    let mut slow = proxy.connect().await;
    slow.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n")
        .await;
    for digit in 0..10 {
        sleep(Duration::from_millis(100)).await;
        slow.send(digit.to_string()).await;
    }
    assert_eq!(slow.answer().await.text(), "0123456789");
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_closed() {
    let origin = Origin::new(|_| stored("ok")).await;
    let arguments = [
        "--header-timeout",
        "0.3",
        "--idle-timeout",
        "0.3",
        "--origin-timeout",
        "0.3",
    ];
    let proxy = Proxy::before(&origin, &arguments).await;
    let mut silent = proxy.connect().await;
    let mut begun = proxy.connect().await;
    begun.send("PRI * HTTP/2.0\r\n").await;
    let mut done = proxy.connect().await;
    done.send(GET).await;
    assert_eq!(done.answer().await.text(), "ok");
    let mut stopped = proxy.connect().await;
    stopped
        .send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\nhalf")
        .await;
    for wire in [&mut silent, &mut begun, &mut done] {
        assert!(wire.is_closed().await);
    }
    // It is told, and then closed.
    let answer = stopped.answer().await;
    assert!([400, 408, 504].contains(&answer.status), "{answer:?}");
    assert!(stopped.is_closed().await);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    let long = "x".repeat(100 << 10);
    let many = "X: y\r\n".repeat(1100);
    for (head, status) in [
        (
            format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {long}\r\n\r\n"),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a.example\r\n{many}\r\n"),
            431,
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nHost: a.example\r\n\r\n"),
            414,
        ),
    ] {
        let mut wire = proxy.connect().await;
        // It need not read all of it.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut wire.stream, head.as_bytes()).await;
        let answer = wire.answer().await;
        assert!([status, 431].contains(&answer.status), "{answer:?}");
    }
    assert_eq!(origin.calls(), 0);
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &[]).await;
    for nonsense in [
        "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let mut wire = proxy.connect().await;
        wire.send(nonsense).await;
        let begins = in_time(async {
            let mut begins = [0; 12];
            let read = tokio::io::AsyncReadExt::read(&mut wire.stream, &mut begins).await;
            begins[..read.unwrap_or(0)].to_vec()
        })
        .await;
        let begins = String::from_utf8_lossy(&begins).into_owned();
        assert!(
            begins.is_empty() || begins == "HTTP/1.1 400",
            "{nonsense:?}: {begins}"
        );
    }
    assert_eq!((proxy.get("/").await.status, origin.calls()), (200, 1));
}

#[tokio::test]
async fn there_are_no_more_connections_than_there_may_be() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Proxy::before(&origin, &["--max-connections", "2"]).await;
    let mut held = [proxy.connect().await, proxy.connect().await];
    for wire in &mut held {
        wire.send(GET).await;
        assert_eq!(wire.answer().await.text(), "ok");
    }
    let mut third = proxy.connect().await;
    third.send(GET).await;
    let answered = tokio::time::timeout(Duration::from_millis(200), third.stream.readable()).await;
    assert!(answered.is_err(), "it has no place yet");
    drop(held);
    assert_eq!(third.answer().await.text(), "ok");
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing_behind() {
    let origin = Origin::new(|_| stored("ok")).await;
    let proxy = Arc::new(Proxy::before(&origin, &["--max-connections", "20"]).await);
    let mut clients = JoinSet::new();
    for number in 0..400 {
        let address = proxy.address;
        clients.spawn(async move {
            let mut wire = Wire::to(address).await;
            let part = GET.len() * (number % 5) / 4;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &GET.as_bytes()[..part])
                .await;
        });
    }
    in_time(clients.join_all()).await;
    assert_eq!(proxy.get("/").await.text(), "ok");
    let stats = proxy.govern("GET", "/stats").await;
    let stats: serde_json::Value = serde_json::from_slice(&stats.body).unwrap();
    assert_eq!(
        (&stats["fills"], &stats["waiters"]),
        (&0.into(), &0.into()),
        "{stats}"
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_long_to_store_comes_through_whole() {
    let body = "0123456789".repeat(20_000);
    let long = body.clone();
    let origin = Origin::new(move |asked| {
        if asked.line.contains("chunked") {
            let head = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=9\r\nTransfer-Encoding: chunked\r\n\r\n";
            return say(format!("{head}{:x}\r\n{long}\r\n0\r\n\r\n", long.len()));
        }
        stored(&long)
    })
    .await;
    let proxy = Proxy::before(&origin, &["--max-body-bytes", "100000"]).await;
    for (path, calls) in [("/", 1), ("/", 2), ("/chunked", 3), ("/chunked", 4)] {
        let answer = proxy.get(path).await;
        assert!(answer.is_whole && answer.body == body.as_bytes());
        assert_eq!(origin.calls(), calls);
    }
}

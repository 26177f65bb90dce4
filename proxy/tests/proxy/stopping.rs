//! How the proxy stops.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::tools::{Gate, Origin, Proxy, Step, in_time, ok, until};

/// An origin whose responses wait until the gate is opened.
async fn waiting_origin(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::new(move |_| {
        let mut steps = vec![Step::Wait(gate.clone())];
        steps.extend(ok("", "whole"));
        steps
    })
    .await
}

/// Sixty requests, all of which the origin has.
async fn sixty_requests(proxy: &Proxy, origin: &Origin) -> JoinSet<String> {
    let mut requests = JoinSet::new();
    for number in 0..60 {
        let mut wire = proxy.connect().await;
        let request = format!("GET /{number} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        requests.spawn(async move {
            wire.send(&request).await;
            wire.answer_to(&request).await.text().to_owned()
        });
    }
    until(|| origin.calls() == 60).await;
    requests
}

async fn all_in_flight_are_answered_after(signal: &str) {
    let gate = Gate::closed();
    let origin = waiting_origin(&gate).await;
    let mut proxy = Proxy::before(&origin, &[]).await;
    let requests = sixty_requests(&proxy, &origin).await;
    proxy.signal(signal);
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.open();
    let answers = in_time(requests.join_all()).await;
    assert_eq!(answers, vec!["whole"; 60]);
    let status = in_time(proxy.process().wait()).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn sixty_requests_in_flight_at_sigterm_are_answered_whole() {
    all_in_flight_are_answered_after("-TERM").await;
}

#[tokio::test]
async fn sixty_requests_in_flight_at_sigint_are_answered_whole() {
    all_in_flight_are_answered_after("-INT").await;
}

#[tokio::test]
async fn an_origin_that_hangs_delays_the_end_by_ten_seconds_in_all() {
    let origin = waiting_origin(&Gate::closed()).await;
    let mut proxy = Proxy::before(&origin, &[]).await;
    let _requests = sixty_requests(&proxy, &origin).await;
    let began = Instant::now();
    proxy.signal("-TERM");
    let _ = in_time(proxy.process().wait()).await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(9), "{took:?}");
    // Ten seconds for the clients and ten more for the origin would be twenty.
    assert!(took < Duration::from_secs(16), "{took:?}");
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let origin = waiting_origin(&Gate::closed()).await;
    let mut proxy = Proxy::before(&origin, &[]).await;
    let _requests = sixty_requests(&proxy, &origin).await;
    let began = Instant::now();
    proxy.signal("-TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(proxy.process().try_wait().unwrap().is_none());
    proxy.signal("-INT");
    let _ = in_time(proxy.process().wait()).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

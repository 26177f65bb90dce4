//! The examples, as their users run them: each is started, spoken to over its socket, and stopped with Ctrl-C.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use bytes::Bytes;
use http::{Method, Request, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
    time::{sleep, timeout},
};
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

async fn in_time<F: Future>(future: F) -> F::Output {
    let limit = Duration::from_secs(20);
    timeout(limit, future).await.expect("this takes too long")
}

/// Cargo puts examples beside the directory of the tests.
fn binary(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let binary = profile.join("examples").join(name);
    assert!(
        binary.exists(),
        "{binary:?} is missing: first run `cargo build --all-features --examples`"
    );
    binary
}

/// A running example, killed when this is dropped.
struct Example {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Example {
    fn run(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary(name));
        command.args(arguments).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    async fn line(&mut self) -> String {
        let line = in_time(self.output.next_line()).await.unwrap();
        line.expect("another line of output")
    }

    /// Presses Ctrl-C.
    fn interrupt(&self) {
        let id = self.process.id().expect("it runs").to_string();
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args(["-INT", &id]).status().unwrap().success());
    }

    async fn ends_well(mut self) {
        let status = in_time(self.process.wait()).await.unwrap();
        assert!(status.success(), "{status}");
    }
}

/// An example that serves, and what to reach it with.
struct Server {
    example: Example,
    client: Visitor,
}

impl Server {
    async fn start(name: &str) -> Self {
        let mut example = Example::run(name, &["--listen", "127.0.0.1:0"]);
        let line = example.line().await;
        let base = line.strip_prefix("listening on ").unwrap().to_owned();
        let client = Visitor::to(base);
        Self { example, client }
    }

    fn address(&self) -> &str {
        self.client.base.strip_prefix("http://").unwrap()
    }

    async fn stops(self) {
        self.example.interrupt();
        self.example.ends_well().await;
    }
}

#[derive(Clone)]
struct Visitor {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    cache_status: String,
    body: String,
}

impl Answer {
    fn is_hit(&self) -> bool {
        self.cache_status.contains("; hit")
    }
}

impl Visitor {
    fn to(base: String) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base, client }
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", "application/json");
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let response = in_time(self.client.request(request)).await.unwrap();
        let cache_status = response.headers().get("cache-status");
        let cache_status = cache_status.map(|status| status.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = in_time(response.into_body().collect()).await.unwrap();
        Answer {
            status,
            cache_status: cache_status.unwrap_or_default(),
            body: String::from_utf8(body.to_bytes().into()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }
}

/// The handlers of the examples take 200 ms: by then a request has arrived, and has not been answered.
const IN_FLIGHT: Duration = Duration::from_millis(100);

/// Interrupted while a request is in flight, the example finishes it, and ends.
async fn finishes_what_is_in_flight(name: &str, path: &'static str) {
    for _ in 0..5 {
        let server = Server::start(name).await;
        let client = server.client.clone();
        client.get("/connect").await;
        let slow = tokio::spawn(async move { client.get(path).await });
        sleep(IN_FLIGHT).await;
        server.example.interrupt();
        let was_in_flight = !slow.is_finished();
        let answer = in_time(slow).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let address = server.address().to_owned();
        server.example.ends_well().await;
        assert!(TcpStream::connect(address).await.is_err());
        if was_in_flight {
            return;
        }
    }
    panic!("this machine is too slow to interrupt a request of 200 ms");
}

#[tokio::test]
async fn what_cannot_be_read_on_the_command_line_is_an_error() {
    for name in ["tonic", "tower", "axum"] {
        if name == "axum" && !cfg!(feature = "axum") {
            continue;
        }
        for arguments in [
            &["--bogus"][..],
            &["--listen"],
            &["--listen", "127.0.0.1:0", "more"],
        ] {
            let mut command = Command::new(binary(name));
            let output = command.args(arguments).kill_on_drop(true).output();
            let output = in_time(output).await.unwrap();
            assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("usage:"));
        }
    }
}

#[tokio::test]
async fn a_function_is_called_once_for_each_path() {
    let server = Server::start("tower").await;
    let first = server.client.get("/hello").await;
    let second = server.client.get("/hello").await;
    let other = server.client.get("/other").await;
    assert_eq!(
        (first.is_hit(), first.body.as_str()),
        (false, "/hello, made by call 1\n")
    );
    assert_eq!(
        (second.is_hit(), second.body.as_str()),
        (true, "/hello, made by call 1\n")
    );
    assert_eq!(
        (other.is_hit(), other.body.as_str()),
        (false, "/other, made by call 2\n")
    );
    server.stops().await;
}

#[tokio::test]
async fn a_function_finishes_its_answer_when_interrupted() {
    finishes_what_is_in_flight("tower", "/hello").await;
}

#[tokio::test]
async fn a_call_over_grpc_is_answered_from_the_cache_when_made_again() {
    let server = Server::start("tonic").await;
    let mut client = Example::run("tonic", &["--client", server.address()]);
    let (first, second) = (client.line().await, client.line().await);
    for line in [&first, &second] {
        assert!(
            line.starts_with(r#"Product { name: "Product 7", price: 700 } after "#),
            "{line}"
        );
    }
    assert!(first.ends_with("; fwd=uri-miss; stored"), "{first}");
    assert!(second.contains("; hit"), "{second}");
    client.ends_well().await;
    server.stops().await;
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_site_is_warmed_and_refreshed_and_nobody_waits_for_a_page() {
    let mut warm = Example::run("warm", &[]);
    for begins in [
        "warmed: 2000 of 2000 pages, 0 failed, ",
        "refreshed: 100 pages of section 7, ",
        "meanwhile: ",
        "afterwards: ",
        "2100 calls of the handler: ",
    ] {
        let line = warm.line().await;
        assert!(line.starts_with(begins), "{line}");
    }
    warm.ends_well().await;
}

/// `shop.Product`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Product {
    #[prost(string, tag = "1")]
    name: String,
}

/// `shop.Query`
#[derive(Clone, PartialEq, prost::Message)]
struct Query {
    #[prost(uint64, tag = "1")]
    id: u64,
}

#[tokio::test]
async fn a_call_over_grpc_is_finished_when_its_server_is_interrupted() {
    for _ in 0..5 {
        let server = Server::start("tonic").await;
        let endpoint = Endpoint::from_shared(server.client.base.clone()).unwrap();
        let mut client = Grpc::new(in_time(endpoint.connect()).await.unwrap());
        let slow = tokio::spawn(async move {
            client.ready().await.unwrap();
            let (query, path) = (
                Query { id: 7 },
                PathAndQuery::from_static("/shop.Catalogue/Find"),
            );
            let codec = ProstCodec::<Query, Product>::default();
            client.unary(tonic::Request::new(query), path, codec).await
        });
        sleep(IN_FLIGHT).await;
        server.example.interrupt();
        let was_in_flight = !slow.is_finished();
        let product = in_time(slow).await.unwrap().unwrap();
        assert_eq!(product.into_inner().name, "Product 7");
        server.example.ends_well().await;
        if was_in_flight {
            return;
        }
    }
    panic!("this machine is too slow to interrupt a call of 200 ms");
}

/// The requests in between come 100 ms after a transaction of 400 ms has begun.
#[cfg(feature = "axum")]
#[tokio::test]
async fn around_a_transaction_nothing_is_told_that_is_no_more_so_whatever_becomes_of_it() {
    for _ in 0..5 {
        let mut example = Example::run("transaction", &[]);
        let mut came_in_between = true;
        for (end, price) in [("committed", 200), ("rolled back", 100), ("cancelled", 200)] {
            let line = example.line().await;
            let (before, after) = (
                format!("{end}: 100 (stored), "),
                format!(", {price} (stored)"),
            );
            assert!(
                line.starts_with(&before) && line.ends_with(&after),
                "{line}"
            );
            came_in_between &= line.contains(", 100 (detail=held-off), ");
        }
        example.ends_well().await;
        if came_in_between {
            return;
        }
    }
    panic!("this machine is too slow for a request in the middle of 400 ms");
}

#[cfg(feature = "axum")]
mod shop {
    use serde_json::{Value, json};

    use super::*;

    impl Answer {
        fn json(&self) -> Value {
            serde_json::from_str(&self.body).unwrap()
        }
    }

    impl Visitor {
        async fn put(&self, id: u64, name: &str, price: u64) -> Answer {
            let product = json!({ "name": name, "price": price }).to_string();
            let path = format!("/products/{id}");
            self.send(Method::PUT, &path, &product).await
        }
    }

    #[tokio::test]
    async fn a_product_is_loaded_once() {
        let server = Server::start("axum").await;
        let shop = &server.client;
        let (first, second) = (shop.get("/products/7").await, shop.get("/products/7").await);
        assert_eq!((first.is_hit(), second.is_hit()), (false, true));
        assert_eq!(
            first.json(),
            json!({ "id": 7, "name": "Product 07", "price": 700 })
        );
        assert_eq!(first.body, second.body);

        let stats = shop.get("/stats").await;
        assert_eq!(stats.cache_status, "");
        assert_eq!(stats.json()["renders"], 1);
        assert_eq!(stats.json()["cache"]["hits"], 1);
        assert_eq!(stats.json()["cache"]["entries"], 1);
        server.stops().await;
    }

    /// Each time while an old answer is being made.
    #[tokio::test]
    async fn a_changed_product_is_seen_by_the_next_request_fifty_times() {
        let server = Server::start("axum").await;
        let lanes = (1..=10).map(|id| tokio::spawn(changes(server.client.clone(), id)));
        for lane in lanes.collect::<Vec<_>>() {
            in_time(lane).await.unwrap();
        }
        server.stops().await;
    }

    async fn changes(shop: Visitor, id: u64) {
        let path = format!("/products/{id}");
        for round in 0..5 {
            shop.put(id, "Old", round).await;
            let (early, early_path) = (shop.clone(), path.clone());
            let early = tokio::spawn(async move { early.get(&early_path).await });
            sleep(Duration::from_millis(50)).await;

            let name = format!("Product {id} of round {round}");
            let changed = shop.put(id, &name, round).await;
            assert_eq!(
                changed.json(),
                json!({ "id": id, "name": name, "price": round })
            );
            let next = shop.get(&path).await;
            assert_eq!(next.json(), changed.json(), "{next:?}");
            assert_eq!(in_time(early).await.unwrap().status, 200);
            let later = shop.get(&path).await;
            assert!(later.is_hit(), "{later:?}");
            assert_eq!(later.json(), changed.json());
        }
    }

    fn ids(page: &Answer) -> Vec<u64> {
        let Value::Array(products) = page.json() else {
            panic!("{page:?}")
        };
        products
            .iter()
            .map(|product| product["id"].as_u64().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn other_parameters_do_not_split_the_pages() {
        let server = Server::start("axum").await;
        let shop = &server.client;
        let first = shop.get("/products?page=1&sort=price").await;
        assert_eq!(ids(&first), (1..=10).collect::<Vec<_>>());
        for same in [
            "sort=price&page=1",
            "page=1&sort=price&from=mail",
            "x&page=1&y=2&sort=price",
        ] {
            let answer = shop.get(&format!("/products?{same}")).await;
            assert!(answer.is_hit(), "{same}: {answer:?}");
            assert_eq!(answer.body, first.body);
        }
        for other in ["page=2&sort=price", "page=1&sort=name", "page=1"] {
            let answer = shop.get(&format!("/products?{other}")).await;
            assert!(!answer.is_hit(), "{other}: {answer:?}");
        }
        assert_eq!(shop.get("/stats").await.json()["renders"], 4);
        server.stops().await;
    }

    #[tokio::test]
    async fn a_product_that_stays_in_its_place_changes_the_page_that_shows_it() {
        let server = Server::start("axum").await;
        let shop = &server.client;
        let pages = ["/products?page=1", "/products?page=2"];
        for page in pages {
            assert!(!shop.get(page).await.is_hit());
        }
        shop.put(5, "Product 05, blue", 500).await;
        let (first, second) = (shop.get(pages[0]).await, shop.get(pages[1]).await);
        assert!(
            first.body.contains("Product 05, blue") && !first.is_hit(),
            "{first:?}"
        );
        assert!(second.is_hit(), "{second:?}");
        server.stops().await;
    }

    #[tokio::test]
    async fn a_product_that_moves_changes_the_pages_that_it_moves_to() {
        let server = Server::start("axum").await;
        let shop = &server.client;
        for sort in ["price", "name"] {
            let page = format!("/products?page=1&sort={sort}");
            assert!(!ids(&shop.get(&page).await).contains(&30));
        }
        shop.put(30, "A cheap one", 1).await;
        for sort in ["price", "name"] {
            let page = shop.get(&format!("/products?page=1&sort={sort}")).await;
            assert_eq!(ids(&page)[0], 30, "{page:?}");
        }
        server.stops().await;
    }

    #[tokio::test]
    async fn an_added_product_is_on_the_next_page_that_is_asked_for() {
        let server = Server::start("axum").await;
        let shop = &server.client;
        assert!(ids(&shop.get("/products?page=4").await).is_empty());
        assert!(shop.get("/products?page=4").await.is_hit());
        let added = shop
            .send(Method::POST, "/products", r#"{"name":"New","price":5}"#)
            .await;
        assert_eq!(
            (added.status, added.json()),
            (201, json!({ "id": 31, "name": "New", "price": 5 }))
        );
        assert_eq!(ids(&shop.get("/products?page=4").await), [31]);
        assert_eq!(shop.get("/products/31").await.json(), added.json());
        server.stops().await;
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_the_clients_mistake_and_not_stored() {
        let server = Server::start("axum").await;
        let shop = &server.client;
        let queries = [
            "page=abc",
            "page=0",
            "page=-1",
            "page=1e999",
            "page=1&page=2",
            "sort=size",
        ];
        for query in queries.iter().chain(&queries) {
            let answer = shop.get(&format!("/products?{query}")).await;
            assert_eq!(
                (answer.status, answer.is_hit()),
                (400, false),
                "{query}: {answer:?}"
            );
        }
        for (path, status) in [
            ("/products/abc", 400),
            ("/products/99", 404),
            ("/unknown", 404),
        ] {
            assert_eq!(shop.get(path).await.status, status, "{path}");
        }
        for body in [
            "",
            "{",
            "[]",
            r#"{"name":"x"}"#,
            r#"{"name":"x","price":-1}"#,
        ] {
            let put = shop.send(Method::PUT, "/products/7", body).await;
            let post = shop.send(Method::POST, "/products", body).await;
            assert!((400..500).contains(&put.status), "{body}: {put:?}");
            assert!((400..500).contains(&post.status), "{body}: {post:?}");
        }
        assert_eq!(shop.put(99, "Unknown", 1).await.status, 404);
        let far = shop.get(&format!("/products?page={}", usize::MAX)).await;
        assert_eq!((far.status, far.body.as_str()), (200, "[]"));
        assert_eq!(shop.get("/products/7").await.json()["name"], "Product 07");
        server.stops().await;
    }

    #[tokio::test]
    async fn the_shop_finishes_its_answers_when_interrupted() {
        finishes_what_is_in_flight("axum", "/products/7").await;
    }
}

//! Which proxies before this one are believed, and what the origin hears of the client.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer},
};

use crate::tools::{Origin, Proxy, in_time, ok, say};

const TRUSTED: [&str; 2] = ["--trust-forwarded", "127.0.0.0/8"];

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_this_hop_is_added() {
    let origin = Origin::new(|_| ok("", "page")).await;
    let proxy = Proxy::before(&origin, &TRUSTED).await;
    let told = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Proto: https\r\n\
                Forwarded: for=192.0.2.7;proto=https\r\nTrue-Client-IP: 192.0.2.7\r\n";
    proxy.get_with("/", told).await;
    let asked = origin.last();
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.7, 127.0.0.1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=192.0.2.7;proto=https, for=127.0.0.1"),
        ("true-client-ip", "192.0.2.7"),
    ] {
        assert_eq!(asked.one(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn what_anybody_else_says_of_the_client_is_replaced() {
    let origin = Origin::new(|_| ok("", "page")).await;
    let proxy = Proxy::before(&origin, &["--trust-forwarded", "192.0.2.0/24"]).await;
    let names = [
        "Forwarded",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Real-IP",
        "X-Client-IP",
        "Fastly-Client-IP",
        "X-Forwarded-Prefix",
    ];
    let told: String = names.map(|name| format!("{name}: 6.6.6.6\r\n")).concat();
    let told = format!("{told}X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n");
    proxy.get_with("/", &told).await;
    let asked = origin.last();
    for name in names {
        assert_eq!(asked.one(&name.to_ascii_lowercase()), None, "{name}");
    }
    assert_eq!(asked.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(asked.one("x-forwarded-proto"), Some("http"));
}

/// Takes TLS connections, and passes what they say on in clear text.
struct Terminator {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Terminator {
    async fn before(proxy: &Proxy) -> Self {
        let certificate = rcgen::generate_simple_self_signed(["site.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(certificate.signing_key.serialize_der().into());
        let chain = vec![certificate.cert.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(server.with_single_cert(chain, key).unwrap()));
        let client = ClientConfig::builder().with_root_certificates(roots);
        let connector = TlsConnector::from(Arc::new(client.with_no_client_auth()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, behind) = (listener.local_addr().unwrap(), proxy.address);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut behind = TcpStream::connect(behind).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut stream, &mut behind).await });
            }
        });
        Self { address, connector }
    }

    /// The response to a GET, as text. The request has the `X-Forwarded-Proto` that a real terminator adds.
    async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = "site.example".try_into().unwrap();
        let mut stream = self.connector.connect(name, stream).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: site.example\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A peer that closes without `close_notify` is an error after all that it said.
        let _ = in_time(stream.read_to_string(&mut answer)).await;
        answer
    }
}

/// An application that redirects requests over http to https.
async fn redirecting_origin() -> Origin {
    Origin::new(|asked| match asked.one("x-forwarded-proto") {
        Some("https") => ok("Cache-Control: max-age=60\r\n", "page"),
        _ => say(
            "HTTP/1.1 301 Moved Permanently\r\nLocation: https://site.example/\r\nCache-Control: max-age=60\r\n\
             Content-Length: 0\r\n\r\n",
        ),
    })
    .await
}

#[tokio::test]
async fn behind_a_tls_terminator_there_is_no_redirect_loop() {
    let origin = redirecting_origin().await;
    let proxy = Proxy::before(&origin, &TRUSTED).await;
    let terminator = Terminator::before(&proxy).await;
    // The redirect of a request in clear text is stored first, and must not reach clients that use TLS.
    assert_eq!(proxy.get_with("/", "").await.status, 301);
    for _ in 0..2 {
        let answer = in_time(terminator.get("/")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("page"), "{answer}");
    }
    assert_eq!(origin.calls(), 2, "the second page is a hit");
}

#[tokio::test]
async fn a_redirect_to_its_own_target_is_not_stored_where_the_terminator_is_not_trusted() {
    let origin = redirecting_origin().await;
    let proxy = Proxy::before(&origin, &[]).await;
    let terminator = Terminator::before(&proxy).await;
    for calls in 1..=2 {
        let answer = in_time(terminator.get("/")).await;
        assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
        assert_eq!(origin.calls(), calls, "{answer}");
    }
}

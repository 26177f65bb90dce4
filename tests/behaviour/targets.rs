//! One target URI in all its forms.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, request::Parts, uri::Scheme};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    },
};
use tower::Layer;
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, Key, Reason, WarmError,
};

use crate::common::{
    Answer, Body, Gate, Origin, empty, get, ok, read, request, send, status, until, with,
    with_headers,
};

const HOST: &str = "shop.example";

/// How a client speaks to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wire {
    tls: bool,
    http2: bool,
}

const WIRES: [Wire; 4] = [
    wire(false, false),
    wire(false, true),
    wire(true, false),
    wire(true, true),
];

const fn wire(tls: bool, http2: bool) -> Wire {
    Wire { tls, http2 }
}

/// A service behind two listeners, one in clear text and one over TLS, both for HTTP/1.1 and HTTP/2.
#[derive(Clone)]
struct Servers {
    clear: SocketAddr,
    tls: SocketAddr,
    connector: TlsConnector,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Servers {
    async fn of(service: Cache<Origin>) -> Self {
        let issued = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let certificate = issued.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
        let mut server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::from(key))
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            clear: listen(service.clone(), None).await,
            tls: listen(service, Some(TlsAcceptor::from(Arc::new(server)))).await,
            connector: TlsConnector::from(Arc::new(client)),
        }
    }

    async fn connect(&self, wire: Wire) -> TokioIo<Box<dyn Stream>> {
        if !wire.tls {
            let stream = TcpStream::connect(self.clear).await.unwrap();
            return TokioIo::new(Box::new(stream));
        }
        let mut config = ClientConfig::clone(self.connector.config());
        let protocol = if wire.http2 { &b"h2"[..] } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(self.tls).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        TokioIo::new(Box::new(connector.connect(name, stream).await.unwrap()))
    }

    /// Asks for this URI, over a connection of its own. Over HTTP/1.1 an absolute URI is sent in the absolute form, with these
    /// headers.
    async fn ask(&self, wire: Wire, uri: &str, headers: &[(&str, &str)]) -> Answer {
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let request = with_headers(request, headers);
        let stream = self.connect(wire).await;
        let response: Response<Incoming> = if wire.http2 {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
            let (mut sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let handshake = hyper::client::conn::http1::handshake(stream);
            let (mut sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        read(response).await
    }

    /// Asks for a path of the shop, as a client over this wire does.
    async fn get(&self, wire: Wire, path: &str) -> Answer {
        match wire {
            Wire { http2: false, .. } => self.ask(wire, path, &[("host", HOST)]).await,
            Wire { tls, .. } => {
                let scheme = if tls { "https" } else { "http" };
                self.ask(wire, &format!("{scheme}://{HOST}{path}"), &[])
                    .await
            }
        }
    }
}

async fn listen(service: Cache<Origin>, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let tls = tls.clone();
            tokio::spawn(async move {
                let stream: Box<dyn Stream> = match tls {
                    Some(tls) => Box::new(tls.accept(stream).await.unwrap()),
                    None => Box::new(stream),
                };
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn was_hit(answer: &Answer) -> bool {
    let member = answer.header("cache-status").unwrap();
    member.contains("; hit")
}

fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let request = Request::get(uri).body(empty()).unwrap();
    with_headers(request, headers).into_parts().0
}

fn asked(uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    Request::from_parts(parts(uri, headers), empty())
}

fn cached(builder: CacheLayerBuilder, origin: &Origin) -> (Cache<Origin>, CacheHandle) {
    let layer = builder.build();
    let handle = layer.handle();
    (layer.layer(origin.clone()), handle)
}

// Invariant 62.
#[tokio::test]
async fn a_target_is_one_entry_one_call_and_one_purge_over_http1_and_http2_in_clear_text_and_tls() {
    let origin = Origin::counting(&[]);
    let (cache, handle) = cached(CacheLayer::builder(), &origin);
    let servers = Servers::of(cache).await;
    let mut calls = 0;
    let purges = [
        parts("/p?q=1", &[("host", HOST)]),
        parts("/p?q=1", &[("host", "Shop.Example:443")]),
        parts("http://shop.example/p?q=1", &[]),
        parts("https://SHOP.example:443/p?q=1", &[("host", HOST)]),
    ];
    for (first, purge) in WIRES.into_iter().zip(purges) {
        calls += 1;
        assert!(!was_hit(&servers.get(first, "/p?q=1").await), "{first:?}");
        for wire in WIRES {
            let answer = servers.get(wire, "/p?q=1").await;
            assert!(was_hit(&answer), "{first:?}, then {wire:?}");
            assert_eq!(answer.text(), calls.to_string());
        }
        assert_eq!((origin.calls(), handle.stats().entries), (calls, 1));
        assert_eq!(handle.purge_request(&purge).await.unwrap().skipped, 0);
    }
}

// Invariant 62.
#[tokio::test]
async fn spellings_of_the_authority_are_one_entry() {
    let origin = Origin::counting(&[]);
    let (cache, _) = cached(CacheLayer::builder(), &origin);
    let servers = Servers::of(cache).await;
    let (http1, http2) = (wire(false, false), wire(false, true));
    let (tls1, tls2) = (wire(true, false), wire(true, true));
    let upper = ("host", "SHOP.EXAMPLE");
    assert!(!was_hit(&servers.ask(http1, "/", &[("host", HOST)]).await));
    for (wire, uri, headers) in [
        (http1, "/", &[upper][..]),
        (http1, "/", &[("host", "shop.example:80")]),
        (http1, "http://shop.example:80/", &[("host", HOST)]),
        (tls1, "/", &[("host", "shop.example:443")]),
        (tls1, "https://Shop.Example/", &[upper]),
        (http2, "http://shop.example:80/", &[]),
        (tls2, "https://SHOP.example:443/", &[]),
        (
            tls2,
            "https://shop.example/",
            &[("host", "shop.example:443")],
        ),
    ] {
        let answer = servers.ask(wire, uri, headers).await;
        assert!(was_hit(&answer), "{wire:?} {uri} {headers:?}");
    }
    assert_eq!(origin.calls(), 1);
}

// Invariant 62.
#[tokio::test]
async fn concurrent_requests_over_all_protocols_are_one_call() {
    let gate = Gate::new();
    let origin = Origin::gated(&gate, "one");
    let (cache, handle) = cached(CacheLayer::builder(), &origin);
    let servers = Servers::of(cache).await;
    let clients = WIRES.into_iter().cycle().take(20).map(|wire| {
        let servers = servers.clone();
        tokio::spawn(async move { servers.get(wire, "/").await })
    });
    let clients: Vec<_> = clients.collect();
    until(|| handle.stats().waiters == 19).await;
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "one");
    }
    assert_eq!(origin.calls(), 1);
}

// Invariant 62.
#[tokio::test]
async fn what_is_warmed_by_an_absolute_https_uri_is_a_hit_over_http1() {
    let origin = Origin::counting(&[]);
    let (cache, handle) = cached(CacheLayer::builder(), &origin);
    let servers = Servers::of(cache.clone()).await;
    let warmed = handle
        .warm(cache, [asked("https://shop.example/p", &[])])
        .finish()
        .await;
    assert_eq!((warmed.done, warmed.failed), (1, 0));
    for wire in WIRES {
        assert!(was_hit(&servers.get(wire, "/p").await), "{wire:?}");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_request_that_names_two_hosts_or_a_user_bypasses_the_cache() {
    let origin = Origin::counting(&[]);
    let (cache, _) = cached(CacheLayer::builder(), &origin);
    for request in [
        asked("http://one.example/", &[("host", "two.example")]),
        asked("/", &[("host", "one.example"), ("host", "two.example")]),
        asked("https://one.example/", &[("host", "one.example:80")]),
        asked("/", &[("host", "user@one.example")]),
    ] {
        assert_eq!(
            send(&cache, request).await.reason(),
            Some(Reason::Authority)
        );
    }
    let (cache, _) = cached(
        CacheLayer::builder().key(Key::new().ignore_authority()),
        &origin,
    );
    let both = || asked("http://one.example/", &[("host", "two.example")]);
    assert!(!send(&cache, both()).await.is_hit());
    assert!(send(&cache, both()).await.is_hit());
}

#[tokio::test]
async fn the_handler_cannot_see_a_default_port_that_is_not_in_the_key() {
    let origin = Origin::new(|request| {
        let uri = request.uri().to_string();
        let host = request.headers().get(header::HOST);
        ok(format!(
            "{uri} {}",
            host.map_or("", |host| host.to_str().unwrap())
        ))
    });
    let (cache, _) = cached(CacheLayer::builder(), &origin);
    let seen = async |path: &str, uri: &str, host: &str| {
        let answer = send(&cache, asked(&format!("{uri}{path}"), &[("host", host)])).await;
        answer.text().to_owned()
    };
    // Over TLS it would break each link of the page.
    assert_eq!(seen("/a", "", "h.example:80").await, "/a h.example");
    assert_eq!(seen("/b", "", "h.example:443").await, "/b h.example");
    assert_eq!(seen("/c", "", "H.example:8080").await, "/c H.example:8080");
    let both = seen("/d", "https://h.example:443", "h.example:443").await;
    assert_eq!(both, "https://h.example/d h.example");
    let (cache, _) = cached(CacheLayer::builder().scheme(Scheme::HTTPS), &origin);
    let answer = send(&cache, asked("/a", &[("host", "h.example:80")])).await;
    assert_eq!(answer.text(), "/a h.example:80");
    let (cache, _) = cached(CacheLayer::builder().key(Key::new().seal()), &origin);
    let answer = send(
        &cache,
        asked("https://H.example/s", &[("host", "H.EXAMPLE:443")]),
    )
    .await;
    assert_eq!(answer.text(), "https://h.example/s h.example");
}

#[tokio::test]
async fn a_response_that_varies_by_host_is_one_entry_over_all_protocols() {
    let origin = Origin::counting(&[("vary", "Host")]);
    let (cache, _) = cached(CacheLayer::builder(), &origin);
    send(&cache, asked("/", &[("host", HOST)])).await;
    assert!(
        send(&cache, asked("https://shop.example/", &[]))
            .await
            .is_hit()
    );
    assert!(
        !send(&cache, asked("https://other.example/", &[]))
            .await
            .is_hit()
    );
}

#[tokio::test]
async fn where_responses_decide_the_scheme_is_in_the_key_and_is_the_uris_or_the_configured_one() {
    const PUBLIC: &[(&str, &str)] = &[("cache-control", "max-age=60")];
    let forms = || {
        [
            asked("/", &[("host", HOST)]),
            asked("http://shop.example/", &[]),
            asked("https://shop.example/", &[]),
        ]
    };
    for (scheme, hits) in [
        (None, [false, true, false]),
        (Some(Scheme::HTTP), [false, true, false]),
        (Some(Scheme::HTTPS), [false, false, true]),
    ] {
        let origin = Origin::counting(PUBLIC);
        let mut builder = CacheLayer::builder().rfc9111();
        if let Some(scheme) = &scheme {
            builder = builder.scheme(scheme.clone());
        }
        let (cache, handle) = cached(builder, &origin);
        for (request, hit) in forms().into_iter().zip(hits) {
            assert_eq!(send(&cache, request).await.is_hit(), hit, "{scheme:?}");
        }
        // A purge is of both.
        let purged = handle.purge_request(&parts("/", &[("host", HOST)])).await;
        assert_eq!(purged.unwrap().marks, 2);
        for request in forms().into_iter().rev().take(2) {
            assert!(!send(&cache, request).await.is_hit(), "{scheme:?}");
        }
    }
}

// Invariant 62.
#[tokio::test]
async fn a_purge_covers_every_equivalent_spelling_of_path_and_query_and_keys_stay_byte_for_byte() {
    const SPELLINGS: [&str; 5] = [
        "/caf%C3%A9/~a?q=%2F&r=a",
        "/caf%c3%a9/~a?q=%2F&r=a",
        "/caf%C3%A9/%7Ea?q=%2f&r=%61",
        "/caf%C3%A9/%7ea?q=%2F&r=a",
        "/x/../caf%C3%A9/./~a?q=%2F&r=a",
    ];
    let keys = [
        Key::new(),
        Key::new().query(["q"]),
        Key::new().query_except(["utm_*", "r"]),
    ];
    for key in keys {
        for purge in SPELLINGS {
            for unsafe_method in [false, true] {
                let origin = Origin::counting(&[]);
                let (cache, handle) = cached(CacheLayer::builder().key(key.clone()), &origin);
                for spelling in SPELLINGS {
                    send(&cache, get(spelling)).await;
                    assert!(send(&cache, get(spelling)).await.is_hit());
                }
                let others = ["/caf%C3%A9/~a?q=/&r=a", "/caf%C3%A9%2F~a?q=%2F&r=a"];
                for other in others {
                    send(&cache, get(other)).await;
                }
                assert!(origin.calls() >= 4, "{key:?}");
                if unsafe_method {
                    send(&cache, request("POST", purge)).await;
                } else {
                    let purge = get(purge).into_parts().0;
                    assert_eq!(handle.purge_request(&purge).await.unwrap().skipped, 0);
                }
                let calls = origin.calls();
                for other in others {
                    assert!(
                        send(&cache, get(other)).await.is_hit(),
                        "{other} by {purge}"
                    );
                }
                let mut found = 0;
                for spelling in SPELLINGS {
                    found += usize::from(send(&cache, get(spelling)).await.is_hit());
                }
                // Those that are one key by what was selected of the query are asked for once.
                assert_eq!(origin.calls() - calls, SPELLINGS.len() - found);
                let asked_again = origin.calls() - calls;
                assert_eq!(
                    asked_again,
                    calls - others.len() - usize::from(unsafe_method)
                );
            }
        }
    }
}

#[tokio::test]
async fn purge_request_finds_what_a_selected_query_leaves_out() {
    for key in [Key::new().query(["q"]), Key::new().query_except(["utm_*"])] {
        let origin = Origin::counting(&[]);
        let (cache, handle) = cached(CacheLayer::builder().key(key), &origin);
        send(&cache, get("/p?utm_source=a&q=1")).await;
        let purge = parts("https://shop.example/p?q=%31&utm_source=b", &[]);
        let _ = handle.purge_request(&purge).await.unwrap();
        assert!(!send(&cache, get("/p?q=1")).await.is_hit());
        let _ = handle
            .purge_request(&get("/p?q=2").into_parts().0)
            .await
            .unwrap();
        assert!(send(&cache, get("/p?q=1")).await.is_hit());
    }
}

#[tokio::test]
async fn an_unsafe_request_over_one_protocol_purges_what_was_stored_over_another() {
    let origin = Origin::counting(&[]);
    let (cache, _) = cached(CacheLayer::builder(), &origin);
    for (uri, headers) in [
        ("/p", &[("host", "Shop.Example:443")][..]),
        ("https://shop.example/p", &[]),
        ("http://shop.example:80/%70", &[("host", HOST)]),
        // Which of the two its handler took, nobody knows.
        ("http://other.example/p", &[("host", HOST)]),
        ("/p", &[("host", "other.example"), ("host", HOST)]),
    ] {
        send(&cache, asked("https://shop.example/p", &[])).await;
        let mut post = asked(uri, headers);
        *post.method_mut() = http::Method::POST;
        send(&cache, post).await;
        let answer = send(&cache, asked("https://shop.example/p", &[])).await;
        assert!(!answer.is_hit(), "{uri} {headers:?}");
    }
}

#[tokio::test]
async fn purge_request_without_one_host_is_an_error_unless_no_layer_keys_it() {
    let origin = Origin::counting(&[]);
    let (cache, handle) = cached(CacheLayer::builder(), &origin);
    send(&cache, get("/p")).await;
    for (purge, says) in [
        (parts("/p", &[]), "names no host"),
        (parts("/p", &[("host", "")]), "names no host"),
        (parts("http://a.example/p", &[("host", HOST)]), "two hosts"),
    ] {
        let error = handle.purge_request(&purge).await.unwrap_err();
        assert!(error.is_about_the_host());
        let text = error.to_string();
        assert!(
            text.contains(says) && text.contains("Host header"),
            "{text}"
        );
    }
    assert!(send(&cache, get("/p")).await.is_hit());
    let open = Key::new().ignore_authority();
    let (cache, handle) = cached(CacheLayer::builder().key(open), &origin);
    send(&cache, get("/p")).await;
    assert_eq!(
        handle.purge_request(&parts("/p", &[])).await.unwrap().marks,
        1
    );
    assert!(!send(&cache, get("/p")).await.is_hit());
}

#[tokio::test]
async fn each_request_that_warms_nothing_is_reported_with_its_reason() {
    let origin = Origin::new(|request| match request.uri().path() {
        "/cookie" => with(ok(""), "set-cookie", "a=1"),
        "/gone" => status(StatusCode::GONE),
        "/panic" => panic!("a handler that panics"),
        _ => ok("fine"),
    });
    let (cache, handle) = cached(CacheLayer::builder(), &origin);
    let two = [("host", "two.example")];
    let requests = [
        asked("/none", &[]),
        asked("https://one.example/two", &two),
        get("/cookie"),
        get("/gone"),
        get("/panic"),
        with(get("/session"), "cookie", "a=1"),
        request("POST", "/post"),
        get("/fine"),
    ];
    let warming = handle.warm(cache, requests);
    let warmed = warming.at_once(std::num::NonZeroUsize::MIN).finish().await;
    assert_eq!((warmed.done, warmed.failed), (8, 7));
    let told: Vec<_> = warmed
        .failures
        .iter()
        .map(|failure| (failure.uri.path(), failure.error.clone()))
        .collect();
    assert_eq!(
        told,
        [
            ("/none", WarmError::NoHost),
            ("/two", WarmError::SeveralHosts),
            ("/cookie", WarmError::NotStored(Some(Reason::SetCookie))),
            ("/gone", WarmError::NotStored(Some(Reason::Status))),
            ("/panic", WarmError::Service),
            ("/session", WarmError::NotStored(Some(Reason::Cookie))),
            ("/post", WarmError::NotStored(Some(Reason::Method))),
        ]
    );
    assert!(warmed.failures[0].to_string().contains("Host header"));
    assert_eq!(origin.calls(), 6);
}

#[tokio::test]
async fn warming_through_a_service_without_the_cache_is_reported() {
    let origin = Origin::counting(&[]);
    let (_, handle) = cached(CacheLayer::builder(), &origin);
    let mut warming = handle.warm(origin.clone(), [get("/a"), get("/b")]);
    while let Some(progress) = warming.next().await {
        let failure = progress.failure.unwrap();
        assert_eq!(failure.error, WarmError::NotCached);
    }
    let warmed = warming.finish().await;
    assert_eq!((warmed.failed, warmed.failures.len()), (2, 2));
}

#[tokio::test]
async fn no_more_than_a_hundred_failures_are_kept_and_all_are_counted() {
    for (requests, kept) in [(100, 100), (101, 100)] {
        let origin = Origin::counting(&[]);
        let (cache, handle) = cached(CacheLayer::builder(), &origin);
        let requests: Vec<_> = (0..requests)
            .map(|n| asked(&format!("/{n}"), &[]))
            .collect();
        let sent = requests.len();
        let warmed = handle.warm(cache, requests).finish().await;
        assert_eq!((warmed.failed, warmed.failures.len()), (sent, kept));
        assert_eq!(origin.calls(), 0);
    }
}

#[tokio::test]
async fn what_is_warmed_without_a_host_is_stored_where_no_layer_keys_it() {
    let origin = Origin::counting(&[]);
    let key = Key::new().ignore_authority();
    let (cache, handle) = cached(CacheLayer::builder().key(key), &origin);
    let warmed = handle
        .warm(cache.clone(), [asked("/p", &[])])
        .finish()
        .await;
    assert_eq!((warmed.done, warmed.failed), (1, 0));
    assert!(send(&cache, get("/p")).await.is_hit());
}

#[tokio::test]
async fn a_redirect_to_the_requests_own_target_in_any_scheme_is_never_stored() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let origin = Origin::new(|request| {
        let to = request.headers()["x-to"].clone();
        let mut response = with(ok(""), "cache-control", "public, max-age=60");
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(header::LOCATION, to);
        response
    });
    let builder = || {
        CacheLayer::builder()
            .status(StatusCode::PERMANENT_REDIRECT, DAY)
            .unwrap()
    };
    for builder in [builder(), CacheLayer::builder().rfc9111()] {
        let (cache, _) = cached(builder, &origin);
        for to in [
            "https://shop.example/p?q=1",
            "https://shop.example:443/p?q=1",
            "http://SHOP.example/%70?q=1#top",
            "/p?q=1",
        ] {
            for _ in 0..2 {
                let answer = send(&cache, with(get("/p?q=1"), "x-to", to)).await;
                assert_eq!(answer.parts.status, StatusCode::PERMANENT_REDIRECT);
                let reason = answer.reason();
                assert_eq!(reason, Some(Reason::RedirectToSelf), "{to}");
            }
        }
        for (path, to) in [
            ("/a", "https://www.shop.example/a"),
            ("/b", "/b/"),
            ("/c", "/c?d=1"),
        ] {
            let to = || with(get(path), "x-to", to);
            send(&cache, to()).await;
            assert!(send(&cache, to()).await.is_hit(), "{path}");
        }
    }
}

#[tokio::test]
async fn the_scheme_that_a_proxy_tells_is_in_the_key() {
    let origin = Origin::counting(&[]);
    let (cache, _) = cached(CacheLayer::builder(), &origin);
    let asked = |scheme| with(get("/"), "x-forwarded-proto", scheme);
    send(&cache, asked("http")).await;
    assert!(!send(&cache, asked("https")).await.is_hit());
    assert!(send(&cache, asked("https")).await.is_hit());
}

//! Fragments of a page, and the page.

use std::time::Duration;

use http::Request;
use tower::Layer;
use tower_response_cache::{Cache, CacheLayer, CacheLayerBuilder, Key, Reason, Tag, Tags};

use crate::common::{
    Body, Gate, Origin, get, ok, request, send, settle, until, with, with_headers,
};

type Lines<'a> = &'a [(&'a str, &'a str)];

/// Answers with the headers that it sees of those that begin so, and how often it was called.
fn page_or_fragment() -> Origin {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Origin::new(move |request| {
        let call = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        let mut seen: Vec<_> = request
            .headers()
            .iter()
            .filter(|(name, _)| *name != "host" && *name != "accept-encoding")
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        seen.sort_unstable();
        let what = if seen.is_empty() {
            "page".to_owned()
        } else {
            seen.join(" ")
        };
        let mut response = ok(format!("{what} #{call}"));
        response.extensions_mut().insert(Tags::from(Tag::new("t")));
        response
    })
}

fn cached(builder: CacheLayerBuilder) -> (Cache<Origin>, Origin) {
    let origin = page_or_fragment();
    (builder.build().layer(origin.clone()), origin)
}

fn asks(lines: Lines<'_>) -> Request<Body> {
    with_headers(get("/page"), lines)
}

/// How each library asks for a part of a page.
const FRAGMENTS: [Lines<'static>; 14] = [
    &[("hx-request", "true")],
    &[("hx-request", "true"), ("hx-target", "list")],
    &[("hx-request", "true"), ("hx-target", "cart")],
    &[("hx-request", "true"), ("hx-boosted", "true")],
    &[
        ("hx-request", "true"),
        ("hx-history-restore-request", "true"),
    ],
    &[("turbo-frame", "messages")],
    &[("x-pjax", "true"), ("x-pjax-container", "#main")],
    &[("x-inertia", "true"), ("x-inertia-version", "1")],
    &[
        ("x-inertia", "true"),
        ("x-inertia-partial-component", "Users"),
        ("x-inertia-partial-data", "users,filters"),
    ],
    &[("x-up-target", ".content"), ("x-up-version", "3")],
    &[("rsc", "1"), ("next-router-state-tree", "%5B%22%22%5D")],
    &[("rsc", "1"), ("next-router-prefetch", "1")],
    &[("x-requested-with", "XMLHttpRequest")],
    &[("x-alpine-request", "true"), ("x-alpine-target", "list")],
];

#[tokio::test]
async fn no_fragment_is_served_as_the_page_and_no_page_as_a_fragment() {
    for fragment in FRAGMENTS {
        for page_first in [true, false] {
            let (cache, origin) = cached(CacheLayer::builder());
            let both = if page_first {
                [&[], fragment]
            } else {
                [fragment, &[]]
            };
            let mut first = Vec::new();
            for lines in both {
                first.push(send(&cache, asks(lines)).await.text().to_owned());
            }
            for (lines, text) in both.into_iter().zip(first) {
                let again = send(&cache, asks(lines)).await;
                assert!(again.is_hit(), "{lines:?}");
                assert_eq!(again.text(), text);
                assert_eq!(text.starts_with("page"), lines.is_empty(), "{text}");
            }
            assert_eq!(origin.calls(), 2);
        }
    }
}

#[tokio::test]
async fn fragments_of_one_page_are_told_apart() {
    let builder = CacheLayer::builder().max_variants(FRAGMENTS.len());
    let (cache, origin) = cached(builder);
    for round in 0..2 {
        for lines in FRAGMENTS {
            let answer = send(&cache, asks(lines)).await;
            assert_eq!(answer.is_hit(), round == 1, "{lines:?}");
            for (name, value) in lines {
                assert!(
                    answer.text().contains(&format!("{name}={value}")),
                    "{lines:?}"
                );
            }
        }
    }
    assert_eq!(origin.calls(), FRAGMENTS.len());
}

#[tokio::test]
async fn headers_that_ask_for_no_fragment_do_not_split_the_cache() {
    let (cache, origin) = cached(CacheLayer::builder());
    for line in [
        ("x-requested-with", "com.example.app"),
        ("hx-current-url", "https://shop.example/"),
        ("hx-trigger", "button-7"),
        ("user-agent", "x"),
    ] {
        send(&cache, asks(&[line])).await;
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn switched_off_all_responses_are_pages() {
    let (cache, origin) = cached(CacheLayer::builder().fragments(false));
    send(&cache, asks(&[("hx-request", "true")])).await;
    assert!(send(&cache, asks(&[])).await.is_hit());
    let long = "x".repeat(65);
    assert!(send(&cache, asks(&[("hx-target", &long)])).await.is_hit());
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn by_rfc_9111_vary_decides() {
    let by_the_book = || CacheLayer::builder().rfc9111().ttl(Duration::from_secs(60));
    let (cache, _) = cached(by_the_book());
    send(&cache, asks(&[("hx-request", "true")])).await;
    assert!(send(&cache, asks(&[])).await.is_hit());

    let origin = Origin::new(|request| {
        let is_fragment = request.headers().contains_key("hx-request");
        let text = if is_fragment { "fragment" } else { "page" };
        with(ok(text), "vary", "hx-request")
    });
    let cache = by_the_book().build().layer(origin);
    assert_eq!(
        send(&cache, asks(&[("hx-request", "true")])).await.text(),
        "fragment"
    );
    assert_eq!(send(&cache, asks(&[])).await.text(), "page");
}

#[tokio::test]
async fn a_request_purge_and_an_unsafe_method_purge_the_page_with_all_its_fragments() {
    let layer = CacheLayer::builder().max_variants(FRAGMENTS.len()).build();
    let handle = layer.handle();
    let cache = layer.layer(page_or_fragment());
    for purge in 0..3 {
        send(&cache, asks(&[])).await;
        for lines in FRAGMENTS {
            send(&cache, asks(lines)).await;
        }
        match purge {
            0 => {
                let (parts, _) = asks(&[]).into_parts();
                let _ = handle.purge_request(&parts).await.unwrap();
            }
            1 => {
                let (parts, _) = asks(FRAGMENTS[1]).into_parts();
                let _ = handle.purge_request(&parts).await.unwrap();
            }
            _ => {
                let put = with(request("PUT", "/page"), "hx-request", "true");
                send(&cache, put).await;
            }
        }
        assert!(!send(&cache, asks(&[])).await.is_hit(), "{purge}");
        for lines in FRAGMENTS {
            assert!(
                !send(&cache, asks(lines)).await.is_hit(),
                "{purge} {lines:?}"
            );
        }
    }
}

// Invariants 57, 64.
#[tokio::test]
async fn a_page_has_as_many_fragments_as_variants_and_none_pushes_it_out() {
    let (cache, _) = cached(CacheLayer::builder().max_variants(12));
    let target = |number: usize| format!("target-{number}");
    send(&cache, asks(&[])).await;
    for number in 0..12 {
        send(&cache, asks(&[("hx-target", &target(number))])).await;
    }
    assert!(
        send(&cache, asks(&[("hx-target", &target(0))]))
            .await
            .is_hit()
    );
    send(&cache, asks(&[("hx-target", &target(12))])).await;
    assert!(
        send(&cache, asks(&[("hx-target", &target(12))]))
            .await
            .is_hit()
    );
    assert!(
        send(&cache, asks(&[("hx-target", &target(1))]))
            .await
            .is_hit()
    );
    assert!(
        !send(&cache, asks(&[("hx-target", &target(0))]))
            .await
            .is_hit()
    );
    for number in 100..200 {
        send(&cache, asks(&[("hx-target", &target(number))])).await;
    }
    assert!(send(&cache, asks(&[])).await.is_hit());
}

// Invariant 57.
#[tokio::test]
async fn a_name_beyond_64_bytes_bypasses() {
    let (cache, _) = cached(CacheLayer::builder());
    let name = "x".repeat(64);
    for _ in 0..2 {
        let longer = format!("{name}x");
        let answer = send(&cache, asks(&[("turbo-frame", &longer)])).await;
        assert_eq!(answer.reason(), Some(Reason::Fragment));
        assert!(!answer.is_hit());
    }
    send(&cache, asks(&[("turbo-frame", &name)])).await;
    assert!(send(&cache, asks(&[("turbo-frame", &name)])).await.is_hit());
    // Where the header is in the key, its limit is the key's.
    let key = Key::new().header("turbo-frame".parse().unwrap());
    let (cache, _) = cached(CacheLayer::builder().key(key));
    let longer = format!("{name}x");
    send(&cache, asks(&[("turbo-frame", &longer)])).await;
    assert!(
        send(&cache, asks(&[("turbo-frame", &longer)]))
            .await
            .is_hit()
    );
    assert!(!send(&cache, asks(&[])).await.is_hit());
}

// Invariant 25.
#[tokio::test(start_paused = true)]
async fn cold_requests_for_the_page_and_for_a_fragment_are_one_call_each() {
    let gate = Gate::new();
    let origin = Origin::gated(&gate, "body");
    let cache = CacheLayer::builder().build().layer(origin.clone());
    let sent: Vec<_> = (0..20)
        .map(|number| {
            let (cache, lines): (_, Lines<'_>) = (
                cache.clone(),
                if number % 2 == 0 {
                    &[]
                } else {
                    &[("hx-request", "true")]
                },
            );
            let asked = asks(lines);
            tokio::spawn(async move { send(&cache, asked).await })
        })
        .collect();
    until(|| origin.calls() == 2).await;
    settle().await;
    gate.open();
    for answer in sent {
        assert_eq!(answer.await.unwrap().text(), "body");
    }
    assert_eq!(origin.calls(), 2);
}

// Invariant 15.
#[tokio::test]
async fn behind_a_seal_the_handler_sees_what_tells_fragments_apart_and_no_more() {
    let (cache, origin) = cached(CacheLayer::builder().key(Key::new().seal()));
    let odd = [
        ("hx-request", "<script>"),
        ("hx-target", "list"),
        ("x-requested-with", "xmlHTTPrequest"),
        ("hx-prompt", "secret"),
    ];
    let answer = send(&cache, asks(&odd)).await;
    assert_eq!(
        answer.text(),
        "hx-request=true hx-target=list x-requested-with=XMLHttpRequest #1"
    );
    let usual = [
        ("hx-request", "true"),
        ("hx-target", "list"),
        ("x-requested-with", "XMLHttpRequest"),
    ];
    assert!(send(&cache, asks(&usual)).await.is_hit());
    let app = [("x-requested-with", "com.example.app")];
    assert_eq!(send(&cache, asks(&app)).await.text(), "page #2");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stale_fragment_is_refreshed_as_that_fragment() {
    let builder = CacheLayer::builder()
        .ttl(Duration::from_secs(10))
        .stale_while_revalidate(Duration::from_secs(60));
    let (cache, origin) = cached(builder);
    let fragment: Lines<'_> = &[("hx-request", "true"), ("hx-target", "list")];
    send(&cache, asks(&[])).await;
    send(&cache, asks(fragment)).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(send(&cache, asks(fragment)).await.cache().is_stale());
    until(|| origin.calls() == 3).await;
    settle().await;
    let fresh = send(&cache, asks(fragment)).await;
    assert!(fresh.is_hit() && !fresh.cache().is_stale());
    assert_eq!(fresh.text(), "hx-request=true hx-target=list #3");
    let page = send(&cache, asks(&[])).await;
    assert_eq!((page.text(), page.cache().is_stale()), ("page #1", true));
}

#[tokio::test]
async fn a_purge_that_refreshes_fetches_each_fragment_again() {
    let origin = page_or_fragment();
    let layer = CacheLayer::builder()
        .stale_while_revalidate(Duration::from_secs(60))
        .refreshable()
        .build();
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());
    let fragment: Lines<'_> = &[("hx-request", "true"), ("hx-target", "list")];
    send(&cache, asks(&[])).await;
    send(&cache, asks(fragment)).await;
    let refreshed = handle.purge(Tag::new("t")).refresh().await.unwrap();
    assert_eq!(origin.calls(), 4, "{refreshed:?}");
    for (lines, text) in [
        (&[][..], "page #"),
        (fragment, "hx-request=true hx-target=list #"),
    ] {
        let answer = send(&cache, asks(lines)).await;
        assert!(answer.is_hit() && !answer.cache().is_stale(), "{answer:?}");
        assert!(answer.text().starts_with(text), "{answer:?}");
    }
    assert_eq!(origin.calls(), 4);
}

#[tokio::test]
async fn the_explanation_says_which_fragments_are_stored() {
    let layer = CacheLayer::builder().build();
    let cache = layer.layer(page_or_fragment());
    send(
        &cache,
        asks(&[("hx-request", "true"), ("hx-target", "list")]),
    )
    .await;
    let (parts, _) = asks(&[]).into_parts();
    let text = layer.explain(&parts).to_string();
    assert!(
        text.contains("hx-request: (present), hx-target: list"),
        "{text}"
    );
    assert!(text.contains("for another variant"), "{text}");
}

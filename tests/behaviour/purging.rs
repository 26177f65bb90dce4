//! What the application purges, and what it is told of that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tower::Layer;
use tower_response_cache::{CacheHandle, CacheLayer, Key, Reason, Tag, Tags};

use crate::common::{Gate, Origin, get, ok, request, send, status, with};

/// A listing of so many items, each with a tag, as its path says: `/300`.
fn listing() -> Origin {
    Origin::new(|request| {
        let items: usize = request.uri().path()[1..].parse().unwrap();
        let mut response = ok("listing");
        let tags = (0..items).map(|item| Tag::from(format!("item:{item}")));
        response.extensions_mut().insert(tags.collect::<Tags>());
        response
    })
}

// Invariant 57.
#[tokio::test]
async fn a_listing_of_1024_tagged_items_is_stored_and_one_of_1025_is_refused_and_counted() {
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder().handle(&handle);
    let service = layer.ttl(Duration::from_secs(60)).build().layer(listing());
    for items in [300, 1024] {
        let path = format!("/{items}");
        send(&service, get(&path)).await;
        assert!(send(&service, get(&path)).await.is_hit());
        let _ = handle.purge(Tag::new("unrelated")).await.unwrap();
        assert!(send(&service, get(&path)).await.is_hit());
        let last = Tag::from(format!("item:{}", items - 1));
        let _ = handle.purge(last).await.unwrap();
        assert!(!send(&service, get(&path)).await.is_hit());
    }
    assert_eq!(handle.stats().reasons.get(Reason::TooManyTags), 0);
    for count in 1..=3 {
        let refused = send(&service, get("/1025")).await;
        assert_eq!(refused.reason(), Some(Reason::TooManyTags));
        assert_eq!(handle.stats().reasons.get(Reason::TooManyTags), count);
    }
}

#[tokio::test]
async fn refusals_and_bypasses_are_counted_by_reason() {
    let origin = Origin::new(|request| match request.uri().path() {
        "/cookie" => with(ok("page"), "set-cookie", "a=b"),
        "/private" => with(ok("page"), "cache-control", "private"),
        _ => ok("page"),
    });
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder().handle(&handle);
    let service = layer.ttl(Duration::from_secs(60)).build().layer(origin);
    send(&service, get("/page")).await;
    send(&service, get("/page")).await;
    assert_eq!(
        handle.stats().reasons.iter().count(),
        0,
        "neither is refused"
    );
    send(&service, get("/cookie")).await;
    send(&service, get("/cookie")).await;
    send(&service, get("/private")).await;
    send(&service, with(get("/page"), "cookie", "session=1")).await;
    send(&service, request("DELETE", "/other")).await;
    let given: Vec<_> = handle.stats().reasons.iter().collect();
    let mut expected = [
        (Reason::SetCookie, 2),
        (Reason::Private, 1),
        (Reason::Cookie, 1),
        (Reason::Method, 1),
    ];
    expected.sort_by_key(|(reason, _)| *reason as usize);
    assert_eq!(given, expected);
}

#[tokio::test(start_paused = true)]
async fn a_purge_counts_the_stored_responses_that_it_concerns_if_it_is_asked_to() {
    let handle = CacheHandle::builder().build();
    let origin = Origin::new(|request| {
        let section = request.uri().path().split('/').nth(1).unwrap().to_owned();
        let mut page = with(ok("page"), "vary", "accept-language");
        page.extensions_mut()
            .insert(Tags::from_iter([Tag::new("all"), Tag::from(section)]));
        page
    });
    let layer = CacheLayer::builder().handle(&handle).key(Key::new());
    let service = layer.ttl(Duration::from_secs(60)).build().layer(origin);
    for page in 0..700 {
        let section = if page < 300 { "news" } else { "shop" };
        send(&service, get(&format!("/{section}/{page}"))).await;
    }
    for language in ["de", "fr"] {
        let german = with(get("/news/0"), "accept-language", language);
        send(&service, german).await;
    }
    let purged = handle.purge(Tag::new("news")).soft().await.unwrap();
    assert_eq!(purged.responses, None, "it was not asked to");
    let count = async |tag: &'static str| {
        let purged = handle.purge(Tag::new(tag)).count_responses().await.unwrap();
        purged.responses
    };
    assert_eq!(count("none").await, Some(0));
    assert_eq!(count("news").await, Some(302), "each variant is one");
    assert_eq!(count("news").await, Some(0), "they were purged before");
    assert_eq!(count("all").await, Some(400));
    send(&service, get("/shop/1")).await;
    let purged = handle.purge_all().count_responses().await.unwrap();
    assert_eq!(purged.responses, Some(1));
    send(&service, get("/shop/1")).await;
    let page = get("/shop/1").into_parts().0;
    let purged = handle.purge_request(&page).count_responses().await.unwrap();
    assert_eq!(purged.responses, Some(1));
}

// Invariant 38.
#[tokio::test(start_paused = true)]
async fn tags_found_in_the_course_of_a_change_are_held_and_purged_with_the_others() {
    let version = Arc::new(AtomicUsize::new(0));
    let gate = Gate::new();
    let (read, slow) = (version.clone(), gate.clone());
    let origin = Origin::later(move |request| {
        let (read, slow) = (read.clone(), slow.clone());
        async move {
            let seen = read.load(Ordering::SeqCst).to_string();
            let path = request.uri().path().to_owned();
            if path == "/slow" {
                slow.pass().await;
            }
            let mut page = ok(Bytes::from(seen));
            page.extensions_mut().insert(Tags::from(Tag::from(path)));
            page
        }
    });
    let handle = CacheHandle::builder().build();
    let layer = CacheLayer::builder().handle(&handle);
    let service = layer.ttl(Duration::from_secs(60)).build().layer(origin);
    let is_hit = async |path: &str| send(&service, get(path)).await.is_hit();
    for path in ["/customer", "/order", "/other"] {
        assert!(!is_hit(path).await && is_hit(path).await);
    }

    let mut guard = handle.begin_purge(Tag::new("/customer"));
    let client = service.clone();
    let in_flight = tokio::spawn(async move { send(&client, get("/slow")).await });
    gate.arrival().await;
    assert!(is_hit("/order").await, "it is served until the commit");
    guard.add([Tag::new("/order"), Tag::new("/slow"), Tag::new("/late")]);
    guard.add(Tag::new("/order"));
    guard.add(Tags::all_of([Tag::new("/customer"), Tag::new("/order")]));
    assert!(
        !is_hit("/late").await && !is_hit("/late").await,
        "it is held"
    );
    gate.open();
    in_flight.await.unwrap();
    version.store(1, Ordering::SeqCst);
    let purged = guard.commit().await.unwrap();
    assert_eq!(purged.marks, 5);
    for path in ["/customer", "/order", "/slow", "/late"] {
        let answer = send(&service, get(path)).await;
        assert!(!answer.is_hit(), "{path}");
        assert_eq!(answer.text(), "1");
        assert!(is_hit(path).await, "{path} is not held any more");
    }
    assert!(is_hit("/other").await);

    // A guard that is dropped purges what was added, too.
    let mut guard = handle.begin_purge(Tag::new("/customer"));
    guard.add(Tag::new("/order"));
    drop(guard);
    assert!(!is_hit("/order").await && !is_hit("/customer").await && is_hit("/other").await);
}

// Invariants 36, 44, 62.
#[tokio::test]
async fn a_purge_of_all_queries_reaches_each_response_of_the_path_and_no_other() {
    let asked = |uri: &str| {
        let mut request = with(get(uri), "accept-language", "de");
        request.headers_mut().remove("host");
        request
    };
    let handle = CacheHandle::builder().build();
    let layer = |key: Key| CacheLayer::builder().handle(&handle).key(key).build();
    let by_language = Key::new().header(http::header::ACCEPT_LANGUAGE);
    let layers = [layer(Key::new().query(["page"])), layer(by_language)];
    let caches = layers.map(|layer| layer.layer(Origin::new(|_| ok("page"))));
    let of_the_path = [
        "http://shop.example/a",
        "http://shop.example/a?page=1",
        "http://shop.example/a?page=2&x=%7e",
        "http://shop.example:80/%61",
    ];
    let of_others = ["http://shop.example/a/b", "http://other.example/a"];
    for cache in &caches {
        for uri in of_the_path.iter().chain(&of_others) {
            send(cache, asked(uri)).await;
        }
    }
    let (target, _) = asked("http://SHOP.example/a?page=9").into_parts();
    let purged = handle.purge_request(&target).all_queries().await.unwrap();
    assert_eq!(purged.skipped, 0);
    for cache in &caches {
        for uri in of_others {
            let answer = send(cache, asked(uri)).await;
            assert!(answer.is_hit(), "{uri} {:?}", answer.cache());
        }
        for uri in of_the_path {
            let answer = send(cache, asked(uri)).await;
            assert!(!answer.is_hit(), "{uri}");
        }
    }
    let (target, _) = asked("http://shop.example/a").into_parts();
    handle.purge_request(&target).await.unwrap();
    let second = with(
        get("http://shop.example/a?page=2&x=%7e"),
        "accept-language",
        "de",
    );
    assert!(
        send(&caches[1], second).await.is_hit(),
        "without all_queries only its own"
    );
}

// Invariants 36, 40: the sweep drops the mark after the request has arrived, and before it looks at the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_a_sweep_overtakes_falls_back_on_what_was_purged_softly() {
    let origin = Origin::new(|request| match request.headers().contains_key("x-fail") {
        true => status(StatusCode::SERVICE_UNAVAILABLE),
        false => with(ok("page"), "cache-control", "max-age=60"),
    });
    let handle = CacheHandle::builder().build();
    let swept = handle.clone();
    let purge_and_sweep = move |parts: &http::request::Parts| {
        if parts.headers.contains_key("x-fail") {
            tokio::task::block_in_place(|| {
                let runtime = tokio::runtime::Handle::current();
                runtime.block_on(async {
                    let _ = swept.purge_all().soft().await.unwrap();
                    for _ in 0..10_000 {
                        if swept.stats().marks == 0 {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    panic!("no sweep came");
                });
            });
        }
        Some("all")
    };
    let layer = CacheLayer::builder()
        .handle(&handle)
        .key(Key::new().part("sweeps", purge_and_sweep))
        .stale_if_error(Duration::from_secs(600))
        .build();
    let service = layer.layer(origin);
    send(&service, get("/")).await;
    let answer = send(&service, with(get("/"), "x-fail", "1")).await;
    assert_eq!(answer.text(), "page");
}

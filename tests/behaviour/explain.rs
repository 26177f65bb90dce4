//! What `explain` and the status say.

use std::time::Duration;

use tower::Layer;
use tower_response_cache::{CacheHandle, CacheLayer, Decision, Forward};

use crate::common::{Origin, get, ok, request, send, with};

fn layers(handle: &CacheHandle) -> [CacheLayer; 2] {
    ["products", "users"].map(|name| {
        let builder = CacheLayer::builder()
            .name(name)
            .ttl(Duration::from_secs(60));
        builder.handle(handle).build()
    })
}

fn named(handle: &CacheHandle, path: &str) -> Vec<String> {
    let explained = handle.explain(&get(path).into_parts().0);
    let names = explained.into_iter().map(|layer| layer.layer.unwrap());
    names.collect()
}

#[tokio::test]
async fn layers_that_never_had_a_request_for_the_path_are_left_out() {
    let handle = CacheHandle::builder().build();
    let [products, users] = layers(&handle);
    let products = products.layer(Origin::new(|_| ok("product")));
    let users = users.layer(Origin::new(|_| {
        with(ok("user"), "cache-control", "no-store")
    }));
    // Nobody knows yet.
    assert_eq!(named(&handle, "/products/1"), ["products", "users"]);
    send(&products, get("/products/1")).await;
    send(&users, get("/users/1")).await;
    send(&users, request("POST", "/carts/1")).await;
    let both = get("/both");
    send(&products, both).await;
    send(&users, get("/both")).await;
    for (path, expected) in [
        ("/products/1", &["products"][..]),
        ("/products/1?page=2", &["products"]),
        ("/users/1", &["users"]),
        ("/carts/1", &["users"]),
        ("/both", &["products", "users"]),
        ("/elsewhere", &["products", "users"]),
    ] {
        assert_eq!(named(&handle, path), expected, "{path}");
    }
}

#[tokio::test]
async fn a_layer_that_answers_for_one_of_its_name_is_not_left_out() {
    let handle = CacheHandle::builder().build();
    let [first, _users] = layers(&handle);
    let cache = first.layer(Origin::new(|_| ok("product")));
    send(&cache, get("/p")).await;
    drop((first, cache));
    let [second, _] = layers(&handle);
    let cache = second.layer(Origin::new(|_| ok("product")));
    assert!(send(&cache, get("/p")).await.is_hit());
    assert!(named(&handle, "/p").contains(&"products".to_owned()));
}

#[tokio::test]
async fn every_part_of_a_key_is_told_with_its_value() {
    let handle = CacheHandle::builder().build();
    for number in 0..300 {
        let layer = CacheLayer::builder().handle(&handle).build();
        let explained = layer.explain(&get("/?page=").into_parts().0);
        let told = explained.to_string();
        assert!(
            told.contains(&format!("\n  key: layer number: {number}\n")),
            "{told}"
        );
        assert!(
            told.lines().all(|line| !line.trim_end().ends_with(':')),
            "{told}"
        );
        assert_eq!(explained.decision, Decision::Fetch(Forward::UriMiss));
    }
}

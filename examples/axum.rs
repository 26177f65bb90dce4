//! A small shop whose products and pages are cached until they change.
//!
//! `cargo run --all-features --example axum`, and in another terminal (a product takes 200 ms to load):
//!
//! ```text
//! $ curl -i localhost:3000/products/7
//! cache-status: tower-response-cache; fwd=uri-miss; stored
//! {"id":7,"name":"Product 07","price":700}
//! $ curl -i localhost:3000/products/7                    # at once
//! cache-status: tower-response-cache; hit; ttl=59
//! {"id":7,"name":"Product 07","price":700}
//! $ curl 'localhost:3000/products?page=1&sort=price'     # ten products; with &from=mail it is a hit
//! $ curl -X PUT localhost:3000/products/7 --json '{"name":"Seven","price":1}'
//! {"id":7,"name":"Seven","price":1}
//! $ curl localhost:3000/products/7                       # never the old one
//! {"id":7,"name":"Seven","price":1}
//! $ curl -X POST localhost:3000/products --json '{"name":"New","price":5}'
//! {"id":31,"name":"New","price":5}
//! $ curl localhost:3000/stats
//! {"cache":{"bytes":1100,"collapsed":0,"entries":1,"hits":1,"misses":3,"purges":2},"renders":3}
//! ```

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::extract::{Path, Query, State};
use axum::{Json, Router, http::StatusCode, routing::get};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, signal, time::sleep};
use tower_response_cache::{CacheHandle, CacheLayer, Key, Tag, TagFamily, Tags};

const PRODUCT: TagFamily<u64> = TagFamily::new("product");
const PRODUCTS: Tag = Tag::new("products");
const PAGE: usize = 10;

#[derive(Clone, Serialize, Deserialize)]
struct Product {
    #[serde(skip_deserializing)]
    id: u64,
    name: String,
    price: u64,
}

#[derive(Deserialize)]
struct Listing {
    page: Option<NonZeroUsize>,
    sort: Option<Sort>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sort {
    Name,
    Price,
}

#[derive(Clone)]
struct Shop {
    products: Arc<Mutex<BTreeMap<u64, Product>>>,
    renders: Arc<AtomicU64>,
    cache: CacheHandle,
}

impl Shop {
    fn open(cache: CacheHandle) -> Self {
        let mut products = BTreeMap::new();
        for id in 1..=30 {
            let (name, price) = (format!("Product {id:02}"), id * 100);
            products.insert(id, Product { id, name, price });
        }
        Self {
            products: Arc::new(Mutex::new(products)),
            renders: Arc::default(),
            cache,
        }
    }

    fn products(&self) -> MutexGuard<'_, BTreeMap<u64, Product>> {
        self.products.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes a query slow. It comes after the data are read, when it hurts most: what changes meanwhile is not in
    /// the answer, and it is the purge that keeps this answer from everybody who asks later.
    async fn render(&self) {
        self.renders.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(200)).await;
    }

    /// Once it has returned, nobody is told what was so before the change.
    async fn purge(&self, changed: impl Into<Tags>) -> Result<(), StatusCode> {
        let purged = self.cache.purge(changed).await;
        purged.map(drop).or(Err(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

fn sorted(products: &BTreeMap<u64, Product>, by: Option<Sort>) -> Vec<Product> {
    let mut sorted: Vec<_> = products.values().cloned().collect();
    match by {
        None => {}
        Some(Sort::Name) => sorted.sort_by(|a, b| a.name.cmp(&b.name)),
        Some(Sort::Price) => sorted.sort_by_key(|product| product.price),
    }
    sorted
}

/// What stands where. If it changes, so may pages that did not show the product.
fn orders(products: &BTreeMap<u64, Product>) -> Vec<u64> {
    let lists = [Sort::Name, Sort::Price].map(|by| sorted(products, Some(by)));
    lists.iter().flatten().map(|product| product.id).collect()
}

async fn show(
    State(shop): State<Shop>,
    Path(id): Path<u64>,
) -> Result<(Tags, Json<Product>), StatusCode> {
    let product = shop.products().get(&id).cloned();
    shop.render().await;
    let product = product.ok_or(StatusCode::NOT_FOUND)?;
    Ok((PRODUCT.tag(id).into(), Json(product)))
}

async fn list(
    State(shop): State<Shop>,
    Query(listing): Query<Listing>,
) -> (Tags, Json<Vec<Product>>) {
    let before = listing.page.map_or(0, |page| page.get() - 1);
    let sorted = sorted(&shop.products(), listing.sort);
    shop.render().await;
    let rest = sorted.into_iter().skip(before.saturating_mul(PAGE));
    let page: Vec<_> = rest.take(PAGE).collect();
    let shown = page.iter().map(|product| PRODUCT.tag(product.id));
    (shown.chain([PRODUCTS]).collect(), Json(page))
}

async fn update(
    State(shop): State<Shop>,
    Path(id): Path<u64>,
    Json(product): Json<Product>,
) -> Result<Json<Product>, StatusCode> {
    let product = Product { id, ..product };
    let mut changed = Tags::from(PRODUCT.tag(id));
    {
        let mut products = shop.products();
        let before = orders(&products);
        *products.get_mut(&id).ok_or(StatusCode::NOT_FOUND)? = product.clone();
        changed.extend((orders(&products) != before).then_some(PRODUCTS));
    }
    shop.purge(changed).await?;
    Ok(Json(product))
}

async fn add(
    State(shop): State<Shop>,
    Json(mut product): Json<Product>,
) -> Result<(StatusCode, Json<Product>), StatusCode> {
    {
        let mut products = shop.products();
        product.id = products.keys().max().map_or(1, |last| last + 1);
        products.insert(product.id, product.clone());
    }
    shop.purge(PRODUCTS).await?;
    Ok((StatusCode::CREATED, Json(product)))
}

async fn stats(State(shop): State<Shop>) -> Json<Value> {
    let (renders, cache) = (shop.renders.load(Ordering::Relaxed), shop.cache.stats());
    let cache = json!({
        "hits": cache.hits, "misses": cache.misses, "collapsed": cache.collapsed,
        "purges": cache.purges, "entries": cache.entries, "bytes": cache.bytes,
    });
    Json(json!({ "renders": renders, "cache": cache }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(listen_address()).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let cache = CacheLayer::builder().key(Key::new().query(["page", "sort"]));
    let cache = cache.ttl(Duration::from_secs(60)).build();
    let handle = cache.handle();
    let app = Router::new()
        .route("/products", get(list).post(add))
        .route("/products/{id}", get(show).put(update))
        .layer(cache)
        .route("/stats", get(stats)) // added after the layer, and so not cached
        .with_state(Shop::open(handle.clone()));
    let stop = async { signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    handle.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

fn listen_address() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => "127.0.0.1:3000".to_owned(),
        [option, address] if option == "--listen" => address.clone(),
        _ => {
            eprintln!("cannot read {arguments:?}\nusage: axum [--listen HOST:PORT]");
            std::process::exit(2)
        }
    }
}

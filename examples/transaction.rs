//! Prices change in transactions of SQLite while requests come. `cargo run --all-features --example transaction` prints what
//! these are told before, in between (where nothing is stored) and after, and what became of it in the cache:
//!
//! ```text
//! committed: 100 (stored), 100 (detail=held-off), 200 (stored)
//! rolled back: 100 (stored), 100 (detail=held-off), 100 (stored)
//! cancelled: 100 (stored), 100 (detail=held-off), 200 (stored)
//! ```

use std::{env, error::Error, fs, path::PathBuf, process, sync::Arc, thread, time::Duration};

use axum::extract::{Path, State};
use axum::{Router, body::Body, body::to_bytes, http::Request, http::StatusCode, routing::get};
use rusqlite::Connection;
use tokio::{task::spawn_blocking, time::sleep};
use tower::ServiceExt;
use tower_response_cache::{CacheHandle, CacheLayer, TagFamily, Tags};

const PRODUCT: TagFamily<u32> = TagFamily::new("product");
type Shop = State<(Arc<PathBuf>, CacheHandle)>;

fn failed(_: impl Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn show(State((file, _)): Shop, Path(id): Path<u32>) -> Result<(Tags, String), StatusCode> {
    let query = "SELECT price FROM product WHERE id = ?1";
    let read = move || Connection::open(&*file)?.query_one(query, [id], |row| row.get(0));
    let price = spawn_blocking(read).await.map_err(failed)?;
    let price: u32 = price.map_err(failed)?;
    Ok((PRODUCT.tag(id).into(), price.to_string()))
}

async fn update(State(shop): Shop, Path(id): Path<u32>, price: String) -> Result<(), StatusCode> {
    let (file, cache) = shop;
    let purge = cache.begin_purge(PRODUCT.tag(id));
    // The guard goes along to where the commit is, since nobody can cancel that; an error drops it after the transaction.
    let transaction = move || {
        let mut connection = Connection::open(&*file)?;
        let transaction = connection.transaction()?;
        transaction.execute("UPDATE product SET price = ? WHERE id = ?", (&price, id))?;
        thread::sleep(Duration::from_millis(400)); // time for requests in between
        transaction.execute("INSERT INTO change VALUES (?, ?)", (id, &price))?;
        transaction.commit()?;
        Ok::<_, rusqlite::Error>(purge)
    };
    let updated = spawn_blocking(transaction).await.map_err(failed)?;
    let purge = updated.map_err(failed)?;
    purge.commit().await.map(drop).map_err(failed)
}

async fn ask(app: &Router, path: String) -> Result<String, Box<dyn Error>> {
    let request = Request::get(path).body(Body::empty())?;
    let response = app.clone().oneshot(request).await?;
    let status = response.headers()["cache-status"].to_str()?.to_owned();
    let price = String::from_utf8(to_bytes(response.into_body(), 99).await?.into())?;
    let became = status.rsplit("; ").next().unwrap_or_default();
    Ok(format!("{price} ({became})"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::temp_dir().join(format!("shop-{}", process::id()));
    fs::create_dir(&folder)?;
    let file = Arc::new(folder.join("shop.db"));
    let schema = "PRAGMA journal_mode = WAL; -- readers do not wait for writers
        CREATE TABLE product (id INTEGER PRIMARY KEY, price INTEGER);
        CREATE TABLE change (id INTEGER, price INTEGER CHECK (price > 0));
        INSERT INTO product VALUES (1, 100), (2, 100), (3, 100)";
    Connection::open(&*file)?.execute_batch(schema)?;
    let layer = CacheLayer::new(Duration::from_secs(60));
    let (cache, products) = (layer.handle(), get(show).put(update));
    let app = Router::new().route("/{id}", products).layer(layer);
    let app = app.with_state((file, cache.clone()));
    for (id, end) in (1..).zip(["committed", "rolled back", "cancelled"]) {
        let price = if end == "rolled back" { "-1" } else { "200" };
        let before = ask(&app, format!("http://shop/{id}")).await?;
        let put = Request::put(format!("http://shop/{id}")).body(Body::from(price))?;
        let writer = tokio::spawn(app.clone().oneshot(put));
        sleep(Duration::from_millis(100)).await;
        (end == "cancelled").then(|| writer.abort()); // as when a client hangs up
        let between = ask(&app, format!("http://shop/{id}?again")).await?;
        while cache.stats().purges < id {
            sleep(Duration::from_millis(10)).await;
        }
        let after = ask(&app, format!("http://shop/{id}")).await?;
        println!("{end}: {before}, {between}, {after}");
    }
    Ok(fs::remove_dir_all(folder)?)
}

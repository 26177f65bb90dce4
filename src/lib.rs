//! HTTP response caching for Tower services: tags, purges with a guarantee, one flight a key.
//!
//! [`CacheLayer`] wraps any service: axum, tonic, hyper, a bare `service_fn`. It answers from memory what it can, runs the
//! wrapped service once however many requests wait for the same answer, and gives the application a [`CacheHandle`] with
//! which it purges by [`Tag`] what it has changed.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, Service, service_fn};
//! use tower_response_cache::{CacheLayer, CacheStatus, Tag, scope};
//!
//! const GREETINGS: Tag = Tag::new("greetings");
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let origin = service_fn(|_: Request<Full<Bytes>>| async {
//!     scope::tag(GREETINGS);
//!     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
//! });
//! let cache = CacheLayer::new(Duration::from_secs(60));
//! let handle = cache.handle();
//! let mut service = cache.layer(origin);
//!
//! let request = || Request::new(Full::default());
//! service.call(request()).await?.into_body().collect().await?;
//! let second = service.call(request()).await?;
//! assert!(second.extensions().get::<CacheStatus>().unwrap().is_hit());
//!
//! handle.purge(GREETINGS).await?;
//! let third = service.call(request()).await?;
//! assert!(!third.extensions().get::<CacheStatus>().unwrap().is_hit());
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | what is stored, and for how long | [`CacheLayer`], [`CacheLayerBuilder`] |
//! | a shared cache by the book, in front of any origin | [`CacheLayer::rfc9111`], [`guide::by_the_book`] |
//! | which requests share an answer | [`Key`] |
//! | purging, and what it promises | [`CacheHandle::purge`], [`Purge`] |
//! | purging around a transaction | [`CacheHandle::begin_purge`] |
//! | what is served when it is stale, case by case | [`guide::stale`] |
//! | fetching anew what is purged, and filling the cache in advance | [`Purge::refresh`], [`CacheHandle::warm`] |
//! | tags and lifetimes from deep inside a handler | [`scope`], [`CacheScope`] |
//! | what was done with a request, and why | [`CacheStatus`], [`Reason`] |
//! | what would be done with a request, and why | [`CacheHandle::explain`], [`Explanation`] |
//! | fragments of pages (htmx, Turbo…) | [`guide::fragments`] |
//! | users, sessions and cookies: which pages are shared | [`guide::users`] |
//! | keys and tags in one file | [`guide::keys_and_tags`] |
//! | testing your own service with paused time | [`guide::paused_time`] |
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `axum` | the extractor [`CacheScope`], [`Tags`] beside a response's body, keys that `nest` cannot mix up, and of what a path captures |
//! | `json` | keys of JSON bodies, in whatever order their members stand |
//! | `tracing` | a fill runs in the span of the request that began it |
//!
//! `axum` is on by default.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod again;
mod anew;
#[cfg(feature = "axum")]
mod axum;
mod behind;
mod body;
mod bypass;
mod caught;
mod clock;
mod conclude;
mod config;
mod entry;
mod error;
mod events;
mod explain;
mod explanation;
mod field;
mod fill;
mod filter;
mod flight;
mod future;
mod grpc;
pub mod guide;
mod handle;
mod invalidation;
pub mod key;
mod layer;
mod lookup;
mod mutant;
mod pinned;
mod policy;
mod post;
mod purge;
mod reasons;
mod recorder;
mod recording;
mod refresh;
mod renewal;
mod repeat;
mod reply;
mod respond;
mod service;
mod shaped;
mod shared;
mod stale;
mod status;
mod store;
mod sweep;
mod sync;
mod tags;
mod vary;
mod warm;

#[cfg(test)]
mod tests;

pub use body::ResponseBody;
pub use config::FillMode;
pub use error::{BodyError, BuildError, PurgeError};
pub use explanation::{Decision, Explanation, Standing, Stored};
pub use future::ResponseFuture;
pub use handle::{CacheHandle, CacheHandleBuilder, Shutdown, Stats};
pub use key::Key;
pub use layer::{
    BodyCacheLayer, CacheLayer, CacheLayerBuilder, Once, Refreshable, RefreshableLayer,
};
pub use policy::{Credentials, RequestDirectives, ResponseDirectives, SetCookie, TagHeader};
pub use purge::{Purge, PurgeGuard, Purged};
pub use reasons::ReasonCounts;
pub use service::{BodyCache, Cache, RefreshableCache, ReplayBody};
pub use status::{CacheStatus, Forward, Reason};
pub use tags::{CacheScope, Tag, TagFamily, Tagged, Tags, scope};
pub use warm::{WarmError, WarmFailure, WarmProgress, Warmed, Warming};

/// What the fuzzer in `fuzz/` calls.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_key(choices: &[u8]) {
    key::injectivity::check(choices);
}

/// What the fuzzer in `fuzz/` calls.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_fields(bytes: &[u8]) {
    field::fuzz::check(bytes);
}

/// Compiles the README's code.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;

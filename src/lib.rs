//! HTTP response caching for Tower services.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "axum")]
mod axum;
mod body;
mod clock;
mod config;
mod entry;
mod error;
mod fill;
mod flight;
mod future;
mod grpc;
mod handle;
pub mod key;
mod layer;
mod lookup;
mod mutant;
mod policy;
mod recorder;
mod recording;
mod reply;
mod respond;
mod service;
mod shared;
mod status;
mod store;
mod sweep;
mod tags;
mod vary;

#[cfg(test)]
mod tests;

pub use body::ResponseBody;
pub use config::FillMode;
pub use error::{BodyError, BuildError, PurgeError};
pub use future::ResponseFuture;
pub use handle::{CacheHandle, CacheHandleBuilder, Purged, Shutdown, Stats};
pub use key::Key;
pub use layer::{BodyCacheLayer, CacheLayer, CacheLayerBuilder};
pub use policy::TagHeader;
pub use service::{BodyCache, Cache, ReplayBody};
pub use status::{CacheStatus, Forward, Reason};
pub use tags::{CacheScope, Tag, TagFamily, Tags, scope};

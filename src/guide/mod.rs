//! Pages that are longer than what stands at a type.

/// How to write all keys and tags of an application down in one place.
#[cfg_attr(feature = "axum", doc = "")]
#[cfg_attr(feature = "axum", doc = include_str!("../../docs/keys_and_tags.md"))]
pub mod keys_and_tags {}

/// When a response is served after its lifetime, while it is fetched anew or because it cannot be.
#[doc = ""]
#[doc = include_str!("../../docs/stale.md")]
pub mod stale {}

/// How to test a cached service without waiting for its lifetimes to end.
#[doc = ""]
#[doc = include_str!("../../docs/paused_time.md")]
pub mod paused_time {}

/// What is stored, and for how long, where requests and responses decide (RFC 9111).
#[doc = ""]
#[doc = include_str!("../../docs/by_the_book.md")]
pub mod by_the_book {}

/// Which gRPC calls are cached, and where the layer goes.
#[doc = ""]
#[doc = include_str!("../../docs/grpc.md")]
pub mod grpc {}

/// The response header fields that hits and followers do not get.
#[doc = ""]
#[doc = include_str!("../../docs/response_headers.md")]
pub mod response_headers {}

/// What surprises users of a response cache, and what to write instead.
#[cfg_attr(feature = "axum", doc = "")]
#[cfg_attr(feature = "axum", doc = include_str!("../../docs/pitfalls.md"))]
pub mod pitfalls {}

/// Fragments of pages (htmx, Turbo, Inertia, Unpoly…), and the `Vary` that handlers should send.
#[doc = ""]
#[doc = include_str!("../../docs/fragments.md")]
pub mod fragments {}

/// Which pages users share, and where session and cookie layers go.
#[cfg_attr(feature = "axum", doc = "")]
#[cfg_attr(feature = "axum", doc = include_str!("../../docs/users.md"))]
pub mod users {}

/// Which headers are in the key, which say who asks, and which keep a response to its requester.
#[doc = ""]
#[doc = include_str!("../../docs/headers.md")]
pub mod headers {}

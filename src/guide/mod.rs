//! Pages that are longer than what stands at a type.

/// How to write all keys and tags of an application down in one place.
#[cfg_attr(feature = "axum", doc = "")]
#[cfg_attr(feature = "axum", doc = include_str!("../../docs/keys_and_tags.md"))]
pub mod keys_and_tags {}

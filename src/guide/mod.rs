//! Pages that are longer than what stands at a type.

#[cfg_attr(feature = "axum", doc = include_str!("../../docs/keys_and_tags.md"))]
pub mod keys_and_tags {}

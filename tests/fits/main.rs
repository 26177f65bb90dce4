//! Wherever a layer can stand, this one does, with nothing around it: no error to map, nothing to box. Unless a test
//! says otherwise, the second of two equal requests is a hit.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

#[cfg(feature = "axum")]
mod in_axum;
mod in_tonic;
mod in_tower;
mod in_tower_http;
mod support;

//! What axum's router took out of the path.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use axum::extract::RawPathParams;
use axum_core::extract::FromRequestParts;
use http::request::Parts;

/// The captures of the path, decoded. `None` if there are none, or if they are no text.
pub(super) fn captures(parts: &mut Parts) -> Option<RawPathParams> {
    // It is ready at once: it only takes them out of the extensions, where nobody else can see them.
    let found = pin!(RawPathParams::from_request_parts(parts, &()));
    match found.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(found) => found.ok(),
        Poll::Pending => None,
    }
}

pub(super) fn named<'a>(captures: &'a RawPathParams, name: &str) -> Option<&'a str> {
    captures
        .iter()
        .find_map(|(known, value)| (known == name).then_some(value))
}

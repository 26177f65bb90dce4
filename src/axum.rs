//! What makes the scope and the tags at home in axum's handlers.

use std::convert::Infallible;

use axum_core::{
    extract::FromRequestParts,
    response::{IntoResponseParts, ResponseParts},
};
use http::request::Parts;

use crate::tags::{CacheScope, Tags, scope};

/// Where the request bypasses the cache, a scope that records nothing; outside any cache layer, one whose calls are noticed as lost.
impl<S: Sync> FromRequestParts<S> for CacheScope {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let own = parts.extensions.get::<Self>().cloned();
        Ok(own.unwrap_or_else(scope::current))
    }
}

/// Tags that stand beside the body add to those that are there.
impl IntoResponseParts for Tags {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        let mut tags = response
            .extensions_mut()
            .remove::<Self>()
            .unwrap_or_default();
        tags.extend(self);
        response.extensions_mut().insert(tags);
        Ok(response)
    }
}

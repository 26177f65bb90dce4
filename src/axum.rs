//! What makes the scope and the tags at home in axum's handlers.

use std::convert::Infallible;

use axum_core::{
    extract::FromRequestParts,
    response::{IntoResponseParts, ResponseParts},
};
use http::request::Parts;

use crate::tags::{CacheScope, Tags};

/// Outside a fill, a scope that records nothing.
impl<S: Sync> FromRequestParts<S> for CacheScope {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
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

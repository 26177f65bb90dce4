//! A request as its client wrote it, kept for a second call of the inner service.

use std::{any::Any, convert::Infallible};

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use http_body_util::{
    Empty, Full,
    combinators::{BoxBody, UnsyncBoxBody},
};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    body::ResponseBody, bypass, config::Config, error::BoxError, reply, status::CacheStatus,
};

/// A request as its client wrote it, with its conditions and ranges. The first call was made without these, and its response turned out
/// not to be storable.
#[derive(Debug)]
pub(crate) struct Repeat<S, ReqB> {
    inner: S,
    request: Request<ReqB>,
}

impl<S: Clone, ReqB> Repeat<S, ReqB> {
    /// The same request with this body.
    pub(crate) fn new(inner: &S, parts: &request::Parts, body: ReqB) -> Self {
        Self {
            inner: inner.clone(),
            request: Request::from_parts(parts.clone(), body),
        }
    }
}

impl<S, ReqB> Repeat<S, ReqB> {
    /// Calls the inner service, and passes its response on as it is. What is said of it was found by the first call.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the call is dropped too. Nobody else waits for it.
    ///
    /// # Errors
    ///
    /// That of the inner service.
    pub(crate) async fn call<ResB>(
        self,
        config: &Config,
        status: CacheStatus,
    ) -> Result<Response<ResponseBody<ResB>>, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<ResB>>,
        ResB: Body,
    {
        let (mut parts, body) = self.request.into_parts();
        // It sees no more of the request than it did the first time.
        config.selection.show(&mut parts);
        let request = Request::from_parts(parts, body);
        // A page that this is part of has heard that it cannot know what it depends on.
        let response = bypass::call(None, self.inner.oneshot(request)).await?;
        Ok(reply::passed(config, response, status))
    }
}

/// An empty body, if this is a type of body of which one can be made: those of axum and of `http-body-util`. A service asks nothing of
/// its bodies, and some, such as hyper's `Incoming`, can only come from a connection.
pub(crate) fn empty_body<B: 'static>() -> Option<B> {
    #[cfg(feature = "axum")]
    if let Some(body) = default_of::<axum_core::body::Body, B>() {
        return Some(body);
    }
    default_of::<Empty<Bytes>, B>()
        .or_else(default_of::<Full<Bytes>, B>)
        .or_else(default_of::<BoxBody<Bytes, Infallible>, B>)
        .or_else(default_of::<BoxBody<Bytes, BoxError>, B>)
        .or_else(default_of::<UnsyncBoxBody<Bytes, Infallible>, B>)
        .or_else(default_of::<UnsyncBoxBody<Bytes, BoxError>, B>)
        .or_else(default_of::<String, B>)
}

/// The default of the one type, if it is the other.
fn default_of<Known: Default + 'static, B: 'static>() -> Option<B> {
    let mut none = None::<B>;
    let place: &mut dyn Any = &mut none;
    if let Some(known) = place.downcast_mut::<Option<Known>>() {
        *known = Some(Known::default());
    }
    none
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_body_can_be_made_of_known_types_only() {
        fn is_made<B: Body + 'static>() -> bool {
            empty_body::<B>().is_some_and(|body| body.is_end_stream())
        }
        assert!(is_made::<Empty<Bytes>>() && is_made::<Full<Bytes>>());
        assert!(
            is_made::<BoxBody<Bytes, BoxError>>() && is_made::<UnsyncBoxBody<Bytes, Infallible>>()
        );
        assert!(is_made::<String>() && !is_made::<Full<&'static [u8]>>());
        #[cfg(feature = "axum")]
        assert!(is_made::<axum_core::body::Body>());
    }
}

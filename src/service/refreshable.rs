//! A service that can be asked again.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{answer, origin};
use crate::{
    again::Kept, body::ResponseBody, config::Layered, error::BoxError, future::ResponseFuture,
    key::Head,
};

/// A service whose responses are cached, and can be asked for again when they are purged: what
/// [`RefreshableLayer`](crate::RefreshableLayer) makes of one.
///
/// It is as [`Cache`](crate::Cache), but for the request's body: a request that is asked again has an empty one, so that type
/// has to be one that can be empty.
///
/// # Examples
///
/// ```
/// use tower::{Layer, service_fn};
/// use tower_response_cache::{CacheLayer, RefreshableCache};
///
/// fn cached<S>(service: S) -> RefreshableCache<S> {
///     CacheLayer::builder().refreshable().build().layer(service)
/// }
/// # let _ = cached(());
/// ```
#[derive(Debug, Clone)]
pub struct RefreshableCache<S> {
    inner: S,
    layered: Arc<Layered<Head>>,
    kept: Kept,
}

impl<S> RefreshableCache<S> {
    pub(crate) fn new(inner: S, layered: Arc<Layered<Head>>) -> Self {
        Self {
            inner,
            layered,
            kept: Kept::default(),
        }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for RefreshableCache<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqB: Body + Default + Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, ResB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let Self {
            inner,
            layered,
            kept,
        } = self;
        let origin = |_: &ReqB| {
            let body = Bytes::new();
            Some(origin(layered, kept, inner, body, |_| ReqB::default()))
        };
        answer(layered, inner, request, origin, |_| Some(ReqB::default()))
    }
}

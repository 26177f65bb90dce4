//! The future of a response.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, request};
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    config::Config,
    invalidation::Invalidation,
    reply::passed,
    shared::count,
    status::{CacheStatus, Reason},
    tags::scope::in_bypass,
};

/// The future of a response that comes through the cache.
///
/// A hit is ready at once. A request that passes by is the inner service's own future. Only a miss is more than that.
///
/// # Cancel safety
///
/// Dropped, it takes nothing from others: a fill that it began goes on in its own task
/// ([`FillMode::Detached`](crate::FillMode)) or is begun anew by one of those who wait for it, and a place that it had
/// in a queue is free.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Service, ServiceBuilder};
/// use tower_response_cache::CacheLayer;
///
/// # type Body = Full<bytes::Bytes>;
/// # async fn example() -> Result<(), Infallible> {
/// let mut service = ServiceBuilder::new()
///     .layer(CacheLayer::builder().build())
///     .service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::default())) });
/// let response = service.call(Request::new(Body::default())).await?;
/// # let _ = response;
/// # Ok(())
/// # }
/// ```
#[pin_project]
pub struct ResponseFuture<S, ReqB, ResB>
where
    S: Service<Request<ReqB>>,
{
    #[pin]
    kind: Kind<S, ReqB, ResB>,
}

type Answered<S, ReqB, ResB> =
    Result<Response<ResponseBody<ResB>>, <S as Service<Request<ReqB>>>::Error>;

pub(crate) type LongWay<S, ReqB, ResB> =
    Pin<Box<dyn Future<Output = Answered<S, ReqB, ResB>> + Send>>;

#[pin_project(project = KindProjection)]
enum Kind<S, ReqB, ResB>
where
    S: Service<Request<ReqB>>,
{
    Hit(Option<Response<ResponseBody<ResB>>>),
    Pass {
        #[pin]
        call: Oneshot<S, Request<ReqB>>,
        config: Arc<Config>,
        reason: Reason,
        /// What it purges, if it may change something.
        invalidation: Option<Box<Invalidation>>,
    },
    LongWay(LongWay<S, ReqB, ResB>),
}

impl<S, ReqB, ResB> ResponseFuture<S, ReqB, ResB>
where
    S: Service<Request<ReqB>>,
{
    pub(crate) fn hit(response: Response<ResponseBody<ResB>>) -> Self {
        Self {
            kind: Kind::Hit(Some(response)),
        }
    }

    /// A request that bypasses the cache, outside any fill.
    pub(crate) fn pass(
        inner: S,
        (parts, body): (request::Parts, ReqB),
        config: Arc<Config>,
        reason: Reason,
    ) -> Self {
        let invalidation = Invalidation::of(&config, &parts);
        let call = Oneshot::new(inner, Request::from_parts(parts, body));
        Self {
            kind: Kind::Pass {
                call,
                config,
                reason,
                invalidation,
            },
        }
    }

    pub(crate) fn long_way(way: LongWay<S, ReqB, ResB>) -> Self {
        Self {
            kind: Kind::LongWay(way),
        }
    }
}

impl<S, ReqB, ResB> Future for ResponseFuture<S, ReqB, ResB>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
{
    type Output = Result<Response<ResponseBody<ResB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            #[expect(
                clippy::expect_used,
                reason = "a future may not be polled after it was ready"
            )]
            KindProjection::Hit(response) => {
                Poll::Ready(Ok(response.take().expect("polled after it was ready")))
            }
            KindProjection::Pass {
                call,
                config,
                reason,
                invalidation,
            } => {
                let called = ready!(in_bypass(None, || call.poll(cx)));
                let invalidation = invalidation.take();
                let response = called?;
                if let Some(invalidation) = invalidation {
                    invalidation.answered(response.status(), response.headers());
                }
                count(&config.shared.counters.bypasses);
                Poll::Ready(Ok(passed(config, response, CacheStatus::bypass(*reason))))
            }
            KindProjection::LongWay(way) => way.as_mut().poll(cx),
        }
    }
}

impl<S, ReqB, ResB> fmt::Debug for ResponseFuture<S, ReqB, ResB>
where
    S: Service<Request<ReqB>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Hit(_) => "hit",
            Kind::Pass { .. } => "pass",
            Kind::LongWay(_) => "long way",
        };
        f.debug_tuple("ResponseFuture").field(&kind).finish()
    }
}

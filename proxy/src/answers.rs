//! Answers of the proxy's own.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};

use crate::server::{Body, BoxError};

/// Why a request is not answered, as its client is told.
pub(crate) struct Refusal {
    status: StatusCode,
    why: Cow<'static, str>,
    field: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            why: why.into(),
            field: None,
        }
    }

    /// With a header field that goes with its status.
    pub(crate) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.field = Some((name, value));
        self
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = text(self.status, format!("{}\n", self.why));
        if let Some((name, value)) = self.field {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// A few words, which nobody is to keep.
pub(crate) fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(boxed(Full::new(words.into())));
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// Any body, as clients get it.
pub(crate) fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

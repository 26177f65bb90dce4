//! What can go wrong where the user sees it: a configuration, a purge, a body that broke.

use std::{error::Error, fmt, sync::Arc};

/// An error of any type, as tower and hyper pass them on.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A configuration that cannot work, with the cause and the cure.
///
/// # Examples
///
/// ```
/// use tower_response_cache::CacheLayer;
///
/// let error = CacheLayer::builder().status_name("my\ncache").unwrap_err();
/// assert!(error.to_string().contains("printable ASCII"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildError {
    what: &'static str,
    cure: &'static str,
}

impl BuildError {
    pub(crate) fn new(what: &'static str, cure: &'static str) -> Self {
        Self { what, cure }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cure)
    }
}

impl Error for BuildError {}

/// A purge that did not cover everything it had to.
///
/// In this version only a purge by request is ever an error, if its request does not tell the one host that it is for.
/// Others stand for those that reach a second tier.
///
/// # Examples
///
/// ```
/// # use http::Request;
/// # use tower_response_cache::{CacheLayer, PurgeError};
/// # #[tokio::main]
/// # async fn main() {
/// let cache = CacheLayer::builder().build();
/// let (parts, ()) = Request::get("/products/7").body(()).unwrap().into_parts(); // of which shop?
/// let error: PurgeError = cache.handle().purge_request(&parts).await.unwrap_err();
/// assert!(error.is_about_the_host());
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PurgeError {
    host: HostError,
}

impl PurgeError {
    /// Whether the request of a purge by request names no host, or two that differ.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::PurgeError;
    /// fn is_a_fault_of_the_caller(error: &PurgeError) -> bool {
    ///     error.is_about_the_host()
    /// }
    /// ```
    #[must_use]
    pub const fn is_about_the_host(&self) -> bool {
        matches!(self.host, HostError::None | HostError::Several)
    }
}

impl From<HostError> for PurgeError {
    fn from(host: HostError) -> Self {
        Self { host }
    }
}

impl fmt::Display for PurgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing was purged: {}", self.host)
    }
}

impl Error for PurgeError {}

/// A request that the application made, and that does not tell the host that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostError {
    None,
    Several,
}

impl HostError {
    /// Of a request that names so many.
    pub(crate) const fn of(hosts: usize) -> Self {
        if hosts > 1 { Self::Several } else { Self::None }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "the request names no host, which is in the key: give it an absolute URI or a Host header, \
                           or build the layers with Key::ignore_authority",
            Self::Several => "the request names two hosts that differ: give it one, in its URI or in a Host header",
        })
    }
}

/// A response body that broke before its end.
///
/// Whoever reads a [`ResponseBody`](crate::ResponseBody) sees the error of the inner service's body through
/// [`source`](Error::source), also where several requests read the same answer.
///
/// # Examples
///
/// ```
/// use std::error::Error;
/// use tower_response_cache::BodyError;
///
/// fn log(error: &BodyError) {
///     match error.source() {
///         Some(cause) => println!("{error}: {cause}"),
///         None => println!("{error}"),
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct BodyError {
    kind: BodyErrorKind,
}

#[derive(Debug, Clone)]
enum BodyErrorKind {
    Inner(Arc<BoxError>),
    Panicked,
    CutShort,
    Stalled,
}

impl BodyError {
    /// The inner service's body gave this error.
    pub(crate) fn inner(error: impl Into<BoxError>) -> Self {
        Self {
            kind: BodyErrorKind::Inner(Arc::new(error.into())),
        }
    }

    /// The inner service's body panicked while the fill polled it.
    pub(crate) fn panicked() -> Self {
        Self {
            kind: BodyErrorKind::Panicked,
        }
    }

    /// The fill was dropped before the body's end: its runtime shut down, or its requester left.
    pub(crate) fn cut_short() -> Self {
        Self {
            kind: BodyErrorKind::CutShort,
        }
    }

    /// The reader made others wait for longer than `stall_timeout`.
    pub(crate) fn stalled() -> Self {
        Self {
            kind: BodyErrorKind::Stalled,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            BodyErrorKind::Inner(_) => "the response body failed",
            BodyErrorKind::Panicked => "the response body panicked",
            BodyErrorKind::CutShort => "the response body was dropped before its end",
            BodyErrorKind::Stalled => {
                "the response body was read too slowly, and others who read it could not wait"
            }
        })
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            BodyErrorKind::Inner(error) => Some(error.as_ref().as_ref()),
            BodyErrorKind::Panicked | BodyErrorKind::CutShort | BodyErrorKind::Stalled => None,
        }
    }
}

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
/// A purge of memory cannot fail, and memory is the only store of this version, so no call returns one today. The
/// type stands in the signature because a purge that reaches a second tier can fail, and a caller's `?` should not
/// have to be added then.
///
/// # Examples
///
/// ```
/// # use tower_response_cache::{CacheHandle, PurgeError, Tag};
/// async fn created(cache: &CacheHandle) -> Result<(), PurgeError> {
///     cache.purge(Tag::new("products")).await?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct PurgeError {
    never: std::convert::Infallible,
}

impl fmt::Display for PurgeError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

impl Error for PurgeError {}

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

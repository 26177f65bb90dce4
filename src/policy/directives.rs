//! Who decides: the application, or what requests and responses say of themselves.

use std::{fmt, sync::Arc};

use http::request;

/// Whether a request's `Cache-Control` is heeded (RFC 9111 §5.2.1): `no-cache`, `no-store`, `max-age`, `min-fresh`, `max-stale`,
/// `stale-if-error`, and `Pragma: no-cache` where there is none.
///
/// `only-if-cached` always is: it costs nobody anything.
///
/// # Examples
///
/// Only those whom a layer outside has let in as editors may force a page to be made anew:
///
/// ```
/// use tower_response_cache::{CacheLayer, RequestDirectives};
///
/// #[derive(Clone)]
/// struct Editor;
///
/// let cache = CacheLayer::builder()
///     .request_directives(RequestDirectives::honour_if(|parts| parts.extensions.get::<Editor>().is_some()))
///     .build();
/// # let _ = cache;
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum RequestDirectives {
    /// No client can make the inner service work. The default of a policy of the application's own.
    #[default]
    Ignore,
    /// Every client may ask for what is newer, or older, than what is stored. The default of RFC 9111.
    Honour,
    /// Those requests may for which this is true.
    HonourIf(Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>),
}

impl RequestDirectives {
    /// Those requests may for which this is true. It is asked of requests that have such directives.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::RequestDirectives;
    ///
    /// let ours = RequestDirectives::honour_if(|parts| parts.headers.contains_key("x-our-monitoring"));
    /// # let _ = ours;
    /// ```
    #[must_use]
    pub fn honour_if<F>(may: F) -> Self
    where
        F: Fn(&request::Parts) -> bool + Send + Sync + 'static,
    {
        Self::HonourIf(Arc::new(may))
    }
}

impl fmt::Debug for RequestDirectives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignore => "Ignore",
            Self::Honour => "Honour",
            Self::HonourIf(_) => "HonourIf",
        })
    }
}

/// Whether responses decide themselves if they are stored, and for how long.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{CacheLayer, ResponseDirectives};
///
/// let cache = CacheLayer::builder().response_directives(ResponseDirectives::Honour).build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ResponseDirectives {
    /// The layer decides; what a response says of its being shared (`no-store`, `private`, `no-cache`, `must-revalidate`, `s-maxage`) comes
    /// first all the same. The default of a policy of the application's own.
    #[default]
    PolicyFirst,
    /// The response decides, by RFC 9111 §3 and §4.2. What it leaves open, the layer's `ttl` and `status` may fill in.
    Honour,
}

/// What becomes of a response that sets a cookie, and might be stored otherwise.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{CacheLayer, SetCookie};
///
/// let cache = CacheLayer::builder().set_cookie(SetCookie::Strip).build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SetCookie {
    /// It is for its requester alone. The default.
    #[default]
    Refuse,
    /// Its requester gets it whole; it is stored and shared without its cookies.
    Strip,
    /// It is stored and shared with its cookies, as RFC 9111 §7.3 has it: the origin says who may have them.
    Store,
}

/// What becomes of a request that says who asks (`Authorization`, `Cookie`, an API key…) in what is not in the key.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{CacheLayer, Credentials};
///
/// let cache = CacheLayer::builder().credentials(Credentials::IfPermitted).build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// It passes by; with `Authorization` alone, it shares what says that it may be shared with such. The default of a policy of the
    /// application's own.
    #[default]
    PassBy,
    /// Whatever it says so in, it shares what says that it may be shared with such: `public`, `s-maxage` or `must-revalidate`
    /// (RFC 9111 §3.5, for `Authorization`). The default of RFC 9111.
    IfPermitted,
}

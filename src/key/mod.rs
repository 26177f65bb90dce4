//! Which parts of a request make its key, and how they are encoded.
//!
//! A key is bytes: a version, what tells applications and layers apart, then each part as its tag and its value, every
//! value behind its length. There are no separators, so two different selections of values can never make one key.

mod cookie;
mod encode;
mod forwarded;
mod query;

use std::{borrow::Cow, fmt, marker::PhantomData, sync::Arc};

use http::{HeaderMap, HeaderName, header, request::Parts};

use crate::status::Reason;
pub(crate) use encode::{KeyBytes, KeyPrefix};
use encode::{Tag, put, put_count, put_optional};
use query::Query;

/// Which parts of a request make its key.
///
/// Always in the key: the method (GET and HEAD share), scheme, authority and path, as they come, and the host and scheme
/// that `Forwarded` and `X-Forwarded-*` tell, never the client's address. Chosen here: the
/// query (all of it, unless you say otherwise), headers, cookies, and what a closure finds. Two requests have the same
/// key exactly when all of these are equal, byte for byte; absent, empty and repeated values are different things.
///
/// Behind axum's `nest` the path as the client sent it is in the key too (feature `axum`).
///
/// A parameter, header or cookie that changes the response and is in neither the key nor the response's `Vary` will
/// give one user's answer to another. That is why a request with `Authorization` or `Cookie` passes by unless these
/// are in the key, or you say that the answer does not depend on them.
///
/// # Examples
///
/// ```
/// use http::header::ACCEPT_LANGUAGE;
/// use tower_response_cache::{CacheLayer, Key};
///
/// let cache = CacheLayer::builder()
///     .key(Key::new().query(["page", "sort"]).header(ACCEPT_LANGUAGE).cookie("region"))
///     .build();
/// # let _ = cache;
/// ```
pub struct Key<B = Head> {
    ignore_authority: bool,
    ignore_cookies: bool,
    ignore_authorization: bool,
    query: Query,
    headers: Vec<HeaderName>,
    cookies: Vec<Cow<'static, str>>,
    custom: Vec<Custom>,
    body_limit: usize,
    reads: PhantomData<B>,
}

type Custom = Arc<dyn Fn(&Parts) -> Option<Cow<'static, [u8]>> + Send + Sync>;

/// A [`Key`] made of the request's head alone.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Key, key::Head};
/// let key: Key<Head> = Key::new();
/// # let _ = key;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Head;

/// A [`Key`] that also reads the request's body.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Key, key::Body};
/// let key: Key<Body> = Key::grpc(64 * 1024);
/// # let _ = key;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Body;

impl Key<Head> {
    /// Method, scheme, authority, path and the whole query.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::with_body_limit(0)
    }
}

impl Default for Key<Head> {
    fn default() -> Self {
        Self::new()
    }
}

impl Key<Body> {
    /// A unary gRPC call: authority, path, and the bytes of the message, with its encoding and the encodings that the
    /// client accepts. Only POST with `content-type: application/grpc…` and exactly one message of at most `limit`
    /// bytes is answered by the cache; anything else (a client's stream, a longer message) passes by, whole.
    ///
    /// Metadata is not in the key unless it is named with [`header`](Self::header).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{CacheLayer, Key};
    ///
    /// let layer = CacheLayer::builder()
    ///     .key(Key::grpc(64 * 1024))
    ///     .ttl(Duration::from_secs(60))
    ///     .build();
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn grpc(limit: usize) -> Self {
        Self::with_body_limit(limit)
            .header(header::CONTENT_TYPE)
            .header(HeaderName::from_static("grpc-encoding"))
            .header(HeaderName::from_static("grpc-accept-encoding"))
    }

    /// How many bytes of a message are read, at the most.
    pub(crate) fn body_limit(&self) -> usize {
        self.body_limit
    }
}

impl<B> Key<B> {
    fn with_body_limit(body_limit: usize) -> Self {
        Self {
            ignore_authority: false,
            ignore_cookies: false,
            ignore_authorization: false,
            query: Query::All,
            headers: Vec::new(),
            cookies: Vec::new(),
            custom: Vec::new(),
            body_limit,
            reads: PhantomData,
        }
    }

    /// Only these query parameters are in the key, whatever their order; the others do not split the cache.
    /// Replaces any earlier choice about the query. Defaults to the whole query, as it comes.
    ///
    /// A repeated parameter keeps the order of its values. A query that cannot be read without doubt is in the key as
    /// a whole, byte for byte.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().query(["page", "sort"]);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn query<N: Into<Cow<'static, str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.query = Query::only(names);
        self
    }

    /// All query parameters but these are in the key, whatever their order; a name may end in `*` to mean all that
    /// begin with it. Replaces any earlier choice about the query.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().query_except(["utm_*", "fbclid"]);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn query_except<N: Into<Cow<'static, str>>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        self.query = Query::except(names);
        self
    }

    /// The values of this header, as they come; that it is absent is a value too.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().header(http::header::ACCEPT_LANGUAGE);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        if !self.headers.contains(&name) {
            self.headers.push(name);
        }
        self
    }

    /// The value of the cookie of this name. A request that carries other cookies still passes by, since the answer
    /// may depend on those, unless [`ignore_cookies`](Self::ignore_cookies) says that it does not.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().cookie("region").ignore_cookies();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn cookie(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        if !self.cookies.contains(&name) {
            self.cookies.push(name);
        }
        self
    }

    /// What this closure finds in the request. `None` means that the request has no key: it passes by.
    ///
    /// It runs on every request, also on hits. Several closures are told apart by their order.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Key;
    ///
    /// #[derive(Clone)]
    /// struct Tenant(String);
    ///
    /// let key = Key::new().part(|parts| {
    ///     let tenant = parts.extensions.get::<Tenant>()?;
    ///     Some(tenant.0.clone().into_bytes())
    /// });
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn part<F, V>(mut self, find: F) -> Self
    where
        F: Fn(&Parts) -> Option<V> + Send + Sync + 'static,
        V: Into<Cow<'static, [u8]>>,
    {
        self.custom
            .push(Arc::new(move |parts| find(parts).map(Into::into)));
        self
    }

    /// Leaves scheme and authority out: one answer for all the hosts that reach this service.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().ignore_authority();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn ignore_authority(mut self) -> Self {
        self.ignore_authority = true;
        self
    }

    /// Says that the answer depends on no cookie but those in the key. Without this, a request that carries any other
    /// cookie passes by.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().ignore_cookies();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn ignore_cookies(mut self) -> Self {
        self.ignore_cookies = true;
        self
    }

    /// Says that the answer does not depend on who asks, though the request carries `Authorization` (or
    /// `Proxy-Authorization`): whoever passes the authorisation that stands outside the cache sees the same.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().ignore_authorization();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn ignore_authorization(mut self) -> Self {
        self.ignore_authorization = true;
        self
    }

    /// What the request says of who asks: an error if it carries something that the key leaves out and the answer may
    /// depend on.
    pub(crate) fn identity(&self, headers: &HeaderMap) -> Result<Identity, Reason> {
        let mut identity = Identity::None;
        // One walk over the names is cheaper than a search for each.
        for name in headers.keys() {
            if *name == header::AUTHORIZATION {
                // RFC 9111 §3.5: whether such an answer may be shared is for the response to say.
                if !self.ignore_authorization && !self.headers.contains(name) {
                    identity = Identity::Authorized;
                }
            } else if *name == header::COOKIE {
                let keyed = self.ignore_cookies || self.headers.contains(name);
                if !keyed && cookie::any_besides(headers, &self.cookies) {
                    return Err(Reason::Cookie);
                }
            } else if *name == header::PROXY_AUTHORIZATION
                && !self.ignore_authorization
                && !self.headers.contains(name)
            {
                return Err(Reason::ProxyAuthorization);
            }
        }
        Ok(identity)
    }

    /// The key of a request, as far as its head goes, into a place of the caller's: it is too large to be moved about.
    ///
    /// # Errors
    ///
    /// The reason for which the request has no key: a part is absent, or the key is longer than `limit` bytes.
    pub(crate) fn encode(
        &self,
        prefix: &KeyPrefix,
        parts: &Parts,
        limit: usize,
        key: &mut KeyBytes,
    ) -> Result<(), Reason> {
        if parts.uri.path().len() > limit {
            return Err(Reason::KeyTooLong);
        }
        prefix.start(key);
        encode::method(key, &parts.method);
        if !self.ignore_authority {
            encode::authority(key, parts);
        }
        put(key, Tag::Path, parts.uri.path().as_bytes());
        #[cfg(feature = "axum")]
        encode::original_uri(key, parts);
        forwarded::put_forwarded(key, &parts.headers)?;
        self.query.encode(key, parts.uri.query());
        for name in &self.headers {
            put(key, Tag::Header, name.as_str().as_bytes());
            let values = parts.headers.get_all(name);
            put_count(key, values.iter().count());
            for value in values {
                put(key, Tag::Value, value.as_bytes());
            }
        }
        for name in &self.cookies {
            put(key, Tag::Cookie, name.as_bytes());
            for pair in cookie::named(&parts.headers, name) {
                put(key, Tag::Value, pair);
            }
        }
        for find in &self.custom {
            let found = find(parts).ok_or(Reason::KeyPart)?;
            put(key, Tag::Custom, &found);
        }
        if key.len() > limit {
            return Err(Reason::KeyTooLong);
        }
        Ok(())
    }
}

/// Adds to the key what was read of the body: its length, and a digest that nobody can make two bodies share.
pub(crate) fn put_body(key: &mut KeyBytes, encoding: u8, message: &[u8]) {
    use sha2::{Digest, Sha256};
    put(key, Tag::Body, &[encoding]);
    put_count(key, message.len());
    key.extend_from_slice(&Sha256::digest(message));
}

/// Adds the value of a header that a response's `Vary` names.
pub(crate) fn put_variant(key: &mut KeyBytes, name: &HeaderName, value: Option<&[u8]>) {
    put(key, Tag::Variant, name.as_str().as_bytes());
    put_optional(key, Tag::Value, value);
}

/// Sets the requests that carry an unkeyed `Authorization` apart, so that nobody waits for an answer that may be theirs alone.
pub(crate) fn put_authorized(key: &mut KeyBytes) {
    put(key, Tag::Authorized, &[]);
}

/// Who asks, as far as the key leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody in particular, or it is in the key.
    None,
    /// Somebody with credentials that are not in the key: only a response that says so may be shared.
    Authorized,
}

impl<B> Clone for Key<B> {
    fn clone(&self) -> Self {
        Self {
            ignore_authority: self.ignore_authority,
            ignore_cookies: self.ignore_cookies,
            ignore_authorization: self.ignore_authorization,
            query: self.query.clone(),
            headers: self.headers.clone(),
            cookies: self.cookies.clone(),
            custom: self.custom.clone(),
            body_limit: self.body_limit,
            reads: PhantomData,
        }
    }
}

impl<B> fmt::Debug for Key<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("ignore_authority", &self.ignore_authority)
            .field("ignore_cookies", &self.ignore_cookies)
            .field("ignore_authorization", &self.ignore_authorization)
            .field("query", &self.query)
            .field("headers", &self.headers)
            .field("cookies", &self.cookies)
            .field("closures", &self.custom.len())
            .field("body_limit", &self.body_limit)
            .finish()
    }
}

#[cfg(test)]
mod tests;

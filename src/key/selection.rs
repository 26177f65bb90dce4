//! Which parts of a request's head are in its key, and so what of it the inner service may see.

use std::{borrow::Cow, fmt, sync::Arc};

use http::{HeaderMap, HeaderName, Method, header, request::Parts, uri::Scheme};

#[cfg(feature = "axum")]
use super::capture;
use super::{
    cookie,
    encode::{KeyBytes, KeyPrefix, Tag, put, put_optional},
    extensions::{ExtensionRules, ExtensionType, ExtensionValue},
    forwarded,
    header::Header,
    identity::{self, Chosen, Identity, Says},
    query::{Query, is_read_in_one_way},
    seal::Seal,
    target::{self, SchemeRule},
    value::{KeyValue, KeyWriter},
};
use crate::{field::NoVarySearch, status::Reason};

/// The parts that were chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(super) ignore_authority: bool,
    pub(super) scheme: SchemeRule,
    pub(super) ignore_forwarded: bool,
    pub(super) ignore_cookies: bool,
    pub(super) ignore_authorization: bool,
    pub(super) says_who_asks: Chosen,
    pub(super) query: Query,
    pub(super) headers: Vec<Header>,
    /// What joins the key with the body, if it was not chosen by itself: it is not in the head's part of it.
    pub(super) of_the_body: Vec<Header>,
    pub(super) cookies: Vec<Cow<'static, str>>,
    #[cfg(feature = "axum")]
    pub(super) captures: Vec<Cow<'static, str>>,
    pub(super) found: Vec<Found>,
    pub(super) extensions: ExtensionRules,
    /// A request with one of these cookies bypasses the cache. A name may end in `*`.
    pub(super) bypass_cookies: Vec<Cow<'static, str>>,
    pub(super) seal: Option<Seal>,
    /// Whether requests for fragments of a page are told apart.
    pub(super) fragments: bool,
}

/// A part that is looked for in the request: an extension, or what a closure makes of it.
/// What stands where in a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// From where to where the query does.
    query: [usize; 2],
    /// How much of it a purge by request compares: not what a router and proxies in front have added, which the application
    /// does not know when it purges.
    pub(crate) head: usize,
}

impl Reach {
    /// The key with nothing of the query but what matters, by this rule. `None` if readers may not agree on what is in the query.
    pub(crate) fn search(
        self,
        key: &[u8],
        rule: &NoVarySearch,
        query: Option<&str>,
    ) -> Option<KeyBytes> {
        if !query.is_none_or(is_read_in_one_way) {
            return None;
        }
        let [start, end] = self.query;
        let mut searched = KeyBytes::from_slice(&key[..start]);
        put_optional(
            &mut searched,
            Tag::Search,
            &rule.to_bytes(),
            Some(&rule.canonical(query)),
        );
        searched.extend_from_slice(&key[end..]);
        Some(searched)
    }
}

#[derive(Clone)]
pub(super) struct Found {
    tag: Tag,
    name: Cow<'static, str>,
    /// Of an extension: its name may be another type's too.
    of: Option<ExtensionType>,
    write: Write,
}

type Write = Arc<dyn Fn(&Parts, &mut KeyWriter<'_>) -> Option<()> + Send + Sync>;

impl Found {
    pub(super) fn extension<T: KeyValue + Send + Sync + 'static>(required: bool) -> Self {
        Self {
            tag: Tag::Extension,
            name: ExtensionType::of::<T>().name().into(),
            of: Some(ExtensionType::of::<T>()),
            write: Arc::new(move |parts, key| {
                match parts.extensions.get::<T>() {
                    Some(value) => value.write(key),
                    None if required => return None,
                    // A value may write nothing, and be there all the same.
                    None => key.absent(),
                }
                Some(())
            }),
        }
    }

    /// What a closure makes of an extension that has to be there.
    pub(super) fn extension_with<T: Send + Sync + 'static>(
        name: Cow<'static, str>,
        value: impl ExtensionValue<T>,
    ) -> Self {
        Self {
            tag: Tag::Extension,
            name,
            of: Some(ExtensionType::of::<T>()),
            write: Arc::new(move |parts, key| {
                value(parts.extensions.get::<T>()?).write(key);
                Some(())
            }),
        }
    }

    /// The type of the extension that is read, if it is one.
    pub(super) fn extension_type(&self) -> Option<ExtensionType> {
        self.of
    }

    pub(super) fn part<F, V>(name: Cow<'static, str>, find: F) -> Self
    where
        F: Fn(&Parts) -> Option<V> + Send + Sync + 'static,
        V: KeyValue,
    {
        Self {
            tag: Tag::Part,
            name,
            of: None,
            write: Arc::new(move |parts, key| {
                find(parts)?.write(key);
                Some(())
            }),
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        (self.tag, self.of, &self.name) == (other.tag, other.of, &other.name)
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.tag, self.name)
    }
}

impl Selection {
    /// The key of a request, as far as its head goes, into a place of the caller's: it is too large to be moved about.
    /// The parts are only borrowed: they are as they were.
    ///
    /// # Errors
    ///
    /// The reason for which the request has no key: a part is absent, or the key is longer than `limit` bytes.
    pub(crate) fn encode(
        &self,
        prefix: &KeyPrefix,
        parts: &mut Parts,
        limit: usize,
        key: &mut KeyBytes,
    ) -> Result<Reach, Reason> {
        let reach = self.encode_head(prefix, parts, limit, key)?;
        forwarded::put_forwarded(key, &parts.headers, self.ignore_forwarded)?;
        #[cfg(feature = "axum")]
        self.put_captures(parts, key)?;
        if key.len() > limit {
            return Err(Reason::KeyTooLong);
        }
        Ok(reach)
    }

    /// As [`encode`](Self::encode), no further than a purge by request compares it.
    pub(crate) fn encode_head(
        &self,
        prefix: &KeyPrefix,
        parts: &Parts,
        limit: usize,
        key: &mut KeyBytes,
    ) -> Result<Reach, Reason> {
        if parts.uri.path().len() > limit {
            return Err(Reason::KeyTooLong);
        }
        prefix.start(key);
        if self.seal.is_some() {
            put(key, Tag::Sealed, b"");
        }
        target::put_method(key, &parts.method);
        if !self.ignore_authority {
            target::put_authority(key, parts, &self.scheme)?;
        }
        target::put_path(key, parts);
        let start = key.len();
        self.query.put(key, parts.uri.query());
        let query = [start, key.len()];
        for header in &self.headers {
            header.put(key, &parts.headers);
        }
        if !self.cookies.is_empty() {
            let sealed = self.is_sealed_from(&header::COOKIE);
            cookie::put_cookies(key, &parts.headers, &self.cookies, sealed);
        }
        for found in &self.found {
            put(key, found.tag, found.name.as_bytes());
            (found.write)(parts, &mut KeyWriter::new(key)).ok_or(Reason::KeyPart)?;
        }
        Ok(Reach {
            query,
            head: key.len(),
        })
    }

    /// What a request is for, however it came (RFC 9110 §7.1) and was spelled (RFC 3986 §6.2.2), as far as that is in the
    /// key: two of one target may have keys that differ in all else.
    pub(crate) fn target(&self, parts: &Parts) -> KeyBytes {
        let mut target = self.target_path(parts);
        self.put_comparable_query(&mut target, target::as_sent(parts).query());
        target
    }

    /// What is in the key of a query, as purges compare it.
    pub(super) fn put_comparable_query(&self, key: &mut KeyBytes, query: Option<&str>) {
        let query = query.map(|query| target::normalized(query.as_bytes()));
        // Only escapes of ASCII were changed: it is text as before.
        let query = query.as_deref().map(String::from_utf8_lossy);
        self.query.put(key, query.as_deref());
    }

    /// As [`target`](Self::target), without the query.
    pub(crate) fn target_path(&self, parts: &Parts) -> KeyBytes {
        let mut target = KeyBytes::new();
        if !self.ignore_authority
            && let Some(authority) = target::authority(parts)
        {
            put(&mut target, Tag::Authority, authority.as_bytes());
        }
        let path = target::as_sent(parts).path();
        let path = target::normalized_path(path.as_bytes());
        put(&mut target, Tag::Path, &path);
        target
    }

    #[cfg(feature = "axum")]
    fn put_captures(&self, parts: &mut Parts, key: &mut KeyBytes) -> Result<(), Reason> {
        if self.captures.is_empty() {
            return Ok(());
        }
        let captures = capture::captures(parts).ok_or(Reason::KeyPart)?;
        for name in &self.captures {
            let value = capture::named(&captures, name).ok_or(Reason::KeyPart)?;
            put(key, Tag::Capture, name.as_bytes());
            put(key, Tag::Value, value.as_bytes());
        }
        Ok(())
    }

    /// Whether one of these headers says who asks, and is not in the key.
    pub(crate) fn any_says_who_asks<'a>(
        &self,
        mut names: impl Iterator<Item = &'a HeaderName>,
    ) -> bool {
        names.any(|name| self.says_who_asks.says(name).is_some() && !self.keys_header(name))
    }

    /// Whether a header says who asks.
    pub(super) fn says_who_asks(&self, name: &HeaderName) -> bool {
        self.says_who_asks.says(name).is_some()
    }

    /// Whether a closure reads of the request what nobody knows.
    pub(super) fn reads_at_will(&self) -> bool {
        self.found.iter().any(|found| found.of.is_none())
    }

    /// With fragments of a page told apart, or not.
    pub(crate) fn with_fragments(mut self, told_apart: bool) -> Self {
        self.fragments = told_apart;
        self
    }

    /// Whether the cache may answer the request, as far as the user's rules on cookies and extensions and the seal go.
    ///
    /// # Errors
    ///
    /// The reason for which it bypasses the cache.
    #[inline]
    pub(crate) fn admit(&self, parts: &Parts) -> Result<(), Reason> {
        if !self.bypass_cookies.is_empty() && cookie::may_have(&parts.headers, &self.bypass_cookies)
        {
            return Err(Reason::Cookie);
        }
        self.extensions.admit(&parts.extensions, self.is_sealed())
    }

    /// The names of the types of extensions for which a sealed request bypasses the cache.
    pub(crate) fn unknown_extensions(&self, parts: &Parts) -> Vec<String> {
        if self.is_sealed() {
            self.extensions.unknown(&parts.extensions)
        } else {
            Vec::new()
        }
    }

    /// Whether a layer outside the cache may add a cookie to the response because of what the handler does.
    pub(crate) fn has_session(&self, parts: &Parts) -> bool {
        self.extensions.has_session(&parts.extensions)
    }

    /// What the request says of who asks, as far as the inner service will see it.
    ///
    /// # Errors
    ///
    /// The reason for which it passes by: it carries something that the key leaves out and the answer may depend on.
    pub(crate) fn identity(
        &self,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Identity, Reason> {
        let mut found = Identity::None;
        // One walk over the names is cheaper than a search for each.
        for name in headers.keys() {
            let Some(says) = self.says_who_asks.says(name) else {
                continue;
            };
            if !identity::counts(says, method) || self.leaves_no_trace_of(name) {
                continue;
            }
            match says {
                Says::Cookies if self.ignore_cookies => {}
                Says::Cookies => {
                    if cookie::any_besides(headers, &self.cookies) {
                        return Err(Reason::Cookie);
                    }
                }
                _ if self.ignore_authorization => {}
                // RFC 9111 §3.5: whether such an answer may be shared is for the response to say.
                Says::Authorization => found = Identity::Authorized,
                Says::ProxyAuthorization => return Err(Reason::ProxyAuthorization),
                Says::Other | Says::ForgeryToken => return Err(Reason::ClientIdentity),
            }
        }
        Ok(found)
    }

    /// Adds to a key what joins it with the body. It stands behind the part that a purge by request marks: so that
    /// covers every type of body.
    pub(crate) fn put_of_the_body(&self, headers: &HeaderMap, key: &mut KeyBytes) {
        for header in &self.of_the_body {
            header.put(key, headers);
        }
    }

    pub(super) fn keys_header(&self, name: &HeaderName) -> bool {
        let mut headers = self.headers.iter().chain(&self.of_the_body);
        headers.any(|header| header.name == *name)
    }

    /// Whether all that the inner service sees of this header is in the key.
    fn leaves_no_trace_of(&self, name: &HeaderName) -> bool {
        self.keys_header(name) || self.is_sealed_from(name)
    }

    /// Whether a response that names this header in `Vary` is for all who have its key. If it is sealed, not where it says
    /// who asks: what a layer outside made of it may be among the extensions; and not where the response is encoded, which
    /// not every client takes.
    pub(crate) fn settles(&self, name: &HeaderName, encoded: bool) -> bool {
        let says_who_asks = self.says_who_asks.says(name).is_some();
        let of_the_coding = encoded && *name == header::ACCEPT_ENCODING;
        let may_be_sealed = !says_who_asks && !of_the_coding;
        let of_the_target = *name == header::HOST && !self.ignore_authority;
        of_the_target || self.keys_header(name) || (may_be_sealed && self.is_sealed_from(name))
    }

    /// Whether the inner service sees this request as it came.
    pub(crate) fn shows_all(&self, parts: &Parts) -> bool {
        !self.is_sealed()
            && !self.extensions.hides_any()
            && self.headers.iter().all(Header::is_as_it_comes)
            && (self.ignore_authority || target::shows_authority(parts, &self.scheme))
    }

    /// The scheme of requests that do not tell it, and whether it is in the key.
    pub(crate) fn set_scheme(&mut self, scheme: Option<Scheme>, is_keyed: bool) {
        self.scheme = SchemeRule {
            assumed: scheme.or(is_keyed.then_some(Scheme::HTTP)),
            is_keyed,
        };
    }

    /// Whether the host is in the key.
    pub(crate) fn keys_authority(&self) -> bool {
        !self.ignore_authority
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    fn is_sealed_from(&self, name: &HeaderName) -> bool {
        let seal = self.seal.as_ref();
        seal.is_some_and(|seal| self.removes(seal, name))
    }

    /// Lets the inner service see the request as it is in the key: headers in their normal form, and, if it is sealed,
    /// nothing else.
    pub(crate) fn show(&self, parts: &mut Parts) {
        for header in &self.headers {
            header.show(&mut parts.headers);
        }
        self.extensions.apply_to(&mut parts.extensions);
        if !self.ignore_authority {
            let shows_host = !self.keys_header(&header::HOST);
            target::show_authority(parts, &self.scheme, self.is_sealed(), shows_host);
        }
        if let Some(seal) = &self.seal {
            self.seal(seal, parts);
        }
    }
}

//! Which parts of a request make its key, and how they are encoded.
//!
//! A key is bytes: a version, what tells applications and layers apart, then each part as its tag and its value, every
//! value behind its length. There are no separators, so two different selections of values can never make one key.
//!
//! What is chosen with [`Key`] decides two more things: for which requests a response that says `Vary` is, and, with
//! [`Key::seal`], what the inner service sees.

mod body;
#[cfg(feature = "axum")]
mod capture;
mod cookie;
mod encode;
mod extensions;
mod forwarded;
mod fragments;
mod header;
mod identity;
#[cfg(any(test, fuzzing))]
pub(crate) mod injectivity;
#[cfg(feature = "json")]
mod json;
mod parts;
mod purge_form;
mod query;
mod redirect;
mod seal;
mod selection;
mod target;
mod value;

use std::{borrow::Cow, sync::Arc};

use http::{HeaderName, header as field, request::Parts};

pub use body::{Body, Head, ReadsBody};
pub(crate) use encode::{KeyBytes, KeyPrefix};
use encode::{Tag, put_optional};
use extensions::ExtensionType;
pub use extensions::ExtensionValue;
pub(crate) use fragments::Fragment;
use header::Header;
pub use header::Normalize;
pub(crate) use header::any_sensitive;
pub(crate) use identity::Identity;
pub use parts::KeyPart;
pub(crate) use parts::{parts, text, told};
pub(crate) use purge_form::purge_form;
use query::Query;
use seal::Seal;
use selection::Found;
pub(crate) use selection::{Reach, Selection};
pub(crate) use target::{
    all_authorities, as_sent, authority, canonical_authority, names_one_authority,
};
pub use value::{KeyValue, KeyWriter};

/// Which parts of a request make its key.
///
/// Always in the key: the method (GET and HEAD share), the authority, the path as it comes, and the host and scheme
/// that `Forwarded` and `X-Forwarded-*` tell, never the client's address. Chosen here: the
/// query (all of it, unless you say otherwise), headers, cookies, what a router captured of the path, extensions of a
/// type, what a closure finds, and the body. Two requests have the same
/// key exactly when all of these are equal, byte for byte; absent, empty and repeated values are different things.
///
/// The authority is one, whatever form the request has: that of the URI (HTTP/2, the absolute form), else that of `Host`, in lower
/// case and without the default port. A request that names two that differ bypasses the cache. The scheme is in the key where
/// responses decide ([`rfc9111`](crate::CacheLayerBuilder::rfc9111)); elsewhere `http` and `https` share what is stored, since a
/// server does not hear it over HTTP/1.1: have a proxy in front send `X-Forwarded-Proto` where answers differ. A redirect to what
/// the request itself is for, in any scheme, is never stored.
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
///     .key(Key::new().query_except(["utm_*"]).header(ACCEPT_LANGUAGE).cookie("region"))
///     .build();
/// # let _ = cache;
/// ```
#[derive(Debug, Clone)]
pub struct Key<B = Head> {
    selection: Selection,
    body: B,
}

impl Key<Head> {
    /// Method, authority, path and the whole query.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self {
            selection: Selection::default(),
            body: Head,
        }
    }

    /// The body too, byte for byte, with its type, encoding, language and trailers. A request with a body of more than
    /// `limit` bytes passes by, whole and without being held back; so does a gRPC call, for which there is
    /// [`Key::grpc`].
    ///
    /// Until its body is whole, a request waits, for
    /// [`wait_timeout`](crate::CacheLayerBuilder::wait_timeout) at most; then, as any other, for an answer. Which methods the cache answers is chosen with
    /// [`methods`](crate::CacheLayerBuilder::methods): GET and HEAD, unless you say otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Method;
    /// use tower_response_cache::{CacheLayer, Key};
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let search = CacheLayer::builder().key(Key::new().body(64 * 1024)).methods([Method::POST])?.build();
    /// # let _ = search;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn body(self, limit: usize) -> Key<Body> {
        self.with_body(Body::raw(limit), &[])
    }

    /// As [`body`](Self::body), for JSON bodies: the order of members and the white space between them do not matter. Numbers and
    /// strings are compared as they are written: `1` is not `1.0`. A body that cannot be parsed, has two members of one name, is
    /// more than 32 levels deep or not UTF-8, is in the key byte for byte; so is a sequence of JSON texts (`application/x-ndjson`).
    ///
    /// A body of any other type (a form, multipart, plain text, no `Content-Type`) bypasses the cache with the reason
    /// [`RequestBodyNotKeyed`](crate::Reason::RequestBodyNotKeyed).
    ///
    /// The members of an object have no order (RFC 8259 §4). A service that goes by it all the same (some search engines do, for
    /// `sort` and `aggs`) gets the first asker's; such questions are better asked with arrays, or keyed by [`body`](Self::body).
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Method;
    /// use tower_response_cache::{CacheLayer, Key};
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let search = CacheLayer::builder().key(Key::new().json_body(64 * 1024)).methods([Method::POST])?.build();
    /// # let _ = search;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    #[must_use]
    pub fn json_body(self, limit: usize) -> Key<Body> {
        self.with_body(Body::json(limit, Vec::new()), &[])
    }

    /// As [`json_body`](Self::json_body), without the members of these names of the outermost object: requests that differ in these
    /// alone get the same response. Only for members that the response does not repeat, or whose value in it does not matter to
    /// clients: a JSON-RPC server repeats `id`, and most clients compare it.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Method;
    /// use tower_response_cache::{CacheLayer, Key};
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// // Each request has another `requestId`, which is for the service's log.
    /// let key = Key::new().json_body_except(64 * 1024, ["requestId"]);
    /// let search = CacheLayer::builder().key(key).methods([Method::POST])?.build();
    /// # let _ = search;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    #[must_use]
    pub fn json_body_except<N: Into<Cow<'static, str>>>(
        self,
        limit: usize,
        members: impl IntoIterator<Item = N>,
    ) -> Key<Body> {
        let members = members.into_iter().map(Into::into).collect();
        self.with_body(Body::json(limit, members), &[])
    }

    fn with_body(mut self, body: Body, more: &[&'static str]) -> Key<Body> {
        let more = more.iter().map(|name| HeaderName::from_static(name));
        let names = [
            field::CONTENT_TYPE,
            field::CONTENT_ENCODING,
            field::CONTENT_LANGUAGE,
        ];
        let names = names.into_iter().chain(more);
        let not_chosen = names.filter(|name| !self.selection.keys_header(name));
        self.selection.of_the_body = not_chosen.map(Header::as_it_comes).collect();
        Key {
            selection: self.selection,
            body,
        }
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
    /// bytes is answered by the cache; anything else (a client's stream, a longer message) bypasses it, whole.
    ///
    /// **No method is cached until it is chosen**, with [`methods`](Self::methods) or [`all_methods`](Self::all_methods): a call of a
    /// method that changes something looks like one that reads. Others bypass the cache with the reason
    /// [`GrpcMethod`](crate::Reason::GrpcMethod). A call without an authority bypasses with
    /// [`NoAuthority`](crate::Reason::NoAuthority), unless [`ignore_authority`](Self::ignore_authority) is chosen: otherwise two servers could
    /// share one key.
    ///
    /// Metadata is not in the key unless it is named with [`header`](Self::header). `grpc-accept-encoding` is in it as a set, and
    /// `application/grpc+proto` is `application/grpc`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{CacheLayer, Key};
    ///
    /// let layer = CacheLayer::builder()
    ///     .key(Key::grpc(64 * 1024).methods(["/shop.Shop/Find", "/shop.Shop/List"]))
    ///     .ttl(Duration::from_secs(60))
    ///     .build();
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn grpc(limit: usize) -> Self {
        let encodings = ["grpc-encoding", "grpc-accept-encoding"];
        let mut key = Key::new().with_body(Body::grpc(limit), &encodings);
        for header in &mut key.selection.of_the_body {
            header.normalize = match header.name.as_str() {
                "content-type" => Some(Normalize::grpc_type()),
                "grpc-accept-encoding" => Some(Normalize::grpc_codings()),
                _ => None,
            };
        }
        key
    }

    /// The gRPC methods that may be cached, each as the path of its call. Replaces an earlier choice. Defaults to none. Without effect on
    /// other keys than [`Key::grpc`].
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::grpc(64 * 1024).methods(["/shop.Shop/Find", "/shop.Shop/List"]);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn methods<N: Into<Cow<'static, str>>>(
        mut self,
        paths: impl IntoIterator<Item = N>,
    ) -> Self {
        self.body
            .methods(paths.into_iter().map(Into::into).collect());
        self
    }

    /// Every unary gRPC method may be cached: only for a layer around services whose methods all read. An `Update` that is called
    /// twice with the same message runs once. Without effect on other keys than [`Key::grpc`].
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::grpc(64 * 1024).all_methods();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn all_methods(mut self) -> Self {
        self.body.all_methods();
        self
    }

    /// What this closure makes of a gRPC message stands for it in the key: protobuf has no canonical order of map fields and
    /// unknown fields, so that one message may be written in many ways. It gets the message without its prefix, and its result must
    /// differ for messages with different responses. `None` bypasses the cache with the reason
    /// [`RequestBodyNotKeyed`](crate::Reason::RequestBodyNotKeyed). A compressed message is in the key as it comes. Runs on every call,
    /// also on hits. Without effect on other keys than [`Key::grpc`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Key;
    ///
    /// /// Decodes the message and writes it again, with the entries of its maps in order.
    /// fn canonical(message: &[u8]) -> Option<Vec<u8>> {
    ///     Some(message.to_vec()) // `Find::decode(message).ok()?`, with `BTreeMap` fields (prost's `btree_map`), `.encode_to_vec()`
    /// }
    ///
    /// let key = Key::grpc(64 * 1024)
    ///     .methods(["/shop.Shop/Find"])
    ///     .canonical_message(|_, message| canonical(message));
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn canonical_message<F>(mut self, canonical: F) -> Self
    where
        F: Fn(&Parts, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        self.body.canonical_message(Arc::new(canonical));
        self
    }
}

impl<B: ReadsBody> Key<B> {
    pub(crate) fn is_grpc(&self) -> bool {
        self.body.is_of_grpc()
    }
}

impl<B> Key<B> {
    /// Only requests for which this is true have a key; the others pass by. It gets the whole body, which is empty for
    /// most GETs, and runs on every request whose body is within the limit, also on hits. Replaces an earlier one.
    ///
    /// # Examples
    ///
    /// GraphQL asks and changes by the same method and path:
    ///
    /// ```
    /// use tower_response_cache::Key;
    ///
    /// fn only_asks(body: &[u8]) -> bool {
    ///     let Ok(serde_json::Value::Object(request)) = serde_json::from_slice(body) else { return false };
    ///     let document = request.get("query").and_then(|query| query.as_str()).unwrap_or("mutation");
    ///     !document.contains("mutation") && !document.contains("subscription")
    /// }
    ///
    /// let key = Key::new().body(64 * 1024).only_if(|_, body| only_asks(body));
    /// # let _ = key;
    /// ```
    ///
    /// It comes after the choice of the body: with a key of the head alone it does not compile.
    ///
    /// ```compile_fail,E0277
    /// tower_response_cache::Key::new().only_if(|_, body| !body.is_empty());
    /// ```
    #[must_use]
    pub fn only_if<F>(mut self, is_keyed: F) -> Self
    where
        B: ReadsBody,
        F: Fn(&Parts, &[u8]) -> bool + Send + Sync + 'static,
    {
        self.body.set_only_if(Arc::new(is_keyed));
        self
    }

    /// Only these query parameters are in the key, whatever their order; the others do not split the cache. A name may
    /// end in `*` to mean all that begin with it. Replaces any earlier choice about the query. Defaults to the whole
    /// query, as it comes.
    ///
    /// A repeated parameter keeps the order of its values. A query that cannot be read without doubt is in the key as
    /// a whole, byte for byte.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().query(["page", "sort", "filter_*"]);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn query<N: Into<Cow<'static, str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.selection.query = Query::only(names);
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
        self.selection.query = Query::except(names);
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
    pub fn header(self, name: HeaderName) -> Self {
        self.put_header(name, None)
    }

    /// This header in a form that its many spellings share. The inner service sees it in this form too, and `Vary` on it is
    /// answered by that. What a layer outside the cache makes of the header as it came (an extension with the user's
    /// locale) has to be in the key too. Replaces an earlier choice about the same header.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::header::ACCEPT_ENCODING;
    /// use tower_response_cache::{Key, key::Normalize};
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let key = Key::new().header_as(ACCEPT_ENCODING, Normalize::codings(["br", "gzip"])?);
    /// # let _ = key;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn header_as(self, name: HeaderName, normalize: Normalize) -> Self {
        self.put_header(name, Some(normalize))
    }

    fn put_header(mut self, name: HeaderName, normalize: Option<Normalize>) -> Self {
        let Selection {
            headers,
            of_the_body,
            ..
        } = &mut self.selection;
        headers.retain(|known| known.name != name);
        of_the_body.retain(|known| known.name != name);
        headers.push(Header { name, normalize });
        self
    }

    /// The value of the cookie of this name. A request that carries other cookies still passes by, since the answer
    /// may depend on those, unless [`ignore_cookies`](Self::ignore_cookies) says that it does not, or
    /// [`seal`](Self::seal) sees to it.
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
        if !self.selection.cookies.contains(&name) {
            self.selection.cookies.push(name);
        }
        self
    }

    /// What axum's router has captured of the path under this name, decoded, beside the whole path, which is always in
    /// the key as it comes. A request for which nothing was captured under this name passes by.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().capture("tenant");
    /// # let _ = key;
    /// ```
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn capture(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        if !self.selection.captures.contains(&name) {
            self.selection.captures.push(name);
        }
        self
    }

    /// The extension of this type, which has to be there: a request without it passes by. What puts it into the
    /// request (a layer that knows the tenant, the user's segment) stands outside the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Key, key::{KeyValue, KeyWriter}};
    ///
    /// #[derive(Clone)]
    /// struct Tenant(String);
    ///
    /// impl KeyValue for Tenant {
    ///     fn write(&self, key: &mut KeyWriter<'_>) {
    ///         self.0.write(key);
    ///     }
    /// }
    ///
    /// let key = Key::new().extension::<Tenant>();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn extension<T: KeyValue + Send + Sync + 'static>(self) -> Self {
        self.put_found(Found::extension::<T>(true))
    }

    /// The extension of this type, if it is there; that it is absent is a value too.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_response_cache::{Key, key::{KeyValue, KeyWriter}};
    /// # struct Segment(u8);
    /// # impl KeyValue for Segment {
    /// #     fn write(&self, key: &mut KeyWriter<'_>) { self.0.write(key); }
    /// # }
    /// let key = Key::new().optional_extension::<Segment>();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn optional_extension<T: KeyValue + Send + Sync + 'static>(self) -> Self {
        self.put_found(Found::extension::<T>(false))
    }

    /// A value of the extension of this type, under a name of yours: for types of other crates, or where a part of the
    /// extension is enough. The extension has to be there: a request without it bypasses the cache with
    /// [`Reason::KeyPart`](crate::Reason::KeyPart). Replaces an earlier closure for the same type and name.
    ///
    /// The response must depend on nothing else of the extension: the inner service sees all of it. The closure runs
    /// on every request, also on hits.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Key;
    ///
    /// #[derive(Clone)]
    /// struct Account {
    ///     tenant: u64,
    /// }
    ///
    /// let key = Key::new().extension_with::<Account>("tenant", |account| account.tenant);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn extension_with<T: Send + Sync + 'static>(
        self,
        name: impl Into<Cow<'static, str>>,
        value: impl ExtensionValue<T>,
    ) -> Self {
        self.put_found(Found::extension_with(name.into(), value))
    }

    /// A request with an extension of this type bypasses the cache, with [`Reason::Extension`](crate::Reason::Extension):
    /// pages of users who are logged in are their own, and all others share theirs. The layer that adds the extension
    /// has to be outside the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[derive(Clone)]
    /// # struct User;
    /// let key = tower_response_cache::Key::new().ignore_cookies().bypass_if_extension::<User>();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn bypass_if_extension<T: Send + Sync + 'static>(mut self) -> Self {
        self.selection
            .extensions
            .bypass_if(ExtensionType::of::<T>());
        self
    }

    /// Says that no response depends on the extension of this type, and that the inner service does nothing with it
    /// that a layer outside the cache turns into a part of the response: for pools, clients and configuration. A sealed
    /// layer accounts for it; any layer accepts it if it is a session
    /// ([`Reason::Session`](crate::Reason::Session)).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[derive(Clone)]
    /// # struct Pool;
    /// let key = tower_response_cache::Key::new().seal().allow_extension::<Pool>();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn allow_extension<T: Send + Sync + 'static>(mut self) -> Self {
        self.selection
            .extensions
            .account_for(ExtensionType::of::<T>());
        self
    }

    /// Removes the extension of this type from requests that have a key before the inner service sees them, sealed or
    /// not. Requests that bypass the cache keep it. A sealed layer accounts for it.
    ///
    /// A handler that requires the extension (`Extension<T>` in axum) then fails; one that reads it if it is there
    /// answers as it does without.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[derive(Clone)]
    /// # struct User;
    /// let key = tower_response_cache::Key::new().seal().hide_extension::<User>();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn hide_extension<T: Send + Sync + 'static>(mut self) -> Self {
        self.selection.extensions.hide(ExtensionType::of::<T>());
        self
    }

    /// What this closure finds in the request, under a name of yours. `None` means that the request has no key: it
    /// passes by. Replaces an earlier closure of the same name.
    ///
    /// It runs on every request, also on hits.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::Key;
    ///
    /// let key = Key::new().part("preview", |parts| {
    ///     let preview = parts.headers.contains_key("x-preview");
    ///     (!preview).then_some(false) // previews pass by
    /// });
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn part<F, V>(self, name: impl Into<Cow<'static, str>>, find: F) -> Self
    where
        F: Fn(&Parts) -> Option<V> + Send + Sync + 'static,
        V: KeyValue,
    {
        self.put_found(Found::part(name.into(), find))
    }

    fn put_found(mut self, found: Found) -> Self {
        if let Some(known) = found.extension_type() {
            self.selection.extensions.account_for(known);
        }
        self.selection.found.retain(|known| !known.is(&found));
        self.selection.found.push(found);
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
        self.selection.ignore_authority = true;
        self
    }

    /// Leaves out what proxies say of the target: `X-Forwarded-Host`, `-Proto` and their like, and the hosts and schemes in
    /// `Forwarded`. For services that make nothing of them, no links and no redirects. Behind a [`seal`](Self::seal) the inner
    /// service does not see them. Defaults to their being in the key, each as it comes.
    ///
    /// Which these are, and which of `X-Forwarded-*` never are in the key, says the guide
    /// [`headers`](crate::guide::headers).
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().ignore_forwarded();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn ignore_forwarded(mut self) -> Self {
        self.selection.ignore_forwarded = true;
        self
    }

    /// Says that the answer depends on no cookie but those in the key. Without this, a request that carries any other
    /// cookie passes by.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().cookie("region").ignore_cookies();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn ignore_cookies(mut self) -> Self {
        self.selection.ignore_cookies = true;
        self
    }

    /// A request with the cookie of this name bypasses the cache, and all other cookies are ignored: users with a
    /// session see pages of their own, and analytics or consent cookies do not split the cache. The name may end in
    /// `*` to mean all that begin with it; call it again for further names.
    ///
    /// This is [`ignore_cookies`](Self::ignore_cookies) with an exception. It decides by the request alone: a handler
    /// that begins a session for a visitor who has none needs the session layer *inside* the cache, where the
    /// `Set-Cookie` is seen ([`guide::users`](crate::guide::users)).
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().bypass_if_cookie("session");
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn bypass_if_cookie(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.selection.ignore_cookies = true;
        self.selection.bypass_cookies.push(name.into());
        self
    }

    /// Says that the answer does not depend on who asks, though the request says so with `Authorization`,
    /// `Proxy-Authorization`, an API key or what a proxy knows of the user: whoever passes the authorisation that
    /// stands outside the cache sees the same.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().ignore_authorization();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn ignore_authorization(mut self) -> Self {
        self.selection.ignore_authorization = true;
        self
    }

    /// These headers say who asks, too, besides those that the guide [`headers`](crate::guide::headers) lists: a request with one
    /// bypasses the cache, unless the header is in the key or sealed, or [`ignore_authorization`](Self::ignore_authorization) says
    /// that answers do not depend on it. Adds to what was named before.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    ///
    /// let key = tower_response_cache::Key::new().identity_headers([HeaderName::from_static("x-employee")]);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn identity_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.selection.says_who_asks.identity.extend(names);
        self
    }

    /// These headers do not say who asks, though the guide [`headers`](crate::guide::headers) lists them or their endings: such
    /// as a secret that a CDN adds to every request. You vouch for it that no answer depends on them. Adds to what was named
    /// before, and comes before [`identity_headers`](Self::identity_headers).
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    ///
    /// let key = tower_response_cache::Key::new().not_identity_headers([HeaderName::from_static("x-origin-secret")]);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn not_identity_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.selection.says_who_asks.not_identity.extend(names);
        self
    }

    /// Lets the inner service see no header and no cookie that is not in the key: what it cannot read cannot leak into
    /// an answer that others get. So a request with `Authorization` or cookies is answered by the cache too, and the
    /// inner service does not learn of them.
    ///
    /// What is in the key stays, as it is there: chosen headers (in their normal form), chosen cookies, the host (in lower
    /// case, without the default port), and what `Forwarded` and `X-Forwarded-*` say of the target. So does what the message needs to be read and
    /// traced: `Content-Length`, `Transfer-Encoding`, `TE`, `Trailer`, `traceparent`, `tracestate`, `b3`, `X-B3-*`,
    /// `X-Request-Id`, `X-Correlation-Id`, `X-Amzn-Trace-Id`, `X-Cloud-Trace-Context`; and what
    /// [`let_through`](Self::let_through) names. Everything else goes, validators and ranges too. The version of HTTP stays, and with it
    /// whether the target came in the absolute form, which tells a scheme.
    ///
    /// # Extensions
    ///
    /// Layers outside the cache may have put the user into the request's extensions. A sealed layer accounts for each
    /// extension, and a request with one that is unknown bypasses the cache, with
    /// [`Reason::UnknownExtension`](crate::Reason::UnknownExtension) and, with the feature `tracing`, an event that names its type. Known are:
    ///
    /// | extensions | the inner service sees them |
    /// |---|---|
    /// | in the key: [`extension`](Self::extension), [`optional_extension`](Self::optional_extension), [`extension_with`](Self::extension_with) | yes |
    /// | [`allow_extension`](Self::allow_extension) | yes |
    /// | [`hide_extension`](Self::hide_extension) | no |
    /// | axum's: path parameters, `MatchedPath`, `NestedPath`, `OriginalUri`, `DefaultBodyLimit`, `ConnectInfo<SocketAddr>`, `MockConnectInfo<SocketAddr>` | yes |
    /// | hyper's: the spelling of header names | yes |
    /// | tower-http's: `RequestId` | yes |
    /// | tonic's: `TcpConnectInfo`, `UdsConnectInfo`, `()`; not `TlsConnectInfo`, which may hold the client's certificate | yes |
    ///
    /// A closure of [`part`](Self::part) accounts for none. `http::Extensions` cannot be enumerated: the types of
    /// servers and routers are recognised by their names, which its `Debug` writes, in whatever version of these crates.
    /// A handler that answers by the client's address (`ConnectInfo`) needs
    /// [`hide_extension`](Self::hide_extension), or the address in the key.
    ///
    /// # Headers
    ///
    /// In place of an `Accept-Encoding` that is not in the key there is `identity`, for without it any coding would do; a response
    /// that is encoded all the same varies by it.
    ///
    /// A response that names another sealed header in its `Vary` is for everybody all the same, since it was made without; but where
    /// that header says who asks (`Vary: Cookie`, `Vary: Authorization`), it is for requests with the same one only: what a
    /// layer outside has made of it may be among the extensions.
    ///
    /// A request that has no key is not sealed: it passes by as it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::header::ACCEPT_LANGUAGE;
    ///
    /// let key = tower_response_cache::Key::new().header(ACCEPT_LANGUAGE).cookie("region").seal();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn seal(mut self) -> Self {
        self.selection.seal.get_or_insert_default();
        self
    }

    /// As [`seal`](Self::seal), and lets the inner service see no query parameter either that is not in the key: they
    /// come ordered by name.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().query(["page", "sort"]).seal_query();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn seal_query(mut self) -> Self {
        self.selection.seal.get_or_insert_default().query = true;
        self
    }

    /// As [`seal`](Self::seal), but the inner service sees this header, though it is not in the key: you vouch for it that
    /// the answer does not depend on it, or says `Vary` where it does.
    ///
    /// # Examples
    ///
    /// ```
    /// let key = tower_response_cache::Key::new().seal().let_through(http::header::USER_AGENT);
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn let_through(mut self, header: HeaderName) -> Self {
        let seal = self.selection.seal.get_or_insert_with(Seal::default);
        seal.let_through.push(header);
        self
    }

    pub(crate) fn into_parts(self) -> (Selection, B) {
        (self.selection, self.body)
    }
}

/// Whether a line of a header is visible ASCII: many readers (`HeaderValue::to_str`) leave out one that is not.
fn is_text(line: &[u8]) -> bool {
    line.iter()
        .all(|b| (b' '..=b'~').contains(b) || *b == b'\t')
}

/// Adds the value of a header that a response's `Vary` names.
pub(crate) fn put_variant(key: &mut KeyBytes, name: &HeaderName, value: Option<&[u8]>) {
    put_optional(key, Tag::Variant, name.as_str().as_bytes(), value);
}

/// Adds the fragment of a page that a request is for, if it is not for the page.
pub(crate) fn put_fragment(key: &mut KeyBytes, fragment: &Fragment) {
    if let Some(fragment) = fragment.as_bytes() {
        put_optional(key, Tag::Fragment, b"", Some(fragment));
    }
}

/// Sets the requests that carry an unkeyed `Authorization` apart, so that nobody waits for an answer that may be theirs alone.
pub(crate) fn put_authorized(key: &mut KeyBytes) {
    put_optional(key, Tag::Authorized, b"", None);
}

#[cfg(test)]
mod tests;

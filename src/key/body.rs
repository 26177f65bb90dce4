//! What of a request's body is in its key.

use std::{borrow::Cow, fmt, sync::Arc};

use http::{HeaderMap, request::Parts};
use sha2::{Digest, Sha256};

#[cfg(feature = "json")]
use super::json;
use super::{
    encode::{KeyBytes, Tag, put},
    target,
};
use crate::{
    grpc::{self, PREFIX_BYTES},
    status::Reason,
};

/// What a [`Key`](crate::Key) is made of: the request's head alone.
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

/// What a [`Key`](crate::Key) is made of: the request's head, and its body.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Key, key::Body};
/// let key: Key<Body> = Key::grpc(64 * 1024).methods(["/shop.Shop/Find"]);
/// # let _ = key;
/// ```
#[derive(Clone)]
pub struct Body {
    kind: Kind,
    limit: usize,
    only_if: Option<OnlyIf>,
    methods: GrpcMethods,
    canonical: Option<Canonical>,
    /// The members of a JSON body that are not in the key.
    #[cfg(feature = "json")]
    except: Vec<Cow<'static, str>>,
}

/// Which gRPC methods have a key.
#[derive(Debug, Clone)]
enum GrpcMethods {
    /// By their paths, such as `/shop.Shop/Find`.
    Chosen(Vec<Cow<'static, str>>),
    All,
}

/// The bytes that stand for a gRPC message in the key.
type Canonical = Arc<dyn Fn(&Parts, &[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// A key that reads the request's body.
#[diagnostic::on_unimplemented(
    message = "the key does not read the request's body, and this is only for keys that do",
    label = "needs a key that reads the request's body",
    note = "choose `Key::new().body(limit)`, `Key::new().json_body(limit)` or `Key::grpc(limit)` before: a POST is answered by what is in its body"
)]
pub trait ReadsBody: sealed::Sealed {}

impl ReadsBody for Body {}

mod sealed {
    use super::{Body, OnlyIf};

    pub trait Sealed {
        #[doc(hidden)]
        fn set_only_if(&mut self, only_if: OnlyIf);

        #[doc(hidden)]
        fn is_of_grpc(&self) -> bool;
    }

    impl Sealed for Body {
        fn set_only_if(&mut self, only_if: OnlyIf) {
            self.only_if = Some(only_if);
        }

        fn is_of_grpc(&self) -> bool {
            self.is_grpc()
        }
    }
}

type OnlyIf = Arc<dyn Fn(&Parts, &[u8]) -> bool + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raw,
    #[cfg(feature = "json")]
    Json,
    Grpc,
}

impl Body {
    pub(super) fn raw(limit: usize) -> Self {
        Self::of(Kind::Raw, limit)
    }

    #[cfg(feature = "json")]
    pub(super) fn json(limit: usize, except: Vec<Cow<'static, str>>) -> Self {
        Self {
            except,
            ..Self::of(Kind::Json, limit)
        }
    }

    pub(super) fn grpc(limit: usize) -> Self {
        Self::of(Kind::Grpc, limit)
    }

    fn of(kind: Kind, limit: usize) -> Self {
        Self {
            kind,
            limit,
            only_if: None,
            methods: GrpcMethods::Chosen(Vec::new()),
            canonical: None,
            #[cfg(feature = "json")]
            except: Vec::new(),
        }
    }

    pub(super) fn methods(&mut self, methods: Vec<Cow<'static, str>>) {
        self.methods = GrpcMethods::Chosen(methods);
    }

    pub(super) fn all_methods(&mut self) {
        self.methods = GrpcMethods::All;
    }

    pub(super) fn canonical_message(&mut self, canonical: Canonical) {
        self.canonical = Some(canonical);
    }

    /// Whether a request is one of those for which the body is read.
    ///
    /// # Errors
    ///
    /// The reason for which it bypasses the cache: its gRPC method was not chosen, or two servers might share its key.
    pub(crate) fn admit(&self, parts: &Parts, keys_authority: bool) -> Result<(), Reason> {
        if self.kind != Kind::Grpc {
            return Ok(());
        }
        let path = target::as_sent(parts).path();
        let is_chosen = match &self.methods {
            GrpcMethods::Chosen(methods) => methods.iter().any(|method| method == path),
            GrpcMethods::All => true,
        };
        if !is_chosen {
            return Err(Reason::GrpcMethod);
        }
        let has_authority = target::authority(parts).is_some_and(|host| !host.is_empty());
        if keys_authority && !has_authority {
            return Err(Reason::NoAuthority);
        }
        Ok(())
    }

    /// How many bytes are read, at the most.
    pub(crate) fn limit(&self) -> usize {
        match self.kind {
            Kind::Grpc => self.limit.saturating_add(PREFIX_BYTES),
            _ => self.limit,
        }
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.kind == Kind::Grpc
    }

    /// Adds a whole body to the key: its length, and a digest that nobody can make two bodies share; and its trailers.
    /// `false` if this body is none that is in a key.
    pub(crate) fn put(
        &self,
        parts: &Parts,
        body: &[u8],
        trailers: Option<&HeaderMap>,
        key: &mut KeyBytes,
    ) -> bool {
        if self
            .only_if
            .as_ref()
            .is_some_and(|only_if| !only_if(parts, body))
        {
            return false;
        }
        match self.kind {
            Kind::Grpc => {
                let Some((flag, message)) = grpc::one_message(body) else {
                    return false;
                };
                // A compressed message cannot be read.
                match self.canonical.as_ref().filter(|_| flag == 0) {
                    None => {
                        put(key, Tag::GrpcMessage, &[flag]);
                        put_digest(key, message);
                    }
                    Some(canonical) => {
                        let Some(message) = canonical(parts, message) else {
                            return false;
                        };
                        put(key, Tag::GrpcMessage, b"canonical");
                        put_digest(key, &message);
                    }
                }
            }
            #[cfg(feature = "json")]
            Kind::Json => {
                if !body.is_empty() && !json::is_typed(&parts.headers) {
                    return false;
                }
                let is_said = json::is_said(&parts.headers);
                let canonical = || json::canonical(body, &self.except);
                match is_said.then(canonical).flatten() {
                    Some(canonical) => {
                        put(key, Tag::JsonBody, &self.left_out());
                        put_digest(key, &canonical);
                    }
                    None => put_raw(key, body),
                }
            }
            Kind::Raw => put_raw(key, body),
        }
        for (name, value) in trailers.into_iter().flatten() {
            put(key, Tag::Trailer, name.as_str().as_bytes());
            put(key, Tag::Value, value.as_bytes());
        }
        true
    }
}

#[cfg(feature = "json")]
impl Body {
    /// The names of the members that are left out, each behind its length: layers that leave out others never share a key.
    fn left_out(&self) -> Vec<u8> {
        let mut names: Vec<_> = self.except.iter().collect();
        names.sort_unstable();
        names.dedup();
        let mut bytes = Vec::new();
        for name in names {
            bytes.extend((name.len() as u64).to_le_bytes());
            bytes.extend(name.as_bytes());
        }
        bytes
    }
}

fn put_raw(key: &mut KeyBytes, body: &[u8]) {
    put(key, Tag::RawBody, b"");
    put_digest(key, body);
}

fn put_digest(key: &mut KeyBytes, bytes: &[u8]) {
    put(key, Tag::Value, &(bytes.len() as u64).to_le_bytes());
    put(key, Tag::Value, &Sha256::digest(bytes));
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("kind", &self.kind)
            .field("limit", &self.limit)
            .field("only_if", &self.only_if.is_some())
            .finish()
    }
}

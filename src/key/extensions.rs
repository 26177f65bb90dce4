//! Extensions of a request: which of them a layer accounts for.
//!
//! `http::Extensions` cannot be enumerated by value. It has a length, and its `Debug` writes the name of each type
//! (http 1.4 and later). Types that the user has chosen are counted by their type. Types of servers and routers, some
//! of which are private, are counted by name, so that no dependency on the crates that define them is needed and one
//! list serves all their versions. An extension that is counted in neither way is unknown: a name that is not
//! recognised leads to a bypass, never to a response that is shared.

#[cfg(feature = "tracing")]
use std::sync::Arc;
use std::{
    any::{TypeId, type_name},
    fmt::{self, Write},
};

use http::Extensions;

use super::value::KeyValue;
#[cfg(feature = "tracing")]
use crate::events::Throttle;
use crate::status::Reason;

/// A closure that makes a value of the key of an extension: what
/// [`Key::extension_with`](crate::Key::extension_with) takes. Every `Fn(&T) -> V` is one, where `V` is a [`KeyValue`].
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Key, key::ExtensionValue};
///
/// fn key<T: Send + Sync + 'static>(value: impl ExtensionValue<T>) -> Key {
///     Key::new().extension_with::<T>("value", value)
/// }
/// # let _ = key(|number: &u64| *number);
/// ```
pub trait ExtensionValue<T>:
    Fn(&T) -> <Self as ExtensionValue<T>>::Value + Send + Sync + 'static
{
    /// What it makes of the extension.
    type Value: KeyValue;
}

impl<T, F, V> ExtensionValue<T> for F
where
    F: Fn(&T) -> V + Send + Sync + 'static,
    V: KeyValue,
{
    type Value = V;
}

/// A type of which a request may have an extension.
#[derive(Clone, Copy)]
pub(super) struct ExtensionType {
    id: TypeId,
    name: &'static str,
    is_in: fn(&Extensions) -> bool,
    remove: fn(&mut Extensions),
}

impl ExtensionType {
    pub(super) fn of<T: Send + Sync + 'static>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: type_name::<T>(),
            is_in: |extensions| extensions.get::<T>().is_some(),
            remove: |extensions| drop(extensions.remove::<T>()),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

impl PartialEq for ExtensionType {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl fmt::Debug for ExtensionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What the user has said of extensions.
#[derive(Debug, Clone, Default)]
pub(super) struct ExtensionRules {
    /// Each once: types that are in the key, that the response does not depend on, or that are hidden.
    accounted: Vec<ExtensionType>,
    hidden: Vec<ExtensionType>,
    bypass: Vec<ExtensionType>,
    #[cfg(feature = "tracing")]
    throttle: Arc<Throttle>,
}

impl ExtensionRules {
    pub(super) fn account_for(&mut self, known: ExtensionType) {
        if !self.accounted.contains(&known) {
            self.accounted.push(known);
        }
    }

    pub(super) fn hide(&mut self, hidden: ExtensionType) {
        self.account_for(hidden);
        if !self.hidden.contains(&hidden) {
            self.hidden.push(hidden);
        }
    }

    pub(super) fn bypass_if(&mut self, unwanted: ExtensionType) {
        if !self.bypass.contains(&unwanted) {
            self.bypass.push(unwanted);
        }
    }

    pub(super) fn hides_any(&self) -> bool {
        !self.hidden.is_empty()
    }

    /// Removes the extensions that the inner service is not to see.
    pub(super) fn apply_to(&self, extensions: &mut Extensions) {
        for hidden in &self.hidden {
            (hidden.remove)(extensions);
        }
    }

    /// Whether a request with these extensions may be answered by the cache.
    ///
    /// # Errors
    ///
    /// The reason for which it bypasses the cache.
    pub(super) fn admit(&self, extensions: &Extensions, is_sealed: bool) -> Result<(), Reason> {
        if extensions.is_empty() {
            return Ok(());
        }
        if self
            .bypass
            .iter()
            .any(|unwanted| (unwanted.is_in)(extensions))
        {
            return Err(Reason::Extension);
        }
        if is_sealed && self.count_unknown(extensions) > 0 {
            self.warn(extensions);
            return Err(Reason::UnknownExtension);
        }
        Ok(())
    }

    /// How many of the extensions are neither chosen by the user nor those of servers and routers.
    fn count_unknown(&self, extensions: &Extensions) -> usize {
        let chosen = self.accounted.iter();
        let chosen = chosen.filter(|known| (known.is_in)(extensions)).count();
        let left = extensions.len().saturating_sub(chosen);
        if left == 0 {
            return 0;
        }
        let mut known = 0;
        each_name(extensions, |name| {
            known += usize::from(is_known(name) && !self.accounts_for(name));
        });
        left.saturating_sub(known)
    }

    /// Whether a type of this name is counted by its type. Two types may have the same name: the other one is unknown.
    fn accounts_for(&self, name: &str) -> bool {
        self.accounted.iter().any(|known| known.name == name)
    }

    /// The names of the types that are unknown.
    pub(super) fn unknown(&self, extensions: &Extensions) -> Vec<String> {
        let mut names = Vec::new();
        each_name(extensions, |name| {
            if !is_known(name) && !self.accounts_for(name) {
                names.push(name.to_owned());
            }
        });
        names.sort_unstable();
        names
    }

    /// Whether a layer outside the cache has put a session or a cookie jar into the request: the cookie that it adds
    /// to the response is not seen by the cache.
    pub(super) fn has_session(&self, extensions: &Extensions) -> bool {
        let mut found = false;
        if !extensions.is_empty() {
            each_name(extensions, |name| {
                found |= is_session(name) && !self.accounts_for(name);
            });
        }
        found
    }

    /// Says what is unknown, at most once a minute for a key.
    #[cfg(feature = "tracing")]
    #[cold]
    fn warn(&self, extensions: &Extensions) {
        if self.throttle.passes().is_none() {
            return;
        }
        tracing::warn!(
            unknown = self.count_unknown(extensions),
            types = self.unknown(extensions).join(", "),
            "a request bypasses a sealed cache layer: it has extensions that the layer does not account for. For each \
             type, put it into the key with `Key::extension::<T>()` or `Key::extension_with::<T>(name, |t| …)`, say \
             that responses do not depend on it with `Key::allow_extension::<T>()`, or keep it from the inner service \
             with `Key::hide_extension::<T>()`"
        );
    }

    #[cfg(not(feature = "tracing"))]
    #[expect(clippy::unused_self, reason = "there is nobody to tell")]
    fn warn(&self, _: &Extensions) {}
}

/// Extensions that servers and routers add. They say nothing of the user but the address of the peer, and what they
/// say of the request is in the key.
const KNOWN: &[&str] = &[
    // hyper: the spelling of header names.
    "hyper::ext::HeaderCaseMap",
    // axum: the address of the peer.
    "axum::extract::connect_info::ConnectInfo<core::net::socket_addr::SocketAddr>",
    "axum::extract::connect_info::MockConnectInfo<core::net::socket_addr::SocketAddr>",
    // axum: the path, its captures, the route, where it is nested, and the URI before that.
    "axum::routing::url_params::UrlParams",
    "axum::extract::matched_path::MatchedPath",
    "axum::extract::matched_path::MatchedNestedPath",
    "axum::extract::nested_path::NestedPath",
    // Without the feature it is neither in the key nor sealed.
    #[cfg(feature = "axum")]
    "axum::extract::original_uri::OriginalUri",
    // axum: how long the request's body may be.
    "axum_core::extract::default_body_limit::DefaultBodyLimitKind",
    // tower-http: what the seal lets through as `X-Request-Id`.
    "tower_http::request_id::RequestId",
    // tonic: the address of the peer. Over TLS, `TlsConnectInfo` may have the client's certificate: it is unknown.
    "tonic::transport::server::conn::TcpConnectInfo",
    "tonic::transport::server::unix::UdsConnectInfo",
];

fn is_known(name: &str) -> bool {
    // `()` is what tonic knows of a connection in memory.
    name == "()" || KNOWN.contains(&name) || name.starts_with(OWN)
}

/// The extensions of this crate.
const OWN: &str = concat!(env!("CARGO_CRATE_NAME"), "::");

/// The crates whose layers hand sessions or cookies to handlers, and add cookies to the response afterwards.
const SESSIONS: [&str; 6] = [
    "tower_sessions",
    "tower_cookies::",
    "axum_session",
    "axum_login::",
    "async_session::",
    "axum_csrf",
];

fn is_session(name: &str) -> bool {
    SESSIONS.iter().any(|known| name.contains(known))
}

/// Calls this with the name of each extension's type.
fn each_name(extensions: &Extensions, with: impl FnMut(&str)) {
    // A `DebugSet` writes each name in one piece; what it writes around them is no name.
    let mut names = Names(with);
    let _ = write!(names, "{extensions:?}");
}

struct Names<F>(F);

impl<F: FnMut(&str)> Write for Names<F> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if !matches!(piece, "{" | "}" | ", ") {
            (self.0)(piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct User;

    #[derive(Clone)]
    struct Pool;

    fn with_both() -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(User);
        extensions.insert(Pool);
        extensions.insert(());
        extensions
    }

    #[test]
    fn each_extension_has_the_name_of_its_type() {
        let mut names = Vec::new();
        each_name(&with_both(), |name| names.push(name.to_owned()));
        names.sort_unstable();
        let expected = ["()", type_name::<Pool>(), type_name::<User>()];
        assert_eq!(names, expected);
        each_name(&Extensions::new(), |name| panic!("{name}"));
    }

    // Invariant 15.
    #[test]
    fn an_extension_is_counted_once_however_often_it_is_accounted_for() {
        let mut rules = ExtensionRules::default();
        let extensions = with_both();
        // This module is the crate's own: its types would be known by name, so they are chosen here.
        rules.account_for(ExtensionType::of::<()>());
        rules.account_for(ExtensionType::of::<Pool>());
        rules.hide(ExtensionType::of::<Pool>());
        rules.account_for(ExtensionType::of::<()>());
        assert_eq!(rules.accounted.len(), 2);
        assert_eq!(rules.count_unknown(&extensions), 0);

        let mut foreign = Extensions::new();
        foreign.insert(());
        foreign.insert(vec![1_u8]);
        assert_eq!(rules.count_unknown(&foreign), 1);
        assert_eq!(rules.unknown(&foreign), ["alloc::vec::Vec<u8>"]);
        assert_eq!(rules.admit(&foreign, false), Ok(()));
        assert_eq!(rules.admit(&foreign, true), Err(Reason::UnknownExtension));
    }
}

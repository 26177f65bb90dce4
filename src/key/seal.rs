//! What a sealed key lets the inner service see.

#[cfg(feature = "axum")]
use axum::extract::OriginalUri;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};

use super::{cookie, forwarded, header::any_sensitive, selection::Selection};

/// Nothing reaches the inner service that is not in the key, but for these.
#[derive(Debug, Clone, Default)]
pub(super) struct Seal {
    pub(super) query: bool,
    pub(super) let_through: Vec<HeaderName>,
}

/// What the message needs to be read at all, and what tells where it belongs in a trace. None of it says who asks, or
/// for what.
pub(super) const HARMLESS: [HeaderName; 16] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-b3-flags"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-amzn-trace-id"),
    HeaderName::from_static("x-cloud-trace-context"),
];

impl Selection {
    /// Takes out of a request what is not in its key.
    pub(super) fn seal(&self, seal: &Seal, parts: &mut Parts) {
        parts.headers = self.sealed_headers(seal, &parts.headers);
        #[cfg(feature = "axum")]
        if let Some(original) = parts.extensions.get_mut::<OriginalUri>() {
            // Where its query is another one, that is in the key as a whole.
            let seals_query = seal.query && original.query() == parts.uri.query();
            original.0 = self.sealed_uri(seals_query, &original.0);
        }
        parts.uri = self.sealed_uri(seal.query, &parts.uri);
    }

    /// What of a request's headers its answer may depend on, so that it can be asked again without the requester: what is
    /// in the key, and these.
    pub(crate) fn recorded_headers<'a>(
        &self,
        headers: &HeaderMap,
        vary: impl Iterator<Item = &'a HeaderName>,
    ) -> HeaderMap {
        let chosen = self.seal.iter().flat_map(|seal| &seal.let_through);
        let seal = Seal {
            let_through: vary.cloned().chain(chosen.cloned()).collect(),
            ..Seal::default()
        };
        let mut kept = if self.reads_at_will() {
            let mut all = headers.clone();
            let of_the_requester = |name: &HeaderName| {
                self.says_who_asks.says(name).is_some() && self.removes(&seal, name)
            };
            for name in headers.keys().filter(|name| of_the_requester(name)) {
                all.remove(name);
            }
            all
        } else {
            self.sealed_headers(&seal, headers)
        };
        for name in HARMLESS.iter().filter(|name| **name != header::TE) {
            kept.remove(name);
        }
        kept
    }

    fn sealed_uri(&self, seals_query: bool, uri: &Uri) -> Uri {
        let mut sealed = uri.clone();
        if self.ignore_authority {
            let origin_form = uri.path_and_query().cloned();
            sealed = origin_form.map(Uri::from).unwrap_or_default();
        }
        if seals_query
            && let Some(query) = uri.query()
            && let Some(query) = self.query.sealed(query)
        {
            sealed = with_query(&sealed, &query);
        }
        sealed
    }

    fn sealed_headers(&self, seal: &Seal, headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::with_capacity(headers.keys_len());
        for name in headers.keys() {
            if self.removes(seal, name) {
                let rest = match *name {
                    header::COOKIE => cookie::sealed(headers, &self.cookies),
                    header::FORWARDED if !self.ignore_forwarded => forwarded::sealed(headers),
                    _ => self.sealed_fragment(headers, name),
                };
                let is_sensitive = any_sensitive(headers, name);
                kept.extend(rest.map(|mut line| {
                    line.set_sensitive(is_sensitive);
                    (Some(name.clone()), line)
                }));
            } else {
                for line in headers.get_all(name) {
                    kept.append(name.clone(), line.clone());
                }
            }
        }
        if self.removes(seal, &header::ACCEPT_ENCODING) {
            // RFC 9110 §12.5.3: without it any coding would do, and not every client takes any.
            let identity = HeaderValue::from_static("identity");
            kept.insert(header::ACCEPT_ENCODING, identity);
        }
        kept
    }

    /// Whether the seal takes this header out, or leaves no more of it than is in the key.
    pub(super) fn removes(&self, seal: &Seal, name: &HeaderName) -> bool {
        let is_target = (*name == header::HOST && !self.ignore_authority)
            || (!self.ignore_forwarded && forwarded::tells_target(name));
        let kept = self.keys_header(name)
            || is_target
            || self.keeps_for_fragments(name)
            || seal.let_through.contains(name)
            || HARMLESS.contains(name);
        !kept
    }
}

fn with_query(uri: &Uri, query: &str) -> Uri {
    let path = uri.path();
    let target = if query.is_empty() {
        path.to_owned()
    } else {
        [path, "?", query].concat()
    };
    let mut parts = uri.clone().into_parts();
    #[expect(
        clippy::expect_used,
        reason = "a sealed query is made of the bytes of one, and is no longer"
    )]
    {
        parts.path_and_query = Some(PathAndQuery::try_from(target).expect("a path and a query"));
        Uri::from_parts(parts).expect("as complete as it was")
    }
}

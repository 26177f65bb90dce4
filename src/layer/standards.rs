//! How a layer becomes a shared cache by the book, and each of the choices that this is made of.

use std::time::Duration;

use http::{HeaderName, uri::Scheme};

use super::builder::{CacheLayerBuilder, thousandths};
use crate::{
    error::BuildError,
    policy::{BodyTag, Credentials, Heuristics, RequestDirectives, ResponseDirectives, SetCookie},
};

impl<B, R> CacheLayerBuilder<B, R> {
    /// A shared cache after RFC 9111, which can stand in front of any origin: requests and responses decide, and `ttl` is only for
    /// what says nothing of its lifetime, none unless it is set after this.
    ///
    /// It is a choice of these, each of which can be made otherwise afterwards: [`request_directives`](Self::request_directives),
    /// [`response_directives`](Self::response_directives), [`heuristic_freshness`](Self::heuristic_freshness) (a tenth, a day at
    /// the most), [`credentials`](Self::credentials), [`cache_groups`](Self::cache_groups),
    /// [`no_vary_search`](Self::no_vary_search), [`whole_for_ranges`](Self::whole_for_ranges) (off).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, SetCookie};
    ///
    /// let cache = CacheLayer::builder().rfc9111().set_cookie(SetCookie::Store).build();
    /// # let _ = cache;
    /// ```
    pub fn rfc9111(mut self) -> Self {
        let policy = &mut self.policy;
        policy.ttl = Duration::ZERO;
        policy.request_directives = RequestDirectives::Honour;
        policy.response_directives = ResponseDirectives::Honour;
        policy.credentials = Credentials::IfPermitted;
        policy.heuristics = Heuristics {
            thousandths: 100,
            at_most: Duration::from_secs(24 * 60 * 60),
        };
        policy.cache_groups = true;
        policy.no_vary_search = true;
        policy.whole_for_ranges = false;
        policy.fragments = false;
        self
    }

    /// The scheme of requests whose URI does not tell it, as those of HTTP/1.1 do not, whose server does not hear whether the
    /// connection is TLS. Defaults to `http` where responses decide, and else to one of the two, nobody knows which.
    ///
    /// Where responses decide ([`rfc9111`](Self::rfc9111)), the scheme is in the key: behind TLS this has to be `https`, so that
    /// requests over HTTP/1.1 and HTTP/2 share what is stored. Where the layer decides, the scheme is not in the key, and this
    /// only says which port is the default one, `:80` or `:443`, if requests name either.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::uri::Scheme;
    /// use tower_response_cache::CacheLayer;
    ///
    /// let cache = CacheLayer::builder().rfc9111().scheme(Scheme::HTTPS).build();
    /// # let _ = cache;
    /// ```
    pub fn scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = Some(scheme);
        self
    }

    /// Whether a request's `Cache-Control` is heeded. Defaults to [`RequestDirectives::Ignore`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, RequestDirectives};
    ///
    /// let cache = CacheLayer::builder().rfc9111().request_directives(RequestDirectives::Ignore).build();
    /// # let _ = cache;
    /// ```
    pub fn request_directives(mut self, directives: RequestDirectives) -> Self {
        self.policy.request_directives = directives;
        self
    }

    /// Whether responses decide themselves if they are stored, and for how long. Defaults to
    /// [`ResponseDirectives::PolicyFirst`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, ResponseDirectives};
    ///
    /// let cache = CacheLayer::builder().response_directives(ResponseDirectives::Honour).build();
    /// # let _ = cache;
    /// ```
    pub fn response_directives(mut self, directives: ResponseDirectives) -> Self {
        self.policy.response_directives = directives;
        self
    }

    /// What becomes of requests that say who asks in what is not in the key. Defaults to [`Credentials::PassBy`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, Credentials};
    ///
    /// let cache = CacheLayer::builder().credentials(Credentials::IfPermitted).build();
    /// # let _ = cache;
    /// ```
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.policy.credentials = credentials;
        self
    }

    /// What becomes of responses that set a cookie. Defaults to [`SetCookie::Refuse`], also by the book.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, SetCookie};
    ///
    /// let cache = CacheLayer::builder().set_cookie(SetCookie::Strip).build();
    /// # let _ = cache;
    /// ```
    pub fn set_cookie(mut self, set_cookie: SetCookie) -> Self {
        self.policy.set_cookie = set_cookie;
        self
    }

    /// Responses with these headers are shared, though they carry credentials or a value for one use: a token against forgery that is
    /// the same for everybody, a nonce that a layer outside makes new. You vouch for it that everybody may have them. Adds to
    /// what was named before. Defaults to none: such a response is for its requester alone, whatever it says of being cached.
    ///
    /// The guide [`headers`](crate::guide::headers) lists which these are. `Set-Cookie` has a choice of its own,
    /// [`set_cookie`](Self::set_cookie).
    ///
    /// # Examples
    ///
    /// ```
    /// use http::header::CONTENT_SECURITY_POLICY;
    /// use tower_response_cache::CacheLayer;
    ///
    /// let cache = CacheLayer::builder().share_despite([CONTENT_SECURITY_POLICY]).build();
    /// # let _ = cache;
    /// ```
    pub fn share_despite(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.policy.share_despite.extend(names);
        self
    }

    /// Where responses decide: one that says nothing of its lifetime is fresh for this share of the time since it was last modified
    /// (RFC 9111 §4.2.2), for so long at the most. Defaults to nothing, and by the book to a tenth, a day at the most.
    ///
    /// # Errors
    ///
    /// A share that is not between 0 and 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::CacheLayer;
    ///
    /// # fn main() -> Result<(), tower_response_cache::BuildError> {
    /// let cache = CacheLayer::builder().rfc9111().heuristic_freshness(0.05, Duration::from_secs(3600))?.build();
    /// # let _ = cache;
    /// # Ok(())
    /// # }
    /// ```
    pub fn heuristic_freshness(
        mut self,
        share: f64,
        at_most: Duration,
    ) -> Result<Self, BuildError> {
        self.policy.heuristics = Heuristics {
            thousandths: thousandths(share)?,
            at_most,
        };
        Ok(self)
    }

    /// Where responses decide: the fields that speak to this cache in particular (RFC 9213), the first of which that is there and
    /// can be read counts instead of `Cache-Control` and `Expires`. They go on to the client as they are. Defaults to none.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_response_cache::CacheLayer;
    ///
    /// let cache = CacheLayer::builder().rfc9111().targets([HeaderName::from_static("cdn-cache-control")]).build();
    /// # let _ = cache;
    /// ```
    pub fn targets(mut self, targets: impl IntoIterator<Item = HeaderName>) -> Self {
        self.policy.targets = targets.into_iter().collect();
        self
    }

    /// Where responses decide: whether `stale-while-revalidate` and `stale-if-error` count beside `s-maxage`, which forbids what is stale
    /// (RFC 9111 §5.2.2.10). Defaults to no.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().rfc9111().stale_despite_s_maxage(true).build();
    /// # let _ = cache;
    /// ```
    pub fn stale_despite_s_maxage(mut self, despite: bool) -> Self {
        self.policy.stale_despite_s_maxage = despite;
        self
    }

    /// Whether responses are purged by the groups that they name: `Cache-Groups` on a response, and `Cache-Group-Invalidation` on the
    /// answer to a request that changes something, on the same origin (RFC 9875). Defaults to no, and by the book to yes.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().cache_groups(true).build();
    /// # let _ = cache;
    /// ```
    pub fn cache_groups(mut self, heeded: bool) -> Self {
        self.policy.cache_groups = heeded;
        self
    }

    /// Whether a response may say which parameters of the query it does not depend on (`No-Vary-Search`), for all of its path.
    /// Defaults to no, and by the book to yes.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().no_vary_search(true).build();
    /// # let _ = cache;
    /// ```
    pub fn no_vary_search(mut self, heeded: bool) -> Self {
        self.policy.no_vary_search = heeded;
        self
    }

    /// Whether a request for a part of a response that is not stored makes the cache fetch the whole. Otherwise the request goes on as it
    /// is, and its response is not stored. Defaults to yes, and by the book to no. `Range: bytes=0-` asks for all bytes: the whole is
    /// fetched for it in both cases, and answered with a 206.
    ///
    /// If the response turns out not to be storable, its requester still gets the part: see [`max_body_bytes`](CacheLayerBuilder::max_body_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().rfc9111().whole_for_ranges(true).build();
    /// # let _ = cache;
    /// ```
    pub fn whole_for_ranges(mut self, fetched: bool) -> Self {
        self.policy.whole_for_ranges = fetched;
        self
    }

    /// Whether a successful answer to a request that changes something (any method that is not known to be safe) purges what is stored
    /// for its target, and for what `Content-Location`, and `Location` of a 2xx, name on the same origin (RFC 9111 §4.4). Defaults to yes.
    ///
    /// A method that the layer answers itself ([`methods`](CacheLayerBuilder::methods), gRPC) is taken to change nothing. It is purged before
    /// the answer goes to its requester; also if there is no answer (an `Err`, a panic, a client that leaves), since nobody knows
    /// then what has been changed; and not if the answer is an error. All layers of the handle that have the same host and query
    /// in their keys are meant. A request for whose target nothing is stored or in flight leaves no mark: what clients send cannot
    /// fill the table of purged tags ([`max_marks`](crate::CacheHandleBuilder::max_marks)).
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().invalidation(false).build();
    /// # let _ = cache;
    /// ```
    pub fn invalidation(mut self, heeded: bool) -> Self {
        self.policy.invalidation = heeded;
        self
    }

    /// Whether requests for fragments of a page are told apart from requests for the page, and from each other. Defaults
    /// to yes; [`rfc9111`](Self::rfc9111) switches it off, since there `Vary` decides.
    ///
    /// htmx, Turbo, Inertia, PJAX, Unpoly, React Server Components, Alpine AJAX, fixi and Datastar ask for a part of a page by
    /// the page's own URL, with a header. Where the handler forgets `Vary`, the fragment would be served as the page. So
    /// stored responses are told apart by these headers, as variants of one page:
    ///
    /// | headers | count |
    /// |---|---|
    /// | `HX-Request`, `HX-Boosted`, `HX-History-Restore-Request`, `X-PJAX`, `X-Inertia`, `RSC`, `Next-Router-Prefetch`, `X-Alpine-Request`, `FX-Request`, `Datastar-Request` | as present or absent |
    /// | `X-Requested-With: XMLHttpRequest` | as present or absent; any other value does not count |
    /// | `HX-Target`, `Turbo-Frame`, `X-PJAX-Container`, `X-Inertia-*`, `X-Up-*`, `Next-Router-State-Tree`, `Next-Router-Segment-Prefetch`, `X-Alpine-Target` | by value, up to 64 bytes |
    ///
    /// A request with a longer value, or with more than 16 of these headers, bypasses the cache, with
    /// [`Reason::Fragment`](crate::Reason::Fragment). At most [`max_variants`](CacheLayerBuilder::max_variants) fragments of a page
    /// are stored; the oldest leaves, and never the page for a fragment. A header that the [`Key`](crate::Key) names is compared
    /// there instead. Behind a [seal](crate::Key::seal), the inner service sees these headers; those that count as present have one
    /// value.
    ///
    /// Fragments are no part of what a purge compares: [`purge_request`](crate::CacheHandle::purge_request) and unsafe methods
    /// purge the page with all of its fragments. Handlers should send `Vary` all the same, for browsers and for caches
    /// downstream ([`guide::fragments`](crate::guide::fragments)).
    ///
    /// # Examples
    ///
    /// ```
    /// // All responses are for pages, whatever header a request has.
    /// let cache = tower_response_cache::CacheLayer::builder().fragments(false).build();
    /// # let _ = cache;
    /// ```
    pub fn fragments(mut self, told_apart: bool) -> Self {
        self.policy.fragments = told_apart;
        self
    }

    /// Gives a stored response a weak `ETag` made of its body, if the inner service sent none. Clients can then revalidate it, and get
    /// a 304 while it has not changed. The first response, which is sent while its body comes in, has none yet. Defaults to no.
    ///
    /// The tag is weak because a compression layer outside the cache sends the same tag with other bytes (RFC 9110 §8.8.1). A weak
    /// tag never matches `If-Range`, so that a client that continues a download by this tag gets the whole body. A service without
    /// compression can choose [`strong_etag_from_body`](Self::strong_etag_from_body).
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().etag_from_body(true).build();
    /// # let _ = cache;
    /// ```
    pub fn etag_from_body(mut self, made: bool) -> Self {
        self.policy.etag_from_body = made.then_some(BodyTag::Weak);
        self
    }

    /// As [`etag_from_body`](Self::etag_from_body), with a strong `ETag`, which `If-Range` can match (RFC 9110 §13.1.5). Only for services
    /// without a layer that compresses outside the cache. Defaults to no; of the two, the one that is called last counts.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().strong_etag_from_body(true).build();
    /// # let _ = cache;
    /// ```
    pub fn strong_etag_from_body(mut self, made: bool) -> Self {
        self.policy.etag_from_body = made.then_some(BodyTag::Strong);
        self
    }

    /// How many variants of a response (`Vary`) are kept side by side; beyond them, the oldest leaves. As many
    /// [fragments](Self::fragments) of a page are kept beside its own variants. Defaults to 12; none is as one.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = tower_response_cache::CacheLayer::builder().max_variants(4).build();
    /// # let _ = cache;
    /// ```
    pub fn max_variants(mut self, variants: usize) -> Self {
        self.policy.max_variants = variants.max(1);
        self
    }
}

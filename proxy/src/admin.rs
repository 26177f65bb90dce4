//! What an operator may do, on an address of its own, with a token.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tower_response_cache::{CacheHandle, Purge, Tag, Tags};

use crate::{
    answers::{Refusal, text},
    proxy::canonical,
    search::url_tag,
    server::{Body, note},
};

/// What a request may bring with it.
const MAX_BODY_BYTES: usize = 16 << 10;
/// In a second: many for an operator, few for somebody who guesses.
const MAX_REQUESTS: u32 = 100;

const PATHS: &str = "\
POST /purge/tags?tag=a&tag=b[&soft]
POST /purge/url?url=URL[&soft], or the URL as the body
POST /purge/all[?soft]
GET /stats
GET /explain?url=URL";

/// Purges, and tells what is there.
#[derive(Clone)]
pub(crate) struct Administration {
    handle: CacheHandle,
    token: [u8; 32],
    /// Who guesses uses up no more than the guesses: an operator is let in all the same.
    guessed: Rate,
    asked: Rate,
}

/// How many have asked in this second.
#[derive(Clone)]
struct Rate(Arc<Mutex<(Instant, u32)>>);

impl Rate {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), 0))))
    }

    fn not_too_often(&self) -> Result<(), Refusal> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.0.elapsed() >= Duration::from_secs(1) {
            *asked = (Instant::now(), 0);
        }
        asked.1 = asked.1.saturating_add(1);
        if asked.1 > MAX_REQUESTS {
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "not so fast");
            return Err(refusal.with(header::RETRY_AFTER, "1"));
        }
        Ok(())
    }
}

impl Administration {
    pub(crate) fn new(handle: &CacheHandle, token: &str) -> Self {
        Self {
            handle: handle.clone(),
            token: Sha256::digest(token).into(),
            guessed: Rate::new(),
            asked: Rate::new(),
        }
    }

    /// Answers, and leaves a line of who has asked for what.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Response<Body> {
        let asked = format!("{} {:?}", request.method(), request.uri().to_string());
        let answer = self.let_in(request).await;
        let response = answer.unwrap_or_else(Refusal::into_response);
        let status = response.status().as_u16();
        note(format_args!("administration: {from}: {asked}: {status}"));
        response
    }

    async fn let_in(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        if let Err(refusal) = self.authorized(request.headers()) {
            self.guessed.not_too_often()?;
            return Err(refusal);
        }
        self.asked.not_too_often()?;
        let (parts, body) = request.into_parts();
        let (asked, named) = match parts.uri.path() {
            "/purge/tags" | "/purge/url" | "/purge/all" => (Method::POST, "POST"),
            "/stats" | "/explain" => (Method::GET, "GET"),
            _ => return Err(Refusal::new(StatusCode::NOT_FOUND, PATHS)),
        };
        if parts.method != asked {
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, PATHS);
            return Err(refusal.with(header::ALLOW, named));
        }
        let body = whole(body).await?;
        self.carry_out(&parts, &body).await
    }

    async fn carry_out(&self, parts: &Parts, body: &str) -> Result<Response<Body>, Refusal> {
        let query = Query::of(parts);
        let purges = match parts.uri.path() {
            "/purge/tags" => vec![self.handle.purge(query.tags()?)],
            // Every variant of a page, and every search that was asked there.
            "/purge/url" => {
                let request = query.request(body)?;
                let searches = self.handle.purge(url_tag(&request));
                vec![self.handle.purge_request(&request), searches]
            }
            "/purge/all" => vec![self.handle.purge_all()],
            "/explain" => {
                let layers = self.handle.explain(&query.request(body)?);
                let lines: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
                return Ok(text(StatusCode::OK, lines));
            }
            _ => return Ok(self.stats()),
        };
        for purge in purges {
            let purged = query.harden(purge).await;
            let _ = purged.map_err(|error| {
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            })?;
        }
        Ok(text(StatusCode::OK, "purged\n"))
    }

    /// Whether the request bears the token. How long that takes says nothing of it: what is compared are digests, and all of each.
    fn authorized(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        const SCHEME: &[u8] = b"Bearer ";
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let line = lines.next().filter(|_| lines.next().is_none());
        let line = line.map_or(&b""[..], |line| line.as_bytes());
        let (scheme, token) = line.split_at(line.len().min(SCHEME.len()));
        let digest: [u8; 32] = Sha256::digest(token).into();
        let pairs = digest.iter().zip(&self.token);
        let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
        if difference == 0 && scheme.eq_ignore_ascii_case(SCHEME) {
            return Ok(());
        }
        let refusal = Refusal::new(
            StatusCode::UNAUTHORIZED,
            "only with Authorization: Bearer TOKEN",
        );
        Err(refusal.with(header::WWW_AUTHENTICATE, "Bearer realm=\"administration\""))
    }

    fn stats(&self) -> Response<Body> {
        let stats = self.handle.stats();
        let stats = json!({
            "hits": stats.hits, "stale": stats.stale, "misses": stats.misses, "collapsed": stats.collapsed,
            "bypasses": stats.bypasses, "unavailable": stats.unavailable, "refreshes": stats.refreshes,
            "stored": stats.stored, "purges": stats.purges, "entries": stats.entries, "bytes": stats.bytes,
            "fills": stats.fills, "waiters": stats.waiters,
        });
        text(StatusCode::OK, format!("{stats}\n"))
    }
}

/// The parameters of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        Self(form_urlencoded::parse(query).into_owned().collect())
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    fn tags(&self) -> Result<Tags, Refusal> {
        let tags: Tags = self
            .all("tag")
            .map(|tag| Tag::from(tag.to_owned()))
            .collect();
        if tags.is_empty() {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "which tags? ?tag=a&tag=b",
            ));
        }
        Ok(tags)
    }

    /// A request for the URL of the query, or else of the body, as the cache sees it.
    fn request(&self, body: &str) -> Result<Parts, Refusal> {
        let url = self.all("url").next().unwrap_or(body).trim();
        let parts = url.parse::<Uri>().ok().map(Uri::into_parts);
        let (host, path) = parts.map_or((None, None), |url| (url.authority, url.path_and_query));
        let host = host.and_then(|host| canonical(host.as_str().as_bytes()));
        let (Some(host), Some(path)) = (host, path) else {
            let why = "which URL? as clients have it: http://HOST:PORT/PATH";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
        };
        let mut request = Request::new(());
        *request.uri_mut() = path.into();
        request.headers_mut().insert(header::HOST, host);
        Ok(request.into_parts().0)
    }

    /// With `soft`, what is purged is stale, instead of gone.
    fn harden(&self, purge: Purge) -> Purge {
        let is_soft = self.all("soft").next().is_some();
        if is_soft { purge.soft() } else { purge }
    }
}

async fn whole(body: Incoming) -> Result<String, Refusal> {
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "this body is too long"),
        None => Refusal::new(StatusCode::BAD_REQUEST, "this body has no end"),
    })?;
    let body = String::from_utf8(body.to_bytes().into());
    body.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "this body is no text"))
}

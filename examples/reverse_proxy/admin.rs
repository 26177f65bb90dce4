//! What an operator may do, on an address of its own, with a token.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tower_response_cache::{CacheHandle, PurgeError, Tag, Tags};

use crate::{
    proxy::{canonical, text_response},
    search::url_tag,
    server::Body,
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
GET /explain?url=URL
";

/// Purges, and tells what is there.
#[derive(Clone)]
pub(crate) struct Administration {
    handle: CacheHandle,
    token: [u8; 32],
    /// How many have asked since when.
    asked: Arc<Mutex<(Instant, u32)>>,
}

type Answer = Result<Response<Body>, Response<Body>>;

impl Administration {
    pub(crate) fn new(handle: &CacheHandle, token: &str) -> Self {
        Self {
            handle: handle.clone(),
            token: Sha256::digest(token).into(),
            asked: Arc::new(Mutex::new((Instant::now(), 0))),
        }
    }

    /// Answers, and leaves a line of who has asked for what.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Response<Body> {
        let asked = format!("{} {:?}", request.method(), request.uri().to_string());
        let (Ok(response) | Err(response)) = self.allowed(request).await;
        let status = response.status().as_u16();
        eprintln!("administration: {from}: {asked}: {status}");
        response
    }

    async fn allowed(&self, request: Request<Incoming>) -> Answer {
        self.not_too_often()?;
        self.authorized(request.headers())?;
        let (parts, body) = request.into_parts();
        let asked = match parts.uri.path() {
            "/purge/tags" | "/purge/url" | "/purge/all" => Method::POST,
            "/stats" | "/explain" => Method::GET,
            _ => return Err(text_response(StatusCode::NOT_FOUND, PATHS.to_owned())),
        };
        if parts.method != asked {
            let refusal = said(StatusCode::METHOD_NOT_ALLOWED, "by another method\n");
            return Err(with(refusal, header::ALLOW, asked.as_str()));
        }
        let body = whole(body).await?;
        let query = Query::of(&parts);
        match parts.uri.path() {
            "/purge/tags" => self.purge_tags(&query).await,
            "/purge/url" => self.purge_url(&query, &body).await,
            "/purge/all" => self.purge_all(&query).await,
            "/stats" => Ok(self.stats()),
            _ => {
                let layers = self.handle.explain(&query.request(&body)?);
                let text = layers.iter().map(|layer| format!("{layer}\n")).collect();
                Ok(text_response(StatusCode::OK, text))
            }
        }
    }

    fn not_too_often(&self) -> Result<(), Response<Body>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.0.elapsed() >= Duration::from_secs(1) {
            *asked = (Instant::now(), 0);
        }
        asked.1 = asked.1.saturating_add(1);
        if asked.1 > MAX_REQUESTS {
            let refusal = said(StatusCode::TOO_MANY_REQUESTS, "not so fast\n");
            return Err(with(refusal, header::RETRY_AFTER, "1"));
        }
        Ok(())
    }

    /// Whether the request bears the token. How long that takes says nothing of it: what is compared are digests, and all of each.
    fn authorized(&self, headers: &HeaderMap) -> Result<(), Response<Body>> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let line = lines.next().filter(|_| lines.next().is_none());
        let line = line.map_or(&b""[..], |line| line.as_bytes());
        let (scheme, token) = line.split_at(line.len().min(b"Bearer ".len()));
        let digest: [u8; 32] = Sha256::digest(token).into();
        let pairs = digest.iter().zip(&self.token);
        let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
        if difference == 0 && scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Ok(());
        }
        let refusal = said(
            StatusCode::UNAUTHORIZED,
            "say: Authorization: Bearer TOKEN\n",
        );
        Err(with(
            refusal,
            header::WWW_AUTHENTICATE,
            "Bearer realm=\"administration\"",
        ))
    }

    async fn purge_tags(&self, query: &Query) -> Answer {
        let tags: Tags = query
            .all("tag")
            .map(|tag| Tag::from(tag.to_owned()))
            .collect();
        if tags.is_empty() {
            return Err(said(StatusCode::BAD_REQUEST, "which tags? ?tag=a&tag=b\n"));
        }
        let purge = self.handle.purge(tags);
        purged(if query.is_soft() { purge.soft() } else { purge }.await)
    }

    /// Every variant of the page, and every search that was asked there.
    async fn purge_url(&self, query: &Query, body: &str) -> Answer {
        let request = query.request(body)?;
        let purges = [
            self.handle.purge_request(&request),
            self.handle.purge(url_tag(&request)),
        ];
        for purge in purges {
            purged(if query.is_soft() { purge.soft() } else { purge }.await)?;
        }
        Ok(said(StatusCode::OK, "purged\n"))
    }

    async fn purge_all(&self, query: &Query) -> Answer {
        let purge = self.handle.purge_all();
        purged(if query.is_soft() { purge.soft() } else { purge }.await)
    }

    fn stats(&self) -> Response<Body> {
        let stats = self.handle.stats();
        let stats = json!({
            "hits": stats.hits, "stale": stats.stale, "misses": stats.misses, "collapsed": stats.collapsed,
            "bypasses": stats.bypasses, "unavailable": stats.unavailable, "refreshes": stats.refreshes,
            "stored": stats.stored, "purges": stats.purges, "entries": stats.entries, "bytes": stats.bytes,
            "fills": stats.fills, "waiters": stats.waiters,
        });
        let response = text_response(StatusCode::OK, format!("{stats}\n"));
        with(response, header::CONTENT_TYPE, "application/json")
    }
}

/// The parameters of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Whether what is purged may still be served as stale.
    fn is_soft(&self) -> bool {
        self.all("soft").next().is_some()
    }

    /// A request for the URL of the query, or else of the body, as the cache sees it.
    fn request(&self, body: &str) -> Result<Parts, Response<Body>> {
        let url = self.all("url").next().unwrap_or(body).trim();
        let unclear = || {
            said(
                StatusCode::BAD_REQUEST,
                "which URL? as clients have it: http://HOST:PORT/PATH\n",
            )
        };
        let url: Uri = url.parse().map_err(|_| unclear())?;
        let host = url
            .authority()
            .and_then(|host| canonical(host.as_str().as_bytes()));
        let host = host.ok_or_else(unclear)?;
        let path = url.path_and_query().cloned().ok_or_else(unclear)?;
        let mut request = Request::new(());
        *request.uri_mut() = path.into();
        request.headers_mut().insert(header::HOST, host);
        Ok(request.into_parts().0)
    }
}

async fn whole(body: Incoming) -> Result<String, Response<Body>> {
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| {
        let is_long = error.downcast_ref::<LengthLimitError>().is_some();
        let status = if is_long {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        said(status, "the body is too long, or has no end\n")
    })?;
    let text = String::from_utf8(body.to_bytes().into());
    text.map_err(|_| said(StatusCode::BAD_REQUEST, "the body is no text\n"))
}

fn purged<T>(purged: Result<T, PurgeError>) -> Answer {
    match purged {
        Ok(_) => Ok(said(StatusCode::OK, "purged\n")),
        Err(error) => Err(text_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{error}\n"),
        )),
    }
}

fn said(status: StatusCode, why: &str) -> Response<Body> {
    text_response(status, why.to_owned())
}

fn with(mut response: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

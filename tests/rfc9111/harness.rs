//! A row of a table: what is asked of a cache, what the origin says if it is asked, and what must come of it.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, request};
use http_body::Body as _;
use http_body_util::BodyExt;
use sfv::{BareItem, List, ListEntry, Parser};
use tokio::time::{advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_response_cache::{CacheLayer, CacheLayerBuilder, Decision, Forward, Reason};

use crate::common::{Answer, Body, boxed, empty, full, settle, streamed, within};

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Requests and responses: `CacheLayer::rfc9111()`.
    Book,
    /// The layer, which lets everything live for a minute.
    Policy,
}

impl Mode {
    pub(crate) fn builder(self) -> CacheLayerBuilder {
        match self {
            Self::Book => CacheLayer::builder().rfc9111(),
            Self::Policy => CacheLayer::builder().ttl(MINUTE),
        }
    }
}

/// The lifetime that a policy of the tests gives to everything.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// A time long ago.
pub(crate) const LONG_AGO: &str = "Tue, 15 Nov 1994 12:45:26 GMT";

/// A cache with its origin, as a client sees it.
pub(crate) type Edge = BoxCloneSyncService<Request<Body>, Response<Body>, Unreachable>;

/// The origin could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreachable;

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the origin cannot be reached")
    }
}

impl Error for Unreachable {}

/// A cache of this mode, with what the row chooses otherwise.
pub(crate) fn edge<S>(layer: &CacheLayer, origin: S) -> Edge
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Unreachable>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let (layer, cached) = (layer.clone(), layer.layer(origin));
    BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
        let (parts, body) = request.into_parts();
        // A body is not read by this key.
        let decision = body.is_end_stream().then(|| layer.explain(&parts).decision);
        let answered = cached.clone().oneshot(Request::from_parts(parts, body));
        async move {
            let mut response = answered.await?.map(boxed);
            if let Some(decision) = decision {
                response.extensions_mut().insert(Explained(decision));
            }
            Ok(response)
        }
    }))
}

/// What was said of a request before it was answered.
#[derive(Debug, Clone, Copy)]
struct Explained(Decision);

/// Whether what was said is what was done.
fn as_explained(answer: &Answer) -> Result<(), String> {
    let Some(Explained(decision)) = answer.parts.extensions.get() else {
        return Ok(());
    };
    let done = answer.cache();
    let right = match decision {
        Decision::Hit(left) => done.is_hit() && done.ttl() == Some(*left),
        Decision::Stale(reason) => done.is_stale() && done.reason() == Some(*reason),
        // If that fails, what is stale may be served.
        Decision::Fetch(forward) => done.forward() == Some(*forward) || done.is_stale(),
        Decision::SideBySide(_) => done.forward().is_some() || done.is_stale(),
        // It goes by, and its answer may be stored for those who get.
        Decision::Bypass(Reason::Method) => done.forward() == Some(Forward::Method),
        Decision::Bypass(reason) => done.reason() == Some(*reason) || done.is_stale(),
        Decision::Unavailable(reason) => done.is_unavailable() && done.reason() == Some(*reason),
        _ => true,
    };
    expect(right, || {
        format!("explained as {decision:?}, and done {done:?}")
    })
}

// ---- what the origin says

/// What a body of the origin is like.
#[derive(Debug, Clone)]
enum Content {
    Whole(Bytes),
    /// Its length is not told; trailers follow.
    Chunked(Bytes, Option<(&'static str, &'static str)>),
    /// It breaks after this.
    Broken(Bytes),
}

/// What the origin says. In values, `{now-60}` is the date a minute ago.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    content: Content,
    takes: Duration,
    fails: Option<Fails>,
}

#[derive(Debug, Clone, Copy)]
enum Fails {
    Unreachable,
    Panics,
}

/// A 200 with this body.
pub(crate) fn reply(body: &str) -> Reply {
    Reply {
        status: 200,
        headers: Vec::new(),
        content: Content::Whole(Bytes::copy_from_slice(body.as_bytes())),
        takes: Duration::ZERO,
        fails: None,
    }
}

/// The same, which lives for a minute, whoever decides.
pub(crate) fn fresh(body: &str) -> Reply {
    reply(body).cc("max-age=60")
}

/// The same, which lives for ten seconds.
pub(crate) fn short(body: &str) -> Reply {
    reply(body).cc("s-maxage=10")
}

/// The same, with this text as its tag.
pub(crate) fn tagged(body: &str) -> Reply {
    short(body).etag(&format!("\"{body}\""))
}

pub(crate) fn not_modified() -> Reply {
    reply("").status(304)
}

pub(crate) fn unreachable() -> Reply {
    Reply {
        fails: Some(Fails::Unreachable),
        ..reply("")
    }
}

pub(crate) fn panics() -> Reply {
    Reply {
        fails: Some(Fails::Panics),
        ..reply("")
    }
}

impl Reply {
    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn has(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn cc(self, value: &str) -> Self {
        self.has("cache-control", value)
    }

    pub(crate) fn etag(self, value: &str) -> Self {
        self.has("etag", value)
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.content = Content::Chunked(self.text(), None);
        self
    }

    pub(crate) fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        self.content = Content::Chunked(self.text(), Some((name, value)));
        self
    }

    pub(crate) fn broken(mut self) -> Self {
        self.content = Content::Broken(self.text());
        self
    }

    /// For how many seconds one waits for it.
    pub(crate) fn takes(mut self, seconds: u64) -> Self {
        self.takes = Duration::from_secs(seconds);
        self
    }

    fn text(&self) -> Bytes {
        match &self.content {
            Content::Whole(text) | Content::Chunked(text, _) | Content::Broken(text) => {
                text.clone()
            }
        }
    }

    /// Whether it answers a request for the whole, so that its client must get it as it is.
    fn is_plain(&self) -> bool {
        self.fails.is_none() && self.status != 304 && !matches!(self.content, Content::Broken(_))
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let body = match &self.content {
            Content::Whole(text) if text.is_empty() => empty(),
            Content::Whole(text) => full(text.clone()),
            Content::Chunked(text, trailer) => {
                let (chunks, body) = streamed();
                chunks.send(text.clone());
                if let Some((name, value)) = trailer {
                    let mut trailers = HeaderMap::new();
                    trailers.insert(*name, HeaderValue::from_static(value));
                    chunks.trailers(trailers);
                }
                body
            }
            Content::Broken(text) => {
                let (chunks, body) = streamed();
                chunks.send(text.clone());
                chunks.fail("it breaks");
                body
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        append(response.headers_mut(), &self.headers);
        response
    }
}

/// What an origin says that heeds a request's conditions: this, or that it has not changed.
pub(crate) fn or_not_modified(seen: &Seen, says: &Reply) -> Reply {
    let field = |name| {
        let known = says.headers.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.as_str())
    };
    let unchanged = match (seen.header("if-none-match"), field("etag")) {
        (Some(listed), Some(etag)) => {
            let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
            listed == "*" || listed.split(',').any(|tag| opaque(tag) == opaque(etag))
        }
        (Some(listed), None) => listed == "*",
        (None, _) => {
            let since = seen.header("if-modified-since");
            since.is_some() && since.as_deref() == field("last-modified")
        }
    };
    if unchanged {
        Reply {
            status: 304,
            content: Content::Whole(Bytes::new()),
            ..says.clone()
        }
    } else {
        says.clone()
    }
}

fn append(headers: &mut HeaderMap, lines: &[(String, String)]) {
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let value = HeaderValue::from_bytes(dated(value).as_bytes()).unwrap();
        headers.append(name, value);
    }
}

/// The date so many seconds from now.
pub(crate) fn date(seconds: i64) -> String {
    let now = SystemTime::now();
    let by = Duration::from_secs(seconds.unsigned_abs());
    httpdate::fmt_http_date(if seconds < 0 { now - by } else { now + by })
}

/// With dates in place of `{now}`, `{now-60}` and `{now+60}`.
fn dated(value: &str) -> String {
    let Some((before, rest)) = value.split_once("{now") else {
        return value.to_owned();
    };
    let (offset, after) = rest.split_once('}').unwrap();
    let seconds = match offset {
        "" => 0,
        offset => offset.parse().unwrap(),
    };
    format!("{before}{}{after}", date(seconds))
}

// ---- the origin

/// A request that has reached the origin.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) parts: request::Parts,
    pub(crate) body: Bytes,
}

impl Seen {
    /// The lines of a header, joined; `None` if there is none.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        joined(&self.parts.headers, name)
    }
}

fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned())
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

type Says = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// An origin that says what stands in a row, and remembers what it was asked.
#[derive(Clone, Default)]
pub(crate) struct Origin(Arc<Mutex<Played>>);

#[derive(Default)]
struct Played {
    says: VecDeque<Says>,
    /// What it says when nothing is left.
    ever: Option<Says>,
    seen: Vec<Seen>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origin")
    }
}

/// The body of an answer for which the row has no place.
const UNFORESEEN: &str = "unforeseen";

impl Origin {
    async fn answer<B>(self, request: Request<B>) -> Result<Response<Body>, Unreachable>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: fmt::Debug,
    {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let seen = Seen { parts, body };
        let says = {
            let mut played = self.0.lock().unwrap();
            played.seen.push(seen.clone());
            played.says.pop_front().or_else(|| played.ever.clone())
        };
        let reply = match says {
            Some(says) => says(&seen),
            None => reply(UNFORESEEN).cc("no-store"),
        };
        if !reply.takes.is_zero() {
            sleep(reply.takes).await;
        }
        match reply.fails {
            None => Ok(reply.response()),
            Some(Fails::Unreachable) => Err(Unreachable),
            Some(Fails::Panics) => std::panic::resume_unwind(Box::new("the handler panicked")),
        }
    }

    fn prepare(&self, says: VecDeque<Says>, ever: Option<Says>) {
        *self.0.lock().unwrap() = Played {
            says,
            ever,
            seen: Vec::new(),
        };
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().seen.clone()
    }
}

impl<B> Service<Request<B>> for Origin
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Debug,
{
    type Response = Response<Body>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

// ---- one exchange

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) answer: Result<Answer, String>,
    /// What of it has reached the origin.
    pub(crate) seen: Vec<Seen>,
}

impl Outcome {
    pub(crate) fn answer(&self) -> Result<&Answer, String> {
        self.answer.as_ref().map_err(Clone::clone)
    }

    /// A header of the answer, its lines joined.
    pub(crate) fn shown(&self, name: &str) -> Result<Option<String>, String> {
        Ok(joined(&self.answer()?.parts.headers, name))
    }
}

type Check = Box<dyn Fn(&Outcome) -> Result<(), String> + Send>;

/// A request, what the origin says if it is asked, and what must come of it.
pub(crate) struct Ask {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
    body: &'static str,
    says: VecDeque<Says>,
    ever: Option<Says>,
    status: Option<u16>,
    text: Option<String>,
    checks: Vec<Check>,
}

pub(crate) fn ask(method: &str, uri: &str) -> Ask {
    Ask {
        method: method.to_owned(),
        uri: uri.to_owned(),
        headers: vec![("host".to_owned(), "shop.example".to_owned())],
        body: "",
        says: VecDeque::new(),
        ever: None,
        status: None,
        text: None,
        checks: Vec::new(),
    }
}

pub(crate) fn get() -> Ask {
    ask("GET", "/")
}

pub(crate) fn head() -> Ask {
    ask("HEAD", "/")
}

impl Ask {
    /// The request has this header.
    pub(crate) fn has(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The request is for another host.
    pub(crate) fn at(mut self, host: &str) -> Self {
        self.headers[0].1 = host.to_owned();
        self
    }

    pub(crate) fn cc(self, value: &str) -> Self {
        self.has("cache-control", value)
    }

    pub(crate) fn body(mut self, body: &'static str) -> Self {
        self.body = body;
        self
    }

    /// The origin is asked, and says this, which is what the client gets.
    pub(crate) fn origin(mut self, says: Reply) -> Self {
        if says.is_plain() {
            self.status = Some(says.status);
            let text = if self.method == "HEAD" {
                Bytes::new()
            } else {
                says.text()
            };
            self.text = Some(String::from_utf8(text.to_vec()).unwrap());
        }
        self.behind(says)
    }

    /// The origin is asked, and says this; the client gets something else.
    pub(crate) fn behind(self, says: Reply) -> Self {
        self.origin_by(move |_| says.clone())
    }

    /// The origin is asked, and says what it makes of the request.
    pub(crate) fn origin_by<F>(mut self, says: F) -> Self
    where
        F: Fn(&Seen) -> Reply + Send + Sync + 'static,
    {
        self.says.push_back(Arc::new(says));
        self
    }

    /// The origin may be asked, once or more, or not.
    pub(crate) fn maybe<F>(mut self, says: F) -> Self
    where
        F: Fn(&Seen) -> Reply + Send + Sync + 'static,
    {
        self.ever = Some(Arc::new(says));
        self
    }

    /// It is answered from the store with this body.
    pub(crate) fn hit(mut self, text: &str) -> Self {
        if self.status.is_none() {
            self.status = Some(200);
        }
        self.text(text).said("hit")
    }

    /// The client gets this status, whatever the origin said.
    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        if matches!(status, 304 | 416 | 412 | 504) {
            self.text = None;
        }
        self
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.text = Some(text.to_owned());
        self
    }

    pub(crate) fn check<F>(mut self, check: F) -> Self
    where
        F: Fn(&Outcome) -> Result<(), String> + Send + 'static,
    {
        self.checks.push(Box::new(check));
        self
    }

    /// The answer has this header, its lines joined.
    pub(crate) fn shows(self, name: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.check(move |outcome| {
            let shown = outcome.shown(name)?;
            let right = shown.as_deref() == Some(&*value);
            expect(right, || format!("{name}: {value}, not {shown:?}"))
        })
    }

    pub(crate) fn lacks(self, name: &'static str) -> Self {
        self.check(move |outcome| {
            let shown = outcome.shown(name)?;
            expect(shown.is_none(), || format!("no {name}, not {shown:?}"))
        })
    }

    /// The answer is so many seconds old; one more is the clock's.
    pub(crate) fn age(self, seconds: u64) -> Self {
        self.check(move |outcome| {
            let shown = outcome.shown("age")?;
            let age = shown.as_ref().and_then(|age| age.parse().ok());
            let right = age.is_some_and(|age: u64| (seconds..=seconds + 1).contains(&age));
            expect(right, || format!("age: {seconds}, not {shown:?}"))
        })
    }

    /// `Cache-Status` has this parameter of ours.
    pub(crate) fn said(self, parameter: &'static str) -> Self {
        self.check(move |outcome| {
            let told = told(outcome.answer()?)?;
            let right = told.iter().flatten().any(|known| known == parameter);
            expect(right, || format!("{parameter}, not {told:?}"))
        })
    }

    pub(crate) fn unsaid(self, parameter: &'static str) -> Self {
        self.check(move |outcome| {
            let told = told(outcome.answer()?)?;
            let right = !told.iter().flatten().any(|known| known == parameter);
            expect(right, || format!("not {parameter} in {told:?}"))
        })
    }

    /// The origin has seen this header.
    pub(crate) fn sees(self, name: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.check(move |outcome| {
            let seen: Vec<_> = outcome.seen.iter().map(|seen| seen.header(name)).collect();
            let right = seen.iter().any(|seen| seen.as_deref() == Some(&*value));
            expect(right, || {
                format!("the origin sees {name}: {value}, not {seen:?}")
            })
        })
    }

    /// The origin has not seen such a header.
    pub(crate) fn unseen(self, name: &'static str) -> Self {
        self.check(move |outcome| {
            let seen: Vec<_> = outcome.seen.iter().map(|seen| seen.header(name)).collect();
            let right = seen.iter().all(Option::is_none);
            expect(right, || format!("the origin sees no {name}, not {seen:?}"))
        })
    }

    /// The origin is asked whether this has changed.
    pub(crate) fn conditional(self, etag: &str) -> Self {
        self.sees("if-none-match", etag)
    }

    /// The origin is asked for the whole.
    pub(crate) fn unconditional(self) -> Self {
        self.unseen("if-none-match")
            .unseen("if-modified-since")
            .unseen("if-match")
            .unseen("if-unmodified-since")
    }

    /// The client gets the origin's failure.
    pub(crate) fn fails(self) -> Self {
        self.check(|outcome| {
            let failed = outcome.answer.is_err();
            expect(failed, || format!("a failure, not {:?}", outcome.answer))
        })
    }

    fn request(&self) -> Request<Body> {
        let body = match self.body {
            "" => empty(),
            text => full(text),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.parse().unwrap();
        *request.uri_mut() = self.uri.parse().unwrap();
        append(request.headers_mut(), &self.headers);
        request
    }

    async fn play(self, edge: &Edge, origin: &Origin) -> Result<(), String> {
        let foreseen = self.says.len();
        origin.prepare(self.says.clone(), self.ever.clone());
        let answer = sent(edge, self.request()).await;
        settle().await;
        let seen = origin.seen();
        let outcome = Outcome { answer, seen };
        let calls = outcome.seen.len();
        let told = outcome.answer.as_ref().map(brief);
        if self.ever.is_none() {
            expect(calls == foreseen, || {
                let asked = outcome.seen.iter().map(|seen| &seen.parts.headers);
                let asked: Vec<_> = asked.collect();
                format!("{foreseen} calls of the origin, not {calls}: {told:?}, asked {asked:?}")
            })?;
        }
        if let Some(status) = self.status {
            let answer = outcome.answer()?;
            let right = answer.parts.status.as_u16() == status;
            expect(right, || format!("status {status}, not {told:?}"))?;
        }
        if let Some(text) = &self.text {
            let right = outcome.answer()?.body == text.as_bytes();
            expect(right, || format!("body {text:?}, not {told:?}"))?;
        }
        for check in &self.checks {
            check(&outcome)?;
        }
        outcome.answer.as_ref().map_or(Ok(()), |answer| {
            as_explained(answer)?;
            well_formed(&self.method, answer)
        })
    }
}

/// Sends a request, and reads the answer to its end.
pub(crate) async fn sent(edge: &Edge, request: Request<Body>) -> Result<Answer, String> {
    let call = edge.clone().oneshot(request);
    let response = tokio::spawn(async { within(call).await });
    let response = response.await.map_err(|_| "it panics".to_owned())?;
    let response = response.map_err(|error| error.to_string())?;
    let (parts, body) = response.into_parts();
    match within(body.collect()).await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            let body = collected.to_bytes();
            Ok(Answer {
                parts,
                body,
                trailers,
            })
        }
        Err(error) => Err(format!("the body breaks: {error}")),
    }
}

fn expect(right: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(what()) }
}

fn brief(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let status = joined(&answer.parts.headers, "cache-status");
    format!(
        "{} {body:?} [{}]",
        answer.parts.status,
        status.unwrap_or_default()
    )
}

// ---- what holds of every answer

/// The parameters of our member of `Cache-Status`, one as `fwd=stale`; `None` if there is no member of ours.
pub(crate) fn told(answer: &Answer) -> Result<Option<Vec<String>>, String> {
    let mut members = members(answer)?;
    let ours = |name: &String| name == "tower-response-cache" || name.starts_with("ours");
    Ok(members
        .pop()
        .filter(|(name, _)| ours(name))
        .map(|(_, parameters)| parameters))
}

type Member = (String, Vec<String>);

/// All members of `Cache-Status`, as structured fields have it (RFC 9211 §2).
pub(crate) fn members(answer: &Answer) -> Result<Vec<Member>, String> {
    let Some(lines) = joined(&answer.parts.headers, "cache-status") else {
        return Ok(Vec::new());
    };
    let unread = |error| format!("{lines:?} is no list: {error}");
    let list: List = Parser::new(&lines).parse().map_err(unread)?;
    let member = |entry: &ListEntry| match entry {
        ListEntry::InnerList(_) => Err(format!("{lines:?} has a list in it")),
        ListEntry::Item(item) => {
            let name = match &item.bare_item {
                BareItem::Token(name) => name.as_str().to_owned(),
                BareItem::String(name) => name.as_str().to_owned(),
                other => return Err(format!("{other:?} is no name")),
            };
            let parameters = item.params.iter().map(|(name, value)| match value {
                BareItem::Boolean(true) => name.as_str().to_owned(),
                BareItem::Boolean(false) => format!("{name}=?0"),
                BareItem::Token(token) => format!("{name}={token}"),
                BareItem::Integer(number) => format!("{name}={number}"),
                BareItem::String(text) => format!("{name}={:?}", text.as_str()),
                other => format!("{name}={other:?}"),
            });
            Ok((name, parameters.collect()))
        }
    };
    list.iter().map(member).collect()
}

const HOP_BY_HOP: [&str; 6] = [
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "proxy-authenticate",
    "proxy-authentication-info",
];

fn well_formed(method: &str, answer: &Answer) -> Result<(), String> {
    let headers = &answer.parts.headers;
    let status = answer.parts.status;
    let told = told(answer)?;
    let from_store = told.iter().flatten().any(|known| known == "hit");
    if let Some(told) = &told {
        let named = |name: &str| {
            told.iter()
                .filter(|p| p.split('=').next() == Some(name))
                .count()
        };
        let one = named("hit") + named("fwd") == 1;
        expect(one, || format!("14.1 one of hit and fwd, not {told:?}"))?;
    }
    expect(!headers.contains_key("warning"), || {
        "9.8 a Warning".to_owned()
    })?;
    let bodiless = method == "HEAD" || status == 304 || status == 204;
    expect(!bodiless || answer.body.is_empty(), || {
        "11.3 a body".to_owned()
    })?;
    if !from_store {
        return Ok(());
    }
    let ages = headers.get_all("age").iter().count();
    expect(ages == 1, || format!("4.2 {ages} lines of Age in a hit"))?;
    let hop = HOP_BY_HOP.iter().find(|name| headers.contains_key(**name));
    expect(hop.is_none(), || format!("11.1 {hop:?} in a hit"))?;
    let length = joined(headers, "content-length");
    let whole = bodiless || length.is_none_or(|length| length == answer.body.len().to_string());
    expect(whole, || "11.2 Content-Length is not the body's".to_owned())
}

// ---- rows

enum Step {
    Ask(Box<Ask>),
    After(Duration),
}

type Make = Box<dyn Fn(Mode, Origin) -> Edge + Send>;

/// A rule at work: exchanges with a cache that has nothing stored at first.
pub(crate) struct Row {
    name: String,
    modes: &'static [Mode],
    make: Make,
    steps: Vec<Step>,
}

/// A row that holds in both modes.
pub(crate) fn row(name: impl Into<String>) -> Row {
    Row {
        name: name.into(),
        modes: &[Mode::Book, Mode::Policy],
        make: Box::new(|mode, origin| edge(&mode.builder().build(), origin)),
        steps: Vec::new(),
    }
}

/// A row of the standards mode.
pub(crate) fn book(name: impl Into<String>) -> Row {
    Row {
        modes: &[Mode::Book],
        ..row(name)
    }
}

/// A row of the mode in which the layer decides.
pub(crate) fn policy(name: impl Into<String>) -> Row {
    Row {
        modes: &[Mode::Policy],
        ..row(name)
    }
}

impl Row {
    /// The layer is chosen otherwise.
    pub(crate) fn with(mut self, tuned: fn(CacheLayerBuilder) -> CacheLayerBuilder) -> Self {
        self.make = Box::new(move |mode, origin| edge(&tuned(mode.builder()).build(), origin));
        self
    }

    /// The origin is served so.
    pub(crate) fn served(mut self, make: fn(Mode, Origin) -> Edge) -> Self {
        self.make = Box::new(make);
        self
    }

    pub(crate) fn ask(mut self, ask: Ask) -> Self {
        self.steps.push(Step::Ask(Box::new(ask)));
        self
    }

    pub(crate) fn after(mut self, seconds: u64) -> Self {
        self.steps.push(Step::After(Duration::from_secs(seconds)));
        self
    }

    /// The origin says this, and it is stored: who asks next gets it.
    pub(crate) fn stores(self, says: &Reply) -> Self {
        let text = String::from_utf8(says.text().to_vec()).unwrap();
        let status = says.status;
        self.ask(get().origin(says.clone()))
            .ask(get().status(status).hit(&text))
    }

    /// The origin says this, and it is not reused without asking: who asks next gets what it says then.
    pub(crate) fn refuses(self, says: &Reply) -> Self {
        self.ask(get().origin(says.clone()))
            .ask(get().origin(reply("again").cc("no-store")))
    }

    /// As `refuses`, and the origin is asked for the whole: nothing is left of it.
    pub(crate) fn forgets(self, says: &Reply) -> Self {
        self.ask(get().origin(says.clone()))
            .ask(get().origin(reply("again").cc("no-store")).unconditional())
    }

    /// The origin says this, and it is fresh for so many seconds.
    pub(crate) fn lives(self, says: &Reply, seconds: u64) -> Self {
        let text = String::from_utf8(says.text().to_vec()).unwrap();
        self.stores(says)
            .after(seconds - 1)
            .ask(get().status(says.status).hit(&text))
            .after(1)
            .ask(get().origin(reply("again").cc("no-store")))
    }

    /// As `lives`, where dates of whole seconds count: it may be two seconds less.
    pub(crate) fn lives_about(self, says: &Reply, seconds: u64) -> Self {
        let text = String::from_utf8(says.text().to_vec()).unwrap();
        self.stores(says)
            .after(seconds - 3)
            .ask(get().status(says.status).hit(&text))
            .after(3)
            .ask(get().origin(reply("again").cc("no-store")))
    }

    async fn play(self, mode: Mode, edge: Edge, origin: Origin) -> Result<(), String> {
        for (number, step) in self.steps.into_iter().enumerate() {
            match step {
                Step::After(time) => {
                    advance(time).await;
                    settle().await;
                }
                Step::Ask(ask) => {
                    let what = format!("{} {}", ask.method, ask.uri);
                    let played = ask.play(&edge, &origin).await;
                    let at = |wrong| {
                        let name = &self.name;
                        format!("{name} [{mode:?}], step {} ({what}): {wrong}", number + 1)
                    };
                    played.map_err(at)?;
                }
            }
        }
        Ok(())
    }
}

/// Plays rows, each in each of its modes, made anew. All that is wrong is told at the end.
pub(crate) async fn play(rows: impl Fn() -> Vec<Row>) {
    let mut wrong = Vec::new();
    let mut played = 0;
    for (number, row) in rows().iter().enumerate() {
        for mode in row.modes {
            let row = rows().swap_remove(number);
            let name = format!("{} [{mode:?}]", row.name);
            let origin = Origin::default();
            let edge = (row.make)(*mode, origin.clone());
            let play = tokio::spawn(row.play(*mode, edge, origin));
            played += 1;
            match play.await {
                Ok(Ok(())) => {}
                Ok(Err(told)) => wrong.push(told),
                Err(error) => wrong.push(format!("{name}: {error}")),
            }
        }
    }
    let told = wrong.join("\n  ");
    assert!(
        wrong.is_empty(),
        "{} of {played} rows:\n  {told}",
        wrong.len()
    );
}

/// Whether an answer was not stored for this reason.
pub(crate) fn because(reason: Reason) -> impl Fn(&Outcome) -> Result<(), String> + Send {
    move |outcome| {
        let answer = outcome.answer()?;
        let right = answer.reason() == Some(reason);
        expect(right, || format!("{reason}, not {}", brief(answer)))
    }
}

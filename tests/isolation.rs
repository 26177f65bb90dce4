//! The isolation fuzzer: whatever is asked, by whomever, nobody is given what was made of what another one said.
//!
//! Three of them ask (Alice, Bob, and one who does not say), through one cache, and say who they are in every way there
//! is. The handler notes all that it is shown, and answers with the number of that note. So of each answer it is known
//! for whom it was made, and of what. What the asker might have been given is told by a model, which is written after
//! the documentation of [`Key`], and shares no code with the crate.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use scale::scaled;

use common::{Body, Origin, Random, boxed, chunked, full, within};
use futures_util::future::join_all;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts, uri,
};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheHandle, CacheLayer, CacheLayerBuilder, CacheStatus, FillMode, Forward, Key, Reason,
    key::{KeyValue, KeyWriter, Normalize},
};

// ---- what is asked

const NAMES: [&str; 2] = ["alice", "bob"];
const NOBODY: usize = 2;

/// What a layer outside the cache knows of who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User(&'static str);

impl KeyValue for User {
    fn write(&self, key: &mut KeyWriter<'_>) {
        key.bytes(self.0.as_bytes());
    }
}

/// The number of a request: the handler tells by it whom it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Serial(usize);

/// Headers that say who asks. `@` stands for the name, `|` for the end of a line, ` / ` for that of a spelling.
const CARRIERS: &str = "
    authorization: Bearer @ / Basic @ / Bearer @|Bearer @
    cookie: sid=@ / lang=de; sid=@ / sid=@;lang=de / lang=en|sid=@ / sid=@|region=eu / sid = @ / sid=@; sid=x / sid=x|sid=@
    proxy-authorization: Basic @
    x-api-key: key-@ / key-@|EMPTY
    x-forwarded-user: @
    remote-user: @
    x-auth-request-email: @@example.org
    x-vault-token: @
    x_auth_token: @
    x-hasura-role: @
    x-consumer-custom-id: @
    dpop: @";

/// What else is said. `~` stands for a byte that is no text.
const SAID: &str = "
    accept-language: de / en / de, en / de|en / EMPTY / ~
    accept-encoding: gzip / br / gzip, br / GZIP / identity / EMPTY / gzip;q=0 / br;q=0.5|gzip / ~ / *;q=0
    user-agent: A / B / ~bot / A|B
    x-device: Phone / phone / PHONE , Tablet / phone,tablet / EMPTY / ~ / a|b
    x-tenant: t1 / t2 / EMPTY / t1|t2
    x-forwarded-for: 10.0.0.1 / 10.0.0.2 / 10.0.0.1|10.0.0.2
    range: bytes=0-0
    if-none-match: \"1\" / *
    cache-control: no-cache / no-store / max-age=0
    accept: text/html / application/json
    x-random: 1 / 2 / EMPTY / 1|2 / ~
    origin: https://a.example / null
    x-request-id: r1 / r2
    traceparent: 00-1-1-01 / 00-2-2-01
    te: trailers
    grpc-timeout: 1S
    x-real-ip: 10.0.0.1 / 10.0.0.2
    cookie: lang=de / lang=en / lang=de; lang=en / lang / EMPTY / ; / ~=1 / lang=de|region=eu / lang=\"d;e\" / lang=d,e
    host: other.example / SHOP.example / shop@example / SHOP@example
    x-forwarded-host: a.example / evil.example / a.example|evil.example / EMPTY
    x-forwarded-proto: http / https
    forwarded: host=a.example / for=10.0.0.1;host=a.example / for=10.0.0.1, host=a.example / for=10.0.0.1|host=a.example
    forwarded: HOST=\"a.example\";Proto=https / for=10.0.0.1 / for=\"[::1]:80\";proto=http / proto=http;by=10.0.0.2
    forwarded: for=\"x\\\"\" / nonsense / for=\"x;host=evil.example\" / for=\"x,host=evil.example\";host=a.example / EMPTY
    forwarded: host=a.example, host=evil.example / host=a.example,for=10.0.0.1 / ,host=a.example / host=\"a;b,c\"
    x-forwarded-port: 443 / 8443
    x-forwarded-server: proxy1 / proxy2
    x-csrf-token: c1 / c2
    hx-request: true / 1
    hx-target: main / main|side / EMPTY / LONG
    turbo-frame: main / side
    x-requested-with: XMLHttpRequest / xmlhttprequest / com.example.app / com.example.app|XMLHttpRequest";

/// What is said seldom.
const SELDOM: &str = "
    x-http-method-override: DELETE
    x-original-url: /plain/1
    upgrade: h2c
    x-scheme: https
    x-original-host: a.example / evil.example
    if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT
    x-forwarded-prefix: /shop
    x-forwarded-scheme: https
    x-forwarded-ssl: on
    x-forwarded-uri: /plain/2
    x-forwarded-path: /plain/2
    x-forwarded-server-port: 8443
    x-forwarded-tls-version: 1.3
    x-host: a.example
    x-script-name: /shop
    x-rewrite-url: /plain/2
    x-up-target: main / side
    x-inertia: true / 1";

const PATHS: &str = "
    /plain/1 /plain/2 /plain/3 /plain/%31 /plain//1 /Plain/1 /public /s-maxage /must-revalidate /private /no-store
    /set-cookie /vary/accept-language /vary/user-agent /vary/cookie /vary/authorization /vary/x-random
    /vary/x-forwarded-for /vary/star /encoded /missing /broken /vary/traceparent
    /now-this-now-that/1 /now-this-now-that/2 /plain/1 /public";

const PIECES: &str = "
    page=1 page=2 sort=a sort=b utm_source=x utm_source=y fbclid=1 q=a+b user=alice user=bob page=1 sort=a page page=
    page[]=3 page[x]=1 p%61ge=1 Page=1 sort=%61 q=a%20b a=1;page=9 x=%zz x=\u{fc} =1 EMPTY %70%61ge%5B%5D=3 page=%26sort=b
    utm%5Fsource=z fbclid[]=1 q=a%2Bb";

/// What stands before the path, with the host line.
const TARGETS: [(&str, &str); 14] = [
    ("", "shop.example"),
    ("", "shop.example"),
    ("", "SHOP.example"),
    ("", "other.example:8080"),
    ("http://shop.example", "shop.example"),
    ("https://shop.example", "shop.example"),
    ("http://SHOP.example", "shop.example"),
    ("http://shop.example", ""),
    ("http://me@shop.example", "shop.example"),
    ("", "shop.example:80"),
    ("", "Shop.example:443"),
    ("http://shop.example:80", "shop.example"),
    ("https://shop.example:80", "shop.example:80"),
    ("https://shop.example:443", "shop.example:443"),
];

const METHODS: [Method; 4] = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];

type Lines = Vec<HeaderValue>;

fn lines(spelling: &str, name: &str) -> Lines {
    let value = |line: &str| {
        let line = line
            .replace("EMPTY", "")
            .replace("LONG", &"x".repeat(65))
            .replacen('@', name, usize::from(!name.is_empty()));
        let bytes = line.bytes().map(|b| if b == b'~' { 0xff } else { b });
        HeaderValue::from_bytes(&bytes.collect::<Vec<_>>()).unwrap()
    };
    spelling.split('|').map(value).collect()
}

type Table = Vec<(HeaderName, Vec<Lines>)>;

fn table(rows: &str, name: &str) -> Table {
    let rows = rows.lines().map(str::trim).filter(|row| !row.is_empty());
    let row = |row: &str| {
        let (header, spellings) = row.split_once(": ").unwrap();
        let spellings = spellings.split(" / ").map(|spelling| lines(spelling, name));
        (header.parse().unwrap(), spellings.collect())
    };
    rows.map(row).collect()
}

/// All that requests are made of.
struct Pools {
    carriers: [Table; 2],
    said: Table,
    seldom: Table,
    paths: Vec<&'static str>,
    pieces: Vec<&'static str>,
}

static POOLS: LazyLock<Pools> = LazyLock::new(|| Pools {
    carriers: NAMES.map(|name| table(CARRIERS, name)),
    said: table(SAID, ""),
    seldom: table(SELDOM, ""),
    paths: PATHS.split_whitespace().collect(),
    pieces: PIECES
        .split_whitespace()
        .map(|piece| if piece == "EMPTY" { "" } else { piece })
        .collect(),
});

/// A request, as far as chance decides on it.
#[derive(Debug, Clone)]
struct Draft {
    method: usize,
    target: usize,
    path: usize,
    query: Option<Vec<usize>>,
    who: usize,
    carriers: Vec<(usize, usize)>,
    user: Option<usize>,
    said: Vec<(usize, usize)>,
    seldom: Option<(usize, usize)>,
    original: usize,
    body: usize,
}

/// One of these, each as likely as its weight.
fn weighted(random: &mut Random, weights: &[usize]) -> usize {
    let mut at = random.below(weights.iter().sum());
    for (index, weight) in weights.iter().enumerate() {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return index,
        }
    }
    unreachable!("it is below the sum")
}

fn spelled(random: &mut Random, table: &Table) -> (usize, usize) {
    let header = random.below(table.len());
    (header, random.below(table[header].1.len()))
}

impl Draft {
    fn new(random: &mut Random) -> Self {
        let mut draft = Self {
            method: 0,
            target: 0,
            path: random.below(POOLS.paths.len()),
            query: None,
            who: NOBODY,
            carriers: Vec::new(),
            user: None,
            said: Vec::new(),
            seldom: None,
            original: 0,
            body: 0,
        };
        for what in 0..11 {
            draft.change(random, what);
        }
        draft
    }

    /// Another, which differs in a little.
    fn like(&self, random: &mut Random) -> Self {
        let mut draft = self.clone();
        for _ in 0..weighted(random, &[3, 4, 2, 1]) {
            let what = random.below(11);
            draft.change(random, what);
        }
        if random.one_in(2) {
            draft.introduce(random);
        }
        draft
    }

    fn change(&mut self, random: &mut Random, what: usize) {
        match what {
            0 => self.method = weighted(random, &[90, 10, 2, 1]),
            1 => self.target = random.below(TARGETS.len()),
            2 if random.one_in(4) => self.path = random.below(POOLS.paths.len()),
            2 | 3 => {
                let pieces = weighted(random, &[4, 3, 2, 1]);
                let pieces = (0..pieces)
                    .map(|_| random.below(POOLS.pieces.len()))
                    .collect();
                self.query = random.one_in(2).then_some(pieces);
            }
            4 => self.introduce(random),
            5 => self.user = (!random.one_in(3)).then(|| random.below(2)),
            6 | 7 => {
                let headers = weighted(random, &[2, 2, 2, 1]);
                self.said = (0..headers).map(|_| spelled(random, &POOLS.said)).collect();
            }
            8 => self.seldom = random.one_in(40).then(|| spelled(random, &POOLS.seldom)),
            9 => self.original = weighted(random, &[6, 2, 1, 1]),
            _ => self.body = if random.one_in(40) { 3 } else { 0 },
        }
    }

    /// The same, asked by somebody, who may say so or not.
    fn introduce(&mut self, random: &mut Random) {
        self.who = weighted(random, &[2, 2, 6]);
        self.carriers.clear();
        if self.who == NOBODY {
            return;
        }
        for _ in 0..weighted(random, &[1, 7, 2]) {
            self.carriers
                .push(spelled(random, &POOLS.carriers[self.who]));
        }
        if random.one_in(2) {
            self.user = Some(self.who);
        }
    }

    fn uri(&self, prefix: &str, other_query: Option<&str>) -> Uri {
        let mut uri = [TARGETS[self.target].0, prefix, POOLS.paths[self.path]].concat();
        let pieces = self
            .query
            .iter()
            .flatten()
            .map(|piece| POOLS.pieces[*piece]);
        let query = self
            .query
            .is_some()
            .then(|| pieces.collect::<Vec<_>>().join("&"));
        if let Some(query) = other_query.or(query.as_deref()) {
            uri.push('?');
            uri.push_str(query);
        }
        uri.parse().unwrap()
    }

    /// What axum's router leaves of the target as it was, before `nest` stripped a prefix or a layer changed the query.
    #[cfg(feature = "axum")]
    fn put_original(&self, request: &mut Request<()>) {
        let original = match self.original {
            1 => self.uri("/nested", None),
            2 => self.uri("/nest", Some("page=1&user=bob")),
            3 => self.uri("", None),
            _ => return,
        };
        request
            .extensions_mut()
            .insert(axum::extract::OriginalUri(original));
    }

    #[cfg(not(feature = "axum"))]
    fn put_original(&self, _: &mut Request<()>) {
        let _ = self.original;
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut add = |(name, spellings): &(HeaderName, Vec<Lines>), spelling: usize| {
            for line in &spellings[spelling] {
                headers.append(name.clone(), line.clone());
            }
        };
        for (header, spelling) in &self.said {
            add(&POOLS.said[*header], *spelling);
        }
        for (header, spelling) in &self.carriers {
            add(&POOLS.carriers[self.who][*header], *spelling);
        }
        if let Some((header, spelling)) = &self.seldom {
            add(&POOLS.seldom[*header], *spelling);
        }
        let host = TARGETS[self.target].1;
        if !host.is_empty() {
            headers.append(header::HOST, HeaderValue::from_static(host));
        }
        headers
    }

    fn into_asker(self, serial: usize) -> Asker {
        let mut request = Request::new(());
        *request.method_mut() = METHODS[self.method].clone();
        *request.uri_mut() = self.uri("", None);
        *request.headers_mut() = self.headers();
        request.extensions_mut().insert(Serial(serial));
        self.put_original(&mut request);
        if let Some(user) = self.user {
            request.extensions_mut().insert(User(NAMES[user]));
        }
        Asker {
            serial,
            who: self.who,
            parts: request.into_parts().0,
            body: self.body,
        }
    }
}

/// A request, as it came to the cache.
#[derive(Debug)]
struct Asker {
    serial: usize,
    who: usize,
    parts: Parts,
    body: usize,
}

impl Asker {
    fn request(&self) -> Request<Body> {
        let body = boxed(Full::from(vec![b'x'; self.body]));
        Request::from_parts(self.parts.clone(), body)
    }
}

// ---- the handler

/// What the handler says of its answer.
#[derive(Debug, Clone, Copy, Default)]
struct Says {
    status: StatusCode,
    header: Option<(&'static str, &'static str)>,
    vary: Option<&'static str>,
}

impl Says {
    fn of(path: &str, serial: usize) -> Self {
        // Some say now this, now that, of the same thing.
        let path = match path.strip_prefix("/now-this-now-that/") {
            Some(_) => POOLS.paths[serial * 7 % 23],
            None => path,
        };
        let cache_control = |value| Some(("cache-control", value));
        let (header, vary) = match path {
            "/public" => (cache_control("public"), None),
            "/s-maxage" => (cache_control("s-maxage=100"), None),
            "/must-revalidate" => (cache_control("must-revalidate"), None),
            "/private" => (cache_control("private"), None),
            "/no-store" => (cache_control("no-store"), None),
            "/set-cookie" => (Some(("set-cookie", "seen=1")), None),
            "/encoded" => (Some(("content-encoding", "gzip")), None),
            "/vary/authorization" => (cache_control("public"), Some("Authorization")),
            "/vary/accept-language" => (None, Some("Accept-Language, ,X-Random")),
            "/vary/user-agent" => (cache_control("public"), Some("user-agent")),
            "/vary/cookie" => (None, Some("Cookie")),
            "/vary/x-random" => (None, Some("X-RANDOM")),
            "/vary/traceparent" => (None, Some("traceparent")),
            "/vary/x-forwarded-for" => (None, Some("x-forwarded-for")),
            "/vary/star" => (None, Some("accept, *")),
            _ => (None, None),
        };
        let status = match path {
            "/missing" => StatusCode::NOT_FOUND,
            "/broken" => StatusCode::BAD_GATEWAY,
            _ => StatusCode::OK,
        };
        Self {
            status,
            header,
            vary,
        }
    }

    /// RFC 9111 §3.5.
    fn is_for_those_with_credentials(&self) -> bool {
        let allows = ["public", "s-maxage=100", "must-revalidate"];
        self.header
            .is_some_and(|(_, value)| allows.contains(&value))
    }

    fn is_for_one(&self) -> bool {
        let forbids = ["private", "no-store", "seen=1"];
        self.header
            .is_some_and(|(_, value)| forbids.contains(&value))
            || self.vary == Some("accept, *")
            || self.status == StatusCode::NOT_FOUND
    }

    /// The headers by whose values the answer is told from others.
    fn varies_by(&self) -> Vec<HeaderName> {
        let listed = self.vary.into_iter().flat_map(|vary| vary.split(','));
        let names = listed.filter_map(|name| name.trim().parse().ok());
        let encoded = self.header.filter(|(name, _)| *name == "content-encoding");
        names
            .chain(encoded.map(|_| header::ACCEPT_ENCODING))
            .collect()
    }
}

/// What the handler was shown for one of its answers.
#[derive(Debug)]
struct Seen {
    serial: usize,
    parts: Parts,
    body: u64,
    says: Says,
    /// Made of what it was shown.
    keyed: Vec<u8>,
}

impl Seen {
    /// Whether those who ask for the same may have to make calls of their own for a while: the answer is for its requester alone,
    /// for those without credentials alone, or a failure.
    fn may_be_refused(&self, spec: &Spec, maker: &Parts) -> bool {
        let says = &self.says;
        let with_credentials = !spec.sealed
            && spec.form_of(&header::AUTHORIZATION).is_none()
            && maker.headers.contains_key(header::AUTHORIZATION);
        says.is_for_one()
            || says.status.is_server_error()
            || (with_credentials && !says.is_for_those_with_credentials())
    }
}

type Ledger = Arc<Mutex<Vec<Arc<Seen>>>>;

/// Notes what it is shown, and answers with the number of the note, in a header and in the body.
fn handler(spec: &Spec, ledger: &Ledger) -> Origin {
    let (spec, ledger) = (spec.clone(), ledger.clone());
    Origin::later(move |request| {
        let (parts, body) = request.into_parts();
        let Serial(serial) = *parts.extensions.get().unwrap();
        let says = Says::of(parts.uri.path(), serial);
        let seen = Seen {
            serial,
            body: http_body::Body::size_hint(&body).exact().unwrap(),
            says,
            keyed: keyed(&spec, &parts),
            parts,
        };
        let mut ledger = ledger.lock().unwrap();
        let number = ledger.len();
        ledger.push(Arc::new(seen));
        drop(ledger);
        async move {
            for _ in 0..serial % 3 {
                tokio::task::yield_now().await;
            }
            answer(number, &says, serial.is_multiple_of(5))
        }
    })
}

fn answer(number: usize, says: &Says, in_pieces: bool) -> Response<Body> {
    let text = number.to_string();
    let body = if in_pieces {
        let (start, end) = text.as_bytes().split_at(text.len() / 2);
        chunked(&[start, end], None)
    } else {
        full(text)
    };
    let mut response = Response::new(body);
    *response.status_mut() = says.status;
    let headers = response.headers_mut();
    headers.insert("x-answer", HeaderValue::from(number));
    if let Some((name, value)) = says.header {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(vary) = says.vary {
        headers.insert(header::VARY, HeaderValue::from_static(vary));
    }
    response
}

// ---- the model of a key

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Parameters {
    #[default]
    All,
    Only(&'static [&'static str]),
    Except(&'static [&'static str]),
}

/// A normal form of a header, as the documentation has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    AsItComes,
    /// `br` or `gzip`.
    Coding,
    CaseAndSpace,
    /// `b`, if there is one in it.
    HasB,
}

/// What is in the key, and whether it is sealed.
#[derive(Debug, Clone, Default)]
struct Spec {
    parameters: Parameters,
    headers: Vec<(HeaderName, Form)>,
    cookies: Vec<&'static str>,
    /// The extension is in the key; it has to be there.
    user: Option<bool>,
    /// The extension is kept from the handler.
    hides_user: bool,
    /// A closure finds the header `x-tenant`, or the request has no key.
    tenant: bool,
    ignores_authority: bool,
    sealed: bool,
    seals_query: bool,
}

impl Spec {
    fn key(&self) -> Key {
        let mut key = match self.parameters {
            Parameters::All => Key::new(),
            Parameters::Only(names) => Key::new().query(names.iter().copied()),
            Parameters::Except(names) => Key::new().query_except(names.iter().copied()),
        };
        for (name, form) in &self.headers {
            key = match form {
                Form::AsItComes => key.header(name.clone()),
                Form::Coding => {
                    let codings = Normalize::codings(["br", "gzip"]).unwrap();
                    key.header_as(name.clone(), codings)
                }
                Form::CaseAndSpace => key.header_as(name.clone(), Normalize::case_and_space()),
                Form::HasB => {
                    let has_b =
                        |line: &HeaderValue| line.as_bytes().to_ascii_lowercase().contains(&b'b');
                    let rule = move |lines: &http::header::GetAll<'_, HeaderValue>| {
                        let found = lines.iter().any(has_b);
                        found.then(|| HeaderValue::from_static("b"))
                    };
                    key.header_as(name.clone(), Normalize::with(rule))
                }
            };
        }
        for cookie in &self.cookies {
            key = key.cookie(*cookie);
        }
        key = match self.user {
            Some(true) => key.extension::<User>(),
            Some(false) => key.optional_extension::<User>(),
            None if self.hides_user => key.hide_extension::<User>(),
            None => key,
        };
        if self.tenant {
            key = key.part("tenant", |parts| {
                Some(parts.headers.get("x-tenant")?.as_bytes().to_vec())
            });
        }
        if self.ignores_authority {
            key = key.ignore_authority();
        }
        if self.sealed {
            key = key.seal().allow_extension::<Serial>();
        }
        if self.seals_query {
            key = key.seal_query();
        }
        key
    }

    fn form_of(&self, name: &HeaderName) -> Option<Form> {
        let known = self.headers.iter().find(|(known, _)| known == name);
        known.map(|(_, form)| *form)
    }

    fn chooses(&self, parameter: &[u8]) -> bool {
        let among = |names: &[&str]| {
            names.iter().any(|name| match name.strip_suffix('*') {
                Some(prefix) => parameter.starts_with(prefix.as_bytes()),
                None => parameter == name.as_bytes(),
            })
        };
        match self.parameters {
            Parameters::All => true,
            Parameters::Only(names) => among(names),
            Parameters::Except(names) => !among(names),
        }
    }

    /// Whether a sealed request may show this header: some of it, or all.
    fn may_show(&self, name: &HeaderName) -> bool {
        self.form_of(name).is_some()
            || tells_target(name)
            || TRACING.contains(name.as_str())
            || (*name == header::HOST && !self.ignores_authority)
            || (*name == header::COOKIE && !self.cookies.is_empty())
            || *name == header::FORWARDED
            || asks_for_fragment(name)
    }
}

/// What is shown though it is not in the key.
static TRACING: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let names = "content-length transfer-encoding te trailer traceparent tracestate b3 x-b3-traceid x-b3-spanid \
                 x-b3-parentspanid x-b3-sampled x-b3-flags x-request-id x-correlation-id x-amzn-trace-id x-cloud-trace-context";
    names.split(' ').filter(|name| !name.is_empty()).collect()
});

/// What concerns one requester alone is not asked for by a fill, which asks for the whole.
static OF_ONE_REQUESTER: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let names =
        "range if-range if-match if-none-match if-modified-since if-unmodified-since grpc-timeout";
    names.split(' ').collect()
});

const OVERRIDES: [&str; 8] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-method",
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-rewrite-url",
];

/// Other headers than `Authorization` and `Cookie` by which requesters say who they are. `x-csrf-token` does not do so in a GET or
/// a HEAD.
const CREDENTIALS: [&str; 10] = [
    "proxy-authorization",
    "x-api-key",
    "remote-user",
    "x-auth-request-email",
    "x-forwarded-user",
    "x-vault-token",
    "x_auth_token",
    "x-hasura-role",
    "x-consumer-custom-id",
    "dpop",
];

fn tells_target(name: &HeaderName) -> bool {
    let of_proxies = [
        "host",
        "proto",
        "port",
        "prefix",
        "scheme",
        "ssl",
        "uri",
        "path",
        "server-port",
    ];
    let others = [
        "x-original-host",
        "x-host",
        "x-backend-host",
        "x-http-host-override",
        "x-scheme",
        "x-url-scheme",
        "front-end-https",
        "cloudfront-forwarded-proto",
        "cf-visitor",
        "x-script-name",
        "x-envoy-original-path",
    ];
    match name.as_str().strip_prefix("x-forwarded-") {
        Some(what) => of_proxies.contains(&what),
        None => others.contains(&name.as_str()),
    }
}

/// Headers that ask for a fragment by being there, with the value that stands for all others behind a seal.
const FRAGMENT_FLAGS: [(&str, &str); 3] = [
    ("hx-request", "true"),
    ("x-inertia", "true"),
    ("x-requested-with", "XMLHttpRequest"),
];

/// Headers that ask for a fragment by their value.
const FRAGMENT_VALUES: [&str; 3] = ["hx-target", "turbo-frame", "x-up-target"];

fn asks_for_fragment(name: &HeaderName) -> bool {
    let name = name.as_str();
    FRAGMENT_VALUES.contains(&name) || FRAGMENT_FLAGS.iter().any(|(flag, _)| *flag == name)
}

/// Whether such a header is there. Of `X-Requested-With`, one value alone asks for a fragment.
fn has_flag(headers: &HeaderMap, name: &str) -> bool {
    let mut lines = headers.get_all(name).iter();
    lines.any(|line| {
        name != "x-requested-with" || line.as_bytes().eq_ignore_ascii_case(b"XMLHttpRequest")
    })
}

/// Which fragment of a page a request is for.
fn fragment(headers: &HeaderMap) -> Vec<u8> {
    let mut listing = Vec::new();
    for (name, _) in FRAGMENT_FLAGS {
        if has_flag(headers, name) {
            put(&mut listing, name, None);
        }
    }
    for name in FRAGMENT_VALUES {
        for line in headers.get_all(name) {
            put(&mut listing, name, Some(line.as_bytes()));
        }
    }
    listing
}

/// Longer values are not told apart: such a request bypasses the cache.
fn is_for_too_long_a_fragment(headers: &HeaderMap) -> bool {
    FRAGMENT_VALUES.iter().any(|name| {
        let lines = headers.get_all(*name).iter();
        let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
        lines.join(&0).len() > 64
    })
}

/// Name and value of each parameter, the name decoded, as most read a query.
fn pairs(query: &str) -> Vec<(Vec<u8>, Option<&str>)> {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    pieces.map(pair).collect()
}

fn pair(piece: &str) -> (Vec<u8>, Option<&str>) {
    match piece.split_once('=') {
        Some((name, value)) => (decoded(name), Some(value)),
        None => (decoded(piece), None),
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    decoded
}

/// Whether two may read this query differently: then it is in the key as a whole.
fn is_doubtful(spec: &Spec, query: &str) -> bool {
    let is_broken = |(at, _)| {
        query
            .get(at + 1..at + 3)
            .is_none_or(|d| u8::from_str_radix(d, 16).is_err())
    };
    let brackets = |(name, _): &(Vec<u8>, Option<&str>)| {
        let open = name.iter().position(|b| *b == b'[');
        open.is_some_and(|open| spec.chooses(&name[..open]) && !spec.chooses(name))
    };
    // Some take `[name]` for `name`, and to some an encoded bracket is none.
    let may_be_meant = |piece: &str| {
        let raw = piece.split('=').next().unwrap_or_default().to_lowercase();
        let name = pair(piece).0;
        let end = name.iter().position(|b| *b == b'[').unwrap_or(name.len());
        let is_encoded = raw.contains("%5b") || raw.contains("%5d");
        name.first() == Some(&b'[')
            || (is_encoded && (spec.chooses(&name) || spec.chooses(&name[..end])))
    };
    query.contains(';')
        || !query.is_ascii()
        || query.match_indices('%').any(is_broken)
        || query.split('&').any(may_be_meant)
        || (matches!(spec.parameters, Parameters::Only(_)) && pairs(query).iter().any(brackets))
}

/// The chosen parameters, by name, as three kinds of readers take them: most; those to whom `;` is a separator too; those
/// to whom `name[…]` is a part of `name`.
fn put_parameters(spec: &Spec, query: Option<&str>, listing: &mut Vec<u8>) {
    if spec.parameters == Parameters::All {
        put(listing, "query", query.map(str::as_bytes));
        return;
    }
    let query = query.unwrap_or_default();
    let by_semicolon = query
        .split(['&', ';'])
        .filter(|piece| !piece.is_empty())
        .map(pair);
    let by_brackets = || {
        pairs(query).into_iter().map(|(mut name, value)| {
            let end = name.iter().position(|b| *b == b'[').unwrap_or(name.len());
            name.truncate(end);
            (name, value)
        })
    };
    for (reader, found) in [
        ("parameter", pairs(query)),
        ("parameter;", by_semicolon.collect()),
        ("parameter[]", by_brackets().collect()),
    ] {
        let mut chosen: Vec<_> = found
            .into_iter()
            .filter(|(name, _)| spec.chooses(name))
            .collect();
        chosen.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, value) in chosen {
            put(listing, reader, Some(&name));
            put(listing, "=", value.map(decoded).as_deref());
        }
    }
}

fn put(listing: &mut Vec<u8>, what: &str, value: Option<&[u8]>) {
    listing.extend_from_slice(what.as_bytes());
    if let Some(value) = value {
        listing.extend_from_slice(b": ");
        listing.extend_from_slice(value);
    }
    listing.push(b'\n');
}

/// Each cookie, with its name.
fn cookies(headers: &HeaderMap) -> Vec<(&[u8], &[u8])> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pieces = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    let pieces = pieces
        .map(<[u8]>::trim_ascii)
        .filter(|piece| !piece.is_empty());
    pieces
        .map(|piece| {
            let name = piece.split(|b| *b == b'=').next().unwrap_or_default();
            (name.trim_ascii(), piece)
        })
        .collect()
}

/// The pieces between separators that stand in no quoted string.
fn pieces(line: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut quoted = false;
    let pieces = line.split(|b| {
        quoted ^= *b == b'"';
        *b == separator && !quoted
    });
    pieces.map(<[u8]>::trim_ascii).collect()
}

/// The hosts and schemes of each element of `Forwarded`.
fn forwarded(headers: &HeaderMap) -> Vec<Vec<&[u8]>> {
    let tells = |pair: &&[u8]| {
        let pair = pair.to_ascii_lowercase();
        pair.starts_with(b"host=") || pair.starts_with(b"proto=")
    };
    let mut elements = Vec::new();
    for line in headers.get_all(header::FORWARDED) {
        for element in pieces(line.as_bytes(), b',') {
            elements.push(pieces(element, b';').into_iter().filter(tells).collect());
        }
    }
    elements
}

/// `Forwarded` as others read it: those to whom a separator in a quoted string is one too, as to the extractor `Host` of
/// axum-extra; and those who take the last element.
fn put_as_others_read(headers: &HeaderMap, listing: &mut Vec<u8>) {
    let line = headers
        .get(header::FORWARDED)
        .and_then(|line| line.to_str().ok());
    let first = line.and_then(|line| line.split(',').next());
    let pairs = first
        .into_iter()
        .flat_map(|element| element.split(';'))
        .filter_map(|pair| pair.split_once('='));
    for (name, value) in pairs {
        if name.trim().eq_ignore_ascii_case("host") || name.trim().eq_ignore_ascii_case("proto") {
            put(listing, "forwarded, by others", Some(value.as_bytes()));
        }
    }
    let last = forwarded(headers).pop();
    for pair in last.into_iter().flatten() {
        put(listing, "forwarded last", Some(pair));
    }
}

/// A host's name is the same in any case; what stands before an `@` is not.
fn folded(host: &[u8]) -> Vec<u8> {
    if host.contains(&b'@') {
        host.to_vec()
    } else {
        host.to_ascii_lowercase()
    }
}

/// A host without the default port: that of the scheme, or where the URI does not tell it, that of either one.
fn without_default_port<'a>(host: &'a str, scheme: Option<&str>) -> &'a str {
    let ports = match scheme {
        Some("http") => &[":80"][..],
        Some("https") => &[":443"],
        _ => &[":80", ":443"],
    };
    let mut found = ports.iter().filter_map(|port| host.strip_suffix(port));
    found.next().unwrap_or(host)
}

/// What a request says of the host that it is for: the URI first.
fn hosts(parts: &Parts) -> Vec<Vec<u8>> {
    let of_uri = parts.uri.authority().map(uri::Authority::as_str);
    let lines = parts.headers.get_all(header::HOST).iter();
    let all = of_uri
        .into_iter()
        .chain(lines.map(|line| line.to_str().unwrap()));
    all.map(|host| folded(without_default_port(host, parts.uri.scheme_str()).as_bytes()))
        .collect()
}

/// A host as the handler is shown it: without the default port, and in lower case behind a seal.
fn shown_host(spec: &Spec, host: &str, scheme: Option<&str>) -> String {
    if spec.ignores_authority {
        return host.to_owned();
    }
    let host = without_default_port(host, scheme);
    if spec.sealed {
        host.to_ascii_lowercase()
    } else {
        host.to_owned()
    }
}

/// Scheme and authority of the target that the handler is shown, and of the original one.
fn shown_origins(spec: &Spec, parts: &Parts) -> [Option<(String, String)>; 2] {
    [&parts.uri, original(parts)].map(|uri| {
        let host = uri.authority()?.as_str();
        let scheme = uri.scheme_str()?;
        let is_hidden = spec.sealed && spec.ignores_authority;
        (!is_hidden).then(|| (scheme.to_owned(), shown_host(spec, host, Some(scheme))))
    })
}

/// Scheme and authority of the target, and of the original one, as they are.
fn origins(parts: &Parts) -> [Option<(String, String)>; 2] {
    [&parts.uri, original(parts)].map(|uri| {
        let scheme = uri.scheme_str()?.to_owned();
        Some((scheme, uri.authority()?.as_str().to_owned()))
    })
}

/// Whether nobody can tell which host a request is for.
fn is_for_two_hosts(parts: &Parts) -> bool {
    let hosts = hosts(parts);
    hosts
        .iter()
        .any(|host| *host != hosts[0] || host.contains(&b'@'))
}

/// The target as the client sent it, where a router has changed it.
#[cfg(feature = "axum")]
fn original(parts: &Parts) -> &Uri {
    let original = parts.extensions.get::<axum::extract::OriginalUri>();
    original.map_or(&parts.uri, |original| &original.0)
}

#[cfg(not(feature = "axum"))]
fn original(parts: &Parts) -> &Uri {
    &parts.uri
}

fn put_target(spec: &Spec, parts: &Parts, listing: &mut Vec<u8>) {
    let (uri, headers) = (&parts.uri, &parts.headers);
    put(listing, "path", Some(uri.path().as_bytes()));
    if original(parts).path() != uri.path() {
        put(
            listing,
            "original path",
            Some(original(parts).path().as_bytes()),
        );
    }
    if original(parts).query() != uri.query() {
        put(
            listing,
            "original query",
            original(parts).query().map(str::as_bytes),
        );
    }
    if !spec.ignores_authority {
        put(
            listing,
            "authority",
            hosts(parts).first().map(Vec::as_slice),
        );
    }
    let mut told: Vec<_> = headers
        .iter()
        .filter(|(name, _)| tells_target(name))
        .collect();
    told.sort_by_key(|(name, _)| name.as_str());
    for (name, line) in told {
        put(listing, name.as_str(), Some(line.as_bytes()));
    }
    for (number, element) in forwarded(headers).iter().enumerate() {
        for pair in element {
            put(listing, &format!("forwarded {number}"), Some(pair));
        }
    }
}

/// All that is in the key, as those read it who handle the request.
fn keyed(spec: &Spec, parts: &Parts) -> Vec<u8> {
    let mut listing = Vec::with_capacity(256);
    let headers = &parts.headers;
    put_target(spec, parts, &mut listing);
    if !spec.sealed {
        put_as_others_read(headers, &mut listing);
    }
    put_parameters(spec, parts.uri.query(), &mut listing);
    for (name, form) in &spec.headers {
        for line in normal(*form, headers, name) {
            put(&mut listing, name.as_str(), Some(line.as_bytes()));
        }
    }
    for known in &spec.cookies {
        let all = cookies(headers).into_iter();
        for (_, cookie) in all.filter(|(name, _)| *name == known.as_bytes()) {
            put(&mut listing, "cookie", Some(cookie));
        }
    }
    if spec.user.is_some() {
        let user = parts.extensions.get::<User>();
        put(&mut listing, "user", user.map(|user| user.0.as_bytes()));
    }
    if spec.tenant {
        let tenant = headers.get("x-tenant").map(HeaderValue::as_bytes);
        put(&mut listing, "tenant", tenant);
    }
    listing
}

/// The lines of a header, in a normal form.
fn normal(form: Form, headers: &HeaderMap, name: &HeaderName) -> Lines {
    let lines: Lines = headers.get_all(name).iter().cloned().collect();
    match form {
        Form::AsItComes => lines,
        Form::Coding => coding(&lines).map_or(lines, |best| vec![HeaderValue::from_static(best)]),
        Form::CaseAndSpace => match &*lines {
            [line] if line.as_bytes().is_ascii() => {
                let line = line.to_str().unwrap().to_ascii_lowercase();
                let members: Vec<_> = line.split(',').map(str::trim).collect();
                vec![HeaderValue::from_str(&members.join(",")).unwrap()]
            }
            _ => lines,
        },
        Form::HasB => {
            let mut bytes = lines.iter().flat_map(|line| line.as_bytes());
            let found = bytes.any(|b| b.eq_ignore_ascii_case(&b'b'));
            found
                .then(|| HeaderValue::from_static("b"))
                .into_iter()
                .collect()
        }
    }
}

/// What a client likes best of `br`, `gzip` and nothing. `None` if it cannot be read, or likes none of them.
fn coding(lines: &[HeaderValue]) -> Option<&'static str> {
    let mut weights: HashMap<String, f32> = HashMap::new();
    for line in lines {
        for member in line
            .to_str()
            .ok()?
            .split(',')
            .filter(|m| !m.trim().is_empty())
        {
            let (name, weight) = member.split_once(";q=").unwrap_or((member, "1"));
            let name = name.trim().to_ascii_lowercase();
            let weight = weight.trim().parse().ok()?;
            if *weights.entry(name).or_insert(weight) != weight {
                return None;
            }
        }
    }
    let weight = |coding: &str| weights.get(coding).or(weights.get("*")).copied();
    let (br, gzip) = (weight("br").unwrap_or(0.0), weight("gzip").unwrap_or(0.0));
    let named = weights.get("identity").copied().unwrap_or(0.0);
    match weight("identity") {
        _ if named > br && named > gzip => Some("identity"),
        _ if br > 0.0 && br >= gzip => Some("br"),
        _ if gzip > 0.0 => Some("gzip"),
        Some(0.0) => None,
        _ => Some("identity"),
    }
}

/// Whether such a request has to pass by, and as it is.
fn passes_by(spec: &Spec, asker: &Asker) -> bool {
    let headers = &asker.parts.headers;
    let method = &asker.parts.method;
    let is_unkeyed = |name: &str| {
        headers.contains_key(name) && !spec.headers.iter().any(|(known, _)| known == name)
    };
    let other_cookies = || {
        let mut all = cookies(headers).into_iter();
        all.any(|(name, _)| !spec.cookies.iter().any(|known| known.as_bytes() == name))
    };
    let says_who =
        || is_unkeyed("cookie") && other_cookies() || CREDENTIALS.into_iter().any(is_unkeyed);
    let has_unkeyed_user = || {
        spec.user.is_none() && !spec.hides_user && asker.parts.extensions.get::<User>().is_some()
    };
    (*method != Method::GET && *method != Method::HEAD)
        || asker.body > 0
        || headers.contains_key(header::UPGRADE)
        || OVERRIDES.iter().any(|name| headers.contains_key(*name))
        || is_for_too_long_a_fragment(headers)
        || (spec.user == Some(true) && asker.parts.extensions.get::<User>().is_none())
        || (spec.tenant && !headers.contains_key("x-tenant"))
        || (!spec.ignores_authority && is_for_two_hosts(&asker.parts))
        || (!spec.sealed && says_who())
        || (spec.sealed && has_unkeyed_user())
}

/// What a handler is shown of a request with a key; `whole` if it is asked on behalf of all.
fn shown(spec: &Spec, parts: &Parts, whole: bool) -> HeaderMap {
    let mut shown = HeaderMap::new();
    for (name, line) in &parts.headers {
        let of_one = whole && OF_ONE_REQUESTER.contains(name.as_str());
        let taken_apart = *name == header::COOKIE || *name == header::FORWARDED;
        if of_one || spec.form_of(name).is_some() {
            continue;
        }
        let is_flag = FRAGMENT_FLAGS.iter().any(|(flag, _)| name == flag);
        if *name == header::HOST && !spec.ignores_authority {
            // Where there are several, they are one but for case and default port: the first is shown.
            if !shown.contains_key(header::HOST) {
                let host = shown_host(spec, line.to_str().unwrap(), parts.uri.scheme_str());
                shown.insert(header::HOST, HeaderValue::from_str(&host).unwrap());
            }
        } else if !spec.sealed || (spec.may_show(name) && !taken_apart && !is_flag) {
            shown.append(name.clone(), line.clone());
        }
    }
    for (name, form) in &spec.headers {
        for line in normal(*form, &parts.headers, name) {
            shown.append(name.clone(), line);
        }
    }
    if spec.sealed {
        show_sealed_cookies(spec, &parts.headers, &mut shown);
        show_sealed_forwarded(&parts.headers, &mut shown);
        for (name, value) in FRAGMENT_FLAGS {
            if has_flag(&parts.headers, name) {
                shown.insert(name, HeaderValue::from_static(value));
            }
        }
        if spec.form_of(&header::ACCEPT_ENCODING).is_none() {
            // Without it, any coding would do.
            let identity = HeaderValue::from_static("identity");
            shown.insert(header::ACCEPT_ENCODING, identity);
        }
    }
    shown
}

fn show_sealed_cookies(spec: &Spec, headers: &HeaderMap, shown: &mut HeaderMap) {
    let all = cookies(headers);
    let mut kept: Vec<&[u8]> = Vec::new();
    for known in &spec.cookies {
        kept.extend(
            all.iter()
                .filter(|(name, _)| *name == known.as_bytes())
                .map(|(_, cookie)| *cookie),
        );
    }
    if !kept.is_empty() {
        let line = kept.join(&b"; "[..]);
        shown.insert(header::COOKIE, HeaderValue::from_bytes(&line).unwrap());
    }
}

fn show_sealed_forwarded(headers: &HeaderMap, shown: &mut HeaderMap) {
    let mut elements = forwarded(headers);
    while elements.last().is_some_and(Vec::is_empty) {
        elements.pop();
    }
    let element = |pairs: &Vec<&[u8]>| match pairs.is_empty() {
        true => b"for=unknown".to_vec(),
        false => pairs.join(&b";"[..]),
    };
    let line = elements
        .iter()
        .map(element)
        .collect::<Vec<_>>()
        .join(&b", "[..]);
    if !line.is_empty() {
        shown.insert(header::FORWARDED, HeaderValue::from_bytes(&line).unwrap());
    }
}

/// The target that a handler is shown of a request with a key, and the original one.
fn shown_targets(spec: &Spec, parts: &Parts, is_asked: bool) -> Vec<u8> {
    let mut listing = Vec::with_capacity(256);
    let is_sealed = spec.seals_query
        && spec.parameters != Parameters::All
        && !parts
            .uri
            .query()
            .is_some_and(|query| is_doubtful(spec, query));
    for uri in [&parts.uri, original(parts)] {
        // Whether the target has the absolute form, and with it a scheme, is no more in the key than the version of HTTP; the
        // authority is, and is listed elsewhere.
        put(&mut listing, "path", Some(uri.path().as_bytes()));
        // Where the original query is another one, it is in the key as a whole.
        if is_sealed && uri.query() == parts.uri.query() {
            put_shown_parameters(spec, uri.query(), is_asked, &mut listing);
        } else {
            put(&mut listing, "query", uri.query().map(str::as_bytes));
        }
    }
    listing
}

fn put_shown_parameters(spec: &Spec, query: Option<&str>, is_asked: bool, listing: &mut Vec<u8>) {
    let mut parameters = pairs(query.unwrap_or_default());
    if is_asked {
        parameters.retain(|(name, _)| spec.chooses(name));
        let without_brackets = |name: &[u8]| {
            let end = name.iter().position(|b| *b == b'[');
            name[..end.unwrap_or(name.len())].to_vec()
        };
        parameters.sort_by_key(|(name, _)| without_brackets(name));
    }
    for (name, value) in parameters {
        put(listing, "parameter", Some(&name));
        put(listing, "=", value.map(str::as_bytes));
    }
}

// ---- the judge

/// What can be wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    /// It is said to be another's, and is not; or the other way round. Or its head is of one, and its body of another.
    Told,
    /// The request had to pass by, and did not, or did for no reason.
    PassingBy,
    /// A HEAD was sent as a HEAD where it has to be fetched as a GET.
    Head,
    /// The handler was not shown what it has to be shown of the request that it answers.
    Shown,
    /// It was made of something else that is in the key.
    Keyed,
    /// It was made for another fragment of the page, or for the page.
    Fragment,
    /// It was made for one who says something else of who asks.
    Identity,
    /// It says that it is for its own requester alone.
    ForOneAlone,
    /// It was made for another value of what its `Vary` names.
    Vary,
    /// The handler would have been shown something else.
    ShownToAnother,
    /// The handler of a sealed request was shown a header that is neither in the key nor let through.
    Unsealed,
    /// The handler of a sealed request was told who asks, and that is not in the key.
    Trace,
}

/// What came back.
#[derive(Debug)]
struct Given {
    hit: bool,
    collapsed: bool,
    forward: Option<Forward>,
    reason: Option<Reason>,
    status: StatusCode,
    /// The number of the answer, as its head and its body tell it.
    number: usize,
    body: Vec<u8>,
}

impl Given {
    fn is_shared(&self) -> bool {
        self.hit || self.collapsed
    }

    /// The cache neither looked for an answer to share nor made one of it.
    fn bypasses(&self) -> bool {
        matches!(self.forward, Some(Forward::Bypass | Forward::Method))
    }

    /// The request has no key, or is none that the cache answers.
    fn has_passed_by(&self) -> bool {
        const WITHOUT_A_KEY: [Reason; 13] = [
            Reason::Authority,
            Reason::Method,
            Reason::Upgrade,
            Reason::RequestBody,
            Reason::Cookie,
            Reason::ProxyAuthorization,
            Reason::ClientIdentity,
            Reason::Override,
            Reason::Forwarded,
            Reason::KeyPart,
            Reason::KeyTooLong,
            Reason::UnknownExtension,
            Reason::Fragment,
        ];
        self.reason
            .is_some_and(|reason| WITHOUT_A_KEY.contains(&reason))
    }
}

/// The method by which the cache asks the handler on behalf of this asker: a HEAD that leads is fetched as a GET, so that it can be
/// stored; one for which nobody else waits goes as it is, and says so.
fn method_shown(asker: &Asker, given: &Given) -> Method {
    let goes_alone = given.bypasses() || given.reason == Some(Reason::Head);
    if asker.parts.method == Method::HEAD && !goes_alone {
        Method::GET
    } else {
        asker.parts.method.clone()
    }
}

fn sound(what: bool, else_wrong: Wrong) -> Result<(), Wrong> {
    if what { Ok(()) } else { Err(else_wrong) }
}

/// What is wrong with this answer, if it is given to this asker.
fn judge(spec: &Spec, asker: &Asker, maker: &Asker, seen: &Seen, given: &Given) -> Vec<Wrong> {
    let is_own = seen.serial == asker.serial;
    // What was fetched as a GET has a body, and no HEAD gets it.
    let is_of_get = seen.parts.method == Method::GET;
    let is_empty = asker.parts.method == Method::HEAD && (given.is_shared() || is_of_get);
    let text = given.number.to_string();
    let asks = |names: [HeaderName; 2]| {
        names
            .iter()
            .any(|name| asker.parts.headers.contains_key(name))
    };
    // Of what is shared or might be, each gets the shape that it asks for.
    let (body, is_asked): (&[u8], bool) = match given.status {
        StatusCode::NOT_MODIFIED => (
            b"",
            asks([header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE]),
        ),
        StatusCode::PARTIAL_CONTENT => {
            (&text.as_bytes()[..1], asks([header::RANGE, header::RANGE]))
        }
        _ if is_empty => (b"", true),
        _ => (text.as_bytes(), true),
    };
    let has_to_pass = passes_by(spec, asker);
    let told = sound(
        is_own != given.is_shared() && given.body == body && is_asked,
        Wrong::Told,
    );
    let judged = if given.has_passed_by() {
        let unreadable = given.reason == Some(Reason::Forwarded);
        let passing_by = sound(is_own && (has_to_pass || unreadable), Wrong::PassingBy);
        vec![passing_by, judge_passed(asker, seen)]
    } else if is_own {
        vec![
            sound(!has_to_pass, Wrong::PassingBy),
            judge_sealed(spec, seen),
            judge_traces(spec, seen),
            judge_own(spec, asker, seen, given),
        ]
    } else {
        let any_has_to_pass = has_to_pass || passes_by(spec, maker);
        let mut judged = vec![
            sound(!any_has_to_pass, Wrong::PassingBy),
            judge_sealed(spec, seen),
            judge_traces(spec, seen),
        ];
        judged.extend(judge_shared(spec, asker, maker, seen));
        judged
    };
    let judged = judged.into_iter().chain([told]);
    judged.filter_map(Result::err).collect()
}

fn text_of(uri: &Uri) -> String {
    uri.to_string()
}

/// Who passes by is handed on untouched.
fn judge_passed(asker: &Asker, seen: &Seen) -> Result<(), Wrong> {
    let untouched = seen.parts.method == asker.parts.method
        && text_of(&seen.parts.uri) == text_of(&asker.parts.uri)
        && seen.parts.headers == asker.parts.headers
        && seen.parts.extensions.get::<User>() == asker.parts.extensions.get::<User>()
        && seen.body == asker.body as u64;
    sound(untouched, Wrong::Shown)
}

/// A HEAD goes as a HEAD only where nothing could be stored by it: in the task of its request, from which it fills nothing, or where
/// an answer to the same was for its requester alone, or a failure.
fn judge_head(given: &Given, is_inline: bool, was_refused: impl FnOnce() -> bool) -> Option<Wrong> {
    if given.reason != Some(Reason::Head) {
        return None;
    }
    // Without a fill in a task of its own it bypasses, and says so.
    let is_right = match given.bypasses() {
        true => is_inline,
        false => !is_inline && was_refused(),
    };
    sound(is_right, Wrong::Head).err()
}

/// What is not in the key is not shown to the handler of a sealed request, whomever it answers.
fn judge_sealed(spec: &Spec, seen: &Seen) -> Result<(), Wrong> {
    if !spec.sealed {
        return Ok(());
    }
    let mut headers = seen.parts.headers.iter();
    let may_show = |(name, line): (&HeaderName, &HeaderValue)| {
        spec.may_show(name) || (*name == header::ACCEPT_ENCODING && line == "identity")
    };
    sound(headers.all(may_show), Wrong::Unsealed)
}

/// Nor is it told who asks, in whatever header.
fn judge_traces(spec: &Spec, seen: &Seen) -> Result<(), Wrong> {
    if !spec.sealed {
        return Ok(());
    }
    let holds =
        |line: &[u8], name: &str| line.windows(name.len()).any(|part| part == name.as_bytes());
    for (name, line) in &seen.parts.headers {
        let says_who = NAMES.iter().any(|who| holds(line.as_bytes(), who));
        let is_keyed = spec.form_of(name).is_some()
            || tells_target(name)
            || (*name == header::COOKIE && spec.cookies.contains(&"sid"));
        sound(is_keyed || !says_who, Wrong::Trace)?;
    }
    Ok(())
}

fn judge_own(spec: &Spec, asker: &Asker, seen: &Seen, given: &Given) -> Result<(), Wrong> {
    let (asked, saw) = (&asker.parts, &seen.parts);
    let is_right = saw.method == method_shown(asker, given)
        && origins(saw) == shown_origins(spec, asked)
        && shown_targets(spec, saw, false) == shown_targets(spec, asked, true)
        && saw.headers == shown(spec, asked, !given.bypasses())
        && saw.extensions.get::<User>()
            == asked.extensions.get::<User>().filter(|_| !spec.hides_user)
        && seen.body == 0;
    sound(is_right, Wrong::Shown)
}

/// An answer that was made for another.
fn judge_shared(spec: &Spec, asker: &Asker, maker: &Asker, seen: &Seen) -> Vec<Result<(), Wrong>> {
    let (asked, saw) = (&asker.parts, &seen.parts);
    // What a closure of a sealed key has read, the handler need not be shown.
    let made_of = match spec.sealed {
        true => &keyed(spec, &maker.parts),
        false => &seen.keyed,
    };
    let would_see = shown(spec, asked, true);
    let varies_by = seen.says.varies_by();
    let mut vary = varies_by
        .iter()
        .map(|name| as_meant(&saw.headers, name) == as_meant(&would_see, name));
    let for_all = saw.method == Method::GET && !seen.says.is_for_one();
    let mut judged = vec![
        sound(for_all, Wrong::ForOneAlone),
        sound(*made_of == keyed(spec, asked), Wrong::Keyed),
        sound(
            fragment(&maker.parts.headers) == fragment(&asked.headers),
            Wrong::Fragment,
        ),
        sound(vary.all(|same| same), Wrong::Vary),
    ];
    if spec.sealed {
        let is_whole = spec.seals_query || spec.parameters == Parameters::All;
        let target = shown_targets(spec, saw, false) == shown_targets(spec, asked, true);
        let same = comparable(&saw.headers) == comparable(&would_see)
            && shown_authorities(saw) == expected_authorities(spec, asked);
        judged.push(sound(same && (target || !is_whole), Wrong::ShownToAnother));
    } else {
        judged.push(sound(
            is_of_the_same(spec, seen, &asked.headers),
            Wrong::Identity,
        ));
    }
    judged
}

/// Whether one who says all this of who asks may have what was made for another.
fn is_of_the_same(spec: &Spec, seen: &Seen, asked: &HeaderMap) -> bool {
    let saw = &seen.parts.headers;
    let with_credentials = [asked, saw]
        .iter()
        .any(|headers| headers.contains_key(header::AUTHORIZATION));
    let credentials = spec.form_of(&header::AUTHORIZATION).is_some()
        || !with_credentials
        || seen.says.is_for_those_with_credentials();
    let sorted = |headers| {
        let mut cookies = cookies(headers);
        cookies.sort_by_key(|(name, _)| *name);
        cookies
            .iter()
            .map(|(_, cookie)| cookie.to_vec())
            .collect::<Vec<_>>()
    };
    let mut others = CREDENTIALS.into_iter();
    credentials
        && sorted(asked) == sorted(saw)
        && others.all(|name| asked.get_all(name).iter().eq(saw.get_all(name)))
}

/// What a header says, however it is spelled (RFC 9111 §4.1): white space around commas says nothing, nor does the case of codings and
/// languages, nor the order of codings.
fn as_meant(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<Vec<u8>>> {
    let value = joined(headers, name)?;
    let members = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let mut members: Vec<_> = members.map(<[u8]>::to_vec).collect();
    if *name == header::ACCEPT_ENCODING || *name == header::ACCEPT_LANGUAGE {
        members
            .iter_mut()
            .for_each(|member| member.make_ascii_lowercase());
    }
    if *name == header::ACCEPT_ENCODING {
        members.sort_unstable();
    }
    Some(members)
}

/// The value of a header as `Vary` compares it (RFC 9111 §4.1).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines = headers.get_all(name).iter();
    let lines: Vec<_> = lines.map(|line| line.as_bytes().trim_ascii()).collect();
    (!lines.is_empty()).then(|| lines.join(&b", "[..]))
}

/// What of the headers that a handler is shown is the same for all with a key. Whether the authority stands in `Host`, in the URI or in
/// both depends on the version of HTTP: it is compared by itself.
fn comparable(headers: &HeaderMap) -> HeaderMap {
    let kept = headers
        .iter()
        .filter(|(name, _)| !TRACING.contains(name.as_str()) && *name != header::HOST);
    kept.map(|(name, line)| (name.clone(), line.clone()))
        .collect()
}

/// Each authority that a handler is shown, once, as it is.
fn shown_authorities(saw: &Parts) -> HashSet<Vec<u8>> {
    let of_uris = [&saw.uri, original(saw)].map(Uri::authority);
    let of_uris = of_uris
        .into_iter()
        .flatten()
        .map(|authority| authority.as_str().as_bytes());
    let lines = saw.headers.get_all(header::HOST).iter();
    let all = of_uris.chain(lines.map(HeaderValue::as_bytes));
    all.map(<[u8]>::to_vec).collect()
}

/// Behind a seal, the handler is shown the one authority that is in the key, in its normal form, and no other.
fn expected_authorities(spec: &Spec, asked: &Parts) -> HashSet<Vec<u8>> {
    let is_keyed = !spec.ignores_authority;
    hosts(asked).into_iter().filter(|_| is_keyed).collect()
}

// ---- the rounds

/// What was found.
#[derive(Debug, Default)]
struct Tally {
    requests: usize,
    hits: usize,
    collapsed: usize,
    passed_by: usize,
    /// Answers that were made for another of the three.
    across: usize,
    /// After how many requests of a round each fault showed first.
    wrong: BTreeMap<Wrong, usize>,
    first: Option<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.hits += other.hits;
        self.collapsed += other.collapsed;
        self.passed_by += other.passed_by;
        self.across += other.across;
        for (wrong, after) in other.wrong {
            let first = self.wrong.entry(wrong).or_insert(after);
            *first = after.min(*first);
        }
        self.first = self.first.take().or(other.first);
    }

    fn percent(&self, part: usize) -> f64 {
        let [part, whole] = [part, self.requests].map(|n| u32::try_from(n).unwrap().into());
        let (part, whole): (f64, f64) = (part, whole);
        part * 100.0 / whole
    }

    fn tell(&self) {
        let shares = [self.hits, self.collapsed, self.passed_by, self.across];
        let [hits, collapsed, passed_by, across] = shares.map(|part| self.percent(part));
        println!(
            "{} requests: {hits:.1} % hits, {collapsed:.1} % collapsed, {passed_by:.1} % passed by; {across:.1} % made for another of the three",
            self.requests
        );
    }
}

/// Whether the cache of this round fills in the task of the request.
fn is_inline(seed: u64) -> bool {
    seed.is_multiple_of(3)
}

/// Who answers.
enum Answering {
    Cache(Box<Cache<Origin>>, CacheHandle),
    /// A cache as one writes it in an afternoon: a map from targets to answers.
    Map(Origin, Mutex<HashMap<String, usize>>),
}

impl Answering {
    fn of(trial: &Trial, origin: Origin, seed: u64) -> Self {
        let (key, fault) = (trial.spec.key(), trial.fault);
        match fault {
            Fault::Key(other) => Self::cache(other(key), origin, seed, fault),
            Fault::None | Fault::Layer(_) | Fault::HeadsAsGets => {
                Self::cache(key, origin, seed, fault)
            }
            Fault::Map => Self::Map(origin, Mutex::default()),
        }
    }

    /// Every third one in the task of the request, every fourth one with room for few who wait.
    fn cache(key: Key, origin: Origin, seed: u64, fault: Fault) -> Self {
        let mut layer = CacheLayer::builder().key(key).ttl(Duration::from_secs(60));
        if let Fault::Layer(other) = fault {
            layer = other(layer);
        }
        if is_inline(seed) {
            layer = layer.fill_mode(FillMode::Inline);
        }
        if seed.is_multiple_of(4) {
            layer = layer.max_waiters(2);
        }
        let layer = layer.build();
        Self::Cache(Box::new(layer.layer(origin)), layer.handle())
    }

    async fn ask(&self, asker: &Asker, fault: Fault) -> Given {
        match self {
            Self::Cache(cache, _) => {
                let mut request = asker.request();
                if matches!(fault, Fault::HeadsAsGets) && *request.method() == Method::HEAD {
                    *request.method_mut() = Method::GET;
                }
                let response = cache.clone().oneshot(request).await.unwrap();
                let status: CacheStatus = *response.extensions().get().unwrap();
                let code = response.status();
                let (number, body) = read(response).await;
                Given {
                    status: code,
                    hit: status.is_hit(),
                    collapsed: status.is_collapsed(),
                    forward: status.forward(),
                    reason: status.reason(),
                    number,
                    body,
                }
            }
            Self::Map(origin, map) => {
                let target = text_of(&asker.parts.uri);
                let known = map.lock().unwrap().get(&target).copied();
                let (number, body) = match known {
                    Some(number) if asker.parts.method == Method::HEAD => (number, Vec::new()),
                    Some(number) => (number, number.to_string().into_bytes()),
                    None => read(origin.clone().oneshot(asker.request()).await.unwrap()).await,
                };
                map.lock().unwrap().insert(target, number);
                Given {
                    status: StatusCode::OK,
                    hit: known.is_some(),
                    collapsed: false,
                    forward: known.is_none().then_some(Forward::UriMiss),
                    reason: None,
                    number,
                    body,
                }
            }
        }
    }

    /// Time passes, or all is purged.
    async fn disturb(&self, random: &mut Random) {
        match self {
            Self::Cache(_, handle) if random.one_in(8) => drop(handle.purge_all().await.unwrap()),
            _ => tokio::time::advance(Duration::from_secs(25)).await,
        }
    }
}

async fn read<B>(response: Response<B>) -> (usize, Vec<u8>)
where
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let number = response.headers()["x-answer"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (number, body.to_vec())
}

/// How it is asked, and by what it is judged: the key is `spec`'s, unless there is a fault in it.
#[derive(Clone)]
struct Trial {
    spec: Spec,
    fault: Fault,
}

/// What is wrong on purpose.
#[derive(Clone, Copy)]
enum Fault {
    None,
    /// A key other than it should be.
    Key(fn(Key) -> Key),
    /// A layer other than it should be.
    Layer(fn(CacheLayerBuilder) -> CacheLayerBuilder),
    /// A layer outside the cache makes GETs of all HEADs.
    HeadsAsGets,
    /// A cache that is none.
    Map,
}

impl Fault {
    fn is_none(self) -> bool {
        matches!(self, Self::None)
    }
}

const ROUND: usize = 5_000;

/// How many requests come at once.
fn at_once(random: &mut Random) -> usize {
    if random.one_in(2) {
        1
    } else {
        4 + random.below(13)
    }
}

/// So many requests, to a cache of their own.
async fn round(trial: &Trial, seed: u64, requests: usize) -> Tally {
    let spec = &trial.spec;
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let ledger = Ledger::default();
    let origin = handler(spec, &ledger);
    let answering = Answering::of(trial, origin, seed);
    let bases: Vec<_> = (0..12).map(|_| Draft::new(&mut random)).collect();
    let mut tally = Tally::default();
    let mut refused: HashSet<Vec<u8>> = HashSet::new();
    let mut askers: Vec<Asker> = Vec::with_capacity(requests + 16);
    while askers.len() < requests {
        let at_once = at_once(&mut random);
        // Those who ask at once ask for about the same, of which some is new.
        let new = Draft::new(&mut random);
        let base = if at_once > 1 && random.one_in(4) {
            &new
        } else {
            random.of(&bases)
        };
        let start = askers.len();
        for serial in start..start + at_once {
            askers.push(base.like(&mut random).into_asker(serial));
        }
        let asked = &askers[start..];
        let given = within(join_all(
            asked.iter().map(|asker| answering.ask(asker, trial.fault)),
        ))
        .await;
        for given in given.iter().filter(|given| !given.has_passed_by()) {
            let seen = ledger.lock().unwrap()[given.number].clone();
            let maker = &askers[seen.serial].parts;
            if seen.may_be_refused(spec, maker) {
                refused.insert(keyed(spec, maker));
            }
        }
        for (asker, given) in asked.iter().zip(given) {
            let seen = ledger.lock().unwrap()[given.number].clone();
            let maker = &askers[seen.serial];
            count(&mut tally, asker, maker, &given);
            let mut judged = judge(spec, asker, maker, &seen, &given);
            judged.extend(judge_head(&given, is_inline(seed), || {
                refused.contains(&keyed(spec, &asker.parts))
            }));
            for wrong in judged {
                tally.wrong.entry(wrong).or_insert(asker.serial + 1);
                let all = || told(wrong, seed, spec, asker, maker, &seen, &given);
                tally.first.get_or_insert_with(all);
            }
        }
        if trial.fault.is_none() && tally.first.is_some() {
            break;
        }
        if random.one_in(200) {
            answering.disturb(&mut random).await;
        }
    }
    tally
}

fn count(tally: &mut Tally, asker: &Asker, maker: &Asker, given: &Given) {
    tally.requests += 1;
    tally.hits += usize::from(given.hit);
    tally.collapsed += usize::from(given.collapsed);
    tally.passed_by += usize::from(given.has_passed_by());
    tally.across += usize::from(asker.who != maker.who);
}

/// All that is known of an answer that is wrong.
fn told(
    wrong: Wrong,
    seed: u64,
    spec: &Spec,
    asker: &Asker,
    maker: &Asker,
    seen: &Seen,
    given: &Given,
) -> String {
    let mut told = format!(
        "{wrong:?}: seed {seed}, request {}, {spec:?}\n{given:?}\n",
        asker.serial
    );
    for (what, parts) in [
        ("asked", &asker.parts),
        ("was made for", &maker.parts),
        ("was made of", &seen.parts),
    ] {
        let user = parts.extensions.get::<User>();
        writeln!(
            told,
            "{what}: {} {} {user:?} {:?}",
            parts.method, parts.uri, parts.headers
        )
        .unwrap();
    }
    let keyed = keyed(spec, &asker.parts);
    writeln!(
        told,
        "would be shown: {:?}",
        shown(spec, &asker.parts, true)
    )
    .unwrap();
    writeln!(told, "says: {:?}", seen.says).unwrap();
    writeln!(
        told,
        "keyed:\n{}and not\n{}",
        seen.keyed.escape_ascii(),
        keyed.escape_ascii()
    )
    .unwrap();
    told
}

/// Asks as often as this, in turns of all trials, on two threads. The first answer that is wrong ends it, unless there is
/// a fault.
fn run(trials: &[Trial], requests: usize, seed: u64) -> Tally {
    let rounds = requests.div_ceil(ROUND);
    let over = AtomicBool::new(false);
    let part = |half: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let mut tally = Tally::default();
        for number in (half..rounds).step_by(2) {
            let trial = &trials[number % trials.len()];
            let seed = seed + number as u64;
            tally.add(runtime.block_on(round(trial, seed, ROUND)));
            let is_over = trial.fault.is_none() && tally.first.is_some();
            if over.fetch_or(is_over, Ordering::Relaxed) || is_over {
                break;
            }
        }
        tally
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| part(1));
        let mut tally = part(0);
        tally.add(other.join().unwrap());
        tally
    })
}

// ---- the keys that are tried

const LANGUAGE: HeaderName = header::ACCEPT_LANGUAGE;
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const DEVICE: HeaderName = HeaderName::from_static("x-device");

impl Spec {
    fn of(headers: &[HeaderName], cookies: &[&'static str]) -> Self {
        let header = |name: &HeaderName| (name.clone(), Form::AsItComes);
        Self {
            headers: headers.iter().map(header).collect(),
            cookies: cookies.to_vec(),
            ..Self::default()
        }
    }

    fn in_form(headers: &[(HeaderName, Form)], cookies: &[&'static str]) -> Self {
        Self {
            headers: headers.to_vec(),
            ..Self::of(&[], cookies)
        }
    }

    fn by(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }

    fn for_user(self, required: bool) -> Self {
        Self {
            user: Some(required),
            ..self
        }
    }
}

fn specs() -> Vec<Spec> {
    let credentials = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION];
    let normal = [
        (header::ACCEPT_ENCODING, Form::Coding),
        (header::USER_AGENT, Form::HasB),
    ];
    let tenant = Spec {
        tenant: true,
        ..Spec::default()
    };
    let any_host = Spec {
        ignores_authority: true,
        ..Spec::of(&[header::USER_AGENT], &[])
    };
    vec![
        Spec::default(),
        Spec::default().by(Parameters::Only(&["page", "sort"])),
        Spec::default().by(Parameters::Only(&["page*", "q"])),
        Spec::default().by(Parameters::Except(&["utm_*", "fbclid", "user"])),
        Spec::of(&[LANGUAGE], &[]),
        Spec::in_form(&normal, &[]),
        Spec::in_form(&[(DEVICE, Form::CaseAndSpace)], &["lang"]),
        Spec::of(&[], &["sid"]),
        Spec::of(&credentials, &["sid", "lang", "region"]),
        Spec::default().by(Parameters::Only(&[])).for_user(true),
        Spec::of(&[API_KEY], &[]).for_user(false),
        tenant.by(Parameters::Except(&["page"])),
        any_host,
        Spec::of(&[header::COOKIE, header::AUTHORIZATION], &[]),
    ]
}

/// The same, half of them with their query sealed too and the user hidden.
fn sealed() -> Vec<Spec> {
    let sealed = |(number, spec): (usize, Spec)| {
        let seals_query = !number.is_multiple_of(3);
        [
            Spec {
                sealed: true,
                seals_query,
                ..spec.clone()
            },
            Spec {
                sealed: true,
                seals_query: true,
                hides_user: spec.user.is_none(),
                ..spec
            },
        ]
    };
    specs().into_iter().enumerate().flat_map(sealed).collect()
}

fn trials(specs: Vec<Spec>) -> Vec<Trial> {
    let trial = |spec| Trial {
        spec,
        fault: Fault::None,
    };
    specs.into_iter().map(trial).collect()
}

/// All is right, and it was not so for want of trying.
fn is_sound(tally: &Tally, least: [f64; 4]) {
    if let Some(first) = &tally.first {
        panic!("after {} requests: {first}", tally.requests);
    }
    tally.tell();
    let shares = [tally.hits, tally.collapsed, tally.passed_by, tally.across];
    for (share, least) in shares.into_iter().zip(least) {
        assert!(tally.percent(share) >= least, "{tally:?}");
    }
}

/// Three hundred thousand in `.ci/run`.
fn requests() -> usize {
    scaled(30_000)
}

// Invariants 1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 14.
#[test]
fn no_answer_is_another_requesters() {
    let tally = run(&trials(specs()), requests(), 1);
    is_sound(&tally, [20.0, 2.0, 5.0, 1.0]);
}

// Invariants 2, 5, 7, 15.
#[test]
fn each_sealed_answer_is_as_if_its_requester_were_alone() {
    let tally = run(&trials(sealed()), requests(), 1_000_000);
    is_sound(&tally, [20.0, 2.0, 5.0, 5.0]);
}

// ---- the judge is not blind

/// Asks this many questions of what has a fault, and finds that it shows in these ways.
fn shows(what: &str, spec: Spec, fault: Fault, expected: &[Wrong]) {
    let tally = run(&[Trial { spec, fault }], 2 * ROUND, 77);
    println!("{what}: {:?}", tally.wrong);
    for wrong in expected {
        let after = tally.wrong.get(wrong);
        assert!(
            after.is_some_and(|after| *after <= 1000),
            "{what}: {wrong:?} in {:?}",
            tally.wrong
        );
    }
}

#[test]
fn a_key_that_leaves_out_what_it_must_not_is_found_out() {
    let user = Spec::default().for_user(true);
    let fault = |key| Fault::Key(key);
    shows(
        "nobody minds who asks",
        Spec::default(),
        fault(|key| key.ignore_cookies().ignore_authorization()),
        &[Wrong::Identity, Wrong::PassingBy],
    );
    shows(
        "one parameter",
        Spec::default(),
        fault(|key| key.query(["page"])),
        &[Wrong::Keyed],
    );
    shows(
        "all but one",
        Spec::default(),
        fault(|key| key.query_except(["user"])),
        &[Wrong::Keyed],
    );
    shows(
        "any host",
        Spec::default(),
        fault(Key::ignore_authority),
        &[Wrong::Keyed],
    );
    shows(
        "no language",
        Spec::of(&[LANGUAGE], &[]),
        fault(|_| Key::new()),
        &[Wrong::Keyed],
    );
    shows(
        "any proxy",
        Spec::default(),
        fault(Key::ignore_forwarded),
        &[Wrong::Keyed],
    );
    shows(
        "a header that says who asks",
        Spec::default(),
        fault(|key| key.not_identity_headers([HeaderName::from_static("x-hasura-role")])),
        &[Wrong::PassingBy, Wrong::Identity],
    );
    shows(
        "a default port that is shown",
        Spec::default(),
        fault(|key| key.header(header::HOST)),
        &[Wrong::Shown],
    );
    shows("no user", user, fault(|_| Key::new()), &[Wrong::Keyed]);
    let device = Spec::in_form(&[(DEVICE, Form::CaseAndSpace)], &[]);
    shows(
        "not in its form",
        device,
        fault(|_| Key::new().header(DEVICE)),
        &[Wrong::Shown],
    );
}

#[test]
fn a_layer_that_confuses_fragments_or_methods_is_found_out() {
    shows(
        "fragments",
        Spec::default(),
        Fault::Layer(|layer| layer.fragments(false)),
        &[Wrong::Fragment],
    );
    shows(
        "heads as gets",
        Spec::default(),
        Fault::HeadsAsGets,
        &[Wrong::Told, Wrong::Shown],
    );
    // Where responses decide, a HEAD is sent as a HEAD.
    shows(
        "heads as they come",
        Spec::default(),
        Fault::Layer(|layer| layer.rfc9111().ttl(Duration::from_secs(60))),
        &[Wrong::Head],
    );
}

#[test]
fn a_map_is_found_out_to_be_no_cache() {
    let expected = [
        Wrong::PassingBy,
        Wrong::Keyed,
        Wrong::Identity,
        Wrong::ForOneAlone,
        Wrong::Vary,
        Wrong::Shown,
    ];
    shows("a map", Spec::default(), Fault::Map, &expected);
}

// Invariant 15.
#[test]
fn a_seal_that_leaks_is_found_out() {
    let spec = Spec {
        sealed: true,
        hides_user: true,
        ..Spec::default()
    };
    let leaks = [Wrong::Unsealed, Wrong::Shown, Wrong::ShownToAnother];
    let who = [
        Wrong::Unsealed,
        Wrong::Shown,
        Wrong::ShownToAnother,
        Wrong::Trace,
    ];
    let fault = |key| Fault::Key(key);
    shows(
        "a header",
        spec.clone(),
        fault(|key| key.let_through(header::USER_AGENT)),
        &leaks,
    );
    shows(
        "who asks",
        spec.clone(),
        fault(|key| key.let_through(API_KEY).ignore_authorization()),
        &who,
    );
    shows(
        "no seal",
        spec.clone(),
        fault(|_| {
            Key::new()
                .ignore_cookies()
                .ignore_authorization()
                .hide_extension::<User>()
        }),
        &who,
    );
    let parameters = Parameters::Only(&["page", "sort"]);
    let query = Spec {
        parameters,
        seals_query: true,
        ..spec
    };
    shows(
        "the query",
        query,
        fault(|_| {
            let key = Key::new().query(["page", "sort"]).seal();
            key.allow_extension::<Serial>().hide_extension::<User>()
        }),
        &[Wrong::Shown, Wrong::ShownToAnother],
    );
}

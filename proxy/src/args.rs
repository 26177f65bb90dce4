//! The command line.

use std::{env, time::Duration};

use http::{HeaderName, Uri, uri::Authority};
use lexopt::{
    Error, Parser,
    prelude::{Long, ValueExt},
};

pub(crate) const USAGE: &str = "\
usage: tower-response-cache-proxy --origin http://HOST:PORT|demo [OPTION…]

  --listen HOST:PORT               where clients come [127.0.0.1:3000]
  --admin HOST:PORT                where it is purged and looked at; never the clients' address
  --admin-token TOKEN              what that asks for; better in the environment, as ADMIN_TOKEN

  --mode rfc9111|policy            who decides: the origin's responses, or the options below
                                   [rfc9111; policy with --search-paths]
  --ttl SECONDS                    lifetime of what does not say [policy: 60; rfc9111: 0, not stored]
  --stale-while-revalidate SECONDS what is stale is served, and fetched anew behind that [0]
  --stale-if-error SECONDS         what is stale is served if the origin fails [0]
  --target NAME                    a field that speaks to this cache, such as CDN-Cache-Control; may be repeated
  --store-set-cookie               stores responses with Set-Cookie (RFC 9111 §7.3)
  --max-bytes N                    memory of the cache [134217728]
  --max-body-bytes N               longer bodies are not stored [8388608]

  --search-paths                   caches _search, _msearch and _count by their body, and nothing else
  --refresh-interval SECONDS       how long a search may lag behind a write [1]

  --max-connections N              of clients, at once [1000]
  --origin-connections N           to the origin, at once [256]
  --header-timeout SECONDS         until a request's head is whole, or the next one begins [10]
  --idle-timeout SECONDS           until a connection on which nothing moves is closed [30]
  --origin-timeout SECONDS         until an origin is given up that does nothing [30]";

/// What was asked for.
pub(crate) struct Args {
    pub(crate) listen: String,
    pub(crate) origin: Origin,
    pub(crate) admin: Option<Admin>,
    pub(crate) caching: Caching,
    pub(crate) limits: Limits,
}

/// Who is asked for what is not stored.
pub(crate) enum Origin {
    At(Authority),
    /// A small one of our own.
    Demo,
}

/// Where the proxy is governed, and by whom.
pub(crate) struct Admin {
    pub(crate) listen: String,
    pub(crate) token: String,
}

/// What is stored, and for how long.
pub(crate) struct Caching {
    pub(crate) by_the_book: bool,
    pub(crate) ttl: Duration,
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) targets: Vec<HeaderName>,
    pub(crate) store_set_cookie: bool,
    pub(crate) max_bytes: u64,
    pub(crate) max_body_bytes: usize,
    /// For how long a search may lag behind a write, if searches are what is cached.
    pub(crate) search_lag: Option<Duration>,
}

/// How much anybody may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) origin_connections: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) origin_timeout: Duration,
}

/// The options as they come.
#[derive(Default)]
struct Given {
    listen: Option<String>,
    origin: Option<Origin>,
    admin: Option<String>,
    admin_token: Option<String>,
    by_the_book: Option<bool>,
    ttl: Option<Duration>,
    stale_while_revalidate: Option<Duration>,
    stale_if_error: Option<Duration>,
    targets: Vec<HeaderName>,
    store_set_cookie: bool,
    max_bytes: Option<u64>,
    max_body_bytes: Option<usize>,
    search_paths: bool,
    refresh_interval: Option<Duration>,
    connections: Option<usize>,
    origin_connections: Option<usize>,
    header_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    origin_timeout: Option<Duration>,
}

impl Args {
    /// Reads them; nothing if all that is wanted is help.
    pub(crate) fn read() -> Result<Option<Self>, Error> {
        let mut given = Given::default();
        let mut parser = Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("help") => return Ok(None),
                Long("listen") => given.listen = Some(parser.value()?.string()?),
                Long("origin") => given.origin = Some(parser.value()?.parse_with(origin)?),
                Long("admin") => given.admin = Some(parser.value()?.string()?),
                Long("admin-token") => given.admin_token = Some(parser.value()?.string()?),
                Long("mode") => given.by_the_book = Some(parser.value()?.parse_with(mode)?),
                Long("ttl") => given.ttl = seconds(&mut parser)?,
                Long("stale-while-revalidate") => {
                    given.stale_while_revalidate = seconds(&mut parser)?;
                }
                Long("stale-if-error") => given.stale_if_error = seconds(&mut parser)?,
                Long("target") => given.targets.push(parser.value()?.parse()?),
                Long("store-set-cookie") => given.store_set_cookie = true,
                Long("max-bytes") => given.max_bytes = Some(parser.value()?.parse()?),
                Long("max-body-bytes") => given.max_body_bytes = Some(parser.value()?.parse()?),
                Long("search-paths") => given.search_paths = true,
                Long("refresh-interval") => given.refresh_interval = seconds(&mut parser)?,
                Long("max-connections") => given.connections = some(&mut parser)?,
                Long("origin-connections") => given.origin_connections = some(&mut parser)?,
                Long("header-timeout") => given.header_timeout = seconds(&mut parser)?,
                Long("idle-timeout") => given.idle_timeout = seconds(&mut parser)?,
                Long("origin-timeout") => given.origin_timeout = seconds(&mut parser)?,
                _ => return Err(argument.unexpected()),
            }
        }
        given.settle().map(Some)
    }
}

impl Given {
    /// Puts in what was left open, and refuses what does not go together.
    fn settle(self) -> Result<Args, Error> {
        let origin = self.origin.ok_or(
            "--origin is missing: name the service to stand before, such as --origin http://127.0.0.1:9200, or try \
             --origin demo",
        )?;
        let by_the_book = self.by_the_book.unwrap_or(!self.search_paths);
        if by_the_book && self.search_paths {
            return Err(
                "--search-paths caches answers to POST, which RFC 9111 leaves to the origin: leave --mode rfc9111 out".into(),
            );
        }
        if !by_the_book && !self.targets.is_empty() {
            return Err(
                "--target is heeded where responses decide: choose --mode rfc9111 too".into(),
            );
        }
        if !self.search_paths && self.refresh_interval.is_some() {
            return Err("--refresh-interval is about searches: give --search-paths too".into());
        }
        let ttl = Duration::from_secs(if by_the_book { 0 } else { 60 });
        let lag = self.refresh_interval.unwrap_or(Duration::from_secs(1));
        let half_a_minute = Duration::from_secs(30);
        Ok(Args {
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:3000".to_owned()),
            origin,
            admin: admin(self.admin, self.admin_token)?,
            caching: Caching {
                by_the_book,
                ttl: self.ttl.unwrap_or(ttl),
                stale_while_revalidate: self.stale_while_revalidate.unwrap_or_default(),
                stale_if_error: self.stale_if_error.unwrap_or_default(),
                targets: self.targets,
                store_set_cookie: self.store_set_cookie,
                max_bytes: self.max_bytes.unwrap_or(128 << 20),
                max_body_bytes: self.max_body_bytes.unwrap_or(8 << 20),
                search_lag: self.search_paths.then_some(lag),
            },
            limits: Limits {
                connections: self.connections.unwrap_or(1000),
                origin_connections: self.origin_connections.unwrap_or(256),
                header_timeout: self.header_timeout.unwrap_or(Duration::from_secs(10)),
                idle_timeout: self.idle_timeout.unwrap_or(half_a_minute),
                origin_timeout: self.origin_timeout.unwrap_or(half_a_minute),
            },
        })
    }
}

/// Nobody may purge whom nobody has let in.
fn admin(listen: Option<String>, token: Option<String>) -> Result<Option<Admin>, Error> {
    let Some(listen) = listen else {
        return match token {
            Some(_) => Err(
                "--admin-token is of no use without --admin HOST:PORT: give both, or none".into(),
            ),
            None => Ok(None),
        };
    };
    let token = token.or_else(|| env::var("ADMIN_TOKEN").ok());
    let token = token.filter(|token| !token.is_empty()).ok_or(
        "--admin has no token, and would let anybody purge: set ADMIN_TOKEN in the environment, or give --admin-token",
    )?;
    Ok(Some(Admin { listen, token }))
}

fn origin(value: &str) -> Result<Origin, &'static str> {
    if value == "demo" {
        return Ok(Origin::Demo);
    }
    let uri: Uri = value
        .parse()
        .or(Err("it is no URL: write http://HOST:PORT"))?;
    if uri.scheme_str() != Some("http") {
        return Err("it is not spoken to over TLS here: write http://HOST:PORT");
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(
            "paths are passed on as they come: write http://HOST:PORT and nothing behind it",
        );
    }
    let authority = uri.into_parts().authority;
    let authority = authority.filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.ok_or("it needs a host, and nothing before it: http://HOST:PORT")?;
    Ok(Origin::At(authority))
}

fn mode(value: &str) -> Result<bool, &'static str> {
    match value {
        "rfc9111" => Ok(true),
        "policy" => Ok(false),
        _ => Err("there are rfc9111 and policy"),
    }
}

/// Ten years. What is longer is a mistake, and cannot be added to a time.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

fn seconds(parser: &mut Parser) -> Result<Option<Duration>, Error> {
    let read = |value: &str| {
        let seconds = value.parse().ok();
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let duration = duration.filter(|duration| *duration <= LONGEST);
        duration.ok_or("it is no number of seconds, or of too many")
    };
    parser.value()?.parse_with(read).map(Some)
}

fn some(parser: &mut Parser) -> Result<Option<usize>, Error> {
    let read = |value: &str| {
        let number = value.parse().ok().filter(|number| *number > 0);
        number.ok_or("it is no number above zero")
    };
    parser.value()?.parse_with(read).map(Some)
}

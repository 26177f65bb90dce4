//! The settings of the proxy: the options with their defaults, checked against each other.

use std::time::Duration;

use clap::Error;
use http::{HeaderName, header};
use tower_response_cache::Key;

use crate::forwarded::TrustedProxies;
pub(crate) use crate::options::Origin;
use crate::{
    options::{Mode, Options, Seconds, Timeout, refused},
    upstream::ClientAddress,
};

/// The settings of the proxy.
pub(crate) struct Args {
    pub(crate) listen: String,
    pub(crate) origin: Origin,
    pub(crate) admin: Option<Admin>,
    pub(crate) caching: Caching,
    pub(crate) limits: Limits,
    pub(crate) trusted: TrustedProxies,
}

/// The administrative interface.
pub(crate) struct Admin {
    pub(crate) listen: String,
    pub(crate) token: String,
}

/// The settings of the cache.
pub(crate) struct Caching {
    pub(crate) by_the_book: bool,
    pub(crate) ttl: Duration,
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) targets: Vec<HeaderName>,
    pub(crate) store_set_cookie: bool,
    pub(crate) ignore_client_directives: bool,
    pub(crate) invalidation: bool,
    pub(crate) key: Key,
    pub(crate) max_marks: usize,
    pub(crate) max_bytes: u64,
    pub(crate) max_body_bytes: usize,
    /// How long a search may not see a write; set in search mode.
    pub(crate) search_lag: Option<Duration>,
}

/// The limits of connections and requests.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) origin_connections: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) origin_timeout: Duration,
}

impl Args {
    /// Reads the options. The error is an answer to `--help` too.
    pub(crate) fn read() -> Result<Self, Error> {
        Options::read()?.settle().map_err(refused)
    }
}

impl Options {
    /// Adds the defaults, and refuses options that contradict each other.
    fn settle(self) -> Result<Args, &'static str> {
        let origin = self.origin.clone().ok_or(
            "--origin is missing: name the service to cache, such as --origin http://127.0.0.1:9200, or try \
             --origin demo",
        )?;
        Ok(Args {
            origin,
            admin: self.admin()?,
            caching: self.caching()?,
            limits: self.limits(),
            trusted: TrustedProxies::new(self.trust_forwarded),
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:3000".to_owned()),
        })
    }

    /// Purges need a token.
    fn admin(&self) -> Result<Option<Admin>, &'static str> {
        let Some(listen) = self.admin.clone() else {
            return match self.admin_token {
                Some(_) => {
                    Err("--admin-token has no effect without --admin HOST:PORT: give both, or none")
                }
                None => Ok(None),
            };
        };
        let token = self.admin_token.clone().filter(|token| !token.is_empty());
        let token = token.ok_or(
            "--admin has no token, and would let anybody purge: set ADMIN_TOKEN in the environment, or give --admin-token",
        )?;
        Ok(Some(Admin { listen, token }))
    }

    fn caching(&self) -> Result<Caching, &'static str> {
        let search_paths = self.search_paths.unwrap_or(false);
        let default = if search_paths {
            Mode::Policy
        } else {
            Mode::Rfc9111
        };
        let by_the_book = self.mode.unwrap_or(default) == Mode::Rfc9111;
        self.check(by_the_book, search_paths)?;
        let zero = Seconds(Duration::ZERO);
        let minute = Seconds(Duration::from_secs(60));
        let lag = self
            .refresh_interval
            .unwrap_or(Seconds(Duration::from_secs(1)));
        Ok(Caching {
            by_the_book,
            ttl: self
                .ttl
                .unwrap_or(if by_the_book { zero } else { minute })
                .0,
            stale_while_revalidate: self.stale_while_revalidate.unwrap_or(zero).0,
            stale_if_error: self.stale_if_error.unwrap_or(zero).0,
            targets: self.target.clone(),
            store_set_cookie: self.store_set_cookie.unwrap_or(false),
            ignore_client_directives: self.ignore_client_directives.unwrap_or(false),
            invalidation: !self.no_invalidation.unwrap_or(false),
            key: self.key()?,
            max_marks: self.max_marks.map_or(100_000, Into::into),
            max_bytes: self.max_bytes.map_or(128 << 20, Into::into),
            max_body_bytes: self.max_body_bytes.map_or(8 << 20, Into::into),
            search_lag: search_paths.then_some(lag.0),
        })
    }

    /// Refuses options that the mode has no use for.
    fn check(&self, by_the_book: bool, search_paths: bool) -> Result<(), &'static str> {
        if by_the_book && search_paths {
            return Err(
                "--search-paths caches answers to POST, which RFC 9111 leaves to the origin: leave --mode rfc9111 out",
            );
        }
        if !by_the_book && !self.target.is_empty() {
            return Err("--target needs responses that decide: choose --mode rfc9111 too");
        }
        if !search_paths && self.refresh_interval.is_some() {
            return Err("--refresh-interval is about searches: give --search-paths too");
        }
        if !by_the_book && self.ignore_client_directives == Some(true) {
            return Err(
                "--ignore-client-directives is for --mode rfc9111, the policy ignores them already: leave it out",
            );
        }
        if search_paths && self.no_invalidation == Some(true) {
            return Err(
                "--no-invalidation would keep searches after writes to their index, which --search-paths purges: leave \
                 one of the two out",
            );
        }
        if search_paths && !self.query.is_empty() {
            return Err(
                "--query leaves out parameters that change the result of a search: use --query-except with --search-paths",
            );
        }
        let longest_body = self.max_body_bytes.map_or(0, usize::from) as u64;
        if self
            .max_bytes
            .is_some_and(|bytes| bytes.get() < longest_body)
        {
            return Err(
                "--max-body-bytes is more than --max-bytes: no such body would fit, lower it",
            );
        }
        Ok(())
    }

    fn key(&self) -> Result<Key, &'static str> {
        let ignore_cookies = self.ignore_cookies.unwrap_or(false);
        let ignore_authorization = self.ignore_authorization.unwrap_or(false);
        let is_cookie = |name: &String| !name.is_empty() && !name.contains([' ', '=', ';', ',']);
        if !self.query.is_empty() && !self.query_except.is_empty() {
            return Err("--query and --query-except exclude each other: leave one of the two out");
        }
        if ignore_cookies && self.key_header.contains(&header::COOKIE) {
            return Err(
                "--key-header cookie and --ignore-cookies contradict each other: name single cookies with --key-cookie",
            );
        }
        if ignore_authorization && self.key_header.contains(&header::AUTHORIZATION) {
            return Err(
                "--key-header authorization and --ignore-authorization contradict each other: leave one of the two out",
            );
        }
        if !self.key_cookie.iter().all(is_cookie) {
            return Err(
                "--key-cookie takes the names of cookies, without values: write --key-cookie region",
            );
        }
        let mut key = Key::new();
        if !self.query.is_empty() {
            key = key.query(self.query.clone());
        }
        if !self.query_except.is_empty() {
            key = key.query_except(self.query_except.clone());
        }
        key = self.key_header.iter().cloned().fold(key, Key::header);
        key = self.key_cookie.iter().cloned().fold(key, Key::cookie);
        if ignore_cookies {
            key = key.ignore_cookies();
        }
        if ignore_authorization {
            key = key.ignore_authorization();
        }
        if !self.seal.unwrap_or(false) {
            return Ok(key);
        }
        // The origin does not see the client's address, or other parameters, either.
        key = key.seal().hide_extension::<ClientAddress>();
        let whole_query = self.query.is_empty() && self.query_except.is_empty();
        Ok(if whole_query { key } else { key.seal_query() })
    }

    fn limits(&self) -> Limits {
        let or = |timeout: Option<Timeout>, seconds| {
            timeout.map_or(Duration::from_secs(seconds), |timeout| timeout.0)
        };
        Limits {
            connections: self.max_connections.map_or(1000, Into::into),
            origin_connections: self.origin_connections.map_or(256, Into::into),
            header_timeout: or(self.header_timeout, 10),
            idle_timeout: or(self.idle_timeout, 30),
            origin_timeout: or(self.origin_timeout, 30),
        }
    }
}

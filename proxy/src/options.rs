//! The options as the command line and the configuration file give them.
//!
//! One struct serves both, so that an option has the same name in both places.

use std::{
    fs,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{
    CommandFactory, Error, FromArgMatches, Parser, ValueEnum, error::ErrorKind, parser::ValueSource,
};
use http::{HeaderName, Uri, uri::Authority};
use serde::{Deserialize, Deserializer, de};

use crate::forwarded::Network;

/// A caching reverse proxy for slow HTTP services and for searches with Elasticsearch or OpenSearch.
#[derive(Debug, Default, Parser, Deserialize)]
#[command(version, about)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Options {
    /// TOML file with options of the same names; the command line wins
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Service to cache: http://HOST:PORT, or `demo` for a built-in one (required)
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "text")]
    pub(crate) origin: Option<Origin>,
    /// Address for clients [default: 127.0.0.1:3000]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Address for purges and statistics; it must not be reachable by clients [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
    /// Bearer token for --admin; the environment hides it from other users [default: none]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ADMIN_TOKEN",
        hide_env_values = true
    )]
    pub(crate) admin_token: Option<String>,

    /// What decides on storing: the responses (rfc9111) or the options (policy) [default: rfc9111; policy with --search-paths]
    #[arg(long, value_name = "MODE", help_heading = "Caching")]
    pub(crate) mode: Option<Mode>,
    /// Lifetime of responses that state none [default: 60 with policy; 0, not stored, with rfc9111]
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers(true),
        help_heading = "Caching"
    )]
    pub(crate) ttl: Option<Seconds>,
    /// How long a stale response is served while it is refreshed in the background [default: 0]
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers(true),
        help_heading = "Caching"
    )]
    pub(crate) stale_while_revalidate: Option<Seconds>,
    /// How long a stale response is served when the origin fails [default: 0]
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers(true),
        help_heading = "Caching"
    )]
    pub(crate) stale_if_error: Option<Seconds>,
    /// Response headers that take precedence over Cache-Control, such as CDN-Cache-Control [default: none]
    #[arg(long, value_name = "NAME", num_args(1..), help_heading = "Caching")]
    #[serde(deserialize_with = "texts")]
    pub(crate) target: Vec<HeaderName>,
    /// Store responses with Set-Cookie (RFC 9111 §7.3) [default: false]
    #[arg(long, value_name = "BOOL", num_args(0..=1), require_equals(true), default_missing_value("true"), help_heading = "Caching")]
    pub(crate) store_set_cookie: Option<bool>,
    /// Memory of the cache [default: 134217728]
    #[arg(long, value_name = "N", help_heading = "Caching")]
    pub(crate) max_bytes: Option<NonZeroU64>,
    /// Longest body that is stored [default: 8388608]
    #[arg(long, value_name = "N", help_heading = "Caching")]
    pub(crate) max_body_bytes: Option<NonZeroUsize>,
    /// Ignore Cache-Control of requests [default: false]
    #[arg(long, value_name = "BOOL", num_args(0..=1), require_equals(true), default_missing_value("true"), help_heading = "Caching")]
    pub(crate) ignore_client_directives: Option<bool>,
    /// Keep stored responses when POST, PUT, PATCH or DELETE succeed at their URL [default: false]
    #[arg(long, value_name = "BOOL", num_args(0..=1), require_equals(true), default_missing_value("true"), help_heading = "Caching")]
    pub(crate) no_invalidation: Option<bool>,
    /// Purged tags that are remembered; beyond them, more is purged than was asked for [default: 100000]
    #[arg(long, value_name = "N", help_heading = "Caching")]
    pub(crate) max_marks: Option<NonZeroUsize>,

    /// Only these query parameters make a difference; `x*` means all that begin with x [default: all]
    #[arg(long, value_name = "NAME", num_args(1..), help_heading = "Key: requests that share a response")]
    pub(crate) query: Vec<String>,
    /// All query parameters but these make a difference [default: none]
    #[arg(long, value_name = "NAME", num_args(1..), help_heading = "Key: requests that share a response")]
    pub(crate) query_except: Vec<String>,
    /// Request headers that make a difference, beside those that Vary names [default: none]
    #[arg(long, value_name = "NAME", num_args(1..), help_heading = "Key: requests that share a response")]
    #[serde(deserialize_with = "texts")]
    pub(crate) key_header: Vec<HeaderName>,
    /// Cookies that make a difference [default: none]
    #[arg(long, value_name = "NAME", num_args(1..), help_heading = "Key: requests that share a response")]
    pub(crate) key_cookie: Vec<String>,
    /// No response depends on any other cookie [default: false]
    #[arg(long, value_name = "BOOL", num_args(0..=1), require_equals(true), default_missing_value("true"), help_heading = "Key: requests that share a response")]
    pub(crate) ignore_cookies: Option<bool>,
    /// No response depends on Authorization, API keys and the like [default: false]
    #[arg(long, value_name = "BOOL", num_args(0..=1), require_equals(true), default_missing_value("true"), help_heading = "Key: requests that share a response")]
    pub(crate) ignore_authorization: Option<bool>,
    /// Remove headers and cookies that are not in the key from requests to the origin [default: false]
    #[arg(long, value_name = "BOOL", num_args(0..=1), require_equals(true), default_missing_value("true"), help_heading = "Key: requests that share a response")]
    pub(crate) seal: Option<bool>,

    /// Cache _search, _msearch and _count by their bodies, and nothing else [default: false]
    #[arg(long, value_name = "BOOL", num_args(0..=1), require_equals(true), default_missing_value("true"), help_heading = "Searches")]
    pub(crate) search_paths: Option<bool>,
    /// The index's refresh interval: how long a search may not see a write [default: 1]
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers(true),
        help_heading = "Searches"
    )]
    pub(crate) refresh_interval: Option<Seconds>,

    /// Proxies whose Forwarded, X-Forwarded-* and client addresses are believed, such as 10.0.0.0/8 [default: none]
    #[arg(long, value_name = "CIDR", num_args(1..), help_heading = "Connections")]
    #[serde(deserialize_with = "texts")]
    pub(crate) trust_forwarded: Vec<Network>,
    /// Connections from clients at once [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Connections")]
    pub(crate) max_connections: Option<NonZeroUsize>,
    /// Connections to the origin at once [default: 256]
    #[arg(long, value_name = "N", help_heading = "Connections")]
    pub(crate) origin_connections: Option<NonZeroUsize>,
    /// Time for a request's head, and between requests on a connection [default: 10]
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers(true),
        help_heading = "Connections"
    )]
    pub(crate) header_timeout: Option<Timeout>,
    /// Time without progress until a client's connection is closed [default: 30]
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers(true),
        help_heading = "Connections"
    )]
    pub(crate) idle_timeout: Option<Timeout>,
    /// Time without progress until a request to the origin fails [default: 30]
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers(true),
        help_heading = "Connections"
    )]
    pub(crate) origin_timeout: Option<Timeout>,
}

impl Options {
    /// Reads the command line, the environment, and the file that `--config` names.
    pub(crate) fn read() -> Result<Self, Error> {
        let mut matches = Self::command().try_get_matches()?;
        let mut options = match matches.get_one::<PathBuf>("config") {
            Some(path) => Self::from_file(path).map_err(refused)?,
            None => Self::default(),
        };
        let source = matches.value_source("admin_token");
        options.update_from_arg_matches_mut(&mut matches)?;
        // A variable that is set for other programs too does no harm.
        if options.admin.is_none() && source == Some(ValueSource::EnvVariable) {
            options.admin_token = None;
        }
        Ok(options)
    }

    fn from_file(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string());
        let options =
            text.and_then(|text| toml::from_str(&text).map_err(|error| error.to_string()));
        options.map_err(|error| format!("--config {}: {error}", path.display()))
    }
}

/// An error in the form of clap's own, with the usage below it.
pub(crate) fn refused(reason: impl std::fmt::Display) -> Error {
    Options::command().error(ErrorKind::ValueValidation, reason)
}

/// The service behind the proxy.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    At(Authority),
    /// The built-in demo.
    Demo,
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        if value == "demo" {
            return Ok(Self::Demo);
        }
        let uri: Uri = value
            .parse()
            .or(Err("it is not a URL: write http://HOST:PORT"))?;
        if uri.scheme_str() != Some("http") {
            return Err("the proxy does not connect to origins over TLS: write http://HOST:PORT");
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(
                "the path of each request is passed on: write http://HOST:PORT and nothing behind it",
            );
        }
        let authority = uri.into_parts().authority;
        let authority = authority.filter(|authority| !authority.as_str().contains('@'));
        let authority =
            authority.ok_or("it needs a host, and nothing before it: write http://HOST:PORT")?;
        Ok(Self::At(authority))
    }
}

/// The party that decides whether a response is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Rfc9111,
    Policy,
}

/// A duration, which may be zero.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Seconds(pub(crate) Duration);

/// A duration above zero.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Timeout(pub(crate) Duration);

/// Ten years. A longer duration is a mistake, and could not be added to a time.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const NO_SECONDS: &str = "it must be a number of seconds, from 0 to ten years";
const NO_TIMEOUT: &str = "it must be a number of seconds above zero, up to ten years";

impl TryFrom<f64> for Seconds {
    type Error = &'static str;

    fn try_from(seconds: f64) -> Result<Self, Self::Error> {
        let duration = Duration::try_from_secs_f64(seconds).ok();
        let duration = duration.filter(|duration| *duration <= LONGEST);
        duration.map(Self).ok_or(NO_SECONDS)
    }
}

impl TryFrom<f64> for Timeout {
    type Error = &'static str;

    fn try_from(seconds: f64) -> Result<Self, Self::Error> {
        let duration = Seconds::try_from(seconds).ok().map(|seconds| seconds.0);
        let duration = duration.filter(|duration| !duration.is_zero());
        duration.map(Self).ok_or(NO_TIMEOUT)
    }
}

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        value.parse::<f64>().or(Err(NO_SECONDS))?.try_into()
    }
}

impl FromStr for Timeout {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        value.parse::<f64>().or(Err(NO_TIMEOUT))?.try_into()
    }
}

/// Reads a string of the file as clap reads an argument.
fn text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let value = String::deserialize(deserializer)?;
    value.parse().map(Some).map_err(de::Error::custom)
}

/// Reads an array of strings likewise.
fn texts<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let values = Vec::<String>::deserialize(deserializer)?;
    let values = values.iter().map(|value| value.parse());
    values.collect::<Result<_, _>>().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options, each with its default as `--help` states it.
    fn options() -> Vec<(String, String)> {
        let command = Options::command();
        let described = command.get_arguments().filter_map(|arg| {
            let help = arg.get_help()?.to_string();
            let default = help.split_once("[default: ").map_or("—", |(_, rest)| rest);
            let default = default.trim_end_matches(']').to_owned();
            Some((format!("--{}", arg.get_long()?), default))
        });
        described.collect()
    }

    #[test]
    fn the_table_of_the_readme_has_every_option_with_its_default() {
        let readme = include_str!("../README.md");
        let rows = readme.lines().filter(|line| line.starts_with("| `--"));
        let table: Vec<_> = rows
            .map(|row| {
                let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
                let name = cells[0].trim_matches('`').split([' ', '[']).next().unwrap();
                (name.to_owned(), cells[1].replace('`', ""))
            })
            .collect();
        assert_eq!(table, options());
    }

    #[test]
    fn the_file_knows_every_option_of_the_command_line_but_its_own() {
        for (name, _) in options() {
            let name = name.trim_start_matches("--");
            let file = format!("{name} = 1979-05-27");
            let error = toml::from_str::<Options>(&file).unwrap_err().to_string();
            assert_eq!(error.contains("unknown field"), name == "config", "{error}");
        }
    }
}

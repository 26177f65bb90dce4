//! The headers in which earlier proxies describe the client (`Forwarded`, `X-Forwarded-*` and the like), and the proxies that are trusted.

use std::{net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Other headers in which proxies and CDNs pass on the client's address.
const CLIENT_ADDRESS: [&str; 19] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "cloudfront-viewer-address",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "proxy-client-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-nf-client-connection-ip",
    "x-original-forwarded-for",
    "x-real-ip",
];

/// Addresses that begin alike: `10.0.0.0/8`, or one address.
#[derive(Clone, Debug)]
pub(crate) struct Network(IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let one = || value.parse::<IpAddr>().ok().map(IpNet::from);
        let network = value.parse().ok().or_else(one);
        let network =
            network.ok_or("it is not a network: write 10.0.0.0/8, fd00::/8 or one address")?;
        Ok(Self(network))
    }
}

/// The addresses of proxies whose `Forwarded` and `X-Forwarded-*` are believed.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    pub(crate) fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    fn contains(&self, address: IpAddr) -> bool {
        // A listener on `[::]` sees clients of IPv4 as `::ffff:192.0.2.1`.
        let address = address.to_canonical();
        self.0
            .iter()
            .any(|Network(network)| network.contains(&address))
    }

    /// Removes what a client says of hops before this one, unless it is a proxy that is trusted. Names with `_` are removed in any
    /// case: some servers take it for `-`, and then nobody knows which of the two was meant.
    pub(crate) fn filter(&self, headers: &mut HeaderMap, client: IpAddr) {
        let is_trusted = self.contains(client);
        let is_removed = |name: &&HeaderName| {
            name.as_str().contains('_') || (!is_trusted && speaks_of_hops(name.as_str()))
        };
        let removed: Vec<_> = headers.keys().filter(is_removed).cloned().collect();
        for name in removed {
            headers.remove(name);
        }
    }
}

fn speaks_of_hops(name: &str) -> bool {
    name == "forwarded" || name.starts_with("x-forwarded-") || CLIENT_ADDRESS.contains(&name)
}

/// Tells the origin of this hop: adds the client's address to those that a trusted proxy has named, and says for which host and over
/// which scheme the request came, unless a trusted proxy has. What nobody is trusted with is [removed](TrustedProxies::filter) before.
pub(crate) fn tell_origin(
    headers: &mut HeaderMap,
    host: Option<HeaderValue>,
    client: Option<IpAddr>,
) {
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    if let Some(client) = client.map(|client| client.to_canonical()) {
        add(headers, &X_FORWARDED_FOR, client.to_string().as_bytes());
        if headers.contains_key(header::FORWARDED) {
            add(
                headers,
                &header::FORWARDED,
                forwarded_for(client).as_bytes(),
            );
        }
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
}

/// Adds a member to a list, which is one line then: not every server reads more than the first.
fn add(headers: &mut HeaderMap, name: &HeaderName, member: &[u8]) {
    let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let list = lines.chain([member]).collect::<Vec<_>>().join(&b", "[..]);
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name, list);
    }
}

/// RFC 7239 §6: an address of IPv6 stands in brackets and quotes.
fn forwarded_for(client: IpAddr) -> String {
    match client {
        IpAddr::V4(client) => format!("for={client}"),
        IpAddr::V6(client) => format!("for=\"[{client}]\""),
    }
}

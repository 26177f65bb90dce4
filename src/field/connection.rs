//! The fields that are for one connection alone (RFC 9110 §7.6.1).

use http::{HeaderMap, HeaderName, header};

use super::retain;

/// Which fields of a message are.
#[derive(Debug)]
pub(crate) struct OfTheConnection(Vec<HeaderName>);

impl OfTheConnection {
    /// Those that are known to be, and those that `Connection` names.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::CONNECTION).iter();
        let names = lines.flat_map(|line| line.as_bytes().split(|&b| b == b','));
        let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
        Self(names.collect())
    }

    pub(crate) fn contains(&self, name: &HeaderName) -> bool {
        const KNOWN: [HeaderName; 6] = [
            header::CONNECTION,
            HeaderName::from_static("keep-alive"),
            HeaderName::from_static("proxy-connection"),
            header::TE,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ];
        KNOWN.contains(name) || self.0.contains(name)
    }

    /// Takes them out.
    pub(crate) fn strip(headers: &mut HeaderMap) {
        let of_the_connection = Self::of(headers);
        retain(headers, |name| !of_the_connection.contains(name));
    }
}

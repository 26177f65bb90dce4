//! Groups of responses: `Cache-Groups` and `Cache-Group-Invalidation` (RFC 9875).

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, ListEntry};

use super::structured;

/// A field that names more groups than this is ignored. RFC 9875 §2: no fewer than 32.
const MAX_GROUPS: usize = 256;

/// The groups that a field names, in all its lines. `None` if it is absent, or not such a list.
pub(crate) fn groups(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let members = structured::list(headers, name)?;
    if members.len() > MAX_GROUPS {
        return None;
    }
    members.into_iter().map(group).collect()
}

/// RFC 9875 §2: a String, whose parameters are ignored.
fn group(member: ListEntry) -> Option<String> {
    match member {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::String(name) => Some(name.into()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    }
}

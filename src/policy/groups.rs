//! The groups of RFC 9875: tags that responses name themselves, each within its own origin.

use http::{HeaderMap, HeaderName};

use crate::field;

const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// The groups that a stored response is in, as tags.
pub(crate) fn groups(origin: Option<&str>, response: &HeaderMap) -> Vec<Box<[u8]>> {
    tags(origin, response, &CACHE_GROUPS)
}

/// The groups that the answer to an unsafe request invalidates, as tags (RFC 9875 §3).
pub(crate) fn invalidated_groups(origin: Option<&str>, response: &HeaderMap) -> Vec<Box<[u8]>> {
    tags(origin, response, &CACHE_GROUP_INVALIDATION)
}

/// RFC 9875 §2.1: two groups are the same if they bear the same name on the same origin.
fn tags(origin: Option<&str>, response: &HeaderMap, field: &HeaderName) -> Vec<Box<[u8]>> {
    if !response.contains_key(field) {
        return Vec::new();
    }
    let groups = field::groups(response, field).unwrap_or_default();
    let origin = origin.unwrap_or_default();
    let tag = |group: &String| format!("{PREFIX}{origin} {group}").into_bytes().into();
    groups.iter().map(tag).collect()
}

/// How the tag of a group begins.
const PREFIX: &str = "cache-group ";

/// Whether a tag may be that of a group.
pub(crate) fn is_group(tag: &[u8]) -> bool {
    tag.starts_with(PREFIX.as_bytes())
}

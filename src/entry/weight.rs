//! How much memory a stored response takes: what the allocator was asked for, not counting the allocator's own overhead.
//! `tests/memory.rs` holds it against a counting allocator.

use http::{HeaderMap, HeaderName};

/// A name and its first value in `HeaderMap`'s list of fields: two handles of four words, a flag, a hash, links.
const FIELD: usize = 104;

/// A further value of the same name.
const FURTHER_VALUE: usize = 72;

/// A row in the table of targets, and the handle on it.
pub(super) const TARGET_ROW: usize = 80;

/// A place in `HeaderMap`'s index.
const INDEX_PLACE: usize = 4;

/// What `Bytes` allocates beside its data when it is first cloned, which the first hit does.
pub(super) const SHARED_BYTES: usize = 24;

/// The memory behind a map of headers that was cloned into its place: the index as large as it was made, the fields without spare room.
pub(super) fn of_headers(headers: &HeaderMap) -> usize {
    // Three of four places of the index are used at the most; `capacity` says how many.
    let index = headers.capacity().div_ceil(3) * 4 * INDEX_PLACE;
    let further = headers.len() - headers.keys_len();
    let names: usize = headers.keys().map(of_name).sum();
    let values: usize = headers.values().map(|value| of_bytes(value.len())).sum();
    index + headers.keys_len() * FIELD + further * FURTHER_VALUE + names + values
}

/// The memory behind a handle on so many bytes.
pub(super) fn of_bytes(length: usize) -> usize {
    if length == 0 {
        0
    } else {
        length + SHARED_BYTES
    }
}

/// The memory behind a name: none if it is a registered one that `http` knows.
pub(super) fn of_name(name: &HeaderName) -> usize {
    let again = HeaderName::from_bytes(name.as_str().as_bytes());
    let is_known = again.is_ok_and(|again| again.as_str().as_ptr() == name.as_str().as_ptr());
    if is_known {
        0
    } else {
        of_bytes(name.as_str().len())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    #[test]
    fn names_that_are_known_take_no_memory_of_their_own() {
        assert_eq!(of_name(&header::CONTENT_TYPE), 0);
        assert_eq!(
            of_name(&HeaderName::from_static("x-page")),
            6 + SHARED_BYTES
        );
    }

    #[test]
    fn a_map_counts_its_index_its_fields_and_its_values() {
        let mut headers = HeaderMap::new();
        assert_eq!(of_headers(&headers), 0);
        headers.insert(header::ETAG, HeaderValue::from_static("12345"));
        let one = 8 * INDEX_PLACE + FIELD + 5 + SHARED_BYTES;
        assert_eq!(of_headers(&headers), one);
        headers.append(header::ETAG, HeaderValue::from_static(""));
        assert_eq!(of_headers(&headers), one + FURTHER_VALUE);
    }
}

//! Fields of HTTP that a cache has to understand, read into types. It knows nothing of the cache.
//!
//! Every parser is total: no bytes make it panic. What cannot be read never permits more than if it were not there.

mod cache_control;
mod coding;
mod connection;
mod date;
mod directive;
mod entity_tag;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod groups;
mod no_vary_search;
mod number;
mod one_request;
mod range;
mod structured;

use http::{HeaderMap, HeaderName};

pub(crate) use cache_control::{Qualified, RequestControl, ResponseControl};
pub(crate) use coding::{accepts_a_coding, names_field};
pub(crate) use connection::OfTheConnection;
pub(crate) use date::{format_date, parse_date, single_date};
pub(crate) use entity_tag::{EntityTag, names};
pub(crate) use groups::groups;
pub(crate) use no_vary_search::NoVarySearch;
pub(crate) use number::{age, delta_seconds};
pub(crate) use one_request::{hands_over, is_of_one_request};
pub(crate) use range::{Selected, has_another_unit, select, selects_all};

/// Takes out the lines whose name is not to be kept. The others stay as they are and in their order: `HeaderMap::remove` puts the
/// last one in the place of what it removes.
pub(crate) fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) {
    if headers.keys().all(&keep) {
        return;
    }
    let all = std::mem::take(headers);
    headers.reserve(all.keys_len());
    let mut name = None;
    for (next, value) in all {
        // The second line of a name comes without it.
        name = next.or(name);
        if let Some(name) = name.as_ref().filter(|name| keep(name)) {
            headers.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    #[test]
    fn what_is_kept_stays_in_its_order_with_all_its_lines() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("etag", "1"),
            ("link", "a"),
            ("content-type", "t"),
            ("link", "b"),
            ("x-one", "2"),
            ("etag", "3"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let lines = |headers: &HeaderMap| {
            let lines = headers.iter();
            let lines = lines.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            lines.collect::<Vec<_>>()
        };
        let before = lines(&headers);
        retain(&mut headers, |_| true);
        assert_eq!(lines(&headers), before);
        retain(&mut headers, |name| *name != header::ETAG);
        let expected = ["link: a", "link: b", "content-type: t", "x-one: 2"];
        assert_eq!(lines(&headers), expected);
        retain(&mut headers, |_| false);
        assert!(headers.is_empty());
    }
}

//! Fields of HTTP that a cache has to understand, read into types. It knows nothing of the cache.
//!
//! Every parser is total: no bytes make it panic. What cannot be read never permits more than if it were not there.

mod cache_control;
mod date;
mod directive;
mod groups;
mod no_vary_search;
mod number;
mod structured;

pub(crate) use cache_control::{Qualified, RequestControl, ResponseControl};
pub(crate) use date::{format_date, parse_date, single_date};
pub(crate) use directive::Malformed;
pub(crate) use groups::groups;
pub(crate) use no_vary_search::NoVarySearch;
pub(crate) use number::{age, delta_seconds};

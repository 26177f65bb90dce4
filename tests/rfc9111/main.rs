//! HTTP caching by the book: each rule of RFC 9111, and of what builds upon it, as a row of a table.
//!
//! A row bears the rule's number, and says in which modes it holds: both, that of RFC 9111, or that of a policy of the application's
//! own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod harness;

mod cache_status;
mod collapsing;
mod conditional;
mod freshness;
mod groups;
mod head;
mod invalidation;
mod key_and_vary;
mod no_vary_search_and_query;
mod ranges;
mod replies;
mod requests;
mod stale;
mod storing;
mod targeted;
mod validation;

/// The rules that are held here, by the numbers of their sections. 11.6 (1xx) is not among them: a service answers with one final response.
const RULES: &[(&str, u32)] = &[
    ("1", 17),
    ("2", 9),
    ("3", 12),
    ("4", 12),
    ("5", 10),
    ("6", 1),
    ("7", 5),
    ("8", 6),
    ("9", 9),
    ("10", 6),
    ("11", 4),
    ("12", 7),
    ("14", 4),
    ("15", 4),
    ("16", 3),
    ("17", 3),
];

const SOURCES: &[&str] = &[
    include_str!("cache_status.rs"),
    include_str!("collapsing.rs"),
    include_str!("conditional.rs"),
    include_str!("freshness.rs"),
    include_str!("groups.rs"),
    include_str!("head.rs"),
    include_str!("invalidation.rs"),
    include_str!("key_and_vary.rs"),
    include_str!("no_vary_search_and_query.rs"),
    include_str!("ranges.rs"),
    include_str!("replies.rs"),
    include_str!("requests.rs"),
    include_str!("stale.rs"),
    include_str!("storing.rs"),
    include_str!("targeted.rs"),
    include_str!("validation.rs"),
];

#[test]
fn every_rule_has_a_test_that_bears_its_number() {
    for (section, last) in RULES {
        for rule in 1..=*last {
            let test = format!("_{section}_{rule}_");
            let lines = || SOURCES.iter().flat_map(|source| source.lines());
            let is_tested = lines().any(|line| {
                let name = line.strip_prefix("async fn rule");
                name.is_some_and(|name| name.contains(&test))
            });
            assert!(is_tested, "rule {section}.{rule}");
        }
    }
}

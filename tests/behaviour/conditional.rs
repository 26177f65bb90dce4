//! Conditional requests, and the validators that answer them.

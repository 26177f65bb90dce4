//! The proxy as a process of its own: before origins that say just the bytes they are told, and with clients
//! that hide nothing.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

mod abuse;
mod admin;
mod failures;
mod forwarded;
mod framing;
mod kept;
mod messages;
mod options;
mod outages;
mod requests;
mod search;
mod spelled;
mod stopping;
mod tools;

//! How the cache behaves, one module a subject; each test is named by the behaviour that it checks.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../src/tests/scale.rs"]
mod scale;

mod bounds;
mod collapsing;
mod composition;
mod conditional;
mod credentials;
#[cfg(feature = "tracing")]
mod events;
mod explain;
mod fragments;
mod grpc;
mod grpc_methods;
mod invalidation;
mod max_age;
mod purging;
mod ranges;
mod recordings;
mod response_headers;
mod revalidation;
mod runtimes;
mod scopes;
mod sealing;
mod sequence;
mod served;
mod sessions;
mod status;
mod store_if;
mod storing;
mod streams;
mod targets;

//! Unary gRPC calls, streams and failures.

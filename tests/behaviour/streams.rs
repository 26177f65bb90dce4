//! Responses whose bodies stream.

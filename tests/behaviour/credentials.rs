//! Credentials in requests and in responses.

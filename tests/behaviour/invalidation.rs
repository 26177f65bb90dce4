//! Unsafe methods, and what they purge.

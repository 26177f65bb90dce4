//! Memory counted, limits, and what clients can cause.

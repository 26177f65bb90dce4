//! `Cache-Status`, reasons, statistics and events.

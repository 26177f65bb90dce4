//! Which responses are stored, and with which header fields.

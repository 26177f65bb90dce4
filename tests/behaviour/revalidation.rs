//! Responses that are validated, replaced, or updated by a 304 or a HEAD.

//! Responses composed of other responses of the same cache.

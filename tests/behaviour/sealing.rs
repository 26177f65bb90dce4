//! Sealed keys, and extensions of the request.

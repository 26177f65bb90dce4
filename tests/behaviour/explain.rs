//! What `explain` and the status say.

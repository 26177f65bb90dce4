//! Where responses are kept, and what is known of where to look for them.

mod expiry;
mod memory;
mod searches;

pub(crate) use expiry::Expiry;
pub(crate) use memory::{Memory, Replaces, Slot};
pub(crate) use searches::Searches;

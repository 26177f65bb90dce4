//! Where responses are kept.

mod memory;

pub(crate) use memory::{Memory, Slot};

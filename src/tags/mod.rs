//! What a response shows, and what was purged since.

mod clock;
mod tag;

pub mod scope;

pub(crate) use clock::{Arrival, Birth, PurgeClock, Stamp};
pub use scope::CacheScope;
pub use tag::{Tag, TagFamily, Tags};

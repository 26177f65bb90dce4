//! What a response shows, and what was purged since.

mod clock;
mod marks;
mod names;
mod part;
mod present;
mod tag;

pub mod scope;

pub(crate) use clock::{Arrival, Birth, PurgeClock, Stamp};
pub(crate) use marks::{Force, TagHash, Targets};
pub(crate) use names::TagNames;
pub(crate) use part::{Part, PartMarks, PendingPart};
pub(crate) use present::Presence;
pub use scope::CacheScope;
pub use tag::{Tag, TagFamily, Tagged, Tags};

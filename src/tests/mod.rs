//! Tests that need to look inside, or to switch on a deliberate fault.

#[cfg(not(model))]
mod composed;
#[cfg(not(model))]
mod flights;
#[cfg(model)]
mod model;
#[cfg(not(model))]
mod promise;
pub(crate) mod scale;

//! Tests that need to look inside, or to switch on a deliberate fault.

mod promise;

//! Whatever a field says, it is read without a panic, and what may forbid is not overlooked.
//!
//! `cargo +nightly fuzz run field -- -max_total_time=60`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tower_response_cache::fuzz_fields(bytes));

//! Two requests have the same key exactly when all that was chosen of them is equal.
//!
//! `cargo +nightly fuzz run key -- -max_total_time=60`
#![no_main]

libfuzzer_sys::fuzz_target!(|choices: &[u8]| tower_response_cache::fuzz_key(choices));

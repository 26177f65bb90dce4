//! The size of the long tests.

/// `quick` in a plain `cargo test`; that many times as much where `CACHE_TEST_SCALE` is set: 10 in `.ci/run`, 100 in
/// `.ci/run long`.
pub(crate) fn scaled(quick: usize) -> usize {
    quick * scale()
}

fn scale() -> usize {
    let scale = std::env::var("CACHE_TEST_SCALE").ok();
    scale.map_or(1, |scale| {
        scale.parse().expect("CACHE_TEST_SCALE is a number")
    })
}

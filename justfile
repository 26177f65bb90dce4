# The steps of .ci/run, one by one: it runs nothing that cannot be run here.

# Every step, as CI runs them
ci:
    bash .ci/run

# Unit tests, integration tests, doctests
test:
    bash .ci/run test

# The long tests at ten times their usual size, as CI runs them
medium:
    bash .ci/run medium

# The long tests and the fuzz targets at full size: about an hour
long:
    bash .ci/run long

# Is everything formatted? (`cargo fmt` formats it)
fmt:
    bash .ci/run fmt

# The purge clock under loom
model:
    bash .ci/run model

# clippy on everything, warnings denied
lint:
    bash .ci/run lint

# The documentation, warnings denied; as docs.rs builds it too, where there is a nightly
docs:
    bash .ci/run docs

# clippy on the library with no feature, with each, with all
features:
    bash .ci/run features

# Each block of the README compiles without a warning in a crate of its own
readme:
    bash .ci/run readme

# All examples build
examples:
    bash .ci/run examples

# The fuzz targets for half a minute each (longer: `cargo +nightly fuzz run key -- -max_len=192 -len_control=0`)
fuzz:
    bash .ci/run fuzz

# Licences, sources and advisories of the dependencies
deny:
    bash .ci/run deny

# It builds with the rust-version of Cargo.toml, and no dependency asks for a newer one
msrv:
    bash .ci/run msrv

# Measures; CI runs each benchmark once, to see that it works (`bash .ci/run bench`)
bench *args:
    cargo bench --all-features --bench '*' -- {{ args }}

# Do imports go down the floors, and public signatures name public dependencies only?
floors:
    cargo test --all-features --test floors

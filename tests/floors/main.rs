//! Keeps the shape of `src`: imports go down the floors, none is a glob, and what is public names no crate but those
//! we mean to be tied to.
//!
//! It reads the source as tokens, so comments, strings and what is compiled for tests alone do not count. It expands
//! no macros, and does not see through a type alias.

mod imports;
mod signatures;
mod source;

use std::collections::BTreeSet;
use std::path::Path;

use imports::Import;
use source::Source;

/// The modules at the root of the crate, top to bottom. A module may name those below it, and itself.
const FLOORS: &[&str] = &[
    "lib",
    "guide",
    "axum",
    "layer",
    "handle",
    "warm",
    "purge",
    "refresh",
    "service",
    "future",
    "again",
    "behind",
    "post",
    "invalidation",
    "respond",
    "shaped",
    "fill",
    "conclude",
    "explain",
    "stale",
    "repeat",
    "reply",
    "lookup",
    "bypass",
    "body",
    "recorder",
    "anew",
    "sweep",
    "pinned",
    "config",
    "shared",
    "explanation",
    "policy",
    "store",
    "recording",
    "flight",
    "renewal",
    "entry",
    "vary",
    "tags",
    "key",
    "field",
    "grpc",
    "mutant",
    "filter",
    "events",
    "reasons",
    "status",
    "error",
    "clock",
    "caught",
    "sync",
];

/// The dependencies that public signatures may name. All others are ours to change without a breaking release.
const PUBLIC_DEPENDENCIES: &[&str] = &[
    "axum_core",
    "bytes",
    "futures_core",
    "http",
    "http_body",
    "tokio",
    "tower_layer",
    "tower_service",
];

fn crate_sources() -> Vec<Source> {
    source::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// Fails with every fault on a line of its own.
fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

#[test]
fn imports_go_down_the_floors() {
    let faults: Vec<_> = crate_sources()
        .iter()
        .flat_map(|source| climbs(source, FLOORS))
        .collect();
    assert_none(
        "imports that go up (FLOORS in tests/floors/main.rs)",
        &faults,
    );
}

#[test]
fn no_import_is_a_glob() {
    let faults: Vec<_> = crate_sources().iter().flat_map(globs).collect();
    assert_none("imports that are not listed", &faults);
}

#[test]
fn every_module_has_a_floor_and_every_floor_a_module() {
    let sources = crate_sources();
    let modules: BTreeSet<_> = sources.iter().map(Source::floor).collect();
    let floors: BTreeSet<_> = FLOORS.iter().copied().collect();
    assert_eq!(
        modules, floors,
        "left: src; right: FLOORS in tests/floors/main.rs"
    );
}

#[test]
fn public_signatures_name_only_public_dependencies() {
    let private: Vec<_> = dependencies()
        .into_iter()
        .filter(|name| !PUBLIC_DEPENDENCIES.contains(&name.as_str()))
        .collect();
    let faults = signatures::leaks(&crate_sources(), &private);
    assert_none(
        "public signatures that name a private dependency (PUBLIC_DEPENDENCIES in tests/floors/main.rs)",
        &faults,
    );
}

/// The crate's own dependencies, by the names that code calls them.
fn dependencies() -> Vec<String> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {stderr}");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"][0]["dependencies"]
        .as_array()
        .expect("a package has dependencies")
        .iter()
        .filter(|dependency| dependency["kind"].is_null())
        .filter_map(|dependency| {
            dependency["rename"]
                .as_str()
                .or(dependency["name"].as_str())
        })
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn climbs(source: &Source, floors: &[&str]) -> Vec<String> {
    let height = |floor: &str| floors.iter().position(|name| *name == floor);
    let from = source.floor();
    let climb = |import: &Import| {
        let to = import
            .from_root
            .as_ref()?
            .first()
            .map_or("lib", String::as_str);
        // What is no module can only be an item of lib.rs, or re-exported by it.
        let floor = if height(to).is_some() { to } else { "lib" };
        let climbs = floor != from && height(floor) < height(from);
        let name = written(import);
        climbs.then(|| {
            format!(
                "{}: `{from}` names `{name}`, of `{floor}`",
                place(source, import)
            )
        })
    };
    imports::of(source).iter().filter_map(climb).collect()
}

fn globs(source: &Source) -> Vec<String> {
    imports::of(source)
        .iter()
        .filter(|import| import.glob)
        .map(|import| format!("{}: `{}`", place(source, import), written(import)))
        .collect()
}

fn place(source: &Source, import: &Import) -> String {
    format!("src/{}:{}", source.path.display(), import.line)
}

fn written(import: &Import) -> String {
    let mut path = import.path.join("::");
    if import.glob {
        path.push_str("::*");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::{FLOORS, Source, climbs, globs};

    /// What `climbs` says of `text`, were it the file at `path`.
    fn climbs_in(path: &str, text: &str) -> Vec<String> {
        climbs(
            &Source::parse(path, text),
            &["lib", "high", "middle", "low"],
        )
    }

    #[test]
    fn an_import_from_above_is_caught_with_its_file_line_and_name() {
        let faults = climbs_in("low.rs", "use std::fmt;\nuse crate::high::Thing;\n");
        assert_eq!(
            faults,
            ["src/low.rs:2: `low` names `crate::high::Thing`, of `high`"]
        );
    }

    #[test]
    fn every_way_to_name_what_is_above_is_caught() {
        for text in [
            "use crate::high;",
            "use crate::{low::A, high::{B, C as D}};",
            "pub(crate) use crate::middle::A;",
            "fn f() { crate::high::g() }",
            "fn f(a: &crate::middle::A) {}",
            "type A = Vec<crate::high::A>;",
            "use super::high::A;",
            "use self::super::high::A;",
            "mod inner { use super::super::high::A; }",
            "use crate::Reexported;",
            "use crate as root;",
            "fn f<'a>(_: &'a str) { let _ = ('\"', b'\\'', \"\\\"\", r#\"\"\"#); crate::high::g() }",
            "#[cfg(not(test))] use crate::high::A;",
            "#[cfg(test)] use crate::low::A; use crate::high::B;",
            "#[cfg(test)] fn f<A, B>() {} use crate::high::B;",
            "struct S { #[cfg(test)] a: u8, b: crate::high::B }",
        ] {
            assert_ne!(climbs_in("low.rs", text), [""; 0], "{text}");
        }
        assert_ne!(
            climbs_in("low/part.rs", "use super::super::high::A;"),
            [""; 0]
        );
        assert_ne!(climbs_in("middle/mod.rs", "use super::high::A;"), [""; 0]);
    }

    #[test]
    fn each_name_in_a_group_is_judged_by_itself() {
        let faults = climbs_in(
            "middle.rs",
            "use crate::{\n    high::A,\n    low::B,\n    C,\n};",
        );
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("src/middle.rs:2: `middle` names `crate::high::A`"));
        assert!(faults[1].starts_with("src/middle.rs:4: `middle` names `crate::C`, of `lib`"));
    }

    #[test]
    fn what_goes_down_or_stays_is_let_through() {
        for text in [
            "use crate::low::A;",
            "use crate::middle::A;",
            "use super::low::A;",
            "mod inner { use super::A; use super::super::low::B; }",
            "use http::{HeaderMap, header::{self, AGE}};",
            "pub(crate) fn f() -> impl Fn() + use<> { || () }",
            "pub(in crate::middle) fn f() {}",
            "// use crate::high::A;\n/* crate::high::g() /* nested */ crate::high::A */",
            "/// [`A`](crate::high::A)\nstruct S;",
            "const S: &str = \"crate::high::A\"; const R: &str = r#\"\"crate::high::A\"#;",
            "#[cfg(test)]\nmod tests { use crate::high::A; }",
            "#[cfg(all(test, feature = \"x\"))] #[allow(dead_code)] mod tests { use crate::high::A; }",
            "#[cfg(test)] use crate::{high::A, high::B};",
            "#[cfg(test)] pub(crate) const fn f<A, B>(_: [u8; 3]) { crate::high::g() }",
            "struct S { #[cfg(test)] a: crate::high::A, b: u8 }",
            "macro_rules! m { () => { $crate::high::g() } }",
        ] {
            assert_eq!(climbs_in("middle.rs", text), [""; 0], "{text}");
        }
        assert_eq!(
            climbs_in("middle/part.rs", "use super::A; use super::super::low::B;"),
            [""; 0]
        );
        assert_eq!(
            climbs_in(
                "lib.rs",
                "mod high; pub use high::A; pub use crate::low::B;"
            ),
            [""; 0]
        );
    }

    #[test]
    fn a_glob_is_caught_unless_it_is_a_tests() {
        let globs_in = |text: &str| globs(&Source::parse("low.rs", text));
        assert_eq!(
            globs_in("use crate::low::{a, part::*};"),
            ["src/low.rs:1: `crate::low::part::*`"]
        );
        assert_eq!(globs_in("\nuse http::*;"), ["src/low.rs:2: `http::*`"]);
        assert_eq!(
            globs_in("fn f() { use Kind::*; }"),
            ["src/low.rs:1: `Kind::*`"]
        );
        assert_eq!(globs_in("fn f(a: &u8) -> u8 { *a * 2 }"), [""; 0]);
        assert_eq!(
            globs_in("#[cfg(test)] mod tests { use super::*; }"),
            [""; 0]
        );
    }

    #[test]
    fn no_floor_is_listed_twice() {
        let distinct: std::collections::BTreeSet<_> = FLOORS.iter().collect();
        assert_eq!(distinct.len(), FLOORS.len());
    }
}

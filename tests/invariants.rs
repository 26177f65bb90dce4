//! Each invariant is held by a test, and each number that a test names is an invariant.
//!
//! A test names its invariants in the comment above it: `// Invariants 25, 26.`

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut sources: Vec<_> = folders.iter().flat_map(|folder| sources(folder)).collect();
    sources.extend(
        files
            .into_iter()
            .filter(|file| file.extension().is_some_and(|e| e == "rs")),
    );
    sources
}

/// The numbers after `Invariant` or `Invariants`, up to the sentence's end.
fn numbers(comment: &str) -> Vec<u32> {
    let Some((_, rest)) = comment.split_once("// Invariant") else {
        return Vec::new();
    };
    let list = rest
        .trim_start_matches('s')
        .split(['.', ':'])
        .next()
        .unwrap_or_default();
    list.split(',')
        .filter_map(|number| number.trim().parse().ok())
        .collect()
}

/// The numbers that the tests in this source name.
fn named(source: &str) -> BTreeSet<u32> {
    source
        .lines()
        .flat_map(|line| numbers(line.trim()))
        .collect()
}

/// The number of an item `7. The text of the invariant` of the list.
fn listed(line: &str) -> Option<u32> {
    let (number, text) = line.split_once(". ")?;
    number.parse().ok().filter(|_| !text.is_empty())
}

#[test]
fn each_invariant_is_named_by_a_test_and_no_test_names_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = [sources(&root.join("tests")), sources(&root.join("src"))].concat();
    let this_file = root.join("tests").join("invariants.rs");
    let named: BTreeSet<u32> = sources
        .iter()
        .filter(|path| **path != this_file)
        .flat_map(|path| named(&fs::read_to_string(path).unwrap()))
        .collect();
    let list = fs::read_to_string(root.join("docs/invariants.md")).unwrap();
    let listed: BTreeSet<u32> = list.lines().filter_map(listed).collect();
    let untested: Vec<_> = listed.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&listed).collect();
    assert!(untested.is_empty(), "no test names invariant {untested:?}");
    assert!(
        unknown.is_empty(),
        "docs/invariants.md has no invariant {unknown:?}"
    );
}

#[test]
fn numbers_are_read_from_comments_and_from_the_list() {
    let source = "    // Invariants 25, 26: and why.\n    #[test]\n    fn it_holds() {}";
    assert_eq!(named(source), [25, 26].into());
    assert_eq!(numbers("// Invariant 8. RFC 9110 §1"), [8]);
    assert!(numbers("// nothing of the kind").is_empty());
    assert_eq!(listed("3. A hit requires equal keys"), Some(3));
    assert_eq!(listed("| limit | default |"), None);
}

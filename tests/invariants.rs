//! ARCHITECTURE.md says which test holds which invariant: this holds it to what stands beside the tests.
//!
//! A test names its invariants in the comment above it: `// Invariants 25, 26.`

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

type Held = BTreeMap<u32, BTreeSet<String>>;

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

/// What the tests say of themselves.
fn claimed(source: &str) -> Vec<(u32, String)> {
    let mut claims = Vec::new();
    let mut open = Vec::new();
    for line in source.lines().map(str::trim) {
        open.extend(numbers(line));
        let name = line.strip_prefix("async fn ").or(line.strip_prefix("fn "));
        if let Some(name) = name {
            let name = name.split('(').next().unwrap_or_default();
            claims.extend(open.drain(..).map(|number| (number, name.to_owned())));
        }
    }
    claims
}

/// What a row `| 7 | a_test, another |` of the table says.
fn row(line: &str) -> Option<(u32, BTreeSet<String>)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let number = cells.next()?.parse().ok()?;
    let tests = cells
        .next()?
        .split(',')
        .map(|name| name.trim().trim_matches('`').to_owned());
    Some((number, tests.collect()))
}

#[test]
fn architecture_names_the_tests_that_hold_each_invariant() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut expected = Held::new();
    for path in [sources(&root.join("tests")), sources(&root.join("src"))].concat() {
        for (number, name) in claimed(&fs::read_to_string(path).unwrap()) {
            expected.entry(number).or_default().insert(name);
        }
    }
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let named: Held = architecture.lines().filter_map(row).collect();
    if named != expected {
        for (number, tests) in &expected {
            let tests: Vec<_> = tests.iter().map(|name| format!("`{name}`")).collect();
            println!("| {number} | {} |", tests.join(", "));
        }
        panic!(
            "the table in ARCHITECTURE.md is not what the tests say: replace it by the rows above"
        );
    }
}

#[test]
fn a_claim_is_read_as_it_is_written() {
    let source =
        "    // Invariants 25, 26: and why.\n    #[test]\n    fn it_holds() {}\n    fn helper() {}";
    assert_eq!(
        claimed(source),
        [(25, "it_holds".to_owned()), (26, "it_holds".to_owned())]
    );
    assert_eq!(numbers("// Invariant 8. RFC 9110 §1"), [8]);
    assert!(numbers("// nothing of the kind").is_empty());
    assert_eq!(
        row("| 3 | `a`, `b` |"),
        Some((3, ["a".to_owned(), "b".to_owned()].into()))
    );
    assert_eq!(row("| limit | default |"), None);
}

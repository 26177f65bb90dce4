//! The `rust-version` in Cargo.toml is no lower than that of anything the crate is built from.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

#[test]
fn no_dependency_asks_for_a_newer_rust_than_ours() {
    let packages = packages();
    let ours = packages
        .iter()
        .find(|package| package["name"] == env!("CARGO_PKG_NAME"));
    let ours = ours
        .and_then(rust_version)
        .expect("Cargo.toml states a rust-version");
    let built_from = built_from();
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| built_from.contains(&name_and_version(package)))
        .filter(|package| rust_version(package).is_some_and(|theirs| theirs > ours))
        .map(|package| {
            format!(
                "{} asks for {}",
                name_and_version(package),
                package["rust_version"]
            )
        })
        .collect();
    assert_eq!(newer, [""; 0], "ours is {ours:?}");
}

#[test]
fn what_the_crate_is_built_from_is_all_known_and_leaves_out_what_its_tests_need() {
    let (built_from, packages) = (built_from(), packages());
    let known: BTreeSet<_> = packages.iter().map(name_and_version).collect();
    assert!(
        built_from.is_subset(&known),
        "{:?}",
        built_from.difference(&known)
    );
    let has = |name: &str| {
        built_from
            .iter()
            .any(|built| built.starts_with(&format!("{name} v")))
    };
    assert!(
        has("http") && has("tokio") && has("tracing"),
        "{built_from:?}"
    );
    assert!(!has("criterion") && !has("hyper"), "{built_from:?}");
}

#[test]
fn versions_compare_as_numbers() {
    let version = |text: &str| rust_version(&serde_json::json!({ "rust_version": text }));
    assert!(version("1.100") > version("1.88.1"));
    assert!(version("1.88.1") > version("1.88"));
    assert_eq!(version("1.88"), version("1.88.0"));
    assert_eq!(
        rust_version(&serde_json::json!({ "rust_version": null })),
        None
    );
}

/// Each as `name vVERSION`. cargo tree, because cargo metadata counts in the features that only tests switch on.
fn built_from() -> BTreeSet<String> {
    cargo(&[
        "tree",
        "--all-features",
        "--edges=no-dev",
        "--prefix=none",
        "--format={p}",
    ])
    .lines()
    .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
    .collect()
}

/// All packages that this machine's target needs: the others need not have been downloaded.
fn packages() -> Vec<Value> {
    let rustc = run(Command::new("rustc").arg("-vV"));
    let host = rustc
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc tells its host");
    let metadata = cargo(&[
        "metadata",
        "--all-features",
        "--format-version=1",
        "--filter-platform",
        host,
    ]);
    let mut metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata is JSON");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("cargo metadata lists no packages: {other}"),
    }
}

fn name_and_version(package: &Value) -> String {
    let text = |field: &str| {
        package[field]
            .as_str()
            .expect("a package has a name and a version")
    };
    format!("{} v{}", text("name"), text("version"))
}

fn rust_version(package: &Value) -> Option<[u32; 3]> {
    let mut numbers = package["rust_version"]
        .as_str()?
        .split('.')
        .map(|number| number.parse().expect("a version is made of numbers"));
    Some(std::array::from_fn(|_| numbers.next().unwrap_or(0)))
}

fn cargo(arguments: &[&str]) -> String {
    run(Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR")))
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the command can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).expect("its output is text")
}

//! Which crates there are, and which may know which.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::none;
use crate::tree::root;

/// A crate depends only on rows before its own. A name may stand here before its crate does: its place is decided.
const ROWS: &[&[&str]] = &[
    &["config"],
    &["tensor"],
    &["ops", "dist", "checkpoint", "tokenizer"],
    &["model", "data"],
    &["engine"],
    &["eval"],
    &["train", "server", "client"],
    &["posttrain"],
    &["cli"],
];

/// Crates that serve the project and not its users: they may depend on any row.
const OUTSIDE: &[&str] = &["testkit", "xtask"];

/// A package of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    manifest: String,
    /// Name and kind (`normal`, `dev`, `build`) of each dependency.
    dependencies: Vec<(String, String)>,
}

/// The packages, as cargo sees them.
pub(crate) fn packages() -> Vec<Package> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a string in cargo's metadata").to_owned();
    let list = |value: &Value| value.as_array().expect("a list in cargo's metadata").clone();
    let dependency = |d: &Value| (text(&d["name"]), d["kind"].as_str().unwrap_or("normal").to_owned());
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            manifest: text(&package["manifest_path"]),
            dependencies: list(&package["dependencies"]).iter().map(dependency).collect(),
        })
        .collect()
}

/// The row of each crate.
fn rows() -> BTreeMap<&'static str, usize> {
    ROWS.iter().enumerate().flat_map(|(row, crates)| crates.iter().map(move |name| (*name, row))).collect()
}

#[test]
fn a_crate_depends_on_rows_below_its_own() {
    let rows = rows();
    let mut broken = Vec::new();
    for Package { name, dependencies, .. } in packages() {
        if OUTSIDE.contains(&name.as_str()) {
            continue;
        }
        let Some(row) = rows.get(name.as_str()) else {
            broken.push(format!("{name} has no row"));
            continue;
        };
        for (dependency, _) in dependencies {
            if let Some(below) = rows.get(dependency.as_str()).filter(|below| *below >= row) {
                broken.push(format!("{name} (row {row}) depends on {dependency} (row {below})"));
            }
        }
    }
    none(&broken, "a crate depends only on rows below its own; see ROWS and ARCHITECTURE.md");
}

#[test]
fn only_tests_depend_on_testkit_and_nobody_on_xtask() {
    let mut broken = Vec::new();
    for Package { name, dependencies, .. } in packages() {
        for (dependency, kind) in dependencies {
            if dependency == "xtask" || dependency == "testkit" && kind != "dev" {
                broken.push(format!("{name} has {dependency} as a {kind} dependency"));
            }
        }
    }
    none(&broken, "what is made for the project's own use is not part of the program");
}

#[test]
fn anyhow_is_for_the_program_alone() {
    let uses = |package: &Package| package.dependencies.iter().any(|(name, _)| name == "anyhow");
    let broken: Vec<String> =
        packages().into_iter().filter(|p| p.name != "cli" && uses(p)).map(|package| package.name).collect();
    none(&broken, "a library has an error type of its own; only cli depends on anyhow");
}

#[test]
fn a_folder_has_the_name_of_its_package() {
    let mut broken = Vec::new();
    for Package { name, manifest, .. } in packages() {
        let folder = Path::new(&manifest).parent().expect("a manifest lies in a folder");
        if folder.file_name().is_none_or(|folder| *folder != *name) {
            broken.push(format!("{name} lies in {}", folder.display()));
        }
    }
    none(&broken, "folder name = package name");
}

#[test]
fn every_package_has_the_lints_of_the_workspace() {
    let mut broken = Vec::new();
    for Package { name, manifest, .. } in packages() {
        let manifest = fs_err::read_to_string(manifest).expect("cargo has read it too");
        if !manifest.contains("[lints]\nworkspace = true\n") {
            broken.push(name);
        }
    }
    none(&broken, "a package says `[lints] workspace = true`");
}

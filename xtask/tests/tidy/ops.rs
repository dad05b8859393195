//! One operation, one folder.

use crate::none;
use crate::tree::{folders_in, root};

/// What every operation has.
const FILES: &[&str] = &["README.md", "mod.rs", "reference.rs", "cpu.rs", "cases.rs", "tests.rs", "bench.rs"];

/// Folders that hold no operation but measure them.
const MEASURING: &[&str] = &["bench", "machine"];

/// Operations without a `cpu.rs`, and where their kernels are.
const KERNELS_ELSEWHERE: &[(&str, &[&str])] = &[
    // Copies of rows: `mod.rs` has nothing to choose from.
    ("columns", &[]),
    // Copies of rows, and sums by the kernel of `residual`.
    ("embedding", &[]),
    // Forward and backward are each a file.
    ("mla_attention", &["forward.rs", "backward.rs"]),
];

#[test]
fn an_operation_has_all_its_files() {
    let mut broken = Vec::new();
    for op in operations() {
        let elsewhere = KERNELS_ELSEWHERE.iter().find(|(name, _)| *name == op).map(|(_, kernels)| *kernels);
        let own = FILES.iter().copied().filter(|file| elsewhere.is_none() || *file != "cpu.rs");
        for file in own.chain(elsewhere.unwrap_or_default().iter().copied()) {
            let path = format!("crates/ops/src/{op}/{file}");
            if !root().join(&path).is_file() {
                broken.push(path);
            }
        }
    }
    none(&broken, "missing files of operations");
}

#[test]
fn the_mathematics_is_written_down() {
    let mut broken = Vec::new();
    for op in operations() {
        let path = format!("crates/ops/src/{op}/README.md");
        let readme = fs_err::read_to_string(root().join(&path)).unwrap_or_default();
        // A title and at least one paragraph.
        if readme.lines().filter(|line| !line.trim().is_empty()).count() < 3 {
            broken.push(path);
        }
    }
    none(&broken, "an operation's README has its mathematics");
}

#[test]
fn every_benchmark_runs() {
    let benches = fs_err::read_to_string(root().join("crates/ops/src/bench/all.rs")).expect("the list of benchmarks");
    let is_missing = |op: &String| {
        let declared = benches.contains(&format!("#[path = \"../{op}/bench.rs\"]\nmod {op};\n"));
        !declared || !benches.contains(&format!("    (\"{op}\", {op}::bench),\n"))
    };
    let broken: Vec<String> = operations().into_iter().filter(is_missing).collect();
    none(&broken, "crates/ops/src/bench/all.rs declares and lists the bench.rs of every operation");
}

fn operations() -> Vec<String> {
    let mut folders = folders_in("crates/ops/src");
    folders.retain(|folder| !MEASURING.contains(&folder.as_str()));
    folders
}

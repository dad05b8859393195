//! What may stand in which source file.

use crate::none;
use crate::tree::{File, files, has_word, sources};

/// More is more than one idea.
const MAX_LINES: usize = 800;

/// Files that use types of `std::fs`; calls go through `fs_err`, whose errors name the file.
const STD_FS: &[&str] = &[
    // `fs_err` has no type for the failure of `try_lock`.
    "crates/data/src/dataset.rs",
    // What is mapped is the file itself.
    "crates/tensor/src/mmap.rs",
];

#[test]
fn unsafe_is_for_memory_and_kernels() {
    let begins = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern", "unsafe("];
    let broken = lines(|file, line| !in_crates(file, &["tensor", "ops"]) && begins.iter().any(|b| line.contains(b)));
    none(&broken, "only tensor and ops have unsafe code");
}

#[test]
fn files_are_reached_through_fs_err() {
    let broken = lines(|file, line| !STD_FS.contains(&file.path.as_str()) && line.contains("std::fs"));
    none(&broken, "use fs_err: its errors name the file");
}

#[test]
fn the_environment_is_read_in_one_place() {
    let broken = lines(|file, line| file.path != "crates/config/src/env.rs" && line.contains("env::var"));
    none(&broken, "only crates/config/src/env.rs looks at environment variables");
}

#[test]
fn nothing_below_the_server_is_async() {
    let broken = lines(|file, line| {
        !in_crates(file, &["client", "gateway", "listen", "server", "cli"]) && has_word(line, "async")
    });
    none(&broken, "async ends where a request reaches the engine");
}

#[test]
fn tensor_names_are_known_in_one_place() {
    let is_library = |file: &File| file.path.starts_with("crates/") && file.path.contains("/src/");
    let broken = lines(|file, line| {
        is_library(file) && file.path != "crates/model/src/names.rs" && line.contains("\"model.layers.")
    });
    none(&broken, "only crates/model/src/names.rs knows Hugging Face's tensor names");
}

#[test]
fn no_file_is_long() {
    // A record of a benchmark and the list of dependencies are as long as they are, and the reference script is one piece
    // so that it can be run from anywhere.
    let is_written = |file: &File| {
        file.path != "Cargo.lock" && ["benchmarks/", "testdata/spec/"].iter().all(|p| !file.path.starts_with(p))
    };
    let long = |file: &File| is_written(file) && file.text.lines().count() > MAX_LINES;
    let broken: Vec<String> = files().into_iter().filter(long).map(|file| file.path).collect();
    none(&broken, "a file has at most 800 lines");
}

/// `path:line` of each line of code that `breaks` a rule. The rules themselves are not held to what they look for.
fn lines(breaks: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let mut broken = Vec::new();
    for file in sources().iter().filter(|file| !file.path.starts_with("xtask/tests/tidy/")) {
        let found = file.code().filter(|(_, line)| breaks(file, line));
        broken.extend(found.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    broken
}

fn in_crates(file: &File, names: &[&str]) -> bool {
    file.crate_name().is_some_and(|name| names.contains(&name))
}

//! The files of the project.

use std::path::{Path, PathBuf};

/// A text file.
pub(crate) struct File {
    /// From the root of the project, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What belongs to the project, apart from the files at its root. A list, because a working copy also holds runs and
/// build outputs.
const FOLDERS: &[&str] =
    &[".cargo", ".ci", "benchmarks", "crates", "deploy", "docs", "e2e", "fuzz", "recipes", "runs", "testdata", "xtask"];

/// Root of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Every text file of the project, sorted by path. Of test data only what people write: notes and scripts.
pub(crate) fn files() -> Vec<File> {
    let mut paths = Vec::new();
    for entry in entries(root()) {
        if entry.is_file() {
            paths.push(entry);
        } else if FOLDERS.iter().any(|folder| entry == root().join(folder)) {
            walk(&entry, &mut paths);
        }
    }
    let mut files: Vec<File> = paths
        .into_iter()
        .map(|path| File {
            text: fs_err::read_to_string(&path).expect("a text file of the project is UTF-8"),
            path: relative(&path),
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 100, "only {} files found: is {} the project?", files.len(), root().display());
    files
}

/// The Rust files.
pub(crate) fn sources() -> Vec<File> {
    let mut files = files();
    files.retain(|file| file.has_extension("rs"));
    files
}

/// The folders directly in `folder`, sorted by name.
pub(crate) fn folders_in(folder: &str) -> Vec<String> {
    let folders = entries(&root().join(folder)).into_iter().filter(|path| path.is_dir());
    folders.map(|path| path.file_name().expect("a folder has a name").to_string_lossy().into_owned()).collect()
}

impl File {
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|e| e == extension)
    }

    /// The crate it belongs to.
    pub(crate) fn crate_name(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// Its lines with their numbers, without what follows `//`. A string may hold `//`: then its rest is not seen.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines().map(|line| line.split("//").next().expect("a split has a first part")))
    }
}

/// Whether `word` stands in `line` by itself and not within a longer name.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word)
        .any(|(at, _)| !joins(line[..at].chars().next_back()) && !joins(line[at + word.len()..].chars().next()))
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in entries(folder) {
        if entry.is_dir() {
            // What tools leave behind.
            if entry.file_name().is_none_or(|name| name != "target" && name != "__pycache__") {
                walk(&entry, paths);
            }
        } else if is_text(&entry) {
            paths.push(entry);
        }
    }
}

fn is_text(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    let is_data = path.components().any(|part| part.as_os_str() == "testdata");
    if is_data { ["md", "py", "rs", "sh"].iter().any(|e| extension == *e) } else { extension != "png" }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).expect("a folder of the project");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of a folder").path()).collect();
    paths.sort();
    paths
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("found under the root");
    path.to_str().expect("a file name of the project is UTF-8").replace('\\', "/")
}

#[test]
fn a_word_is_not_part_of_a_name() {
    assert!(has_word("unsafe { x }", "unsafe") && has_word("(unsafe)", "unsafe"));
    assert!(!has_word("deny(unsafe_code)", "unsafe") && !has_word("not_unsafe", "unsafe"));
}

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use walkdir::WalkDir;
use xxhash_rust::xxh3::Xxh3;

use crate::corpus::{Format, Source};
use crate::error::{Error, Result};

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// Which of the source's paths led to it.
    pub path_index: u64,
    /// Its name relative to that path, with `/` between the parts: the same wherever the data is moved.
    pub name: String,
    /// Whether each line is a document, rather than the whole.
    pub lines: bool,
    /// Its size as stored.
    pub bytes: u64,
    /// When it was last modified, in nanoseconds since 1970; 0 where the file system does not know.
    pub modified_ns: u64,
}

/// The files of `source`: path by path as listed, and under each path sorted by name.
///
/// # Errors
/// When a path matches nothing, two lead to the same file, a file's name or format is not clear, or there is nothing that
/// [`Source::cut_bytes`] could cut.
pub fn list(source: &Source) -> Result<Vec<InputFile>> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for (path_index, pattern) in source.paths.iter().enumerate() {
        let before = files.len();
        for (root, path) in expand(source, pattern)? {
            let metadata = fs_err::metadata(&path)?;
            if !seen.insert(fs_err::canonicalize(&path)?) {
                return Err(Error::FileTwice { name: source.name.clone(), path });
            }
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            files.push(InputFile {
                path_index: path_index as u64,
                name: relative_name(&root, &path)?,
                lines: has_lines(source, &path)?,
                bytes: metadata.len(),
                modified_ns: modified.map_or(0, |since| since.as_nanos() as u64),
                path,
            });
        }
        if files.len() == before {
            return Err(Error::NoFiles { name: source.name.clone(), path: pattern.clone() });
        }
    }
    if source.cut_bytes > 0 && files.iter().all(|file| file.lines) {
        return Err(Error::Setting {
            key: "cut_bytes",
            subject: format!("source {:?}", source.name),
            found: source.cut_bytes.to_string(),
            expected: "0: its files are all JSONL, where each line is a document".to_owned(),
        });
    }
    Ok(files)
}

/// The hash of the file's bytes as stored, which tells whether a file with a new date has new content.
///
/// # Errors
/// When the file cannot be read.
pub fn content_hash(path: &Path) -> Result<String> {
    let mut file = fs_err::File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:032x}", hash.digest128())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The files that a path or a glob stands for, each with the directory that its name is relative to.
fn expand(source: &Source, pattern: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
    let no_files = || Error::NoFiles { name: source.name.clone(), path: pattern.to_owned() };
    let literal = Path::new(pattern);
    // A name that exists is meant literally, also with a bracket in it.
    if literal.is_dir() {
        return walk(source, literal, literal);
    }
    if literal.exists() {
        return Ok(vec![(literal.parent().unwrap_or(literal).to_owned(), literal.to_owned())]);
    }
    let wild = |part: &str| part.contains(['*', '?', '[']);
    if !wild(pattern) {
        return Err(no_files());
    }
    let fixed = literal.components().take_while(|part| !wild(&part.as_os_str().to_string_lossy()));
    let root: PathBuf = fixed.collect();
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let matches = glob::glob_with(pattern, options).map_err(|error| Error::Setting {
        key: "paths",
        subject: format!("source {:?}", source.name),
        found: format!("{pattern:?}"),
        expected: format!("a path or a glob ({error})"),
    })?;
    let mut files = Vec::new();
    for path in matches {
        let path = path.map_err(|error| Error::Read { path: error.path().to_owned(), error: error.into() })?;
        if path.is_dir() {
            files.extend(walk(source, &root, &path)?);
        } else {
            files.push((root.clone(), path));
        }
    }
    files.sort();
    // `**` reaches a file both by itself and through its directory.
    files.dedup();
    Ok(files)
}

/// The files below `dir`, through symbolic links, sorted, without hidden files and directories.
fn walk(source: &Source, root: &Path, dir: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let visible = |name: &str| !name.starts_with('.');
    let mut files = Vec::new();
    let entries = WalkDir::new(dir).follow_links(true).sort_by_file_name().into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || visible(&entry.file_name().to_string_lossy())) {
        let entry = entry.map_err(|error| Error::Walk { name: source.name.clone(), error })?;
        if entry.file_type().is_file() {
            files.push((root.to_owned(), entry.into_path()));
        }
    }
    Ok(files)
}

fn relative_name(root: &Path, path: &Path) -> Result<String> {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let parts = relative.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_str().ok_or_else(|| Error::FileName { path: path.to_owned() })),
        _ => None,
    });
    Ok(parts.collect::<Result<Vec<_>>>()?.join("/"))
}

fn has_lines(source: &Source, path: &Path) -> Result<bool> {
    let inner = match extension(path).as_str() {
        "gz" | "zst" => path.with_extension(""),
        _ => path.to_owned(),
    };
    match (source.format, extension(&inner).as_str()) {
        (Format::Jsonl, _) | (Format::Auto, "jsonl" | "ndjson") => Ok(true),
        (Format::Auto, "json") => Err(Error::AmbiguousFormat { name: source.name.clone(), path: path.to_owned() }),
        (Format::Text | Format::Auto, _) => Ok(false),
    }
}

/// The last extension in lower case, without its dot.
pub(super) fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

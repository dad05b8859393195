use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::index::{self, INDEX_FILE};

/// The whole model in one file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";

/// The weight files of a model directory.
pub(crate) enum ModelFiles {
    /// One file, no index.
    Single(PathBuf),
    /// Shards, and which of them each tensor is said to be in.
    Sharded { index: PathBuf, shards: BTreeSet<String>, weight_map: BTreeMap<String, String> },
}

/// Finds the weight files of `dir`: those of the index, or `model.safetensors`, or the only safetensors file there is.
/// Where that leaves a choice, it is refused rather than made.
pub(crate) fn find(dir: &Path) -> Result<ModelFiles> {
    let index = dir.join(INDEX_FILE);
    let single = dir.join(SINGLE_FILE);
    let has_single = fs_err::exists(&single)?;
    if fs_err::exists(&index)? {
        let weight_map = index::read(&index)?;
        let shards: BTreeSet<String> = weight_map.values().cloned().collect();
        if has_single && !shards.contains(SINGLE_FILE) {
            return Err(Error::Ambiguous { dir: dir.into(), files: vec![INDEX_FILE.into(), SINGLE_FILE.into()] });
        }
        return Ok(ModelFiles::Sharded { index, shards, weight_map });
    }
    if has_single {
        return Ok(ModelFiles::Single(single));
    }
    let mut files = safetensors_files(dir)?;
    match files.len() {
        0 => Err(Error::NoModel { dir: dir.into() }),
        1 => Ok(ModelFiles::Single(dir.join(files.remove(0)))),
        _ => Err(Error::Ambiguous { dir: dir.into(), files }),
    }
}

/// The names in `dir` that end as weight files do, sorted.
fn safetensors_files(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string()
            && Path::new(&name).extension().is_some_and(|e| e == "safetensors")
        {
            files.push(name);
        }
    }
    files.sort();
    Ok(files)
}

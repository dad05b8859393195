//! `MANIFEST.json` of a version: which files it has, how large they are, and their hashes.
//!
//! Whoever publishes a version writes it last. `{"files": {"model.safetensors": {"size": 123, "sha256": ".."}}}`, where the
//! hash may be left out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::versions::LoadError;

const NAME: &str = "MANIFEST.json";
/// Bytes that are hashed at once.
const PIECE: usize = 1 << 20;

/// The files of a version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    size: u64,
    sha256: Option<String>,
}

impl Manifest {
    /// The manifest in `dir`, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, is not written as it should be, or names a file outside of the directory.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, LoadError> {
        let path = dir.join(NAME);
        let wrong = |problem: &dyn std::fmt::Display| {
            LoadError(format!(
                "{}: {problem}; it is written {{\"files\": {{NAME: {{\"size\": BYTES, \"sha256\": HEX}}}}}}",
                path.display()
            ))
        };
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LoadError(error.to_string())),
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| wrong(&error))?;
        for (name, Entry { sha256, .. }) in &manifest.files {
            if name.is_empty() || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(wrong(&format!("{name:?} is no file of this directory")));
            }
            let is_hash = |hash: &String| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            if sha256.as_ref().is_some_and(|hash| !is_hash(hash)) {
                return Err(wrong(&format!("the sha256 of {name:?} has not 64 hexadecimal digits")));
            }
        }
        Ok(Some(manifest))
    }

    /// The first file that is not there in its full size, and what is there instead.
    pub(crate) fn missing(&self, dir: &Path) -> Option<String> {
        self.files.iter().find_map(|(name, Entry { size, .. })| match fs_err::metadata(dir.join(name)) {
            Ok(found) if found.is_file() && found.len() == *size => None,
            Ok(found) => Some(format!("{name} has {} of the {size} bytes that {NAME} says", found.len())),
            Err(_) => Some(format!("{name}, which {NAME} names, is not there")),
        })
    }

    /// The bytes of all files with a hash.
    pub(crate) fn hashed_bytes(&self) -> u64 {
        self.files.values().filter(|entry| entry.sha256.is_some()).map(|entry| entry.size).sum()
    }

    /// Compares files with their hashes; `read` hears of each piece and may stop it.
    ///
    /// # Errors
    /// When a file cannot be read, is another one, or `read` says so.
    pub(crate) fn check(
        &self,
        dir: &Path,
        mut read: impl FnMut(u64) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let io = |error: std::io::Error| LoadError(error.to_string());
        let mut piece = vec![0; PIECE];
        for (name, Entry { sha256, .. }) in &self.files {
            let Some(said) = sha256 else { continue };
            let mut file = fs_err::File::open(dir.join(name)).map_err(io)?;
            let mut hash = Sha256::new();
            loop {
                let bytes = file.read(&mut piece).map_err(io)?;
                if bytes == 0 {
                    break;
                }
                hash.update(&piece[..bytes]);
                read(bytes as u64)?;
            }
            let found = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("a string takes any text");
                hex
            });
            if !said.eq_ignore_ascii_case(&found) {
                return Err(LoadError(format!(
                    "{} has the SHA-256 {found}, but {NAME} says {said}; copy it again",
                    dir.join(name).display()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of no bytes.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(text: &str) -> Result<Option<Manifest>, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join(NAME), text).unwrap();
        Manifest::read(dir.path())
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        assert!(Manifest::read(tempfile::tempdir().unwrap().path()).unwrap().is_none());
        for wrong in [
            "",
            "[]",
            r#"{"files": {"a": {}}}"#,
            r#"{"files": {"a": {"size": -1}}}"#,
            r#"{"files": {"a": {"size": 1, "md5": ""}}}"#,
            r#"{"files": {"a": {"size": 1, "sha256": "e3"}}}"#,
            r#"{"files": {"": {"size": 1}}}"#,
            r#"{"files": {"../a": {"size": 1}}}"#,
            r#"{"files": {"/etc/hosts": {"size": 1}}}"#,
        ] {
            let error = read(wrong).err().expect(wrong).to_string();
            assert!(error.contains(NAME) && error.contains("it is written"), "{error}");
        }
    }

    #[test]
    fn files_are_held_to_their_sizes_and_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(dir.path().join(name), text).unwrap();
        write(NAME, &format!(r#"{{"files": {{"a": {{"size": 0, "sha256": "{EMPTY}"}}, "b": {{"size": 3}}}}}}"#));
        let manifest = Manifest::read(dir.path()).unwrap().unwrap();
        assert_eq!(manifest.missing(dir.path()).unwrap(), "a, which MANIFEST.json names, is not there");
        write("a", "");
        write("b", "xy");
        assert_eq!(manifest.missing(dir.path()).unwrap(), "b has 2 of the 3 bytes that MANIFEST.json says");
        write("b", "xyz");
        assert!(manifest.missing(dir.path()).is_none());
        assert!(manifest.check(dir.path(), |_| Ok(())).is_ok());
        assert_eq!(manifest.hashed_bytes(), 0);
        write("a", "x");
        let mut bytes = 0;
        let error = manifest.check(dir.path(), |read| {
            bytes += read;
            Ok(())
        });
        assert!(error.unwrap_err().0.contains("copy it again"));
        assert_eq!(bytes, 1);
        assert_eq!(manifest.check(dir.path(), |_| Err(LoadError("stop".into()))).unwrap_err().0, "stop");
    }
}

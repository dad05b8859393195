//! Caches on disk of versions that are gone. Each version has one with a quota of its own, so that without this the disk
//! fills with every version that there ever was.

use std::path::Path;

use engine::DiskCache;

/// The name of a version's directory in that of the caches.
pub(crate) fn name_of(version: u64) -> String {
    format!("version-{version}")
}

/// Removes from `dir` the caches of versions that are not `wanted`. Everything else in it stays, and also what another process
/// uses.
pub(crate) fn remove(dir: &Path, wanted: impl Fn(u64) -> bool) {
    let Ok(entries) = fs_err::read_dir(dir) else {
        // It is made with the first cache.
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("version-")).and_then(|n| n.parse().ok());
        let Some(version) = number.filter(|&version| name == *name_of(version) && !wanted(version)) else { continue };
        // A link leads to what somebody else has put elsewhere.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match DiskCache::remove(&entry.path()) {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(version, bytes, "its cache on disk is removed: {}", entry.path().display()),
            Err(error) => tracing::warn!(version, "its cache on disk cannot be removed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_caches_of_versions_that_are_not_wanted_go() {
        let dir = tempfile::tempdir().unwrap();
        let key = "ab".repeat(32);
        for name in ["version-1", "version-2", "version-03", "version-x", "other"] {
            let folder = dir.path().join(name).join("ab");
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(folder.join(format!("{key}-{key}.latents")), "latents").unwrap();
            fs_err::write(dir.path().join(name).join("lock"), "").unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("other"), dir.path().join("version-7")).unwrap();
        remove(dir.path(), |version| version == 2);
        let mut left: Vec<String> = fs_err::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["other", "version-03", "version-2", "version-7", "version-x"]);
        assert!(dir.path().join("other/ab").join(format!("{key}-{key}.latents")).is_file());
        remove(&dir.path().join("away"), |_| false);
    }
}

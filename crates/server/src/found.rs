//! What lies in a directory of versions, and whether it is whole.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The directories in `dir` whose names are numbers. Anything else in it is none of ours.
pub(crate) fn numbered(dir: &Path) -> std::io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let is_number = |name: &&str| name.bytes().all(|byte| byte.is_ascii_digit());
        let number = entry.file_name().to_str().filter(is_number).and_then(|name| name.parse::<u64>().ok());
        let (Some(number), true) = (number, entry.path().join("config.json").is_file()) else { continue };
        found.insert(number, entry.path());
    }
    Ok(found)
}

/// Tells one state of a directory from another: the names, sizes and times of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark(Vec<File>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    name: OsString,
    bytes: u64,
    /// Of its last change, in seconds and nanoseconds after 1970. Copies may keep that of their original.
    modified: (i64, i64),
    /// Of the last change of the file or of what is known about it. Nobody can set it.
    changed: (i64, i64),
}

impl Mark {
    pub(crate) fn of(dir: &Path) -> Self {
        let of = |entry: std::io::Result<fs_err::DirEntry>| {
            let entry = entry.ok()?;
            // Where a link leads is what is read.
            let of = fs_err::metadata(entry.path()).ok()?;
            Some(File {
                name: entry.file_name(),
                bytes: of.len(),
                modified: (of.mtime(), of.mtime_nsec()),
                changed: (of.ctime(), of.ctime_nsec()),
            })
        };
        // What cannot be looked at is no file of a model that could be served.
        let files = fs_err::read_dir(dir).map(|entries| entries.filter_map(of).collect());
        let mut files: Vec<File> = files.unwrap_or_default();
        files.sort();
        Self(files)
    }

    /// Whether nothing has changed for `time`, going by the clock of the files.
    fn has_rested(&self, time: Duration) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(limit) = now.checked_sub(time) else { return false };
        let limit = (limit.as_secs().cast_signed(), i64::from(limit.subsec_nanos()));
        self.0.iter().all(|file| file.modified.max(file.changed) < limit)
    }
}

/// A version as it was seen last. A copy that is under way can look whole: files may have their full length before they have
/// their bytes. So a version counts once its files have rested.
pub(crate) struct Seen {
    mark: Mark,
    since: Instant,
    /// Whether it counts as it is.
    is_whole: bool,
}

impl Seen {
    /// The first sight of it. At the start of the program files that have not changed for `rest` count at once; later only
    /// what was watched, because another machine's clock may write the times of files.
    pub(crate) fn new(mark: Mark, rest: Duration, at_start: bool) -> Self {
        Self { is_whole: at_start && mark.has_rested(rest), mark, since: Instant::now() }
    }

    /// Looks at it again.
    pub(crate) fn again(&mut self, mark: Mark) {
        if self.mark != mark {
            *self = Self { mark, since: Instant::now(), is_whole: false };
        }
    }

    /// Takes it as whole until it changes: somebody has said that it is.
    pub(crate) fn trust(&mut self) {
        self.is_whole = true;
    }

    pub(crate) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Whether it has not changed for `rest`, or counts as it is.
    pub(crate) fn is_settled(&self, rest: Duration) -> bool {
        self.is_whole || self.since.elapsed() >= rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_directories_of_models_with_numbers_for_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1", "12", "x", "+3", "4"] {
            fs_err::create_dir(dir.path().join(name)).unwrap();
            if name != "4" {
                fs_err::write(dir.path().join(name).join("config.json"), "{}").unwrap();
            }
        }
        fs_err::write(dir.path().join("5"), "").unwrap();
        let found: Vec<u64> = numbered(dir.path()).unwrap().into_keys().collect();
        assert_eq!(found, [1, 12]);
        assert!(numbered(&dir.path().join("away")).is_err());
    }

    #[test]
    fn a_directory_rests_when_nothing_in_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |bytes: &[u8]| fs_err::write(dir.path().join("model.safetensors"), bytes).unwrap();
        write(&[0; 8]);
        let rest = Duration::from_millis(60);
        let mut seen = Seen::new(Mark::of(dir.path()), rest, true);
        assert!(!seen.is_settled(rest), "it was written this moment");
        std::thread::sleep(rest);
        // As long as before: a copy into a file that has its length already.
        write(&[1; 8]);
        seen.again(Mark::of(dir.path()));
        assert!(!seen.is_settled(rest), "it was written to");
        std::thread::sleep(rest);
        seen.again(Mark::of(dir.path()));
        assert!(seen.is_settled(rest));

        let at_start = |at_start| Seen::new(Mark::of(dir.path()), rest, at_start);
        assert!(at_start(true).is_settled(rest), "old files count when the program starts");
        let mut later = at_start(false);
        assert!(!later.is_settled(rest));
        later.trust();
        assert!(later.is_settled(rest));
        write(&[2; 8]);
        later.again(Mark::of(dir.path()));
        assert!(!later.is_settled(rest), "what was said of other bytes");
    }
}

//! Files and directories that appear whole or not at all, whenever the process or the machine stops.
//!
//! Everything is written beside its final place under a name of its own, flushed to the disk, and renamed. One process
//! at a time may write a given path.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::File;

use crate::error::{Error, Result};

/// Ends the name of what is being written, and of an old directory on its way out.
const PARTIAL: &str = ".hadal-partial";

/// Ends the name of an old directory for the moment it takes to put the new one in its place.
const OLD: &str = ".hadal-old";

/// Calls `fill` with a fresh directory, which becomes `path` when all is written and flushed; a directory already there
/// is replaced. Until then `path` is what it was. When `fill` fails, what it wrote is removed and its result returned.
///
/// Where the file system can exchange two directories, `path` is the old or the new one at every moment. Where it
/// cannot (some network file systems), there is a moment between two renames without `path`; [`clean_leftovers`] then
/// puts the old one back.
///
/// # Errors
/// When `fill` fails, or a file operation does. A failure while the old directory is removed leaves the new one in
/// place.
pub fn write_dir_atomically<T, E: From<Error>>(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&Path) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let path = path.as_ref();
    let partial = prepare(path)?;
    fs_err::create_dir(&partial).map_err(Error::from)?;
    match fill(&partial) {
        Ok(result) => {
            publish_dir(&partial, path, exchange)?;
            Ok(result)
        }
        Err(error) => {
            // The error of `fill` says more than that of a removal, and the leftover is recognised later.
            let _ = fs_err::remove_dir_all(&partial);
            Err(error)
        }
    }
}

/// Replaces the file `path` by one with these bytes.
///
/// # Errors
/// When a file operation fails; `path` is then what it was.
pub fn write_file_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_file_with(path.as_ref(), |file| Ok(file.write_all(bytes)?))
}

/// Replaces the file `path` by what `fill` writes.
pub(crate) fn write_file_with<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let partial = prepare(path)?;
    let file = File::create_new(&partial).map_err(Error::from)?;
    let mut file = BufWriter::new(file);
    let written = fill(&mut file).and_then(|()| {
        let publish = || {
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs_err::rename(&partial, path)
        };
        Ok(publish().map_err(Error::from)?)
    });
    if written.is_err() {
        // As above: the first error is the one to tell.
        let _ = fs_err::remove_file(&partial);
        return written;
    }
    sync(parent_of(path)).map_err(Error::from)?;
    Ok(())
}

/// Removes what interrupted writes left in the directory `parent`, and puts back a directory that was about to be
/// replaced. Returns the paths of what it found, sorted. Nothing may be being written in `parent`.
///
/// # Errors
/// When a file operation fails.
pub fn clean_leftovers(parent: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let parent = parent.as_ref();
    let mut entries = fs_err::read_dir(parent)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    let mut leftovers = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
        if name.ends_with(PARTIAL) {
            remove_if_there(&entry.path())?;
        } else if let Some(name) = name.strip_suffix(OLD) {
            let path = parent.join(name);
            if fs_err::exists(&path)? {
                remove_if_there(&entry.path())?;
            } else {
                fs_err::rename(entry.path(), path)?;
            }
        } else {
            continue;
        }
        leftovers.push(entry.path());
    }
    sync(parent)?;
    Ok(leftovers)
}

/// Puts the finished directory `partial` at `path`. `exchange` swaps two directories in one step.
fn publish_dir(partial: &Path, path: &Path, exchange: impl Fn(&Path, &Path) -> io::Result<()>) -> Result<()> {
    sync_tree(partial)?;
    let parent = parent_of(path);
    match fs_err::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs_err::rename(partial, path)?;
            sync(parent)?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
        Ok(there) if !there.is_dir() => {
            return Err(Error::Target { path: path.into(), reason: "something that is not a directory is there" });
        }
        Ok(_) => {}
    }
    let old = if exchange(partial, path).is_ok() {
        partial.to_path_buf()
    } else {
        let old = sibling(path, OLD)?;
        remove_if_there(&old)?;
        fs_err::rename(path, &old)?;
        fs_err::rename(partial, path)?;
        old
    };
    sync(parent)?;
    fs_err::remove_dir_all(old)?;
    Ok(())
}

/// Swaps two directories in one step.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// This system has no such call.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The name under which `path` is written, with nothing there any more.
fn prepare(path: &Path) -> Result<PathBuf> {
    let partial = sibling(path, PARTIAL)?;
    remove_if_there(&partial)?;
    Ok(partial)
}

fn sibling(path: &Path, suffix: &str) -> Result<PathBuf> {
    match path.file_name().map(|name| name.to_str()) {
        Some(Some(name)) => Ok(path.with_file_name(format!(".{name}{suffix}"))),
        Some(None) => Err(Error::Target { path: path.into(), reason: "its name is not UTF-8" }),
        None => Err(Error::Target { path: path.into(), reason: "it does not end in a name" }),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs_err::symlink_metadata(path) {
        Ok(there) if there.is_dir() => Ok(fs_err::remove_dir_all(path)?),
        Ok(_) => Ok(fs_err::remove_file(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Flushes every file and directory from `dir` down.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let file_type = entry.file_type()?;
        if file_type.is_dir() {
            sync_tree(&entry.path())?;
        } else if file_type.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(dir)
}

/// Flushes a file or, which makes renames in it last, a directory.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn dir_with(parent: &Path, name: &str, content: &str) -> PathBuf {
        let dir = parent.join(name);
        fs_err::create_dir(&dir).unwrap();
        fs_err::write(dir.join("content"), content).unwrap();
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn with_an_exchange_the_directory_is_never_away() {
        let parent = tempfile::tempdir().unwrap();
        let path = dir_with(parent.path(), "step-1", "0");
        let other = dir_with(parent.path(), "other", "");
        // On a file system without it there is nothing to show: the next test is about that.
        if exchange(&path, &other).is_err() {
            return;
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    assert!(fs_err::exists(&path).unwrap(), "away at look {looks}");
                    looks += 1;
                }
            });
            for content in 1..=100 {
                write_dir_atomically(&path, |dir| {
                    Ok::<_, Error>(fs_err::write(dir.join("content"), content.to_string())?)
                })
                .unwrap();
            }
            done.store(true, Ordering::Relaxed);
            watcher.join().unwrap();
        });
        assert_eq!(fs_err::read_to_string(path.join("content")).unwrap(), "100");
    }

    #[test]
    fn without_an_exchange_a_directory_is_replaced_too() {
        let parent = tempfile::tempdir().unwrap();
        let path = dir_with(parent.path(), "step-1", "old");
        let partial = dir_with(parent.path(), ".step-1.hadal-partial", "new");
        dir_with(parent.path(), ".step-1.hadal-old", "older");
        publish_dir(&partial, &path, |_, _| Err(io::ErrorKind::Unsupported.into())).unwrap();
        assert_eq!(fs_err::read_to_string(path.join("content")).unwrap(), "new");
        assert_eq!(names(parent.path()), ["step-1"]);
    }

    #[test]
    fn between_the_two_renames_the_old_directory_can_be_put_back() {
        let parent = tempfile::tempdir().unwrap();
        dir_with(parent.path(), ".step-1.hadal-old", "old");
        dir_with(parent.path(), ".step-1.hadal-partial", "new");
        assert_eq!(clean_leftovers(parent.path()).unwrap().len(), 2);
        assert_eq!(fs_err::read_to_string(parent.path().join("step-1/content")).unwrap(), "old");
        assert_eq!(names(parent.path()), ["step-1"]);
    }

    #[test]
    fn after_the_two_renames_the_old_directory_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        dir_with(parent.path(), ".step-1.hadal-old", "old");
        dir_with(parent.path(), "step-1", "new");
        assert_eq!(clean_leftovers(parent.path()).unwrap().len(), 1);
        assert_eq!(fs_err::read_to_string(parent.path().join("step-1/content")).unwrap(), "new");
        assert_eq!(names(parent.path()), ["step-1"]);
    }
}

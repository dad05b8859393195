//! The directory: one file for each block, in 256 folders by the first byte of its key.
//!
//! A file is written under a name of its own and renamed when it is whole, so a process that is killed leaves whole blocks
//! and at most one partial file, which the next one removes. Nothing is flushed to the disk: what a power failure tears has
//! a wrong checksum. Files that do not bear the name of a block are left alone, whatever they are.

use std::io::{ErrorKind, Read, Result, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err::{File, OpenOptions};

use super::key::Name;

/// What is being written.
const PARTIAL: &str = "partial";
/// What a process holds that has the directory.
const LOCK: &str = "lock";

pub(super) struct Store {
    dir: PathBuf,
    /// Held for as long as the directory is ours.
    lock: File,
}

/// A file as it was found.
pub(super) struct Found {
    pub(super) name: Name,
    pub(super) bytes: u64,
    /// When it was last used.
    pub(super) used: SystemTime,
}

impl Store {
    /// Takes the directory, which is made if there is none, and removes what an interrupted write left; none when another
    /// process has it.
    pub(super) fn open(dir: &Path) -> Result<Option<Self>> {
        fs_err::create_dir_all(dir)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        if let Err(error) = lock.try_lock() {
            let error: std::io::Error = error.into();
            return if error.kind() == ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        match fs_err::remove_file(dir.join(PARTIAL)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(Some(Self { dir: dir.to_owned(), lock })),
        }
    }

    /// Removes all that a store has put into `dir`, and the directory, if nothing else is in it; the bytes of its blocks. A
    /// directory without a store's lock is none of ours, and one whose lock is held is in use.
    pub(super) fn clear(dir: &Path) -> Result<u64> {
        if !dir.join(LOCK).is_file() {
            return Ok(0);
        }
        let Some(store) = Self::open(dir)? else { return Ok(0) };
        let mut bytes = 0;
        for found in store.scan()? {
            store.remove(&found.name)?;
            bytes += found.bytes;
        }
        for folder in fs_err::read_dir(dir)? {
            let folder = folder?;
            if folder.file_type()?.is_dir() && folder.file_name().to_str().is_some_and(is_folder) {
                remove_if_empty(&folder.path())?;
            }
        }
        fs_err::remove_file(dir.join(LOCK))?;
        remove_if_empty(dir)?;
        Ok(bytes)
    }

    /// All blocks, those first that were used longest ago.
    pub(super) fn scan(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for folder in fs_err::read_dir(&self.dir)? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() || !folder.file_name().to_str().is_some_and(is_folder) {
                continue;
            }
            for file in fs_err::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name().to_str().and_then(Name::parse);
                // A file in the wrong folder would not be found again.
                let name = name.filter(|name| file.path() == self.path(name));
                let metadata = file.metadata()?;
                match name {
                    Some(name) if metadata.is_file() => {
                        found.push(Found { name, bytes: metadata.len(), used: metadata.modified()? });
                    }
                    _ => tracing::warn!(path = %file.path().display(), "not a block of latents; it is left alone"),
                }
            }
        }
        found.sort_by_key(|file| (file.used, file.name));
        Ok(found)
    }

    /// Opens the file of a block, and says how long it is.
    pub(super) fn length(&self, name: &Name) -> Result<(File, u64)> {
        let file = File::open(self.path(name))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// So many bytes of a file.
    pub(super) fn read(mut file: File, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the file of a block. Only one thread may.
    pub(super) fn write(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        let (partial, path) = (self.dir.join(PARTIAL), self.path(name));
        let publish = || {
            let mut options = OpenOptions::new();
            options.create(true).truncate(true).write(true);
            // What people asked is in the file.
            #[cfg(unix)]
            fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&partial)?;
            file.write_all(bytes)?;
            // The time that the system gives a file may be some milliseconds old, older than that of a use before it.
            file.set_modified(SystemTime::now())?;
            drop(file);
            if let Some(folder) = path.parent() {
                fs_err::create_dir_all(folder)?;
            }
            fs_err::rename(&partial, &path)
        };
        publish().inspect_err(|_| {
            // The first error is the one to tell, and the next write or start replaces or removes the file.
            let _ = fs_err::remove_file(&partial);
        })
    }

    /// Notes in the file that a block is used now.
    pub(super) fn touch(&self, name: &Name) -> Result<()> {
        OpenOptions::new().write(true).open(self.path(name))?.set_modified(SystemTime::now())
    }

    pub(super) fn remove(&self, name: &Name) -> Result<()> {
        fs_err::remove_file(self.path(name))
    }

    fn path(&self, name: &Name) -> PathBuf {
        let file = name.to_string();
        self.dir.join(&file[..2]).join(file)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing the file is not enough while a process that was just begun still has a copy of it.
        let _ = self.lock.unlock();
    }
}

fn remove_if_empty(dir: &Path) -> Result<()> {
    match fs_err::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

fn is_folder(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of a file, mapped read-only: pages are read when they are touched and dropped when memory is short, so a
/// checkpoint of any size can be open.
///
/// The length is the file's when it was mapped. While it is mapped, nobody may write to the file or shorten it; replace
/// it by rename instead, which leaves the mapped file as it was. The operating system cannot forbid it, so read what
/// decides anything (lengths, offsets, text) through the file, and take only plain numbers from here.
#[derive(Debug)]
pub struct Mmap {
    map: memmap2::Mmap,
    file: File,
}

impl Mmap {
    /// Maps the whole of `file`, which may be closed afterwards.
    ///
    /// # Errors
    /// When the operating system refuses: the file is not an ordinary one, or the address space is used up.
    pub fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private to this value, read-only, and lent out only as slices that borrow from it, so
        // no slice outlives it or is written through it. What the operating system leaves open is another process
        // changing the file. This project never does: it writes a new file and renames it into place, which keeps the
        // mapped one. A foreign process that shortens the file ends ours by SIGBUS; one that overwrites it changes
        // numbers, every bit pattern of which is a valid `u8`, and nothing that decides bounds or validity is taken
        // from mapped bytes.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        // Where the file is read from disk after this, it comes in pages of 2 MiB if the file system has them: then a pass
        // over the weights does not wait for address translation, which costs a quarter of the bandwidth otherwise. A
        // system that has no such pages refuses, and nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, file: file.try_clone()? })
    }

    /// Reads the bytes from `start` on into `out`, past the map: into memory that is ours to give back, in one request.
    ///
    /// # Errors
    /// When the file cannot be read, or has been cut short.
    pub fn read(&self, start: usize, out: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(&self.file, out, start as u64);
        #[cfg(not(unix))]
        {
            let _ = &self.file;
            out.copy_from_slice(&self.map[start..start + out.len()]);
            Ok(())
        }
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

use std::fmt::Display;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::BLOCK_BYTES;
use crate::error::{Error, Result};

/// CRC32C (Castagnoli) of the bytes.
pub(crate) fn crc_of(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// A file being written, with the checksum of every block.
pub(super) struct BlockWriter {
    file: BufWriter<fs_err::File>,
    bytes: u64,
    /// The last one is of the block not yet full, if there is one.
    crcs: Vec<u32>,
}

impl BlockWriter {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(BLOCK_BYTES as usize, fs_err::File::create(path)?);
        Ok(Self { file, bytes: 0, crcs: Vec::new() })
    }

    /// Waits until everything is on disk; returns the size and the checksums.
    pub(super) fn finish(self) -> Result<(u64, Vec<u32>)> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((self.bytes, self.crcs))
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let within = self.bytes % BLOCK_BYTES;
        if within == 0 {
            self.crcs.push(0);
        }
        let n = bytes.len().min((BLOCK_BYTES - within) as usize);
        self.file.write_all(&bytes[..n])?;
        if let Some(crc) = self.crcs.last_mut() {
            *crc = crc32c::crc32c_append(*crc, &bytes[..n]);
        }
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A stored file whose blocks are checked when they are first read.
///
/// It is opened for each read: a corpus may have more shards than a process may have open files.
pub(super) struct BlockReader {
    path: PathBuf,
    bytes: u64,
    crcs: Vec<u32>,
    /// One bit for each block that has been found whole.
    checked: Vec<AtomicU64>,
}

impl BlockReader {
    /// # Errors
    /// When the file is missing or has another size than `bytes`.
    pub(super) fn new(path: PathBuf, bytes: u64, crcs: Vec<u32>) -> Result<Self> {
        let found = fs_err::metadata(&path)?.len();
        if found != bytes {
            return Err(damaged(&path, "the size in bytes", &bytes, &found));
        }
        let checked = (0..crcs.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { path, bytes, crcs, checked })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `out` from `offset` on. The range must lie within the file.
    ///
    /// # Errors
    /// When the file cannot be read, or a block that had not been read before is damaged.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset + out.len() as u64;
        assert!(end <= self.bytes, "bytes {offset}..{end} of {} with {} bytes", self.path.display(), self.bytes);
        if out.is_empty() {
            return Ok(());
        }
        let mut file = fs_err::File::open(&self.path)?;
        for block in offset / BLOCK_BYTES..=(end - 1) / BLOCK_BYTES {
            self.check(&mut file, block)?;
        }
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)?;
        Ok(())
    }

    fn check(&self, file: &mut fs_err::File, block: u64) -> Result<()> {
        let (word, bit) = (&self.checked[block as usize / 64], 1 << (block % 64));
        if word.load(Relaxed) & bit != 0 {
            return Ok(());
        }
        let start = block * BLOCK_BYTES;
        let mut bytes = vec![0; BLOCK_BYTES.min(self.bytes - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        let (expected, found) = (self.crcs[block as usize], crc_of(&bytes));
        if expected != found {
            let what = format!("the checksum of bytes {start}..{}", start + bytes.len() as u64);
            return Err(damaged(&self.path, &what, &format!("{expected:08x}"), &format!("{found:08x}")));
        }
        word.fetch_or(bit, Relaxed);
        Ok(())
    }
}

pub(super) fn damaged(path: &Path, what: &str, expected: &dyn Display, found: &dyn Display) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

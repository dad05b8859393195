use std::fs::TryLockError;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::manifest::{Manifest, StoredSource, StoredSplit};
use crate::shard::{Shard, crc_of};

/// Name of the table of bytes per id, beside the shards' folders.
pub(crate) const TOKEN_BYTES: &str = "token_bytes.bin";

/// A tokenised corpus on disk. While it or something made from it lives, [`crate::prepare`] does not replace it.
pub struct Dataset {
    /// The folder with the shards.
    folder: PathBuf,
    manifest: Manifest,
    lock: Arc<fs_err::File>,
}

/// Which documents of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// Held out.
    Validation,
}

impl Split {
    /// As in file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }

    fn of(self, source: &StoredSource) -> &StoredSplit {
        match self {
            Self::Train => &source.train,
            Self::Validation => &source.validation,
        }
    }
}

impl Dataset {
    /// Opens what [`crate::prepare`] has left in `dir`, without comparing it with any source.
    ///
    /// # Errors
    /// When there is no manifest, it is damaged, or the corpus is being replaced.
    pub fn open(dir: &Path) -> Result<Self> {
        let no_manifest = || Error::NoManifest { dir: dir.to_owned() };
        let lock = match fs_err::File::open(lock_path(dir)) {
            // A corpus that was copied without its lock; a directory without a corpus stays untouched.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Manifest::load(dir)?.ok_or_else(no_manifest)?;
                open_lock(dir)?
            }
            opened => opened?,
        };
        locked(dir, lock.try_lock_shared())?;
        let manifest = Manifest::load(dir)?.ok_or_else(no_manifest)?;
        Ok(Self { folder: dir.join(&manifest.hash), manifest, lock: Arc::new(lock) })
    }

    pub(crate) fn manifest_mut(&mut self) -> &mut Manifest {
        &mut self.manifest
    }

    /// What the corpus is and was made from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The names of the sources with documents in `split`, in order, and what is known of them.
    pub fn sources(&self, split: Split) -> impl Iterator<Item = (&str, &StoredSplit)> {
        let content = &self.manifest.content;
        let sources = content.definition.sources.iter().zip(&content.sources);
        let sources = sources.map(move |(definition, stored)| (definition.name.as_str(), split.of(stored)));
        sources.filter(|(_, stored)| stored.documents > 0)
    }

    /// The tokens of a source's split.
    ///
    /// # Errors
    /// When a shard is missing or damaged.
    pub(crate) fn stream(&self, stored: &StoredSplit) -> Result<Stream> {
        let vocab_size = self.manifest.content.definition.vocab_size;
        let open = |entry| Shard::open(&self.folder, entry, vocab_size);
        let shards = stored.shards.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(Stream::new(shards, Arc::clone(&self.lock)))
    }

    /// Bytes of text that each id stands for, 0 for special ids.
    ///
    /// # Errors
    /// When the table is missing or damaged.
    pub(crate) fn token_bytes(&self) -> Result<Vec<u32>> {
        let path = self.folder.join(TOKEN_BYTES);
        let bytes = fs_err::read(&path)?;
        let content = &self.manifest.content;
        let (expected, found) = (content.token_bytes_crc, crc_of(&bytes));
        if bytes.len() as u64 != 4 * u64::from(content.definition.vocab_size) || expected != found {
            return Err(Error::Damaged {
                path,
                what: "the checksum".to_owned(),
                expected: format!("{expected:08x}"),
                found: format!("{found:08x}"),
            });
        }
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }
}

/// The shards of one source and split, as one sequence of tokens and of documents.
pub(crate) struct Stream {
    shards: Vec<Shard>,
    /// Where each shard ends, in tokens and in documents of the stream.
    ends: Vec<(u64, u64)>,
    /// Held for as long as tokens may be read.
    _lock: Arc<fs_err::File>,
}

impl Stream {
    fn new(shards: Vec<Shard>, lock: Arc<fs_err::File>) -> Self {
        let mut end = (0, 0);
        let ends = shards.iter().map(|shard| {
            end = (end.0 + shard.tokens, end.1 + shard.documents);
            end
        });
        Self { ends: ends.collect(), shards, _lock: lock }
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.ends.last().map_or(0, |end| end.0)
    }

    pub(crate) fn documents(&self) -> u64 {
        self.ends.last().map_or(0, |end| end.1)
    }

    /// Fills `out` with the tokens from `start` on, across shards. The range must lie within the stream.
    pub(crate) fn read(&self, mut start: u64, mut out: &mut [u32]) -> Result<()> {
        while !out.is_empty() {
            let i = self.ends.partition_point(|end| end.0 <= start);
            let shard = &self.shards[i];
            let begin = self.ends[i].0 - shard.tokens;
            let n = (out.len() as u64).min(self.ends[i].0 - start) as usize;
            let (now, later) = out.split_at_mut(n);
            shard.read(start - begin, now)?;
            out = later;
            start += n as u64;
        }
        Ok(())
    }

    /// The numbers of tokens of a range of documents, across shards.
    pub(crate) fn lengths(&self, documents: Range<u64>) -> Result<Vec<u32>> {
        let mut lengths = Vec::with_capacity((documents.end - documents.start) as usize);
        let mut start = documents.start;
        while start < documents.end {
            let i = self.ends.partition_point(|end| end.1 <= start);
            let shard = &self.shards[i];
            let begin = self.ends[i].1 - shard.documents;
            let end = documents.end.min(self.ends[i].1);
            lengths.extend(shard.lengths(start - begin..end - begin)?);
            start = end;
        }
        Ok(lengths)
    }
}

/// Makes this process the only user of `dir` for as long as the result lives.
pub(crate) fn lock_exclusive(dir: &Path) -> Result<fs_err::File> {
    let lock = open_lock(dir)?;
    locked(dir, lock.try_lock())?;
    Ok(lock)
}

fn open_lock(dir: &Path) -> Result<fs_err::File> {
    Ok(fs_err::File::options().create(true).append(true).open(lock_path(dir))?)
}

fn lock_path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

fn locked(dir: &Path, attempt: Result<(), TryLockError>) -> Result<()> {
    attempt.map_err(|error| match error {
        TryLockError::WouldBlock => Error::Locked { dir: dir.to_owned() },
        TryLockError::Error(error) => Error::Io(error),
    })
}

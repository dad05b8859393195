use std::ops::Range;
use std::path::Path;

use super::blocks::{BlockReader, crc_of, damaged};
use super::{
    BLOCK_BYTES, CRC_HEADER_BYTES, CRC_MAGIC, CRC_VERSION, IDX_HEADER_BYTES, IDX_I32, IDX_MAGIC, IDX_VERSION,
    ShardEntry, idx_bytes,
};
use crate::error::Result;

/// Documents whose lengths are read at a time when an index is gone through.
const INDEX_CHUNK: u64 = 1 << 16;

/// A shard opened for reading.
pub(crate) struct Shard {
    pub(crate) tokens: u64,
    pub(crate) documents: u64,
    /// All ids are below it.
    vocab_size: u32,
    bin: BlockReader,
    idx: BlockReader,
}

impl Shard {
    /// Opens the shard `entry` below `dir`. The index is read and checked whole, the tokens when they are first read.
    ///
    /// # Errors
    /// When a file is missing, unreadable, or not what `entry` says.
    pub(crate) fn open(dir: &Path, entry: &ShardEntry, vocab_size: u32) -> Result<Self> {
        let path = |extension: &str| dir.join(format!("{}.{extension}", entry.name));
        let (bin_bytes, idx_size) = (4 * entry.tokens, idx_bytes(entry.documents));
        let (bin_crcs, idx_crcs) = read_crcs(&path("crc"), entry.crc, bin_bytes, idx_size)?;
        let shard = Self {
            tokens: entry.tokens,
            documents: entry.documents,
            vocab_size,
            bin: BlockReader::new(path("bin"), bin_bytes, bin_crcs)?,
            idx: BlockReader::new(path("idx"), idx_size, idx_crcs)?,
        };
        shard.check_index()?;
        Ok(shard)
    }

    /// Fills `out` with the tokens from `start` on. The range must lie within the shard.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let mut bytes = vec![0; 4 * out.len()];
        self.bin.read(4 * start, &mut bytes)?;
        for (token, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *token = u32::from_le_bytes(*bytes);
            if *token >= self.vocab_size {
                let expected = format!("below {}", self.vocab_size);
                return Err(damaged(self.bin.path(), "a token id", &expected, token));
            }
        }
        Ok(())
    }

    /// The numbers of tokens of a range of documents.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn lengths(&self, documents: Range<u64>) -> Result<Vec<u32>> {
        let mut bytes = vec![0; 4 * (documents.end - documents.start) as usize];
        self.idx.read(IDX_HEADER_BYTES + 4 * documents.start, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    fn words(&self, start: u64, words: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; 8 * words as usize];
        self.idx.read(start, &mut bytes)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    }

    /// Whether the index describes exactly the tokens of `.bin`.
    fn check_index(&self) -> Result<()> {
        let expect = |what: &str, expected: u64, found: u64| {
            if expected == found { Ok(()) } else { Err(damaged(self.idx.path(), what, &expected, &found)) }
        };
        let mut magic = [0; 9];
        self.idx.read(0, &mut magic)?;
        if magic != *IDX_MAGIC {
            return Err(damaged(self.idx.path(), "the magic", &IDX_MAGIC.escape_ascii(), &magic.escape_ascii()));
        }
        expect("the version", IDX_VERSION, self.words(9, 1)?[0])?;
        let mut code = [0];
        self.idx.read(17, &mut code)?;
        expect("the type code", IDX_I32.into(), code[0].into())?;
        let counts = self.words(18, 2)?;
        expect("the number of documents", self.documents, counts[0])?;
        expect("the number of boundaries", self.documents + 1, counts[1])?;

        let offsets = IDX_HEADER_BYTES + 4 * self.documents;
        let boundaries = offsets + 8 * self.documents;
        let mut tokens = 0;
        for first in (0..self.documents).step_by(INDEX_CHUNK as usize) {
            let chunk = INDEX_CHUNK.min(self.documents - first);
            let lengths = self.lengths(first..first + chunk)?;
            let offsets = self.words(offsets + 8 * first, chunk)?;
            let boundaries = self.words(boundaries + 8 * first, chunk)?;
            for (document, ((length, offset), boundary)) in
                (first..).zip(lengths.into_iter().zip(offsets).zip(boundaries))
            {
                // A document is at least one token and EOS.
                if length < 2 || length > i32::MAX as u32 {
                    let what = format!("the length of document {document}");
                    return Err(damaged(self.idx.path(), &what, &"in 2..2^31", &length));
                }
                expect(&format!("the offset of document {document}"), 4 * tokens, offset)?;
                expect(&format!("boundary {document}"), document, boundary)?;
                tokens += u64::from(length);
            }
        }
        expect("the last boundary", self.documents, self.words(boundaries + 8 * self.documents, 1)?[0])?;
        expect("the number of tokens", self.tokens, tokens)
    }
}

/// The checksums of the blocks of `.bin` and of `.idx`.
fn read_crcs(path: &Path, crc: u32, bin_bytes: u64, idx_bytes: u64) -> Result<(Vec<u32>, Vec<u32>)> {
    let (bin_blocks, idx_blocks) = (bin_bytes.div_ceil(BLOCK_BYTES), idx_bytes.div_ceil(BLOCK_BYTES));
    let size = CRC_HEADER_BYTES as u64 + 4 * (bin_blocks + idx_blocks) + 4;
    let found = fs_err::metadata(path)?.len();
    if found != size {
        return Err(damaged(path, "the size in bytes", &size, &found));
    }
    let bytes = fs_err::read(path)?;
    let found = crc_of(&bytes);
    if found != crc {
        return Err(damaged(path, "the checksum", &format!("{crc:08x}"), &format!("{found:08x}")));
    }
    let mut header = CRC_MAGIC.to_vec();
    header.extend(CRC_VERSION.to_le_bytes());
    header.extend((BLOCK_BYTES as u32).to_le_bytes());
    header.extend(bin_bytes.to_le_bytes());
    header.extend(idx_bytes.to_le_bytes());
    if bytes[..CRC_HEADER_BYTES] != header {
        return Err(damaged(path, "the header", &header.escape_ascii(), &bytes[..CRC_HEADER_BYTES].escape_ascii()));
    }
    let crcs = &bytes[CRC_HEADER_BYTES..bytes.len() - 4];
    let mut crcs: Vec<u32> = crcs.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let idx_crcs = crcs.split_off(bin_blocks as usize);
    Ok((crcs, idx_crcs))
}

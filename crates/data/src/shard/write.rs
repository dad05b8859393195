use std::io::Write;
use std::path::{Path, PathBuf};

use super::blocks::BlockWriter;
use super::{BLOCK_BYTES, CRC_MAGIC, CRC_VERSION, IDX_I32, IDX_MAGIC, IDX_VERSION, ShardEntry, crc_of};
use crate::error::Result;

/// Writes documents into shards of about equal size.
pub(crate) struct ShardWriter {
    dir: PathBuf,
    /// Path of the shards below `dir`, to which a number is added.
    prefix: String,
    shard_tokens: u64,
    open: Option<OpenShard>,
    shards: Vec<ShardEntry>,
}

struct OpenShard {
    bin: BlockWriter,
    tokens: u64,
    text_bytes: u64,
    lengths: Vec<i32>,
}

impl ShardWriter {
    /// Shards named `prefix-00000` and so on below `dir`, each closed after the document that brings it to
    /// `shard_tokens`.
    pub(crate) fn new(dir: &Path, prefix: String, shard_tokens: u64) -> Self {
        Self { dir: dir.to_owned(), prefix, shard_tokens, open: None, shards: Vec::new() }
    }

    /// Appends a document of at most 2³¹ - 1 tokens, which `read::MAX_DOCUMENT_BYTES` guarantees.
    pub(crate) fn push(&mut self, ids: &[u32], text_bytes: u64) -> Result<()> {
        let path = self.path("bin");
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(OpenShard {
                bin: BlockWriter::create(&path)?,
                tokens: 0,
                text_bytes: 0,
                lengths: Vec::new(),
            }),
        };
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        open.bin.write_all(&bytes)?;
        open.tokens += ids.len() as u64;
        open.text_bytes += text_bytes;
        open.lengths.push(i32::try_from(ids.len()).expect("a document has fewer than 2^31 tokens"));
        if open.tokens >= self.shard_tokens {
            self.close()?;
        }
        Ok(())
    }

    /// Closes the last shard and returns all of them, each on disk.
    pub(crate) fn finish(mut self) -> Result<Vec<ShardEntry>> {
        self.close()?;
        Ok(self.shards)
    }

    fn name(&self) -> String {
        format!("{}-{:05}", self.prefix, self.shards.len())
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name()))
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (bin_bytes, bin_crcs) = open.bin.finish()?;
        let mut idx = BlockWriter::create(&self.path("idx"))?;
        write_index(&mut idx, &open.lengths)?;
        let (idx_bytes, idx_crcs) = idx.finish()?;

        let mut crc = CRC_MAGIC.to_vec();
        crc.extend(CRC_VERSION.to_le_bytes());
        crc.extend((BLOCK_BYTES as u32).to_le_bytes());
        crc.extend(bin_bytes.to_le_bytes());
        crc.extend(idx_bytes.to_le_bytes());
        crc.extend(bin_crcs.iter().chain(&idx_crcs).flat_map(|crc| crc.to_le_bytes()));
        crc.extend(crc_of(&crc).to_le_bytes());
        write_durably(&self.path("crc"), &crc)?;

        self.shards.push(ShardEntry {
            name: self.name(),
            tokens: open.tokens,
            documents: open.lengths.len() as u64,
            text_bytes: open.text_bytes,
            crc: crc_of(&crc),
        });
        Ok(())
    }
}

fn write_index(out: &mut BlockWriter, lengths: &[i32]) -> std::io::Result<()> {
    let documents = lengths.len() as u64;
    out.write_all(IDX_MAGIC)?;
    out.write_all(&IDX_VERSION.to_le_bytes())?;
    out.write_all(&[IDX_I32])?;
    out.write_all(&documents.to_le_bytes())?;
    out.write_all(&(documents + 1).to_le_bytes())?;
    for length in lengths {
        out.write_all(&length.to_le_bytes())?;
    }
    let mut offset = 0_i64;
    for &length in lengths {
        out.write_all(&offset.to_le_bytes())?;
        offset += 4 * i64::from(length);
    }
    for boundary in 0..=documents {
        out.write_all(&boundary.to_le_bytes())?;
    }
    Ok(())
}

/// Writes a small file and waits until it is on disk.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = fs_err::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

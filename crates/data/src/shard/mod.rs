//! A shard: the documents of one source and split, tokenised, in three files.
//!
//! | file | bytes, little-endian |
//! |---|---|
//! | `NAME.bin` | every token of every document as i32, one document after the other |
//! | `NAME.idx` | Megatron's index: `"MMIDIDX\0\0"`, u64 version 1, u8 type code 4 (i32), u64 S documents, u64 S + 1; S × i32 tokens of each; S × i64 byte offset of each in `.bin`; (S + 1) × i64 document boundaries 0, 1, .. S |
//! | `NAME.crc` | `"HADALCRC"`, u32 version 1, u32 block bytes (2²⁰), u64 bytes of `.bin`, u64 bytes of `.idx`; u32 CRC32C of each block of `.bin`, then of `.idx`; u32 CRC32C of all that stands before it |
//!
//! The first two are what Megatron-LM reads: a sequence and a document of its index are both one document here. The
//! third lets a block be checked when it is first read, so that opening a corpus does not mean reading it.

mod blocks;
mod read;
mod write;

use serde::{Deserialize, Serialize};

pub(crate) use blocks::crc_of;
pub(crate) use read::Shard;
pub(crate) use write::{ShardWriter, write_durably};

/// What the manifest knows of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Path of its files below the corpus directory, without extension, with `/` between the parts.
    pub name: String,
    /// Tokens, EOS of each document included.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of the documents' text.
    pub text_bytes: u64,
    /// CRC32C of the `.crc` file, which holds those of the other two.
    pub crc: u32,
}

const IDX_MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const IDX_VERSION: u64 = 1;
/// Megatron's code of i32, the only one that a vocabulary of 129,280 fits and that is not a float or wider.
const IDX_I32: u8 = 4;
const IDX_HEADER_BYTES: u64 = 34;

const CRC_MAGIC: &[u8; 8] = b"HADALCRC";
const CRC_VERSION: u32 = 1;
const CRC_HEADER_BYTES: usize = 32;

/// What one checksum covers.
const BLOCK_BYTES: u64 = 1 << 20;

/// The size of an index of this many documents.
fn idx_bytes(documents: u64) -> u64 {
    IDX_HEADER_BYTES + documents * (4 + 8) + (documents + 1) * 8
}

#[cfg(test)]
mod tests;

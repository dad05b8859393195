use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tensor::Mmap;

use crate::error::{Error, Result};
use crate::header::{self, Entry, LENGTH_BYTES, MAX_HEADER_BYTES};

/// A safetensors file, its header validated and its data mapped.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    pub(crate) map: Arc<Mmap>,
}

impl MappedFile {
    /// Opens `path`; the tensors are in the map beside it.
    pub(crate) fn open(path: &Path) -> Result<(Self, BTreeMap<String, Entry>)> {
        let mut file = fs_err::File::open(path)?;
        let map = Mmap::map(file.file()).map_err(|source| Error::Map { file: path.into(), source })?;
        let file_len = map.len() as u64;
        if file_len < LENGTH_BYTES {
            return Err(Error::FileLength { file: path.into(), expected: LENGTH_BYTES, found: file_len });
        }

        // The header is read through the file: text that decides bounds must not change under us (see `Mmap`).
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        let max = MAX_HEADER_BYTES.min(file_len - LENGTH_BYTES);
        if length > max {
            return Err(Error::HeaderLength { file: path.into(), max, found: length });
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json)?;
        let entries = header::parse(path, &json, file_len)?;
        Ok((Self { path: path.into(), map: Arc::new(map) }, entries))
    }

    pub(crate) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.map[entry.bytes.clone()]
    }
}

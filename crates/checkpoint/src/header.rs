//! The header of a safetensors file (`spec` 6.1): a u64 length, then JSON that maps each name to a type, a shape and a
//! range of the bytes after it.
//!
//! The `safetensors` crate reads this too, but its errors name neither the tensor nor what was expected. The tests hold
//! this reader to that crate's verdict, and the writer to its bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::json::UniqueMap;

/// The format's own limit: a longer header is damage, not a checkpoint.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The bytes of the length before the header.
pub(crate) const LENGTH_BYTES: u64 = 8;

/// One tensor of a file, validated: the range lies in the file and is as long as type and shape demand.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// The bytes, counted from the start of the file.
    pub(crate) bytes: Range<usize>,
}

#[derive(Deserialize)]
struct HeaderJson {
    #[serde(rename = "__metadata__", default)]
    _metadata: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    tensors: UniqueMap<EntryJson>,
}

#[derive(Deserialize)]
struct EntryJson {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads the header `json` of the file `file`, which is `file_len` bytes long altogether. The tensors must cover what
/// follows the header without gap or overlap.
pub(crate) fn parse(file: &Path, json: &[u8], file_len: u64) -> Result<BTreeMap<String, Entry>> {
    let header: HeaderJson =
        serde_json::from_slice(json).map_err(|source| Error::HeaderJson { file: file.into(), source })?;
    let data_start = LENGTH_BYTES + json.len() as u64;

    let mut by_offset: Vec<(String, EntryJson)> = header.tensors.0.into_iter().collect();
    by_offset.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end = 0;
    for (name, entry) in &by_offset {
        let (start, stop) = entry.data_offsets;
        if start != end {
            let (file, tensor) = (file.into(), name.clone());
            return Err(Error::Offset { file, tensor, expected: end, found: start });
        }
        check_size(file, name, entry)?;
        end = stop;
    }
    let expected = data_start.saturating_add(end);
    if expected != file_len {
        return Err(Error::FileLength { file: file.into(), expected, found: file_len });
    }

    let in_file = |offset: u64| (data_start + offset) as usize;
    let entries = by_offset.into_iter().map(|(name, entry)| {
        let (start, stop) = entry.data_offsets;
        let dtype = Dtype::from_name(&entry.dtype).expect("checked with the size");
        let shape = entry.shape.iter().map(|&n| n as usize).collect();
        (name, Entry { dtype, shape, bytes: in_file(start)..in_file(stop) })
    });
    Ok(entries.collect())
}

fn check_size(file: &Path, name: &str, entry: &EntryJson) -> Result<()> {
    let dtype = Dtype::from_name(&entry.dtype).ok_or_else(|| Error::UnknownDtype {
        file: file.into(),
        tensor: name.into(),
        found: entry.dtype.clone(),
    })?;
    let (start, stop) = entry.data_offsets;
    let found = stop.checked_sub(start);
    let expected = entry.shape.iter().try_fold(dtype.size_bytes(), |bytes, &n| bytes.checked_mul(n));
    if expected.is_none() || found != expected {
        return Err(Error::Size {
            file: file.into(),
            tensor: name.into(),
            dtype,
            shape: entry.shape.clone(),
            start,
            stop,
        });
    }
    Ok(())
}

/// The whole head of a file, length included, for tensors that lie in this order without gaps. Padded with blanks, so
/// that the data begin at a multiple of eight.
pub(crate) fn render<'a>(tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize])>) -> Vec<u8> {
    #[derive(Serialize)]
    struct EntryJson<'a> {
        dtype: &'a str,
        shape: &'a [usize],
        data_offsets: (u64, u64),
    }

    let mut json = Vec::new();
    let write = || {
        let mut serializer = serde_json::Serializer::new(&mut json);
        let mut map = serializer.serialize_map(None)?;
        // `transformers` refuses a file that does not say which framework wrote it.
        map.serialize_entry("__metadata__", &BTreeMap::from([("format", "pt")]))?;
        let mut start = 0;
        for (name, dtype, shape) in tensors {
            let stop = start + dtype.size_bytes() * shape.iter().map(|&n| n as u64).product::<u64>();
            map.serialize_entry(name, &EntryJson { dtype: dtype.name(), shape, data_offsets: (start, stop) })?;
            start = stop;
        }
        map.end()
    };
    write().expect("JSON into memory cannot fail");

    json.resize(json.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.append(&mut json);
    head
}

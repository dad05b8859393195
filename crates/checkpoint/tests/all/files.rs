//! Files made byte by byte, independently of the crate's writer.

use std::path::Path;

/// A tensor of a file: name, type, shape, bytes.
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn stored(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Stored {
    Stored { name: name.into(), dtype, shape: shape.into(), bytes }
}

pub(crate) fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Stored {
    stored(name, "F32", shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// A file of these tensors, in this order.
pub(crate) fn file(tensors: &[Stored]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for t in tensors {
        let (start, stop) = (data.len(), data.len() + t.bytes.len());
        entries.push(format!(
            r#""{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{start},{stop}]}}"#,
            t.name, t.dtype, t.shape
        ));
        data.extend(&t.bytes);
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

/// A file of this header and this data, whether they agree or not.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Writes `tensors` as the file `name` of `dir`.
pub(crate) fn put(dir: &Path, name: &str, tensors: &[Stored]) {
    fs_err::write(dir.join(name), file(tensors)).unwrap();
}

/// Writes an index of these (tensor, shard) pairs.
pub(crate) fn put_index(dir: &Path, pairs: &[(&str, &str)]) {
    let pairs: Vec<String> = pairs.iter().map(|(tensor, shard)| format!(r#""{tensor}":"{shard}""#)).collect();
    let json = format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, pairs.join(","));
    fs_err::write(dir.join("model.safetensors.index.json"), json).unwrap();
}

/// The whole chain of an error's messages.
pub(crate) fn message(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|s| format!(": {}", message(s)));
    format!("{error}{}", source.unwrap_or_default())
}

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::json::UniqueMap;

/// The file that says which shard holds which tensor.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// From tensor to shard. Its `metadata.total_size` is not read: what published files have there is not dependable.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct IndexJson {
        weight_map: UniqueMap<String>,
    }

    let text = fs_err::read(path)?;
    let index: IndexJson =
        serde_json::from_slice(&text).map_err(|source| Error::IndexJson { index: path.into(), source })?;
    for (tensor, shard) in &index.weight_map.0 {
        // A shard lies beside its index; a path could point anywhere on the machine.
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(Error::ShardName { index: path.into(), tensor: tensor.clone(), found: shard.clone() });
        }
    }
    Ok(index.weight_map.0)
}

/// The index for `weight_map`, whose tensors take `total_size` bytes.
pub(crate) fn render(weight_map: &BTreeMap<&str, String>, total_size: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct IndexJson<'a> {
        metadata: Metadata,
        weight_map: &'a BTreeMap<&'a str, String>,
    }

    #[derive(Serialize)]
    struct Metadata {
        total_size: u64,
    }

    let mut json = serde_json::to_vec_pretty(&IndexJson { metadata: Metadata { total_size }, weight_map })
        .expect("JSON into memory cannot fail");
    json.push(b'\n');
    json
}

//! What tells one model from another without reading all of it.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTimeError, UNIX_EPOCH};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::args::Compute;

/// Pieces of a file that are looked at, evenly spread, and bytes of each.
const PIECES: u64 = 64;
const PIECE: usize = 4096;

/// SHA-256 of the configuration, of the size and of some pieces of every file of weights, and of how they are computed
/// with. Two sets of weights that were trained apart differ in every piece; reading 671 GB to be certain would take longer
/// than loading them.
pub(crate) fn of(dir: &Path, compute: Compute) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let config = dir.join("config.json");
    hash.update(fs_err::read(&config)?);
    hash.update(format!("{:?} {:?}", compute.dtype, compute.cache));
    for path in weights(dir)? {
        pieces(&path, &mut hash).with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(hash.finalize().into())
}

/// `identity` with the times at which the files of weights were last written. A few weights that were changed in place may lie
/// between all the pieces; what was computed with others must not be taken for theirs. A copy is new, too: it costs one
/// computation more.
pub(crate) fn with_times(identity: [u8; 32], dir: &Path) -> Result<[u8; 32]> {
    let mut hash = Sha256::new_with_prefix(identity);
    for path in weights(dir)? {
        let modified = fs_err::metadata(&path)?.modified()?;
        let since = |result: Result<Duration, SystemTimeError>| result.unwrap_or_else(|error| error.duration());
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(since(modified.duration_since(UNIX_EPOCH)).as_nanos().to_le_bytes());
    }
    Ok(hash.finalize().into())
}

/// The files of weights in `dir`, in order.
fn weights(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs_err::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    Ok(files)
}

fn pieces(path: &Path, hash: &mut Sha256) -> Result<()> {
    let mut file = fs_err::File::open(path)?;
    let bytes = file.metadata()?.len();
    hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    hash.update(bytes.to_le_bytes());
    let mut piece = [0; PIECE];
    for i in 0..PIECES {
        file.seek(SeekFrom::Start(bytes / PIECES * i))?;
        let mut at = 0;
        while at < PIECE {
            match file.read(&mut piece[at..])? {
                0 => break,
                read => at += read,
            }
        }
        hash.update(&piece[..at]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_weights_are_another_model() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs_err::write(dir.path().join(name), bytes).unwrap();
        write("config.json", b"{}");
        write("model.safetensors", &vec![7; 100_000]);
        let of = |compute| of(dir.path(), compute).unwrap();
        let first = of(Compute::default());
        assert_eq!(first, of(Compute::default()));
        assert_ne!(first, of(Compute { dtype: Some(crate::args::Dtype::F32), ..Compute::default() }));
        write("model.safetensors", &vec![8; 100_000]);
        let second = of(Compute::default());
        assert_ne!(first, second);
        write("model-2.safetensors", b"");
        assert_ne!(second, of(Compute::default()));
    }

    #[test]
    fn weights_that_were_written_again_have_other_latents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        fs_err::write(dir.path().join("config.json"), b"{}").unwrap();
        let mut bytes = vec![7; 10_000_000];
        fs_err::write(&path, &bytes).unwrap();
        let of = || of(dir.path(), Compute::default()).unwrap();
        let latents = || with_times(of(), dir.path()).unwrap();
        let (before, latents_before) = (of(), latents());
        assert_eq!(latents(), latents_before);
        // Between two of the pieces.
        bytes[100_000] = 8;
        fs_err::write(&path, &bytes).unwrap();
        let file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
        let later = fs_err::metadata(&path).unwrap().modified().unwrap() + Duration::from_nanos(1);
        file.file().set_modified(later).unwrap();
        assert_eq!(of(), before, "the pieces do not show it");
        assert_ne!(latents(), latents_before);
    }
}

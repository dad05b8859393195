//! The hashes that decide something. All are XXH3 (version 0.8), which is specified, unseeded, and the same everywhere.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

/// Whether a document belongs to the held-out split: its text hash, as a fraction of 2⁶⁴, is below `fraction`.
///
/// Nothing but the text decides, so a document that occurs in two sources, or moves to another place, stays on its side,
/// and what is held out at a smaller fraction is held out at a larger one too.
pub fn held_out(text: &str, fraction: f64) -> bool {
    // The product is below 2⁶⁴ because the fraction is below 1, and its lowest bits are zeros: 2⁻⁵³ is the resolution.
    xxh3_64(text.as_bytes()) < (fraction * f64::powi(2.0, 64)) as u64
}

/// The identity of a document: where it stands, not what it says, so that two copies draw different random numbers.
///
/// `path` is the position of the path in the source's list, `file` the name relative to that path, `index` the
/// document's position in the file.
pub(crate) fn document_id(source: &str, path: u64, file: &str, index: u64) -> u64 {
    let mut hash = Xxh3::new();
    for part in [source.as_bytes(), file.as_bytes()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(&path.to_le_bytes());
    hash.update(&index.to_le_bytes());
    hash.digest()
}

/// 128 bits in hexadecimal: a fingerprint against mistakes, not against an adversary.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

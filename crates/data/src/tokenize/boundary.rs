//! Splitting of tokens that join punctuation with the line breaks after it (DeepSeek-V3, section 4.1).
//!
//! A prompt that ends before the line break never ends in such a token, so a model trained on joined tokens alone meets
//! an unknown boundary. Splitting some of them in training shows it both.

use std::collections::BTreeMap;

use tensor::Rng;

/// Replaces each id that has parts by them, with probability `rate`.
pub(super) fn split(ids: &[u32], splits: &BTreeMap<u32, Vec<u32>>, rate: f64, rng: &mut Rng) -> Vec<u32> {
    let mut out = Vec::with_capacity(ids.len());
    for &id in ids {
        match splits.get(&id) {
            Some(parts) if rng.uniform() < rate => out.extend(parts),
            _ => out.push(id),
        }
    }
    out
}

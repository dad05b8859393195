//! Fill-in-the-middle (arXiv 2207.14255; DeepSeek-V3, section 4.1).

use tensor::Rng;

use crate::encoder::{Encoder, FimTokens};

/// Shorter documents leave nothing to fill in.
const MIN_CHARS: usize = 10;

/// Prefix, suffix, middle: `begin` prefix `hole` suffix `end` middle, the parts encoded one by one. `None` for a document
/// too short to cut.
pub(super) fn rearrange(encoder: &dyn Encoder, sentinels: FimTokens, text: &str, rng: &mut Rng) -> Option<Vec<u32>> {
    let [prefix, middle, suffix] = cut(text, rng)?;
    let mut ids = vec![sentinels.begin];
    ids.extend(encoder.encode(prefix));
    ids.push(sentinels.hole);
    ids.extend(encoder.encode(suffix));
    ids.push(sentinels.end);
    ids.extend(encoder.encode(middle));
    Some(ids)
}

/// Cuts at two different positions, uniform over those between characters and at both ends: prefix and suffix may be
/// empty, the middle is not.
pub(super) fn cut<'a>(text: &'a str, rng: &mut Rng) -> Option<[&'a str; 3]> {
    let chars = text.chars().count();
    if chars < MIN_CHARS {
        return None;
    }
    let a = rng.below(chars as u64 + 1);
    let b = rng.below(chars as u64);
    // The second draw passes over the first, so that every pair is as likely.
    let b = if b >= a { b + 1 } else { b };
    let byte = |position: u64| text.char_indices().nth(position as usize).map_or(text.len(), |(byte, _)| byte);
    let (first, second) = (byte(a.min(b)), byte(a.max(b)));
    Some([&text[..first], &text[first..second], &text[second..]])
}

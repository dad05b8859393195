//! Shapes that matter.

use super::Dims;

/// Sequences of these lengths, one after the other, with these sizes.
pub struct Case {
    /// Lengths of the sequences.
    pub lengths: &'static [usize],
    /// Sizes of attention.
    pub dims: Dims,
}

const fn dims(heads: usize, dn: usize, dr: usize, dv: usize) -> Dims {
    Dims { heads, dn, dr, dv }
}

/// Correctness: one token; an empty sequence; lengths around the strip (32), the block of keys (168), the tile of
/// queries (256) and the span of keys (672); sizes below, at and across the width of a strip, also odd ones; more heads
/// than have their own `dk_rope` at a time.
pub const EXACT: &[Case] = &[
    Case { lengths: &[1], dims: dims(1, 1, 2, 1) },
    Case { lengths: &[5, 0, 1, 9], dims: dims(3, 12, 6, 10) },
    Case { lengths: &[31, 33, 32], dims: dims(2, 16, 8, 16) },
    Case { lengths: &[167, 168, 169], dims: dims(1, 32, 16, 32) },
    Case { lengths: &[255, 256], dims: dims(2, 20, 14, 40) },
    Case { lengths: &[300], dims: dims(1, 128, 64, 128) },
    Case { lengths: &[257, 520], dims: dims(1, 8, 4, 8) },
    Case { lengths: &[3, 2], dims: dims(19, 4, 2, 3) },
    Case { lengths: &[47, 100], dims: dims(2, 33, 7, 35) },
    Case { lengths: &[673, 1361], dims: dims(1, 6, 2, 5) },
];

/// Speed: training steps of small models, a longer context, and the head of DeepSeek-V3 at the lengths of a chunk and
/// of a long prompt.
pub const SPEED: &[Case] = &[
    Case { lengths: &[128; 16], dims: dims(8, 32, 16, 32) },
    Case { lengths: &[512; 4], dims: dims(8, 64, 32, 64) },
    Case { lengths: &[4096], dims: dims(8, 64, 32, 64) },
    Case { lengths: &[512], dims: dims(16, 128, 64, 128) },
    Case { lengths: &[4096], dims: dims(16, 128, 64, 128) },
];

impl Case {
    /// The boundaries of the sequences.
    pub fn cu_seqlens(&self) -> Vec<usize> {
        let mut ends = vec![0];
        for len in self.lengths {
            ends.push(ends[ends.len() - 1] + len);
        }
        ends
    }
}

/// Of the largest element, with standard normal inputs. A score is a chain of at most 192 roundings of 2⁻²⁴, and its
/// error enters a weight multiplied by the weight; sums over keys and the power's own 2⁻²³ add theirs. A gradient of a
/// score is the difference of two such sums, of which one query with one key must give 0. Measured: below 3e-6.
pub const TOLERANCE: f64 = 3e-6;

/// In bf16, against the reference of rounded inputs: a weight is rounded by at most 2⁻⁹ of itself, and a result is a
/// mean of values with these weights. So its error is at most 2⁻⁹ of the largest value, which may be above the largest
/// result.
pub const TOLERANCE_BF16: f64 = 1.0 / 256.0;

/// The same for gradients, which are sums of products with rounded weights or with rounded gradients of scores. In the
/// latter, `dO · v − delta`, the error of `delta` is that of a result.
pub const GRADIENT_TOLERANCE_BF16: f64 = 1.0 / 128.0;

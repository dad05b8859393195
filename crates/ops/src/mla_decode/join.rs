//! Chunks of keys into one.

use crate::mla_attention::softmax::power_of_two;
use crate::simd::{LANES, simd};

simd! {
    /// Joins the result of a chunk with that of the chunks before it, if there are any: a column's weighted latents, not
    /// normalised, and the maximum and the sum of its softmax.
    pub(super) fn join(is_first: bool, from_u: &[f32], from: [f32; 2], u: &mut [f32], softmax: &mut [f32; 2]) {
        let from_u = &from_u[..u.len()];
        if is_first {
            u.copy_from_slice(from_u);
            *softmax = from;
            return;
        }
        // The first chunk holds a key that every column sees, so no maximum here is −∞ except a part's.
        let max = if from[0] > softmax[0] { from[0] } else { softmax[0] };
        // Two lanes of one call, not a closure for each: only what is inlined has the instructions of its level.
        let mut exponents = [max; LANES];
        [exponents[0], exponents[1]] = [softmax[0], from[0]];
        let [keep, gain, ..] = power_of_two(&exponents, &[max; LANES], 1.0);
        *softmax = [max, softmax[1] * keep + from[1] * gain];
        for (u, x) in u.iter_mut().zip(from_u) {
            *u = *u * keep + x * gain;
        }
    }
}

simd! {
    /// Divides by the sum of the softmax.
    pub(super) fn normalise(u: &mut [f32], sum: f32) {
        let scale = 1.0 / sum;
        for x in u {
            *x *= scale;
        }
    }
}

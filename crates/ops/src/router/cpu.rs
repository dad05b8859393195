use crate::simd::{self, LANES, dot, exp, simd};

simd! {
    pub(super) fn sigmoid(logits: &[f32], scores: &mut [f32]) {
        for (s, &x) in scores.iter_mut().zip(logits) {
            *s = simd::sigmoid(x);
        }
    }
}

simd! {
    /// Rows of width `e`.
    pub(super) fn softmax(logits: &[f32], e: usize, scores: &mut [f32]) {
        for (x, s) in logits.chunks_exact(e).zip(scores.chunks_exact_mut(e)) {
            let largest = x.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
            for (s, &x) in s.iter_mut().zip(x) {
                *s = exp(x - largest);
            }
            let by = 1.0 / sum(s);
            for s in s {
                *s *= by;
            }
        }
    }
}

simd! {
    /// `d` is the gradient of the scores on entry, that of the logits on return.
    pub(super) fn sigmoid_backward(scores: &[f32], d: &mut [f32]) {
        for (d, &s) in d.iter_mut().zip(scores) {
            *d *= s * (1.0 - s);
        }
    }
}

simd! {
    /// As `sigmoid_backward`, in rows of width `e`.
    pub(super) fn softmax_backward(scores: &[f32], e: usize, d: &mut [f32]) {
        for (s, d) in scores.chunks_exact(e).zip(d.chunks_exact_mut(e)) {
            let mean = dot(s, d);
            for (d, &s) in d.iter_mut().zip(s) {
                *d = s * (*d - mean);
            }
        }
    }
}

/// In [`LANES`] partial sums, the tail going to the first lanes.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += block[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane += x;
    }
    simd::reduce(lanes)
}

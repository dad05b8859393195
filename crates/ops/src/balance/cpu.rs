use crate::router::EPSILON;
use crate::router::cpu::sum;
use crate::simd::{dot, simd};

simd! {
    /// Each row's part of the loss, and its gradient: `factor` is that of the sequence, over its tokens.
    pub(super) fn rows(scores: &[f32], f: &[f32], factor: f64, dscores: &mut [f32], losses: &mut [f64]) {
        let e = f.len();
        for ((s, ds), loss) in scores.chunks_exact(e).zip(dscores.chunks_exact_mut(e)).zip(losses) {
            let by = 1.0 / (sum(s) + EPSILON);
            let mean = dot(f, s) * by;
            *loss = factor * f64::from(mean);
            let by = factor as f32 * by;
            for (ds, f) in ds.iter_mut().zip(f) {
                *ds = by * (f - mean);
            }
        }
    }
}

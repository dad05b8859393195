use crate::simd::{dot, simd};

simd! {
    /// `y[r] = w[r] · x[r]`.
    pub(super) fn scale(x: &[f32], w: &[f32], y: &mut [f32]) {
        let width = x.len() / w.len();
        for ((x, y), w) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(w) {
            for (y, x) in y.iter_mut().zip(x) {
                *y = x * w;
            }
        }
    }
}

simd! {
    /// `out[r] = a[r] · b[r]`.
    pub(super) fn dots(a: &[f32], b: &[f32], out: &mut [f32]) {
        let width = a.len() / out.len();
        for ((a, b), out) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            *out = dot(a, b);
        }
    }
}

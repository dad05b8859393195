use crate::simd::simd;

simd! {
    /// `y[t] += b`.
    pub(super) fn add(b: &[f32], y: &mut [f32]) {
        for y in y.chunks_exact_mut(b.len()) {
            for (y, b) in y.iter_mut().zip(b) {
                *y += b;
            }
        }
    }
}

simd! {
    /// `sums += Σ_t y[t]` over columns `first..first + sums.len()` of rows of width `n`.
    pub(super) fn add_columns(y: &[f32], n: usize, first: usize, sums: &mut [f32]) {
        for y in y.chunks_exact(n) {
            for (sum, y) in sums.iter_mut().zip(&y[first..]) {
                *sum += y;
            }
        }
    }
}

use crate::simd::simd;

simd! {
    /// `x += y`.
    pub(crate) fn add(y: &[f32], x: &mut [f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

simd! {
    /// `sum = x + y`.
    pub(super) fn sum(x: &[f32], y: &[f32], sum: &mut [f32]) {
        for ((sum, x), y) in sum.iter_mut().zip(x).zip(y) {
            *sum = x + y;
        }
    }
}

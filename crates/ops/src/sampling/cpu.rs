use crate::simd::simd;

pub(super) use crate::cross_entropy::cpu::{exp, largest};

simd! {
    /// `y = (x − largest) / temperature`. A division, because the reciprocal of a small temperature is infinite.
    pub(super) fn scale(x: &[f32], largest: f32, temperature: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = (x - largest) / temperature;
        }
    }
}

use crate::simd::{dot, simd};

simd! {
    /// `out = Σ y[row]` over `rows`, in order; `y` has rows as wide as `out`.
    pub(super) fn sum(y: &[f32], rows: &[u32], out: &mut [f32]) {
        let d = out.len();
        out.fill(0.0);
        for &row in rows {
            for (out, y) in out.iter_mut().zip(&y[row as usize * d..][..d]) {
                *out += y;
            }
        }
    }
}

simd! {
    /// `out = Σ weight · y[row]` over `rows` and their `weights`, in order.
    pub(super) fn weighted_sum(y: &[f32], rows: &[u32], weights: &[f32], out: &mut [f32]) {
        let d = out.len();
        out.fill(0.0);
        for (&row, &weight) in rows.iter().zip(weights) {
            for (out, y) in out.iter_mut().zip(&y[row as usize * d..][..d]) {
                *out = weight.mul_add(*y, *out);
            }
        }
    }
}

simd! {
    /// `out[k] = x · y[rows[k]]`.
    pub(super) fn dots(y: &[f32], rows: &[u32], x: &[f32], out: &mut [f32]) {
        for (out, &row) in out.iter_mut().zip(rows) {
            *out = dot(x, &y[row as usize * x.len()..][..x.len()]);
        }
    }
}

simd! {
    /// `y = x · factor`.
    pub(super) fn scale(x: &[f32], factor: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * factor;
        }
    }
}

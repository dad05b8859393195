use crate::simd::{dot, simd};

simd! {
    /// `rstd[t] = 1 / sqrt(mean(x[t]²) + eps)`.
    pub(super) fn rstd(x: &[f32], eps: f32, rstd: &mut [f32]) {
        let d = x.len() / rstd.len();
        for (x, rstd) in x.chunks_exact(d).zip(rstd) {
            *rstd = 1.0 / (sum_of_squares(x) / d as f32 + eps).sqrt();
        }
    }
}

/// `Σ x²` with the roundings of PyTorch's CPU sum (for up to 8,192 elements): whatever order a sum is taken in, its last
/// bits feed every later layer, so a model that is compared with transformers takes theirs.
///
/// Blocks of 32 go to 32 partial sums, which are cleared into a second level every 16 blocks; whole groups of eight that
/// remain go to the first eight; the four groups of eight are added up, and at last single elements and eight sums.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    const WIDTH: usize = 32;
    let mut level = [0.0; WIDTH];
    let mut total = [0.0; WIDTH];
    let (blocks, rest) = x.as_chunks::<WIDTH>();
    for (i, block) in blocks.iter().enumerate() {
        for j in 0..WIDTH {
            level[j] += block[j] * block[j];
        }
        if i % 16 == 15 {
            for j in 0..WIDTH {
                total[j] += level[j];
                level[j] = 0.0;
            }
        }
    }
    let (groups, tail) = rest.as_chunks::<8>();
    for j in 0..WIDTH {
        level[j] += total[j];
    }
    for group in groups {
        for j in 0..8 {
            level[j] += group[j] * group[j];
        }
    }
    for j in 0..8 {
        level[j] = level[j] + level[j + 8] + level[j + 16] + level[j + 24];
    }
    let single = tail.iter().fold(0.0, |sum, x| sum + x * x);
    level[..8].iter().fold(single, |sum, lane| sum + lane)
}

simd! {
    /// `y[t] = w ⊙ x[t] · rstd[t]`.
    pub(super) fn scale(x: &[f32], w: &[f32], rstd: &[f32], y: &mut [f32]) {
        let d = w.len();
        for ((x, y), &r) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(rstd) {
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = w * (x * r);
            }
        }
    }
}

simd! {
    pub(super) fn backward(dy: &[f32], x: &[f32], w: &[f32], rstd: &[f32], dx: &mut [f32]) {
        let d = w.len();
        let rows = dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(rstd);
        for (((dy, x), dx), &r) in rows {
            for ((g, dy), w) in dx.iter_mut().zip(dy).zip(w) {
                *g = dy * w;
            }
            let mean = dot(dx, x) / d as f32;
            let back = -mean * r * r;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = r * x.mul_add(back, *dx);
            }
        }
    }
}

simd! {
    /// Columns `first..first + dw.len()` of the weight gradient.
    pub(super) fn weight_gradient(dy: &[f32], x: &[f32], rstd: &[f32], d: usize, first: usize, dw: &mut [f32]) {
        for ((dy, x), &r) in dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(rstd) {
            let columns = first..first + dw.len();
            for ((dw, dy), x) in dw.iter_mut().zip(&dy[columns.clone()]).zip(&x[columns]) {
                *dw = (dy * r).mul_add(*x, *dw);
            }
        }
    }
}

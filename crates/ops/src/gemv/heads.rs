//! Products with the matrices of heads the other way round: rows of W are weighted and added up.
//!
//! ```text
//! for each head, for each row i of its matrix: decode the row
//!   for each row t of q:    y[t] += (q[t, i] · scale) · code, column by column
//! ```

use tensor::{Ctx, MatrixRef};

#[cfg(target_arch = "x86_64")]
use super::avx512::heads as avx512;
use super::decode::{self, codes, scale};
use crate::Precision;
use crate::mla_attention::Dims;
use crate::mla_attention::disjoint::Disjoint;
use crate::simd::simd;

/// Columns of a task.
const COLUMNS: usize = 512;

/// `y [T, H·rk]`; arguments as of [`super::heads_nn`].
pub(super) fn nn(ctx: &Ctx, q: &[f32], matrix: MatrixRef<'_>, dims: Dims, precision: Precision, y: &mut [f32]) {
    let (Dims { heads, dn, dr, dv }, rk) = (dims, matrix.cols);
    let width = heads * (dn + dr);
    let strips = rk.div_ceil(COLUMNS);
    let out = Disjoint::new(y);
    let rounded: Vec<f32>;
    let q = match precision {
        Precision::F32 => q,
        Precision::Bf16 => {
            rounded = q.iter().map(|x| decode::rounded(*x)).collect();
            &rounded
        }
    };
    ctx.for_each(heads * strips, |task| {
        let (h, start) = (task / strips, task % strips * COLUMNS);
        let count = COLUMNS.min(rk - start);
        // SAFETY: tasks differ in their head or their columns, and rows of y are apart.
        let y = |t: usize| unsafe { out.part((t * heads + h) * rk + start, count) };
        let q: Vec<&[f32]> = q.chunks_exact(width).map(|q| &q[h * (dn + dr)..][..dn]).collect();
        let mut y: Vec<&mut [f32]> = (0..q.len()).map(y).collect();
        let first = h * (dn + dv);
        #[cfg(target_arch = "x86_64")]
        if ctx.isa.level() >= tensor::Level::Avx512Bf16 && avx512::takes(&matrix) {
            // SAFETY: an `Isa` of this level exists only on a processor that has the instructions.
            return unsafe { avx512::columns(&matrix, first, start, &q, &mut y) };
        }
        columns(ctx.isa, &matrix, first, start, &q, &mut y);
    });
}

simd! {
    /// Columns `start..` of `y[t] = Σ_i q[t][i] · W[first + i]`.
    fn columns(matrix: &MatrixRef<'_>, first: usize, start: usize, q: &[&[f32]], y: &mut [&mut [f32]]) {
        let mut buffer = [0.0; COLUMNS];
        let (Some(rows), Some(columns)) = (q.first().map(|q| q.len()), y.first().map(|y| y.len())) else { return };
        for y in &mut *y {
            y.fill(0.0);
        }
        for i in 0..rows {
            codes(matrix, first + i, start, &mut buffer[..columns]);
            for (q, y) in q.iter().zip(&mut *y) {
                let mut at = 0;
                while at < columns {
                    let (scale, shared) = scale(matrix, first + i, start + at);
                    let end = columns.min(at.saturating_add(shared));
                    let factor = q[i] * scale;
                    for (y, code) in y[at..end].iter_mut().zip(&buffer[at..end]) {
                        *y = factor.mul_add(*code, *y);
                    }
                    at = end;
                }
            }
        }
    }
}

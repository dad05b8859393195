//! Sums in lanes along K, in plain Rust that the compiler vectorises: what the kernels of `avx512` compute, bit for bit.
//!
//! ```text
//! for each row of W:
//!   for each chunk of its columns: decode it
//!     for each row of x:           sums of the chunk, lane by lane; then total = sum · scale + total
//!   the lanes of each total are added up
//! ```

use std::ops::Range;

use tensor::{CodesRef, MatrixRef};

use super::decode::{codes, scale, to_bf16_values, widen};
use super::pack::{CHUNK, Layout, Line, VECTORS};
use crate::simd::{LANES, reduce, simd};

/// Rows of W of one call.
pub(super) const ROWS: usize = 32;
/// Rows of x of one call.
pub(super) const MAX_GROUP: usize = 8;

/// `[m, row]`: what rows of x and of W give.
pub(super) type Out = [[f32; ROWS]; MAX_GROUP];

/// Columns that are decoded to f32 at a time: with as many of a few rows of x they fit the level-1 cache.
const DECODED: usize = 1024;

simd! {
    /// `out[m][i] = x[m] · W[rows.start + i]`, both rounded to bf16: see [`super`] for the order of the sum. `x` is one
    /// group of `group` packed rows.
    pub(super) fn bf16(matrix: MatrixRef<'_>, rows: Range<usize>, x: &[Line], group: usize, out: &mut Out) {
        let layout = Layout::of(&matrix.codes);
        let halves = matches!(matrix.codes, CodesRef::Int8 { .. } | CodesRef::Int4 { .. });
        let scaled = halves || matches!(matrix.codes, CodesRef::Fp8 { .. });
        for (i, row) in rows.enumerate() {
            let mut totals = [[0.0; LANES]; MAX_GROUP];
            for (c, x) in x.chunks_exact(group * VECTORS).enumerate() {
                let start = c * CHUNK;
                // Behind the last column x is 0, and 0 is added up there.
                let mut columns = [0.0; CHUNK];
                let count = CHUNK.min(matrix.cols - start);
                codes(&matrix, row, start, &mut columns[..count]);
                to_bf16_values(&matrix, &mut columns[..count]);
                let mut pairs = [[[0.0; LANES]; 2]; VECTORS];
                for (vector, [low, high]) in pairs.iter_mut().enumerate() {
                    for lane in 0..LANES {
                        [low[lane], high[lane]] = layout.columns(vector, lane).map(|column| columns[column]);
                    }
                }
                let mut scales = [[1.0; LANES]; 2];
                if scaled {
                    for (half, scales) in scales.iter_mut().enumerate() {
                        for (lane, value) in scales.iter_mut().enumerate() {
                            let column = start + 64 * half + 32 * (lane / 8);
                            *value = if column < matrix.cols { scale(&matrix, row, column).0 } else { 0.0 };
                        }
                    }
                }
                for (total, x) in totals.iter_mut().zip(x.chunks_exact(VECTORS)) {
                    let mut sum = [0.0; LANES];
                    for (vector, [low, high]) in pairs.iter().enumerate() {
                        add_pairs(&mut sum, &x[vector], low, high);
                        if halves && vector == 1 {
                            add_scaled(total, &sum, &scales[0]);
                            sum = [0.0; LANES];
                        }
                    }
                    add_scaled(total, &sum, if halves { &scales[1] } else { &scales[0] });
                }
            }
            for (out, total) in out.iter_mut().zip(&totals[..group]) {
                out[i] = reduce(*total);
            }
        }
    }
}

/// What the instruction does: the product of the upper halves first, then that of the lower ones, each rounded once.
#[inline(always)]
fn add_pairs(sum: &mut [f32; LANES], x: &Line, low: &[f32; LANES], high: &[f32; LANES]) {
    for lane in 0..LANES {
        let pair = x.0[lane];
        sum[lane] = f32::from_bits(pair & 0xFFFF_0000).mul_add(high[lane], sum[lane]);
        sum[lane] = widen(pair as u16).mul_add(low[lane], sum[lane]);
    }
}

/// With a scale of 1 this is a plain addition.
#[inline(always)]
fn add_scaled(total: &mut [f32; LANES], sum: &[f32; LANES], scale: &[f32; LANES]) {
    for lane in 0..LANES {
        total[lane] = sum[lane].mul_add(scale[lane], total[lane]);
    }
}

simd! {
    /// `out[m][i] = x[m] · W[rows.start + i]` in f32, for at most [`MAX_GROUP`] rows of x, `x[m]` being
    /// `x[m * stride..]`.
    pub(super) fn f32(matrix: MatrixRef<'_>, rows: Range<usize>, x: &[f32], stride: usize, group: usize, out: &mut Out) {
        let mut buffer = [0.0; DECODED];
        for (i, row) in rows.enumerate() {
            let mut totals = [[0.0; LANES]; MAX_GROUP];
            for start in (0..matrix.cols).step_by(DECODED) {
                let count = DECODED.min(matrix.cols - start);
                let w = if let CodesRef::F32(values) = matrix.codes {
                    &values[row * matrix.cols + start..][..count]
                } else {
                    decode(&matrix, row, start, &mut buffer[..count]);
                    &buffer[..count]
                };
                let x = |m: usize| &x[m * stride + start..][..count];
                let (fours, rest) = totals[..group].as_chunks_mut::<4>();
                let done = 4 * fours.len();
                for (i, totals) in fours.iter_mut().enumerate() {
                    add_four(totals, w, [x(4 * i), x(4 * i + 1), x(4 * i + 2), x(4 * i + 3)]);
                }
                for (m, total) in rest.iter_mut().enumerate() {
                    add_products(total, w, x(done + m));
                }
            }
            for (out, total) in out.iter_mut().zip(&totals[..group]) {
                out[i] = reduce(*total);
            }
        }
    }
}

/// Columns from `start` on as f32 products of code and scale.
#[inline(always)]
fn decode(matrix: &MatrixRef<'_>, row: usize, start: usize, out: &mut [f32]) {
    codes(matrix, row, start, out);
    let mut at = 0;
    while at < out.len() {
        let (scale, columns) = scale(matrix, row, start + at);
        let end = out.len().min(at.saturating_add(columns));
        if columns == usize::MAX {
            return;
        }
        for x in &mut out[at..end] {
            *x *= scale;
        }
        at = end;
    }
}

/// Column `k` goes to lane `k mod 16`.
#[inline(always)]
fn add_products(total: &mut [f32; LANES], w: &[f32], x: &[f32]) {
    let mut lanes = *total;
    let (w_blocks, w_tail) = w.as_chunks::<LANES>();
    let (x_blocks, x_tail) = x.as_chunks::<LANES>();
    for (w, x) in w_blocks.iter().zip(x_blocks) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].mul_add(w[lane], lanes[lane]);
        }
    }
    for ((lane, w), x) in lanes.iter_mut().zip(w_tail).zip(x_tail) {
        *lane = x.mul_add(*w, *lane);
    }
    *total = lanes;
}

/// The same for four rows of x, whose additions do not wait for one another.
#[inline(always)]
fn add_four(totals: &mut [[f32; LANES]; 4], w: &[f32], x: [&[f32]; 4]) {
    // One named array for each row: the compiler keeps each in a register, which it does not do for an array of arrays.
    let [mut a, mut b, mut c, mut d] = *totals;
    let blocks = w.len() / LANES;
    let [xa, xb, xc, xd] = x.map(|x| x.as_chunks::<LANES>().0);
    for (k, w) in w.as_chunks::<LANES>().0.iter().enumerate() {
        let (xa, xb, xc, xd) = (&xa[k], &xb[k], &xc[k], &xd[k]);
        for lane in 0..LANES {
            a[lane] = xa[lane].mul_add(w[lane], a[lane]);
            b[lane] = xb[lane].mul_add(w[lane], b[lane]);
            c[lane] = xc[lane].mul_add(w[lane], c[lane]);
            d[lane] = xd[lane].mul_add(w[lane], d[lane]);
        }
    }
    *totals = [a, b, c, d];
    for (total, x) in totals.iter_mut().zip(x) {
        add_products(total, &w[blocks * LANES..], &x[blocks * LANES..]);
    }
}

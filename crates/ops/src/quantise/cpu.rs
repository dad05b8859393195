use tensor::{BLOCK, GROUP, bf16};

use crate::simd::simd;

/// What the number of largest magnitude of a group of int4 is to become, in the order in which they are tried. A scale may
/// be negative, so that this number has the larger side of -8 to 7.
pub(super) const EXTREMES: [f32; 7] = [-8.0, -7.5, -7.0, 7.0, 6.5, -6.5, -6.0];

simd! {
    /// One row.
    pub(super) fn int8(w: &[f32], codes: &mut [u8], scales: &mut [bf16]) {
        for ((w, codes), scale) in w.chunks(GROUP).zip(codes.chunks_mut(GROUP)).zip(scales) {
            let stored = bf16::from_f32(largest(w) / 127.0);
            *scale = stored;
            let step = stored.to_f32();
            for (code, x) in codes.iter_mut().zip(w) {
                // Rounding the scale can take the quotient to 127.5, but not beyond.
                let magnitude = quotient(x.abs(), step).round_ties_even().min(127.0) as u8;
                *code = magnitude | u8::from(x.is_sign_negative()) << 7;
            }
        }
    }
}

simd! {
    /// One row.
    pub(super) fn int4(w: &[f32], codes: &mut [u8], scales: &mut [bf16]) {
        for (group, (w, scale)) in w.chunks(GROUP).zip(scales).enumerate() {
            let mut values = [0.0; GROUP];
            values[..w.len()].copy_from_slice(w);
            let extreme = values.iter().fold(0.0_f32, |m, x| if x.abs() > m.abs() || x.is_nan() { *x } else { m });
            // If the extreme is not finite, no candidate is better.
            let mut best = (if extreme.is_finite() { bf16::ZERO } else { bf16::NAN }, f64::INFINITY);
            for candidate in EXTREMES {
                let stored = bf16::from_f32(extreme / candidate);
                let error = error(&values, stored.to_f32());
                if error < best.1 {
                    best = (stored, error);
                }
            }
            *scale = best.0;
            let step = best.0.to_f32();
            let (column, first) = (group * GROUP % 128, group * GROUP / 128 * 64);
            let shift = if column < 64 { 0 } else { 4 };
            for (i, x) in w.iter().enumerate() {
                codes[first + column % 64 + i] |= ((integer(*x, step) + 8.0) as u8) << shift;
            }
        }
    }
}

/// The squared error of a group with this scale; in f64, where the square of an f32 does not overflow.
#[inline(always)]
fn error(values: &[f32; GROUP], step: f32) -> f64 {
    let mut lanes = [0.0; 8];
    for eight in values.as_chunks::<8>().0 {
        for i in 0..8 {
            let error = f64::from(integer(eight[i], step).mul_add(-step, eight[i]));
            lanes[i] += error * error;
        }
    }
    lanes.iter().sum()
}

/// The integer from -8 to 7 nearest to `x / step`.
#[inline(always)]
fn integer(x: f32, step: f32) -> f32 {
    quotient(x, step).round_ties_even().clamp(-8.0, 7.0)
}

/// `x / step`; 0 where the step is 0, since then there is nothing but 0 to choose from.
#[inline(always)]
fn quotient(x: f32, step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { x / step }
}

simd! {
    /// At most [`BLOCK`] rows of `cols`.
    pub(super) fn fp8(w: &[f32], cols: usize, codes: &mut [u8], scales: &mut [f32]) {
        for (block, scale) in scales.iter_mut().enumerate() {
            let columns = block * BLOCK..cols.min((block + 1) * BLOCK);
            let mut amax = 0.0;
            for row in w.chunks_exact(cols) {
                amax = larger(amax, largest(&row[columns.clone()]));
            }
            *scale = if amax == 0.0 { 1.0 } else { amax / 448.0 };
            for (row, codes) in w.chunks_exact(cols).zip(codes.chunks_exact_mut(cols)) {
                for (code, x) in codes[columns.clone()].iter_mut().zip(&row[columns.clone()]) {
                    *code = encode_e4m3(quotient(*x, *scale));
                }
            }
        }
    }
}

/// The largest magnitude; NaN if a number is not finite.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (blocks, tail) = values.as_chunks::<16>();
    for block in blocks {
        for i in 0..16 {
            lanes[i] = larger(lanes[i], block[i].abs());
        }
    }
    let largest = tail.iter().map(|x| x.abs()).chain(lanes).fold(0.0, larger);
    if largest.is_finite() { largest } else { f32::NAN }
}

/// Unlike `f32::max` NaN if one of them is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// The code nearest to `x`, ties to even; what is larger than 448 becomes 448.
#[inline(always)]
pub(super) fn encode_e4m3(x: f32) -> u8 {
    // Adding and subtracting 1.5 · 2²³ rounds to an integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
    let magnitude = x.abs();
    // Below the normal numbers a code counts 2⁻⁹; the first normal one, 8, continues the count.
    let small = (magnitude * 512.0 + ROUND).to_bits() & 0xFF;
    let bits = magnitude.to_bits();
    let normal = (bits + 0x7_FFFF + ((bits >> 20) & 1)).wrapping_sub(120 << 23) >> 20;
    let code = if magnitude < SMALLEST_NORMAL { small } else { normal };
    let code = if magnitude > 448.0 { 0x7E } else { code };
    let code = if x.is_nan() { 0x7F } else { code };
    (code as u8 & 0x7F) | (x.to_bits() >> 24) as u8 & 0x80
}

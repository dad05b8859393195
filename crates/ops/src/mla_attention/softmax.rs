//! Softmax over keys, a block of them at a time, for 32 queries side by side.
//!
//! Exponentials are powers of two: `e^(scale · x) = 2^(unit · x)` with `unit = scale · log2 e`. Forward multiplies the
//! difference of a score from the maximum by the unit, so that scores are the products of unscaled queries and keys, to
//! the bit those of a model that scales them afterwards; backward in f32 and decode have the unit in their queries.

use super::strips::{Row, WIDTH};
use crate::simd::{LANES, simd};

/// How far the softmax of 32 queries has come (Milakov and Gimelshein 2018).
#[derive(Clone, Copy)]
pub(crate) struct Online {
    /// The largest score so far; −∞ before the first visible key.
    pub(crate) max: Row,
    /// `Σ 2^(score − max)` so far.
    pub(crate) sum: Row,
}

impl Online {
    pub(crate) const START: Self = Self { max: [f32::NEG_INFINITY; WIDTH], sum: [0.0; WIDTH] };
}

simd! {
    /// Takes in one block: row `i` of `scores` holds the scores of key `i`, of which query `j` sees those with
    /// `i < limits[j]`. Scores become weights `2^(unit · (score − max))`; the result is what earlier weights and their
    /// sums must be multiplied by now that the maximum may be another.
    pub(crate) fn online(scores: &mut [Row], limits: &[u32; WIDTH], unit: f32, state: &mut Online) -> Row {
        let sure = limits.iter().fold(scores.len(), |least, &limit| least.min(limit as usize));
        for (i, row) in scores.iter_mut().enumerate().skip(sure) {
            for j in 0..WIDTH {
                row[j] = if (i as u32) < limits[j] { row[j] } else { f32::NEG_INFINITY };
            }
        }
        let mut factor = [0.0; WIDTH];
        // Half a row at a time, so that its maxima and sums stay in registers.
        for start in [0, LANES] {
            let half = start..start + LANES;
            let old: [f32; LANES] = part(&state.max[half.clone()]);
            let mut max = old;
            for row in &*scores {
                let row: [f32; LANES] = part(&row[half.clone()]);
                for l in 0..LANES {
                    max[l] = if row[l] > max[l] { row[l] } else { max[l] };
                }
            }
            // Before its first visible key a query has the maximum −∞, and −∞ − (−∞) is not a number.
            let mut base = max;
            for l in 0..LANES {
                base[l] = if max[l] == f32::NEG_INFINITY { 0.0 } else { max[l] };
            }
            let correction = power_of_two(&old, &base, unit);
            let mut sum: [f32; LANES] = part(&state.sum[half.clone()]);
            for l in 0..LANES {
                sum[l] *= correction[l];
            }
            for row in &mut *scores {
                let weights = power_of_two(&part(&row[half.clone()]), &base, unit);
                for l in 0..LANES {
                    sum[l] += weights[l];
                }
                row[half.clone()].copy_from_slice(&weights);
            }
            factor[half.clone()].copy_from_slice(&correction);
            state.max[half.clone()].copy_from_slice(&max);
            state.sum[half].copy_from_slice(&sum);
        }
        factor
    }
}

simd! {
    /// The weights again, from the logarithm of their sum, and the gradient of the scores: on entry `p` holds scores
    /// and `ds` the gradient of the weights; afterwards `p = 2^(p − lse)` and `ds = p · (ds − delta)`, both 0 where a
    /// query does not see the key.
    pub(super) fn backward(p: &mut [Row], ds: &mut [Row], limits: &[u32; WIDTH], lse: &Row, delta: &Row) {
        for start in [0, LANES] {
            let half = start..start + LANES;
            let limits: [u32; LANES] = part(&limits[half.clone()]);
            let (lse, delta): ([f32; LANES], [f32; LANES]) = (part(&lse[half.clone()]), part(&delta[half.clone()]));
            for (i, (p, ds)) in p.iter_mut().zip(&mut *ds).enumerate() {
                let mut weights = power_of_two(&part(&p[half.clone()]), &lse, 1.0);
                let mut gradient: [f32; LANES] = part(&ds[half.clone()]);
                for l in 0..LANES {
                    let visible = (i as u32) < limits[l];
                    gradient[l] = if visible { weights[l] * (gradient[l] - delta[l]) } else { 0.0 };
                    weights[l] = if visible { weights[l] } else { 0.0 };
                }
                p[half.clone()].copy_from_slice(&weights);
                ds[half.clone()].copy_from_slice(&gradient);
            }
        }
    }
}

/// A copy of [`LANES`] values, which may live in a register.
#[inline(always)]
pub(super) fn part<T: Copy>(values: &[T]) -> [T; LANES] {
    *values.first_chunk().expect("a row has two halves")
}

/// `2^(unit · (x − base))` for exponents below 126; exactly 1 for 0. See [`two_to`].
#[inline(always)]
pub(crate) fn power_of_two(x: &[f32; LANES], base: &[f32; LANES], unit: f32) -> [f32; LANES] {
    let mut y = [0.0; LANES];
    for l in 0..LANES {
        y[l] = two_to((x[l] - base[l]) * unit);
    }
    y
}

/// `2^x` for exponents below 126, to about one unit in the last place. Results below the smallest normal number are 0;
/// NaN stays NaN.
///
/// The exponent is `n + r` with `|r| ≤ ½`. A polynomial, the best of its degree (relative error 2⁻²⁸), gives `2^r`;
/// `2^n` is put together from bits.
#[inline(always)]
pub(super) fn two_to(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 6] =
        [1.546_183_5e-4, 1.340_992e-3, 9.618_058e-3, 5.550_297_6e-2, 2.402_265e-1, 6.931_472_4e-1];
    let clamped = if x < -126.0 { -126.0 } else { x };
    let rounded = clamped + ROUND;
    let r = clamped - (rounded - ROUND);
    let mut p = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        p = r.mul_add(p, *c);
    }
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3f80_0000));
    let result = r.mul_add(p, 1.0) * power;
    if x < -126.0 { 0.0 } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_within_two_ulps() {
        let mut worst: f64 = 0.0;
        let of = |x: f32, base: f32| power_of_two(&[x; LANES], &[base; LANES], 1.0)[3];
        for i in -125_999..=10_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp2();
            let ulp = f64::from(f32::EPSILON) * exact / 2.0;
            worst = worst.max((f64::from(of(x, 0.0)) - exact).abs() / ulp);
        }
        assert!(worst < 4.0, "{worst} half-ulps");
        assert_eq!(of(17.3, 17.3), 1.0);
        assert_eq!(of(-127.0, 0.0), 0.0);
        assert_eq!(of(f32::NEG_INFINITY, 5.0), 0.0);
        assert!(of(f32::NAN, 0.0).is_nan() && of(0.0, f32::NAN).is_nan());
    }
}

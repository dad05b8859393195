//! Shapes that matter, as `[T, N, K]`.

/// Correctness: one, primes, one below and above the tiles (4, 6, 14 rows; 16, 32 columns) and the inner block (256).
pub const EXACT: &[[usize; 3]] = &[
    [1, 1, 1],
    [1, 33, 257],
    [2, 7, 3],
    [5, 100, 63],
    [13, 31, 255],
    [14, 32, 256],
    [15, 33, 257],
    [29, 65, 100],
    [71, 129, 300],
    [600, 40, 20],
];

/// Speed: a training step of 2,048 tokens at hidden size 512, and one decoded token.
pub const SPEED: &[[usize; 3]] =
    &[[2048, 512, 512], [2048, 1536, 512], [2048, 512, 1536], [256, 512, 512], [1, 1536, 512]];

/// A product of K terms in one chain of roundings: each adds at most half a unit in the last place of a partial sum, so
/// the error is below K · 2⁻²⁴ · Σ|aᵢbᵢ|.
pub fn tolerance(k: usize, absolute_sum: f64) -> f64 {
    k as f64 * f64::powi(2.0, -24) * absolute_sum
}

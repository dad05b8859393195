//! Shapes that matter, as `[T, N, K]`.

/// Correctness: one, primes, one below and above the tiles (4, 6, 14 rows; 16, 32 columns), the groups of columns (128), the
/// inner blocks (256 or 1,024 steps) and what shares a scale (32 or 128 columns).
pub const EXACT: &[[usize; 3]] = &[
    [1, 1, 1],
    [1, 33, 257],
    [2, 7, 3],
    [5, 100, 63],
    [13, 31, 255],
    [14, 32, 256],
    [15, 33, 257],
    [29, 65, 100],
    [3, 17, 2113],
    [40, 131, 130],
    [71, 129, 300],
    [600, 40, 20],
];

/// Speed: a square, and a training step of 2,048 tokens at hidden size 512.
pub const SPEED: &[[usize; 3]] = &[[2048, 2048, 2048], [2048, 512, 512], [2048, 1536, 512], [2048, 512, 1536]];

/// Speed of stored weights: a prompt of 512 tokens, one of 16, and one token.
pub const STORED: &[[usize; 3]] = &[[512, 2048, 2048], [16, 2048, 2048], [1, 2048, 2048]];

/// Speed of experts: 64 of them, with prompts of 512 and 2,048 tokens that go to six each.
pub const GROUPED: &[[usize; 3]] = &[[3072, 1024, 1024], [12288, 1024, 1024], [12288, 1024, 512]];

/// Experts of [`GROUPED`].
pub const EXPERTS: usize = 64;

/// Where the rows of each expert begin, and the end: the fullest expert has seven times the rows of the emptiest.
pub fn ragged(rows: usize) -> Vec<usize> {
    let weight = |e: usize| 1 + e * 29 % EXPERTS / (EXPERTS / 7);
    let total: usize = (0..EXPERTS).map(weight).sum();
    (0..=EXPERTS).map(|e| rows * (0..e).map(weight).sum::<usize>() / total).collect()
}

/// A product of K terms in one chain of roundings: each adds at most half a unit in the last place of a partial sum, so
/// the error is below K · 2⁻²⁴ · Σ|aᵢbᵢ|. Operands that are rounded to bf16 are rounded before they come to the reference,
/// and their products are exact. Where scales stand outside the chains there are two roundings more: that of code times
/// scale, which the decoded weight has and the kernel has not, and that of adding the chain.
pub fn tolerance(k: usize, absolute_sum: f64) -> f64 {
    (k + 2) as f64 * f64::powi(2.0, -24) * absolute_sum
}

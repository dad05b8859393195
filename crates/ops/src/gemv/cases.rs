//! Shapes that matter, as `[T, N, K]`.

use crate::Precision;

/// Correctness: one; primes; widths around a vector (32), half a chunk (64), a chunk (128) and what is decoded at a time
/// (1024); rows of x on both sides of the groups (8, 16); more rows of W than a call has (32) and a block of FP8 (128);
/// widths that need several passes over the rows, and fewer of them where several groups share what is decoded.
pub const EXACT: &[[usize; 3]] = &[
    [1, 1, 1],
    [1, 3, 63],
    [2, 33, 127],
    [3, 130, 129],
    [4, 7, 130],
    [5, 131, 64],
    [6, 5, 31],
    [7, 40, 257],
    [8, 37, 2053],
    [9, 34, 300],
    [16, 33, 1100],
    [17, 3, 1024],
    [35, 35, 97],
    [10, 35, 4300],
    [1, 2, 17000],
];

/// Speed: what decoding reads, in matrices of a large and of a small model.
pub const SPEED: &[[usize; 2]] = &[[2048, 7168], [7168, 2048], [1024, 1024]];

/// Rows of x.
pub const SPEED_ROWS: &[usize] = &[1, 2, 4, 8, 16, 32];

/// Of `Σ |xᵢ wᵢ|`: each rounding on the way from a product to the result adds at most 2⁻²⁴ of a partial sum.
///
/// With bf16: eight in a chunk, two for each chunk that a total has, four for the lanes. With f32: one for the product of
/// code and scale, one for each sixteen columns, four for the lanes.
pub fn tolerance(k: usize, precision: Precision) -> f64 {
    let roundings = match precision {
        Precision::Bf16 => 8 + 2 * k.div_ceil(128) + 4,
        Precision::F32 => 1 + k.div_ceil(16) + 4,
    };
    roundings as f64 * f64::powi(2.0, -24)
}

/// The same for `heads_nn`: `dn` terms in one chain, and one rounding for the product of a number and the scale.
pub fn heads_tolerance(dn: usize) -> f64 {
    (dn + 1) as f64 * f64::powi(2.0, -24)
}

//! Shapes that matter.

use super::Dims;

/// A batch of sequences.
pub struct Case {
    /// Sizes of attention.
    pub dims: Dims,
    /// Width of a latent.
    pub rk: usize,
    /// For each sequence the position of its first new row and how many new rows it has.
    pub queries: &'static [(usize, usize)],
}

const fn case([heads, dn, dr, dv]: [usize; 4], rk: usize, queries: &'static [(usize, usize)]) -> Case {
    Case { dims: Dims { heads, dn, dr, dv }, rk, queries }
}

/// Correctness: the first token; widths below, at and across a strip (32); rows on both sides of a block of keys (168)
/// and of a chunk (1008); more columns than a group has (128); no rows at all.
pub const EXACT: &[Case] = &[
    case([1, 1, 2, 1], 1, &[(0, 1)]),
    case([3, 12, 6, 10], 20, &[(0, 5), (165, 6), (7, 0), (40, 1)]),
    case([4, 16, 8, 16], 32, &[(1005, 6), (2015, 2)]),
    case([20, 20, 14, 40], 70, &[(250, 9)]),
    case([128, 8, 8, 8], 64, &[(300, 2), (0, 1)]),
];

/// Speed: one token of DeepSeek-V3 and of a small model, after some context and in a batch, and a short prompt.
pub const SPEED: &[Case] = &[
    case([128, 128, 64, 128], 512, &[(4095, 1)]),
    case([8, 64, 32, 64], 128, &[(1023, 1)]),
    case([8, 64, 32, 64], 128, &[(1023, 1); 16]),
    case([8, 64, 32, 64], 128, &[(511, 64)]),
];

/// Of the largest element, with inputs of about unit size: a score is a chain of at most `rk + dr` roundings of 2⁻²⁴, and
/// its error enters a weight multiplied by the weight. Measured: below 1e-6.
pub const TOLERANCE: f64 = 2e-6;

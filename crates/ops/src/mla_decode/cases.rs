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

/// Speed: one token of DeepSeek-V3, of its relatives with 16 heads and of a small model, after some context and in a
/// batch, and a short prompt.
pub const SPEED: &[Case] = &[
    case([128, 128, 64, 128], 512, &[(4095, 1)]),
    case([16, 128, 64, 128], 512, &[(511, 1)]),
    case([16, 128, 64, 128], 512, &[(4095, 1)]),
    case([16, 128, 64, 128], 512, &[(4095, 1); 8]),
    case([8, 64, 32, 64], 128, &[(1023, 1)]),
    case([8, 64, 32, 64], 128, &[(1023, 1); 16]),
    case([8, 64, 32, 64], 128, &[(511, 64)]),
];

/// Of the largest element, with inputs of about unit size: a score is a chain of at most `rk + dr` roundings of 2⁻²⁴, and
/// its error enters a weight multiplied by the weight. Measured: below 1e-6.
pub const TOLERANCE: f64 = 2e-6;

/// In bf16, against the reference with rounded queries and keys: what remains is that each weight is rounded, by 2⁻⁹ of
/// itself at most, so `u` moves by at most 2⁻⁹ times the weighted mean of `|c − u|`, which is about one for inputs of unit
/// size. The largest of thousands of elements is held to twice that.
pub const BF16_TOLERANCE: f64 = 4e-3;

/// What rounding everything to bf16 costs, root mean square over that of `u`: a score of unit size and many terms
/// moves by 2⁻⁹ / √3 for each of its operands, and so does a weight; rounding a weight adds as much. Measured: at most
/// 3.2e-3.
pub const BF16_COST: f64 = 5e-3;

/// The same with `c` in E4M3: a value of three bits of mantissa is off by 2.65 % root mean square, in the scores and
/// again where it is weighted. Measured: at most 3.6e-2.
pub const FP8_COST: f64 = 5e-2;

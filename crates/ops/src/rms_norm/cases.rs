//! Shapes that matter, as `[T, D]`.

/// Correctness: one, odd widths, several tasks of rows and of columns.
pub const EXACT: &[[usize; 2]] = &[[1, 1], [1, 63], [3, 100], [33, 64], [70, 129], [65, 512]];

/// Speed: the widths of a small model and of DeepSeek-V3.
pub const SPEED: &[[usize; 2]] = &[[2048, 512], [2048, 7168]];

/// Of the largest element: a few roundings of f32 (2⁻²⁴ each), and the mean's 16 partial sums of at most 32 terms.
pub const TOLERANCE: f64 = 2e-6;

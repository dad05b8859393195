//! Shapes that matter, as `[R, I]`.

/// Correctness: one, odd widths, more than one task.
pub const EXACT: &[[usize; 2]] = &[[1, 1], [3, 63], [65, 100], [130, 17]];

/// Speed: 2,048 tokens with four experts each, at an expert width of 256.
pub const SPEED: &[[usize; 2]] = &[[8192, 256]];

/// Of the largest element: one rounding for a product, and 16 partial sums of at most 7 terms for `dw`.
pub const TOLERANCE: f64 = 1e-6;

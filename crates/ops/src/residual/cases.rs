//! Shapes that matter, as `[T, D]`.

/// Correctness: one, an odd width, several tasks.
pub const EXACT: &[[usize; 2]] = &[[1, 1], [3, 63], [65, 512]];

/// Speed: a small model and DeepSeek-V3's width.
pub const SPEED: &[[usize; 2]] = &[[2048, 512], [2048, 7168]];

/// Of the largest element: one rounding.
pub const TOLERANCE: f64 = 6e-8;

//! Shapes that matter, as `[T, K, E, D]`.

/// Correctness: one, experts without rows, more tasks than one, awkward widths.
pub const EXACT: &[[usize; 4]] = &[[1, 1, 1, 1], [3, 2, 9, 63], [40, 3, 8, 33], [65, 8, 64, 100], [5, 4, 4, 17]];

/// Speed: a small model and DeepSeek-V3's widths.
pub const SPEED: &[[usize; 4]] = &[[4096, 4, 16, 512], [512, 8, 256, 7168]];

/// Of the largest element: at most eight terms, and dot products of 100 terms in 16 partial sums.
pub const TOLERANCE: f64 = 2e-6;

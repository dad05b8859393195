//! Shapes that matter, as `[T, V, D]`.

/// Correctness: one, ids that repeat and ids that never occur, several tasks of rows.
pub const EXACT: &[[usize; 3]] = &[[1, 1, 1], [5, 3, 63], [100, 17, 33], [70, 1000, 100]];

/// Speed: the width and vocabulary of a small model.
pub const SPEED: &[[usize; 3]] = &[[2048, 32_768, 512]];

/// Of the largest element, for the sums of backward: at most 100 rows of one id, one rounding of f32 each.
pub const TOLERANCE: f64 = 6e-6;

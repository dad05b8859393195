//! Shapes that matter, as `[T, V]`.

/// Correctness: one, below and above the lanes and the blocks of sums, several tasks.
pub const EXACT: &[[usize; 2]] = &[[1, 1], [3, 63], [5, 100], [7, 4096], [2, 4113], [1, 129_280]];

/// Speed: the vocabularies of a small model and of DeepSeek-V3.
pub const SPEED: &[[usize; 2]] = &[[2048, 32_768], [128, 129_280]];

/// Of the largest element: the exponential's two units in the last place, and at most 256 additions to a partial sum
/// whose errors have either sign.
pub const TOLERANCE: f64 = 1e-6;

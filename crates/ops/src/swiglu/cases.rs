//! Shapes that matter, as `[T, I]`.

/// Correctness: one, odd widths, several tasks of rows.
pub const EXACT: &[[usize; 2]] = &[[1, 1], [3, 63], [17, 100], [40, 33], [2, 513]];

/// Speed: the widths of a small model's expert and of DeepSeek-V3's.
pub const SPEED: &[[usize; 2]] = &[[4096, 256], [1024, 2048]];

/// Of the largest element: an exponential of two units in the last place and at most six more roundings.
pub const TOLERANCE: f64 = 1e-6;

//! Shapes that matter, as `[T, heads, head_dim, offset, dr]`.

/// Correctness: one pair, values before and behind the rotated ones, odd head sizes, several tasks of rows.
pub const EXACT: &[[usize; 5]] =
    &[[1, 1, 2, 0, 2], [3, 2, 9, 3, 4], [5, 3, 12, 6, 6], [33, 2, 24, 16, 8], [70, 2, 100, 37, 62]];

/// Speed: the queries of a small model and of DeepSeek-V3.
pub const SPEED: &[[usize; 5]] = &[[2048, 8, 96, 64, 32], [512, 128, 192, 128, 64]];

/// Of the largest element: cosine, sine, two products and a sum are rounded, 2⁻²⁴ each.
pub const TOLERANCE: f64 = 4e-7;

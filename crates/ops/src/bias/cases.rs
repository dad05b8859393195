//! Shapes that matter, as `[T, N]`.

/// Correctness: one, odd widths, several tasks of rows and of columns.
pub const EXACT: &[[usize; 2]] = &[[1, 1], [3, 63], [33, 64], [70, 129], [65, 512]];

/// Speed: the latent projection of a small model.
pub const SPEED: &[[usize; 2]] = &[[2048, 512]];

/// Of the largest element: 70 additions whose errors have either sign.
pub const TOLERANCE: f64 = 1e-6;

//! Shapes that matter, as `[T, A, B]`.

/// Correctness: one, odd widths, several tasks. Copies are exact, so there is no tolerance.
pub const EXACT: &[[usize; 3]] = &[[1, 1, 1], [3, 63, 2], [70, 5, 129], [65, 512, 64]];

/// Speed: the latent and rotary key of DeepSeek-V3, and two halves of a small model's width.
pub const SPEED: &[[usize; 3]] = &[[2048, 512, 64], [2048, 512, 512]];

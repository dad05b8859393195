//! Shapes that matter, as `(cu_seqlens, E, K)`.

/// Correctness: one, several sequences of which one is empty, more tasks than one in a sequence, DeepSeek-V3's experts.
pub const EXACT: &[(&[usize], usize, usize)] =
    &[(&[0, 1], 1, 1), (&[0, 3, 3, 10, 11], 21, 5), (&[0, 70, 100], 64, 6), (&[0, 40], 256, 8), (&[0, 0], 3, 3)];

/// Speed: tokens, experts and choices of a small model and of DeepSeek-V3.
pub const SPEED: &[[usize; 3]] = &[[4096, 16, 4], [4096, 256, 8]];

/// Of the largest element: sums of 256 scores in 16 lanes and some five roundings.
pub const TOLERANCE: f64 = 2e-6;

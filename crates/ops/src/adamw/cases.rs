//! Sizes and settings that matter.

use super::Hyper;

/// Correctness: one, below and above the lanes, several tasks.
pub const EXACT: &[usize] = &[1, 63, 100, 16_385, 50_000];

/// Speed: weights of one parameter.
pub const SPEED: &[usize] = &[16_000_000];

/// DeepSeek-V3's settings at the first step.
pub const V3: Hyper =
    Hyper { lr: 2.2e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 1, grad_scale: 1.0 };

/// Of the largest weight, over ten steps: two roundings of the weight a step.
pub const TOLERANCE: f64 = 2e-6;

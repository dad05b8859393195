//! Shapes that matter, as `[rows, cols]`.

/// Correctness: one; widths around a group (32), half a row of int4 bytes (64) and a block (128); more rows than a task
/// has (16) and than a block.
pub const EXACT: &[[usize; 2]] = &[[1, 1], [3, 31], [2, 33], [17, 64], [5, 127], [130, 129], [257, 70], [40, 300]];

/// Speed: a matrix of an expert of DeepSeek-V3.
pub const SPEED: &[[usize; 2]] = &[[2048, 7168]];

/// Of a step: the quotient of a number and its scale is rounded to f32 before it is rounded to an integer, which shifts a
/// tie by at most 2⁻²⁴ of 127.
pub const STEP_TOLERANCE: f64 = 127.0 / 16_777_216.0;

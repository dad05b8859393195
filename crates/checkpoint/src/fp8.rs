//! Block-quantised weights: E4M3FN codes with one scale for each 128 × 128 block (`spec` 6.5 and 6.6).

use tensor::{BLOCK, E4M3};

/// `2^(byte - 127)`; the last code is the format's NaN.
pub(crate) fn decode_e8m0(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22), // 2^-127 is below f32's normal numbers.
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// The scales of a matrix of `rows` rows and `cols` columns.
pub(crate) fn grid(rows: usize, cols: usize) -> [usize; 2] {
    [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)]
}

/// Row `row` of a matrix: each code's value times the scale of its block, in f32. `scales` is the whole grid.
pub(crate) fn dequantise_row(row: usize, codes: &[u8], scales: &[f32], out: &mut [f32]) {
    let [_, width] = grid(1, codes.len());
    let scales = &scales[row / BLOCK * width..][..width];
    for ((codes, out), scale) in codes.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).zip(scales) {
        for (x, &code) in out.iter_mut().zip(codes) {
            *x = E4M3[code as usize] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_e8m0_codes_are_powers_of_two() {
        for byte in 0..255 {
            assert_eq!(f64::from(decode_e8m0(byte)), 2f64.powi(i32::from(byte) - 127), "byte {byte}");
        }
        assert!(decode_e8m0(255).is_nan());
    }
}

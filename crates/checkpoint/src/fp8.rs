//! Block-quantised weights: E4M3FN codes with one scale for each 128 × 128 block (`spec` 6.5 and 6.6).

/// The rows and columns of a block. It is never inferred from the shapes: 192 rows with two scales are a block of 128
/// and one of 64, not two of 96.
pub const BLOCK: usize = 128;

/// The value of each code.
pub(crate) const E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_e4m3(code as u32);
        code += 1;
    }
    table
};

/// Sign, four exponent bits with bias 7, three mantissa bits; no infinities, and NaN only where all seven are set.
const fn decode_e4m3(code: u32) -> f32 {
    let sign = (code >> 7) << 31;
    let exponent = (code >> 3) & 15;
    let mantissa = code & 7;
    let magnitude = if code & 0x7F == 0x7F {
        f32::NAN
    } else if exponent == 0 {
        mantissa as f32 / 512.0
    } else {
        // From bias 7 to f32's 127, and from 3 to 23 bits of mantissa.
        f32::from_bits((exponent + 120) << 23 | mantissa << 20)
    };
    f32::from_bits(sign | magnitude.to_bits())
}

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

    /// The definition of `spec` 6.5, in f64.
    fn e4m3_by_definition(code: usize) -> f64 {
        let sign = if code >= 128 { -1.0 } else { 1.0 };
        let (exponent, mantissa) = ((code >> 3) & 15, (code & 7) as f64);
        match (exponent, code & 7) {
            (15, 7) => f64::NAN,
            (0, _) => sign * mantissa * 2f64.powi(-9),
            _ => sign * (1.0 + mantissa / 8.0) * 2f64.powi(exponent as i32 - 7),
        }
    }

    #[test]
    fn all_e4m3_codes_are_as_defined() {
        for (code, found) in E4M3.into_iter().enumerate() {
            let expected = e4m3_by_definition(code);
            assert!(f64::from(found) == expected || (found.is_nan() && expected.is_nan()), "code {code}");
            assert_eq!(found.is_sign_negative(), code >= 128, "code {code}");
        }
        assert_eq!([E4M3[0x7E], E4M3[0xFE], E4M3[0x01]], [448.0, -448.0, 0.001_953_125]);
    }

    #[test]
    fn all_e8m0_codes_are_powers_of_two() {
        for byte in 0..255 {
            assert_eq!(f64::from(decode_e8m0(byte)), 2f64.powi(i32::from(byte) - 127), "byte {byte}");
        }
        assert!(decode_e8m0(255).is_nan());
    }
}

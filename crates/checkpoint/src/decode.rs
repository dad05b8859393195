//! Stored numbers whose values stand alone, as f32.

use half::{bf16, f16};

use crate::dtype::Dtype;
use crate::element::Element;

/// Decodes all elements of a floating-point type; exact.
///
/// # Panics
/// When `dtype` is another, or the bytes are not those of `out.len()` elements.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => f32::decode(bytes, out),
        Dtype::Bf16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        Dtype::F16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        dtype => panic!("{dtype} has no values of its own"),
    }
}

/// `2^(byte - 127)`; the last code is the format's NaN.
pub(crate) fn e8m0(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22), // 2^-127 is below f32's normal numbers.
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_e8m0_codes_are_powers_of_two() {
        for byte in 0..255 {
            assert_eq!(f64::from(e8m0(byte)), 2f64.powi(i32::from(byte) - 127), "byte {byte}");
        }
        assert!(e8m0(255).is_nan());
    }
}

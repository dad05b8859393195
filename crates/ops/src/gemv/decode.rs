//! Codes of stored weights as f32, without their scales: plain, branch-free Rust that the compiler vectorises.

use tensor::{BLOCK, CodesRef, E4M3, GROUP, MatrixRef, int4_row_bytes};

use super::pack::round;

/// Writes columns `start..start + out.len()` of row `row` as f32: the values of f32 and bf16 weights, the codes of the
/// others. Exact.
#[inline(always)]
pub(super) fn codes(matrix: &MatrixRef<'_>, row: usize, start: usize, out: &mut [f32]) {
    let at = row * matrix.cols + start;
    match matrix.codes {
        CodesRef::F32(values) => out.copy_from_slice(&values[at..at + out.len()]),
        CodesRef::Bf16(values) => {
            for (x, value) in out.iter_mut().zip(&values[at..]) {
                *x = widen(value.to_bits());
            }
        }
        CodesRef::Fp8 { codes, .. } => {
            for (x, code) in out.iter_mut().zip(&codes[at..]) {
                *x = e4m3(*code);
            }
        }
        CodesRef::Int8 { codes, .. } => {
            for (x, code) in out.iter_mut().zip(&codes[at..]) {
                let magnitude = f32::from(*code & 0x7F);
                *x = f32::from_bits(magnitude.to_bits() | u32::from(*code & 0x80) << 24);
            }
        }
        CodesRef::Int4 { codes, .. } => {
            let codes = &codes[row * int4_row_bytes(matrix.cols)..];
            for (i, x) in (start..).zip(out) {
                let shift = if i % 128 < 64 { 0 } else { 4 };
                *x = f32::from((codes[i / 128 * 64 + i % 64] >> shift) & 15) - 8.0;
            }
        }
    }
}

/// The scale of column `start` of row `row`, and how many columns from `start` on it holds for; 1 and all of them where
/// weights have no scales.
#[inline(always)]
pub(super) fn scale(matrix: &MatrixRef<'_>, row: usize, start: usize) -> (f32, usize) {
    match matrix.codes {
        CodesRef::F32(_) | CodesRef::Bf16(_) => (1.0, usize::MAX),
        CodesRef::Fp8 { scales, .. } => {
            (scales[row / BLOCK * matrix.cols.div_ceil(BLOCK) + start / BLOCK], BLOCK - start % BLOCK)
        }
        CodesRef::Int8 { scales, .. } | CodesRef::Int4 { scales, .. } => {
            (widen(scales[row * matrix.cols.div_ceil(GROUP) + start / GROUP].to_bits()), GROUP - start % GROUP)
        }
    }
}

/// The f32 value of the upper 16 bits.
#[inline(always)]
pub(super) fn widen(upper: u16) -> f32 {
    f32::from_bits(u32::from(upper) << 16)
}

/// The f32 value nearest to `x` that is a bf16; numbers too small to be normal become 0.
#[inline(always)]
pub(super) fn rounded(x: f32) -> f32 {
    widen(round(x))
}

#[inline(always)]
fn e4m3(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7F);
    // From bias 7 to f32's 127, and from 3 to 23 bits of mantissa.
    let normal = f32::from_bits((magnitude << 20) + (120 << 23));
    let value = if magnitude < 8 { magnitude as f32 * (1.0 / 512.0) } else { normal };
    let value = if magnitude == 0x7F { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

/// The two bytes of the bf16 of each 7-bit magnitude of E4M3: lower bytes, upper bytes.
pub(super) const E4M3_BYTES: [[u8; 128]; 2] = {
    let mut bytes = [[0; 128]; 2];
    let mut i = 0;
    while i < 128 {
        // Three bits of mantissa fit a bf16, and the smallest number, 2⁻⁹, is normal there.
        let bits = E4M3[i].to_bits() >> 16;
        bytes[0][i] = bits as u8;
        bytes[1][i] = (bits >> 8) as u8;
        i += 1;
    }
    bytes
};

/// The same of the integers 0 to 127.
pub(super) const INT8_BYTES: [[u8; 128]; 2] = {
    let mut bytes = [[0; 128]; 2];
    let mut i = 0;
    while i < 128 {
        let bits = (i as f32).to_bits() >> 16;
        bytes[0][i] = bits as u8;
        bytes[1][i] = (bits >> 8) as u8;
        i += 1;
    }
    bytes
};

/// The bf16 of each four-bit code; twice, because the lookup takes five bits of which the upper one is of another code.
pub(super) const INT4_WORDS: [u16; 32] = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = (((i % 16) as f32 - 8.0).to_bits() >> 16) as u16;
        i += 1;
    }
    words
};

/// Values that are sums of products of bf16 in the kernels: bf16 weights below the normal numbers count as 0, and f32
/// weights are rounded.
#[inline(always)]
pub(super) fn to_bf16_values(matrix: &MatrixRef<'_>, values: &mut [f32]) {
    match matrix.codes {
        CodesRef::F32(_) | CodesRef::Bf16(_) => {
            for x in values {
                *x = rounded(*x);
            }
        }
        CodesRef::Fp8 { .. } | CodesRef::Int8 { .. } | CodesRef::Int4 { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use tensor::bf16;

    use super::*;

    #[test]
    fn codes_are_decoded_exactly() {
        for code in 0..=255 {
            let (found, expected) = (e4m3(code), E4M3[code as usize]);
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "code {code}");
            let [low, high] = E4M3_BYTES.map(|bytes| bytes[code as usize & 0x7F]);
            let by_table = widen(u16::from_le_bytes([low, high | code & 0x80]));
            assert!(by_table == expected || (by_table.is_nan() && expected.is_nan()), "code {code}");
        }
        for magnitude in 0..128 {
            let [low, high] = INT8_BYTES.map(|bytes| bytes[magnitude]);
            assert_eq!(widen(u16::from_le_bytes([low, high])), magnitude as f32);
            assert_eq!(widen(INT4_WORDS[magnitude % 32]), (magnitude % 16) as f32 - 8.0);
        }
        assert_eq!(bf16::from_f32(2.5), bf16::from_f32(rounded(2.5)));
    }
}

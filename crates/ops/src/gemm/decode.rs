//! Rows of a stored matrix as f32, and the tables that decode the codes of quantised weights.

use tensor::{BLOCK, CodesRef, E4M3, GROUP, Isa, MatrixRef, bf16};

use crate::simd::simd;

/// Writes row `row`, from column `start` on, into `out`: the values, exact for f32 and bf16, else the f32 product of code
/// and scale.
pub(crate) fn values(isa: Isa, matrix: MatrixRef<'_>, row: usize, start: usize, out: &mut [f32]) {
    codes(isa, matrix, row, start, out);
    match matrix.codes {
        CodesRef::F32(_) | CodesRef::Bf16(_) => {}
        CodesRef::Fp8 { scales, .. } => {
            let scales = &scales[row / BLOCK * matrix.cols.div_ceil(BLOCK)..];
            each_group(start, BLOCK, out, |group, part| scale(isa, part, scales[group]));
        }
        CodesRef::Int8 { scales, .. } | CodesRef::Int4 { scales, .. } => {
            let scales = &scales[row * matrix.cols.div_ceil(GROUP)..];
            each_group(start, GROUP, out, |group, part| scale(isa, part, scales[group].to_f32()));
        }
    }
}

/// As [`values`], but without the scales of quantised weights: every number is then exact in bf16.
pub(crate) fn codes(isa: Isa, matrix: MatrixRef<'_>, row: usize, start: usize, out: &mut [f32]) {
    let at = row * matrix.cols + start;
    let end = at + out.len();
    match matrix.codes {
        CodesRef::F32(values) => out.copy_from_slice(&values[at..end]),
        CodesRef::Bf16(values) => widen(isa, &values[at..end], out),
        CodesRef::Fp8 { codes, .. } => e4m3(isa, &codes[at..end], out),
        CodesRef::Int8 { codes, .. } => int8(isa, &codes[at..end], out),
        CodesRef::Int4 { codes, .. } => {
            let row = &codes[row * matrix.cols.div_ceil(128) * 64..];
            // 64 columns lie in the lower or in the upper halves of 64 bytes.
            each_group(start, 64, out, |group, part| {
                let first = if group == start / 64 { start % 64 } else { 0 };
                let bytes = &row[group / 2 * 64 + first..][..part.len()];
                int4(isa, bytes, if group.is_multiple_of(2) { 0 } else { 4 }, part);
            });
        }
    }
}

/// `x` rounded to bf16, nearest, ties to even. As the processor's own conversion does, numbers below the smallest normal
/// one become zero and NaN a quiet NaN.
#[inline(always)]
pub(crate) fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    let magnitude = bits & 0x7FFF_FFFF;
    let rounded = if magnitude > 0x7F80_0000 { bits | 0x40_0000 } else { nearest };
    f32::from_bits(if magnitude < 0x80_0000 { bits & 0x8000_0000 } else { rounded } & 0xFFFF_0000)
}

/// The bf16 of each E4M3 code.
pub(crate) const E4M3_BF16: [u16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        // Three bits of mantissa and exponents from -9 to 8: exact.
        table[code] = (E4M3[code].to_bits() >> 16) as u16;
        code += 1;
    }
    table
};

/// The bf16 of each 8-bit integer, stored as sign and magnitude.
pub(crate) const INT8_BF16: [u16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        // Seven bits: exact.
        let magnitude = ((code & 0x7F) as f32).to_bits() >> 16;
        table[code] = magnitude as u16 | ((code as u16 >> 7) << 15);
        code += 1;
    }
    table
};

/// The bf16 of each 4-bit integer, stored plus 8; the rest is zero.
pub(crate) const INT4_BF16: [u16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 16 {
        table[code] = ((code as f32 - 8.0).to_bits() >> 16) as u16;
        code += 1;
    }
    table
};

/// Calls `f(g, part)` for the parts of `out` that lie in group `g` of `width` columns, the first being column `start`.
fn each_group(start: usize, width: usize, mut out: &mut [f32], mut f: impl FnMut(usize, &mut [f32])) {
    let mut column = start;
    while !out.is_empty() {
        let len = (width - column % width).min(out.len());
        let (part, rest) = out.split_at_mut(len);
        f(column / width, part);
        column += len;
        out = rest;
    }
}

simd! {
    fn widen(from: &[bf16], out: &mut [f32]) {
        for (x, from) in out.iter_mut().zip(from) {
            // A bf16 is the upper half of an f32; unlike `to_f32` this keeps signalling NaNs as they are, without a branch.
            *x = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }
}

simd! {
    fn e4m3(codes: &[u8], out: &mut [f32]) {
        for (x, code) in out.iter_mut().zip(codes) {
            let code = u32::from(*code);
            let (sign, magnitude) = ((code & 0x80) << 24, code & 0x7F);
            // Exponent and mantissa where f32 has them: the number is then 2⁻¹²⁰ times what it should be, subnormals
            // included.
            let x_magnitude = f32::from_bits(magnitude << 20) * f32::from_bits((120 + 127) << 23);
            let bits = if magnitude == 0x7F { f32::NAN.to_bits() } else { x_magnitude.to_bits() };
            *x = f32::from_bits(bits | sign);
        }
    }
}

simd! {
    fn int8(codes: &[u8], out: &mut [f32]) {
        for (x, code) in out.iter_mut().zip(codes) {
            let magnitude = f32::from(code & 0x7F);
            *x = f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24);
        }
    }
}

simd! {
    fn int4(bytes: &[u8], shift: u32, out: &mut [f32]) {
        for (x, byte) in out.iter_mut().zip(bytes) {
            *x = f32::from((byte >> shift) & 15) - 8.0;
        }
    }
}

simd! {
    fn scale(out: &mut [f32], by: f32) {
        for x in out {
            *x *= by;
        }
    }
}

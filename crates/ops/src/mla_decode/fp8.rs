//! Latents in 8 bits: E4M3 codes (`spec/model.md` 6.5) and for each token and 128 columns a power of two.
//!
//! The factor is the smallest power of two that brings the largest of the 128 numbers to at most 448. It leaves the
//! product of code and factor a bf16, exactly: four significant bits. So the kernels for bf16 serve this kind as well, and
//! whoever reads the cache back, in f32 or in bf16, reads the same numbers. `README.md` says what a finer factor would
//! gain.

#[cfg(target_arch = "x86_64")]
use tensor::Level;
use tensor::{E4M3, Isa};

use super::block::{Line, TOKENS, padded};
use crate::simd::simd;

/// Columns that share a factor.
pub(super) const GROUP: usize = 128;

/// Exponents of factors. Below the least the smallest code would not be a normal f32, above the largest 448 not finite.
const EXPONENTS: std::ops::RangeInclusive<i32> = -117..=119;
/// What is added to an exponent to make it a byte.
const BIAS: i32 = 127;

/// The place of each of 64 columns in its line. Codes become 16 bits wide by interleaving bytes within quarters of a
/// register, 8 from each; in this order that leaves columns 0 to 31 in one register and 32 to 63 in the other.
const fn place(column: usize) -> usize {
    column % 32 / 8 * 16 + column / 32 * 8 + column % 8
}

/// The bf16 of each code.
const BF16: [u16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = (E4M3[code].to_bits() >> 16) as u16;
        code += 1;
    }
    table
};

/// `2^exponent`.
#[inline(always)]
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The exponent of the factor for numbers whose largest finite magnitude is `largest`.
#[inline(always)]
fn exponent(largest: f32) -> i32 {
    // 448 = 1.75 · 2⁸.
    let bits = largest.to_bits();
    let exponent = (bits >> 23) as i32 - 127 - 8 + i32::from(bits & 0x7F_FFFF > 0x60_0000);
    exponent.clamp(*EXPONENTS.start(), *EXPONENTS.end())
}

/// The code nearest to `x`, ties to even. Beyond 448 it is 448; what is not finite becomes NaN, since there is no code for
/// infinity.
#[inline(always)]
fn encode(x: f32) -> u32 {
    let magnitude = x.abs();
    let bits = magnitude.to_bits();
    // Three bits of mantissa stay; the exponent's bias goes from 127 to 7.
    let normal = (bits.wrapping_add(0x7_FFFF + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
    // Below 2⁻⁶ codes are 2⁻⁹ apart. Adding 2²³ units rounds, and leaves the code in the low bits.
    let subnormal = (magnitude + 16384.0).to_bits() & 0xF;
    let code = if magnitude < 0.015_625 { subnormal } else { normal };
    let code = if magnitude > 448.0 { 0x7E } else { code };
    let code = if bits >= 0x7F80_0000 { 0x7F } else { code };
    code | x.to_bits() >> 31 << 7
}

simd! {
    /// Puts tokens, `rows [n, width]`, into planes of codes and lines of exponents.
    pub(super) fn write(rows: &[f32], width: usize, first: usize, planes: &mut [Line], exponents: &mut [Line]) {
        for (s, row) in (first..).zip(rows.chunks_exact(width)) {
            for (group, values) in row.chunks(GROUP).enumerate() {
                let values: [f32; GROUP] = padded(values);
                let mut largest = [0.0_f32; 16];
                for block in values.as_chunks::<16>().0 {
                    for l in 0..16 {
                        let magnitude = block[l].abs();
                        let magnitude = if magnitude < f32::INFINITY { magnitude } else { 0.0 };
                        largest[l] = if magnitude > largest[l] { magnitude } else { largest[l] };
                    }
                }
                let exponent = exponent(largest.iter().fold(0.0, |m: f32, x| m.max(*x)));
                put_byte(&mut exponents[group], s, (exponent + BIAS) as u32);
                // The last group may have one plane only.
                for (plane, values) in planes.chunks_exact_mut(TOKENS).skip(2 * group).zip(values.as_chunks::<64>().0) {
                    let codes = values.map(|x| encode(x * power(-exponent)) as u8);
                    let mut bytes = [0; 64];
                    for (column, code) in codes.iter().enumerate() {
                        bytes[place(column)] = *code;
                    }
                    for (word, bytes) in plane[s].0.iter_mut().zip(bytes.as_chunks().0) {
                        *word = u32::from_le_bytes(*bytes);
                    }
                }
            }
        }
    }
}

simd! {
    /// The inverse of [`write`], but for the rounding.
    pub(super) fn read(planes: &[Line], exponents: &[Line], first: usize, width: usize, rows: &mut [f32]) {
        for (s, row) in (first..).zip(rows.chunks_exact_mut(width)) {
            for (l, values) in row.chunks_mut(64).enumerate() {
                let factor = power(byte(&exponents[l / 2], s) as i32 - BIAS);
                for (column, x) in values.iter_mut().enumerate() {
                    *x = E4M3[byte(&planes[l * TOKENS + s], place(column)) as usize] * factor;
                }
            }
        }
    }
}

/// Planes of 64 codes as planes of 32 bf16, for the first `count` tokens.
pub(super) fn to_bf16(isa: Isa, planes: &[Line], exponents: &[Line], count: usize, to: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if isa.level() == Level::Avx512Bf16 {
        // SAFETY: an `Isa` of this level exists only on a processor that has these features.
        return unsafe { to_bf16_vbmi(planes, exponents, count, to) };
    }
    to_bf16_table(isa, planes, exponents, count, to);
}

simd! {
    fn to_bf16_table(planes: &[Line], exponents: &[Line], count: usize, to: &mut [Line]) {
        for (l, plane) in planes.chunks_exact(TOKENS).enumerate() {
            for (half, to) in to.chunks_exact_mut(TOKENS).skip(2 * l).take(2).enumerate() {
                for s in 0..count {
                    let factor = power(byte(&exponents[l / 2], s) as i32 - BIAS);
                    let value = |column| {
                        let code = byte(&plane[s], place(32 * half + column));
                        (f32::from_bits(u32::from(BF16[code as usize]) << 16) * factor).to_bits() >> 16
                    };
                    for p in 0..16 {
                        to[s].0[p] = value(2 * p) | value(2 * p + 1) << 16;
                    }
                }
            }
        }
    }
}

/// Two tables of 128 bytes in registers turn 64 magnitudes into the upper and the lower bytes of their bf16; bytes are
/// interleaved to words, and the exponent of the factor is added to those that are not 0.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn to_bf16_vbmi(planes: &[Line], exponents: &[Line], count: usize, to: &mut [Line]) {
    use std::arch::x86_64::{
        __m512i, _mm512_mask_add_epi16, _mm512_permutex2var_epi8, _mm512_set1_epi8, _mm512_set1_epi16,
        _mm512_ternarylogic_epi32, _mm512_test_epi16_mask, _mm512_unpackhi_epi8, _mm512_unpacklo_epi8,
    };
    const fn bytes(shift: u32) -> [u8; 128] {
        let mut table = [0; 128];
        let mut code = 0;
        while code < 128 {
            table[code] = (BF16[code] >> shift) as u8;
            code += 1;
        }
        table
    }
    const LOWER: [u8; 128] = bytes(0);
    const UPPER: [u8; 128] = bytes(8);
    // SAFETY: both types are 128 bytes without padding.
    let lower: [__m512i; 2] = unsafe { std::mem::transmute(LOWER) };
    // SAFETY: as above.
    let upper: [__m512i; 2] = unsafe { std::mem::transmute(UPPER) };
    let (sign, magnitude) = (_mm512_set1_epi8(-128), _mm512_set1_epi16(0x7FFF));
    for (l, plane) in planes.chunks_exact(TOKENS).enumerate() {
        let to = &mut to[2 * l * TOKENS..];
        let (left, right) = to.split_at_mut(TOKENS);
        let exponents = &exponents[l / 2];
        for s in 0..count {
            let codes = register(&plane[s]);
            let low = _mm512_permutex2var_epi8(lower[0], codes, lower[1]);
            let high = _mm512_permutex2var_epi8(upper[0], codes, upper[1]);
            // high | codes & sign
            let high = _mm512_ternarylogic_epi32::<0b1111_1000>(high, codes, sign);
            let shift = _mm512_set1_epi16(((byte(exponents, s) as i32 - BIAS) << 7) as i16);
            let words = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
            let [first, second] = words.map(|x| {
                let is_number = _mm512_test_epi16_mask(x, magnitude);
                line(_mm512_mask_add_epi16(x, is_number, x, shift))
            });
            left[s] = first;
            // The last plane of codes may fill one plane only.
            if let Some(to) = right.get_mut(s) {
                *to = second;
            }
        }
    }
}

/// A line in a register.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn register(line: &Line) -> std::arch::x86_64::__m512i {
    // SAFETY: both types are 64 bytes, and every bit pattern is valid in either.
    unsafe { std::mem::transmute(*line) }
}

/// The inverse of [`register`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line(register: std::arch::x86_64::__m512i) -> Line {
    // SAFETY: both types are 64 bytes, and every bit pattern is valid in either.
    unsafe { std::mem::transmute(register) }
}

#[inline(always)]
fn byte(line: &Line, i: usize) -> u32 {
    line.0[i / 4] >> (i % 4 * 8) & 0xFF
}

#[inline(always)]
fn put_byte(line: &mut Line, i: usize, value: u32) {
    let shift = i % 4 * 8;
    line.0[i / 4] = line.0[i / 4] & !(0xFF << shift) | value << shift;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_nearest() {
        let codes: Vec<f32> = E4M3[..0x7F].to_vec();
        for (code, x) in (0..).zip(&codes) {
            assert_eq!([encode(*x), encode(-x)], [code, code | 0x80]);
        }
        for (code, ends) in (0..).zip(codes.windows(2)) {
            let middle = f32::midpoint(ends[0], ends[1]);
            assert_eq!(encode(middle), code + code % 2, "a tie goes to the even code");
            assert_eq!([encode(middle.next_down()), encode(middle.next_up())], [code, code + 1]);
        }
        assert_eq!([encode(1e9), encode(-1e9)], [0x7E, 0xFE]);
        assert_eq!([encode(f32::INFINITY), encode(f32::NAN) & 0x7F], [0x7F, 0x7F]);
    }

    #[test]
    fn factors_are_the_smallest_that_fit() {
        for x in [448.0_f32, 449.0, 1.0, 1.75, 1.750_001, 3e-20, 1e20, 224.0, 223.99] {
            let e = exponent(x);
            assert!(x <= 448.0 * power(e) && x > 224.0 * power(e), "{x}: 2^{e}");
        }
        assert_eq!([exponent(0.0), exponent(f32::MIN_POSITIVE), exponent(f32::MAX)], [-117, -117, 119]);
    }

    #[test]
    fn every_column_has_its_place() {
        let mut places: Vec<usize> = (0..64).map(place).collect();
        places.sort_unstable();
        assert_eq!(places, (0..64).collect::<Vec<_>>());
    }
}

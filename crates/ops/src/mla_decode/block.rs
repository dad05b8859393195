//! What a block of the latent cache looks like: 64 tokens of one sequence in one layer, in one piece of memory.
//!
//! A block is cut into lines of 64 bytes, and a token has one line in each of several planes:
//!
//! ```text
//! plane l, token s  =  line 64 l + s
//!
//! F32    c in planes of 16 columns, then r
//! Bf16   c in planes of 32 columns, then r              two numbers in a word, the earlier one in the lower half
//! Fp8    c in planes of 64 codes, then r as in Bf16, then a line of 64 exponents for each 128 columns of c
//! ```
//!
//! The last plane of `c` and of `r` is filled up with zeros. That tokens are a constant 64 bytes apart in a plane,
//! whatever the sizes of the model, is what the kernels of `kernel.rs` address with constants; the pairs of tokens that
//! values need lie side by side; and a block is read from front to back.

use tensor::Isa;

use super::fp8;
use crate::simd::simd;

/// How a cache holds its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheKind {
    /// `c` and `r` as they come.
    #[default]
    F32,
    /// Both rounded to bf16, nearest, ties to even; numbers that are not normal in f32 become 0.
    Bf16,
    /// `c` as E4M3 codes with a power of two for each token and 128 columns, `r` as in `Bf16`.
    Fp8,
}

/// Tokens of a block.
pub(super) const TOKENS: usize = 64;

/// 64 bytes, aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u32; 16]);

impl Line {
    pub(super) const ZERO: Self = Self([0; 16]);
}

/// The sizes of a cache, from which follows where things lie in its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: CacheKind,
    pub(super) rk: usize,
    pub(super) dr: usize,
}

impl Shape {
    /// Planes of `c`.
    pub(super) fn c_planes(self) -> usize {
        self.rk.div_ceil(match self.kind {
            CacheKind::F32 => 16,
            CacheKind::Bf16 => 32,
            CacheKind::Fp8 => 64,
        })
    }

    /// Planes of `r`.
    pub(super) fn r_planes(self) -> usize {
        self.dr.div_ceil(if self.kind == CacheKind::F32 { 16 } else { 32 })
    }

    /// Lines of exponents.
    fn exponent_lines(self) -> usize {
        if self.kind == CacheKind::Fp8 { self.rk.div_ceil(fp8::GROUP) } else { 0 }
    }

    /// Lines of a block.
    pub(super) fn lines(self) -> usize {
        (self.c_planes() + self.r_planes()) * TOKENS + self.exponent_lines()
    }

    /// Puts tokens into a block, the first of them as token `first`; `c` is `[n, rk]` and `r` is `[n, dr]`.
    pub(super) fn write(self, isa: Isa, block: &mut [Line], first: usize, c: &[f32], r: &[f32]) {
        let (c_lines, rest) = block.split_at_mut(self.c_planes() * TOKENS);
        let (r_lines, exponents) = rest.split_at_mut(self.r_planes() * TOKENS);
        match self.kind {
            CacheKind::F32 => {
                write_f32(isa, c, self.rk, first, c_lines);
                write_f32(isa, r, self.dr, first, r_lines);
            }
            CacheKind::Bf16 => {
                write_bf16(isa, c, self.rk, first, c_lines);
                write_bf16(isa, r, self.dr, first, r_lines);
            }
            CacheKind::Fp8 => {
                fp8::write(isa, c, self.rk, first, c_lines, exponents);
                write_bf16(isa, r, self.dr, first, r_lines);
            }
        }
    }

    /// The inverse of [`Shape::write`], as far as the kind allows.
    pub(super) fn read(self, isa: Isa, block: &[Line], first: usize, c: &mut [f32], r: &mut [f32]) {
        let (c_lines, rest) = block.split_at(self.c_planes() * TOKENS);
        let (r_lines, exponents) = rest.split_at(self.r_planes() * TOKENS);
        match self.kind {
            CacheKind::F32 => {
                read_f32(isa, c_lines, first, self.rk, c);
                read_f32(isa, r_lines, first, self.dr, r);
            }
            CacheKind::Bf16 => {
                read_bf16(isa, c_lines, first, self.rk, c);
                read_bf16(isa, r_lines, first, self.dr, r);
            }
            CacheKind::Fp8 => {
                fp8::read(isa, c_lines, exponents, first, self.rk, c);
                read_bf16(isa, r_lines, first, self.dr, r);
            }
        }
    }

    /// The same sizes in bf16.
    pub(super) fn bf16(self) -> Self {
        Self { kind: CacheKind::Bf16, ..self }
    }

    /// The first `count` tokens of a block as a block of the kind `Bf16` has them.
    pub(super) fn to_bf16(self, isa: Isa, block: &[Line], count: usize, to: &mut [Line]) {
        let (c, rest) = block.split_at(self.c_planes() * TOKENS);
        let (r, exponents) = rest.split_at(self.r_planes() * TOKENS);
        let (c_out, r_out) = to.split_at_mut(self.bf16().c_planes() * TOKENS);
        let copy = |from: &[Line], to: &mut [Line]| {
            for (to, from) in to.chunks_exact_mut(TOKENS).zip(from.chunks_exact(TOKENS)) {
                to[..count].copy_from_slice(&from[..count]);
            }
        };
        match self.kind {
            CacheKind::F32 => {
                round(isa, c, count, c_out);
                round(isa, r, count, r_out);
            }
            CacheKind::Bf16 => {
                copy(c, c_out);
                copy(r, r_out);
            }
            CacheKind::Fp8 => {
                fp8::to_bf16(isa, c, exponents, count, c_out);
                copy(r, r_out);
            }
        }
    }
}

/// The bf16 that is nearest to `x`, ties to even. Subnormal numbers become 0, as `vdpbf16ps` takes them: so all levels
/// compute with the same operands.
#[inline(always)]
pub(super) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    let normal = if bits & 0x7F80_0000 == 0 { 0 } else { rounded };
    if x.is_nan() { 0x7FC0 } else { normal }
}

/// The value of the bf16 in the lower half of a word.
#[inline(always)]
pub(super) fn lower(word: u32) -> f32 {
    f32::from_bits(word << 16)
}

/// The value of the bf16 in the upper half of a word.
#[inline(always)]
pub(super) fn upper(word: u32) -> f32 {
    f32::from_bits(word & 0xFFFF_0000)
}

/// The next `N` values of a row, filled up with zeros at its end.
#[inline(always)]
pub(super) fn padded<const N: usize>(values: &[f32]) -> [f32; N] {
    // A constant length lets the compiler vectorise what follows.
    values.first_chunk().copied().unwrap_or_else(|| std::array::from_fn(|i| values.get(i).copied().unwrap_or(0.0)))
}

/// A line of 32 values, rounded.
#[inline(always)]
pub(super) fn bf16_line(values: &[f32; 32]) -> Line {
    let mut line = Line::ZERO;
    let (pairs, _) = values.as_chunks::<2>();
    for p in 0..16 {
        line.0[p] = bf16_bits(pairs[p][0]) | bf16_bits(pairs[p][1]) << 16;
    }
    line
}

simd! {
    fn write_f32(rows: &[f32], width: usize, first: usize, planes: &mut [Line]) {
        for (s, row) in (first..).zip(rows.chunks_exact(width)) {
            for (plane, values) in planes.chunks_exact_mut(TOKENS).zip(row.chunks(16)) {
                plane[s] = Line(padded(values).map(f32::to_bits));
            }
        }
    }
}

simd! {
    fn read_f32(planes: &[Line], first: usize, width: usize, rows: &mut [f32]) {
        for (s, row) in (first..).zip(rows.chunks_exact_mut(width)) {
            for (plane, values) in planes.chunks_exact(TOKENS).zip(row.chunks_mut(16)) {
                for (x, bits) in values.iter_mut().zip(&plane[s].0) {
                    *x = f32::from_bits(*bits);
                }
            }
        }
    }
}

simd! {
    fn write_bf16(rows: &[f32], width: usize, first: usize, planes: &mut [Line]) {
        for (s, row) in (first..).zip(rows.chunks_exact(width)) {
            for (plane, values) in planes.chunks_exact_mut(TOKENS).zip(row.chunks(32)) {
                plane[s] = bf16_line(&padded(values));
            }
        }
    }
}

simd! {
    fn read_bf16(planes: &[Line], first: usize, width: usize, rows: &mut [f32]) {
        for (s, row) in (first..).zip(rows.chunks_exact_mut(width)) {
            for (plane, values) in planes.chunks_exact(TOKENS).zip(row.chunks_mut(32)) {
                widen(&plane[s], values);
            }
        }
    }
}

/// The values of a line of bf16, as many as `values` has room for.
#[inline(always)]
pub(super) fn widen(line: &Line, values: &mut [f32]) {
    let mut all = [[0.0; 2]; 16];
    for p in 0..16 {
        all[p] = [lower(line.0[p]), upper(line.0[p])];
    }
    values.copy_from_slice(&all.as_flattened()[..values.len()]);
}

simd! {
    /// Planes of 16 f32 columns as planes of 32 bf16 columns.
    fn round(from: &[Line], count: usize, to: &mut [Line]) {
        for (to, from) in to.chunks_exact_mut(TOKENS).zip(from.chunks(2 * TOKENS)) {
            let (left, right) = from.split_at(TOKENS);
            for s in 0..count {
                let mut values = [0.0; 32];
                for i in 0..16 {
                    values[i] = f32::from_bits(left[s].0[i]);
                    values[16 + i] = right.get(s).map_or(0.0, |line| f32::from_bits(line.0[i]));
                }
                to[s] = bf16_line(&values);
            }
        }
    }
}

//! Products of matrices in strips.
//!
//! ```text
//! for each tile of C, MR rows by NR columns:       NR = 32, MR at most 14 with AVX-512; 16 and 6 otherwise
//!     for p in 0..depth:                           C stays in registers
//!         C[i, ..] = fma(A(i, p), B[p, ..], C[i, ..])     for i in 0..MR
//! ```
//!
//! Every element of C is one chain of fused multiply-adds over `p` in increasing order, so its bits depend neither on
//! the tile it is in nor on the instruction set.
//!
//! The kernels of `gemm` want both operands packed for the one product they are in. These read the left operand where
//! it is, upright or transposed, because rows of a strip are a constant distance apart; and they leave C in strips.

use tensor::{Isa, Level};

use super::strips::{Row, Strips, WIDTH};
use crate::simd::simd;

/// The height of the tallest tile of [`upright`].
pub(crate) const TALLEST: usize = 14;

/// The `shift` of a matrix of which no part is known to be zero.
pub(crate) const NO_SHIFT: isize = isize::MIN;

/// `c[i, j] (+)= Σ_p a(i, p) · b[p, j]` for `i < rows`, `p < depth` and `j < columns`, where `b` and `c` are strips.
///
/// `a(i, p)` is known to be zero for `p < i + shift`; tiles skip what that makes zero throughout. `a` and `c` have a
/// multiple of 42 rows, which all tile heights divide; those from `rows` to the end of a tile are computed too.
pub(crate) fn upright(
    isa: Isa,
    a: &Strips,
    rows: usize,
    depth: usize,
    shift: isize,
    b: &[Row],
    columns: usize,
    c: &mut [Row],
    accumulate: bool,
) {
    match (isa.level(), columns > LANES) {
        (Level::Avx512 | Level::Avx512Bf16, true) => upright_14x32(isa, a, rows, depth, shift, b, c, accumulate),
        (Level::Avx512 | Level::Avx512Bf16, false) => upright_14x16(isa, a, rows, depth, shift, b, c, accumulate),
        (_, wide) => {
            upright_6x16_left(isa, a, rows, depth, shift, b, c, accumulate);
            if wide {
                upright_6x16_right(isa, a, rows, depth, shift, b, c, accumulate);
            }
        }
    }
}

/// `c[i, j] (+)= Σ_p a[p, i] · b[p, j]` for `i < rows` and `j < columns`, where all three are strips; the depth is the
/// number of rows of `a`.
pub(crate) fn transposed(isa: Isa, a: &[Row], rows: usize, b: &[Row], columns: usize, c: &mut [Row], accumulate: bool) {
    match (isa.level(), columns > LANES) {
        (Level::Avx512 | Level::Avx512Bf16, true) => transposed_12x32(isa, a, rows, b, c, accumulate),
        (Level::Avx512 | Level::Avx512Bf16, false) => transposed_12x16(isa, a, rows, b, c, accumulate),
        (_, wide) => {
            transposed_6x16_left(isa, a, rows, b, c, accumulate);
            if wide {
                transposed_6x16_right(isa, a, rows, b, c, accumulate);
            }
        }
    }
}

simd! {
    /// Row `i` times `factor[i]`. Where no maximum changed, the factors are 1 and nothing is touched.
    pub(crate) fn rescale(rows: &mut [Row], factor: &Row) {
        if factor.iter().filter(|&&f| f != 1.0).count() == 0 {
            return;
        }
        for (i, row) in rows.iter_mut().enumerate() {
            // The check of this index keeps the compiler from going through 16 rows at once, in gathers.
            let factor = factor[i];
            let mut scaled = *row;
            for x in &mut scaled {
                *x *= factor;
            }
            *row = scaled;
        }
    }
}

/// Values of one register.
const LANES: usize = crate::simd::LANES;
pub(super) type Lanes = [f32; LANES];

/// The constant below stands for each row of a tile in turn: only unrolled accesses let a tile live in registers.
macro_rules! for_rows {
    (in $mr:ident, $body:ident) => {
        for_rows!(@ $mr, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $mr:ident, $body:ident, $($i:literal)*) => {
        $(if $i < $mr {
            $body!($i);
        })*
    };
}
pub(super) use for_rows;

/// The part of a row that belongs to a tile of `NV` registers, starting with register `FIRST`.
#[inline(always)]
fn part<const FIRST: usize, const NV: usize>(row: &Row) -> &[Lanes; NV] {
    row.as_chunks().0[FIRST..].first_chunk().expect("a tile is within its strip")
}

#[inline(always)]
pub(super) fn load<const MR: usize, const FIRST: usize, const NV: usize>(
    c: &[Row; MR],
    accumulate: bool,
) -> [[Lanes; NV]; MR] {
    let mut tile = [[[0.0; LANES]; NV]; MR];
    if accumulate {
        macro_rules! load {
            ($i:literal) => {
                tile[$i] = *part::<FIRST, NV>(&c[$i])
            };
        }
        for_rows!(in MR, load);
    }
    tile
}

#[inline(always)]
pub(super) fn store<const MR: usize, const FIRST: usize, const NV: usize>(tile: &[[Lanes; NV]; MR], c: &mut [Row; MR]) {
    macro_rules! store {
        ($i:literal) => {
            c[$i][FIRST * LANES..(FIRST + NV) * LANES].copy_from_slice(tile[$i].as_flattened())
        };
    }
    for_rows!(in MR, store);
}

/// One step of a tile: row `i` gains `a(i) · b`.
#[inline(always)]
fn step<const MR: usize, const NV: usize>(a: impl Fn(usize) -> f32, b: &[Lanes; NV], tile: &mut [[Lanes; NV]; MR]) {
    macro_rules! row {
        ($i:literal) => {
            let x = a($i);
            for v in 0..NV {
                for l in 0..LANES {
                    tile[$i][v][l] = x.mul_add(b[v][l], tile[$i][v][l]);
                }
            }
        };
    }
    for_rows!(in MR, row);
}

#[inline(always)]
fn upright_tiles<const MR: usize, const FIRST: usize, const NV: usize>(
    a: &Strips,
    rows: usize,
    depth: usize,
    shift: isize,
    b: &[Row],
    c: &mut [Row],
    accumulate: bool,
) {
    for first_row in (0..rows).step_by(MR) {
        let c: &mut [Row; MR] = c[first_row..].first_chunk_mut().expect("rows come in whole tiles");
        let mut tile = load::<MR, FIRST, NV>(c, accumulate);
        let first_strip = first_row.saturating_add_signed(shift) / WIDTH;
        for strip in first_strip..depth.div_ceil(WIDTH) {
            let a: &[Row; MR] = a.strip(strip)[first_row..].first_chunk().expect("rows come in whole tiles");
            let b = &b[strip * WIDTH..depth.min((strip + 1) * WIDTH)];
            for p in 0..b.len().min(WIDTH) {
                step(
                    #[inline(always)]
                    |i| a[i][p],
                    part::<FIRST, NV>(&b[p]),
                    &mut tile,
                );
            }
        }
        store::<MR, FIRST, NV>(&tile, c);
    }
}

#[inline(always)]
fn transposed_tile<const MR: usize, const FIRST: usize, const NV: usize>(
    a: &[Row],
    first_row: usize,
    b: &[Row],
    c: &mut [Row],
    accumulate: bool,
) {
    let c: &mut [Row; MR] = c[first_row..].first_chunk_mut().expect("a strip has 32 columns");
    let mut tile = load::<MR, FIRST, NV>(c, accumulate);
    for (a, b) in a.iter().zip(b) {
        let a: &[f32; MR] = a[first_row..].first_chunk().expect("a strip has 32 columns");
        step(
            #[inline(always)]
            |i| a[i],
            part::<FIRST, NV>(b),
            &mut tile,
        );
    }
    store::<MR, FIRST, NV>(&tile, c);
}

macro_rules! upright_kernel {
    ($name:ident, $mr:literal, $first:literal, $registers:literal) => {
        simd! {
            fn $name(a: &Strips, rows: usize, depth: usize, shift: isize, b: &[Row], c: &mut [Row], accumulate: bool) {
                upright_tiles::<$mr, $first, $registers>(a, rows, depth, shift, b, c, accumulate);
            }
        }
    };
}
upright_kernel!(upright_14x32, 14, 0, 2);
upright_kernel!(upright_14x16, 14, 0, 1);
upright_kernel!(upright_6x16_left, 6, 0, 1);
upright_kernel!(upright_6x16_right, 6, 1, 1);

macro_rules! transposed_kernel {
    ($name:ident, $first:literal, $registers:literal, [$($first_row:literal..$end_row:literal),*]) => {
        simd! {
            fn $name(a: &[Row], rows: usize, b: &[Row], c: &mut [Row], accumulate: bool) {
                // The 32 columns of `a` in tiles, a lower one first: decoding with few heads has no more.
                $(if $first_row < rows {
                    const MR: usize = $end_row - $first_row;
                    transposed_tile::<MR, $first, $registers>(a, $first_row, b, c, accumulate);
                })*
            }
        }
    };
}
transposed_kernel!(transposed_12x32, 0, 2, [0..8, 8..20, 20..32]);
transposed_kernel!(transposed_12x16, 0, 1, [0..8, 8..20, 20..32]);
transposed_kernel!(transposed_6x16_left, 0, 1, [0..6, 6..12, 12..18, 18..24, 24..28, 28..32]);
transposed_kernel!(transposed_6x16_right, 1, 1, [0..6, 6..12, 12..18, 18..24, 24..28, 28..32]);

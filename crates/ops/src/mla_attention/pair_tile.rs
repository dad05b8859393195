//! Products of matrices in strips of pairs: [`super::tile`] with half as many steps.
//!
//! ```text
//! for each tile of C, MR rows by NR columns:       NR = 32, MR at most 14 with AVX-512; 16 and 6 otherwise
//!     for p in 0..depth:                           C stays in registers, in f32
//!         C[i, ..] += A(i, p) · B[p, ..]           A and B in pairs: two products, for i in 0..MR
//! ```
//!
//! A step of a tile of 14 by 32 is 28 instructions of 64 operations for 16 loads. Every element of C is one chain over
//! the pairs in increasing order.

use std::ops::Range;

use tensor::{Isa, Level};

use super::bf16::{Unit, paired};
use super::pairs::{PairRow, PairStrips};
use super::strips::{Row, WIDTH};
use super::tile::{Lanes, for_rows, load, store};
use crate::simd::LANES;

/// `c[i, j] (+)= Σ_p a(i, p) · b[p, j]` for `p < depth`, `j < columns` and, in the left and in the right half of C's
/// columns, `i < rows[0]` and `i < rows[1]`; the left half has not more rows than the right.
///
/// Row `i` of `a` is known to be zero before number `i + shift` of the sum, two of them being a pair; tiles skip what
/// that makes zero throughout. `a` and `c` have a multiple of 42 rows; those to the end of a tile are computed too.
pub(super) fn upright(
    isa: Isa,
    a: PairStrips<'_>,
    rows: [usize; 2],
    depth: usize,
    shift: isize,
    b: &[PairRow],
    columns: usize,
    c: &mut [Row],
    accumulate: bool,
) {
    let [left, right] = rows;
    match (isa.level(), columns > LANES) {
        (Level::Avx512 | Level::Avx512Bf16, true) => {
            let both = left.next_multiple_of(14);
            upright_14x32(isa, a, 0..left, depth, shift, b, c, accumulate);
            upright_14x16_right(isa, a, both..right, depth, shift, b, c, accumulate);
        }
        (Level::Avx512 | Level::Avx512Bf16, false) => {
            upright_14x16_left(isa, a, 0..left, depth, shift, b, c, accumulate);
        }
        (_, wide) => {
            upright_6x16_left(isa, a, 0..left, depth, shift, b, c, accumulate);
            if wide {
                upright_6x16_right(isa, a, 0..right, depth, shift, b, c, accumulate);
            }
        }
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What is there.
    Kept,
    /// What is there, row `i` times the factor `i`.
    Scaled(&'a Row),
}

/// `c[i, j] (+)= Σ_p a[p, i] · b[p, j]` for `i < rows` and `j < columns`, where all three are strips. The number of
/// rows of `a` is the depth; but column `i` of `a` is known to be zero from number `seen + i` of the sum on, two of
/// them being a pair, and tiles skip what that makes zero throughout.
pub(super) fn transposed(
    isa: Isa,
    a: &[PairRow],
    rows: usize,
    seen: isize,
    b: &[PairRow],
    columns: usize,
    c: &mut [Row],
    start: Start<'_>,
) {
    match (isa.level(), columns > LANES) {
        (Level::Avx512 | Level::Avx512Bf16, true) => transposed_12x32(isa, a, rows, seen, b, c, start),
        (Level::Avx512 | Level::Avx512Bf16, false) => transposed_12x16(isa, a, rows, seen, b, c, start),
        (_, wide) => {
            transposed_6x16_left(isa, a, rows, seen, b, c, start);
            if wide {
                transposed_6x16_right(isa, a, rows, seen, b, c, start);
            }
        }
    }
}

/// The part of a row that belongs to a tile of `NV` registers, starting with register `FIRST`.
#[inline(always)]
fn part<const FIRST: usize, const NV: usize>(row: &PairRow) -> &[[u32; LANES]; NV] {
    row.as_chunks().0[FIRST..].first_chunk().expect("a tile is within its strip")
}

/// One step of a tile: row `i` gains `a(i) · b`.
#[inline(always)]
fn step<U: Unit, const MR: usize, const NV: usize>(
    unit: U,
    a: impl Fn(usize) -> u32,
    b: &[[u32; LANES]; NV],
    tile: &mut [[Lanes; NV]; MR],
) {
    macro_rules! row {
        ($i:literal) => {
            let x = a($i);
            for v in 0..NV {
                unit.add_product(x, &b[v], &mut tile[$i][v]);
            }
        };
    }
    for_rows!(in MR, row);
}

#[inline(always)]
fn upright_tiles<U: Unit, const MR: usize, const FIRST: usize, const NV: usize>(
    unit: U,
    a: PairStrips<'_>,
    rows: Range<usize>,
    depth: usize,
    shift: isize,
    b: &[PairRow],
    c: &mut [Row],
    accumulate: bool,
) {
    for first_row in rows.step_by(MR) {
        let c: &mut [Row; MR] = c[first_row..].first_chunk_mut().expect("rows come in whole tiles");
        let mut tile = load::<MR, FIRST, NV>(c, accumulate);
        let mut next = first_row.saturating_add_signed(shift) / 2;
        while next < depth {
            let (strip, place) = (next / WIDTH, next % WIDTH);
            let a: &[PairRow; MR] = a.strip(strip)[first_row..].first_chunk().expect("rows come in whole tiles");
            let b = &b[next..depth.min((strip + 1) * WIDTH)];
            for p in 0..b.len().min(WIDTH - place) {
                step(
                    unit,
                    #[inline(always)]
                    |i| a[i][place + p],
                    part::<FIRST, NV>(&b[p]),
                    &mut tile,
                );
            }
            next += b.len();
        }
        store::<MR, FIRST, NV>(&tile, c);
    }
}

#[inline(always)]
fn transposed_tile<U: Unit, const MR: usize, const FIRST: usize, const NV: usize>(
    unit: U,
    a: &[PairRow],
    first_row: usize,
    seen: isize,
    b: &[PairRow],
    c: &mut [Row],
    start: Start<'_>,
) {
    let c: &mut [Row; MR] = c[first_row..].first_chunk_mut().expect("a strip has 32 columns");
    let mut tile = load::<MR, FIRST, NV>(c, !matches!(start, Start::Zero));
    if let Start::Scaled(factor) = start {
        let factor: &[f32; MR] = factor[first_row..].first_chunk().expect("a strip has 32 columns");
        macro_rules! scale {
            ($i:literal) => {
                for v in 0..NV {
                    for l in 0..LANES {
                        tile[$i][v][l] *= factor[$i];
                    }
                }
            };
        }
        for_rows!(in MR, scale);
    }
    let depth = (first_row + MR).saturating_add_signed(seen - 1).div_ceil(2);
    for (a, b) in a.iter().zip(b).take(depth) {
        let a: &[u32; MR] = a[first_row..].first_chunk().expect("a strip has 32 columns");
        step(
            unit,
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
        paired! {
            fn $name(
                unit;
                a: PairStrips<'_>,
                rows: Range<usize>,
                depth: usize,
                shift: isize,
                b: &[PairRow],
                c: &mut [Row],
                accumulate: bool,
            ) {
                upright_tiles::<_, $mr, $first, $registers>(unit, a, rows, depth, shift, b, c, accumulate);
            }
        }
    };
}
upright_kernel!(upright_14x32, 14, 0, 2);
upright_kernel!(upright_14x16_left, 14, 0, 1);
upright_kernel!(upright_14x16_right, 14, 1, 1);
upright_kernel!(upright_6x16_left, 6, 0, 1);
upright_kernel!(upright_6x16_right, 6, 1, 1);

macro_rules! transposed_kernel {
    ($name:ident, $first:literal, $registers:literal, [$($first_row:literal..$end_row:literal),*]) => {
        paired! {
            fn $name(
                unit;
                a: &[PairRow],
                rows: usize,
                seen: isize,
                b: &[PairRow],
                c: &mut [Row],
                start: Start<'_>,
            ) {
                $(if $first_row < rows {
                    const MR: usize = $end_row - $first_row;
                    transposed_tile::<_, MR, $first, $registers>(unit, a, $first_row, seen, b, c, start);
                })*
            }
        }
    };
}
transposed_kernel!(transposed_12x32, 0, 2, [0..8, 8..20, 20..32]);
transposed_kernel!(transposed_12x16, 0, 1, [0..8, 8..20, 20..32]);
transposed_kernel!(transposed_6x16_left, 0, 1, [0..6, 6..12, 12..18, 18..24, 24..28, 28..32]);
transposed_kernel!(transposed_6x16_right, 1, 1, [0..6, 6..12, 12..18, 18..24, 24..28, 28..32]);

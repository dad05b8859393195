//! Matrices of bf16 in strips of 32 pairs: [`super::strips`] with a dword for two numbers.
//!
//! A pair joins what a product sums over, so unlike f32 a matrix has another layout for each side it is summed along:
//! pairs of neighbours in a row, or of two rows, one below the other.

use super::bf16::paired;
use super::strips::{Row, Rows, WIDTH};
use crate::simd::LANES;

/// Rows of a tensor are far apart, too far for the processor to see what comes next: this many before they are packed,
/// they are asked for.
const AHEAD: usize = 8;

/// One row of one strip.
pub(super) type PairRow = [u32; WIDTH];

/// Strips one after the other, with `rows` rows each.
#[derive(Clone, Copy)]
pub(super) struct PairStrips<'a> {
    pub(super) data: &'a [PairRow],
    pub(super) rows: usize,
}

impl<'a> PairStrips<'a> {
    /// Strip `j`: pairs `32 j` to `32 j + 31` of each row.
    pub(super) fn strip(&self, j: usize) -> &'a [PairRow] {
        &self.data[j * self.rows..(j + 1) * self.rows]
    }
}

/// Strips that hold `width` pairs.
pub(super) fn strips_of(pairs: usize) -> usize {
    pairs.div_ceil(WIDTH)
}

paired! {
    /// Rows `[left ; right]`, neighbours in pairs: pair `p` of row `i` is in `to[(p / 32) * rows + i]`. Columns up to
    /// the end of the last strip become zero.
    pub(super) fn pack_neighbours(unit; left: Rows<'_>, right: Rows<'_>, rows: usize, to: &mut [PairRow]) {
        let width = left.width + right.width;
        for i in 0..left.count {
            if i + AHEAD < left.count {
                unit.prefetch(left.row(i + AHEAD));
            }
            let (left, right) = (left.row(i), right.row(i));
            for first in (0..width.next_multiple_of(2 * WIDTH)).step_by(WIDTH) {
                let place = first / 2 % WIDTH;
                let pairs = unit.pair_neighbours(&piece(left, right, first));
                to[first / (2 * WIDTH) * rows + i][place..place + LANES].copy_from_slice(&pairs);
            }
        }
    }
}

paired! {
    /// Rows `[left ; right]`, rows `2p` and `2p + 1` in pairs: column `j` of both is in `to[(j / 32) * rows + p]`. A
    /// row that is not there is zero, and so are the columns up to the end of the last strip.
    pub(super) fn pack_two_rows(unit; left: Rows<'_>, right: Rows<'_>, rows: usize, to: &mut [PairRow]) {
        let width = left.width + right.width;
        for p in 0..left.count.div_ceil(2) {
            for i in 2 * p + AHEAD..(2 * p + AHEAD + 2).min(left.count) {
                unit.prefetch(left.row(i));
            }
            let even = [left.row(2 * p), right.row(2 * p)];
            let odd = if 2 * p + 1 < left.count { [left.row(2 * p + 1), right.row(2 * p + 1)] } else { [&[][..]; 2] };
            for first in (0..width.next_multiple_of(WIDTH)).step_by(LANES) {
                let place = first % WIDTH;
                let pairs = unit.pair_rows(&piece(even[0], even[1], first), &piece(odd[0], odd[1], first));
                to[first / WIDTH * rows + p][place..place + LANES].copy_from_slice(&pairs);
            }
        }
    }
}

paired! {
    /// At most 32 rows into one strip as its columns, neighbours in pairs: `to[p][i]` is `(from[i][2p], from[i][2p +
    /// 1])`. Columns without a row become zero.
    pub(super) fn pack_transposed_pairs(unit; from: Rows<'_>, to: &mut [PairRow]) {
        // Row by row into squares, which are then turned: rows of a tensor are apart by a multiple of a page, so that
        // pieces of many rows do not fit into the level-1 cache together.
        const SQUARES: usize = 6;
        for half in 0..2 {
            let count = from.count.saturating_sub(half * LANES).min(LANES);
            for first in (0..from.width).step_by(SQUARES * WIDTH) {
                let mut squares = [[[0; LANES]; LANES]; SQUARES];
                for i in 0..count {
                    let row = from.row(half * LANES + i);
                    for (c, square) in squares.iter_mut().enumerate() {
                        square[i] = unit.pair_neighbours(&values(row, first + c * WIDTH));
                    }
                }
                let start = first / 2;
                let end = (start + SQUARES * LANES).min(from.width.div_ceil(2));
                for (to, square) in to[start..end].chunks_mut(LANES).zip(&mut squares) {
                    unit.transpose(square);
                    for (to, pairs) in to.iter_mut().zip(square) {
                        to[half * LANES..(half + 1) * LANES].copy_from_slice(pairs);
                    }
                }
            }
        }
    }
}

paired! {
    /// Says that these rows will be read soon.
    pub(super) fn prefetch(unit; rows: Rows<'_>) {
        for i in 0..rows.count {
            unit.prefetch(rows.row(i));
        }
    }
}

paired! {
    /// Rows of one f32 strip, two in a pair: `to[p][j]` is `(from[2p][j], from[2p + 1][j])`, the last one with 0 if it
    /// is alone.
    pub(super) fn pair_strip(unit; from: &[Row], to: &mut [PairRow]) {
        let (pairs, rest) = from.as_chunks::<2>();
        for ([even, odd], to) in pairs.iter().zip(&mut *to) {
            for start in [0, LANES] {
                let pairs = unit.pair_rows(&values(even, start), &values(odd, start));
                to[start..start + LANES].copy_from_slice(&pairs);
            }
        }
        if let [even] = rest {
            for start in [0, LANES] {
                let last = unit.pair_rows(&values(even, start), &[0.0; LANES]);
                to[pairs.len()][start..start + LANES].copy_from_slice(&last);
            }
        }
    }
}

/// `N` values of `[left ; right]` from `first` on, and zeros.
#[inline(always)]
fn piece<const N: usize>(left: &[f32], right: &[f32], first: usize) -> [f32; N] {
    match first.checked_sub(left.len()) {
        Some(first) => values(right, first),
        None if first + N <= left.len() => values(left, first),
        None => {
            let at = |column: usize| left.get(column).or_else(|| right.get(column - left.len()));
            std::array::from_fn(|l| at(first + l).copied().unwrap_or(0.0))
        }
    }
}

/// Up to `N` values from `first` on, and zeros.
#[inline(always)]
fn values<const N: usize>(row: &[f32], first: usize) -> [f32; N] {
    let rest = &row[first.min(row.len())..];
    if let Some(values) = rest.first_chunk() {
        return *values;
    }
    let mut values = [0.0; N];
    values[..rest.len()].copy_from_slice(rest);
    values
}

/// Where the first row that starts with a cache line is in a buffer.
pub(super) fn first_aligned(buffer: &[f32]) -> usize {
    buffer.as_ptr().align_offset(size_of::<PairRow>()).min(buffer.len())
}

/// A buffer of f32 as rows of pairs.
pub(super) fn pair_rows(buffer: &[f32]) -> &[PairRow] {
    let rows: &[Row] = buffer.as_chunks().0;
    // SAFETY: rows of either are 32 numbers of four bytes, of the same alignment, and every pattern of bits is a u32.
    unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len()) }
}

/// The same for writing.
pub(super) fn pair_rows_mut(buffer: &mut [f32]) -> &mut [PairRow] {
    let rows: &mut [Row] = buffer.as_chunks_mut().0;
    // SAFETY: as above, and every pattern of bits is an f32.
    unsafe { std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast(), rows.len()) }
}

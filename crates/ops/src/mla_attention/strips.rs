//! The one layout of every matrix inside the attention kernels: strips of 32 columns.
//!
//! Element `(i, j)` is in row `i` of strip `j / 32`, at place `j % 32`, and the rows of a strip lie one after the
//! other. A strip is what a micro-kernel reads as its right operand; and since rows are a constant distance apart, the
//! same strip also serves as left operand, upright (`a[i][p]`) or transposed (`a[p][i]`). So keys, values, scores and
//! gradients are laid out once and meet in all seven products of forward and backward without being packed again. Only
//! queries and `dO` are needed in two forms, because a right operand must be upright.

use crate::simd::simd;

/// Columns of a strip: two AVX-512 registers.
pub(crate) const WIDTH: usize = 32;

/// One row of one strip.
pub(crate) type Row = [f32; WIDTH];

/// A matrix in strips, of f32 or of what else has four bytes. Rows and columns beyond those last written hold finite
/// leftovers, or zeros.
#[derive(Default)]
pub(crate) struct Strips<T = f32> {
    data: Vec<Aligned<T>>,
    rows: usize,
}

/// A row that starts with a cache line, so that no register is loaded from two of them.
#[derive(Clone, Copy, Default)]
#[repr(C, align(128))]
struct Aligned<T>([T; WIDTH]);

impl<T: Copy + Default> Strips<T> {
    /// Makes room for `rows × columns`, keeping no content.
    pub(crate) fn reset(&mut self, rows: usize, columns: usize) {
        self.rows = rows;
        let len = rows * columns.div_ceil(WIDTH);
        if self.data.len() < len {
            self.data.resize(len, Aligned::default());
        }
    }

    /// All strips, one after the other.
    pub(crate) fn data(&self) -> &[[T; WIDTH]] {
        const { assert!(size_of::<Aligned<T>>() == size_of::<[T; WIDTH]>()) };
        // SAFETY: `Aligned` is nothing but the array, of the same size (asserted) and of no lesser alignment.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), self.data.len()) }
    }

    /// The same for writing.
    pub(super) fn data_mut(&mut self) -> &mut [[T; WIDTH]] {
        const { assert!(size_of::<Aligned<T>>() == size_of::<[T; WIDTH]>()) };
        // SAFETY: as in `data`; and the array may hold any `T`.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_mut_ptr().cast(), self.data.len()) }
    }

    /// Strip `j`: columns `32 j` to `32 j + 31`.
    pub(crate) fn strip(&self, j: usize) -> &[[T; WIDTH]] {
        &self.data()[j * self.rows..(j + 1) * self.rows]
    }

    /// Strip `j` for writing.
    pub(crate) fn strip_mut(&mut self, j: usize) -> &mut [[T; WIDTH]] {
        let rows = self.rows;
        &mut self.data_mut()[j * rows..(j + 1) * rows]
    }

    /// Sets the first `columns` columns to zero, to the end of their last strip.
    pub(crate) fn clear(&mut self, columns: usize) {
        self.data[..self.rows * columns.div_ceil(WIDTH)].fill(Aligned::default());
    }
}

/// Some rows of a row-major matrix: row `i` is `data[start + i * stride..][..width]`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) start: usize,
    pub(crate) stride: usize,
    pub(crate) width: usize,
    pub(crate) count: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn row(&self, i: usize) -> &'a [f32] {
        &self.data[self.start + i * self.stride..][..self.width]
    }
}

simd! {
    /// Puts rows into columns `first..` of `to`, times `scale`; the columns that remain in the last strip become zero.
    pub(crate) fn pack(from: Rows<'_>, scale: f32, first: usize, to: &mut Strips) {
        let end = first + from.width;
        let mut column = first;
        while column < end {
            let (j, place) = (column / WIDTH, column % WIDTH);
            let n = (WIDTH - place).min(end - column);
            for (i, row) in to.strip_mut(j)[..from.count].iter_mut().enumerate() {
                let values = &from.row(i)[column - first..][..n];
                if let Some(values) = values.first_chunk::<WIDTH>() {
                    // A constant length, and a result apart from its source, let the compiler vectorise.
                    let mut scaled = *values;
                    for x in &mut scaled {
                        *x *= scale;
                    }
                    *row = scaled;
                } else {
                    for (to, x) in row[place..].iter_mut().zip(values) {
                        *to = x * scale;
                    }
                    row[place + n..].fill(0.0);
                }
            }
            column += n;
        }
    }
}

simd! {
    /// Puts at most 32 rows into one strip as its columns, times `scale`: `to[p][i] = scale · from[i][p]`. Columns
    /// without a row become zero.
    pub(crate) fn pack_transposed(from: Rows<'_>, scale: f32, to: &mut [Row]) {
        const BLOCK: usize = 16;
        let to = &mut to[..from.width];
        for i in 0..from.count {
            let row = from.row(i);
            let (blocks, tail) = row.as_chunks::<BLOCK>();
            let (to_blocks, to_tail) = to.as_chunks_mut::<BLOCK>();
            for (values, to) in blocks.iter().zip(to_blocks) {
                for p in 0..BLOCK {
                    to[p][i] = values[p] * scale;
                }
            }
            for (x, to) in tail.iter().zip(to_tail) {
                to[i] = x * scale;
            }
        }
        if from.count < WIDTH {
            for row in to {
                row[from.count..].fill(0.0);
            }
        }
    }
}

simd! {
    /// Copies `to.len()` values of row `i`, from column `first` on, times `scale`.
    pub(crate) fn unpack(from: &Strips, i: usize, first: usize, scale: f32, to: &mut [f32]) {
        let mut column = first;
        let mut rest = to;
        while !rest.is_empty() {
            let (j, place) = (column / WIDTH, column % WIDTH);
            let n = (WIDTH - place).min(rest.len());
            let (part, after) = rest.split_at_mut(n);
            let row = &from.strip(j)[i];
            if let Some(part) = part.first_chunk_mut::<WIDTH>() {
                // A whole row has a constant length, which vectorises.
                for (to, x) in part.iter_mut().zip(row) {
                    *to = x * scale;
                }
            } else {
                for (to, x) in part.iter_mut().zip(&row[place..]) {
                    *to = x * scale;
                }
            }
            rest = after;
            column += n;
        }
    }
}

simd! {
    /// Copies values into row `i`, from column `first` on.
    pub(crate) fn put_row(from: &[f32], i: usize, first: usize, to: &mut Strips) {
        let mut column = first;
        let mut rest = from;
        while !rest.is_empty() {
            let (j, place) = (column / WIDTH, column % WIDTH);
            let n = (WIDTH - place).min(rest.len());
            let (part, after) = rest.split_at(n);
            let row = &mut to.strip_mut(j)[i];
            match part.first_chunk() {
                Some(part) => *row = *part,
                None => row[place..place + n].copy_from_slice(part),
            }
            rest = after;
            column += n;
        }
    }
}

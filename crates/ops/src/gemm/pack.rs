//! Packing: operands are copied into strips that a micro-kernel reads front to back.

use tensor::{BLOCK, CodesRef, GROUP, Isa, Level, MatrixRef, int4_row_bytes};

use super::decode;
use super::kernel::{Ahead, GROUPS};
use crate::Precision;

/// A matrix, or a part of it, or the transpose of that.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(super) matrix: MatrixRef<'a>,
    /// Where element `(0, 0)` is stored.
    pub(super) row: usize,
    pub(super) col: usize,
    pub(super) transposed: bool,
}

/// What an operand is packed to. A strip holds one 32-bit slot for each of its lines and steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    /// A step is one index of the inner dimension, as f32.
    F32,
    /// A step is two indices, rounded to bf16: the even one in the lower half.
    Pairs,
    /// A step is one index, rounded to bf16 and stored as f32, odd before even: multiplied one after the other they give
    /// the bits of [`Form::Pairs`].
    Swapped,
}

impl<'a> View<'a> {
    /// A row-major matrix with rows of `width`.
    pub(crate) fn rows(data: &'a [f32], width: usize) -> Self {
        let rows = data.len().checked_div(width).unwrap_or(0);
        Self::of(MatrixRef { rows, cols: width, codes: CodesRef::F32(data) })
    }

    /// A weight, `[rows, cols]`.
    pub(crate) fn of(matrix: MatrixRef<'a>) -> Self {
        Self { matrix, row: 0, col: 0, transposed: false }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// The part from element `(i, j)` on.
    pub(crate) fn at(self, i: usize, j: usize) -> Self {
        let (rows, cols) = if self.transposed { (j, i) } else { (i, j) };
        Self { row: self.row + rows, col: self.col + cols, ..self }
    }

    /// Whether neighbours in a stored row are neighbours in a column.
    pub(super) fn is_transposed(self) -> bool {
        self.transposed
    }

    /// How many neighbours in a stored row share a scale, where there are scales.
    pub(super) fn scale_width(self) -> Option<usize> {
        match self.matrix.codes {
            CodesRef::F32(_) | CodesRef::Bf16(_) => None,
            CodesRef::Fp8 { .. } => Some(BLOCK),
            CodesRef::Int8 { .. } | CodesRef::Int4 { .. } => Some(GROUP),
        }
    }

    /// What tile `t` of `tiles` should fetch of `lines × depth` elements that are packed after them.
    pub(super) fn ahead(self, lines: usize, depth: usize, t: usize, tiles: usize) -> Ahead {
        const LINE: usize = 64;
        let (rows, cols) = if self.transposed { (depth, lines) } else { (lines, depth) };
        let MatrixRef { cols: all_cols, codes, .. } = self.matrix;
        let at = self.row * all_cols + self.col;
        let (at, row_bytes, bytes): (*const u8, _, _) = match codes {
            CodesRef::F32(values) => (values.as_ptr().wrapping_add(at).cast(), 4 * all_cols, 4 * cols),
            CodesRef::Bf16(values) => (values.as_ptr().wrapping_add(at).cast(), 2 * all_cols, 2 * cols),
            CodesRef::Fp8 { codes, .. } | CodesRef::Int8 { codes, .. } => {
                (codes.as_ptr().wrapping_add(at), all_cols, cols)
            }
            CodesRef::Int4 { codes, .. } => {
                let row_bytes = int4_row_bytes(all_cols);
                (codes.as_ptr().wrapping_add(self.row * row_bytes + self.col / 2), row_bytes, cols.div_ceil(2))
            }
        };
        let cache_lines = bytes.div_ceil(LINE).max(1);
        // Front to back, so that the processor sees a stream and runs ahead of it.
        let all = rows * cache_lines;
        let first = t * all / tiles;
        let count = (t + 1) * all / tiles - first;
        let at = at.wrapping_add(first / cache_lines * row_bytes);
        Ahead { at, line: first % cache_lines, row_lines: cache_lines, row_bytes, count: count.div_ceil(GROUPS) }
    }

    /// Panics unless `lines × depth` elements are there: packing reads through pointers.
    pub(super) fn check(self, lines: usize, depth: usize) {
        if lines == 0 || depth == 0 {
            return;
        }
        let (rows, cols) = if self.transposed { (depth, lines) } else { (lines, depth) };
        let MatrixRef { rows: all_rows, cols: all_cols, codes } = self.matrix;
        let groups = all_cols.div_ceil(GROUP);
        let stored = match codes {
            CodesRef::F32(values) => values.len() >= all_rows * all_cols,
            CodesRef::Bf16(values) => values.len() >= all_rows * all_cols,
            CodesRef::Fp8 { codes, scales } => {
                codes.len() >= all_rows * all_cols
                    && scales.len() >= all_rows.div_ceil(BLOCK) * all_cols.div_ceil(BLOCK)
            }
            CodesRef::Int8 { codes, scales } => codes.len() >= all_rows * all_cols && scales.len() >= all_rows * groups,
            CodesRef::Int4 { codes, scales } => {
                codes.len() >= all_rows * int4_row_bytes(all_cols) && scales.len() >= all_rows * groups
            }
        };
        let inside = self.row + rows <= all_rows && self.col + cols <= all_cols;
        assert!(stored && inside, "gemm: {rows} × {cols} elements from ({}, {}) of {codes:?}", self.row, self.col);
    }
}

impl Form {
    /// What the kernels of `isa` take.
    pub(super) fn new(isa: Isa, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 if isa.level() >= Level::Avx512Bf16 => Self::Pairs,
            Precision::Bf16 => Self::Swapped,
        }
    }

    /// How many steps `depth` indices of the inner dimension are.
    pub(super) fn steps(self, depth: usize) -> usize {
        match self {
            Self::F32 => depth,
            Self::Pairs => depth.div_ceil(2),
            Self::Swapped => depth.next_multiple_of(2),
        }
    }
}

/// One strip of an operand: `lines` from line `first` on, filled up to `width` with zeros.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub(super) first: usize,
    pub(super) lines: usize,
    pub(super) width: usize,
}

/// Packs `view(i, p)`, `p < depth`, for the lines `i` of each cut: the slot of line `first + i` and step `s` is
/// `out[first * steps + s * width + i]`. What is behind an odd `depth` is zero.
///
/// For A a strip is some rows of A; for B it is some columns, that is rows of the transposed view. With `codes`,
/// quantised values are packed without their scales.
pub(super) fn pack(
    isa: Isa,
    form: Form,
    view: View<'_>,
    codes: bool,
    depth: usize,
    cuts: &[Cut],
    scratch: &mut Vec<f32>,
    out: &mut [u32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa.level() >= Level::Avx512 && form != Form::Swapped {
        return super::pack_avx512::pack(isa, form, view, codes, depth, cuts, scratch, out);
    }
    for cut in cuts {
        let strip = &mut out[cut.first * form.steps(depth)..][..cut.width * form.steps(depth)];
        pack_plain(isa, form, view.at(cut.first, 0), codes, [cut.lines, depth, cut.width], scratch, strip);
    }
}

fn pack_plain(
    isa: Isa,
    form: Form,
    view: View<'_>,
    codes: bool,
    [lines, depth, width]: [usize; 3],
    scratch: &mut Vec<f32>,
    out: &mut [u32],
) {
    if lines < width || !depth.is_multiple_of(2) {
        out.fill(0);
    }
    let fetch = if codes { decode::codes } else { decode::values };
    let View { matrix, row, col, transposed } = view;
    let mut put = |i: usize, p: usize, x: f32| match form {
        Form::F32 => out[p * width + i] = x.to_bits(),
        Form::Swapped => out[(p ^ 1) * width + i] = decode::round(x).to_bits(),
        Form::Pairs => {
            let slot = &mut out[p / 2 * width + i];
            let bits = decode::round(x).to_bits() >> 16;
            *slot = if p.is_multiple_of(2) { *slot & 0xFFFF_0000 | bits } else { *slot & 0xFFFF | bits << 16 };
        }
    };
    if transposed {
        scratch.resize(lines, 0.0);
        for p in 0..depth {
            fetch(isa, matrix, row + p, col, scratch);
            for (i, x) in scratch.iter().enumerate() {
                put(i, p, *x);
            }
        }
    } else {
        scratch.resize(depth, 0.0);
        for i in 0..lines {
            fetch(isa, matrix, row + i, col, scratch);
            for (p, x) in scratch.iter().enumerate() {
                put(i, p, *x);
            }
        }
    }
}

/// The scales that belong to a strip packed with `codes`: that of line `i` and block `b` is `out[b * width + i]`.
pub(super) fn pack_scales(view: View<'_>, lines: usize, blocks: usize, width: usize, out: &mut [f32]) {
    let View { matrix, row, col, .. } = view;
    match matrix.codes {
        CodesRef::Fp8 { scales, .. } => {
            let per_row = matrix.cols.div_ceil(BLOCK);
            for b in 0..blocks {
                for i in 0..lines {
                    out[b * width + i] = scales[(row + i) / BLOCK * per_row + col / BLOCK + b];
                }
            }
        }
        CodesRef::Int8 { scales, .. } | CodesRef::Int4 { scales, .. } => {
            let per_row = matrix.cols.div_ceil(GROUP);
            for i in 0..lines {
                let scales = &scales[(row + i) * per_row + col / GROUP..][..blocks];
                for (b, scale) in scales.iter().enumerate() {
                    out[b * width + i] = scale.to_f32();
                }
            }
        }
        CodesRef::F32(_) | CodesRef::Bf16(_) => panic!("gemm: {:?} has no scales", matrix.codes),
    }
}

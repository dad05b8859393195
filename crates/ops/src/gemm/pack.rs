//! Packing: operands are copied into strips that a micro-kernel reads front to back.

use tensor::bf16;

use crate::simd::simd;

/// A matrix inside a slice: element `(i, j)` is at `offset + i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: Values<'a>,
    pub(crate) offset: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// The stored type; arithmetic is in f32.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> View<'a> {
    /// A row-major matrix with rows of `width`.
    pub(crate) fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data: Values::F32(data), offset: 0, row_stride: width, col_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The part from element `(i, j)` on.
    pub(crate) fn at(self, i: usize, j: usize) -> Self {
        Self { offset: self.offset + i * self.row_stride + j * self.col_stride, ..self }
    }
}

/// Writes `out[p * width + i] = view(i, p)` for `i < rows`, `p < depth`, and zeros for `rows <= i < width`.
///
/// For A a strip is some rows of A; for B it is some columns, that is rows of the transposed view.
pub(super) fn pack(isa: tensor::Isa, view: View<'_>, rows: usize, depth: usize, width: usize, out: &mut [f32]) {
    debug_assert!(out.len() == depth * width && rows <= width, "a strip has the size of its buffer");
    let View { data, offset, row_stride, col_stride } = view;
    match data {
        Values::F32(data) => strip_f32(isa, &data[offset..], row_stride, col_stride, rows, depth, width, out),
        Values::Bf16(data) => strip_bf16(isa, &data[offset..], row_stride, col_stride, rows, depth, width, out),
    }
}

simd! {
    fn strip_f32(src: &[f32], row_stride: usize, col_stride: usize, rows: usize, depth: usize, width: usize,
                 out: &mut [f32]) {
        strip(src, row_stride, col_stride, rows, depth, width, out);
    }
}

simd! {
    fn strip_bf16(src: &[bf16], row_stride: usize, col_stride: usize, rows: usize, depth: usize, width: usize,
                  out: &mut [f32]) {
        strip(src, row_stride, col_stride, rows, depth, width, out);
    }
}

trait Element: Copy {
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        // A bf16 is the upper half of an f32; unlike `to_f32` this keeps signalling NaNs as they are, without a branch.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

#[inline(always)]
fn strip<T: Element>(
    src: &[T],
    row_stride: usize,
    col_stride: usize,
    rows: usize,
    depth: usize,
    width: usize,
    out: &mut [f32],
) {
    if row_stride == 1 {
        // The values of one step are neighbours: copy them.
        for (p, out) in out.chunks_exact_mut(width).enumerate() {
            let src = &src[p * col_stride..p * col_stride + rows];
            for (o, x) in out.iter_mut().zip(src) {
                *o = x.widen();
            }
            out[rows..].fill(0.0);
        }
        return;
    }
    // A transposition. Blocks of eight steps let every cache line that is touched be used up at once.
    for block in 0..depth.div_ceil(8) {
        let steps = block * 8..(block * 8 + 8).min(depth);
        for i in 0..rows {
            let src = &src[i * row_stride..];
            for p in steps.clone() {
                out[p * width + i] = src[p * col_stride].widen();
            }
        }
        if rows < width {
            for p in steps {
                out[p * width + rows..(p + 1) * width].fill(0.0);
            }
        }
    }
}

//! Packing: operands are copied into strips that a micro-kernel reads front to back.

use tensor::{CodesRef, MatrixRef, bf16};

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

    /// A weight, `[rows, cols]`.
    pub(crate) fn of(matrix: MatrixRef<'a>) -> Self {
        let data = match matrix.codes {
            CodesRef::F32(values) => Values::F32(values),
            CodesRef::Bf16(values) => Values::Bf16(values),
            CodesRef::Fp8 { .. } => panic!("gemm: no kernel for FP8"),
        };
        Self { data, offset: 0, row_stride: matrix.cols, col_stride: 1 }
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
        Values::F32(data) => {
            let data = &data[offset.min(data.len())..];
            #[cfg(target_arch = "x86_64")]
            if isa.level() >= tensor::Level::Avx512 && col_stride == 1 && rows == 32 && width == 32 {
                // SAFETY: an `Isa` of this level exists only on a processor that has the features.
                let done = unsafe { x86::strip(data, row_stride, depth, out) };
                return strip_f32(
                    isa,
                    &data[done.min(data.len())..],
                    row_stride,
                    1,
                    rows,
                    depth - done,
                    width,
                    &mut out[done * width..],
                );
            }
            strip_f32(isa, data, row_stride, col_stride, rows, depth, width, out);
        }
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
        // The values of one step are neighbours: copy them. A constant length is copied in registers.
        for (p, out) in out.chunks_exact_mut(width).enumerate() {
            let src = &src[p * col_stride..p * col_stride + rows];
            if let (Some(out), Some(src)) = (out.first_chunk_mut::<32>(), src.first_chunk::<32>()) {
                for i in 0..32 {
                    out[i] = src[i].widen();
                }
                continue;
            }
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

/// Transposition of whole strips in registers, sixteen by sixteen.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
        _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    /// `out[p * 32 + i] = src[i * row_stride + p]` for `i < 32` and the first `depth - depth % 16` steps `p`; the result
    /// is how many those are.
    #[target_feature(enable = "avx512f")]
    pub(super) fn strip(src: &[f32], row_stride: usize, depth: usize, out: &mut [f32]) -> usize {
        let whole = depth - depth % 16;
        assert!(
            out.len() >= whole * 32 && (whole == 0 || src.len() >= 31 * row_stride + whole),
            "a strip is too short"
        );
        for p in (0..whole).step_by(16) {
            for i in [0, 16] {
                // SAFETY: rows i to i + 15 and steps p to p + 15 are inside both slices (asserted).
                unsafe {
                    transpose(src.as_ptr().add(i * row_stride + p), row_stride, out.as_mut_ptr().add(p * 32 + i));
                };
            }
        }
        whole
    }

    /// `to[p * 32 + i] = from[i * stride + p]` for `i, p < 16`.
    ///
    /// # Safety
    /// Both pointers are valid for those elements.
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32) {
        let mut rows = [_mm512_setzero_ps(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: sixteen values of row i.
            *row = unsafe { _mm512_loadu_ps(from.add(i * stride)) };
        }
        // Pairs, then quads of rows: afterwards lane q of quads[4 g + j] holds column 4 q + j of rows 4 g to 4 g + 3.
        let mut quads = [_mm512_setzero_ps(); 16];
        for g in 0..4 {
            let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
            let (low_ab, high_ab) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (low_cd, high_cd) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            quads[4 * g] = low_pairs(low_ab, low_cd);
            quads[4 * g + 1] = high_pairs(low_ab, low_cd);
            quads[4 * g + 2] = low_pairs(high_ab, high_cd);
            quads[4 * g + 3] = high_pairs(high_ab, high_cd);
        }
        // Lanes of the four quads of a column to one register.
        for j in 0..4 {
            let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
            let (even_ab, odd_ab) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (even_cd, odd_cd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(even_ab, even_cd),
                _mm512_shuffle_f32x4::<0x88>(odd_ab, odd_cd),
                _mm512_shuffle_f32x4::<0xdd>(even_ab, even_cd),
                _mm512_shuffle_f32x4::<0xdd>(odd_ab, odd_cd),
            ];
            for (q, column) in columns.into_iter().enumerate() {
                // SAFETY: sixteen values of step 4 q + j.
                unsafe { _mm512_storeu_ps(to.add((4 * q + j) * 32), column) };
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn low_pairs(a: __m512, b: __m512) -> __m512 {
        _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
    }

    #[target_feature(enable = "avx512f")]
    fn high_pairs(a: __m512, b: __m512) -> __m512 {
        _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
    }
}

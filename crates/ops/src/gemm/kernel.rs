//! Micro-kernels: a tile of C stays in registers while some rows of A, where they lie, meet a packed strip of B.
//!
//! ```text
//! for p in 0..k:              one column of the rows of A, one row of the B strip
//!     load NR values of B
//!     for i in 0..MR:         C[i, ..] = fma(A[i, p], B[p, ..], C[i, ..])
//! ```
//!
//! Every element of C is one chain of fused multiply-adds over `p` in increasing order. It does not matter which tile,
//! kernel or thread computes it, nor how many rows there are beside it: the bits are the same.

use tensor::{Isa, Level};

/// A micro-kernel and the tile it computes.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Rows of a tile.
    pub(super) mr: usize,
    /// Columns of a tile.
    pub(super) nr: usize,
    run: Run,
}

/// Rows of A: element `(i, p)` is at `data[i * row_stride + p * col_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// A tile of C: element `(i, j)` is at `c[i * ldc + j]`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) c: *mut f32,
    pub(super) ldc: usize,
    /// Start from what C holds instead of from 0.
    pub(super) accumulate: bool,
}

/// `C (+)= Σ_p A[i, p] · b[p * NR + j]`.
type Run = unsafe fn(k: usize, a: *const f32, strides: [usize; 2], b: *const f32, c: Tile);

/// No kernel has a larger tile.
pub(super) const MAX_TILE: usize = 14 * 32;

impl Kernel {
    /// The widest kernel for `isa`.
    pub(super) fn new(isa: Isa) -> Self {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => Self { mr: 14, nr: 32, run: x86::avx512 },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self { mr: 6, nr: 16, run: x86::avx2 },
            _ => Self { mr: 4, nr: 16, run: portable },
        }
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// C must be valid for reads and writes at `i * ldc + j` for all `i < mr`, `j < nr`, and nothing else may access
    /// those elements meanwhile.
    #[inline]
    pub(super) unsafe fn run(&self, k: usize, a: Rows<'_>, b: &[f32], c: Tile) {
        let last = (self.mr - 1) * a.row_stride + k.saturating_sub(1) * a.col_stride;
        assert!((k == 0 || a.data.len() > last) && b.len() >= k * self.nr, "an operand of a tile is too short");
        // SAFETY: both operands are long enough (asserted), C is the caller's promise, and `new` chose a kernel whose
        // instructions this processor has.
        unsafe { (self.run)(k, a.data.as_ptr(), [a.row_stride, a.col_stride], b.as_ptr(), c) }
    }
}

/// # Safety
/// `a` is valid at `i * strides[0] + p * strides[1]` for `i < 4` and `p < k`, `b` holds `k * 16` values, and `c` is as
/// [`Kernel::run`] says for 4 rows of 16.
unsafe fn portable(k: usize, a: *const f32, [row, col]: [usize; 2], b: *const f32, c: Tile) {
    let mut acc = [[0.0_f32; 16]; 4];
    if c.accumulate {
        for (i, acc) in acc.iter_mut().enumerate() {
            for (j, x) in acc.iter_mut().enumerate() {
                // SAFETY: inside the tile.
                *x = unsafe { *c.c.add(i * c.ldc + j) };
            }
        }
    }
    for p in 0..k {
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: i < 4 and p < k.
            let ai = unsafe { *a.add(i * row + p * col) };
            for (j, x) in acc.iter_mut().enumerate() {
                // SAFETY: p < k and j < 16.
                *x = ai.mul_add(unsafe { *b.add(p * 16 + j) }, *x);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, x) in acc.iter().enumerate() {
            // SAFETY: inside the tile.
            unsafe { *c.c.add(i * c.ldc + j) = *x };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::Tile;

    /// 28 of the 32 registers hold C, two hold a row of B; each step issues 28 multiply-adds for 16 loads.
    ///
    /// # Safety
    /// The processor has AVX-512 F; `a` is valid at `i * strides[0] + p * strides[1]` for `i < 14` and `p < k`, `b` holds
    /// `k * 32` values, and `c` is as `Kernel::run` says for 14 rows of 32.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(k: usize, a: *const f32, [row, col]: [usize; 2], b: *const f32, c: Tile) {
        // Rows go in pairs: seven pointers and one stride fit the general registers.
        let mut acc = [[[_mm512_setzero_ps(); 2]; 2]; 7];
        if c.accumulate {
            for (g, pair) in acc.iter_mut().enumerate() {
                for (i, acc) in pair.iter_mut().enumerate() {
                    // SAFETY: 32 values of row 2 g + i of the tile.
                    *acc = unsafe {
                        let c_row = c.c.add((2 * g + i) * c.ldc);
                        [_mm512_loadu_ps(c_row), _mm512_loadu_ps(c_row.add(16))]
                    };
                }
            }
        }
        let mut pointers: [*const f32; 7] = std::array::from_fn(|g| a.wrapping_add(2 * g * row));
        for p in 0..k {
            // SAFETY: p < k: 32 values of B's strip.
            let (b0, b1) = unsafe { (_mm512_loadu_ps(b.add(p * 32)), _mm512_loadu_ps(b.add(p * 32 + 16))) };
            for (pointer, pair) in pointers.iter_mut().zip(&mut acc) {
                // SAFETY: step p of rows 2 g and 2 g + 1.
                let (a0, a1) = unsafe { (_mm512_set1_ps(**pointer), _mm512_set1_ps(*pointer.add(row))) };
                pair[0][0] = _mm512_fmadd_ps(a0, b0, pair[0][0]);
                pair[0][1] = _mm512_fmadd_ps(a0, b1, pair[0][1]);
                pair[1][0] = _mm512_fmadd_ps(a1, b0, pair[1][0]);
                pair[1][1] = _mm512_fmadd_ps(a1, b1, pair[1][1]);
                *pointer = pointer.wrapping_add(col);
            }
        }
        for (g, pair) in acc.iter().enumerate() {
            for (i, acc) in pair.iter().enumerate() {
                // SAFETY: 32 values of row 2 g + i of the tile.
                unsafe {
                    let c_row = c.c.add((2 * g + i) * c.ldc);
                    _mm512_storeu_ps(c_row, acc[0]);
                    _mm512_storeu_ps(c_row.add(16), acc[1]);
                }
            }
        }
    }

    /// # Safety
    /// The processor has AVX2 and FMA; `a` is valid at `i * strides[0] + p * strides[1]` for `i < 6` and `p < k`, `b`
    /// holds `k * 16` values, and `c` is as `Kernel::run` says for 6 rows of 16.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(k: usize, a: *const f32, [row, col]: [usize; 2], b: *const f32, c: Tile) {
        let mut acc = [[_mm256_setzero_ps(); 2]; 6];
        if c.accumulate {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: 16 values of row i of the tile.
                *acc = unsafe { [_mm256_loadu_ps(c.c.add(i * c.ldc)), _mm256_loadu_ps(c.c.add(i * c.ldc + 8))] };
            }
        }
        for p in 0..k {
            // SAFETY: p < k: 16 values of B's strip.
            let (b0, b1) = unsafe { (_mm256_loadu_ps(b.add(p * 16)), _mm256_loadu_ps(b.add(p * 16 + 8))) };
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: i < 6 and p < k.
                let ai = _mm256_broadcast_ss(unsafe { &*a.add(i * row + p * col) });
                acc[0] = _mm256_fmadd_ps(ai, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(ai, b1, acc[1]);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: 16 values of row i of the tile.
            unsafe {
                _mm256_storeu_ps(c.c.add(i * c.ldc), acc[0]);
                _mm256_storeu_ps(c.c.add(i * c.ldc + 8), acc[1]);
            }
        }
    }
}

//! Micro-kernels: a tile of C stays in registers while a packed strip of A meets a packed strip of B.
//!
//! ```text
//! for p in 0..k:              one column of the A strip, one row of the B strip
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

/// `c[i * ldc + j] (+)= Σ_p a[p * MR + i] · b[p * NR + j]`, starting from what `c` holds if `accumulate`.
type Run = unsafe fn(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, accumulate: bool);

/// No kernel has a larger tile.
pub(super) const MAX_TILE: usize = 14 * 32;

impl Kernel {
    /// The widest kernel for `isa`.
    pub(super) fn new(isa: Isa) -> Self {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self { mr: 14, nr: 32, run: x86::avx512 },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self { mr: 6, nr: 16, run: x86::avx2 },
            _ => Self { mr: 4, nr: 16, run: portable },
        }
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// `c` must be valid for reads and writes at `i * ldc + j` for all `i < mr`, `j < nr`, and nothing else may access
    /// those elements meanwhile.
    pub(super) unsafe fn run(&self, k: usize, a: &[f32], b: &[f32], c: *mut f32, ldc: usize, accumulate: bool) {
        assert!(a.len() >= k * self.mr && b.len() >= k * self.nr, "a packed strip is too short");
        // SAFETY: the strips are long enough (asserted), `c` is the caller's promise, and `new` chose a kernel whose
        // instructions this processor has.
        unsafe { (self.run)(k, a.as_ptr(), b.as_ptr(), c, ldc, accumulate) }
    }
}

/// # Safety
/// `a` holds `k * 4` values, `b` holds `k * 16`, and `c` is as [`Kernel::run`] says.
unsafe fn portable(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, accumulate: bool) {
    let mut acc = [[0.0_f32; 16]; 4];
    if accumulate {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, x) in row.iter_mut().enumerate() {
                // SAFETY: inside the tile.
                *x = unsafe { *c.add(i * ldc + j) };
            }
        }
    }
    for p in 0..k {
        for (i, row) in acc.iter_mut().enumerate() {
            // SAFETY: p < k and i < 4.
            let ai = unsafe { *a.add(p * 4 + i) };
            for (j, x) in row.iter_mut().enumerate() {
                // SAFETY: p < k and j < 16.
                *x = ai.mul_add(unsafe { *b.add(p * 16 + j) }, *x);
            }
        }
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, x) in row.iter().enumerate() {
            // SAFETY: inside the tile.
            unsafe { *c.add(i * ldc + j) = *x };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    /// 28 of the 32 registers hold C, two hold a row of B; each step issues 28 multiply-adds for 16 loads.
    ///
    /// # Safety
    /// The processor has AVX-512 F; `a` holds `k * 14` values, `b` holds `k * 32`, and `c` is as `Kernel::run` says.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, accumulate: bool) {
        let mut acc = [[_mm512_setzero_ps(); 2]; 14];
        if accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                // SAFETY: 32 values of row i of the tile.
                *row = unsafe { [_mm512_loadu_ps(c.add(i * ldc)), _mm512_loadu_ps(c.add(i * ldc + 16))] };
            }
        }
        for p in 0..k {
            // SAFETY: p < k: 32 values of B's strip.
            let (b0, b1) = unsafe { (_mm512_loadu_ps(b.add(p * 32)), _mm512_loadu_ps(b.add(p * 32 + 16))) };
            for (i, row) in acc.iter_mut().enumerate() {
                // SAFETY: p < k and i < 14.
                let ai = _mm512_set1_ps(unsafe { *a.add(p * 14 + i) });
                row[0] = _mm512_fmadd_ps(ai, b0, row[0]);
                row[1] = _mm512_fmadd_ps(ai, b1, row[1]);
            }
        }
        for (i, row) in acc.iter().enumerate() {
            // SAFETY: 32 values of row i of the tile.
            unsafe {
                _mm512_storeu_ps(c.add(i * ldc), row[0]);
                _mm512_storeu_ps(c.add(i * ldc + 16), row[1]);
            }
        }
    }

    /// # Safety
    /// The processor has AVX2 and FMA; `a` holds `k * 6` values, `b` holds `k * 16`, and `c` is as `Kernel::run` says.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, accumulate: bool) {
        let mut acc = [[_mm256_setzero_ps(); 2]; 6];
        if accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                // SAFETY: 16 values of row i of the tile.
                *row = unsafe { [_mm256_loadu_ps(c.add(i * ldc)), _mm256_loadu_ps(c.add(i * ldc + 8))] };
            }
        }
        for p in 0..k {
            // SAFETY: p < k: 16 values of B's strip.
            let (b0, b1) = unsafe { (_mm256_loadu_ps(b.add(p * 16)), _mm256_loadu_ps(b.add(p * 16 + 8))) };
            for (i, row) in acc.iter_mut().enumerate() {
                // SAFETY: p < k and i < 6.
                let ai = _mm256_broadcast_ss(unsafe { &*a.add(p * 6 + i) });
                row[0] = _mm256_fmadd_ps(ai, b0, row[0]);
                row[1] = _mm256_fmadd_ps(ai, b1, row[1]);
            }
        }
        for (i, row) in acc.iter().enumerate() {
            // SAFETY: 16 values of row i of the tile.
            unsafe {
                _mm256_storeu_ps(c.add(i * ldc), row[0]);
                _mm256_storeu_ps(c.add(i * ldc + 8), row[1]);
            }
        }
    }
}

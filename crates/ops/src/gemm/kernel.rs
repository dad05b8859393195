//! Micro-kernels: a tile of C stays in registers while a packed panel of A meets a packed strip of B.
//!
//! ```text
//! for s in 0..steps:          one slot of each row of A, one row of the B strip
//!     load NR slots of B
//!     for i in 0..MR:         C[i, ..] = fma(A[i, s], B[s, ..], C[i, ..])
//! ```
//!
//! Every element of C is one chain of fused multiply-adds over the steps in increasing order. It does not matter which
//! tile, kernel or thread computes it, nor how many rows there are beside it: the bits are the same. With scales, the
//! chain of each block of steps starts from zero, and C = fma(scale, chain, C) at its end.

use tensor::{Isa, Level};

use super::pack::Form;

/// A micro-kernel and the tile it computes.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Most rows of a tile.
    pub(super) mr: usize,
    /// Columns of a strip of B.
    pub(super) nr: usize,
    /// Most steps of the inner dimension per block: 128 columns of B then fill half of a level-2 cache.
    pub(super) kc: usize,
    /// Whether a panel of A always has `mr` rows, filled up with zeros; else it has as many as the tile.
    pub(super) whole_panels: bool,
    run: unsafe fn(&Call),
}

/// One tile: `rows × columns` of C.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) steps: usize,
    /// Slot `(i, s)` is at `a[s * panel + i]`, `panel` being `rows`, or `mr` with [`Kernel::whole_panels`].
    pub(super) a: *const u32,
    /// Slot `(s, j)` is at `b[s * nr + j]`.
    pub(super) b: *const u32,
    /// Scale `j` of block `t` of steps is at `scales[t * nr + j]`; null where there are none.
    pub(super) scales: *const f32,
    /// Steps that share a scale.
    pub(super) block: usize,
    /// What the sums start from: element `(i, j)` at `from[i * from_row + j]`; null for 0.
    pub(super) from: *const f32,
    pub(super) from_row: usize,
    /// Where they go: element `(i, j)` to `to[i * to_row + j]`.
    pub(super) to: *mut f32,
    pub(super) to_row: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// What the sums of the next tile start from, to be fetched meanwhile.
    pub(super) next_from: *const f32,
    /// What is to be fetched of the next panel of A meanwhile.
    pub(super) next_a: *const u32,
    pub(super) next_a_lines: usize,
    /// What else is to be fetched meanwhile.
    pub(super) ahead: Ahead,
}

/// Cache lines to be brought to the level-2 cache while a tile is computed, `count` in each of [`GROUPS`] parts of the
/// steps: from line `line` of the row at `at` on, row after row. They need not be valid.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) at: *const u8,
    pub(super) line: usize,
    pub(super) row_lines: usize,
    pub(super) row_bytes: usize,
    pub(super) count: usize,
}

/// In how many parts the steps of a tile are cut for [`Ahead`].
pub(super) const GROUPS: usize = 32;

impl Ahead {
    pub(super) const NOTHING: Self = Self { at: std::ptr::null(), line: 0, row_lines: 0, row_bytes: 0, count: 0 };
}

impl Kernel {
    /// The widest kernel for operands that are packed to `form`.
    pub(super) fn new(isa: Isa, form: Form) -> Self {
        #[cfg(target_arch = "x86_64")]
        match (isa.level(), form) {
            (Level::Avx512Bf16, Form::Pairs) => return super::kernel_avx512::PAIRS,
            (Level::Avx512 | Level::Avx512Bf16, Form::F32 | Form::Swapped) => return super::kernel_avx512::F32,
            (Level::Avx2, Form::F32 | Form::Swapped) => return Self::narrow(6, avx2),
            _ => {}
        }
        assert!(form != Form::Pairs, "pairs are packed only where there is a kernel for them");
        Self::narrow(4, portable)
    }

    const fn narrow(mr: usize, run: unsafe fn(&Call)) -> Self {
        Self { mr, nr: 16, kc: 256, whole_panels: true, run }
    }

    pub(super) const fn wide(mr: usize, nr: usize, run: unsafe fn(&Call)) -> Self {
        Self { mr, nr, kc: 1024, whole_panels: false, run }
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// The operands must be as [`Call`] says, `from` valid for reads and `to` for writes of `rows × columns` elements that
    /// nothing else accesses meanwhile, and `1 ≤ rows ≤ mr`, `1 ≤ columns ≤ nr`.
    #[inline]
    pub(super) unsafe fn run(&self, call: &Call) {
        // SAFETY: the caller's promise; `new` chose a kernel whose instructions this processor has.
        unsafe { (self.run)(call) }
    }
}

/// # Safety
/// As [`Kernel::run`].
unsafe fn portable(call: &Call) {
    // SAFETY: the caller's promise.
    unsafe { narrow::<4>(call, portable_tile) }
}

/// # Safety
/// As [`Kernel::run`]; the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
unsafe fn avx2(call: &Call) {
    // SAFETY: the caller's promise.
    unsafe { narrow::<6>(call, x86::tile) }
}

/// A tile of `M` rows of 16 on operands in f32: `c += Σ_s a[s, i] · b[s, j]`, with `c` in rows of 16.
type Narrow = unsafe fn(steps: usize, a: *const f32, b: *const f32, c: *mut f32);

/// A kernel that has no edges and no scales, by way of a buffer.
///
/// # Safety
/// As [`Kernel::run`] for panels of `M` rows; the processor has the instructions of `run`.
unsafe fn narrow<const M: usize>(call: &Call, run: Narrow) {
    let Call { steps, a, b, scales, block, from, from_row, to, to_row, rows, columns, .. } = *call;
    let mut tile = [[0.0_f32; 16]; M];
    if !from.is_null() {
        for (i, row) in tile.iter_mut().enumerate().take(rows) {
            // SAFETY: the columns of row i that there are.
            unsafe { std::ptr::copy_nonoverlapping(from.add(i * from_row), row.as_mut_ptr(), columns) };
        }
    }
    let (a, b): (*const f32, *const f32) = (a.cast(), b.cast());
    if scales.is_null() {
        // SAFETY: the operands are as long as `steps` says, and the tile has M rows.
        unsafe { run(steps, a, b, tile.as_mut_ptr().cast()) };
    } else {
        for (t, start) in (0..steps).step_by(block).enumerate() {
            let mut chain = [[0.0_f32; 16]; M];
            // SAFETY: as above, from step `start` on.
            unsafe {
                run(block.min(steps - start), a.add(start * M), b.add(start * 16), chain.as_mut_ptr().cast());
            }
            for (row, chain) in tile.iter_mut().zip(chain) {
                for j in 0..16 {
                    // SAFETY: the sixteen scales of block t.
                    row[j] = unsafe { *scales.add(t * 16 + j) }.mul_add(chain[j], row[j]);
                }
            }
        }
    }
    for (i, row) in tile.iter().enumerate().take(rows) {
        // SAFETY: the columns of row i that there are.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), to.add(i * to_row), columns) };
    }
}

/// # Safety
/// As [`Narrow`] for 4 rows.
unsafe fn portable_tile(steps: usize, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: 4 rows of 16.
    let c = unsafe { &mut *c.cast::<[[f32; 16]; 4]>() };
    let mut acc = *c;
    for s in 0..steps {
        // SAFETY: s < steps.
        let (a, b) = unsafe { (&*a.add(s * 4).cast::<[f32; 4]>(), &*b.add(s * 16).cast::<[f32; 16]>()) };
        for i in 0..4 {
            for j in 0..16 {
                acc[i][j] = a[i].mul_add(b[j], acc[i][j]);
            }
        }
    }
    *c = acc;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    /// # Safety
    /// The processor has AVX2 and FMA; as `Narrow` for 6 rows.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile(steps: usize, a: *const f32, b: *const f32, c: *mut f32) {
        let mut acc = [[_mm256_setzero_ps(); 2]; 6];
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: 16 values of row i of the tile.
            *acc = unsafe { [_mm256_loadu_ps(c.add(i * 16)), _mm256_loadu_ps(c.add(i * 16 + 8))] };
        }
        for s in 0..steps {
            // SAFETY: s < steps: 16 values of B's strip.
            let (b0, b1) = unsafe { (_mm256_loadu_ps(b.add(s * 16)), _mm256_loadu_ps(b.add(s * 16 + 8))) };
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: i < 6 and s < steps.
                let ai = _mm256_broadcast_ss(unsafe { &*a.add(s * 6 + i) });
                acc[0] = _mm256_fmadd_ps(ai, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(ai, b1, acc[1]);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: 16 values of row i of the tile.
            unsafe {
                _mm256_storeu_ps(c.add(i * 16), acc[0]);
                _mm256_storeu_ps(c.add(i * 16 + 8), acc[1]);
            }
        }
    }
}

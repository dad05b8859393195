//! The micro-kernels of AVX-512: f32, and pairs of bf16, whose products are exact in f32.
//!
//! A tile has up to 14 rows of 32 columns: 28 of the 32 registers hold C, two hold a row of B, and each step issues 28
//! multiply-adds for 16 loads. Tiles of fewer rows are kernels of their own, so that rows can be shared out evenly.

use std::arch::x86_64::{
    __m512, __m512bh, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use super::kernel::{Call, GROUPS, Kernel};

/// Most rows of a tile.
const MR: usize = 14;

/// For AVX-512 F.
pub(super) const F32: Kernel = Kernel::wide(MR, 32, |call| {
    // SAFETY: the caller of `Kernel::run` has the processor and the operands.
    unsafe { F32_TILES[call.rows - 1][usize::from(!call.scales.is_null())](call) }
});

/// For AVX-512 with BF16.
pub(super) const PAIRS: Kernel = Kernel::wide(MR, 32, |call| {
    // SAFETY: as above.
    unsafe { PAIRS_TILES[call.rows - 1][usize::from(!call.scales.is_null())](call) }
});

/// By rows less one, without and with scales.
type Tiles = [[unsafe fn(&Call); 2]; MR];

macro_rules! tiles {
    ($tile:ident, $($m:literal)*) => { [$([$tile::<$m, false>, $tile::<$m, true>]),*] };
}
static F32_TILES: Tiles = tiles!(f32_tile, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
static PAIRS_TILES: Tiles = tiles!(pairs_tile, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

/// The body of a kernel; `$multiply_add(c, a, b)` is a multiply-add of slots.
macro_rules! tile {
    ($name:ident, $features:literal, $multiply_add:ident) => {
        /// # Safety
        /// As [`Kernel::run`]; the processor has the features.
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const SCALED: bool>(call: &Call) {
            let Call {
                steps,
                mut a,
                mut b,
                mut scales,
                block,
                columns,
                from,
                from_row,
                to,
                to_row,
                next_from,
                mut next_a,
                next_a_lines,
                mut ahead,
                ..
            } = *call;
            for i in 0..M {
                let c = next_from.wrapping_add(i * from_row);
                _mm_prefetch::<_MM_HINT_T0>(c.cast());
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(16).cast());
            }
            let masks = [columns, columns.saturating_sub(16)].map(|n| ((1_u32 << n.min(16)) - 1) as u16);
            let mut acc = [[_mm512_setzero_ps(); 2]; M];
            if !from.is_null() {
                for i in 0..M {
                    // SAFETY: the columns of row i that there are.
                    acc[i] = unsafe {
                        let c = from.add(i * from_row);
                        [_mm512_maskz_loadu_ps(masks[0], c), _mm512_maskz_loadu_ps(masks[1], c.wrapping_add(16))]
                    };
                }
            }
            // With scales, C waits on the stack for the end of a block.
            let mut waiting = [[_mm512_setzero_ps(); 2]; M];
            let part = steps.div_ceil(GROUPS).max(1);
            let next_a_part = next_a_lines.div_ceil(GROUPS);
            let mut done = 0;
            while done < steps {
                let block_end = if SCALED { steps.min(done + block) } else { steps };
                if SCALED {
                    waiting = std::mem::replace(&mut acc, [[_mm512_setzero_ps(); 2]; M]);
                }
                while done < block_end {
                    for _ in 0..next_a_part {
                        _mm_prefetch::<_MM_HINT_T1>(next_a.cast());
                        next_a = next_a.wrapping_add(16);
                    }
                    for _ in 0..ahead.count {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.at.wrapping_add(64 * ahead.line).cast());
                        ahead.line += 1;
                        if ahead.line == ahead.row_lines {
                            ahead.line = 0;
                            ahead.at = ahead.at.wrapping_add(ahead.row_bytes);
                        }
                    }
                    let part_end = block_end.min(done + part);
                    while done < part_end {
                        // SAFETY: a row of the strip of B, and a slot of each row of A.
                        unsafe {
                            let (b0, b1) = (_mm512_loadu_ps(b.cast()), _mm512_loadu_ps(b.add(16).cast()));
                            for i in 0..M {
                                let x = _mm512_castsi512_ps(_mm512_set1_epi32(*a.add(i) as i32));
                                acc[i][0] = $multiply_add(acc[i][0], x, b0);
                                acc[i][1] = $multiply_add(acc[i][1], x, b1);
                            }
                            a = a.add(M);
                            b = b.add(32);
                        }
                        done += 1;
                    }
                }
                if SCALED {
                    // SAFETY: the scales of the block.
                    let (s0, s1) = unsafe { (_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(16))) };
                    for i in 0..M {
                        acc[i][0] = _mm512_fmadd_ps(s0, acc[i][0], waiting[i][0]);
                        acc[i][1] = _mm512_fmadd_ps(s1, acc[i][1], waiting[i][1]);
                    }
                    scales = scales.wrapping_add(32);
                }
            }
            if columns == 32 {
                for i in 0..M {
                    // SAFETY: the columns of row i.
                    unsafe {
                        let c = to.add(i * to_row);
                        _mm512_storeu_ps(c, acc[i][0]);
                        _mm512_storeu_ps(c.add(16), acc[i][1]);
                    }
                }
            } else {
                for i in 0..M {
                    // SAFETY: the columns of row i that there are.
                    unsafe {
                        let c = to.add(i * to_row);
                        _mm512_mask_storeu_ps(c, masks[0], acc[i][0]);
                        _mm512_mask_storeu_ps(c.wrapping_add(16), masks[1], acc[i][1]);
                    }
                }
            }
        }
    };
}
tile!(f32_tile, "avx512f", multiply_add);
tile!(pairs_tile, "avx512f,avx512bf16", multiply_add_pairs);

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(c: __m512, a: __m512, b: __m512) -> __m512 {
    _mm512_fmadd_ps(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_add_pairs(c: __m512, a: __m512, b: __m512) -> __m512 {
    // SAFETY: all are 64 bytes of plain numbers.
    let pairs = |x| unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
    _mm512_dpbf16_ps(c, pairs(a), pairs(b))
}

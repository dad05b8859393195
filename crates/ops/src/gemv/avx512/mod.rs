//! The kernels for processors that multiply pairs of bf16 and look bytes up in tables in registers.
//!
//! ```text
//! for each row of W, for each chunk of 128 columns:
//!   prefetch what comes some KiB later
//!   decode the chunk to four vectors of bf16               FP8: 2 loads, 4 lookups, 2 signs, 4 interleavings
//!   for each row m of x:                                   x is packed in the order in which decoding leaves weights
//!     sum = 0; sum = dp(sum, x[m], vector), four times
//!     total[m] = sum · scale + total[m]
//! ```
//!
//! What makes it fast: a weight is decoded once for up to eight rows of x, whose totals stay in registers; the sums of
//! successive chunks do not wait for one another; and memory is asked for lines long before they are used, across the
//! ends of rows, where the processor's own prefetcher would start anew.

mod decoders;
pub(super) mod heads;
mod reading;
mod sums;

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_setzero_ps,
};
use std::mem::{MaybeUninit, transmute};
use std::ops::Range;

use decoders::{Bf16, Decoder, F32, Fp8, Groups, Int4, Int8, Scaled};
use reading::Reading;
use sums::{SLOTS, sum, sums};
use tensor::{CodesRef, MatrixRef, int4_row_bytes};

use super::cpu::{MAX_GROUP, Out, ROWS};
use super::decode::INT4_WORDS;
use super::pack::{CHUNK, Line, VECTORS};

/// Bytes of packed x that a pass over rows of W reads again and again: they stay in the level-1 cache, beside the weights
/// that come ahead of time. One or two rows of x may have more, since less of x is read for a weight.
const fn x_bytes(group: usize) -> usize {
    if group <= 2 { 32 << 10 } else { 16 << 10 }
}

/// Products of `rows` (at most [`ROWS`]) of a matrix with one packed group of rows of x: `out[i][m]`. `after` is
/// what will be read after them; it may be anything.
///
/// # Safety
/// The processor has the instructions of `Level::Avx512Bf16`.
pub(super) unsafe fn products(
    matrix: MatrixRef<'_>,
    rows: Range<usize>,
    x: &[Line],
    group: usize,
    after: *const u8,
    out: &mut Out,
) {
    let cols = matrix.cols;
    assert!(rows.len() <= ROWS && rows.end <= matrix.rows && cols > 0, "gemv: rows {rows:?} are no strip");
    assert!(x.len() >= cols.div_ceil(CHUNK) * group * VECTORS, "gemv: a group of x is too short");
    let strip = Strip {
        w: std::ptr::null(),
        row_bytes: 0,
        first: rows.start,
        count: rows.len(),
        x,
        after,
        reading: Reading::here(),
    };
    // SAFETY: the processor has the instructions, the caller's promise; x is long enough (asserted).
    unsafe {
        match matrix.codes {
            CodesRef::F32(values) => run_group(F32, strip.of(values, cols), group, out),
            CodesRef::Bf16(values) => run_group(Bf16, strip.of(values, cols), group, out),
            CodesRef::Fp8 { codes, scales } => {
                run_group(Fp8 { scales, cols }, strip.of(codes, cols), group, out);
            }
            CodesRef::Int8 { codes, scales } => {
                run_group(Int8 { scales: Groups::new(scales, cols) }, strip.of(codes, cols), group, out);
            }
            CodesRef::Int4 { codes, scales } => {
                let (words, scales) = (_mm512_loadu_si512(INT4_WORDS.as_ptr().cast()), Groups::new(scales, cols));
                run_group(Int4 { words, scales }, strip.of(codes, int4_row_bytes(cols)), group, out);
            }
        }
    }
}

/// Some rows of a matrix and the group of x that they meet.
#[derive(Clone, Copy)]
struct Strip<'a> {
    /// The first row, of which there are `count`, each of `row_bytes`.
    w: *const u8,
    row_bytes: usize,
    first: usize,
    count: usize,
    x: &'a [Line],
    /// Where reading goes on after these rows.
    after: *const u8,
    reading: Reading,
}

impl Strip<'_> {
    /// With its rows in `values`, each of `row_len`.
    fn of<T>(self, values: &[T], row_len: usize) -> Self {
        let values = &values[self.first * row_len..(self.first + self.count) * row_len];
        Self { w: values.as_ptr().cast(), row_bytes: row_len * size_of::<T>(), ..self }
    }
}

/// # Safety
/// As [`run`] with `M` the size of the group.
unsafe fn run_group<D: Decoder>(decoder: D, strip: Strip<'_>, group: usize, out: &mut Out) {
    // Few rows of W at a time are the best for memory, but where rows are short their ends cost more.
    let short = strip.row_bytes <= 8 * D::CHUNK_BYTES;
    // SAFETY: the caller's promise.
    unsafe {
        match group {
            1 if short => run::<D, 1, 4, false>(decoder, strip, out),
            2 if short => run::<D, 2, 4, false>(decoder, strip, out),
            1 if strip.reading.rows == 2 => run::<D, 1, 2, false>(decoder, strip, out),
            1 => run::<D, 1, 1, false>(decoder, strip, out),
            2 => run::<D, 2, 1, false>(decoder, strip, out),
            3 => run::<D, 3, 2, false>(decoder, strip, out),
            4 => run::<D, 4, 2, false>(decoder, strip, out),
            5 => run::<D, 5, 2, true>(decoder, strip, out),
            6 => run::<D, 6, 2, true>(decoder, strip, out),
            7 => run::<D, 7, 2, true>(decoder, strip, out),
            MAX_GROUP => run::<D, MAX_GROUP, 2, true>(decoder, strip, out),
            _ => unreachable!("gemv: no group has {group} rows"),
        }
    }
}

/// The products of the strip with `M` rows of x, `N` of its rows at a time.
///
/// # Safety
/// The processor has the instructions of `Level::Avx512Bf16`; `strip.w` holds its rows; `strip.x` holds all chunks of `M`
/// packed rows; `decoder` has the scales of all rows of the strip.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn run<D: Decoder, const M: usize, const N: usize, const AGAIN: bool>(
    decoder: D,
    strip: Strip<'_>,
    out: &mut Out,
) {
    let all = strip.row_bytes.div_ceil(D::CHUNK_BYTES);
    // A pass over the rows covers as many chunks as leave their part of x in the level-1 cache.
    let pass = x_bytes(M) / (M * VECTORS * size_of::<Line>());
    let mut kept = [[const { MaybeUninit::uninit() }; M]; ROWS];
    for from in (0..all).step_by(pass) {
        let chunks = from..all.min(from + pass);
        let mut i = 0;
        // SAFETY: the caller's promise; passes come in order.
        unsafe {
            while i + N <= strip.count {
                part::<D, M, N, AGAIN>(decoder, &strip, i, &chunks, &mut kept, out);
                i += N;
            }
            while i < strip.count {
                part::<D, M, 1, false>(decoder, &strip, i, &chunks, &mut kept, out);
                i += 1;
            }
        }
    }
}

/// Some chunks of rows `i..i + N` of the strip. Totals are kept from one pass to the next, and `out` after the last.
///
/// # Safety
/// As [`run`]; the chunks before these, if any, have been gone through.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn part<D: Decoder, const M: usize, const N: usize, const AGAIN: bool>(
    decoder: D,
    strip: &Strip<'_>,
    i: usize,
    chunks: &Range<usize>,
    kept: &mut [[MaybeUninit<__m512>; M]; ROWS],
    out: &mut Out,
) {
    let Strip { row_bytes, x, .. } = *strip;
    let (whole, tail) = (row_bytes / D::CHUNK_BYTES, row_bytes % D::CHUNK_BYTES);
    let (mut w, mut scales) = ([strip.w; N], [decoder.scales_of(strip.first + i); N]);
    for n in 0..N {
        (w[n], scales[n]) = (strip.w.wrapping_add((i + n) * row_bytes), decoder.scales_of(strip.first + i + n));
    }
    let mut totals = [[_mm512_setzero_ps(); M]; N];
    if chunks.start > 0 {
        for n in 0..N {
            for m in 0..M {
                // SAFETY: the pass before this one has left them.
                totals[n][m] = unsafe { kept[i + n][m].assume_init() };
            }
        }
    }
    // Reading goes on with the next rows, then with the next chunks of all rows, and then after the strip: where it will be
    // so many parts like this one later, and, for the first columns, one more.
    let length = (chunks.end - chunks.start) * D::CHUNK_BYTES;
    let ahead = strip.reading.ahead / N;
    let (parts, rest) = (ahead / length, ahead % length / D::CHUNK_BYTES);
    let later = |parts: usize| {
        let i = i + parts * N;
        let (i, column) = if i < strip.count {
            (i, chunks.start)
        } else if chunks.end * D::CHUNK_BYTES < row_bytes {
            (i - strip.count, chunks.end)
        } else {
            return strip.after.wrapping_add((i - strip.count) * row_bytes);
        };
        strip.w.wrapping_add(i * row_bytes).wrapping_add(column * D::CHUNK_BYTES)
    };
    let turn = chunks.end - rest;
    let start = chunks.start * D::CHUNK_BYTES;
    let rest = rest * D::CHUNK_BYTES;
    let wanted = [later(parts).wrapping_add(rest), later(parts + 1).wrapping_add(rest).wrapping_sub(length)]
        .map(|to| to.wrapping_sub(start));
    for (chunks, wanted) in [chunks.start..turn, turn..chunks.end].into_iter().zip(wanted) {
        for c in chunks.start..chunks.end.min(whole) {
            let mut at = w;
            for n in 0..N {
                at[n] = at[n].wrapping_add(c * D::CHUNK_BYTES);
                let wanted = wanted.wrapping_add(n * row_bytes + c * D::CHUNK_BYTES);
                for line in 0..D::CHUNK_BYTES / 64 {
                    strip.reading.ask(wanted.wrapping_add(64 * line));
                }
            }
            // SAFETY: chunk c of the rows is in memory, and of x too, and its scales.
            unsafe { add_chunk::<D, M, N, AGAIN>(decoder, scales, c, at, x, &mut totals) };
        }
    }
    if chunks.end > whole {
        let mut copies = [const { Chunk([0; MAX_CHUNK_BYTES]) }; N];
        for (copy, w) in copies.iter_mut().zip(w) {
            // SAFETY: `tail` bytes of the row follow its whole chunks.
            let rest = unsafe { std::slice::from_raw_parts(w.add(whole * D::CHUNK_BYTES), tail) };
            copy.0[..tail].copy_from_slice(rest);
        }
        // SAFETY: a copy holds a chunk, zeros where there is no weight.
        unsafe {
            add_chunk::<D, M, N, AGAIN>(
                decoder,
                scales,
                whole,
                copies.each_ref().map(|c| c.0.as_ptr()),
                x,
                &mut totals,
            );
        };
    }
    if chunks.end < row_bytes.div_ceil(D::CHUNK_BYTES) {
        for n in 0..N {
            for m in 0..M {
                kept[i + n][m].write(totals[n][m]);
            }
        }
    } else if M * N == 1 {
        out[i][0] = sum(totals[0][0]);
    } else {
        let mut all = [_mm512_setzero_ps(); 16];
        for n in 0..N {
            for m in 0..M {
                all[SLOTS[n * M + m]] = totals[n][m];
            }
        }
        // SAFETY: sixteen f32 are as many bytes.
        let sums = unsafe { transmute::<__m512, [f32; 16]>(sums(&all)) };
        for n in 0..N {
            out[i + n][..M].copy_from_slice(&sums[n * M..(n + 1) * M]);
        }
    }
}

/// Adds chunk `c` of some rows, which is at `w`, times the rows of x.
///
/// # Safety
/// As [`run`]; each of `w` holds a chunk, and `scales` are those of the rows.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn add_chunk<D: Decoder, const M: usize, const N: usize, const AGAIN: bool>(
    decoder: D,
    scales: [D::Scales; N],
    c: usize,
    w: [*const u8; N],
    x: &[Line],
    totals: &mut [[__m512; M]; N],
) {
    let zeros = [_mm512_setzero_ps(); VECTORS];
    // SAFETY: a `__m512bh` is any 64 bytes.
    let mut vectors = [unsafe { transmute::<[__m512; VECTORS], [__m512bh; VECTORS]>(zeros) }; N];
    let mut factors = [[zeros[0]; 2]; N];
    for n in 0..N {
        // SAFETY: `w` holds a chunk and `scales` are those of its row, the caller's promise.
        unsafe { (vectors[n], factors[n]) = (D::decode::<AGAIN>(decoder, w[n]), decoder.scales(scales[n], c)) };
    }
    let mut first = c * M * VECTORS;
    for m in 0..M {
        let mut sums = [_mm512_setzero_ps(); N];
        for v in 0..VECTORS {
            // SAFETY: x holds chunk `c` of `M` rows, the caller's promise; a `__m512bh` is any 64 bytes.
            let x = unsafe {
                transmute::<__m512i, __m512bh>(_mm512_loadu_si512(x.as_ptr().add(first + m * VECTORS + v).cast()))
            };
            for n in 0..N {
                sums[n] = _mm512_dpbf16_ps(sums[n], vectors[n][v], x);
                match (D::SCALED, v) {
                    (Scaled::Halves, 1 | 3) => {
                        totals[n][m] = _mm512_fmadd_ps(sums[n], factors[n][v / 2], totals[n][m]);
                        sums[n] = _mm512_setzero_ps();
                    }
                    (Scaled::Chunk, 3) => totals[n][m] = _mm512_fmadd_ps(sums[n], factors[n][0], totals[n][m]),
                    (Scaled::Not, 3) => totals[n][m] = _mm512_add_ps(sums[n], totals[n][m]),
                    _ => {}
                }
            }
        }
        if AGAIN {
            for n in 0..N {
                // SAFETY: no instruction at all. For the compiler where the next row of x is depends on this total, so
                // it does not start with rows for whose sums there are no registers left.
                unsafe {
                    asm!("/* {first} {total} */", first = inout(reg) first, total = in(zmm_reg) totals[n][m],
                         options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
    }
}

/// The last columns of a row and zeros after them.
#[repr(C, align(64))]
struct Chunk([u8; MAX_CHUNK_BYTES]);

/// A chunk of f32.
const MAX_CHUNK_BYTES: usize = 4 * CHUNK;

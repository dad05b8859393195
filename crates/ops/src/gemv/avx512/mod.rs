//! The kernels for processors that multiply pairs of bf16 and look bytes up in tables in registers.
//!
//! ```text
//! for each row of W, for each chunk of 128 columns:
//!   prefetch what comes some KiB later
//!   decode the chunk to four vectors of bf16               FP8: 2 loads, 4 lookups, 2 signs, 4 interleavings
//!     and keep them if more rows of x come; or load what has been kept
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

use decoders::{Bf16, Decoder, F32, Fp8, Groups, Int4, Int8, Kept, Scaled};
use reading::Reading;
use sums::{SLOTS, sum, sums};
use tensor::{CodesRef, MatrixRef, int4_row_bytes};

use super::cpu::{MAX_GROUP, Out, ROWS};
use super::decode::INT4_WORDS;
use super::pack::{CHUNK, Line, VECTORS, row_lines};

/// Bytes of packed x that a pass over rows of W reads again and again: they stay in the level-1 cache, beside the weights
/// that come ahead of time. One or two rows of x may have more, since less of x is read for a weight.
const fn x_bytes(group: usize) -> usize {
    if group <= 2 { 32 << 10 } else { 16 << 10 }
}

/// How a group of x comes to the vectors of the rows that it meets.
pub(super) enum Decoded<'a> {
    /// They are decoded for it alone.
    Alone,
    /// They are decoded and kept here, row after row, for the groups that come after this one, which is a whole one.
    Into(&'a mut [Line]),
    /// They have been kept here.
    From(&'a [Line]),
}

/// Products of `rows` (at most [`ROWS`]) of a matrix with one packed group of rows of x: `out[m][i]`. `after` is
/// what will be read after them; it may be anything. `decoded` is for codes; weights that are numbers do without.
///
/// # Safety
/// The processor has the instructions of `Level::Avx512Bf16`.
pub(super) unsafe fn products(
    matrix: MatrixRef<'_>,
    rows: Range<usize>,
    x: &[Line],
    group: usize,
    after: *const u8,
    decoded: Decoded<'_>,
    out: &mut Out,
) {
    let cols = matrix.cols;
    assert!(rows.len() <= ROWS && rows.end <= matrix.rows && cols > 0, "gemv: rows {rows:?} are no strip");
    assert!(x.len() >= row_lines(cols) * group, "gemv: a group of x is too short");
    let strip = Strip {
        w: std::ptr::null(),
        row_bytes: 0,
        first: rows.start,
        count: rows.len(),
        x,
        keep: std::ptr::null_mut(),
        after,
        reading: Reading::here(),
    };
    // SAFETY: the processor has the instructions, the caller's promise; x is long enough (asserted).
    unsafe {
        match matrix.codes {
            CodesRef::F32(values) => run_group(F32, strip.of(values, cols), group, out),
            CodesRef::Bf16(values) => run_group(Bf16, strip.of(values, cols), group, out),
            CodesRef::Fp8 { codes, scales } => {
                run_codes(Fp8 { scales, cols }, strip.of(codes, cols), row_lines(cols), decoded, group, out);
            }
            CodesRef::Int8 { codes, scales } => {
                run_codes(
                    Int8 { scales: Groups::new(scales, cols) },
                    strip.of(codes, cols),
                    row_lines(cols),
                    decoded,
                    group,
                    out,
                );
            }
            CodesRef::Int4 { codes, scales } => {
                let (words, scales) = (_mm512_loadu_si512(INT4_WORDS.as_ptr().cast()), Groups::new(scales, cols));
                run_codes(
                    Int4 { words, scales },
                    strip.of(codes, int4_row_bytes(cols)),
                    row_lines(cols),
                    decoded,
                    group,
                    out,
                );
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
    /// Where the vectors of its rows are kept, if they are.
    keep: *mut Line,
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

/// What is asked for while some chunks of `step` rows at a time are gone through: the same chunks of the rows that come
/// `parts` such parts later, and for the first columns, before chunk `turn`, one more.
///
/// Reading goes on with the next rows, then with the next chunks of all rows, and then after the strip.
struct Ahead {
    step: usize,
    parts: usize,
    /// From the first of the chunks on.
    rest: usize,
    turn: usize,
    length: usize,
    /// Bytes to the chunks in their row, and to those of the next pass, which a row may not have.
    start: usize,
    next: Option<usize>,
}

impl Ahead {
    fn of(strip: &Strip<'_>, chunk_bytes: usize, chunks: &Range<usize>, step: usize) -> Self {
        let length = chunks.len() * chunk_bytes;
        let ahead = strip.reading.ahead / step;
        let (parts, rest) = (ahead / length, ahead % length / chunk_bytes);
        let end = chunks.end * chunk_bytes;
        let next = (end < strip.row_bytes).then_some(end);
        let turn = chunks.end - rest;
        Self { step, parts, rest: rest * chunk_bytes, turn, length, start: chunks.start * chunk_bytes, next }
    }

    /// For rows `i..i + step`: what is asked for before and from chunk `turn` on, less the place of that chunk in its row.
    #[inline(always)]
    fn wanted(&self, strip: &Strip<'_>, i: usize) -> [*const u8; 2] {
        let later = |i: usize| match self.next {
            _ if i < strip.count => strip.w.wrapping_add(i * strip.row_bytes),
            Some(next) => strip.w.wrapping_add((i - strip.count) * strip.row_bytes + next).wrapping_sub(self.start),
            None => strip.after.wrapping_add((i - strip.count) * strip.row_bytes).wrapping_sub(self.start),
        };
        let i = i + self.parts * self.step;
        [later(i).wrapping_add(self.rest), later(i + self.step).wrapping_add(self.rest).wrapping_sub(self.length)]
    }
}

/// Products with rows that are decoded, whose vectors are `lines` lines each.
///
/// # Safety
/// As [`run`] with `M` the size of the group.
unsafe fn run_codes<D: Decoder>(
    decoder: D,
    strip: Strip<'_>,
    lines: usize,
    decoded: Decoded<'_>,
    group: usize,
    out: &mut Out,
) {
    // SAFETY: the caller's promise; slices show that kept vectors are those of all rows, or that there is room for them.
    unsafe {
        match decoded {
            Decoded::Alone => run_group(decoder, strip, group, out),
            Decoded::Into(kept) => {
                assert_eq!(group, MAX_GROUP, "gemv: the first of several groups of x is a whole one");
                let keep = kept[..strip.count * lines].as_mut_ptr();
                run::<D, MAX_GROUP, 2, true, true>(decoder, Strip { keep, ..strip }, out);
            }
            Decoded::From(kept) => {
                let w = kept[..strip.count * lines].as_ptr().cast();
                run_group(Kept(decoder), Strip { w, row_bytes: lines * size_of::<Line>(), ..strip }, group, out);
            }
        }
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
            1 if short => run::<D, 1, 4, false, false>(decoder, strip, out),
            2 if short => run::<D, 2, 4, false, false>(decoder, strip, out),
            1 if strip.reading.rows == 2 => run::<D, 1, 2, false, false>(decoder, strip, out),
            1 => run::<D, 1, 1, false, false>(decoder, strip, out),
            2 => run::<D, 2, 1, false, false>(decoder, strip, out),
            3 => run::<D, 3, 2, false, false>(decoder, strip, out),
            4 => run::<D, 4, 2, false, false>(decoder, strip, out),
            5 => run::<D, 5, 2, true, false>(decoder, strip, out),
            6 => run::<D, 6, 2, true, false>(decoder, strip, out),
            7 => run::<D, 7, 2, true, false>(decoder, strip, out),
            MAX_GROUP => run::<D, MAX_GROUP, 2, true, false>(decoder, strip, out),
            _ => unreachable!("gemv: no group has {group} rows"),
        }
    }
}

/// The products of the strip with `M` rows of x, `N` of its rows at a time.
///
/// # Safety
/// The processor has the instructions of `Level::Avx512Bf16`; `strip.w` holds its rows; `strip.x` holds all chunks of `M`
/// packed rows; `decoder` has the scales of all rows of the strip; with `KEEP`, `strip.keep` has room for the vectors of all
/// its rows.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn run<D: Decoder, const M: usize, const N: usize, const AGAIN: bool, const KEEP: bool>(
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
        let [many, one] = [N, 1].map(|n| Ahead::of(&strip, D::CHUNK_BYTES, &chunks, n));
        let mut i = 0;
        // SAFETY: the caller's promise; passes come in order.
        unsafe {
            while i + N <= strip.count {
                part::<D, M, N, AGAIN, KEEP>(decoder, &strip, i, &chunks, &many, &mut kept, out);
                i += N;
            }
            while i < strip.count {
                part::<D, M, 1, false, KEEP>(decoder, &strip, i, &chunks, &one, &mut kept, out);
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
unsafe fn part<D: Decoder, const M: usize, const N: usize, const AGAIN: bool, const KEEP: bool>(
    decoder: D,
    strip: &Strip<'_>,
    i: usize,
    chunks: &Range<usize>,
    ahead: &Ahead,
    kept: &mut [[MaybeUninit<__m512>; M]; ROWS],
    out: &mut Out,
) {
    let Strip { row_bytes, x, .. } = *strip;
    let (whole, tail) = (row_bytes / D::CHUNK_BYTES, row_bytes % D::CHUNK_BYTES);
    let all = row_bytes.div_ceil(D::CHUNK_BYTES);
    let (mut w, mut scales) = ([strip.w; N], [decoder.scales_of(strip.first + i); N]);
    for n in 0..N {
        (w[n], scales[n]) = (strip.w.wrapping_add((i + n) * row_bytes), decoder.scales_of(strip.first + i + n));
    }
    let keep = |c: usize| {
        let mut keep = [strip.keep; N];
        for n in 0..N {
            keep[n] = keep[n].wrapping_add(((i + n) * all + c) * VECTORS);
        }
        keep
    };
    let mut totals = [[_mm512_setzero_ps(); M]; N];
    if chunks.start > 0 {
        for n in 0..N {
            for m in 0..M {
                // SAFETY: the pass before this one has left them.
                totals[n][m] = unsafe { kept[i + n][m].assume_init() };
            }
        }
    }
    let wanted = ahead.wanted(strip, i);
    let end = chunks.end.min(whole);
    // With few products to a chunk, choosing for each what to ask for would show; with many, a second loop does.
    let parts = if M <= 2 {
        [chunks.start..ahead.turn.min(end), ahead.turn.min(end)..end]
    } else {
        [chunks.start..end, end..end]
    };
    for (i, chunks) in parts.into_iter().enumerate().take(if M <= 2 { 2 } else { 1 }) {
        for c in chunks {
            let turned = if M <= 2 { i } else { usize::from(c >= ahead.turn) };
            let wanted = wanted[turned].wrapping_add(c * D::CHUNK_BYTES);
            let mut at = w;
            for n in 0..N {
                at[n] = at[n].wrapping_add(c * D::CHUNK_BYTES);
                for line in 0..D::CHUNK_BYTES / 64 {
                    strip.reading.ask(wanted.wrapping_add(n * row_bytes + 64 * line));
                }
            }
            // SAFETY: chunk c of the rows is in memory, and of x too, and its scales.
            unsafe { add_chunk::<D, M, N, AGAIN, KEEP>(decoder, scales, c, at, x, keep(c), &mut totals) };
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
            add_chunk::<D, M, N, AGAIN, KEEP>(
                decoder,
                scales,
                whole,
                copies.each_ref().map(|c| c.0.as_ptr()),
                x,
                keep(whole),
                &mut totals,
            );
        };
    }
    if chunks.end < all {
        for n in 0..N {
            for m in 0..M {
                kept[i + n][m].write(totals[n][m]);
            }
        }
    } else if M * N == 1 {
        out[0][i] = sum(totals[0][0]);
    } else {
        let mut sixteen = [_mm512_setzero_ps(); 16];
        for n in 0..N {
            for m in 0..M {
                sixteen[SLOTS[m * N + n]] = totals[n][m];
            }
        }
        // SAFETY: sixteen f32 are as many bytes.
        let sums = unsafe { transmute::<__m512, [f32; 16]>(sums(&sixteen)) };
        for m in 0..M {
            out[m][i..i + N].copy_from_slice(&sums[m * N..(m + 1) * N]);
        }
    }
}

/// Adds chunk `c` of some rows, which is at `w`, times the rows of x.
///
/// # Safety
/// As [`run`]; each of `w` holds a chunk, and `scales` are those of the rows; with `KEEP`, four lines may be written to each of
/// `keep`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn add_chunk<D: Decoder, const M: usize, const N: usize, const AGAIN: bool, const KEEP: bool>(
    decoder: D,
    scales: [D::Scales; N],
    c: usize,
    w: [*const u8; N],
    x: &[Line],
    keep: [*mut Line; N],
    totals: &mut [[__m512; M]; N],
) {
    let zeros = [_mm512_setzero_ps(); VECTORS];
    // SAFETY: a `__m512bh` is any 64 bytes.
    let mut vectors = [unsafe { transmute::<[__m512; VECTORS], [__m512bh; VECTORS]>(zeros) }; N];
    let mut factors = [[zeros[0]; 2]; N];
    for n in 0..N {
        // SAFETY: `w` holds a chunk and `scales` are those of its row, the caller's promise.
        unsafe { (vectors[n], factors[n]) = (D::decode::<AGAIN>(decoder, w[n]), decoder.scales(scales[n], c)) };
        if KEEP {
            for v in 0..VECTORS {
                // SAFETY: with `KEEP` there is room for the four vectors, the caller's promise; a line is aligned as they.
                unsafe { keep[n].add(v).cast::<__m512bh>().write(vectors[n][v]) };
            }
        }
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

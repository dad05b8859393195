//! `heads_nn` with tables in registers.
//!
//! ```text
//! for each eight or sixteen rows of W, which follow one another in memory:
//!   for each chunk of their columns, for each two rows of q:
//!     the sums of the chunk to registers; for each of the rows, in order:
//!       decode the chunk and widen it to f32, or find what was decoded for other rows of q
//!       sum = (q · scale) · code + sum
//! ```
//!
//! The sums wait in the level-1 cache, in the order in which decoding leaves columns, and are put in order at the end.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_storeu_ps,
};
use std::mem::transmute;

use tensor::{CodesRef, MatrixRef, int4_row_bytes};

use super::decoders::{Bf16, Decoder, Fp8, Groups, Int4, Int8, Scaled};
use super::reading::Reading;
use crate::gemv::decode::INT4_WORDS;
use crate::gemv::pack::{CHUNK, Layout, VECTORS};
use crate::simd::LANES;

/// Rows of W that are added up before sums go back to memory, with a few rows of q and with more.
const ROWS: [usize; 2] = [8, MOST_ROWS];
const MOST_ROWS: usize = 16;
/// From this many rows of q on, decoded weights are kept: loading them is cheaper than decoding them again.
const MANY: usize = 5;

/// The sums of one row of q: of each vector of weights those of its lower halves, then those of its upper ones.
#[repr(C, align(64))]
#[derive(Clone)]
struct Sums([[f32; LANES]; 2 * VECTORS]);

/// A chunk of some rows of W in f32, in the order of [`Sums`], and its scales.
struct Wide {
    columns: [[__m512; 2 * VECTORS]; MOST_ROWS],
    scales: [[__m512; 2]; MOST_ROWS],
}

/// Whether [`columns`] takes this matrix.
pub(in crate::gemv) fn takes(matrix: &MatrixRef<'_>) -> bool {
    matrix.cols.is_multiple_of(CHUNK) && !matches!(matrix.codes, CodesRef::F32(_))
}

/// `y[t] = Σ_i q[t][i] · W[first + i]` for the columns from `start` on that `y` has, whole chunks. There are as many rows
/// of `y` as of `q`.
///
/// # Safety
/// The processor has the instructions of `Level::Avx512Bf16`.
pub(in crate::gemv) unsafe fn columns(
    matrix: &MatrixRef<'_>,
    first: usize,
    start: usize,
    q: &[&[f32]],
    y: &mut [&mut [f32]],
) {
    let cols = matrix.cols;
    let (rows, width) = (q.first().map_or(0, |q| q.len()), y.first().map_or(0, |y| y.len()));
    assert!(
        takes(matrix) && start.is_multiple_of(CHUNK) && width.is_multiple_of(CHUNK),
        "gemv: columns are whole chunks"
    );
    assert!(first + rows <= matrix.rows && start + width <= cols, "gemv: columns are inside their matrix");
    assert!(q.len() == y.len() && q.iter().all(|q| q.len() == rows), "gemv: rows of q and y are alike");
    let part = Part { first, rows, start: start / CHUNK, chunks: width / CHUNK };
    let layout = Layout::of(&matrix.codes);
    // SAFETY: the processor has the instructions, the caller's promise; the rows and columns are there (asserted).
    unsafe {
        match matrix.codes {
            CodesRef::F32(_) => unreachable!("gemv: f32 weights are not taken"),
            CodesRef::Bf16(values) => run(Bf16, part, values.as_ptr().cast(), 2 * cols, layout, q, y),
            CodesRef::Fp8 { codes, scales } => run(Fp8 { scales, cols }, part, codes.as_ptr(), cols, layout, q, y),
            CodesRef::Int8 { codes, scales } => {
                run(Int8 { scales: Groups::new(scales, cols) }, part, codes.as_ptr(), cols, layout, q, y);
            }
            CodesRef::Int4 { codes, scales } => {
                let (words, scales) = (_mm512_loadu_si512(INT4_WORDS.as_ptr().cast()), Groups::new(scales, cols));
                run(Int4 { words, scales }, part, codes.as_ptr(), int4_row_bytes(cols), layout, q, y);
            }
        }
    }
}

/// Rows of a matrix and chunks of their columns.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    rows: usize,
    start: usize,
    chunks: usize,
}

/// # Safety
/// The processor has the instructions of `Level::Avx512Bf16`; the part is inside the matrix at `w` with rows of
/// `row_bytes`, whose scales the decoder has; each of `q` has `part.rows` numbers, and each of `y` its chunks.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn run<D: Decoder>(
    decoder: D,
    part: Part,
    w: *const u8,
    row_bytes: usize,
    layout: Layout,
    q: &[&[f32]],
    y: &mut [&mut [f32]],
) {
    let reading = Reading::here();
    // Rows of a head follow one another in memory.
    let ahead = reading.ahead / 2;
    let zero = _mm512_setzero_ps();
    let mut wide = Wide { columns: [[zero; 2 * VECTORS]; MOST_ROWS], scales: [[zero; 2]; MOST_ROWS] };
    let mut sums: Vec<Sums> = vec![Sums([[0.0; LANES]; 2 * VECTORS]); q.len() * part.chunks];
    // Weights without scales are bf16, which are widened as fast as they are loaded.
    let many = q.len() >= MANY && !matches!(D::SCALED, Scaled::Not);
    let step = ROWS[usize::from(many)];
    for row in (0..part.rows).step_by(step) {
        let rows = row..part.rows.min(row + step);
        for chunk in 0..part.chunks {
            let w = w.wrapping_add((part.first + row) * row_bytes + (part.start + chunk) * D::CHUNK_BYTES);
            for i in 0..rows.len() {
                for line in 0..D::CHUNK_BYTES / 64 {
                    reading.ask(w.wrapping_add(ahead + i * row_bytes + 64 * line));
                }
            }
            let at = Place { w, row_bytes, row: part.first + row, chunk: part.start + chunk };
            for t in (0..q.len()).step_by(2) {
                let i = t * part.chunks + chunk;
                // SAFETY: the rows and the chunk are inside the matrix, the caller's promise; the first two rows of q have
                // kept what the others find.
                unsafe {
                    if t + 1 < q.len() {
                        let two = [&q[t][rows.clone()], &q[t + 1][rows.clone()]];
                        let [a, b] = sums.get_disjoint_unchecked_mut([i, i + part.chunks]);
                        match t {
                            _ if !many => add::<D, 2, DECODE>(decoder, at, two, [a, b], &mut wide),
                            0 => add::<D, 2, KEEP>(decoder, at, two, [a, b], &mut wide),
                            _ => add::<D, 2, FIND>(decoder, at, two, [a, b], &mut wide),
                        }
                    } else {
                        let (one, sums) = ([&q[t][rows.clone()]], [&mut sums[i]]);
                        if many {
                            add::<D, 1, FIND>(decoder, at, one, sums, &mut wide);
                        } else {
                            add::<D, 1, DECODE>(decoder, at, one, sums, &mut wide);
                        }
                    }
                }
            }
        }
    }
    for (y, sums) in y.iter_mut().zip(sums.chunks_exact(part.chunks.max(1))) {
        for (y, sums) in y.as_chunks_mut::<CHUNK>().0.iter_mut().zip(sums) {
            match layout {
                Layout::Natural => arrange::<{ Layout::Natural as u8 }>(sums, y),
                Layout::Bytes => arrange::<{ Layout::Bytes as u8 }>(sums, y),
                Layout::Nibbles => arrange::<{ Layout::Nibbles as u8 }>(sums, y),
            }
        }
    }
}

/// One chunk of some rows: that of the first is at `w`.
#[derive(Clone, Copy)]
struct Place {
    w: *const u8,
    row_bytes: usize,
    row: usize,
    chunk: usize,
}

/// Weights are decoded for this call alone.
const DECODE: u8 = 0;
/// Weights are decoded and kept.
const KEEP: u8 = 1;
/// Weights have been kept.
const FIND: u8 = 2;

/// Adds as many rows of W, times the numbers of `T` rows of q. `FROM` is one of the three above: const generics take numbers
/// only.
///
/// # Safety
/// As [`run`]; the rows of the place are inside the matrix, and all of `q` have as many numbers.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn add<D: Decoder, const T: usize, const FROM: u8>(
    decoder: D,
    place: Place,
    q: [&[f32]; T],
    sums: [&mut Sums; T],
    wide: &mut Wide,
) {
    let Place { w, row_bytes, row, chunk } = place;
    let upper = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
    let mut all = [[_mm512_setzero_ps(); 2 * VECTORS]; T];
    for t in 0..T {
        for v in 0..2 * VECTORS {
            // SAFETY: sixteen sums.
            all[t][v] = unsafe { _mm512_loadu_ps(sums[t].0[v].as_ptr()) };
        }
    }
    let Wide { columns, scales } = wide;
    for (i, (kept, kept_scales)) in columns.iter_mut().zip(scales).take(q[0].len()).enumerate() {
        let (mut columns, mut scales) = (*kept, *kept_scales);
        if FROM != FIND {
            // SAFETY: the chunk of row `row + i`, and its scales.
            let vectors = unsafe {
                scales = decoder.scales(decoder.scales_of(row + i), chunk);
                D::decode::<false>(decoder, w.wrapping_add(i * row_bytes))
            };
            for v in 0..VECTORS {
                // SAFETY: a `__m512i` is any 64 bytes.
                let pairs = unsafe { transmute::<__m512bh, __m512i>(vectors[v]) };
                columns[2 * v] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
                columns[2 * v + 1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
            }
        }
        if FROM == KEEP {
            (*kept, *kept_scales) = (columns, scales);
        }
        for t in 0..T {
            // SAFETY: all of `q` have as many numbers, the caller's promise.
            let q = _mm512_set1_ps(unsafe { *q[t].get_unchecked(i) });
            let factors = match D::SCALED {
                Scaled::Halves => scales.map(|scale| _mm512_mul_ps(q, scale)),
                Scaled::Chunk => [_mm512_mul_ps(q, scales[0]); 2],
                Scaled::Not => [q; 2],
            };
            for v in 0..2 * VECTORS {
                all[t][v] = _mm512_fmadd_ps(factors[v / 4], columns[v], all[t][v]);
            }
        }
    }
    for (sums, all) in sums.into_iter().zip(&all) {
        for v in 0..2 * VECTORS {
            // SAFETY: sixteen sums.
            unsafe { _mm512_storeu_ps(sums.0[v].as_mut_ptr(), all[v]) };
        }
    }
}

/// Sums to the columns that they are of; one loop for each layout, so that its positions are constants.
#[inline(always)]
fn arrange<const LAYOUT: u8>(sums: &Sums, y: &mut [f32; CHUNK]) {
    let layout = const { Layout::from_number(LAYOUT) };
    for vector in 0..VECTORS {
        for lane in 0..LANES {
            let [low, high] = layout.columns(vector, lane);
            (y[low], y[high]) = (sums.0[2 * vector][lane], sums.0[2 * vector + 1][lane]);
        }
    }
}

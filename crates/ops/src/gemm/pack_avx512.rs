//! Packing in registers: sixteen lines by sixteen steps are transposed at once.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_maskz_loadu_epi16, _mm512_add_epi32,
    _mm512_castps_si512, _mm512_castsi256_si512, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_inserti64x4,
    _mm512_mask_storeu_epi32, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_mullo_epi32,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_slli_epi32, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use tensor::{CodesRef, Isa, Level};

use super::codes_avx512::along_codes;
use super::decode;
use super::pack::{Cut, Form, View};

/// As [`super::pack::pack`], for [`Form::F32`] and [`Form::Pairs`].
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
    assert!(isa.level() >= Level::Avx512, "the level of these kernels");
    assert!(form == Form::F32 || form == Form::Pairs && isa.level() >= Level::Avx512Bf16, "a form of this level");
    let steps = form.steps(depth);
    let lines = cuts.iter().map(|cut| cut.first + cut.lines).max().unwrap_or(0);
    view.check(lines, depth);
    assert!(
        cuts.iter().all(|cut| cut.lines <= cut.width && (cut.first + cut.width) * steps <= out.len()),
        "a strip is larger than its buffer"
    );
    let View { matrix, row, col, transposed } = view;
    let at = row * matrix.cols + col;
    let source = match matrix.codes {
        CodesRef::F32(values) => Source::F32(values[at..].as_ptr(), matrix.cols),
        CodesRef::Bf16(values) => Source::Bf16(values[at..].as_ptr().cast(), matrix.cols),
        _ if codes && form == Form::Pairs && !transposed => {
            for cut in cuts {
                // SAFETY: the form proves the features; the view lies in the matrix and the strip in `out` (asserted).
                unsafe { along_codes(matrix, row + cut.first, col, depth, *cut, &mut out[cut.first * steps..]) };
            }
            return;
        }
        _ => {
            for cut in cuts {
                let view = view.at(cut.first, 0);
                let (rows, cols) = if transposed { (depth, cut.lines) } else { (cut.lines, depth) };
                scratch.resize(rows * cols, 0.0);
                for (i, values) in scratch.chunks_exact_mut(cols.max(1)).enumerate() {
                    (if codes { decode::codes } else { decode::values })(isa, matrix, view.row + i, view.col, values);
                }
                let view = View::rows(scratch, cols);
                let view = if transposed { view.transposed() } else { view };
                let (cut, out) = (Cut { first: 0, ..*cut }, &mut out[cut.first * steps..]);
                pack(isa, form, view, false, depth, &[cut], &mut Vec::new(), out);
            }
            return;
        }
    };
    // SAFETY: level and form prove the features; the view lies in the matrix and the strips in `out` (asserted).
    unsafe {
        match (form, transposed) {
            (Form::Pairs, false) => along_pairs(source, depth, cuts, out),
            (Form::Pairs, true) => across_pairs(source, depth, cuts, out),
            (_, false) => along_f32(source, depth, cuts, out),
            (_, true) => across_f32(source, depth, cuts, out),
        }
    }
}

/// The first element and the distance of stored rows.
#[derive(Clone, Copy)]
enum Source {
    F32(*const f32, usize),
    Bf16(*const u16, usize),
}

/// How many stored rows before they are needed they are fetched where each is a page of its own.
const ROWS_AHEAD: usize = 16;

/// The lowest `n` (at most 16) bits.
fn lowest(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// Sixteen lines at a time: calls `load(line, step)` for the sixteen steps from `step` on and writes what it gets.
///
/// # Safety
/// `load` may be called for the lines of the cuts and the steps below `steps`, `out` holds the strips.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn transpose_all(cuts: &[Cut], steps: usize, out: &mut [u32], load: impl Fn(usize, usize) -> __m512i) {
    for &Cut { first, lines, width } in cuts {
        let out = out.as_mut_ptr().wrapping_add(first * steps);
        let whole = overlapping(width, steps);
        for part in (0..width).step_by(16) {
            let lines = lines.saturating_sub(part).min(16);
            let (first, full) = (first + part, lines == (width - part).min(16));
            for step in (0..steps).step_by(16) {
                let rows = if full {
                    // Lines that there are not are not written; another in their place saves a branch.
                    std::array::from_fn(|i| load(first + i.min(lines - 1), step))
                } else {
                    some(lines, _mm512_setzero_si512(), |i| load(first + i, step))
                };
                let rows = transpose(&rows);
                if step + 16 <= whole || width - part >= 16 && step + 16 <= steps {
                    let to = out.wrapping_add(step * width + part);
                    for (s, row) in rows.into_iter().enumerate() {
                        // SAFETY: sixteen slots from those of step `step + s` on, inside the strip.
                        unsafe { _mm512_storeu_si512(to.add(s * width).cast(), row) };
                    }
                } else {
                    for (s, row) in rows.into_iter().enumerate().take(steps - step) {
                        // SAFETY: the strip is in `out`.
                        unsafe { store(out, width, part, step + s, 0, row) };
                    }
                }
            }
        }
    }
}

/// The first `n` of sixteen rows, and `nothing`. Not inlined, so that full blocks stay in registers.
#[inline(never)]
#[target_feature(enable = "avx512f")]
pub(super) fn some(n: usize, nothing: __m512i, load: impl Fn(usize) -> __m512i) -> [__m512i; 16] {
    let mut rows = [nothing; 16];
    for (i, row) in rows.iter_mut().enumerate().take(n) {
        *row = load(i);
    }
    rows
}

/// How many of the first steps of a strip may be written sixteen slots wide, which is faster than writing part of a
/// register: what is too much is then overwritten by the steps that follow.
pub(super) fn overlapping(width: usize, steps: usize) -> usize {
    if width <= 16 { (steps * width).saturating_sub(16 - width) / width } else { 0 }
}

/// Writes the slots of step `step` from slot `part` on.
///
/// # Safety
/// The processor has AVX-512; `out` holds the strip.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store(out: *mut u32, width: usize, part: usize, step: usize, whole: usize, x: __m512i) {
    let to = out.wrapping_add(step * width + part);
    if step < whole || width - part >= 16 {
        // SAFETY: inside the strip, see `overlapping`.
        unsafe { _mm512_storeu_si512(to.cast(), x) };
    } else {
        // SAFETY: the slots of the step that there are.
        unsafe { _mm512_mask_storeu_epi32(to.cast(), lowest(width - part), x) };
    }
}

/// # Safety
/// The processor has AVX-512; the source has rows of `depth` for all lines, and `out` holds the strips.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn along_f32(source: Source, depth: usize, cuts: &[Cut], out: &mut [u32]) {
    let mask = |step: usize| lowest(depth - step);
    match source {
        // SAFETY: lines and steps are those of the source, loads are masked at its end.
        Source::F32(from, stride) => unsafe {
            transpose_all(cuts, depth, out, |i, s| {
                let from = from.add(i * stride + s);
                _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(14 * stride).cast());
                _mm512_castps_si512(_mm512_maskz_loadu_ps(mask(s), from))
            });
        },
        // SAFETY: as above.
        Source::Bf16(from, stride) => unsafe {
            transpose_all(cuts, depth, out, |i, s| {
                let narrow = _mm256_maskz_loadu_epi16(mask(s), from.add(i * stride + s).cast());
                _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow))
            });
        },
    }
}

/// # Safety
/// The processor has AVX-512 with BF16; the source has rows of `depth` for all lines, and `out` holds the strips.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn along_pairs(source: Source, depth: usize, cuts: &[Cut], out: &mut [u32]) {
    let steps = depth.div_ceil(2);
    match source {
        // SAFETY: lines and steps are those of the source, loads are masked at its end.
        Source::F32(from, stride) => unsafe {
            transpose_all(cuts, steps, out, |i, s| {
                let from = from.add(i * stride + 2 * s);
                let left = depth - 2 * s;
                _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(14 * stride).cast());
                _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(14 * stride + 16).cast());
                let low = _mm512_maskz_loadu_ps(lowest(left), from);
                let high = _mm512_maskz_loadu_ps(lowest(left.saturating_sub(16)), from.wrapping_add(16));
                pair(low, high)
            });
        },
        // SAFETY: as above.
        Source::Bf16(from, stride) => unsafe {
            transpose_all(cuts, steps, out, |i, s| {
                let left = depth - 2 * s;
                let mask = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
                _mm512_maskz_loadu_epi16(mask, from.add(i * stride + 2 * s).cast())
            });
        },
    }
}

/// # Safety
/// The processor has AVX-512; the source has `depth` rows of all lines, and `out` holds the strips.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn across_f32(source: Source, depth: usize, cuts: &[Cut], out: &mut [u32]) {
    for p in 0..depth {
        for &Cut { first, lines, width } in cuts {
            for part in (0..width).step_by(16) {
                let from = lowest(lines.saturating_sub(part));
                // SAFETY: the lines of step p that there are, then its slots.
                unsafe {
                    let x = match source {
                        Source::F32(data, stride) => {
                            let data = data.wrapping_add(p * stride + first + part);
                            _mm_prefetch::<_MM_HINT_T1>(data.wrapping_add(ROWS_AHEAD * stride).cast());
                            _mm512_castps_si512(_mm512_maskz_loadu_ps(from, data))
                        }
                        Source::Bf16(data, stride) => {
                            let data = data.wrapping_add(p * stride + first + part);
                            let narrow = _mm256_maskz_loadu_epi16(from, data.cast());
                            _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow))
                        }
                    };
                    let out = out.as_mut_ptr().add(first * depth);
                    store(out, width, part, p, overlapping(width, depth), x);
                }
            }
        }
    }
}

/// # Safety
/// The processor has AVX-512 with BF16; the source has `depth` rows of all lines, and `out` holds the strips.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn across_pairs(source: Source, depth: usize, cuts: &[Cut], out: &mut [u32]) {
    let steps = depth.div_ceil(2);
    // Slot i takes word i of the lower and word i of the upper half.
    let weave = _mm512_mullo_epi32(steps_of_one(), _mm512_set1_epi32(0x0001_0001));
    let weave = _mm512_add_epi32(weave, _mm512_set1_epi32(0x0010_0000));
    for p in (0..depth).step_by(2) {
        for &Cut { first, lines, width } in cuts {
            for part in (0..width).step_by(16) {
                let even = lowest(lines.saturating_sub(part));
                let odd = if p + 1 < depth { even } else { 0 };
                // SAFETY: the lines of indices p and p + 1 that there are, then the slots of the step.
                unsafe {
                    let halves = match source {
                        Source::F32(data, stride) => {
                            let data = data.wrapping_add(p * stride + first + part);
                            let ahead = data.wrapping_add(ROWS_AHEAD * stride);
                            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(stride).cast());
                            let low = _mm512_maskz_loadu_ps(even, data);
                            pair(low, _mm512_maskz_loadu_ps(odd, data.wrapping_add(stride)))
                        }
                        Source::Bf16(data, stride) => {
                            let data = data.wrapping_add(p * stride + first + part);
                            let low = _mm256_maskz_loadu_epi16(even, data.cast());
                            let high = _mm256_maskz_loadu_epi16(odd, data.wrapping_add(stride).cast());
                            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
                        }
                    };
                    let x = _mm512_permutexvar_epi16(weave, halves);
                    let out = out.as_mut_ptr().add(first * steps);
                    store(out, width, part, p / 2, overlapping(width, steps), x);
                }
            }
        }
    }
}

/// Lane i is i.
#[inline]
#[target_feature(enable = "avx512f")]
fn steps_of_one() -> __m512i {
    _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// Both rounded to bf16, one behind the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pair(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Lane i of register j becomes lane j of register i.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut out = [_mm512_setzero_si512(); 16];
    // Pairs, then quads of rows: afterwards lane q of quads[4 g + j] holds column 4 q + j of rows 4 g to 4 g + 3.
    let mut quads = [_mm512_setzero_si512(); 16];
    for g in 0..4 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (low_ab, high_ab) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (low_cd, high_cd) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        quads[4 * g] = _mm512_unpacklo_epi64(low_ab, low_cd);
        quads[4 * g + 1] = _mm512_unpackhi_epi64(low_ab, low_cd);
        quads[4 * g + 2] = _mm512_unpacklo_epi64(high_ab, high_cd);
        quads[4 * g + 3] = _mm512_unpackhi_epi64(high_ab, high_cd);
    }
    // Lanes of the four quads of a column to one register.
    for j in 0..4 {
        let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
        let (even_ab, odd_ab) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_cd, odd_cd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
    }
    out
}

//! Packing codes of quantised weights to pairs of bf16. Codes, four to a slot, are transposed as they are and decoded
//! afterwards, through tables that lie in registers: half the shuffles that transposing their values would take.

use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_loadu_si512, _mm512_mask_loadu_epi8, _mm512_mask_mov_epi8,
    _mm512_permutex2var_epi8, _mm512_set1_epi8, _mm512_srli_epi16, _mm512_ternarylogic_epi32,
};

use tensor::{CodesRef, MatrixRef, int4_row_bytes};

use super::decode::{E4M3_BF16, INT4_BF16, INT8_BF16};
use super::pack::Cut;
use super::pack_avx512::{overlapping, some, store, transpose};

/// Packs a strip of bf16 pairs from the codes of quantised weights.
///
/// # Safety
/// The processor has AVX-512 with VBMI; the lines of the cut from row `row` on and columns `col` to `col + depth` lie in
/// the matrix, and `out` holds the strip.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) unsafe fn along_codes(
    matrix: MatrixRef<'_>,
    row: usize,
    col: usize,
    depth: usize,
    cut: Cut,
    out: &mut [u32],
) {
    let (table, nothing) = match matrix.codes {
        CodesRef::Fp8 { .. } => (&E4M3_BYTES, 0),
        CodesRef::Int8 { .. } => (&INT8_BYTES, 0),
        _ => (&INT4_BYTES, 8),
    };
    let table = Table::new(table);
    let nothing = _mm512_set1_epi8(nothing);
    let out = out.as_mut_ptr();
    // Sixty-four codes of line i from column p of the view on.
    match matrix.codes {
        CodesRef::Fp8 { codes, .. } | CodesRef::Int8 { codes, .. } => {
            let codes = codes.as_ptr().wrapping_add(row * matrix.cols + col);
            // SAFETY: lines and columns are those of the matrix.
            unsafe {
                transpose_codes(
                    &table,
                    cut,
                    depth,
                    nothing,
                    out,
                    |i, p| _mm512_loadu_si512(codes.add(i * matrix.cols + p).cast()),
                    |i, p| {
                        let mask = (1 << (depth - p)) - 1;
                        _mm512_mask_loadu_epi8(nothing, mask, codes.add(i * matrix.cols + p).cast())
                    },
                );
            }
        }
        CodesRef::Int4 { codes, .. } => {
            let row_bytes = int4_row_bytes(matrix.cols);
            let codes = codes.as_ptr().wrapping_add(row * row_bytes);
            let load = |i: usize, p: usize| {
                let (block, part) = ((col + p) / 128 * 64, (col + p) % 128 / 64);
                // SAFETY: every 128 columns of a row have 64 bytes.
                let bytes = unsafe { _mm512_loadu_si512(codes.add(i * row_bytes + block).cast()) };
                let codes = if part == 0 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
                _mm512_and_si512(codes, _mm512_set1_epi8(15))
            };
            // SAFETY: lines and columns are those of the matrix.
            unsafe {
                transpose_codes(&table, cut, depth, nothing, out, load, |i, p| {
                    _mm512_mask_mov_epi8(nothing, (1 << (depth - p)) - 1, load(i, p))
                });
            }
        }
        CodesRef::F32(_) | CodesRef::Bf16(_) => unreachable!("these have no codes"),
    }
}

/// As [`transpose_all`] for codes: `load(line, p)` gives the 64 codes from column `p` of a line on, `load_last` those that
/// there are and `nothing`.
///
/// # Safety
/// The processor has AVX-512 with VBMI; both may be called for the lines of the cut and the columns below `depth`, and
/// `out` holds the strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn transpose_codes(
    table: &Table,
    cut: Cut,
    depth: usize,
    nothing: __m512i,
    out: *mut u32,
    load: impl Fn(usize, usize) -> __m512i,
    load_last: impl Fn(usize, usize) -> __m512i,
) {
    let Cut { lines, width, .. } = cut;
    let steps = depth.div_ceil(2);
    let whole = overlapping(width, steps);
    for first in (0..width).step_by(16) {
        let lines = lines.saturating_sub(first).min(16);
        let full = lines == (width - first).min(16);
        for p in (0..depth).step_by(64) {
            let rows = if !full {
                some(lines, nothing, |i| if depth - p >= 64 { load(first + i, p) } else { load_last(first + i, p) })
            } else if depth - p >= 64 {
                std::array::from_fn(|i| load(first + i.min(lines - 1), p))
            } else {
                some(lines, nothing, |i| load_last(first + i, p))
            };
            for (s, codes) in transpose(&rows).into_iter().enumerate() {
                let step = p / 2 + 2 * s;
                for (step, x) in std::iter::zip(step.., table.decode(codes)) {
                    if step < steps {
                        // SAFETY: the strip is in `out`.
                        unsafe { store(out, width, first, step, whole, x) };
                    }
                }
            }
        }
    }
}

/// The bf16 of 128 codes in registers, lower and upper bytes apart. The eighth bit of a code is the sign.
struct Table {
    low: [__m512i; 2],
    high: [__m512i; 2],
    /// How a slot's first two and last two values are put together from lower bytes (0 to 63) and upper bytes (64 on).
    weave: [__m512i; 2],
}

/// Which bytes of registers make up those of another.
type Bytes = [u8; 64];

/// The bytes of the bf16 of the lower 128 codes: lower bytes of the first and second 64, then upper bytes.
const fn bytes(bf16: &[u16; 256]) -> [Bytes; 4] {
    let mut out = [[0; 64]; 4];
    let mut code = 0;
    while code < 128 {
        out[code / 64][code % 64] = bf16[code] as u8;
        out[2 + code / 64][code % 64] = (bf16[code] >> 8) as u8;
        code += 1;
    }
    out
}

static E4M3_BYTES: [Bytes; 4] = bytes(&E4M3_BF16);
static INT8_BYTES: [Bytes; 4] = bytes(&INT8_BF16);
static INT4_BYTES: [Bytes; 4] = bytes(&INT4_BF16);

/// Two values of a slot from lower bytes (0 to 63) and upper bytes (64 to 127) of four: the first two, then the last two.
static WEAVE: [Bytes; 2] = {
    let mut out = [[0; 64]; 2];
    let mut i = 0;
    while i < 64 {
        out[0][i] = (i / 4 * 4 + i % 4 / 2 + i % 2 * 64) as u8;
        out[1][i] = out[0][i] + 2;
        i += 1;
    }
    out
};

impl Table {
    #[target_feature(enable = "avx512f")]
    fn new(bytes: &[Bytes; 4]) -> Self {
        // SAFETY: 64 bytes.
        let load = |bytes: &Bytes| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let [low, low_64, high, high_64] = bytes;
        Self {
            low: [load(low), load(low_64)],
            high: [load(high), load(high_64)],
            weave: [load(&WEAVE[0]), load(&WEAVE[1])],
        }
    }

    /// Slots of four codes to slots of the first two and slots of the last two values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi")]
    fn decode(&self, codes: __m512i) -> [__m512i; 2] {
        let low = _mm512_permutex2var_epi8(self.low[0], codes, self.low[1]);
        let high = _mm512_permutex2var_epi8(self.high[0], codes, self.high[1]);
        // high | codes & 0x80
        let high = _mm512_ternarylogic_epi32::<0xF8>(high, codes, _mm512_set1_epi8(-128));
        self.weave.map(|weave| _mm512_permutex2var_epi8(low, weave, high))
    }
}

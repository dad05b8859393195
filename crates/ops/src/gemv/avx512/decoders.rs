//! Weights as vectors of bf16: a decoder for each way of storing them.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_loadu_si512, _mm512_permutex2var_epi8,
    _mm512_permutexvar_epi16, _mm512_set1_epi8, _mm512_set1_epi64, _mm512_set1_ps, _mm512_shuffle_epi8,
    _mm512_srli_epi16, _mm512_ternarylogic_epi64, _mm512_unpackhi_epi8, _mm512_unpacklo_epi8,
};
use std::mem::transmute;

use tensor::{BLOCK, GROUP, bf16};

use crate::gemv::decode::{E4M3_BYTES, INT8_BYTES};
use crate::gemv::pack::{CHUNK, VECTORS};

/// Which columns share a scale.
#[derive(Clone, Copy)]
pub(super) enum Scaled {
    Not,
    /// Those of a chunk.
    Chunk,
    /// Each quarter of a chunk, that is each half of a vector.
    Halves,
}

/// How a chunk of weights becomes vectors of bf16.
pub(super) trait Decoder: Copy {
    const CHUNK_BYTES: usize;
    const SCALED: Scaled;

    /// The scales of a row.
    type Scales: Copy;

    fn scales_of(&self, row: usize) -> Self::Scales;

    /// The vectors of a chunk, in the layout of `pack`. `AGAIN` says that tables are to be read for each chunk, because
    /// registers are scarce.
    ///
    /// # Safety
    /// `w` holds a chunk; the processor has the instructions of `Level::Avx512Bf16`.
    unsafe fn decode<const AGAIN: bool>(self, w: *const u8) -> [__m512bh; VECTORS];

    /// The scales of the first and the second half of chunk `c`.
    ///
    /// # Safety
    /// There is such a chunk; the processor has the instructions of `Level::Avx512Bf16`.
    unsafe fn scales(self, of_row: Self::Scales, c: usize) -> [__m512; 2];
}

#[derive(Clone, Copy)]
pub(super) struct F32;

impl Decoder for F32 {
    const CHUNK_BYTES: usize = 512;
    const SCALED: Scaled = Scaled::Not;
    type Scales = ();

    fn scales_of(&self, _: usize) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn decode<const AGAIN: bool>(self, w: *const u8) -> [__m512bh; VECTORS] {
        // SAFETY: a chunk is 128 values of four bytes.
        let load = |i: usize| unsafe { _mm512_castsi512_ps(_mm512_loadu_si512(w.add(64 * i).cast())) };
        [0, 1, 2, 3].map(|v| _mm512_cvtne2ps_pbh(load(2 * v + 1), load(2 * v)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn scales(self, (): (), _: usize) -> [__m512; 2] {
        [_mm512_set1_ps(1.0); 2]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bf16;

impl Decoder for Bf16 {
    const CHUNK_BYTES: usize = 256;
    const SCALED: Scaled = Scaled::Not;
    type Scales = ();

    fn scales_of(&self, _: usize) {}

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn decode<const AGAIN: bool>(self, w: *const u8) -> [__m512bh; VECTORS] {
        // SAFETY: a chunk is 128 values of two bytes; a `__m512bh` is any 64 bytes.
        [0, 1, 2, 3].map(|v| unsafe { transmute(_mm512_loadu_si512(w.add(64 * v).cast())) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn scales(self, (): (), _: usize) -> [__m512; 2] {
        [_mm512_set1_ps(1.0); 2]
    }
}

/// The vectors that another decoder made, with its scales.
#[derive(Clone, Copy)]
pub(super) struct Kept<D>(pub(super) D);

impl<D: Decoder> Decoder for Kept<D> {
    const CHUNK_BYTES: usize = 256;
    const SCALED: Scaled = D::SCALED;
    type Scales = D::Scales;

    fn scales_of(&self, row: usize) -> D::Scales {
        self.0.scales_of(row)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn decode<const AGAIN: bool>(self, w: *const u8) -> [__m512bh; VECTORS] {
        // SAFETY: a chunk is four vectors.
        unsafe { Bf16.decode::<AGAIN>(w) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn scales(self, of_row: D::Scales, c: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise is that of the other decoder.
        unsafe { self.0.scales(of_row, c) }
    }
}

/// The bytes of bf16 that stand for codes of a sign and seven bits: two vectors of lower ones, two of upper ones.
#[repr(C, align(64))]
struct Tables([[u8; 128]; 2]);

static E4M3: Tables = Tables(E4M3_BYTES);
static INT8: Tables = Tables(INT8_BYTES);

/// # Safety
/// `w` holds 128 codes; the processor has the instructions of `Level::Avx512Bf16`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn decode_bytes<const AGAIN: bool>(Tables(tables): &Tables, w: *const u8) -> [__m512bh; VECTORS] {
    // A OR (B AND C).
    const OR_AND: i32 = 0xF8;
    let table = |i: usize| {
        let table: *const __m512i = tables.as_flattened()[64 * i..].as_ptr().cast();
        // SAFETY: the tables are four aligned vectors. A volatile read stays where it is, and so the table takes no register
        // in between.
        unsafe { if AGAIN { table.read_volatile() } else { table.read() } }
    };
    let [low, high] = [[table(0), table(1)], [table(2), table(3)]];
    let mut vectors = [low[0]; VECTORS];
    for half in 0..2 {
        // SAFETY: 64 codes each.
        let codes = unsafe { _mm512_loadu_si512(w.add(64 * half).cast()) };
        // The lookup takes seven bits and ignores the sign.
        let lower = _mm512_permutex2var_epi8(low[0], codes, low[1]);
        let upper = _mm512_permutex2var_epi8(high[0], codes, high[1]);
        let upper = _mm512_ternarylogic_epi64::<OR_AND>(upper, codes, _mm512_set1_epi8(i8::MIN));
        vectors[2 * half] = _mm512_unpacklo_epi8(lower, upper);
        vectors[2 * half + 1] = _mm512_unpackhi_epi8(lower, upper);
    }
    // SAFETY: a `__m512bh` is any 64 bytes.
    unsafe { transmute::<[__m512i; VECTORS], [__m512bh; VECTORS]>(vectors) }
}

#[derive(Clone, Copy)]
pub(super) struct Fp8<'a> {
    pub(super) scales: &'a [f32],
    pub(super) cols: usize,
}

impl<'a> Decoder for Fp8<'a> {
    const CHUNK_BYTES: usize = 128;
    const SCALED: Scaled = Scaled::Chunk;
    type Scales = &'a [f32];

    fn scales_of(&self, row: usize) -> &'a [f32] {
        let width = self.cols.div_ceil(BLOCK);
        &self.scales[row / BLOCK * width..][..width]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn decode<const AGAIN: bool>(self, w: *const u8) -> [__m512bh; VECTORS] {
        // SAFETY: a chunk is 128 codes.
        unsafe { decode_bytes::<AGAIN>(&E4M3, w) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn scales(self, of_row: &'a [f32], c: usize) -> [__m512; 2] {
        // SAFETY: a row has a scale for each chunk.
        [_mm512_set1_ps(unsafe { *of_row.get_unchecked(c) }); 2]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Int8<'a> {
    pub(super) scales: Groups<'a>,
}

impl<'a> Decoder for Int8<'a> {
    const CHUNK_BYTES: usize = 128;
    const SCALED: Scaled = Scaled::Halves;
    type Scales = &'a [bf16];

    fn scales_of(&self, row: usize) -> &'a [bf16] {
        self.scales.of_row(row)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn decode<const AGAIN: bool>(self, w: *const u8) -> [__m512bh; VECTORS] {
        // SAFETY: a chunk is 128 codes.
        unsafe { decode_bytes::<AGAIN>(&INT8, w) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn scales(self, of_row: &'a [bf16], c: usize) -> [__m512; 2] {
        self.scales.spread(of_row, c)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Int4<'a> {
    pub(super) words: __m512i,
    pub(super) scales: Groups<'a>,
}

impl<'a> Decoder for Int4<'a> {
    const CHUNK_BYTES: usize = 64;
    const SCALED: Scaled = Scaled::Halves;
    type Scales = &'a [bf16];

    fn scales_of(&self, row: usize) -> &'a [bf16] {
        self.scales.of_row(row)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn decode<const AGAIN: bool>(self, w: *const u8) -> [__m512bh; VECTORS] {
        // SAFETY: a chunk is 64 bytes.
        let codes = unsafe { _mm512_loadu_si512(w.cast()) };
        // A lookup takes the lowest five bits of a word: a code, and one bit that the table does not depend on.
        let vectors =
            [codes, _mm512_srli_epi16::<8>(codes), _mm512_srli_epi16::<4>(codes), _mm512_srli_epi16::<12>(codes)];
        // SAFETY: a `__m512bh` is any 64 bytes.
        vectors.map(|v| unsafe { transmute(_mm512_permutexvar_epi16(v, self.words)) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn scales(self, of_row: &'a [bf16], c: usize) -> [__m512; 2] {
        self.scales.spread(of_row, c)
    }
}

/// A bf16 scale for each 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    scales: &'a [bf16],
    /// How many a row has.
    width: usize,
    /// Where the four scales of a chunk go.
    spread: [__m512i; 2],
}

impl<'a> Groups<'a> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(scales: &'a [bf16], cols: usize) -> Self {
        // SAFETY: both are 64 bytes.
        let spread = SPREAD.each_ref().map(|bytes| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) });
        Self { scales, width: cols.div_ceil(GROUP), spread }
    }

    fn of_row(&self, row: usize) -> &'a [bf16] {
        &self.scales[row * self.width..][..self.width]
    }

    /// The scales of chunk `c` of a row: of each half the first eight lanes have the first, the others the second.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn spread(self, of_row: &[bf16], c: usize) -> [__m512; 2] {
        const FOUR: usize = CHUNK / GROUP;
        let scales = &of_row[FOUR * c..];
        let four = match scales.first_chunk::<FOUR>() {
            Some(four) => *four,
            // What is behind the last column is multiplied by 0.
            None => std::array::from_fn(|i| scales.get(i).copied().unwrap_or_default()),
        };
        // SAFETY: four numbers of 16 bits are one of 64.
        let four = _mm512_set1_epi64(unsafe { transmute::<[bf16; FOUR], i64>(four) });
        self.spread.map(|spread| _mm512_castsi512_ps(_mm512_shuffle_epi8(four, spread)))
    }
}

/// For each byte of sixteen f32 the byte of four bf16 that goes there, or that it is 0.
const SPREAD: [[u8; 64]; 2] = {
    const ZERO: u8 = 0x80;
    let mut spread = [[ZERO; 64]; 2];
    let mut lane = 0;
    while lane < 16 {
        let mut half = 0;
        while half < 2 {
            let scale = (2 * half + lane / 8) as u8;
            spread[half][4 * lane + 2] = 2 * scale;
            spread[half][4 * lane + 3] = 2 * scale + 1;
            half += 1;
        }
        lane += 1;
    }
    spread
};

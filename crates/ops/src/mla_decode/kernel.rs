//! The two products of decode, over pairs of bf16 and in f32.
//!
//! ```text
//! scores    S[s, j] = Σ_p Q[p, j] · K[s, p]      p counts pairs of dimensions. A register holds an even and an odd p of 8
//!                                                columns; two pairs of a key are broadcast from memory, and meet both
//!                                                registers that make up a strip; a tile is a strip by 8 keys
//! values    U[j, d] = Σ_t P[t, j] · V[t, d]      t counts pairs of keys. A register holds 16 dimensions d; a pair of
//!                                                weights is broadcast; a tile is 8 columns by two registers
//! ```
//!
//! A value is one chain over `t` in increasing order; a score is two, over the even and over the odd `p`, which are added
//! at the end. A step of a chain is `(x + a₁ b₁) + a₀ b₀` with two roundings. That is what `vdpbf16ps` computes, of which a
//! core starts two in a cycle; other processors get it by two fused multiply-adds. So the bits depend neither on the
//! tile nor on the instruction set.
//!
//! Either tile loads 10 operands for 16 `vdpbf16ps`, where a core can load two in a cycle: the products are the limit.
//! With a single pair broadcast at a time, a strip of scores would load 17.

use tensor::Isa;
#[cfg(target_arch = "x86_64")]
use tensor::Level;

use super::block::{Line, TOKENS, lower, upper};
use crate::simd::{LANES, simd};

/// f32 values of one register.
pub(super) type Lanes = [f32; LANES];

/// Columns of a tile of values.
pub(super) const COLUMNS: usize = 8;

/// What will be read soon: with each step of a kernel a line of it is fetched.
pub(super) struct Ahead<'a>(pub(super) &'a [Line]);

/// The scores of the first `keys` keys of a block for one strip of queries: row `s` of `out` is key `s`. Rows up to the
/// next multiple of 8 are written too.
///
/// `q` is packed as [`super::bf16::pack`] does it, with as many planes as the block has.
pub(super) fn scores(isa: Isa, block: &[Line], keys: usize, q: &[Line], out: &mut [Lanes], ahead: &mut Ahead<'_>) {
    #[cfg(target_arch = "x86_64")]
    if isa.level() == Level::Avx512Bf16 {
        // SAFETY: an `Isa` of this level exists only on a processor that has these features.
        return unsafe { dp::scores(block, keys, q, out, ahead) };
    }
    let _ = ahead;
    for (s, out) in out.iter_mut().enumerate().take(keys) {
        scores_of_one(isa, block, s, q, out);
    }
}

/// `u[j, d] = Σ_t p[t, j] · v[t, d]` for 8 or 16 columns `j` and 32 dimensions `d`; row `j` of `u` begins at `stride · j`. A
/// row of `v` holds the even dimensions, then the odd ones.
///
/// While that is computed, keys of another plane may be put in pairs as [`pair_keys`] does it: `next` has whole blocks of
/// it, from the first one on. The result is for how many this was done.
pub(super) fn values(
    isa: Isa,
    p: &[Line],
    v: &[[Line; 2]],
    u: &mut [f32],
    stride: usize,
    next: &[&[Line; TOKENS]],
    to: &mut [[Line; 2]],
    ahead: &mut Ahead<'_>,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.level() == Level::Avx512Bf16 {
        // SAFETY: an `Isa` of this level exists only on a processor that has these features.
        return unsafe { dp::values(p, v, u, stride, next, to, ahead) };
    }
    let _ = (next, to, ahead);
    for (j, u) in u.chunks_mut(stride).enumerate() {
        values_of_one(isa, p, j, v, u.first_chunk_mut().expect("a row has whole planes"));
    }
    0
}

simd! {
    /// Pairs of keys side by side: `to[t]` becomes keys `2t` and `2t + 1` of one plane of a block, even dimensions, then odd
    /// ones. Behind the last key, if there is an odd number, comes 0.
    pub(super) fn pair_keys(plane: &[Line], keys: usize, to: &mut [[Line; 2]]) {
        for (keys, to) in plane[..keys].chunks(2).zip(to) {
            *to = paired(&keys[0], keys.get(1).unwrap_or(&Line::ZERO));
        }
    }
}

#[inline(always)]
fn paired(a: &Line, b: &Line) -> [Line; 2] {
    let mut both = [Line::ZERO; 2];
    for d in 0..16 {
        both[0].0[d] = a.0[d] & 0xFFFF | b.0[d] << 16;
        both[1].0[d] = a.0[d] >> 16 | b.0[d] & 0xFFFF_0000;
    }
    both
}

/// `x + a₁ b₁ + a₀ b₀`, rounded twice, in each lane.
#[inline(always)]
fn multiply_add(x: &mut Lanes, a: &[u32; LANES], b: &[u32; LANES]) {
    for l in 0..LANES {
        x[l] = lower(a[l]).mul_add(lower(b[l]), upper(a[l]).mul_add(upper(b[l]), x[l]));
    }
}

simd! {
    fn scores_of_one(block: &[Line], s: usize, q: &[Line], out: &mut Lanes) {
        let [mut left, mut right] = [[0.0; LANES]; 2];
        for (plane, q) in block.chunks_exact(TOKENS).zip(q.as_chunks::<16>().0) {
            for (k, q) in plane[s].0.as_chunks::<2>().0.iter().zip(q.as_chunks::<2>().0) {
                let mut both = [0; LANES];
                for l in 0..LANES {
                    both[l] = k[l % 2];
                }
                multiply_add(&mut left, &both, &q[0].0);
                multiply_add(&mut right, &both, &q[1].0);
            }
        }
        for i in 0..COLUMNS {
            out[i] = left[2 * i] + left[2 * i + 1];
            out[COLUMNS + i] = right[2 * i] + right[2 * i + 1];
        }
    }
}

simd! {
    fn values_of_one(p: &[Line], column: usize, v: &[[Line; 2]], u: &mut [f32; 32]) {
        let [mut even, mut odd] = [[0.0; LANES]; 2];
        for (p, v) in p.iter().zip(v) {
            let p = [p.0[column]; LANES];
            multiply_add(&mut even, &p, &v[0].0);
            multiply_add(&mut odd, &p, &v[1].0);
        }
        for (i, u) in u.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            *u = [even[i], odd[i]];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod dp {
    use std::arch::x86_64::{
        __m512, __m512bh, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_permutex2var_ps,
        _mm512_set_epi32, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_ps,
    };

    use super::{Ahead, COLUMNS, LANES, Lanes, Line, TOKENS, paired};

    /// Keys of a tile of scores.
    const KEYS: usize = 8;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) fn scores(block: &[Line], keys: usize, q: &[Line], out: &mut [Lanes], ahead: &mut Ahead<'_>) {
        let even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        let odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
        let mut later = ahead.0.iter();
        for (first, out) in (0..keys).step_by(KEYS).zip(out.as_chunks_mut::<KEYS>().0) {
            let mut tile = [[_mm512_setzero_ps(); 2]; KEYS];
            for (plane, q) in block.chunks_exact(TOKENS).zip(q.as_chunks::<16>().0) {
                let k: &[Line; KEYS] = plane[first..].first_chunk().expect("a block has whole tiles");
                for (p, q) in q.as_chunks::<2>().0.iter().enumerate() {
                    fetch(later.next());
                    let q = [pairs(&q[0]), pairs(&q[1])];
                    for s in 0..KEYS {
                        let k = broadcast_two(&k[s], p);
                        tile[s] = [_mm512_dpbf16_ps(tile[s][0], q[0], k), _mm512_dpbf16_ps(tile[s][1], q[1], k)];
                    }
                }
            }
            for (out, [left, right]) in out.iter_mut().zip(tile) {
                let even = _mm512_permutex2var_ps(left, even, right);
                *out = lanes(_mm512_add_ps(even, _mm512_permutex2var_ps(left, odd, right)));
            }
        }
        ahead.0 = later.as_slice();
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) fn values(
        p: &[Line],
        v: &[[Line; 2]],
        u: &mut [f32],
        stride: usize,
        next: &[&[Line; TOKENS]],
        to: &mut [[Line; 2]],
        ahead: &mut Ahead<'_>,
    ) -> usize {
        const PAIRS: usize = TOKENS / 2;
        let low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        let high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
        let mut later = ahead.0.iter();
        let mut done = 0;
        for (first, u) in [0, COLUMNS].into_iter().zip(u.chunks_mut(COLUMNS * stride)) {
            let mut tile = [[_mm512_setzero_ps(); 2]; COLUMNS];
            macro_rules! step {
                ($p:expr, $v:expr) => {
                    let p: &[u32; COLUMNS] = $p.0[first..].first_chunk().expect("16 columns");
                    let v = [pairs(&$v[0]), pairs(&$v[1])];
                    for j in 0..COLUMNS {
                        let p = broadcast(p[j]);
                        tile[j] = [_mm512_dpbf16_ps(tile[j][0], p, v[0]), _mm512_dpbf16_ps(tile[j][1], p, v[1])];
                    }
                };
            }
            for (i, (p, v)) in p.chunks(PAIRS).zip(v.chunks(PAIRS)).enumerate() {
                let steps = p.iter().zip(v);
                if first == 0 && i < next.len() && p.len() == PAIRS {
                    let to = &mut to[i * PAIRS..][..PAIRS];
                    for ((p, v), (keys, to)) in steps.zip(next[i].as_chunks::<2>().0.iter().zip(to)) {
                        fetch(later.next());
                        step!(p, v);
                        *to = paired(&keys[0], &keys[1]);
                    }
                    done = i + 1;
                } else {
                    for (p, v) in steps {
                        fetch(later.next());
                        step!(p, v);
                    }
                }
            }
            for (j, [even, odd]) in tile.into_iter().enumerate() {
                let u: &mut [f32; 2 * LANES] = u[j * stride..].first_chunk_mut().expect("a row has whole planes");
                u[..LANES].copy_from_slice(&lanes(_mm512_permutex2var_ps(even, low, odd)));
                u[LANES..].copy_from_slice(&lanes(_mm512_permutex2var_ps(even, high, odd)));
            }
        }
        ahead.0 = later.as_slice();
        done
    }

    /// Has a line brought into the level-2 cache.
    #[inline(always)]
    fn fetch(line: Option<&Line>) {
        if let Some(line) = line {
            // SAFETY: a prefetch changes nothing that a program can see, and the address is valid.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
        }
    }

    /// Pairs `2p` and `2p + 1` of a line, in turn.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn broadcast_two(line: &Line, p: usize) -> __m512bh {
        // SAFETY: both types are 64 bytes, every bit pattern is valid in either, and a line is aligned for both.
        let twos: &[i64; 8] = unsafe { &*std::ptr::from_ref(line).cast() };
        // SAFETY: both types are 64 bytes, and every bit pattern is valid in either.
        unsafe { std::mem::transmute(_mm512_set1_epi64(twos[p])) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn broadcast(pair: u32) -> __m512bh {
        // SAFETY: both types are 64 bytes, and every bit pattern is valid in either.
        unsafe { std::mem::transmute(_mm512_set1_epi32(pair as i32)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pairs(line: &Line) -> __m512bh {
        // SAFETY: both types are 64 bytes, and every bit pattern is valid in either.
        unsafe { std::mem::transmute(*line) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn lanes(register: __m512) -> Lanes {
        // SAFETY: both types are 64 bytes, and every bit pattern is valid in either.
        unsafe { std::mem::transmute(register) }
    }
}

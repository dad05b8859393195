//! ```text
//! tasks = groups of columns × chunks of keys                        (shared out among threads)
//! per task, a column being one head of one row, 16 of them in a strip:
//!   for each strip of columns:
//!     for each block of 64 keys of the cache:
//!       K = the block in bf16                                         as it lies, or decoded for the first strip
//!       S = K Q                                                       while a later block comes from memory
//!     m, l, P = softmax of S, column by column, P in bf16
//!   for each plane of 32 dimensions of c:
//!     V = K with keys in pairs
//!     for each strip of columns:  U = Pᵀ V                            not normalised
//! then the chunks of each column are joined in order
//! ```
//!
//! A chunk is one step of the softmax, so `U` is written once and never rescaled within it. Whatever is used more than
//! once lies in a core's own caches: K, 288 KiB with the sizes of DeepSeek-V3, in level 2; a plane of V, 16 KiB, and the
//! weights of a strip, 8 KiB, in level 1.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use tensor::Isa;

use super::block::{CacheKind, Line, TOKENS, bf16_line, padded};
use super::cpu::{Inputs, Part};
use super::kernel::{Ahead, COLUMNS, Lanes, pair_keys, scores, values};
use super::{Dims, Query};
use crate::mla_attention::softmax::power_of_two;
use crate::simd::{LANES, simd};

/// Keys of a part, and of one step of the softmax. Part of the arithmetic: another number gives other roundings.
pub(super) const CHUNK: usize = 4 * TOKENS;

/// Blocks of the next part that are fetched from memory by the end of a part. Within a part it is one block at a time.
const FETCHED: usize = 2;

#[derive(Default)]
struct Scratch {
    k: Vec<Line>,      // the blocks of a chunk in bf16, if the cache is of another kind
    v: Vec<[Line; 2]>, // [2, CHUNK/2], one plane and the next
    s: Vec<Lanes>,     // [CHUNK]
    p: Vec<Line>,      // [strips, CHUNK/2]
    /// Of the part that comes next: where it begins in memory, and how many of its blocks have been fetched. If another
    /// comes, nothing is lost but time.
    fetched: (usize, usize),
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The lines of a packed strip of queries.
pub(super) fn strip_len(dims: Dims, rk: usize) -> usize {
    (rk.div_ceil(32) + dims.dr.div_ceil(32)) * 16
}

/// The queries of at most 16 columns as the scores' kernel wants them: two lines for each two pairs of dimensions, which
/// lie side by side, the first line for 8 columns, the second for the others. Dimensions are `[q_latent ; q_rope]`, both
/// filled up to whole planes with zeros. Column `i · H + h` is head `h` of row `i` of the batch.
pub(super) fn pack(isa: Isa, inputs: &Inputs<'_>, columns: Range<usize>, to: &mut [Line]) {
    let Inputs { q_latent, q, dims: Dims { dn, dr, .. }, rk, .. } = *inputs;
    let (first, n) = (columns.start, columns.len());
    let (c, r) = to.split_at_mut(rk.div_ceil(32) * 16);
    pack_rows(isa, &q_latent[first * rk..], rk, n, rk, c);
    pack_rows(isa, &q[first * (dn + dr) + dn..], dn + dr, n, dr, r);
}

simd! {
    fn pack_rows(rows: &[f32], stride: usize, n: usize, width: usize, to: &mut [Line]) {
        if n < LANES {
            to.fill(Line::ZERO);
        }
        for j in 0..n {
            let row = &rows[j * stride..][..width];
            let (half, place) = (j / COLUMNS, 2 * (j % COLUMNS));
            for (values, to) in row.chunks(32).zip(to.as_chunks_mut::<16>().0) {
                let line = bf16_line(&padded(values));
                for p in 0..8 {
                    [to[2 * p + half].0[place], to[2 * p + half].0[place + 1]] = [line.0[2 * p], line.0[2 * p + 1]];
                }
            }
        }
    }
}

/// `u [columns, stride]`, not normalised, and for each column the maximum and the sum of its softmax: `[columns, 2]`.
/// Columns are filled up to a multiple of 8, dimensions to a multiple of 32.
///
/// `q` are the strips of the part's columns. `next` is what this thread will probably do after this part: its
/// first blocks are fetched from memory meanwhile.
pub(super) fn attend(
    isa: Isa,
    inputs: &Inputs<'_>,
    part: &Part,
    q: &[Line],
    next: Option<&Part>,
    u_out: &mut [f32],
    stride: usize,
    softmax_out: &mut [f32],
) {
    let Inputs { dims: Dims { heads, .. }, rk, scale, queries, .. } = *inputs;
    let Query { cache, first_position, .. } = &queries[part.query];
    let shape = cache.shape();
    let (is_stored, lines) = (shape.kind == CacheKind::Bf16, shape.bf16().lines());
    let (first_block, blocks) = (part.keys.start / TOKENS, part.keys.len().div_ceil(TOKENS));
    let strips = part.columns.len().div_ceil(LANES);
    // The keys of this part that column `j` of it sees: the more, the later its row.
    let seen = |j: usize| {
        let end = first_position + (part.columns.start + j) / heads + 1;
        end.min(part.keys.end).saturating_sub(part.keys.start)
    };
    let last_column = |strip: usize| part.columns.len().min((strip + 1) * LANES) - 1;
    // Tokens of block `i` of this part.
    let count = |i: usize| TOKENS.min(part.keys.len() - i * TOKENS);
    // Block `i` from this part on.
    let later = |i: usize| match next {
        _ if i < blocks => cache.block(first_block + i),
        Some(next) if i - blocks < next.keys.len().div_ceil(TOKENS) => {
            queries[next.query].cache.block(next.keys.start / TOKENS + i - blocks)
        }
        _ => &[],
    };
    SCRATCH.with_borrow_mut(|Scratch { k, v, s, p, fetched: known }| {
        let mut fetched = if known.0 == later(0).as_ptr().addr() { known.1 } else { 0 };
        let fetch = |fetched: &mut usize, end: usize| {
            let is_next = *fetched < end;
            *fetched += usize::from(is_next);
            Ahead(if is_next { later(*fetched - 1) } else { &[] })
        };
        k.resize(if is_stored { 0 } else { blocks * lines }, Line::ZERO);
        v.resize(CHUNK, [Line::ZERO; 2]);
        s.resize(CHUNK, [0.0; LANES]);
        p.resize(strips * CHUNK / 2, Line::ZERO);
        let strips = q.chunks_exact(strip_len(inputs.dims, rk)).zip(p.chunks_exact_mut(CHUNK / 2));
        for (j, ((q, p), softmax)) in strips.zip(softmax_out.chunks_mut(2 * LANES)).enumerate() {
            let visible = seen(last_column(j));
            for i in 0..blocks {
                let stored = cache.block(first_block + i);
                let mut block = stored;
                if !is_stored {
                    let to = &mut k[i * lines..][..lines];
                    if j == 0 {
                        shape.to_bf16(isa, stored, count(i), to);
                    }
                    block = to;
                }
                fetched = fetched.max(i + 1);
                let mut ahead = fetch(&mut fetched, if j == 0 { i + 2 } else { 0 });
                let keys = visible.saturating_sub(i * TOKENS).min(TOKENS);
                scores(isa, block, keys, q, &mut s[i * TOKENS..], &mut ahead);
            }
            let limits = std::array::from_fn(|l| seen((j * LANES + l).min(last_column(j))) as u32);
            let [max, sum] = weights(isa, &mut s[..visible], &limits, scale * LOG2_E, p);
            for (l, softmax) in softmax.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *softmax = [max[l], sum[l]];
            }
        }
        let planes = rk.div_ceil(32);
        let plane = |i: usize, d: usize| {
            let block = if is_stored { cache.block(first_block + i) } else { &k[i * lines..] };
            block[d * TOKENS..].first_chunk::<TOKENS>().expect("a plane has a line for each token of a block")
        };
        let (mut v, mut v_next) = v.split_at_mut(CHUNK / 2);
        // The blocks of `v` that are in pairs already.
        let mut done = 0;
        let mut ahead = fetch(&mut fetched, blocks + FETCHED);
        for d in 0..planes {
            if d == planes / 2 {
                ahead = fetch(&mut fetched, blocks + FETCHED);
            }
            for (i, v) in v.chunks_mut(TOKENS / 2).enumerate().take(blocks).skip(done) {
                pair_keys(isa, plane(i, d), count(i), v);
            }
            done = 0;
            let next: [_; CHUNK / TOKENS] = std::array::from_fn(|i| plane(i.min(blocks - 1), (d + 1).min(planes - 1)));
            let whole_blocks = &next[..part.keys.len() / TOKENS];
            for (j, u) in u_out.chunks_mut(LANES * stride).enumerate() {
                let pairs = seen(last_column(j)).div_ceil(2);
                let next = if j == 0 { whole_blocks } else { &[] };
                let p = &p[j * (CHUNK / 2)..][..pairs];
                done += values(isa, p, v, &mut u[32 * d..], stride, next, v_next, &mut ahead);
            }
            (v, v_next) = (v_next, v);
        }
        *known = (later(blocks).as_ptr().addr(), fetched - blocks);
    });
}

simd! {
    /// Turns scores into weights `2^(unit · (score − max))`, column by column, of which column `l` has those of rows below
    /// `limits[l]`; the others are 0. Two rows at a time are rounded to bf16 and put side by side into a line of `p`. The
    /// result is `[unit · max, Σ]`, −∞ and 0 for a column without rows; the sum is that of the rounded weights, so that
    /// those which are used add up to one.
    fn weights(scores: &mut [Lanes], limits: &[u32; LANES], unit: f32, p: &mut [Line]) -> [Lanes; 2] {
        let sure = limits.iter().fold(scores.len(), |least, &limit| least.min(limit as usize));
        for (s, row) in scores.iter_mut().enumerate().skip(sure) {
            for l in 0..LANES {
                row[l] = if (s as u32) < limits[l] { row[l] } else { f32::NEG_INFINITY };
            }
        }
        let (mut max, mut sum) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
        for row in &*scores {
            for l in 0..LANES {
                max[l] = if row[l] > max[l] { row[l] } else { max[l] };
            }
        }
        // −∞ − (−∞) is not a number.
        let mut base = max;
        for l in 0..LANES {
            base[l] = if max[l] == f32::NEG_INFINITY { 0.0 } else { max[l] };
        }
        for (rows, p) in scores.chunks(2).zip(p) {
            let even = power_of_two(&rows[0], &base, unit);
            let odd = power_of_two(rows.get(1).unwrap_or(&[f32::NEG_INFINITY; LANES]), &base, unit);
            for l in 0..LANES {
                let (even, odd) = (rounded_weight(even[l]), rounded_weight(odd[l]));
                sum[l] += f32::from_bits(even);
                sum[l] += f32::from_bits(odd);
                p.0[l] = even >> 16 | odd;
            }
        }
        for l in 0..LANES {
            max[l] *= unit;
        }
        [max, sum]
    }
}

/// The bits of a weight after rounding to bf16: it is 0 or normal or, as all that comes from bf16, a NaN with its lower
/// bits 0, and needs no more care than that.
#[inline(always)]
fn rounded_weight(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000
}

//! ```text
//! tasks = groups of columns × chunks of keys                        (shared out among threads)
//! per task, a column being one head of one row, 32 of them in a strip:
//!   for each block of keys: K = [c r] in strips
//!     for each strip of columns:
//!       S[s, j] = Σ_d K[s, d] · Q[d, j]                             Q = [q_latent ; q_rope] · scale · log2 e
//!       P, m, l = online softmax of S, column by column
//!       U[j, d] = U[j, d] · 2^(old m − new m) + Σ_s P[s, j] · K[s, d]      d < rk
//! then the chunks of each column are joined in order
//! ```
//!
//! There is one key for all heads, so a block of the cache is read once for as many heads and rows as a group holds; the
//! value of a key is the first `rk` columns of the key itself.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use tensor::Isa;

use super::{COLUMNS, Dims, Query};
use crate::mla_attention::KEYS;
use crate::mla_attention::softmax::{Online, online, power_of_two};
use crate::mla_attention::strips::{Rows, Strips, WIDTH, pack, pack_transposed, unpack};
use crate::mla_attention::tile::{NO_SHIFT, rescale, transposed, upright};
use crate::simd::{LANES, simd};

pub(super) struct Inputs<'a> {
    pub(super) q_latent: &'a [f32], // [T, H·rk]
    pub(super) q: &'a [f32],        // [T, H·(dn+dr)]
    pub(super) queries: &'a [Query<'a>],
    pub(super) dims: Dims,
    pub(super) rk: usize,
    pub(super) scale: f32,
}

/// Some columns of one query and a chunk of the keys they see.
pub(super) struct Part {
    pub(super) query: usize,
    /// Column `i · H + h` is head `h` of row `i` of the query.
    pub(super) columns: Range<usize>,
    pub(super) chunk: usize,
    pub(super) keys: Range<usize>,
    /// Whether no chunk follows.
    pub(super) last: bool,
}

#[derive(Default)]
struct Scratch {
    q: Strips, // [rk+dr, COLUMNS], a strip of columns in each
    k: Strips, // [KEYS, rk+dr]
    s: Strips, // [KEYS, 32]
    u: Strips, // [COLUMNS, rk]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `u [columns, rk]`, not normalised, and for each column the maximum and the sum of its softmax: `[columns, 2]`.
pub(super) fn attend(isa: Isa, inputs: &Inputs<'_>, part: &Part, u_out: &mut [f32], softmax_out: &mut [f32]) {
    let Inputs { dims: Dims { heads, dn, dr, .. }, rk, scale, .. } = *inputs;
    let Query { cache, rows, first_position } = &inputs.queries[part.query];
    let (count, first) = (part.columns.len(), part.columns.start);
    // A column sees this many keys.
    let seen = |column: usize| first_position + column / heads + 1;
    SCRATCH.with_borrow_mut(|Scratch { q, k, s, u }| {
        q.reset(rk + dr, COLUMNS);
        k.reset(KEYS, rk + dr);
        s.reset(KEYS, WIDTH);
        u.reset(COLUMNS, rk);
        u.clear(rk);
        let strips: Vec<Range<usize>> =
            (0..count).step_by(WIDTH).map(|start| first + start..first + count.min(start + WIDTH)).collect();
        for (j, columns) in strips.iter().enumerate() {
            let (column, count) = (rows.start * heads + columns.start, columns.len());
            let latent = Rows { data: inputs.q_latent, start: column * rk, stride: rk, width: rk, count };
            let rope = Rows { data: inputs.q, start: column * (dn + dr) + dn, stride: dn + dr, width: dr, count };
            let (q_latent, q_rope) = q.strip_mut(j).split_at_mut(rk);
            pack_transposed(isa, latent, scale * LOG2_E, q_latent);
            pack_transposed(isa, rope, scale * LOG2_E, q_rope);
        }
        let mut states = [Online::START; COLUMNS / WIDTH];
        for block in part.keys.clone().step_by(KEYS) {
            let count = KEYS.min(part.keys.end - block);
            pack(isa, Rows { data: cache.c, start: block * rk, stride: rk, width: rk, count }, 1.0, 0, k);
            pack(isa, Rows { data: cache.r, start: block * dr, stride: dr, width: dr, count }, 1.0, rk, k);
            for (j, columns) in strips.iter().enumerate() {
                let visible = seen(columns.end - 1).saturating_sub(block).min(count);
                if visible == 0 {
                    continue;
                }
                upright(isa, k, visible, rk + dr, NO_SHIFT, q.strip(j), columns.len(), s.strip_mut(0), false);
                let p = &mut s.strip_mut(0)[..visible];
                let limits = std::array::from_fn(|l| seen(columns.start + l).saturating_sub(block).min(visible) as u32);
                let factor = online(isa, p, &limits, 1.0, &mut states[j]);
                for d in 0..rk.div_ceil(WIDTH) {
                    let u = &mut u.strip_mut(d)[j * WIDTH..(j + 1) * WIDTH];
                    rescale(isa, u, &factor);
                    transposed(isa, p, columns.len(), &k.strip(d)[..visible], rk - d * WIDTH, u, true);
                }
            }
        }
        for (i, (u_row, softmax)) in u_out.chunks_exact_mut(rk).zip(softmax_out.as_chunks_mut::<2>().0).enumerate() {
            unpack(isa, u, i, 0, 1.0, u_row);
            let Online { max, sum } = &states[i / WIDTH];
            *softmax = [max[i % WIDTH], sum[i % WIDTH]];
        }
    });
}

simd! {
    /// Joins the result of a part with that of the chunks before it, and normalises it after the last one.
    pub(super) fn join(part: &Part, from_u: &[f32], from_softmax: &[f32], to_u: &mut [f32], to_softmax: &mut [f32]) {
        if part.chunk == 0 {
            to_u.copy_from_slice(from_u);
            to_softmax.copy_from_slice(from_softmax);
        }
        let width = to_u.len() / part.columns.len();
        let columns = to_u.chunks_exact_mut(width).zip(from_u.chunks_exact(width));
        let softmax = to_softmax.as_chunks_mut::<2>().0.iter_mut().zip(from_softmax.as_chunks::<2>().0);
        for ((u, from_u), (softmax, from)) in columns.zip(softmax) {
            if part.chunk > 0 {
                // The first chunk holds a key that every column sees, so no maximum here is −∞ except a part's.
                let max = if from[0] > softmax[0] { from[0] } else { softmax[0] };
                let [keep, gain] = [softmax[0], from[0]].map(|x| power_of_two(&[x; LANES], &[max; LANES], 1.0)[0]);
                *softmax = [max, softmax[1] * keep + from[1] * gain];
                for (u, x) in u.iter_mut().zip(from_u) {
                    *u = *u * keep + x * gain;
                }
            }
            if part.last {
                let scale = 1.0 / softmax[1];
                for u in u {
                    *u *= scale;
                }
            }
        }
    }
}

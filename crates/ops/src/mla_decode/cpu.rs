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

use super::block::{CacheKind, Line, TOKENS};
use super::latents::{Latents, Piece, pieces};
use super::{COLUMNS, Dims, Query};
use crate::mla_attention::KEYS;
use crate::mla_attention::softmax::{Online, online};
use crate::mla_attention::strips::{Rows, Strips, WIDTH, pack, pack_transposed, unpack};
use crate::mla_attention::tile::{NO_SHIFT, rescale, transposed, upright};
use crate::simd::simd;

/// Keys of a part. Part of the arithmetic, like [`KEYS`]: another number gives other roundings.
pub(super) const CHUNK: usize = 6 * KEYS;

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
}

impl Part {
    /// Whether no chunk follows.
    pub(super) fn is_last(&self, queries: &[Query<'_>], heads: usize) -> bool {
        self.keys.end == queries[self.query].keys_of(&self.columns, heads)
    }
}

#[derive(Default)]
struct Scratch {
    q: Strips,   // [rk+dr, COLUMNS], a strip of columns in each
    k: Strips,   // [KEYS, rk+dr]
    s: Strips,   // [KEYS, 32]
    u: Strips,   // [COLUMNS, rk]
    c: Vec<f32>, // [KEYS, rk], if the cache is of another kind
    r: Vec<f32>, // [KEYS, dr], likewise
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
    SCRATCH.with_borrow_mut(|Scratch { q, k, s, u, c, r }| {
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
            pack_keys(isa, cache, block..block + count, c, r, k);
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

/// Some keys, `[c r]`, into strips.
fn pack_keys(isa: Isa, cache: &Latents, keys: Range<usize>, c: &mut Vec<f32>, r: &mut Vec<f32>, to: &mut Strips) {
    let (shape, count) = (cache.shape(), keys.len());
    let (rk, dr) = (shape.rk, shape.dr);
    if shape.kind == CacheKind::F32 {
        for Piece { block, tokens, row } in pieces(keys) {
            let (c, r) = cache.block(block).split_at(shape.c_planes() * TOKENS);
            pack_planes(isa, c, tokens.clone(), rk, row, 0, to);
            pack_planes(isa, r, tokens, dr, row, rk, to);
        }
    } else {
        c.resize(count * rk, 0.0);
        r.resize(count * dr, 0.0);
        for Piece { block, tokens, row } in pieces(keys) {
            let (c, r) = (&mut c[row * rk..][..tokens.len() * rk], &mut r[row * dr..][..tokens.len() * dr]);
            shape.read(isa, cache.block(block), tokens.start, c, r);
        }
        pack(isa, Rows { data: c, start: 0, stride: rk, width: rk, count }, 1.0, 0, to);
        pack(isa, Rows { data: r, start: 0, stride: dr, width: dr, count }, 1.0, rk, to);
    }
}

simd! {
    /// Puts tokens of f32 planes into rows `first_row..` and columns `first..first + width` of `to`.
    fn pack_planes(
        planes: &[Line],
        tokens: Range<usize>,
        width: usize,
        first_row: usize,
        first: usize,
        to: &mut Strips,
    ) {
        for (l, plane) in planes.chunks_exact(TOKENS).enumerate() {
            let column = first + 16 * l;
            for (i, line) in plane[tokens.clone()].iter().enumerate() {
                let values = line.0.map(f32::from_bits);
                if column.is_multiple_of(16) {
                    let row = &mut to.strip_mut(column / WIDTH)[first_row + i];
                    row[column % WIDTH..][..16].copy_from_slice(&values);
                } else {
                    for (column, x) in (column..first + width).zip(values) {
                        to.strip_mut(column / WIDTH)[first_row + i][column % WIDTH] = x;
                    }
                }
            }
        }
    }
}

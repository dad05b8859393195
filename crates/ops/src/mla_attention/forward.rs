//! ```text
//! tasks = heads × tiles of queries                                  (shared out among threads)
//! per task, with 32 queries side by side in a strip:
//!   for each block of keys that some query of the tile sees:
//!     K, V = the block in strips
//!     for each strip of queries:
//!       S[s, q] = Σ_d K[s, d] · Q[d, q]                             the scale comes in with the softmax
//!       P, m, l = online softmax of S, column by column
//!       O[q, d] = O[q, d] · exp(old m − new m) + Σ_s P[s, q] · V[s, d]
//!   o = O / l,  lse = m · scale · log2 e + log2 l
//! ```
//!
//! Scores of one strip of queries and one block of keys, 21 KiB, never leave the level-1 cache. A strip meets only the
//! keys that its last query sees, so of the diagonal little is computed in vain.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;

use tensor::{Ctx, Isa};

use super::disjoint::Disjoint;
use super::schedule::{Sequence, longest_first};
use super::softmax::{Online, online};
use super::strips::{Rows, Strips, WIDTH, pack, pack_transposed, unpack};
use super::tile::{NO_SHIFT, rescale, transposed, upright};
use super::{Dims, Inputs, KEYS, QUERIES};

#[derive(Default)]
struct Scratch {
    q: Strips, // [dn+dr, QUERIES], a strip of queries in each
    k: Strips, // [KEYS, dn+dr]
    v: Strips, // [KEYS, dv]
    s: Strips, // [KEYS, 32]
    o: Strips, // [QUERIES, dv]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `o [T, H·dv]` and `lse [H, T]`.
pub(super) fn run(ctx: &Ctx, inputs: &Inputs<'_>, sequences: &[Sequence], o: &mut [f32], lse: &mut [f32]) {
    let Dims { heads, dv, .. } = inputs.dims;
    let rows = o.len() / (heads * dv).max(1);
    let (o, lse) = (Disjoint::new(o), Disjoint::new(lse));
    let tiles = longest_first(sequences, QUERIES);
    ctx.for_each(tiles.len() * inputs.heads.len(), |i| {
        let ((sequence, first), head) = (tiles[i % tiles.len()], inputs.heads.start + i / tiles.len());
        // SAFETY: tasks differ in their queries or their head, and write `o` and `lse` of theirs alone.
        unsafe { tile(ctx.isa, inputs, &sequences[sequence], head, first, &o, &lse, rows) };
    });
}

/// `o` and `lse` of the queries from position `first` on, as many as a tile has, in one head.
///
/// # Safety
/// Nothing else may access those elements of `o [T, H·dv]` and `lse [H, T]` meanwhile; `rows` is T.
unsafe fn tile(
    isa: Isa,
    inputs: &Inputs<'_>,
    sequence: &Sequence,
    head: usize,
    first: usize,
    o_out: &Disjoint<'_>,
    lse_out: &Disjoint<'_>,
    rows: usize,
) {
    let Dims { dn, dr, dv, .. } = inputs.dims;
    let count = QUERIES.min(sequence.len - first);
    let strips = count.div_ceil(WIDTH);
    let unit = inputs.scale * LOG2_E;
    SCRATCH.with_borrow_mut(|Scratch { q, k, v, s, o }| {
        q.reset(dn + dr, QUERIES);
        k.reset(KEYS, dn + dr);
        v.reset(KEYS, dv);
        s.reset(KEYS, WIDTH);
        o.reset(QUERIES, dv);
        for j in 0..strips {
            let queries = inputs.queries(sequence, head, first + j * WIDTH, WIDTH.min(count - j * WIDTH));
            pack_transposed(isa, queries, 1.0, q.strip_mut(j));
        }
        let mut states = [Online::START; QUERIES / WIDTH];
        for block in (0..first + count).step_by(KEYS) {
            let keys = KEYS.min(first + count - block);
            inputs.pack_keys(isa, sequence, head, block, keys, k);
            pack(isa, inputs.values(sequence, head, block, keys), 1.0, 0, v);
            for j in 0..strips {
                let first = first + j * WIDTH;
                let queries = WIDTH.min(count - j * WIDTH);
                if first + queries <= block {
                    continue;
                }
                let visible = keys.min(first + queries - block);
                upright(isa, k, visible, dn + dr, NO_SHIFT, q.strip(j), queries, s.strip_mut(0), false);
                let p = &mut s.strip_mut(0)[..visible];
                let factor = online(isa, p, &limits(first, WIDTH, block, visible), unit, &mut states[j]);
                let part = j * WIDTH..(j + 1) * WIDTH;
                for d in 0..dv.div_ceil(WIDTH) {
                    let o = &mut o.strip_mut(d)[part.clone()];
                    if block > 0 {
                        rescale(isa, o, &factor);
                    }
                    transposed(isa, p, queries, &v.strip(d)[..visible], dv - d * WIDTH, o, block > 0);
                }
            }
        }
        // SAFETY: this task's head and queries; the caller's promise.
        unsafe { put(isa, inputs, sequence, head, first, count, &states, o, o_out, lse_out, rows) };
    });
}

/// Normalises the results of some queries and puts them where they belong.
///
/// # Safety
/// As for a tile of these queries.
pub(super) unsafe fn put(
    isa: Isa,
    inputs: &Inputs<'_>,
    sequence: &Sequence,
    head: usize,
    first: usize,
    count: usize,
    states: &[Online],
    o: &Strips,
    o_out: &Disjoint<'_>,
    lse_out: &Disjoint<'_>,
    rows: usize,
) {
    let Dims { heads, dv, .. } = inputs.dims;
    let unit = inputs.scale * LOG2_E;
    for i in 0..count {
        let Online { max, sum } = &states[i / WIDTH];
        let (max, sum) = (max[i % WIDTH], sum[i % WIDTH]);
        let row = sequence.query_row(first + i);
        // SAFETY: the caller's promise.
        let (o_row, lse) = unsafe { (o_out.part((row * heads + head) * dv, dv), lse_out.part(head * rows + row, 1)) };
        unpack(isa, o, i, 0, 1.0 / sum, o_row);
        lse[0] = max * unit + sum.log2();
    }
}

/// How many of a block's keys each query of a strip sees.
pub(super) fn limits(first: usize, queries: usize, block: usize, keys: usize) -> [u32; WIDTH] {
    std::array::from_fn(|j| if j < queries { (first + j + 1).saturating_sub(block).min(keys) as u32 } else { 0 })
}

impl<'a> Inputs<'a> {
    /// Queries of a sequence in one head from position `first` on, `dn+dr` wide.
    pub(super) fn queries(&self, sequence: &Sequence, head: usize, first: usize, count: usize) -> Rows<'a> {
        let Dims { heads, dn, dr, .. } = self.dims;
        let start = sequence.query_row(first) * heads * (dn + dr) + head * (dn + dr);
        Rows { data: self.q, start, stride: heads * (dn + dr), width: dn + dr, count }
    }

    /// Values of some keys in one head, `dv` wide.
    pub(super) fn values(&self, sequence: &Sequence, head: usize, first: usize, count: usize) -> Rows<'a> {
        let Dims { dn, dv, .. } = self.dims;
        let stride = self.heads.len() * (dn + dv);
        let start = (sequence.first_key_row + first) * stride + (head - self.heads.start) * (dn + dv) + dn;
        Rows { data: self.kv, start, stride, width: dv, count }
    }

    /// `[k_nope, k_rope]` of some keys in one head, `dn` and `dr` wide.
    pub(super) fn keys(&self, sequence: &Sequence, head: usize, first: usize, count: usize) -> [Rows<'a>; 2] {
        let Dims { dn, dr, dv, .. } = self.dims;
        let row = sequence.first_key_row + first;
        let stride = self.heads.len() * (dn + dv);
        let start = row * stride + (head - self.heads.start) * (dn + dv);
        [
            Rows { data: self.kv, start, stride, width: dn, count },
            Rows { data: self.k_rope, start: row * dr, stride: dr, width: dr, count },
        ]
    }

    /// Keys in one head, `[k_nope ; k_rope]`, into strips.
    pub(super) fn pack_keys(
        &self,
        isa: Isa,
        sequence: &Sequence,
        head: usize,
        first: usize,
        count: usize,
        k: &mut Strips,
    ) {
        let [nope, rope] = self.keys(sequence, head, first, count);
        pack(isa, nope, 1.0, 0, k);
        pack(isa, rope, 1.0, self.dims.dn, k);
    }
}

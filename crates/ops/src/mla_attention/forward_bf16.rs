//! ```text
//! for each wave of heads:
//!   tasks = blocks of keys × heads:  K in pairs of neighbours, V in pairs of two rows       (shared out among threads)
//!   tasks = tiles of queries × heads                                                        (shared out among threads)
//!   per task, with 32 queries side by side in a strip:
//!     for each block of keys that some query of the tile sees:
//!       for each strip of queries:
//!         S[s, q] = Σ_d K[s, d] · Q[d, q]                           pairs along d
//!         P, m, l = online softmax of S, column by column           in f32
//!         O[q, d] = O[q, d] · exp(old m − new m) + Σ_s P[s, q] · V[s, d]      pairs along s
//!     o = O / l,  lse = m · scale · log2 e + log2 l
//! ```
//!
//! As [`super::forward`], with Q, K, V and P rounded to bf16. A product takes half the time, so packing weighs twice:
//! keys are packed once for all tiles of queries, and tiles are small, because sharing a block's trip to the level-2
//! cache among four strips is enough. Scores of a strip and a block, the strip itself and a tile of the block's rows
//! fill the level-1 cache: 21, 12 and 5 KiB.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;

use tensor::{Ctx, Isa};

use super::disjoint::Disjoint;
use super::forward::{limits, put};
use super::packed_keys::{Layout, PackedKeys, Pass};
use super::pair_tile::{Start, transposed, upright};
use super::pairs::{pack_transposed_pairs, pair_strip, prefetch};
use super::schedule::{Sequence, longest_first};
use super::softmax::{Online, online};
use super::strips::{Strips, WIDTH};
use super::tile::NO_SHIFT;
use super::{Dims, Inputs, KEYS};
use crate::simd::LANES;

/// Queries of a task.
const QUERIES: usize = 128;

/// `o [T, H·dv]` and `lse [H, T]`.
pub(super) fn run(ctx: &Ctx, inputs: &Inputs<'_>, sequences: &[Sequence], o: &mut [f32], lse: &mut [f32]) {
    let Dims { heads, dv, .. } = inputs.dims;
    let rows = o.len() / (heads * dv).max(1);
    let (o, lse) = (Disjoint::new(o), Disjoint::new(lse));
    let tiles = longest_first(sequences, QUERIES);
    let layout = Layout::new(Pass::Forward, inputs.dims, sequences);
    let wave = layout.heads_at_once(ctx.threads());
    for first_head in inputs.heads.clone().step_by(wave) {
        let heads = first_head..inputs.heads.end.min(first_head + wave);
        let keys = PackedKeys::new(ctx, inputs, &layout, sequences, heads);
        ctx.for_each(tiles.len() * keys.heads.len(), |i| {
            let ((sequence, first), head) = (tiles[i / keys.heads.len()], first_head + i % keys.heads.len());
            // SAFETY: tasks differ in their queries or their head, and write `o` and `lse` of theirs alone.
            unsafe { tile(ctx.isa, inputs, sequences, sequence, &keys, head, first, &o, &lse, rows) };
        });
    }
}

#[derive(Default)]
struct Scratch {
    q: Strips<u32>, // [(dn+dr) / 2, QUERIES], a strip of queries in each
    s: Strips,      // [KEYS, 32]
    p: Strips<u32>, // [KEYS / 2, 32]
    o: Strips,      // [QUERIES, dv]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `o` and `lse` of the queries from position `first` on, as many as a tile has, in one head of this sequence.
///
/// # Safety
/// Nothing else may access those elements of `o [T, H·dv]` and `lse [H, T]` meanwhile; `rows` is T.
unsafe fn tile(
    isa: Isa,
    inputs: &Inputs<'_>,
    sequences: &[Sequence],
    number: usize,
    keys: &PackedKeys<'_>,
    head: usize,
    first: usize,
    o_out: &Disjoint<'_>,
    lse_out: &Disjoint<'_>,
    rows: usize,
) {
    let Dims { dn, dr, dv, .. } = inputs.dims;
    let sequence = &sequences[number];
    let depth = (dn + dr).div_ceil(2);
    let count = QUERIES.min(sequence.len - first);
    let strips = count.div_ceil(WIDTH);
    let unit = inputs.scale * LOG2_E;
    SCRATCH.with_borrow_mut(|Scratch { q, s, p, o }| {
        q.reset(depth, QUERIES);
        s.reset(KEYS, WIDTH);
        p.reset(KEYS / 2, WIDTH);
        o.reset(QUERIES, dv);
        let rows_of = |j: usize| inputs.queries(sequence, head, first + j * WIDTH, WIDTH.min(count - j * WIDTH));
        prefetch(isa, rows_of(0));
        let mut states = [Online::START; QUERIES / WIDTH];
        for block in (0..first + count).step_by(KEYS) {
            let [k, v] = [0, 1].map(|matrix| keys.block(head, number, block, matrix));
            for j in 0..strips {
                let first = first + j * WIDTH;
                let queries = WIDTH.min(count - j * WIDTH);
                if first + queries <= block {
                    continue;
                }
                if block == 0 {
                    // The rows of a strip arrive while the strip before it is worked on.
                    if j + 1 < strips {
                        prefetch(isa, rows_of(j + 1));
                    }
                    pack_transposed_pairs(isa, rows_of(j), q.strip_mut(j));
                }
                // The first half of the queries sees less on the diagonal.
                let seen = [LANES, WIDTH].map(|n| KEYS.min((first + n.min(queries)).saturating_sub(block)));
                let visible = seen[1];
                upright(isa, k, seen, depth, NO_SHIFT, q.strip(j), queries, s.strip_mut(0), false);
                let scores = &mut s.strip_mut(0)[..visible];
                let factor = online(isa, scores, &limits(first, WIDTH, block, visible), unit, &mut states[j]);
                pair_strip(isa, scores, p.strip_mut(0));
                let p = &p.strip(0)[..visible.div_ceil(2)];
                let start = if block > 0 { Start::Scaled(&factor) } else { Start::Zero };
                let seen = (first + 1) as isize - block as isize;
                for d in 0..dv.div_ceil(WIDTH) {
                    let o = &mut o.strip_mut(d)[j * WIDTH..(j + 1) * WIDTH];
                    transposed(isa, p, queries, seen, v.strip(d), dv - d * WIDTH, o, start);
                }
            }
        }
        // SAFETY: this task's head and queries; the caller's promise.
        unsafe { put(isa, inputs, sequence, head, first, count, &states, o, o_out, lse_out, rows) };
    });
}

//! ```text
//! K, V in pairs along the width, K in pairs along the keys, for all tiles                  (shared out among threads)
//! for each step of the schedule:                                    see [`super::schedule::steps`]
//!   tasks = parts of the step × heads                               (shared out among threads)
//!   per task, a tile of queries and a span of keys, for each block of keys that some query of the tile sees:
//!     for each strip of queries:
//!       S[s, q]  = Σ_d K[s, d] · Q[d, q]                            pairs along d, as in forward
//!       dP[s, q] = Σ_d V[s, d] · dO[d, q]                           pairs along d
//!       P  = 2^(S · scale · log2 e − lse),  dS = P ⊙ (dP − delta) · scale            in f32, then rounded
//!       dQ[q, d] += Σ_s dS[s, q] · K[s, d]                          pairs along s
//!     dV[s, d] += Σ_q P[s, q]  · dO[q, d]                           pairs along q
//!     dK[s, d] += Σ_q dS[s, q] · Q[q, d]                            pairs along q
//! ```
//!
//! As [`super::backward`], with Q, K, V, dO, P and dS rounded to bf16. Scores are those of forward to the bit, so the
//! weights of a query have the sum 1; `delta` comes from the rounded dO, so the gradients of its scores have the sum 0.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use tensor::{Ctx, Isa};

use super::backward::{Gradients, HeadGradients, Outputs};
use super::bf16::rounded;
use super::forward::limits;
use super::packed_keys::{Layout, PackedKeys, Pass};
use super::pair_tile::{Start, transposed, upright};
use super::pairs::{PairStrips, pack_transposed_pairs, pack_two_rows};
use super::schedule::{Part, Sequence, steps};
use super::softmax_bf16::{Gradient, backward};
use super::strips::{Row, Rows, Strips, WIDTH};
use super::tile::{NO_SHIFT, TALLEST};
use super::{Dims, Inputs, KEYS};
use crate::simd::{LANES, reduce, simd};

/// Queries of a tile. The gradients of a block of keys are read and written once a tile, so it is larger than in f32,
/// where products take longer.
const QUERIES: usize = 512;

#[derive(Default)]
struct Scratch {
    q: Strips<u32>,              // [QUERIES / 2, dn+dr]
    q_transposed: Strips<u32>,   // [(dn+dr) / 2, QUERIES]
    d_o: Strips<u32>,            // [QUERIES / 2, dv]
    d_o_transposed: Strips<u32>, // [dv / 2, QUERIES]
    dq: Strips,                  // [QUERIES, dn+dr]
    dk: Strips,                  // [KEYS, dn+dr]
    dv: Strips,                  // [KEYS, dv]
    scores: Strips,              // [KEYS, 32]
    d_p: Strips,                 // [KEYS, 32]
    p: Strips<u32>,              // [KEYS, QUERIES / 2]
    ds: Strips<u32>,             // [KEYS, QUERIES / 2]
    ds_strip: Strips<u32>,       // [KEYS / 2, 32]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How many heads [`run`] should be given together.
pub(super) fn heads_at_once(dims: Dims, sequences: &[Sequence], threads: usize) -> usize {
    Layout::new(Pass::Backward, dims, sequences).heads_at_once(threads)
}

/// All gradients of some heads.
///
/// # Safety
/// Nothing else may access the gradients of these heads meanwhile.
pub(super) unsafe fn run(
    ctx: &Ctx,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
    sequences: &[Sequence],
    heads: Range<usize>,
    gradients: &Gradients<'_>,
) {
    let layout = Layout::new(Pass::Backward, inputs.dims, sequences);
    let keys = PackedKeys::new(ctx, inputs, &layout, sequences, heads.clone());
    for parts in steps(sequences, QUERIES) {
        ctx.for_each(parts.len() * heads.len(), |i| {
            let (part, head) = (&parts[i / heads.len()], heads.start + i % heads.len());
            let gradients = gradients.of(inputs.dims, &sequences[part.sequence], head, &heads);
            // SAFETY: the parts of a step share neither queries nor keys, so tasks differ in what they write.
            unsafe { add_part(ctx.isa, inputs, outputs, part, &keys, &gradients) };
        });
    }
}

/// What a part adds to the gradients of one head.
///
/// # Safety
/// Nothing else may access the gradients of these queries and keys in this head meanwhile.
unsafe fn add_part(
    isa: Isa,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
    part: &Part,
    packed: &PackedKeys<'_>,
    gradients: &HeadGradients<'_>,
) {
    let Dims { dn, dr, dv: width, .. } = inputs.dims;
    let (sequence, head) = (gradients.sequence(), gradients.head());
    let &Part { first, count, .. } = part;
    let depth = dn + dr;
    let strips = count.div_ceil(WIDTH);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { q, q_transposed, d_o, d_o_transposed, dq, dk, dv, scores, d_p, p, ds, ds_strip } = scratch;
        for (strips, rows, columns) in [
            (&mut *q, QUERIES / 2, depth),
            (q_transposed, depth.div_ceil(2), QUERIES),
            (d_o, QUERIES / 2, width),
            (d_o_transposed, width.div_ceil(2), QUERIES),
            (p, KEYS, QUERIES / 2),
            (ds, KEYS, QUERIES / 2),
            (ds_strip, KEYS / 2, WIDTH),
        ] {
            strips.reset(rows, columns);
        }
        for (strips, rows, columns) in [
            (&mut *dq, QUERIES, depth),
            (dk, KEYS, depth),
            (dv, KEYS, width),
            (scores, KEYS, WIDTH),
            (d_p, KEYS, WIDTH),
        ] {
            strips.reset(rows, columns);
        }
        let mut lse = [[0.0; WIDTH]; QUERIES / WIDTH];
        let mut delta = [[0.0; WIDTH]; QUERIES / WIDTH];
        let queries = inputs.queries(sequence, head, first, count);
        let gradient = outputs.gradient(inputs.dims, sequence, head, first, count);
        let nothing = Rows { width: 0, ..queries };
        pack_two_rows(isa, queries, nothing, QUERIES / 2, q.data_mut());
        pack_two_rows(isa, gradient, nothing, QUERIES / 2, d_o.data_mut());
        for j in 0..strips {
            let (first, count) = (first + j * WIDTH, WIDTH.min(count - j * WIDTH));
            let gradient = outputs.gradient(inputs.dims, sequence, head, first, count);
            pack_transposed_pairs(isa, inputs.queries(sequence, head, first, count), q_transposed.strip_mut(j));
            pack_transposed_pairs(isa, gradient, d_o_transposed.strip_mut(j));
            row_dots(isa, gradient, Rows { data: outputs.o, ..gradient }, &mut delta[j]);
            lse[j][..count].copy_from_slice(outputs.lse(sequence, head, first, count));
        }
        // SAFETY: this task's head and queries; the caller's promise.
        unsafe { gradients.load_queries(isa, part, dq) };
        for block in part.keys.clone().step_by(KEYS) {
            let keys = KEYS.min(first + count - block);
            let [k, v, k_two_rows] = [0, 1, 2].map(|matrix| packed.block(head, part.sequence, block, matrix));
            // Query j of the tile does not see keys from j + 1 − shift on.
            let shift = block as isize - first as isize;
            for j in block.saturating_sub(first) / WIDTH..strips {
                // SAFETY: this task's head and keys; the caller's promise.
                unsafe { gradients.prefetch_keys(isa, part, block, j, strips) };
                let (first, queries) = (first + j * WIDTH, WIDTH.min(count - j * WIDTH));
                let seen = [LANES, WIDTH].map(|n| keys.min((first + n.min(queries)).saturating_sub(block)));
                let visible = seen[1];
                let (s, d_p) = (scores.strip_mut(0), d_p.strip_mut(0));
                upright(isa, k, seen, depth.div_ceil(2), NO_SHIFT, q_transposed.strip(j), queries, s, false);
                upright(isa, v, seen, width.div_ceil(2), NO_SHIFT, d_o_transposed.strip(j), queries, d_p, false);
                let limits = limits(first, queries, block, visible);
                let softmax = Gradient {
                    limits: &limits,
                    lse: &lse[j],
                    delta: &delta[j],
                    unit: inputs.scale * LOG2_E,
                    scale: inputs.scale,
                };
                // A tile of dK or dV may reach beyond the visible keys; it must find zeros there.
                let end = KEYS.min(visible + TALLEST);
                let ds_strip = ds_strip.strip_mut(0);
                backward(
                    isa,
                    &s[..end],
                    &d_p[..end],
                    &softmax,
                    j % 2,
                    p.strip_mut(j / 2),
                    ds.strip_mut(j / 2),
                    ds_strip,
                );
                let ds = &ds_strip[..visible.div_ceil(2)];
                let seen = (first + 1) as isize - block as isize;
                for d in 0..depth.div_ceil(WIDTH) {
                    let dq = &mut dq.strip_mut(d)[j * WIDTH..(j + 1) * WIDTH];
                    transposed(isa, ds, queries, seen, k_two_rows.strip(d), depth - d * WIDTH, dq, Start::Kept);
                }
            }
            // SAFETY: this task's head and keys; the caller's promise.
            unsafe { gradients.load_keys(isa, part, block, dk, dv) };
            let pairs = count.div_ceil(2);
            let [p, ds] = [&*p, &*ds].map(|strips| PairStrips { data: strips.data(), rows: KEYS });
            for d in 0..width.div_ceil(WIDTH) {
                let columns = width - d * WIDTH;
                upright(isa, p, [keys; 2], pairs, shift, d_o.strip(d), columns, dv.strip_mut(d), true);
            }
            for d in 0..depth.div_ceil(WIDTH) {
                let columns = depth - d * WIDTH;
                upright(isa, ds, [keys; 2], pairs, shift, q.strip(d), columns, dk.strip_mut(d), true);
            }
            // SAFETY: as above.
            unsafe { gradients.store_keys(isa, block, dk, dv) };
        }
        // SAFETY: as for reading them.
        unsafe { gradients.store_queries(isa, part, 1.0, dq) };
    });
}

simd! {
    /// `out[i] = Σ_d a[i, d] · b[i, d]`, where `a` is rounded to bf16.
    fn row_dots(a: Rows<'_>, b: Rows<'_>, out: &mut Row) {
        for i in 0..a.count {
            let mut lanes = [0.0; LANES];
            let ((a, a_tail), (b, b_tail)) = (a.row(i).as_chunks::<LANES>(), b.row(i).as_chunks::<LANES>());
            for (a, b) in a.iter().zip(b) {
                for l in 0..LANES {
                    lanes[l] = rounded(a[l]).mul_add(b[l], lanes[l]);
                }
            }
            for ((lane, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
                *lane = rounded(*a).mul_add(*b, *lane);
            }
            out[i] = reduce(lanes);
        }
    }
}

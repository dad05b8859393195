//! ```text
//! for each step of the schedule:                                    see [`super::schedule::steps`]
//!   tasks = parts of the step × heads                               (shared out among threads)
//!   per task, a tile of queries and a span of keys, for each block of keys that some query of the tile sees:
//!     for each strip of queries:
//!       S[s, q]  = Σ_d K[s, d] · Q[d, q]                            Q is already multiplied by scale · log2 e
//!       dP[s, q] = Σ_d V[s, d] · dO[d, q]
//!       P  = 2^(S − lse),  dS = P ⊙ (dP − delta)                    delta[q] = Σ_d dO[q, d] · o[q, d]
//!       dQ[q, d] += Σ_s dS[s, q] · K[s, d]
//!     dV[s, d] += Σ_q P[s, q]  · dO[q, d]
//!     dK[s, d] += Σ_q dS[s, q] · Q[q, d]                            this Q by the scale alone
//! ```
//!
//! `P` and `dS` of a tile and a block, 168 KiB each, stay in the level-2 cache. `dQ` of a tile stays there until the
//! span is done; `dK` and `dV` of a block are read and written once a tile. In between, sums are in the results
//! themselves.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use tensor::{Ctx, Isa};

use super::disjoint::Disjoint;
use super::forward::limits;
use super::pairs::prefetch;
use super::schedule::{Part, Sequence, steps};
use super::softmax;
use super::strips::{Row, Rows, Strips, WIDTH, pack, pack_transposed, put_row, unpack};
use super::tile::{NO_SHIFT, TALLEST, transposed, upright};
use super::{Dims, Inputs, KEYS, QUERIES};
use crate::simd::{dot, simd};

/// What came out of forward, and the gradient that came back.
pub(super) struct Outputs<'a> {
    pub(super) d_o: &'a [f32], // [T, H·dv]
    pub(super) o: &'a [f32],   // [T, H·dv]
    pub(super) lse: &'a [f32], // [H, T]
    pub(super) rows: usize,    // T
}

/// Where the gradients go.
pub(super) struct Gradients<'a> {
    pub(super) dq: &'a Disjoint<'a>,      // [T, H·(dn+dr)]
    pub(super) dkv: &'a Disjoint<'a>,     // [T, H·(dn+dv)]
    pub(super) dk_rope: &'a Disjoint<'a>, // [heads of a wave, T, dr]
    pub(super) rows: usize,               // T
}

/// One head of the gradients of one sequence.
pub(super) struct HeadGradients<'a> {
    gradients: &'a Gradients<'a>,
    dims: Dims,
    sequence: &'a Sequence,
    head: usize,
    dk_rope_start: usize,
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
    for parts in steps(sequences, QUERIES) {
        ctx.for_each(parts.len() * heads.len(), |i| {
            let (part, head) = (&parts[i / heads.len()], heads.start + i % heads.len());
            let gradients = gradients.of(inputs.dims, &sequences[part.sequence], head, &heads);
            // SAFETY: the parts of a step share neither queries nor keys, so tasks differ in what they write.
            unsafe { add_part(ctx.isa, inputs, outputs, part, &gradients) };
        });
    }
}

#[derive(Default)]
struct Scratch {
    q: Strips,            // [QUERIES, dn+dr]
    q_transposed: Strips, // [dn+dr, QUERIES]
    d_o: Strips,          // [QUERIES, dv]
    d_o_transposed: Strips,
    dq: Strips, // [QUERIES, dn+dr]
    k: Strips,  // [KEYS, dn+dr]
    v: Strips,  // [KEYS, dv]
    dk: Strips,
    dv: Strips,
    p: Strips,  // [KEYS, QUERIES]
    ds: Strips, // [KEYS, QUERIES]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a part adds to the gradients of one head.
///
/// # Safety
/// Nothing else may access the gradients of these queries and keys in this head meanwhile.
unsafe fn add_part(isa: Isa, inputs: &Inputs<'_>, outputs: &Outputs<'_>, part: &Part, gradients: &HeadGradients<'_>) {
    let Dims { dn, dr, dv: width, .. } = inputs.dims;
    let &HeadGradients { sequence, head, .. } = gradients;
    let &Part { first, count, .. } = part;
    let (depth, value_strips, key_strips) = (dn + dr, width.div_ceil(WIDTH), (dn + dr).div_ceil(WIDTH));
    let strips = count.div_ceil(WIDTH);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { q, q_transposed, d_o, d_o_transposed, dq, k, v, dk, dv, p, ds } = scratch;
        for (strips, rows, columns) in [
            (&mut *q, QUERIES, depth),
            (q_transposed, depth, QUERIES),
            (d_o, QUERIES, width),
            (d_o_transposed, width, QUERIES),
            (dq, QUERIES, depth),
            (k, KEYS, depth),
            (v, KEYS, width),
            (dk, KEYS, depth),
            (dv, KEYS, width),
            (p, KEYS, QUERIES),
            (ds, KEYS, QUERIES),
        ] {
            strips.reset(rows, columns);
        }
        pack(isa, inputs.queries(sequence, head, first, count), inputs.scale, 0, q);
        pack(isa, outputs.gradient(inputs.dims, sequence, head, first, count), 1.0, 0, d_o);
        let mut lse = [[0.0; WIDTH]; QUERIES / WIDTH];
        let mut delta = [[0.0; WIDTH]; QUERIES / WIDTH];
        for j in 0..strips {
            let (first, count) = (first + j * WIDTH, WIDTH.min(count - j * WIDTH));
            let gradient = outputs.gradient(inputs.dims, sequence, head, first, count);
            let queries = inputs.queries(sequence, head, first, count);
            pack_transposed(isa, queries, inputs.scale * LOG2_E, q_transposed.strip_mut(j));
            pack_transposed(isa, gradient, 1.0, d_o_transposed.strip_mut(j));
            row_dots(isa, gradient, Rows { data: outputs.o, ..gradient }, &mut delta[j]);
            lse[j][..count].copy_from_slice(outputs.lse(sequence, head, first, count));
        }
        // SAFETY: this task's head and queries; the caller's promise.
        unsafe { gradients.load_queries(isa, part, dq) };
        for block in part.keys.clone().step_by(KEYS) {
            let keys = KEYS.min(first + count - block);
            inputs.pack_keys(isa, sequence, head, block, keys, k);
            pack(isa, inputs.values(sequence, head, block, keys), 1.0, 0, v);
            // Query j of the tile does not see keys from j + 1 − shift on.
            let shift = block as isize - first as isize;
            let first_strip = block.saturating_sub(first) / WIDTH;
            for j in first_strip..strips {
                // SAFETY: this task's head and keys; the caller's promise.
                unsafe { gradients.prefetch_keys(isa, part, block, j, strips) };
                let (first, queries) = (first + j * WIDTH, WIDTH.min(count - j * WIDTH));
                let visible = keys.min(first + WIDTH - block);
                let (p, ds) = (p.strip_mut(j), ds.strip_mut(j));
                upright(isa, k, visible, depth, NO_SHIFT, q_transposed.strip(j), queries, p, false);
                upright(isa, v, visible, width, NO_SHIFT, d_o_transposed.strip(j), queries, ds, false);
                // A tile of dK or dV may reach beyond the visible keys; it must find zeros there.
                let end = KEYS.min(visible + TALLEST - 1);
                let limits = limits(first, queries, block, visible);
                softmax::backward(isa, &mut p[..end], &mut ds[..end], &limits, &lse[j], &delta[j]);
                for d in 0..key_strips {
                    let dq = &mut dq.strip_mut(d)[j * WIDTH..(j + 1) * WIDTH];
                    transposed(isa, &ds[..visible], queries, &k.strip(d)[..visible], depth - d * WIDTH, dq, true);
                }
            }
            // SAFETY: this task's head and keys; the caller's promise.
            unsafe { gradients.load_keys(isa, part, block, dk, dv) };
            for d in 0..value_strips {
                upright(isa, p, keys, count, shift, d_o.strip(d), width - d * WIDTH, dv.strip_mut(d), true);
            }
            for d in 0..key_strips {
                upright(isa, ds, keys, count, shift, q.strip(d), depth - d * WIDTH, dk.strip_mut(d), true);
            }
            // SAFETY: as above.
            unsafe { gradients.store_keys(isa, block, dk, dv) };
        }
        // SAFETY: as for reading them.
        unsafe { gradients.store_queries(isa, part, inputs.scale, dq) };
    });
}

impl<'a> Outputs<'a> {
    /// `dO` of some queries in one head, `dv` wide.
    pub(super) fn gradient(
        &self,
        dims: Dims,
        sequence: &Sequence,
        head: usize,
        first: usize,
        count: usize,
    ) -> Rows<'a> {
        let Dims { heads, dv, .. } = dims;
        let start = (sequence.query_row(first) * heads + head) * dv;
        Rows { data: self.d_o, start, stride: heads * dv, width: dv, count }
    }

    pub(super) fn lse(&self, sequence: &Sequence, head: usize, first: usize, count: usize) -> &'a [f32] {
        &self.lse[head * self.rows + sequence.query_row(first)..][..count]
    }
}

impl Gradients<'_> {
    /// `heads` are those of the wave.
    pub(super) fn of<'a>(
        &'a self,
        dims: Dims,
        sequence: &'a Sequence,
        head: usize,
        heads: &Range<usize>,
    ) -> HeadGradients<'a> {
        let dk_rope_start = (head - heads.start) * self.rows * dims.dr;
        HeadGradients { gradients: self, dims, sequence, head, dk_rope_start }
    }
}

impl HeadGradients<'_> {
    pub(super) fn sequence(&self) -> &Sequence {
        self.sequence
    }

    pub(super) fn head(&self) -> usize {
        self.head
    }

    /// Reads what earlier spans of keys gave to the queries of a part.
    ///
    /// # Safety
    /// Nothing else may access these queries' gradients in this head meanwhile.
    pub(super) unsafe fn load_queries(&self, isa: Isa, part: &Part, dq: &mut Strips) {
        if part.keys.start == 0 {
            return dq.clear(self.dims.dn + self.dims.dr);
        }
        for i in 0..part.count {
            // SAFETY: the caller's promise.
            put_row(isa, unsafe { self.query(part.first + i) }, i, 0, dq);
        }
    }

    /// Writes them back; times `scale` when no keys follow.
    ///
    /// # Safety
    /// As [`HeadGradients::load_queries`].
    pub(super) unsafe fn store_queries(&self, isa: Isa, part: &Part, scale: f32, dq: &Strips) {
        let scale = if part.keys.end == part.first + part.count { scale } else { 1.0 };
        for i in 0..part.count {
            // SAFETY: the caller's promise.
            unpack(isa, dq, i, 0, scale, unsafe { self.query(part.first + i) });
        }
    }

    /// Says that the gradients of some keys of a block will be read soon: part `i` of `n` of them.
    ///
    /// # Safety
    /// Nothing else may access these keys' gradients in this head meanwhile.
    pub(super) unsafe fn prefetch_keys(&self, isa: Isa, part: &Part, block: usize, i: usize, n: usize) {
        let count = if block >= part.first { 0 } else { KEYS.min(self.sequence.len - block) };
        for position in block + count * i / n..block + count * (i + 1) / n {
            // SAFETY: the caller's promise.
            for row in unsafe { self.key(position) } {
                prefetch(isa, Rows { data: row, start: 0, stride: 0, width: row.len(), count: 1 });
            }
        }
    }

    /// Reads what earlier tiles gave to the keys of a block.
    ///
    /// # Safety
    /// Nothing else may access these keys' gradients in this head meanwhile.
    pub(super) unsafe fn load_keys(&self, isa: Isa, part: &Part, block: usize, dk: &mut Strips, dv: &mut Strips) {
        if block >= part.first {
            // No earlier tile sees this block.
            dk.clear(self.dims.dn + self.dims.dr);
            dv.clear(self.dims.dv);
            return;
        }
        for i in 0..KEYS.min(self.sequence.len - block) {
            // SAFETY: the caller's promise.
            let [nope, value, rope] = unsafe { self.key(block + i) };
            put_row(isa, nope, i, 0, dk);
            put_row(isa, rope, i, self.dims.dn, dk);
            put_row(isa, value, i, 0, dv);
        }
    }

    /// Writes them back.
    ///
    /// # Safety
    /// As [`HeadGradients::load_keys`].
    pub(super) unsafe fn store_keys(&self, isa: Isa, block: usize, dk: &Strips, dv: &Strips) {
        for i in 0..KEYS.min(self.sequence.len - block) {
            // SAFETY: the caller's promise.
            let [nope, value, rope] = unsafe { self.key(block + i) };
            unpack(isa, dk, i, 0, 1.0, nope);
            unpack(isa, dk, i, self.dims.dn, 1.0, rope);
            unpack(isa, dv, i, 0, 1.0, value);
        }
    }

    /// The gradient of one query.
    ///
    /// # Safety
    /// As [`HeadGradients::load_queries`], while the result lives.
    #[expect(clippy::mut_from_ref, reason = "that parts do not overlap is the caller's promise")]
    unsafe fn query(&self, position: usize) -> &mut [f32] {
        let Dims { heads, dn, dr, .. } = self.dims;
        let start = (self.sequence.query_row(position) * heads + self.head) * (dn + dr);
        // SAFETY: the caller's promise.
        unsafe { self.gradients.dq.part(start, dn + dr) }
    }

    /// The gradients of one key: `[k_nope, v, k_rope]`.
    ///
    /// # Safety
    /// As [`HeadGradients::load_keys`], while the result lives.
    #[expect(clippy::mut_from_ref, reason = "that parts do not overlap is the caller's promise")]
    unsafe fn key(&self, position: usize) -> [&mut [f32]; 3] {
        let Dims { heads, dn, dr, dv } = self.dims;
        let row = self.sequence.first_key_row + position;
        // SAFETY: the caller's promise; the two parts are of different buffers.
        let (kv, rope) = unsafe {
            (
                self.gradients.dkv.part((row * heads + self.head) * (dn + dv), dn + dv),
                self.gradients.dk_rope.part(self.dk_rope_start + row * dr, dr),
            )
        };
        let (nope, value) = kv.split_at_mut(dn);
        [nope, value, rope]
    }
}

simd! {
    /// `out[i] = Σ_d a[i, d] · b[i, d]`.
    fn row_dots(a: Rows<'_>, b: Rows<'_>, out: &mut Row) {
        for i in 0..a.count {
            out[i] = dot(a.row(i), b.row(i));
        }
    }
}

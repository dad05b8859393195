//! ```text
//! tasks = sequences × heads                                         (shared out among threads)
//! per task, for each tile of queries, for each block of keys that some query of it sees:
//!     for each strip of queries:
//!       S[s, q]  = Σ_d K[s, d] · Q[d, q]                            Q is already multiplied by scale · log2 e
//!       dP[s, q] = Σ_d V[s, d] · dO[d, q]
//!       P  = 2^(S − lse),  dS = P ⊙ (dP − delta)                   delta[q] = Σ_d dO[q, d] · o[q, d]
//!       dQ[q, d] += Σ_s dS[s, q] · K[s, d]
//!     dV[s, d] += Σ_q P[s, q]  · dO[q, d]
//!     dK[s, d] += Σ_q dS[s, q] · Q[q, d]                          this Q by the scale alone
//! ```
//!
//! `P` and `dS` of a tile and a block, 168 KiB each, stay in the level-2 cache. `dQ` of a tile stays there until the tile
//! is done; `dK` and `dV` of a block are read and written once a tile, in the result itself.

use std::cell::RefCell;
use std::f32::consts::LOG2_E;

use tensor::Isa;

use super::disjoint::Disjoint;
use super::forward::limits;
use super::softmax;
use super::strips::{Row, Rows, Strips, WIDTH, pack, pack_transposed, put_row, unpack};
use super::tile::{NO_SHIFT, TALLEST, transposed, upright};
use super::{Dims, Inputs, KEYS, QUERIES, Sequence};
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
    pub(super) dk_rope: &'a Disjoint<'a>, // [.., T, dr]
    pub(super) dk_rope_start: usize,      // this head's part of it
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

/// All gradients of one sequence in one head.
///
/// # Safety
/// Nothing else may access those elements of the gradients meanwhile.
pub(super) unsafe fn head(
    isa: Isa,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
    sequence: Sequence,
    head: usize,
    gradients: &Gradients<'_>,
) {
    let Dims { heads, dn, dr, dv: width } = inputs.dims;
    let (depth, value_strips, key_strips) = (dn + dr, width.div_ceil(WIDTH), (dn + dr).div_ceil(WIDTH));
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
        for first in (0..sequence.len).step_by(QUERIES) {
            let count = QUERIES.min(sequence.len - first);
            let strips = count.div_ceil(WIDTH);
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
                let start = head * outputs.rows + sequence.start + first;
                lse[j][..count].copy_from_slice(&outputs.lse[start..start + count]);
            }
            dq.clear(depth);
            for block in (0..first + count).step_by(KEYS) {
                let keys = KEYS.min(first + count - block);
                let rows = KEYS.min(sequence.len - block);
                inputs.pack_keys(isa, sequence, head, block, keys, k);
                pack(isa, inputs.values(sequence, head, block, keys), 1.0, 0, v);
                // Query j of the tile does not see keys from j + 1 − shift on.
                let shift = block as isize - first as isize;
                let first_strip = block.saturating_sub(first) / WIDTH;
                for j in first_strip..strips {
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
                if block >= first {
                    // The first tile that sees this block.
                    dk.clear(depth);
                    dv.clear(width);
                } else {
                    // SAFETY: this task's head and sequence; the caller's promise.
                    unsafe { gradients.load(isa, inputs.dims, sequence, head, block, rows, dk, dv) };
                }
                for d in 0..value_strips {
                    upright(isa, p, keys, count, shift, d_o.strip(d), width - d * WIDTH, dv.strip_mut(d), true);
                }
                for d in 0..key_strips {
                    upright(isa, ds, keys, count, shift, q.strip(d), depth - d * WIDTH, dk.strip_mut(d), true);
                }
                // SAFETY: as above.
                unsafe { gradients.store(isa, inputs.dims, sequence, head, block, rows, dk, dv) };
            }
            for i in 0..count {
                let start = ((sequence.start + first + i) * heads + head) * depth;
                // SAFETY: this task's head and query; the caller's promise.
                unpack(isa, dq, i, 0, inputs.scale, unsafe { gradients.dq.part(start, depth) });
            }
        }
    });
}

impl<'a> Outputs<'a> {
    /// `dO` of some queries in one head, `dv` wide.
    fn gradient(&self, dims: Dims, sequence: Sequence, head: usize, first: usize, count: usize) -> Rows<'a> {
        let Dims { heads, dv, .. } = dims;
        let start = ((sequence.start + first) * heads + head) * dv;
        Rows { data: self.d_o, start, stride: heads * dv, width: dv, count }
    }
}

impl Gradients<'_> {
    /// Reads what earlier tiles gave to the keys of a block.
    ///
    /// # Safety
    /// Nothing else may access these keys' gradients in this head meanwhile.
    unsafe fn load(
        &self,
        isa: Isa,
        dims: Dims,
        sequence: Sequence,
        head: usize,
        block: usize,
        rows: usize,
        dk: &mut Strips,
        dv: &mut Strips,
    ) {
        for i in 0..rows {
            // SAFETY: the caller's promise.
            let [nope, value, rope] = unsafe { self.row(dims, sequence.start + block + i, head) };
            put_row(isa, nope, i, 0, dk);
            put_row(isa, rope, i, dims.dn, dk);
            put_row(isa, value, i, 0, dv);
        }
    }

    /// Writes them back.
    ///
    /// # Safety
    /// As [`Gradients::load`].
    unsafe fn store(
        &self,
        isa: Isa,
        dims: Dims,
        sequence: Sequence,
        head: usize,
        block: usize,
        rows: usize,
        dk: &Strips,
        dv: &Strips,
    ) {
        for i in 0..rows {
            // SAFETY: the caller's promise.
            let [nope, value, rope] = unsafe { self.row(dims, sequence.start + block + i, head) };
            unpack(isa, dk, i, 0, 1.0, nope);
            unpack(isa, dk, i, dims.dn, 1.0, rope);
            unpack(isa, dv, i, 0, 1.0, value);
        }
    }

    /// The gradients of one key in one head: `[k_nope, v, k_rope]`.
    ///
    /// # Safety
    /// As [`Gradients::load`], while the result lives.
    #[expect(clippy::mut_from_ref, reason = "that parts do not overlap is the caller's promise")]
    unsafe fn row(&self, dims: Dims, row: usize, head: usize) -> [&mut [f32]; 3] {
        let Dims { heads, dn, dr, dv } = dims;
        // SAFETY: the caller's promise; the two parts are of different buffers.
        let (kv, rope) = unsafe {
            (
                self.dkv.part((row * heads + head) * (dn + dv), dn + dv),
                self.dk_rope.part(self.dk_rope_start + row * dr, dr),
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

#![doc = include_str!("README.md")]

mod bf16;
mod block;
#[cfg(test)]
mod cache_tests;
pub mod cases;
mod cpu;
mod fp8;
mod join;
mod kernel;
mod latents;
pub mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use tensor::{Ctx, Storage, Tensor};

use block::Line;
pub use latents::{BLOCK_TOKENS, CacheKind, Latents, SharedBlock};

pub use crate::mla_attention::Dims;
use crate::mla_attention::disjoint::Disjoint;
use crate::simd::LANES;
use crate::{Precision, gemv};

/// The new rows of one sequence. Their own latents are in the cache already.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// What the rows attend to.
    pub cache: &'a Latents,
    /// Which rows of the batch belong to this sequence.
    pub rows: Range<usize>,
    /// The position of the first of them: row `i` sees keys `0..=first_position + i`.
    pub first_position: usize,
}

/// The weighted latents of each head, `u [T, H·rk]`: `u[t, h] = Σ_s softmax_s(score[t, h, s]) · c_s`, where
/// `score[t, h, s] = (q_latent[t, h] · c_s + q_rope[t, h] · r_s) · scale`.
///
/// `q_latent [T, H·rk]` comes from [`absorb`]; of `q [T, H·(dn+dr)]` only the rotated parts are read. The queries cover
/// the rows in order. Any kind of cache goes with either precision: what a cache holds is read as f32, or rounded to bf16,
/// which changes nothing for the kinds `Bf16` and `Fp8`.
pub fn forward(
    ctx: &Ctx,
    q_latent: &Tensor,
    q: &Tensor,
    queries: &[Query<'_>],
    dims: Dims,
    scale: f32,
    precision: Precision,
) -> Tensor {
    in_waves(ctx, q_latent, q, queries, dims, scale, precision, PARTIAL_LEN)
}

/// Queries in latent space, `q_nope · W_UK` head by head: `q` is `[T, H·(dn+dr)]`, `kv_b` is `[H·(dn+dv), rk]`, the result
/// `[T, H·rk]`.
pub fn absorb(ctx: &Ctx, q: &Tensor, kv_b: &Storage, dims: Dims, precision: Precision) -> Tensor {
    gemv::heads_nn(ctx, q, kv_b, dims, precision)
}

/// The attention output, `W_UV · u` head by head: `u` is `[T, H·rk]`, `kv_b` is `[H·(dn+dv), rk]`, the result `[T, H·dv]`.
pub fn expand(ctx: &Ctx, u: &Tensor, kv_b: &Storage, dims: Dims, precision: Precision) -> Tensor {
    gemv::heads_nt(ctx, u, kv_b, dims, precision)
}

/// Columns of a part, a column being one head of one row: they share a pass over the keys.
const COLUMNS: usize = 128;
/// What the results of parts may occupy, in numbers: 1 MiB, so that they are still in a cache when they are joined.
const PARTIAL_LEN: usize = 1 << 18;
/// Columns that one task of joining takes.
const JOINED: usize = 4;

/// Runs `task(0)` to `task(n - 1)`: on all threads if there are products enough to pay for waking them.
fn spread(ctx: &Ctx, n: usize, products: usize, task: impl Fn(usize) + Sync + Send) {
    const WORTHWHILE: usize = 1 << 18;
    if products < WORTHWHILE { (0..n).for_each(task) } else { ctx.for_each(n, task) }
}

/// [`forward`] with at most `partial_len` numbers in the results of all parts that are under way at a time, but no fewer
/// than two parts for each thread.
fn in_waves(
    ctx: &Ctx,
    q_latent: &Tensor,
    q: &Tensor,
    queries: &[Query<'_>],
    dims: Dims,
    scale: f32,
    precision: Precision,
    partial_len: usize,
) -> Tensor {
    let ([t, width], heads) = (q_latent.dims(), dims.heads);
    let rk = width / heads;
    check(q_latent, q, queries, dims);
    let inputs = cpu::Inputs { q_latent: q_latent.data(), q: q.data(), queries, dims, rk, scale };
    let (chunk, stride, (packed, first_strips)) = match precision {
        Precision::F32 => (cpu::CHUNK, rk, Default::default()),
        Precision::Bf16 => (bf16::CHUNK, rk.next_multiple_of(32), pack(ctx, &inputs)),
    };
    let parts: Vec<cpu::Part> = queries.iter().enumerate().flat_map(|(i, query)| cut(i, query, heads, chunk)).collect();
    let columns = parts.iter().map(|part| part.columns.len()).max().unwrap_or(0).next_multiple_of(kernel::COLUMNS);
    let slots = (partial_len / (columns * stride).max(1)).max(2 * ctx.threads()).min(parts.len());
    let (mut partial, mut partial_softmax) = (ctx.empty([slots, columns, stride]), ctx.empty([slots, columns, 2]));
    let (mut u, mut softmax) = (ctx.empty([t, heads * rk]), ctx.empty([t, heads, 2]));
    for parts in parts.chunks(slots.max(1)) {
        let slot_u = Disjoint::new(partial.data_mut());
        let slot_softmax = Disjoint::new(partial_softmax.data_mut());
        let products = parts.iter().map(|part| part.columns.len() * part.keys.len() * (2 * rk + dims.dr)).sum();
        // Parts in a row, so that one can have the memory of the next fetched.
        let in_a_row = parts.len().div_ceil(4 * ctx.threads());
        spread(ctx, parts.len().div_ceil(in_a_row), products, |task| {
            for slot in task * in_a_row..parts.len().min((task + 1) * in_a_row) {
                let part = &parts[slot];
                let n = part.columns.len();
                let padded = n.next_multiple_of(kernel::COLUMNS);
                // SAFETY: each part has its own slot.
                let (u, softmax) = unsafe {
                    (
                        slot_u.part(slot * columns * stride, padded * stride),
                        slot_softmax.part(slot * columns * 2, padded * 2),
                    )
                };
                match precision {
                    Precision::F32 => {
                        cpu::attend(ctx.isa, &inputs, part, &mut u[..n * stride], &mut softmax[..n * 2]);
                    }
                    Precision::Bf16 => {
                        let len = bf16::strip_len(dims, rk);
                        let first = first_strips[part.query] + part.columns.start / LANES;
                        let q = &packed[first * len..][..n.div_ceil(LANES) * len];
                        let next = if (slot + 1).is_multiple_of(in_a_row) { in_a_row * (ctx.threads() - 1) } else { 0 };
                        let next = parts.get(slot + 1 + next);
                        bf16::attend(ctx.isa, &inputs, part, q, next, u, stride, softmax);
                    }
                }
            }
        });
        // The parts of some columns follow one another; they are joined in the order of their keys.
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (slot, part) in parts.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if part.chunk > 0 => run.end += 1,
                _ => runs.push(slot..slot + 1),
            }
        }
        let joins: Vec<(Range<usize>, usize)> = runs
            .into_iter()
            .flat_map(|run| (0..parts[run.start].columns.len()).step_by(JOINED).map(move |j| (run.clone(), j)))
            .collect();
        let (all_u, all_softmax) = (Disjoint::new(u.data_mut()), Disjoint::new(softmax.data_mut()));
        spread(ctx, joins.len(), 2 * parts.len() * columns * rk, |i| {
            let (run, first) = joins[i].clone();
            let part = &parts[run.start];
            for j in first..part.columns.len().min(first + JOINED) {
                let column = queries[part.query].rows.start * heads + part.columns.start + j;
                // SAFETY: runs differ in their columns or their query, and queries in their rows (`check`).
                let (u, softmax) = unsafe { (all_u.part(column * rk, rk), all_softmax.part(column * 2, 2)) };
                let softmax: &mut [f32; 2] = softmax.as_mut_array().expect("a maximum and a sum");
                for slot in run.clone() {
                    let at = slot * columns + j;
                    let from = [partial_softmax.data()[2 * at], partial_softmax.data()[2 * at + 1]];
                    join::join(
                        ctx.isa,
                        parts[slot].chunk == 0,
                        &partial.data()[at * stride..][..stride],
                        from,
                        u,
                        softmax,
                    );
                }
                if parts[run.end - 1].is_last(queries, heads) {
                    join::normalise(ctx.isa, u, softmax[1]);
                }
            }
        });
    }
    u
}

/// The parts of one query: its columns in groups, and for each group the keys in chunks.
fn cut(query: usize, of: &Query<'_>, heads: usize, chunk: usize) -> Vec<cpu::Part> {
    let all = of.rows.len() * heads;
    let mut parts = Vec::new();
    for start in (0..all).step_by(COLUMNS) {
        let columns = start..all.min(start + COLUMNS);
        let keys = of.keys_of(&columns, heads);
        for (number, first) in (0..keys).step_by(chunk).enumerate() {
            let keys = first..keys.min(first + chunk);
            parts.push(cpu::Part { query, columns: columns.clone(), chunk: number, keys });
        }
    }
    parts
}

impl Query<'_> {
    /// How many keys some columns of the query see.
    fn keys_of(&self, columns: &Range<usize>, heads: usize) -> usize {
        self.first_position + (columns.end - 1) / heads + 1
    }
}

/// The strips of all queries, one after the other, and for each query which is its first.
fn pack(ctx: &Ctx, inputs: &cpu::Inputs<'_>) -> (Vec<Line>, Vec<usize>) {
    let (heads, len) = (inputs.dims.heads, bf16::strip_len(inputs.dims, inputs.rk));
    // The columns of each strip, counted from the first row of the batch.
    let (mut strips, mut first_strips) = (Vec::new(), Vec::new());
    for query in inputs.queries {
        first_strips.push(strips.len());
        let end = query.rows.end * heads;
        strips.extend((query.rows.start * heads..end).step_by(LANES).map(|first| first..end.min(first + LANES)));
    }
    let mut packed = vec![Line::ZERO; strips.len() * len];
    ctx.for_each_chunk(&mut packed, len, |i, to| bf16::pack(ctx.isa, inputs, strips[i].clone(), to));
    (packed, first_strips)
}

fn check(q_latent: &Tensor, q: &Tensor, queries: &[Query<'_>], dims: Dims) {
    let ([t, width], Dims { heads, dn, dr, .. }) = (q_latent.dims(), dims);
    assert!(
        q.dims() == [t, heads * (dn + dr)] && width.is_multiple_of(heads),
        "mla_decode: q_latent {q_latent:?} and q {q:?} do not fit {dims:?}"
    );
    let mut next = 0;
    for Query { cache, rows, first_position } in queries {
        let keys = first_position + rows.len();
        let block::Shape { rk, dr: cached_dr, .. } = cache.shape();
        assert!(
            rk * heads == width && cached_dr == dr && cache.len() >= keys,
            "mla_decode: {cache:?} does not hold the {keys} keys of rows {rows:?} of {q_latent:?} with {dims:?}"
        );
        assert!(rows.start == next && rows.end >= next, "mla_decode: rows {rows:?} do not follow row {next}");
        next = rows.end;
    }
    assert_eq!(next, t, "mla_decode: the queries cover {next} of {t} rows");
}

#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use tensor::{Ctx, Storage, Tensor};

use crate::gemm::cpu::{Output, Product, run};
use crate::gemm::pack::View;
pub use crate::mla_attention::Dims;
use crate::mla_attention::KEYS;
use crate::mla_attention::disjoint::Disjoint;

/// The latent cache of one sequence in one layer, row-major.
#[derive(Clone, Copy, Debug)]
pub struct CacheView<'a> {
    /// Normalised latents, `[len, rk]`.
    pub c: &'a [f32],
    /// Rotated shared keys, `[len, dr]`.
    pub r: &'a [f32],
}

/// The new rows of one sequence. Their own latents are in the cache already.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// What the rows attend to.
    pub cache: CacheView<'a>,
    /// Which rows of the batch belong to this sequence.
    pub rows: Range<usize>,
    /// The position of the first of them: row `i` sees keys `0..=first_position + i`.
    pub first_position: usize,
}

/// The weighted latents of each head, `u [T, H·rk]`: `u[t, h] = Σ_s softmax_s(score[t, h, s]) · c_s`, where
/// `score[t, h, s] = (q_latent[t, h] · c_s + q_rope[t, h] · r_s) · scale`.
///
/// `q_latent [T, H·rk]` comes from [`absorb`]; of `q [T, H·(dn+dr)]` only the rotated parts are read. The queries cover
/// the rows in order.
pub fn forward(ctx: &Ctx, q_latent: &Tensor, q: &Tensor, queries: &[Query<'_>], dims: Dims, scale: f32) -> Tensor {
    in_waves(ctx, q_latent, q, queries, dims, scale, PARTIAL_LEN)
}

/// Queries in latent space, `q_nope · W_UK` head by head: `q` is `[T, H·(dn+dr)]`, `kv_b` is `[H·(dn+dv), rk]`, the result
/// `[T, H·rk]`.
pub fn absorb(ctx: &Ctx, q: &Tensor, kv_b: &Storage, dims: Dims) -> Tensor {
    let Dims { heads, dn, dr, dv } = dims;
    let ([t, width], (weight, rk)) = (q.dims(), weight(kv_b, dims));
    assert_eq!(width, heads * (dn + dr), "mla_decode: q {q:?} does not fit {dims:?}");
    each_head(ctx, [t, heads, rk], dn, |h| {
        (View::rows(q.data(), width).at(0, h * (dn + dr)), weight.at(h * (dn + dv), 0))
    })
}

/// The attention output, `W_UV · u` head by head: `u` is `[T, H·rk]`, `kv_b` is `[H·(dn+dv), rk]`, the result `[T, H·dv]`.
pub fn expand(ctx: &Ctx, u: &Tensor, kv_b: &Storage, dims: Dims) -> Tensor {
    let Dims { heads, dn, dv, .. } = dims;
    let ([t, width], (weight, rk)) = (u.dims(), weight(kv_b, dims));
    assert_eq!(width, heads * rk, "mla_decode: u {u:?} does not fit kv_b {:?} and {dims:?}", kv_b.shape());
    each_head(ctx, [t, heads, dv], rk, |h| {
        (View::rows(u.data(), width).at(0, h * rk), weight.at(h * (dn + dv) + dn, 0).transposed())
    })
}

/// Columns of a part, a column being one head of one row: they share a pass over the keys.
const COLUMNS: usize = 128;
/// Keys of a part. Part of the arithmetic, like [`KEYS`]: another number gives other roundings.
const CHUNK: usize = 6 * KEYS;
/// What the results of parts may occupy, in numbers: 16 MiB, 64 parts of DeepSeek-V3.
const PARTIAL_LEN: usize = 1 << 22;

/// Runs `task(0)` to `task(n - 1)`: on all threads if there are products enough to pay for waking them.
fn spread(ctx: &Ctx, n: usize, products: usize, task: impl Fn(usize) + Sync + Send) {
    const WORTHWHILE: usize = 1 << 20;
    if products < WORTHWHILE { (0..n).for_each(task) } else { ctx.for_each(n, task) }
}

/// [`forward`] with at most `partial_len` numbers in the results of all parts that are under way at a time, but no fewer
/// parts than threads.
fn in_waves(
    ctx: &Ctx,
    q_latent: &Tensor,
    q: &Tensor,
    queries: &[Query<'_>],
    dims: Dims,
    scale: f32,
    partial_len: usize,
) -> Tensor {
    let ([t, width], heads) = (q_latent.dims(), dims.heads);
    let rk = width / heads;
    check(q_latent, q, queries, dims);
    let inputs = cpu::Inputs { q_latent: q_latent.data(), q: q.data(), queries, dims, rk, scale };
    let parts: Vec<cpu::Part> = queries.iter().enumerate().flat_map(|(i, query)| cut(i, query, heads)).collect();
    let columns = parts.iter().map(|part| part.columns.len()).max().unwrap_or(0);
    let slots = (partial_len / (columns * rk).max(1)).max(ctx.threads()).min(parts.len());
    let (mut partial, mut partial_softmax) = (ctx.empty([slots, columns, rk]), ctx.empty([slots, columns, 2]));
    let (mut u, mut softmax) = (ctx.empty([t, heads * rk]), ctx.empty([t, heads, 2]));
    for parts in parts.chunks(slots.max(1)) {
        let slot_u = Disjoint::new(partial.data_mut());
        let slot_softmax = Disjoint::new(partial_softmax.data_mut());
        let products = parts.iter().map(|part| part.columns.len() * part.keys.len() * (2 * rk + dims.dr)).sum();
        spread(ctx, parts.len(), products, |slot| {
            let n = parts[slot].columns.len();
            // SAFETY: each part has its own slot.
            let (u, softmax) =
                unsafe { (slot_u.part(slot * columns * rk, n * rk), slot_softmax.part(slot * columns * 2, n * 2)) };
            cpu::attend(ctx.isa, &inputs, &parts[slot], u, softmax);
        });
        // The parts of some columns follow one another; they are joined in the order of their keys.
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (slot, part) in parts.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if part.chunk > 0 => run.end += 1,
                _ => runs.push(slot..slot + 1),
            }
        }
        let (all_u, all_softmax) = (Disjoint::new(u.data_mut()), Disjoint::new(softmax.data_mut()));
        spread(ctx, runs.len(), parts.iter().map(|part| 16 * part.columns.len() * rk).sum(), |i| {
            for slot in runs[i].clone() {
                let part = &parts[slot];
                let (first, n) = (queries[part.query].rows.start * heads + part.columns.start, part.columns.len());
                // SAFETY: runs differ in their columns or their query, and queries in their rows (`check`).
                let (u, softmax) = unsafe { (all_u.part(first * rk, n * rk), all_softmax.part(first * 2, n * 2)) };
                let partial = &partial.data()[slot * columns * rk..][..n * rk];
                let partial_softmax = &partial_softmax.data()[slot * columns * 2..][..n * 2];
                cpu::join(ctx.isa, part, partial, partial_softmax, u, softmax);
            }
        });
    }
    u
}

/// The parts of one query: its columns in groups, and for each group the keys in chunks.
fn cut(query: usize, of: &Query<'_>, heads: usize) -> Vec<cpu::Part> {
    let all = of.rows.len() * heads;
    let mut parts = Vec::new();
    for start in (0..all).step_by(COLUMNS) {
        let columns = start..all.min(start + COLUMNS);
        let keys = of.first_position + (columns.end - 1) / heads + 1;
        for (chunk, first) in (0..keys).step_by(CHUNK).enumerate() {
            let end = keys.min(first + CHUNK);
            parts.push(cpu::Part { query, columns: columns.clone(), chunk, keys: first..end, last: end == keys });
        }
    }
    parts
}

/// `[t, n]` for each head, side by side: the product of the two views that `operands` gives for the head.
fn each_head<'a>(
    ctx: &Ctx,
    [t, heads, n]: [usize; 3],
    k: usize,
    operands: impl Fn(usize) -> (View<'a>, View<'a>),
) -> Tensor {
    let mut out = ctx.empty([t, heads * n]);
    let c = out.data_mut().as_mut_ptr();
    let products: Vec<Product<'_>> = (0..heads)
        .map(|h| {
            let (a, b) = operands(h);
            Product { m: t, n, k, a, b, c: Output { c: c.wrapping_add(h * n), ldc: heads * n, accumulate: false } }
        })
        .collect();
    // SAFETY: each head has its own columns of `out`, which this function owns.
    unsafe { run(ctx, &products) };
    out
}

/// `kv_b` as a matrix with rows of `rk`, and `rk`.
fn weight(kv_b: &Storage, dims: Dims) -> (View<'_>, usize) {
    let ([rows, rk], Dims { heads, dn, dv, .. }) = (kv_b.dims(), dims);
    assert_eq!(rows, heads * (dn + dv), "mla_decode: kv_b {:?} does not fit {dims:?}", kv_b.shape());
    let mut matrices = kv_b.group(0);
    let (Some(matrix), None) = (matrices.next(), matrices.next()) else { panic!("mla_decode: kv_b is one matrix") };
    (View::of(matrix), rk)
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
        assert!(
            cache.c.len() >= keys * (width / heads) && cache.r.len() >= keys * dr,
            "mla_decode: a cache of {} and {} values does not hold the {keys} keys of rows {rows:?}",
            cache.c.len(),
            cache.r.len()
        );
        assert!(rows.start == next && rows.end >= next, "mla_decode: rows {rows:?} do not follow row {next}");
        next = rows.end;
    }
    assert_eq!(next, t, "mla_decode: the queries cover {next} of {t} rows");
}

#![doc = include_str!("README.md")]

mod backward;
pub mod cases;
pub(crate) mod disjoint;
mod forward;
pub mod reference;
pub(crate) mod softmax;
pub(crate) mod strips;
#[cfg(test)]
mod tests;
pub(crate) mod tile;

use disjoint::Disjoint;
use tensor::{Ctx, Tensor};

/// The sizes of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Heads, H.
    pub heads: usize,
    /// Dimensions of queries and keys without position.
    pub dn: usize,
    /// Dimensions of queries and keys with position.
    pub dr: usize,
    /// Dimensions of values.
    pub dv: usize,
}

/// What backward needs beyond the inputs and the result of forward.
#[derive(Clone, Debug)]
pub struct Saved {
    lse: Tensor, // [H, T], the logarithm, to base 2, of the sum of exponentials of a query's scores
}

/// Causal attention within each sequence; the result is `o [T, H·dv]`.
///
/// `q [T, H·(dn+dr)]` and `k_rope [T, dr]` are already rotated; `kv [T, H·(dn+dv)]` holds `[k_nope ; v]` of each head. The
/// sequences are rows `cu_seqlens[i]..cu_seqlens[i + 1]`; scores are multiplied by `scale`.
pub fn forward(
    ctx: &Ctx,
    q: &Tensor,
    kv: &Tensor,
    k_rope: &Tensor,
    cu_seqlens: &[usize],
    dims: Dims,
    scale: f32,
) -> (Tensor, Saved) {
    let t = check(q, kv, k_rope, cu_seqlens, dims);
    let mut o = ctx.empty([t, dims.heads * dims.dv]);
    let mut lse = ctx.empty([dims.heads, t]);
    let inputs = Inputs { q: q.data(), kv: kv.data(), k_rope: k_rope.data(), dims, scale };
    let tiles: Vec<(Sequence, usize)> = sequences(cu_seqlens)
        .flat_map(|sequence| (0..sequence.len).step_by(QUERIES).map(move |first| (sequence, first)))
        .collect();
    let (o_parts, lse_parts) = (Disjoint::new(o.data_mut()), Disjoint::new(lse.data_mut()));
    ctx.for_each(tiles.len() * dims.heads, |i| {
        let (sequence, first) = tiles[i / dims.heads];
        // SAFETY: tasks differ in their queries or their head, and write `o` and `lse` of theirs alone.
        unsafe { forward::tile(ctx.isa, &inputs, sequence, i % dims.heads, first, &o_parts, &lse_parts, t) };
    });
    (o, Saved { lse })
}

/// `(dq, dkv, dk_rope)`, each of the shape of its input; `d_o` and `o` are `[T, H·dv]`.
pub fn backward(
    ctx: &Ctx,
    d_o: &Tensor,
    q: &Tensor,
    kv: &Tensor,
    k_rope: &Tensor,
    o: &Tensor,
    saved: Saved,
    cu_seqlens: &[usize],
    dims: Dims,
    scale: f32,
) -> (Tensor, Tensor, Tensor) {
    let t = check(q, kv, k_rope, cu_seqlens, dims);
    assert_eq!(o.dims(), [t, dims.heads * dims.dv], "mla_attention: o {o:?} does not fit {dims:?}");
    assert_eq!(d_o.shape(), o.shape(), "mla_attention: dO {d_o:?} and o {o:?} differ");
    let Saved { lse } = saved;
    let inputs = Inputs { q: q.data(), kv: kv.data(), k_rope: k_rope.data(), dims, scale };
    let outputs = backward::Outputs { d_o: d_o.data(), o: o.data(), lse: lse.data(), rows: t };
    let (mut dq, mut dkv) = (ctx.empty(q.shape()), ctx.empty(kv.shape()));
    let mut dk_rope = ctx.zeros(k_rope.shape());
    let sequences: Vec<Sequence> = sequences(cu_seqlens).collect();
    let (dq_parts, dkv_parts) = (Disjoint::new(dq.data_mut()), Disjoint::new(dkv.data_mut()));
    // Each head of a wave has its own `dk_rope`; they are added in the order of the heads, whoever computed them.
    for wave in (0..dims.heads).step_by(HEADS_AT_ONCE) {
        let heads = HEADS_AT_ONCE.min(dims.heads - wave);
        let mut by_head = ctx.empty([heads, t, dims.dr]);
        let parts = Disjoint::new(by_head.data_mut());
        ctx.for_each(sequences.len() * heads, |i| {
            let (sequence, head) = (sequences[i / heads], i % heads);
            let gradients = backward::Gradients {
                dq: &dq_parts,
                dkv: &dkv_parts,
                dk_rope: &parts,
                dk_rope_start: head * t * dims.dr,
            };
            // SAFETY: tasks differ in their sequence or their head, and write the gradients of theirs alone.
            unsafe { backward::head(ctx.isa, &inputs, &outputs, sequence, wave + head, &gradients) };
        });
        ctx.for_each_chunk(dk_rope.data_mut(), SUM_CHUNK, |i, sum| {
            for head in by_head.data().chunks_exact((t * dims.dr).max(1)) {
                for (sum, x) in sum.iter_mut().zip(&head[i * SUM_CHUNK..]) {
                    *sum += x;
                }
            }
        });
    }
    (dq, dkv, dk_rope)
}

/// Queries that share a pass over the keys.
const QUERIES: usize = 256;
/// Keys of one step of the online softmax. Part of the arithmetic: another number gives other roundings. A multiple of
/// all tile heights, so that no tile is filled in vain.
pub(crate) const KEYS: usize = 168;
/// Heads of backward that keep a `dk_rope` of their own at the same time.
const HEADS_AT_ONCE: usize = 16;
/// Elements per task of the sum of `dk_rope` over heads.
const SUM_CHUNK: usize = 4096;

/// Rows `start..start + len` of all tensors.
#[derive(Clone, Copy)]
struct Sequence {
    start: usize,
    len: usize,
}

struct Inputs<'a> {
    q: &'a [f32],      // [T, H·(dn+dr)]
    kv: &'a [f32],     // [T, H·(dn+dv)]
    k_rope: &'a [f32], // [T, dr]
    dims: Dims,
    scale: f32,
}

fn sequences(cu_seqlens: &[usize]) -> impl Iterator<Item = Sequence> {
    cu_seqlens.windows(2).map(|ends| Sequence { start: ends[0], len: ends[1] - ends[0] })
}

fn check(q: &Tensor, kv: &Tensor, k_rope: &Tensor, cu_seqlens: &[usize], dims: Dims) -> usize {
    let Dims { heads, dn, dr, dv } = dims;
    let [t, _] = q.dims();
    assert!(
        q.dims() == [t, heads * (dn + dr)] && kv.dims() == [t, heads * (dn + dv)] && k_rope.dims() == [t, dr],
        "mla_attention: q {q:?}, kv {kv:?} and k_rope {k_rope:?} do not fit {dims:?}"
    );
    assert!(
        cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&t) && cu_seqlens.is_sorted(),
        "mla_attention: cu_seqlens do not cut {t} rows into sequences"
    );
    t
}

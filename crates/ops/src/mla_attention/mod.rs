#![doc = include_str!("README.md")]

mod backward;
mod backward_bf16;
mod bf16;
pub mod cases;
pub(crate) mod disjoint;
mod forward;
mod forward_bf16;
mod packed_keys;
mod pair_tile;
mod pairs;
pub mod reference;
mod schedule;
pub(crate) mod softmax;
mod softmax_bf16;
pub(crate) mod strips;
#[cfg(test)]
mod tests;
pub(crate) mod tile;

use std::ops::Range;

use disjoint::Disjoint;
use schedule::sequences;
use tensor::{Ctx, Tensor};

use crate::Precision;

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

/// Sequences of which only the last positions are queries: chunks of prompts whose earlier chunks came before.
///
/// Sequence `i` has rows `q_offsets[i]..q_offsets[i + 1]` of the queries and rows `k_offsets[i]..k_offsets[i + 1]` of
/// the keys.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'a> {
    /// Boundaries of the queries.
    pub q_offsets: &'a [usize],
    /// Boundaries of the keys: of a sequence's beginning up to the end of its queries.
    pub k_offsets: &'a [usize],
}

/// Causal attention within each sequence; the result is `o [T, H·dv]`.
///
/// `q [T, H·(dn+dr)]` and `k_rope [T, dr]` are already rotated; `kv [T, H·(dn+dv)]` holds `[k_nope ; v]` of each head.
/// The sequences are rows `cu_seqlens[i]..cu_seqlens[i + 1]`; scores are multiplied by `scale`.
pub fn forward(
    ctx: &Ctx,
    q: &Tensor,
    kv: &Tensor,
    k_rope: &Tensor,
    cu_seqlens: &[usize],
    dims: Dims,
    scale: f32,
    precision: Precision,
) -> (Tensor, Saved) {
    let whole = Chunks { q_offsets: cu_seqlens, k_offsets: cu_seqlens };
    let [t, _] = q.dims();
    let mut o = ctx.empty([t, dims.heads * dims.dv]);
    let saved = attend(ctx, q, kv, k_rope, whole, 0..dims.heads, dims, scale, precision, &mut o);
    (o, saved)
}

/// [`forward`] for chunks of sequences: `q` has only the rows of the queries. `kv [S, heads.len()·(dn+dv)]` is of some
/// heads, and their columns of `o [T, H·dv]` are written. However a sequence or the heads are cut, the bits are the same.
pub fn forward_chunks(
    ctx: &Ctx,
    q: &Tensor,
    kv: &Tensor,
    k_rope: &Tensor,
    chunks: Chunks<'_>,
    heads: Range<usize>,
    dims: Dims,
    scale: f32,
    precision: Precision,
    o: &mut Tensor,
) {
    attend(ctx, q, kv, k_rope, chunks, heads, dims, scale, precision, o);
}

fn attend(
    ctx: &Ctx,
    q: &Tensor,
    kv: &Tensor,
    k_rope: &Tensor,
    chunks: Chunks<'_>,
    heads: Range<usize>,
    dims: Dims,
    scale: f32,
    precision: Precision,
    o: &mut Tensor,
) -> Saved {
    let t = check(q, kv, k_rope, chunks, &heads, dims);
    assert_eq!(o.dims(), [t, dims.heads * dims.dv], "mla_attention: o {o:?} does not fit {dims:?}");
    let mut lse = ctx.empty([dims.heads, t]);
    let inputs = Inputs { q: q.data(), kv: kv.data(), k_rope: k_rope.data(), heads, dims, scale };
    let sequences = sequences(chunks);
    match precision {
        Precision::F32 => forward::run(ctx, &inputs, &sequences, o.data_mut(), lse.data_mut()),
        Precision::Bf16 => forward_bf16::run(ctx, &inputs, &sequences, o.data_mut(), lse.data_mut()),
    }
    Saved { lse }
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
    precision: Precision,
) -> (Tensor, Tensor, Tensor) {
    let whole = Chunks { q_offsets: cu_seqlens, k_offsets: cu_seqlens };
    let t = check(q, kv, k_rope, whole, &(0..dims.heads), dims);
    assert_eq!(o.dims(), [t, dims.heads * dims.dv], "mla_attention: o {o:?} does not fit {dims:?}");
    assert_eq!(d_o.shape(), o.shape(), "mla_attention: dO {d_o:?} and o {o:?} differ");
    let Saved { lse } = saved;
    let inputs = Inputs { q: q.data(), kv: kv.data(), k_rope: k_rope.data(), heads: 0..dims.heads, dims, scale };
    let outputs = backward::Outputs { d_o: d_o.data(), o: o.data(), lse: lse.data(), rows: t };
    let (mut dq, mut dkv) = (ctx.empty(q.shape()), ctx.empty(kv.shape()));
    let mut dk_rope = ctx.zeros(k_rope.shape());
    let sequences = sequences(whole);
    let (dq_parts, dkv_parts) = (Disjoint::new(dq.data_mut()), Disjoint::new(dkv.data_mut()));
    let wave = match precision {
        Precision::F32 => HEADS_AT_ONCE,
        Precision::Bf16 => backward_bf16::heads_at_once(dims, &sequences, ctx.threads()).min(HEADS_AT_ONCE),
    };
    // Each head of a wave has its own `dk_rope`; they are added in the order of the heads, whoever computed them.
    for first in (0..dims.heads).step_by(wave) {
        let heads = first..dims.heads.min(first + wave);
        let mut by_head = ctx.empty([heads.len(), t, dims.dr]);
        let dk_rope_parts = Disjoint::new(by_head.data_mut());
        let gradients = backward::Gradients { dq: &dq_parts, dkv: &dkv_parts, dk_rope: &dk_rope_parts, rows: t };
        match precision {
            // SAFETY: nothing else has the gradients.
            Precision::F32 => unsafe { backward::run(ctx, &inputs, &outputs, &sequences, heads, &gradients) },
            // SAFETY: as above.
            Precision::Bf16 => unsafe { backward_bf16::run(ctx, &inputs, &outputs, &sequences, heads, &gradients) },
        }
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

struct Inputs<'a> {
    q: &'a [f32],      // [T, H·(dn+dr)]
    kv: &'a [f32],     // [T, heads.len()·(dn+dv)]
    k_rope: &'a [f32], // [T, dr]
    heads: Range<usize>,
    dims: Dims,
    scale: f32,
}

/// The rows of q.
fn check(
    q: &Tensor,
    kv: &Tensor,
    k_rope: &Tensor,
    Chunks { q_offsets, k_offsets }: Chunks<'_>,
    heads: &Range<usize>,
    dims: Dims,
) -> usize {
    let Dims { heads: all, dn, dr, dv } = dims;
    let ([t, _], [keys, _]) = (q.dims(), kv.dims());
    assert!(
        q.dims() == [t, all * (dn + dr)]
            && heads.end <= all
            && kv.dims() == [keys, heads.len() * (dn + dv)]
            && k_rope.dims() == [keys, dr],
        "mla_attention: q {q:?}, kv {kv:?} and k_rope {k_rope:?} do not fit heads {heads:?} of {dims:?}"
    );
    for (offsets, rows) in [(q_offsets, t), (k_offsets, keys)] {
        assert!(
            offsets.first() == Some(&0) && offsets.last() == Some(&rows) && offsets.is_sorted(),
            "mla_attention: {offsets:?} do not cut {rows} rows into sequences"
        );
    }
    let fits = |(q, k): (&[usize], &[usize])| q[1] - q[0] <= k[1] - k[0];
    assert!(
        q_offsets.len() == k_offsets.len() && q_offsets.windows(2).zip(k_offsets.windows(2)).all(fits),
        "mla_attention: queries {q_offsets:?} are not the ends of sequences {k_offsets:?}"
    );
    t
}

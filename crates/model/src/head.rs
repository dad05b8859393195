//! The output head and its loss, a slab of rows at a time: the logits of a whole batch never exist.

use ops::{cross_entropy, gemm, gemv};
use tensor::{Ctx, Tensor};

use crate::grads::{Sink, WeightGrad};
use crate::params::{ParamId, Params};

/// Logits in a slab: 64 MiB of f32.
const SLAB: usize = 1 << 24;

/// `h Wᵀ` without a scale: `h` is `[T, D]`, `weight` is `[V, D]`, the result `[T, V]`.
pub(crate) fn logits(ctx: &Ctx, p: &Params, weight: ParamId, h: &Tensor) -> Tensor {
    gemm::nt(ctx, h, &p[weight], p.precision)
}

/// The same for the last row of each sequence, in the order of sums that is fast for few rows.
pub(crate) fn last_logits(ctx: &Ctx, p: &Params, weight: ParamId, h: &Tensor) -> Tensor {
    gemv::nt(ctx, h, &p[weight], p.precision)
}

/// The cross-entropy of `labels [T]` in nats, summed, and the gradient of `scale` times that sum: `dh [T, D]` is
/// returned and the head's goes to `sink`.
pub(crate) fn loss_backward(
    ctx: &Ctx,
    p: &Params,
    sink: &mut dyn Sink,
    weight: ParamId,
    h: &Tensor,
    labels: &[u32],
    scale: f32,
) -> (f64, Tensor) {
    let [t, d] = h.dims();
    let mut dh = ctx.empty([t, d]);
    let mut loss = 0.0;
    for (part, labels) in slabs(ctx, p, weight, h, labels) {
        let mut dlogits = logits(ctx, p, weight, &part.h);
        let losses = cross_entropy::forward_backward(ctx, &mut dlogits, labels, scale);
        loss += cross_entropy::sum(&losses);
        let dpart = gemm::nn(ctx, &dlogits, &p[weight], p.precision);
        dh.data_mut()[part.first * d..][..dpart.len()].copy_from_slice(dpart.data());
        sink.push(ctx, WeightGrad::Linear { id: weight, dy: dlogits, x: part.h, precision: p.precision });
    }
    (loss, dh)
}

/// The cross-entropy of each row in nats, 0 where the label is ignored: `[T]`.
pub(crate) fn losses(ctx: &Ctx, p: &Params, weight: ParamId, h: &Tensor, labels: &[u32]) -> Vec<f32> {
    slabs(ctx, p, weight, h, labels)
        .flat_map(|(part, labels)| cross_entropy::losses(ctx, &logits(ctx, p, weight, &part.h), labels))
        .collect()
}

/// Some rows of the hidden states.
struct Part {
    first: usize,
    h: Tensor,
}

fn slabs<'a>(
    ctx: &'a Ctx,
    p: &Params,
    weight: ParamId,
    h: &'a Tensor,
    labels: &'a [u32],
) -> impl Iterator<Item = (Part, &'a [u32])> {
    let [t, d] = h.dims();
    assert_eq!(labels.len(), t, "head: {} labels for h {h:?}", labels.len());
    let [v, _] = p[weight].dims();
    let rows = (SLAB / v).max(1);
    labels.chunks(rows).enumerate().map(move |(i, labels)| {
        let first = i * rows;
        let mut part = ctx.empty([labels.len(), d]);
        part.data_mut().copy_from_slice(&h.data()[first * d..(first + labels.len()) * d]);
        (Part { first, h: part }, labels)
    })
}

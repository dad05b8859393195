//! Multi-token prediction (DeepSeek-V3 paper 2.2; `spec/model.md` 5): a module that sees the hidden state of token i
//! and the embedding of token i + k, and predicts token i + k + 1. Embedding and head are the main model's.
//!
//! ```text
//! x  = eh_proj [RMSNorm(embed t_{i+k}) ; RMSNorm(h_i)]      embedding first, as the released weights have it
//! h' = RMSNorm(layer(x))                                    the next module's h
//! ```

use std::ops::Range;
use std::sync::Arc;

use config::ModelConfig;
use ops::mla_decode::Latents;
use ops::rope::CosSin;
use ops::{columns, embedding, rms_norm};
use tensor::{Ctx, ReadError, Tensor};

use crate::attention::mla::Sequences;
use crate::block::{self, Block};
use crate::ffn::moe::Balance;
use crate::grads::{Sink, WeightGrad};
use crate::linear::{Linear, Norm};
use crate::names;
use crate::params::{Builder, ParamId, Params};
use crate::recompute::Recompute;

/// The parameters of one module; `block` is always a mixture of experts.
#[derive(Debug)]
pub struct Mtp {
    enorm: Norm,
    hnorm: Norm,
    eh_proj: Linear, // [D, 2 D]
    /// The transformer layer.
    pub block: Block,
    shared_head_norm: Norm,
    embed: ParamId, // [V, D], the main model's
}

/// What backward needs beyond the inputs of forward.
pub struct Saved {
    ids: Arc<Vec<u32>>,
    e: Tensor, // [T, D]
    norm_e: rms_norm::Saved,
    h: Tensor, // [T, D]
    norm_h: rms_norm::Saved,
    z: Tensor, // [T, 2 D]
    /// What the layer saved.
    pub block: block::Saved,
    x: Tensor, // [T, D], the layer's output
    norm_x: rms_norm::Saved,
}

impl Mtp {
    pub(crate) fn build<E>(b: &mut Builder<'_, E>, layer: usize, embed: ParamId, c: &ModelConfig) -> Result<Self, E> {
        let (d, eps) = (c.hidden_size, c.rms_norm_eps);
        let name = |field: &str| names::layer(layer, field);
        Ok(Self {
            enorm: Norm::build(b, name("enorm.weight"), d, eps)?,
            hnorm: Norm::build(b, name("hnorm.weight"), d, eps)?,
            eh_proj: Linear::build(b, &name("eh_proj"), d, 2 * d, false)?,
            block: Block::build(b, layer, true, c)?,
            shared_head_norm: Norm::build(b, name("shared_head.norm.weight"), d, eps)?,
            embed,
        })
    }

    /// `h` is `[T, D]`, the previous hidden states after their norm; `ids` are the tokens k ahead of the rows. The
    /// result is `[T, D]`, after `shared_head.norm`.
    pub fn forward(
        &self,
        ctx: &Ctx,
        p: &Params,
        h: Tensor,
        ids: Vec<u32>,
        seqs: &Sequences,
        again: Recompute,
    ) -> (Tensor, Saved) {
        let e = embedding::forward(ctx, &ids, &p[self.embed]);
        let (e_normed, norm_e) = self.enorm.forward(ctx, p, &e);
        let (h_normed, norm_h) = self.hnorm.forward(ctx, p, &h);
        let z = columns::concat(ctx, &e_normed, &h_normed);
        let x = self.eh_proj.forward(ctx, p, &z);
        let (x, block) = self.block.forward(ctx, p, x, seqs, again);
        let (y, norm_x) = self.shared_head_norm.forward(ctx, p, &x);
        (y, Saved { ids: Arc::new(ids), e, norm_e, h, norm_h, z, block, x, norm_x })
    }

    /// Appends to the caches what later tokens need of `h` and `ids`, which are as in [`Mtp::forward`], rows `rows[i]` being
    /// those of sequence `i`. What the layer would say after them is not computed.
    pub(crate) fn remember(
        &self,
        ctx: &Ctx,
        p: &Params,
        h: &Tensor,
        ids: &[u32],
        angles: &CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
    ) {
        let z = self.joined(ctx, p, h, ids);
        self.block.remember(ctx, p, &self.eh_proj.forward(ctx, p, &z), angles, rows, caches);
    }

    /// A step of decoding several sequences; the result is `[T, D]`, after `shared_head.norm`.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub(crate) fn decode(
        &self,
        ctx: &Ctx,
        p: &Params,
        h: &Tensor,
        ids: &[u32],
        angles: &CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
    ) -> Result<Tensor, ReadError> {
        let z = self.joined(ctx, p, h, ids);
        let x = self.block.decode(ctx, p, &self.eh_proj.decode(ctx, p, &z), angles, rows, caches)?;
        Ok(self.shared_head_norm.forward(ctx, p, &x).0)
    }

    /// `[RMSNorm(embed ids) ; RMSNorm(h)]`, `[T, 2 D]`.
    fn joined(&self, ctx: &Ctx, p: &Params, h: &Tensor, ids: &[u32]) -> Tensor {
        let e = embedding::forward(ctx, ids, &p[self.embed]);
        let ((e, _), (h, _)) = (self.enorm.forward(ctx, p, &e), self.hnorm.forward(ctx, p, h));
        columns::concat(ctx, &e, &h)
    }

    /// `dy` is `[T, D]`; the result is `dh [T, D]` and the balance loss, times its factor.
    pub fn backward(
        &self,
        ctx: &Ctx,
        p: &Params,
        sink: &mut dyn Sink,
        dy: Tensor,
        saved: Saved,
        seqs: &Sequences,
        balance: Option<Balance<'_>>,
    ) -> (Tensor, f64) {
        let Saved { ids, e, norm_e, h, norm_h, z, block, x, norm_x } = saved;
        let dx = self.shared_head_norm.backward(ctx, p, sink, dy, &x, norm_x);
        let (dx, balance) = self.block.backward(ctx, p, sink, &dx, block, seqs, balance);
        self.eh_proj.backward_weight(ctx, p, sink, &dx, &z);
        let dz = self.eh_proj.backward_input(ctx, p, &dx);
        let [_, d] = dx.dims();
        let (de, dh) = columns::split(ctx, &dz, d);
        let de = self.enorm.backward(ctx, p, sink, de, &e, norm_e);
        sink.push(ctx, WeightGrad::Embedding { id: self.embed, ids, dy: de });
        (self.hnorm.backward(ctx, p, sink, dh, &h, norm_h), balance)
    }
}

//! Multi-head latent attention (DeepSeek-V2 paper 2.1; DeepSeek-V3 paper, equations 1 to 11; `spec/model.md` 2).
//!
//! ```text
//! cq = RMSNorm(q_a x)              [T, rq]              query latent (absent when q_lora_rank is null)
//! q  = q_b cq                      [T, H (dn + dr)]     the last dr of each head rotated
//! [c' ; r'] = kv_a x               [T, rk + dr]
//! c  = RMSNorm(c')                 [T, rk]              latent: cached
//! r  = RoPE(r')                    [T, dr]              one key for all heads: cached
//! [k ; v]_h = kv_b c               [T, H (dn + dv)]
//! o_h = softmax(([q_nope q_rope]_h · [k_h r]) scale) v_h
//! y  = o_proj [o_1 … o_H]          [T, D]
//! ```
//!
//! Training and prefill use this direct form; decode uses the absorbed one, where `kv_b` moves to the query and to the
//! output, and the latents themselves are keys and values.

mod cached;

use config::{ModelConfig, ModelFields};
use ops::{columns, mla_attention, residual, rms_norm, rope};
use tensor::{Ctx, Tensor};

use crate::grads::Sink;
use crate::linear::{Linear, Norm};
use crate::names;
use crate::params::{Builder, Params};
use crate::recompute::{Recompute, keep};

/// The parameters of one attention layer.
#[derive(Debug)]
pub struct Mla {
    query: Query,
    kv_a_proj_with_mqa: Linear, // [rk + dr, D]
    kv_a_layernorm: Norm,       // [rk]
    kv_b_proj: Linear,          // [H (dn + dv), rk]
    o_proj: Linear,             // [D, H dv]
    dims: mla_attention::Dims,
    kv_lora_rank: usize,
    scale: f32,
    layout: rope::Layout,
}

/// How queries are made.
#[derive(Debug)]
enum Query {
    Direct { q_proj: Linear },                                              // [H (dn + dr), D]
    Compressed { q_a_proj: Linear, q_a_layernorm: Norm, q_b_proj: Linear }, // [rq, D], [rq], [H (dn + dr), rq]
}

/// Where the rows of a batch belong: sequences one after the other, each causal in itself.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Where each begins, and the end of the last: `[S + 1]`.
    pub cu_seqlens: Vec<usize>,
    /// The rotation of each row.
    pub angles: rope::CosSin,
}

/// What backward needs beyond the inputs of forward.
pub struct Saved {
    query: SavedQuery,
    latent_in: Tensor, // c' [T, rk]
    latent_norm: rms_norm::Saved,
    latent: Option<Tensor>, // c [T, rk]
    rope_key: Tensor,       // r [T, dr]
    kv: Option<Tensor>,     // [T, H (dn + dv)]
    o: Tensor,              // [T, H dv]
    attention: mla_attention::Saved,
}

enum SavedQuery {
    Direct { q: Option<Tensor> },
    Compressed { q_a: Tensor, norm: rms_norm::Saved, cq: Option<Tensor>, q: Option<Tensor> },
}

impl Mla {
    pub(crate) fn build<E>(b: &mut Builder<'_, E>, layer: usize, c: &ModelConfig) -> Result<Self, E> {
        let name = |field: &str| names::layer(layer, &format!("self_attn.{field}"));
        let (d, rk, bias) = (c.hidden_size, c.kv_lora_rank, c.attention_bias);
        let dims = mla_attention::Dims {
            heads: c.num_attention_heads,
            dn: c.qk_nope_head_dim,
            dr: c.qk_rope_head_dim,
            dv: c.v_head_dim,
        };
        let q_width = dims.heads * (dims.dn + dims.dr);
        // The latent norms have their own eps, whatever `rms_norm_eps` says (`spec/model.md` 2.8).
        let eps = ModelFields::LATENT_NORM_EPS;
        let query = match c.q_lora_rank {
            None => Query::Direct { q_proj: Linear::build(b, &name("q_proj"), q_width, d, false)? },
            Some(rq) => Query::Compressed {
                q_a_proj: Linear::build(b, &name("q_a_proj"), rq, d, bias)?,
                q_a_layernorm: Norm::build(b, name("q_a_layernorm.weight"), rq, eps)?,
                q_b_proj: Linear::build(b, &name("q_b_proj"), q_width, rq, false)?,
            },
        };
        let kv_width = dims.heads * (dims.dn + dims.dv);
        Ok(Self {
            query,
            kv_a_proj_with_mqa: Linear::build(b, &name("kv_a_proj_with_mqa"), rk + dims.dr, d, bias)?,
            kv_a_layernorm: Norm::build(b, name("kv_a_layernorm.weight"), rk, eps)?,
            kv_b_proj: Linear::build(b, &name("kv_b_proj"), kv_width, rk, false)?,
            o_proj: Linear::build(b, &name("o_proj"), d, dims.heads * dims.dv, bias)?,
            dims,
            kv_lora_rank: rk,
            scale: c.softmax_scale() as f32,
            layout: if c.rope_interleave { rope::Layout::Interleaved } else { rope::Layout::Half },
        })
    }

    /// `x` is `[T, D]`, normalised; the result is `[T, D]`.
    pub fn forward(&self, ctx: &Ctx, p: &Params, x: &Tensor, seqs: &Sequences, again: Recompute) -> (Tensor, Saved) {
        let (q, query) = self.queries(ctx, p, x, &seqs.angles, again);
        let (latent, latent_in, latent_norm, rope_key) = self.latents(ctx, p, x, &seqs.angles);
        let kv = self.kv_b_proj.forward(ctx, p, &latent);
        let (o, attention) =
            mla_attention::forward(ctx, &q, &kv, &rope_key, &seqs.cu_seqlens, self.dims, self.scale, p.precision);
        let y = self.o_proj.forward(ctx, p, &o);
        let latent = keep(again.rms_norm, &latent);
        let kv = keep(again.mla_up, &kv);
        (y, Saved { query, latent_in, latent_norm, latent, rope_key, kv, o, attention })
    }

    /// `dy` is `[T, D]`, `x` as in forward; the result is `dx [T, D]`.
    pub fn backward(
        &self,
        ctx: &Ctx,
        p: &Params,
        sink: &mut dyn Sink,
        dy: &Tensor,
        x: &Tensor,
        saved: Saved,
        seqs: &Sequences,
    ) -> Tensor {
        // Computed again if forward did not keep them: the normalised latents, and queries, keys and values.
        let Saved { query, latent_in, latent_norm, latent, rope_key, kv, o, attention } = saved;
        let latent = latent.unwrap_or_else(|| self.kv_a_layernorm.recompute(ctx, p, &latent_in, &latent_norm));
        let kv = kv.unwrap_or_else(|| self.kv_b_proj.forward(ctx, p, &latent));
        let (q, query) = self.queries_again(ctx, p, x, &seqs.angles, query);

        self.o_proj.backward_weight(ctx, p, sink, dy, &o);
        let do_ = self.o_proj.backward_input(ctx, p, dy);
        let (mut dq, dkv, mut drope_key) = mla_attention::backward(
            ctx,
            &do_,
            &q,
            &kv,
            &rope_key,
            &o,
            attention,
            &seqs.cu_seqlens,
            self.dims,
            self.scale,
            p.precision,
        );
        drop((q, kv, o, do_));

        self.kv_b_proj.backward_weight(ctx, p, sink, &dkv, &latent);
        let dlatent = self.kv_b_proj.backward_input(ctx, p, &dkv);
        let dlatent_in = self.kv_a_layernorm.backward(ctx, p, sink, dlatent, &latent_in, latent_norm);
        rope::backward(ctx, &mut drope_key, self.dims.dr, 0, &seqs.angles, self.layout);
        let da = columns::concat(ctx, &dlatent_in, &drope_key);
        self.kv_a_proj_with_mqa.backward_weight(ctx, p, sink, &da, x);
        let mut dx = self.kv_a_proj_with_mqa.backward_input(ctx, p, &da);

        self.rotate_queries_back(ctx, &mut dq, &seqs.angles);
        let dx_query = match (&self.query, query) {
            (Query::Direct { q_proj }, Latent::None) => {
                q_proj.backward_weight(ctx, p, sink, &dq, x);
                q_proj.backward_input(ctx, p, &dq)
            }
            (Query::Compressed { q_a_proj, q_a_layernorm, q_b_proj }, Latent::Query { q_a, norm, cq }) => {
                q_b_proj.backward_weight(ctx, p, sink, &dq, &cq);
                let dcq = q_b_proj.backward_input(ctx, p, &dq);
                let dq_a = q_a_layernorm.backward(ctx, p, sink, dcq, &q_a, norm);
                q_a_proj.backward_weight(ctx, p, sink, &dq_a, x);
                q_a_proj.backward_input(ctx, p, &dq_a)
            }
            _ => unreachable!("what a layer saved is of its own kind"),
        };
        residual::add(ctx, &mut dx, &dx_query);
        dx
    }

    /// `q [T, H (dn + dr)]`, rotated.
    fn queries(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &rope::CosSin,
        again: Recompute,
    ) -> (Tensor, SavedQuery) {
        match &self.query {
            Query::Direct { q_proj } => {
                let mut q = q_proj.forward(ctx, p, x);
                self.rotate_queries(ctx, &mut q, angles);
                let saved = SavedQuery::Direct { q: keep(again.mla_up, &q) };
                (q, saved)
            }
            Query::Compressed { q_a_proj, q_a_layernorm, q_b_proj } => {
                let q_a = q_a_proj.forward(ctx, p, x);
                let (cq, norm) = q_a_layernorm.forward(ctx, p, &q_a);
                let mut q = q_b_proj.forward(ctx, p, &cq);
                self.rotate_queries(ctx, &mut q, angles);
                let saved =
                    SavedQuery::Compressed { q_a, norm, cq: keep(again.rms_norm, &cq), q: keep(again.mla_up, &q) };
                (q, saved)
            }
        }
    }

    /// The queries of forward, computed again where they were not kept, and what their backward needs.
    fn queries_again(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &rope::CosSin,
        saved: SavedQuery,
    ) -> (Tensor, Latent) {
        let project = |linear: &Linear, x: &Tensor| {
            let mut q = linear.forward(ctx, p, x);
            self.rotate_queries(ctx, &mut q, angles);
            q
        };
        match (&self.query, saved) {
            (Query::Direct { q_proj }, SavedQuery::Direct { q }) => {
                (q.unwrap_or_else(|| project(q_proj, x)), Latent::None)
            }
            (Query::Compressed { q_a_layernorm, q_b_proj, .. }, SavedQuery::Compressed { q_a, norm, cq, q }) => {
                let cq = cq.unwrap_or_else(|| q_a_layernorm.recompute(ctx, p, &q_a, &norm));
                (q.unwrap_or_else(|| project(q_b_proj, &cq)), Latent::Query { q_a, norm, cq })
            }
            _ => unreachable!("what a layer saved is of its own kind"),
        }
    }

    /// `(c, c', saved of the norm, r)`.
    fn latents(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &rope::CosSin,
    ) -> (Tensor, Tensor, rms_norm::Saved, Tensor) {
        let a = self.kv_a_proj_with_mqa.forward(ctx, p, x);
        self.split_latents(ctx, p, &a, angles)
    }

    /// The same of `a = kv_a x`, `[T, rk + dr]`.
    fn split_latents(
        &self,
        ctx: &Ctx,
        p: &Params,
        a: &Tensor,
        angles: &rope::CosSin,
    ) -> (Tensor, Tensor, rms_norm::Saved, Tensor) {
        let (latent_in, mut rope_key) = columns::split(ctx, a, self.kv_lora_rank);
        let (latent, norm) = self.kv_a_layernorm.forward(ctx, p, &latent_in);
        rope::forward(ctx, &mut rope_key, self.dims.dr, 0, angles, self.layout);
        (latent, latent_in, norm, rope_key)
    }

    fn rotate_queries(&self, ctx: &Ctx, q: &mut Tensor, angles: &rope::CosSin) {
        let mla_attention::Dims { dn, dr, .. } = self.dims;
        rope::forward(ctx, q, dn + dr, dn, angles, self.layout);
    }

    fn rotate_queries_back(&self, ctx: &Ctx, dq: &mut Tensor, angles: &rope::CosSin) {
        let mla_attention::Dims { dn, dr, .. } = self.dims;
        rope::backward(ctx, dq, dn + dr, dn, angles, self.layout);
    }
}

/// What the backward of compressed queries needs.
enum Latent {
    None,
    Query { q_a: Tensor, norm: rms_norm::Saved, cq: Tensor },
}

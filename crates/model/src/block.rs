//! One layer: attention and feed-forward, each on a normalised copy of the residual stream (`spec/model.md` 2.1).

use std::ops::Range;

use config::ModelConfig;
use ops::mla_decode::Latents;
use ops::rope::CosSin;
use ops::{residual, rms_norm};
use tensor::{Ctx, ReadError, Tensor};

use crate::CacheKind;
use crate::attention::mla::{self, Mla, Sequences};
use crate::ffn::dense::{self, Dense};
use crate::ffn::moe::{self, Balance, Moe};
use crate::grads::Sink;
use crate::infer::Form;
use crate::linear::Norm;
use crate::names;
use crate::params::{Builder, Params};
use crate::recompute::{Recompute, keep};

/// The parameters of one layer.
#[derive(Debug)]
pub struct Block {
    input_layernorm: Norm,
    pub(crate) self_attn: Mla,
    post_attention_layernorm: Norm,
    mlp: Ffn,
}

/// The layer's feed-forward network.
#[derive(Debug)]
enum Ffn {
    Dense(Dense),
    Moe(Moe),
}

/// What backward needs beyond the inputs of forward.
pub struct Saved {
    x: Tensor, // [T, D]
    norm_x: rms_norm::Saved,
    n: Option<Tensor>, // [T, D], the input of attention
    attention: mla::Saved,
    mid: Tensor, // [T, D], the stream after attention
    norm_mid: rms_norm::Saved,
    m: Option<Tensor>, // [T, D], the input of the FFN
    ffn: SavedFfn,
}

#[expect(clippy::large_enum_variant, reason = "there is one of these a layer, and nearly all are the larger")]
enum SavedFfn {
    Dense(dense::Saved),
    Moe(moe::Saved),
}

impl Block {
    pub(crate) fn build<E>(b: &mut Builder<'_, E>, layer: usize, moe: bool, c: &ModelConfig) -> Result<Self, E> {
        let (d, eps) = (c.hidden_size, c.rms_norm_eps);
        let self_attn = Mla::build(b, layer, c)?;
        let mlp = if moe {
            Ffn::Moe(Moe::build(b, layer, c)?)
        } else {
            Ffn::Dense(Dense::build(b, &names::layer(layer, "mlp"), d, c.intermediate_size)?)
        };
        let mut norm = |field: &str| Norm::build(b, names::layer(layer, &format!("{field}.weight")), d, eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            self_attn,
            mlp,
        })
    }

    /// `x` is `[T, D]`, the result `[T, D]`.
    pub fn forward(&self, ctx: &Ctx, p: &Params, x: Tensor, seqs: &Sequences, again: Recompute) -> (Tensor, Saved) {
        let (n, norm_x) = self.input_layernorm.forward(ctx, p, &x);
        let (a, attention) = self.self_attn.forward(ctx, p, &n, seqs, again);
        let mid = residual::sum(ctx, &x, &a);
        let (m, norm_mid) = self.post_attention_layernorm.forward(ctx, p, &mid);
        let (f, ffn) = self.mlp.forward(ctx, p, &m, again);
        let y = residual::sum(ctx, &mid, &f);
        let (n, m) = (keep(again.rms_norm, &n), keep(again.rms_norm, &m));
        (y, Saved { x, norm_x, n, attention, mid, norm_mid, m, ffn })
    }

    /// `dy` is `[T, D]`; the result is `dx [T, D]` and the balance loss, times its factor.
    pub fn backward(
        &self,
        ctx: &Ctx,
        p: &Params,
        sink: &mut dyn Sink,
        dy: &Tensor,
        saved: Saved,
        seqs: &Sequences,
        balance: Option<Balance<'_>>,
    ) -> (Tensor, f64) {
        // Computed again if forward did not keep them: the normalised inputs.
        let Saved { x, norm_x, n, attention, mid, norm_mid, m, ffn } = saved;
        let m = m.unwrap_or_else(|| self.post_attention_layernorm.recompute(ctx, p, &mid, &norm_mid));
        let (dm, balance) = self.mlp.backward(ctx, p, sink, dy, &m, ffn, balance);
        let mut dmid = self.post_attention_layernorm.backward(ctx, p, sink, dm, &mid, norm_mid);
        residual::add(ctx, &mut dmid, dy);

        let n = n.unwrap_or_else(|| self.input_layernorm.recompute(ctx, p, &x, &norm_x));
        let dn = self.self_attn.backward(ctx, p, sink, &dmid, &n, attention, seqs);
        let mut dx = self.input_layernorm.backward(ctx, p, sink, dn, &x, norm_x);
        residual::add(ctx, &mut dx, &dmid);
        (dx, balance)
    }

    /// An empty cache.
    pub fn new_cache(&self, kind: CacheKind) -> Latents {
        self.self_attn.new_cache(kind)
    }

    /// New tokens of several sequences, appended to their caches; see [`Mla::prefill`].
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn prefill(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
        form: Form,
    ) -> Result<Tensor, ReadError> {
        let (n, _) = self.input_layernorm.forward(ctx, p, x);
        let mut y = self.self_attn.prefill(ctx, p, &n, angles, rows, caches, form);
        drop(n);
        residual::add(ctx, &mut y, x);
        let (m, _) = self.post_attention_layernorm.forward(ctx, p, &y);
        let f = match &self.mlp {
            Ffn::Dense(ffn) => ffn.forward(ctx, p, &m, Recompute::ALL).0,
            Ffn::Moe(ffn) => ffn.prefill(ctx, p, &m)?,
        };
        residual::add(ctx, &mut y, &f);
        Ok(y)
    }

    /// Appends to the caches what [`Block::prefill`] would, and makes nothing else of the tokens.
    pub fn remember(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
    ) {
        let (n, _) = self.input_layernorm.forward(ctx, p, x);
        self.self_attn.remember(ctx, p, &n, angles, rows, caches);
    }

    /// New tokens of several sequences against their caches; see [`Mla::decode`].
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn decode(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
    ) -> Result<Tensor, ReadError> {
        let (n, _) = self.input_layernorm.forward(ctx, p, x);
        let mut y = self.self_attn.decode(ctx, p, &n, angles, rows, caches);
        residual::add(ctx, &mut y, x);
        let (m, _) = self.post_attention_layernorm.forward(ctx, p, &y);
        let f = match &self.mlp {
            Ffn::Dense(ffn) => ffn.decode(ctx, p, &m),
            Ffn::Moe(ffn) => ffn.decode(ctx, p, &m)?,
        };
        residual::add(ctx, &mut y, &f);
        Ok(y)
    }

    /// The mixture of experts, if this layer has one.
    pub fn moe(&self) -> Option<&Moe> {
        match &self.mlp {
            Ffn::Dense(_) => None,
            Ffn::Moe(moe) => Some(moe),
        }
    }
}

impl Saved {
    /// What the layer's router did, if it has one.
    pub fn routing(&self) -> Option<&moe::Saved> {
        match &self.ffn {
            SavedFfn::Dense(_) => None,
            SavedFfn::Moe(saved) => Some(saved),
        }
    }
}

impl Ffn {
    fn forward(&self, ctx: &Ctx, p: &Params, x: &Tensor, again: Recompute) -> (Tensor, SavedFfn) {
        match self {
            Self::Dense(ffn) => {
                let (y, saved) = ffn.forward(ctx, p, x, again);
                (y, SavedFfn::Dense(saved))
            }
            Self::Moe(ffn) => {
                let (y, saved) = ffn.forward(ctx, p, x, again);
                (y, SavedFfn::Moe(saved))
            }
        }
    }

    fn backward(
        &self,
        ctx: &Ctx,
        p: &Params,
        sink: &mut dyn Sink,
        dy: &Tensor,
        x: &Tensor,
        saved: SavedFfn,
        balance: Option<Balance<'_>>,
    ) -> (Tensor, f64) {
        match (self, saved) {
            (Self::Dense(ffn), SavedFfn::Dense(saved)) => (ffn.backward(ctx, p, sink, dy, x, saved), 0.0),
            (Self::Moe(ffn), SavedFfn::Moe(saved)) => ffn.backward(ctx, p, sink, dy, x, saved, balance),
            _ => unreachable!("what a layer saved is of its own kind"),
        }
    }
}

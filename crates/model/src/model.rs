use std::sync::Arc;

use config::ModelConfig;
use ops::{Precision, columns, embedding, residual, rope};

pub use ops::cross_entropy::IGNORE;
use tensor::{Ctx, ExpertMemory, Storage, Tensor};

use crate::CacheKind;
use crate::attention::mla::Sequences;
use crate::block::{self, Block};
use crate::ffn::moe::Balance;
use crate::grads::{Sink, WeightGrad};
use crate::head;
use crate::linear::Norm;
use crate::mtp::Mtp;
use crate::params::{Param, ParamId, Params};
use crate::recompute::Recompute;

/// A DeepSeek model: its layers and their weights.
#[derive(Debug)]
pub struct Model {
    /// What it was built from.
    pub config: ModelConfig,
    /// All weights.
    pub params: Params,
    pub(crate) embed: ParamId, // [V, D]
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    pub(crate) head: ParamId, // [V, D]; the embedding's id when tied
    pub(crate) mtp: Vec<Mtp>,
    angles: rope::Angles,
    /// How the caches of its sequences are kept.
    pub cache_kind: CacheKind,
}

/// Rows of text to learn from. An MTP module of depth k sees at position i the token at i + k and predicts the label at
/// i + k of the same row; the last k positions of a row have none.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[rows, seq_len]`.
    pub tokens: &'a [u32],
    /// The token after each, or [`IGNORE`]: `[rows, seq_len]`.
    pub labels: &'a [u32],
    /// Tokens in a row.
    pub seq_len: usize,
}

/// What the parts of the objective are multiplied by (`spec/training.md` 1.6). They are known before the step begins,
/// so gradients need no division at its end.
#[derive(Clone, Copy, Debug)]
pub struct Scales {
    /// 1 over the number of targets of the whole step.
    pub main: f32,
    /// λ over the MTP depth and the number of targets of the whole step.
    pub mtp: f32,
    /// α over the number of sequences of the whole step.
    pub balance: f32,
}

/// What a batch gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Cross-entropy of the next token in nats, summed over targets.
    pub main: f64,
    /// The same for each MTP depth.
    pub mtp: Vec<f64>,
    /// The balance loss, times its scale, summed over layers.
    pub balance: f64,
    /// Rows routed to each expert of each mixture layer, MTP layers last: `[layers, E]`.
    pub expert_load: Vec<Vec<u64>>,
}

impl Outcome {
    /// Adds what another micro-batch of the same step gave.
    pub fn add(&mut self, other: Self) {
        self.main += other.main;
        self.balance += other.balance;
        self.mtp.resize(other.mtp.len(), 0.0);
        self.mtp.iter_mut().zip(other.mtp).for_each(|(sum, x)| *sum += x);
        self.expert_load.resize(other.expert_load.len(), Vec::new());
        for (sum, load) in self.expert_load.iter_mut().zip(other.expert_load) {
            sum.resize(load.len(), 0);
            sum.iter_mut().zip(load).for_each(|(sum, x)| *sum += x);
        }
    }
}

impl Model {
    pub(crate) fn assemble(
        config: ModelConfig,
        params: Params,
        embed: ParamId,
        blocks: Vec<Block>,
        norm: Norm,
        head: ParamId,
        mtp: Vec<Mtp>,
    ) -> Self {
        let yarn = config.rope_scaling.as_ref().map(|y| rope::Yarn {
            factor: y.factor,
            original_max_position_embeddings: y.original_max_position_embeddings as f64,
            beta_fast: y.beta_fast,
            beta_slow: y.beta_slow,
            mscale: y.mscale,
            mscale_all_dim: y.mscale_all_dim,
            attention_factor: y.attention_factor,
            truncate: y.truncate,
        });
        let angles = rope::Angles::new(config.qk_rope_head_dim, config.rope_theta, yarn.as_ref());
        Self { config, params, embed, blocks, norm, head, mtp, angles, cache_kind: CacheKind::F32 }
    }

    /// The same model with the operands of its products rounded to `precision`, and its caches kept likewise.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.params.precision = precision;
        self.cache_kind = match precision {
            Precision::F32 => CacheKind::F32,
            Precision::Bf16 => CacheKind::Bf16,
        };
        self
    }

    /// The same model, its experts read when they are needed and kept in the room of `memory`.
    #[must_use]
    pub fn with_streamed_experts(mut self, memory: &Arc<ExpertMemory>) -> Self {
        self.params.all =
            self.params.all.into_iter().map(|param| Param { value: param.value.streamed(memory), ..param }).collect();
        self
    }

    /// The room of experts that are read when they are needed, if they are.
    pub fn expert_memory(&self) -> Option<&Arc<ExpertMemory>> {
        self.params.all.iter().find_map(|param| match &param.value {
            Storage::Streamed(streamed) => Some(streamed.memory()),
            _ => None,
        })
    }

    /// The bytes of the largest expert, as it is stored; 0 where there are none.
    pub fn expert_bytes(&self) -> u64 {
        self.blocks
            .iter()
            .chain(self.mtp.iter().map(|m| &m.block))
            .filter_map(Block::moe)
            .map(|moe| moe.expert_bytes(&self.params))
            .max()
            .unwrap_or(0)
    }

    /// The number of MTP layers whose weights are there.
    pub fn mtp_depth(&self) -> usize {
        self.mtp.len()
    }

    /// The routing bias of each mixture layer, MTP layers last, in the order of [`Outcome::expert_load`].
    pub fn routing_biases(&self) -> Vec<Option<ParamId>> {
        let layers = self.blocks.iter().chain(self.mtp.iter().map(|m| &m.block));
        layers.filter_map(Block::moe).map(crate::ffn::moe::Moe::routing_bias).collect()
    }

    /// Rows that prefill, decoding and proposals have given to each expert since the model was built: `[E]` for each layer,
    /// MTP layers last, and none for a dense one. They may be read while the model runs.
    pub fn served_expert_load(&self) -> Vec<Option<Vec<u64>>> {
        let layers = self.blocks.iter().chain(self.mtp.iter().map(|m| &m.block));
        layers.map(|block| block.moe().map(crate::ffn::moe::Moe::load)).collect()
    }

    /// The training objective of a batch, and its gradients to `sink`.
    pub fn forward_backward(
        &self,
        ctx: &Ctx,
        batch: Batch<'_>,
        scales: Scales,
        again: Recompute,
        sink: &mut dyn Sink,
    ) -> Outcome {
        let p = &self.params;
        let rows = batch.rows();
        let mut outcome = Outcome { mtp: vec![0.0; self.mtp.len()], ..Outcome::default() };

        // Forward: the main model, then each MTP module on the hidden states of the one before, a row shorter each.
        let seqs = self.sequences(ctx, rows, batch.seq_len, 0);
        let ids = batch.tokens.to_vec();
        let mut x = embedding::forward(ctx, &ids, &p[self.embed]);
        let mut saved = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, s) = block.forward(ctx, p, x, &seqs, again);
            outcome.expert_load.extend(load(&s));
            saved.push(s);
            x = y;
        }
        let (h, norm_x) = self.norm.forward(ctx, p, &x);
        let mut hidden = vec![h];
        let mut saved_mtp = Vec::with_capacity(self.mtp.len());
        for (depth, mtp) in (1..).zip(&self.mtp) {
            let length = batch.seq_len.saturating_sub(depth);
            if length == 0 {
                break;
            }
            let seqs = self.sequences(ctx, rows, length, depth);
            let previous = first_rows(ctx, &hidden[depth - 1], rows, length);
            let (h, s) = mtp.forward(ctx, p, previous, ahead(batch.tokens, batch.seq_len, depth, length), &seqs, again);
            outcome.expert_load.extend(load(&s.block));
            hidden.push(h);
            saved_mtp.push((s, seqs));
        }

        // Losses and backward, from the last module to the first; `later` is what the module after it adds to dh.
        let mut later = None;
        while let Some((saved, seqs)) = saved_mtp.pop() {
            let depth = saved_mtp.len() + 1;
            let labels = ahead(batch.labels, batch.seq_len, depth, batch.seq_len - depth);
            let h = hidden.pop().expect("one hidden state per module");
            let (loss, mut dh) = head::loss_backward(ctx, p, sink, self.head, &h, &labels, scales.mtp);
            outcome.mtp[depth - 1] = loss;
            add_first_rows(ctx, &mut dh, later, rows);
            let balance = Balance { cu_seqlens: &seqs.cu_seqlens, factor: scales.balance };
            let (dprevious, balance) = self.mtp[depth - 1].backward(ctx, p, sink, dh, saved, &seqs, Some(balance));
            outcome.balance += balance;
            later = Some(dprevious);
        }
        let h = hidden.pop().expect("the main model's hidden state");
        let (loss, mut dh) = head::loss_backward(ctx, p, sink, self.head, &h, batch.labels, scales.main);
        outcome.main = loss;
        add_first_rows(ctx, &mut dh, later, rows);
        let mut dx = self.norm.backward(ctx, p, sink, dh, &x, norm_x);
        drop((h, x));
        for (block, saved) in self.blocks.iter().zip(saved).rev() {
            let balance = Balance { cu_seqlens: &seqs.cu_seqlens, factor: scales.balance };
            let (d, balance) = block.backward(ctx, p, sink, &dx, saved, &seqs, Some(balance));
            outcome.balance += balance;
            dx = d;
        }
        sink.push(ctx, WeightGrad::Embedding { id: self.embed, ids: Arc::new(ids), dy: dx });
        outcome
    }

    /// The cross-entropy of each target in nats, without gradients: `[rows * seq_len]`, 0 where there is no target.
    pub fn losses(&self, ctx: &Ctx, batch: Batch<'_>) -> Vec<f32> {
        let p = &self.params;
        let seqs = self.sequences(ctx, batch.rows(), batch.seq_len, 0);
        let mut x = embedding::forward(ctx, batch.tokens, &p[self.embed]);
        for block in &self.blocks {
            (x, _) = block.forward(ctx, p, x, &seqs, Recompute::ALL);
        }
        let (h, _) = self.norm.forward(ctx, p, &x);
        head::losses(ctx, p, self.head, &h, batch.labels)
    }

    /// `rows` sequences of `length` tokens; row i of an MTP module at `depth` stands at position i + depth.
    pub(crate) fn sequences(&self, ctx: &Ctx, rows: usize, length: usize, depth: usize) -> Sequences {
        let positions: Vec<u32> = (0..rows).flat_map(|_| (depth..depth + length).map(|i| i as u32)).collect();
        Sequences { cu_seqlens: (0..=rows).map(|i| i * length).collect(), angles: self.table(ctx, &positions) }
    }

    /// Cosines and sines for rows at `positions`.
    pub(crate) fn table(&self, ctx: &Ctx, positions: &[u32]) -> rope::CosSin {
        self.angles.table(ctx, positions)
    }
}

impl Batch<'_> {
    fn rows(&self) -> usize {
        let Self { tokens, labels, seq_len } = self;
        let rows = tokens.len() / seq_len;
        assert!(
            rows * seq_len == tokens.len() && labels.len() == tokens.len(),
            "a batch has {} tokens and {} labels in rows of {seq_len}",
            tokens.len(),
            labels.len()
        );
        rows
    }
}

/// In each row of `width`, the `length` values from `ahead` on.
fn ahead(values: &[u32], width: usize, ahead: usize, length: usize) -> Vec<u32> {
    values.chunks_exact(width).flat_map(|row| &row[ahead..ahead + length]).copied().collect()
}

fn load(saved: &block::Saved) -> Option<Vec<u64>> {
    saved.routing().map(|routing| routing.load().collect())
}

/// The first `keep` tokens of each of `rows` sequences.
pub(crate) fn first_rows(ctx: &Ctx, h: &Tensor, rows: usize, keep: usize) -> Tensor {
    let [t, d] = h.dims();
    let (first, _) = columns::split(ctx, &h.clone().reshape([rows, t / rows * d]), keep * d);
    first.reshape([rows * keep, d])
}

/// The backward of [`first_rows`]: `dh` of each sequence's first tokens grows by `later`.
fn add_first_rows(ctx: &Ctx, dh: &mut Tensor, later: Option<Tensor>, rows: usize) {
    let Some(later) = later else { return };
    let ([t, d], [kept, _]) = (dh.dims(), later.dims());
    let rest = ctx.zeros([rows, (t - kept) / rows * d]);
    let padded = columns::concat(ctx, &later.reshape([rows, kept / rows * d]), &rest);
    residual::add(ctx, dh, &padded.reshape([t, d]));
}

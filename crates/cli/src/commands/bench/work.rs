//! The least that a model must read and compute, whoever runs it: what its speed is held against.

use std::collections::BTreeSet;

use config::counts::PartBytes;
use config::{Counts, ModelConfig};
use model::Model;
use ops::mla_decode::Latents;
use tensor::{MatrixRef, Storage};

/// Bytes and operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) bytes: f64,
    pub(super) flops: f64,
}

/// What a step of decoding does. Weights and latents take turns, so the time of a step has a limit in each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) weights: Work,
    pub(super) attention: Work,
}

impl Work {
    /// Seconds that it takes at least, at so many bytes and operations a second.
    fn least_s(self, bytes: f64, flops: f64) -> f64 {
        f64::max(self.bytes / bytes, self.flops / flops)
    }
}

impl Step {
    /// Both together.
    pub(super) fn sum(self) -> Work {
        let Self { weights, attention } = self;
        Work { bytes: weights.bytes + attention.bytes, flops: weights.flops + attention.flops }
    }

    /// Seconds that it takes at least, at so many bytes and operations a second.
    pub(super) fn least_s(self, bytes: f64, flops: f64) -> f64 {
        self.weights.least_s(bytes, flops) + self.attention.least_s(bytes, flops)
    }
}

/// The bytes of a model's weights, in the types that they are stored in.
pub(super) fn weights(model: &Model) -> PartBytes {
    let mut bytes = PartBytes::default();
    for param in &model.params.all {
        // The parts of a stack of experts are all of one kind.
        bytes.add(&model.config, &param.parts[0].name, param.value.size_bytes());
    }
    bytes
}

/// Some of the weights, at most `limit` bytes, from all over the model. None that is streamed: it may not be in memory.
pub(super) fn some_weights(model: &Model, limit: usize) -> Vec<&[u8]> {
    let stored = model.params.all.iter().filter(|param| !matches!(param.value, Storage::Streamed(_)));
    let matrices: Vec<&[u8]> = stored.flat_map(|param| groups(&param.value)).map(|matrix| matrix.bytes()).collect();
    let total: usize = matrices.iter().map(|bytes| bytes.len()).sum();
    let step = total.div_ceil(limit.max(1)).max(1);
    matrices.into_iter().step_by(step).collect()
}

fn groups(weight: &Storage) -> impl Iterator<Item = MatrixRef<'_>> {
    let groups = match *weight.shape().as_slice() {
        [groups, _, _] => groups,
        [_, _] => 1,
        _ => 0,
    };
    (0..groups).flat_map(|e| weight.group(e))
}

/// One step of decoding: a token for each of `batch` sequences that have `context` tokens. Of the routed experts of a layer,
/// `experts` are read.
///
/// Attention is counted in absorbed form: a head compares a query with a latent and adds up latents, `2 rk + dr`
/// multiply-adds a token of the context.
pub(super) fn decode(model: &Model, weights: &PartBytes, experts: f64, batch: usize, context: f64) -> Step {
    let c = &model.config;
    let weights = weights.decode_with(c, batch as u64, experts).total() as f64;
    let (batch, layers) = (batch as f64, c.num_hidden_layers as f64);
    let latents = Latents::new(model.cache_kind, c.kv_lora_rank, c.qk_rope_head_dim).bytes_per_token() as f64;
    let matrices = Counts::of(c, 0).parameters.active.without_embedding as f64;
    let pairs = (c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim)) as f64;
    Step {
        weights: Work { bytes: weights, flops: 2.0 * batch * matrices },
        attention: Work { bytes: batch * layers * context * latents, flops: 2.0 * batch * layers * context * pairs },
    }
}

/// The operations of prefilling `tokens` tokens: attention in direct form, causal, and logits of the last token alone.
pub(super) fn prefill_flops(config: &ModelConfig, tokens: usize) -> f64 {
    let counts = Counts::of(config, tokens as u32);
    let active = counts.parameters.active;
    let head = 2.0 * (active.without_embedding - active.without_embedding_and_head) as f64;
    tokens as f64 * (counts.flops_per_token.forward as f64 - head) + head
}

/// How many experts of a layer `batch` tokens choose together, on average, from the choices `[T, K]` of each layer for the
/// tokens of one text.
pub(super) fn distinct_experts(choices: &[Vec<u32>], k: usize, batch: usize) -> f64 {
    let counts: Vec<f64> = choices
        .iter()
        .flat_map(|idx| idx.chunks_exact((batch * k).min(idx.len()).max(1)))
        .map(|group| group.iter().collect::<BTreeSet<_>>().len() as f64)
        .collect();
    if counts.is_empty() { 0.0 } else { counts.iter().sum::<f64>() / counts.len() as f64 }
}

#[cfg(test)]
mod tests {
    use config::presets;
    use tensor::Ctx;

    use super::*;

    #[test]
    fn weights_are_what_the_counts_say() {
        let config = presets::preset("tiny").unwrap();
        let model = Model::random(&config, 0.02, 1);
        let (weights, counts) = (weights(&model), Counts::of(&config, 0).parameters);
        // A random model is in f32.
        assert_eq!(weights.routed_experts, 4 * counts.parts.routed_experts);
        assert_eq!(weights.total() - weights.mtp, 4 * counts.main);
        assert_eq!(weights.embedding, 4 * counts.parts.embedding);
    }

    #[test]
    fn a_step_reads_the_chosen_experts_and_all_latents() {
        let config = presets::preset("tiny").unwrap();
        let model = Model::random(&config, 0.02, 1);
        let weights = weights(&model);
        let experts = config.n_routed_experts as f64;
        let step = |context| decode(&model, &weights, experts / 4.0, 2, context);
        let [none, some] = [0.0, 100.0].map(|context| step(context).sum());
        let rest = weights.total() - weights.mtp - weights.embedding - weights.routed_experts;
        let row = 4 * config.hidden_size as u64;
        assert_eq!(none.bytes, (rest + weights.routed_experts / 4 + 2 * row) as f64);
        let latents = Latents::new(model.cache_kind, config.kv_lora_rank, config.qk_rope_head_dim).bytes_per_token();
        assert_eq!(some.bytes - none.bytes, (200 * config.num_hidden_layers * latents) as f64);
        assert_eq!(none.flops, 4.0 * Counts::of(&config, 0).parameters.active.without_embedding as f64);
        assert!(some.flops > none.flops);
        // Weights bound by memory, latents by arithmetic.
        let (bytes, flops) = (1e9, 1e9 * none.flops / none.bytes);
        let Step { attention, .. } = step(100.0);
        assert!(attention.flops / flops > attention.bytes / bytes);
        assert_eq!(step(100.0).least_s(bytes, flops), none.bytes / bytes + attention.flops / flops);
    }

    #[test]
    fn some_weights_come_from_everywhere() {
        let model = Model::random(&presets::preset("tiny").unwrap(), 0.02, 1);
        let bytes = |limit| some_weights(&model, limit).iter().map(|bytes| bytes.len()).sum::<usize>();
        let all = bytes(usize::MAX);
        let vectors = model.params.all.iter().filter(|p| p.value.shape().as_slice().len() == 1);
        let vectors: u64 = vectors.map(|p| p.value.size_bytes()).sum();
        assert_eq!(all as u64 + vectors, model.params.all.iter().map(|p| p.value.size_bytes()).sum::<u64>());
        assert!((all / 8..all / 2).contains(&bytes(all / 3)), "{} of {all}", bytes(all / 3));
    }

    #[test]
    fn a_prompt_has_one_row_of_logits() {
        let config = presets::preset("tiny").unwrap();
        let head = 2.0 * (config.vocab_size * config.hidden_size) as f64;
        let forward = |n| Counts::of(&config, n).flops_per_token.forward as f64;
        assert_eq!(prefill_flops(&config, 1), forward(1));
        assert_eq!(prefill_flops(&config, 64), 64.0 * forward(64) - 63.0 * head);
    }

    #[test]
    fn experts_of_a_group_count_once() {
        // Two layers, four tokens, two of eight experts each.
        let choices = [vec![0, 1, 0, 1, 2, 3, 2, 4], vec![0, 1, 2, 3, 4, 5, 6, 7]];
        let count = |batch| distinct_experts(&choices, 2, batch);
        assert_eq!(count(1), 2.0);
        assert_eq!(count(2), (2.0 + 3.0 + 4.0 + 4.0) / 4.0);
        assert_eq!(count(4), 6.5);
        assert_eq!(count(100), count(4), "all there are");
        assert_eq!(distinct_experts(&[], 2, 1), 0.0, "a dense model");
    }

    #[test]
    fn a_traced_text_chooses_as_many_experts_as_a_token_may() {
        let config = presets::preset("tiny").unwrap();
        let (ctx, model) = (Ctx::new(1).unwrap(), Model::random(&config, 0.02, 1));
        let choices: Vec<Vec<u32>> = model.trace(&ctx, &[1, 2, 3], false).routing.into_iter().map(|r| r.1).collect();
        assert_eq!(distinct_experts(&choices, config.num_experts_per_tok, 1), config.num_experts_per_tok as f64);
    }
}

//! The least that a model must read and compute, whoever runs it: what its speed is held against.

use std::collections::BTreeSet;

use config::{Counts, ModelConfig};
use model::{Model, Param};
use ops::mla_decode::Latents;

/// Bytes and operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) bytes: f64,
    pub(super) flops: f64,
}

/// The bytes of a model's weights, by how often they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weights {
    /// What every step reads.
    always: u64,
    /// All routed experts.
    experts: u64,
    /// One row of the embedding table.
    embedding_row: u64,
}

impl Weights {
    /// Of the main model, in the types that it is stored in.
    pub(super) fn of(model: &Model) -> Self {
        let mut weights = Self::default();
        for param in model.params.all.iter().filter(|param| !is_mtp(param, &model.config)) {
            let bytes = param.value.size_bytes();
            // Experts are the weights of rank three. A tied embedding table is read whole, as the head.
            if param.value.shape().as_slice().len() == 3 {
                weights.experts += bytes;
            } else if param.parts[0].name.ends_with("embed_tokens.weight") && !model.config.tie_word_embeddings {
                weights.embedding_row = bytes / model.config.vocab_size as u64;
            } else {
                weights.always += bytes;
            }
        }
        weights
    }
}

/// Layers after the main ones, which neither prefill nor decode runs.
fn is_mtp(param: &Param, config: &ModelConfig) -> bool {
    let layer = param.parts[0].name.split('.').find_map(|part| part.parse::<usize>().ok());
    layer.is_some_and(|layer| layer >= config.num_hidden_layers)
}

/// One step of decoding: a token for each of `batch` sequences that have `context` tokens. Of the routed experts the share
/// `experts` is read.
///
/// Attention is counted in absorbed form: a head compares a query with a latent and adds up latents, `2 rk + dr`
/// multiply-adds a token of the context.
pub(super) fn decode(model: &Model, weights: Weights, experts: f64, batch: usize, context: f64) -> Work {
    let c = &model.config;
    let (batch, layers) = (batch as f64, c.num_hidden_layers as f64);
    let latents = Latents::new(model.cache_kind, c.kv_lora_rank, c.qk_rope_head_dim).bytes_per_token() as f64;
    let matrices = Counts::of(c, 0).parameters.active.without_embedding as f64;
    let pairs = (c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim)) as f64;
    Work {
        bytes: weights.always as f64
            + experts * weights.experts as f64
            + batch * (weights.embedding_row as f64 + layers * context * latents),
        flops: 2.0 * batch * (matrices + layers * context * pairs),
    }
}

/// The operations of prefilling `tokens` tokens: attention in direct form, causal, and logits of the last token alone.
pub(super) fn prefill_flops(config: &ModelConfig, tokens: usize) -> f64 {
    let counts = Counts::of(config, tokens as u32);
    let active = counts.parameters.active;
    let head = 2.0 * (active.without_embedding - active.without_embedding_and_head) as f64;
    tokens as f64 * (counts.flops_per_token.forward as f64 - head) + head
}

/// The mean share of `experts` that `batch` tokens choose together, from the choices `[T, K]` of each layer for the tokens
/// of one text.
pub(super) fn share_of_experts(choices: &[Vec<u32>], k: usize, batch: usize, experts: usize) -> f64 {
    let shares: Vec<f64> = choices
        .iter()
        .flat_map(|idx| idx.chunks_exact((batch * k).min(idx.len()).max(1)))
        .map(|group| group.iter().collect::<BTreeSet<_>>().len() as f64 / experts as f64)
        .collect();
    if shares.is_empty() { 0.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 }
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
        let (weights, counts) = (Weights::of(&model), Counts::of(&config, 0).parameters);
        let embedding = counts.parts.embedding;
        assert_eq!(weights.experts, 4 * counts.parts.routed_experts);
        assert_eq!(weights.always + weights.experts, 4 * (counts.main - embedding));
        assert_eq!(weights.embedding_row, 4 * config.hidden_size as u64);
    }

    #[test]
    fn a_step_reads_the_chosen_experts_and_all_latents() {
        let config = presets::preset("tiny").unwrap();
        let model = Model::random(&config, 0.02, 1);
        let weights = Weights { always: 1000, experts: 400, embedding_row: 10 };
        let [none, some] = [0.0, 100.0].map(|context| decode(&model, weights, 0.25, 2, context));
        assert_eq!(none.bytes, 1000.0 + 100.0 + 20.0);
        let latents = Latents::new(model.cache_kind, config.kv_lora_rank, config.qk_rope_head_dim).bytes_per_token();
        assert_eq!(some.bytes - none.bytes, (200 * config.num_hidden_layers * latents) as f64);
        assert_eq!(none.flops, 4.0 * Counts::of(&config, 0).parameters.active.without_embedding as f64);
        assert!(some.flops > none.flops);
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
        let share = |batch| share_of_experts(&choices, 2, batch, 8);
        assert_eq!(share(1), 2.0 / 8.0);
        assert_eq!(share(2), (2.0 + 3.0 + 4.0 + 4.0) / 4.0 / 8.0);
        assert_eq!(share(4), 6.5 / 8.0);
        assert_eq!(share(100), share(4), "all there are");
        assert_eq!(share_of_experts(&[], 2, 1, 8), 0.0, "a dense model");
    }

    #[test]
    fn a_traced_text_chooses_as_many_experts_as_a_token_may() {
        let config = presets::preset("tiny").unwrap();
        let (ctx, model) = (Ctx::new(1).unwrap(), Model::random(&config, 0.02, 1));
        let choices: Vec<Vec<u32>> = model.trace(&ctx, &[1, 2, 3], false).routing.into_iter().map(|r| r.1).collect();
        let share = share_of_experts(&choices, config.num_experts_per_tok, 1, config.n_routed_experts);
        assert_eq!(share, config.num_experts_per_tok as f64 / config.n_routed_experts as f64);
    }
}

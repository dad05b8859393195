//! What a decoding step reads.

use serde::Serialize;

use super::{Class, Part, Tensors, tensors};
use crate::model::{Dtype, ModelConfig, ModelFields, QuantizationConfig, WeightFormat, WeightPart};

/// Bytes of weights by part, scales included, however they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PartBytes {
    /// The embedding table.
    pub embedding: u64,
    /// Projections of attention.
    pub attention: u64,
    /// FFNs of the dense layers.
    pub dense_ffn: u64,
    /// Routed experts.
    pub routed_experts: u64,
    /// Shared experts.
    pub shared_experts: u64,
    /// Router weights.
    pub router: u64,
    /// Norms and biases.
    pub norms: u64,
    /// The head; 0 when it is the embedding.
    pub head: u64,
    /// MTP layers, which decoding does not read.
    pub mtp: u64,
}

/// Bytes of weights that one step of decoding reads, for a token of each sequence of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DecodeBytes {
    /// What every token needs: all parts but embedding, routed experts and MTP layers.
    pub always: u64,
    /// A row of the embedding table for each sequence.
    pub embedding: u64,
    /// Different experts of a mixture layer that some token of the batch chooses.
    pub distinct_experts: f64,
    /// Their weights, over all mixture layers.
    pub experts: u64,
}

impl PartBytes {
    /// A checkpoint of `config` in the types that it says its weights have.
    pub fn of(config: &ModelConfig) -> Self {
        let plain = if config.dtype == Some(Dtype::Float32) { WeightFormat::F32 } else { WeightFormat::Bf16 };
        let mut parts = Self::default();
        for t in tensors(config) {
            let format = match (t.class, &config.quantization_config) {
                (Class::AlwaysF32, _) => WeightFormat::F32,
                (Class::Linear, Some(QuantizationConfig::Fp8 { .. })) => WeightFormat::Fp8,
                // A vector is never quantised.
                (_, Some(QuantizationConfig::Hadal { weights })) if t.rows > 1 => {
                    t.weight_part().and_then(|part| weights.get(&part).copied()).unwrap_or(plain)
                }
                _ => plain,
            };
            *parts.of_tensors(&t) += t.copies * format.bytes([t.rows, t.cols]);
        }
        parts
    }

    fn of_tensors(&mut self, t: &Tensors) -> &mut u64 {
        if t.mtp {
            return &mut self.mtp;
        }
        match t.part {
            Part::Embedding => &mut self.embedding,
            // Norms of latents and biases are counted with the projections here: thousandths of them.
            Part::Attention => &mut self.attention,
            Part::DenseFfn => &mut self.dense_ffn,
            Part::RoutedExperts => &mut self.routed_experts,
            Part::SharedExperts => &mut self.shared_experts,
            Part::Router => &mut self.router,
            Part::Norms => &mut self.norms,
            Part::Head => &mut self.head,
            Part::Projection | Part::EmbeddingCopy | Part::HeadCopy => &mut self.mtp,
        }
    }

    /// Counts a tensor that a file has under `name`.
    pub fn add(&mut self, config: &ModelFields, name: &str, bytes: u64) {
        *self.of_name(config, name) += bytes;
    }

    fn of_name(&mut self, config: &ModelFields, name: &str) -> &mut u64 {
        let layer = name.split('.').skip_while(|part| *part != "layers").nth(1).and_then(|n| n.parse::<usize>().ok());
        if layer.is_some_and(|layer| layer >= config.num_hidden_layers) {
            return &mut self.mtp;
        }
        match config.weight(name).map(|weight| weight.part) {
            None => &mut self.norms,
            Some(WeightPart::Embed) => &mut self.embedding,
            Some(WeightPart::Attention) => &mut self.attention,
            Some(WeightPart::Dense) => &mut self.dense_ffn,
            Some(WeightPart::Experts) => &mut self.routed_experts,
            Some(WeightPart::Shared) => &mut self.shared_experts,
            Some(WeightPart::Router) => &mut self.router,
            Some(WeightPart::Head) => &mut self.head,
            Some(WeightPart::Projection) => &mut self.mtp,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { embedding, attention, dense_ffn, routed_experts, shared_experts, router, norms, head, mtp } = self;
        embedding + attention + dense_ffn + routed_experts + shared_experts + router + norms + head + mtp
    }

    /// What a step reads that appends a token to each of `batch` sequences, if all experts are equally likely.
    pub fn decode(&self, config: &ModelConfig, batch: u64) -> DecodeBytes {
        self.decode_with(config, batch, distinct_experts(config, batch))
    }

    /// The same where the tokens are known to choose so many different experts of a mixture layer, on average.
    pub fn decode_with(&self, config: &ModelConfig, batch: u64, distinct_experts: f64) -> DecodeBytes {
        let head = if config.tie_word_embeddings { self.embedding } else { self.head };
        let chosen = distinct_experts / config.n_routed_experts.max(1) as f64;
        DecodeBytes {
            always: self.attention + self.dense_ffn + self.shared_experts + self.router + self.norms + head,
            embedding: batch * self.embedding / config.vocab_size as u64,
            distinct_experts,
            experts: (chosen * self.routed_experts as f64).round() as u64,
        }
    }
}

impl DecodeBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.always + self.embedding + self.experts
    }
}

/// `E (1 − (1 − K / E)^B)`: of E experts, those that at least one of B tokens chose, when every token chooses K and all are
/// equally likely. Balance is what routers are trained for, and tokens of different sequences choose apart from each other.
fn distinct_experts(config: &ModelConfig, batch: u64) -> f64 {
    let (e, k) = (config.n_routed_experts as f64, config.num_experts_per_tok as f64);
    if e == 0.0 { 0.0 } else { e * (1.0 - (1.0 - k / e).powf(batch as f64)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Counts;
    use crate::presets::{PRESETS, preset};

    #[test]
    fn parts_add_up_to_the_checkpoint() {
        for p in PRESETS {
            let config = p.config();
            let checkpoint = Counts::of(&config, 1).checkpoint;
            let file = if config.quantization_config.is_some() { checkpoint.fp8 } else { checkpoint.bf16 };
            let parts = PartBytes::of(&config);
            assert_eq!(parts.total(), file.bytes, "{}", p.name);
            assert_eq!(parts.total() - parts.mtp, file.bytes_main, "{}", p.name);
        }
    }

    #[test]
    fn parts_that_a_config_names_have_their_formats() {
        let quantised = |weights: serde_json::Value| {
            let block = json!({ "quant_method": "hadal", "version": 1, "weights": weights });
            let changes = json!({ "quantization_config": block });
            let config = preset("deepseek-v3").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
            PartBytes::of(&config)
        };
        let plain = quantised(json!({}));
        let four = quantised(json!({ "experts": "q4", "attention": "fp8", "head": "q8", "embed": "q8" }));
        // 4.5, 8 and 8.5 bits instead of 16; attention has its scales and its norms too.
        assert_eq!(four.routed_experts * 32, plain.routed_experts * 9);
        assert_eq!((four.head * 32, four.embedding * 32), (plain.head * 17, plain.embedding * 17));
        let share = four.attention as f64 / plain.attention as f64;
        assert!((0.5..0.501).contains(&share), "{share}");
        assert!(four.mtp < plain.mtp / 3, "MTP layers have experts, and copies of embedding and head");
        assert_eq!((four.dense_ffn, four.shared_experts), (plain.dense_ffn, plain.shared_experts));
        assert_eq!((four.router, four.norms), (plain.router, plain.norms));
    }

    #[test]
    fn a_token_of_v3_reads_its_active_parameters() {
        let config = preset("deepseek-v3").unwrap();
        let parts = PartBytes::of(&config);
        let decode = parts.decode(&config, 1);
        assert!((decode.distinct_experts - 8.0).abs() < 1e-9);
        // 58 layers · 8 experts · 3 matrices of 2048 × 7168, each with 16 · 56 scales.
        assert_eq!(decode.experts, 58 * 8 * 3 * (2048 * 7168 + 4 * 16 * 56));
        assert_eq!(decode.embedding, 2 * 7168);
        let active = Counts::of(&config, 1).parameters.active.without_embedding_and_head;
        let linear = decode.total() - parts.head - decode.embedding;
        // A byte for nearly every one of them; routers and norms have two.
        assert!((linear as f64 / active as f64 - 1.0).abs() < 0.004, "{linear} {active}");
    }

    #[test]
    fn a_large_batch_meets_every_expert() {
        let config = preset("deepseek-v3").unwrap();
        let parts = PartBytes::of(&config);
        assert!(parts.decode(&config, 2).distinct_experts < 16.0);
        let all = parts.decode(&config, 100_000);
        assert_eq!(all.experts, parts.routed_experts);
    }

    #[test]
    fn names_of_files_are_counted_where_they_belong() {
        let config = preset("tiny").unwrap();
        let mut parts = PartBytes::default();
        let last = config.num_hidden_layers;
        for (name, bytes) in [("model.embed_tokens.weight", 1), ("lm_head.weight", 8)] {
            parts.add(&config, name, bytes);
        }
        let up = "mlp.experts.0.up_proj";
        for (layer, module, bytes) in [(1, up, 2), (0, "input_layernorm", 4), (last, up, 16)] {
            parts.add(&config, &["model", "layers", &layer.to_string(), module, "weight"].join("."), bytes);
        }
        let want = PartBytes { embedding: 1, routed_experts: 2, norms: 4, head: 8, mtp: 16, ..PartBytes::default() };
        assert_eq!(parts, want);
    }
}

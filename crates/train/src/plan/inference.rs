//! What answering needs of memory, and what a token costs in bytes.

use config::ModelConfig;
use config::counts::{DecodeBytes, PartBytes};
use model::{CacheKind, PREFILL_CHUNK};
use ops::Precision;
use ops::mla_decode::Latents;
use serde::Serialize;

use super::ledger::Ledger;
use super::shapes::Sizes;
use super::walk::Walk;
use super::{PROGRAM_BYTES, pairs, thread_bytes};

/// A tokenizer's tables for each of its ids; measured with 129,280 of them.
const TOKENIZER_BYTES_PER_ID: u64 = 250;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Tokens of a sequence.
    pub context: u64,
    /// Sequences at the same time.
    pub batch: u64,
    /// How latents are kept.
    pub cache: CacheKind,
    /// What the operands of products are rounded to.
    pub precision: Precision,
    /// Compute threads.
    pub threads: usize,
}

/// Bytes of memory to answer with, and bytes that a decoded token reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inference {
    /// Weights by part. They lie in mapped files: the page cache holds as much of them as there is room for.
    pub weights: PartBytes,
    /// All weights.
    pub weights_total: u64,
    /// Tokens of a sequence.
    pub context: u64,
    /// Sequences at the same time.
    pub batch: u64,
    /// Latents of one token in one layer.
    pub cache_per_token_layer: u64,
    /// Latents of one token.
    pub cache_per_token: u64,
    /// Latents of all sequences.
    pub cache: u64,
    /// Buffers while the last chunk of a prompt of the context's length is run over.
    pub workspace: u64,
    /// What compute threads pack operands into.
    pub threads: u64,
    /// The program and its tokenizer.
    pub program: u64,
    /// Memory besides the weights: cache, workspace, threads, program.
    pub memory: u64,
    /// Weights that a step of decoding reads, a token for each sequence.
    pub decode: DecodeBytes,
    /// Latents that such a step reads at the end of the context.
    pub decode_cache: u64,
    /// All that such a step reads.
    pub decode_total: u64,
}

impl Inference {
    /// What `question` needs of the model `config`, whose stored weights are `weights`.
    pub fn of(config: &ModelConfig, weights: PartBytes, question: Question) -> Self {
        let Question { context, batch, cache, precision, threads } = question;
        let sizes = Sizes::of(config, precision);
        let layers = config.num_hidden_layers as u64;
        let cache_per_token_layer =
            Latents::new(cache, config.kv_lora_rank, config.qk_rope_head_dim).bytes_per_token() as u64;
        let cache_per_token = layers * cache_per_token_layer;
        // A cache grows by blocks of 64 tokens.
        let cache = batch * context.next_multiple_of(64) * cache_per_token;

        let moe = (0..config.num_hidden_layers).map(|layer| config.is_moe(layer)).collect();
        let mut ledger = Ledger::default();
        Walk { sizes, again: model::Recompute::ALL, moe, mtp: 0, pairs: pairs(), ledger: &mut ledger }
            .prefill(context.min(PREFILL_CHUNK as u64) as usize, context as usize);
        let workspace = ledger.touched_bytes() + 4 * batch * config.vocab_size as u64;
        let threads = threads as u64 * thread_bytes(&sizes);
        let program = PROGRAM_BYTES + TOKENIZER_BYTES_PER_ID * config.vocab_size as u64;
        let decode = weights.decode(config, batch);
        let decode_cache = batch * context * cache_per_token;
        Self {
            weights_total: weights.total(),
            weights,
            context,
            batch,
            cache_per_token_layer,
            cache_per_token,
            cache,
            workspace,
            threads,
            program,
            memory: cache + workspace + threads + program,
            decode,
            decode_cache,
            decode_total: decode.total() + decode_cache,
        }
    }

    /// Tokens a second of all sequences together, if reading at `bytes_per_s` were all that decoding does.
    pub fn tokens_per_s(&self, bytes_per_s: f64) -> f64 {
        self.batch as f64 * bytes_per_s / self.decode_total as f64
    }
}

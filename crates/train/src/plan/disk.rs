//! What a run writes.

use config::recipe::{FloatType, Recipe};
use config::{Counts, ModelConfig};
use data::{Dataset, Split};
use serde::Serialize;

use super::shapes;
use crate::prepare;

/// Bytes on disk when most is there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disk {
    /// Token shards. None where the sources cannot be listed.
    pub shards: Option<u64>,
    /// Whether the shards are there already and have been counted; otherwise their size is a guess from the size of the text.
    pub shards_exist: bool,
    /// One checkpoint: weights, moments, and f32 weights where the others are bf16.
    pub checkpoint: u64,
    /// Checkpoints at the end; one more while the last is written.
    pub checkpoints: u64,
    /// Metrics, event file and report.
    pub logs: u64,
    /// All together, with the checkpoint that is being written.
    pub total: u64,
}

/// Bytes that the index of a safetensors file takes for a tensor.
const HEADER_BYTES: u64 = 140;

impl Disk {
    pub(super) fn of(recipe: &Recipe, config: &ModelConfig, steps: u64, moments: u64) -> Self {
        let corpus = corpus(recipe);
        let checkpoint = checkpoint_bytes(recipe, config, moments);
        let checkpoints = kept(recipe, steps);
        let logs = log_bytes(recipe, config, steps);
        let total = corpus.shards.unwrap_or(0) + (checkpoints + 1) * checkpoint + logs;
        Self { shards: corpus.shards, shards_exist: corpus.exists, checkpoint, checkpoints, logs, total }
    }
}

/// The tensors of a run's checkpoint, each once.
pub(super) fn tensors(config: &ModelConfig) -> u64 {
    // Embedding and head of MTP layers are the main model's here.
    Counts::of(config, 1).checkpoint.f32.tensors - 2 * config.num_nextn_predict_layers as u64
}

fn checkpoint_bytes(recipe: &Recipe, config: &ModelConfig, moments: u64) -> u64 {
    let (trained, routing_biases) = shapes::parameters(config);
    let trained: u64 = trained.iter().map(|&len| len as u64).sum();
    let masters = 4 * (trained + routing_biases as u64);
    let (weights, files) = match recipe.checkpoint.dtype {
        FloatType::F32 => (masters, 3),
        // Beside the masters. Routing biases stay f32.
        FloatType::Bf16 => (masters + 2 * trained + 4 * routing_biases as u64, 4),
    };
    weights + moments + files * HEADER_BYTES * tensors(config) + TOKENIZER_BYTES_PER_ID * config.vocab_size as u64
}

/// A tokenizer's files, for each of its ids.
const TOKENIZER_BYTES_PER_ID: u64 = 60;

/// Checkpoints that are there in the end.
fn kept(recipe: &Recipe, steps: u64) -> u64 {
    let policy = &recipe.checkpoint;
    // Multiples of `every_steps`, and the end.
    let saves = steps.div_ceil(policy.every_steps);
    let newest = saves.min(policy.keep_last.max(1) as u64);
    let last_of_others = policy.every_steps * (saves - newest);
    newest + policy.keep_every_steps.map_or(0, |every| last_of_others / every)
}

/// Lines of metrics hold the rows of every expert; the event file and the page are of the same order.
fn log_bytes(recipe: &Recipe, config: &ModelConfig, steps: u64) -> u64 {
    const LINE: u64 = 400;
    const PER_EXPERT: u64 = 6;
    let lines = steps / recipe.log.every_steps + 1;
    let moe = (0..config.num_hidden_layers).filter(|&layer| config.is_moe(layer)).count() as u64;
    let layers = moe + config.num_nextn_predict_layers as u64;
    2 * lines * (LINE + PER_EXPERT * layers * config.n_routed_experts as u64)
}

/// A run's text as shards.
pub(super) struct CorpusSize {
    shards: Option<u64>,
    documents: u64,
    tokens: u64,
    seq_len: u64,
    exists: bool,
}

/// The shards if they are there, or else a guess from the sizes of the sources.
pub(super) fn corpus(recipe: &Recipe) -> CorpusSize {
    // An id is 4 bytes, a document 20 in the index; a token stands for about 4 bytes of text, and compressed text is about a
    // third of the text.
    const TOKEN: u64 = 4;
    const DOCUMENT: u64 = 20;
    const TEXT_PER_TOKEN: u64 = 4;
    const COMPRESSION: u64 = 3;
    let seq_len = recipe.data.seq_len as u64;
    let mut size = CorpusSize { shards: None, documents: 0, tokens: 0, seq_len, exists: false };
    if let Ok(dataset) = Dataset::open(&recipe.data.cache) {
        for split in [Split::Train, Split::Validation] {
            for (_, stored) in dataset.sources(split) {
                size.tokens += stored.tokens;
                size.documents += stored.documents;
            }
        }
        return CorpusSize { shards: Some(TOKEN * size.tokens + DOCUMENT * size.documents), exists: true, ..size };
    }
    let files: Result<Vec<_>, _> = prepare::sources(recipe).iter().map(data::read::list).collect();
    let Ok(files) = files else { return size };
    for file in files.into_iter().flatten() {
        let compressed = file.path.extension().is_some_and(|e| e == "gz" || e == "zst");
        size.tokens += if compressed { COMPRESSION } else { 1 } * file.bytes / TEXT_PER_TOKEN;
    }
    CorpusSize { shards: Some(TOKEN * size.tokens), ..size }
}

impl CorpusSize {
    /// What a loader remembers: with best-fit packing, the pieces of the rows packed lately, at most half a million rows.
    pub(super) fn loader_bytes(&self, best_fit: bool) -> u64 {
        const CACHED_ROWS: u64 = 1 << 19;
        const ROW: u64 = 24;
        const PIECE: u64 = 24;
        if !best_fit {
            return 0;
        }
        let rows = (self.tokens / self.seq_len.max(1)).min(CACHED_ROWS);
        let pieces = rows.max(self.documents.min(CACHED_ROWS * 4));
        rows * ROW + pieces * PIECE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_counted_as_they_are_removed() {
        let recipe = |every_steps, keep_last, keep_every_steps| {
            let mut recipe = super::super::tests::recipe(&[]);
            recipe.checkpoint.every_steps = every_steps;
            recipe.checkpoint.keep_last = keep_last;
            recipe.checkpoint.keep_every_steps = keep_every_steps;
            recipe
        };
        // Saved at 10, 20, .. 100 and 105; the newest two are 100 and 105, and of the others 40 and 80 stay.
        assert_eq!(kept(&recipe(10, 2, Some(40)), 105), 4);
        assert_eq!(kept(&recipe(10, 2, None), 105), 2);
        assert_eq!(kept(&recipe(200, 5, None), 105), 1, "the end of a run is always saved");
    }
}

//! What a run needs of memory and disk, before it starts.
//!
//! Memory is added up of what a process of this program holds while it trains:
//!
//! - weights and moments, whose sizes follow from the model;
//! - the buffers of a step. They all come out of one arena ([`tensor::Arena`]), which hands out the same places for the same
//!   lengths in the same order. [`walk`] goes through a step as the model does, from buffer to buffer, on an arena without
//!   memory; what that arena ends up having touched is what a run has in memory, holes included. It depends on nothing but
//!   shapes: all experts together always get `T K` rows, wherever they are sent;
//! - lists that grow with a batch and are no tensors: its tokens, and where the rows of each mixture layer went;
//! - what each compute thread packs operands into, and the program itself. Those are measured numbers ([`PROGRAM_BYTES`],
//!   [`thread_bytes`]), and small.
//!
//! Saving writes tensors as they lie, in pieces, so it adds no more than the list of their names. Validation and samples take
//! less than a step, out of the same arena. Preparing a corpus comes before the model exists; training a tokenizer on a text
//! with very many different words can be larger than a small model, and is not in the plan.

mod available;
mod disk;
pub mod inference;
mod ledger;
mod shapes;
#[cfg(test)]
mod tests;
mod walk;

use config::ModelConfig;
use config::recipe::{FloatType, Packing, Recipe};
use model::Recompute;
use serde::Serialize;
use tensor::{Isa, Level};

pub use available::{Available, available};
pub use disk::Disk;
pub use ledger::Use;

use crate::error::{Error, Result};
use crate::report::units;
use crate::step;
use ledger::Ledger;
use shapes::Sizes;
use walk::{Rows, Walk};

/// What a run needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Optimiser steps.
    pub steps: u64,
    /// Of memory.
    pub memory: Memory,
    /// Of disk.
    pub disk: Disk,
}

/// Bytes of memory at the largest moment of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Parameters, those of MTP layers included, each once.
    pub parameters: u64,
    /// The f32 weights.
    pub weights: u64,
    /// Their f32 gradients.
    pub gradients: u64,
    /// Both moments of each.
    pub moments: u64,
    /// The buffers of a micro-batch, at the moment when most of them are taken.
    pub activations: Activations,
    /// What compute threads pack operands into.
    pub threads: u64,
    /// A step's tokens, and what the loader remembers.
    pub data: u64,
    /// Names of tensors while a checkpoint is written.
    pub saving: u64,
    /// The program and its tokenizer.
    pub program: u64,
    /// All together.
    pub total: u64,
}

/// Bytes that a micro-batch takes, besides the gradients of weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Activations {
    /// Tokens of a micro-batch.
    pub tokens: u64,
    /// What each layer keeps for backward, and how many layers are like it.
    pub layers: Vec<Layer>,
    /// Kept for backward, at the largest moment.
    pub kept: u64,
    /// Logits of a slab of rows, and hidden states of a loss, at that moment.
    pub logits: u64,
    /// What products pack their rows into, and attention its keys, at that moment.
    pub packed: u64,
    /// Results on their way from one operation to the next, at that moment.
    pub passing: u64,
    /// Where each mixture layer sent its rows.
    pub routing: u64,
    /// Touched at other moments, and not taken at the largest one.
    pub holes: u64,
    /// All together.
    pub total: u64,
}

/// Layers that keep the same for backward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// `dense`, `mixture` or `mtp`.
    pub kind: &'static str,
    /// How many there are.
    pub layers: u64,
    /// Bytes that each of them keeps.
    pub kept: u64,
}

/// A change that needs less memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// As `--set` takes it.
    pub set: &'static str,
    /// Bytes that it saves alone.
    pub saves: u64,
}

/// Code, libraries and lists of the program in memory once it trains, without what is counted elsewhere; measured.
const PROGRAM_BYTES: u64 = 14 << 20;

/// A tokenizer's tables for each of its ids, in the forms in which a corpus and samples need them; measured with 129,280.
const TOKENIZER_BYTES_PER_ID: u64 = 480;

/// The name of a tensor, its shape and its place in a file, on their way to a checkpoint.
const BYTES_PER_SAVED_TENSOR: u64 = 400;

impl Plan {
    /// What `recipe` needs on `threads` compute threads.
    ///
    /// # Errors
    /// When the recipe's model is refused.
    pub fn of(recipe: &Recipe, threads: usize) -> Result<Self> {
        let config = recipe.model_config()?;
        let memory = Memory::of(recipe, &config, threads);
        let steps = steps(recipe);
        Ok(Self { steps, disk: Disk::of(recipe, &config, steps, memory.moments), memory })
    }

    /// Refuses a run that does not fit the memory there is. Where the system does not say how much that is, every run
    /// may start.
    ///
    /// # Errors
    /// [`Error::Memory`], with what would make the run smaller.
    pub fn check(&self, recipe: &Recipe, threads: usize, available: Option<&Available>) -> Result<()> {
        let needed = self.memory.total;
        let Some(available) = available.filter(|a| a.bytes < needed) else { return Ok(()) };
        let sets = remedies(recipe, threads)?;
        let saves = |r: &Remedy| format!("`--set {}` ({}B less)", r.set, units::scaled(r.saves as f64));
        let advice = match &sets[..] {
            [] => "a smaller model or shorter rows (data.seq_len) would need less".to_owned(),
            sets => format!("try {}", sets.iter().map(saves).collect::<Vec<_>>().join(", ")),
        };
        Err(Error::Memory { needed, available: available.bytes, limit: available.limit.clone(), advice })
    }
}

/// The changes of a recipe that keep its results, or nearly, and need less memory, the largest first.
///
/// # Errors
/// When the recipe's model is refused.
pub fn remedies(recipe: &Recipe, threads: usize) -> Result<Vec<Remedy>> {
    type Change = fn(&mut Recipe);
    let config = recipe.model_config()?;
    let now = Memory::of(recipe, &config, threads).total;
    let changes: [(&'static str, Change); 5] = [
        ("train.micro_batch=1", |r| r.train.micro_batch = 1),
        ("recompute.mla_up=true", |r| r.recompute.mla_up = true),
        ("recompute.swiglu=true", |r| r.recompute.swiglu = true),
        ("recompute.rms_norm=true", |r| r.recompute.rms_norm = true),
        ("optim.moments=bf16", |r| r.optim.moments = FloatType::Bf16),
    ];
    let mut remedies: Vec<Remedy> = changes
        .into_iter()
        .map(|(set, change)| {
            let mut changed = recipe.clone();
            change(&mut changed);
            Remedy { set, saves: now.saturating_sub(Memory::of(&changed, &config, threads).total) }
        })
        .filter(|remedy| remedy.saves > 0)
        .collect();
    remedies.sort_by_key(|remedy| std::cmp::Reverse(remedy.saves));
    Ok(remedies)
}

impl Memory {
    fn of(recipe: &Recipe, config: &ModelConfig, threads: usize) -> Self {
        let sizes = Sizes::of(config, step::precision(recipe));
        let (trained, routing_biases) = shapes::parameters(config);
        let count: u64 = trained.iter().map(|&len| len as u64).sum();
        let parameters = count + routing_biases as u64;
        let moment_bytes = match recipe.optim.moments {
            FloatType::F32 => 4,
            FloatType::Bf16 => 2,
        };

        let (weights, moments) = (4 * parameters, 2 * moment_bytes * count);
        let step = step_buffers(recipe, config, sizes, &trained);
        let (gradients, activations) = (step.gradients, step.activations);
        let threads = threads as u64 * thread_bytes(&sizes);
        let rows = recipe.batch.end.max(recipe.train.micro_batch) as u64;
        // Tokens and labels of a step, and of the micro-batch cut out of it.
        let tokens = 8 * (rows * recipe.data.seq_len as u64 + activations.tokens);
        let data = tokens + disk::corpus(recipe).loader_bytes(recipe.data.packing == Packing::Bestfit);
        let saving = BYTES_PER_SAVED_TENSOR * disk::tensors(config);
        let program = PROGRAM_BYTES + TOKENIZER_BYTES_PER_ID * config.vocab_size as u64;
        let total = weights + gradients + moments + activations.total + threads + data + saving + program;
        Self { parameters, weights, gradients, moments, activations, threads, data, saving, program, total }
    }
}

struct StepBuffers {
    gradients: u64,
    activations: Activations,
}

fn step_buffers(recipe: &Recipe, config: &ModelConfig, sizes: Sizes, trained: &[usize]) -> StepBuffers {
    let again = Recompute {
        rms_norm: recipe.recompute.rms_norm,
        mla_up: recipe.recompute.mla_up,
        swiglu: recipe.recompute.swiglu,
    };
    let batch = Rows { rows: recipe.train.micro_batch.min(recipe.batch.end), length: recipe.data.seq_len };
    let moe: Vec<bool> = (0..config.num_hidden_layers).map(|layer| config.is_moe(layer)).collect();
    let mixtures = moe.iter().filter(|moe| **moe).count() + config.num_nextn_predict_layers;

    let mut ledger = Ledger::default();
    for &len in trained {
        // Held to the end of the run, so never returned.
        let _ = ledger.take(Use::Gradients, len);
    }
    let gradients = 4 * trained.iter().map(|&len| len as u64).sum::<u64>();
    Walk { sizes, again, moe: moe.clone(), mtp: config.num_nextn_predict_layers, pairs: pairs(), ledger: &mut ledger }
        .forward_backward(batch);

    let at_peak = |purpose| ledger.at_peak().get(&purpose).copied().unwrap_or(0);
    // The experts of each row, its place in their order, and the token of each place.
    let routing = (mixtures * batch.tokens() * sizes.top_k * 12) as u64;
    let total = ledger.touched_bytes() - at_peak(Use::Gradients).min(ledger.touched_bytes()) + routing;
    let activations = Activations {
        tokens: batch.tokens() as u64,
        layers: layers(&moe, config, sizes, again, batch),
        kept: at_peak(Use::Kept),
        logits: at_peak(Use::Logits),
        packed: at_peak(Use::Packed),
        passing: at_peak(Use::Passing),
        routing,
        holes: ledger.touched_bytes() - ledger.peak_bytes(),
        total,
    };
    StepBuffers { gradients, activations }
}

/// What a layer of each kind keeps.
fn layers(moe: &[bool], config: &ModelConfig, sizes: Sizes, again: Recompute, rows: Rows) -> Vec<Layer> {
    let kept = |is_moe: bool| {
        let mut ledger = Ledger::default();
        let mut walk = Walk { sizes, again, moe: Vec::new(), mtp: 0, pairs: pairs(), ledger: &mut ledger };
        // A layer keeps its input, which the one before it made, and makes the next one's.
        let _ = walk.block_forward(None, is_moe, rows, again);
        ledger.now().get(&Use::Kept).copied().unwrap_or(0)
    };
    let mixtures = moe.iter().filter(|moe| **moe).count();
    let hidden = 4 * (rows.tokens() * sizes.d) as u64;
    let kinds = [
        ("dense", moe.len() - mixtures, kept(false)),
        ("mixture", mixtures, kept(true)),
        // Besides its layer: both inputs, both side by side, and its output.
        ("mtp", config.num_nextn_predict_layers, kept(true) + 5 * hidden),
    ];
    kinds
        .into_iter()
        .filter(|(_, layers, _)| *layers > 0)
        .map(|(kind, layers, kept)| Layer { kind, layers: layers as u64, kept })
        .collect()
}

/// What a thread packs operands into: panels of a product, and the tiles of attention's backward, which are the most that an
/// operation holds.
fn thread_bytes(sizes: &Sizes) -> u64 {
    const PANELS: u64 = 7 << 18;
    const QUERIES: usize = 256;
    const KEYS: usize = 168;
    let (keys, values) = (sizes.dn + sizes.dr, sizes.dv);
    let tiles = QUERIES * (3 * keys + 2 * values) + KEYS * (2 * keys + 2 * values) + 2 * KEYS * QUERIES;
    PANELS + 4 * tiles as u64
}

/// Whether this processor multiplies pairs of bf16.
fn pairs() -> bool {
    Isa::detect().level() >= Level::Avx512Bf16
}

/// The number of optimiser steps of a whole run.
pub(crate) fn steps(recipe: &Recipe) -> u64 {
    let (mut steps, mut tokens) = (0, 0);
    while tokens < recipe.train.total_tokens {
        tokens += (recipe.batch_at(tokens) * recipe.data.seq_len) as u64;
        steps += 1;
    }
    steps
}

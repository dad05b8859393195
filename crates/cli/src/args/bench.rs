use std::path::PathBuf;

use clap::{Args as Group, Subcommand};

use super::{BenchServe, Compute};

#[derive(Group)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) what: BenchCommand,
}

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure what this machine can do at most: memory, caches, arithmetic, starting threads.
    Machine(BenchMachine),
    /// Time operations over their speed cases, with one thread and with all.
    Kernels(BenchKernels),
    /// Time prefill and decode of a model on random tokens.
    Infer(BenchInfer),
    /// Time the training steps of a recipe on random tokens.
    Train(BenchTrain),
    /// Put a server under load, and measure what its users would feel.
    Serve(Box<BenchServe>),
}

#[derive(Group)]
pub(crate) struct BenchMachine {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Group)]
pub(crate) struct BenchKernels {
    /// Operations, or parts of the names of their cases; all without any.
    pub(crate) names: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Group)]
pub(crate) struct BenchInfer {
    /// The model directory.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Lengths of prompts to prefill.
    #[arg(long, value_delimiter = ',', default_value = "512,4096")]
    pub(crate) prompt: Vec<usize>,
    /// Sequences that are decoded at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    pub(crate) batch: Vec<usize>,
    /// Tokens that each sequence has before it is decoded; they are prefilled.
    #[arg(long, value_delimiter = ',', default_value = "512,4096")]
    pub(crate) context: Vec<usize>,
    /// Decoding steps that are timed, for each batch and context.
    #[arg(long, default_value_t = 32)]
    pub(crate) tokens: usize,
    /// Prefills that are timed, for each length.
    #[arg(long, default_value_t = 3)]
    pub(crate) repeat: usize,
    /// Seed of the tokens.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Group)]
pub(crate) struct BenchTrain {
    /// The recipe; only its model, rows, precision and optimiser matter.
    pub(crate) recipe: PathBuf,
    /// A key of the recipe to change; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

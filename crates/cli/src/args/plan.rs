use std::path::PathBuf;

use clap::Args as Group;

use super::CacheType;

#[derive(Group)]
pub(crate) struct Plan {
    /// The recipe of a run. With --model instead, answering is planned.
    #[arg(required_unless_present = "model", conflicts_with = "model")]
    pub(crate) recipe: Option<PathBuf>,
    /// A key of the recipe to change; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "model")]
    pub(crate) sets: Vec<String>,
    /// A model directory, a config.json, or a preset's name.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 4096, requires = "model", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub(crate) context: u64,
    /// Sequences at the same time.
    #[arg(long, default_value_t = 1, requires = "model", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) batch: u64,
    /// How latents are kept between tokens; bf16 without it, or f32 where the weights are f32.
    #[arg(long, requires = "model")]
    pub(crate) cache: Option<CacheType>,
    /// Memory bandwidth in GB/s, to tell tokens per second from; measured without it.
    #[arg(long, requires = "model")]
    pub(crate) gbs: Option<f64>,
    /// Print JSON. Its `fits`, and exit code 3 with or without it, say whether there is enough memory now; weights that a
    /// server maps are not counted.
    #[arg(long)]
    pub(crate) json: bool,
}

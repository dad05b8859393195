//! A model directory into memory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use checkpoint::{Load, Reader};
use config::ModelConfig;
use model::{CacheKind, Model, Precision};
use serde::Deserialize;
use tensor::ExpertMemory;
use tokenizer::{ChatFormat, ChatTemplate, Tokenizer, TokenizerConfig};

use crate::args::{CacheType, Compute, Dtype};
use crate::failure::Usage;

/// All that answering needs.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) tokenizer_config: TokenizerConfig,
    pub(crate) generation: GenerationConfig,
    pub(crate) template: ChatTemplate,
}

/// The fields of generation_config.json that sampling knows.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GenerationConfig {
    #[serde(default)]
    pub(crate) do_sample: bool,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) eos_token_id: Option<OneOrMany>,
}

/// `eos_token_id` is a number or a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// The config of a directory or of a `config.json`.
pub(crate) fn config(path: &Path) -> Result<ModelConfig> {
    let file: PathBuf = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    ModelConfig::read(&file).with_context(|| format!("reading the model configuration {}", file.display()))
}

/// The weights of `dir`, as they are stored and where they lie.
pub(crate) fn weights(dir: &Path, compute: Compute) -> Result<Model> {
    let config = config(dir)?;
    let reader = Reader::open(dir).with_context(|| format!("opening the weights in {}", dir.display()))?;
    let model = Model::load(&config, &reader.with_dtype(Load::AsStored))
        .with_context(|| format!("loading the weights in {}", dir.display()))?;
    let dtype = compute.dtype.unwrap_or(if model.params.is_narrow() { Dtype::Bf16 } else { Dtype::F32 });
    let precision = match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    let mut model = model.with_precision(precision);
    match compute.cache {
        Some(CacheType::F32) => model.cache_kind = CacheKind::F32,
        Some(CacheType::Bf16) => model.cache_kind = CacheKind::Bf16,
        Some(CacheType::Fp8) => model.cache_kind = CacheKind::Fp8,
        None => {}
    }
    match compute.expert_memory {
        Some(gib) => stream_experts(model, gib),
        None => Ok(model),
    }
}

/// The model with its experts in a room of `gib` GiB.
fn stream_experts(model: Model, gib: f64) -> Result<Model> {
    let bytes = gib * f64::from(1 << 30);
    // One batch of experts is in use while the next is read.
    let least = 2 * model.expert_bytes();
    if !bytes.is_finite() || bytes < least as f64 {
        let least = least as f64 / f64::from(1 << 30);
        return Err(Usage(format!(
            "--expert-memory {gib}: two experts of this model take {least:.2e} GiB; give it that at least, better much more"
        )).into());
    }
    let memory = ExpertMemory::new(bytes as u64).context("starting the threads that read experts")?;
    Ok(model.with_streamed_experts(&memory))
}

/// Everything in `dir`.
pub(crate) fn everything(dir: &Path, compute: Compute) -> Result<Loaded> {
    let model = weights(dir, compute)?;
    let tokenizer = Tokenizer::read(dir).with_context(|| format!("reading the tokenizer in {}", dir.display()))?;
    let tokenizer_config = TokenizerConfig::read(dir)?;
    let template = ChatTemplate::read(dir)?.unwrap_or_else(|| ChatTemplate::builtin(ChatFormat::V3));
    let file = dir.join("generation_config.json");
    let generation = if file.exists() {
        let json = fs_err::read(&file)?;
        serde_json::from_slice(&json).with_context(|| format!("reading {}", file.display()))?
    } else {
        GenerationConfig::default()
    };
    Ok(Loaded { model, tokenizer, tokenizer_config, generation, template })
}

impl Loaded {
    /// Ids that end an answer: those of generation_config.json, or else of config.json.
    pub(crate) fn stop_ids(&self) -> Vec<u32> {
        match &self.generation.eos_token_id {
            Some(OneOrMany::One(id)) => vec![*id],
            Some(OneOrMany::Many(ids)) => ids.clone(),
            None => self.model.config.eos_token_id.clone(),
        }
    }
}

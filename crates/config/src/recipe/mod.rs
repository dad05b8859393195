//! The TOML recipe of a training run, complete in itself.

mod error;
pub mod reference;
mod schedule;
mod schema;
mod set;
#[cfg(test)]
mod tests;
mod tree;
mod validate;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use error::RecipeError;

use crate::model::{Dtype, ModelConfig};
use crate::presets::preset;

/// A whole run. Every key is documented in the reference that [`reference::markdown`] prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Threads to compute with; 0 means all cores.
    pub threads: usize,
    /// Directory of the run, absolute.
    pub out: PathBuf,
    /// The model.
    pub model: Model,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The text.
    pub data: Data,
    /// How much is trained.
    pub train: Train,
    /// Sequences per step.
    pub batch: Batch,
    /// Learning rate.
    pub lr: LearningRate,
    /// Optimiser.
    pub optim: Optim,
    /// Terms of the loss and the routing bias.
    pub loss: Loss,
    /// Activation recomputation.
    pub recompute: Recompute,
    /// Held-out loss.
    pub validation: Validation,
    /// Samples along the way.
    pub samples: Samples,
    /// Saving.
    pub checkpoint: Checkpoint,
    /// Stopping.
    pub guard: Guard,
    /// Progress.
    pub log: Log,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// A preset or a file.
    #[serde(flatten)]
    pub source: ModelSource,
    /// Standard deviation of the initial matrices.
    pub init_std: f64,
    /// Changed keys of `config.json`.
    pub set: Table,
}

/// Where the model configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A preset by name.
    Preset(String),
    /// A `config.json`.
    Config(PathBuf),
}

/// `[tokenizer]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// A `tokenizer.json` or a directory that has one.
    Path(PathBuf),
    /// Train one of this size on the run's data.
    TrainVocabSize(usize),
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Tokens per training row.
    pub seq_len: usize,
    /// How documents become rows.
    pub packing: Packing,
    /// Fraction of documents kept for validation.
    pub held_out: f64,
    /// Probability with which a token of punctuation and line breaks is split in two.
    pub boundary_split_rate: f64,
    /// Directory of the token shards, absolute.
    pub cache: PathBuf,
    /// The sources, at least one.
    pub sources: Vec<Source>,
}

/// How documents become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Documents joined and cut at row ends.
    Concat,
    /// Rows filled with the documents that fit best.
    Bestfit,
}

/// `[[data.sources]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Name in logs and metrics.
    pub name: String,
    /// Files, directories and globs, absolute.
    pub paths: Vec<PathBuf>,
    /// What the documents are for.
    pub role: Role,
    /// Share of the training tokens, relative to the other sources.
    pub weight: f64,
    /// Key of the text in JSONL files.
    pub text_key: String,
    /// Longest document cut from a text file, in bytes; 0 leaves files whole.
    pub cut_bytes: u64,
    /// Whether control tokens are spelled in the text.
    pub control_tokens: bool,
    /// Fraction of training documents rearranged for fill-in-the-middle.
    pub fim_rate: f64,
}

/// What the documents of a source are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Most to train on, `data.held_out` of them to validate on.
    Split,
    /// All to train on.
    Train,
    /// All to validate on.
    Validation,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Train {
    /// Tokens to train on.
    pub total_tokens: u64,
    /// Sequences per forward and backward pass.
    pub micro_batch: usize,
    /// What the operands of products are rounded to.
    pub precision: FloatType,
}

/// `[batch]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Sequences per step at the beginning.
    pub start: usize,
    /// Sequences per step after the ramp.
    pub end: usize,
    /// Tokens the ramp takes.
    pub ramp_tokens: u64,
}

/// `[lr]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    /// Rate after the warm-up.
    pub peak: f64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// What follows; empty means the peak throughout.
    pub phases: Vec<Phase>,
}

/// `[[lr.phases]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Where the phase ends.
    #[serde(flatten)]
    pub until: Until,
    /// How it gets there.
    pub shape: Shape,
    /// The rate at its end.
    pub to: f64,
}

/// Where a phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// At this many consumed tokens.
    UntilTokens(u64),
    /// At this fraction of `train.total_tokens`.
    UntilFraction(f64),
}

/// The course of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `to` from the beginning.
    Constant,
    /// A straight line to `to`.
    Linear,
    /// Half a cosine to `to`.
    Cosine,
}

/// `[optim]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optim {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Largest global gradient norm; may be infinite.
    pub clip_norm: f64,
    /// Storage of both moments.
    pub moments: FloatType,
}

/// A type that numbers are stored in or rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
}

/// `[loss]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Weight of the MTP loss by phase.
    pub mtp_lambda: Vec<Step>,
    /// Weight of the sequence-wise balance loss.
    pub balance_alpha: f64,
    /// Update speed of the routing bias by phase.
    pub bias_update_speed: Vec<Step>,
}

/// One phase of a piecewise constant schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Where the phase ends.
    #[serde(flatten)]
    pub until: Until,
    /// The value in it.
    pub value: f64,
}

/// `[recompute]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recompute {
    /// Outputs of RMSNorm.
    pub rms_norm: bool,
    /// Queries, keys and values.
    pub mla_up: bool,
    /// Outputs of SwiGLU.
    pub swiglu: bool,
}

/// `[validation]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps between validations; 0 never validates.
    pub every_steps: u64,
    /// Held-out rows per validation.
    pub sequences: usize,
}

/// `[samples]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Steps between samples; 0 never samples.
    pub every_steps: u64,
    /// Texts to continue.
    pub prompts: Vec<String>,
    /// Tokens per sample.
    pub max_tokens: usize,
    /// Sampling temperature.
    pub temperature: f64,
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Steps between checkpoints.
    pub every_steps: u64,
    /// Newest checkpoints kept.
    pub keep_last: usize,
    /// Also keep multiples of this many steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_every_steps: Option<u64>,
    /// Type of the saved weights.
    pub dtype: FloatType,
}

/// `[guard]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// Loss over its running mean that stops the run; may be infinite.
    pub spike_factor: f64,
    /// Steps in the running mean.
    pub window: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Steps between lines of metrics.
    pub every_steps: u64,
}

impl Recipe {
    /// Reads a recipe and applies `sets`, each `dotted.key=value`, in order.
    ///
    /// Relative paths in the file start at the file's folder, those in `sets` at the current directory.
    ///
    /// # Errors
    /// The file cannot be read or parsed, or a key is unknown, missing, of the wrong type, out of range or in
    /// contradiction with another; or the model, whose width gives the default of `init_std`, is refused.
    pub fn load(path: impl AsRef<Path>, sets: &[String]) -> Result<Self, RecipeError> {
        let path = path.as_ref();
        let text = fs_err::read_to_string(path).map_err(RecipeError::Read)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::from_toml_str(&text, folder, sets)
            .map_err(|source| RecipeError::InFile { path: path.to_owned(), source: Box::new(source) })
    }

    /// A recipe from its text; relative paths in it start at `folder`.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn from_toml_str(text: &str, folder: &Path, sets: &[String]) -> Result<Self, RecipeError> {
        let tree: Table = toml::from_str(text).map_err(|source| RecipeError::Syntax(Box::new(source)))?;
        let mut tree = Value::Table(tree);
        tree::make_absolute(&mut tree, "", folder)?;
        let Value::Table(mut tree) = tree else { unreachable!("made a table above") };
        for argument in sets {
            set::apply(&mut tree, argument)?;
        }
        tree::check(&mut tree)?;
        validate::alternatives(&tree)?;
        tree::fill(&mut tree)?;
        derive(&mut tree)?;
        let recipe: Self = Value::Table(tree).try_into().expect("the schema has checked every key and type");
        recipe.validate()?;
        Ok(recipe)
    }

    /// The recipe with every default written out. Reading it again gives an equal recipe.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is made of tables, strings and numbers")
    }

    /// The model configuration: the preset or file with `model.set` applied, checked against the rest of the recipe.
    ///
    /// It describes what the run saves: unquantised weights of `checkpoint.dtype`, whatever the preset or file says
    /// of its own weights.
    ///
    /// # Errors
    /// The preset is unknown, the file cannot be read, the changed config is refused, or the run's rows or
    /// vocabulary do not fit the model.
    pub fn model_config(&self) -> Result<ModelConfig, RecipeError> {
        let config = model_config(&self.model.source, &self.model.set)?;
        validate::fits_model(self, &config)?;
        let dtype = match self.checkpoint.dtype {
            FloatType::F32 => Dtype::Float32,
            FloatType::Bf16 => Dtype::Bfloat16,
        };
        let saved = [("torch_dtype", dtype.as_str().into()), ("quantization_config", serde_json::Value::Null)];
        Ok(config.with_overrides(&saved.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())?)
    }
}

/// Defaults that follow from other keys.
fn derive(tree: &mut Table) -> Result<(), RecipeError> {
    let data = tree["data"].as_table().expect("filled in");
    if !data.contains_key("cache") {
        let out = Path::new(tree["out"].as_str().expect("checked to be a string"));
        let cache = out.join("data").to_str().expect("joined from two strings").to_owned();
        table_mut(tree, "data").insert("cache".into(), cache.into());
    }
    let sources = table_mut(tree, "data")["sources"].as_array_mut().expect("checked to be an array");
    for source in sources {
        let source = source.as_table_mut().expect("checked to be a table");
        let weight = if source["role"].as_str() == Some("validation") { 0.0 } else { 1.0 };
        source.entry("weight").or_insert(Value::Float(weight));
    }
    let batch = table_mut(tree, "batch");
    if !batch.contains_key("start") {
        let end = batch["end"].clone();
        batch.insert("start".into(), end);
    }
    let model = table_mut(tree, "model");
    if !model.contains_key("init_std") {
        let text = |key: &str| model.get(key).and_then(Value::as_str).map(str::to_owned);
        let source = match (text("preset"), text("config")) {
            (Some(name), _) => ModelSource::Preset(name),
            (None, path) => ModelSource::Config(path.expect("one of the two, as checked").into()),
        };
        let set = model["set"].as_table().expect("checked to be a table");
        let hidden_size = model_config(&source, set)?.hidden_size as f64;
        model.insert("init_std".into(), (0.006 * (7168.0 / hidden_size).sqrt()).into());
    }
    Ok(())
}

fn table_mut<'a>(tree: &'a mut Table, name: &str) -> &'a mut Table {
    tree.get_mut(name).and_then(Value::as_table_mut).expect("filled in")
}

fn model_config(source: &ModelSource, set: &Table) -> Result<ModelConfig, RecipeError> {
    let config = match source {
        ModelSource::Preset(name) => preset(name)?,
        ModelSource::Config(path) => ModelConfig::read(path)?,
    };
    let changes = set.iter().map(|(key, value)| (key.clone(), json(value))).collect();
    Ok(config.with_overrides(&changes)?)
}

/// TOML to JSON. TOML has no null, so the string "null" stands for it; no key of a `config.json` has that text.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::String(text) if text == "null" => serde_json::Value::Null,
        Value::String(text) => text.as_str().into(),
        Value::Integer(n) => (*n).into(),
        Value::Float(x) => (*x).into(),
        Value::Boolean(b) => (*b).into(),
        Value::Datetime(date) => date.to_string().into(),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Table(table) => {
            serde_json::Value::Object(table.iter().map(|(key, value)| (key.clone(), json(value))).collect())
        }
    }
}

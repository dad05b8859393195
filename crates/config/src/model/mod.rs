//! Hugging Face's `config.json` for the DeepSeek family, read into a type that cannot be wrong inside.

mod error;
mod overrides;
mod quantization;
mod read;
mod rope;
#[cfg(test)]
mod tests;
mod validate;
mod weights;

use std::ops::Deref;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

pub use error::ModelConfigError;
pub use quantization::{QuantizationConfig, ScaleFormat};
pub use rope::Yarn;
pub use weights::{Weight, WeightFormat, WeightPart};

/// A validated model configuration together with the JSON it came from.
///
/// The typed values are reached through [`Deref`] (`config.hidden_size`) and cannot be changed in place: a changed
/// config is made by [`ModelConfig::with_overrides`], which validates again. Writing gives back every key of the
/// original, unknown ones too, in the original order.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    fields: ModelFields,
    raw: Map<String, Value>,
}

/// The typed keys of a `config.json`, under Hugging Face's names.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelFields {
    /// Which of the family's architectures this is.
    pub model_type: ModelType,
    /// Rows of the embedding and of the head; may exceed what the tokenizer produces.
    pub vocab_size: usize,
    /// Width of the residual stream, `D`.
    pub hidden_size: usize,
    /// Main layers; MTP layers are not counted.
    pub num_hidden_layers: usize,
    /// Attention heads, `H`.
    pub num_attention_heads: usize,
    /// Rank of the compressed query, `rq`; `None` means one plain `q_proj`.
    pub q_lora_rank: Option<usize>,
    /// Rank of the compressed key and value, `rk`.
    pub kv_lora_rank: usize,
    /// Head dims of query and key without rotation, `dn`.
    pub qk_nope_head_dim: usize,
    /// Head dims of query and key with rotation, `dr`; even.
    pub qk_rope_head_dim: usize,
    /// Head dims of the value, `dv`.
    pub v_head_dim: usize,
    /// Width of the dense FFN.
    pub intermediate_size: usize,
    /// Width of one routed expert.
    pub moe_intermediate_size: usize,
    /// Layers below this index have a dense FFN, all others experts.
    pub first_k_dense_replace: usize,
    /// Routed experts per MoE layer, `E`.
    pub n_routed_experts: usize,
    /// Shared experts; they form one FFN of [`ModelFields::shared_intermediate_size`].
    pub n_shared_experts: usize,
    /// Experts chosen per token, `K`.
    pub num_experts_per_tok: usize,
    /// Groups the experts are divided into, `G`.
    pub n_group: usize,
    /// Groups a token may choose from.
    pub topk_group: usize,
    /// How router logits become scores.
    pub scoring_func: Scoring,
    /// How experts are chosen from the scores.
    pub topk_method: TopkMethod,
    /// Whether the `K` weights are normalised to sum 1 before scaling.
    pub norm_topk_prob: bool,
    /// Factor on the `K` weights.
    pub routed_scaling_factor: f64,
    /// Epsilon of the norms of width `D`. The two latent norms always use [`ModelFields::LATENT_NORM_EPS`].
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// YaRN, or `None` for plain rotary embedding.
    pub rope_scaling: Option<Yarn>,
    /// `true`: rotary dims `2i` and `2i+1` form a pair; `false`: `i` and `i + dr/2`.
    pub rope_interleave: bool,
    /// Longest sequence the model is meant for.
    pub max_position_embeddings: usize,
    /// Whether `q_a_proj`, `kv_a_proj_with_mqa` and `o_proj` have biases.
    pub attention_bias: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// MTP layers declared. A re-saved checkpoint may keep the key and drop the tensors, so the tensors decide.
    pub num_nextn_predict_layers: usize,
    /// How quantised weights are stored, or `None` if there are none.
    pub quantization_config: Option<QuantizationConfig>,
    /// The token that starts a sequence, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation; empty when the file says `null`.
    pub eos_token_id: Vec<u32>,
    /// Type of the unquantised weights (`torch_dtype`, or `dtype` in newer files), if the file names one.
    pub dtype: Option<Dtype>,
}

/// The accepted values of `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// `deepseek_v3`: V3, V3-0324, R1, V3.1, Moonlight.
    DeepseekV3,
    /// `kimi_k2`: the mathematics of `deepseek_v3` under another name.
    KimiK2,
    /// `deepseek_v2`: softmax scores, no correction bias.
    DeepseekV2,
}

/// How router logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Element by element (V3).
    Sigmoid,
    /// Over all experts (V2).
    Softmax,
}

/// How experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopkMethod {
    /// V3: a correction bias for selection only; a group counts by the sum of its two best.
    NoauxTc,
    /// V2-Lite: the best `K` of all.
    Greedy,
    /// V2: a group counts by its best.
    GroupLimitedGreedy,
}

/// Type of unquantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// `bfloat16`
    Bfloat16,
    /// `float16`
    Float16,
    /// `float32`
    Float32,
}

impl ModelConfig {
    /// Reads and validates the text of a `config.json`.
    ///
    /// # Errors
    /// The text is not JSON, or [`ModelConfig::from_value`] refuses it.
    pub fn from_json_str(text: &str) -> Result<Self, ModelConfigError> {
        Self::from_value(serde_json::from_str(text).map_err(ModelConfigError::Json)?)
    }

    /// Validates a parsed `config.json`.
    ///
    /// # Errors
    /// A required key is missing, a value has the wrong type or range, two values contradict each other, or the
    /// model is of a kind this program does not implement.
    pub fn from_value(value: Value) -> Result<Self, ModelConfigError> {
        let Value::Object(raw) = value else {
            return Err(ModelConfigError::NotAnObject { found: read::type_name(&value) });
        };
        let fields = read::fields(&raw)?;
        validate::check(&fields)?;
        Ok(Self { fields, raw })
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, or [`ModelConfig::from_json_str`] refuses its text; both name the path.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ModelConfigError> {
        let path = path.as_ref();
        let text = fs_err::read_to_string(path).map_err(ModelConfigError::Read)?;
        Self::from_json_str(&text)
            .map_err(|source| ModelConfigError::InFile { path: path.to_owned(), source: Box::new(source) })
    }

    /// The JSON text, indented by two spaces as Hugging Face writes it.
    pub fn to_json_string(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.raw).expect("a JSON object with string keys serialises");
        text.push('\n');
        text
    }

    /// Writes a `config.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ModelConfigError> {
        fs_err::write(path.as_ref(), self.to_json_string()).map_err(ModelConfigError::Write)
    }

    /// Every key of the file, those this program does not know included.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The same config with some Hugging Face keys replaced, validated again.
    ///
    /// `torch_dtype`/`dtype` and `rope_scaling`, `rope_theta`/`rope_parameters` are written in the spelling the
    /// config already uses. `num_key_value_heads` follows `num_attention_heads` unless it is given too, and a null
    /// `quantization_config` removes the key.
    ///
    /// # Errors
    /// A key is unknown both here and in the config, or the changed config is refused.
    pub fn with_overrides(&self, changes: &Map<String, Value>) -> Result<Self, ModelConfigError> {
        Self::from_value(Value::Object(overrides::apply(&self.raw, changes)?))
    }
}

impl Deref for ModelConfig {
    type Target = ModelFields;

    fn deref(&self) -> &ModelFields {
        &self.fields
    }
}

impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl ModelFields {
    /// Epsilon of `q_a_layernorm` and `kv_a_layernorm`, whatever `rms_norm_eps` says: the reference
    /// implementations build these two norms with their class default.
    pub const LATENT_NORM_EPS: f64 = 1e-6;

    /// Whether main layer `layer` has experts. MTP layers, whose index is `num_hidden_layers` or more, always do.
    pub fn is_moe(&self, layer: usize) -> bool {
        layer >= self.first_k_dense_replace.min(self.num_hidden_layers)
    }

    /// Head dims of query and key, `dn + dr`.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Width of the shared experts taken as one FFN.
    pub fn shared_intermediate_size(&self) -> usize {
        self.n_shared_experts * self.moe_intermediate_size
    }

    /// Elements cached per token and layer: the normalised latent and the rotated shared key, `rk + dr`.
    pub fn kv_cache_dim(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Factor on attention scores: `(dn + dr)^-½ · mscale²`. YaRN's temperature enters squared, once for the query
    /// and once for the key.
    pub fn softmax_scale(&self) -> f64 {
        let mscale = self.rope_scaling.as_ref().map_or(1.0, Yarn::softmax_mscale);
        (self.qk_head_dim() as f64).powf(-0.5) * mscale * mscale
    }
}

impl ModelType {
    /// The spelling in `config.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeepseekV3 => "deepseek_v3",
            Self::KimiK2 => "kimi_k2",
            Self::DeepseekV2 => "deepseek_v2",
        }
    }
}

impl Scoring {
    /// The spelling in `config.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Softmax => "softmax",
        }
    }
}

impl TopkMethod {
    /// The spelling in `config.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoauxTc => "noaux_tc",
            Self::Greedy => "greedy",
            Self::GroupLimitedGreedy => "group_limited_greedy",
        }
    }
}

impl Dtype {
    /// The spelling in `config.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
            Self::Float32 => "float32",
        }
    }
}

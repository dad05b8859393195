//! JSON to typed fields: types, required keys, defaults and spellings. Relations between fields are in `validate`.

use serde_json::{Map, Value};

use super::error::ModelConfigError;
use super::{Dtype, ModelFields, ModelType, QuantizationConfig, Scoring, TopkMethod, rope};

/// Sizes above this are refused, so that a product of two of them fits 64 bits.
const MAX_SIZE: u64 = u32::MAX as u64;

pub(super) fn fields(raw: &Map<String, Value>) -> Result<ModelFields, ModelConfigError> {
    let top = Reader::top(raw);
    // First, so that a file of another family is refused by its name and not by the first key it lacks.
    let model_type = model_type(&top)?;
    let v2 = model_type == ModelType::DeepseekV2;

    top.only_integer("moe_layer_freq", 1, "1")?;
    top.only_str("hidden_act", "silu", "silu")?;
    let num_attention_heads = top.size("num_attention_heads")?;
    let num_key_value_heads = top.size_or("num_key_value_heads", num_attention_heads)?;
    if num_key_value_heads != num_attention_heads {
        return Err(ModelConfigError::Conflict {
            field: "num_key_value_heads".into(),
            found: num_key_value_heads.to_string(),
            other: "num_attention_heads".into(),
            other_found: num_attention_heads.to_string(),
            rule: "multi-head latent attention has one key and value per query head, so they must be equal",
        });
    }
    let max_position_embeddings = top.size_or("max_position_embeddings", 4096)?;
    let (rope_theta, rope_scaling) = rope::read(&top, max_position_embeddings)?;

    // The classes of V2 have defaults for the routing keys, which files of V2 leave out or set to null; V3's files
    // must say what they mean.
    let v2_size = |key, default| if v2 { top.size_or(key, default) } else { top.size(key) };
    Ok(ModelFields {
        model_type,
        vocab_size: top.size("vocab_size")?,
        hidden_size: top.size("hidden_size")?,
        num_hidden_layers: top.size("num_hidden_layers")?,
        num_attention_heads,
        q_lora_rank: match top.present("q_lora_rank")? {
            Value::Null => None,
            value => Some(top.as_size("q_lora_rank", value)?),
        },
        kv_lora_rank: top.size("kv_lora_rank")?,
        qk_nope_head_dim: top.size("qk_nope_head_dim")?,
        qk_rope_head_dim: top.size("qk_rope_head_dim")?,
        v_head_dim: top.size("v_head_dim")?,
        intermediate_size: top.size("intermediate_size")?,
        moe_intermediate_size: top.size("moe_intermediate_size")?,
        first_k_dense_replace: v2_size("first_k_dense_replace", 0)?,
        n_routed_experts: top.size("n_routed_experts")?,
        n_shared_experts: top.size("n_shared_experts")?,
        num_experts_per_tok: top.size("num_experts_per_tok")?,
        n_group: v2_size("n_group", 1)?,
        topk_group: v2_size("topk_group", 1)?,
        scoring_func: match top.str_or("scoring_func", if v2 { "softmax" } else { "sigmoid" })? {
            "sigmoid" => Scoring::Sigmoid,
            "softmax" => Scoring::Softmax,
            other => return Err(top.unsupported("scoring_func", other, "sigmoid, softmax")),
        },
        topk_method: match top.str_or("topk_method", if v2 { "greedy" } else { "noaux_tc" })? {
            "noaux_tc" => TopkMethod::NoauxTc,
            "greedy" => TopkMethod::Greedy,
            "group_limited_greedy" => TopkMethod::GroupLimitedGreedy,
            other => return Err(top.unsupported("topk_method", other, "noaux_tc, greedy, group_limited_greedy")),
        },
        norm_topk_prob: if v2 { top.bool_or("norm_topk_prob", false)? } else { top.bool("norm_topk_prob")? },
        routed_scaling_factor: if v2 {
            top.f64_or("routed_scaling_factor", 1.0)?
        } else {
            top.f64("routed_scaling_factor")?
        },
        rms_norm_eps: top.f64("rms_norm_eps")?,
        rope_theta,
        rope_scaling,
        rope_interleave: top.bool_or("rope_interleave", true)?,
        max_position_embeddings,
        attention_bias: top.bool_or("attention_bias", false)?,
        tie_word_embeddings: top.bool_or("tie_word_embeddings", false)?,
        num_nextn_predict_layers: top.size_or("num_nextn_predict_layers", usize::from(!v2))?,
        quantization_config: match top.value("quantization_config") {
            None => None,
            Some(value) => Some(QuantizationConfig::read(&top.nested("quantization_config", value)?)?),
        },
        bos_token_id: match raw.get("bos_token_id") {
            None => Some(0),
            Some(Value::Null) => None,
            Some(value) => Some(top.as_token("bos_token_id", value)?),
        },
        eos_token_id: match raw.get("eos_token_id") {
            None => vec![1],
            Some(Value::Null) => Vec::new(),
            Some(Value::Array(ids)) => {
                ids.iter().map(|id| top.as_token("eos_token_id", id)).collect::<Result<_, _>>()?
            }
            Some(value) => vec![top.as_token("eos_token_id", value)?],
        },
        dtype: dtype(&top)?,
    })
}

fn model_type(top: &Reader) -> Result<ModelType, ModelConfigError> {
    match top.as_str("model_type", top.present("model_type")?)? {
        "deepseek_v3" => Ok(ModelType::DeepseekV3),
        "kimi_k2" => Ok(ModelType::KimiK2),
        "deepseek_v2" => Ok(ModelType::DeepseekV2),
        other => Err(top.unsupported("model_type", other, "deepseek_v3, kimi_k2, deepseek_v2")),
    }
}

fn dtype(top: &Reader) -> Result<Option<Dtype>, ModelConfigError> {
    let mut found = None;
    for key in ["torch_dtype", "dtype"] {
        let Some(value) = top.value(key) else { continue };
        let dtype = match top.as_str(key, value)? {
            "bfloat16" => Dtype::Bfloat16,
            "float16" => Dtype::Float16,
            "float32" => Dtype::Float32,
            other => return Err(top.unsupported(key, other, "bfloat16, float16, float32")),
        };
        if let Some(before) = found.filter(|&before| before != dtype) {
            return Err(ModelConfigError::Conflict {
                field: "torch_dtype".into(),
                found: Dtype::as_str(before).into(),
                other: "dtype".into(),
                other_found: dtype.as_str().into(),
                rule: "they are two spellings of one key",
            });
        }
        found = Some(dtype);
    }
    Ok(found)
}

/// Typed access to the keys of one JSON object; errors carry the dotted path of the key.
///
/// A key set to `null` counts as missing, except where a method says otherwise.
pub(super) struct Reader<'a> {
    object: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Reader<'a> {
    fn top(object: &'a Map<String, Value>) -> Self {
        Self { object, prefix: "" }
    }

    /// A reader of the object under `key`, which is `value`.
    pub(super) fn nested(&self, key: &'static str, value: &'a Value) -> Result<Self, ModelConfigError> {
        match value {
            Value::Object(object) => Ok(Self { object, prefix: key }),
            other => Err(self.wrong_type(key, "an object", other)),
        }
    }

    /// The path of `key` for messages.
    pub(super) fn path(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    /// The value under `key`, `null` counting as missing.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The value under `key`, `null` included.
    pub(super) fn present(&self, key: &str) -> Result<&'a Value, ModelConfigError> {
        self.object.get(key).ok_or_else(|| self.missing(key))
    }

    pub(super) fn missing(&self, key: &str) -> ModelConfigError {
        ModelConfigError::Missing { field: self.path(key) }
    }

    pub(super) fn unsupported(&self, key: &str, found: &str, accepted: &'static str) -> ModelConfigError {
        ModelConfigError::Unsupported { field: self.path(key), found: found.to_owned(), accepted }
    }

    pub(super) fn wrong_type(&self, key: &str, expected: &'static str, found: &Value) -> ModelConfigError {
        ModelConfigError::WrongType { field: self.path(key), expected, found: excerpt(found) }
    }

    pub(super) fn as_str(&self, key: &str, value: &'a Value) -> Result<&'a str, ModelConfigError> {
        value.as_str().ok_or_else(|| self.wrong_type(key, "a string", value))
    }

    pub(super) fn str_or(&self, key: &str, default: &'a str) -> Result<&'a str, ModelConfigError> {
        self.value(key).map_or(Ok(default), |value| self.as_str(key, value))
    }

    pub(super) fn as_size(&self, key: &str, value: &Value) -> Result<usize, ModelConfigError> {
        match value.as_u64() {
            Some(size) if size <= MAX_SIZE => Ok(size as usize),
            Some(size) => {
                Err(ModelConfigError::OutOfRange { field: self.path(key), found: size.to_string(), must: "below 2^32" })
            }
            None => Err(self.wrong_type(key, "a non-negative integer", value)),
        }
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, ModelConfigError> {
        self.as_size(key, self.present(key)?)
    }

    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelConfigError> {
        self.value(key).map_or(Ok(default), |value| self.as_size(key, value))
    }

    fn as_token(&self, key: &str, value: &Value) -> Result<u32, ModelConfigError> {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| self.wrong_type(key, "a token id (an integer from 0, below 2^32)", value))
    }

    pub(super) fn as_f64(&self, key: &str, value: &Value) -> Result<f64, ModelConfigError> {
        value.as_f64().ok_or_else(|| self.wrong_type(key, "a number", value))
    }

    pub(super) fn f64(&self, key: &str) -> Result<f64, ModelConfigError> {
        self.as_f64(key, self.present(key)?)
    }

    pub(super) fn f64_or(&self, key: &str, default: f64) -> Result<f64, ModelConfigError> {
        Ok(self.f64_opt(key)?.unwrap_or(default))
    }

    pub(super) fn f64_opt(&self, key: &str) -> Result<Option<f64>, ModelConfigError> {
        self.value(key).map(|value| self.as_f64(key, value)).transpose()
    }

    fn bool(&self, key: &str) -> Result<bool, ModelConfigError> {
        let value = self.present(key)?;
        value.as_bool().ok_or_else(|| self.wrong_type(key, "true or false", value))
    }

    pub(super) fn bool_or(&self, key: &str, default: bool) -> Result<bool, ModelConfigError> {
        if self.value(key).is_some() { self.bool(key) } else { Ok(default) }
    }

    pub(super) fn only_integer(&self, key: &str, only: usize, accepted: &'static str) -> Result<(), ModelConfigError> {
        match self.size_or(key, only)? {
            found if found == only => Ok(()),
            found => Err(self.unsupported(key, &found.to_string(), accepted)),
        }
    }

    /// `key`, if present, holds the one string this program implements.
    pub(super) fn only_str(&self, key: &str, only: &str, accepted: &'static str) -> Result<(), ModelConfigError> {
        match self.value(key).map(|value| self.as_str(key, value)).transpose()? {
            Some(found) if found != only => Err(self.unsupported(key, found, accepted)),
            _ => Ok(()),
        }
    }
}

/// The JSON type of `value`, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// `value` as JSON when it is short, otherwise its type.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { type_name(value).to_owned() }
}

//! Changing keys of a raw config without breaking its own spelling.

use serde_json::{Map, Value, json};

use super::error::ModelConfigError;
use crate::suggest::nearest;

/// Keys that may be set on any config. A key outside this list can be changed only where the config already has it.
const KNOWN: &[&str] = &[
    "architectures",
    "attention_bias",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "first_k_dense_replace",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "kv_lora_rank",
    "max_position_embeddings",
    "model_type",
    "moe_intermediate_size",
    "moe_layer_freq",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_nextn_predict_layers",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "quantization_config",
    "rms_norm_eps",
    "rope_interleave",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "routed_scaling_factor",
    "scoring_func",
    "tie_word_embeddings",
    "topk_group",
    "topk_method",
    "torch_dtype",
    "v_head_dim",
    "vocab_size",
];

pub(super) fn apply(
    raw: &Map<String, Value>,
    changes: &Map<String, Value>,
) -> Result<Map<String, Value>, ModelConfigError> {
    let mut out = raw.clone();
    for (key, value) in changes {
        if !KNOWN.contains(&key.as_str()) && !raw.contains_key(key) {
            let candidates = KNOWN.iter().copied().chain(raw.keys().map(String::as_str));
            return Err(ModelConfigError::UnknownOverride {
                key: key.clone(),
                suggestion: nearest(key, candidates).map(str::to_owned),
            });
        }
        match key.as_str() {
            "dtype" | "torch_dtype" => set_dtype(&mut out, key, value),
            "rope_theta" if out.contains_key("rope_parameters") => set_theta(&mut out, value),
            "rope_scaling" if out.contains_key("rope_parameters") => set_scaling(&mut out, value),
            // Readers take the mere presence of the key for a quantised checkpoint.
            "quantization_config" if value.is_null() => {
                out.shift_remove(key);
            }
            "rope_parameters" => {
                // The old spelling would contradict the new one.
                out.shift_remove("rope_scaling");
                out.shift_remove("rope_theta");
                out.insert(key.clone(), value.clone());
            }
            "num_attention_heads" => {
                out.insert(key.clone(), value.clone());
                if !changes.contains_key("num_key_value_heads") && out.contains_key("num_key_value_heads") {
                    out.insert("num_key_value_heads".into(), value.clone());
                }
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    refresh_derived(&mut out);
    Ok(out)
}

fn set_dtype(out: &mut Map<String, Value>, key: &str, value: &Value) {
    let mut written = false;
    for spelling in ["torch_dtype", "dtype"] {
        if let Some(slot) = out.get_mut(spelling) {
            *slot = value.clone();
            written = true;
        }
    }
    if !written {
        out.insert(key.to_owned(), value.clone());
    }
}

fn set_theta(out: &mut Map<String, Value>, value: &Value) {
    if let Some(Value::Object(parameters)) = out.get_mut("rope_parameters") {
        parameters.insert("rope_theta".into(), value.clone());
    }
    if let Some(top) = out.get_mut("rope_theta") {
        *top = value.clone();
    }
}

/// `rope_parameters` holds the base beside the scaling, so the base is carried over.
fn set_scaling(out: &mut Map<String, Value>, value: &Value) {
    let theta = out.get("rope_parameters").and_then(|old| old.get("rope_theta")).cloned();
    let mut parameters = match value {
        Value::Object(scaling) => scaling.clone(),
        Value::Null => Map::from_iter([("rope_type".to_owned(), json!("default"))]),
        // Left for validation to refuse.
        _ => {
            out.insert("rope_scaling".into(), value.clone());
            return;
        }
    };
    if let Some(kind) = parameters.get("type").cloned() {
        parameters.entry("rope_type").or_insert(kind);
    }
    if let Some(theta) = theta {
        parameters.insert("rope_theta".into(), theta);
    }
    out.insert("rope_parameters".into(), Value::Object(parameters));
    if let Some(old) = out.get_mut("rope_scaling") {
        *old = value.clone();
    }
}

/// `save_pretrained` writes two keys that follow from others; left alone they would go stale.
fn refresh_derived(out: &mut Map<String, Value>) {
    let dim = |out: &Map<String, Value>, key| out.get(key).and_then(Value::as_u64);
    let Some(rope) = dim(out, "qk_rope_head_dim") else { return };
    if out.contains_key("head_dim") {
        out.insert("head_dim".into(), rope.into());
    }
    if let Some(nope) = dim(out, "qk_nope_head_dim")
        && out.contains_key("qk_head_dim")
    {
        out.insert("qk_head_dim".into(), rope.saturating_add(nope).into());
    }
}

//! Relations between fields. What passes here can be built, run and counted without a further check.

use super::error::ModelConfigError;
use super::{ModelFields, ModelType, Scoring, TopkMethod};

/// Far above any model there is, and low enough that every count of [`crate::Counts`] fits 64 bits.
const MAX_PARAMETERS: f64 = 1e15;

pub(super) fn check(f: &ModelFields) -> Result<(), ModelConfigError> {
    for (field, size) in [
        ("vocab_size", f.vocab_size),
        ("hidden_size", f.hidden_size),
        ("num_hidden_layers", f.num_hidden_layers),
        ("num_attention_heads", f.num_attention_heads),
        ("q_lora_rank", f.q_lora_rank.unwrap_or(1)),
        ("kv_lora_rank", f.kv_lora_rank),
        ("qk_nope_head_dim", f.qk_nope_head_dim),
        ("qk_rope_head_dim", f.qk_rope_head_dim),
        ("v_head_dim", f.v_head_dim),
        ("intermediate_size", f.intermediate_size),
        ("moe_intermediate_size", f.moe_intermediate_size),
        ("n_routed_experts", f.n_routed_experts),
        ("n_shared_experts", f.n_shared_experts),
        ("num_experts_per_tok", f.num_experts_per_tok),
        ("n_group", f.n_group),
        ("topk_group", f.topk_group),
        ("max_position_embeddings", f.max_position_embeddings),
    ] {
        if size == 0 {
            return Err(out_of_range(field, 0, "at least 1"));
        }
    }
    if !f.qk_rope_head_dim.is_multiple_of(2) {
        return Err(out_of_range("qk_rope_head_dim", f.qk_rope_head_dim, "even, because rotation works on pairs"));
    }
    if f.rms_norm_eps <= 0.0 {
        return Err(out_of_range("rms_norm_eps", f.rms_norm_eps, "positive"));
    }
    if f.rope_theta <= 1.0 {
        return Err(out_of_range("rope_theta", f.rope_theta, "above 1"));
    }
    routing(f)?;
    for (field, ids) in [("bos_token_id", f.bos_token_id.as_slice()), ("eos_token_id", f.eos_token_id.as_slice())] {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= f.vocab_size) {
            return Err(conflict(
                field,
                id,
                "vocab_size",
                f.vocab_size,
                "a token id must be below the vocabulary size",
            ));
        }
    }
    size(f)
}

fn routing(f: &ModelFields) -> Result<(), ModelConfigError> {
    let (experts, groups) = (f.n_routed_experts, f.n_group);
    let scoring = match f.model_type {
        ModelType::DeepseekV3 | ModelType::KimiK2 => Scoring::Sigmoid,
        ModelType::DeepseekV2 => Scoring::Softmax,
    };
    if f.scoring_func != scoring {
        return Err(conflict(
            "scoring_func",
            f.scoring_func.as_str(),
            "model_type",
            f.model_type.as_str(),
            "deepseek_v3 and kimi_k2 score by sigmoid, deepseek_v2 by softmax",
        ));
    }
    if (f.topk_method == TopkMethod::NoauxTc) != (f.scoring_func == Scoring::Sigmoid) {
        return Err(conflict(
            "topk_method",
            f.topk_method.as_str(),
            "scoring_func",
            f.scoring_func.as_str(),
            "noaux_tc goes with sigmoid, greedy and group_limited_greedy with softmax",
        ));
    }
    if f.scoring_func == Scoring::Softmax && f.norm_topk_prob {
        return Err(conflict(
            "norm_topk_prob",
            true,
            "scoring_func",
            f.scoring_func.as_str(),
            "implementations disagree on what normalising means with softmax scores, and no release does it",
        ));
    }
    if !experts.is_multiple_of(groups) {
        return Err(conflict(
            "n_routed_experts",
            experts,
            "n_group",
            groups,
            "the experts must divide into equal groups",
        ));
    }
    if f.topk_group > groups {
        return Err(conflict("topk_group", f.topk_group, "n_group", groups, "no more groups can be kept than exist"));
    }
    let group_size = experts / groups;
    if group_size < 2 && f.scoring_func == Scoring::Sigmoid {
        return Err(conflict(
            "n_routed_experts",
            experts,
            "n_group",
            groups,
            "a group's score is the sum of its two best experts, so a group needs two",
        ));
    }
    let reachable = f.topk_group * group_size;
    if f.num_experts_per_tok > reachable {
        return Err(conflict(
            "num_experts_per_tok",
            f.num_experts_per_tok,
            "topk_group * n_routed_experts / n_group",
            reachable,
            "a token would choose experts of groups it has ruled out",
        ));
    }
    Ok(())
}

/// In floating point, because the point is to find products that do not fit an integer.
fn size(f: &ModelFields) -> Result<(), ModelConfigError> {
    let d = f.hidden_size as f64;
    let query = f.q_lora_rank.map_or(d, |rank| rank as f64);
    let heads = f.num_attention_heads as f64;
    let head_dims = (f.qk_nope_head_dim + f.qk_rope_head_dim + f.v_head_dim) as f64;
    let attention =
        (query + f.kv_lora_rank as f64) * (d + heads * head_dims) + d * (f.qk_rope_head_dim as f64 + heads * head_dims);
    let experts = (f.n_routed_experts as f64 + f.n_shared_experts as f64 + 1.0) * f.moe_intermediate_size as f64;
    let ffn = 3.0 * d * (experts + f.intermediate_size as f64) + d * f.n_routed_experts as f64;
    let mtp = f.num_nextn_predict_layers as f64;
    let layers = f.num_hidden_layers as f64 + mtp;
    let estimate = layers * (attention + ffn + 4.0 * d) + (1.0 + mtp) * 2.0 * d * (f.vocab_size as f64 + d);
    if estimate > MAX_PARAMETERS {
        return Err(ModelConfigError::TooManyParameters { estimate, limit: MAX_PARAMETERS });
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and literals")]
fn out_of_range(field: &str, found: impl ToString, must: &'static str) -> ModelConfigError {
    ModelConfigError::OutOfRange { field: field.to_owned(), found: found.to_string(), must }
}

#[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and literals")]
fn conflict(
    field: &str,
    found: impl ToString,
    other: &str,
    other_found: impl ToString,
    rule: &'static str,
) -> ModelConfigError {
    ModelConfigError::Conflict {
        field: field.to_owned(),
        found: found.to_string(),
        other: other.to_owned(),
        other_found: other_found.to_string(),
        rule,
    }
}

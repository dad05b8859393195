//! Hugging Face's tensor names, the only place that knows them (`spec/model.md` 6.2).

use crate::params::Part;

pub(crate) const EMBED_TOKENS: &str = "model.embed_tokens.weight";
pub(crate) const NORM: &str = "model.norm.weight";
pub(crate) const LM_HEAD: &str = "lm_head.weight";

/// `model.layers.{layer}.{rest}`; MTP layers follow the main ones.
pub(crate) fn layer(layer: usize, rest: &str) -> String {
    format!("model.layers.{layer}.{rest}")
}

/// The gate and up projections of one FFN, `[I, D]` each: together one matrix `[2 I, D]`, gate rows first.
pub(crate) fn gate_up(prefix: &str, intermediate: usize, hidden: usize) -> Vec<Part> {
    ["gate_proj", "up_proj"]
        .map(|name| Part { name: format!("{prefix}.{name}.weight"), dims: vec![intermediate, hidden] })
        .into()
}

/// The down projection of one FFN, `[D, I]`.
pub(crate) fn down(prefix: &str, intermediate: usize, hidden: usize) -> Part {
    Part { name: format!("{prefix}.down_proj.weight"), dims: vec![hidden, intermediate] }
}

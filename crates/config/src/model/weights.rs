//! The matrices of a checkpoint by the modules they are named after: which part of the model each belongs to, and its
//! shape.

use std::fmt;

use super::{ModelFields, QuantizationConfig};

/// A part of the model whose matrices are stored alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightPart {
    /// Routed experts.
    Experts,
    /// The projections of attention.
    Attention,
    /// Shared experts.
    Shared,
    /// FFNs of the dense layers.
    Dense,
    /// The embedding table, copies in MTP layers included.
    Embed,
    /// The head, copies in MTP layers included.
    Head,
    /// `eh_proj` of MTP layers.
    Projection,
    /// Router weights.
    Router,
}

/// How the matrices of a part are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightFormat {
    /// Integers of 4 bits, a bf16 scale for each 32 of a row: 4.5 bits a weight.
    Q4,
    /// Integers of 8 bits, a bf16 scale for each 32 of a row: 8.5 bits a weight.
    Q8,
    /// E4M3 codes, an f32 scale for each block of 128 × 128.
    Fp8,
    /// bf16 values.
    Bf16,
    /// f32 values.
    F32,
}

/// What the config says of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// The part it belongs to.
    pub part: WeightPart,
    /// `[rows, columns]`.
    pub dims: [usize; 2],
}

impl ModelFields {
    /// The matrix that a checkpoint of this config may have under `name`; `None` for every other name, those of norms and
    /// biases included. Only the end of the name counts: in which layer it is makes no difference here.
    pub fn weight(&self, name: &str) -> Option<Weight> {
        let hidden = self.hidden_size;
        let mut path = name.strip_suffix(".weight")?.rsplit('.');
        let module = path.next()?;
        let parent = path.next();
        let (part, dims) = match (parent, module) {
            (_, "embed_tokens") => (WeightPart::Embed, [self.vocab_size, hidden]),
            (None, "lm_head") | (Some("shared_head"), "head") => (WeightPart::Head, [self.vocab_size, hidden]),
            (Some("self_attn"), module) => (WeightPart::Attention, self.attention_dims(module)?),
            (Some("mlp"), "gate") => (WeightPart::Router, [self.n_routed_experts, hidden]),
            (Some("mlp"), module) => (WeightPart::Dense, self.ffn_dims(module, self.intermediate_size)?),
            (Some("shared_experts"), module) => {
                (WeightPart::Shared, self.ffn_dims(module, self.shared_intermediate_size())?)
            }
            (Some(expert), module) if path.next() == Some("experts") => {
                let known = expert.parse().is_ok_and(|e: usize| e < self.n_routed_experts);
                (WeightPart::Experts, self.ffn_dims(module, self.moe_intermediate_size).filter(|_| known)?)
            }
            (_, "eh_proj") => (WeightPart::Projection, [hidden, 2 * hidden]),
            _ => return None,
        };
        Some(Weight { part, dims })
    }

    fn attention_dims(&self, module: &str) -> Option<[usize; 2]> {
        let heads = self.num_attention_heads;
        Some(match module {
            "q_proj" => [heads * self.qk_head_dim(), self.hidden_size],
            "q_a_proj" => [self.q_lora_rank?, self.hidden_size],
            "q_b_proj" => [heads * self.qk_head_dim(), self.q_lora_rank?],
            "kv_a_proj_with_mqa" => [self.kv_cache_dim(), self.hidden_size],
            "kv_b_proj" => [heads * (self.qk_nope_head_dim + self.v_head_dim), self.kv_lora_rank],
            "o_proj" => [self.hidden_size, heads * self.v_head_dim],
            _ => return None,
        })
    }

    fn ffn_dims(&self, module: &str, intermediate: usize) -> Option<[usize; 2]> {
        match module {
            "gate_proj" | "up_proj" => Some([intermediate, self.hidden_size]),
            "down_proj" => Some([self.hidden_size, intermediate]),
            _ => None,
        }
    }
}

impl WeightPart {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Experts,
        Self::Attention,
        Self::Shared,
        Self::Dense,
        Self::Embed,
        Self::Head,
        Self::Projection,
        Self::Router,
    ];

    /// The names of those that may be quantised.
    pub const QUANTISABLE_NAMES: &str = "experts, attention, shared, dense, embed, head";

    /// Its name in recipes and in `quantization_config`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Experts => "experts",
            Self::Attention => "attention",
            Self::Shared => "shared",
            Self::Dense => "dense",
            Self::Embed => "embed",
            Self::Head => "head",
            Self::Projection => "projection",
            Self::Router => "router",
        }
    }

    /// The part of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// Whether it may be quantised. The router decides which experts a token meets, by differences that may be small, and
    /// is a thousandth of the model; `eh_proj` is not quantised in any release.
    pub fn is_quantisable(self) -> bool {
        !matches!(self, Self::Projection | Self::Router)
    }

    /// Whether it is one of the linear layers that a released FP8 checkpoint quantises.
    pub fn is_linear(self) -> bool {
        matches!(self, Self::Experts | Self::Attention | Self::Shared | Self::Dense)
    }
}

impl WeightFormat {
    /// All of them, from the smallest to the largest.
    pub const ALL: [Self; 5] = [Self::Q4, Self::Q8, Self::Fp8, Self::Bf16, Self::F32];

    /// Its name in recipes and in `quantization_config`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4 => "q4",
            Self::Q8 => "q8",
            Self::Fp8 => "fp8",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The bytes of a matrix of `[rows, cols]`, scales included (`docs/quantised.md`).
    pub fn bytes(self, [rows, cols]: [u64; 2]) -> u64 {
        let groups = 2 * rows * cols.div_ceil(32);
        match self {
            Self::Q4 => rows * cols.div_ceil(128) * 64 + groups,
            Self::Q8 => rows * cols + groups,
            Self::Fp8 => {
                let block = QuantizationConfig::WEIGHT_BLOCK_SIZE.map(|size| size as u64);
                rows * cols + 4 * rows.div_ceil(block[0]) * cols.div_ceil(block[1])
            }
            Self::Bf16 => 2 * rows * cols,
            Self::F32 => 4 * rows * cols,
        }
    }

    /// Whether numbers have scales.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Q4 | Self::Q8 | Self::Fp8)
    }
}

impl fmt::Display for WeightPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::preset;

    #[test]
    fn names_of_v3_have_their_parts_and_shapes() {
        let config = preset("deepseek-v3").unwrap();
        let layer = |rest: &str| format!("layers.61.{rest}");
        for (name, part, dims) in [
            ("model.embed_tokens.weight".into(), WeightPart::Embed, [129_280, 7168]),
            ("lm_head.weight".into(), WeightPart::Head, [129_280, 7168]),
            (layer("self_attn.q_a_proj.weight"), WeightPart::Attention, [1536, 7168]),
            (layer("self_attn.q_b_proj.weight"), WeightPart::Attention, [24_576, 1536]),
            (layer("self_attn.kv_a_proj_with_mqa.weight"), WeightPart::Attention, [576, 7168]),
            (layer("self_attn.kv_b_proj.weight"), WeightPart::Attention, [32_768, 512]),
            (layer("self_attn.o_proj.weight"), WeightPart::Attention, [7168, 16_384]),
            (layer("mlp.gate_proj.weight"), WeightPart::Dense, [18_432, 7168]),
            (layer("mlp.down_proj.weight"), WeightPart::Dense, [7168, 18_432]),
            (layer("mlp.gate.weight"), WeightPart::Router, [256, 7168]),
            (layer("mlp.experts.255.up_proj.weight"), WeightPart::Experts, [2048, 7168]),
            (layer("mlp.experts.0.down_proj.weight"), WeightPart::Experts, [7168, 2048]),
            (layer("mlp.shared_experts.down_proj.weight"), WeightPart::Shared, [7168, 2048]),
            (layer("eh_proj.weight"), WeightPart::Projection, [7168, 14_336]),
            (layer("embed_tokens.weight"), WeightPart::Embed, [129_280, 7168]),
            (layer("shared_head.head.weight"), WeightPart::Head, [129_280, 7168]),
        ] {
            assert_eq!(config.weight(&name), Some(Weight { part, dims }), "{name}");
        }
        for name in [
            "model.norm.weight",
            "layers.61.shared_head.norm.weight",
            "layers.3.input_layernorm.weight",
            "layers.3.self_attn.q_a_layernorm.weight",
            "layers.3.self_attn.q_proj.weight.weight",
            "layers.3.mlp.gate.e_score_correction_bias",
            "layers.3.self_attn.o_proj.bias",
            "layers.3.mlp.experts.256.up_proj.weight",
            "layers.3.mlp.experts.x.up_proj.weight",
            "layers.3.mlp.experts.0.gate.weight",
            "lm_head",
        ] {
            assert_eq!(config.weight(name), None, "{name}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for part in WeightPart::ALL {
            assert_eq!(WeightPart::from_name(part.name()), Some(part));
        }
        for format in WeightFormat::ALL {
            assert_eq!(WeightFormat::from_name(format.name()), Some(format));
        }
        let names: Vec<_> = WeightPart::ALL.into_iter().filter(|p| p.is_quantisable()).map(WeightPart::name).collect();
        assert_eq!(names.join(", "), WeightPart::QUANTISABLE_NAMES);
    }
}

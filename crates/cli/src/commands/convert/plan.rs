//! What a converted directory will hold, before a weight is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Result, bail};
use checkpoint::{Dtype, Format, Reader, TensorSpec};
use config::{ModelConfig, QuantizationConfig, ScaleFormat, WeightFormat, WeightPart};
use serde_json::{Map, Value, json};

use super::spec::Spec;
use crate::commands::stored;

/// A weight and what becomes of it.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) change: Change,
    /// The tensors of the result: the numbers, and the scales where the format has them.
    pub(super) specs: Vec<TensorSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The bytes are copied.
    Keep,
    /// A matrix is stored in another format.
    Recode { dims: [usize; 2], from: Format, to: Format },
}

/// The steps in the order of the result: layer by layer, so that what is used together lies together.
pub(super) fn steps(config: &ModelConfig, reader: &Reader, spec: &Spec) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut parts = BTreeSet::new();
    for info in reader.weights() {
        let info = info?;
        let name = info.name.to_owned();
        let kept = |dims: &[usize]| TensorSpec { name: name.clone(), dtype: info.format.dtype(), dims: dims.into() };
        let Some(weight) = config.weight(&name) else {
            if info.shape.len() != 1 {
                bail!("tensor `{name}` of shape {:?} is none that a model of this config.json has", info.shape);
            }
            steps.push(Step { change: Change::Keep, specs: vec![kept(info.shape)], name });
            continue;
        };
        parts.insert(weight.part);
        // Refuses a shape that contradicts the config, and scales that do not fit.
        reader.check(&name, &weight.dims)?;
        stored::agree(config, &name, weight.part, info.format)?;
        let to = spec.target(weight.part).map_or(info.format, format);
        let (change, specs) = if to == info.format {
            let mut specs = vec![kept(info.shape)];
            if let Some(suffix) = to.scale_suffix() {
                // FP8 scales keep the type that they have.
                let scale = format!("{name}{suffix}");
                let raw = reader.raw(&scale)?;
                specs.push(TensorSpec { name: scale, dtype: raw.dtype, dims: raw.shape.into() });
            }
            (Change::Keep, specs)
        } else {
            (Change::Recode { dims: weight.dims, from: info.format, to }, specs_of(&name, weight.dims, to))
        };
        steps.push(Step { name, change, specs });
    }
    spec.check(&parts.into_iter().collect::<Vec<_>>())?;
    steps.sort_by_cached_key(|step| in_order(&step.name));
    Ok(steps)
}

/// The config of the result.
pub(super) fn config(config: &ModelConfig, spec: &Spec, steps: &[Step]) -> Result<ModelConfig> {
    let mut changes = Map::from_iter([("quantization_config".to_owned(), block(config, steps)?)]);
    match spec.plain() {
        Some(WeightFormat::F32) => changes.insert("torch_dtype".into(), json!("float32")),
        Some(_) => changes.insert("torch_dtype".into(), json!("bfloat16")),
        None => None,
    };
    Ok(config.with_overrides(&changes)?)
}

/// What the config says of the stored weights: as published where every linear layer is in block-FP8 and nothing else is
/// quantised, nothing where nothing is, and else a type for each part.
fn block(config: &ModelConfig, steps: &[Step]) -> Result<Value> {
    let mut formats: BTreeMap<WeightPart, Format> = BTreeMap::new();
    for step in steps {
        let Some(weight) = config.weight(&step.name) else { continue };
        let now = step.format();
        let before = *formats.entry(weight.part).or_insert(now);
        if before != now && [before, now].iter().any(|format| format.scale_suffix().is_some()) {
            let part = weight.part;
            bail!(
                "of the {part} weights some stay in {before:?} and others in {now:?}; name a type for {part} in --quant"
            );
        }
    }
    let weights: BTreeMap<WeightPart, WeightFormat> =
        formats.iter().filter_map(|(part, format)| Some((*part, stored::quantised(*format)?))).collect();
    let as_published = |part: &WeightPart| weights.get(part).copied() == part.is_linear().then_some(WeightFormat::Fp8);
    Ok(if weights.is_empty() {
        Value::Null
    } else if formats.keys().all(as_published) {
        let scale_fmt = match config.quantization_config {
            Some(QuantizationConfig::Fp8 { scale_fmt }) => scale_fmt,
            _ => ScaleFormat::Float,
        };
        QuantizationConfig::Fp8 { scale_fmt }.to_json()
    } else {
        QuantizationConfig::Hadal { weights }.to_json()
    })
}

impl Step {
    /// How the weight is stored in the end.
    fn format(&self) -> Format {
        match (self.change, self.specs[0].dtype, self.specs.get(1)) {
            (Change::Recode { to, .. }, ..) => to,
            (Change::Keep, Dtype::F32, _) => Format::F32,
            (Change::Keep, Dtype::Bf16, _) => Format::Bf16,
            (Change::Keep, Dtype::F16, _) => Format::F16,
            (Change::Keep, _, scale) => {
                let is_scale = |f: &Format| {
                    scale.is_some_and(|scale| f.scale_suffix().is_some_and(|suffix| scale.name.ends_with(suffix)))
                };
                Format::SCALED.into_iter().find(is_scale).expect("codes have scales")
            }
        }
    }

    /// Whether numbers that were rounded once are rounded once more, to something else of few bits.
    pub(super) fn is_rounded_twice(&self) -> bool {
        let Change::Recode { from, to, .. } = self.change else { return false };
        from.scale_suffix().is_some() && to.scale_suffix().is_some()
    }

    /// The bytes of the result.
    pub(super) fn size_bytes(&self) -> u64 {
        self.specs.iter().map(TensorSpec::size_bytes).sum()
    }
}

/// A sentence on how many weights there are of each format.
pub(super) fn summary(steps: &[Step]) -> String {
    let mut bytes: BTreeMap<Format, (usize, u64)> = BTreeMap::new();
    for step in steps {
        let (count, sum) = bytes.entry(step.format()).or_default();
        *count += 1;
        *sum += step.size_bytes();
    }
    let mut text = String::new();
    for (format, (count, sum)) in bytes {
        let comma = if text.is_empty() { "" } else { ", " };
        let name = stored::name(format);
        write!(text, "{comma}{count} in {name} ({:.1} MB)", sum as f64 / 1e6).expect("text grows");
    }
    text
}

fn specs_of(name: &str, [rows, cols]: [usize; 2], format: Format) -> Vec<TensorSpec> {
    let codes = TensorSpec { name: name.into(), dtype: format.dtype(), dims: format.stored_shape(rows, cols).into() };
    let scales = format.scale_suffix().map(|suffix| TensorSpec {
        name: format!("{name}{suffix}"),
        dtype: format.scale_dtype(),
        dims: format.scale_shape(rows, cols).into(),
    });
    [codes].into_iter().chain(scales).collect()
}

fn format(format: WeightFormat) -> Format {
    match format {
        WeightFormat::Q4 => Format::Int4,
        WeightFormat::Q8 => Format::Int8,
        WeightFormat::Fp8 => Format::Fp8,
        WeightFormat::Bf16 => Format::Bf16,
        WeightFormat::F32 => Format::F32,
    }
}

/// Names in the order of people: layer 2 before layer 10, and what is in no layer before both.
fn in_order(name: &str) -> Vec<(Option<u64>, String)> {
    name.split('.').map(|piece| (piece.parse().ok(), piece.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use config::{ModelConfig, presets};
    use tensor::GROUP;

    use super::{TensorSpec, format, in_order, specs_of};
    use crate::commands::convert::spec::Spec;

    #[test]
    fn layers_come_in_order() {
        let mut names = ["a.10.x", "a.2.x", "a.2.b", "a.0.x", "b.weight", "a.weight"];
        names.sort_by_cached_key(|name| in_order(name));
        assert_eq!(names, ["a.weight", "a.0.x", "a.2.b", "a.2.x", "a.10.x", "b.weight"]);
    }

    /// Bytes of the main model's tensors when its matrices are stored as `quant` says, from bf16.
    fn bytes(config: &ModelConfig, quant: &str) -> u64 {
        let spec = Spec::parse(quant).unwrap();
        let matrix = |name: &str| {
            let weight = config.weight(name).unwrap_or_else(|| panic!("{name} is a matrix"));
            let format = format(spec.target(weight.part).unwrap_or(config::WeightFormat::Bf16));
            specs_of(name, weight.dims, format).iter().map(TensorSpec::size_bytes).sum::<u64>()
        };
        let ffn = |prefix: &str| -> u64 {
            ["gate_proj", "up_proj", "down_proj"].iter().map(|m| matrix(&format!("{prefix}.{m}.weight"))).sum()
        };
        let (layers, dense) = (config.num_hidden_layers as u64, config.first_k_dense_replace as u64);
        let experts = config.n_routed_experts as u64;
        let attention: u64 = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
            .iter()
            .map(|m| matrix(&format!("self_attn.{m}.weight")))
            .sum();
        let moe = experts * ffn("mlp.experts.0") + ffn("mlp.shared_experts") + matrix("mlp.gate.weight") + 4 * experts;
        let norms = 2 * config.hidden_size + config.q_lora_rank.unwrap() + config.kv_lora_rank;
        matrix("embed_tokens.weight")
            + matrix("lm_head.weight")
            + layers * (attention + 2 * norms as u64)
            + dense * ffn("mlp")
            + (layers - dense) * moe
            + 2 * config.hidden_size as u64
    }

    /// The table of docs/quantised.md.
    #[test]
    fn the_sizes_of_v3_are_as_documented() {
        let config = presets::preset("deepseek-v3").unwrap();
        for (quant, expected) in [
            ("bf16", 1_342_052_868_096),
            ("q8", 714_803_859_456),
            ("fp8", 673_150_611_808),
            ("experts=q4,rest=q8", 387_849_474_048),
            ("experts=q4,rest=fp8", 386_905_878_880),
            ("q4", 380_271_054_848),
            ("q4,embed=q4,head=q4", 377_606_852_608),
        ] {
            assert_eq!(bytes(&config, quant), expected, "{quant}");
        }
    }

    #[test]
    fn whole_groups_take_the_documented_bits() {
        let bits = |quant: &str, rows: usize, cols: usize| {
            let format = format(config::WeightFormat::from_name(quant).unwrap());
            let bytes: u64 = specs_of("w", [rows, cols], format).iter().map(TensorSpec::size_bytes).sum();
            8.0 * bytes as f64 / (rows * cols) as f64
        };
        assert_eq!((bits("q4", 3, 256), bits("q8", 3, GROUP)), (4.5, 8.5));
        assert_eq!(bits("fp8", 128, 128), 8.0 + 32.0 / 16384.0);
    }
}

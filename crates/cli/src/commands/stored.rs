//! What the weights of a directory are stored as.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use checkpoint::{Format, Reader};
use config::{ModelConfig, QuantizationConfig, WeightFormat, WeightPart};
use serde::Serialize;

/// The weights of one part in one format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stored {
    /// The part; norms, biases and what the config does not know are `other`.
    pub(crate) part: &'static str,
    pub(crate) format: &'static str,
    pub(crate) weights: u64,
    pub(crate) parameters: u64,
    /// Scales included.
    pub(crate) bytes: u64,
}

/// The weights in `dir` by part and format; none where there are no weight files.
///
/// # Errors
/// When they are damaged, or do not fit `config`.
pub(crate) fn table(config: &ModelConfig, dir: &Path) -> Result<Vec<Stored>> {
    let context = || format!("reading the weights in {}", dir.display());
    let reader = match Reader::open(dir) {
        Err(checkpoint::Error::NoModel { .. }) => return Ok(Vec::new()),
        reader => reader.with_context(context)?,
    };
    let mut rows: BTreeMap<(&str, Format), [u64; 3]> = BTreeMap::new();
    for info in reader.weights() {
        let info = info.with_context(context)?;
        let weight = config.weight(info.name);
        let parameters = match weight {
            Some(weight) => {
                reader.check(info.name, &weight.dims).with_context(context)?;
                agree(config, info.name, weight.part, info.format).with_context(context)?;
                weight.dims.iter().map(|&n| n as u64).product::<u64>()
            }
            None => info.shape.iter().map(|&n| n as u64).product(),
        };
        let row = rows.entry((weight.map_or("other", |weight| weight.part.name()), info.format)).or_default();
        for (sum, x) in row.iter_mut().zip([1, parameters, info.bytes]) {
            *sum += x;
        }
    }
    let mut rows: Vec<Stored> = rows
        .into_iter()
        .map(|((part, format), [weights, parameters, bytes])| Stored {
            part,
            format: name(format),
            weights,
            parameters,
            bytes,
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    Ok(rows)
}

/// Refuses a weight that is stored otherwise than `quantization_config` says of its part. The block of published checkpoints
/// names no parts: of those the tensors alone speak.
///
/// # Errors
/// When the two contradict each other.
pub(crate) fn agree(config: &ModelConfig, name: &str, part: WeightPart, stored: Format) -> Result<()> {
    let Some(QuantizationConfig::Hadal { weights }) = &config.quantization_config else { return Ok(()) };
    let said = weights.get(&part).copied();
    if said != quantised(stored) {
        let said = said.map_or("unquantised", WeightFormat::name);
        let found = self::name(stored);
        bail!("tensor `{name}` is stored as {found}, but quantization_config in config.json has {part} as {said}");
    }
    Ok(())
}

/// The recipe's word for a quantised format; `None` for the others.
pub(crate) fn quantised(format: Format) -> Option<WeightFormat> {
    match format {
        Format::Int4 => Some(WeightFormat::Q4),
        Format::Int8 => Some(WeightFormat::Q8),
        Format::Fp8 => Some(WeightFormat::Fp8),
        Format::F32 | Format::Bf16 | Format::F16 => None,
    }
}

/// The name that recipes have for a format.
pub(crate) fn name(format: Format) -> &'static str {
    match format {
        Format::F32 => "f32",
        Format::Bf16 => "bf16",
        Format::F16 => "f16",
        Format::Fp8 => "fp8",
        Format::Int8 => "q8",
        Format::Int4 => "q4",
    }
}

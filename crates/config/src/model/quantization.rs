//! `quantization_config`: how the weights of a checkpoint are stored.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::ModelConfigError;
use super::read::Reader;
use super::weights::{WeightFormat, WeightPart};

/// How a checkpoint stores its quantised weights. The tensors say it too, each for itself, and they decide; this is for
/// whoever looks at the config first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuantizationConfig {
    /// `fp8`: every linear layer in block-FP8, as released. E4M3 codes with one F32 scale per block of
    /// [`QuantizationConfig::WEIGHT_BLOCK_SIZE`].
    Fp8 {
        /// How activation scales are made in FP8 execution. Weight scales are multiplied by as stored in either case.
        scale_fmt: ScaleFormat,
    },
    /// `hadal`: a quantised format for each part that has one (`docs/quantised.md`).
    Hadal {
        /// Parts that are not there are not quantised.
        weights: BTreeMap<WeightPart, WeightFormat>,
    },
}

/// How activation scales are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleFormat {
    /// `amax / 448` as it is.
    Float,
    /// `ue8m0`: up to the next power of two (V3.1).
    Ue8m0,
}

impl QuantizationConfig {
    /// Rows and columns of a block, the only size accepted.
    pub const WEIGHT_BLOCK_SIZE: [usize; 2] = [128, 128];

    /// The version of the `hadal` block that is written, and the only one accepted.
    const VERSION: usize = 1;

    pub(super) fn read(reader: &Reader) -> Result<Self, ModelConfigError> {
        match reader.as_str("quant_method", reader.present("quant_method")?)? {
            "fp8" => Self::read_fp8(reader),
            "hadal" => Self::read_hadal(reader),
            other => Err(reader.unsupported("quant_method", other, "fp8, hadal")),
        }
    }

    fn read_fp8(reader: &Reader) -> Result<Self, ModelConfigError> {
        reader.only_str("fmt", "e4m3", "e4m3")?;
        reader.only_str("activation_scheme", "dynamic", "dynamic")?;
        let block = reader.present("weight_block_size")?;
        let [rows, cols] = Self::WEIGHT_BLOCK_SIZE.map(Value::from);
        if block != &Value::Array(vec![rows, cols]) {
            return Err(reader.unsupported("weight_block_size", &block.to_string(), "[128, 128]"));
        }
        let scale_fmt = match reader.str_or("scale_fmt", "float")? {
            "float" => ScaleFormat::Float,
            "ue8m0" => ScaleFormat::Ue8m0,
            other => return Err(reader.unsupported("scale_fmt", other, "float, ue8m0")),
        };
        Ok(Self::Fp8 { scale_fmt })
    }

    fn read_hadal(reader: &Reader) -> Result<Self, ModelConfigError> {
        reader.present("version")?;
        reader.only_integer("version", Self::VERSION, "1")?;
        let Value::Object(entries) = reader.present("weights")? else {
            return Err(reader.wrong_type("weights", "an object", reader.present("weights")?));
        };
        let mut weights = BTreeMap::new();
        for (part, format) in entries {
            let key = format!("weights.{part}");
            let part = WeightPart::from_name(part)
                .filter(|part| part.is_quantisable())
                .ok_or_else(|| reader.unsupported("weights", part, WeightPart::QUANTISABLE_NAMES))?;
            let format = reader.as_str(&key, format)?;
            let format = WeightFormat::from_name(format)
                .filter(|format| format.is_quantised())
                .ok_or_else(|| reader.unsupported(&key, format, "q4, q8, fp8"))?;
            weights.insert(part, format);
        }
        Ok(Self::Hadal { weights })
    }

    /// The block for a config.json.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Fp8 { scale_fmt } => {
                let mut block = json!({
                    "activation_scheme": "dynamic",
                    "fmt": "e4m3",
                    "quant_method": "fp8",
                    "weight_block_size": Self::WEIGHT_BLOCK_SIZE,
                });
                if *scale_fmt == ScaleFormat::Ue8m0 {
                    block["scale_fmt"] = "ue8m0".into();
                }
                block
            }
            Self::Hadal { weights } => {
                let weights: Map<String, Value> =
                    weights.iter().map(|(part, format)| (part.name().into(), format.name().into())).collect();
                json!({ "quant_method": "hadal", "version": Self::VERSION, "weights": weights })
            }
        }
    }
}

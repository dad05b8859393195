//! `quantization_config`: how the weights of a released FP8 checkpoint are stored.

use serde_json::Value;

use super::error::ModelConfigError;
use super::read::Reader;

/// Block-FP8 weights: E4M3 codes with one F32 scale per block of [`QuantizationConfig::WEIGHT_BLOCK_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizationConfig {
    /// How activation scales are made in FP8 execution. Weight scales are multiplied by as stored in either case.
    pub scale_fmt: ScaleFormat,
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

    pub(super) fn read(reader: &Reader) -> Result<Self, ModelConfigError> {
        reader.present("quant_method")?;
        reader.only_str("quant_method", "fp8", "fp8")?;
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
        Ok(Self { scale_fmt })
    }
}

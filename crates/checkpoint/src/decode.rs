use half::{bf16, f16};

use crate::dtype::Dtype;
use crate::element::Element;
use crate::fp8;

/// The stored bytes of a floating-point tensor, with all that is needed to decode them. Checked when it was made: the
/// bytes fit the elements, the scales fit the grid.
pub(crate) enum Encoded<'a> {
    F32(&'a [u8]),
    Bf16(&'a [u8]),
    F16(&'a [u8]),
    /// Codes of a matrix with `cols` columns, and the whole grid of scales.
    Blocks {
        codes: &'a [u8],
        cols: usize,
        scales: Vec<f32>,
    },
}

impl<'a> Encoded<'a> {
    /// The types whose values stand alone. `None` for the others.
    pub(crate) fn plain(dtype: Dtype, bytes: &'a [u8]) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32(bytes)),
            Dtype::Bf16 => Some(Self::Bf16(bytes)),
            Dtype::F16 => Some(Self::F16(bytes)),
            _ => None,
        }
    }

    /// Decodes all elements; exact for every stored type (FP8: the f32 product of code and scale).
    pub(crate) fn to_f32(&self, out: &mut [f32]) {
        match self {
            Self::F32(bytes) => f32::decode(bytes, out),
            Self::Bf16(bytes) => {
                for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Self::F16(bytes) => {
                for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f16::from_le_bytes(*bytes).to_f32();
                }
            }
            // A matrix without columns has no rows to walk.
            Self::Blocks { cols: 0, .. } => {}
            Self::Blocks { codes, cols, scales } => {
                for (i, (codes, out)) in codes.chunks(*cols).zip(out.chunks_mut(*cols)).enumerate() {
                    fp8::dequantise_row(i, codes, scales, out);
                }
            }
        }
    }
}

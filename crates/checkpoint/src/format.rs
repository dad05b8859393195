use tensor::{BLOCK, GROUP, int4_row_bytes};

use crate::dtype::Dtype;

/// How a weight is stored. The type of its numbers and the name of the scales beside it say so, with nothing outside
/// the files (`docs/quantised.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// f32 values.
    F32,
    /// bf16 values.
    Bf16,
    /// IEEE half precision.
    F16,
    /// E4M3 codes, an f32 scale for each block of 128 × 128 (`spec` 6.5).
    Fp8,
    /// Integers of 8 bits, a bf16 scale for each 32 columns of a row.
    Int8,
    /// Integers of 4 bits, a bf16 scale for each 32 columns of a row.
    Int4,
}

impl Format {
    /// Those that need scales.
    pub const SCALED: [Self; 3] = [Self::Fp8, Self::Int8, Self::Int4];

    /// What the name of a weight's scales has behind the name of the weight; `None` for values that stand alone.
    ///
    /// The two integer formats differ here, because nothing else tells them apart everywhere: 64 columns take 64 bytes
    /// and two scales in either.
    pub fn scale_suffix(self) -> Option<&'static str> {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => None,
            Self::Fp8 => Some("_scale_inv"),
            Self::Int8 => Some("_scale_int8"),
            Self::Int4 => Some("_scale_int4"),
        }
    }

    /// The type that its numbers are stored as.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::F16 => Dtype::F16,
            Self::Fp8 => Dtype::F8E4M3,
            Self::Int8 | Self::Int4 => Dtype::U8,
        }
    }

    /// The type that its scales are written as. Scales of FP8 are found in other types too.
    pub fn scale_dtype(self) -> Dtype {
        if self == Self::Fp8 { Dtype::F32 } else { Dtype::Bf16 }
    }

    /// The shape in which the numbers of a matrix of `rows` and `cols` are stored.
    pub fn stored_shape(self, rows: usize, cols: usize) -> [usize; 2] {
        [rows, if self == Self::Int4 { int4_row_bytes(cols) } else { cols }]
    }

    /// The shape of its scales.
    pub fn scale_shape(self, rows: usize, cols: usize) -> [usize; 2] {
        match self {
            Self::Fp8 => [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)],
            _ => [rows, cols.div_ceil(GROUP)],
        }
    }

    /// The format whose scales are named `name`, and the weight that they belong to.
    pub(crate) fn of_scale(name: &str) -> Option<(Self, &str)> {
        Self::SCALED.into_iter().find_map(|format| Some((format, name.strip_suffix(format.scale_suffix()?)?)))
    }
}

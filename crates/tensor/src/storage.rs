use std::sync::Arc;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::experts::{ExpertMemory, ReadError, Streamed};
use crate::slab::Slab;
use crate::tensor::{Dims, Tensor};

/// A weight at rest: `[N]`, `[N, K]`, or for experts `[E, N, K]`.
#[derive(Clone, Debug)]
pub enum Storage {
    /// f32 values in one piece: what training writes.
    F32(Tensor),
    /// Matrices as a checkpoint stores them, only read.
    Stored(Stored),
    /// Experts that are read from their files when they are needed.
    Streamed(Streamed),
}

/// Matrices of as many columns, one below the other.
#[derive(Clone, Debug)]
pub struct Stored {
    matrices: Arc<[Matrix]>,
    dims: Dims,
    /// Matrices that make up one expert; all of them where there are no experts.
    per_group: usize,
}

/// One matrix as it is stored, row-major.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    codes: Codes,
}

/// The numbers of a matrix, or what stands for them.
#[derive(Clone, Debug)]
pub enum Codes {
    /// f32 values.
    F32(Slab<f32>),
    /// bf16 values.
    Bf16(Slab<bf16>),
    /// E4M3 codes, and an f32 scale for each block of [`BLOCK`] rows and columns (`spec/model.md` 6.5).
    Fp8 {
        /// `[rows, cols]`.
        codes: Slab<u8>,
        /// `[⌈rows / BLOCK⌉, ⌈cols / BLOCK⌉]`.
        scales: Slab<f32>,
    },
    /// Signed integers of 8 bits, and a bf16 scale for each [`GROUP`] columns of a row: 8.5 bits a weight.
    Int8 {
        /// `[rows, cols]`: the sign in the upper bit, the magnitude in the others.
        codes: Slab<u8>,
        /// `[rows, ⌈cols / GROUP⌉]`.
        scales: Slab<bf16>,
    },
    /// Integers from -8 to 7, and a bf16 scale for each [`GROUP`] columns of a row: 4.5 bits a weight.
    Int4 {
        /// `[rows, ⌈cols / 128⌉ · 64]`: byte `j` of the 64 bytes of 128 columns holds column `j` in its lower half and
        /// column `64 + j` in its upper half, each as the integer plus 8. What is behind the last column is 0.
        codes: Slab<u8>,
        /// `[rows, ⌈cols / GROUP⌉]`.
        scales: Slab<bf16>,
    },
}

/// A matrix `[rows, cols]`, row-major, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub cols: usize,
    /// Its numbers.
    pub codes: CodesRef<'a>,
}

/// [`Codes`], borrowed.
#[derive(Clone, Copy, Debug)]
pub enum CodesRef<'a> {
    /// f32 values.
    F32(&'a [f32]),
    /// bf16 values.
    Bf16(&'a [bf16]),
    /// E4M3 codes and the scales of their blocks.
    Fp8 {
        /// `[rows, cols]`.
        codes: &'a [u8],
        /// `[⌈rows / BLOCK⌉, ⌈cols / BLOCK⌉]`.
        scales: &'a [f32],
    },
    /// Integers of 8 bits and the scales of their groups.
    Int8 {
        /// As in [`Codes::Int8`].
        codes: &'a [u8],
        /// `[rows, ⌈cols / GROUP⌉]`.
        scales: &'a [bf16],
    },
    /// Integers of 4 bits and the scales of their groups.
    Int4 {
        /// As in [`Codes::Int4`].
        codes: &'a [u8],
        /// `[rows, ⌈cols / GROUP⌉]`.
        scales: &'a [bf16],
    },
}

/// The rows and columns that share a scale in block-FP8. It is never inferred from shapes: 192 rows with two scales are a
/// block of 128 and one of 64, not two of 96.
pub const BLOCK: usize = 128;

/// The columns of a row that share a scale in the integer formats.
pub const GROUP: usize = 32;

/// The bytes of a row of `cols` integers of 4 bits.
pub fn int4_row_bytes(cols: usize) -> usize {
    cols.div_ceil(128) * 64
}

/// The value of each E4M3FN code.
pub const E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_e4m3(code as u32);
        code += 1;
    }
    table
};

/// Sign, four exponent bits with bias 7, three mantissa bits; no infinities, and NaN only where all seven are set.
const fn decode_e4m3(code: u32) -> f32 {
    let sign = (code >> 7) << 31;
    let exponent = (code >> 3) & 15;
    let mantissa = code & 7;
    let magnitude = if code & 0x7F == 0x7F {
        f32::NAN
    } else if exponent == 0 {
        mantissa as f32 / 512.0
    } else {
        // From bias 7 to f32's 127, and from 3 to 23 bits of mantissa.
        f32::from_bits((exponent + 120) << 23 | mantissa << 20)
    };
    f32::from_bits(sign | magnitude.to_bits())
}

impl Matrix {
    /// A matrix of `rows × cols`.
    ///
    /// # Panics
    /// When codes or scales have not the length that this needs.
    pub fn new(rows: usize, cols: usize, codes: Codes) -> Self {
        let scales = rows.div_ceil(BLOCK) * cols.div_ceil(BLOCK);
        let fits = match &codes {
            Codes::F32(values) => values.len() == rows * cols,
            Codes::Bf16(values) => values.len() == rows * cols,
            Codes::Fp8 { codes, scales: s } => codes.len() == rows * cols && s.len() == scales,
            Codes::Int8 { codes, scales } => codes.len() == rows * cols && scales.len() == rows * cols.div_ceil(GROUP),
            Codes::Int4 { codes, scales } => {
                codes.len() == rows * int4_row_bytes(cols) && scales.len() == rows * cols.div_ceil(GROUP)
            }
        };
        assert!(fits, "{codes:?} is no matrix of {rows} × {cols}");
        Self { rows, cols, codes }
    }

    /// Its shape.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Its numbers.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// Borrows it.
    pub fn view(&self) -> MatrixRef<'_> {
        let codes = match &self.codes {
            Codes::F32(values) => CodesRef::F32(values),
            Codes::Bf16(values) => CodesRef::Bf16(values),
            Codes::Fp8 { codes, scales } => CodesRef::Fp8 { codes, scales },
            Codes::Int8 { codes, scales } => CodesRef::Int8 { codes, scales },
            Codes::Int4 { codes, scales } => CodesRef::Int4 { codes, scales },
        };
        MatrixRef { rows: self.rows, cols: self.cols, codes }
    }

    /// The bytes that reading all of it moves.
    pub fn size_bytes(&self) -> u64 {
        let bytes = match &self.codes {
            Codes::F32(values) => 4 * values.len(),
            Codes::Bf16(values) => 2 * values.len(),
            Codes::Fp8 { codes, scales } => codes.len() + 4 * scales.len(),
            Codes::Int8 { codes, scales } | Codes::Int4 { codes, scales } => codes.len() + 2 * scales.len(),
        };
        bytes as u64
    }
}

impl<'a> MatrixRef<'a> {
    /// Its numbers without their scales, as they lie in memory.
    pub fn bytes(&self) -> &'a [u8] {
        match self.codes {
            CodesRef::F32(values) => bytemuck::cast_slice(values),
            CodesRef::Bf16(values) => bytemuck::cast_slice(values),
            CodesRef::Fp8 { codes, .. } | CodesRef::Int8 { codes, .. } | CodesRef::Int4 { codes, .. } => codes,
        }
    }

    /// Writes row `row`, from column `start` on, into `out`, as f32: exact (FP8 and integers: the f32 product of code and
    /// scale).
    pub fn read_f32(&self, row: usize, start: usize, out: &mut [f32]) {
        let at = row * self.cols + start;
        match self.codes {
            CodesRef::F32(values) => out.copy_from_slice(&values[at..at + out.len()]),
            CodesRef::Bf16(values) => values[at..at + out.len()].convert_to_f32_slice(out),
            CodesRef::Fp8 { codes, scales } => {
                let scales = &scales[row / BLOCK * self.cols.div_ceil(BLOCK)..];
                for (i, (x, code)) in out.iter_mut().zip(&codes[at..]).enumerate() {
                    *x = E4M3[*code as usize] * scales[(start + i) / BLOCK];
                }
            }
            CodesRef::Int8 { codes, scales } => {
                let scales = &scales[row * self.cols.div_ceil(GROUP)..];
                for (i, (x, code)) in out.iter_mut().zip(&codes[at..]).enumerate() {
                    let magnitude = f32::from(code & 0x7F);
                    *x = if *code < 0x80 { magnitude } else { -magnitude } * scales[(start + i) / GROUP].to_f32();
                }
            }
            CodesRef::Int4 { codes, scales } => {
                let codes = &codes[row * int4_row_bytes(self.cols)..];
                let scales = &scales[row * self.cols.div_ceil(GROUP)..];
                for (i, x) in (start..).zip(out) {
                    let byte = codes[i / 128 * 64 + i % 64];
                    let code = if i % 128 < 64 { byte & 15 } else { byte >> 4 };
                    *x = (f32::from(code) - 8.0) * scales[i / GROUP].to_f32();
                }
            }
        }
    }
}

impl Stored {
    /// Matrices that together have the shape `dims`: they stack to `[N, K]`, or, as many to each expert, to `[E, N, K]`.
    ///
    /// # Panics
    /// When they do not.
    pub fn new(matrices: Vec<Matrix>, dims: impl Into<Dims>) -> Self {
        let dims = dims.into();
        let (groups, n, k) = match *dims.as_slice() {
            [n, k] => (1, n, k),
            [e, n, k] => (e, n, k),
            _ => panic!("a stored weight has two or three dimensions, not {dims:?}"),
        };
        let per_group = matrices.len() / groups.max(1);
        let fits = per_group * groups == matrices.len()
            && matrices.iter().all(|m| m.cols == k)
            && matrices.chunks(per_group.max(1)).all(|group| group.iter().map(|m| m.rows).sum::<usize>() == n);
        assert!(fits, "matrices {:?} do not stack to {dims:?}", matrices.iter().map(Matrix::shape).collect::<Vec<_>>());
        Self { matrices: matrices.into(), dims, per_group }
    }

    /// All matrices, in order.
    pub fn matrices(&self) -> &[Matrix] {
        &self.matrices
    }

    /// Those of group `e`, as [`Storage::group`] has them.
    pub fn group(&self, e: usize) -> &[Matrix] {
        &self.matrices[e * self.per_group..(e + 1) * self.per_group]
    }

    /// The shape.
    pub fn shape(&self) -> Dims {
        self.dims
    }
}

impl Storage {
    /// One matrix.
    pub fn matrix(matrix: Matrix) -> Self {
        let dims = matrix.shape();
        Self::Stored(Stored::new(vec![matrix], dims))
    }

    /// bf16 values in memory.
    ///
    /// # Panics
    /// When the length does not fit the shape.
    pub fn bf16(values: Vec<bf16>, dims: [usize; 2]) -> Self {
        Self::matrix(Matrix::new(dims[0], dims[1], Codes::Bf16(Slab::from_vec(values))))
    }

    /// The same weight, its experts to be read when they are needed, into the room of `memory`. What is no stored expert
    /// stays as it is.
    #[must_use]
    pub fn streamed(self, memory: &Arc<ExpertMemory>) -> Self {
        match self {
            Self::Stored(stored) if stored.dims.as_slice().len() == 3 => Self::Streamed(Streamed::new(stored, memory)),
            other => other,
        }
    }

    /// Experts `experts` of a streamed weight, in memory: `[experts.len(), N, K]`. `None` for weights that are at hand.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn bring(&self, experts: &[usize]) -> Result<Option<Self>, ReadError> {
        let Self::Streamed(streamed) = self else { return Ok(None) };
        let [_, n, k] = self.dims();
        let matrices = streamed.bring(experts)?.iter().flat_map(|m| m.iter().cloned()).collect();
        Ok(Some(Self::Stored(Stored::new(matrices, [experts.len(), n, k]))))
    }

    /// The shape.
    pub fn shape(&self) -> Dims {
        match self {
            Self::F32(t) => t.shape(),
            Self::Stored(s) | Self::Streamed(Streamed { stored: s, .. }) => s.dims,
        }
    }

    /// The sizes of a weight of rank `N`.
    #[track_caller]
    pub fn dims<const N: usize>(&self) -> [usize; N] {
        self.shape().array()
    }

    /// The bytes it occupies.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::F32(t) => 4 * t.len() as u64,
            Self::Stored(s) | Self::Streamed(Streamed { stored: s, .. }) => {
                s.matrices.iter().map(Matrix::size_bytes).sum()
            }
        }
    }

    /// The matrices that make up group `e`: expert `e` of `[E, N, K]`, or (`e` being 0) all of `[N, K]`. One below the
    /// other they are `[N, K]`.
    pub fn group(&self, e: usize) -> impl Iterator<Item = MatrixRef<'_>> + Clone {
        let (tensor, stored) = match self {
            Self::F32(t) => {
                let [.., n, k] = *t.shape().as_slice() else { panic!("a weight {t:?} is no matrix") };
                let values = &t.data()[e * n * k..(e + 1) * n * k];
                (Some(MatrixRef { rows: n, cols: k, codes: CodesRef::F32(values) }), [].iter())
            }
            // Experts that are streamed are read through the map if nobody brought them.
            Self::Stored(s) | Self::Streamed(Streamed { stored: s, .. }) => (None, s.group(e).iter()),
        };
        tensor.into_iter().chain(stored.map(Matrix::view))
    }

    /// The f32 tensor.
    ///
    /// # Panics
    /// When the values are stored otherwise: training and its optimiser hold f32 weights, and reach this only with them.
    #[track_caller]
    pub fn f32(&self) -> &Tensor {
        match self {
            Self::F32(t) => t,
            Self::Stored(_) | Self::Streamed(_) => panic!("expected an f32 weight, found one as it is stored"),
        }
    }

    /// The f32 tensor, for writing.
    ///
    /// # Panics
    /// As [`Storage::f32`].
    #[track_caller]
    pub fn f32_mut(&mut self) -> &mut Tensor {
        match self {
            Self::F32(t) => t,
            Self::Stored(_) | Self::Streamed(_) => panic!("expected an f32 weight, found one as it is stored"),
        }
    }

    /// Writes row `row` of `[N, K]` into `out [K]`, as f32.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let mut first = 0;
        for matrix in self.group(0) {
            if row < first + matrix.rows {
                return matrix.read_f32(row - first, 0, out);
            }
            first += matrix.rows;
        }
        panic!("row {row} is not below the {first} rows of a weight");
    }

    /// All values, as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(t) => t.data().to_vec(),
            Self::Stored(s) | Self::Streamed(Streamed { stored: s, .. }) => {
                let mut out = vec![0.0; s.dims.len()];
                let mut rest = &mut out[..];
                for matrix in s.matrices.iter().map(Matrix::view) {
                    for row in 0..matrix.rows {
                        let (to, after) = rest.split_at_mut(matrix.cols);
                        matrix.read_f32(row, 0, to);
                        rest = after;
                    }
                }
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bf16_matrix(rows: usize, cols: usize, first: f32) -> Matrix {
        let values = (0..rows * cols).map(|i| bf16::from_f32(first + i as f32)).collect();
        Matrix::new(rows, cols, Codes::Bf16(Slab::from_vec(values)))
    }

    #[test]
    fn matrices_stack_to_experts() {
        let matrices =
            vec![bf16_matrix(1, 2, 0.0), bf16_matrix(2, 2, 2.0), bf16_matrix(1, 2, 6.0), bf16_matrix(2, 2, 8.0)];
        let w = Storage::Stored(Stored::new(matrices, [2, 3, 2]));
        assert_eq!(w.to_f32(), (0..12).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(w.group(1).map(|m| m.rows).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(w.size_bytes(), 24);
    }

    #[test]
    #[should_panic(expected = "do not stack")]
    fn matrices_that_do_not_fit_are_refused() {
        Stored::new(vec![bf16_matrix(2, 2, 0.0), bf16_matrix(1, 2, 0.0)], [2, 2, 2]);
    }

    #[test]
    fn fp8_blocks_have_their_own_scales() {
        let (rows, cols) = (130, 129);
        let codes = vec![0x38; rows * cols]; // 1.0
        let scales = vec![1.0, 2.0, 3.0, 4.0];
        let codes = Codes::Fp8 { codes: Slab::from_vec(codes), scales: Slab::from_vec(scales) };
        let w = Storage::matrix(Matrix::new(rows, cols, codes));
        let mut row = vec![0.0; cols];
        for (i, [left, right]) in [(127, [1.0, 2.0]), (128, [3.0, 4.0])] {
            w.read_row(i, &mut row);
            assert_eq!([row[127], row[128]], [left, right], "row {i}");
        }
    }

    #[test]
    fn integers_are_read_as_their_layout_says() {
        let (cols, scales) = (130, vec![bf16::from_f32(2.0); 5]);
        let mut codes = vec![0; cols];
        (codes[0], codes[129]) = (0x83, 0x7F);
        let int8 = Codes::Int8 { codes: Slab::from_vec(codes), scales: Slab::from_vec(scales.clone()) };
        let row = Storage::matrix(Matrix::new(1, cols, int8)).to_f32();
        assert_eq!([row[0], row[1], row[129]], [-6.0, 0.0, 254.0]);

        let mut codes = vec![0x88; 128];
        (codes[1], codes[65]) = (0xF0, 0x09);
        let int4 = Codes::Int4 { codes: Slab::from_vec(codes), scales: Slab::from_vec(scales) };
        let row = Storage::matrix(Matrix::new(1, cols, int4)).to_f32();
        assert_eq!([row[0], row[1], row[65], row[128], row[129]], [0.0, -16.0, 14.0, 0.0, 2.0]);
    }

    #[test]
    fn all_e4m3_codes_are_as_defined() {
        for (code, found) in E4M3.into_iter().enumerate() {
            // `spec/model.md` 6.5, in f64.
            let sign = if code >= 128 { -1.0 } else { 1.0 };
            let (exponent, mantissa) = ((code >> 3) & 15, (code & 7) as f64);
            let expected = match (exponent, code & 7) {
                (15, 7) => f64::NAN,
                (0, _) => sign * mantissa * 2f64.powi(-9),
                _ => sign * (1.0 + mantissa / 8.0) * 2f64.powi(exponent as i32 - 7),
            };
            assert!(f64::from(found) == expected || (found.is_nan() && expected.is_nan()), "code {code}");
            assert_eq!(found.is_sign_negative(), code >= 128, "code {code}");
        }
        assert_eq!([E4M3[0x7E], E4M3[0xFE], E4M3[0x01]], [448.0, -448.0, 0.001_953_125]);
    }
}

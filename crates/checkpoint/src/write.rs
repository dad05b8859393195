use std::path::Path;

use half::slice::HalfFloatSliceExt;
use tensor::{NamedTensor, bf16};

use crate::dtype::Dtype;
use crate::element::{Element, Values};
use crate::error::Result;
use crate::stream::{Sink, TensorSpec, stream_file, stream_model};

/// How a model is written.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// The type of every tensor that does not ask to stay f32.
    pub precision: Precision,
    /// The most bytes of tensors in one file. A tensor larger than this gets a file of its own.
    pub max_shard_bytes: u64,
}

/// The types a model can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32: nothing is lost.
    F32,
    /// bf16, rounded to nearest, ties to even.
    Bf16,
}

/// A named array of any stored type, for files that are not models.
#[derive(Clone, Debug)]
pub struct NamedValues<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its values, row-major.
    pub values: Values<'a>,
}

impl Default for WriteOptions {
    /// bf16 in shards of 5 GB, the usual form of published models.
    fn default() -> Self {
        Self { precision: Precision::Bf16, max_shard_bytes: 5_000_000_000 }
    }
}

/// Writes `tensors` into the directory `dir`, which exists and holds no weights yet: as `model.safetensors` if one
/// shard is enough, otherwise as numbered shards, filled in the order given, and their index.
///
/// Values go to the files in pieces; no second copy of the model is made. The bytes depend on the arguments alone.
/// Each file is complete or absent, the directory is not: for that, call this in
/// [`write_dir_atomically`](crate::write_dir_atomically).
///
/// # Errors
/// When `dir` holds weights, or a file cannot be written.
///
/// # Panics
/// When two tensors have one name, or values do not fit their shape.
pub fn write_model(dir: impl AsRef<Path>, tensors: &[NamedTensor<'_>], options: &WriteOptions) -> Result<()> {
    let units: Vec<Vec<TensorSpec>> = tensors
        .iter()
        .map(|t| {
            let dtype = if t.keep_f32 || options.precision == Precision::F32 { Dtype::F32 } else { Dtype::Bf16 };
            vec![spec(&t.name, &t.dims, t.data.into(), dtype)]
        })
        .collect();
    stream_model(dir, &units, options.max_shard_bytes, |i, sink| {
        write_values(sink, tensors[i].data.into(), units[i][0].dtype)
    })
}

/// Writes `arrays` as the one file `path`, which is replaced whole or not at all.
///
/// # Errors
/// When it cannot be written.
///
/// # Panics
/// When two arrays have one name, or values do not fit their shape.
pub fn write_file(path: impl AsRef<Path>, arrays: &[NamedValues<'_>]) -> Result<()> {
    let specs = arrays.iter().map(|a| spec(&a.name, &a.dims, a.values, a.values.dtype())).collect();
    stream_file(path.as_ref(), specs, |i, sink| write_values(sink, arrays[i].values, arrays[i].values.dtype()))
}

/// The header's entry for `values`, stored as `dtype`.
fn spec(name: &str, dims: &[usize], values: Values<'_>, dtype: Dtype) -> TensorSpec {
    let len: usize = dims.iter().product();
    assert_eq!(values.len(), len, "the values of `{name}` do not fit {dims:?}");
    TensorSpec { name: name.into(), dtype, dims: dims.into() }
}

fn write_values(sink: &mut Sink<'_>, values: Values<'_>, dtype: Dtype) -> Result<()> {
    match (values, dtype) {
        (Values::F32(v), Dtype::Bf16) => write_encoded(sink, v, |piece, out| {
            let mut rounded = vec![bf16::ZERO; piece.len()];
            rounded.convert_from_f32_slice(piece);
            bf16::encode(&rounded, out);
        }),
        (Values::Bf16(v), Dtype::F32) => write_encoded(sink, v, |piece, out| {
            let mut widened = vec![0.0; piece.len()];
            piece.convert_to_f32_slice(&mut widened);
            f32::encode(&widened, out);
        }),
        (Values::F32(v), _) => write_encoded(sink, v, f32::encode),
        (Values::Bf16(v), _) => write_encoded(sink, v, bf16::encode),
        (Values::I32(v), _) => write_encoded(sink, v, i32::encode),
        (Values::I64(v), _) => write_encoded(sink, v, i64::encode),
        (Values::U64(v), _) => write_encoded(sink, v, u64::encode),
        (Values::U8(v), _) => sink.append(0, v),
    }
}

/// Writes `values` in pieces through a buffer of bytes.
fn write_encoded<T>(sink: &mut Sink<'_>, values: &[T], encode: impl Fn(&[T], &mut Vec<u8>)) -> Result<()> {
    const PIECE: usize = 1 << 16;
    let mut bytes = Vec::new();
    for piece in values.chunks(PIECE) {
        bytes.clear();
        encode(piece, &mut bytes);
        sink.append(0, &bytes)?;
    }
    Ok(())
}

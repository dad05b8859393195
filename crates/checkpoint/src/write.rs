use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use tensor::{NamedTensor, bf16};

use crate::atomic;
use crate::dtype::Dtype;
use crate::element::{Element, Values};
use crate::error::{Error, Result};
use crate::header;
use crate::index::{self, INDEX_FILE};
use crate::model_dir::SINGLE_FILE;

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

/// A tensor and the type it is stored in.
struct Item<'a> {
    name: &'a str,
    dims: &'a [usize],
    values: Values<'a>,
    dtype: Dtype,
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
    let dir = dir.as_ref();
    for file in fs_err::read_dir(dir)? {
        let name = file?.file_name();
        if name == INDEX_FILE || Path::new(&name).extension().is_some_and(|e| e == "safetensors") {
            return Err(Error::Occupied { dir: dir.into() });
        }
    }

    let items: Vec<Item<'_>> = tensors.iter().map(|t| Item::of_model(t, options.precision)).collect();
    assert_distinct(&items);
    let total_size = items.iter().map(Item::size_bytes).sum();
    let mut shards = into_shards(items, options.max_shard_bytes);
    if shards.len() == 1 {
        return write_items(&dir.join(SINGLE_FILE), &mut shards[0]);
    }

    let num_shards = shards.len();
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.iter_mut().enumerate() {
        // Five digits and six, as the published checkpoints have them (`spec` 6.1).
        let file = format!("model-{:05}-of-{num_shards:06}.safetensors", i + 1);
        write_items(&dir.join(&file), shard)?;
        weight_map.extend(shard.iter().map(|item| (item.name, file.clone())));
    }
    atomic::write_file_atomically(dir.join(INDEX_FILE), &index::render(&weight_map, total_size))
}

/// Writes `arrays` as the one file `path`, which is replaced whole or not at all.
///
/// # Errors
/// When it cannot be written.
///
/// # Panics
/// When two arrays have one name, or values do not fit their shape.
pub fn write_file(path: impl AsRef<Path>, arrays: &[NamedValues<'_>]) -> Result<()> {
    let mut items: Vec<Item<'_>> = arrays
        .iter()
        .map(|a| Item { name: &a.name, dims: &a.dims, values: a.values, dtype: a.values.dtype() })
        .collect();
    assert_distinct(&items);
    write_items(path.as_ref(), &mut items)
}

impl<'a> Item<'a> {
    fn of_model(tensor: &'a NamedTensor<'_>, precision: Precision) -> Self {
        let dtype = if tensor.keep_f32 || precision == Precision::F32 { Dtype::F32 } else { Dtype::Bf16 };
        Self { name: &tensor.name, dims: &tensor.dims, values: tensor.data.into(), dtype }
    }

    fn size_bytes(&self) -> u64 {
        self.values.len() as u64 * self.dtype.size_bytes()
    }
}

fn assert_distinct(items: &[Item<'_>]) {
    let mut names = BTreeSet::from(["__metadata__"]);
    for item in items {
        let len: usize = item.dims.iter().product();
        assert_eq!(item.values.len(), len, "the values of `{}` do not fit {:?}", item.name, item.dims);
        assert!(names.insert(item.name), "two tensors are named `{}`", item.name);
    }
}

/// Fills one shard after the other. At least one, even without tensors.
fn into_shards(items: Vec<Item<'_>>, max_shard_bytes: u64) -> Vec<Vec<Item<'_>>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for item in items {
        let size = item.size_bytes();
        if filled > 0 && filled + size > max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        shards.last_mut().expect("one from the start").push(item);
    }
    shards
}

/// Writes one file. Widest types first, then by name: so every tensor is aligned to its element.
fn write_items(path: &Path, items: &mut [Item<'_>]) -> Result<()> {
    items.sort_by(|a, b| b.dtype.cmp(&a.dtype).then(a.name.cmp(b.name)));
    let head = header::render(items.iter().map(|item| (item.name, item.dtype, item.dims)));
    atomic::write_file_with(path, |file| {
        file.write_all(&head)?;
        items.iter().try_for_each(|item| write_values(file, item))
    })
}

fn write_values(file: &mut impl Write, item: &Item<'_>) -> io::Result<()> {
    match (item.values, item.dtype) {
        (Values::F32(v), Dtype::Bf16) => write_encoded(file, v, |piece, out| {
            let mut rounded = vec![bf16::ZERO; piece.len()];
            rounded.convert_from_f32_slice(piece);
            bf16::encode(&rounded, out);
        }),
        (Values::Bf16(v), Dtype::F32) => write_encoded(file, v, |piece, out| {
            let mut widened = vec![0.0; piece.len()];
            piece.convert_to_f32_slice(&mut widened);
            f32::encode(&widened, out);
        }),
        (Values::F32(v), _) => write_encoded(file, v, f32::encode),
        (Values::Bf16(v), _) => write_encoded(file, v, bf16::encode),
        (Values::I32(v), _) => write_encoded(file, v, i32::encode),
        (Values::I64(v), _) => write_encoded(file, v, i64::encode),
        (Values::U64(v), _) => write_encoded(file, v, u64::encode),
        (Values::U8(v), _) => file.write_all(v),
    }
}

/// Writes `values` in pieces through a buffer of bytes.
fn write_encoded<T>(file: &mut impl Write, values: &[T], encode: impl Fn(&[T], &mut Vec<u8>)) -> io::Result<()> {
    const PIECE: usize = 1 << 16;
    let mut bytes = Vec::new();
    for piece in values.chunks(PIECE) {
        bytes.clear();
        encode(piece, &mut bytes);
        file.write_all(&bytes)?;
    }
    Ok(())
}

//! Files whose headers are known before their tensors are made.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use fs_err::File;

use crate::atomic;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::header;
use crate::index::{self, INDEX_FILE};
use crate::model_dir::SINGLE_FILE;

/// What a file's header says of a tensor.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// Its stored type.
    pub dtype: Dtype,
    /// Its shape as stored.
    pub dims: Vec<usize>,
}

/// Where the bytes of the tensors of one unit go.
pub struct Sink<'a> {
    file: &'a mut BufWriter<File>,
    /// Where the file stands.
    at: &'a mut u64,
    /// Of each tensor, the place of its next byte and the end of its last.
    parts: Vec<(u64, u64)>,
}

/// Writes a model into the directory `dir`, which exists and holds no weights yet: as `model.safetensors` if one shard of
/// at most `max_shard_bytes` is enough, otherwise as numbered shards, filled in the order given, and their index.
///
/// A unit is the tensors that are made together, a weight and its scales; they lie in one file, and a unit larger than a
/// shard gets a file of its own. `fill` is called once for each, in order, and gives the bytes of all its tensors, in
/// pieces as it makes them; nothing is kept in memory. The bytes written depend on the arguments and on `fill` alone.
/// Each file is complete or absent, the directory is not: for that, call this in
/// [`write_dir_atomically`](crate::write_dir_atomically).
///
/// # Errors
/// When `dir` holds weights, a file cannot be written, or `fill` fails.
///
/// # Panics
/// When two tensors have one name, or `fill` gives a tensor more or fewer bytes than it has.
pub fn stream_model<E: From<Error>>(
    dir: impl AsRef<Path>,
    units: &[Vec<TensorSpec>],
    max_shard_bytes: u64,
    mut fill: impl FnMut(usize, &mut Sink<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let dir = dir.as_ref();
    refuse_occupied(dir)?;
    assert_distinct(units.iter().flatten());
    let shards = shards(units, max_shard_bytes);
    if let [only] = &shards[..] {
        return write_units(&dir.join(SINGLE_FILE), units, only.clone(), &mut fill);
    }
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        // Five digits and six, as the published checkpoints have them (`spec` 6.1).
        let file = format!("model-{:05}-of-{:06}.safetensors", i + 1, shards.len());
        write_units(&dir.join(&file), units, shard.clone(), &mut fill)?;
        weight_map.extend(units[shard.clone()].iter().flatten().map(|spec| (spec.name.as_str(), file.clone())));
    }
    let total_size = units.iter().flatten().map(TensorSpec::size_bytes).sum();
    Ok(atomic::write_file_atomically(dir.join(INDEX_FILE), &index::render(&weight_map, total_size))?)
}

/// Writes the one file `path`, which is replaced whole or not at all.
pub(crate) fn stream_file(
    path: &Path,
    specs: Vec<TensorSpec>,
    mut fill: impl FnMut(usize, &mut Sink<'_>) -> Result<()>,
) -> Result<()> {
    assert_distinct(&specs);
    let units: Vec<Vec<TensorSpec>> = specs.into_iter().map(|spec| vec![spec]).collect();
    write_units(path, &units, 0..units.len(), &mut fill)
}

impl Sink<'_> {
    /// Appends to tensor `tensor` of the unit.
    ///
    /// # Errors
    /// When they cannot be written.
    ///
    /// # Panics
    /// When the tensor has not so many bytes.
    pub fn append(&mut self, tensor: usize, bytes: &[u8]) -> Result<()> {
        let (next, end) = &mut self.parts[tensor];
        assert!(bytes.len() as u64 <= *end - *next, "tensor {tensor} of a unit gets more bytes than it has");
        if *self.at != *next {
            self.file.seek(SeekFrom::Start(*next))?;
        }
        self.file.write_all(bytes)?;
        *next += bytes.len() as u64;
        *self.at = *next;
        Ok(())
    }
}

impl TensorSpec {
    /// The bytes it takes.
    pub fn size_bytes(&self) -> u64 {
        self.dtype.size_bytes() * self.dims.iter().map(|&n| n as u64).product::<u64>()
    }
}

/// Fills one shard after the other with whole units. At least one, even without tensors.
fn shards(units: &[Vec<TensorSpec>], max_shard_bytes: u64) -> Vec<std::ops::Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut filled) = (0, 0);
    for (i, unit) in units.iter().enumerate() {
        let size: u64 = unit.iter().map(TensorSpec::size_bytes).sum();
        if filled > 0 && filled + size > max_shard_bytes {
            shards.push(start..i);
            (start, filled) = (i, 0);
        }
        filled += size;
    }
    shards.push(start..units.len());
    shards
}

/// Writes the units `shard` as one file. In it, tensors lie widest types first, then by name: so every one of them is
/// aligned to its element.
fn write_units<E: From<Error>>(
    path: &Path,
    units: &[Vec<TensorSpec>],
    shard: std::ops::Range<usize>,
    fill: &mut impl FnMut(usize, &mut Sink<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut specs: Vec<&TensorSpec> = units[shard.clone()].iter().flatten().collect();
    specs.sort_by(|a, b| b.dtype.cmp(&a.dtype).then(a.name.cmp(&b.name)));
    let head = header::render(specs.iter().map(|spec| (&*spec.name, spec.dtype, &*spec.dims)));
    let mut at = head.len() as u64;
    let mut places = BTreeMap::new();
    let mut end = at;
    for spec in specs {
        let start = end;
        end += spec.size_bytes();
        places.insert(&*spec.name, (start, end));
    }
    atomic::write_file_with(path, |file| {
        file.write_all(&head).map_err(Error::from)?;
        for unit in shard {
            let parts = units[unit].iter().map(|spec| places[&*spec.name]).collect();
            let mut sink = Sink { file, at: &mut at, parts };
            fill(unit, &mut sink)?;
            let complete = sink.parts.iter().all(|(next, end)| next == end);
            assert!(complete, "the tensors {:?} were not filled to their ends", units[unit]);
        }
        Ok(())
    })
}

fn refuse_occupied(dir: &Path) -> Result<()> {
    for file in fs_err::read_dir(dir)? {
        let name = file?.file_name();
        if name == INDEX_FILE || Path::new(&name).extension().is_some_and(|e| e == "safetensors") {
            return Err(Error::Occupied { dir: dir.into() });
        }
    }
    Ok(())
}

fn assert_distinct<'a>(specs: impl IntoIterator<Item = &'a TensorSpec>) {
    let mut names = BTreeSet::from(["__metadata__"]);
    for spec in specs {
        assert!(names.insert(&spec.name), "two tensors are named `{}`", spec.name);
    }
}

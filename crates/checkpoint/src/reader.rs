use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tensor::Mmap;

use crate::dtype::Dtype;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::file::MappedFile;
use crate::header::Entry;
use crate::model_dir::{self, ModelFiles};

/// The tensors of a model directory or of one file.
///
/// Opening reads and checks every header; the data are mapped and touched when a tensor is loaded.
#[derive(Debug)]
pub struct Reader {
    place: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Stored>,
    load: Load,
}

/// What [`Reader`] makes of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// f32 in memory, whatever the stored type; exact.
    F32,
    /// Matrices as they are stored, where they lie: nothing is read before it is used, and only what this machine cannot
    /// read there (an odd address, FP8 scales of another type than f32) is copied. Everything else in f32.
    AsStored,
}

/// A line of the table of contents.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// The stored type.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: &'a [usize],
    /// The file it lies in.
    pub file: &'a Path,
    /// The bytes it takes there.
    pub bytes: u64,
}

/// A tensor as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The stored type.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: &'a [usize],
    /// The elements, row-major, little-endian, possibly unaligned.
    pub bytes: &'a [u8],
}

/// Where a tensor lies.
#[derive(Debug)]
struct Stored {
    file: usize,
    entry: Entry,
}

impl Reader {
    /// Opens a model directory in Hugging Face's layout: `model.safetensors.index.json` and its shards, or
    /// `model.safetensors`, or, without either, the one `.safetensors` file there is.
    ///
    /// Rotary frequency tables (`*.rotary_emb.inv_freq`), which old files carry, are left out: they follow from the
    /// configuration.
    ///
    /// # Errors
    /// When there are no weights or more than one choice of them; when a file is missing or damaged; when index and
    /// shards contradict each other.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let mut reader = Self { place: dir.into(), files: Vec::new(), tensors: BTreeMap::new(), load: Load::F32 };
        match model_dir::find(dir)? {
            ModelFiles::Single(path) => {
                reader.add(&path, |_| Ok(()))?;
            }
            ModelFiles::Sharded { index, shards, weight_map } => {
                for shard in shards {
                    let path = dir.join(&shard);
                    if !fs_err::exists(&path)? {
                        let tensor = first_in(&weight_map, &shard);
                        return Err(Error::ShardMissing { index, shard: path, tensor });
                    }
                    // With this, a tensor that two shards hold is refused too: the index lists it in one of them.
                    reader.add(&path, |tensor| match weight_map.get(tensor) {
                        Some(listed) if *listed == shard => Ok(()),
                        _ if is_derived(tensor) => Ok(()),
                        _ => {
                            Err(Error::NotInIndex { index: index.clone(), shard: path.clone(), tensor: tensor.into() })
                        }
                    })?;
                }
                let absent = |tensor: &str| !reader.tensors.contains_key(tensor) && !is_derived(tensor);
                if let Some((tensor, shard)) = weight_map.iter().find(|(tensor, _)| absent(tensor)) {
                    return Err(Error::NotInShard { index, shard: dir.join(shard), tensor: tensor.clone() });
                }
            }
        }
        reader.tensors.retain(|name, _| !is_derived(name));
        Ok(reader)
    }

    /// Opens one file and all that is in it.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut reader = Self { place: path.into(), files: Vec::new(), tensors: BTreeMap::new(), load: Load::F32 };
        reader.add(path, |_| Ok(()))?;
        Ok(reader)
    }

    /// The same, loading weights as `load` says ([`Load::F32`] otherwise).
    #[must_use]
    pub fn with_dtype(self, load: Load) -> Self {
        Self { load, ..self }
    }

    /// The table of contents, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, Stored { file, entry })| TensorInfo {
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            file: &self.files[*file].path,
            bytes: entry.bytes.len() as u64,
        })
    }

    /// The tensor `name` as it lies in the file, whatever its type.
    ///
    /// # Errors
    /// When it is missing.
    pub fn raw(&self, name: &str) -> Result<Raw<'_>> {
        let Stored { file, entry } = self.stored(name)?;
        Ok(Raw { dtype: entry.dtype, shape: &entry.shape, bytes: self.files[*file].bytes(entry) })
    }

    /// All values of the tensor `name`, which must be of shape `dims` and of type `T`, not of one that converts to it.
    ///
    /// # Errors
    /// When it is missing or has another shape or type.
    pub fn values<T: Element>(&self, name: &str, dims: &[usize]) -> Result<Vec<T>> {
        let raw = self.raw_of_shape(name, dims)?;
        if raw.dtype != T::DTYPE {
            return Err(self.wrong_dtype(name, raw.dtype, T::DTYPE.name()));
        }
        let mut values = vec![T::default(); raw.shape.iter().product()];
        T::decode(raw.bytes, &mut values);
        Ok(values)
    }

    /// Opens `path` and enters its tensors, each of which `check` may refuse.
    fn add(&mut self, path: &Path, check: impl Fn(&str) -> Result<()>) -> Result<()> {
        let (file, entries) = MappedFile::open(path)?;
        for (name, entry) in entries {
            check(&name)?;
            self.tensors.insert(name, Stored { file: self.files.len(), entry });
        }
        self.files.push(file);
        Ok(())
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| Error::Missing {
            place: self.place.clone(),
            tensor: name.into(),
            close: self.close_names(name),
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(crate) fn load_as(&self) -> Load {
        self.load
    }

    /// The mapped file that `name` is in, and where.
    pub(crate) fn place(&self, name: &str) -> Result<(&Arc<Mmap>, &Entry)> {
        let Stored { file, entry } = self.stored(name)?;
        Ok((&self.files[*file].map, entry))
    }

    pub(crate) fn file_of(&self, name: &str) -> PathBuf {
        self.files[self.tensors[name].file].path.clone()
    }

    pub(crate) fn raw_of_shape(&self, name: &str, dims: &[usize]) -> Result<Raw<'_>> {
        let raw = self.raw(name)?;
        if raw.shape == dims { Ok(raw) } else { Err(self.wrong_shape(name, dims)) }
    }

    pub(crate) fn wrong_shape(&self, name: &str, expected: &[usize]) -> Error {
        let found = self.tensors[name].entry.shape.clone();
        Error::Shape { file: self.file_of(name), tensor: name.into(), expected: expected.into(), found }
    }

    pub(crate) fn wrong_dtype(&self, name: &str, found: Dtype, expected: &'static str) -> Error {
        Error::Dtype { file: self.file_of(name), tensor: name.into(), expected, found }
    }

    /// Up to three names that `name` may be a misspelling of.
    fn close_names(&self, name: &str) -> Vec<String> {
        let mut close: Vec<_> = self
            .tensors
            .keys()
            .map(|known| (strsim::levenshtein(name, known), known))
            .filter(|(distance, _)| *distance <= name.len() / 4)
            .collect();
        close.sort();
        close.into_iter().take(3).map(|(_, known)| known.clone()).collect()
    }
}

/// The first tensor that `weight_map` places in `shard`.
fn first_in(weight_map: &BTreeMap<String, String>, shard: &str) -> String {
    weight_map.iter().find(|(_, s)| *s == shard).map(|(tensor, _)| tensor.clone()).expect("shards come from the map")
}

/// Whether a tensor follows from the configuration and is left out (`spec` 6.1).
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

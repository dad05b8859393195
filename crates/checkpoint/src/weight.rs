//! Weights: a tensor together with the scales that its numbers are to be multiplied by.

use std::sync::Arc;

use half::bf16;
use tensor::{Codes, Matrix, Mmap, Slab, Storage, Tensor, TensorSource};

use crate::decode;
use crate::dtype::Dtype;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::header::Entry;
use crate::reader::{Load, Raw, Reader};

/// A line of the table of weights.
#[derive(Clone, Copy, Debug)]
pub struct WeightInfo<'a> {
    /// The weight's name.
    pub name: &'a str,
    /// How it is stored.
    pub format: Format,
    /// The shape of its numbers as they are stored: of 4-bit integers, the bytes of a row.
    pub shape: &'a [usize],
    /// The bytes it takes, those of its scales included.
    pub bytes: u64,
}

impl Reader {
    /// Every weight, sorted by name, scales counted with the weight that they belong to.
    ///
    /// # Errors
    /// When a tensor is of a type that no weight has, scales are missing, of another format than their weight, or there
    /// without one.
    pub fn weights(&self) -> impl Iterator<Item = Result<WeightInfo<'_>>> {
        self.tensors().filter_map(|tensor| {
            if let Some((_, weight)) = Format::of_scale(tensor.name) {
                let orphan = || Error::OrphanScale {
                    file: tensor.file.into(),
                    scale: tensor.name.into(),
                    weight: weight.into(),
                };
                return (!self.contains(weight)).then(|| Err(orphan()));
            }
            Some(self.format(tensor.name).and_then(|format| {
                let scales = match format.scale_suffix() {
                    Some(suffix) => self.raw(&format!("{}{suffix}", tensor.name))?.bytes.len(),
                    None => 0,
                };
                let bytes = tensor.bytes + scales as u64;
                Ok(WeightInfo { name: tensor.name, format, shape: tensor.shape, bytes })
            }))
        })
    }

    /// How the weight `name` is stored.
    ///
    /// # Errors
    /// When it is missing, its type is none that a weight has, or its scales are not there or not its own.
    pub fn format(&self, name: &str) -> Result<Format> {
        let dtype = self.raw(name)?.dtype;
        let scales: Vec<(Format, String)> = Format::SCALED
            .into_iter()
            .filter_map(|format| Some((format, format!("{name}{}", format.scale_suffix()?))))
            .filter(|(_, scale)| self.contains(scale))
            .collect();
        let file = self.file_of(name);
        match (dtype, &scales[..]) {
            (Dtype::F32, []) => Ok(Format::F32),
            (Dtype::Bf16, []) => Ok(Format::Bf16),
            (Dtype::F16, []) => Ok(Format::F16),
            (Dtype::F8E4M3, []) => {
                Err(Error::MissingScale { file, tensor: name.into(), scale: format!("{name}_scale_inv") })
            }
            (_, []) => {
                let expected = "F32, BF16, F16, F8_E4M3 with block scales, or U8 with group scales";
                Err(self.wrong_dtype(name, dtype, expected))
            }
            (dtype, [(format, scale)]) if dtype != format.dtype() => {
                let (tensor, scale) = (name.into(), scale.clone());
                Err(Error::StrayScale { file, tensor, found: dtype, scale, expected: format.dtype() })
            }
            (_, [(format, _)]) => Ok(*format),
            (_, [(_, one), (_, other), ..]) => {
                Err(Error::TwoScales { file, tensor: name.into(), scales: [one.clone(), other.clone()] })
            }
        }
    }

    /// As [`TensorSource::load`] with nothing read: whether the weight `name` has the shape `dims` and scales that fit.
    ///
    /// # Errors
    /// Those of loading.
    pub fn check(&self, name: &str, dims: &[usize]) -> Result<Format> {
        let format = self.format(name)?;
        match format.scale_suffix() {
            Some(suffix) => drop(self.scaled(name, dims, format, suffix)?),
            None => self.raw_of_shape(name, dims).map(|_| ())?,
        }
        Ok(format)
    }

    /// The scaled numbers of the matrix `name`, where they lie.
    fn scaled(&self, name: &str, dims: &[usize], format: Format, suffix: &str) -> Result<Matrix> {
        let raw = self.raw(name)?;
        if raw.shape.len() != 2 {
            let (file, tensor, found) = (self.file_of(name), name.into(), raw.shape.into());
            return Err(Error::NotAMatrix { file, tensor, dtype: raw.dtype, found });
        }
        let &[rows, cols] = dims else { return Err(self.wrong_shape(name, dims)) };
        let raw = self.raw_of_shape(name, &format.stored_shape(rows, cols))?;
        let scale = format!("{name}{suffix}");
        let scales = self.raw_of_shape(&scale, &format.scale_shape(rows, cols))?;
        let codes = self.slab::<u8>(name, raw)?;
        let codes = match format {
            Format::Int8 => Codes::Int8 { codes, scales: self.group_scales(&scale, scales)? },
            Format::Int4 => Codes::Int4 { codes, scales: self.group_scales(&scale, scales)? },
            _ => Codes::Fp8 { codes, scales: self.block_scales(&scale, scales)? },
        };
        Ok(Matrix::new(rows, cols, codes))
    }

    /// The scales of blocks, which may lie in another file than their weight. The stored value is used as it is, never
    /// rounded to a power of two (`spec` 6.8).
    fn block_scales(&self, name: &str, raw: Raw<'_>) -> Result<Slab<f32>> {
        let mut scales = vec![0.0; raw.shape.iter().product()];
        match raw.dtype {
            Dtype::F32 => return self.slab(name, raw),
            Dtype::Bf16 => decode::to_f32(raw.dtype, raw.bytes, &mut scales),
            Dtype::F8E8M0 | Dtype::U8 => {
                for (scale, &byte) in scales.iter_mut().zip(raw.bytes) {
                    *scale = decode::e8m0(byte);
                }
            }
            dtype => return Err(self.wrong_dtype(name, dtype, "F32, BF16, F8_E8M0 or U8 for block scales")),
        }
        Ok(Slab::from_vec(scales))
    }

    fn group_scales(&self, name: &str, raw: Raw<'_>) -> Result<Slab<bf16>> {
        if raw.dtype != Dtype::Bf16 {
            return Err(self.wrong_dtype(name, raw.dtype, "BF16 for group scales"));
        }
        self.slab(name, raw)
    }

    /// The numbers of `name` where they lie, or, where this machine cannot read them there, a copy.
    fn slab<T: Element + bytemuck::Pod>(&self, name: &str, raw: Raw<'_>) -> Result<Slab<T>> {
        let (map, entry): (&Arc<Mmap>, &Entry) = self.place(name)?;
        Ok(Slab::mapped(map, entry.bytes.clone()).unwrap_or_else(|| {
            let mut values = vec![T::default(); raw.bytes.len() / size_of::<T>()];
            T::decode(raw.bytes, &mut values);
            Slab::from_vec(values)
        }))
    }
}

impl TensorSource for Reader {
    type Error = Error;

    fn contains(&self, name: &str) -> bool {
        self.has(name)
    }

    fn load(&self, name: &str, dims: &[usize]) -> Result<Storage> {
        let format = self.format(name)?;
        if let Some(suffix) = format.scale_suffix() {
            let weight = Storage::matrix(self.scaled(name, dims, format, suffix)?);
            return Ok(match self.load_as() {
                Load::AsStored => weight,
                Load::F32 => Storage::F32(Tensor::from_vec(weight.to_f32(), dims)),
            });
        }
        let raw = self.raw_of_shape(name, dims)?;
        if let (Load::AsStored, &[rows, cols]) = (self.load_as(), dims) {
            let codes = match format {
                Format::F32 => Some(Codes::F32(self.slab(name, raw)?)),
                Format::Bf16 => Some(Codes::Bf16(self.slab(name, raw)?)),
                // No kernel reads F16.
                _ => None,
            };
            if let Some(codes) = codes {
                return Ok(Storage::matrix(Matrix::new(rows, cols, codes)));
            }
        }
        let mut values = vec![0.0; dims.iter().product()];
        decode::to_f32(raw.dtype, raw.bytes, &mut values);
        Ok(Storage::F32(Tensor::from_vec(values, dims)))
    }
}

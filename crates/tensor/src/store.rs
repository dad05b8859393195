use half::bf16;

use crate::storage::Storage;

/// Tensors by name: what a model is loaded from. `checkpoint` implements it over files; a model knows only this.
pub trait TensorSource {
    /// Why a tensor cannot be had: it names the tensor, what was expected and what was found.
    type Error;

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;

    /// The tensor `name`, which must have exactly the shape `dims`. What has one dimension comes in f32; a matrix may come
    /// as it is stored, and is then one matrix.
    ///
    /// # Errors
    /// When it is missing, has another shape, or cannot be read.
    fn load(&self, name: &str, dims: &[usize]) -> Result<Storage, Self::Error>;
}

/// A tensor on its way into a file.
#[derive(Clone, Debug)]
pub struct NamedTensor<'a> {
    /// Its name in the checkpoint, Hugging Face's spelling.
    pub name: String,
    /// Its shape in the checkpoint.
    pub dims: Vec<usize>,
    /// Its values, row-major.
    pub data: Slice<'a>,
    /// Stored as f32 even when the rest of the checkpoint is narrower (the routing bias, `spec` 6.2).
    pub keep_f32: bool,
}

/// Borrowed values.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// f32 values.
    F32(&'a [f32]),
    /// bf16 values.
    Bf16(&'a [bf16]),
}

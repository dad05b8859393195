use std::fmt;
use std::sync::Arc;

use crate::pool::Buffer;

/// An f32 tensor in row-major order.
///
/// A clone shares the buffer: it is free, and what is shared is no longer written (`data_mut` panics). That lets a
/// layer hand its activations to a sink that keeps them for later without copying.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    dims: Dims,
}

/// Up to four dimensions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    sizes: [usize; 4],
    rank: usize,
}

impl Tensor {
    /// Takes over `data`.
    ///
    /// # Panics
    /// When the length does not fit the dimensions.
    pub fn from_vec(data: Vec<f32>, dims: impl Into<Dims>) -> Self {
        Self::from_buffer(Buffer::Owned(data), dims.into())
    }

    pub(crate) fn from_buffer(buffer: Buffer, dims: Dims) -> Self {
        assert_eq!(buffer.as_slice().len(), dims.len(), "a buffer does not fit dims {dims:?}");
        Self { buffer: Arc::new(buffer), dims }
    }

    /// The sizes of a tensor of rank `N`.
    ///
    /// # Panics
    /// When the rank is another: that is a bug of ours.
    #[track_caller]
    pub fn dims<const N: usize>(&self) -> [usize; N] {
        self.dims.array()
    }

    /// The shape, of any rank.
    pub fn shape(&self) -> Dims {
        self.dims
    }

    /// All elements, row-major.
    pub fn data(&self) -> &[f32] {
        self.buffer.as_slice()
    }

    /// All elements, for writing.
    ///
    /// # Panics
    /// When the buffer is shared with another tensor: that is a bug of ours.
    #[track_caller]
    pub fn data_mut(&mut self) -> &mut [f32] {
        Arc::get_mut(&mut self.buffer).expect("a shared tensor is never written").as_mut_slice()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.dims.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `i` of a tensor seen as `[.., last]`.
    pub fn row(&self, i: usize) -> &[f32] {
        let width = self.dims.last();
        &self.data()[i * width..(i + 1) * width]
    }

    /// The same elements under another shape.
    #[must_use]
    pub fn reshape(self, dims: impl Into<Dims>) -> Self {
        let dims = dims.into();
        assert_eq!(self.dims.len(), dims.len(), "cannot reshape {:?} to {dims:?}", self.dims);
        Self { dims, ..self }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?}", self.dims)
    }
}

impl Dims {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.as_slice().iter().product()
    }

    /// Whether some dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size of the last dimension.
    pub fn last(&self) -> usize {
        self.sizes[self.rank - 1]
    }

    /// The sizes.
    pub fn as_slice(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }

    /// The sizes, when there are `N`.
    ///
    /// # Panics
    /// When there are not: that is a bug of ours.
    #[track_caller]
    pub fn array<const N: usize>(&self) -> [usize; N] {
        self.as_slice().try_into().unwrap_or_else(|_| panic!("expected {N} dimensions, found {self:?}"))
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_slice(), f)
    }
}

impl<const N: usize> From<[usize; N]> for Dims {
    fn from(sizes: [usize; N]) -> Self {
        Self::from(&sizes[..])
    }
}

impl From<&[usize]> for Dims {
    fn from(sizes: &[usize]) -> Self {
        assert!((1..=4).contains(&sizes.len()), "a tensor has one to four dimensions, not {}", sizes.len());
        let mut padded = [1; 4];
        padded[..sizes.len()].copy_from_slice(sizes);
        Self { sizes: padded, rank: sizes.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "never written")]
    fn a_shared_tensor_is_not_written() {
        let mut t = Tensor::from_vec(vec![1.0; 4], [2, 2]);
        let _other = t.clone();
        t.data_mut()[0] = 2.0;
    }
}

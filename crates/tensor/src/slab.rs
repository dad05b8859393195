use std::ops::{Deref, Range};
use std::sync::Arc;
use std::{fmt, io};

use bytemuck::Pod;

use crate::Mmap;

/// Numbers that are read where they lie: in memory of their own, or in a mapped file. A clone shares them.
#[derive(Clone)]
pub struct Slab<T>(Place<T>);

#[derive(Clone)]
enum Place<T> {
    Memory(Arc<Vec<T>>),
    /// The bytes are a whole number of `T`, aligned for it.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl<T: Pod> Slab<T> {
    /// Takes over `values`.
    pub fn from_vec(values: Vec<T>) -> Self {
        Self(Place::Memory(Arc::new(values)))
    }

    /// The numbers at `bytes` of a mapped file, which are little-endian. `None` if they do not lie as this machine reads
    /// them: at an odd address, or on a big-endian machine.
    ///
    /// # Panics
    /// When the range is not inside the file.
    pub fn mapped(file: &Arc<Mmap>, bytes: Range<usize>) -> Option<Self> {
        let readable = cfg!(target_endian = "little") || size_of::<T>() == 1;
        let fits = bytemuck::try_cast_slice::<u8, T>(&file[bytes.clone()]).is_ok();
        (readable && fits).then(|| Self(Place::Mapped(Arc::clone(file), bytes)))
    }

    /// The same numbers in memory of their own, read from the file if that is where they lie.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> io::Result<Self> {
        match &self.0 {
            Place::Memory(_) => Ok(self.clone()),
            Place::Mapped(file, bytes) => {
                let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
                file.read(bytes.start, bytemuck::cast_slice_mut(&mut values))?;
                Ok(Self::from_vec(values))
            }
        }
    }

    /// Whether another clone is in use.
    pub fn is_shared(&self) -> bool {
        match &self.0 {
            Place::Memory(values) => Arc::strong_count(values) > 1,
            Place::Mapped(file, _) => Arc::strong_count(file) > 1,
        }
    }

    /// Whether the numbers lie in a file: reading them may have to wait for a disk, and takes no memory of ours.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Place::Mapped(..))
    }
}

impl<T: Pod> Deref for Slab<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Memory(values) => values,
            Place::Mapped(file, bytes) => bytemuck::cast_slice(&file[bytes.clone()]),
        }
    }
}

impl<T: Pod> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab[{}]", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_place_where_its_numbers_are_aligned() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[0, 0, 128, 63, 0, 0, 0, 64, 0]).unwrap();
        let map = Arc::new(Mmap::map(&file).unwrap());
        assert_eq!(&*Slab::<f32>::mapped(&map, 0..8).unwrap(), [1.0, 2.0]);
        assert!(Slab::<f32>::mapped(&map, 1..9).is_none(), "not aligned");
        assert!(Slab::<f32>::mapped(&map, 0..7).is_none(), "not whole numbers");
        assert_eq!(&*Slab::<u8>::mapped(&map, 7..9).unwrap(), [64, 0]);
        assert!(Slab::<f32>::mapped(&map, 8..8).unwrap().is_empty());
    }
}

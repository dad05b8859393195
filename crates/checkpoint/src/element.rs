use tensor::{Slice, bf16};

use crate::dtype::Dtype;

/// A Rust type with a stored form: little-endian, as the format demands, whatever the machine.
pub trait Element: Copy + Default + private::Sealed {
    /// The stored type.
    const DTYPE: Dtype;

    /// Decodes all of `bytes`, which may be unaligned.
    ///
    /// # Panics
    /// When `bytes` is not `out.len()` elements long.
    fn decode(bytes: &[u8], out: &mut [Self]);

    /// Appends the bytes of `values` to `out`.
    fn encode(values: &[Self], out: &mut Vec<u8>);
}

mod private {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl private::Sealed for $rust {}

        impl Element for $rust {
            const DTYPE: Dtype = Dtype::$dtype;

            fn decode(bytes: &[u8], out: &mut [Self]) {
                let (elements, rest) = bytes.as_chunks();
                assert!(rest.is_empty() && elements.len() == out.len(), "{} bytes for {} elements", bytes.len(), out.len());
                for (x, bytes) in out.iter_mut().zip(elements) {
                    *x = Self::from_le_bytes(*bytes);
                }
            }

            fn encode(values: &[Self], out: &mut Vec<u8>) {
                out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    )*};
}

elements!(f32 => F32, bf16 => Bf16, i32 => I32, i64 => I64, u64 => U64, u8 => U8);

/// Borrowed values of any type that can be written.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// f32 values.
    F32(&'a [f32]),
    /// bf16 values.
    Bf16(&'a [bf16]),
    /// i32 values.
    I32(&'a [i32]),
    /// i64 values.
    I64(&'a [i64]),
    /// u64 values.
    U64(&'a [u64]),
    /// Bytes.
    U8(&'a [u8]),
}

impl Values<'_> {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::Bf16(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::U8(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stored type.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::I32(_) => Dtype::I32,
            Self::I64(_) => Dtype::I64,
            Self::U64(_) => Dtype::U64,
            Self::U8(_) => Dtype::U8,
        }
    }
}

impl<'a> From<Slice<'a>> for Values<'a> {
    fn from(slice: Slice<'a>) -> Self {
        match slice {
            Slice::F32(v) => Self::F32(v),
            Slice::Bf16(v) => Self::Bf16(v),
        }
    }
}

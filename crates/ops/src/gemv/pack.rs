//! Rows of x as the kernels read them: rounded to bf16, in the order in which decoding leaves the weights.

use tensor::CodesRef;

use crate::simd::{LANES, simd};

/// Columns that are summed from zero before they are scaled and added up.
pub(super) const CHUNK: usize = 128;

/// Vectors of a chunk.
pub(super) const VECTORS: usize = CHUNK / (2 * LANES);

/// Sixteen pairs of bf16: a vector, and a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line(pub(super) [u32; LANES]);

/// Lines of a row, packed or decoded.
pub(super) fn row_lines(cols: usize) -> usize {
    cols.div_ceil(CHUNK) * VECTORS
}

/// Which columns of a chunk meet in which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As they come.
    Natural,
    /// As interleaving two vectors of bytes leaves them: eight columns to a quarter of a vector.
    Bytes,
    /// As shifting words of four nibbles leaves them.
    Nibbles,
}

impl Layout {
    pub(super) fn of(codes: &CodesRef<'_>) -> Self {
        match codes {
            CodesRef::F32(_) | CodesRef::Bf16(_) => Self::Natural,
            CodesRef::Fp8 { .. } | CodesRef::Int8 { .. } => Self::Bytes,
            CodesRef::Int4 { .. } => Self::Nibbles,
        }
    }

    /// The layout that `as u8` made this number of: const generics take numbers only.
    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Natural,
            1 => Self::Bytes,
            _ => Self::Nibbles,
        }
    }

    /// The columns, of the 128 of a chunk, in the lower and the upper half of lane `lane` of vector `vector`.
    #[inline(always)]
    pub(super) const fn columns(self, vector: usize, lane: usize) -> [usize; 2] {
        match self {
            Self::Natural => {
                let first = 32 * vector + 2 * lane;
                [first, first + 1]
            }
            Self::Bytes => {
                let first = 64 * (vector / 2) + 8 * (vector % 2) + 16 * (lane / 4) + 2 * (lane % 4);
                [first, first + 1]
            }
            Self::Nibbles => {
                let first = 64 * (vector / 2) + vector % 2 + 4 * lane;
                [first, first + 2]
            }
        }
    }
}

/// The upper half of the nearest f32 that is a bf16, ties to even. Numbers below the normal ones become 0, as they do in
/// the processor's products of bf16.
#[inline(always)]
pub(super) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    let nearest = if x.is_nan() { bits | 0x0040_0000 } else { nearest };
    let nearest = if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { nearest };
    (nearest >> 16) as u16
}

simd! {
    /// Packs one row as row `m` of a group of `group` rows: chunk `c` of it is lines
    /// `(c · group + m) · VECTORS..` of `out`. What is behind the last column is 0.
    pub(super) fn pack_row(x: &[f32], layout: Layout, group: usize, m: usize, out: &mut [Line]) {
        for (c, x) in x.chunks(CHUNK).enumerate() {
            let mut columns = [0; CHUNK];
            for (column, x) in columns.iter_mut().zip(x) {
                *column = round(*x);
            }
            let lines = &mut out[(c * group + m) * VECTORS..][..VECTORS];
            match layout {
                Layout::Natural => arrange::<{ Layout::Natural as u8 }>(&columns, lines),
                Layout::Bytes => arrange::<{ Layout::Bytes as u8 }>(&columns, lines),
                Layout::Nibbles => arrange::<{ Layout::Nibbles as u8 }>(&columns, lines),
            }
        }
    }
}

/// One loop for each layout, so that its positions are constants.
#[inline(always)]
fn arrange<const LAYOUT: u8>(columns: &[u16; CHUNK], lines: &mut [Line]) {
    let layout = const { Layout::from_number(LAYOUT) };
    for (vector, line) in lines.iter_mut().enumerate() {
        for (lane, pair) in line.0.iter_mut().enumerate() {
            let [low, high] = layout.columns(vector, lane).map(|i| u32::from(columns[i]));
            *pair = low | high << 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use tensor::bf16;

    use super::*;

    #[test]
    fn every_column_has_one_place() {
        for layout in [Layout::Natural, Layout::Bytes, Layout::Nibbles] {
            let mut places: Vec<usize> = (0..CHUNK / 2).flat_map(|i| layout.columns(i / LANES, i % LANES)).collect();
            // The scales of integers hold for 32 columns, which must be half a vector.
            if layout != Layout::Natural {
                for (i, column) in places.iter().enumerate() {
                    assert_eq!(column / 32, i / 64 * 2 + (i / 2 % LANES) / 8, "{layout:?}");
                }
            }
            places.sort_unstable();
            assert!(places.into_iter().eq(0..CHUNK), "{layout:?}");
        }
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for x in [0.0, -0.0, 1.0, 1.003_906_2, 1.011_718_8, -2.717_3, 1e30, f32::INFINITY, f32::MAX, 1.2e-38] {
            assert_eq!(round(x), bf16::from_f32(x).to_bits(), "{x}");
        }
        assert!(bf16::from_bits(round(f32::NAN)).is_nan());
        assert!(bf16::from_bits(round(f32::from_bits(0x7F80_0001))).is_nan());
        assert_eq!([round(1e-39), round(-1e-39)], [0, 0x8000]);
    }
}

#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{BLOCK, Codes, Ctx, GROUP, Slab, bf16, int4_row_bytes};

/// `w [rows, cols]` in 8 bits, with a scale for each [`GROUP`] columns of a row. A group with a number that is not finite
/// is NaN altogether.
pub fn int8(ctx: &Ctx, w: &[f32], rows: usize, cols: usize) -> Codes {
    let (codes, scales) = by_rows(ctx, w, rows, cols, cols, |w, codes, scales| cpu::int8(ctx.isa, w, codes, scales));
    Codes::Int8 { codes, scales }
}

/// `w [rows, cols]` in 4 bits, with a scale for each [`GROUP`] columns of a row: of some scales that of the least squared
/// error. A group with a number that is not finite is NaN altogether.
pub fn int4(ctx: &Ctx, w: &[f32], rows: usize, cols: usize) -> Codes {
    let width = int4_row_bytes(cols);
    let (codes, scales) = by_rows(ctx, w, rows, cols, width, |w, codes, scales| cpu::int4(ctx.isa, w, codes, scales));
    Codes::Int4 { codes, scales }
}

/// `w [rows, cols]` in E4M3, with a scale for each block of [`BLOCK`] rows and columns, the largest magnitude of the block
/// becoming 448 (`spec/model.md` 6.5 and 6.6). A block with a number that is not finite is NaN altogether.
pub fn fp8(ctx: &Ctx, w: &[f32], rows: usize, cols: usize) -> Codes {
    check(w, rows, cols);
    let width = cols.div_ceil(BLOCK);
    let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows.div_ceil(BLOCK) * width]);
    if !w.is_empty() {
        let blocks = codes.chunks_mut(BLOCK * cols).zip(scales.chunks_mut(width)).zip(w.chunks(BLOCK * cols));
        ctx.for_each_chunk(&mut blocks.collect::<Vec<_>>(), 1, |_, blocks| {
            for ((codes, scales), w) in blocks {
                cpu::fp8(ctx.isa, w, cols, codes, scales);
            }
        });
    }
    Codes::Fp8 { codes: Slab::from_vec(codes), scales: Slab::from_vec(scales) }
}

/// Rows of a task.
const ROWS: usize = 16;

/// Codes of `width` bytes a row, and the scales of their groups, row by row.
fn by_rows(
    ctx: &Ctx,
    w: &[f32],
    rows: usize,
    cols: usize,
    width: usize,
    row: impl Fn(&[f32], &mut [u8], &mut [bf16]) + Sync,
) -> (Slab<u8>, Slab<bf16>) {
    check(w, rows, cols);
    let groups = cols.div_ceil(GROUP);
    let (mut codes, mut scales) = (vec![0; rows * width], vec![bf16::ZERO; rows * groups]);
    if !w.is_empty() {
        let of_rows = codes.chunks_mut(width).zip(scales.chunks_mut(groups)).zip(w.chunks(cols));
        ctx.for_each_chunk(&mut of_rows.collect::<Vec<_>>(), ROWS, |_, rows| {
            for ((codes, scales), w) in rows {
                row(w, codes, scales);
            }
        });
    }
    (Slab::from_vec(codes), Slab::from_vec(scales))
}

fn check(w: &[f32], rows: usize, cols: usize) {
    assert_eq!(w.len(), rows * cols, "quantise: {} numbers are no matrix of {rows} × {cols}", w.len());
}

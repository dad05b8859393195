//! The blocked product: which tile is computed when, and by which thread.
//!
//! ```text
//! tasks = row blocks × column blocks of C                        (shared out among threads)
//! per task:
//!   for each KC block of the inner dimension, in order:
//!     pack the task's rows of A            [rows × KC]           stays in the level-2 cache
//!     for each strip of NR columns:
//!       pack the strip of B                [KC × NR]             stays in the level-1 cache
//!       for each strip of MR rows: micro-kernel
//! ```

use std::cell::RefCell;

use tensor::{Ctx, Isa};

use super::kernel::{Kernel, MAX_TILE};
use super::pack::{View, pack};

/// Steps of the inner dimension per block: a B strip of 32 columns is then 32 KiB, an A strip of 14 rows 14 KiB.
const KC: usize = 256;
/// Rows of A packed at once: 512 KiB at `KC`.
const MC: usize = 36 * 14;
/// The least columns for which it pays to pack A once more for another thread.
const MIN_COLUMNS: usize = 64;

/// One product of a batch: `c[m, n] (+)= a[m, k] · b[k, n]`.
pub(crate) struct Product<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: View<'a>,
    pub(crate) b: View<'a>,
    pub(crate) c: Output,
}

/// Where a product goes: row-major with rows `ldc` apart.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    /// Add to what is there instead of replacing it.
    pub(crate) accumulate: bool,
}

// SAFETY: a pointer on its own is inert; whoever dereferences it (`multiply`) states why no two threads meet.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// Computes all products, on all threads.
///
/// # Safety
/// Every output must be valid for reads and writes of its `m × n` elements at `i * ldc + j`, and no two outputs may
/// share an element.
pub(crate) unsafe fn run(ctx: &Ctx, products: &[Product<'_>]) {
    let blocks: Vec<Block> = products.iter().enumerate().flat_map(|(i, p)| cut(i, p, ctx.threads())).collect();
    ctx.for_each(blocks.len(), |i| {
        let Block { product, row, rows, column, columns } = blocks[i];
        let p = &products[product];
        // SAFETY: the block lies inside its product's output, and blocks of a product are disjoint.
        unsafe {
            multiply(ctx.isa, rows, columns, p.k, p.a.at(row, 0), p.b.at(0, column), p.c.at(row, column));
        }
    });
}

impl Output {
    fn at(self, i: usize, j: usize) -> Self {
        Self { c: self.c.wrapping_add(i * self.ldc + j), ..self }
    }
}

/// A part of one product's output.
#[derive(Clone, Copy)]
struct Block {
    product: usize,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// Cuts a product into blocks of at most `MC` rows and, if those do not keep the threads busy, into column blocks.
/// The cut decides who computes an element, never how.
fn cut(product: usize, p: &Product<'_>, threads: usize) -> Vec<Block> {
    let row_blocks = p.m.div_ceil(MC);
    let rows_each = p.m.div_ceil(row_blocks.max(1)).next_multiple_of(14);
    let wanted = if threads == 1 { 1 } else { (4 * threads).div_ceil(row_blocks.max(1)) };
    let columns_each = p.n.div_ceil(wanted).max(MIN_COLUMNS).next_multiple_of(32);
    let mut blocks = Vec::new();
    for row in (0..p.m).step_by(rows_each.max(1)) {
        for column in (0..p.n).step_by(columns_each) {
            let rows = rows_each.min(p.m - row);
            let columns = columns_each.min(p.n - column);
            blocks.push(Block { product, row, rows, column, columns });
        }
    }
    blocks
}

thread_local! {
    /// The packed operands of the product that this thread works on.
    static STRIPS: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// One product on the calling thread: `m ≤ MC` keeps the packed rows in cache, more is correct all the same.
///
/// # Safety
/// The output must be valid for reads and writes of `m × n` elements, which nothing else accesses meanwhile.
pub(crate) unsafe fn multiply(isa: Isa, m: usize, n: usize, k: usize, a: View<'_>, b: View<'_>, c: Output) {
    let kernel = Kernel::new(isa);
    let Kernel { mr, nr, .. } = kernel;
    STRIPS.with_borrow_mut(|(a_strips, b_strip)| {
        a_strips.resize(m.next_multiple_of(mr) * KC.min(k), 0.0);
        b_strip.resize(nr * KC.min(k), 0.0);
        // An empty inner dimension still has to write zeros, hence at least one block.
        for block in 0..k.div_ceil(KC).max(1) {
            let start = block * KC;
            let depth = KC.min(k - start);
            let accumulate = c.accumulate || block > 0;
            let a_strips = &mut a_strips[..m.next_multiple_of(mr) * depth];
            let b_strip = &mut b_strip[..nr * depth];
            for (i, strip) in (0..m).step_by(mr).zip(a_strips.chunks_mut((mr * depth).max(1))) {
                pack(isa, a.at(i, start), mr.min(m - i), depth, mr, strip);
            }
            for j in (0..n).step_by(nr) {
                let columns = nr.min(n - j);
                pack(isa, b.at(start, j).transposed(), columns, depth, nr, b_strip);
                for i in (0..m).step_by(mr) {
                    let rows = mr.min(m - i);
                    let a_strip = &a_strips[i * depth..(i + mr) * depth];
                    // SAFETY: the tile (its valid part) lies inside the caller's output.
                    unsafe { tile(&kernel, depth, a_strip, b_strip, c.at(i, j), rows, columns, accumulate) };
                }
            }
        }
    });
}

/// One tile, by way of a buffer when it overhangs the edge of C.
///
/// # Safety
/// The output must be valid for reads and writes of `rows × columns` elements, which nothing else accesses meanwhile.
#[inline]
unsafe fn tile(
    kernel: &Kernel,
    k: usize,
    a: &[f32],
    b: &[f32],
    c: Output,
    rows: usize,
    columns: usize,
    accumulate: bool,
) {
    let Kernel { mr, nr, .. } = *kernel;
    if rows == mr && columns == nr {
        // SAFETY: the whole tile lies inside the output.
        return unsafe { kernel.run(k, a, b, c.c, c.ldc, accumulate) };
    }
    let mut edge = [0.0; MAX_TILE];
    if accumulate {
        for i in 0..rows {
            for j in 0..columns {
                // SAFETY: i < rows and j < columns.
                edge[i * nr + j] = unsafe { *c.c.add(i * c.ldc + j) };
            }
        }
    }
    // SAFETY: `edge` holds mr rows of nr.
    unsafe { kernel.run(k, a, b, edge.as_mut_ptr(), nr, accumulate) };
    for i in 0..rows {
        for j in 0..columns {
            // SAFETY: i < rows and j < columns.
            unsafe { *c.c.add(i * c.ldc + j) = edge[i * nr + j] };
        }
    }
}

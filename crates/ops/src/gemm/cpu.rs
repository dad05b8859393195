//! The blocked product: which tile is computed when, and by which thread.
//!
//! ```text
//! tasks = row blocks × column blocks of C                        (shared out among threads)
//! per task:
//!   for each KC block of the inner dimension, in order:        the rows of A stay in the level-2 cache
//!     for each strip of NR columns:
//!       pack the strip of B                [KC × NR]             stays in the level-1 cache
//!       for each MR rows of A, where they lie: micro-kernel
//! ```

use std::cell::RefCell;

use tensor::{Ctx, Isa};

use super::kernel::{Kernel, MAX_TILE, Rows, Tile};
use super::pack::{Values, View, pack};

/// Steps of the inner dimension per block: a B strip of 32 columns is then 32 KiB, and 14 rows of A are 14 KiB.
const KC: usize = 256;
/// Rows of A that a task walks again for each strip of B: 518 KiB at `KC`.
const MC: usize = 37 * 14;
/// The least columns for which it pays that another thread reads the same rows of A.
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
    /// A strip of B, and the last rows of A where fewer are left than a tile has.
    static STRIPS: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// One product on the calling thread.
///
/// # Safety
/// The output must be valid for reads and writes of `m × n` elements, which nothing else accesses meanwhile.
pub(crate) unsafe fn multiply(isa: Isa, m: usize, n: usize, k: usize, a: View<'_>, b: View<'_>, c: Output) {
    let kernel = Kernel::new(isa);
    let Kernel { mr, nr, .. } = kernel;
    let Values::F32(a_data) = a.data else { panic!("gemm: the left operand is f32") };
    STRIPS.with_borrow_mut(|(b_strip, a_edge)| {
        b_strip.resize(nr * KC.min(k), 0.0);
        a_edge.resize(mr * KC.min(k), 0.0);
        let whole = m - m % mr;
        // An empty inner dimension still has to write zeros, hence at least one block.
        for block in 0..k.div_ceil(KC).max(1) {
            let start = block * KC;
            let depth = KC.min(k - start);
            let accumulate = c.accumulate || block > 0;
            let (b_strip, a_edge) = (&mut b_strip[..nr * depth], &mut a_edge[..mr * depth]);
            if whole < m {
                pack(isa, a.at(whole, start), m - whole, depth, mr, a_edge);
            }
            for j in (0..n).step_by(nr) {
                let columns = nr.min(n - j);
                pack(isa, b.at(start, j).transposed(), columns, depth, nr, b_strip);
                for i in (0..m).step_by(mr) {
                    let rows = if i < whole {
                        let data = &a_data[a.at(i, start).offset.min(a_data.len())..];
                        Rows { data, row_stride: a.row_stride, col_stride: a.col_stride }
                    } else {
                        Rows { data: a_edge, row_stride: 1, col_stride: mr }
                    };
                    // SAFETY: the tile (its valid part) lies inside the caller's output.
                    unsafe { tile(&kernel, depth, rows, b_strip, c.at(i, j), mr.min(m - i), columns, accumulate) };
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
    a: Rows<'_>,
    b: &[f32],
    c: Output,
    rows: usize,
    columns: usize,
    accumulate: bool,
) {
    let Kernel { mr, nr, .. } = *kernel;
    if rows == mr && columns == nr {
        // SAFETY: the whole tile lies inside the output.
        return unsafe { kernel.run(k, a, b, Tile { c: c.c, ldc: c.ldc, accumulate }) };
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
    unsafe { kernel.run(k, a, b, Tile { c: edge.as_mut_ptr(), ldc: nr, accumulate }) };
    for i in 0..rows {
        for j in 0..columns {
            // SAFETY: i < rows and j < columns.
            unsafe { *c.c.add(i * c.ldc + j) = edge[i * nr + j] };
        }
    }
}

//! The blocked product: which tile is computed when, and by which thread.
//!
//! ```text
//! pack all of A, in panels of MR rows                                 (shared out among threads)
//! tasks = groups of columns of C, cut into row blocks where threads are many             (likewise)
//! per task:
//!   for each KC steps of the inner dimension, in order:
//!     pack the group of B, in strips of NR columns    [KC × 128]      stays in the level-2 cache
//!     for each panel of A:                            [MR × KC]       fetched while the one before is used
//!       for each strip: micro-kernel, which also fetches what the next group is packed from
//! ```
//!
//! So both operands are packed once, and whatever comes from beyond the level-2 cache has been asked for long before it is
//! needed, front to back. Without that a core waits for a third of the time, and it is what the order of the loops is for.
//!
//! Between blocks of the inner dimension the sums wait in a buffer in which tiles follow one another: rows of C may be
//! pages apart, and fetching them costs a tenth of the time. C itself is written once.

use std::cell::RefCell;
use std::ops::Range;

use tensor::{Ctx, Isa, Tensor};

use super::kernel::{Ahead, Call, Kernel};
use super::pack::{Cut, Form, View, pack, pack_scales};
use super::plan::{Plan, Task, tasks};
use crate::Precision;

/// Least and most tiles that are packed at once: where A is transposed, a stored row of as many tiles is read in a piece.
const PACK_TILES: [usize; 2] = [4, 32];

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
pub(crate) unsafe fn run(ctx: &Ctx, products: &[Product<'_>], precision: Precision) {
    let form = Form::new(ctx.isa, precision);
    let kernel = Kernel::new(ctx.isa, form);
    let mut plans = Vec::with_capacity(products.len());
    let mut slots = 0;
    for product in products {
        plans.push(Plan::new(product, form, &kernel, slots));
        slots += plans[plans.len() - 1].slots();
    }
    let panels = pack_panels(ctx, &plans, slots);
    let panels = panels.data();
    let tasks = tasks(&plans, ctx.threads());
    ctx.for_each(tasks.len(), |i| {
        let Task { plan, tiles, columns } = tasks[i].clone();
        // A thread that has finished this task probably goes on with that one.
        let next = tasks.get(i + ctx.threads()).map(|task| (&plans[task.plan], task));
        // SAFETY: the task lies inside its product's output, and tasks of a product are disjoint.
        unsafe { multiply(ctx.isa, &plans[plan], panels, tiles, columns, next) };
    });
}

/// Packs the left operands of all products.
fn pack_panels(ctx: &Ctx, plans: &[Plan<'_>], slots: usize) -> Tensor {
    let mut panels = ctx.empty([slots]);
    let to = Output { c: panels.data_mut().as_mut_ptr(), ldc: 0, accumulate: false };
    let parts: Vec<(&Plan<'_>, Range<usize>, Range<usize>)> = plans
        .iter()
        .flat_map(|plan| plan.blocks().map(move |block| (plan, block)))
        .flat_map(|(plan, block)| {
            let each = plan.tiles().div_ceil(4 * ctx.threads()).clamp(PACK_TILES[0], PACK_TILES[1]);
            (0..plan.tiles()).step_by(each).map(move |t| (plan, block.clone(), t..plan.tiles().min(t + each)))
        })
        .collect();
    ctx.for_each(parts.len(), |i| {
        let (plan, block, tiles) = &parts[i];
        let (depth, steps) = (block.len(), plan.form.steps(block.len()));
        let row = plan.rows(tiles.start).start;
        let cuts: Vec<Cut> = tiles
            .clone()
            .map(|t| {
                let rows = plan.rows(t);
                let width = if plan.kernel.whole_panels { plan.kernel.mr } else { rows.len() };
                Cut { first: rows.start - row, lines: rows.len(), width }
            })
            .collect();
        let width = cuts.iter().map(|cut| cut.width).sum::<usize>();
        let start = plan.panel(block.start, steps, tiles.start);
        let all = to;
        // SAFETY: panels of different parts are different parts of the tensor.
        let out = unsafe { std::slice::from_raw_parts_mut(all.c.add(start).cast::<u32>(), width * steps) };
        let a = plan.product.a.at(row, block.start);
        BUFFERS.with_borrow_mut(|buffers| pack(ctx.isa, plan.form, a, false, depth, &cuts, &mut buffers.scratch, out));
    });
    panels
}

/// What a thread packs to and keeps.
#[derive(Default)]
struct Buffers {
    strips: Vec<Line>,
    /// Sums that wait for the next block, tile after tile.
    waiting: Vec<Line>,
    scales: Vec<f32>,
    scratch: Vec<f32>,
}

/// Sixteen slots, and a line of the cache: no load of a strip touches two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// The first `len` slots.
fn slots(lines: &mut Vec<Line>, len: usize) -> &mut [u32] {
    lines.resize(lines.len().max(len.div_ceil(16)), Line([0; 16]));
    // SAFETY: a line is sixteen slots, and there are enough of them.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// One task on the calling thread.
///
/// # Safety
/// Its part of the output must be valid for reads and writes, and nothing else may access it meanwhile.
unsafe fn multiply(
    isa: Isa,
    plan: &Plan<'_>,
    panels: &[f32],
    tiles: Range<usize>,
    columns: Range<usize>,
    next_task: Option<(&Plan<'_>, &Task)>,
) {
    let Plan { product, form, kernel, scaled, .. } = plan;
    let nr = kernel.nr;
    let first_row = plan.rows(tiles.start).start;
    let height = plan.rows(tiles.end - 1).end - first_row;
    let depth = product.k.min(plan.depth);
    let width = columns.len().next_multiple_of(nr);
    let cuts: Vec<Cut> =
        (0..columns.len()).step_by(nr).map(|j| Cut { first: j, lines: nr.min(columns.len() - j), width: nr }).collect();
    BUFFERS.with_borrow_mut(|Buffers { strips, waiting, scales, scratch }| {
        let strips = slots(strips, width * form.steps(depth));
        let keeps = product.k > plan.depth;
        let waiting = slots(waiting, if keeps { height * width } else { 0 });
        let scale_slots = scaled.map_or(0, |share| nr * depth.div_ceil(share));
        scales.resize(scale_slots * cuts.len(), 0.0);
        for block in plan.blocks() {
            let (depth, steps) = (block.len(), form.steps(block.len()));
            let lines = product.b.at(block.start, columns.start).transposed();
            pack(isa, *form, lines, scaled.is_some(), depth, &cuts, scratch, strips);
            if let Some(share) = scaled {
                for (cut, scales) in cuts.iter().zip(scales.chunks_exact_mut(scale_slots)) {
                    pack_scales(lines.at(cut.first, 0), cut.lines, depth.div_ceil(*share), nr, scales);
                }
            }
            // What is packed after this.
            let next = if block.end < product.k {
                let depth = plan.depth.min(product.k - block.end);
                Some((product.b.at(block.end, columns.start).transposed(), columns.len(), depth))
            } else {
                next_task.map(|(Plan { product, depth, .. }, Task { columns, .. })| {
                    (product.b.at(0, columns.start).transposed(), columns.len(), product.k.min(*depth))
                })
            };
            // Where sums come from and go to.
            let waiting = waiting.as_mut_ptr().cast::<f32>();
            let place = |row: usize, rows: usize, column: usize, kept: bool| {
                if kept {
                    (waiting.wrapping_add((row - first_row) * width + rows * column), nr)
                } else {
                    (product.c.c.wrapping_add(row * product.c.ldc + columns.start + column), product.c.ldc)
                }
            };
            let (from_kept, to_kept) = (block.start > 0, block.end < product.k);
            let starts_from_zero = !from_kept && !product.c.accumulate;
            let calls = tiles.len() * cuts.len();
            for (i, t) in tiles.clone().enumerate() {
                let rows = plan.rows(t);
                let next_t = if t + 1 < tiles.end { t + 1 } else { tiles.start };
                let next_rows = plan.rows(next_t);
                let panel = plan.panel(block.start, steps, t);
                let next_panel = plan.panel(block.start, steps, next_t);
                for (strip, cut) in cuts.iter().enumerate() {
                    let (from, from_row) = place(rows.start, rows.len(), cut.first, from_kept);
                    let (to, to_row) = place(rows.start, rows.len(), cut.first, to_kept);
                    let (next_from, _) = match cuts.get(strip + 1) {
                        Some(cut) => place(rows.start, rows.len(), cut.first, from_kept),
                        None => place(next_rows.start, next_rows.len(), 0, from_kept),
                    };
                    let ahead = match next {
                        Some((b, lines, depth)) => b.ahead(lines, depth, i * cuts.len() + strip, calls),
                        None => Ahead::NOTHING,
                    };
                    let part = next_rows.len() * steps / cuts.len();
                    let call = Call {
                        steps,
                        a: panels[panel..].as_ptr().cast(),
                        b: strips[cut.first * steps..].as_ptr(),
                        scales: if scaled.is_some() {
                            scales[strip * scale_slots..].as_ptr()
                        } else {
                            std::ptr::null()
                        },
                        block: form.steps(scaled.unwrap_or(0)),
                        from: if starts_from_zero { std::ptr::null() } else { from },
                        from_row,
                        to,
                        to_row,
                        rows: rows.len(),
                        columns: cut.lines,
                        next_from,
                        next_a: panels[next_panel + strip * part..].as_ptr().cast(),
                        next_a_lines: part.div_ceil(16),
                        ahead,
                    };
                    // SAFETY: the tile lies inside the caller's output, panel and strip are packed for it.
                    unsafe { kernel.run(&call) };
                }
            }
        }
    });
}

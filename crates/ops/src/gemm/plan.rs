//! How products are cut: what is packed together, and which tiles a thread computes at a time.

use std::ops::Range;

use super::cpu::Product;
use super::kernel::Kernel;
use super::pack::Form;

/// Steps per block are a multiple of this, and so of what shares a scale.
const KC_UNIT: usize = 128;
/// Most columns of a task, which are packed at once.
const GROUP: usize = 128;
/// The least columns of a task.
const MIN_COLUMNS: usize = 64;
/// Most tiles of a task, one below the other.
const MAX_TILES: usize = 148;
/// Multiply-adds that are done before another thread has started.
const SMALL: f64 = 1e5;

/// How a product is computed.
pub(super) struct Plan<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) form: Form,
    pub(super) kernel: Kernel,
    /// Indices of the inner dimension per block.
    pub(super) depth: usize,
    /// Slot of the packed A where its panels begin.
    first_slot: usize,
    /// How many columns of a stored row of B share a scale that stands outside the chains.
    pub(super) scaled: Option<usize>,
}

/// A part of one product's output: some of its tiles, one below the other, of some columns.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) plan: usize,
    pub(super) tiles: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(product: &'a Product<'a>, form: Form, kernel: &Kernel, first_slot: usize) -> Self {
        let steps = form.steps(product.k);
        let blocks = steps.div_ceil(kernel.kc).max(1);
        let steps = steps.div_ceil(blocks).next_multiple_of(KC_UNIT);
        let depth = if form == Form::Pairs { 2 * steps } else { steps };
        // Scales are left out where the rounding to bf16 must not see them and chains run along a stored row.
        let outside = form != Form::F32 && product.b.is_transposed() && product.k > 0;
        let scaled = if outside { product.b.scale_width() } else { None };
        Self { product, form, kernel: *kernel, depth: depth.max(1), first_slot, scaled }
    }

    pub(super) fn tiles(&self) -> usize {
        self.product.m.div_ceil(self.kernel.mr)
    }

    /// The rows of tile `t`: whole tiles and a rest, or, where any number of rows has a kernel, tiles of nearly the same
    /// height.
    pub(super) fn rows(&self, t: usize) -> Range<usize> {
        let (m, Kernel { mr, whole_panels, .. }) = (self.product.m, self.kernel);
        let row = |t: usize| if whole_panels { m.min(t * mr) } else { t * m / self.tiles() };
        row(t)..row(t + 1)
    }

    /// Panels are packed to this many rows.
    pub(super) fn padded_rows(&self) -> usize {
        if self.kernel.whole_panels { self.tiles() * self.kernel.mr } else { self.product.m }
    }

    pub(super) fn slots(&self) -> usize {
        self.padded_rows() * self.form.steps(self.product.k)
    }

    /// The blocks of the inner dimension; one that is empty still has zeros to write.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let k = self.product.k;
        (0..k.max(1)).step_by(self.depth).map(move |start| start..k.min(start + self.depth))
    }

    /// The slot where tile `t` of the block from `start` on begins, the block having `steps` steps.
    pub(super) fn panel(&self, start: usize, steps: usize, t: usize) -> usize {
        self.first_slot + self.padded_rows() * self.form.steps(start) + self.rows(t).start * steps
    }
}

/// Cuts products into tasks: into columns first, since those share nothing that costs, until all threads have some.
/// The cut decides who computes an element, never how.
pub(super) fn tasks(plans: &[Plan<'_>], threads: usize) -> Vec<Task> {
    let work = |plan: &Plan<'_>| plan.product.m as f64 * plan.product.n as f64 * plan.product.k.max(1) as f64;
    let all: f64 = plans.iter().map(work).sum();
    let mut tasks = Vec::new();
    for (i, plan) in plans.iter().enumerate() {
        let (tiles, n) = (plan.tiles(), plan.product.n);
        if tiles == 0 || n == 0 {
            continue;
        }
        let wanted =
            if threads == 1 || all < SMALL { 1 } else { (work(plan) / all * (4 * threads) as f64).ceil() as usize };
        let row_blocks = tiles.div_ceil(MAX_TILES);
        let columns = n.div_ceil(wanted.div_ceil(row_blocks)).clamp(MIN_COLUMNS, GROUP).next_multiple_of(32);
        let row_blocks = row_blocks.max(wanted.div_ceil(n.div_ceil(columns))).min(tiles);
        for r in 0..row_blocks {
            for column in (0..n).step_by(columns) {
                let tiles = r * tiles / row_blocks..(r + 1) * tiles / row_blocks;
                tasks.push(Task { plan: i, tiles, columns: column..n.min(column + columns) });
            }
        }
    }
    tasks
}

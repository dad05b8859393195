#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

/// `y [T, N] += b [N]`, row by row.
pub fn add(ctx: &Ctx, y: &mut Tensor, b: &Tensor) {
    let [_, n] = y.dims();
    assert_eq!(b.dims(), [n], "bias: b {b:?} does not fit y {y:?}");
    ctx.for_each_chunk(y.data_mut(), ROWS * n, |_, y| cpu::add(ctx.isa, b.data(), y));
}

/// `db [N] += Σ_t dy [T, N]`.
pub fn backward(ctx: &Ctx, dy: &Tensor, db: &mut Tensor) {
    let [_, n] = dy.dims();
    assert_eq!(db.dims(), [n], "bias: db {db:?} does not fit dy {dy:?}");
    // A task owns some columns and walks all rows in order, so the sum does not depend on the number of threads.
    ctx.for_each_chunk(db.data_mut(), COLUMNS, |task, db| {
        cpu::add_columns(ctx.isa, dy.data(), n, task * COLUMNS, db);
    });
}

/// Rows per task.
const ROWS: usize = 32;
/// Columns per task of the gradient: four cache lines of each row.
const COLUMNS: usize = 64;

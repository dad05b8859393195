#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

/// Rows per task.
const ROWS: usize = 64;

/// `x` is `[R, I]`, `w` is `[R]`; the result is `[R, I]`.
pub fn forward(ctx: &Ctx, x: &Tensor, w: &Tensor) -> Tensor {
    let [r, i] = check(x, w);
    let mut y = ctx.empty([r, i]);
    ctx.for_each_chunk(y.data_mut(), (ROWS * i).max(1), |task, y| {
        let rows = task * ROWS..task * ROWS + y.len() / i;
        cpu::scale(ctx.isa, &x.data()[rows.start * i..rows.end * i], &w.data()[rows], y);
    });
    y
}

/// `dy` is `[R, I]`; the result is `(dx [R, I], dw [R])`.
pub fn backward(ctx: &Ctx, dy: &Tensor, x: &Tensor, w: &Tensor) -> (Tensor, Tensor) {
    let [r, i] = check(x, w);
    assert_eq!(dy.shape(), x.shape(), "row_scale: dy {dy:?} and x {x:?} differ");
    let mut dw = ctx.empty([r]);
    ctx.for_each_chunk(dw.data_mut(), ROWS, |task, dw| {
        let part = task * ROWS * i..(task * ROWS + dw.len()) * i;
        cpu::dots(ctx.isa, &dy.data()[part.clone()], &x.data()[part], dw);
    });
    (forward(ctx, dy, w), dw)
}

fn check(x: &Tensor, w: &Tensor) -> [usize; 2] {
    let [r, i] = x.dims();
    assert_eq!(w.dims(), [r], "row_scale: w {w:?} does not fit x {x:?}");
    [r, i]
}

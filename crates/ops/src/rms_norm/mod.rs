#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

/// What backward needs beyond the inputs of forward.
#[derive(Clone, Debug)]
pub struct Saved {
    rstd: Tensor, // [T]
}

/// `x` is `[T, D]`, `w` is `[D]`; the result is `[T, D]`.
pub fn forward(ctx: &Ctx, x: &Tensor, w: &Tensor, eps: f32) -> (Tensor, Saved) {
    let [t, d] = check(x, w);
    let mut rstd = ctx.empty([t]);
    ctx.for_each_chunk(rstd.data_mut(), ROWS, |i, rstd| {
        cpu::rstd(ctx.isa, &x.data()[i * ROWS * d..][..rstd.len() * d], eps, rstd);
    });
    let saved = Saved { rstd };
    (recompute(ctx, x, w, &saved), saved)
}

/// The result of `forward` again, bit for bit, from what it saved.
pub fn recompute(ctx: &Ctx, x: &Tensor, w: &Tensor, saved: &Saved) -> Tensor {
    let [t, d] = check(x, w);
    let mut y = ctx.empty([t, d]);
    ctx.for_each_chunk(y.data_mut(), ROWS * d, |i, y| {
        let rows = i * ROWS..i * ROWS + y.len() / d;
        cpu::scale(ctx.isa, &x.data()[rows.start * d..rows.end * d], w.data(), &saved.rstd.data()[rows], y);
    });
    y
}

/// `dy` is `[T, D]`; the result is `dx [T, D]`.
pub fn backward_input(ctx: &Ctx, dy: &Tensor, x: &Tensor, w: &Tensor, saved: &Saved) -> Tensor {
    let [t, d] = check(x, w);
    assert_eq!(dy.shape(), x.shape(), "rms_norm: dy {dy:?} and x {x:?} differ");
    let mut dx = ctx.empty([t, d]);
    ctx.for_each_chunk(dx.data_mut(), ROWS * d, |i, dx| {
        let rows = i * ROWS..i * ROWS + dx.len() / d;
        let part = rows.start * d..rows.end * d;
        cpu::backward(ctx.isa, &dy.data()[part.clone()], &x.data()[part], w.data(), &saved.rstd.data()[rows], dx);
    });
    dx
}

/// `dw [D] += Σ_t dy ⊙ x · rstd`.
pub fn backward_weight(ctx: &Ctx, dy: &Tensor, x: &Tensor, saved: &Saved, dw: &mut Tensor) {
    let [_, d] = x.dims();
    assert_eq!(dy.shape(), x.shape(), "rms_norm: dy {dy:?} and x {x:?} differ");
    assert_eq!(dw.dims(), [d], "rms_norm: dw {dw:?} does not fit x {x:?}");
    // A task owns some columns and walks all rows in order, so the sum does not depend on the number of threads.
    ctx.for_each_chunk(dw.data_mut(), COLUMNS, |i, dw| {
        cpu::weight_gradient(ctx.isa, dy.data(), x.data(), saved.rstd.data(), d, i * COLUMNS, dw);
    });
}

/// Rows per task.
const ROWS: usize = 32;
/// Columns per task of the weight gradient: four cache lines of each row.
const COLUMNS: usize = 64;

fn check(x: &Tensor, w: &Tensor) -> [usize; 2] {
    let [t, d] = x.dims();
    assert_eq!(w.dims(), [d], "rms_norm: w {w:?} does not fit x {x:?}");
    [t, d]
}

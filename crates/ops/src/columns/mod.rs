#![doc = include_str!("README.md")]

pub mod cases;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

/// The first `a` columns of `x [T, A + B]` and the others: `([T, A], [T, B])`.
pub fn split(ctx: &Ctx, x: &Tensor, a: usize) -> (Tensor, Tensor) {
    let [_, width] = x.dims();
    assert!(0 < a && a < width, "columns: {a} columns do not split x {x:?} in two");
    (columns(ctx, x, 0, a), columns(ctx, x, a, width - a))
}

/// `a [T, A]` beside `b [T, B]`: `[T, A + B]`.
pub fn concat(ctx: &Ctx, a: &Tensor, b: &Tensor) -> Tensor {
    let ([t, a_width], [rows, b_width]) = (a.dims(), b.dims());
    assert_eq!(t, rows, "columns: a {a:?} and b {b:?} have different rows");
    let width = a_width + b_width;
    let mut x = ctx.empty([t, width]);
    ctx.for_each_chunk(x.data_mut(), ROWS * width, |task, x| {
        for (t, x) in (task * ROWS..).zip(x.chunks_exact_mut(width)) {
            let (left, right) = x.split_at_mut(a_width);
            left.copy_from_slice(a.row(t));
            right.copy_from_slice(b.row(t));
        }
    });
    x
}

/// Rows per task.
const ROWS: usize = 32;

fn columns(ctx: &Ctx, x: &Tensor, first: usize, width: usize) -> Tensor {
    let [t, _] = x.dims();
    let mut y = ctx.empty([t, width]);
    ctx.for_each_chunk(y.data_mut(), ROWS * width, |task, y| {
        for (t, y) in (task * ROWS..).zip(y.chunks_exact_mut(width)) {
            y.copy_from_slice(&x.row(t)[first..first + width]);
        }
    });
    y
}

#![doc = include_str!("README.md")]

pub mod cases;
pub(crate) mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

/// `x += y`, of one shape.
pub fn add(ctx: &Ctx, x: &mut Tensor, y: &Tensor) {
    assert_eq!(x.shape(), y.shape(), "residual: x {x:?} and y {y:?} differ");
    ctx.for_each_chunk(x.data_mut(), CHUNK, |task, x| {
        cpu::add(ctx.isa, &y.data()[task * CHUNK..][..x.len()], x);
    });
}

/// `x + y`, of one shape: for a stream that backward still needs as it was.
pub fn sum(ctx: &Ctx, x: &Tensor, y: &Tensor) -> Tensor {
    assert_eq!(x.shape(), y.shape(), "residual: x {x:?} and y {y:?} differ");
    let mut sum = ctx.empty(x.shape());
    ctx.for_each_chunk(sum.data_mut(), CHUNK, |task, sum| {
        let part = task * CHUNK..task * CHUNK + sum.len();
        cpu::sum(ctx.isa, &x.data()[part.clone()], &y.data()[part], sum);
    });
    sum
}

/// Elements per task.
const CHUNK: usize = 1 << 14;

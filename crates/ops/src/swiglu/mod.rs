#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

/// `gate_up` is `[T, 2 I]`, the gate in the first `I` columns; the result is `silu(gate) ⊙ up`, `[T, I]`.
pub fn forward(ctx: &Ctx, gate_up: &Tensor) -> Tensor {
    let [t, width] = gate_up.dims();
    let i = half(gate_up);
    let mut h = ctx.empty([t, i]);
    ctx.for_each_chunk(h.data_mut(), ROWS * i, |task, h| {
        cpu::forward(ctx.isa, &gate_up.data()[task * ROWS * width..][..2 * h.len()], i, h);
    });
    h
}

/// `dh` is `[T, I]`, `gate_up` is what forward saw, `[T, 2 I]`; the result is `dgate_up [T, 2 I]`.
pub fn backward(ctx: &Ctx, dh: &Tensor, gate_up: &Tensor) -> Tensor {
    let [t, width] = gate_up.dims();
    let i = half(gate_up);
    assert_eq!(dh.dims(), [t, i], "swiglu: dh {dh:?} does not fit gate_up {gate_up:?}");
    let mut dgate_up = ctx.empty([t, width]);
    ctx.for_each_chunk(dgate_up.data_mut(), ROWS * width, |task, dgate_up| {
        let dh = &dh.data()[task * ROWS * i..][..dgate_up.len() / 2];
        let gate_up = &gate_up.data()[task * ROWS * width..][..dgate_up.len()];
        cpu::backward(ctx.isa, dh, gate_up, i, dgate_up);
    });
    dgate_up
}

/// Rows per task.
const ROWS: usize = 16;

fn half(gate_up: &Tensor) -> usize {
    let [_, width] = gate_up.dims();
    assert!(width > 0 && width.is_multiple_of(2), "swiglu: gate_up {gate_up:?} has no two halves");
    width / 2
}

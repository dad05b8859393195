#![doc = include_str!("README.md")]

mod angles;
pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

pub use angles::{Angles, CosSin, Yarn};
use tensor::{Ctx, Tensor};

/// Which values of the input form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `(2i, 2i + 1)`: the released checkpoints.
    Interleaved,
    /// `(i, i + dr/2)`.
    Half,
}

/// Rotates `x [T, heads · head_dim]` in place: in each head the `dr` values from `offset` on, `dr` and `T` being those of
/// the table. The result has the first values of all pairs before the second ones, whatever the layout of the input: so
/// transformers orders them too, and a score is then the same sum in the same order.
pub fn forward(ctx: &Ctx, x: &mut Tensor, head_dim: usize, offset: usize, table: &CosSin, layout: Layout) {
    let half = check(x, head_dim, offset, table);
    let [_, width] = x.dims();
    ctx.for_each_chunk(x.data_mut(), ROWS * width, |i, x| {
        let part = i * ROWS * half..(i * ROWS + x.len() / width) * half;
        let (cos, sin) = (&table.cos.data()[part.clone()], &table.sin.data()[part]);
        cpu::forward(ctx.isa, x, width, head_dim, offset, cos, sin, half, layout);
    });
}

/// Turns the gradient of the result into the gradient of the input, in the input's layout, in place.
pub fn backward(ctx: &Ctx, dx: &mut Tensor, head_dim: usize, offset: usize, table: &CosSin, layout: Layout) {
    let half = check(dx, head_dim, offset, table);
    let [_, width] = dx.dims();
    ctx.for_each_chunk(dx.data_mut(), ROWS * width, |i, dx| {
        let part = i * ROWS * half..(i * ROWS + dx.len() / width) * half;
        let (cos, sin) = (&table.cos.data()[part.clone()], &table.sin.data()[part]);
        cpu::backward(ctx.isa, dx, width, head_dim, offset, cos, sin, half, layout);
    });
}

/// The number of pairs.
fn check(x: &Tensor, head_dim: usize, offset: usize, table: &CosSin) -> usize {
    let ([t, width], [positions, half]) = (x.dims(), table.cos.dims());
    assert!(
        t == positions && width.is_multiple_of(head_dim) && offset + 2 * half <= head_dim,
        "rope: x {x:?} with heads of {head_dim} does not fit {positions} positions and {half} pairs from {offset} on"
    );
    half
}

/// Rows per task.
const ROWS: usize = 32;

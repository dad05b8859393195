#![doc = include_str!("README.md")]

mod angles;
pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

pub use angles::{Angles, CosSin, Yarn};
use tensor::{Ctx, Tensor};

/// Which values form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `(2i, 2i + 1)`: the released checkpoints.
    Interleaved,
    /// `(i, i + dr/2)`.
    Half,
}

/// Rotates `x [T, heads · head_dim]` in place: in each head the `dr` values from `offset` on, `dr` and `T` being those of
/// the table.
pub fn forward(ctx: &Ctx, x: &mut Tensor, head_dim: usize, offset: usize, table: &CosSin, layout: Layout) {
    rotate(ctx, x, head_dim, offset, table, layout, 1.0);
}

/// Turns the gradient of the result into the gradient of the input, in place: the rotation by the opposite angle.
pub fn backward(ctx: &Ctx, dx: &mut Tensor, head_dim: usize, offset: usize, table: &CosSin, layout: Layout) {
    rotate(ctx, dx, head_dim, offset, table, layout, -1.0);
}

fn rotate(ctx: &Ctx, x: &mut Tensor, head_dim: usize, offset: usize, table: &CosSin, layout: Layout, direction: f32) {
    let ([t, width], [positions, half]) = (x.dims(), table.cos.dims());
    assert!(
        t == positions && width.is_multiple_of(head_dim) && offset + 2 * half <= head_dim,
        "rope: x {x:?} with heads of {head_dim} does not fit {positions} positions and {half} pairs from {offset} on"
    );
    ctx.for_each_chunk(x.data_mut(), ROWS * width, |i, x| {
        let part = i * ROWS * half..(i * ROWS + x.len() / width) * half;
        let (cos, sin) = (&table.cos.data()[part.clone()], &table.sin.data()[part]);
        cpu::rotate(ctx.isa, x, width, head_dim, offset, cos, sin, half, layout, direction);
    });
}

/// Rows per task.
const ROWS: usize = 32;

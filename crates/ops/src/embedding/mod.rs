#![doc = include_str!("README.md")]

pub mod cases;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Storage, Tensor};

use crate::residual;

/// The rows `ids` of `w [V, D]`, as `[T, D]`.
pub fn forward(ctx: &Ctx, ids: &[u32], w: &Storage) -> Tensor {
    let [v, d] = w.dims();
    check(ids, v);
    let mut x = ctx.empty([ids.len(), d]);
    ctx.for_each_chunk(x.data_mut(), ROWS * d, |task, x| {
        for (x, &id) in x.chunks_exact_mut(d).zip(&ids[task * ROWS..]) {
            w.read_row(id as usize, x);
        }
    });
    x
}

/// `dw [V, D]`, row `ids[t]`, `+= dy [T, D]`, row `t`.
pub fn backward_weight(ctx: &Ctx, ids: &[u32], dy: &Tensor, dw: &mut Tensor) {
    let [v, d] = dw.dims();
    assert_eq!(dy.dims(), [ids.len(), d], "embedding: dy {dy:?} does not fit {} ids and dw {dw:?}", ids.len());
    check(ids, v);
    let mut order: Vec<(u32, usize)> = ids.iter().copied().zip(0..).collect();
    order.sort_unstable();
    // Each row of `dw` that occurs, with the rows of `dy` that go to it.
    let mut rows = Vec::new();
    let (mut rest, mut next) = (dw.data_mut(), 0);
    for run in order.chunk_by(|a, b| a.0 == b.0) {
        let id = run[0].0 as usize;
        let (row, after) = rest.split_at_mut((id - next) * d).1.split_at_mut(d);
        rows.push((row, run));
        (rest, next) = (after, id + 1);
    }
    ctx.for_each_chunk(&mut rows, ROWS, |_, rows| {
        for (dw, run) in rows {
            for &(_, t) in *run {
                residual::cpu::add(ctx.isa, dy.row(t), dw);
            }
        }
    });
}

/// Rows per task.
const ROWS: usize = 32;

fn check(ids: &[u32], v: usize) {
    let largest = ids.iter().max();
    assert!(largest.is_none_or(|&id| (id as usize) < v), "embedding: id {largest:?} is not below the {v} rows");
}

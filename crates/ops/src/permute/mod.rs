#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;
pub mod unpermute;
mod weights;

use tensor::{Ctx, Tensor};

/// Where the `T · K` choices of experts stand once sorted by expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `[E + 1]`: the rows of expert `e` are `offsets[e]..offsets[e + 1]`.
    pub offsets: Vec<usize>,
    /// `[T · K]`: the token of each sorted row.
    pub token: Vec<u32>,
    /// `[T, K]`: the sorted row of each choice.
    pub position: Vec<u32>,
    /// `K`.
    pub num_experts_per_tok: usize,
}

impl Plan {
    /// Sorts `idx [T, K]`, numbers of `E` experts, by expert and then by token.
    pub fn new(idx: &[u32], t: usize, k: usize, e: usize) -> Self {
        assert_eq!(idx.len(), t * k, "permute: {} choices are not {t} tokens times {k}", idx.len());
        assert!(u32::try_from(idx.len()).is_ok(), "permute: {} rows do not fit 32 bits", idx.len());
        let mut offsets = vec![0; e + 1];
        for &expert in idx {
            assert!((expert as usize) < e, "permute: expert {expert} is not below {e}");
            offsets[expert as usize + 1] += 1;
        }
        for i in 0..e {
            offsets[i + 1] += offsets[i];
        }
        let mut next = offsets.clone();
        let (mut token, mut position) = (vec![0; idx.len()], vec![0; idx.len()]);
        for (i, &expert) in idx.iter().enumerate() {
            let row = &mut next[expert as usize];
            token[*row] = (i / k) as u32;
            position[i] = *row as u32;
            *row += 1;
        }
        Self { offsets, token, position, num_experts_per_tok: k }
    }

    /// The number of tokens, `T`.
    pub fn tokens(&self) -> usize {
        self.position.len() / self.num_experts_per_tok
    }

    /// The number of sorted rows, `T · K`.
    pub fn rows(&self) -> usize {
        self.token.len()
    }
}

/// The rows of `x [T, D]` in the order of the plan, `[T · K, D]`.
pub fn forward(ctx: &Ctx, x: &Tensor, plan: &Plan) -> Tensor {
    let [t, d] = x.dims();
    assert_eq!(t, plan.tokens(), "permute: x {x:?} does not fit a plan for {} tokens", plan.tokens());
    let mut y = ctx.empty([plan.rows(), d]);
    ctx.for_each_chunk(y.data_mut(), ROWS * d, |task, y| {
        for (y, &token) in y.chunks_exact_mut(d).zip(&plan.token[task * ROWS..]) {
            y.copy_from_slice(x.row(token as usize));
        }
    });
    y
}

/// `dy` is `[T · K, D]`; the result is `dx [T, D]`.
pub fn backward(ctx: &Ctx, dy: &Tensor, plan: &Plan) -> Tensor {
    let [rows, d] = dy.dims();
    assert_eq!(rows, plan.rows(), "permute: dy {dy:?} does not fit a plan for {} rows", plan.rows());
    let k = plan.num_experts_per_tok;
    let mut dx = ctx.empty([plan.tokens(), d]);
    ctx.for_each_chunk(dx.data_mut(), ROWS * d, |task, dx| {
        let positions = plan.position[task * ROWS * k..].chunks_exact(k);
        for (dx, positions) in dx.chunks_exact_mut(d).zip(positions) {
            cpu::sum(ctx.isa, dy.data(), positions, dx);
        }
    });
    dx
}

/// Rows per task.
const ROWS: usize = 16;

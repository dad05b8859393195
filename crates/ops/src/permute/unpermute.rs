//! The experts' results back in the order of the tokens, added with the router's weights.

use tensor::{Ctx, Tensor};

use super::{Plan, ROWS, cpu};

/// `y` is `[T · K, D]` in the order of the plan, `weights` is `[T, K]`; the result is `[T, D]`.
pub fn forward(ctx: &Ctx, y: &Tensor, weights: &Tensor, plan: &Plan) -> Tensor {
    let d = check(y, weights, plan);
    let k = plan.num_experts_per_tok;
    let mut out = ctx.empty([plan.tokens(), d]);
    ctx.for_each_chunk(out.data_mut(), ROWS * d, |task, out| {
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            let t = task * ROWS + i;
            cpu::weighted_sum(ctx.isa, y.data(), &plan.position[t * k..][..k], weights.row(t), out);
        }
    });
    out
}

/// `dout` is `[T, D]`, `y` and `weights` are what forward saw; the result is `(dy [T · K, D], dweights [T, K])`.
pub fn backward(ctx: &Ctx, dout: &Tensor, y: &Tensor, weights: &Tensor, plan: &Plan) -> (Tensor, Tensor) {
    let d = check(y, weights, plan);
    let (t, k) = (plan.tokens(), plan.num_experts_per_tok);
    assert_eq!(dout.dims(), [t, d], "unpermute: dout {dout:?} does not fit y {y:?}");
    let mut dweights = ctx.empty([t, k]);
    ctx.for_each_chunk(dweights.data_mut(), ROWS * k, |task, dweights| {
        let positions = plan.position[task * ROWS * k..].chunks_exact(k);
        for (i, (dweights, positions)) in dweights.chunks_exact_mut(k).zip(positions).enumerate() {
            cpu::dots(ctx.isa, y.data(), positions, dout.row(task * ROWS + i), dweights);
        }
    });
    let mut sorted_weights = vec![0.0; plan.rows()];
    for (&row, &weight) in plan.position.iter().zip(weights.data()) {
        sorted_weights[row as usize] = weight;
    }
    let mut dy = ctx.empty([plan.rows(), d]);
    ctx.for_each_chunk(dy.data_mut(), ROWS * d, |task, dy| {
        let rows = plan.token[task * ROWS..].iter().zip(&sorted_weights[task * ROWS..]);
        for (dy, (&token, &weight)) in dy.chunks_exact_mut(d).zip(rows) {
            cpu::scale(ctx.isa, dout.row(token as usize), weight, dy);
        }
    });
    (dy, dweights)
}

/// The width.
fn check(y: &Tensor, weights: &Tensor, plan: &Plan) -> usize {
    let [rows, d] = y.dims();
    assert_eq!(rows, plan.rows(), "unpermute: y {y:?} does not fit a plan for {} rows", plan.rows());
    let want = [plan.tokens(), plan.num_experts_per_tok];
    assert_eq!(weights.dims(), want, "unpermute: weights {weights:?} are not {want:?}");
    d
}

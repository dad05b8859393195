//! `y = down (silu(gate x) ⊙ up x)` (`spec/model.md` 2.1). The shared experts of a mixture are one of these.

use ops::{gemm, gemv, swiglu};
use tensor::{Ctx, Tensor};

use crate::grads::{Sink, WeightGrad};
use crate::names;
use crate::params::{Builder, Kind, ParamId, Params};
use crate::recompute::{Recompute, keep};

/// The parameters of one dense FFN of width I.
#[derive(Debug)]
pub struct Dense {
    pub(super) gate_up_proj: ParamId, // [2 I, D], gate rows first
    pub(super) down_proj: ParamId,    // [D, I]
}

/// What backward needs beyond the inputs of forward.
pub struct Saved {
    gate_up: Tensor,   // [T, 2 I]
    h: Option<Tensor>, // [T, I]
}

impl Dense {
    pub(crate) fn build<E>(b: &mut Builder<'_, E>, prefix: &str, hidden: usize, width: usize) -> Result<Self, E> {
        let down = names::down(prefix, width, hidden);
        Ok(Self {
            gate_up_proj: b.many(names::gate_up(prefix, width, hidden), &[2 * width, hidden], Kind::Matrix)?,
            down_proj: b.many(vec![down], &[hidden, width], Kind::Matrix)?,
        })
    }

    /// `x` is `[T, D]`, the result `[T, D]`.
    pub fn forward(&self, ctx: &Ctx, p: &Params, x: &Tensor, again: Recompute) -> (Tensor, Saved) {
        let gate_up = gemm::nt(ctx, x, &p[self.gate_up_proj], p.precision);
        let h = swiglu::forward(ctx, &gate_up);
        let y = gemm::nt(ctx, &h, &p[self.down_proj], p.precision);
        (y, Saved { gate_up, h: keep(again.swiglu, &h) })
    }

    /// The result of forward for the rows of a decoding step, in the order of sums that is fast for few rows.
    pub fn decode(&self, ctx: &Ctx, p: &Params, x: &Tensor) -> Tensor {
        let gate_up = gemv::nt(ctx, x, &p[self.gate_up_proj], p.precision);
        let h = swiglu::forward(ctx, &gate_up);
        gemv::nt(ctx, &h, &p[self.down_proj], p.precision)
    }

    /// `dy` is `[T, D]`, `x` as in forward; the result is `dx [T, D]`.
    pub fn backward(
        &self,
        ctx: &Ctx,
        p: &Params,
        sink: &mut dyn Sink,
        dy: &Tensor,
        x: &Tensor,
        saved: Saved,
    ) -> Tensor {
        let precision = p.precision;
        let h = saved.h.unwrap_or_else(|| swiglu::forward(ctx, &saved.gate_up));
        sink.push(ctx, WeightGrad::Linear { id: self.down_proj, dy: dy.clone(), x: h, precision });
        let dh = gemm::nn(ctx, dy, &p[self.down_proj], precision);
        let dgate_up = swiglu::backward(ctx, &dh, &saved.gate_up);
        sink.push(ctx, WeightGrad::Linear { id: self.gate_up_proj, dy: dgate_up.clone(), x: x.clone(), precision });
        gemm::nn(ctx, &dgate_up, &p[self.gate_up_proj], precision)
    }
}

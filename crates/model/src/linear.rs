//! A projection with an optional bias, and a norm with its gain: ops joined to the parameters they use.

use std::ops::Range;

use ops::{bias, gemm, gemv, rms_norm};
use tensor::{Ctx, Tensor};

use crate::grads::{Sink, WeightGrad};
use crate::params::{Builder, Kind, ParamId, Params};

/// `y = x Wᵀ + b`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[N, K]`.
    pub weight: ParamId,
    /// `[N]`; only checkpoints with `attention_bias` have it.
    pub bias: Option<ParamId>,
}

/// `y = RMSNorm(x; w, eps)`.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// `[D]`.
    pub weight: ParamId,
    /// Added to the mean of squares.
    pub eps: f32,
}

impl Linear {
    /// `{prefix}.weight [n, k]` and, if asked for, `{prefix}.bias [n]`.
    pub(crate) fn build<E>(b: &mut Builder<'_, E>, prefix: &str, n: usize, k: usize, bias: bool) -> Result<Self, E> {
        let weight = b.one(format!("{prefix}.weight"), &[n, k], Kind::Matrix)?;
        let bias = bias.then(|| b.one(format!("{prefix}.bias"), &[n], Kind::Bias)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// `x` is `[T, K]`, the result `[T, N]`.
    pub fn forward(&self, ctx: &Ctx, p: &Params, x: &Tensor) -> Tensor {
        self.add_bias(ctx, p, gemm::nt(ctx, x, &p[self.weight], p.precision))
    }

    /// Columns `rows` of the result of [`Linear::forward`], bit for bit.
    pub fn forward_rows(&self, ctx: &Ctx, p: &Params, x: &Tensor, rows: Range<usize>) -> Tensor {
        assert!(self.bias.is_none(), "a projection that is computed in parts has no bias");
        gemm::nt_rows(ctx, x, &p[self.weight], rows, p.precision)
    }

    /// The same for the rows of a decoding step, in the order of sums that is fast for few rows.
    pub fn decode(&self, ctx: &Ctx, p: &Params, x: &Tensor) -> Tensor {
        self.add_bias(ctx, p, gemv::nt(ctx, x, &p[self.weight], p.precision))
    }

    fn add_bias(&self, ctx: &Ctx, p: &Params, mut y: Tensor) -> Tensor {
        if let Some(b) = self.bias {
            bias::add(ctx, &mut y, p[b].f32());
        }
        y
    }

    /// `dy` is `[T, N]`, the result `dx [T, K]`.
    pub fn backward_input(&self, ctx: &Ctx, p: &Params, dy: &Tensor) -> Tensor {
        gemm::nn(ctx, dy, &p[self.weight], p.precision)
    }

    /// Hands the gradients of weight and bias to `sink`.
    pub fn backward_weight(&self, ctx: &Ctx, p: &Params, sink: &mut dyn Sink, dy: &Tensor, x: &Tensor) {
        let (dy, x, precision) = (dy.clone(), x.clone(), p.precision);
        sink.push(ctx, WeightGrad::Linear { id: self.weight, dy: dy.clone(), x, precision });
        if let Some(id) = self.bias {
            sink.push(ctx, WeightGrad::Bias { id, dy });
        }
    }
}

/// What two projections make of the same rows of a decoding step, at once.
pub(crate) fn decode_beside(ctx: &Ctx, p: &Params, [a, b]: [&Linear; 2], x: &Tensor) -> [Tensor; 2] {
    let [t, _] = x.dims();
    let rows = [0, t];
    let products = [a, b].map(|linear| (x, &rows[..], &p[linear.weight]));
    let made = gemv::many_nt(ctx, &products, p.precision);
    let [y, z]: [Tensor; 2] = made.try_into().expect("a result for each product");
    [a.add_bias(ctx, p, y), b.add_bias(ctx, p, z)]
}

impl Norm {
    /// The gain `name [d]`.
    pub(crate) fn build<E>(b: &mut Builder<'_, E>, name: String, d: usize, eps: f64) -> Result<Self, E> {
        Ok(Self { weight: b.one(name, &[d], Kind::Gain)?, eps: eps as f32 })
    }

    /// `x` is `[T, D]`.
    pub fn forward(&self, ctx: &Ctx, p: &Params, x: &Tensor) -> (Tensor, rms_norm::Saved) {
        rms_norm::forward(ctx, x, p[self.weight].f32(), self.eps)
    }

    /// The result of `forward` again, bit for bit.
    pub fn recompute(&self, ctx: &Ctx, p: &Params, x: &Tensor, saved: &rms_norm::Saved) -> Tensor {
        rms_norm::recompute(ctx, x, p[self.weight].f32(), saved)
    }

    /// Hands the gain's gradient to `sink`; the result is `dx [T, D]`.
    pub fn backward(
        &self,
        ctx: &Ctx,
        p: &Params,
        sink: &mut dyn Sink,
        dy: Tensor,
        x: &Tensor,
        saved: rms_norm::Saved,
    ) -> Tensor {
        let dx = rms_norm::backward_input(ctx, &dy, x, p[self.weight].f32(), &saved);
        sink.push(ctx, WeightGrad::RmsNorm { id: self.weight, dy, x: x.clone(), saved });
        dx
    }
}

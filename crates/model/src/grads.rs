//! Where weight gradients go: into buffers at once, or into a queue for a pipeline bubble. A layer does not know which.

use std::sync::Arc;

use ops::{Precision, bias, embedding, gemm, rms_norm};
use tensor::{Ctx, Tensor};

use crate::params::{ParamId, Params};

/// One weight-gradient computation, with all it needs.
pub enum WeightGrad {
    /// `dW [N, K] += dyᵀ x`.
    Linear {
        /// The matrix.
        id: ParamId,
        /// `[T, N]`.
        dy: Tensor,
        /// `[T, K]`.
        x: Tensor,
        /// Of the product.
        precision: Precision,
    },
    /// `dW[e] += dyᵀ x` over the rows of each expert.
    Grouped {
        /// The stacked matrices, `[E, N, K]`.
        id: ParamId,
        /// `[R, N]`, sorted by expert.
        dy: Tensor,
        /// `[R, K]`, sorted by expert.
        x: Tensor,
        /// Where each expert's rows begin, `[E + 1]`.
        offsets: Arc<Vec<usize>>,
        /// Of the products.
        precision: Precision,
    },
    /// `dw [D] += Σ dy ⊙ x · rstd`.
    RmsNorm {
        /// The gain.
        id: ParamId,
        /// `[T, D]`.
        dy: Tensor,
        /// `[T, D]`.
        x: Tensor,
        /// What the norm's forward saved.
        saved: rms_norm::Saved,
    },
    /// `db [N] += Σ dy`.
    Bias {
        /// The bias.
        id: ParamId,
        /// `[T, N]`.
        dy: Tensor,
    },
    /// `dW[ids[t]] += dy[t]`.
    Embedding {
        /// The table, `[V, D]`.
        id: ParamId,
        /// `[T]`.
        ids: Arc<Vec<u32>>,
        /// `[T, D]`.
        dy: Tensor,
    },
}

/// Takes weight gradients as backward produces them.
pub trait Sink {
    /// Computes `task` now or keeps it. Tasks of one parameter are added up in the order they came, so both give the
    /// same bits.
    fn push(&mut self, ctx: &Ctx, task: WeightGrad);
}

/// Gradient buffers, f32, one for each trained parameter.
pub struct Gradients(Vec<Option<Tensor>>);

/// Keeps tasks until [`Deferred::run`].
#[derive(Default)]
pub struct Deferred(Vec<WeightGrad>);

impl Gradients {
    /// Zeros for all trained parameters.
    pub fn new(ctx: &Ctx, params: &Params) -> Self {
        Self(params.all.iter().map(|p| p.kind.is_trained().then(|| ctx.zeros(p.value.shape()))).collect())
    }

    /// The gradient of a trained parameter; none for a routing bias.
    pub fn get(&self, id: ParamId) -> Option<&Tensor> {
        self.0[id.0].as_ref()
    }

    fn get_mut(&mut self, id: ParamId) -> &mut Tensor {
        self.0[id.0].as_mut().expect("only trained parameters have weight gradients")
    }

    /// Sets all to zero, for the next step.
    pub fn clear(&mut self, ctx: &Ctx) {
        for grad in self.0.iter_mut().flatten() {
            ctx.for_each_chunk(grad.data_mut(), 1 << 16, |_, part| part.fill(0.0));
        }
    }
}

impl Sink for Gradients {
    fn push(&mut self, ctx: &Ctx, task: WeightGrad) {
        match task {
            WeightGrad::Linear { id, dy, x, precision } => gemm::tn_add(ctx, &dy, &x, self.get_mut(id), precision),
            WeightGrad::Grouped { id, dy, x, offsets, precision } => {
                gemm::grouped_tn_add(ctx, &dy, &x, &offsets, self.get_mut(id), precision);
            }
            WeightGrad::RmsNorm { id, dy, x, saved } => {
                rms_norm::backward_weight(ctx, &dy, &x, &saved, self.get_mut(id));
            }
            WeightGrad::Bias { id, dy } => bias::backward(ctx, &dy, self.get_mut(id)),
            WeightGrad::Embedding { id, ids, dy } => embedding::backward_weight(ctx, &ids, &dy, self.get_mut(id)),
        }
    }
}

impl Sink for Deferred {
    fn push(&mut self, _: &Ctx, task: WeightGrad) {
        self.0.push(task);
    }
}

impl Deferred {
    /// Runs what was kept, in the order it came.
    pub fn run(self, ctx: &Ctx, grads: &mut Gradients) {
        for task in self.0 {
            grads.push(ctx, task);
        }
    }
}

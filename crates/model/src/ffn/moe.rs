//! A mixture of experts (`spec/model.md` 4; DeepSeek-V3 paper 2.1.2):
//! `y = Σ_{e in top-K} w_e · FFN_e(x) + FFN_shared(x)`.
//!
//! Rows are sorted by expert, so that each expert multiplies its own rows in one piece. Forward applies `w_e` to the
//! expert's output, as transformers does. The down projection is linear, so backward takes the weights at its input: then
//! the gradient of `w_e` is a product of rows of width I that are at hand, and no row of width D need be kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use config::{ModelConfig, Scoring, TopkMethod};
use ops::permute::{self, unpermute};
use ops::{Precision, balance, gemm, gemv, residual, router, row_scale, swiglu};
use tensor::{Ctx, ReadError, Storage, Tensor};

use super::dense::{self, Dense};
use crate::grads::{Sink, WeightGrad};
use crate::names;
use crate::params::{Builder, Kind, ParamId, Params};
use crate::recompute::{Recompute, keep};

/// The parameters of one mixture of E experts of width I.
#[derive(Debug)]
pub struct Moe {
    gate: ParamId,                            // [E, D]
    e_score_correction_bias: Option<ParamId>, // [E]
    gate_up_proj: ParamId,                    // [E, 2 I, D], gate rows first
    down_proj: ParamId,                       // [E, D, I]
    shared_experts: Option<Dense>,
    routing: router::Config,
    /// Rows that inference has given to each expert, `[E]`. Whoever watches over a server reads them while it runs; no
    /// result depends on them.
    load: Vec<AtomicU64>,
}

/// What backward needs beyond the inputs of forward.
pub struct Saved {
    routing: router::Routing,
    plan: permute::Plan,
    gate_up: Tensor,   // [R, 2 I], sorted by expert; R = T K
    h: Option<Tensor>, // [R, I]
    shared: Option<dense::Saved>,
}

/// The sequence-wise balance loss of a batch (`spec/training.md` 1.6).
#[derive(Clone, Copy, Debug)]
pub struct Balance<'a> {
    /// Where each sequence begins, and the end of the last.
    pub cu_seqlens: &'a [usize],
    /// α over the number of sequences of the whole step.
    pub factor: f32,
}

impl Moe {
    pub(crate) fn build<E>(b: &mut Builder<'_, E>, layer: usize, c: &ModelConfig) -> Result<Self, E> {
        let (d, i, e) = (c.hidden_size, c.moe_intermediate_size, c.n_routed_experts);
        let name = |field: &str| names::layer(layer, &format!("mlp.{field}"));
        let expert = |k: usize| name(&format!("experts.{k}"));
        let gate = b.one(name("gate.weight"), &[e, d], Kind::Matrix)?;
        let e_score_correction_bias = (c.topk_method == TopkMethod::NoauxTc)
            .then(|| b.one(name("gate.e_score_correction_bias"), &[e], Kind::RoutingBias))
            .transpose()?;
        let gate_up = (0..e).flat_map(|k| names::gate_up(&expert(k), i, d)).collect();
        let down = (0..e).map(|k| names::down(&expert(k), i, d)).collect();
        let gate_up_proj = b.many(gate_up, &[e, 2 * i, d], Kind::Matrix)?;
        let down_proj = b.many(down, &[e, d, i], Kind::Matrix)?;
        let shared_experts = (c.n_shared_experts > 0)
            .then(|| Dense::build(b, &name("shared_experts"), d, c.shared_intermediate_size()))
            .transpose()?;
        let routing = router::Config {
            n_routed_experts: e,
            num_experts_per_tok: c.num_experts_per_tok,
            n_group: c.n_group,
            topk_group: c.topk_group,
            scoring: match c.scoring_func {
                Scoring::Sigmoid => router::Scoring::Sigmoid,
                Scoring::Softmax => router::Scoring::Softmax,
            },
            method: match c.topk_method {
                TopkMethod::NoauxTc => router::Method::NoauxTc,
                TopkMethod::Greedy => router::Method::Greedy,
                TopkMethod::GroupLimitedGreedy => router::Method::GroupLimitedGreedy,
            },
            norm_topk_prob: c.norm_topk_prob,
            routed_scaling_factor: c.routed_scaling_factor as f32,
        };
        let load = (0..e).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { gate, e_score_correction_bias, gate_up_proj, down_proj, shared_experts, routing, load })
    }

    /// The bias that steers the choice of experts, if this router has one.
    pub fn routing_bias(&self) -> Option<ParamId> {
        self.e_score_correction_bias
    }

    /// `x` is `[T, D]`, the result `[T, D]`.
    pub fn forward(&self, ctx: &Ctx, p: &Params, x: &Tensor, again: Recompute) -> (Tensor, Saved) {
        let logits = gemm::nt(ctx, x, &p[self.gate], Precision::F32); // [T, E]
        let (routing, plan) = self.route(ctx, p, &logits);

        let rows = permute::forward(ctx, x, &plan); // [R, D]
        let gate_up = gemm::grouped_nt(ctx, &rows, &plan.offsets, &p[self.gate_up_proj], p.precision);
        let h = swiglu::forward(ctx, &gate_up);
        let out = gemm::grouped_nt(ctx, &h, &plan.offsets, &p[self.down_proj], p.precision); // [R, D]
        let mut y = unpermute::forward(ctx, &out, &routing.weights, &plan);

        let shared = self.shared_experts.as_ref().map(|ffn| ffn.forward(ctx, p, x, again));
        let shared = shared.map(|(shared, saved)| {
            residual::add(ctx, &mut y, &shared);
            saved
        });
        (y, Saved { routing, plan, gate_up, h: keep(again.swiglu, &h), shared })
    }

    /// The result of forward, for inference: experts that are streamed are brought.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn prefill(&self, ctx: &Ctx, p: &Params, x: &Tensor) -> Result<Tensor, ReadError> {
        let logits = gemm::nt(ctx, x, &p[self.gate], Precision::F32); // [T, E]
        let (routing, plan) = self.route(ctx, p, &logits);
        self.count(&plan);
        let rows = permute::forward(ctx, x, &plan); // [R, D]
        let out = self.each_batch(ctx, p, &rows, &plan.offsets, |rows, offsets, gate_up, down| {
            let gate_up = gemm::grouped_nt(ctx, rows, offsets, gate_up, p.precision);
            let h = swiglu::forward(ctx, &gate_up);
            gemm::grouped_nt(ctx, &h, offsets, down, p.precision)
        })?;
        let mut y = unpermute::forward(ctx, &out, &routing.weights, &plan);
        if let Some(ffn) = &self.shared_experts {
            let (shared, _) = ffn.forward(ctx, p, x, Recompute::ALL);
            residual::add(ctx, &mut y, &shared);
        }
        Ok(y)
    }

    /// The result of forward for the rows of a decoding step, in the order of sums that is fast for few rows. Each expert
    /// that some row chose is read once; the shared experts are read beside them.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn decode(&self, ctx: &Ctx, p: &Params, x: &Tensor) -> Result<Tensor, ReadError> {
        let [t, _] = x.dims();
        let logits = gemv::nt(ctx, x, &p[self.gate], Precision::F32); // [T, E]
        let (routing, plan) = self.route(ctx, p, &logits);
        self.count(&plan);
        let rows = permute::forward(ctx, x, &plan); // [R, D]

        let mut shared = None;
        let out = self.each_batch(ctx, p, &rows, &plan.offsets, |rows, offsets, gate_up, down| {
            // The shared experts go with the first batch.
            let beside = self.shared_experts.as_ref().filter(|_| shared.is_none());
            let all = [0, t];
            let mut products = vec![(rows, offsets, gate_up)];
            products.extend(beside.map(|ffn| (x, &all[..], &p[ffn.gate_up_proj])));
            let gate_up = gemv::many_nt(ctx, &products, p.precision);
            let h: Vec<Tensor> = gate_up.iter().map(|gate_up| swiglu::forward(ctx, gate_up)).collect();
            let mut products = vec![(&h[0], offsets, down)];
            products.extend(beside.map(|ffn| (&h[1], &all[..], &p[ffn.down_proj])));
            let mut out = gemv::many_nt(ctx, &products, p.precision); // [R, D] and [T, D]
            shared = shared.take().or_else(|| beside.and_then(|_| out.pop()));
            out.swap_remove(0)
        })?;
        let mut y = unpermute::forward(ctx, &out, &routing.weights, &plan);
        if let Some(shared) = &shared {
            residual::add(ctx, &mut y, shared);
        }
        Ok(y)
    }

    /// `ffn(rows, offsets, gate_up, down)` over `rows [R, D]` sorted by expert: at once where the experts are at hand; where
    /// they are streamed, some experts at a time, while the next ones are read.
    fn each_batch(
        &self,
        ctx: &Ctx,
        p: &Params,
        rows: &Tensor,
        offsets: &[usize],
        mut ffn: impl FnMut(&Tensor, &[usize], &Storage, &Storage) -> Tensor,
    ) -> Result<Tensor, ReadError> {
        let (gate_up, down) = (&p[self.gate_up_proj], &p[self.down_proj]);
        let (Storage::Streamed(gate_up_source), Storage::Streamed(down_source)) = (gate_up, down) else {
            return Ok(ffn(rows, offsets, gate_up, down));
        };
        let chosen: Vec<usize> = (0..offsets.len() - 1).filter(|&e| offsets[e + 1] > offsets[e]).collect();
        let expert_bytes = gate_up_source.expert_bytes() + down_source.expert_bytes();
        let request = |experts: &[usize]| {
            gate_up_source.request(experts);
            down_source.request(experts);
        };
        let mut out = ctx.empty(rows.shape());
        let [_, d] = rows.dims();
        let mut batches = chosen.chunks(gate_up_source.memory().batch(expert_bytes)).peekable();
        while let Some(batch) = batches.next() {
            request(batch);
            let (Some(gate_up), Some(down)) = (gate_up.bring(batch)?, down.bring(batch)?) else {
                unreachable!("both are streamed")
            };
            batches.peek().into_iter().for_each(|next| request(next));
            // Experts between those of a batch have no rows: the rows of a batch follow one another.
            let first = offsets[batch[0]];
            let mut own: Vec<usize> = batch.iter().map(|&e| offsets[e] - first).collect();
            own.push(offsets[batch[batch.len() - 1] + 1] - first);
            let part = first * d..(first + own[batch.len()]) * d;
            let mut own_rows = ctx.empty([own[batch.len()], d]);
            own_rows.data_mut().copy_from_slice(&rows.data()[part.clone()]);
            out.data_mut()[part].copy_from_slice(ffn(&own_rows, &own, &gate_up, &down).data());
        }
        Ok(out)
    }

    /// Rows that [`Moe::prefill`] and [`Moe::decode`] have given to each expert since the model was built, `[E]`.
    pub fn load(&self) -> Vec<u64> {
        self.load.iter().map(|rows| rows.load(Ordering::Relaxed)).collect()
    }

    /// Adds the rows of a call. Next to the products of the rows these few additions take no time.
    fn count(&self, plan: &permute::Plan) {
        for (load, rows) in self.load.iter().zip(rows_of_experts(plan)).filter(|(_, rows)| *rows > 0) {
            load.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// The bytes of one expert, as it is stored.
    pub(crate) fn expert_bytes(&self, p: &Params) -> u64 {
        [self.gate_up_proj, self.down_proj].iter().map(|&id| p[id].size_bytes()).sum::<u64>()
            / self.routing.n_routed_experts as u64
    }

    fn route(&self, ctx: &Ctx, p: &Params, logits: &Tensor) -> (router::Routing, permute::Plan) {
        let bias = self.e_score_correction_bias.map(|id| p[id].f32().data());
        let routing = router::forward(ctx, logits, bias, &self.routing);
        let [t, k] = routing.weights.dims();
        let plan = permute::Plan::new(&routing.idx, t, k, self.routing.n_routed_experts);
        (routing, plan)
    }

    /// `dy` is `[T, D]`, `x` as in forward; the result is `dx [T, D]` and the balance loss, times its factor.
    pub fn backward(
        &self,
        ctx: &Ctx,
        p: &Params,
        sink: &mut dyn Sink,
        dy: &Tensor,
        x: &Tensor,
        saved: Saved,
        balance: Option<Balance<'_>>,
    ) -> (Tensor, f64) {
        // Computed again if forward did not keep it, and always: the weighted rows and the rows of x, cheap to make.
        let Saved { routing, plan, gate_up, h, shared } = saved;
        let precision = p.precision;
        let offsets = Arc::new(plan.offsets.clone());
        let weights = plan.sort(ctx, &routing.weights);
        let h = h.unwrap_or_else(|| swiglu::forward(ctx, &gate_up));
        let weighted = row_scale::forward(ctx, &h, &weights);
        let rows = permute::forward(ctx, x, &plan);

        let dout = permute::forward(ctx, dy, &plan); // [R, D]
        let dweighted = gemm::grouped_nn(ctx, &dout, &offsets, &p[self.down_proj], precision);
        let task =
            WeightGrad::Grouped { id: self.down_proj, dy: dout, x: weighted, offsets: offsets.clone(), precision };
        sink.push(ctx, task);
        let (dh, dweights) = row_scale::backward(ctx, &dweighted, &h, &weights);
        let dgate_up = swiglu::backward(ctx, &dh, &gate_up);
        let drows = gemm::grouped_nn(ctx, &dgate_up, &offsets, &p[self.gate_up_proj], precision);
        sink.push(ctx, WeightGrad::Grouped { id: self.gate_up_proj, dy: dgate_up, x: rows, offsets, precision });
        let mut dx = permute::backward(ctx, &drows, &plan);

        let dweights = plan.unsort(ctx, &dweights); // [T, K]
        let balance = balance.map(|b| {
            let k = self.routing.num_experts_per_tok;
            balance::forward_backward(ctx, &routing.scores, b.cu_seqlens, k, b.factor)
        });
        let dscores = balance.as_ref().map(|(_, dscores)| dscores);
        let dlogits = router::backward(ctx, &dweights, dscores, &routing, &self.routing);
        residual::add(ctx, &mut dx, &gemm::nn(ctx, &dlogits, &p[self.gate], Precision::F32));
        sink.push(ctx, WeightGrad::Linear { id: self.gate, dy: dlogits, x: x.clone(), precision: Precision::F32 });

        if let (Some(ffn), Some(saved)) = (&self.shared_experts, shared) {
            residual::add(ctx, &mut dx, &ffn.backward(ctx, p, sink, dy, x, saved));
        }
        (dx, balance.map_or(0.0, |(loss, _)| loss))
    }
}

impl Saved {
    /// The experts chosen for each token, ascending, `[T K]`, and their weights `[T, K]`.
    pub fn choices(&self) -> (&[u32], &Tensor) {
        (&self.routing.idx, &self.routing.weights)
    }

    /// How many rows each expert got, `[E]`.
    pub fn load(&self) -> impl Iterator<Item = u64> {
        rows_of_experts(&self.plan)
    }
}

fn rows_of_experts(plan: &permute::Plan) -> impl Iterator<Item = u64> {
    plan.offsets.windows(2).map(|o| (o[1] - o[0]) as u64)
}

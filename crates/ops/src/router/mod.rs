#![doc = include_str!("README.md")]

pub mod cases;
pub(crate) mod cpu;
pub mod reference;
mod select;
#[cfg(test)]
mod tests;

pub(crate) use select::top_k;
use tensor::{Ctx, Tensor};

/// How experts are scored, chosen and weighted. Field names are those of Hugging Face's configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// `E`.
    pub n_routed_experts: usize,
    /// `K`.
    pub num_experts_per_tok: usize,
    /// Into how many equal runs of experts the limit of groups divides them.
    pub n_group: usize,
    /// From how many groups a token may choose.
    pub topk_group: usize,
    /// From logits to scores.
    pub scoring: Scoring,
    /// From scores to a choice and its weights.
    pub method: Method,
    /// Whether the weights of a token are divided by their sum.
    pub norm_topk_prob: bool,
    /// The factor on the weights.
    pub routed_scaling_factor: f32,
}

/// From logits to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// The logistic function, expert by expert.
    Sigmoid,
    /// Softmax over all experts.
    Softmax,
}

/// How experts are chosen from scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// DeepSeek-V3: a bias in the choice, groups by their two best.
    NoauxTc,
    /// DeepSeek-V2-Lite: the largest scores.
    Greedy,
    /// DeepSeek-V2: groups by their best.
    GroupLimitedGreedy,
}

/// What the router decided, and what its backward needs.
#[derive(Clone, Debug)]
pub struct Routing {
    /// `[T, K]`: the experts of each token, ascending.
    pub idx: Vec<u32>,
    /// `[T, K]`: their weights.
    pub weights: Tensor,
    /// `[T, E]`: the scores of all experts, without the bias.
    pub scores: Tensor,
}

/// `logits` is `[T, E]`; `bias [E]` enters the choice of [`Method::NoauxTc`] and nothing else.
pub fn forward(ctx: &Ctx, logits: &Tensor, bias: Option<&[f32]>, config: &Config) -> Routing {
    let [t, e] = logits.dims();
    check(logits, config);
    assert!(bias.is_none_or(|b| b.len() == e), "router: the bias does not have {e} elements");
    assert!(bias.is_none() || config.method == Method::NoauxTc, "router: a bias belongs to noaux_tc alone");
    let k = config.num_experts_per_tok;
    let mut idx = vec![0; t * k];
    let (mut weights, mut scores) = (ctx.empty([t, k]), ctx.empty([t, e]));
    let mut tasks: Vec<_> = scores
        .data_mut()
        .chunks_mut(ROWS * e)
        .zip(weights.data_mut().chunks_mut(ROWS * k))
        .zip(idx.chunks_mut(ROWS * k))
        .zip(logits.data().chunks(ROWS * e))
        .collect();
    ctx.for_each_chunk(&mut tasks, 1, |_, tasks| {
        for (((scores, weights), idx), logits) in tasks {
            match config.scoring {
                Scoring::Sigmoid => cpu::sigmoid(ctx.isa, logits, scores),
                Scoring::Softmax => cpu::softmax(ctx.isa, logits, e, scores),
            }
            let mut select = select::Select::new(config);
            let rows = scores.chunks_exact(e).zip(weights.chunks_exact_mut(k)).zip(idx.chunks_exact_mut(k));
            for ((scores, weights), idx) in rows {
                select.choose(scores, bias, idx);
                for (weight, &expert) in weights.iter_mut().zip(&*idx) {
                    *weight = scores[expert as usize];
                }
                let (divide, factor) = config.weighting();
                let by = if divide { weights.iter().sum::<f32>() + EPSILON } else { 1.0 };
                for weight in weights {
                    *weight = *weight / by * factor;
                }
            }
        }
    });
    Routing { idx, weights, scores }
}

/// `dweights` is `[T, K]`; `dscores_extra [T, E]` is the gradient that the scores receive elsewhere, from the balance loss.
/// The result is `dlogits [T, E]`.
pub fn backward(
    ctx: &Ctx,
    dweights: &Tensor,
    dscores_extra: Option<&Tensor>,
    routing: &Routing,
    config: &Config,
) -> Tensor {
    let Routing { idx, weights, scores } = routing;
    let [_, e] = scores.dims();
    let k = config.num_experts_per_tok;
    check(scores, config);
    assert_eq!(dweights.shape(), weights.shape(), "router: dweights {dweights:?} and weights {weights:?} differ");
    if let Some(extra) = dscores_extra {
        assert_eq!(extra.shape(), scores.shape(), "router: dscores {extra:?} and scores {scores:?} differ");
    }
    let mut dlogits = ctx.empty(scores.shape());
    ctx.for_each_chunk(dlogits.data_mut(), ROWS * e, |task, dlogits| {
        // First the gradient of the scores, in place of that of the logits.
        match dscores_extra {
            Some(extra) => dlogits.copy_from_slice(&extra.data()[task * ROWS * e..][..dlogits.len()]),
            None => dlogits.fill(0.0),
        }
        let (divide, factor) = config.weighting();
        for (i, dscores) in dlogits.chunks_exact_mut(e).enumerate() {
            let t = task * ROWS + i;
            let (idx, s) = (&idx[t * k..][..k], scores.row(t));
            let (dweights, weights) = (dweights.row(t), weights.row(t));
            let (mut through_sum, mut by) = (0.0, 1.0);
            if divide {
                through_sum = dweights.iter().zip(weights).map(|(dw, w)| dw * w).sum();
                by = idx.iter().map(|&expert| s[expert as usize]).sum::<f32>() + EPSILON;
            }
            for (dw, &expert) in dweights.iter().zip(idx) {
                dscores[expert as usize] += (factor * dw - through_sum) / by;
            }
        }
        let scores = &scores.data()[task * ROWS * e..][..dlogits.len()];
        match config.scoring {
            Scoring::Sigmoid => cpu::sigmoid_backward(ctx.isa, scores, dlogits),
            Scoring::Softmax => cpu::softmax_backward(ctx.isa, scores, e, dlogits),
        }
    });
    dlogits
}

/// How many tokens chose each of `e` experts.
pub fn counts(idx: &[u32], e: usize) -> Vec<u64> {
    let mut counts = vec![0; e];
    for &expert in idx {
        counts[expert as usize] += 1;
    }
    counts
}

impl Config {
    /// Whether weights are divided by their sum, and the factor on them.
    fn weighting(&self) -> (bool, f32) {
        match self.method {
            Method::NoauxTc => (self.norm_topk_prob, self.routed_scaling_factor),
            Method::Greedy | Method::GroupLimitedGreedy if self.norm_topk_prob && self.num_experts_per_tok > 1 => {
                (true, 1.0)
            }
            Method::Greedy | Method::GroupLimitedGreedy => (false, self.routed_scaling_factor),
        }
    }
}

/// Keeps the sum of weights that all underflowed from dividing by zero.
pub(crate) const EPSILON: f32 = 1e-20;

/// Rows per task.
const ROWS: usize = 32;

fn check(logits: &Tensor, config: &Config) {
    let [_, e] = logits.dims();
    let &Config { n_routed_experts, num_experts_per_tok: k, n_group, topk_group, .. } = config;
    assert_eq!(e, n_routed_experts, "router: {logits:?} is not of {n_routed_experts} experts");
    let groups = n_group > 0 && e.is_multiple_of(n_group) && (1..=n_group).contains(&topk_group);
    assert!(groups, "router: {e} experts do not form {n_group} groups of which {topk_group} are kept");
    assert!((1..=topk_group * (e / n_group)).contains(&k), "router: {k} experts cannot be chosen with {config:?}");
}

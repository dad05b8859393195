//! One optimizer step, in the order of `spec/training.md` 1.10.

use config::recipe::{FloatType, Recipe};
use data::Batch;
use model::{Gradients, Model, Outcome, Recompute, Scales};
use ops::Precision;
use tensor::Ctx;

use crate::optimizer::{Optimizer, grad_norm};

/// What the schedules say for a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scheduled {
    /// Learning rate.
    pub lr: f64,
    /// λ, the weight of the MTP loss.
    pub mtp_lambda: f64,
    /// γ, the speed of the routing bias.
    pub bias_update_speed: f64,
    /// Sequences of the step.
    pub sequences: usize,
}

/// What a step measured; losses are means over the step's targets, in nats.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The objective.
    pub loss: f64,
    /// Next-token cross-entropy.
    pub main_loss: f64,
    /// MTP cross-entropy, averaged over depths, before λ.
    pub mtp_loss: Option<f64>,
    /// Sequence-wise balance loss, with α.
    pub balance_loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Rows routed to each expert of each mixture layer.
    pub expert_load: Vec<Vec<u64>>,
}

/// What the operands of a run's products are rounded to.
pub fn precision(recipe: &Recipe) -> Precision {
    match recipe.train.precision {
        FloatType::F32 => Precision::F32,
        FloatType::Bf16 => Precision::Bf16,
    }
}

/// The schedules of a step that begins after `steps` steps and `tokens` consumed tokens.
pub fn scheduled(recipe: &Recipe, steps: u64, tokens: u64) -> Scheduled {
    Scheduled {
        lr: recipe.lr_at(steps, tokens),
        mtp_lambda: recipe.lambda_at(tokens),
        bias_update_speed: recipe.gamma_at(tokens),
        sequences: recipe.batch_at(tokens),
    }
}

/// Forward and backward over all rows of `batch`, micro-batch by micro-batch. Gradients are left in `grads`, which are
/// cleared first; no weight changes.
pub fn forward_backward(
    ctx: &Ctx,
    model: &Model,
    grads: &mut Gradients,
    recipe: &Recipe,
    now: Scheduled,
    batch: &Batch,
) -> Measured {
    let targets = batch.scored().max(1) as f64;
    let depth = model.mtp_depth();
    let mtp_weight = now.mtp_lambda / depth.max(1) as f64;
    let scales = Scales {
        main: (1.0 / targets) as f32,
        mtp: (mtp_weight / targets) as f32,
        balance: (recipe.loss.balance_alpha / batch.rows as f64) as f32,
    };
    let again = Recompute {
        rms_norm: recipe.recompute.rms_norm,
        mla_up: recipe.recompute.mla_up,
        swiglu: recipe.recompute.swiglu,
    };
    let mut sum = Outcome::default();
    grads.clear(ctx);
    for part in batch.micro_batches(recipe.train.micro_batch) {
        let rows = model::Batch { tokens: &part.tokens, labels: &part.labels, seq_len: part.seq_len };
        sum.add(model.forward_backward(ctx, rows, scales, again, grads));
    }

    let main_loss = sum.main / targets;
    let mtp_loss = (depth > 0).then(|| sum.mtp.iter().sum::<f64>() / (depth as f64 * targets));
    Measured {
        loss: main_loss + now.mtp_lambda * mtp_loss.unwrap_or(0.0) + sum.balance,
        main_loss,
        mtp_loss,
        balance_loss: sum.balance,
        grad_norm: grad_norm(ctx, &model.params, grads),
        expert_load: sum.expert_load,
    }
}

/// Clips, updates the weights, and moves the routing biases by the loads of the whole step.
pub fn update(
    ctx: &Ctx,
    model: &mut Model,
    optimizer: &mut Optimizer,
    grads: &Gradients,
    recipe: &Recipe,
    now: Scheduled,
    measured: &Measured,
) {
    optimizer.step(ctx, &mut model.params, grads, &recipe.optim, now.lr, measured.grad_norm);
    for (id, load) in model.routing_biases().into_iter().zip(&measured.expert_load) {
        let Some(id) = id else { continue };
        let bias = model.params.all[id.0].value.f32_mut().data_mut();
        let total: u64 = load.iter().sum();
        for (bias, &count) in bias.iter_mut().zip(load) {
            // sign(mean − count), compared as integers: both sides times the number of experts.
            let direction = total.cmp(&(count * load.len() as u64)) as i8;
            *bias += now.bias_update_speed as f32 * f32::from(direction);
        }
    }
}

/// `max_i load_i / mean(load) − 1`: 0 is perfect balance (`spec/training.md` 1.7).
pub fn max_vio(load: &[u64]) -> f64 {
    let total: u64 = load.iter().sum();
    let most = load.iter().max().copied().unwrap_or(0);
    if total == 0 { 0.0 } else { most as f64 * load.len() as f64 / total as f64 - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_vio_is_the_excess_of_the_busiest_expert() {
        assert_eq!(max_vio(&[5, 5, 5, 5]), 0.0);
        assert_eq!(max_vio(&[20, 0, 0, 0]), 3.0);
        assert_eq!(max_vio(&[]), 0.0);
    }
}

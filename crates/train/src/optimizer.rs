//! AdamW over all parameters, with gradients clipped by their global norm (`spec/training.md` 1.2, 1.10).

use config::recipe::{FloatType, Optim};
use model::{Gradients, ParamId, Params};
use ops::adamw::{self, Hyper, Moments};
use tensor::Ctx;

/// The moments of every trained parameter, and how many updates they have seen. The f32 weights of the model are the
/// master weights.
pub struct Optimizer {
    /// By parameter; none for a routing bias.
    pub moments: Vec<Option<Moments>>,
    /// Updates so far.
    pub steps: u64,
}

impl Optimizer {
    /// Zero moments.
    pub fn new(params: &Params, storage: FloatType) -> Self {
        let zeros = |len: usize| match storage {
            FloatType::F32 => Moments::f32(len),
            FloatType::Bf16 => Moments::bf16(len),
        };
        let moments = params.all.iter().map(|p| p.kind.is_trained().then(|| zeros(p.value.shape().len()))).collect();
        Self { moments, steps: 0 }
    }

    /// One update of all trained parameters; `lr` is this step's rate and `grad_norm` the norm of `grads`.
    pub fn step(
        &mut self,
        ctx: &Ctx,
        params: &mut Params,
        grads: &Gradients,
        settings: &Optim,
        lr: f64,
        grad_norm: f64,
    ) {
        self.steps += 1;
        // 1e-6 keeps the quotient finite; with it a gradient at the limit shrinks by a millionth (`spec` 1.2).
        let grad_scale = (settings.clip_norm / (grad_norm + 1e-6)).min(1.0);
        let ids = (0..).map(ParamId);
        for ((id, param), moments) in ids.zip(&mut params.all).zip(&mut self.moments) {
            let (Some(grad), Some(moments)) = (grads.get(id), moments) else { continue };
            let hyper = Hyper {
                lr,
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.eps,
                weight_decay: if param.kind.decays() { settings.weight_decay } else { 0.0 },
                step: self.steps,
                grad_scale,
            };
            adamw::step(ctx, param.value.f32_mut(), grad, moments, &hyper);
        }
    }
}

/// The L2 norm of all gradients together, each parameter counted once.
pub fn grad_norm(ctx: &Ctx, params: &Params, grads: &Gradients) -> f64 {
    params.ids().filter_map(|id| grads.get(id)).map(|g| adamw::sum_of_squares(ctx, g)).sum::<f64>().sqrt()
}

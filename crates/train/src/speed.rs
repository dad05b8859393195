//! How fast this machine takes the steps of a recipe.

use config::Recipe;
use data::{Batch, IGNORE, Origin};
use model::{Gradients, Model};
use ops::bench::Spread;
use tensor::{Ctx, Rng};

use crate::error::Result;
use crate::optimizer::Optimizer;
use crate::step;

/// How long steps take.
#[derive(Clone, Debug)]
pub struct Speed {
    /// Tokens of a step.
    pub tokens: usize,
    /// Seconds of a step.
    pub seconds: Spread,
}

/// Steps that are not counted: they meet empty caches and buffers.
const WARM_UP: usize = 2;
/// Steps that are counted, at least.
const STEPS: usize = 5;
/// How long to go on, at least.
const SECONDS: f64 = 3.0;

impl Speed {
    /// Tokens a second.
    pub fn tokens_per_s(&self) -> Spread {
        self.seconds.rate_of(self.tokens as f64)
    }
}

/// Times whole steps on random tokens. The routing of a fresh model is near uniform, which is what a trained one is held
/// to.
///
/// # Errors
/// When the recipe's model is refused.
pub fn measure(ctx: &Ctx, recipe: &Recipe) -> Result<Speed> {
    let config = recipe.model_config()?;
    let mut model = Model::random(&config, recipe.model.init_std, recipe.seed).with_precision(step::precision(recipe));
    let mut optimizer = Optimizer::new(&model.params, recipe.optim.moments);
    let mut grads = Gradients::new(ctx, &model.params);
    let now = step::scheduled(recipe, 0, 0);
    let tokens = now.sequences * recipe.data.seq_len;
    let mut rng = Rng::new(recipe.seed, "speed", 0);
    let ids: Vec<u32> = (0..=tokens).map(|_| rng.below(config.vocab_size as u64) as u32).collect();
    let mut labels = ids[1..].to_vec();
    labels.iter_mut().skip(recipe.data.seq_len - 1).step_by(recipe.data.seq_len).for_each(|l| *l = IGNORE);
    let batch = Batch {
        tokens: ids[..tokens].to_vec(),
        labels,
        rows: now.sequences,
        seq_len: recipe.data.seq_len,
        first_sequence: 0,
        origins: vec![Origin { source: 0, epoch: 0, row: 0 }; now.sequences],
    };

    let mut take = || {
        let measured = step::forward_backward(ctx, &model, &mut grads, recipe, now, &batch);
        step::update(ctx, &mut model, &mut optimizer, &grads, recipe, now, &measured);
    };
    (0..WARM_UP).for_each(|_| take());
    Ok(Speed { tokens, seconds: Spread::of_seconds(STEPS, SECONDS, take) })
}

//! How fast this machine takes the steps of a recipe.

use std::time::Instant;

use config::Recipe;
use data::{Batch, IGNORE, Origin};
use model::{Gradients, Model};
use tensor::{Ctx, Rng};

use crate::error::Result;
use crate::optimizer::Optimizer;
use crate::step;

/// f32 operations per second that the context's threads reach at most, measured.
pub fn peak_flops(ctx: &Ctx) -> f64 {
    ops::peak::flops(ctx)
}

/// Tokens per second of whole steps on random tokens: the median of some seconds of steps. The routing of a fresh model
/// is near uniform, which is what a trained one is held to.
///
/// # Errors
/// When the recipe's model is refused.
pub fn tokens_per_s(ctx: &Ctx, recipe: &Recipe) -> Result<f64> {
    const SECONDS: f64 = 3.0;
    let config = recipe.model_config()?;
    let mut model = Model::random(&config, recipe.model.init_std, recipe.seed);
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

    let mut seconds = Vec::new();
    let begin = Instant::now();
    // The first steps meet empty caches and buffers.
    while seconds.len() < 5 || begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        let measured = step::forward_backward(ctx, &model, &mut grads, recipe, now, &batch);
        step::update(ctx, &mut model, &mut optimizer, &grads, recipe, now, &measured);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(tokens as f64 / seconds[seconds.len() / 2])
}

//! The quickstart's recipe: V3's full shape in small, for as many tokens as the minutes allow.

use anyhow::Result;
use config::Recipe;
use tensor::Ctx;

use super::corpus::VOCAB_SIZE;
use crate::args::Quickstart;

/// Of the minutes asked for, what goes to training steps; the rest is for validation, samples, saving and evaluation.
const SHARE: f64 = 0.9;
/// Too few to learn anything, but enough to show everything.
const LEAST_TOKENS: u64 = 65_536;

/// How many tokens this machine trains on in the time.
pub(super) fn tokens(args: &Quickstart, threads: usize) -> Result<u64> {
    let speed = train::speed::measure(&Ctx::new(threads)?, &resolved(args, threads, LEAST_TOKENS)?)?;
    Ok(((args.minutes * 60.0 * SHARE * speed.tokens_per_s().median()) as u64).max(LEAST_TOKENS))
}

/// The recipe for `tokens` tokens.
pub(super) fn resolved(args: &Quickstart, threads: usize, tokens: u64) -> Result<Recipe> {
    let mut recipe = Recipe::from_toml_str(&text(args.seed, tokens), &std::env::current_dir()?.join(&args.out), &[])?;
    recipe.threads = threads;
    Ok(recipe)
}

fn text(seed: u64, tokens: u64) -> String {
    let steps = tokens / 1024;
    let every = (steps / 12).max(1);
    format!(
        r#"
seed = {seed}
out = "."

[model]
preset = "nano"
[model.set]
vocab_size = {VOCAB_SIZE}

[tokenizer]
path = "tokenizer"

[data]
seq_len = 128
held_out = 0.005
[[data.sources]]
name = "registers"
paths = ["corpus/registers.jsonl"]
weight = 0.96
control_tokens = true
[[data.sources]]
name = "project"
paths = ["corpus/project.jsonl"]
weight = 0.04
control_tokens = true

[train]
total_tokens = {tokens}
micro_batch = 8
[batch]
end = 8

[lr]
peak = 3e-3
warmup_steps = 100
phases = [
    {{ until_fraction = 0.6, shape = "constant", to = 3e-3 }},
    {{ until_fraction = 1.0, shape = "linear", to = 1e-4 }},
]

[loss]
mtp_lambda = [{{ until_fraction = 0.67, value = 0.3 }}, {{ until_fraction = 1.0, value = 0.1 }}]
balance_alpha = 1e-4
bias_update_speed = [{{ until_fraction = 0.95, value = 1e-3 }}, {{ until_fraction = 1.0, value = 0.0 }}]

[validation]
every_steps = {every}
sequences = 128
[samples]
every_steps = {every}
prompts = ["47+38=", "copy k d q x ->", "sort fox ant sun ->"]
max_tokens = 12
temperature = 0.0
[checkpoint]
every_steps = {every}
keep_last = 2
dtype = "f32"
[log]
every_steps = 5
"#
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_recipe_is_accepted_whatever_the_size() {
        for tokens in [LEAST_TOKENS, 7_000_000, 1_000_000_000] {
            let recipe = Recipe::from_toml_str(&text(1, tokens), Path::new("/nowhere"), &[]).unwrap();
            assert_eq!(recipe.train.total_tokens, tokens);
            recipe.model_config().unwrap();
        }
    }
}

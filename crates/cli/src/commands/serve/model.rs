//! A model directory, as a server wants it.

use std::path::Path;

use engine::Sampling;
use server::{LoadError, Parts};

use crate::args::Compute;
use crate::load;

pub(crate) fn load(dir: &Path, compute: Compute) -> Result<Parts, LoadError> {
    let said = |error: anyhow::Error| LoadError(format!("{error:#}"));
    let identity = super::identity::of(dir, compute).map_err(said)?;
    let latents_identity = super::identity::with_times(identity, dir).map_err(said)?;
    let loaded = load::everything(dir, compute).map_err(said)?;
    let (stop, generation) = (loaded.stop_ids(), &loaded.generation);
    // What generation_config.json does not say is as OpenAI's interface has it: temperature 1 and nothing else.
    let off = Sampling::default();
    let defaults = Sampling {
        temperature: generation.temperature.unwrap_or(1.0),
        top_k: generation.top_k.unwrap_or(off.top_k),
        top_p: generation.top_p.unwrap_or(off.top_p),
        repetition_penalty: generation.repetition_penalty.unwrap_or(off.repetition_penalty),
        ..off
    };
    Ok(Parts {
        add_bos: loaded.tokenizer_config.add_bos_token == Some(true),
        model: loaded.model,
        tokenizer: loaded.tokenizer,
        template: loaded.template,
        defaults,
        stop,
        identity,
        latents_identity,
    })
}

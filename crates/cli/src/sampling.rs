//! Requests from arguments, and answers as a stream of text.

use std::io::Write;

use anyhow::Result;
use engine::{Finish, Request, Sampling, Sequence};
use tensor::Ctx;
use tokenizer::{DecodeStream, StopText};

use crate::args::SamplingArgs;
use crate::load::Loaded;

/// The request for `prompt`: arguments first, then the model's generation defaults, then none.
pub(crate) fn request(loaded: &Loaded, args: &SamplingArgs, prompt: Vec<u32>) -> Request {
    let defaults = &loaded.generation;
    // A model that does not ask for sampling answers greedily.
    let temperature = if defaults.do_sample { defaults.temperature.unwrap_or(1.0) } else { 0.0 };
    let off = Sampling::default();
    Request {
        sampling: Sampling {
            temperature: args.temperature.unwrap_or(temperature),
            top_k: args.top_k.or(defaults.top_k).unwrap_or(off.top_k),
            top_p: args.top_p.or(defaults.top_p).unwrap_or(off.top_p),
            min_p: args.min_p.unwrap_or(off.min_p),
            repetition_penalty: args
                .repetition_penalty
                .or(defaults.repetition_penalty)
                .unwrap_or(off.repetition_penalty),
            presence_penalty: args.presence_penalty.unwrap_or(off.presence_penalty),
            frequency_penalty: args.frequency_penalty.unwrap_or(off.frequency_penalty),
        },
        seed: args.seed,
        stop: loaded.stop_ids(),
        vocab_limit: loaded.tokenizer.vocab_size(),
        ..Request::new(prompt, args.max_tokens)
    }
}

/// What an answer was.
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) finish: Finish,
}

/// Runs a started sequence to the end of its answer; text goes to `out` as soon as it is certain.
pub(crate) fn stream(
    ctx: &Ctx,
    loaded: &Loaded,
    sequence: &mut Sequence,
    stops: &[String],
    out: &mut dyn Write,
) -> Result<Answer> {
    let mut decoder = DecodeStream::new(&loaded.tokenizer, true);
    let mut until = StopText::new(stops);
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut send = |piece: String| {
        text += &piece;
        out.write_all(piece.as_bytes()).and_then(|()| out.flush())
    };
    while let Some(token) = sequence.draw(ctx)? {
        tokens.push(token);
        send(until.push(&decoder.push(token).unwrap_or_default()))?;
        if until.has_stopped() {
            sequence.stop();
            break;
        }
        engine::advance(ctx, &loaded.model, &[token], &mut [&mut *sequence])?;
    }
    send(until.push(&decoder.finish().unwrap_or_default()))?;
    send(until.rest())?;
    Ok(Answer { tokens, text, finish: sequence.finish().unwrap_or(Finish::Stop) })
}

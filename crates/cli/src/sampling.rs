//! Requests from arguments, and answers as a stream of text.

use std::io::Write;

use anyhow::Result;
use engine::{Finish, Request, Sampling, Sequence};
use tensor::Ctx;
use tokenizer::DecodeStream;

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
    let mut text = StopText::new(stops);
    let mut tokens = Vec::new();
    let mut send = |piece: &str| out.write_all(piece.as_bytes()).and_then(|()| out.flush());
    while let Some(token) = sequence.draw(ctx)? {
        tokens.push(token);
        send(&text.push(&decoder.push(token).unwrap_or_default()))?;
        if text.stopped {
            sequence.stop();
            break;
        }
        engine::advance(ctx, &loaded.model, &[token], &mut [&mut *sequence])?;
    }
    send(&text.push(&decoder.finish().unwrap_or_default()))?;
    send(&text.rest())?;
    let StopText { text, .. } = text;
    Ok(Answer { tokens, text, finish: sequence.finish().unwrap_or(Finish::Stop) })
}

/// Text up to a stop string, with the characters held back that may turn out to begin one.
struct StopText<'a> {
    stops: &'a [String],
    text: String,
    sent: usize,
    stopped: bool,
}

impl<'a> StopText<'a> {
    fn new(stops: &'a [String]) -> Self {
        Self { stops, text: String::new(), sent: 0, stopped: false }
    }

    /// Adds `piece`; gives the text that is now certain.
    fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.text.push_str(piece);
        let found = self.stops.iter().filter(|s| !s.is_empty()).filter_map(|s| self.text.find(s.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(at);
            self.stopped = true;
            return self.rest();
        }
        self.send(self.text.len() - self.held())
    }

    /// What was held back.
    fn rest(&mut self) -> String {
        self.send(self.text.len())
    }

    /// The bytes at the end of the text that begin a stop string.
    fn held(&self) -> usize {
        let begins = |stop: &str| {
            (1..stop.len()).rev().filter(|&n| stop.is_char_boundary(n)).find(|&n| self.text.ends_with(&stop[..n]))
        };
        self.stops.iter().filter_map(|stop| begins(stop)).max().unwrap_or(0)
    }

    fn send(&mut self, to: usize) -> String {
        // A stop string cannot begin before what has been sent: its beginning would have been held back.
        let piece = self.text[self.sent..to.max(self.sent)].to_owned();
        self.sent = to.max(self.sent);
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_string_is_never_shown_however_it_is_cut() {
        let stops = ["END".to_owned(), "\n\n".to_owned()];
        for (text, want) in [("one two ENDthree", "one two "), ("a\n\nb", "a"), ("ENERGY", "ENERGY"), ("x EN", "x EN")]
        {
            for cut in 1..=text.len() {
                let mut stream = StopText::new(&stops);
                let mut shown = String::new();
                for piece in text.as_bytes().chunks(cut) {
                    shown += &stream.push(std::str::from_utf8(piece).unwrap());
                }
                shown += &stream.rest();
                assert_eq!(shown, want, "{text:?} in pieces of {cut}");
            }
        }
    }
}

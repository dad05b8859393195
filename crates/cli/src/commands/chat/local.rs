use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use engine::Sequence;
use tensor::Ctx;
use tokenizer::{ChatOptions, Message};

use super::Partner;
use crate::args::SamplingArgs;
use crate::load::Loaded;
use crate::sampling::{request, stream};

/// The messages so far, and the sequence that has seen a part of them.
pub(super) struct Conversation<'a> {
    ctx: &'a Ctx,
    loaded: &'a Loaded,
    args: &'a SamplingArgs,
    messages: Vec<Message>,
    sequence: Option<Sequence>,
    /// The tokens in the sequence's cache.
    seen: Vec<u32>,
    stats: Option<String>,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(ctx: &'a Ctx, loaded: &'a Loaded, args: &'a SamplingArgs, system: Option<&str>) -> Self {
        let (messages, seen) = (Vec::new(), Vec::new());
        let mut conversation = Self { ctx, loaded, args, messages, sequence: None, seen, stats: None };
        conversation.restart(system);
        conversation
    }
}

impl Partner for Conversation<'_> {
    fn turn(&mut self, text: &str) -> Result<()> {
        let Self { ctx, loaded, args, .. } = *self;
        let started = Instant::now();
        self.messages.push(Message::new("user", text));
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let ids = loaded.template.encode(&loaded.tokenizer, &self.messages, &options)?;
        // The cache goes on where the template prints what it has seen, token for token, and more; some templates
        // change earlier turns, and text may split into other tokens than the model chose.
        let mut known = 0;
        let mut sequence = match (self.sequence.take(), ids.strip_prefix(self.seen.as_slice())) {
            (Some(mut sequence), Some(rest)) if !rest.is_empty() => {
                known = self.seen.len();
                sequence.resume(ctx, &loaded.model, rest)?;
                sequence
            }
            _ => Sequence::start(ctx, &loaded.model, request(loaded, args, ids.clone()))?,
        };
        let read = started.elapsed();
        let mut out = std::io::stdout().lock();
        let answer = stream(ctx, loaded, &mut sequence, &args.stop, &mut out)?;
        out.write_all(b"\n")?;
        let seconds = started.elapsed().saturating_sub(read).as_secs_f64();
        self.stats = Some(format!(
            "prompt of {} tokens, {known} known before, read in {:.2} s; answer of {} tokens, {:.1} a second",
            ids.len(),
            read.as_secs_f64(),
            answer.tokens.len(),
            answer.tokens.len() as f64 / seconds.max(f64::MIN_POSITIVE)
        ));
        self.seen = ids;
        self.seen.extend(&answer.tokens);
        // A token that ended the answer by a stop string was drawn and never entered the cache.
        self.seen.truncate(sequence.len());
        self.messages.push(Message::new("assistant", answer.text));
        self.sequence = Some(sequence);
        Ok(())
    }

    fn restart(&mut self, system: Option<&str>) {
        self.messages = system.map(|text| Message::new("system", text)).into_iter().collect();
        self.sequence = None;
        self.seen.clear();
    }

    fn stats(&self) -> Option<String> {
        self.stats.clone()
    }
}

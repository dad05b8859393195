//! Running over prompts: which parts of them a step takes, and one run over all of these parts.

use std::ops::Range;
use std::slice;
use std::time::Instant;

use model::{BLOCK_TOKENS, Model, PREFILL_CHUNK, Told, rows_of};
use tensor::{Ctx, Tensor};

use super::{Engine, Job, Outlook, Phase, Running, outlooks};
use crate::error::Error;
use crate::event::Event;
use crate::logprobs;
use crate::request::Request;

impl Engine<'_> {
    /// Runs over prompts, first come, first served, and over answers whose requests had made room, as many tokens as a step may
    /// have. Parts of several prompts are gathered for one run: the more rows an expert gets, the less it costs to read it.
    pub(super) fn prefill(&mut self) {
        let mut budget = self.limits.prefill_tokens.max(1);
        let mut restores = self.disk.as_ref().map_or(0, |disk| disk.step_bytes());
        let mut gathered = 0;
        let mut i = 0;
        while budget > 0 && i < self.running.len() {
            if matches!(self.running[i].phase, Phase::New) {
                if self.learns_from_parts(i) {
                    self.run_parts();
                    gathered = 0;
                }
                self.find(i);
            }
            // Those behind it wait, lest they read the same blocks.
            if !self.restore(i, &mut restores) {
                break;
            }
            let running = &self.running[i];
            if !matches!(running.phase, Phase::Prompt) {
                i += 1;
                continue;
            }
            let Running { job, cache, .. } = running;
            let (prompt, done) = (job.request.prompt.len(), cache.len());
            // A part is of the prompt or of the answer, as the two take different forms.
            let is_prompt = done < prompt;
            let n = if is_prompt {
                (prompt - done).min(PREFILL_CHUNK - gathered)
            } else {
                prompt + job.answer.len() - done
            };
            let n = n.min(budget);
            self.make_room(|running| running.get(i).map_or(0, |running| running.more_blocks(n)));
            if i >= self.running.len() {
                // The last ones had to go, this one among them.
                break;
            }
            budget -= n;
            if !is_prompt {
                self.answer_part(i, n);
                continue;
            }
            self.running[i].part = n;
            gathered += n;
            if gathered == PREFILL_CHUNK {
                self.run_parts();
                gathered = 0;
            } else {
                i += 1;
            }
        }
        self.run_parts();
    }

    /// Whether a prompt that nothing is known of will find more blocks when the parts that are gathered have been run over.
    fn learns_from_parts(&self, i: usize) -> bool {
        let job = &self.running[i].job;
        let (salt, tokens) = (job.request.salt, &job.request.prompt[..job.knowable()]);
        let known = self.prefixes.known(salt, tokens);
        self.running.iter().filter(|other| other.part > 0 && other.job.request.salt == salt).any(|other| {
            let done = &other.job.request.prompt[..other.cache.len() + other.part];
            let blocks = tokens.chunks_exact(BLOCK_TOKENS).zip(done.chunks_exact(BLOCK_TOKENS));
            blocks.take_while(|(a, b)| a == b).count() > known
        })
    }

    /// What the cache already has of a prompt, as far as its logits are not wanted.
    fn find(&mut self, i: usize) {
        let Running { job, cache, pin, shared, phase, .. } = &mut self.running[i];
        let prompt = &job.request.prompt;
        let knowable = job.knowable();
        let (at, blocks) = self.prefixes.find(job.request.salt, &prompt[..knowable]);
        for block in &blocks {
            cache.push_block(block);
        }
        (*pin, *shared, *phase) = (at, blocks.len(), Phase::Known);
        if job.usage.preemptions == 0 {
            job.usage.cached = cache.len();
            self.stats.cached_tokens += cache.len() as u64;
            self.stats.queried_tokens += if knowable == 0 { 0 } else { prompt.len() as u64 };
        }
        self.name(i);
    }

    /// Runs over the parts that are gathered, if there are any.
    fn run_parts(&mut self) {
        let taking = |(_, running): &(usize, &mut Running)| running.part > 0;
        let mut parts: Vec<(usize, &mut Running)> = self.running.iter_mut().enumerate().filter(taking).collect();
        if parts.is_empty() {
            return;
        }
        let begun = Instant::now();
        let outlooks = run(self.ctx, self.model, &mut parts);
        self.stats.model_seconds += begun.elapsed().as_secs_f64();
        let mut done = Vec::with_capacity(parts.len());
        for ((i, running), outlook) in parts.into_iter().zip(outlooks) {
            let part = std::mem::take(&mut running.part);
            if !running.phase.goes_on(outlook) {
                continue;
            }
            self.stats.prompt_tokens += part as u64;
            done.push(i);
            let queue = running.job.times().queue;
            let Job { request, sink, answer, usage, .. } = &mut running.job;
            if answer.is_empty() {
                let (done, total) = (running.cache.len(), request.prompt.len());
                sink.send(Event::Prompt { done, total, cached: usage.cached, queue });
            }
        }
        for i in done {
            self.share(i);
        }
    }

    /// The next `n` tokens of what a request had said before it made room.
    fn answer_part(&mut self, i: usize, n: usize) {
        let (ctx, model) = (self.ctx, self.model);
        let Running { job, cache, phase, .. } = &mut self.running[i];
        let said = cache.len() - job.request.prompt.len();
        let (part, is_last) = (&job.answer[said..said + n], said + n == job.answer.len());
        let begun = Instant::now();
        // In the form that they had before, so that they have the same bits.
        let outlook = model.decode_streams(ctx, &[part], &mut [cache]).map(|(streams, _)| {
            let last = rows_of(ctx, &streams, slice::from_ref(&(n - 1..n)));
            is_last.then(|| outlooks(ctx, model, &last).remove(0))
        });
        self.stats.model_seconds += begun.elapsed().as_secs_f64();
        phase.goes_on(outlook.map_err(Error::from));
    }

    /// Gives the whole blocks of a prompt that are done to those that come after it.
    fn share(&mut self, i: usize) {
        let Running { job, cache, pin, shared, .. } = &mut self.running[i];
        let before = *shared;
        while (*shared + 1) * BLOCK_TOKENS <= cache.len() {
            let tokens = &job.request.prompt[*shared * BLOCK_TOKENS..(*shared + 1) * BLOCK_TOKENS];
            let (id, block) = self.prefixes.add(job.request.salt, *pin, tokens, cache.block(*shared));
            cache.replace_block(*shared, &block);
            *pin = Some(id);
            *shared += 1;
        }
        self.keep(i, before);
    }
}

/// Runs over the parts of some requests. The result is for each of them what follows its prompt, if that has ended.
fn run(ctx: &Ctx, model: &Model, parts: &mut [(usize, &mut Running)]) -> Vec<Result<Option<Outlook>, Error>> {
    let (mut tokens, mut caches) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
    for (_, Running { job, cache, part, .. }) in parts.iter_mut() {
        tokens.push(&job.request.prompt[cache.len()..cache.len() + *part]);
        caches.push(cache);
    }
    let (streams, rows) = match model.extend_streams(ctx, &tokens, &mut caches) {
        Ok(ran) => ran,
        // The same file is read for all of them.
        Err(error) => return parts.iter().map(|_| Err(error.clone().into())).collect(),
    };
    let mut told = Vec::with_capacity(parts.len());
    let mut last = Vec::with_capacity(parts.len());
    for ((_, Running { job, cache, part, draft, .. }), rows) in parts.iter_mut().zip(rows) {
        let position = cache.len() - *part;
        job.tell_scores(ctx, model, &streams, &rows, position);
        // Behind the prompt comes what was said before the request made room, if anything was.
        let is_last = cache.len() == job.request.prompt.len() && job.answer.is_empty();
        last.push(is_last.then(|| rows.end - 1..rows.end));
        let ids = &job.request.prompt[position..cache.len()];
        told.extend(draft.as_mut().map(|draft| Told { rows, ids, position, draft }));
    }
    if !told.is_empty() {
        model.tell_drafts(ctx, &streams, &mut told);
    }
    let ended: Vec<Range<usize>> = last.iter().flatten().cloned().collect();
    let found = if ended.is_empty() { Vec::new() } else { outlooks(ctx, model, &rows_of(ctx, &streams, &ended)) };
    let mut found = found.into_iter();
    last.into_iter().map(|last| Ok(last.and_then(|_| found.next()))).collect()
}

impl Job {
    /// Tells the log-probabilities of the prompt's tokens behind those at `rows` of the streams, the first of which is at
    /// `position`, if they are wanted. Nothing is told twice if the request made room for others and began again.
    fn tell_scores(&mut self, ctx: &Ctx, model: &Model, streams: &Tensor, rows: &Range<usize>, position: usize) {
        let Request { prompt, prompt_logprobs: Some(n), vocab_limit, .. } = &self.request else { return };
        let (from, to) = (position.max(self.scored), (position + rows.len()).min(prompt.len() - 1));
        if from < to {
            let rows = rows.start + from - position..rows.start + to - position;
            let streams = rows_of(ctx, streams, slice::from_ref(&rows));
            let logprobs = logprobs::of_rows(ctx, model, &streams, &prompt[from + 1..=to], *vocab_limit, *n);
            self.sink.send(Event::PromptLogprobs { first: from + 1, logprobs });
            self.scored = to;
        }
    }
}

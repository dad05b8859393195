//! The loop that answers many requests at once.

use std::collections::VecDeque;
use std::time::Instant;

use model::{BLOCK_TOKENS, Cache, Form, Model};
use tensor::Ctx;

use crate::draw::Drawer;
use crate::error::Error;
use crate::event::{End, Event, Sink, Times, Usage};
use crate::limits::Limits;
use crate::prefix::{NodeId, Prefixes};
use crate::request::{Finish, Request};
use crate::stats::Stats;

/// Requests under way and those that wait.
///
/// A step runs over a part of the prompts and over one token of each answer. Prompts always take the direct form of
/// attention and answers always that of decoding, whatever is beside them and however they are cut: so the tokens of a
/// request depend on the request alone.
pub struct Engine<'a> {
    ctx: &'a Ctx,
    model: &'a Model,
    limits: Limits,
    /// Blocks that `limits.cache_bytes` is worth.
    capacity: usize,
    waiting: VecDeque<Job>,
    /// In the order in which they were admitted.
    running: Vec<Running>,
    prefixes: Prefixes,
    stats: Stats,
}

/// A request and what it has said.
struct Job {
    request: Request,
    sink: Box<dyn Sink>,
    drawer: Drawer,
    answer: Vec<u32>,
    usage: Usage,
    arrived: Instant,
    begun: Option<Instant>,
    first_token: Option<Instant>,
}

struct Running {
    job: Job,
    cache: Cache,
    /// The last block of the cache that is in the tree of prefixes, and how many are.
    pin: Option<NodeId>,
    shared: usize,
    phase: Phase,
}

enum Phase {
    /// Nothing of the prompt is in the cache yet.
    New,
    /// A part of it.
    Prompt,
    /// All of it; these are the logits of the next token.
    Answer(Vec<f32>),
    /// It has ended, in this way.
    Ended(Result<Finish, Error>),
}

impl<'a> Engine<'a> {
    /// An engine without requests.
    pub fn new(ctx: &'a Ctx, model: &'a Model, limits: Limits) -> Self {
        let capacity = usize::try_from(limits.cache_bytes / model.cache_block_bytes() as u64).unwrap_or(usize::MAX);
        let stats = Stats { blocks: capacity, ..Stats::default() };
        Self {
            ctx,
            model,
            limits,
            capacity,
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefixes: Prefixes::default(),
            stats,
        }
    }

    /// Puts a request behind those that wait. One that cannot be answered is told so at once.
    pub fn add(&mut self, request: Request, mut sink: Box<dyn Sink>) {
        if let Err(error) = self.check(&request) {
            return sink.send(Event::End(Err(error)));
        }
        let usage = Usage { prompt: request.prompt.len(), ..Usage::default() };
        let drawer = Drawer::new(&request);
        let arrived = Instant::now();
        let (answer, begun, first_token) = (Vec::new(), None, None);
        self.waiting.push_back(Job { request, sink, drawer, answer, usage, arrived, begun, first_token });
    }

    /// Refuses what could not be answered even alone.
    fn check(&self, request: &Request) -> Result<(), Error> {
        request.validate(self.model)?;
        let tokens = (request.prompt.len().saturating_add(request.max_tokens))
            .min(self.model.config.max_position_embeddings.max(request.prompt.len()));
        let limit = self.capacity.saturating_mul(BLOCK_TOKENS);
        if tokens > limit { Err(Error::Cache { tokens, limit }) } else { Ok(()) }
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Numbers of this moment and since the beginning.
    pub fn stats(&self) -> Stats {
        let used = self.used();
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_used: used,
            blocks_in_use: used - self.prefixes.len() + self.prefixes.in_use(),
            ..self.stats
        }
    }

    /// Prompt tokens of the requests that wait.
    pub fn waiting_tokens(&self) -> usize {
        self.waiting.iter().map(|job| job.request.prompt.len()).sum()
    }

    /// Ends all requests with `error`, and itself.
    pub fn abandon(self, error: impl Fn() -> Error) {
        for mut job in self.running.into_iter().map(|running| running.job).chain(self.waiting) {
            job.sink.send(Event::End(Err(error())));
        }
    }

    /// Goes on with everything by one token, or by a part of the prompts.
    pub fn step(&mut self) {
        self.let_go();
        self.admit();
        self.prefill();
        self.draw();
        self.end();
        self.decode();
        self.end();
        self.stats.steps += 1;
    }

    /// Forgets requests whose events nobody wants.
    fn let_go(&mut self) {
        let waiting = self.waiting.len();
        self.waiting.retain(|job| !job.sink.is_closed());
        self.stats.cancelled += (waiting - self.waiting.len()) as u64;
        for i in (0..self.running.len()).rev() {
            if self.running[i].job.sink.is_closed() {
                self.stats.cancelled += 1;
                self.take(i);
            }
        }
    }

    /// Begins with those that have waited longest, as long as their prompts have room beside what others need.
    fn admit(&mut self) {
        while self.running.len() < self.limits.max_batch_size
            && let Some(job) = self.waiting.front()
        {
            let Request { prompt, salt, .. } = &job.request;
            let blocks = (prompt.len() + job.answer.len() + 1).div_ceil(BLOCK_TOKENS);
            let more = blocks - self.prefixes.in_use_of(*salt, &prompt[..prompt.len() - 1]);
            // A block for the next tokens of each answer, lest those who have just come make room for them.
            let spare = self.running.len();
            if spare > 0 && self.promised() + more + spare > self.capacity {
                break;
            }
            let mut job = self.waiting.pop_front().expect("somebody waits");
            job.begun.get_or_insert_with(Instant::now);
            let cache = self.model.new_cache();
            self.running.push(Running { job, cache, pin: None, shared: 0, phase: Phase::New });
        }
    }

    /// Runs over prompts, first come, first served, as many tokens as a step may have.
    fn prefill(&mut self) {
        let mut budget = self.limits.prefill_tokens.max(1);
        let mut i = 0;
        while budget > 0 && i < self.running.len() {
            let running = &mut self.running[i];
            if matches!(running.phase, Phase::New) {
                self.find(i);
            }
            let running = &self.running[i];
            if !matches!(running.phase, Phase::Prompt) {
                i += 1;
                continue;
            }
            let (total, done) = (running.job.request.prompt.len(), running.cache.len());
            let n = budget.min(total.saturating_sub(done));
            let again = if done + n == total { running.job.answer.len() } else { 0 };
            if !self.make_room(i, n + again) {
                // The last ones had to go, this one among them.
                break;
            }
            budget -= n;
            self.prompt_part(i, n);
            if self.running[i].cache.len() < total {
                break;
            }
            i += 1;
        }
    }

    /// What the cache already has of a prompt. The last token is always run over: its logits are wanted.
    fn find(&mut self, i: usize) {
        let Running { job, cache, pin, shared, phase } = &mut self.running[i];
        let prompt = &job.request.prompt;
        let (at, blocks) = self.prefixes.find(job.request.salt, &prompt[..prompt.len() - 1]);
        for block in &blocks {
            cache.push_block(block);
        }
        (*pin, *shared, *phase) = (at, blocks.len(), Phase::Prompt);
        if job.usage.preemptions == 0 {
            job.usage.cached = cache.len();
            self.stats.cached_tokens += cache.len() as u64;
            self.stats.queried_tokens += prompt.len() as u64;
        }
    }

    /// The next `n` tokens of a prompt, and behind its last one what the request had said before it made room.
    fn prompt_part(&mut self, i: usize, n: usize) {
        let (ctx, model) = (self.ctx, self.model);
        let Running { job, cache, phase, .. } = &mut self.running[i];
        let (prompt, done) = (&job.request.prompt, cache.len());
        let mut run = || {
            let stream = model.extend(ctx, &prompt[done..done + n], cache, Form::Direct)?;
            Ok::<_, Error>(match () {
                () if cache.len() < prompt.len() => None,
                () if job.answer.is_empty() => Some(model.next_logits(ctx, &stream)),
                // Tokens of an answer are run over as they were, so that they have the same bits.
                () => Some(model.decode(ctx, &[&job.answer], &mut [cache])?),
            })
        };
        match run() {
            Ok(None) => {}
            Ok(Some(logits)) => *phase = Phase::Answer(logits.data().to_vec()),
            Err(error) => {
                *phase = Phase::Ended(Err(error));
                return;
            }
        }
        self.stats.prompt_tokens += n as u64;
        let (done, total) = (done + n, prompt.len());
        if job.answer.is_empty() {
            job.sink.send(Event::Prompt { done, total });
        }
        self.share(i, done);
    }

    /// Gives the whole blocks of a prompt, of which `done` tokens are done, to those that come after it.
    fn share(&mut self, i: usize, done: usize) {
        let Running { job, cache, pin, shared, .. } = &mut self.running[i];
        while (*shared + 1) * BLOCK_TOKENS <= done {
            let tokens = &job.request.prompt[*shared * BLOCK_TOKENS..(*shared + 1) * BLOCK_TOKENS];
            let (id, block) = self.prefixes.add(job.request.salt, *pin, tokens, cache.block(*shared));
            cache.replace_block(*shared, &block);
            *pin = Some(id);
            *shared += 1;
        }
    }

    /// Draws the next token of each answer.
    fn draw(&mut self) {
        for running in &mut self.running {
            let Running { job, phase, cache, .. } = running;
            let Phase::Answer(logits) = phase else { continue };
            if job.answer.len() >= job.request.max_tokens {
                *phase = Phase::Ended(Ok(Finish::Length));
                continue;
            }
            match job.drawer.draw(self.ctx, &job.request, logits) {
                Err(error) => *phase = Phase::Ended(Err(error)),
                Ok(None) => *phase = Phase::Ended(Ok(Finish::Stop)),
                Ok(Some(drawn)) => {
                    job.answer.push(drawn.id);
                    job.usage.answer += 1;
                    self.stats.answer_tokens += 1;
                    job.first_token.get_or_insert_with(Instant::now);
                    job.sink.send(Event::Token(drawn));
                    if job.answer.len() >= job.request.max_tokens {
                        *phase = Phase::Ended(Ok(Finish::Length));
                    } else if cache.len() >= self.model.config.max_position_embeddings {
                        *phase = Phase::Ended(Ok(Finish::Context));
                    }
                }
            }
        }
    }

    /// Runs over the token that each answer has just got, all together.
    fn decode(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            if !matches!(self.running[i].phase, Phase::Answer(_)) || self.make_room(i, 1) {
                i += 1;
            }
            // Otherwise the last ones had to go, and if this is one of them, the next in its place is looked at.
        }
        let mut tokens: Vec<[u32; 1]> = Vec::with_capacity(self.running.len());
        let mut caches: Vec<&mut Cache> = Vec::with_capacity(self.running.len());
        let mut phases: Vec<&mut Phase> = Vec::with_capacity(self.running.len());
        for Running { job, cache, phase, .. } in &mut self.running {
            if matches!(phase, Phase::Answer(_)) {
                tokens.push([*job.answer.last().expect("a token was drawn")]);
                caches.push(cache);
                phases.push(phase);
            }
        }
        if tokens.is_empty() {
            return;
        }
        let news: Vec<&[u32]> = tokens.iter().map(|token| &token[..]).collect();
        match self.model.decode(self.ctx, &news, &mut caches) {
            Ok(logits) => {
                for (row, phase) in phases.into_iter().enumerate() {
                    *phase = Phase::Answer(logits.row(row).to_vec());
                }
            }
            // The same file is read for all of them.
            Err(error) => {
                for phase in phases {
                    *phase = Phase::Ended(Err(error.clone().into()));
                }
            }
        }
        self.stats.decode_steps += 1;
        self.stats.decoded += tokens.len() as u64;
    }

    /// Room for `tokens` more tokens of `running[i]`: blocks that nobody uses leave, then the requests that came last make
    /// room and wait again. False when that is this one itself.
    fn make_room(&mut self, i: usize, tokens: usize) -> bool {
        let len = self.running[i].cache.len();
        let more = (len + tokens).div_ceil(BLOCK_TOKENS) - len.div_ceil(BLOCK_TOKENS);
        while self.used() + more > self.capacity {
            if self.prefixes.evict() {
                self.stats.evicted_blocks += 1;
                continue;
            }
            let last = self.running.len() - 1;
            let mut job = self.take(last);
            job.usage.preemptions += 1;
            self.stats.preemptions += 1;
            self.waiting.push_front(job);
            if last == i {
                return false;
            }
        }
        true
    }

    /// Blocks that running requests have or will need for their prompts.
    fn promised(&self) -> usize {
        let of = |running: &Running| {
            let Running { job, cache, shared, .. } = running;
            let tokens = cache.len().max(job.request.prompt.len() + job.answer.len());
            tokens.div_ceil(BLOCK_TOKENS) - shared
        };
        self.prefixes.in_use() + self.running.iter().map(of).sum::<usize>()
    }

    /// Blocks that are there.
    fn used(&self) -> usize {
        let own = |running: &Running| running.cache.len().div_ceil(BLOCK_TOKENS) - running.shared;
        self.prefixes.len() + self.running.iter().map(own).sum::<usize>()
    }

    /// Takes a request out; its blocks are free, those of its prompt as long as nobody needs the room.
    fn take(&mut self, i: usize) -> Job {
        let Running { job, pin, .. } = self.running.remove(i);
        if let Some(id) = pin {
            self.prefixes.release(id);
        }
        job
    }

    /// Tells those that have ended, and forgets them.
    fn end(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            if !matches!(self.running[i].phase, Phase::Ended(_)) {
                i += 1;
                continue;
            }
            let phase = std::mem::replace(&mut self.running[i].phase, Phase::New);
            let Phase::Ended(result) = phase else { unreachable!("it has just ended") };
            let mut job = self.take(i);
            self.stats.ended += 1;
            let times = job.times();
            let usage = job.usage;
            job.sink.send(Event::End(result.map(|finish| End { finish, usage, times })));
        }
    }
}

impl Job {
    fn times(&self) -> Times {
        let now = Instant::now();
        let begun = self.begun.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        Times { queue: begun - self.arrived, prefill: first - begun, decode: now - first }
    }
}

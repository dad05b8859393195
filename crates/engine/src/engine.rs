//! The loop that answers many requests at once.

mod prefill;
mod restore;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use model::{BLOCK_TOKENS, Cache, Draft, Following, Model};
use tensor::{Ctx, Tensor};

use crate::disk::{DiskCache, Name};
use crate::draw::Drawer;
use crate::error::Error;
use crate::event::{End, Event, Sink, Times, Usage};
use crate::limits::Limits;
use crate::prefix::{NodeId, Prefixes};
use crate::request::{Finish, Request};
use crate::speculation::{Gauge, Mtp, Step};
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
    /// Where blocks go that outlive this engine, if there is such a place.
    disk: Option<Arc<DiskCache>>,
    gauge: Gauge,
    stats: Stats,
}

/// A request and what it has said.
struct Job {
    request: Request,
    sink: Box<dyn Sink>,
    drawer: Drawer,
    answer: Vec<u32>,
    /// Tokens of the prompt after which log-probabilities have been told.
    scored: usize,
    usage: Usage,
    arrived: Instant,
    begun: Option<Instant>,
    first_token: Option<Instant>,
}

struct Running {
    job: Job,
    cache: Cache,
    /// Tokens of the prompt that this step runs over, together with those of others.
    part: usize,
    /// The last block of the cache that is in the tree of prefixes, and how many are.
    pin: Option<NodeId>,
    shared: usize,
    /// What the whole blocks of the prompt are called on disk, if there is one.
    names: Vec<Name>,
    phase: Phase,
    /// What proposes tokens, where there is an MTP layer.
    draft: Option<Draft>,
    /// Tokens that were drawn since the model last ran, each with the hidden state of the token before it.
    fresh: Vec<(u32, Vec<f32>)>,
    /// The token that may follow the last of them.
    proposal: Option<u32>,
}

/// What the model says after a token: a row of what it says after several.
struct Outlook {
    all: Arc<Outlooks>,
    row: usize,
}

struct Outlooks {
    /// `[R, V]`.
    logits: Tensor,
    /// `[R, D]`.
    hidden: Tensor,
}

enum Phase {
    /// Nothing of the prompt is in the cache yet.
    New,
    /// What is in memory of its beginning is in the cache, and more of it may be on disk.
    Known,
    /// A part of it, or all of it and a part of the answer that there was when the request made room.
    Prompt,
    /// All of both. The first outlook is that of the next token; another one is that after it, if it is the one that was
    /// proposed, whose latents are in the cache.
    Answer(Vec<Outlook>),
    /// It has ended, in this way.
    Ended(Result<Finish, Error>),
}

impl Phase {
    /// A part was run over, and all of it if there is an outlook. Whether that went well.
    fn goes_on(&mut self, outlook: Result<Option<Outlook>, Error>) -> bool {
        match outlook {
            Ok(None) => {}
            Ok(Some(outlook)) => *self = Self::Answer(vec![outlook]),
            Err(error) => *self = Self::Ended(Err(error)),
        }
        !matches!(self, Self::Ended(_))
    }
}

impl<'a> Engine<'a> {
    /// An engine without requests.
    pub fn new(ctx: &'a Ctx, model: &'a Model, limits: Limits) -> Self {
        let capacity = limits.blocks(model);
        let stats = Stats { blocks: capacity, ..Stats::default() };
        Self {
            ctx,
            model,
            limits,
            capacity,
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefixes: Prefixes::default(),
            disk: None,
            gauge: Gauge::new(if model.new_draft().is_some() { limits.mtp } else { Mtp::Off }),
            stats,
        }
    }

    /// Puts a request behind those that wait. One that cannot be answered is told so at once.
    pub fn add(&mut self, request: Request, mut sink: Box<dyn Sink>) {
        if let Err(error) = request.check(self.model, &self.limits) {
            return sink.send(Event::End(Err(error)));
        }
        let usage = Usage { prompt: request.prompt.len(), ..Usage::default() };
        let drawer = Drawer::new(&request);
        let arrived = Instant::now();
        let (answer, scored, begun, first_token) = (Vec::new(), 0, None, None);
        self.waiting.push_back(Job { request, sink, drawer, answer, scored, usage, arrived, begun, first_token });
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
            mtp_speedup: self.gauge.speedup(),
            disk: self.disk.as_ref().map(|disk| disk.stats()),
            ..self.stats
        }
    }

    /// Prompt tokens of the requests that wait.
    pub fn waiting_tokens(&self) -> usize {
        self.waiting.iter().map(|job| job.request.prompt.len()).sum()
    }

    /// Takes over what another engine has not lost: its numbers, and those who wait, if there was somebody else who can be to
    /// blame for its fault.
    pub(crate) fn inherit(&mut self, lost: &mut Self) {
        self.stats = lost.stats;
        if !lost.running.is_empty() {
            self.waiting = std::mem::take(&mut lost.waiting);
        }
    }

    /// Ends all requests with `error`.
    pub fn abandon(&mut self, error: impl Fn() -> Error) {
        while let Some(last) = self.running.len().checked_sub(1) {
            let job = self.take(last);
            self.waiting.push_front(job);
        }
        while let Some(mut job) = self.waiting.pop_front() {
            job.sink.send(Event::End(Err(error())));
        }
    }

    /// Goes on with everything by one token, or by a part of the prompts.
    pub fn step(&mut self) {
        let begun = Instant::now();
        self.let_go();
        self.admit();
        self.stats.step_requests += self.running.len() as u64;
        self.prefill();
        let (start, before) = (Instant::now(), self.stats);
        let answers = self.running.iter().filter(|running| matches!(running.phase, Phase::Answer(_))).count();
        self.draw();
        self.end();
        self.propose(self.gauge.proposes(answers));
        self.decode();
        self.end();
        self.gauge.note(Step {
            answers,
            tokens: self.stats.answer_tokens - before.answer_tokens,
            proposed: self.stats.proposed - before.proposed,
            accepted: self.stats.accepted - before.accepted,
            seconds: start.elapsed().as_secs_f64(),
        });
        self.stats.steps += 1;
        self.stats.step_seconds += begun.elapsed().as_secs_f64();
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
            let more = blocks - self.prefixes.in_use_of(*salt, &prompt[..job.knowable()]);
            // A block for the next tokens of each answer, lest those who have just come make room for them.
            let spare = self.running.len();
            if spare > 0 && self.promised() + more + spare > self.capacity {
                break;
            }
            let mut job = self.waiting.pop_front().expect("somebody waits");
            job.begun.get_or_insert_with(Instant::now);
            let (cache, draft) = (self.model.new_cache(), self.new_draft());
            let (pin, shared, names, phase, fresh, proposal) = (None, 0, Vec::new(), Phase::New, Vec::new(), None);
            self.running.push(Running { job, cache, part: 0, pin, shared, names, phase, draft, fresh, proposal });
        }
    }

    fn new_draft(&self) -> Option<Draft> {
        if self.limits.mtp == Mtp::Off { None } else { self.model.new_draft() }
    }

    /// Draws the next token of each answer, and the one after it where that was proposed. Answers know nothing of each other,
    /// so their draws, which go over the whole vocabulary, share the threads.
    fn draw(&mut self) {
        let (begun, ctx, limit) = (Instant::now(), self.ctx, self.model.config.max_position_embeddings);
        let answers = self.running.iter_mut().filter(|running| matches!(running.phase, Phase::Answer(_)));
        let mut draws: Vec<(&mut Running, Draws)> = answers.map(|running| (running, Draws::default())).collect();
        ctx.for_each_chunk(&mut draws, 1, |_, draws| {
            for (running, draws) in draws {
                running.draw(ctx, limit, draws);
            }
        });
        for (_, Draws { tokens, proposed, accepted }) in draws {
            self.stats.answer_tokens += tokens;
            self.stats.proposed += proposed;
            self.stats.accepted += accepted;
        }
        self.stats.draw_seconds += begun.elapsed().as_secs_f64();
    }

    /// Lets the first MTP layer propose the token after the next, if `wanted`.
    fn propose(&mut self, wanted: bool) {
        let limit = self.model.config.max_position_embeddings;
        let (mut hidden, mut ids, mut following) = (Vec::new(), Vec::new(), Vec::new());
        let (mut drafts, mut proposals) = (Vec::new(), Vec::new());
        for Running { job, phase, draft, fresh, proposal, .. } in &mut self.running {
            let fresh = std::mem::take(fresh);
            let (Phase::Answer(_), Some(draft)) = (&*phase, draft) else { continue };
            let len = job.request.prompt.len() + job.answer.len();
            // A proposal is worth its latents only if another token is wanted behind it.
            if !wanted || fresh.is_empty() || len >= limit || job.answer.len() + 1 >= job.request.max_tokens {
                continue;
            }
            let first = ids.len();
            for (id, row) in &fresh {
                ids.push(*id);
                hidden.extend_from_slice(row);
            }
            following.push(Following { rows: first..ids.len(), position: len - fresh.len() });
            drafts.push(draft);
            proposals.push(proposal);
        }
        if ids.is_empty() {
            return;
        }
        let d = hidden.len() / ids.len();
        let hidden = Tensor::from_vec(hidden, [ids.len(), d]);
        let begun = Instant::now();
        let found = self.model.propose(self.ctx, &hidden, &ids, &following, &mut drafts);
        self.stats.model_seconds += begun.elapsed().as_secs_f64();
        // Without proposals everything goes on; if a file cannot be read, the step after this one says so.
        if let Ok(found) = found {
            for (proposal, id) in proposals.into_iter().zip(found) {
                *proposal = Some(id);
            }
        }
    }

    /// Runs over the token that each answer has just got, and over the one that may follow it, all together.
    fn decode(&mut self) {
        let of = |running: &Running| match running.phase {
            Phase::Answer(_) => running.more_blocks(1 + usize::from(running.proposal.is_some())),
            _ => 0,
        };
        self.make_room(|running| running.iter().map(of).sum());
        let mut tokens: Vec<Vec<u32>> = Vec::with_capacity(self.running.len());
        let mut caches: Vec<&mut Cache> = Vec::with_capacity(self.running.len());
        let mut phases: Vec<&mut Phase> = Vec::with_capacity(self.running.len());
        for Running { job, cache, phase, proposal, .. } in &mut self.running {
            if matches!(phase, Phase::Answer(_)) {
                let last = *job.answer.last().expect("a token was drawn");
                tokens.push(std::iter::once(last).chain(*proposal).collect());
                caches.push(cache);
                phases.push(phase);
            }
        }
        if tokens.is_empty() {
            return;
        }
        let news: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let begun = Instant::now();
        let decoded = self.model.decode_streams(self.ctx, &news, &mut caches);
        let decoded = decoded.map(|(streams, rows)| (outlooks(self.ctx, self.model, &streams), rows));
        self.stats.model_seconds += begun.elapsed().as_secs_f64();
        match decoded {
            Ok((all, rows)) => {
                let mut all = all.into_iter();
                for (rows, phase) in rows.into_iter().zip(phases) {
                    *phase = Phase::Answer(all.by_ref().take(rows.len()).collect());
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

    /// Room for as many more blocks as `more` says of those that run: blocks that nobody uses leave, then the requests that
    /// came last make room and wait again.
    fn make_room(&mut self, more: impl Fn(&[Running]) -> usize) {
        while self.used() + more(&self.running) > self.capacity {
            let disk = self.disk.as_deref();
            if self.prefixes.evict(|block| restore::offer(disk, block)) {
                self.stats.evicted_blocks += 1;
                continue;
            }
            let Some(last) = self.running.len().checked_sub(1) else { unreachable!("nobody needs more than there is") };
            let mut job = self.take(last);
            job.usage.preemptions += 1;
            self.stats.preemptions += 1;
            self.waiting.push_front(job);
        }
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

    /// Blocks that are there, or will be when this step has run over its parts of prompts.
    fn used(&self) -> usize {
        let own = |running: &Running| (running.cache.len() + running.part).div_ceil(BLOCK_TOKENS) - running.shared;
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

impl Running {
    /// Blocks that so many more tokens take.
    fn more_blocks(&self, tokens: usize) -> usize {
        let len = self.cache.len() + self.part;
        (len + tokens).div_ceil(BLOCK_TOKENS) - len.div_ceil(BLOCK_TOKENS)
    }
}

/// What follows each row of a stream `[R, D]`.
fn outlooks(ctx: &Ctx, model: &Model, stream: &Tensor) -> Vec<Outlook> {
    let all = Arc::new(Outlooks { logits: model.next_logits(ctx, stream), hidden: model.hidden(ctx, stream) });
    let [rows, _] = stream.dims();
    (0..rows).map(|row| Outlook { all: all.clone(), row }).collect()
}

/// What was drawn for one answer in a step.
#[derive(Clone, Copy, Default)]
struct Draws {
    tokens: u64,
    proposed: u64,
    accepted: u64,
}

impl Running {
    /// Draws the next token, and the one after it if it was proposed.
    fn draw(&mut self, ctx: &Ctx, limit: usize, draws: &mut Draws) {
        let Self { job, cache, phase, fresh, proposal, .. } = self;
        let Phase::Answer(outlooks) = phase else { return };
        let mut proposal = proposal.take();
        for Outlook { all, row } in std::mem::take(outlooks) {
            let (id, finish) = match job.draw(ctx, all.logits.row(row), limit) {
                Ok(drawn) => drawn,
                Err(error) => {
                    *phase = Phase::Ended(Err(error));
                    break;
                }
            };
            draws.tokens += u64::from(id.is_some());
            if let Some(finish) = finish {
                *phase = Phase::Ended(Ok(finish));
                break;
            }
            let Some(id) = id else { unreachable!("an answer goes on with a token") };
            fresh.push((id, all.hidden.row(row).to_vec()));
            if let Some(proposal) = proposal.take() {
                draws.proposed += 1;
                if proposal != id {
                    // It is in the cache, where the token that was drawn belongs.
                    cache.truncate(cache.len() - 1);
                    break;
                }
                draws.accepted += 1;
            }
        }
    }
}

impl Job {
    /// Tokens at the beginning of the prompt whose logits nobody wants: those of the last one are always wanted.
    fn knowable(&self) -> usize {
        let last = self.request.prompt.len() - 1;
        if self.request.prompt_logprobs.is_some() { self.scored.min(last) } else { last }
    }

    /// The next token, if there is one, and why the answer ends with it or without it.
    fn draw(&mut self, ctx: &Ctx, logits: &[f32], limit: usize) -> Result<(Option<u32>, Option<Finish>), Error> {
        if self.answer.len() >= self.request.max_tokens {
            return Ok((None, Some(Finish::Length)));
        }
        let Some(drawn) = self.drawer.draw(ctx, &self.request, logits)? else {
            return Ok((None, Some(Finish::Stop)));
        };
        let id = drawn.id;
        self.answer.push(id);
        self.usage.answer += 1;
        self.first_token.get_or_insert_with(Instant::now);
        self.sink.send(Event::Token(drawn));
        let finish = if self.drawer.is_complete() {
            Some(Finish::Stop)
        } else if self.answer.len() >= self.request.max_tokens {
            Some(Finish::Length)
        } else if self.request.prompt.len() + self.answer.len() > limit {
            // There is no place for this token, and so none for a next one.
            Some(Finish::Context)
        } else {
            None
        };
        Ok((Some(id), finish))
    }

    fn times(&self) -> Times {
        let now = Instant::now();
        let begun = self.begun.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        Times { queue: begun - self.arrived, prefill: first - begun, decode: now - first }
    }
}

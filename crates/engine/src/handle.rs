//! An engine on a thread of its own: where requests of other threads come in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::Model;
use tensor::Ctx;

use crate::disk::DiskCache;
use crate::engine::Engine;
use crate::error::{Error, Refused};
use crate::event::Sink;
use crate::limits::Limits;
use crate::request::Request;
use crate::stats::Stats;

/// A running engine. Dropping it ends the engine, after the step that it is in.
pub struct Handle {
    commands: Option<Sender<Command>>,
    shared: Arc<Shared>,
    model: Arc<Model>,
    limits: Limits,
    thread: Option<JoinHandle<()>>,
}

/// How an engine fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// How long the present step has taken so far; nothing while the engine waits for requests.
    pub in_step: Option<Duration>,
    /// Steps that failed by a fault of the program.
    pub faults: u64,
}

type Command = (Request, Box<dyn Sink>);

/// What the engine's thread and the others both see.
struct Shared {
    queue: Mutex<Queue>,
    draining: AtomicBool,
    stopped: AtomicBool,
    stats: Mutex<Stats>,
    /// When the present step began, in microseconds after `epoch`, plus one; 0 without one.
    step_began: AtomicU64,
    faults: AtomicU64,
    epoch: Instant,
}

/// Requests that have not begun.
#[derive(Clone, Copy, Default)]
struct Queue {
    requests: usize,
    tokens: usize,
}

impl Handle {
    /// Starts an engine.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(ctx: Ctx, model: Arc<Model>, limits: Limits) -> std::io::Result<Self> {
        Self::start_with(ctx, model, limits, None)
    }

    /// The same, where beginnings of prompts are kept on disk.
    ///
    /// # Errors
    /// As [`Handle::start`].
    ///
    /// # Panics
    /// When `disk` was opened for another model.
    pub fn start_with(
        ctx: Ctx,
        model: Arc<Model>,
        limits: Limits,
        disk: Option<Arc<DiskCache>>,
    ) -> std::io::Result<Self> {
        if let Some(disk) = &disk {
            disk.check(&model);
        }
        let (commands, receiver) = channel();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stats: Mutex::default(),
            step_began: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            epoch: Instant::now(),
        });
        let (of_thread, its_model) = (shared.clone(), model.clone());
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || run(&ctx, &its_model, limits, disk.as_ref(), &receiver, &of_thread))?;
        Ok(Self { commands: Some(commands), shared, model, limits, thread: Some(thread) })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Whether a request can be answered, even alone. One that cannot is told so by its events, too.
    ///
    /// # Errors
    /// As [`Request::check`].
    pub fn check(&self, request: &Request) -> Result<(), Error> {
        request.check(&self.model, &self.limits)
    }

    /// Takes a request; its events go to `sink`.
    ///
    /// # Errors
    /// When too many wait, or the engine ends.
    pub fn submit(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Refused> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Refused::Draining);
        }
        let tokens = request.prompt.len();
        {
            let mut queue = lock(&self.shared.queue);
            self.limits.admit(queue.requests, queue.tokens, tokens)?;
            queue.requests += 1;
            queue.tokens += tokens;
        }
        let is_sent = self.commands.as_ref().is_some_and(|commands| commands.send((request, sink)).is_ok());
        if is_sent { Ok(()) } else { Err(Refused::Draining) }
    }

    /// Whether one more request, however short, would be taken now.
    ///
    /// # Errors
    /// When too many wait, or the engine ends.
    pub fn room(&self) -> Result<(), Refused> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Refused::Draining);
        }
        let queue = *lock(&self.shared.queue);
        self.limits.admit(queue.requests, queue.tokens, 0)
    }

    /// Takes no more requests; those that were taken go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Numbers as of the last step.
    pub fn stats(&self) -> Stats {
        let Queue { requests, .. } = *lock(&self.shared.queue);
        Stats { waiting: requests, ..*lock(&self.shared.stats) }
    }

    /// Whether it still makes steps, for those that watch over it.
    pub fn health(&self) -> Health {
        let Shared { step_began, faults, epoch, .. } = &*self.shared;
        let began = step_began.load(Ordering::Acquire).checked_sub(1).map(Duration::from_micros);
        let in_step = began.map(|began| epoch.elapsed().saturating_sub(began));
        Health { in_step, faults: faults.load(Ordering::Acquire) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.drain();
        self.shared.stopped.store(true, Ordering::Release);
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened.
            drop(thread.join());
        }
    }
}

/// The engine's thread: steps while there is something to do, and waits for requests otherwise.
fn run(
    ctx: &Ctx,
    model: &Model,
    limits: Limits,
    disk: Option<&Arc<DiskCache>>,
    commands: &Receiver<Command>,
    shared: &Shared,
) {
    let new_engine = || {
        let engine = Engine::new(ctx, model, limits);
        match disk {
            Some(disk) => engine.with_disk(disk.clone()),
            None => engine,
        }
    };
    let mut engine = new_engine();
    *lock(&shared.stats) = engine.stats();
    // What the queue has counted of this engine.
    let mut counted = Queue::default();
    while !shared.stopped.load(Ordering::Acquire) {
        let mut add = |engine: &mut Engine<'_>, (request, sink): Command| {
            counted.requests += 1;
            counted.tokens += request.prompt.len();
            engine.add(request, sink);
        };
        if engine.is_idle() {
            let Ok(first) = commands.recv() else { break };
            add(&mut engine, first);
            // Others may come in a moment, and begin together with it.
            let end = Instant::now() + limits.batch_timeout();
            for _ in 1..limits.max_batch_size {
                let rest = end.saturating_duration_since(Instant::now());
                let Ok(command) = commands.recv_timeout(rest) else { break };
                add(&mut engine, command);
            }
        }
        while let Ok(command) = commands.try_recv() {
            add(&mut engine, command);
        }
        shared.step_began.store(shared.epoch.elapsed().as_micros() as u64 + 1, Ordering::Release);
        // What a request asks for cannot make a step panic; if one does, only what was in it is lost.
        if catch_unwind(AssertUnwindSafe(|| engine.step())).is_err() {
            shared.faults.fetch_add(1, Ordering::AcqRel);
            std::mem::replace(&mut engine, new_engine()).abandon(|| Error::Fault);
        }
        shared.step_began.store(0, Ordering::Release);
        let stats = engine.stats();
        *lock(&shared.stats) = stats;
        let now = Queue { requests: stats.waiting, tokens: engine.waiting_tokens() };
        let mut queue = lock(&shared.queue);
        // Requests that are still on their way here have been counted too.
        queue.requests = queue.requests + now.requests - counted.requests;
        queue.tokens = queue.tokens + now.tokens - counted.tokens;
        counted = now;
    }
    engine.abandon(|| Error::Stopped);
    while let Ok((_, mut sink)) = commands.try_recv() {
        sink.send(crate::Event::End(Err(Error::Stopped)));
    }
    engine.save();
}

/// What is behind a lock is always whole: nobody panics while he writes it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! An engine on a thread of its own: where requests of other threads come in.

use std::collections::VecDeque;
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
use crate::limits::{Limits, Queue};
use crate::request::Request;
use crate::stats::Stats;

/// A running engine. Dropping it ends the engine, after the step that it is in.
pub struct Handle {
    /// None once it is to end.
    commands: Mutex<Option<Sender<Command>>>,
    shared: Arc<Shared>,
    model: Arc<Model>,
    limits: Limits,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How an engine fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// How long the present step has taken so far; nothing while the engine waits for requests.
    pub in_step: Option<Duration>,
    /// Steps that failed by a fault of the program.
    pub faults: u64,
    /// Whether its thread is there. Without it every request is refused.
    pub is_alive: bool,
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
        let (commands, thread) = (Mutex::new(Some(commands)), Mutex::new(Some(thread)));
        Ok(Self { commands, shared, model, limits, thread })
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
        self.submit_all(vec![(request, sink)])
    }

    /// Takes requests together, or none of them. More of them than may wait are taken while nothing else waits.
    ///
    /// # Errors
    /// As [`Handle::submit`].
    pub fn submit_all(&self, all: Vec<(Request, Box<dyn Sink>)>) -> Result<(), Refused> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Refused::Draining);
        }
        let more = Queue { requests: all.len(), tokens: all.iter().map(|(request, _)| request.prompt.len()).sum() };
        {
            let mut queue = lock(&self.shared.queue);
            self.limits.admit(*queue, more)?;
            queue.requests += more.requests;
            queue.tokens += more.tokens;
        }
        let commands = lock(&self.commands);
        let is_sent = |commands: &Sender<Command>| all.into_iter().all(|command| commands.send(command).is_ok());
        if commands.as_ref().is_some_and(is_sent) { Ok(()) } else { Err(Refused::Draining) }
    }

    /// Whether one more request, however short, would be taken now.
    ///
    /// # Errors
    /// When too many wait, or the engine ends.
    pub fn room(&self) -> Result<(), Refused> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Refused::Draining);
        }
        self.limits.admit(*lock(&self.shared.queue), Queue { requests: 1, tokens: 0 })
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
        let is_alive = lock(&self.thread).as_ref().is_some_and(|thread| !thread.is_finished());
        Health { in_step, faults: faults.load(Ordering::Acquire), is_alive }
    }
}

impl Handle {
    /// Ends the engine after the step that it is in, and the requests that it has with [`Error::Stopped`]; returns when what it
    /// keeps on disk is there.
    pub fn stop(&self) {
        self.drain();
        self.shared.stopped.store(true, Ordering::Release);
        lock(&self.commands).take();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A panic of the thread has been reported where it happened.
            drop(thread.join());
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
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
    let mut arrived = VecDeque::new();
    let take = |(request, sink): Command, arrived: &mut VecDeque<Command>, counted: &mut Queue| {
        counted.requests += 1;
        counted.tokens += request.prompt.len();
        arrived.push_back((request, sink));
    };
    while !shared.stopped.load(Ordering::Acquire) {
        if engine.is_idle() && arrived.is_empty() {
            let Ok(first) = commands.recv() else { break };
            take(first, &mut arrived, &mut counted);
            // Others may come in a moment, and begin together with it.
            let end = Instant::now() + limits.batch_timeout();
            while arrived.len() < limits.max_batch_size {
                let rest = end.saturating_duration_since(Instant::now());
                let Ok(command) = commands.recv_timeout(rest) else { break };
                take(command, &mut arrived, &mut counted);
            }
        }
        for command in commands.try_iter() {
            take(command, &mut arrived, &mut counted);
        }
        shared.step_began.store(shared.epoch.elapsed().as_micros() as u64 + 1, Ordering::Release);
        let work = || {
            while let Some((request, sink)) = arrived.pop_front() {
                engine.add(request, sink);
            }
            engine.step();
        };
        // What a request asks for cannot make the engine panic; if it does, only those that it was answering are lost.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            shared.faults.fetch_add(1, Ordering::AcqRel);
            let mut lost = std::mem::replace(&mut engine, new_engine());
            engine.inherit(&mut lost);
            // Whatever fails again has lost another request, so this ends.
            while catch_unwind(AssertUnwindSafe(|| lost.abandon(|| Error::Fault))).is_err() {}
        }
        shared.step_began.store(0, Ordering::Release);
        let stats = engine.stats();
        *lock(&shared.stats) = stats;
        let left: usize = arrived.iter().map(|(request, _)| request.prompt.len()).sum();
        let now = Queue { requests: stats.waiting + arrived.len(), tokens: engine.waiting_tokens() + left };
        let mut queue = lock(&shared.queue);
        // Requests that are still on their way here have been counted too.
        queue.requests = queue.requests + now.requests - counted.requests;
        queue.tokens = queue.tokens + now.tokens - counted.tokens;
        counted = now;
    }
    engine.abandon(|| Error::Stopped);
    for (_, mut sink) in arrived.into_iter().chain(commands.try_iter()) {
        sink.send(crate::Event::End(Err(Error::Stopped)));
    }
    engine.save();
}

/// What is behind a lock is always whole: nobody panics while he writes it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

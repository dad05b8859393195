use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::backend::Backend;
use super::input::{self, Request, Requests};
use super::output::{self, Output};
use super::retry::Retry;
use crate::api::Reply;
use crate::error::{self, Error};
use crate::runtime;

/// How often the caller hears how far the run is, and a request to stop is seen.
const TICK: Duration = Duration::from_millis(200);

/// The status of a server, or of one on the way, that waited for an answer as long as it does.
const GATEWAY_TIMEOUT: u16 = 504;

/// How often a request may meet that and be sent again. What takes too long mostly does so each time, and keeps the server from
/// the others.
const TIMEOUTS: u32 = 2;

/// A batch and how to work through it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The requests.
    pub input: PathBuf,
    /// Their answers. Those that are there already are not asked for again.
    pub output: PathBuf,
    /// Requests at the same time.
    pub concurrency: usize,
    /// What to do when the server is busy.
    pub retry: Retry,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests of the file.
    pub total: u64,
    /// Those that the file of answers had when the run began.
    pub before: u64,
    /// Those that got an answer since.
    pub succeeded: u64,
    /// Those that failed since.
    pub failed: u64,
    /// Those that failed before.
    pub failed_before: u64,
    /// How often this run asked again.
    pub retries: u64,
    /// A torn last line of the file of answers was taken out.
    pub was_torn: bool,
}

impl Progress {
    /// Requests that have a line in the file of answers.
    pub fn ended(&self) -> u64 {
        self.before + self.succeeded + self.failed
    }

    /// Those of them whose line is a failure.
    pub fn all_failed(&self) -> u64 {
        self.failed_before + self.failed
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What was done.
    pub progress: Progress,
    /// The user stopped it before its end.
    pub is_interrupted: bool,
}

/// Works through a batch; `stop` ends it before its time. `on_progress` is called a few times a second.
///
/// # Errors
/// The files are not what they should be, which is found before the first request; an answer cannot be written; or the
/// server cannot be reached or does not take the key. Answers that came until then are in the file.
pub fn run<B: Backend>(
    backend: B,
    plan: &Plan,
    stop: &AtomicBool,
    on_progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Error> {
    if plan.concurrency == 0 {
        return Err(Error::Plan("the concurrency is 0, but must be at least 1".to_owned()));
    }
    let asked = input::check(&plan.input)?;
    let (output, found) = Output::open(&plan.output, &asked)?;
    let progress = Progress {
        total: asked.len() as u64,
        before: found.ids.len() as u64,
        failed_before: found.failed,
        was_torn: found.was_torn,
        ..Progress::default()
    };
    drop(asked);
    runtime::new()?.block_on(work(
        Arc::new(Asker::new(backend, plan.retry)),
        plan,
        found.ids,
        output,
        progress,
        stop,
        on_progress,
    ))
}

async fn work<B: Backend>(
    asker: Arc<Asker<B>>,
    plan: &Plan,
    done: HashSet<String>,
    mut output: Output,
    mut progress: Progress,
    stop: &AtomicBool,
    on_progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Error> {
    let mut left =
        Requests::open(&plan.input)?.filter(|request| !request.as_ref().is_ok_and(|r| done.contains(&r.custom_id)));
    let mut tasks = JoinSet::new();
    // The first error that makes going on pointless. Requests that are under way may still end well.
    let mut fatal = None;
    let mut shown: Option<Instant> = None;
    let is_interrupted = loop {
        let is_stopped = stop.load(Ordering::Relaxed);
        while fatal.is_none() && !is_stopped && tasks.len() < plan.concurrency {
            let Some(request) = left.next() else { break };
            let asker = Arc::clone(&asker);
            let request = request?;
            tasks.spawn(async move { asker.ask(&request).await });
        }
        // A run that stops waits for nobody, but writes down what has come.
        let ended =
            if is_stopped { tasks.try_join_next() } else { timeout(TICK, tasks.join_next()).await.ok().flatten() };
        match ended.map(|ended| ended.expect("a request neither panics nor is aborted while it is waited for")) {
            Some(Ok(Some(Answer { line, is_success }))) => {
                output.add(&line)?;
                *(if is_success { &mut progress.succeeded } else { &mut progress.failed }) += 1;
            }
            Some(Err(error)) => {
                asker.gives_up.send_replace(true);
                fatal.get_or_insert(error);
            }
            None if is_stopped || tasks.is_empty() => break is_stopped,
            None | Some(Ok(None)) => {}
        }
        progress.retries = asker.retries.load(Ordering::Relaxed);
        if shown.is_none_or(|shown| shown.elapsed() >= TICK) {
            on_progress(&progress);
            shown = Some(Instant::now());
        }
    };
    output.sync()?;
    on_progress(&progress);
    fatal.map_or(Ok(Outcome { progress, is_interrupted }), Err)
}

/// Asks for answers, and waits when the server says so.
struct Asker<B> {
    backend: B,
    retry: Retry,
    retries: AtomicU64,
    /// The server has answered once: if it cannot be reached now, it may be again.
    was_reached: AtomicBool,
    /// The run ends: what waits to be asked is not.
    gives_up: watch::Sender<bool>,
    /// A busy server wants no requests before this moment, from nobody.
    not_before: Mutex<Option<Instant>>,
}

/// A line for the file of answers.
struct Answer {
    line: Value,
    is_success: bool,
}

impl<B: Backend> Asker<B> {
    fn new(backend: B, retry: Retry) -> Self {
        Self {
            backend,
            retry,
            retries: AtomicU64::new(0),
            was_reached: AtomicBool::new(false),
            gives_up: watch::Sender::new(false),
            not_before: Mutex::new(None),
        }
    }

    /// The answer to `request`, or `None` if the run ends before there is one; an error only if it would be the same for
    /// all other requests.
    async fn ask(&self, request: &Request) -> Result<Option<Answer>, Error> {
        let (mut attempt, mut timeouts) = (0, 0);
        loop {
            if !self.has_turn().await {
                return Ok(None);
            }
            let outcome = self.backend.call(&request.path, &request.body).await;
            let (may_pass, asked) = match &outcome {
                Ok(reply) => {
                    self.was_reached.store(true, Ordering::Relaxed);
                    timeouts += u32::from(reply.status == GATEWAY_TIMEOUT);
                    (error::is_passing(reply.status) && timeouts <= TIMEOUTS, reply.retry_after)
                }
                // If nobody was there from the start, the address is wrong and waiting does not help.
                Err(error) if error.is_unreachable() => (self.was_reached.load(Ordering::Relaxed), None),
                Err(error) => (error.is_passing(), None),
            };
            let wait = self.retry.wait(request.line, attempt, asked).filter(|_| may_pass);
            let Some(wait) = wait else { return verdict(request, outcome).map(Some) };
            if let Some(asked) = asked {
                self.hold(Instant::now() + asked);
            }
            if !self.goes_on_until(Instant::now() + wait).await {
                return Ok(None);
            }
            attempt += 1;
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps everyone from asking before `moment`.
    fn hold(&self, moment: Instant) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = Some(not_before.map_or(moment, |other| other.max(moment)));
    }

    /// Waits until one may ask; false if the run ends before.
    async fn has_turn(&self) -> bool {
        loop {
            let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            match not_before.filter(|moment| *moment > Instant::now()) {
                // While this one waits, the moment may be put off.
                Some(moment) if self.goes_on_until(moment).await => {}
                Some(_) => return false,
                None => return !*self.gives_up.borrow(),
            }
        }
    }

    /// Waits for `moment`; false if the run ends before.
    async fn goes_on_until(&self, moment: Instant) -> bool {
        timeout_at(moment, self.gives_up.subscribe().wait_for(|gives_up| *gives_up)).await.is_err()
    }
}

/// What the last attempt means.
fn verdict(request: &Request, outcome: Result<Reply, Error>) -> Result<Answer, Error> {
    let Request { line, custom_id, path, .. } = request;
    match outcome {
        // A wrong key is wrong for all, and a file full of refusals helps nobody.
        Ok(reply) if reply.status == 401 => Err(reply.into_error(path)),
        Ok(reply) => {
            let is_success = reply.is_success();
            Ok(Answer { line: output::response(*line, custom_id, &reply), is_success })
        }
        Err(error) if error.is_about_request() => {
            Ok(Answer { line: output::failure(*line, custom_id, &error), is_success: false })
        }
        Err(error) => Err(error),
    }
}

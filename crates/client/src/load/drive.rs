use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tensor::Rng;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::plan::{Arrivals, Plan};
use super::sample::{Failure, Run, Sample};
use crate::api::Api;
use crate::error::Error;
use crate::runtime;

/// How often the caller hears how far the run is, and a request to stop is seen.
const TICK: Duration = Duration::from_millis(200);

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Since the run began.
    pub seconds: f64,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that ended, failures included.
    pub ended: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Tokens of complete answers.
    pub tokens: u64,
}

/// Carries out a plan; `stop` ends it before its time. `on_progress` is called a few times a second.
///
/// # Errors
/// The plan cannot be carried out, or a request of the warm-up failed. Failures after it are part of the result.
pub fn run(api: &Api, plan: &Plan, stop: &AtomicBool, on_progress: &mut dyn FnMut(Progress)) -> Result<Run, Error> {
    plan.check()?;
    runtime::new()?.block_on(drive(api, plan, stop, on_progress))
}

async fn drive(api: &Api, plan: &Plan, stop: &AtomicBool, on_progress: &mut dyn FnMut(Progress)) -> Result<Run, Error> {
    let model = api.model(plan.model.as_deref()).await?;
    for index in 0..plan.warmup {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (path, body) = request(plan, &model, "bench warmup", index);
        answer(api, path, &body, Instant::now(), &mut Sample::default()).await?;
    }

    let (results, mut ended) = mpsc::unbounded_channel();
    let sent = Arc::new(AtomicU64::new(0));
    let work = Work { api: api.clone(), plan: plan.clone(), model, origin: Instant::now(), results, sent };
    let (origin, sent, model) = (work.origin, Arc::clone(&work.sent), work.model.clone());
    // Aborted as a whole when it is dropped.
    let mut senders = JoinSet::new();
    match plan.arrivals {
        Arrivals::Closed { concurrency } => {
            let users = (concurrency as u64).min(plan.requests.unwrap_or(u64::MAX));
            let next = Arc::new(AtomicU64::new(0));
            for _ in 0..users {
                senders.spawn(work.clone().user(Arc::clone(&next)));
            }
            drop(work);
        }
        Arrivals::Open { rate, concurrency } => {
            senders.spawn(work.arrive(rate, concurrency));
        }
    }

    let mut run = Run {
        model,
        exact_output_tokens: plan.prompts.exact_output_tokens(),
        is_open_loop: matches!(plan.arrivals, Arrivals::Open { .. }),
        ..Run::default()
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress { seconds: 0.0, sent: 0, ended: 0, failed: 0, tokens: 0 };
    loop {
        let tick = async {
            ticks.tick().await;
        };
        match either(ended.recv(), tick).await {
            Either::Left(Some(sample)) => {
                progress.ended += 1;
                progress.failed += u64::from(!sample.is_complete());
                progress.tokens += if sample.is_complete() { sample.tokens() } else { 0 };
                run.samples.push(sample);
            }
            // Every sender is gone: the plan is carried out.
            Either::Left(None) => break,
            Either::Right(()) => {
                progress.seconds = origin.elapsed().as_secs_f64();
                progress.sent = sent.load(Ordering::Relaxed);
                on_progress(progress);
                run.is_stopped = stop.load(Ordering::Relaxed);
                if run.is_stopped {
                    break;
                }
            }
        }
    }
    run.unfinished = sent.load(Ordering::Relaxed) - progress.ended;
    run.seconds = run.samples.iter().map(|sample| sample.ended).fold(0.0, f64::max);
    run.samples.sort_by_key(|sample| sample.index);
    Ok(run)
}

/// What those who send requests share.
#[derive(Clone)]
struct Work {
    api: Api,
    plan: Plan,
    model: String,
    /// When the run began.
    origin: Instant,
    results: mpsc::UnboundedSender<Sample>,
    sent: Arc<AtomicU64>,
}

impl Work {
    /// One user of the closed loop.
    async fn user(self, next: Arc<AtomicU64>) {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if self.has_ended(index, self.now()) {
                return;
            }
            let (path, body) = request(&self.plan, &self.model, "bench prompt", index);
            let now = self.now();
            self.send(path, &body, Sample { index, intended: now, started: now, ..Sample::default() }).await;
        }
    }

    /// The arrivals of the open loop.
    async fn arrive(self, rate: f64, concurrency: Option<usize>) {
        let mut rng = Rng::new(self.plan.seed, "bench arrivals", 0);
        let turns = concurrency.map(|limit| Arc::new(Semaphore::new(limit)));
        let mut requests = JoinSet::new();
        let mut intended = 0.0;
        for index in 0.. {
            // Times between events of a Poisson process are exponential.
            intended += -(1.0 - rng.uniform()).ln() / rate;
            if self.has_ended(index, intended) {
                break;
            }
            // The body is made before its time has come.
            let (path, body) = request(&self.plan, &self.model, "bench prompt", index);
            // A plan's rate is so high that the next arrival is at most two years away.
            sleep_until(self.origin + Duration::from_secs_f64(intended)).await;
            let (work, turns) = (self.clone(), turns.clone());
            requests.spawn(async move {
                let _turn = match turns {
                    Some(turns) => Some(turns.acquire_owned().await.expect("the semaphore is never closed")),
                    None => None,
                };
                let started = work.now();
                work.send(path, &body, Sample { index, intended, started, ..Sample::default() }).await;
            });
            while requests.try_join_next().is_some() {}
        }
        requests.join_all().await;
    }

    /// Whether request `index`, which would be sent at `at`, is beyond the plan's end.
    fn has_ended(&self, index: u64, at: f64) -> bool {
        self.plan.requests.is_some_and(|most| index >= most) || self.plan.seconds.is_some_and(|most| at >= most)
    }

    async fn send(&self, path: &str, body: &Value, mut sample: Sample) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = answer(&self.api, path, body, self.origin, &mut sample).await {
            sample.ended = self.now();
            sample.failure = Some(Failure { kind: error.kind(), message: error.to_string() });
        }
        // The receiver is gone only when the run was stopped, and then nobody asks.
        self.results.send(sample).ok();
    }

    fn now(&self) -> f64 {
        self.origin.elapsed().as_secs_f64()
    }
}

/// Sends a request and notes when what of its answer comes.
async fn answer(api: &Api, path: &str, body: &Value, origin: Instant, sample: &mut Sample) -> Result<(), Error> {
    let mut stream = api.stream(path, body).await?;
    while let Some(chunk) = stream.next().await? {
        if chunk.choices.iter().any(crate::wire::Choice::has_output) {
            let now = origin.elapsed().as_secs_f64();
            sample.gaps.extend(sample.last.map(|last| now - last));
            sample.first.get_or_insert(now);
            sample.last = Some(now);
            sample.chunks += 1;
        }
        let finish = chunk.choices.into_iter().find_map(|choice| choice.finish_reason);
        sample.finish_reason = finish.or(sample.finish_reason.take());
        sample.usage = chunk.usage.or(sample.usage.take());
    }
    sample.ended = origin.elapsed().as_secs_f64();
    Ok(())
}

/// Path and body of a request.
fn request(plan: &Plan, model: &str, purpose: &'static str, index: u64) -> (&'static str, Value) {
    let (path, mut body) = plan.prompts.request(plan.seed, purpose, index);
    body.insert("model".into(), model.into());
    for (field, value) in &plan.extra {
        if value.is_null() {
            body.remove(field);
        } else {
            body.insert(field.clone(), value.clone());
        }
    }
    (path, body.into())
}

/// Which of two came first.
enum Either<A, B> {
    Left(A),
    Right(B),
}

/// Waits for `left` or `right`; if both are there, `left` is taken.
async fn either<A, B>(left: impl Future<Output = A>, right: impl Future<Output = B>) -> Either<A, B> {
    let (mut left, mut right) = (std::pin::pin!(left), std::pin::pin!(right));
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(value) = left.as_mut().poll(context) {
            return std::task::Poll::Ready(Either::Left(value));
        }
        right.as_mut().poll(context).map(Either::Right)
    })
    .await
}

//! What is remembered of one HTTP request that asks for answers: its line in the log, and its part in the metrics.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Times, Usage};
use tokio::sync::OwnedSemaphorePermit;

use crate::answer::{FinishReason, Outcome};
use crate::error::ApiError;
use crate::metrics::Metrics;

/// Written when the last who needs it is done with it, however the request ended.
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    /// The request's place among those that may be answered at the same time.
    _place: OwnedSemaphorePermit,
    id: String,
    path: &'static str,
    model: String,
    caller: String,
    described: Described,
    arrived: Instant,
    has_left: AtomicBool,
    status: AtomicU16,
    state: Mutex<State>,
}

/// What a client says about its request, for those who look at the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Described {
    /// What the client calls its user.
    pub(crate) user: Option<String>,
    /// Pairs of text, as JSON.
    pub(crate) metadata: Option<String>,
}

#[derive(Default)]
struct State {
    first_token: Option<Duration>,
    usage: Usage,
    times: Times,
    finish: Option<&'static str>,
}

impl Record {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        place: OwnedSemaphorePermit,
        id: String,
        path: &'static str,
        model: String,
        caller: String,
        described: Described,
        arrived: Instant,
    ) -> Self {
        let (has_left, status) = (AtomicBool::new(false), AtomicU16::new(200));
        let state = Mutex::default();
        Self { metrics, _place: place, id, path, model, caller, described, arrived, has_left, status, state }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token has come; `last` is when the one before it did.
    pub(crate) fn token(&self, last: &mut Option<Instant>) {
        let now = Instant::now();
        if let Some(last) = last {
            self.metrics.inter_token((now - *last).as_secs_f64());
        } else {
            let mut state = self.state();
            if state.first_token.is_none() {
                let waited = now - self.arrived;
                state.first_token = Some(waited);
                self.metrics.first_token(waited.as_secs_f64());
            }
        }
        *last = Some(now);
    }

    /// How long the parts of an answer of `tokens` tokens took.
    pub(crate) fn times(&self, times: Times, tokens: usize) {
        self.metrics.times(times);
        self.metrics.mean_token(times.decode, tokens);
        let all = &mut self.state().times;
        all.queue = all.queue.max(times.queue);
        all.prefill = all.prefill.max(times.prefill);
        all.decode = all.decode.max(times.decode);
    }

    /// An answer has ended.
    pub(crate) fn ended(&self, ended: &Result<Outcome, ApiError>, usage: Usage) {
        let mut state = self.state();
        state.usage.prompt += usage.prompt;
        state.usage.cached += usage.cached;
        state.usage.answer += usage.answer;
        state.usage.preemptions += usage.preemptions;
        let finish = match ended {
            Ok(Outcome { finish: FinishReason::Length, .. }) => "length",
            Ok(Outcome { finish: FinishReason::ToolCalls, .. }) => "tool_calls",
            Ok(Outcome { finish: FinishReason::Stop, .. }) => "stop",
            Err(error) => {
                self.status.store(error.status.as_u16(), Ordering::Release);
                error.code
            }
        };
        state.finish = Some(finish);
        self.metrics.answer(if ended.is_ok() { finish } else { "error" }, usage);
    }

    /// The client does not want the answer any more. After an error of one answer nobody wants the others; that is no leaving.
    pub(crate) fn left(&self) {
        if self.status.load(Ordering::Acquire) < 400 && !self.has_left.swap(true, Ordering::AcqRel) {
            self.metrics.left.inc();
            self.metrics.answer("abort", Usage::default());
        }
    }

    /// The request ends with an error before anything was answered.
    pub(crate) fn failed(&self, error: &ApiError) {
        self.status.store(error.status.as_u16(), Ordering::Release);
        self.state().finish = Some(error.code);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.arrived.elapsed();
        let (has_left, status) = (*self.has_left.get_mut(), *self.status.get_mut());
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if status < 400 && !has_left {
            self.metrics.end_to_end(took.as_secs_f64());
        }
        let finish = if has_left { "client_left" } else { state.finish.unwrap_or("none") };
        let (usage, times) = (state.usage, state.times);
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        tracing::info!(
            target: "hadal::request",
            id = %self.id,
            path = self.path,
            model = %self.model,
            key = %self.caller,
            user = self.described.user.as_deref().unwrap_or("-"),
            metadata = self.described.metadata.as_deref().unwrap_or("-"),
            status,
            finish,
            prompt_tokens = usage.prompt,
            cached_tokens = usage.cached,
            answer_tokens = usage.answer,
            preemptions = usage.preemptions,
            queue_ms = format_args!("{:.1}", milliseconds(times.queue)),
            prefill_ms = format_args!("{:.1}", milliseconds(times.prefill)),
            decode_ms = format_args!("{:.1}", milliseconds(times.decode)),
            ttft_ms = format_args!("{:.1}", state.first_token.map_or(0.0, milliseconds)),
            total_ms = format_args!("{:.1}", milliseconds(took)),
            "request"
        );
    }
}

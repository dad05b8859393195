//! From a request to the pieces of its answers: where the engine's thread and the asynchronous world meet.
//!
//! Each answer has a task that turns the engine's events into pieces and ends as soon as nobody wants them any more; the
//! engine sees that before its next step and lets the request go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::{Event, Finish, Logprobs, Request, Sink, Times, Usage};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::app::App;
use crate::assemble::{Assembler, Delta, Reading};
use crate::error::ApiError;
use crate::openai::sampling::Drawing;
use crate::record::Record;
use crate::served::Served;

/// A prompt and what is wanted of it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) prompt: Vec<u32>,
    pub(crate) drawing: Drawing,
    /// Answers to draw.
    pub(crate) answers: usize,
    /// Seed of the first; the others' follow from it.
    pub(crate) seed: u64,
    /// The most tokens of each.
    pub(crate) max_tokens: usize,
    /// Whether to say the probability of each token and of so many likeliest ones.
    pub(crate) logprobs: Option<usize>,
    /// The same of the prompt's tokens.
    pub(crate) prompt_logprobs: Option<usize>,
    /// What the answer must look like.
    pub(crate) constraint: Option<engine::Constraints>,
    pub(crate) reading: Reading,
    /// Prompts share their beginnings only with those of the same salt.
    pub(crate) salt: u64,
    pub(crate) deadline: Instant,
}

/// A part of the answers.
#[derive(Debug)]
pub(crate) enum Piece {
    /// So much of the prompt is read.
    Progress { done: usize, total: usize, cached: usize },
    /// Probabilities of the prompt's tokens from the second one on, in order; given if they were asked for.
    Prompt(Vec<Logprobs>),
    /// More of the answer.
    Delta(Delta),
    /// All of it.
    End(Result<Outcome, ApiError>),
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) finish: FinishReason,
    /// Which of the request's stop strings ended it.
    pub(crate) stopped_by: Option<usize>,
    pub(crate) usage: Usage,
    pub(crate) reasoning_tokens: usize,
}

/// Why it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinishReason {
    Stop,
    Length,
    ToolCalls,
}

impl FinishReason {
    pub(crate) fn openai(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// Pieces that may wait for a client. One who lets more of them wait has stopped reading, and loses the answer.
const PIECES: usize = 512;
const EVENTS: usize = 4096;

/// Gives `asks` to the engine. The pieces carry the index of their answer, of all answers to all of them in order.
///
/// # Errors
/// When the engine refuses one; nothing is then left of the others.
pub(crate) fn start(
    app: &App,
    served: &Arc<Served>,
    asks: Vec<Ask>,
    record: &Arc<Record>,
) -> Result<Receiver<(usize, Piece)>, ApiError> {
    let (out, pieces) = channel(PIECES);
    let (mut requests, mut feeds) = (Vec::new(), Vec::new());
    for ask in asks {
        let ask = Arc::new(ask);
        for i in 0..ask.answers {
            let (sender, events) = channel(EVENTS);
            let is_lost = Arc::new(AtomicBool::new(false));
            let request = request(served, &ask, i);
            served.engine.check(&request)?;
            let feed: Box<dyn Sink> = Box::new(Feed { sender, is_lost: is_lost.clone() });
            requests.push((request, feed));
            feeds.push((ask.clone(), Events { receiver: events, is_lost }));
        }
    }
    served.engine.submit_all(requests).map_err(|refused| {
        let error = ApiError::from(refused);
        app.metrics.rejected(error.code);
        error
    })?;
    for (i, (ask, events)) in feeds.into_iter().enumerate() {
        let (served, record, out) = (served.clone(), record.clone(), out.clone());
        tokio::spawn(async move { answer(&served, &ask, i, events, &out, &record).await });
    }
    Ok(pieces)
}

/// The engine's request for the answer `i`.
fn request(served: &Served, ask: &Ask, i: usize) -> Request {
    let Drawing { sampling, stop_tokens, logit_bias, ignore_eos, .. } = &ask.drawing;
    let mut stop = stop_tokens.clone();
    if !ignore_eos {
        stop.extend(&served.stop);
    }
    Request {
        sampling: *sampling,
        // Any odd constant would do: the first answer has the seed itself, so it is that of a request for one.
        seed: ask.seed.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        stop,
        vocab_limit: served.tokenizer.vocab_size(),
        logit_bias: logit_bias.clone(),
        logprobs: ask.logprobs,
        // All answers have one prompt.
        prompt_logprobs: ask.prompt_logprobs.filter(|_| i == 0),
        constraint: ask.constraint.clone(),
        min_tokens: ask.drawing.min_tokens,
        salt: ask.salt,
        ..Request::new(ask.prompt.clone(), ask.max_tokens)
    }
}

/// What the engine sends its events to.
struct Feed {
    sender: Sender<Event>,
    /// Whether more events came than may wait.
    is_lost: Arc<AtomicBool>,
}

/// Where they come out.
struct Events {
    receiver: Receiver<Event>,
    is_lost: Arc<AtomicBool>,
}

impl Sink for Feed {
    fn send(&mut self, event: Event) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(event) {
            self.is_lost.store(true, Ordering::Release);
        }
    }

    fn is_closed(&self) -> bool {
        self.is_lost.load(Ordering::Acquire) || self.sender.is_closed()
    }
}

/// The task of one answer.
async fn answer(
    served: &Served,
    ask: &Ask,
    index: usize,
    events: Events,
    out: &Sender<(usize, Piece)>,
    record: &Record,
) {
    let Events { receiver: mut events, is_lost } = events;
    let deadline = tokio::time::Instant::from_std(ask.deadline);
    let mut assembler = Assembler::new(&served.tokenizer, served.format, ask.reading, &ask.drawing.stop)
        .with_min_tokens(ask.drawing.min_tokens);
    let mut usage = Usage { prompt: ask.prompt.len(), ..Usage::default() };
    let (submitted, mut queue, mut first_token, mut last_token) = (Instant::now(), Duration::ZERO, None, None);
    let ended = loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = out.closed() => return record.left(),
            () = tokio::time::sleep_until(deadline) => break Err(too_late(ask)),
        };
        match event {
            Some(Event::Prompt { done, total, cached, queue: waited }) => {
                (usage.cached, queue) = (cached, waited);
                let piece = Piece::Progress { done, total, cached };
                if ask.drawing.return_progress && out.send((index, piece)).await.is_err() {
                    return record.left();
                }
            }
            Some(Event::PromptLogprobs { logprobs, .. }) => {
                if out.send((index, Piece::Prompt(logprobs))).await.is_err() {
                    return record.left();
                }
            }
            Some(Event::Token(drawn)) => {
                usage.answer += 1;
                record.token(&mut last_token);
                let first = *first_token.get_or_insert_with(Instant::now);
                let delta = assembler.push(drawn);
                if !delta.is_empty() && out.send((index, Piece::Delta(delta))).await.is_err() {
                    return record.left();
                }
                if assembler.has_ended() {
                    // Nothing that follows counts; without its receiver the engine ends it, and says no more.
                    let prefill = first.saturating_duration_since(submitted).saturating_sub(queue);
                    record.times(Times { queue, prefill, decode: first.elapsed() }, usage.answer);
                    break Ok(Finish::Stop);
                }
            }
            Some(Event::End(Ok(end))) => {
                usage = end.usage;
                record.times(end.times, end.usage.answer);
                break Ok(end.finish);
            }
            Some(Event::End(Err(error))) => break Err(error.into()),
            None if !is_lost.load(Ordering::Acquire) => break Err(engine::Error::Fault.into()),
            None => {
                let message = "the answer was not read for so long that it was given up";
                break Err(ApiError::new(axum::http::StatusCode::REQUEST_TIMEOUT, "reader_too_slow", message));
            }
        }
    };
    drop(events);
    let (rest, read) = assembler.finish();
    let ended = ended.map(|finish| Outcome {
        finish: reason(finish, read.calls),
        stopped_by: read.stopped_by,
        usage,
        reasoning_tokens: read.reasoning_tokens,
    });
    record.ended(&ended, usage);
    if ended.is_ok() && !rest.is_empty() && out.send((index, Piece::Delta(rest))).await.is_err() {
        return;
    }
    // Whoever has left by now has the whole answer.
    out.send((index, Piece::End(ended))).await.ok();
}

fn reason(finish: Finish, calls: usize) -> FinishReason {
    match finish {
        Finish::Stop if calls > 0 => FinishReason::ToolCalls,
        Finish::Stop => FinishReason::Stop,
        Finish::Length | Finish::Context => FinishReason::Length,
    }
}

fn too_late(ask: &Ask) -> ApiError {
    let late = Instant::now().saturating_duration_since(ask.deadline);
    let message = format!(
        "the answer took longer than a request may ({late:.0?} over); ask for fewer tokens, or give the server a longer \
         --request-timeout"
    );
    ApiError::new(axum::http::StatusCode::GATEWAY_TIMEOUT, "request_timeout", message)
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Probabilities of the prompt's tokens, if they were asked for.
    pub(crate) prompt: Vec<Logprobs>,
    pub(crate) delta: Delta,
    pub(crate) outcome: Outcome,
}

/// Waits for all answers.
///
/// # Errors
/// The first that any of them ended with.
pub(crate) async fn whole(mut pieces: Receiver<(usize, Piece)>, answers: usize) -> Result<Vec<Whole>, ApiError> {
    let mut deltas = vec![(Vec::new(), Delta::default()); answers];
    let mut outcomes = vec![None; answers];
    while let Some((i, piece)) = pieces.recv().await {
        match piece {
            Piece::Progress { .. } => {}
            Piece::Prompt(logprobs) => deltas[i].0.extend(logprobs),
            Piece::Delta(delta) => deltas[i].1.append(delta),
            Piece::End(outcome) => outcomes[i] = Some(outcome?),
        }
    }
    let all = deltas.into_iter().zip(outcomes);
    all.map(|((prompt, delta), outcome)| {
        let outcome = outcome.ok_or_else(|| ApiError::internal("an answer ended without an end"))?;
        Ok(Whole { prompt, delta, outcome })
    })
    .collect()
}

/// The time that a request has; a day, if it may take longer than a clock can tell.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_hours(24))
}

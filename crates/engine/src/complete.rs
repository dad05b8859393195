use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use model::{BLOCK_TOKENS, Model};
use tensor::Ctx;

use crate::engine::Engine;
use crate::error::Error;
use crate::event::{Event, Sink};
use crate::limits::Limits;
use crate::request::{Finish, Request};
use crate::speculation::Mtp;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Answers all requests, in their order.
///
/// # Errors
/// The first request that cannot be answered.
pub fn complete(ctx: &Ctx, model: &Model, requests: &[Request]) -> Result<Vec<Completion>, Error> {
    complete_until(ctx, model, requests, |_| false)
}

/// The same, where an answer also ends with the token after which `ended` says so of its tokens.
///
/// # Errors
/// As [`complete`].
pub fn complete_until(
    ctx: &Ctx,
    model: &Model,
    requests: &[Request],
    ended: impl Fn(&[u32]) -> bool,
) -> Result<Vec<Completion>, Error> {
    let mut engine = Engine::new(ctx, model, limits(model, requests));
    let (events, received) = channel();
    let mut answers: Vec<Answer> = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        let is_closed = Arc::new(AtomicBool::new(false));
        answers.push(Answer { tokens: Vec::new(), finish: None, is_closed: is_closed.clone() });
        engine.add(request.clone(), Box::new(Outlet { index, events: events.clone(), is_closed }));
    }
    loop {
        for (index, event) in received.try_iter() {
            let answer = &mut answers[index];
            match event {
                Event::Token(drawn) if answer.finish.is_none() => {
                    answer.tokens.push(drawn.id);
                    if ended(&answer.tokens) {
                        answer.finish = Some(Finish::Stop);
                        answer.is_closed.store(true, Ordering::Relaxed);
                    }
                }
                Event::End(end) => {
                    answer.finish.get_or_insert(end?.finish);
                }
                Event::Prompt { .. } | Event::PromptLogprobs { .. } | Event::Token(_) => {}
            }
        }
        if engine.is_idle() {
            break;
        }
        engine.step();
    }
    let completion =
        |answer: Answer| Completion { tokens: answer.tokens, finish: answer.finish.expect("every answer has ended") };
    Ok(answers.into_iter().map(completion).collect())
}

/// Room for the longest of `requests`, as many times as a batch has places.
fn limits(model: &Model, requests: &[Request]) -> Limits {
    let limits = Limits { prefill_tokens: usize::MAX, mtp: Mtp::Off, ..Limits::default() };
    let longest = requests.iter().map(|r| r.prompt.len().saturating_add(r.max_tokens)).max().unwrap_or(0);
    let blocks = longest.min(model.config.max_position_embeddings).div_ceil(BLOCK_TOKENS) + 1;
    let cache_bytes = (blocks * limits.max_batch_size.min(requests.len()) * model.cache_block_bytes()) as u64;
    Limits { cache_bytes, ..limits }
}

struct Answer {
    tokens: Vec<u32>,
    finish: Option<Finish>,
    is_closed: Arc<AtomicBool>,
}

struct Outlet {
    index: usize,
    events: Sender<(usize, Event)>,
    is_closed: Arc<AtomicBool>,
}

impl Sink for Outlet {
    fn send(&mut self, event: Event) {
        // The other end lives as long as the engine.
        drop(self.events.send((self.index, event)));
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

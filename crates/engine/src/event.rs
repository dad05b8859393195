use std::time::Duration;

use crate::draw::Drawn;
use crate::error::Error;
use crate::logprobs::Logprobs;
use crate::request::Finish;

/// What becomes of a request, in this order: parts of the prompt, tokens, one end.
#[derive(Debug)]
pub enum Event {
    /// So many tokens of the prompt are done.
    Prompt {
        /// Done, those that were in the cache included.
        done: usize,
        /// All of them.
        total: usize,
        /// Those of them that were in the cache.
        cached: usize,
        /// How long the request had waited before the engine began with it.
        queue: Duration,
    },
    /// Log-probabilities of prompt tokens, if they were asked for: of those from position `first` on. The first token of a
    /// prompt follows nothing and has none, so they begin with position 1. They come in order, without a gap.
    PromptLogprobs {
        /// Where they begin.
        first: usize,
        /// One for each token.
        logprobs: Vec<Logprobs>,
    },
    /// A token of the answer.
    Token(Drawn),
    /// Nothing follows.
    End(Result<End, Error>),
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub finish: Finish,
    /// What it took.
    pub usage: Usage,
    /// How long it took.
    pub times: Times,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt: usize,
    /// Those of them that were in the cache.
    pub cached: usize,
    /// Of the answer.
    pub answer: usize,
    /// How often it had to make room for others and begin again.
    pub preemptions: usize,
}

/// Parts of the time of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Until the engine began with it.
    pub queue: Duration,
    /// From then to its first token.
    pub prefill: Duration,
    /// From then to its end.
    pub decode: Duration,
}

/// Where the events of a request go. The engine's threads call it, so it must not wait.
pub trait Sink: Send {
    /// Takes an event.
    fn send(&mut self, event: Event);

    /// Whether nobody wants the events any more. The request then ends before the next step, whatever it is at.
    fn is_closed(&self) -> bool;
}

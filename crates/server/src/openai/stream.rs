//! Chunks of streamed chats.

use std::time::Instant;

use axum::response::sse::Event;
use engine::Logprobs;
use serde_json::{Value, json};

use crate::answer::Outcome;
use crate::assemble::Delta;
use crate::error::ApiError;
use crate::openai::chat::{self, Chunks};
use crate::stream::{Frames, event};

/// A chat's chunks, as events.
pub(crate) struct ChatFrames {
    pub(crate) chunks: Chunks,
    pub(crate) include_usage: bool,
    pub(crate) began: Instant,
}

impl ChatFrames {
    fn events(&self, chunks: Vec<Value>) -> Vec<Event> {
        let complete = |mut chunk: Value| {
            // As published: where the last chunk gives the usage, the others say that they do not.
            if self.include_usage {
                chunk["usage"] = Value::Null;
            }
            event(&chunk)
        };
        chunks.into_iter().map(complete).collect()
    }
}

impl Frames for ChatFrames {
    fn begin(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn progress(&mut self, index: usize, done: usize, total: usize, cached: usize) -> Vec<Event> {
        if index > 0 {
            return Vec::new();
        }
        let mut chunk = self.chunks.chunk(&json!([]));
        chunk["prompt_progress"] = progress(self.began, done, total, cached);
        vec![event(&chunk)]
    }

    fn prompt(&mut self, _: usize, _: Vec<Logprobs>) -> Vec<Event> {
        Vec::new()
    }

    fn delta(&mut self, index: usize, delta: &Delta) -> Vec<Event> {
        let chunks = self.chunks.delta(index, delta);
        self.events(chunks)
    }

    fn end(&mut self, index: usize, outcome: Outcome) -> Vec<Event> {
        // An answer without a token has a role all the same.
        let mut chunks =
            if self.chunks.told[index].0 { Vec::new() } else { self.chunks.delta(index, &Delta::default()) };
        chunks.push(self.chunks.end(index, outcome));
        self.events(chunks)
    }

    fn finish(&mut self, outcomes: &[Outcome]) -> Vec<Event> {
        let mut events = Vec::new();
        if self.include_usage {
            let mut chunk = self.chunks.chunk(&json!([]));
            chunk["usage"] = chat::usage(outcomes);
            events.push(event(&chunk));
        }
        events.push(done());
        events
    }

    fn error(&mut self, error: &ApiError) -> Vec<Event> {
        vec![event(&error.openai())]
    }
}

/// How far the prompt is read, under llama.cpp's names.
pub(crate) fn progress(began: Instant, done: usize, total: usize, cached: usize) -> Value {
    json!({ "total": total, "cache": cached, "processed": done, "time_ms": began.elapsed().as_millis() as u64 })
}

/// The end of a stream.
pub(crate) fn done() -> Event {
    Event::default().data("[DONE]")
}

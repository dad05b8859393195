//! Streamed answers: blocks that are opened, grow, and are closed.

use axum::response::sse::Event;
use engine::Logprobs;
use serde_json::{Value, json};

use crate::answer::Outcome;
use crate::anthropic::response;
use crate::assemble::Delta;
use crate::error::ApiError;
use crate::stream::Frames;

/// What the stream of a message remembers.
pub(crate) struct MessageFrames {
    pub(crate) model: String,
    pub(crate) id: String,
    pub(crate) request_id: String,
    pub(crate) stops: Vec<String>,
    pub(crate) prompt_tokens: usize,
    /// Whether the reasoning is told, or only that there is some.
    pub(crate) shows_thinking: bool,
    /// The block that is open, if one is.
    open: Option<Kind>,
    /// Blocks so far.
    blocks: usize,
    calls: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
}

impl MessageFrames {
    pub(crate) fn new(
        model: String,
        id: String,
        request_id: String,
        stops: Vec<String>,
        prompt_tokens: usize,
        shows_thinking: bool,
    ) -> Self {
        Self { model, id, request_id, stops, prompt_tokens, shows_thinking, open: None, blocks: 0, calls: 0 }
    }

    fn close(&mut self, events: &mut Vec<Event>) {
        if self.open.take().is_some() {
            events.push(named(&json!({ "type": "content_block_stop", "index": self.blocks - 1 })));
        }
    }

    /// Opens a block of `kind`, if it is not open.
    fn open(&mut self, kind: Kind, events: &mut Vec<Event>) {
        if self.open == Some(kind) {
            return;
        }
        self.close(events);
        let block = match kind {
            Kind::Thinking => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Kind::Text => json!({ "type": "text", "text": "" }),
        };
        self.start(&block, events);
        self.open = Some(kind);
    }

    fn start(&mut self, block: &Value, events: &mut Vec<Event>) {
        events.push(named(&json!({ "type": "content_block_start", "index": self.blocks, "content_block": block })));
        self.blocks += 1;
    }

    fn grow(&self, delta: &Value, events: &mut Vec<Event>) {
        events.push(named(&json!({ "type": "content_block_delta", "index": self.blocks - 1, "delta": delta })));
    }
}

impl Frames for MessageFrames {
    fn begin(&mut self) -> Vec<Event> {
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": { "input_tokens": self.prompt_tokens, "output_tokens": 0 },
        });
        vec![named(&json!({ "type": "message_start", "message": message })), named(&json!({ "type": "ping" }))]
    }

    fn progress(&mut self, _: usize, _: usize, _: usize, _: usize) -> Vec<Event> {
        Vec::new()
    }

    fn prompt(&mut self, _: usize, _: Vec<Logprobs>) -> Vec<Event> {
        Vec::new()
    }

    fn delta(&mut self, _: usize, delta: &Delta) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(thinking) = delta.reasoning.as_ref().filter(|text| !text.is_empty()) {
            self.open(Kind::Thinking, &mut events);
            if self.shows_thinking {
                self.grow(&json!({ "type": "thinking_delta", "thinking": thinking }), &mut events);
            }
        }
        if !delta.content.is_empty() {
            self.open(Kind::Text, &mut events);
            self.grow(&json!({ "type": "text_delta", "text": delta.content }), &mut events);
        }
        for call in &delta.calls {
            self.close(&mut events);
            let block = response::tool_use(&self.id, self.calls, call);
            self.calls += 1;
            self.start(&block, &mut events);
            let input = response::input(call).to_string();
            self.grow(&json!({ "type": "input_json_delta", "partial_json": input }), &mut events);
            events.push(named(&json!({ "type": "content_block_stop", "index": self.blocks - 1 })));
        }
        events
    }

    fn end(&mut self, _: usize, outcome: Outcome) -> Vec<Event> {
        let mut events = Vec::new();
        self.close(&mut events);
        let delta = json!({
            "stop_reason": response::stop_reason(outcome),
            "stop_sequence": response::stop_sequence(outcome, &self.stops),
        });
        events.push(named(&json!({ "type": "message_delta", "delta": delta, "usage": response::usage(outcome) })));
        events
    }

    fn finish(&mut self, _: &[Outcome]) -> Vec<Event> {
        vec![named(&json!({ "type": "message_stop" }))]
    }

    fn error(&mut self, error: &ApiError) -> Vec<Event> {
        vec![named(&error.anthropic(Some(&self.request_id)))]
    }
}

/// An event that is named after its type.
fn named(data: &Value) -> Event {
    Event::default().event(data["type"].as_str().unwrap_or("message")).data(data.to_string())
}

//! Whole answers.

use serde_json::{Value, json};
use tokenizer::ToolCall;

use crate::answer::{FinishReason, Outcome, Whole};
use crate::assemble::Delta;

/// The answer as a message; `shows_thinking` says whether the reasoning is told, or only that there was some.
pub(crate) fn response(model: &str, id: &str, stops: &[String], answer: &Whole, shows_thinking: bool) -> Value {
    let Whole { delta: Delta { reasoning, content, calls, .. }, outcome, .. } = answer;
    let mut blocks = Vec::new();
    if let Some(thinking) = reasoning {
        let thinking = if shows_thinking { thinking } else { "" };
        // Signatures are for services that do not trust their clients; templates leave earlier reasoning out anyway.
        blocks.push(json!({ "type": "thinking", "thinking": thinking, "signature": "" }));
    }
    if !content.is_empty() || (calls.is_empty() && reasoning.is_none()) {
        blocks.push(json!({ "type": "text", "text": content }));
    }
    blocks.extend(calls.iter().enumerate().map(|(i, call)| {
        let mut block = tool_use(id, i, call);
        block["input"] = input(call);
        block
    }));
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": stop_reason(*outcome),
        "stop_sequence": stop_sequence(*outcome, stops),
        "usage": usage(*outcome),
    })
}

/// A call's block, without its input.
pub(crate) fn tool_use(id: &str, index: usize, call: &ToolCall) -> Value {
    let unique = id.rsplit('_').next().unwrap_or(id);
    json!({ "type": "tool_use", "id": format!("toolu_{unique}_{index}"), "name": call.name, "input": {} })
}

/// The arguments as an object. A model may write some that are none; they are then given as they stand.
pub(crate) fn input(call: &ToolCall) -> Value {
    match serde_json::from_str(&call.arguments) {
        Ok(object @ Value::Object(_)) => object,
        _ => json!({ "arguments": call.arguments }),
    }
}

pub(crate) fn stop_reason(outcome: Outcome) -> &'static str {
    match outcome.finish {
        FinishReason::ToolCalls => "tool_use",
        FinishReason::Length => "max_tokens",
        FinishReason::Stop if outcome.stopped_by.is_some() => "stop_sequence",
        FinishReason::Stop => "end_turn",
    }
}

pub(crate) fn stop_sequence(outcome: Outcome, stops: &[String]) -> Option<&str> {
    stops.get(outcome.stopped_by?).map(String::as_str)
}

/// Tokens that were in the cache are counted apart.
pub(crate) fn usage(Outcome { usage, .. }: Outcome) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.answer,
    })
}

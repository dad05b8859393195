//! `/v1/chat/completions`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tokenizer::{Message, Start};

use crate::answer::{Ask, Outcome, Whole, deadline};
use crate::app::{App, salt};
use crate::assemble::{Delta, Reading};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::keys::Caller;
use crate::openai::logprobs::OfChat;
use crate::openai::messages::{self, Tool, ToolChoice};
use crate::openai::sampling::{Drawing, MAX_LOGPROBS};
use crate::openai::shape;
use crate::prompt::{Conversation, Variables};
use crate::record::Described;
use crate::served::Served;

/// A request, read.
pub(crate) struct Chat {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) described: Described,
}

/// Reads a body and makes its prompt. May take a while for a long one.
pub(crate) fn read(app: &App, served: &Served, caller: &Caller, mut fields: Fields) -> Result<Chat, ApiError> {
    let conversation = messages::messages(&mut fields)?;
    let tools = messages::tools(&mut fields)?;
    let choice = messages::tool_choice(&mut fields, &tools)?;
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let format = shape::read(&mut fields)?;
    let drawing = Drawing::read(&mut fields, served)?;
    let variables = Variables::read(&mut fields, served)?;
    let logprobs = logprobs_asked(&mut fields)?;
    let max_tokens = max_tokens(&mut fields)?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let include_usage = stream_options(&mut fields, stream)?;
    let described = described(&mut fields)?;
    others(&mut fields)?;
    fields.end()?;
    drawing.check_stream(stream)?;

    let tools = if choice == ToolChoice::None { Vec::new() } else { tools };
    let conversation = Conversation { messages: conversation, tools: &tools, variables };
    let prompt = conversation.encode(served)?;
    let start = if served.opens_reasoning(&prompt) { Start::Reasoning } else { Start::Answer };
    let format = format.map(|format| ("response_format", format));
    let held = messages::held(served.format, &tools, &choice, parallel, format)?;
    let constraint = served.constraints(held, start)?;
    let reading = Reading::Chat { start, tools: !tools.is_empty(), one_call: !parallel };
    let max_tokens = served.max_tokens(prompt.len(), max_tokens, ["messages", "max_completion_tokens"])?;
    let ask = Ask {
        prompt,
        answers: drawing.n,
        seed: drawing.seed.unwrap_or_else(|| app.next_seed()),
        max_tokens,
        logprobs,
        prompt_logprobs: None,
        constraint,
        reading,
        salt: salt(caller, drawing.salt.as_deref()),
        deadline: deadline(app.options.request_timeout),
        drawing,
    };
    Ok(Chat { ask, stream, include_usage, described })
}

/// `max_completion_tokens`, or by its old name `max_tokens`.
fn max_tokens(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let new = fields.integer("max_completion_tokens", 1..=u64::from(u32::MAX))?;
    let old = fields.integer("max_tokens", 1..=u64::from(u32::MAX))?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            let message =
                format!("max_tokens is {old} and max_completion_tokens {new}; they mean the same, so give one of them");
            Err(ApiError::field("invalid_value", "max_tokens", message))
        }
        _ => Ok(new.or(old)),
    }
}

fn logprobs_asked(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match fields.integer("top_logprobs", 0..=MAX_LOGPROBS)? {
        Some(top) if top > 0 && !wanted => {
            Err(ApiError::field("invalid_value", "top_logprobs", "top_logprobs needs logprobs to be true"))
        }
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

/// Whether the last chunk of a stream is to give the usage.
pub(crate) fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(ApiError::field("invalid_value", "stream_options", "stream_options needs stream to be true"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.unsupported("include_obfuscation", |value| value == false)?;
    options.end()?;
    Ok(include_usage)
}

/// Fields that describe the request to those who look at the log, and those that ask for the cache of prompts: it shares
/// all beginnings anyway, whatever `prompt_cache_key` says, and promises no time that they are kept for.
pub(crate) fn described(fields: &mut Fields) -> Result<Described, ApiError> {
    let user = fields.string("user")?;
    let safety = fields.string("safety_identifier")?;
    fields.string("prompt_cache_key")?;
    fields.unsupported("prompt_cache_retention", |value| value == "in_memory")?;
    if let Some(mut options) = fields.object("prompt_cache_options")? {
        options.unsupported("mode", |value| value == "implicit")?;
        options.unsupported("ttl", |_| false)?;
        options.end()?;
    }
    let metadata = metadata(fields)?;
    for (field, name) in [("user", &user), ("safety_identifier", &safety)] {
        if name.as_ref().is_some_and(|name| name.len() > 512) {
            return Err(ApiError::field("invalid_value", field, format!("{field} may have 512 bytes")));
        }
    }
    Ok(Described { user: safety.or(user), metadata })
}

/// Up to 16 pairs of text, as published, as JSON.
fn metadata(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let pairs = match fields.any("metadata") {
        None => return Ok(None),
        Some(Value::Object(pairs)) => pairs,
        Some(other) => return Err(fields.wrong_type("metadata", "an object of texts", &other)),
    };
    let is_fine =
        |(key, value): (&String, &Value)| key.len() <= 64 && value.as_str().is_some_and(|text| text.len() <= 512);
    if pairs.len() > 16 || !pairs.iter().all(is_fine) {
        let message = "metadata may have 16 entries, with names of 64 bytes and texts of 512 bytes";
        return Err(ApiError::field("invalid_value", "metadata", message));
    }
    Ok((!pairs.is_empty()).then(|| Value::Object(pairs).to_string()))
}

/// Fields of the published interface that ask for what is not done here.
fn others(fields: &mut Fields) -> Result<(), ApiError> {
    fields.unsupported("audio", |_| false)?;
    fields.unsupported("modalities", |value| *value == json!(["text"]))?;
    fields.unsupported("moderation", |_| false)?;
    fields.unsupported("functions", |_| false)?;
    fields.unsupported("function_call", |_| false)?;
    fields.unsupported("prediction", |_| false)?;
    fields.unsupported("service_tier", |value| value == "auto" || value == "default")?;
    fields.unsupported("store", |value| value == false)?;
    fields.unsupported("verbosity", |value| value == "medium")?;
    fields.unsupported("web_search_options", |_| false)
}

/// The whole answer.
pub(crate) fn response<'a>(
    served: &'a Served,
    model: &'a str,
    id: &'a str,
    answers: &'a [Whole],
    with_logprobs: bool,
) -> impl Serialize + 'a {
    let choices = answers.iter().enumerate().map(|(index, Whole { delta, outcome, .. })| {
        let Delta { reasoning, content, calls, tokens } = delta;
        let calls: Vec<Value> = calls.iter().enumerate().map(|(i, call)| tool_call(id, index, i, call)).collect();
        let content = if content.is_empty() && !calls.is_empty() { Value::Null } else { content.as_str().into() };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if let Some(reasoning) = reasoning {
            message["reasoning_content"] = reasoning.as_str().into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let logprobs = with_logprobs.then_some(OfChat { served, tokens });
        Choice { index, message, logprobs, finish_reason: outcome.finish.openai() }
    });
    let outcomes: Vec<Outcome> = answers.iter().map(|answer| answer.outcome).collect();
    Response {
        id,
        object: "chat.completion",
        created: crate::clock::unix_seconds(),
        model,
        system_fingerprint: &served.fingerprint,
        choices: choices.collect(),
        usage: usage(&outcomes),
    }
}

/// A whole answer of either of OpenAI's interfaces.
#[derive(Serialize)]
pub(crate) struct Response<'a, C> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) system_fingerprint: &'a str,
    pub(crate) choices: Vec<C>,
    pub(crate) usage: Value,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    message: Value,
    logprobs: Option<OfChat<'a>>,
    finish_reason: &'static str,
}

/// A call as a message has it. Its name within the answer is enough to tell it from all others.
pub(crate) fn tool_call(id: &str, answer: usize, index: usize, call: &tokenizer::ToolCall) -> Value {
    let unique = id.rsplit('-').next().unwrap_or(id);
    json!({
        "id": format!("call_{unique}_{answer}_{index}"),
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments },
    })
}

/// Tokens of all answers to one prompt.
pub(crate) fn usage(outcomes: &[Outcome]) -> Value {
    let prompt = outcomes.first().map_or(0, |outcome| outcome.usage.prompt);
    let cached = outcomes.first().map_or(0, |outcome| outcome.usage.cached);
    let answer: usize = outcomes.iter().map(|outcome| outcome.usage.answer).sum();
    let reasoning: usize = outcomes.iter().map(|outcome| outcome.reasoning_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": { "cached_tokens": cached },
        "completion_tokens_details": { "reasoning_tokens": reasoning },
    })
}

/// A chat's prompt without an answer: `/apply-template`, `/tokenize` and counting.
pub(crate) fn prompt_only(
    fields: &mut Fields,
    served: &Served,
) -> Result<(Vec<Message>, Vec<Tool>, Variables), ApiError> {
    let messages = messages::messages(fields)?;
    let tools = messages::tools(fields)?;
    let variables = Variables::read(fields, served)?;
    Ok((messages, tools, variables))
}

/// What the stream of a chat remembers between its chunks.
pub(crate) struct Chunks {
    pub(crate) served: Arc<Served>,
    pub(crate) model: String,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) with_logprobs: bool,
    /// Of each answer: whether its role was told, and its calls so far.
    pub(crate) told: Vec<(bool, usize)>,
}

impl Chunks {
    /// A chunk with these choices.
    pub(crate) fn chunk(&self, choices: &Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.served.fingerprint,
            "choices": choices,
        })
    }

    /// What `delta` adds to the answer `index`.
    pub(crate) fn delta(&mut self, index: usize, delta: &Delta) -> Vec<Value> {
        let Delta { reasoning, content, calls, tokens } = delta;
        let (role_told, calls_told) = self.told[index];
        let mut chunks = Vec::new();
        let choice = |delta: Value, logprobs: Value| json!([{ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null }]);
        if !role_told {
            chunks.push(self.chunk(&choice(json!({ "role": "assistant", "content": "" }), Value::Null)));
        }
        let mut fields = json!({});
        if let Some(reasoning) = reasoning.as_ref().filter(|text| !text.is_empty()) {
            fields["reasoning_content"] = reasoning.as_str().into();
        }
        if !content.is_empty() {
            fields["content"] = content.as_str().into();
        }
        if !calls.is_empty() {
            let calls = calls.iter().enumerate().map(|(i, call)| {
                let mut call = tool_call(&self.id, index, calls_told + i, call);
                call["index"] = (calls_told + i).into();
                call
            });
            fields["tool_calls"] = calls.collect();
        }
        let has_tokens = self.with_logprobs && !tokens.is_empty();
        if has_tokens || fields.as_object().is_some_and(|fields| !fields.is_empty()) {
            let logprobs = has_tokens.then_some(OfChat { served: &self.served, tokens });
            chunks.push(self.chunk(&choice(fields, json!(logprobs))));
        }
        self.told[index] = (true, calls_told + calls.len());
        chunks
    }

    /// The end of the answer `index`.
    pub(crate) fn end(&self, index: usize, outcome: Outcome) -> Value {
        let reason = outcome.finish.openai();
        self.chunk(&json!([{ "index": index, "delta": {}, "logprobs": null, "finish_reason": reason }]))
    }
}

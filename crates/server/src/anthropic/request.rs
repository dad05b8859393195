//! `/v1/messages` and `/v1/messages/count_tokens`.

use axum::http::HeaderMap;
use engine::Sampling;
use grammar::Grammar;
use serde_json::{Value, json};
use tokenizer::{Message, Start};

use crate::answer::{Ask, deadline};
use crate::anthropic::{budget, content, context};
use crate::app::{App, salt};
use crate::assemble::Reading;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::keys::Caller;
use crate::openai::messages::{self, MAX_TOOLS, Tool, ToolChoice, check_name};
use crate::openai::sampling::{Drawing, stops};
use crate::prompt::{Conversation, Variables};
use crate::record::Described;
use crate::served::Served;

/// Examples of a tool's input.
const MAX_EXAMPLES: usize = 64;

/// A request, read.
pub(crate) struct Messages {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    /// Whether the reasoning is told.
    pub(crate) shows_thinking: bool,
    pub(crate) described: Described,
}

/// What decides the prompt, and what stands beside it in requests for an answer and for a count alike.
struct Prompt {
    messages: Vec<Message>,
    tools: Vec<Tool>,
    choice: ToolChoice,
    parallel: bool,
    thinking: Thinking,
    shows_thinking: bool,
    format: Option<Grammar>,
}

/// `thinking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thinking {
    /// As the model's template has it.
    Unsaid,
    Off,
    /// For at most so many tokens.
    On(Option<usize>),
}

/// Reads a body and makes its prompt. May take a while for a long one.
pub(crate) fn read(app: &App, served: &Served, caller: &Caller, mut fields: Fields) -> Result<Messages, ApiError> {
    let prompt = Prompt::read(&mut fields, served)?;
    let max_tokens = fields.integer("max_tokens", 1..=u64::from(u32::MAX))?;
    let max_tokens = fields.required("max_tokens", max_tokens)?;
    let drawing = drawing(&mut fields, served)?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let described = Described { user: user(&mut fields)?, metadata: None };
    fields.unsupported("service_tier", |value| value == "auto" || value == "standard_only")?;
    fields.unsupported("container", |_| false)?;
    fields.unsupported("diagnostics", |_| false)?;
    fields.unsupported("inference_geo", |_| false)?;
    others(&mut fields)?;
    fields.unsupported("thread", |value| value == false)?;
    fields.unsupported("compaction", |_| false)?;
    fields.unsupported("billing_policy", |_| false)?;
    fields.unsupported("fallbacks", |_| false)?;
    fields.unsupported("fallback_credit_token", |_| false)?;
    fields.end()?;

    let (ids, start, tools) = prompt.encode(served)?;
    let format = prompt.format.as_ref().map(|format| ("output_format", format.clone()));
    let held = messages::held(served.format, &tools, &prompt.choice, prompt.parallel, format)?;
    let mut constraint = served.constraints(held, start)?;
    if let (Thinking::On(Some(tokens)), Start::Reasoning, Some(end)) =
        (prompt.thinking, start, served.tokenizer.special_tokens().think_end)
    {
        constraint = Some(budget::constraints(constraint, tokens, end));
    }
    let one_call = !prompt.parallel;
    let ask = Ask {
        max_tokens: room(served, ids.len(), max_tokens)?,
        prompt: ids,
        answers: 1,
        seed: app.next_seed(),
        logprobs: None,
        prompt_logprobs: None,
        constraint,
        reading: Reading::Chat { start, tools: !tools.is_empty(), one_call },
        salt: salt(caller, None),
        deadline: deadline(app.options.request_timeout),
        drawing,
    };
    Ok(Messages { ask, stream, shows_thinking: prompt.shows_thinking, described })
}

/// The tokens that the answer may have, of `asked` ones. Clients of this interface read its errors and ask for fewer, or
/// shorten the conversation, which takes the words that they know.
fn room(served: &Served, prompt: usize, asked: u64) -> Result<usize, ApiError> {
    served.max_tokens(prompt, Some(asked), ["messages", "max_tokens"]).map_err(|error| {
        let limit = served.max_model_len;
        let message = if prompt >= limit {
            format!("prompt is too long: {prompt} tokens > {limit} maximum, and the answer needs room too")
        } else {
            format!(
                "input length and `max_tokens` exceed context limit: {prompt} + {asked} > {limit}, decrease input length or \
                 `max_tokens` and try again"
            )
        };
        ApiError { message, ..error }
    })
}

/// Fields of the published interface that ask for what is not done here, whether an answer is wanted or a count.
fn others(fields: &mut Fields) -> Result<(), ApiError> {
    fields.unsupported("mcp_servers", |value| value.as_array().is_some_and(Vec::is_empty))?;
    fields.unsupported("speed", |value| value == "standard")
}

/// Fields of the published interface that are sent as headers. Others are none of ours: who adds a header of HTTP cannot
/// count on being understood.
pub(crate) fn headers(headers: &HeaderMap) -> Result<(), ApiError> {
    for name in ["anthropic-workspace-id", "anthropic-user-profile-id"] {
        if headers.contains_key(name) {
            let message = format!("the header {name} is not supported here; leave it out");
            return Err(ApiError::field("unsupported_parameter", name, message));
        }
    }
    Ok(())
}

/// The tokens of a request that is not answered.
pub(crate) fn count(served: &Served, mut fields: Fields) -> Result<Value, ApiError> {
    let prompt = Prompt::read(&mut fields, served)?;
    others(&mut fields)?;
    fields.end()?;
    let (ids, ..) = prompt.encode(served)?;
    Ok(json!({ "input_tokens": ids.len() }))
}

impl Prompt {
    fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        content::cache_control(fields)?;
        let messages = content::conversation(fields)?;
        let tools = tools(fields)?;
        let (choice, parallel) = tool_choice(fields, &tools)?;
        let (thinking, shows_thinking) = thinking(fields, served)?;
        let (effort, format) = output(fields)?;
        context::check(fields, served)?;
        // Effort is thought, as far as a model has the choice.
        let thinking = if thinking == Thinking::Unsaid && effort { Thinking::On(None) } else { thinking };
        Ok(Self { messages, tools, choice, parallel, thinking, shows_thinking, format })
    }

    /// The ids, where they leave the model, and the tools that it hears of.
    fn encode(&self, served: &Served) -> Result<(Vec<u32>, Start, Vec<Tool>), ApiError> {
        let tools = if self.choice == ToolChoice::None { Vec::new() } else { self.tools.clone() };
        let mut variables = Variables::default();
        if served.asks_thinking && self.thinking != Thinking::Unsaid {
            variables = variables.think(self.thinking != Thinking::Off, served, "thinking")?;
        }
        let ids = Conversation { messages: self.messages.clone(), tools: &tools, variables }.encode(served)?;
        let start = if served.opens_reasoning(&ids) { Start::Reasoning } else { Start::Answer };
        match (self.thinking, start) {
            // Thinking is allowed, not demanded: a model of this family may answer at once behind a tool's result, and one
            // that does not think always does.
            (Thinking::Off, Start::Reasoning) => {
                let message = "thinking is off, but this model always thinks; leave it out";
                Err(ApiError::field("unsupported_parameter", "thinking", message))
            }
            _ => Ok((ids, start, tools)),
        }
    }
}

fn drawing(fields: &mut Fields, served: &Served) -> Result<Drawing, ApiError> {
    let defaults = served.defaults;
    let temperature = fields.number("temperature", 0.0..=1.0)?.map_or(defaults.temperature, |x| x as f32);
    let top_p = fields.number("top_p", 0.0..=1.0)?.map_or(defaults.top_p, |x| (x as f32).max(f32::MIN_POSITIVE));
    let top_k = fields.integer("top_k", 0..=u64::from(u32::MAX))?.map_or(defaults.top_k, |k| k as usize);
    Ok(Drawing {
        sampling: Sampling { temperature, top_p, top_k, ..defaults },
        stop: stops(fields, "stop_sequences")?,
        ..Drawing::plain(defaults)
    })
}

fn user(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let Some(mut metadata) = fields.object("metadata")? else { return Ok(None) };
    let user = metadata.string("user_id")?;
    metadata.end()?;
    match user {
        Some(user) if user.len() > 512 => {
            Err(ApiError::field("invalid_value", "metadata.user_id", "metadata.user_id may have 512 bytes"))
        }
        user => Ok(user),
    }
}

/// `output_config`: whether it asks for some effort, and a JSON schema, which may stand in `output_format` too.
fn output(fields: &mut Fields) -> Result<(bool, Option<Grammar>), ApiError> {
    let mut format = fields.object("output_format")?;
    let mut effort = None;
    if let Some(mut config) = fields.object("output_config")? {
        let inner = config.object("format")?;
        effort = config.choice("effort", &["low", "medium", "high", "xhigh", "max"])?;
        config.unsupported("task_budget", |_| false)?;
        config.end()?;
        format = format.or(inner);
    }
    let Some(mut format) = format else { return Ok((effort.is_some(), None)) };
    format.required_choice("type", &["json_schema"])?;
    let schema = format.any("schema");
    let schema = format.required("schema", schema)?;
    format.end()?;
    Ok((effort.is_some(), Some(Grammar::JsonSchema(schema))))
}

/// `thinking`, and whether it is shown.
fn thinking(fields: &mut Fields, served: &Served) -> Result<(Thinking, bool), ApiError> {
    let Some(mut thinking) = fields.object("thinking")? else { return Ok((Thinking::Unsaid, true)) };
    let kind = thinking.required_choice("type", &["enabled", "disabled", "adaptive"])?;
    // A budget is the most that may be used, and no more than the context can be.
    let budget = thinking.integer("budget_tokens", 1..=u64::from(u32::MAX))?;
    let budget = budget.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX).min(served.max_model_len));
    if budget.is_some() && kind != "enabled" {
        let message = "thinking.budget_tokens is for thinking that is enabled; leave it out";
        return Err(ApiError::field("invalid_value", "thinking.budget_tokens", message));
    }
    let shows = thinking.choice("display", &["summarized", "omitted"])? != Some("omitted");
    thinking.end()?;
    let thinking = match kind {
        "disabled" => Thinking::Off,
        "adaptive" => Thinking::Unsaid,
        _ => Thinking::On(budget),
    };
    Ok((thinking, shows))
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
    let list = fields.list("tools", MAX_TOOLS)?.unwrap_or_default();
    let read = |(i, value)| tool(value, &format!("tools[{i}]"));
    let tools = list.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    messages::check_unique(&tools)?;
    Ok(tools)
}

fn tool(value: Value, at: &str) -> Result<Tool, ApiError> {
    let mut tool = Fields::of(value, at)?;
    content::cache_control(&mut tool)?;
    tool.unsupported("type", |value| value == "custom")?;
    let name = tool.required_string("name")?;
    check_name(&name, &tool.path("name"))?;
    let description = tool.string("description")?;
    let parameters = match tool.any("input_schema") {
        None => json!({ "type": "object", "properties": {} }),
        Some(schema @ Value::Object(_)) => schema,
        Some(other) => return Err(tool.wrong_type("input_schema", "a JSON schema, an object", &other)),
    };
    let strict = tool.boolean("strict")?.unwrap_or(false);
    tool.unsupported("allowed_callers", |value| *value == json!(["direct"]))?;
    tool.unsupported("defer_loading", |value| value == false)?;
    // It lets arguments come before it is known that they are JSON. They come when they are whole.
    tool.boolean("eager_input_streaming")?;
    let examples = tool.list("input_examples", MAX_EXAMPLES)?.unwrap_or_default();
    if let Some(other) = examples.iter().find(|example| !example.is_object()) {
        return Err(tool.wrong_type("input_examples", "a list of objects", other));
    }
    tool.end()?;
    Ok(Tool { name, description: described(description, &examples), parameters, strict })
}

/// A description with examples of a tool's input, for which no format of this family has a place of its own.
fn described(description: Option<String>, examples: &[Value]) -> Option<String> {
    if examples.is_empty() {
        return description;
    }
    let mut text = description.unwrap_or_default();
    text += if text.is_empty() { "Examples of its input:" } else { "\n\nExamples of its input:" };
    for example in examples {
        text.push('\n');
        text.push_str(&example.to_string());
    }
    Some(text)
}

/// What is to be called, and whether several calls may be made.
fn tool_choice(fields: &mut Fields, tools: &[Tool]) -> Result<(ToolChoice, bool), ApiError> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, true)) };
    let kind = choice.required_choice("type", &["auto", "any", "tool", "none"])?;
    let name = choice.string("name")?;
    let parallel = !choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    if name.is_some() && kind != "tool" {
        let message = format!("tool_choice.name is for the type tool, and this one is {kind}; leave it out");
        return Err(ApiError::field("invalid_value", "tool_choice.name", message));
    }
    let chosen = match kind {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" if tools.is_empty() => {
            return Err(ApiError::field("invalid_value", "tool_choice", "tool_choice is any, but there are no tools"));
        }
        "any" => ToolChoice::Required,
        _ => {
            let name = choice.required("name", name)?;
            if !tools.iter().any(|tool| tool.name == name) {
                let name: String = name.chars().take(80).collect();
                let message = format!("tool_choice names {name:?}, which is not among the tools");
                return Err(ApiError::field("invalid_value", "tool_choice.name", message));
            }
            ToolChoice::Named(name)
        }
    };
    choice.end()?;
    Ok((chosen, parallel))
}

//! `/v1/messages` and `/v1/messages/count_tokens`.

use axum::http::HeaderMap;
use engine::Sampling;
use grammar::{Function, Grammar};
use serde_json::{Value, json};
use tokenizer::{Message, Start};

use crate::answer::{Ask, deadline};
use crate::anthropic::{budget, content};
use crate::app::{App, salt};
use crate::assemble::Reading;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::keys::Caller;
use crate::openai::messages::{Tool, ToolChoice, check_name};
use crate::openai::sampling::{Drawing, stops};
use crate::prompt::{Conversation, Variables};
use crate::record::Described;
use crate::served::Served;

const MAX_TOOLS: usize = 128;

/// A request, read.
pub(crate) struct Messages {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    pub(crate) described: Described,
}

/// What decides the prompt.
struct Prompt {
    messages: Vec<Message>,
    tools: Vec<Tool>,
    choice: ToolChoice,
    parallel: bool,
    thinking: Thinking,
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
    let format = output_format(&mut fields)?;
    fields.end()?;

    let (ids, start, tools) = prompt.encode(served)?;
    let grammar = match (prompt.demanded(served, &tools), format) {
        (Some(_), Some(_)) => {
            let message = "a format of the output and a tool_choice that demands a call exclude each other";
            return Err(ApiError::field("invalid_value", "tool_choice", message));
        }
        (Some(calls), None) => Some(("tools", calls)),
        (None, format) => format.map(|format| ("output_format", format)),
    };
    let mut constraint = served.constraints(grammar, start)?;
    if let (Thinking::On(Some(tokens)), Start::Reasoning, Some(end)) =
        (prompt.thinking, start, served.tokenizer.special_tokens().think_end)
    {
        constraint = Some(budget::constraints(constraint, tokens, end));
    }
    let one_call = !prompt.parallel;
    let ask = Ask {
        max_tokens: served.max_tokens(ids.len(), Some(max_tokens), ["messages", "max_tokens"])?,
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
    Ok(Messages { ask, stream, described })
}

/// Fields of the published interface that ask for what is not done here, whether an answer is wanted or a count.
fn others(fields: &mut Fields) -> Result<(), ApiError> {
    fields.unsupported("context_management", |_| false)?;
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
    output_format(&mut fields)?;
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
        let thinking = thinking(fields, served)?;
        Ok(Self { messages, tools, choice, parallel, thinking })
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
        let refuse = |what: &str| Err(ApiError::field("unsupported_parameter", "thinking", what));
        match (self.thinking, start) {
            // A model that thinks may answer at once all the same, as those of this family do behind a tool's result.
            (Thinking::On(_), _) if !served.thinks => {
                refuse("thinking is on, but this model does not think; leave it out")
            }
            (Thinking::Off, Start::Reasoning) => refuse("thinking is off, but this model always thinks; leave it out"),
            _ => Ok((ids, start, tools)),
        }
    }

    fn demanded(&self, served: &Served, tools: &[Tool]) -> Option<Grammar> {
        let function = |tool: &Tool| Function { name: tool.name.clone(), parameters: Some(tool.parameters.clone()) };
        let functions: Vec<Function> = match &self.choice {
            ToolChoice::Required => tools.iter().map(function).collect(),
            ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).map(function).collect(),
            ToolChoice::Auto | ToolChoice::None => return None,
        };
        let parallel = self.parallel && self.choice == ToolChoice::Required;
        Some(Grammar::Tools { format: served.format, functions, parallel })
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

/// `output_format`, or `output_config` with a `format`: a JSON schema.
fn output_format(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let mut format = fields.object("output_format")?;
    if let Some(mut config) = fields.object("output_config")? {
        let inner = config.object("format")?;
        // What is done where nothing is said. Less or more of it would need a model that was trained to hear it.
        config.unsupported("effort", |value| value == "high")?;
        config.end()?;
        format = format.or(inner);
    }
    let Some(mut format) = format else { return Ok(None) };
    format.required_choice("type", &["json_schema"])?;
    let schema = format.any("schema");
    let schema = format.required("schema", schema)?;
    format.end()?;
    Ok(Some(Grammar::JsonSchema(schema)))
}

fn thinking(fields: &mut Fields, served: &Served) -> Result<Thinking, ApiError> {
    let Some(mut thinking) = fields.object("thinking")? else { return Ok(Thinking::Unsaid) };
    let kind = thinking.required_choice("type", &["enabled", "disabled", "adaptive"])?;
    let budget = thinking.integer("budget_tokens", 1..=served.max_model_len as u64)?;
    thinking.unsupported("display", |value| value == "summarized")?;
    thinking.end()?;
    Ok(match kind {
        "disabled" => Thinking::Off,
        "adaptive" => Thinking::Unsaid,
        _ => Thinking::On(budget.map(|tokens| tokens as usize)),
    })
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
    let list = fields.list("tools", MAX_TOOLS)?.unwrap_or_default();
    let mut tools: Vec<Tool> = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        let at = format!("tools[{i}]");
        let mut tool = Fields::of(value, &at)?;
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
        tool.boolean("strict")?;
        tool.unsupported("allowed_callers", |value| *value == json!(["direct"]))?;
        tool.unsupported("defer_loading", |value| value == false)?;
        tool.unsupported("eager_input_streaming", |value| value == false)?;
        tool.unsupported("input_examples", |value| value.as_array().is_some_and(Vec::is_empty))?;
        tool.end()?;
        if tools.iter().any(|other| other.name == name) {
            let message = format!("{at} has the name {name:?}, and so has one before it");
            return Err(ApiError::field("invalid_value", at, message));
        }
        tools.push(Tool { name, description, parameters });
    }
    Ok(tools)
}

/// What is to be called, and whether several calls may be made.
fn tool_choice(fields: &mut Fields, tools: &[Tool]) -> Result<(ToolChoice, bool), ApiError> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, true)) };
    let kind = choice.required_choice("type", &["auto", "any", "tool", "none"])?;
    let name = choice.string("name")?;
    let parallel = !choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
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

//! Conversations to prompts.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use tokenizer::{ChatError, ChatOptions, Message};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::openai::messages::Tool;
use crate::served::Served;

/// A conversation that waits for the model's turn, or for the rest of it where the last message is the assistant's.
pub(crate) struct Conversation<'a> {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: &'a [Tool],
    pub(crate) variables: Variables,
}

/// What a request sets in the model's template. The template itself is always the model's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Variables(BTreeMap<String, Value>);

/// Names that belong to the server.
const RESERVED: [&str; 5] = ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"];
const MAX_VARIABLES: usize = 16;
const MAX_VARIABLE_BYTES: usize = 1024;

impl Variables {
    /// `chat_template_kwargs`, and `reasoning_effort`, which turns thinking on or off where the template can.
    pub(crate) fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let mut variables = BTreeMap::new();
        let path = fields.path("chat_template_kwargs");
        match fields.any("chat_template_kwargs") {
            None => {}
            Some(Value::Object(map)) if map.len() <= MAX_VARIABLES => {
                for (name, value) in map {
                    check(&name, &value, served, &path)?;
                    variables.insert(name, value);
                }
            }
            Some(Value::Object(map)) => {
                let message = format!("{path} has {} entries, and may have {MAX_VARIABLES}", map.len());
                return Err(ApiError::field("too_many_entries", path, message));
            }
            Some(other) => return Err(fields.wrong_type("chat_template_kwargs", "an object", &other)),
        }
        let efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
        if let Some(effort) = fields.choice("reasoning_effort", &efforts)? {
            let thinks = !matches!(effort, "none" | "minimal");
            // A model that always thinks does what is asked for.
            if served.asks_thinking || thinks != served.thinks {
                Self(BTreeMap::new()).think(thinks, served, "reasoning_effort")?;
                let said = variables.entry("thinking".to_owned()).or_insert(thinks.into());
                if *said != thinks {
                    let message = format!(
                        "reasoning_effort is {effort}, but chat_template_kwargs.thinking is {}; leave one of them out",
                        crate::fields::short(said)
                    );
                    return Err(ApiError::field("invalid_value", "reasoning_effort", message));
                }
            }
        }
        Ok(Self(variables))
    }

    /// Turns thinking on or off.
    pub(crate) fn think(mut self, thinks: bool, served: &Served, param: &str) -> Result<Self, ApiError> {
        if !served.asks_thinking {
            let message = format!("{param} is set, but this model's template has no choice of thinking; leave it out");
            return Err(ApiError::field("unsupported_parameter", param, message));
        }
        self.0.insert("thinking".to_owned(), thinks.into());
        Ok(self)
    }
}

fn check(name: &str, value: &Value, served: &Served, path: &str) -> Result<(), ApiError> {
    let shown: String = name.chars().take(64).collect();
    let wrong =
        |what: &str| Err(ApiError::field("invalid_value", format!("{path}.{shown}"), format!("{path}.{shown} {what}")));
    if RESERVED.contains(&name) {
        return wrong("is the server's own; leave it out");
    }
    if !served.template.mentions(name) {
        return wrong("is not in this model's template, so it would do nothing; leave it out");
    }
    match value {
        Value::Array(_) | Value::Object(_) => wrong("must be true or false, a number or a string"),
        Value::String(text) if text.len() > MAX_VARIABLE_BYTES => wrong("is longer than 1,024 bytes"),
        _ => Ok(()),
    }
}

impl Conversation<'_> {
    /// The ids, up to where the model begins.
    pub(crate) fn encode(self, served: &Served) -> Result<Vec<u32>, ApiError> {
        let bytes: usize = self.messages.iter().map(|message| message.content.as_ref().map_or(0, String::len)).sum();
        served.check_bytes(bytes, "messages")?;
        let (messages, mut options) = self.for_template(served)?;
        // Descriptions of tools and calls of theirs are text, too.
        options.max_bytes = Some(served.max_bytes());
        served.template.encode(&served.tokenizer, &messages, &options).map_err(|error| match error {
            ChatError::TooLong { bytes, .. } => served.too_long(bytes, "messages"),
            error => refusal(&error),
        })
    }

    /// The text, up to where the model begins.
    pub(crate) fn render(self, served: &Served) -> Result<String, ApiError> {
        let (messages, options) = self.for_template(served)?;
        served.template.render(&messages, &options).map_err(|error| refusal(&error))
    }

    fn for_template(self, served: &Served) -> Result<(Vec<Message>, ChatOptions), ApiError> {
        let Self { mut messages, tools, variables: Variables(mut variables) } = self;
        if !tools.is_empty() && served.prints_tools {
            variables.insert("tools".to_owned(), tools.iter().map(Tool::json).collect());
        } else if !tools.is_empty() {
            describe(&mut messages, tools);
        }
        let continue_last = ends_with_answer(&messages)?;
        let options =
            ChatOptions { add_generation_prompt: !continue_last, continue_last, variables, ..ChatOptions::default() };
        Ok((messages, options))
    }
}

/// Whether the last turn is the assistant's, so that the answer is the rest of it.
fn ends_with_answer(messages: &[Message]) -> Result<bool, ApiError> {
    let Some(last) = messages.iter().rfind(|message| message.role != "system") else { return Ok(false) };
    if last.role == "assistant" && !last.tool_calls.is_empty() {
        let message =
            "the last message calls tools, and what they gave is missing; add a message for each of its calls";
        return Err(ApiError::field("invalid_value", "messages", message));
    }
    Ok(last.role == "assistant")
}

/// Where a template has no place for tools, they are described in the system message, in the words of V3.1's model card.
fn describe(messages: &mut Vec<Message>, tools: &[Tool]) {
    let mut text = String::from("## Tools\nYou have access to the following tools:\n");
    for Tool { name, description, parameters, .. } in tools {
        let description = description.as_deref().unwrap_or_default();
        write!(text, "\n### {name}\nDescription: {description}\n\nParameters: {parameters}\n")
            .expect("a string takes any text");
    }
    match messages.iter_mut().find(|message| message.role == "system") {
        Some(system) => {
            let content = system.content.get_or_insert_default();
            *content = if content.is_empty() { text } else { format!("{content}\n\n{text}") };
        }
        None => messages.insert(0, Message::new("system", text)),
    }
}

fn refusal(error: &ChatError) -> ApiError {
    ApiError::field("template_refused", "messages", error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_turn_decides_what_is_answered() {
        let call = json!({ "type": "function", "function": { "name": "f", "arguments": "{}" } });
        let (user, answer) = (Message::new("user", "u"), Message::new("assistant", "a"));
        let calls = Message { tool_calls: vec![call], ..answer.clone() };
        let (tool, system) = (Message::new("tool", "r"), Message::new("system", "s"));
        let ends = |messages: &[&Message]| ends_with_answer(&messages.iter().map(|&m| m.clone()).collect::<Vec<_>>());
        assert!(
            !ends(&[&system]).unwrap() && !ends(&[&answer, &user]).unwrap() && !ends(&[&user, &calls, &tool]).unwrap()
        );
        assert!(ends(&[&user, &answer]).unwrap() && ends(&[&user, &answer, &system]).unwrap());
        assert_eq!(ends(&[&user, &calls]).unwrap_err().param.as_deref(), Some("messages"));
    }
}

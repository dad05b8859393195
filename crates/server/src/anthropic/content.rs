//! Blocks of content, as messages that templates know.

use serde_json::{Value, json};
use tokenizer::Message;

use crate::error::ApiError;
use crate::fields::{Fields, short};

const MAX_MESSAGES: usize = 4096;
const MAX_BLOCKS: usize = 4096;

/// `system` and `messages`.
pub(crate) fn conversation(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let mut all = Vec::new();
    let path = fields.path("system");
    if let Some(system) = fields.any("system") {
        all.push(Message::new("system", texts(system, &path)?));
    }
    let list = fields.list("messages", MAX_MESSAGES)?;
    let list = fields.required("messages", list)?;
    if list.is_empty() {
        return Err(ApiError::field("invalid_value", "messages", "messages is empty; there is nothing to answer"));
    }
    for (i, value) in list.into_iter().enumerate() {
        message(value, &format!("messages[{i}]"), &mut all)?;
    }
    Ok(all)
}

/// One of Anthropic's messages may be several of a template's: results of tools come first, each as its own.
fn message(value: Value, at: &str, all: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut fields = Fields::of(value, at)?;
    let role = fields.required_choice("role", &["user", "assistant", "system"])?;
    let content = fields.any("content");
    let content = fields.required("content", content)?;
    fields.end()?;
    if role == "system" {
        all.push(Message::new("system", texts(content, &format!("{at}.content"))?));
        return Ok(());
    }
    let mut message = Message { role: role.to_owned(), ..Message::default() };
    let (mut text, mut has_text, mut has_results) = (String::new(), false, false);
    for (i, block) in blocks(content, &format!("{at}.content"))?.into_iter().enumerate() {
        let mut block = Block::of(block, &format!("{at}.content[{i}]"))?;
        match (block.kind.as_str(), role) {
            ("text", _) => {
                text += &block.text("text")?;
                block.citations()?;
                has_text = true;
            }
            ("tool_use", "assistant") => {
                let (id, name) = (block.text("id")?, block.text("name")?);
                let input = block.fields.any("input").unwrap_or_else(|| json!({}));
                block.fields.unsupported("caller", |value| *value == json!({ "type": "direct" }))?;
                block.fields.unsupported("toolset_name", |_| false)?;
                message.tool_calls.push(json!({
                    "id": id,
                    "type": "function",
                    "function": { "name": name, "arguments": input.to_string() },
                }));
            }
            // Templates that want the reasoning of earlier turns find it here; those of R1 and V3.1 leave it out.
            ("thinking", "assistant") => {
                let thinking = block.text("thinking")?;
                block.fields.string("signature")?;
                message.extra.insert("reasoning_content".to_owned(), thinking.into());
            }
            ("tool_result", "user") => {
                has_results = true;
                all.push(result(&mut block)?);
            }
            _ => return Err(block.unsupported()),
        }
        block.end()?;
    }
    if has_text || (!has_results && message.tool_calls.is_empty()) {
        message.content = Some(text);
    }
    if message.content.is_some() || !message.tool_calls.is_empty() {
        all.push(message);
    }
    Ok(())
}

fn result(block: &mut Block) -> Result<Message, ApiError> {
    let id = block.text("tool_use_id")?;
    let is_error = block.fields.boolean("is_error")?.unwrap_or(false);
    block.fields.unsupported("toolset_name", |_| false)?;
    let path = block.fields.path("content");
    let text = block.fields.any("content").map_or(Ok(String::new()), |content| texts(content, &path))?;
    // The formats of this family have no mark for a result that is an error, so the text says it.
    let mut message = Message::new("tool", if is_error { format!("Error: {text}") } else { text });
    message.extra.insert("tool_call_id".to_owned(), id.into());
    Ok(message)
}

/// The text of a string or of blocks that are all text.
fn texts(value: Value, at: &str) -> Result<String, ApiError> {
    let mut text = String::new();
    for (i, block) in blocks(value, at)?.into_iter().enumerate() {
        let mut block = Block::of(block, &format!("{at}[{i}]"))?;
        if block.kind != "text" {
            return Err(block.unsupported());
        }
        text += &block.text("text")?;
        block.citations()?;
        block.end()?;
    }
    Ok(text)
}

/// A string is as good as one block of text.
fn blocks(value: Value, at: &str) -> Result<Vec<Value>, ApiError> {
    match value {
        Value::String(text) => Ok(vec![json!({ "type": "text", "text": text })]),
        Value::Array(blocks) if blocks.len() <= MAX_BLOCKS => Ok(blocks),
        Value::Array(blocks) => {
            let message = format!("{at} has {} blocks, and may have {MAX_BLOCKS}", blocks.len());
            Err(ApiError::field("too_many_entries", at, message))
        }
        other => {
            let message = format!("{at} must be a string or a list of blocks, not {}", crate::fields::kind(&other));
            Err(ApiError::field("invalid_type", at, message))
        }
    }
}

struct Block {
    kind: String,
    fields: Fields,
}

impl Block {
    fn of(value: Value, at: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::of(value, at)?;
        let kind = match fields.any("type") {
            Some(Value::String(kind)) => kind,
            other => {
                let found = other.as_ref().map_or("missing".to_owned(), short);
                return Err(ApiError::field(
                    "invalid_type",
                    fields.path("type"),
                    format!("{at}.type is {found}, but must be a string"),
                ));
            }
        };
        // Prompts share their beginnings anyway, so a mark that asks for it asks for what is done.
        cache_control(&mut fields)?;
        Ok(Self { kind, fields })
    }

    fn text(&mut self, name: &'static str) -> Result<String, ApiError> {
        let text = self.fields.string(name)?;
        self.fields.required(name, text)
    }

    fn citations(&mut self) -> Result<(), ApiError> {
        self.fields.unsupported("citations", |value| value.as_array().is_some_and(Vec::is_empty))
    }

    fn end(self) -> Result<(), ApiError> {
        self.fields.end()
    }

    fn unsupported(&self) -> ApiError {
        let path = self.fields.path("type");
        let kind: String = self.kind.chars().take(40).collect();
        let message = format!("{path} is {kind:?}, which cannot stand here; the model reads text and results of tools");
        ApiError::field("unsupported_content", path, message)
    }
}

/// `{"type": "ephemeral"}`, with a time to live or without.
pub(crate) fn cache_control(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut control) = fields.object("cache_control")? else { return Ok(()) };
    control.required_choice("type", &["ephemeral"])?;
    control.choice("ttl", &["5m", "1h"])?;
    control.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_or_refused_by_name() {
        let body = json!({
            "system": [{ "type": "text", "text": "s", "cache_control": { "type": "ephemeral" } }],
            "messages": [
                { "role": "user", "content": "u" },
                { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "f", "input": { "a": 1 } }] },
                { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": "42" }, { "type": "text", "text": "v" }] },
            ],
        });
        crate::random_bodies::check(&body, |mut fields| {
            let conversation = conversation(&mut fields)?;
            assert!(conversation.iter().all(|message| message.content.is_some() || !message.tool_calls.is_empty()));
            cache_control(&mut fields)?;
            fields.end()
        });
    }

    fn read(value: Value) -> Result<Vec<Message>, ApiError> {
        conversation(&mut Fields::of(value, "").unwrap())
    }

    #[test]
    fn results_of_tools_are_messages_of_their_own() {
        let found = read(json!({
            "system": [{ "type": "text", "text": "be brief", "cache_control": { "type": "ephemeral" } }],
            "messages": [
                { "role": "user", "content": "weather?" },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "hm", "signature": "" },
                    { "type": "tool_use", "id": "t1", "name": "weather", "input": { "city": "Bonn" } },
                ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "rain" }] },
                    { "type": "text", "text": "and tomorrow?" },
                ] },
            ],
        }))
        .unwrap();
        let roles: Vec<&str> = found.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        assert_eq!(found[2].content, None);
        assert_eq!(found[2].tool_calls[0]["function"]["arguments"], "{\"city\":\"Bonn\"}");
        assert_eq!(found[3].content.as_deref(), Some("rain"));
        assert_eq!(found[4].content.as_deref(), Some("and tomorrow?"));
    }

    #[test]
    fn what_the_model_cannot_read_is_refused() {
        let wrong = |content: Value| read(json!({ "messages": [{ "role": "user", "content": content }] })).unwrap_err();
        assert_eq!(
            wrong(json!([{ "type": "image", "source": {} }])).param.as_deref(),
            Some("messages[0].content[0].type")
        );
        assert_eq!(
            wrong(json!([{ "type": "tool_use", "id": "x", "name": "y", "input": {} }])).code,
            "unsupported_content"
        );
        assert_eq!(wrong(json!(3)).code, "invalid_type");
        assert_eq!(wrong(json!([{ "type": "text", "text": "x", "colour": 1 }])).code, "unknown_parameter");
    }
}

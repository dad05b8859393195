//! Blocks of content, as messages that templates know.

use serde_json::{Value, json};
use tokenizer::Message;

use crate::error::ApiError;
use crate::fields::{Fields, short};

const MAX_MESSAGES: usize = 4096;
const MAX_BLOCKS: usize = 4096;

/// How Claude Code begins a line of `system` that is not for the model: it is another one in each request, so that no prompt
/// would begin as the one before it.
const BILLING: &str = "x-anthropic-billing-header:";

/// `system` and `messages`.
pub(crate) fn conversation(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let mut all = Vec::new();
    let path = fields.path("system");
    if let Some(system) = fields.any("system") {
        let texts = texts(system, &path)?;
        all.push(Message::new("system", texts.iter().map(|text| without_billing(text)).collect::<String>()));
    }
    let list = fields.list("messages", MAX_MESSAGES)?;
    let list = fields.required("messages", list)?;
    if list.is_empty() {
        return Err(ApiError::field("invalid_value", "messages", "messages is empty; there is nothing to answer"));
    }
    let last_of_user = list.iter().rposition(|message| message["role"] == "user");
    for (i, value) in list.into_iter().enumerate() {
        message(value, &format!("messages[{i}]"), last_of_user.is_some_and(|last| i < last), &mut all)?;
    }
    Ok(all)
}

/// A text of `system` without the lines at its beginning that are for billing.
fn without_billing(mut text: &str) -> &str {
    while text.starts_with(BILLING) {
        text = text.split_once('\n').map_or("", |(_, rest)| rest);
    }
    text
}

/// One of Anthropic's messages may be several of a template's: results of tools come first, each as its own. `is_followed`
/// says whether the user says more after it.
fn message(value: Value, at: &str, is_followed: bool, all: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut fields = Fields::of(value, at)?;
    let role = fields.required_choice("role", &["user", "assistant", "system"])?;
    let content = fields.any("content");
    let content = fields.required("content", content)?;
    if role == "system" {
        let lasts = fields.choice("clear_at", &["never", "next_user_message"])? != Some("next_user_message");
        fields.unsupported("output_config", |value| *value == json!({}))?;
        fields.end()?;
        let text = texts(content, &format!("{at}.content"))?.concat();
        if lasts || !is_followed {
            instruct(text, all);
        }
        return Ok(());
    }
    fields.end()?;
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

/// What the system says amid a conversation holds from there on. The templates of this family would put it before all turns,
/// where it would come too early, and no prompt would begin as the one before it; so it is said where it stands, as the end
/// of the user's turn.
fn instruct(text: String, all: &mut Vec<Message>) {
    let begins = all.iter().all(|message| message.role == "system");
    match all.last_mut() {
        _ if begins => all.push(Message::new("system", text)),
        Some(Message { role, content: Some(content), .. }) if role == "user" => {
            content.push_str("\n\n");
            content.push_str(&text);
        }
        _ => all.push(Message::new("user", text)),
    }
}

fn result(block: &mut Block) -> Result<Message, ApiError> {
    let id = block.text("tool_use_id")?;
    let is_error = block.fields.boolean("is_error")?.unwrap_or(false);
    block.fields.unsupported("toolset_name", |_| false)?;
    let path = block.fields.path("content");
    let text = match block.fields.any("content") {
        Some(content) => texts(content, &path)?.concat(),
        None => String::new(),
    };
    // The formats of this family have no mark for a result that is an error, so the text says it.
    let mut message = Message::new("tool", if is_error { format!("Error: {text}") } else { text });
    message.extra.insert("tool_call_id".to_owned(), id.into());
    Ok(message)
}

/// The texts of a string or of blocks that are all text.
fn texts(value: Value, at: &str) -> Result<Vec<String>, ApiError> {
    let mut texts = Vec::new();
    for (i, block) in blocks(value, at)?.into_iter().enumerate() {
        let mut block = Block::of(block, &format!("{at}[{i}]"))?;
        if block.kind != "text" {
            return Err(block.unsupported());
        }
        texts.push(block.text("text")?);
        block.citations()?;
        block.end()?;
    }
    Ok(texts)
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

/// `{"type": "ephemeral"}`, with a time to live or without. A scope permits to share a beginning more widely than is done.
pub(crate) fn cache_control(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut control) = fields.object("cache_control")? else { return Ok(()) };
    control.required_choice("type", &["ephemeral"])?;
    control.choice("ttl", &["5m", "1h"])?;
    control.choice("scope", &["global", "org"])?;
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
    fn lines_for_billing_are_not_for_the_model() {
        let bill = |nonce: u32| format!("{BILLING} cc_version=2.1; cc_entrypoint=cli; cch={nonce};");
        let system =
            |system: Value| read(json!({ "system": system, "messages": [{ "role": "user", "content": "u" }] }));
        let text = |value: Value| system(value).unwrap()[0].content.clone().unwrap();
        let blocks =
            |nonce: u32| json!([{ "type": "text", "text": bill(nonce) }, { "type": "text", "text": "Be brief." }]);
        assert_eq!(text(blocks(1)), "Be brief.");
        assert_eq!(text(blocks(2)), "Be brief.");
        assert_eq!(text(json!(format!("{}\n{}\nBe\nbrief.", bill(1), bill(2)))), "Be\nbrief.");
        // Only a line at the beginning is one: a text may speak of it.
        for said in [format!("Of {}", bill(1)), format!("Be brief.\n{}", bill(1))] {
            assert_eq!(text(json!(said)), said);
        }
        let user = read(json!({ "messages": [{ "role": "user", "content": bill(1) }] })).unwrap();
        assert_eq!(user[0].content, Some(bill(1)));
    }

    #[test]
    fn what_the_system_says_amid_a_conversation_stays_there() {
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        let result =
            json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": "42" }] });
        let once = json!({ "role": "system", "content": "now", "clear_at": "next_user_message" });
        let said = |messages: Value| {
            let found = read(json!({ "system": "s", "messages": messages })).unwrap();
            let said = |message: &Message| format!("{}: {}", message.role, message.content.as_deref().unwrap_or("-"));
            found.iter().map(said).collect::<Vec<_>>()
        };
        let (user, assistant, system) = (turn("user", "u"), turn("assistant", "a"), turn("system", "t"));
        assert_eq!(said(json!([system, user])), ["system: s", "system: t", "user: u"]);
        let long = json!([user, system, assistant, user, once]);
        assert_eq!(said(long), ["system: s", "user: u\n\nt", "assistant: a", "user: u\n\nnow"]);
        assert_eq!(said(json!([user, once, assistant, user])), ["system: s", "user: u", "assistant: a", "user: u"]);
        let behind = said(json!([user, assistant, result, system]));
        assert_eq!(behind[3..], ["tool: 42", "user: t"]);
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

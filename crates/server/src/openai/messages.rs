//! Conversations of OpenAI's chat interface.

use std::collections::BTreeSet;

use grammar::{Function, Grammar};
use serde_json::{Value, json};
use tokenizer::{ChatFormat, Message};

use crate::error::ApiError;
use crate::fields::{Fields, short};
use crate::served::Held;

const MAX_MESSAGES: usize = 4096;
const MAX_PARTS: usize = 4096;
const MAX_CALLS: usize = 128;
/// Programs that write programs offer some hundred.
pub(crate) const MAX_TOOLS: usize = 1024;

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// A JSON schema of the arguments.
    pub(crate) parameters: Value,
    /// Whether arguments are held to it also where the model need not call anything.
    pub(crate) strict: bool,
}

/// Whether the model is to call functions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// If it likes.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl Tool {
    /// As templates and OpenAI's interface have it.
    pub(crate) fn json(&self) -> Value {
        let mut function = json!({ "name": self.name, "parameters": self.parameters });
        if let Some(description) = &self.description {
            function["description"] = description.as_str().into();
        }
        json!({ "type": "function", "function": function })
    }
}

/// The `messages` of a request.
pub(crate) fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let list = fields.list("messages", MAX_MESSAGES)?;
    let list = fields.required("messages", list)?;
    if list.is_empty() {
        return Err(ApiError::field("invalid_value", "messages", "messages is empty; there is nothing to answer"));
    }
    list.into_iter().enumerate().map(|(i, value)| message(value, &format!("messages[{i}]"))).collect()
}

fn message(value: Value, at: &str) -> Result<Message, ApiError> {
    let mut fields = Fields::of(value, at)?;
    let role = fields.required_choice("role", &["system", "developer", "user", "assistant", "tool"])?;
    let content = content(&mut fields)?;
    let mut message = Message { role: role.to_owned(), content, ..Message::default() };
    if let Some(name) = fields.string("name")? {
        message.extra.insert("name".to_owned(), name.into());
    }
    match role {
        // What OpenAI calls developer is what the templates of this family call system.
        "developer" => "system".clone_into(&mut message.role),
        "assistant" => {
            if let Some(calls) = fields.list("tool_calls", MAX_CALLS)? {
                let calls = calls.into_iter().enumerate();
                let read = |(i, call)| tool_call(call, &format!("{at}.tool_calls[{i}]"));
                message.tool_calls = calls.map(read).collect::<Result<_, _>>()?;
            }
            // Templates that want the reasoning of earlier turns find it here; those of R1 and V3.1 leave it out.
            if let Some(reasoning) = fields.string("reasoning_content")? {
                message.extra.insert("reasoning_content".to_owned(), reasoning.into());
            }
            fields.unsupported("refusal", |_| false)?;
            fields.unsupported("audio", |_| false)?;
            fields.unsupported("function_call", |_| false)?;
            fields.unsupported("annotations", |value| value.as_array().is_some_and(Vec::is_empty))?;
        }
        "tool" => {
            let id = fields.required_string("tool_call_id")?;
            message.extra.insert("tool_call_id".to_owned(), id.into());
        }
        _ => {}
    }
    if message.content.is_none() && message.tool_calls.is_empty() {
        if role == "assistant" {
            message.content = Some(String::new());
        } else {
            return Err(ApiError::field("missing_field", format!("{at}.content"), format!("{at}.content is missing")));
        }
    }
    fields.end()?;
    Ok(message)
}

/// A string, or a list of parts that are text.
fn content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let path = fields.path("content");
    match fields.any("content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Array(parts)) if parts.len() <= MAX_PARTS => {
            let mut text = String::new();
            for (i, part) in parts.into_iter().enumerate() {
                text += &text_part(part, &format!("{path}[{i}]"))?;
            }
            Ok(Some(text))
        }
        Some(Value::Array(parts)) => {
            let message = format!("{path} has {} parts, and may have {MAX_PARTS}", parts.len());
            Err(ApiError::field("too_many_entries", path, message))
        }
        Some(other) => Err(fields.wrong_type("content", "a string or a list of parts", &other)),
    }
}

fn text_part(part: Value, at: &str) -> Result<String, ApiError> {
    let mut fields = Fields::of(part, at)?;
    let kind = fields.any("type");
    if kind.as_ref().and_then(Value::as_str) == Some("text") {
        let text = fields.required_string("text")?;
        // Prompts share their beginnings anyway, so a mark that asks for it asks for what is done.
        if let Some(mut mark) = fields.object("prompt_cache_breakpoint")? {
            mark.required_choice("mode", &["explicit"])?;
            mark.unsupported("ttl", |_| false)?;
            mark.end()?;
        }
        fields.end()?;
        return Ok(text);
    }
    let found = kind.as_ref().map_or("missing".to_owned(), short);
    let message = format!("{at}.type is {found}; the model reads text only, so it must be \"text\"");
    Err(ApiError::field("unsupported_content", format!("{at}.type"), message))
}

fn tool_call(value: Value, at: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::of(value, at)?;
    let id = fields.required_string("id")?;
    fields.required_choice("type", &["function"])?;
    let mut function = fields.required_object("function")?;
    let name = function.required_string("name")?;
    let arguments = function.string("arguments")?.unwrap_or_default();
    function.end()?;
    // Some clients number the calls of streamed answers and send the numbers back.
    fields.any("index");
    fields.end()?;
    Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
}

/// The `tools` of a request.
pub(crate) fn tools(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
    let list = fields.list("tools", MAX_TOOLS)?.unwrap_or_default();
    let read = |(i, value)| tool(value, &format!("tools[{i}]"));
    let tools = list.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    check_unique(&tools)?;
    Ok(tools)
}

/// No two tools have a name.
pub(crate) fn check_unique(tools: &[Tool]) -> Result<(), ApiError> {
    let mut names = BTreeSet::new();
    match tools.iter().position(|tool| !names.insert(&tool.name)) {
        Some(i) => {
            let message = format!("tools[{i}] has the name {:?}, and so has one before it", tools[i].name);
            Err(ApiError::field("invalid_value", format!("tools[{i}]"), message))
        }
        None => Ok(()),
    }
}

/// What an answer is held to: the calls that it must consist of, if it must; the format that is asked for; or, from where the
/// model begins to call something, the tools that are strict.
pub(crate) fn held(
    format: ChatFormat,
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    shape: Option<(&'static str, Grammar)>,
) -> Result<Option<Held>, ApiError> {
    let calls = |functions, parallel, from_calls| {
        let grammar = Grammar::Tools { format, functions, parallel };
        Ok(Some(Held { param: "tools", grammar, from_calls }))
    };
    let function = |tool: &Tool| Function { name: tool.name.clone(), parameters: Some(tool.parameters.clone()) };
    // The arguments of others are any object.
    let or_free = |tool: &Tool| {
        if tool.strict {
            function(tool)
        } else {
            Function { parameters: Some(json!({ "type": "object" })), ..function(tool) }
        }
    };
    match (choice, shape) {
        (ToolChoice::Required | ToolChoice::Named(_), Some((param, _))) => {
            let message = format!("{param} and a tool_choice that demands a call exclude each other");
            Err(ApiError::field("invalid_value", param, message))
        }
        (ToolChoice::Required, None) => calls(tools.iter().map(function).collect(), parallel, false),
        (ToolChoice::Named(name), None) => {
            calls(tools.iter().filter(|tool| tool.name == *name).map(function).collect(), false, false)
        }
        // What has a format holds no call.
        (_, Some((param, grammar))) => Ok(Some(Held { param, grammar, from_calls: false })),
        (ToolChoice::Auto, None) if tools.iter().any(|tool| tool.strict) => {
            calls(tools.iter().map(or_free).collect(), parallel, true)
        }
        (ToolChoice::Auto | ToolChoice::None, None) => Ok(None),
    }
}

fn tool(value: Value, at: &str) -> Result<Tool, ApiError> {
    let mut fields = Fields::of(value, at)?;
    fields.required_choice("type", &["function"])?;
    let mut function = fields.required_object("function")?;
    let name = function.required_string("name")?;
    check_name(&name, &function.path("name"))?;
    let description = function.string("description")?;
    let parameters = match function.any("parameters") {
        None => json!({ "type": "object", "properties": {} }),
        Some(value @ Value::Object(_)) => value,
        Some(other) => return Err(function.wrong_type("parameters", "a JSON schema, an object", &other)),
    };
    // Arguments are held to the schema wherever a call is demanded; where the model may choose, if this asks for it.
    let strict = function.boolean("strict")?.unwrap_or(false);
    if strict && !matches!(parameters.get("type"), Some(Value::String(kind)) if kind == "object") {
        let path = function.path("parameters");
        return Err(ApiError::field(
            "invalid_value",
            path.clone(),
            format!("{path} must have \"type\": \"object\" to be strict"),
        ));
    }
    function.end()?;
    fields.end()?;
    Ok(Tool { name, description, parameters, strict })
}

/// Names are letters, digits, underscores, dots and dashes.
pub(crate) fn check_name(name: &str, path: &str) -> Result<(), ApiError> {
    let is_fine = (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if is_fine {
        return Ok(());
    }
    let message = format!("{path} must be 1 to 128 letters, digits, underscores, dots or dashes, not {:?}", cut(name));
    Err(ApiError::field("invalid_value", path, message))
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `tool_choice`, of these tools.
pub(crate) fn tool_choice(fields: &mut Fields, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    let choice = match fields.any("tool_choice") {
        None => ToolChoice::Auto,
        Some(Value::String(text)) => match text.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => {
                let message = format!(
                    "tool_choice is {:?}, but must be auto, none, required, or an object that names a function",
                    cut(&text)
                );
                return Err(ApiError::field("invalid_value", "tool_choice", message));
            }
        },
        Some(value) => {
            let mut choice = Fields::of(value, "tool_choice")?;
            choice.required_choice("type", &["function"])?;
            let mut function = choice.required_object("function")?;
            let name = function.required_string("name")?;
            function.end()?;
            choice.end()?;
            if !tools.iter().any(|tool| tool.name == name) {
                let message = format!("tool_choice names {:?}, which is not among the tools", cut(&name));
                return Err(ApiError::field("invalid_value", "tool_choice.function.name", message));
            }
            ToolChoice::Named(name)
        }
    };
    if tools.is_empty() && matches!(choice, ToolChoice::Required) {
        let message = "tool_choice is required, but there are no tools";
        return Err(ApiError::field("invalid_value", "tool_choice", message));
    }
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<Vec<Message>, ApiError> {
        messages(&mut Fields::of(json!({ "messages": value }), "").unwrap())
    }

    #[test]
    fn parts_of_text_are_one_text() {
        let found = read(&json!([
            { "role": "developer", "content": "be brief" },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
            { "role": "tool", "tool_call_id": "c", "content": "42" },
        ]))
        .unwrap();
        assert_eq!(found[0].role, "system");
        assert_eq!(found[1].content.as_deref(), Some("ab"));
        assert_eq!(found[2].tool_calls[0]["function"]["name"], "f");
        assert_eq!(found[3].extra["tool_call_id"], "c");
    }

    #[test]
    fn an_answer_is_held_to_what_is_asked() {
        let schema = json!({ "type": "object", "properties": { "a": { "const": 1 } } });
        let tool =
            |name: &str, strict| Tool { name: name.into(), description: None, parameters: schema.clone(), strict };
        let (free, strict) = ([tool("f", false)], [tool("f", false), tool("g", true)]);
        let held = |tools: &[Tool], choice, shape: Option<Grammar>| {
            held(ChatFormat::V31, tools, &choice, true, shape.map(|shape| ("response_format", shape)))
        };
        let functions = |held: Held| match held.grammar {
            Grammar::Tools { functions, .. } => {
                functions.into_iter().map(|f| (f.name, f.parameters.unwrap())).collect()
            }
            _ => Vec::new(),
        };
        assert!(held(&free, ToolChoice::Auto, None).unwrap().is_none());
        assert!(held(&strict, ToolChoice::None, None).unwrap().is_none());
        let lazy = held(&strict, ToolChoice::Auto, None).unwrap().unwrap();
        assert!(lazy.from_calls);
        let any = json!({ "type": "object" });
        assert_eq!(functions(lazy), [("f".to_owned(), any), ("g".to_owned(), schema.clone())]);
        let demanded = held(&free, ToolChoice::Required, None).unwrap().unwrap();
        assert!(!demanded.from_calls);
        assert_eq!(functions(demanded), [("f".to_owned(), schema.clone())]);
        let named = held(&strict, ToolChoice::Named("f".into()), None).unwrap().unwrap();
        assert_eq!(functions(named), [("f".to_owned(), schema.clone())]);
        let shaped = held(&strict, ToolChoice::Auto, Some(Grammar::JsonObject)).unwrap().unwrap();
        assert_eq!((shaped.param, shaped.from_calls), ("response_format", false));
        let error = held(&strict, ToolChoice::Required, Some(Grammar::JsonObject)).err().unwrap();
        assert_eq!(error.param.as_deref(), Some("response_format"));
    }

    #[test]
    fn what_the_model_cannot_read_is_refused() {
        let wrong = |value: Value| read(&value).unwrap_err();
        let image =
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "http://x/" } }] }]);
        assert_eq!(wrong(image).param.as_deref(), Some("messages[0].content[0].type"));
        assert_eq!(wrong(json!([])).param.as_deref(), Some("messages"));
        assert_eq!(wrong(json!([{ "role": "user" }])).param.as_deref(), Some("messages[0].content"));
        assert_eq!(wrong(json!([{ "role": "king", "content": "x" }])).param.as_deref(), Some("messages[0].role"));
        assert_eq!(wrong(json!([{ "role": "user", "content": "x", "colour": 1 }])).code, "unknown_parameter");
        assert_eq!(
            wrong(json!([{ "role": "tool", "content": "x" }])).param.as_deref(),
            Some("messages[0].tool_call_id")
        );
        assert_eq!(wrong(json!("x")).code, "invalid_type");
    }
}

//! A grammar as llguidance reads it.

use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};
use tokenizer::{ChatFormat, Role, Tokenizer};

use crate::grammar::{Function, Grammar};

/// White space between the parts of JSON: as much as the indentation of sixteen levels, and not without end, which is
/// where weak models like to stay.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,33}";

/// Control tokens of tool calls, by id.
pub(crate) struct ToolTokens {
    calls_begin: u32,
    calls_end: u32,
    call_begin: u32,
    call_end: u32,
    sep: u32,
}

impl ToolTokens {
    /// Those of a vocabulary, or the text of one that it does not have.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Self, &'static str> {
        let id = |role: Role| tokenizer.added_token_id(role.text()).ok_or(role.text());
        Ok(Self {
            calls_begin: id(Role::ToolCallsBegin)?,
            calls_end: id(Role::ToolCallsEnd)?,
            call_begin: id(Role::ToolCallBegin)?,
            call_end: id(Role::ToolCallEnd)?,
            sep: id(Role::ToolSep)?,
        })
    }

    /// The one with which calls begin.
    pub(crate) fn first(&self) -> u32 {
        self.calls_begin
    }

    /// All of them.
    pub(crate) fn ids(&self) -> [u32; 5] {
        let &Self { calls_begin, calls_end, call_begin, call_end, sep } = self;
        [calls_begin, calls_end, call_begin, call_end, sep]
    }
}

/// What llguidance compiles; `grammar` has been checked.
pub(crate) fn source(grammar: &Grammar, tools: Option<&ToolTokens>) -> TopLevelGrammar {
    match grammar {
        Grammar::JsonObject => TopLevelGrammar::from_json_schema(with_options(json!({ "type": "object" }))),
        Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_options(schema.clone())),
        Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        Grammar::Choice(choices) => {
            let choices: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
            TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}\n", choices.join(" | ")))
        }
        Grammar::Tools { format, functions, parallel } => {
            let tools = tools.expect("tool calls need their tokens");
            TopLevelGrammar::from_lark(calls(*format, functions, *parallel, tools))
        }
    }
}

/// Calls as `spec/tokenizer.md` 4.1 has them.
fn calls(format: ChatFormat, functions: &[Function], parallel: bool, tokens: &ToolTokens) -> String {
    let ToolTokens { calls_begin, calls_end, call_begin, call_end, sep } = tokens;
    let fenced = format.fences_tool_calls();
    let more = match (parallel, fenced) {
        (false, _) => "",
        (true, false) => "call*",
        (true, true) => "(\"\\n\" call)*",
    };
    let names: Vec<String> = (0..functions.len()).map(|i| format!("f{i}")).collect();
    let names = names.join(" | ");
    let start = format!("start: <[{calls_begin}]> call {more} <[{calls_end}]>");
    let call = if fenced {
        format!("call: <[{call_begin}]> \"function\" <[{sep}]> ({names}) \"\\n```\" <[{call_end}]>")
    } else {
        format!("call: <[{call_begin}]> ({names}) <[{call_end}]>")
    };
    let of_function = |(i, Function { name, parameters }): (usize, &Function)| {
        let schema = with_options(arguments(parameters.as_ref()));
        if fenced {
            format!("f{i}: {} %json {schema}", quoted(&format!("{name}\n```json\n")))
        } else {
            format!("f{i}: {} <[{sep}]> %json {schema}", quoted(name))
        }
    };
    let rules = [start, call].into_iter().chain(functions.iter().enumerate().map(of_function));
    rules.collect::<Vec<String>>().join("\n")
}

/// The schema of a function's arguments, which are an object also where it does not say so.
pub(crate) fn arguments(parameters: Option<&Value>) -> Value {
    match parameters {
        None => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        Some(Value::Object(schema)) if !schema.contains_key("type") => {
            let mut schema = schema.clone();
            schema.insert("type".to_owned(), "object".into());
            Value::Object(schema)
        }
        Some(schema) => schema.clone(),
    }
}

/// A schema with our options in place of its author's, who could turn checks off with them.
fn with_options(schema: Value) -> Value {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        schema => schema,
    };
    if schema.is_object() {
        let options =
            JsonCompileOptions { whitespace_pattern: Some(WHITE_SPACE.to_owned()), ..JsonCompileOptions::default() };
        options.apply_to(&mut schema);
    }
    schema
}

/// A text as a literal of Lark, which is one of JSON.
fn quoted(text: &str) -> String {
    // JSON leaves one control character as it is, which Lark does not.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

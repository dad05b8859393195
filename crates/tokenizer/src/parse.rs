//! A model's output taken apart into reasoning, answer and tool calls.
//!
//! All of it works on ids: text that merely looks like `</think>` or like a tool call is text.

use crate::{ChatFormat, Role, Tokenizer, TokenizerError};

/// What the generation prompt left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The answer. If the model itself begins with `<think>`, reasoning comes first.
    Answer,
    /// The reasoning: the prompt ended with `<think>` (R1, V3.1 with `thinking`).
    Reasoning,
}

/// A model's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedOutput {
    /// The text before the first `</think>`, if the output begins inside the reasoning. White space is left as it is.
    pub reasoning: Option<String>,
    /// The answer's text.
    pub content: String,
    /// The calls, in order.
    pub tool_calls: Vec<ToolCall>,
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Which tool.
    pub name: String,
    /// The arguments as the model wrote them: JSON text, unchecked.
    pub arguments: String,
}

/// Why an output's tool calls could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The vocabulary has no tokens for tool calls.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),

    /// The output ends inside a call.
    #[error("the output ends inside tool call {index}")]
    Unfinished {
        /// Counted from 0.
        index: usize,
    },

    /// Something other than a call stands between the calls.
    #[error("{text:?} stands where tool call {index} or the end of the calls should be")]
    BetweenCalls {
        /// Counted from 0.
        index: usize,
        /// What stands there.
        text: String,
    },

    /// A call is not written as the format has it.
    #[error("tool call {index} is {text:?}, not {expected}")]
    Malformed {
        /// Counted from 0.
        index: usize,
        /// The call.
        text: String,
        /// How it should be written.
        expected: &'static str,
    },
}

/// Reads `ids`, which a model wrote after a generation prompt of `format`, up to the first EOS.
///
/// Reasoning that is never closed is all there is. The end of the output may stand in place of
/// `<｜tool▁calls▁end｜>`, which a published template left out.
///
/// # Errors
/// When a tool call is cut short or not written as `format` has it. The ids can then still be decoded as text.
pub fn parse_output(
    tokenizer: &Tokenizer,
    ids: &[u32],
    format: ChatFormat,
    start: Start,
) -> Result<ParsedOutput, ParseError> {
    let special = tokenizer.special_tokens();
    let is = |id: u32, role: Option<u32>| Some(id) == role;
    let text = |ids: &[u32]| tokenizer.decode(ids, true);

    let end = ids.iter().position(|&id| is(id, special.eos)).unwrap_or(ids.len());
    let mut rest = &ids[..end];
    let mut output = ParsedOutput::default();

    let opened = rest.first().is_some_and(|&id| is(id, special.think_begin));
    if opened {
        rest = &rest[1..];
    }
    if opened || start == Start::Reasoning {
        let (reasoning, answer) = cut(rest, special.think_end).unwrap_or((rest, &[]));
        output.reasoning = Some(text(reasoning));
        rest = answer;
    }

    let Some((content, calls)) = cut(rest, special.tool_calls_begin) else {
        output.content = text(rest);
        return Ok(output);
    };
    output.content = text(content);
    let (mut calls, after) = cut(calls, special.tool_calls_end).unwrap_or((calls, &[]));
    output.content += &text(after);

    let call_begin = tokenizer.require(Role::ToolCallBegin)?;
    let call_end = tokenizer.require(Role::ToolCallEnd)?;
    loop {
        let index = output.tool_calls.len();
        let begin = calls.iter().position(|&id| id == call_begin).unwrap_or(calls.len());
        let between = text(&calls[..begin]);
        if !between.trim().is_empty() {
            return Err(ParseError::BetweenCalls { index, text: between });
        }
        let Some((_, call)) = cut(calls, Some(call_begin)) else { return Ok(output) };
        let (call, next) = cut(call, Some(call_end)).ok_or(ParseError::Unfinished { index })?;
        output.tool_calls.push(read_call(tokenizer, call, format, index)?);
        calls = next;
    }
}

/// V3 and R1: type, separator, name, and the arguments in a fence. V3.1: name, separator, arguments.
fn read_call(tokenizer: &Tokenizer, ids: &[u32], format: ChatFormat, index: usize) -> Result<ToolCall, ParseError> {
    let expected = if format.fences_tool_calls() {
        "type, <｜tool▁sep｜>, name, line break, and arguments between \"```json\" and \"```\""
    } else {
        "name, <｜tool▁sep｜>, arguments"
    };
    let read = || {
        let (before, after) = cut(ids, tokenizer.special_tokens().tool_sep)?;
        let (before, after) = (tokenizer.decode(before, true), tokenizer.decode(after, true));
        if !format.fences_tool_calls() {
            return Some((before, after));
        }
        let (name, fenced) = after.split_once('\n')?;
        let arguments = fenced.trim().strip_prefix("```json")?.strip_suffix("```")?;
        Some((name.to_owned(), arguments.trim_matches('\n').to_owned()))
    };
    match read() {
        Some((name, arguments)) if !name.trim().is_empty() => Ok(ToolCall { name: name.trim().to_owned(), arguments }),
        _ => Err(ParseError::Malformed { index, text: tokenizer.decode(ids, false), expected }),
    }
}

/// What stands before and after the first `id`.
fn cut(ids: &[u32], id: Option<u32>) -> Option<(&[u32], &[u32])> {
    let at = ids.iter().position(|&other| Some(other) == id)?;
    Some((&ids[..at], &ids[at + 1..]))
}

//! A model's output taken apart into reasoning, answer and tool calls.
//!
//! All of it works on ids: text that merely looks like `</think>` or like a tool call is text.

use crate::{ChatFormat, DecodeStream, Role, Tokenizer, TokenizerError};

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

/// Takes an output apart while it is written.
///
/// Text comes as soon as it is certain, a tool call when it is closed. All pieces together are what [`parse_output`] gives.
#[derive(Debug)]
pub struct OutputStream<'t> {
    tokenizer: &'t Tokenizer,
    format: ChatFormat,
    state: State,
    text: DecodeStream<'t>,
    /// Calls that are closed.
    calls: usize,
    reads_calls: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing is written yet.
    Start(Start),
    Reasoning,
    Answer,
    /// Between tool calls; what stands there should be white space.
    BetweenCalls(Vec<u32>),
    Call(Vec<u32>),
    /// Behind the last call.
    Rest,
    /// Behind EOS.
    End,
}

impl<'t> OutputStream<'t> {
    /// An output that nothing is written of yet.
    pub fn new(tokenizer: &'t Tokenizer, format: ChatFormat, start: Start) -> Self {
        let text = DecodeStream::new(tokenizer, true);
        Self { tokenizer, format, state: State::Start(start), text, calls: 0, reads_calls: true }
    }

    /// Whether tool calls are read. Where no tools were offered, what looks like a call is text.
    #[must_use]
    pub fn with_tool_calls(self, reads_calls: bool) -> Self {
        Self { reads_calls, ..self }
    }

    /// What `id` adds.
    ///
    /// # Errors
    /// As [`parse_output`]. The stream is then of no more use.
    pub fn push(&mut self, id: u32) -> Result<ParsedOutput, ParseError> {
        let special = self.tokenizer.special_tokens();
        let is = |role: Option<u32>| Some(id) == role;
        let mut piece = ParsedOutput::default();
        if is(special.eos) {
            piece = self.close()?;
            self.state = State::End;
            return Ok(piece);
        }
        match &mut self.state {
            State::Start(start) => {
                let is_opened = is(special.think_begin);
                let reasons = is_opened || *start == Start::Reasoning;
                self.state = if reasons { State::Reasoning } else { State::Answer };
                if !is_opened {
                    piece = self.push(id)?;
                }
                if reasons {
                    piece.reasoning.get_or_insert_default();
                }
            }
            State::Reasoning if is(special.think_end) => {
                piece.reasoning = self.end_of_text();
                self.state = State::Answer;
            }
            State::Reasoning => piece.reasoning = self.text.push(id),
            State::Answer if self.reads_calls && is(special.tool_calls_begin) => {
                piece.content = self.end_of_text().unwrap_or_default();
                self.tokenizer.require(Role::ToolCallBegin)?;
                self.tokenizer.require(Role::ToolCallEnd)?;
                self.state = State::BetweenCalls(Vec::new());
            }
            State::Answer | State::Rest => piece.content = self.text.push(id).unwrap_or_default(),
            State::BetweenCalls(between) if is(special.tool_call_begin) || is(special.tool_calls_end) => {
                blank(self.tokenizer, between, self.calls)?;
                self.state = if is(special.tool_calls_end) { State::Rest } else { State::Call(Vec::new()) };
            }
            State::BetweenCalls(between) => between.push(id),
            State::Call(_) if is(special.tool_calls_end) => return Err(ParseError::Unfinished { index: self.calls }),
            State::Call(call) if is(special.tool_call_end) => {
                piece.tool_calls.push(read_call(self.tokenizer, call, self.format, self.calls)?);
                self.calls += 1;
                self.state = State::BetweenCalls(Vec::new());
            }
            State::Call(call) => call.push(id),
            State::End => {}
        }
        Ok(piece)
    }

    /// What the end of the output adds: characters that were held back.
    ///
    /// # Errors
    /// As [`OutputStream::push`].
    pub fn finish(mut self) -> Result<ParsedOutput, ParseError> {
        self.close()
    }

    fn close(&mut self) -> Result<ParsedOutput, ParseError> {
        let mut piece = ParsedOutput::default();
        match &self.state {
            State::Start(Start::Reasoning) => piece.reasoning = Some(String::new()),
            State::Reasoning => piece.reasoning = self.end_of_text(),
            State::Answer | State::Rest => piece.content = self.end_of_text().unwrap_or_default(),
            State::BetweenCalls(between) => blank(self.tokenizer, between, self.calls)?,
            State::Call(_) => return Err(ParseError::Unfinished { index: self.calls }),
            State::Start(Start::Answer) | State::End => {}
        }
        Ok(piece)
    }

    /// Ends a part: a character that is cut off there stays so.
    fn end_of_text(&mut self) -> Option<String> {
        std::mem::replace(&mut self.text, DecodeStream::new(self.tokenizer, true)).finish()
    }
}

impl ParsedOutput {
    /// Adds what comes after it.
    pub fn append(&mut self, piece: Self) {
        let Self { reasoning, content, tool_calls } = piece;
        if let Some(reasoning) = reasoning {
            self.reasoning.get_or_insert_default().push_str(&reasoning);
        }
        self.content.push_str(&content);
        self.tool_calls.extend(tool_calls);
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.reasoning.is_none() && self.content.is_empty() && self.tool_calls.is_empty()
    }
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
    let mut stream = OutputStream::new(tokenizer, format, start);
    let mut output = ParsedOutput::default();
    for &id in ids {
        output.append(stream.push(id)?);
    }
    output.append(stream.finish()?);
    Ok(output)
}

/// Refuses text between calls.
fn blank(tokenizer: &Tokenizer, ids: &[u32], index: usize) -> Result<(), ParseError> {
    let text = tokenizer.decode(ids, true);
    if text.trim().is_empty() { Ok(()) } else { Err(ParseError::BetweenCalls { index, text }) }
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

//! Tokens of one answer to its text, its reasoning and its tool calls.

use engine::{Drawn, Logprobs};
use tokenizer::{ChatFormat, DecodeStream, OutputStream, Start, StopText, Tokenizer, ToolCall};

/// How an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As text.
    Text,
    /// As a turn of a conversation.
    Chat {
        /// What the prompt left open.
        start: Start,
        /// Whether there are tools to call. Without them what looks like a call is text.
        tools: bool,
        /// Whether the answer ends behind its first call.
        one_call: bool,
    },
}

/// What some tokens add to an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delta {
    pub(crate) reasoning: Option<String>,
    pub(crate) content: String,
    pub(crate) calls: Vec<ToolCall>,
    /// The tokens behind it, if their probabilities were asked for.
    pub(crate) tokens: Vec<Token>,
}

/// A token with its probability.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) logprobs: Logprobs,
    /// Whether it belongs to the reasoning.
    pub(crate) in_reasoning: bool,
}

/// Takes tokens one by one.
pub(crate) struct Assembler<'t> {
    tokenizer: &'t Tokenizer,
    reader: Reader<'t>,
    until: StopText,
    tokens: Vec<Token>,
    /// Tokens that have not shown up in any text or call: what is said if a call turns out to be none.
    unread: Vec<u32>,
    in_reasoning: bool,
    /// Tokens so far.
    drawn: usize,
    /// Tokens before which no stop string ends it.
    min_tokens: usize,
    one_call: bool,
    read: Read,
    ended: bool,
}

/// What was found in a whole answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    /// Tokens of the reasoning.
    pub(crate) reasoning_tokens: usize,
    pub(crate) calls: usize,
    /// Which of the stop strings ended it.
    pub(crate) stopped_by: Option<usize>,
}

enum Reader<'t> {
    Text(DecodeStream<'t>),
    Chat(Box<OutputStream<'t>>),
}

impl<'t> Assembler<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, format: ChatFormat, reading: Reading, stop: &[String]) -> Self {
        let (reader, in_reasoning, one_call) = match reading {
            Reading::Text => (Reader::Text(DecodeStream::new(tokenizer, true)), false, false),
            Reading::Chat { start, tools, one_call } => {
                let stream = OutputStream::new(tokenizer, format, start).with_tool_calls(tools);
                (Reader::Chat(Box::new(stream)), start == Start::Reasoning, one_call)
            }
        };
        Self {
            tokenizer,
            reader,
            until: StopText::new(stop),
            tokens: Vec::new(),
            unread: Vec::new(),
            in_reasoning,
            drawn: 0,
            min_tokens: 0,
            one_call,
            read: Read::default(),
            ended: false,
        }
    }

    /// The same for an answer that no stop string ends before it has so many tokens: what is said until then is not searched.
    pub(crate) fn with_min_tokens(self, min_tokens: usize) -> Self {
        Self { min_tokens, ..self }
    }

    /// What a token adds. Nothing may follow once [`Self::has_ended`].
    pub(crate) fn push(&mut self, drawn: Drawn) -> Delta {
        let Drawn { id, logprobs, .. } = drawn;
        self.note(id, logprobs);
        self.unread.push(id);
        let mut delta = Delta::default();
        match &mut self.reader {
            Reader::Text(stream) => delta.content = stream.push(id).unwrap_or_default(),
            Reader::Chat(stream) => match stream.push(id) {
                Ok(piece) => {
                    delta = Delta {
                        reasoning: piece.reasoning,
                        content: piece.content,
                        calls: piece.tool_calls,
                        tokens: Vec::new(),
                    };
                }
                Err(_) => delta.content = self.as_text(),
            },
        }
        if delta.reasoning.is_some() || !delta.content.is_empty() || !delta.calls.is_empty() {
            self.unread.clear();
            if Some(id) == self.tokenizer.special_tokens().tool_calls_begin {
                self.unread.push(id);
            }
        }
        self.close(delta)
    }

    /// What the end of the answer adds.
    pub(crate) fn finish(mut self) -> (Delta, Read) {
        let mut delta = Delta::default();
        if !self.ended {
            let reader = std::mem::replace(&mut self.reader, Reader::Text(DecodeStream::new(self.tokenizer, true)));
            match reader {
                Reader::Text(stream) => delta.content = stream.finish().unwrap_or_default(),
                Reader::Chat(stream) => match stream.finish() {
                    Ok(piece) => {
                        delta.reasoning = piece.reasoning.filter(|text| !text.is_empty());
                        (delta.content, delta.calls) = (piece.content, piece.tool_calls);
                    }
                    Err(_) => delta.content = self.as_text(),
                },
            }
            delta = self.close(delta);
            if !self.ended {
                delta.content += &self.until.rest();
            }
        }
        delta.tokens.append(&mut self.tokens);
        (delta, Read { stopped_by: self.until.stopped_by(), ..self.read })
    }

    /// Whether a stop string has come, or all the calls that there may be.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// A call that is not written as it should be is said as it was written; what follows it is text.
    fn as_text(&mut self) -> String {
        self.reader = Reader::Text(DecodeStream::new(self.tokenizer, true));
        self.tokenizer.decode(&std::mem::take(&mut self.unread), false)
    }

    /// Holds content back that may begin a stop string.
    fn close(&mut self, mut delta: Delta) -> Delta {
        if !delta.content.is_empty() && self.drawn >= self.min_tokens {
            delta.content = self.until.push(&delta.content);
            self.ended |= self.until.has_stopped();
        }
        if self.one_call && !delta.calls.is_empty() {
            delta.calls.truncate(1);
            self.ended = true;
        }
        if !delta.calls.is_empty() {
            // Nothing can be held back any more: it stands before the call.
            delta.content += &self.until.rest();
            self.read.calls += delta.calls.len();
        }
        if delta.reasoning.is_some() || !delta.content.is_empty() || !delta.calls.is_empty() {
            delta.tokens.append(&mut self.tokens);
        }
        delta
    }

    fn note(&mut self, id: u32, logprobs: Option<Logprobs>) {
        let special = self.tokenizer.special_tokens();
        let is_chat = matches!(self.reader, Reader::Chat(_));
        self.read.reasoning_tokens += usize::from(self.in_reasoning);
        if let Some(logprobs) = logprobs {
            self.tokens.push(Token { id, logprobs, in_reasoning: self.in_reasoning });
        }
        // Reasoning stands first; in the middle of an answer the token begins nothing.
        if is_chat && Some(id) == special.think_begin && self.drawn == 0 {
            self.in_reasoning = true;
        } else if Some(id) == special.think_end {
            self.in_reasoning = false;
        }
        self.drawn += 1;
    }
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.reasoning.is_none() && self.content.is_empty() && self.calls.is_empty() && self.tokens.is_empty()
    }

    /// Adds what comes after it.
    pub(crate) fn append(&mut self, next: Self) {
        let Self { reasoning, content, calls, tokens } = next;
        if let Some(reasoning) = reasoning {
            self.reasoning.get_or_insert_default().push_str(&reasoning);
        }
        self.content.push_str(&content);
        self.calls.extend(calls);
        self.tokens.extend(tokens);
    }
}

#[cfg(test)]
mod tests;

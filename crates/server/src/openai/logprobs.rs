//! Probabilities of tokens, in the two forms that OpenAI's interface has for them.

use serde_json::{Map, Value, json};

use crate::assemble::Token;
use crate::served::Served;

/// Those of a conversation's answer: `content`, and `reasoning_content` where there is some.
pub(crate) fn chat(served: &Served, tokens: &[Token]) -> Value {
    let of = |in_reasoning: bool| -> Vec<Value> {
        tokens
            .iter()
            .filter(|token| token.in_reasoning == in_reasoning)
            .map(|token| chat_token(served, token))
            .collect()
    };
    let mut all = json!({ "content": of(false), "refusal": null });
    let reasoning = of(true);
    if !reasoning.is_empty() {
        all["reasoning_content"] = reasoning.into();
    }
    all
}

fn chat_token(served: &Served, token: &Token) -> Value {
    let entry = |id: u32, logprob: f32| {
        let bytes = served.tokenizer.token_bytes(id).unwrap_or_default();
        json!({ "token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes })
    };
    let mut all = entry(token.id, token.logprobs.of_token);
    all["top_logprobs"] = token.logprobs.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
    all
}

/// Those of a completion.
#[derive(Default)]
pub(crate) struct Listed {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters of the text so far.
    offset: usize,
}

impl Listed {
    /// A list whose first token stands `offset` characters into the text.
    pub(crate) fn at(offset: usize) -> Self {
        Self { offset, ..Self::default() }
    }

    /// Adds a token; the first one of a prompt has no probability.
    pub(crate) fn push(&mut self, served: &Served, id: u32, logprob: Option<f32>, top: &[(u32, f32)]) {
        let text = text(served, id);
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text.into());
        self.token_logprobs.push(logprob.map_or(Value::Null, |logprob| finite(logprob).into()));
        let top: Map<String, Value> =
            top.iter().map(|&(id, logprob)| (self::text(served, id), finite(logprob).into())).collect();
        self.top_logprobs.push(if logprob.is_some() { top.into() } else { Value::Null });
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}

/// A token's text. One that is no text of its own is shown by its bytes.
fn text(served: &Served, id: u32) -> String {
    let bytes = served.tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("bytes:{}", bytes.escape_ascii()),
    }
}

/// JSON has no infinity; as published, what cannot be drawn has -9999.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

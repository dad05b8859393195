//! Probabilities of tokens, in the two forms that OpenAI's interface has for them.
//!
//! They take some bytes in memory and a thousand times as many as JSON, so they are written straight from the former.

use std::borrow::Cow;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::assemble::Token;
use crate::served::Served;

/// Those of a conversation's answer: `content`, and `reasoning_content` where there is some.
pub(crate) struct OfChat<'a> {
    pub(crate) served: &'a Served,
    pub(crate) tokens: &'a [Token],
}

impl Serialize for OfChat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &Self { served, tokens } = self;
        let part = |in_reasoning: bool| tokens.iter().filter(move |token| token.in_reasoning == in_reasoning);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("content", &Seq(|| part(false).map(|token| chat_token(served, token))))?;
        map.serialize_entry("refusal", &())?;
        if part(true).next().is_some() {
            map.serialize_entry("reasoning_content", &Seq(|| part(true).map(|token| chat_token(served, token))))?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Entry<'a, T> {
    token: Cow<'a, str>,
    logprob: f64,
    bytes: &'a [u8],
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<T>,
}

fn entry<T>(served: &Served, id: u32, logprob: f32, top_logprobs: Option<T>) -> Entry<'_, T> {
    let bytes = served.tokenizer.token_bytes(id).unwrap_or_default();
    Entry { token: String::from_utf8_lossy(bytes), logprob: finite(logprob), bytes, top_logprobs }
}

fn chat_token<'a>(served: &'a Served, token: &'a Token) -> impl Serialize + use<'a> {
    let top = token.logprobs.top.iter();
    let top = Seq(move || top.clone().map(|&(id, logprob)| entry::<()>(served, id, logprob, None)));
    entry(served, token.id, token.logprobs.of_token, Some(top))
}

/// A token, its probability, and the likeliest ones in its place.
type Place<'a> = (u32, Option<f32>, &'a [(u32, f32)]);

/// Those of a completion.
pub(crate) struct Listed<'a> {
    served: &'a Served,
    /// Characters before the first token, and behind the last.
    begin: usize,
    offset: usize,
    tokens: Vec<Place<'a>>,
}

impl<'a> Listed<'a> {
    /// A list whose first token stands `offset` characters into the text.
    pub(crate) fn at(served: &'a Served, offset: usize) -> Self {
        Self { served, begin: offset, offset, tokens: Vec::new() }
    }

    /// Adds a token; the first one of a prompt has no probability.
    pub(crate) fn push(&mut self, id: u32, logprob: Option<f32>, top: &'a [(u32, f32)]) {
        self.offset += self.text(id).chars().count();
        self.tokens.push((id, logprob, top));
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// A token's text. One that is no text of its own is shown by its bytes.
    fn text(&self, id: u32) -> Cow<'a, str> {
        let bytes = self.served.tokenizer.token_bytes(id).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => format!("bytes:{}", bytes.escape_ascii()).into(),
        }
    }
}

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tokens = || self.tokens.iter();
        let offsets = tokens().scan(self.begin, |next, &(id, ..)| {
            let offset = *next;
            *next += self.text(id).chars().count();
            Some(offset)
        });
        // No prompt's first token has one.
        let top = |&(_, logprob, top): &(u32, Option<f32>, _)| logprob.map(|_| Top { listed: self, top });
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("tokens", &Seq(|| tokens().map(|&(id, ..)| self.text(id))))?;
        map.serialize_entry("token_logprobs", &Seq(|| tokens().map(|&(_, logprob, _)| logprob.map(finite))))?;
        map.serialize_entry("top_logprobs", &Seq(|| tokens().map(top)))?;
        map.serialize_entry("text_offset", &Seq(|| offsets.clone()))?;
        map.end()
    }
}

/// The likeliest tokens by their texts. Of two tokens with the same text the likelier one is told.
struct Top<'a> {
    listed: &'a Listed<'a>,
    top: &'a [(u32, f32)],
}

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut told: Vec<(Cow<str>, f32)> = Vec::with_capacity(self.top.len());
        for &(id, logprob) in self.top {
            let text = self.listed.text(id);
            if told.iter().all(|(other, _)| *other != text) {
                told.push((text, logprob));
            }
        }
        serializer.collect_map(told.into_iter().map(|(text, logprob)| (text, finite(logprob))))
    }
}

/// A list that is made while it is written.
struct Seq<F>(F);

impl<I: Iterator<Item: Serialize>, F: Fn() -> I> Serialize for Seq<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// JSON has no infinity; as published, what cannot be drawn has -9999.
fn finite(logprob: f32) -> f64 {
    f64::from(logprob.max(-9999.0))
}

//! Tokens that join punctuation with line breaks, and what they are when split.
//!
//! The pre-tokenizer lets punctuation swallow the line breaks after it, so a prompt that ends in `.` is cut where training
//! text never was. DeepSeek-V3 (§4.1) therefore splits some of these tokens at random in training data.

use std::sync::LazyLock;

use regex::Regex;

use crate::Tokenizer;

/// One token that joins punctuation with line breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedBreak {
    /// The token.
    pub id: u32,
    /// The tokens of its punctuation.
    pub punctuation: Vec<u32>,
    /// The tokens of its line breaks.
    pub line_breaks: Vec<u32>,
}

impl Tokenizer {
    /// All tokens whose text is punctuation or symbols (`\p{P}`, `\p{S}`) followed by CR or LF, in the order of their ids.
    pub fn merged_punctuation_newline_tokens(&self) -> Vec<MergedBreak> {
        static JOINED: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"^([\p{P}\p{S}]+)([\r\n]+)$").expect("the expression is valid"));
        (0..self.vocab_size() as u32)
            .filter_map(|id| {
                let text = std::str::from_utf8(self.token_bytes(id)?).ok()?;
                let parts = JOINED.captures(text)?;
                Some(MergedBreak {
                    id,
                    punctuation: self.encode_untrusted(&parts[1]),
                    line_breaks: self.encode_untrusted(&parts[2]),
                })
            })
            .collect()
    }
}

//! A vocabulary as llguidance walks it.

use std::sync::Arc;

use engine::TokenSet;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use tokenizer::Tokenizer;

/// Bytes of a token in the tree, which can be twice as deep.
const LONGEST: usize = 512;

/// The tree of all tokens that are text, and which they are.
///
/// Control tokens have no bytes in it, so text cannot lead to them; a grammar that names one by its id is kept to `text` by
/// whoever asks. The token of the single byte 0xFF is left out as well: llguidance marks control tokens with that byte, and
/// no UTF-8 has it. So is a token that is longer than the tree can be deep. There is no token for the end: whether an answer
/// may end is asked apart.
///
/// The tree is said not to be canonical, which turns forced tokens off: text that can only go on in one way may still be cut
/// into tokens as the model likes.
pub(crate) fn vocabulary(tokenizer: &Tokenizer, vocab_size: usize) -> (TokEnv, TokenSet) {
    let added: TokenSet = tokenizer.added_tokens().map(|(_, id)| id).collect();
    let size = tokenizer.vocab_size().min(vocab_size) as u32;
    let word = |id: u32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let is_text = !added.contains(id) && bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER);
        if is_text && bytes.len() <= LONGEST { bytes.to_vec() } else { Vec::new() }
    };
    let words: Vec<Vec<u8>> = (0..size).map(word).collect();
    let text = (0..size).filter(|&id| !words[id as usize].is_empty()).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, INVALID_TOKEN), &words);
    (Arc::new(ApproximateTokEnv::new(trie)), text)
}

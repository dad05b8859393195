use crate::Tokenizer;

/// Decodes token by token and never emits half a character.
///
/// A token may end inside a UTF-8 sequence; its bytes are held back until the sequence is complete or known to be
/// invalid. The pieces, with [`finish`](Self::finish), concatenate to [`Tokenizer::decode`] of all ids.
#[derive(Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// The start of a UTF-8 sequence: at most three bytes between calls.
    held: Vec<u8>,
}

impl<'t> DecodeStream<'t> {
    /// A stream at the start of a text.
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, held: Vec::new() }
    }

    /// The text that `id` completes, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if self.skip_special && self.tokenizer.is_special(id) {
            return None;
        }
        // An id without a token is shown, not hidden: it reads as one character that cannot be read.
        let bytes = self.tokenizer.token_bytes(id).unwrap_or("\u{fffd}".as_bytes());
        self.held.extend_from_slice(bytes);

        let mut text = String::new();
        let mut incomplete = 0;
        let mut chunks = self.held.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let tail = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(tail) {
                incomplete = tail.len();
            } else if !tail.is_empty() {
                text.push('\u{fffd}');
            }
        }
        self.held.drain(..self.held.len() - incomplete);
        (!text.is_empty()).then_some(text)
    }

    /// Ends the text: bytes that still wait for the rest of their character become U+FFFD.
    pub fn finish(self) -> Option<String> {
        (!self.held.is_empty()).then(|| String::from_utf8_lossy(&self.held).into_owned())
    }
}

/// Whether more bytes could make a character of `tail`.
fn is_incomplete(tail: &[u8]) -> bool {
    std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none())
}

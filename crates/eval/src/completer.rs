use std::error::Error;

/// What answers prompts: a model with its tokenizer, or a stand-in for one.
pub trait Completer {
    /// Why a prompt cannot be completed.
    type Error: Error + Send + Sync + 'static;

    /// The most likely continuation of each prompt, token by token (greedily), in the order of the prompts.
    ///
    /// A continuation ends before `stop`, at the model's own end of text, or after `max_tokens` tokens, whichever
    /// comes first. It is decoded text; a leading space belongs to it.
    ///
    /// # Errors
    /// When one of the prompts cannot be completed.
    fn complete(&mut self, prompts: &[String], stop: &str, max_tokens: usize) -> Result<Vec<String>, Self::Error>;
}

/// Why a request cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing to continue.
    #[error("the prompt has no tokens; give it at least one, such as the beginning-of-sentence token")]
    EmptyPrompt,
    /// The model has no row for a token.
    #[error(
        "the prompt's token {id} is not below the model's vocab_size {vocab_size}; does the tokenizer belong to it?"
    )]
    TokenId {
        /// The token.
        id: u32,
        /// The model's limit.
        vocab_size: usize,
    },
    /// More than the model can hold.
    #[error(
        "{tokens} tokens do not fit the model's max_position_embeddings of {limit}; shorten the prompt or start a new \
         conversation"
    )]
    Context {
        /// Tokens of the sequence.
        tokens: usize,
        /// The model's limit.
        limit: usize,
    },
    /// A sampling parameter is out of range, or the logits are not numbers.
    #[error(transparent)]
    Sampling(#[from] ops::sampling::Error),
    /// A model that is larger than memory is read while it runs.
    #[error(transparent)]
    Read(#[from] tensor::ReadError),
}

use crate::constraint::ConstraintError;

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
    /// More than the memory for latents holds, even alone.
    #[error(
        "prompt and answer of up to {tokens} tokens do not fit the cache, which holds {limit}; shorten the prompt, ask for \
         fewer tokens, or give the cache more memory"
    )]
    Cache {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// Tokens that the cache holds.
        limit: usize,
    },
    /// A bias is no number.
    #[error("logit_bias of token {id} is {bias}, but must be a number or -inf")]
    Bias {
        /// The token.
        id: u32,
        /// What was given.
        bias: f32,
    },
    /// A number is above what it may be.
    #[error("{field} is {value}, but may be at most {limit}")]
    Limit {
        /// The field of the request.
        field: &'static str,
        /// What was given.
        value: usize,
        /// The largest that is allowed.
        limit: usize,
    },
    /// What decides which tokens are allowed has failed.
    #[error(transparent)]
    Constraint(ConstraintError),
    /// A sampling parameter is out of range, or the logits are not numbers.
    #[error(transparent)]
    Sampling(#[from] ops::sampling::Error),
    /// A model that is larger than memory is read while it runs.
    #[error(transparent)]
    Read(#[from] tensor::ReadError),
    /// The engine ended before the answer did.
    #[error("the engine was stopped before the answer ended")]
    Stopped,
    /// A fault of the engine itself.
    #[error("the engine failed in the step that this request was part of; this is a fault of the program")]
    Fault,
}

/// Why a request is not even taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too many wait.
    #[error("{waiting} requests wait already, and {limit} may; try again later")]
    Requests {
        /// How many do.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// Too much waits.
    #[error(
        "prompts of {waiting} tokens wait already, {tokens} more would be above the limit of {limit}; try again later"
    )]
    Tokens {
        /// Tokens of those that wait.
        waiting: usize,
        /// Tokens of this one.
        tokens: usize,
        /// How many may wait.
        limit: usize,
    },
    /// No new requests are taken.
    #[error("the engine ends; it takes no more requests")]
    Draining,
}

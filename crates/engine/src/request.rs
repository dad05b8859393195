use std::fmt;

use model::Model;

use crate::Sampling;
use crate::error::Error;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The tokens to continue.
    pub prompt: Vec<u32>,
    /// How the next token is drawn.
    pub sampling: Sampling,
    /// Seed of the draws.
    pub seed: u64,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end the answer; they are not part of it.
    pub stop: Vec<u32>,
    /// Ids from here on have no token and are never drawn.
    pub vocab_limit: usize,
    /// Added to the logits of some tokens before anything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// With each token its log-probability and those of so many likeliest ones, of the model's own distribution.
    pub logprobs: Option<usize>,
    /// Requests share the beginnings of their prompts only with those of the same salt.
    pub salt: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token.
    Stop,
    /// `max_tokens` tokens.
    Length,
    /// The model's longest context.
    Context,
}

impl Request {
    /// A request that draws from the model's own distribution, with nothing special.
    pub fn new(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            sampling: Sampling::default(),
            seed: 0,
            max_tokens,
            stop: Vec::new(),
            vocab_limit: usize::MAX,
            logit_bias: Vec::new(),
            logprobs: None,
            salt: 0,
        }
    }

    /// Whether `model` can answer it at all.
    ///
    /// # Errors
    /// When the prompt is empty, has tokens that the model does not know or too many of them, or a parameter is out of
    /// range.
    pub fn validate(&self, model: &Model) -> Result<(), Error> {
        self.sampling.validate()?;
        if self.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&(id, bias)) = self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            return Err(Error::Bias { id, bias });
        }
        check(model, &self.prompt, 0)
    }
}

/// Refuses tokens that the model does not know, and more than fit after `before` tokens.
pub(crate) fn check(model: &Model, tokens: &[u32], before: usize) -> Result<(), Error> {
    let vocab_size = model.config.vocab_size;
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(Error::TokenId { id, vocab_size });
    }
    let (tokens, limit) = (before + tokens.len(), model.config.max_position_embeddings);
    if tokens > limit {
        return Err(Error::Context { tokens, limit });
    }
    Ok(())
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
        })
    }
}

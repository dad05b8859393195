use std::fmt;

use model::{BLOCK_TOKENS, Model};

use crate::Sampling;
use crate::constraint::Constraints;
use crate::error::Error;
use crate::limits::Limits;

/// The most likeliest tokens that may be asked for at each position.
pub const MAX_LOGPROBS: usize = 20;

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
    /// Tokens before which no stop token is drawn. A constraint that is complete ends the answer all the same.
    pub min_tokens: usize,
    /// Tokens that end the answer; they are not part of it.
    pub stop: Vec<u32>,
    /// Ids from here on have no token and are never drawn.
    pub vocab_limit: usize,
    /// Added to the logits of some tokens before anything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// With each token its log-probability and those of so many likeliest ones, of the model's own distribution.
    pub logprobs: Option<usize>,
    /// For each token of the prompt but the first its log-probability and those of so many likeliest ones, as
    /// [`Event::PromptLogprobs`](crate::Event::PromptLogprobs). Nothing that is known of the prompt can then be used: all of
    /// it is run over. With `max_tokens` 0 a text is scored and nothing is generated.
    pub prompt_logprobs: Option<usize>,
    /// What the tokens of the answer must be.
    pub constraint: Option<Constraints>,
    /// Requests share the beginnings of their prompts only with those of the same salt.
    pub salt: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token, or a constraint that nothing can follow.
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
            min_tokens: 0,
            stop: Vec::new(),
            vocab_limit: usize::MAX,
            logit_bias: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            constraint: None,
            salt: 0,
        }
    }

    /// Whether an engine of `model` within `limits` can answer it, even alone.
    ///
    /// # Errors
    /// As [`Request::validate`], and when its latents do not fit.
    pub fn check(&self, model: &Model, limits: &Limits) -> Result<(), Error> {
        self.validate(model)?;
        let longest = model.config.max_position_embeddings.max(self.prompt.len());
        let tokens = self.prompt.len().saturating_add(self.max_tokens).min(longest);
        let limit = limits.blocks(model).saturating_mul(BLOCK_TOKENS);
        if tokens > limit { Err(Error::Cache { tokens, limit }) } else { Ok(()) }
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
        let limits = [
            ("logprobs", self.logprobs.unwrap_or(0), MAX_LOGPROBS),
            ("prompt_logprobs", self.prompt_logprobs.unwrap_or(0), MAX_LOGPROBS),
            ("min_tokens", self.min_tokens, self.max_tokens),
        ];
        if let Some(&(field, value, limit)) = limits.iter().find(|(_, value, limit)| value > limit) {
            return Err(Error::Limit { field, value, limit });
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

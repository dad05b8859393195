#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tensor::{Ctx, Rng};

/// How the next token is drawn. The default draws from the model's own distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Divides the logits; 0 takes the largest.
    pub temperature: f32,
    /// How many of the largest logits are kept; 0 keeps all.
    pub top_k: usize,
    /// The probability that the kept tokens must reach together; 1 keeps all.
    pub top_p: f32,
    /// The least probability of a kept token, as a part of the largest; 0 keeps all.
    pub min_p: f32,
    /// Above 1 makes tokens of prompt and answer less likely; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of a token that occurs in the answer.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token for each time it occurs in the answer.
    pub frequency_penalty: f32,
}

/// The tokens of a request so far, as penalties see them.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every token of prompt or answer, with the number of times it occurs in the answer.
    tokens: BTreeMap<u32, u32>,
}

/// The tokens that may come next.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// By falling probability where `top_k` or `top_p` select, by id otherwise.
    pub ids: Vec<u32>,
    /// Their probabilities, all above 0, which sum to 1.
    pub probs: Vec<f64>,
}

/// Why there is no next token.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A parameter is out of its range.
    #[error("{field} is {value}, but must be {allowed}")]
    Range {
        /// The parameter.
        field: &'static str,
        /// What was given.
        value: f32,
        /// What may be given.
        allowed: &'static str,
    },
    /// The model computed something that is no number.
    #[error("the logit of token {id} is {value}: the model's weights are damaged, or too large for its arithmetic")]
    Logit {
        /// The token.
        id: u32,
        /// Its logit, after penalties.
        value: f32,
    },
    /// Every logit is −∞.
    #[error("all {tokens} tokens are masked, so none can be drawn")]
    Masked {
        /// How many there are.
        tokens: usize,
    },
}

/// The next token, drawn from [`distribution`] by one number of `rng`, or by none at temperature 0.
///
/// # Errors
/// As [`distribution`].
pub fn sample(
    ctx: &Ctx,
    logits: &mut [f32],
    vocab_limit: usize,
    history: &History,
    params: &Params,
    rng: &mut Rng,
) -> Result<u32, Error> {
    match kept(ctx, logits, vocab_limit, history, params)? {
        Kept::Best(id) => Ok(id),
        Kept::Weighted { ids, weights, total } => {
            let probs = ids.iter().map(|&id| f64::from(weights[id as usize]) / total);
            Ok(draw(&ids, probs, rng))
        }
    }
}

/// What the next token is drawn from, for one row of `logits`, of which the first `vocab_limit` have tokens. Penalties are
/// applied to the logits in place. `params` are expected to be valid.
///
/// # Errors
/// When a logit is NaN or +∞, or when all are −∞.
pub fn distribution(
    ctx: &Ctx,
    logits: &mut [f32],
    vocab_limit: usize,
    history: &History,
    params: &Params,
) -> Result<Distribution, Error> {
    match kept(ctx, logits, vocab_limit, history, params)? {
        Kept::Best(id) => Ok(Distribution { ids: vec![id], probs: vec![1.0] }),
        Kept::Weighted { ids, weights, total } => {
            let probs = ids.iter().map(|&id| f64::from(weights[id as usize]) / total).collect();
            Ok(Distribution { ids, probs })
        }
    }
}

/// The tokens that may come next, before anything is divided.
enum Kept {
    /// The likeliest one.
    Best(u32),
    /// These, in the order of [`Distribution::ids`], each with its weight among those of all tokens; `total` is that of these.
    Weighted { ids: Vec<u32>, weights: Vec<f32>, total: f64 },
}

fn kept(ctx: &Ctx, logits: &mut [f32], vocab_limit: usize, history: &History, params: &Params) -> Result<Kept, Error> {
    let tokens = vocab_limit.min(logits.len());
    let logits = &mut logits[..tokens];
    history.penalise(logits, params);
    if let Some(id) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
        return Err(Error::Logit { id: id as u32, value: logits[id] });
    }
    let largest = cpu::largest(ctx.isa, logits);
    if largest == f32::NEG_INFINITY {
        return Err(Error::Masked { tokens });
    }
    if params.temperature == 0.0 {
        let best = logits.iter().position(|&x| x == largest).expect("the largest is one of them");
        return Ok(Kept::Best(best as u32));
    }

    let mut weights = vec![0.0; tokens];
    cpu::scale(ctx.isa, logits, largest, params.temperature, &mut weights);
    let mut total = cpu::exp(ctx.isa, &mut weights, 0.0);

    let limited = params.top_k > 0 && params.top_k < tokens;
    let mut ids: Vec<u32> = if limited || params.top_p < 1.0 {
        let mut keys: Vec<u64> = (0..).zip(&*logits).map(|(id, &x)| key(x, id)).collect();
        if limited {
            keys.select_nth_unstable(params.top_k - 1);
            keys.truncate(params.top_k);
            keys.sort_unstable();
            total = keys.iter().map(|&key| f64::from(weights[id(key) as usize])).sum();
        }
        if params.top_p < 1.0 {
            keep_prefix(&mut keys, &weights, f64::from(params.top_p) * total);
        }
        keys.into_iter().map(id).collect()
    } else {
        (0..tokens as u32).collect()
    };
    // The largest weight is 1, so a weight is its probability as a part of the largest one.
    ids.retain(|&id| weights[id as usize] > 0.0 && weights[id as usize] >= params.min_p);
    let total = ids.iter().map(|&id| f64::from(weights[id as usize])).sum();
    Ok(Kept::Weighted { ids, weights, total })
}

impl Params {
    /// Whether every field is in its range.
    ///
    /// # Errors
    /// For the first that is not.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |field, value: f32, within: bool, allowed| {
            if within { Ok(()) } else { Err(Error::Range { field, value, allowed }) }
        };
        let &Self { temperature, top_k: _, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty } =
            self;
        check("temperature", temperature, (0.0..=100.0).contains(&temperature), "from 0 to 100")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "from 0 to 1")?;
        let repetition = (0.1..=10.0).contains(&repetition_penalty);
        check("repetition_penalty", repetition_penalty, repetition, "from 0.1 to 10")?;
        check("presence_penalty", presence_penalty, (-2.0..=2.0).contains(&presence_penalty), "from -2 to 2")?;
        check("frequency_penalty", frequency_penalty, (-2.0..=2.0).contains(&frequency_penalty), "from -2 to 2")
    }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }
}

impl History {
    /// Of a request that has this prompt and no answer yet.
    pub fn new(prompt: &[u32]) -> Self {
        Self { tokens: prompt.iter().map(|&id| (id, 0)).collect() }
    }

    /// Adds tokens of another prompt, such as the next turn of a conversation.
    pub fn prompt(&mut self, tokens: &[u32]) {
        for &id in tokens {
            self.tokens.entry(id).or_insert(0);
        }
    }

    /// Adds a token to the answer.
    pub fn push(&mut self, id: u32) {
        *self.tokens.entry(id).or_default() += 1;
    }

    fn penalise(&self, logits: &mut [f32], params: &Params) {
        let &Params { repetition_penalty: repetition, presence_penalty, frequency_penalty, .. } = params;
        if repetition == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return;
        }
        for (&id, &times) in self.tokens.range(..logits.len() as u32) {
            let x = &mut logits[id as usize];
            *x = if *x > 0.0 { *x / repetition } else { *x * repetition };
            if times > 0 {
                *x -= presence_penalty + frequency_penalty * times as f32;
            }
        }
    }
}

impl Distribution {
    /// A token, by one uniform number.
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        draw(&self.ids, self.probs.iter().copied(), rng)
    }
}

/// A token of `ids`, whose probabilities are `probs`, by one uniform number. Probabilities behind it are not asked for.
fn draw(ids: &[u32], probs: impl Iterator<Item = f64>, rng: &mut Rng) -> u32 {
    let u = rng.uniform();
    let mut below = 0.0;
    for (&id, p) in ids.iter().zip(probs) {
        below += p;
        if u < below {
            return id;
        }
    }
    // The sum may be below 1 by its rounding errors, and `u` in between.
    ids[ids.len() - 1]
}

/// Orders tokens: by falling logit, then by rising id.
fn key(x: f32, id: u32) -> u64 {
    // Adding 0 makes −0 and 0 equal. As integers, positive floats are ordered and negative ones in reverse; flipping the
    // sign bit of the former and all bits of the latter orders both.
    let bits = (x + 0.0).to_bits();
    let rising = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(!rising) << 32 | u64::from(id)
}

fn id(key: u64) -> u32 {
    key as u32
}

/// Cuts `keys` to the shortest prefix, in their order, whose weights sum to `enough`. Sorts no more than it needs.
fn keep_prefix(keys: &mut Vec<u64>, weights: &[f32], enough: f64) {
    let (mut sum, mut sorted) = (0.0, 0);
    while sorted < keys.len() {
        let next = (4 * sorted).max(64).min(keys.len());
        keys[sorted..].select_nth_unstable(next - sorted - 1);
        keys[sorted..next].sort_unstable();
        for i in sorted..next {
            sum += f64::from(weights[id(keys[i]) as usize]);
            if sum >= enough {
                keys.truncate(i + 1);
                return;
            }
        }
        sorted = next;
    }
}

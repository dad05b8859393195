//! What a step uses, as pure functions of the step and of the tokens consumed before it.
//!
//! Everything but the warm-up is keyed on tokens, so that changing the batch size does not move a schedule.

use super::{Phase, Recipe, Shape, Step, Until};

impl Recipe {
    /// Learning rate of step `step` (from 0) after `tokens` consumed tokens.
    ///
    /// The warm-up multiplies: step `s` has `(s + 1) / warmup_steps` of what the phases say.
    pub fn lr_at(&self, step: u64, tokens: u64) -> f64 {
        let rate = phase_value(self.lr.peak, &self.lr.phases, tokens, self.train.total_tokens);
        let warmup = self.lr.warmup_steps;
        if step < warmup { rate * (step + 1) as f64 / warmup as f64 } else { rate }
    }

    /// Sequences in the step that starts after `tokens` consumed tokens: linear in tokens from `batch.start` to
    /// `batch.end`, rounded down to whole micro-batches.
    pub fn batch_at(&self, tokens: u64) -> usize {
        let batch = &self.batch;
        if tokens >= batch.ramp_tokens {
            return batch.end;
        }
        let grown = (batch.end - batch.start) as u128 * u128::from(tokens) / u128::from(batch.ramp_tokens);
        let micro = self.train.micro_batch;
        batch.start + grown as usize / micro * micro
    }

    /// Weight λ of the MTP loss after `tokens` consumed tokens.
    pub fn lambda_at(&self, tokens: u64) -> f64 {
        step_value(&self.loss.mtp_lambda, tokens, self.train.total_tokens)
    }

    /// Update speed γ of the routing bias after `tokens` consumed tokens.
    pub fn gamma_at(&self, tokens: u64) -> f64 {
        step_value(&self.loss.bias_update_speed, tokens, self.train.total_tokens)
    }
}

impl Until {
    /// The end in tokens, of a run of `total` tokens.
    pub fn tokens(self, total: u64) -> u64 {
        match self {
            Self::UntilTokens(tokens) => tokens,
            Self::UntilFraction(fraction) => (fraction * total as f64).round() as u64,
        }
    }
}

fn phase_value(peak: f64, phases: &[Phase], tokens: u64, total: u64) -> f64 {
    let (mut begin, mut from) = (0, peak);
    for phase in phases {
        let end = phase.until.tokens(total);
        if tokens < end {
            let done = (tokens - begin) as f64 / (end - begin) as f64;
            return match phase.shape {
                Shape::Constant => phase.to,
                Shape::Linear => from + (phase.to - from) * done,
                Shape::Cosine => phase.to + 0.5 * (from - phase.to) * (1.0 + (std::f64::consts::PI * done).cos()),
            };
        }
        (begin, from) = (end, phase.to);
    }
    from
}

/// The value of the phase `tokens` falls into; the last one holds to the end. Without phases it is 0.
fn step_value(steps: &[Step], tokens: u64, total: u64) -> f64 {
    let current = steps.iter().find(|step| tokens < step.until.tokens(total));
    current.or(steps.last()).map_or(0.0, |step| step.value)
}

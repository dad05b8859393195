use model::Model;

use crate::disk::DiskStats;

/// What an engine is doing, and what it has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Requests that are answered now.
    pub running: usize,
    /// Requests that wait now.
    pub waiting: usize,
    /// Blocks of latents that there may be.
    pub blocks: usize,
    /// Those that there are now.
    pub blocks_used: usize,
    /// Those of them that some request needs.
    pub blocks_in_use: usize,
    /// Steps.
    pub steps: u64,
    /// Requests that were answered in a step, of all steps: by `steps`, how many share one.
    pub step_requests: u64,
    /// The time of all steps.
    pub step_seconds: f64,
    /// The part of it in which the model ran.
    pub model_seconds: f64,
    /// The part of it in which tokens were drawn and handed on. What is left of the steps is the engine's own work, and the
    /// reading of blocks from disk.
    pub draw_seconds: f64,
    /// Steps of decoding.
    pub decode_steps: u64,
    /// Answers that were decoded, of all steps: by `decode_steps` times the largest batch, how full batches are.
    pub decoded: u64,
    /// Prompt tokens that were run over.
    pub prompt_tokens: u64,
    /// Prompt tokens of requests that looked for a known beginning.
    pub queried_tokens: u64,
    /// Those of them that were known.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// Tokens that the MTP layer proposed and the model was run over: at most one for an answer in a step, so each is the
    /// first of its draft.
    pub proposed: u64,
    /// Those of them that were the ones to be drawn.
    pub accepted: u64,
    /// How many times as fast an answer alone is with proposals, if that was measured.
    pub mtp_speedup: Option<f64>,
    /// Requests that ended.
    pub ended: u64,
    /// Requests that nobody wanted any more.
    pub cancelled: u64,
    /// Times that a request made room for others.
    pub preemptions: u64,
    /// Known blocks that were forgotten.
    pub evicted_blocks: u64,
    /// Of the cache on disk, if there is one.
    pub disk: Option<DiskStats>,
}

/// How evenly the experts of each layer have been used since the model was built: the mean load over the largest one, 1
/// where all are equal. MTP layers come last; a dense layer has none, nor has one that was not run yet.
pub fn balancedness(model: &Model) -> Vec<Option<f64>> {
    model.served_expert_load().iter().map(|load| load.as_deref().and_then(balance)).collect()
}

fn balance(load: &[u64]) -> Option<f64> {
    let (total, largest) = (load.iter().sum::<u64>(), load.iter().max().copied()?);
    (largest > 0).then(|| total as f64 / load.len() as f64 / largest as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_is_one_where_all_are_equal() {
        assert_eq!(balance(&[5, 5, 5, 5]), Some(1.0));
        assert_eq!(balance(&[20, 0, 0, 0]), Some(0.25));
        assert_eq!(balance(&[0, 0]), None);
        assert_eq!(balance(&[]), None);
    }
}

use std::time::Duration;

use model::Model;

use crate::error::Refused;
use crate::speculation::Mtp;

/// What an engine takes on at once. `max_batch_size`, `batch_timeout_micros` and `max_enqueued_batches` are names of
/// TensorFlow Serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are answered at the same time.
    pub max_batch_size: usize,
    /// How long an idle engine waits for more requests after the first one.
    pub batch_timeout_micros: u64,
    /// Requests that wait, in batches of `max_batch_size`.
    pub max_enqueued_batches: usize,
    /// Prompt tokens of all requests that wait.
    pub max_enqueued_tokens: usize,
    /// Prompt tokens that are run over between two tokens of an answer: more of them are faster in all, fewer let answers
    /// flow more evenly.
    pub prefill_tokens: usize,
    /// Memory for latents, those that are kept for later prompts included.
    pub cache_bytes: u64,
    /// Whether the MTP layer proposes tokens.
    pub mtp: Mtp,
}

/// Requests that have not begun.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Queue {
    pub(crate) requests: usize,
    /// Tokens of their prompts.
    pub(crate) tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch_size: 32,
            batch_timeout_micros: 0,
            max_enqueued_batches: 16,
            max_enqueued_tokens: 1 << 20,
            prefill_tokens: 512,
            cache_bytes: 4 << 30,
            mtp: Mtp::Auto,
        }
    }
}

impl Limits {
    /// Requests that wait.
    pub fn max_enqueued(&self) -> usize {
        self.max_batch_size.saturating_mul(self.max_enqueued_batches)
    }

    /// Blocks of latents of `model` that `cache_bytes` are worth.
    pub fn blocks(&self, model: &Model) -> usize {
        let of_draft = if self.mtp == Mtp::Off { None } else { model.new_draft() };
        let block = model.cache_block_bytes() + of_draft.map_or(0, |draft| draft.block_bytes());
        usize::try_from(self.cache_bytes / block as u64).unwrap_or(usize::MAX)
    }

    pub(crate) fn batch_timeout(&self) -> Duration {
        Duration::from_micros(self.batch_timeout_micros)
    }

    /// Whether `more` may wait beside those that wait already. What is above the limits alone may, if nothing else does.
    pub(crate) fn admit(&self, waiting: Queue, more: Queue) -> Result<(), Refused> {
        let limit = self.max_enqueued();
        if waiting.requests > 0 && waiting.requests.saturating_add(more.requests) > limit {
            return Err(Refused::Requests { waiting: waiting.requests, limit });
        }
        let limit = self.max_enqueued_tokens;
        if waiting.tokens > 0 && waiting.tokens.saturating_add(more.tokens) > limit {
            return Err(Refused::Tokens { waiting: waiting.tokens, tokens: more.tokens, limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_end() {
        let limits =
            Limits { max_batch_size: 2, max_enqueued_batches: 3, max_enqueued_tokens: 100, ..Limits::default() };
        let admit =
            |requests, tokens, more, of| limits.admit(Queue { requests, tokens }, Queue { requests: more, tokens: of });
        assert_eq!(admit(5, 0, 1, 10), Ok(()));
        assert_eq!(admit(6, 0, 1, 10), Err(Refused::Requests { waiting: 6, limit: 6 }));
        assert_eq!(admit(3, 0, 4, 10), Err(Refused::Requests { waiting: 3, limit: 6 }));
        assert_eq!(admit(1, 90, 1, 10), Ok(()));
        assert_eq!(admit(1, 91, 1, 10), Err(Refused::Tokens { waiting: 91, tokens: 10, limit: 100 }));
        assert_eq!(admit(0, 0, 7, 1000), Ok(()));
    }
}

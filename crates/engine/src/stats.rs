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
    /// Steps of decoding.
    pub decode_steps: u64,
    /// Tokens that were decoded, of all steps.
    pub decoded: u64,
    /// Prompt tokens that were run over.
    pub prompt_tokens: u64,
    /// Prompt tokens of requests that looked for a known beginning.
    pub queried_tokens: u64,
    /// Those of them that were known.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// Tokens that the MTP layer proposed and the model was run over.
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
}

use crate::wire::Usage;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The model that answered.
    pub model: String,
    /// The requests that ended, in the order in which they were meant to be sent.
    pub samples: Vec<Sample>,
    /// From the beginning to the end of the last request.
    pub seconds: f64,
    /// Requests that were under way when the user stopped the run; nothing else is known of them.
    pub unfinished: u64,
    /// The user stopped the run before its end.
    pub is_stopped: bool,
    /// The tokens that every answer was asked to have, if all were.
    pub exact_output_tokens: Option<u64>,
    /// Whether times count from random arrivals.
    pub is_open_loop: bool,
}

/// One request and its answer. Times are seconds since the run began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Which request it was, from 0.
    pub index: u64,
    /// When it should have been sent. In the closed loop this is when it was.
    pub intended: f64,
    /// When it was sent.
    pub started: f64,
    /// When the first text of the answer came.
    pub first: Option<f64>,
    /// When the last text came.
    pub last: Option<f64>,
    /// When the answer ended, or the request failed.
    pub ended: f64,
    /// Seconds between chunks with text, one fewer than there are chunks.
    pub gaps: Vec<f64>,
    /// Chunks with text.
    pub chunks: u64,
    /// Counts of tokens, if the server gave them.
    pub usage: Option<Usage>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// Why there is no complete answer.
    pub failure: Option<Failure>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word for counting, such as `status_503` or `cut_off`.
    pub kind: String,
    /// The whole story.
    pub message: String,
}

impl Sample {
    /// Whether there is a complete answer.
    pub fn is_complete(&self) -> bool {
        self.failure.is_none()
    }

    /// Seconds to the first text.
    pub fn ttft(&self) -> Option<f64> {
        self.first.map(|first| first - self.intended)
    }

    /// Seconds to the end.
    pub fn e2e(&self) -> f64 {
        self.ended - self.intended
    }

    /// Tokens of the answer: what the server counted, or else chunks.
    pub fn tokens(&self) -> u64 {
        self.usage.as_ref().map_or(self.chunks, |usage| usage.completion_tokens)
    }

    /// Seconds for each token after the first text. With one token there are none.
    pub fn tpot(&self) -> Option<f64> {
        let later = self.tokens().checked_sub(1).filter(|&later| later > 0)?;
        Some((self.last? - self.first?) / later as f64)
    }

    /// The longest that the reader of the answer waited for its next piece.
    pub fn longest_gap(&self) -> Option<f64> {
        self.gaps.iter().copied().reduce(f64::max)
    }
}

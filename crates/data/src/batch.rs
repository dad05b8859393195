/// The label of a position that is not scored.
pub const IGNORE: u32 = u32::MAX;

/// Rows of tokens with what is to be predicted at each position.
///
/// A row of `seq_len + 1` tokens gives `seq_len` inputs and, one further on, `seq_len` labels. A multi-token-prediction
/// module of depth `k` (DeepSeek-V3, section 2.2) sees at position `i` the token at `i + k` and predicts the label at
/// `i + k`, both of the same row; the last `k` positions have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Inputs, `[rows, seq_len]`.
    pub tokens: Vec<u32>,
    /// What follows each input, or [`IGNORE`], `[rows, seq_len]`.
    pub labels: Vec<u32>,
    /// Number of rows.
    pub rows: usize,
    /// Tokens in a row of inputs.
    pub seq_len: usize,
    /// The number of the first row in its run; the others follow.
    pub first_sequence: u64,
    /// Where each row comes from, `[rows]`.
    pub origins: Vec<Origin>,
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Position of the source among those of the loader or of the validation set.
    pub source: usize,
    /// How often all rows of the source had been used before.
    pub epoch: u64,
    /// The row's position in its source.
    pub row: u64,
}

impl Batch {
    pub(crate) fn empty(seq_len: usize, first_sequence: u64) -> Self {
        Self { tokens: Vec::new(), labels: Vec::new(), rows: 0, seq_len, first_sequence, origins: Vec::new() }
    }

    /// Appends a row: `tokens` and `labels` are `[seq_len]`.
    pub(crate) fn push(&mut self, tokens: &[u32], labels: &[u32], origin: Origin) {
        assert!(tokens.len() == self.seq_len && labels.len() == self.seq_len, "a row has seq_len tokens and labels");
        self.tokens.extend(tokens);
        self.labels.extend(labels);
        self.origins.push(origin);
        self.rows += 1;
    }

    /// How many positions are scored: the divisor of the loss.
    pub fn scored(&self) -> u64 {
        self.labels.iter().filter(|&&label| label != IGNORE).count() as u64
    }

    /// The batch in parts of at most `rows` rows, in order.
    ///
    /// # Panics
    /// When `rows` is 0.
    pub fn micro_batches(&self, rows: usize) -> impl Iterator<Item = Self> {
        assert!(rows > 0, "a micro-batch has at least one row");
        (0..self.rows).step_by(rows).map(move |start| {
            let end = self.rows.min(start + rows);
            let (first, last) = (start * self.seq_len, end * self.seq_len);
            Self {
                tokens: self.tokens[first..last].to_vec(),
                labels: self.labels[first..last].to_vec(),
                rows: end - start,
                seq_len: self.seq_len,
                first_sequence: self.first_sequence + start as u64,
                origins: self.origins[start..end].to_vec(),
            }
        })
    }
}

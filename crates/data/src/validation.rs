use crate::batch::{Batch, IGNORE, Origin};
use crate::dataset::{Dataset, Split, Stream};
use crate::error::{Error, Result};

/// The held-out documents in fixed rows, source by source, in the order in which they are stored.
///
/// The stream of a source begins with an EOS that is only seen, and is cut every `seq_len` tokens; the last row is filled
/// up with EOS that is not scored. So every token of every held-out document is scored exactly once, and the bytes
/// scored are exactly the bytes of the documents.
pub struct Validation {
    seq_len: usize,
    eos: u32,
    /// Bytes of text that each id stands for.
    token_bytes: Vec<u32>,
    sources: Vec<ValidationSource>,
}

struct ValidationSource {
    name: String,
    stream: Stream,
    rows: u64,
}

/// Rows of one source, and what their loss is measured against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationBatch {
    /// The rows; `first_sequence` counts through all of them.
    pub batch: Batch,
    /// The UTF-8 bytes that the scored tokens stand for. The sum of the losses in nats over `ln 2` times this is the
    /// number of bits per byte; scored EOS tokens add to the loss and stand for no byte.
    pub text_bytes: u64,
}

impl Validation {
    /// The held-out rows of `dataset`, at most `rows_per_source` of each source.
    ///
    /// # Errors
    /// When nothing was held out, or a shard is damaged.
    pub fn open(dataset: &Dataset, seq_len: usize, rows_per_source: Option<u64>) -> Result<Self> {
        assert!(seq_len > 0, "a row has at least one token");
        let content = &dataset.manifest().content;
        let sources = dataset.sources(Split::Validation).map(|(name, stored)| {
            let rows = stored.tokens.div_ceil(seq_len as u64);
            let rows = rows_per_source.map_or(rows, |limit| rows.min(limit));
            Ok(ValidationSource { name: name.to_owned(), stream: dataset.stream(stored)?, rows })
        });
        let sources = sources.collect::<Result<Vec<_>>>()?;
        if sources.is_empty() {
            let documents = content.sources.iter().map(|source| source.train.documents).sum();
            return Err(Error::NoValidation { held_out: content.definition.held_out, documents });
        }
        Ok(Self { seq_len, eos: content.definition.eos, token_bytes: dataset.token_bytes()?, sources })
    }

    /// The names of the sources, to which [`Origin::source`] refers.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|source| source.name.as_str())
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.sources.iter().map(|source| source.rows).sum()
    }

    /// The rows in batches of at most `rows`; no batch has rows of two sources.
    ///
    /// # Panics
    /// When `rows` is 0.
    pub fn batches(&self, rows: u64) -> impl Iterator<Item = Result<ValidationBatch>> {
        assert!(rows > 0, "a batch has at least one row");
        let mut before = 0;
        let firsts = self.sources.iter().map(move |source| {
            let first = before;
            before += source.rows;
            first
        });
        self.sources.iter().zip(firsts).enumerate().flat_map(move |(index, (source, first))| {
            (0..source.rows).step_by(rows as usize).map(move |start| {
                let end = source.rows.min(start.saturating_add(rows));
                let mut batch = Batch::empty(self.seq_len, first + start);
                for row in start..end {
                    let (tokens, labels) = self.row(source, row)?;
                    batch.push(&tokens, &labels, Origin { source: index, epoch: 0, row });
                }
                let bytes = |&label: &u32| match label {
                    IGNORE => 0,
                    label => u64::from(self.token_bytes[label as usize]),
                };
                let text_bytes = batch.labels.iter().map(bytes).sum();
                Ok(ValidationBatch { batch, text_bytes })
            })
        })
    }

    /// Labels are the stream's tokens from `row · seq_len` on, inputs the tokens before each of them.
    fn row(&self, source: &ValidationSource, row: u64) -> Result<(Vec<u32>, Vec<u32>)> {
        let start = row * self.seq_len as u64;
        let scored = (self.seq_len as u64).min(source.stream.tokens() - start) as usize;
        let mut tokens = vec![self.eos; self.seq_len + 1];
        match start.checked_sub(1) {
            None => source.stream.read(0, &mut tokens[1..=scored])?,
            Some(before) => source.stream.read(before, &mut tokens[..=scored])?,
        }
        let mut labels = tokens[1..].to_vec();
        labels[scored..].fill(IGNORE);
        tokens.pop();
        Ok((tokens, labels))
    }
}

#[cfg(test)]
mod tests;

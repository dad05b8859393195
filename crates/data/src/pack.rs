//! Rows of `seq_len + 1` tokens from a stream of documents.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::batch::IGNORE;
use crate::dataset::Stream;
use crate::error::{Error, Result};

/// A window of best-fit packing ends after the document that brings it to this many rows' worth of tokens. Larger windows
/// pack tighter, smaller ones cost less to pack again when one of their rows is asked for.
const WINDOW_ROWS: u64 = 1024;

/// Packed windows kept in memory: together half a million rows. In a larger source a row costs the packing of its
/// window, which is a few milliseconds for documents of some hundred tokens.
const CACHED_WINDOWS: usize = 512;

/// Documents whose lengths are read at a time.
const SCAN_DOCUMENTS: u64 = 1 << 16;

/// How documents are put into rows. In both ways attention crosses documents, as in DeepSeek-V3 (section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Whole documents, best fit decreasing (arXiv 2404.10830): a document is cut only if it is longer than a row, into
    /// parts that overlap by one token, so that each token but the first is predicted once, within its document. What is
    /// left at the end of a row is filled with EOS that is not scored.
    #[default]
    BestFit,
    /// The stream cut every `seq_len` tokens; rows overlap by one token, so that each token but the first is predicted
    /// once. Fewer than `seq_len` tokens at the end of the stream are left out.
    Concat,
}

/// The rows of one source.
pub(crate) struct Rows {
    stream: Stream,
    seq_len: usize,
    eos: u32,
    count: u64,
    layout: Layout,
}

enum Layout {
    Concat,
    BestFit { windows: Vec<Window>, cache: Mutex<Cache> },
}

/// Windows packed lately, by number; the oldest comes first.
type Cache = VecDeque<(usize, Arc<Vec<PackedRow>>)>;

/// Consecutive documents that are packed together.
struct Window {
    first_document: u64,
    documents: u64,
    first_token: u64,
    first_row: u64,
}

/// The pieces of a row, in the order of the stream.
type PackedRow = Vec<Piece>;

/// Consecutive tokens of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    /// Where it begins, in tokens.
    pub(crate) start: u64,
    pub(crate) len: u32,
    /// Whether it begins within its document, with a token that another piece predicts.
    pub(crate) continues: bool,
}

impl Rows {
    /// The rows of `stream`.
    ///
    /// # Errors
    /// When there is not enough for one row, or the lengths of the documents cannot be read.
    pub(crate) fn new(stream: Stream, packing: Packing, seq_len: usize, eos: u32, name: &str) -> Result<Self> {
        let tokens = stream.tokens();
        let (count, layout) = match packing {
            Packing::Concat => (tokens.saturating_sub(1) / seq_len as u64, Layout::Concat),
            Packing::BestFit => {
                let (windows, count) = windows(&stream, seq_len)?;
                (count, Layout::BestFit { windows, cache: Mutex::default() })
            }
        };
        if count == 0 {
            let (split, needed) = ("train", seq_len as u64 + 1);
            return Err(Error::TooFewTokens { name: name.to_owned(), split, tokens, needed });
        }
        Ok(Self { stream, seq_len, eos, count, layout })
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The inputs and labels of a row, `[seq_len]` each.
    pub(crate) fn row(&self, row: u64) -> Result<(Vec<u32>, Vec<u32>)> {
        assert!(row < self.count, "row {row} of {}", self.count);
        let mut tokens = vec![self.eos; self.seq_len + 1];
        let mut labels;
        match &self.layout {
            Layout::Concat => {
                self.stream.read(row * self.seq_len as u64, &mut tokens)?;
                labels = tokens[1..].to_vec();
            }
            Layout::BestFit { windows, cache } => {
                let window = windows.partition_point(|window| window.first_row <= row) - 1;
                let packed = self.packed(&windows[window], window, cache)?;
                let pieces = &packed[(row - windows[window].first_row) as usize];
                labels = vec![IGNORE; self.seq_len];
                let mut end = 0;
                for piece in pieces {
                    let place = end..end + piece.len as usize;
                    self.stream.read(piece.start, &mut tokens[place.clone()])?;
                    for i in place.clone() {
                        // Position i predicts i + 1; nothing predicts the first token of the row.
                        if i > 0 && !(i == place.start && piece.continues) {
                            labels[i - 1] = tokens[i];
                        }
                    }
                    end = place.end;
                }
            }
        }
        tokens.pop();
        Ok((tokens, labels))
    }

    fn packed(&self, window: &Window, index: usize, cache: &Mutex<Cache>) -> Result<Arc<Vec<PackedRow>>> {
        let cached = || cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, packed)) = cached().iter().find(|(cached, _)| *cached == index) {
            return Ok(Arc::clone(packed));
        }
        let lengths = self.stream.lengths(window.first_document..window.first_document + window.documents)?;
        let packed = Arc::new(best_fit(window.first_token, &lengths, self.seq_len));
        let mut cache = cached();
        if cache.len() == CACHED_WINDOWS {
            cache.pop_front();
        }
        cache.push_back((index, Arc::clone(&packed)));
        Ok(packed)
    }
}

/// The windows of the stream, and the number of their rows.
fn windows(stream: &Stream, seq_len: usize) -> Result<(Vec<Window>, u64)> {
    let enough = WINDOW_ROWS * (seq_len as u64 + 1);
    let mut windows = Vec::new();
    let (mut rows, mut lengths, mut tokens) = (0, Vec::new(), 0);
    let (mut first_document, mut first_token) = (0, 0);
    let documents = stream.documents();
    for start in (0..documents).step_by(SCAN_DOCUMENTS as usize) {
        let end = documents.min(start + SCAN_DOCUMENTS);
        for (document, length) in (start..end).zip(stream.lengths(start..end)?) {
            lengths.push(length);
            tokens += u64::from(length);
            if tokens >= enough || document + 1 == documents {
                windows.push(Window { first_document, documents: lengths.len() as u64, first_token, first_row: rows });
                rows += best_fit(first_token, &lengths, seq_len).len() as u64;
                first_document = document + 1;
                first_token += tokens;
                lengths.clear();
                tokens = 0;
            }
        }
    }
    Ok((windows, rows))
}

/// Packs documents of these numbers of tokens, the first of which begins at `start`, into rows of at most `seq_len + 1`
/// tokens: the longest piece first, each into the row with the least room that suffices, ties to the first.
pub(crate) fn best_fit(start: u64, lengths: &[u32], seq_len: usize) -> Vec<PackedRow> {
    let capacity = seq_len as u64 + 1;
    let mut pieces = Vec::new();
    let mut document = start;
    for &length in lengths {
        let end = document + u64::from(length);
        // A part of one token would predict nothing: the last part has at least two.
        for part in (document..end.saturating_sub(1)).step_by(seq_len) {
            let len = capacity.min(end - part) as u32;
            pieces.push(Piece { start: part, len, continues: part > document });
        }
        document = end;
    }
    pieces.sort_by_key(|piece| (std::cmp::Reverse(piece.len), piece.start));

    let mut rows: Vec<PackedRow> = Vec::new();
    // Rows with room left, as (room, row).
    let mut open = BTreeSet::new();
    for piece in pieces {
        let len = u64::from(piece.len);
        let (room, row) = if let Some(&fit) = open.range((len, 0)..).next() {
            open.remove(&fit);
            fit
        } else {
            rows.push(Vec::new());
            (capacity, rows.len() - 1)
        };
        rows[row].push(piece);
        // A piece has two tokens or more.
        if room - len >= 2 {
            open.insert((room - len, row));
        }
    }
    for row in &mut rows {
        row.sort_unstable();
    }
    rows
}

#[cfg(test)]
mod tests;

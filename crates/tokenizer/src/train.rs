//! Training of a byte-level BPE vocabulary with DeepSeek's pre-tokenizer and control tokens.
//!
//! The merges are learned here and not by the `tokenizers` library for two reasons. Its pair counts are 32-bit, which a
//! corpus of a few gigabytes overflows; and when two merges spell the same entry it keeps two queue entries for one pair,
//! whose order depends on a random hash. On corpora without either it learns the same merges, which a test checks.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use rayon::prelude::*;
use serde_json::json;

use crate::file::{AddedToken, BpeModel, Merge, TokenizerFile, Vocabulary};
use crate::pre_tokenizer::{deepseek_json, split};
use crate::{Role, Tokenizer, TokenizerError, byte_alphabet};

/// How many documents are cut into pieces at once, on all threads. Bounds the memory that pieces take before they are
/// counted.
const BATCH_DOCUMENTS: usize = 1024;

/// What [`train`](fn@train) makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainOptions {
    /// The number of tokens altogether: control tokens, bytes and merges.
    pub vocab_size: usize,
    /// A pair is merged only if it occurs at least so often.
    pub min_frequency: u64,
}

/// A trained tokenizer and the file it was read from.
#[derive(Debug)]
pub struct Trained {
    /// Ready for use.
    pub tokenizer: Tokenizer,
    /// The content of its `tokenizer.json`.
    pub json: Vec<u8>,
}

/// Why no vocabulary could be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Smaller than the tokens that every vocabulary has.
    #[error("a vocabulary of {asked} is too small: the bytes and control tokens alone are {least}")]
    VocabularyTooSmall {
        /// What was asked for.
        asked: usize,
        /// The smallest possible size.
        least: usize,
    },

    /// The documents do not hold enough repeated pairs.
    #[error(
        "the documents yield a vocabulary of {reached} tokens, not {asked}: no further pair occurs {min_frequency} times; \
         give more text or ask for a smaller vocabulary"
    )]
    TooLittleText {
        /// What was asked for.
        asked: usize,
        /// How far the merges went.
        reached: usize,
        /// The least frequency that was asked for.
        min_frequency: u64,
    },

    /// The result was refused by the reader.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Learns a vocabulary of exactly `options.vocab_size` tokens from `documents`.
///
/// Ids are laid out as in DeepSeek-V3 without its place holders: BOS, EOS and padding are 0, 1 and 2; then the 256 bytes,
/// in the order of their characters; then the merges, most frequent first; then the other control tokens in the order of
/// [`Role::ALL`]. Documents are plain text: a control token that stands in one is learned as the characters it is made
/// of. The result is the same for any number of threads and for any order of the documents.
///
/// Documents are read once and not kept; memory holds each different piece of text once.
///
/// # Errors
/// When `vocab_size` is below the 276 tokens that every vocabulary has, or above what the documents yield.
pub fn train<I>(documents: I, options: TrainOptions) -> Result<Trained, TrainError>
where
    I: IntoIterator,
    I::Item: AsRef<str> + Sync,
{
    let (leading, trailing) = Role::ALL.split_at(3);
    let least = leading.len() + 256 + trailing.len();
    if options.vocab_size < least {
        return Err(TrainError::VocabularyTooSmall { asked: options.vocab_size, least });
    }

    // The order of the byte alphabet's characters, which is that of the published vocabulary ("!" is 3).
    let mut alphabet: Vec<(String, u8)> = (0..=255).map(|byte| (byte_alphabet::encode(&[byte]), byte)).collect();
    alphabet.sort();
    let mut entries: Vec<String> = leading.iter().map(|role| role.text().to_owned()).collect();
    let mut id_of_byte = [0; 256];
    for (text, byte) in alphabet {
        id_of_byte[byte as usize] = entries.len() as u32;
        entries.push(text);
    }

    let words = Words::new(count_pieces(documents), &id_of_byte);
    let target = options.vocab_size - trailing.len();
    let merges = learn_merges(words, &mut entries, target, options.min_frequency);
    if entries.len() < target {
        let reached = entries.len() + trailing.len();
        let (asked, min_frequency) = (options.vocab_size, options.min_frequency);
        return Err(TrainError::TooLittleText { asked, reached, min_frequency });
    }

    let added = |(role, id): (&Role, usize)| AddedToken {
        id: id as u32,
        content: role.text().to_owned(),
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: !leading.contains(role),
        special: role.is_skipped(),
    };
    let file = TokenizerFile {
        added_tokens: leading.iter().zip(0..).chain(trailing.iter().zip(entries.len()..)).map(added).collect(),
        normalizer: json!({"type": "Sequence", "normalizers": []}),
        pre_tokenizer: deepseek_json(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: BpeModel {
            kind: "BPE".to_owned(),
            dropout: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            ignore_merges: false,
            merges: merges
                .into_iter()
                .map(|(left, right)| Merge(entries[left as usize].clone(), entries[right as usize].clone()))
                .collect(),
            vocab: Vocabulary(entries.into_iter().zip(0..).collect()),
        },
    };
    let json = file.to_json();
    Ok(Trained { tokenizer: Tokenizer::from_file(file)?, json })
}

/// How often each piece of the pre-tokenizer occurs in the documents.
fn count_pieces<I>(documents: I) -> HashMap<Box<str>, u64>
where
    I: IntoIterator,
    I::Item: AsRef<str> + Sync,
{
    let mut counts: HashMap<Box<str>, u64> = HashMap::new();
    let mut documents = documents.into_iter().peekable();
    while documents.peek().is_some() {
        let batch: Vec<I::Item> = documents.by_ref().take(BATCH_DOCUMENTS).collect();
        let pieces: Vec<HashMap<&str, u64>> = batch
            .par_iter()
            .map(|document| {
                let mut counts = HashMap::new();
                for piece in split(document.as_ref()) {
                    *counts.entry(piece).or_default() += 1;
                }
                counts
            })
            .collect();
        for (piece, count) in pieces.into_iter().flatten() {
            match counts.get_mut(piece) {
                Some(sum) => *sum += count,
                None => {
                    counts.insert(piece.into(), count);
                }
            }
        }
    }
    counts
}

type Pair = (u32, u32);

/// The different pieces as sequences of ids. All ids lie in one array; a merge shortens a piece in its place.
struct Words {
    ids: Vec<u32>,
    /// Where each piece starts, how long it is now, and how often it occurs.
    spans: Vec<(usize, usize, u64)>,
}

impl Words {
    /// A piece of one byte has no pair and is left out.
    fn new(counts: HashMap<Box<str>, u64>, id_of_byte: &[u32; 256]) -> Self {
        let mut pieces: Vec<(Box<str>, u64)> = counts.into_iter().filter(|(piece, _)| piece.len() > 1).collect();
        pieces.sort_unstable();
        let mut words = Self { ids: Vec::new(), spans: Vec::with_capacity(pieces.len()) };
        for (piece, count) in pieces {
            words.spans.push((words.ids.len(), piece.len(), count));
            words.ids.extend(piece.bytes().map(|byte| id_of_byte[byte as usize]));
        }
        words
    }

    fn pairs(&self, word: usize) -> impl Iterator<Item = Pair> {
        let (start, len, _) = self.spans[word];
        self.ids[start..start + len].windows(2).map(|two| (two[0], two[1]))
    }

    /// Replaces every `pair` in `word` by `id`, from the left.
    fn merge(&mut self, word: usize, pair: Pair, id: u32) {
        let (start, len, _) = self.spans[word];
        let ids = &mut self.ids[start..start + len];
        let (mut read, mut write) = (0, 0);
        while read < len {
            let found = read + 1 < len && (ids[read], ids[read + 1]) == pair;
            ids[write] = if found { id } else { ids[read] };
            read += 1 + usize::from(found);
            write += 1;
        }
        self.spans[word].1 = write;
    }
}

/// How often a pair occurs now, and the pieces in which it may: those where it once occurred, some more than once.
#[derive(Default)]
struct PairUse {
    count: u64,
    words: Vec<usize>,
}

impl PairUse {
    fn add(&mut self, word: usize, times: u64) {
        self.count += times;
        if self.words.last() != Some(&word) {
            self.words.push(word);
        }
    }
}

/// Merges the most frequent pair, and of equally frequent ones the one with the smallest ids, until `entries` has
/// `target` of them or no pair occurs `min_frequency` times. Returns the merges in order and leaves their results in
/// `entries`; a merge that spells an entry which exists already leads to that entry.
fn learn_merges(mut words: Words, entries: &mut Vec<String>, target: usize, min_frequency: u64) -> Vec<Pair> {
    let mut id_of: HashMap<String, u32> = entries.iter().cloned().zip(0..).collect();
    let mut uses: HashMap<Pair, PairUse> = HashMap::new();
    for word in 0..words.spans.len() {
        for pair in words.pairs(word) {
            uses.entry(pair).or_default().add(word, words.spans[word].2);
        }
    }
    // A pair with occurrences has an entry here with at least its count; an entry that claims too much is put back with
    // what is true when it comes up.
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
        uses.iter().map(|(&pair, entry)| (entry.count, Reverse(pair))).collect();

    let mut merges = Vec::new();
    while entries.len() < target {
        let Some((claimed, Reverse(pair))) = queue.pop() else { break };
        let count = uses.get(&pair).map_or(0, |entry| entry.count);
        if count < claimed {
            if count > 0 {
                queue.push((count, Reverse(pair)));
            }
            continue;
        }
        if count < min_frequency.max(1) {
            break;
        }

        let text = format!("{}{}", entries[pair.0 as usize], entries[pair.1 as usize]);
        let id = *id_of.entry(text).or_insert_with_key(|text| {
            entries.push(text.clone());
            entries.len() as u32 - 1
        });
        merges.push(pair);

        let mut places = uses.remove(&pair).map(|entry| entry.words).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown: BTreeSet<Pair> = BTreeSet::new();
        for word in places {
            let times = words.spans[word].2;
            for old in words.pairs(word) {
                if let Some(entry) = uses.get_mut(&old) {
                    entry.count -= times;
                }
            }
            words.merge(word, pair, id);
            for new in words.pairs(word) {
                uses.entry(new).or_default().add(word, times);
                if new.0 == id || new.1 == id {
                    grown.insert(new);
                }
            }
        }
        queue.extend(grown.into_iter().map(|pair| (uses[&pair].count, Reverse(pair))));
    }
    merges
}

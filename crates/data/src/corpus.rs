use serde::{Deserialize, Serialize};

use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::read::MAX_DOCUMENT_BYTES;

/// What is tokenised, and how: everything that decides the bytes of the shards, and the weights of the mixture.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The sources, in the order in which they are stored.
    pub sources: Vec<Source>,
    /// The fraction of documents kept for validation, in `[0, 1)`; see [`crate::held_out`].
    pub held_out: f64,
    /// Seed of fill-in-the-middle and of boundary splitting.
    pub seed: u64,
    /// Documents that would have more tokens than this after fill-in-the-middle, EOS included, stay as they are: a row
    /// should hold the whole of it. Usually `seq_len`.
    pub max_fim_tokens: usize,
    /// The probability with which a token of punctuation and line breaks is split in two, in `[0, 1]`; 0 is off.
    pub boundary_split_rate: f64,
    /// A shard is closed after the document that brings it to this many tokens.
    pub shard_tokens: u64,
}

/// A named set of documents.
#[derive(Clone, Debug)]
pub struct Source {
    /// Letters, digits, `-`, `_` and `.`: it becomes part of file names.
    pub name: String,
    /// Files, directories (read recursively, without hidden files) and globs.
    pub paths: Vec<String>,
    /// The share of training tokens; weights need not sum to 1. It is 0 for [`Role::Validation`] alone.
    pub weight: f64,
    /// The key of the text in JSONL.
    pub text_key: String,
    /// How files are cut into documents.
    pub format: Format,
    /// Text files are cut into documents of at most this many bytes, each at the last line end in reach or, where there
    /// is none, between two characters; 0 leaves a file whole. Lines of JSONL are never cut.
    pub cut_bytes: u64,
    /// Whether the spelling of a control token in the text becomes the token: for conversations that were rendered
    /// beforehand, from a source one trusts. Otherwise it is encoded as the characters it is made of.
    pub control_tokens: bool,
    /// The probability with which a training document is rearranged for fill-in-the-middle, in `[0, 1]`.
    pub fim_rate: f64,
    /// Which split the documents go to.
    pub role: Role,
}

/// How files are cut into documents. Whether they are compressed is told by `.gz` and `.zst` in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `.jsonl` and `.ndjson` are read as JSONL, `.json` is refused as ambiguous, everything else is text.
    #[default]
    Auto,
    /// One file is one document.
    Text,
    /// One line is one document.
    Jsonl,
}

/// Which split the documents of a source go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The hash of each document's text decides.
    #[default]
    Split,
    /// All to training.
    Train,
    /// All to validation.
    Validation,
}

impl Source {
    /// A source of weight 1 with the default key, format and role, uncut, without control tokens and fill-in-the-middle.
    pub fn new(name: &str, paths: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
            weight: 1.0,
            text_key: "text".to_owned(),
            format: Format::Auto,
            cut_bytes: 0,
            control_tokens: false,
            fim_rate: 0.0,
            role: Role::Split,
        }
    }
}

impl Corpus {
    /// The sources with 1 % held out, no boundary splitting, and shards of 2²⁷ tokens (512 MiB).
    pub fn new(sources: Vec<Source>, seed: u64, seq_len: usize) -> Self {
        Self { sources, held_out: 0.01, seed, max_fim_tokens: seq_len, boundary_split_rate: 0.0, shard_tokens: 1 << 27 }
    }

    /// The weights of the sources that are trained on, for [`crate::LoaderConfig`].
    pub fn weights(&self) -> Vec<(String, f64)> {
        let trained = self.sources.iter().filter(|source| source.role != Role::Validation);
        trained.map(|source| (source.name.clone(), source.weight)).collect()
    }

    /// Refuses settings that contradict each other or the encoder.
    pub(crate) fn validate(&self, encoder: &dyn Encoder) -> Result<()> {
        let refuse = |key, subject: &str, found: String, expected: &str| {
            Err(Error::Setting { key, subject: subject.to_owned(), found, expected: expected.to_owned() })
        };
        let fraction = |x: f64| (0.0..=1.0).contains(&x);
        let whole = "the corpus";
        if self.sources.is_empty() {
            return refuse("sources", whole, "empty".to_owned(), "at least one source");
        }
        if !(0.0..1.0).contains(&self.held_out) {
            return refuse("held_out", whole, self.held_out.to_string(), "in [0, 1)");
        }
        if !fraction(self.boundary_split_rate) {
            return refuse("boundary_split_rate", whole, self.boundary_split_rate.to_string(), "in [0, 1]");
        }
        if self.shard_tokens == 0 {
            return refuse("shard_tokens", whole, "0".to_owned(), "at least 1");
        }
        // Ids are stored as i32, Megatron's code 4.
        let vocab_size = encoder.vocab_size();
        if vocab_size == 0 || vocab_size > i32::MAX as usize {
            return refuse("vocab_size", "the tokenizer", vocab_size.to_string(), "in 1..2^31");
        }
        if encoder.eos() as usize >= vocab_size {
            return refuse("eos", "the tokenizer", encoder.eos().to_string(), "below vocab_size");
        }
        for (i, source) in self.sources.iter().enumerate() {
            let subject = format!("source {:?}", source.name);
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if source.name.is_empty() || source.name.starts_with('.') || !source.name.chars().all(allowed) {
                let expected = "letters, digits, '-', '_' and '.', not beginning with '.'";
                return refuse("name", &subject, format!("{:?}", source.name), expected);
            }
            // Names become file names, and some file systems do not tell case.
            if self.sources[..i].iter().any(|other| other.name.eq_ignore_ascii_case(&source.name)) {
                return refuse("name", &subject, "there twice".to_owned(), "a different one for each source");
            }
            if source.paths.is_empty() {
                return refuse("paths", &subject, "empty".to_owned(), "at least one file, directory or glob");
            }
            if !fraction(source.fim_rate) {
                return refuse("fim_rate", &subject, source.fim_rate.to_string(), "in [0, 1]");
            }
            if source.cut_bytes > MAX_DOCUMENT_BYTES {
                let expected = format!("at most {MAX_DOCUMENT_BYTES}, the longest document");
                return refuse("cut_bytes", &subject, source.cut_bytes.to_string(), &expected);
            }
            if source.control_tokens && source.fim_rate > 0.0 {
                let expected = "0 beside control_tokens: rearranging would cut control tokens in two";
                return refuse("fim_rate", &subject, source.fim_rate.to_string(), expected);
            }
            let weight = source.weight.to_string();
            match source.role {
                Role::Validation if source.weight != 0.0 => {
                    return refuse("weight", &subject, weight, "0: the source is for validation alone");
                }
                Role::Validation if source.fim_rate > 0.0 => {
                    let found = source.fim_rate.to_string();
                    return refuse("fim_rate", &subject, found, "0: validation documents are never rearranged");
                }
                Role::Split | Role::Train if !(source.weight > 0.0 && source.weight.is_finite()) => {
                    return refuse("weight", &subject, weight, "a positive number");
                }
                _ => {}
            }
            if source.fim_rate > 0.0 && encoder.fim().is_none() {
                let found = source.fim_rate.to_string();
                return refuse("fim_rate", &subject, found, "0: the tokenizer has no fill-in-the-middle tokens");
            }
        }
        Ok(())
    }
}

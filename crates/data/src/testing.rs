//! A tokenizer and small corpora for the tests of this crate.

use std::collections::BTreeMap;
use std::path::Path;

use crate::corpus::{Corpus, Source};
use crate::dataset::Dataset;
use crate::encoder::{Encoder, FimTokens};
use crate::prepare::prepare;

/// Bytes, a few longer tokens chosen greedily, and special ids: 256 EOS, 257 to 259 the sentinels.
pub(crate) struct Bytes {
    pub(crate) hash: &'static str,
}

pub(crate) const EOS: u32 = 256;
pub(crate) const FIM: FimTokens = FimTokens { begin: 257, hole: 258, end: 259 };
/// How the special ids are spelled in trusted text.
const SPELLINGS: [&str; 4] = ["<eos>", "<begin>", "<hole>", "<end>"];
/// Ids from 260 on.
const LONGER: [&str; 7] = ["the ", "!\n", ".\n\n", " )\n", "。\n", "é", "and"];

/// Every byte.
static SINGLE: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut i = 0;
    while i < 256 {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

pub(crate) const ENCODER: Bytes = Bytes { hash: "bytes" };

impl Encoder for Bytes {
    fn encode(&self, text: &str) -> Vec<u32> {
        greedy(text, &(260..).zip(LONGER).collect::<Vec<_>>())
    }

    fn encode_trusted(&self, text: &str) -> Vec<u32> {
        greedy(text, &(256..).zip(SPELLINGS.into_iter().chain(LONGER)).collect::<Vec<_>>())
    }

    fn eos(&self) -> u32 {
        EOS
    }

    fn fim(&self) -> Option<FimTokens> {
        Some(FIM)
    }

    fn hash(&self) -> String {
        self.hash.to_owned()
    }

    fn vocab_size(&self) -> usize {
        260 + LONGER.len()
    }

    fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        match id {
            0..256 => Some(&SINGLE[id as usize..=id as usize]),
            256..260 => None,
            _ => LONGER.get(id as usize - 260).map(|token| token.as_bytes()),
        }
    }

    fn spelling(&self, id: u32) -> Option<&[u8]> {
        SPELLINGS.get((id as usize).checked_sub(256)?).map(|spelling| spelling.as_bytes())
    }

    fn boundary_splits(&self) -> BTreeMap<u32, Vec<u32>> {
        let split = |token: &&str| token.len() - token.trim_end_matches('\n').len();
        let joined = (260..).zip(LONGER).filter(|(_, token)| split(token) > 0);
        joined
            .map(|(id, token)| {
                let (punctuation, breaks) = token.split_at(token.len() - split(&token));
                (id, [self.encode(punctuation), self.encode(breaks)].concat())
            })
            .collect()
    }
}

/// The first of `tokens` that the text begins with, over and over; a single byte where none fits.
fn greedy(text: &str, tokens: &[(u32, &str)]) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let longer = tokens.iter().find(|(_, token)| rest.starts_with(token.as_bytes()));
        let (id, len) = longer.map_or((u32::from(rest[0]), 1), |(id, token)| (*id, token.len()));
        ids.push(id);
        rest = &rest[len..];
    }
    ids
}

/// The text of ids that begin and end anywhere; special ids are left out.
pub(crate) fn decode(ids: &[u32]) -> Vec<u8> {
    ids.iter().filter_map(|&id| ENCODER.token_bytes(id)).flatten().copied().collect()
}

/// A JSONL file `name` of documents of different lengths, below `dir`; returns its path.
pub(crate) fn write_documents(dir: &Path, name: &str, documents: u64) -> String {
    let path = dir.join(format!("{name}.jsonl"));
    let line = |i: u64| {
        let text = format!("{name} {i} says the word!\n").repeat(1 + (i * i % 7) as usize);
        serde_json::json!({ "text": text, "id": i }).to_string() + "\n"
    };
    fs_err::write(&path, (0..documents).map(line).collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Sources of these names, numbers of documents and weights, each from a file of its own, a fifth held out.
pub(crate) fn corpus(dir: &Path, sources: &[(&str, u64, f64)]) -> Corpus {
    let source = |&(name, documents, weight): &(&str, u64, f64)| Source {
        weight,
        ..Source::new(name, &[&write_documents(dir, name, documents)])
    };
    let mut corpus = Corpus::new(sources.iter().map(source).collect(), 7, 64);
    corpus.held_out = 0.2;
    corpus
}

/// The corpus tokenised into `dir/shards`.
pub(crate) fn dataset(dir: &Path, corpus: &Corpus) -> Dataset {
    prepare(&dir.join("shards"), corpus, &ENCODER, &mut |_| ()).unwrap().0
}

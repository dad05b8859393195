//! From a document's text to its token ids: fill-in-the-middle, boundary splitting, EOS, and the check that no byte is
//! lost on the way.

mod boundary;
mod fim;

use std::collections::BTreeMap;

use tensor::Rng;

use crate::corpus::{Corpus, Role, Source};
use crate::encoder::{Encoder, FimTokens};
use crate::error::{Error, Result};
use crate::hash::held_out;
use crate::read::Document;

/// Turns documents into token ids.
pub(crate) struct Tokenization<'a> {
    encoder: &'a dyn Encoder,
    corpus: &'a Corpus,
    eos: u32,
    fim: Option<FimTokens>,
    /// Bytes of text that each id stands for; 0 for special ids.
    byte_lens: Vec<u32>,
    /// Bytes by which each control token is spelled; 0 for all other ids.
    spelling_lens: Vec<u32>,
    /// [`Encoder::boundary_splits`], where they are used.
    splits: BTreeMap<u32, Vec<u32>>,
}

/// A document on its way into a shard.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(crate) held_out: bool,
    /// Whether it was rearranged for fill-in-the-middle.
    pub(crate) fim: bool,
    /// Bytes of text, which the tokens other than control tokens stand for.
    pub(crate) text_bytes: u64,
    /// The document's ids, EOS last.
    pub(crate) ids: Vec<u32>,
}

impl<'a> Tokenization<'a> {
    pub(crate) fn new(encoder: &'a dyn Encoder, corpus: &'a Corpus) -> Self {
        let ids = 0..encoder.vocab_size() as u32;
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u32;
        let splits = if corpus.boundary_split_rate > 0.0 { encoder.boundary_splits() } else { BTreeMap::new() };
        Self {
            encoder,
            corpus,
            eos: encoder.eos(),
            fim: encoder.fim(),
            byte_lens: ids.clone().map(|id| len(encoder.token_bytes(id))).collect(),
            spelling_lens: ids.map(|id| len(encoder.spelling(id))).collect(),
            splits,
        }
    }

    /// Bytes of text that each id stands for.
    pub(crate) fn byte_lens(&self) -> &[u32] {
        &self.byte_lens
    }

    /// The ids of a document of `source`. Only training documents are rearranged and split.
    ///
    /// Control tokens stand for no byte of text, whether they are put there or spelled by a document that may: what the
    /// loss is measured against is what a reader of the conversation would see. The spelling of those that a document
    /// may spell is counted only to check that nothing was lost.
    ///
    /// # Errors
    /// When the encoder gives an id beyond its vocabulary, or ids that do not stand for the document's bytes.
    pub(crate) fn document(&self, document: &Document, source: &Source) -> Result<Tokens> {
        let held_out = match source.role {
            Role::Split => held_out(&document.text, self.corpus.held_out),
            Role::Train => false,
            Role::Validation => true,
        };
        let rearranged = if held_out { None } else { self.rearranged(document, source.fim_rate) };
        let fim = rearranged.is_some();
        let mut ids = match rearranged {
            Some(ids) => ids,
            None if source.control_tokens => self.encoder.encode_trusted(&document.text),
            None => self.encoder.encode(&document.text),
        };
        if !held_out && !self.splits.is_empty() {
            let mut rng = Rng::new(self.corpus.seed, "boundary", document.id);
            ids = boundary::split(&ids, &self.splits, self.corpus.boundary_split_rate, &mut rng);
        }
        let text_bytes = Self::sum(&self.byte_lens, document.id, &ids)?;
        let spelled = if source.control_tokens { Self::sum(&self.spelling_lens, document.id, &ids)? } else { 0 };
        let (expected, token_bytes) = (document.text.len() as u64, text_bytes + spelled);
        if token_bytes != expected {
            return Err(Error::Lossy { document: document.id, text_bytes: expected, token_bytes });
        }
        // A conversation that spells its last EOS needs no other. A shard's shortest document has two tokens.
        if ids.len() < 2 || ids.last() != Some(&self.eos) {
            ids.push(self.eos);
        }
        Ok(Tokens { held_out, fim, text_bytes, ids })
    }

    /// The document rearranged, without EOS; `None` where the draw or the document's length leaves it as it is.
    fn rearranged(&self, document: &Document, rate: f64) -> Option<Vec<u32>> {
        let sentinels = self.fim?;
        let mut rng = Rng::new(self.corpus.seed, "fim", document.id);
        if rng.uniform() >= rate {
            return None;
        }
        let ids = fim::rearrange(self.encoder, sentinels, &document.text, &mut rng)?;
        (ids.len() < self.corpus.max_fim_tokens).then_some(ids)
    }

    /// The sum of `lens`, which has one for each id of the vocabulary, over `ids`.
    fn sum(lens: &[u32], document: u64, ids: &[u32]) -> Result<u64> {
        let vocab_size = lens.len();
        ids.iter().try_fold(0, |sum, &id| match lens.get(id as usize) {
            Some(&len) => Ok(sum + u64::from(len)),
            None => Err(Error::TokenOutOfRange { document, id, vocab_size }),
        })
    }
}

#[cfg(test)]
mod tests;

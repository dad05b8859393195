use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokenizer::{Role, Tokenizer, TokenizerError};

/// What this crate needs to know of a tokenizer.
pub trait Encoder: Sync {
    /// The ids of `text`, alone: nothing is put before or after it, and the spelling of a special token in the text is
    /// encoded as ordinary text.
    fn encode(&self, text: &str) -> Vec<u32>;

    /// The ids of `text`, alone, where the spelling of a control token becomes the token itself.
    fn encode_trusted(&self, text: &str) -> Vec<u32>;

    /// The id that ends every document.
    fn eos(&self) -> u32;

    /// The sentinels of fill-in-the-middle, if the vocabulary has them.
    fn fim(&self) -> Option<FimTokens>;

    /// A fingerprint that changes whenever some text may be encoded differently.
    fn hash(&self) -> String;

    /// All ids are below it.
    fn vocab_size(&self) -> usize;

    /// The bytes of text that `id` stands for; `None` for special and unused ids.
    fn token_bytes(&self, id: u32) -> Option<&[u8]>;

    /// The bytes that [`encode_trusted`](Self::encode_trusted) takes for `id`; `None` for ids that are no control tokens.
    fn spelling(&self, id: u32) -> Option<&[u8]>;

    /// The ids that join punctuation with the line breaks after it, each with the ids of the punctuation and of the line
    /// breaks, one after the other.
    fn boundary_splits(&self) -> BTreeMap<u32, Vec<u32>>;
}

/// The sentinels of fill-in-the-middle under the names of DeepSeek's vocabulary, where `hole` stands between prefix and
/// suffix, and `end` before the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FimTokens {
    /// Before the prefix.
    pub begin: u32,
    /// Between prefix and suffix.
    pub hole: u32,
    /// Between suffix and middle.
    pub end: u32,
}

/// A [`Tokenizer`] as it is used on documents.
pub struct TokenizerEncoder<'t> {
    tokenizer: &'t Tokenizer,
    eos: u32,
    /// Whether an id is an added token, by id: it stands for no text of a document.
    added: Vec<bool>,
}

impl<'t> TokenizerEncoder<'t> {
    /// # Errors
    /// When the vocabulary has no EOS.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self, TokenizerError> {
        let mut added = vec![false; tokenizer.vocab_size()];
        for (_, id) in tokenizer.added_tokens() {
            added[id as usize] = true;
        }
        Ok(Self { tokenizer, eos: tokenizer.require(Role::Eos)?, added })
    }
}

impl Encoder for TokenizerEncoder<'_> {
    fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_untrusted(text)
    }

    fn encode_trusted(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text)
    }

    fn eos(&self) -> u32 {
        self.eos
    }

    fn fim(&self) -> Option<FimTokens> {
        let special = self.tokenizer.special_tokens();
        Some(FimTokens { begin: special.fim_begin?, hole: special.fim_hole?, end: special.fim_end? })
    }

    fn hash(&self) -> String {
        self.tokenizer.hash().to_owned()
    }

    fn vocab_size(&self) -> usize {
        self.added.len()
    }

    fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        if self.added[id as usize] { None } else { self.tokenizer.token_bytes(id) }
    }

    fn spelling(&self, id: u32) -> Option<&[u8]> {
        if self.added[id as usize] { self.tokenizer.token_bytes(id) } else { None }
    }

    fn boundary_splits(&self) -> BTreeMap<u32, Vec<u32>> {
        let merged = self.tokenizer.merged_punctuation_newline_tokens();
        merged.into_iter().map(|merged| (merged.id, [merged.punctuation, merged.line_breaks].concat())).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokenizer::{TrainOptions, train};

    use super::*;
    use crate::corpus::Source;
    use crate::dataset::Split;
    use crate::{Corpus, Validation, prepare};

    #[test]
    fn a_trained_tokenizer_makes_a_corpus() {
        let texts: Vec<String> = (0..200)
            .map(|i| format!("Document {i} ends here.\nThis <｜end▁of▁sentence｜> is no end, é 深い!\n{{{i}}};\n"))
            .collect();
        let options = TrainOptions { vocab_size: 400, min_frequency: 2 };
        let tokenizer = train(&texts, options).unwrap().tokenizer;
        let encoder = TokenizerEncoder::new(&tokenizer).unwrap();
        assert!(!encoder.boundary_splits().is_empty());

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let lines: Vec<_> = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
        fs_err::write(&path, lines.concat()).unwrap();
        let source = Source { fim_rate: 0.5, ..Source::new("a", &[path.to_str().unwrap()]) };
        let mut corpus = Corpus::new(vec![source], 1, 100);
        corpus.held_out = 0.2;
        corpus.boundary_split_rate = 0.5;
        let (dataset, _) = prepare(&dir.path().join("shards"), &corpus, &encoder, &mut |_| ()).unwrap();

        let (_, train) = dataset.sources(Split::Train).next().unwrap();
        assert!(train.fim_documents > 20);
        let held_out: u64 = texts.iter().filter(|text| crate::held_out(text, 0.2)).map(|text| text.len() as u64).sum();
        let validation = Validation::open(&dataset, 64, None).unwrap();
        assert_eq!(validation.batches(4).map(|found| found.unwrap().text_bytes).sum::<u64>(), held_out);
        // One EOS for each document, although each spells one out.
        let mut tokens = vec![0; train.tokens as usize];
        dataset.stream(train).unwrap().read(0, &mut tokens).unwrap();
        assert_eq!(tokens.iter().filter(|&&id| id == encoder.eos()).count() as u64, train.documents);
    }

    #[test]
    fn rendered_conversations_keep_their_control_tokens() {
        let texts = ["Hello there, how are you today?\n", "I am well, and how are you?\n"];
        let tokenizer = train(texts, TrainOptions { vocab_size: 280, min_frequency: 2 }).unwrap().tokenizer;
        let encoder = TokenizerEncoder::new(&tokenizer).unwrap();
        let conversation = format!("<｜User｜>{}<｜Assistant｜>{}<｜end▁of▁sentence｜>", texts[0], texts[1]);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs_err::write(&path, &conversation).unwrap();
        let source =
            Source { weight: 0.0, role: crate::Role::Validation, ..Source::new("a", &[path.to_str().unwrap()]) };
        let stored = |control_tokens| {
            let corpus = Corpus::new(vec![Source { control_tokens, ..source.clone() }], 1, 100);
            let (dataset, _) = prepare(&dir.path().join("shards"), &corpus, &encoder, &mut |_| ()).unwrap();
            let validation = Validation::open(&dataset, 200, None).unwrap();
            let batch = validation.batches(1).next().unwrap().unwrap();
            let (_, stored) = dataset.sources(Split::Validation).next().unwrap();
            assert_eq!(batch.text_bytes, stored.text_bytes);
            (batch.batch.labels[..stored.tokens as usize].to_vec(), batch.text_bytes)
        };
        let special = |role| tokenizer.require(role).unwrap();
        let (labels, text_bytes) = stored(true);
        let expected = [
            vec![special(Role::User)],
            encoder.encode(texts[0]),
            vec![special(Role::Assistant)],
            encoder.encode(texts[1]),
            vec![encoder.eos()],
        ];
        assert_eq!((labels, text_bytes), (expected.concat(), texts.concat().len() as u64));
        let (labels, text_bytes) = stored(false);
        assert_eq!(labels, [encoder.encode(&conversation), vec![encoder.eos()]].concat());
        assert_eq!(text_bytes, conversation.len() as u64);
    }
}

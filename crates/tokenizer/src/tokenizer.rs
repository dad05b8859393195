use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedVocabulary, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use crate::file::{Merge, TokenizerFile};
use crate::{DecodeStream, Role, SpecialTokens, TokenizerError};

/// A byte-level BPE vocabulary with its pre-tokenizer and added tokens.
///
/// The vocabulary holds all 256 bytes, so every text can be encoded and nothing is ever unknown; and no ordinary text can
/// produce an added token except by spelling it out to [`encode`](Self::encode).
pub struct Tokenizer {
    bpe: BPE,
    splits: PreTokenizerWrapper,
    added: AddedVocabulary,
    /// The bytes of every token, by id.
    tokens: Vec<Vec<u8>>,
    added_ids: BTreeMap<String, u32>,
    /// Whether `skip_special` drops the token, by id.
    special: Vec<bool>,
    roles: SpecialTokens,
    hash: String,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or the one in a model directory.
    ///
    /// # Errors
    /// When there is no such file, or it is not a byte-level BPE that is consistent in itself; the error says which entry
    /// is wrong and how.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        if path.is_dir() && !file.exists() {
            return Err(TokenizerError::Missing(path.to_owned()));
        }
        let bytes = fs_err::read(&file)?;
        Self::from_bytes(&bytes).map_err(|source| TokenizerError::File { path: file, source: Box::new(source) })
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::from_file(TokenizerFile::parse(bytes)?)
    }

    pub(crate) fn from_file(mut file: TokenizerFile) -> Result<Self, TokenizerError> {
        let tokens = file.check()?;
        let hash = file.hash();
        let library = |error: tokenizers::Error| TokenizerError::Library(error.to_string());

        let splits: PreTokenizerWrapper = serde_json::from_value(file.pre_tokenizer)?;
        let vocab: Vocab = file.model.vocab.0.into_iter().collect();
        let merges = file.model.merges.into_iter().map(|Merge(left, right)| (left, right)).collect();
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).build().map_err(library)?;

        // The library numbers added tokens in the order in which it is given them; after `check` that is their order by
        // id.
        file.added_tokens.sort_by_key(|token| token.id);
        let mut added = AddedVocabulary::new();
        let list = file.added_tokens.iter().map(|token| {
            tokenizers::AddedToken::from(token.content.clone(), token.special).normalized(token.normalized)
        });
        added.add_tokens(list, &bpe, None::<&NormalizerWrapper>).map_err(library)?;

        let added_ids: BTreeMap<String, u32> =
            file.added_tokens.iter().map(|token| (token.content.clone(), token.id)).collect();
        for (content, id) in &added_ids {
            assert_eq!(added.get_vocab().get(content), Some(id), "the library renumbered the added token {content:?}");
        }
        let mut special = vec![false; tokens.len()];
        for token in &file.added_tokens {
            special[token.id as usize] = token.special;
        }
        let roles = SpecialTokens::find(|text| added_ids.get(text).copied());
        Ok(Self { bpe, splits, added, tokens, added_ids, special, roles, hash })
    }

    /// The ids of trusted text: the text of an added token becomes that token. No BOS is added.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_pieces(self.added.extract_and_normalize(None::<&NormalizerWrapper>, text))
    }

    /// [`encode`](Self::encode) after one BOS, as for a plain completion. A chat template prints its own BOS.
    ///
    /// # Errors
    /// When the vocabulary has no BOS.
    pub fn encode_with_bos(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = vec![self.require(Role::Bos)?];
        ids.extend(self.encode(text));
        Ok(ids)
    }

    /// The ids of text from outside, in which added tokens are ordinary characters: the result holds none of them, and
    /// decodes to `text`.
    pub fn encode_untrusted(&self, text: &str) -> Vec<u32> {
        self.encode_pieces(PreTokenizedString::from(text))
    }

    /// [`encode`](Self::encode) of each text, on all threads; the results stand in the order of the texts.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Vec<Vec<u32>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// [`encode_untrusted`](Self::encode_untrusted) of each text, on all threads, in order.
    pub fn encode_untrusted_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Vec<Vec<u32>> {
        texts.par_iter().map(|text| self.encode_untrusted(text.as_ref())).collect()
    }

    /// The text of `ids`: the tokens' bytes one after the other, read as UTF-8.
    ///
    /// What is not UTF-8 becomes U+FFFD, and so does an id that has no token (the embedding table is padded beyond the
    /// vocabulary). With `skip_special`, tokens marked special (BOS, EOS, padding, EOT, place holders) contribute nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = DecodeStream::new(self, skip_special);
        let mut text = String::new();
        for &id in ids {
            text.extend(stream.push(id));
        }
        text.extend(stream.finish());
        text
    }

    /// The bytes of a token; of an added token, its text. `None` for an id that has no token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(id as usize).map(Vec::as_slice)
    }

    /// The highest id plus one. A model's `vocab_size` may be larger: its table is padded.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The control tokens, by role.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.roles
    }

    /// The id of a control token that the caller cannot do without.
    ///
    /// # Errors
    /// When the vocabulary does not have it.
    pub fn require(&self, role: Role) -> Result<u32, TokenizerError> {
        self.added_token_id(role.text()).ok_or(TokenizerError::NoSuchToken(role.text()))
    }

    /// The id of the added token with this text.
    pub fn added_token_id(&self, text: &str) -> Option<u32> {
        self.added_ids.get(text).copied()
    }

    /// The added tokens, as text and id, in the order of their texts.
    pub fn added_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.added_ids.iter().map(|(text, &id)| (text.as_str(), id))
    }

    /// Whether `skip_special` drops the token. `<｜User｜>`, `<think>` and the tool tokens are not special.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// SHA-256 in hexadecimal digits of everything that decides ids and text, for the manifests of tokenised data. The
    /// layout of the file (white space, order of keys, form of merges) does not change it.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Cuts `text` at the added tokens in it.
    pub(crate) fn split_added<'t>(&self, text: &'t str) -> Vec<Added<'t>> {
        self.added
            .extract_and_normalize(None::<&NormalizerWrapper>, text)
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), tokens)| match tokens.as_deref() {
                Some([token]) => Added::Token(token.id, &text[start..end]),
                _ => Added::Text(&text[start..end]),
            })
            .collect()
    }

    fn encode_pieces(&self, mut pieces: PreTokenizedString) -> Vec<u32> {
        self.splits.pre_tokenize(&mut pieces).expect("splitting and mapping bytes does not fail");
        pieces
            .tokenize(|piece| self.bpe.tokenize(piece.get()))
            .and_then(|()| pieces.into_encoding(None, 0, OffsetType::None))
            .expect("every byte is in the vocabulary")
            .get_ids()
            .to_vec()
    }
}

/// A part of a text that was cut at its added tokens.
pub(crate) enum Added<'t> {
    /// An added token: its id and its text.
    Token(u32, &'t str),
    /// What stands between two of them.
    Text(&'t str),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

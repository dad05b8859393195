//! `tokenizer.json` as this crate reads, checks, hashes and writes it.
//!
//! The file is checked here, once and completely, before the `tokenizers` library sees any of it: the library panics on
//! some damaged files and repairs others in silence (it renumbers added tokens and keeps the last of two equal entries).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::TokenizerError;
use crate::byte_alphabet;

/// The parts of a `tokenizer.json` that decide ids and text. The others are not read: `truncation` and `padding`, which
/// some writers add, are the business of whoever makes batches, and `post_processor` adds tokens only on request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TokenizerFile {
    #[serde(default)]
    pub(crate) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(crate) normalizer: Value,
    #[serde(default)]
    pub(crate) pre_tokenizer: Value,
    #[serde(default)]
    pub(crate) decoder: Value,
    pub(crate) model: BpeModel,
}

/// A token that is cut out of the text before anything else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) single_word: bool,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
    #[serde(default)]
    pub(crate) normalized: bool,
    #[serde(default)]
    pub(crate) special: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BpeModel {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) dropout: Option<f64>,
    #[serde(default)]
    pub(crate) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(crate) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(crate) ignore_merges: bool,
    pub(crate) vocab: Vocabulary,
    pub(crate) merges: Vec<Merge>,
}

/// The entries in the order of the file, so that a repeated one can be seen.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary(pub(crate) Vec<(String, u32)>);

/// A pair of entries that become one. Read from `"a b"` or `["a", "b"]`, written as the latter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Merge(pub(crate) String, pub(crate) String);

impl TokenizerFile {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Checks everything and returns the bytes of every token, by id: ordinary entries first, then the added tokens that
    /// are not among them. An added token's bytes are its text.
    pub(crate) fn check(&self) -> Result<Vec<Vec<u8>>, TokenizerError> {
        self.check_settings()?;
        let ids = self.check_vocabulary()?;
        self.check_added_tokens(&ids)?;
        self.check_merges(&ids)?;

        let added: BTreeMap<u32, &str> = self.added_tokens.iter().map(|t| (t.id, t.content.as_str())).collect();
        let mut tokens = vec![Vec::new(); self.model.vocab.0.len()];
        for (token, id) in &self.model.vocab.0 {
            if !added.contains_key(id) {
                tokens[*id as usize] = byte_alphabet::decode(token)
                    .ok_or_else(|| TokenizerError::NotByteLevel { token: token.clone(), id: *id })?;
            }
        }
        for (id, content) in added {
            let bytes = content.as_bytes().to_vec();
            match tokens.get_mut(id as usize) {
                Some(slot) => *slot = bytes,
                None => tokens.push(bytes),
            }
        }
        Ok(tokens)
    }

    fn check_settings(&self) -> Result<(), TokenizerError> {
        let refuse = |field, found: &Value, expected| {
            Err(TokenizerError::Unsupported { field, found: found.to_string(), expected })
        };
        let model = &self.model;
        if model.kind != "BPE" {
            return refuse("model.type", &json!(model.kind), "\"BPE\"");
        }
        if model.dropout.is_some_and(|p| p != 0.0) {
            return refuse("model.dropout", &json!(model.dropout), "null or 0");
        }
        if model.ignore_merges {
            return refuse("model.ignore_merges", &json!(true), "false");
        }
        for (field, value) in [
            ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
            ("model.end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            if value.as_deref().is_some_and(|affix| !affix.is_empty()) {
                return refuse(field, &json!(value), "null");
            }
        }
        let nothing = self.normalizer.is_null() || self.normalizer["normalizers"].as_array().is_some_and(Vec::is_empty);
        if !nothing {
            return refuse("normalizer", &self.normalizer, "null or an empty sequence");
        }
        let last_step = match self.pre_tokenizer["pretokenizers"].as_array() {
            Some(steps) => steps.last().unwrap_or(&Value::Null),
            None => &self.pre_tokenizer,
        };
        if last_step["type"] != "ByteLevel" || last_step["add_prefix_space"] != false {
            return refuse(
                "the last step of pre_tokenizer",
                last_step,
                "type \"ByteLevel\" with add_prefix_space false",
            );
        }
        if self.decoder["type"] != "ByteLevel" {
            return refuse("decoder", &self.decoder, "type \"ByteLevel\"");
        }
        Ok(())
    }

    fn check_vocabulary(&self) -> Result<HashMap<&str, u32>, TokenizerError> {
        let entries = &self.model.vocab.0;
        if entries.is_empty() {
            return Err(TokenizerError::EmptyVocabulary);
        }
        let mut ids = HashMap::with_capacity(entries.len());
        let mut holder = vec![None; entries.len()];
        for (token, id) in entries {
            if ids.insert(token.as_str(), *id).is_some() {
                return Err(TokenizerError::DuplicateEntry(token.clone()));
            }
            let Some(slot) = holder.get_mut(*id as usize) else {
                return Err(TokenizerError::IdOutOfRange { token: token.clone(), id: *id, count: entries.len() });
            };
            if let Some(first) = slot.replace(token) {
                return Err(TokenizerError::DuplicateId { id: *id, first: first.clone(), second: token.clone() });
            }
        }
        match (0..=255).find(|&byte| !ids.contains_key(byte_alphabet::encode(&[byte]).as_str())) {
            Some(byte) => Err(TokenizerError::MissingByte(byte)),
            None => Ok(ids),
        }
    }

    fn check_added_tokens(&self, ids: &HashMap<&str, u32>) -> Result<(), TokenizerError> {
        let mut by_id: BTreeMap<u32, &str> = BTreeMap::new();
        let mut contents = HashSet::new();
        for token in &self.added_tokens {
            for (field, set) in [
                ("added_tokens[].single_word", token.single_word),
                ("added_tokens[].lstrip", token.lstrip),
                ("added_tokens[].rstrip", token.rstrip),
                ("added_tokens[].content of no length", token.content.is_empty()),
            ] {
                if set {
                    let found = format!("true ({:?})", token.content);
                    return Err(TokenizerError::Unsupported { field, found, expected: "false for every added token" });
                }
            }
            if !contents.insert(token.content.as_str()) {
                return Err(TokenizerError::DuplicateEntry(token.content.clone()));
            }
            if let Some(first) = by_id.insert(token.id, &token.content) {
                let (first, second) = (first.to_owned(), token.content.clone());
                return Err(TokenizerError::DuplicateId { id: token.id, first, second });
            }
        }

        let entries = &self.model.vocab.0;
        let count = entries.len() + by_id.values().filter(|content| !ids.contains_key(*content)).count();
        for (&id, &content) in &by_id {
            match ids.get(content) {
                Some(&known) if known == id => {}
                Some(_) => return Err(TokenizerError::DuplicateEntry(content.to_owned())),
                // An id inside the vocabulary belongs to the entry that has it there.
                None if (id as usize) < entries.len() => {
                    let holder = entries.iter().find(|(_, other)| *other == id);
                    let first = holder.map(|(token, _)| token.clone()).unwrap_or_default();
                    return Err(TokenizerError::DuplicateId { id, first, second: content.to_owned() });
                }
                // As no two are equal, the others fill the range if none exceeds it.
                None if id as usize >= count => {
                    return Err(TokenizerError::IdOutOfRange { token: content.to_owned(), id, count });
                }
                None => {}
            }
        }
        Ok(())
    }

    fn check_merges(&self, ids: &HashMap<&str, u32>) -> Result<(), TokenizerError> {
        let mut seen = HashSet::with_capacity(self.model.merges.len());
        let mut produced: HashSet<u32> = (0..=255).map(|byte| ids[byte_alphabet::encode(&[byte]).as_str()]).collect();
        for (rank, merge) in self.model.merges.iter().enumerate() {
            let Merge(left, right) = merge;
            let whole = format!("{left}{right}");
            for part in [left, right, &whole] {
                if !ids.contains_key(part.as_str()) {
                    let (left, right, missing) = (left.clone(), right.clone(), part.clone());
                    return Err(TokenizerError::MergeOutOfVocabulary { rank, left, right, missing });
                }
            }
            produced.insert(ids[whole.as_str()]);
            if !seen.insert(merge) {
                return Err(TokenizerError::DuplicateMerge { rank, left: left.clone(), right: right.clone() });
            }
        }
        match self.added_tokens.iter().find(|token| produced.contains(&token.id)) {
            Some(token) => Err(TokenizerError::ReachableAddedToken { token: token.content.clone(), id: token.id }),
            None => Ok(()),
        }
    }

    /// SHA-256, as 64 hexadecimal digits, of a canonical form of all that decides ids and text: white space, the order of
    /// keys and the way merges are written do not change it.
    pub(crate) fn hash(&self) -> String {
        let mut added = self.added_tokens.clone();
        added.sort_by_key(|token| token.id);
        let mut entries = self.model.vocab.0.clone();
        entries.sort_by_key(|(_, id)| *id);
        let canonical = (
            added.iter().map(|t| (t.id, &t.content, t.special)).collect::<Vec<_>>(),
            sorted(&self.pre_tokenizer),
            entries,
            &self.model.merges,
        );
        let bytes = serde_json::to_vec(&canonical).expect("numbers and strings can be written as JSON");
        Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// The complete file: what is kept here and the fields that other readers expect.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        let model = json!({
            "type": self.model.kind,
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": self.model.vocab,
            "merges": self.model.merges,
        });
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens,
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": byte_level,
            "decoder": self.decoder,
            "model": model,
        });
        let mut bytes = serde_json::to_vec_pretty(&file).expect("numbers and strings can be written as JSON");
        bytes.push(b'\n');
        bytes
    }
}

/// `value` with the keys of every object in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
            ordered.into_iter().map(|(key, value)| (key.clone(), value)).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

impl Serialize for Vocabulary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, id) in &self.0 {
            map.serialize_entry(token, id)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a map from token to id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Vocabulary(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Serialize for Merge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.0, &self.1).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Joined(String),
            Pair(String, String),
        }
        match Written::deserialize(deserializer)? {
            Written::Pair(left, right) => Ok(Self(left, right)),
            Written::Joined(text) => match text.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => Ok(Self(left.to_owned(), right.to_owned())),
                _ => {
                    Err(de::Error::custom(format_args!("the merge {text:?} is not two entries with one space between")))
                }
            },
        }
    }
}

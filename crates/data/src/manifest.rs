use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::corpus::{Corpus, Format, Role};
use crate::encoder::{Encoder, FimTokens};
use crate::error::{Error, Result};
use crate::hash::fingerprint;
use crate::read::{InputFile, content_hash};
use crate::shard::{ShardEntry, write_durably};

const FILE_NAME: &str = "manifest.json";
const VERSION: u32 = 1;

/// A file changed within this time of being read may still carry the date it had then; such a file is hashed again.
const DATE_RESOLUTION_NS: u64 = 2_000_000_000;

/// `manifest.json`: what a corpus directory holds and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// Fingerprint of `content`, and the name of the folder with the shards. Equal text, settings and tokenizer give the
    /// same on every machine.
    pub hash: String,
    /// What decides a run's batches.
    pub content: Content,
    /// The dates of the files of each source, by which they are recognised without being read.
    stamps: Vec<Vec<Stamp>>,
}

/// What decides a run's batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The settings.
    pub definition: Definition,
    /// What came of each source, in the definition's order.
    pub sources: Vec<StoredSource>,
    /// CRC32C of `token_bytes.bin`, the u32 number of bytes of text that each id stands for.
    pub token_bytes_crc: u32,
}

/// The settings that decide the bytes of the shards. Settings without effect are left at zero, so that changing them does
/// not mean tokenising again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// [`Encoder::hash`].
    pub tokenizer_hash: String,
    /// Ids are below it.
    pub vocab_size: u32,
    /// Ends every document.
    pub eos: u32,
    /// Sentinels, where some source has a `fim_rate`.
    pub fim: Option<FimTokens>,
    /// [`Corpus::seed`], where something is drawn.
    pub seed: u64,
    /// [`Corpus::held_out`].
    pub held_out: f64,
    /// [`Corpus::max_fim_tokens`], where some source has a `fim_rate`.
    pub max_fim_tokens: u64,
    /// [`Corpus::boundary_split_rate`].
    pub boundary_split_rate: f64,
    /// [`Corpus::shard_tokens`].
    pub shard_tokens: u64,
    /// The sources in order.
    pub sources: Vec<SourceDefinition>,
}

/// The settings of a source that decide the bytes of its shards; its weight does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceDefinition {
    /// Its name.
    pub name: String,
    /// The key of the text in JSONL.
    pub text_key: String,
    /// How files are cut into documents.
    pub format: Format,
    /// The longest document cut from a text file, in bytes; 0 for whole files.
    pub cut_bytes: u64,
    /// Whether control tokens are spelled in the text.
    pub control_tokens: bool,
    /// Which split the documents go to.
    pub role: Role,
    /// The rate of fill-in-the-middle.
    pub fim_rate: f64,
}

/// A source as it was read and stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSource {
    /// The files in the order in which they were read.
    pub files: Vec<StoredFile>,
    /// Documents to train on.
    pub train: StoredSplit,
    /// Held-out documents.
    pub validation: StoredSplit,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Which of the source's paths led to it.
    pub path_index: u64,
    /// Its name relative to that path.
    pub name: String,
    /// Its size as stored.
    pub bytes: u64,
    /// Hash of its bytes as stored.
    pub hash: String,
}

/// The documents of one source and split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSplit {
    /// Documents.
    pub documents: u64,
    /// How many of them were rearranged for fill-in-the-middle.
    pub fim_documents: u64,
    /// Tokens, EOS of each document included.
    pub tokens: u64,
    /// UTF-8 bytes of their text; the spelling of control tokens that were taken as such does not count.
    pub text_bytes: u64,
    /// The files, in order.
    pub shards: Vec<ShardEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    /// The file's date.
    pub(crate) modified_ns: u64,
    /// When the content hash was known to be that of the file, at the latest.
    pub(crate) checked_ns: u64,
}

impl Definition {
    pub(crate) fn new(corpus: &Corpus, encoder: &dyn Encoder) -> Self {
        let with_fim = corpus.sources.iter().any(|source| source.fim_rate > 0.0);
        let draws = with_fim || corpus.boundary_split_rate > 0.0;
        let source = |source: &crate::corpus::Source| SourceDefinition {
            name: source.name.clone(),
            text_key: source.text_key.clone(),
            format: source.format,
            cut_bytes: source.cut_bytes,
            control_tokens: source.control_tokens,
            role: source.role,
            fim_rate: source.fim_rate,
        };
        Self {
            tokenizer_hash: encoder.hash(),
            vocab_size: encoder.vocab_size() as u32,
            eos: encoder.eos(),
            fim: encoder.fim().filter(|_| with_fim),
            seed: if draws { corpus.seed } else { 0 },
            held_out: corpus.held_out,
            max_fim_tokens: if with_fim { corpus.max_fim_tokens as u64 } else { 0 },
            boundary_split_rate: corpus.boundary_split_rate,
            shard_tokens: corpus.shard_tokens,
            sources: corpus.sources.iter().map(source).collect(),
        }
    }
}

impl Manifest {
    pub(crate) fn new(content: Content, stamps: Vec<Vec<Stamp>>) -> Self {
        Self { version: VERSION, hash: hash_of(&content), content, stamps }
    }

    /// The manifest of `dir`; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read, is of another version, or is damaged.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|error| Error::Manifest { path: path.clone(), error })?;
        let expect = |what: &str, expected: String, found: String| {
            if expected == found {
                Ok(())
            } else {
                Err(Error::Damaged { path: path.clone(), what: what.to_owned(), expected, found })
            }
        };
        expect("the version", VERSION.to_string(), manifest.version.to_string())?;
        // The hash covers the counts too, so that beyond this point they are what was written.
        expect("the hash of its content", manifest.hash.clone(), hash_of(&manifest.content))?;
        let files = manifest.content.sources.iter().map(|source| source.files.len());
        let stamps = manifest.stamps.iter().map(Vec::len);
        let count = |lens: &[usize]| format!("{lens:?}");
        expect("the number of dates", count(&files.collect::<Vec<_>>()), count(&stamps.collect::<Vec<_>>()))?;
        Ok(Some(manifest))
    }

    /// Puts the manifest in place of the one in `dir`: at any moment there is either the old one or the new one.
    pub(crate) fn store(&self, dir: &Path) -> Result<()> {
        let new = dir.join("manifest.json.new");
        let mut json = serde_json::to_vec_pretty(self).expect("a manifest is JSON");
        json.push(b'\n');
        write_durably(&new, &json)?;
        fs_err::rename(new, dir.join(FILE_NAME))?;
        Ok(())
    }

    /// How this manifest differs from what `definition` and the files on disk would give; nothing means it may be used.
    /// Dates of files that had to be hashed are brought up to date, with `now_ns` as the time of the check; the second
    /// result tells whether there were any.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn differences(
        &mut self,
        definition: &Definition,
        files: &[Vec<InputFile>],
        now_ns: u64,
    ) -> Result<(Vec<String>, bool)> {
        let mut differences = settings_differ(&self.content.definition, definition);
        let mut rehashed = false;
        let names = |definition: &Definition| -> Vec<String> {
            definition.sources.iter().map(|source| source.name.clone()).collect()
        };
        if names(&self.content.definition) != names(definition) {
            return Ok((differences, rehashed));
        }
        let stored = self.content.sources.iter().zip(&mut self.stamps);
        for ((found, (stored, stamps)), source) in files.iter().zip(stored).zip(&definition.sources) {
            let key = |path_index, name: &str| (path_index, name.to_owned());
            let old: Vec<_> = stored.files.iter().map(|file| key(file.path_index, &file.name)).collect();
            let new: Vec<_> = found.iter().map(|file| key(file.path_index, &file.name)).collect();
            if old != new {
                differences.push(files_differ(&source.name, &old, &new));
                continue;
            }
            for ((file, stored), stamp) in found.iter().zip(&stored.files).zip(stamps) {
                let trusted = stamp.modified_ns == file.modified_ns
                    && file.modified_ns != 0
                    && file.modified_ns + DATE_RESOLUTION_NS < stamp.checked_ns;
                if file.bytes == stored.bytes && trusted {
                    continue;
                }
                if file.bytes == stored.bytes && content_hash(&file.path)? == stored.hash {
                    *stamp = Stamp { modified_ns: file.modified_ns, checked_ns: now_ns };
                    rehashed = true;
                    continue;
                }
                differences.push(format!("{} of source {:?} has changed", file.path.display(), source.name));
            }
        }
        Ok((differences, rehashed))
    }
}

fn hash_of(content: &Content) -> String {
    fingerprint(&serde_json::to_vec(content).expect("a manifest is JSON"))
}

/// Every setting is compared, whichever there are, because both sides are taken as JSON.
fn settings_differ(old: &Definition, new: &Definition) -> Vec<String> {
    let json = |definition: &Definition| serde_json::to_value(definition).expect("a definition is JSON");
    let (mut old, mut new) = (json(old), json(new));
    let (old_sources, new_sources) = (old["sources"].take(), new["sources"].take());
    let mut differences = objects_differ("", &old, &new);
    let names = |sources: &Value| -> Vec<String> {
        sources.as_array().into_iter().flatten().map(|source| source["name"].to_string()).collect()
    };
    let (old_names, new_names) = (names(&old_sources), names(&new_sources));
    if old_names == new_names {
        let pairs = old_sources.as_array().into_iter().flatten().zip(new_sources.as_array().into_iter().flatten());
        for (old, new) in pairs {
            differences.extend(objects_differ(&format!(" of source {}", new["name"]), old, new));
        }
    } else {
        differences.push(format!("the sources were [{}], are [{}]", old_names.join(", "), new_names.join(", ")));
    }
    differences
}

fn objects_differ(of: &str, old: &Value, new: &Value) -> Vec<String> {
    let fields = old.as_object().into_iter().flatten();
    let differing = fields.filter(|(key, value)| new[key.as_str()] != **value);
    let mut differences: Vec<_> =
        differing.map(|(key, value)| format!("{key}{of} was {value}, is {}", new[key.as_str()])).collect();
    differences.sort();
    differences
}

fn files_differ(source: &str, old: &[(u64, String)], new: &[(u64, String)]) -> String {
    let without = |all: &[(u64, String)], others: &[(u64, String)]| -> Vec<String> {
        let others: std::collections::BTreeSet<_> = others.iter().collect();
        all.iter().filter(|file| !others.contains(file)).map(|(_, name)| name.clone()).collect()
    };
    let named = |verb: &str, names: Vec<String>| {
        let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        match names.len() {
            0 => None,
            1..=3 => Some(format!("{shown} {verb}")),
            n => Some(format!("{shown} and {} more {verb}", n - 3)),
        }
    };
    let changes = [named("gone", without(old, new)), named("new", without(new, old))];
    let changes: Vec<_> = changes.into_iter().flatten().collect();
    let changes = if changes.is_empty() { "their order".to_owned() } else { changes.join(", ") };
    format!("the files of source {source:?} have changed: {changes}")
}

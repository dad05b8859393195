use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use crate::corpus::{Corpus, Role, Source};
use crate::dataset::{self, Dataset};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::manifest::{Content, Definition, Manifest, Stamp, StoredFile, StoredSource, StoredSplit};
use crate::read::{self, Document, Documents, InputFile};
use crate::shard::{ShardWriter, crc_of, write_durably};
use crate::tokenize::Tokenization;

/// Documents are tokenised in groups of at most this many, or of this many bytes.
const GROUP_DOCUMENTS: usize = 4096;
const GROUP_BYTES: usize = 8 << 20;

/// How a directory came to hold the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// It did already: same settings, tokenizer and files.
    Reused,
    /// It was empty.
    Built,
    /// It held another one, which has been replaced.
    Rebuilt {
        /// Each difference in a sentence, for the user to read.
        differences: Vec<String>,
    },
}

/// How far the tokenisation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The source being read.
    pub source: &'a str,
    /// Documents stored so far, of all sources.
    pub documents: u64,
    /// Tokens stored so far, of all sources.
    pub tokens: u64,
    /// Bytes of files read so far, as stored.
    pub bytes_read: u64,
    /// Bytes of all files, as stored.
    pub bytes_total: u64,
}

/// Makes `dir` hold the tokenised corpus, and opens it. What is there is used if it is exactly what would be made, and
/// replaced if not; it is replaced at once or not at all, whenever the process is killed.
///
/// Documents are read one group at a time and tokenised on the threads of the surrounding rayon pool. The files are the
/// same for any number of threads. `progress` is called after each group.
///
/// # Errors
/// When a setting is wrong, a source cannot be read or has no text, the tokenizer loses text, the directory cannot be
/// written, or another process uses it.
pub fn prepare(
    dir: &Path,
    corpus: &Corpus,
    encoder: &dyn Encoder,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<(Dataset, Prepared)> {
    corpus.validate(encoder)?;
    let now_ns = now_ns();
    let files = corpus.sources.iter().map(read::list).collect::<Result<Vec<_>>>()?;
    let definition = Definition::new(corpus, encoder);
    fs_err::create_dir_all(dir)?;

    let outcome = match Dataset::open(dir) {
        Err(Error::NoManifest { .. }) => Prepared::Built,
        Err(error) => return Err(error),
        Ok(mut dataset) => {
            let manifest = dataset.manifest_mut();
            let (differences, rehashed) = manifest.differences(&definition, &files, now_ns)?;
            if differences.is_empty() {
                if rehashed {
                    manifest.store(dir)?;
                }
                return Ok((dataset, Prepared::Reused));
            }
            Prepared::Rebuilt { differences }
        }
    };
    let lock = dataset::lock_exclusive(dir)?;
    build(dir, corpus, definition, encoder, files, now_ns, progress)?;
    drop(lock);
    Ok((Dataset::open(dir)?, outcome))
}

/// Tokenises everything into a folder beside the present one, then lets the manifest point to it.
fn build(
    dir: &Path,
    corpus: &Corpus,
    definition: Definition,
    encoder: &dyn Encoder,
    files: Vec<Vec<InputFile>>,
    now_ns: u64,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<()> {
    let partial = dir.join("partial");
    remove_dir(&partial)?;
    for split in ["train", "validation"] {
        fs_err::create_dir_all(partial.join(split))?;
    }
    let tokenization = Tokenization::new(encoder, corpus);
    let token_bytes: Vec<u8> = tokenization.byte_lens().iter().flat_map(|len| len.to_le_bytes()).collect();
    write_durably(&partial.join(dataset::TOKEN_BYTES), &token_bytes)?;

    let bytes_total = files.iter().flatten().map(|file| file.bytes).sum();
    let mut done = Progress { source: "", documents: 0, tokens: 0, bytes_read: 0, bytes_total };
    let mut sources = Vec::new();
    let mut stamps = Vec::new();
    for (source, files) in corpus.sources.iter().zip(files) {
        let stamp = |file: &InputFile| Stamp { modified_ns: file.modified_ns, checked_ns: now_ns };
        stamps.push(files.iter().map(stamp).collect());
        done.source = &source.name;
        sources.push(store_source(&partial, corpus, source, files, &tokenization, &mut done, progress)?);
    }
    let content = Content { definition, sources, token_bytes_crc: crc_of(&token_bytes) };
    let manifest = Manifest::new(content, stamps);

    let folder = dir.join(&manifest.hash);
    // There only when these same shards were found damaged or their manifest was taken away.
    remove_dir(&folder)?;
    fs_err::rename(&partial, &folder)?;
    manifest.store(dir)?;
    remove_others(dir, &manifest.hash)
}

fn store_source<'a>(
    dir: &Path,
    corpus: &Corpus,
    source: &'a Source,
    files: Vec<InputFile>,
    tokenization: &Tokenization<'_>,
    done: &mut Progress<'a>,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<StoredSource> {
    let writer = |split: &str| ShardWriter::new(dir, format!("{split}/{}", source.name), corpus.shard_tokens);
    let mut splits = [("train", StoredSplit::default()), ("validation", StoredSplit::default())];
    let mut writers = splits.each_ref().map(|(split, _)| writer(split));
    let mut documents = Documents::new(source, files.clone());
    let bytes_before = done.bytes_read;

    let mut group = next_group(&mut documents)?;
    while !group.is_empty() {
        let tokenize =
            || -> Vec<_> { group.par_iter().map(|document| tokenization.document(document, source)).collect() };
        // The next documents are read and decompressed while these are tokenised.
        let (tokenized, next) = rayon::join(tokenize, || next_group(&mut documents));
        for tokens in tokenized {
            let tokens = tokens?;
            let side = usize::from(tokens.held_out);
            writers[side].push(&tokens.ids, tokens.text_bytes)?;
            let split = &mut splits[side].1;
            split.documents += 1;
            split.fim_documents += u64::from(tokens.fim);
            split.tokens += tokens.ids.len() as u64;
            split.text_bytes += tokens.text_bytes;
            done.documents += 1;
            done.tokens += tokens.ids.len() as u64;
        }
        group = next?;
        done.bytes_read = bytes_before + documents.bytes_read();
        progress(done);
    }

    let [(_, mut train), (_, mut validation)] = splits;
    if train.documents + validation.documents == 0 {
        return Err(Error::EmptySource { name: source.name.clone(), files: files.len() });
    }
    if source.role == Role::Split && train.documents == 0 {
        return Err(Error::AllHeldOut {
            name: source.name.clone(),
            documents: validation.documents,
            held_out: corpus.held_out,
        });
    }
    let [train_writer, validation_writer] = writers;
    train.shards = train_writer.finish()?;
    validation.shards = validation_writer.finish()?;
    let files = files.into_iter().zip(documents.digests()).map(|(file, hash)| StoredFile {
        path_index: file.path_index,
        name: file.name,
        bytes: file.bytes,
        hash: hash.clone(),
    });
    Ok(StoredSource { files: files.collect(), train, validation })
}

fn next_group(documents: &mut Documents) -> Result<Vec<Document>> {
    let mut group = Vec::new();
    let mut bytes = 0;
    while group.len() < GROUP_DOCUMENTS && bytes < GROUP_BYTES {
        let Some(document) = documents.next().transpose()? else { break };
        bytes += document.text.len();
        group.push(document);
    }
    Ok(group)
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs_err::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes the shards of earlier manifests, and nothing else that may stand in the directory.
fn remove_others(dir: &Path, hash: &str) -> Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_hash = |name: &str| name.len() == hash.len() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if name.to_str().is_some_and(|name| is_hash(name) && name != hash) && entry.file_type()?.is_dir() {
            fs_err::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests;

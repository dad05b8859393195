//! From a recipe to what a run needs: a tokenizer, token shards, a model's configuration. Everything made here is made
//! once; a run that goes on finds it again.

use std::path::Path;

use config::ModelConfig;
use config::recipe::{Packing, Recipe, Tokenizer as From};
use data::read::{Document, Documents, list};
use data::{Corpus, Dataset, Format, LoaderConfig, Prepared, Role, Source, TokenizerEncoder};
use serde_json::json;
use tokenizer::{ChatFormat, Tokenizer, TrainOptions};

use crate::error::{Error, Result};
use crate::run_dir::RunDir;

/// The tokenizer of a run: the recipe's, copied into the run, or one trained on the run's own documents.
///
/// # Errors
/// When the recipe's files or the documents cannot be read, or do not yield a vocabulary of the size asked for.
pub(crate) fn tokenizer(dir: &RunDir, recipe: &Recipe, say: &mut dyn FnMut(String)) -> Result<Tokenizer> {
    let home = dir.tokenizer();
    if fs_err::exists(&home)? {
        return Ok(Tokenizer::read(&home)?);
    }
    match &recipe.tokenizer {
        From::Path(path) => checkpoint::write_dir_atomically(&home, |home| copy_tokenizer(path, home))?,
        From::TrainVocabSize(size) => {
            say(format!("training a tokenizer of {size} tokens"));
            let trained = train_tokenizer(recipe, *size)?;
            checkpoint::write_dir_atomically(&home, |home| {
                let limit = recipe.model_config()?.max_position_embeddings as u64;
                // Documents begin after an EOS and without BOS (`data`), so completions do too.
                Ok::<_, Error>(tokenizer::write_model_files(home, &trained, ChatFormat::V3, limit, false)?)
            })?;
        }
    }
    Ok(Tokenizer::read(&home)?)
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    // Refused before anything is copied if it is no tokenizer.
    Tokenizer::read(from)?;
    if !fs_err::metadata(from)?.is_dir() {
        fs_err::copy(from, to.join("tokenizer.json"))?;
        return Ok(());
    }
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"] {
        if fs_err::exists(from.join(name))? {
            fs_err::copy(from.join(name), to.join(name))?;
        }
    }
    Ok(())
}

fn train_tokenizer(recipe: &Recipe, vocab_size: usize) -> Result<tokenizer::Trained> {
    let mut failed = None;
    let documents = sources(recipe).into_iter().flat_map(|source| match list(&source) {
        Ok(files) => Box::new(Documents::new(&source, files)) as Box<dyn Iterator<Item = data::Result<Document>>>,
        Err(error) => Box::new(std::iter::once(Err(error))),
    });
    // The trainer takes texts; the first document that cannot be read ends them.
    let texts = documents.map_while(|document| match document {
        Ok(document) => Some(document.text),
        Err(error) => {
            failed.get_or_insert(error);
            None
        }
    });
    let trained = tokenizer::train(texts, TrainOptions { vocab_size, min_frequency: 2 });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(trained?),
    }
}

/// The run's token shards.
///
/// # Errors
/// When the documents cannot be read or the shards not be written.
pub(crate) fn dataset(recipe: &Recipe, tokenizer: &Tokenizer, say: &mut dyn FnMut(String)) -> Result<Dataset> {
    let corpus = corpus(recipe);
    let mut said = std::time::Instant::now();
    let encoder = TokenizerEncoder::new(tokenizer)?;
    let (dataset, prepared) = data::prepare(&recipe.data.cache, &corpus, &encoder, &mut |p| {
        if said.elapsed().as_secs() >= 5 {
            said = std::time::Instant::now();
            let percent = 100 * p.bytes_read / p.bytes_total.max(1);
            say(format!("tokenising {}: {percent} %, {} tokens", p.source, p.tokens));
        }
    })?;
    if let Prepared::Rebuilt { differences } = prepared {
        say(format!("tokenised {} anew: {}", recipe.data.cache.display(), differences.join("; ")));
    }
    for (name, split) in dataset.sources(data::Split::Train) {
        say(format!("{name}: {} documents, {} tokens to train on", split.documents, split.tokens));
    }
    Ok(dataset)
}

/// The model's configuration with the tokenizer's BOS and EOS.
///
/// # Errors
/// When the recipe's configuration is refused or has fewer rows than the tokenizer has ids.
pub(crate) fn model_config(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<ModelConfig> {
    let config = recipe.model_config()?;
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(Error::Vocabulary { tokenizer: tokenizer.vocab_size(), model: config.vocab_size });
    }
    let bos = tokenizer.require(tokenizer::Role::Bos)?;
    let eos = tokenizer.require(tokenizer::Role::Eos)?;
    let serde_json::Value::Object(ids) = json!({ "bos_token_id": bos, "eos_token_id": eos }) else {
        unreachable!("written as an object above")
    };
    Ok(config.with_overrides(&ids)?)
}

/// How a run draws from its corpus.
pub(crate) fn loader_config(recipe: &Recipe) -> LoaderConfig {
    LoaderConfig {
        seq_len: recipe.data.seq_len,
        packing: match recipe.data.packing {
            Packing::Concat => data::Packing::Concat,
            Packing::Bestfit => data::Packing::BestFit,
        },
        seed: recipe.seed,
        weights: corpus(recipe).weights(),
    }
}

fn corpus(recipe: &Recipe) -> Corpus {
    let corpus = Corpus::new(sources(recipe), recipe.seed, recipe.data.seq_len);
    let (held_out, boundary_split_rate) = (recipe.data.held_out, recipe.data.boundary_split_rate);
    Corpus { held_out, boundary_split_rate, ..corpus }
}

/// A recipe's sources.
pub(crate) fn sources(recipe: &Recipe) -> Vec<Source> {
    let source = |s: &config::recipe::Source| Source {
        name: s.name.clone(),
        paths: s.paths.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
        weight: s.weight,
        text_key: s.text_key.clone(),
        format: Format::Auto,
        cut_bytes: s.cut_bytes,
        control_tokens: s.control_tokens,
        fim_rate: s.fim_rate,
        role: match s.role {
            config::recipe::Role::Split => Role::Split,
            config::recipe::Role::Train => Role::Train,
            config::recipe::Role::Validation => Role::Validation,
        },
    };
    recipe.data.sources.iter().map(source).collect()
}

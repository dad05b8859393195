use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tensor::Rng;
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::{Batch, Origin};
use crate::dataset::{Dataset, Split};
use crate::error::{Error, Result};
use crate::mixture::Mixture;
use crate::pack::{Packing, Rows};
use crate::shuffle::Permutation;

/// How a run draws from a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Inputs in a row.
    pub seq_len: usize,
    /// How documents are put into rows.
    pub packing: Packing,
    /// Seed of the order of rows.
    pub seed: u64,
    /// The weight of each source with training documents, in tokens; see [`crate::Corpus::weights`].
    pub weights: Vec<(String, f64)>,
}

/// The training sequences of a run, numbered 0, 1, 2, ..
///
/// Sequence `g` is decided by the corpus, the configuration and `g` alone: the mixture says which source it comes from,
/// the number of earlier sequences of that source says in which epoch and at which place of the shuffled source. Batch
/// sizes, ranks and threads only cut this one sequence into parts. Sources with few rows are repeated, each time in a new
/// order.
pub struct Loader {
    seq_len: usize,
    packing: Packing,
    seed: u64,
    manifest: String,
    mixture: Mixture,
    sources: Vec<LoaderSource>,
    next_sequence: u64,
}

struct LoaderSource {
    name: String,
    tokens: u64,
    rows: Rows,
    /// Sequences taken so far.
    taken: u64,
    /// That of the latest epoch.
    permutation: Option<(u64, Permutation)>,
}

/// All that a checkpoint must keep of a [`Loader`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// [`crate::Manifest::hash`] of the corpus.
    pub manifest: String,
    /// [`LoaderConfig::seed`].
    pub seed: u64,
    /// [`LoaderConfig::seq_len`].
    pub seq_len: usize,
    /// [`LoaderConfig::packing`].
    pub packing: Packing,
    /// The weight of each source as an integer share.
    pub weights: BTreeMap<String, u64>,
    /// The number of the next sequence.
    pub next_sequence: u64,
    /// Sequences taken from each source.
    pub taken: BTreeMap<String, u64>,
}

/// What a run of a given length takes from a source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceUse {
    /// The source.
    pub name: String,
    /// Its share of the sequences.
    pub share: f64,
    /// Its training tokens.
    pub tokens: u64,
    /// Its rows, each of which is one sequence per epoch.
    pub rows: u64,
    /// How often a run of the length asked for goes through it.
    pub epochs: f64,
}

impl Loader {
    /// The sequences of `dataset` from the first one on.
    ///
    /// # Errors
    /// When the weights do not name the sources of the corpus, a source has too few tokens, or a shard is damaged.
    pub fn new(dataset: &Dataset, config: &LoaderConfig) -> Result<Self> {
        let names = |names: &mut dyn Iterator<Item = &str>| -> Vec<String> { names.map(str::to_owned).collect() };
        let weighted = names(&mut config.weights.iter().map(|(name, _)| name.as_str()));
        let stored = names(&mut dataset.sources(Split::Train).map(|(name, _)| name));
        if weighted != stored {
            return Err(Error::Sources { weighted, stored });
        }
        if config.seq_len == 0 || config.seq_len > u32::MAX as usize - 1 {
            return Err(Error::Setting {
                key: "seq_len",
                subject: "the loader".to_owned(),
                found: config.seq_len.to_string(),
                expected: "at least 1 and below 2^32 - 1".to_owned(),
            });
        }
        let content = &dataset.manifest().content;
        let sources = dataset.sources(Split::Train).map(|(name, stored)| {
            let stream = dataset.stream(stored)?;
            let rows = Rows::new(stream, config.packing, config.seq_len, content.definition.eos, name)?;
            Ok(LoaderSource { name: name.to_owned(), tokens: stored.tokens, rows, taken: 0, permutation: None })
        });
        Ok(Self {
            seq_len: config.seq_len,
            packing: config.packing,
            seed: config.seed,
            manifest: dataset.manifest().hash.clone(),
            mixture: Mixture::new(&config.weights)?,
            sources: sources.collect::<Result<_>>()?,
            next_sequence: 0,
        })
    }

    /// The sequences that follow those drawn when `state` was taken.
    ///
    /// # Errors
    /// As [`Self::new`], and when the state is not of this corpus and configuration.
    pub fn resume(dataset: &Dataset, config: &LoaderConfig, state: &LoaderState) -> Result<Self> {
        let mut loader = Self::new(dataset, config)?;
        let now = loader.state();
        let expect = |what, expected: String, found: String| {
            if expected == found { Ok(()) } else { Err(Error::State { what, expected, found }) }
        };
        expect("the corpus (manifest hash)", state.manifest.clone(), now.manifest)?;
        expect("the seed", state.seed.to_string(), now.seed.to_string())?;
        expect("seq_len", state.seq_len.to_string(), now.seq_len.to_string())?;
        expect("the packing", format!("{:?}", state.packing), format!("{:?}", now.packing))?;
        expect("the mixture", format!("{:?}", state.weights), format!("{:?}", now.weights))?;
        let counted = |taken: &BTreeMap<String, u64>| format!("{:?}", taken.keys().collect::<Vec<_>>());
        expect("the list of sources", counted(&state.taken), counted(&now.taken))?;
        let sum = state.taken.values().try_fold(0_u64, |sum, &taken| sum.checked_add(taken));
        let sum = sum.map_or_else(|| "more than 2^64".to_owned(), |sum| sum.to_string());
        expect("the number of sequences", state.next_sequence.to_string(), sum)?;
        for source in &mut loader.sources {
            source.taken = state.taken[&source.name];
        }
        loader.next_sequence = state.next_sequence;
        Ok(loader)
    }

    /// The next `sequences` sequences.
    ///
    /// # Errors
    /// When a shard cannot be read or is damaged; the loader stays where it was.
    pub fn batch(&mut self, sequences: u64) -> Result<Batch> {
        self.rank_batch(sequences, 0, 1)
    }

    /// The part of the next `sequences` sequences that belongs to `rank` of `world_size`: an equal contiguous part. All
    /// ranks move on by all `sequences`.
    ///
    /// # Errors
    /// As [`Self::batch`], and when the sequences cannot be shared equally.
    ///
    /// # Panics
    /// When `rank` is not below `world_size`.
    pub fn rank_batch(&mut self, sequences: u64, rank: u64, world_size: u64) -> Result<Batch> {
        assert!(rank < world_size, "rank {rank} of {world_size}");
        if !sequences.is_multiple_of(world_size) {
            return Err(Error::UnequalRanks { rows: sequences, world_size });
        }
        let mine = sequences / world_size;
        let mine = rank * mine..(rank + 1) * mine;
        let mut batch = Batch::empty(self.seq_len, self.next_sequence + mine.start);
        let mut taken: Vec<u64> = self.sources.iter().map(|source| source.taken).collect();
        for sequence in 0..sequences {
            let source = self.mixture.next(&taken);
            if mine.contains(&sequence) {
                let origin = self.sources[source].locate(source, taken[source], self.seed);
                let (tokens, labels) = self.sources[source].rows.row(origin.row)?;
                batch.push(&tokens, &labels, origin);
            }
            taken[source] += 1;
        }
        for (source, taken) in self.sources.iter_mut().zip(taken) {
            source.taken = taken;
        }
        self.next_sequence += sequences;
        Ok(batch)
    }

    /// What a checkpoint must keep: with it, [`Self::resume`] goes on with the next sequence.
    pub fn state(&self) -> LoaderState {
        let names = || self.sources.iter().map(|source| source.name.clone());
        LoaderState {
            manifest: self.manifest.clone(),
            seed: self.seed,
            seq_len: self.seq_len,
            packing: self.packing,
            weights: names().zip(self.mixture.weights().iter().copied()).collect(),
            next_sequence: self.next_sequence,
            taken: names().zip(self.sources.iter().map(|source| source.taken)).collect(),
        }
    }

    /// The names of the sources, to which [`Origin::source`] refers.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|source| source.name.as_str())
    }

    /// What a run of `sequences` sequences takes from each source. Beyond about four epochs, repeated text teaches little
    /// (arXiv 2305.16264).
    pub fn plan(&self, sequences: u64) -> Vec<SourceUse> {
        let of = |(d, source): (usize, &LoaderSource)| {
            let (share, rows) = (self.mixture.share(d), source.rows.count());
            let epochs = share * sequences as f64 / rows as f64;
            SourceUse { name: source.name.clone(), share, tokens: source.tokens, rows, epochs }
        };
        self.sources.iter().enumerate().map(of).collect()
    }
}

impl LoaderSource {
    /// The row that is number `taken` of this source.
    fn locate(&mut self, source: usize, taken: u64, seed: u64) -> Origin {
        let n = self.rows.count();
        let (epoch, place) = (taken / n, taken % n);
        let permutation = match self.permutation.take() {
            Some((of, permutation)) if of == epoch => permutation,
            _ => Permutation::new(n, Rng::new(shuffle_seed(seed, &self.name), "shuffle", epoch)),
        };
        let row = permutation.apply(place);
        self.permutation = Some((epoch, permutation));
        Origin { source, epoch, row }
    }
}

/// A seed for each source, so that two sources with equally many rows are not shuffled alike.
fn shuffle_seed(seed: u64, name: &str) -> u64 {
    let mut key = seed.to_le_bytes().to_vec();
    key.extend(name.as_bytes());
    xxh3_64(&key)
}

#[cfg(test)]
mod tests;

//! From text on disk to batches of token ids.
//!
//! The way of a document: [`read`] finds it in a file; [`prepare`] tokenises it once into a shard of its source, on the
//! training or on the held-out side, as the hash of its text decides; [`Loader`] packs it into rows with others, shuffles
//! the rows and mixes the sources; [`Validation`] gives the held-out side in order.
//!
//! Nothing here depends on the number of threads, ranks or micro-batches, and the whole state of a run's data is a
//! [`LoaderState`] of a few numbers.

mod batch;
mod corpus;
mod dataset;
mod encoder;
mod error;
mod hash;
mod loader;
mod manifest;
mod mixture;
mod pack;
mod prepare;
pub mod read;
mod shard;
mod shuffle;
pub mod synth;
#[cfg(test)]
mod testing;
mod tokenize;
mod validation;

pub use batch::{Batch, IGNORE, Origin};
pub use corpus::{Corpus, Format, Role, Source};
pub use dataset::{Dataset, Split};
pub use encoder::{Encoder, FimTokens, TokenizerEncoder};
pub use error::{Error, Result};
pub use hash::held_out;
pub use loader::{Loader, LoaderConfig, LoaderState, SourceUse};
pub use manifest::{Content, Definition, Manifest, SourceDefinition, StoredFile, StoredSource, StoredSplit};
pub use pack::Packing;
pub use prepare::{Prepared, Progress, prepare};
pub use shard::ShardEntry;
pub use validation::{Validation, ValidationBatch};

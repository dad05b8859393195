//! Layers, forward, backward and decode. A layer's backward stands under its forward and mirrors it.
//!
//! Absent on purpose: files (weights come from a [`tensor::TensorSource`]), text, the optimiser, and any notion of a
//! training loop.

pub mod attention;
pub mod block;
mod build;
mod draft;
pub mod ffn;
mod grads;
mod head;
mod infer;
pub mod linear;
mod model;
pub mod mtp;
mod names;
mod params;
mod recompute;

pub use ops::Precision;
pub use ops::mla_decode::{BLOCK_TOKENS, CacheKind};

pub use draft::{Draft, Following, Told};
pub use grads::{Deferred, Gradients, Sink, WeightGrad};
pub use infer::{Cache, CacheBlock, Form, PREFILL_CHUNK, Trace, rows_of};
pub use model::{Batch, IGNORE, Model, Outcome, Scales};
pub use params::{Kind, Param, ParamId, Params, Part};
pub use recompute::Recompute;

//! Tensors in files: safetensors checkpoints in Hugging Face's directory layout, read and written, and directories that
//! are replaced whole or not at all.
//!
//! [`Reader`] opens a model directory or one file and is the [`tensor::TensorSource`] a model loads from; quantised weights
//! are used as they are stored ([`Format`]) or decoded on the way. [`write_model`] writes the same layout,
//! [`stream_model`] one tensor after the other where they do not fit into memory together, and [`write_file`] any other
//! named arrays.
//!
//! Absent on purpose: any knowledge of a model. Which tensors there should be, and with what shapes, is for the caller
//! to ask.

mod atomic;
mod decode;
mod dtype;
mod element;
mod error;
mod file;
mod format;
mod header;
mod index;
mod json;
mod model_dir;
mod reader;
mod stream;
mod weight;
mod write;

pub use atomic::{clean_leftovers, write_dir_atomically, write_file_atomically};
pub use dtype::Dtype;
pub use element::{Element, Values};
pub use error::{Error, Result};
pub use format::Format;
pub use reader::{Load, Raw, Reader, TensorInfo};
pub use stream::{Sink, TensorSpec, stream_model};
pub use weight::WeightInfo;
pub use write::{NamedValues, Precision, WriteOptions, write_file, write_model};

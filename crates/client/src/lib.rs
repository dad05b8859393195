//! The other side of an OpenAI-compatible server: conversations, load and batches.
//!
//! [`Api`] sends requests and reads answers, whole or as they come. [`Chat`] is a conversation, [`load`] puts a server
//! under load and measures what its users would feel, [`batch`] works through a file of requests.
//!
//! What is asynchronous ends here: [`Chat`], [`load::run`] and [`batch::run`] block. Nothing is read from the
//! environment, no proxy is used and no redirect is followed, so a key goes to the server that was named and nowhere else.
//!
//! Absent on purpose: models, tokenizers, and anything about our own server that others do not have, except where a field
//! says so.

mod api;
pub mod batch;
mod chat;
mod error;
pub mod load;
mod models;
mod runtime;
pub mod sse;
mod stream;
mod tls;
mod wire;

pub use api::{Api, CHAT, COMPLETIONS, Reply, Timeouts};
pub use chat::{Answer, Chat, Piece, Times};
pub use error::{ApiError, Error, Wait};
pub use stream::Stream;
pub use wire::{Choice, Chunk, CompletionDetails, Delta, Progress, PromptDetails, Usage};

//! Text to token ids and back, as DeepSeek-V3 does it.
//!
//! [`Tokenizer`] reads a `tokenizer.json` and encodes and decodes; [`train`](fn@train) makes a new one; [`DecodeStream`]
//! decodes token by token; [`ChatTemplate`] turns a conversation into ids; [`OutputStream`] takes a model's answer apart.
//!
//! Two kinds of text are kept apart throughout. *Trusted* text was written by the program or the template and may name
//! control tokens (`<｜User｜>`); *untrusted* text came from a user and may only *look* like one. [`Tokenizer::encode`] is
//! for the former, [`Tokenizer::encode_untrusted`] for the latter, and [`ChatTemplate::encode`] handles their mixture.
//!
//! Absent on purpose: any model, and every decision about sampling.

mod byte_alphabet;
mod chat;
mod config;
mod error;
mod file;
mod merged_breaks;
mod parse;
mod pre_tokenizer;
mod special;
mod stop;
mod stream;
mod tokenizer;
mod train;

pub use chat::{ChatError, ChatFormat, ChatOptions, ChatTemplate, Message, Trust};
pub use config::{TokenizerConfig, write_model_files};
pub use error::TokenizerError;
pub use merged_breaks::MergedBreak;
pub use parse::{OutputStream, ParseError, ParsedOutput, Start, ToolCall, parse_output};
pub use pre_tokenizer::split as pre_tokenize;
pub use special::{Role, SpecialTokens};
pub use stop::StopText;
pub use stream::DecodeStream;
pub use tokenizer::Tokenizer;
pub use train::{TrainError, TrainOptions, Trained, train};

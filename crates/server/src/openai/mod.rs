//! OpenAI's interface. Only this folder knows its JSON.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod sampling;
pub(crate) mod shape;
pub(crate) mod stream;
pub(crate) mod text;

//! Anthropic's interface. Only this folder knows its JSON.

pub(crate) mod budget;
mod content;
mod context;
pub(crate) mod models;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod stream;
